//! What an operator has done, counted per worker and merged at the end.

use std::fmt::{self, Debug, Formatter};

use hdrhistogram::Histogram;

/// Counts of runs and how long they took.
#[derive(Clone)]
pub struct RunStats {
    /// Runs that have ended.
    pub runs: u64,
    /// Of them, runs that ended in the activation that brought their input.
    pub inline: u64,
    /// Completions for runs that had ended, or for an operator that had.
    pub late: u64,
    /// Calls that were made.
    pub calls: u64,
    /// Runs that began with a journal of before a crash.
    pub replayed: u64,
    /// Journals of before a crash whose inputs did not come again.
    pub orphans: u64,
    /// Runs and waiting inputs that were cancelled from outside.
    pub cancelled: u64,
    /// Nanoseconds from the start of a run to its end. Runs that never wait are timed per batch.
    pub latency_ns: Histogram<u64>,
}

impl Default for RunStats {
    fn default() -> Self {
        let latency_ns = Histogram::new(2).expect("two significant digits are allowed");
        RunStats { runs: 0, inline: 0, late: 0, calls: 0, replayed: 0, orphans: 0, cancelled: 0, latency_ns }
    }
}

impl RunStats {
    /// Notes that `runs` runs took about `ns` nanoseconds each.
    pub fn record(&mut self, ns: u64, runs: u64) {
        // The histogram grows to any value; a saturating record would cut at what it has seen.
        let _ = self.latency_ns.record_n(ns.max(1), runs);
    }

    /// Adds what another worker has counted.
    pub fn merge(&mut self, other: &RunStats) {
        self.runs += other.runs;
        self.inline += other.inline;
        self.late += other.late;
        self.calls += other.calls;
        self.replayed += other.replayed;
        self.orphans += other.orphans;
        self.cancelled += other.cancelled;
        // Both histograms resize themselves: every value fits.
        let _ = self.latency_ns.add(&other.latency_ns);
    }
}

impl Debug for RunStats {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        f.debug_struct("RunStats")
            .field("runs", &self.runs)
            .field("inline", &self.inline)
            .field("late", &self.late)
            .field("calls", &self.calls)
            .field("replayed", &self.replayed)
            .field("orphans", &self.orphans)
            .field("cancelled", &self.cancelled)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn latencies_of_any_size_are_kept() {
        let mut stats = RunStats::default();
        stats.record(0, 98);
        stats.record(1_000_000_000, 2);
        let mut all = RunStats::default();
        all.merge(&stats);
        assert_eq!(all.latency_ns.value_at_quantile(0.5), 1);
        assert!(all.latency_ns.max().abs_diff(1_000_000_000) < 20_000_000);
    }
}
