//! The crash matrix: a process kills itself at a failpoint, at its first or at a later hit, in every shape of the job;
//! then the job goes on in another shape, and must come to what it would have come to.
//!
//! A point that is not reached is a failure, unless it is listed with the subject. Points that only a recovery meets are
//! met in the start after another kill.

use std::collections::BTreeSet;

use timely_agents_operators::checkpoint::failpoint;

use crate::flights::{self, Expected};
use crate::process::{Job, ONE, SHAPES, Shape, TWO_WORKERS, number};
use crate::reference::generate;

/// Makes sure that a job is complete and right; the text says which.
type AssertComplete = Box<dyn Fn(&Job, &str) + Sync>;

/// A job that is crashed.
pub(crate) struct Subject {
    pub(crate) name: &'static str,
    pub(crate) job: Box<dyn Fn() -> Job + Sync>,
    pub(crate) assert_complete: AssertComplete,
    /// Steps that it does not have.
    pub(crate) without: &'static [&'static str],
}

/// One kill.
#[derive(Clone, Debug)]
pub(crate) struct Case {
    pub(crate) point: String,
    /// Hits that do nothing.
    pub(crate) after: u32,
    pub(crate) shape: Shape,
    /// The process that has the point.
    pub(crate) victim: usize,
    pub(crate) then: Shape,
}

impl Case {
    /// Whether the point was reached.
    pub(crate) fn run(&self, subject: &Subject) -> bool {
        let what = format!("{} {self:?}", subject.name);
        let points = format!("{}={}*off->kill", self.point, self.after);
        let mut job = (subject.job)();
        let mut reached = self.crash(&job, &points, &what);
        if !reached {
            // It did without, and is complete; perhaps a recovery meets the point.
            (subject.assert_complete)(&job, &what);
            job = (subject.job)();
            let prepared = self.crash(&job, "commit.publish.before=4*off->kill", &what);
            reached = prepared && self.crash(&job, &points, &what);
        }
        job.start(self.then).assert_success(&what);
        (subject.assert_complete)(&job, &what);
        reached
    }

    /// Starts the job with `points`; whether the victim was killed by them. If not, the job must have completed.
    fn crash(&self, job: &Job, points: &str, what: &str) -> bool {
        let victim = if points.starts_with("commit.publish.before=4") { 0 } else { self.victim };
        let outcomes = job.start_failing(self.shape, victim, points).finish();
        let killed = outcomes[victim].killed();
        for outcome in &outcomes {
            assert!(!outcome.stderr.contains("panicked"), "{what}: {outcomes:#?}");
            // Who loses a peer says so and fails, unless the job was complete by then.
            assert!(outcome.killed() || outcome.code() == Some(0) || killed && outcome.code() == Some(1), "{what}");
            assert!(killed || outcome.code() == Some(0), "{what}: {outcomes:#?}");
        }
        killed
    }
}

/// All points at which the subject can be killed.
fn points(subject: &Subject) -> Vec<String> {
    let names = failpoint::NAMES.iter().filter(|name| !subject.without.contains(name));
    names.flat_map(|name| [format!("{name}.before"), format!("{name}.after")]).collect()
}

/// One point in `of`, once; shapes and hits take turns. `CRASH_TURN` says where they begin.
pub(crate) fn some_points(subject: &Subject, of: usize) {
    let (mut unreached, turn) = (BTreeSet::new(), number("CRASH_TURN", 0) as usize);
    for (n, point) in points(subject).into_iter().enumerate().filter(|(n, _)| n % of == turn % of) {
        let n = n + turn;
        let (shape, then) = (SHAPES[n % 3], SHAPES[(n + 1) % 3]);
        let case = Case { point, after: [0, 2, 6][n / 3 % 3], shape, victim: 0, then };
        if !case.run(subject) && (case.after == 0 || !Case { after: 0, ..case.clone() }.run(subject)) {
            unreached.insert(case.point);
        }
    }
    assert_eq!(unreached, BTreeSet::new(), "{}: points that no run reaches", subject.name);
}

/// Every point, in every shape and process, at several hits.
pub(crate) fn every_point(subject: &Subject) {
    let (mut cases, mut killed) = (0, 0);
    let mut unreached: BTreeSet<String> = points(subject).into_iter().collect();
    for point in points(subject) {
        for (n, shape) in SHAPES.into_iter().enumerate() {
            for victim in 0..shape.processes {
                for (m, after) in [0, 1, 4, 9].into_iter().enumerate() {
                    let then = [TWO_WORKERS, ONE, Shape { processes: 2, workers: 2 }][(n + m) % 3];
                    let reached = Case { point: point.clone(), after, shape, victim, then }.run(subject);
                    cases += 1;
                    killed += u32::from(reached);
                    if reached {
                        unreached.remove(&point);
                    }
                }
            }
        }
    }
    println!("matrix {}: {cases} cases, {killed} killed at their point", subject.name);
    assert_eq!(unreached, BTreeSet::new(), "{}: points that no run reaches", subject.name);
}

/// The example over a small file.
pub(crate) fn flights() -> Subject {
    let text = generate(7, 900);
    let expected = Expected::of(&text);
    Subject {
        name: "turnaround",
        job: Box::new(move || {
            let mut job = flights::job(&text);
            job.option("--open-epochs", &3);
            job
        }),
        assert_complete: Box::new(move |job, what| flights::assert_complete(job, &expected, what)),
        without: &["snapshot.write", "snapshot.sync", "sink.publish.apply", "sink.publish.unlink"],
    }
}

#[test]
fn a_kill_at_any_step_changes_nothing_in_the_end() {
    some_points(&flights(), 1);
}

#[test]
#[ignore = "some minutes; scripts/soak"]
fn every_kill_in_every_shape_changes_nothing_in_the_end() {
    every_point(&flights());
}
