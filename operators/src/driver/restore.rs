//! Restoring: facts of a checkpoint become the state of a driver that has not run yet (rule D4).
//!
//! Facts come in the order in which they were written; of several about one thing the last counts. When all are there,
//! what is not over, such as a notification that was asked for, is open work again.
//!
//! Not here: which facts a worker is given (`checkpoint`).

use std::collections::BTreeMap;

use super::{Driver, Emission, KeyState};
use crate::behavior::Behavior;
use crate::fact::{FactRef, What};
use crate::keys::KeyId;
use crate::time::EpochTime;

/// What a driver remembers of facts until all are there.
#[derive(Debug)]
pub(super) struct Restoring<T> {
    notifications: BTreeMap<(u64, KeyId), T>,
}

impl<T> Default for Restoring<T> {
    fn default() -> Self {
        Restoring { notifications: BTreeMap::new() }
    }
}

impl<T: EpochTime, B: Behavior, E: Emission<B::Key, B::Output>> Driver<T, B, E> {
    /// Takes back one fact, before the first input.
    ///
    /// # Errors
    /// What does not fit this program.
    pub fn restore(&mut self, fact: &FactRef<'_>) -> Result<(), String> {
        let wrong = |what: &str, error: postcard::Error| format!("{what}: {error}");
        let key: B::Key = postcard::from_bytes(fact.key).map_err(|error| wrong("a key of another type", error))?;
        let id = self.index.id(&key);
        if self.states.len() < self.index.len() {
            self.admit();
        }
        match &fact.what {
            What::Sequence => {
                let sequence = fact.value.map(postcard::from_bytes).transpose();
                let sequence = sequence.map_err(|error| wrong("the number of runs of a key", error))?;
                self.states[id.index()].sequence = sequence.unwrap_or(0);
            }
            What::Notification(epoch) => {
                let at = fact.value.map(postcard::from_bytes::<T>).transpose();
                match at.map_err(|error| wrong("the time of a notification", error))? {
                    Some(at) => self.restoring.notifications.insert((*epoch, id), at),
                    None => self.restoring.notifications.remove(&(*epoch, id)),
                };
            }
            what => self.behavior.restore(id, what, fact.value).map_err(|error| format!("key {key:?}: {error}"))?,
        }
        Ok(())
    }

    /// All facts are there: what they leave to do is open work from here on.
    pub fn restored(&mut self) {
        for ((_, key), at) in std::mem::take(&mut self.restoring).notifications {
            self.notify(key, &at);
        }
    }

    /// Takes note of keys that the index has been given.
    pub(super) fn admit(&mut self) {
        self.states.resize_with(self.index.len(), || KeyState { sequence: 0, mailbox: None });
        self.behavior.admit(self.index.len());
    }
}
