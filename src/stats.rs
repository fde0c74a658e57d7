//! What an agent has done, counted per worker and merged when its workers end.

use std::collections::BTreeMap;

use timely_agents_operators::stats::RunStats;

/// Counts of one action.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ActionStats {
    /// Times that it finished.
    pub finished: u64,
    /// Times that it failed, retried or not.
    pub failed: u64,
    /// Failures that were followed by another attempt.
    pub retried: u64,
    /// Failures that made a dead letter.
    pub dead_lettered: u64,
    /// Failures that were ignored.
    pub ignored: u64,
}

impl ActionStats {
    pub(crate) fn merge(&mut self, other: &ActionStats) {
        self.finished += other.finished;
        self.failed += other.failed;
        self.retried += other.retried;
        self.dead_lettered += other.dead_lettered;
        self.ignored += other.ignored;
    }
}

/// Counts of one agent.
#[derive(Clone, Debug, Default)]
pub struct AgentStats {
    /// Runs and their latency.
    pub runs: RunStats,
    /// By action.
    pub actions: BTreeMap<String, ActionStats>,
    /// The user's counters.
    pub counters: BTreeMap<String, u64>,
    /// Times that a run left its journal and went on ([`Divergence::Lenient`](crate::Divergence::Lenient)).
    pub diverged: u64,
}
