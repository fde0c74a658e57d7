//! What a process decides from what happens to it: a function from events to steps, without threads or sockets.
//!
//! ```text
//! working ── all local workers done ──▶ waiting ── a goodbye from every peer ──▶ finished
//!    └──────────── failure, peer failed, peer lost ───┴──────▶ failed
//! ```
//!
//! # Invariants
//! - Exactly one of [`Step::Finished`] and [`Step::Fail`] is returned, as the last step.
//! - [`Step::SayGoodbye`] is returned at most once, after the last local worker is done.
//! - A broken data connection alone is the effect of something: for [`GRACE`] the cause may still come in, from the
//!   control connection or from a worker. Only then is it reported itself.
//!
//! Not here: threads, sockets and clocks (`execute`, `link`).

use std::time::Duration;

use super::failure::{Failure, FailureKind};

/// How long a broken data connection waits for a better explanation.
pub(super) const GRACE: Duration = Duration::from_secs(1);

/// What happens to a process.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Event {
    /// A worker's function returned and its dataflows are complete.
    Done,
    /// Something in this process failed.
    Failed(Failure),
    /// A worker or network thread of this process found a data connection broken; to which peer, if it knows.
    Broken { peer: Option<usize>, why: String },
    /// A peer has no work left.
    Goodbye { peer: usize },
    /// A peer says why the job ends.
    Told { report: Report },
    /// A peer's control connection ended.
    Lost { peer: usize, why: String },
    /// The grace period is over.
    GraceOver,
}

/// A failure as it travels between processes.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub(super) struct Report {
    /// Where it happened.
    pub(super) origin: usize,
    pub(super) kind: FailureKind,
    pub(super) message: String,
}

impl Report {
    pub(super) fn new(origin: usize, failure: &Failure) -> Self {
        Self { origin, kind: failure.kind(), message: failure.message().to_owned() }
    }

    /// As this process sees it.
    pub(super) fn failure(&self) -> Failure {
        match self.kind {
            FailureKind::Stopped => Failure::new(self.kind, self.message.clone()),
            kind => Failure::new(kind, format!("process {} failed: {}", self.origin, self.message)),
        }
    }
}

/// What to do next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// Wait for the next event.
    Continue,
    /// Wait for the next event, at most for the grace period.
    StartGrace,
    /// Tell the peers that there is no work left here.
    SayGoodbye,
    /// All is done.
    Finished,
    /// Pass the report on, and end with the failure.
    Fail(Failure, Report),
}

#[derive(Debug)]
pub(super) struct Supervisor {
    process: usize,
    /// How messages name the processes.
    names: Vec<String>,
    working: usize,
    /// Who has said goodbye, by process; this one does when its workers are done.
    goodbyes: Vec<bool>,
    broken: Option<Failure>,
}

impl Supervisor {
    pub(super) fn new(process: usize, names: Vec<String>, threads: usize) -> Self {
        assert!(process < names.len() && threads > 0);
        Self { process, goodbyes: vec![false; names.len()], names, working: threads, broken: None }
    }

    pub(super) fn on(&mut self, event: Event) -> Step {
        match event {
            Event::Done => {
                assert!(self.working > 0, "more workers are done than there are");
                self.working -= 1;
                if self.working > 0 {
                    return Step::Continue;
                }
                self.goodbyes[self.process] = true;
                if self.goodbyes.len() == 1 { Step::Finished } else { Step::SayGoodbye }
            }
            Event::Failed(failure) => self.fail(failure),
            Event::Broken { peer, why } => {
                let who = match peer {
                    Some(peer) => format!("{} was lost", self.names[peer]),
                    None => "a process of the job was lost".to_owned(),
                };
                if self.broken.is_none() {
                    self.broken = Some(Failure::peer(format!("{who}: {why}")));
                    Step::StartGrace
                } else {
                    Step::Continue
                }
            }
            Event::Goodbye { peer } => {
                self.goodbyes[peer] = true;
                self.finished()
            }
            Event::Told { report } => Step::Fail(report.failure(), report),
            Event::Lost { peer, why } => {
                // After both goodbyes the peer may go; before, work of this process still needs it.
                if self.goodbyes[peer] && self.working == 0 {
                    Step::Continue
                } else {
                    self.fail(Failure::peer(format!("{} was lost: {why}", self.names[peer])))
                }
            }
            Event::GraceOver => match self.broken.take() {
                Some(failure) => self.fail(failure),
                None => Step::Continue,
            },
        }
    }

