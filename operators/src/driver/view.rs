//! What a driver tells of itself: to the operator, to flow control, to tests.

use super::{Driver, Emission, Load, Phase};
use crate::behavior::{Behavior, Failure};
use crate::completion::CallRef;
use crate::keys::KeyId;
use crate::limits::Limits;
use crate::stats::RunStats;
use crate::time::EpochTime;

impl<T: EpochTime, B: Behavior, E: Emission<B::Key, B::Output>> Driver<T, B, E> {
    /// When the next timer is due, in microseconds of the clock.
    pub fn next_deadline(&self) -> Option<u64> {
        if self.phase == Phase::Open { self.timers.next_deadline() } else { None }
    }

    /// What is held.
    pub fn load(&self) -> Load {
        Load {
            runs: self.runs.len() - self.parked,
            waiting_bytes: self.waiting_bytes,
            ahead_bytes: self.ahead_bytes,
            open_times: self.open.times(),
            least_open: self.open.least_epoch(),
            epoch: self.epoch,
        }
    }

    /// The limits.
    pub fn limits(&self) -> &Limits {
        &self.limits
    }

    /// What has been done.
    pub fn stats(&self) -> &RunStats {
        &self.stats
    }

    /// Notes how long runs that never waited took, as a mean over a batch of them.
    pub fn record_inline(&mut self, mean_ns: u64, runs: u64) {
        self.stats.record(mean_ns, runs);
    }

    /// Why the job must stop, if it must.
    pub fn failure(&self) -> Option<&Failure> {
        match &self.phase {
            Phase::Failed(failure) => Some(failure),
            _ => None,
        }
    }

    /// Whether the input has ended and all work is done.
    pub fn is_closed(&self) -> bool {
        self.phase == Phase::Closed
    }

    /// Work that waits for a key: whether a run is in flight, and how much waits behind it, for fuel, or for
    /// its epoch. It looks at all that waits; for tests.
    pub fn mailbox(&self, key: &B::Key) -> (bool, usize) {
        let Some(id) = self.index.find(key) else {
            return (false, 0);
        };
        let arrived = self.backlog.iter().chain(self.later.values().flatten());
        let arrived = arrived.filter(|arrived| arrived.key == id).count();
        let mailbox = self.states[id.index()].mailbox.as_ref();
        let (running, waiting) = mailbox.map_or((false, 0), |m| (m.run.is_some(), m.waiting.len()));
        (running, waiting + arrived)
    }

    /// Whether a call is running, and waited for; for tests.
    pub fn awaits(&self, call: CallRef) -> bool {
        self.phase == Phase::Open
            && self.runs.get(call.run).is_some_and(|run| {
                let mut calls = run.calls.iter();
                calls.any(|c| c.running && (c.task, c.call) == (call.task, call.call))
            })
    }

    /// The id of a key that has been seen.
    pub fn key_id(&self, key: &B::Key) -> Option<KeyId> {
        self.index.find(key)
    }

    /// The behavior.
    pub fn behavior(&mut self) -> &mut B {
        &mut self.behavior
    }
}
