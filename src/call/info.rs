//! What a call knows of itself.

use timely_agents_operators::hash::stable_hash;

use crate::core::{Core, TaskCell};

/// Names a call for ever: 128 bits.
pub(crate) type CallKey = u128;

/// What a call is told of itself, by `Ctx::durable_with` and its blocking form.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CallInfo {
    key: CallKey,
    attempt: u32,
}

impl CallInfo {
    pub(crate) fn new(key: CallKey, attempt: u32) -> Self {
        CallInfo { key, attempt }
    }

    /// What the outside can know the call by, so that it does once what it is asked to do twice: 32 hexadecimal digits.
    ///
    /// It is the same in every attempt of the call, in every attempt of its action, and after every restart; that of
    /// another call is another one.
    pub fn idempotency_key(&self) -> String {
        format!("{:032x}", self.key)
    }

    /// Which attempt of the call this is, from 1. An attempt of the action begins anew with 1, and so does one that was
    /// under way in a crash with its own number.
    pub fn attempt(&self) -> u32 {
        self.attempt
    }
}

impl<O> Core<O> {
    /// What a call of the active run is known by outside.
    pub(crate) fn idempotency(&self, task: &TaskCell, position: u32, name: &str) -> CallKey {
        // Of an input without an identity what its number among those of its key is depends on their order, and that may be
        // another after a crash: it is known by its journal, which is durable before the call leaves.
        let journal = self.journal.get().filter(|_| self.identity.get().is_none());
        let run = journal.unwrap_or_else(|| self.run_id());
        // The run's id has 64 bits, too few to tell all runs of a job apart for ever; with a hash of the key of its own each
        // half tells more.
        let key = self.key();
        let half = |n: u8| {
            let run = (self.keys.salted_hash(key, n), run);
            u128::from(stable_hash(&(run, task.path.get(), position, name, n)))
        };
        half(0) << 64 | half(1)
    }
}