    /// To be asked after the own goodbye was said, as the peers' may have come before.
    pub(super) fn finished(&self) -> Step {
        if self.goodbyes.iter().all(|said| *said) { Step::Finished } else { Step::Continue }
    }

    fn fail(&self, failure: Failure) -> Step {
        let report = Report::new(self.process, &failure);
        Step::Fail(failure, report)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn supervisor(processes: usize, threads: usize) -> Supervisor {
        let names = (0..processes).map(|i| format!("process {i} (h:{i})")).collect();
        Supervisor::new(0, names, threads)
    }

    fn lost(peer: usize) -> Event {
        let why = "connection closed".to_owned();
        Event::Lost { peer, why }
    }

    #[test]
    fn one_process_ends_with_its_last_worker() {
        let mut s = supervisor(1, 2);
        assert_eq!(s.on(Event::Done), Step::Continue);
        assert_eq!(s.on(Event::Done), Step::Finished);
    }

    #[test]
    fn goodbyes_are_exchanged_in_any_order() {
        let mut s = supervisor(3, 1);
        assert_eq!(s.on(Event::Goodbye { peer: 2 }), Step::Continue);
        assert_eq!(s.on(Event::Done), Step::SayGoodbye);
        assert_eq!(s.finished(), Step::Continue);
        assert_eq!(s.on(lost(2)), Step::Continue, "it left after its goodbye");
        assert_eq!(s.on(Event::Goodbye { peer: 1 }), Step::Finished);
    }

    #[test]
    fn a_peer_that_leaves_is_lost_unless_both_are_done() {
        let expected = Failure::peer("process 1 (h:1) was lost: connection closed");
        let Step::Fail(failure, report) = supervisor(2, 1).on(lost(1)) else { panic!("not a failure") };
        assert_eq!((failure, report.origin), (expected.clone(), 0));

        let mut s = supervisor(2, 1);
        s.on(Event::Goodbye { peer: 1 });
        assert!(matches!(s.on(lost(1)), Step::Fail(f, _) if f == expected));

        let mut s = supervisor(2, 1);
        assert_eq!(s.on(Event::Done), Step::SayGoodbye);
        assert!(matches!(s.on(lost(1)), Step::Fail(f, _) if f == expected));
    }

    #[test]
    fn a_report_keeps_its_origin_and_kind() {
        let report = Report::new(2, &Failure::data("bad line"));
        let event = Event::Told { report: report.clone() };
        assert_eq!(supervisor(3, 1).on(event), Step::Fail(Failure::data("process 2 failed: bad line"), report));
    }

    #[test]
    fn a_broken_connection_waits_for_its_cause() {
        let broken = |why: &str| Event::Broken { peer: Some(1), why: why.to_owned() };
        let mut s = supervisor(2, 1);
        assert_eq!(s.on(broken("reset")), Step::StartGrace);
        assert_eq!(s.on(broken("again")), Step::Continue);
        let report = Report::new(1, &Failure::data("bad line"));
        assert!(matches!(s.on(Event::Told { report }), Step::Fail(f, _) if f.kind() == FailureKind::Data));

        let mut s = supervisor(2, 1);
        s.on(broken("reset"));
        let expected = Failure::peer("process 1 (h:1) was lost: reset");
        assert!(matches!(s.on(Event::GraceOver), Step::Fail(f, _) if f == expected));
    }
}
