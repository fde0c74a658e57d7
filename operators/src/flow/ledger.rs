//! What one worker knows of the flow: how far its sources are ahead of the answers, and every worker's pressure.
//!
//! # Invariants
//! - Sources of this worker have at most [`WINDOW`] chunks, and what one activation sends, on their way to a worker that
//!   has not answered for them.
//! - Sources that were turned away are activated after every change that may let them go on.
//!
//! Not here: how marks and reports travel (`dataflow`).

use std::collections::BTreeSet;

use timely::scheduling::Activator;

use super::pressure::Pressure;

/// Chunks that may be on their way to a worker.
const WINDOW: u64 = 4;
/// Records in a chunk, about.
const CHUNK_RECORDS: usize = 16 << 10;
/// Bytes in a chunk, about.
pub(super) const CHUNK_BYTES: usize = 1 << 20;

/// The state that sources, meters and the dataflow of one worker share.
pub(super) struct Ledger {
    /// This worker.
    pub(super) index: usize,
    /// The other workers' answers, by worker; this one's own pressure at its own place.
    workers: Vec<Known>,
    /// Marks sent so far.
    marks: u64,
    /// Whether this worker has a source: others are then told, with the first mark, whom to report to.
    pub(super) attached: bool,
    records: usize,
    bytes: usize,
    /// Sources that wait.
    paused: Vec<Activator>,
    /// Pressures of this worker's operators, by meter.
    meters: Vec<Pressure>,
    /// Workers with sources.
    pub(super) sources: BTreeSet<usize>,
    /// Whether `sources` have not been told of the present pressure.
    pub(super) changed: bool,
}

#[derive(Clone, Copy, Default)]
struct Known {
    answered: u64,
    pressure: Pressure,
}

impl Ledger {
    pub(super) fn new(index: usize, peers: usize) -> Self {
        Ledger {
            index,
            workers: vec![Known::default(); peers],
            marks: 0,
            attached: false,
            records: 0,
            bytes: 0,
            paused: Vec::new(),
            meters: Vec::new(),
            sources: BTreeSet::new(),
            changed: false,
        }
    }

    // ---- For sources ----

    /// Whether a record of `epoch` may be sent; if not, `source` is activated when this may have changed.
    pub(super) fn admits(&mut self, epoch: u64, opened: bool, source: &Activator) -> bool {
        let admits = self.open_to(epoch, opened);
        if !admits {
            self.paused.push(source.clone());
        }
        admits
    }

    fn open_to(&self, epoch: u64, opened: bool) -> bool {
        self.workers.iter().enumerate().all(|(index, known)| {
            // Inputs of the own worker wait in no channel: they are taken in every step.
            let near = index == self.index || self.marks - known.answered < WINDOW;
            near && known.pressure.admits(epoch, opened)
        })
    }

    /// Counts what a source has sent; whether a mark is due.
    pub(super) fn sent(&mut self, records: usize, bytes: usize) -> bool {
        self.records += records;
        self.bytes += bytes;
        let full = self.records >= CHUNK_RECORDS || self.bytes >= CHUNK_BYTES;
        if full {
            self.records = 0;
            self.bytes = 0;
            self.marks += 1;
        }
        full
    }

    /// The number of the last mark.
    pub(super) fn mark(&self) -> u64 {
        self.marks
    }

    /// A worker has seen what was sent before mark `answered`, and has this pressure.
    pub(super) fn report(&mut self, worker: usize, answered: u64, pressure: Pressure) {
        let known = &mut self.workers[worker];
        known.answered = known.answered.max(answered);
        known.pressure = pressure;
        self.wake();
    }

    fn wake(&mut self) {
        self.paused.drain(..).for_each(|source| source.activate());
    }

    // ---- For meters ----

    /// A place for one more operator of this worker.
    pub(super) fn add_meter(&mut self) -> usize {
        self.meters.push(Pressure::default());
        self.meters.len() - 1
    }

    /// An operator's pressure; whether this worker's has changed with it.
    pub(super) fn measure(&mut self, meter: usize, pressure: Pressure) -> bool {
        if self.meters[meter] == pressure {
            return false;
        }
        self.meters[meter] = pressure;
        let all = self.meters.iter().fold(Pressure::default(), |all, one| all.and(*one));
        let changed = all != self.pressure();
        if changed {
            self.workers[self.index].pressure = all;
            self.changed = true;
            self.wake();
        }
        changed
    }

    /// The pressure of this worker.
    pub(super) fn pressure(&self) -> Pressure {
        self.workers[self.index].pressure
    }
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;
    use std::rc::Rc;

    use timely::scheduling::activate::Activations;

    use super::*;

    fn source() -> Activator {
        Activator::new(Rc::new([0]), Rc::new(RefCell::new(Activations::new(None))))
    }

    #[test]
    fn a_source_stays_within_the_window_of_the_slowest_worker() {
        let mut ledger = Ledger::new(0, 3);
        for _ in 0..WINDOW {
            assert!(ledger.admits(0, true, &source()));
            assert!(ledger.sent(1, CHUNK_BYTES));
        }
        assert!(!ledger.admits(0, true, &source()));
        ledger.report(1, WINDOW, Pressure::default());
        assert!(!ledger.admits(0, true, &source()), "worker 2 has not answered");
        ledger.report(2, 1, Pressure::default());
        assert!(ledger.admits(0, true, &source()));
    }

    #[test]
    fn a_late_answer_does_not_take_an_earlier_one_back() {
        let mut ledger = Ledger::new(0, 2);
        (0..WINDOW).for_each(|_| assert!(ledger.sent(CHUNK_RECORDS, 0)));
        ledger.report(1, 2, Pressure::default());
        ledger.report(1, 0, Pressure::default());
        assert!(ledger.admits(0, true, &source()));
    }

    #[test]
    fn the_own_worker_needs_no_answers() {
        let mut ledger = Ledger::new(0, 1);
        (0..100).for_each(|_| assert!(ledger.sent(CHUNK_RECORDS, 0)));
        assert!(ledger.admits(0, true, &source()));
    }

    #[test]
    fn a_worker_is_as_loaded_as_its_operators_together() {
        let full = Pressure { full: true, ..Pressure::default() };
        let mut ledger = Ledger::new(0, 1);
        let (one, other) = (ledger.add_meter(), ledger.add_meter());
        assert!(ledger.measure(one, full));
        assert!(!ledger.measure(other, full));
        assert!(!ledger.measure(one, Pressure::default()));
        assert!(!ledger.admits(0, true, &source()));
        assert!(ledger.measure(other, Pressure::default()));
        assert!(ledger.admits(0, true, &source()));
    }
}
