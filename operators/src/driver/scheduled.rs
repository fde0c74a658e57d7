//! Scheduled events: they come to their key at their time, each once, as a run of its own.
//!
//! # Invariants
//! - An event is open work, at the time of the run that scheduled it, from then until its run has ended; except that at
//!   the end of the input those that are not due stay behind as facts, where they outlive the job.
//! - It is a fact until its run begins.

use std::collections::BTreeMap;

use foldhash::fast::FixedState;
use hashbrown::HashMap;

use super::mailbox::{Mailbox, Waiting};
use super::{Deadline, Driver, Emission};
use crate::behavior::Behavior;
use crate::fact::{KeyWriter, What};
use crate::keys::KeyId;
use crate::time::EpochTime;
use crate::timers::TimerKey;

/// One that has not begun.
#[derive(Debug)]
struct Event<T> {
    /// Of the run that scheduled it.
    time: T,
    deadline: u64,
    says: Vec<u8>,
    /// While its deadline is watched.
    timer: Option<TimerKey>,
    /// Whether it is a fact.
    stored: bool,
}

#[derive(Debug)]
struct OfKey<T> {
    events: BTreeMap<u64, Event<T>>,
    /// Facts of events that have begun.
    begun: Vec<u64>,
    next: u64,
}

/// By key; keys without any are not here.
#[derive(Debug)]
pub(super) struct Scheduled<T> {
    keys: HashMap<KeyId, OfKey<T>, FixedState>,
    /// Whether those that are not due at the end of the input stay behind.
    pub(super) outlive: bool,
}

impl<T> Default for Scheduled<T> {
    fn default() -> Self {
        Scheduled { keys: HashMap::default(), outlive: false }
    }
}

impl<T> OfKey<T> {
    fn new() -> Self {
        OfKey { events: BTreeMap::new(), begun: Vec::new(), next: 0 }
    }
}

impl<T: EpochTime> Scheduled<T> {
    /// The run of an event begins.
    pub(super) fn begin(&mut self, key: KeyId, number: u64) -> Option<Vec<u8>> {
        let of_key = self.keys.get_mut(&key)?;
        let event = of_key.events.remove(&number)?;
        if event.stored {
            of_key.begun.push(number);
        } else if of_key.events.is_empty() && of_key.begun.is_empty() {
            self.keys.remove(&key);
        }
        Some(event.says)
    }

    /// Writes what has changed of a key's events.
    pub(super) fn facts(&mut self, key: KeyId, facts: &mut KeyWriter) {
        if self.keys.is_empty() {
            return;
        }
        let Some(of_key) = self.keys.get_mut(&key) else { return };
        for number in of_key.begun.drain(..) {
            facts.retire(&What::Timer(number));
        }
        for (number, event) in of_key.events.iter_mut().filter(|(_, event)| !event.stored) {
            event.stored = true;
            let value = postcard::to_allocvec(&(event.deadline, &event.says)).map(|rest| (&event.time, rest));
            let written = value.and_then(|value| facts.put(&What::Timer(*number), &value));
            written.unwrap_or_else(|error| panic!("a scheduled event cannot be encoded: {error}"));
        }
        if of_key.events.is_empty() {
            self.keys.remove(&key);
        }
    }
}

impl<T: EpochTime, B: Behavior, E: Emission<B::Key, B::Output>> Driver<T, B, E> {
    /// Lets scheduled events that are not due at the end of the input stay behind as facts, which somebody keeps.
    pub fn let_scheduled_outlive(&mut self) {
        self.scheduled.outlive = true;
    }

    /// A run of `key` at `time` has scheduled an event.
    pub(super) fn schedule(&mut self, key: KeyId, time: &T, deadline: u64, says: Vec<u8>) {
        let of_key = self.scheduled.keys.entry(key).or_insert_with(OfKey::new);
        let number = of_key.next;
        of_key.next += 1;
        let stays = self.epoch.is_none() && self.scheduled.outlive && deadline > self.now;
        let timer = (!stays).then(|| self.timers.add(deadline, Deadline::Scheduled(key, number)));
        of_key.events.insert(number, Event { time: time.clone(), deadline, says, timer, stored: false });
        if !stays {
            let at = self.at(time);
            self.open.add(&at, 1);
        }
    }

    /// An event is due.
    pub(super) fn fire_scheduled(&mut self, key: KeyId, number: u64) {
        let of_key = self.scheduled.keys.get_mut(&key);
        let Some(event) = of_key.and_then(|of_key| of_key.events.get_mut(&number)) else { return };
        event.timer = None;
        let time = event.time.clone();
        let time = self.at(&time);
        let mailbox = self.states[key.index()].mailbox.get_or_insert_with(|| Box::new(Mailbox::new(None)));
        mailbox.push(Waiting::Scheduled { time, number });
        if mailbox.run.is_none() {
            self.ready_keys.push_back(key);
        }
    }

    /// The input has ended: events that are not due stay behind, if they outlive the job.
    pub(super) fn leave_scheduled(&mut self) {
        if !self.scheduled.outlive {
            return;
        }
        let mut left = Vec::new();
        for event in self.scheduled.keys.values_mut().flat_map(|of_key| of_key.events.values_mut()) {
            if event.deadline > self.now
                && let Some(timer) = event.timer.take()
            {
                self.timers.cancel(timer);
                left.push(event.time.clone());
            }
        }
        for time in left {
            let at = self.at(&time);
            self.open.remove(&at, 1);
        }
    }

    /// Takes back an event of a checkpoint.
    pub(super) fn restore_scheduled(&mut self, key: KeyId, number: u64, value: &[u8]) -> Result<(), postcard::Error> {
        let (time, rest): (T, Vec<u8>) = postcard::from_bytes(value)?;
        let (deadline, says): (u64, Vec<u8>) = postcard::from_bytes(&rest)?;
        let timer = Some(self.timers.add(deadline, Deadline::Scheduled(key, number)));
        let at = self.at(&time);
        self.open.add(&at, 1);
        let of_key = self.scheduled.keys.entry(key).or_insert_with(OfKey::new);
        of_key.next = of_key.next.max(number + 1);
        of_key.events.insert(number, Event { time, deadline, says, timer, stored: true });
        Ok(())
    }
}
