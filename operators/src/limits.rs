//! Bounds of what one operator holds on one worker (rule S9).

use serde::{Deserialize, Serialize};

/// Limits, each per operator and worker. Beyond one of them new work waits and sources pause; nothing is dropped.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Limits {
    /// Runs that have started and not ended, without those that wait for signals. Default 1,000,000.
    pub runs_in_flight: usize,
    /// Bytes, encoded, of inputs that wait. Default 256 MiB.
    pub inbox_bytes: usize,
    /// Distinct times with unfinished work. Default 10,000.
    pub open_epochs: usize,
    /// Calls on the runtime at once; further ones wait their turn. Default 100,000.
    pub concurrent_calls: usize,
    /// Tasks that one activation runs before others have their turn. Default 262,144.
    pub fuel: u32,
}

impl Default for Limits {
    fn default() -> Self {
        Limits {
            runs_in_flight: 1_000_000,
            inbox_bytes: 256 << 20,
            open_epochs: 10_000,
            concurrent_calls: 100_000,
            fuel: 262_144,
        }
    }
}

impl Limits {
    /// The smallest limits: one of each. For tests of progress under pressure.
    pub fn tight() -> Self {
        Limits { runs_in_flight: 1, inbox_bytes: 1, open_epochs: 1, concurrent_calls: 1, fuel: 1 }
    }

    /// The names of limits that are zero, and so would stop all work.
    pub fn faults(&self) -> Vec<&'static str> {
        [
            ("runs_in_flight", self.runs_in_flight == 0),
            ("inbox_bytes", self.inbox_bytes == 0),
            ("open_epochs", self.open_epochs == 0),
            ("concurrent_calls", self.concurrent_calls == 0),
            ("fuel", self.fuel == 0),
        ]
        .into_iter()
        .filter_map(|(name, fault)| fault.then_some(name))
        .collect()
    }
}
