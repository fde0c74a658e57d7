//! Carry: the close of an epoch moves unfinished work to the next one, and makes it facts (rules S5, D1).
//!
//! A run in progress is its beginning and its journal; an input that waits is itself. Each is written once, in the epoch
//! in which it came to be, however many epochs it is carried through, and retired in the one in which it is over.
//!
//! # Invariants
//! - Work has the time that it came with; where it counts as open, and puts out, is that time moved to the least epoch
//!   open at the input: `Driver::at`.
//! - Before anything of a key changes in an epoch, what it was in an earlier one is encoded: `Driver::before_change`.
//! - Numbers of waiting inputs ascend along a key's mailbox.

use foldhash::fast::FixedState;
use hashbrown::HashMap;

use super::encoder::Source;
use super::mailbox::{Mailbox, Waiting};
use super::notes::Notes;
use super::scheduled::Scheduled;
use super::seal::Seal;
use super::{ActiveRun, Arrived, Driver, Emission, KeyState};
use crate::behavior::Behavior;
use crate::fact::{FactColumns, KeyWriter, What};
use crate::keys::KeyId;
use crate::slab::Slab;
use crate::time::EpochTime;

/// What of a key's unfinished work is facts.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Persisted {
    /// The number of the run whose beginning and journal are.
    pub(super) run: Option<u64>,
    /// How many entries its journal has.
    pub(super) entries: u64,
    /// The numbers of the inputs that wait.
    pub(super) first: u64,
    pub(super) next: u64,
}

/// Which unfinished work is facts, by key. Keys without any are not here.
#[derive(Debug, Default)]
pub(super) struct Carried {
    pub(super) keys: HashMap<KeyId, Persisted, FixedState>,
}

impl Carried {
    /// Writes what has changed of a key's unfinished work.
    pub(super) fn facts<T: EpochTime, B: Behavior>(
        &mut self,
        behavior: &mut B,
        state: &mut KeyState<T, B::Input>,
        runs: &mut Slab<ActiveRun<T, B::Run>>,
        key: KeyId,
        facts: &mut KeyWriter,
    ) {
        let mailbox = state.mailbox.as_deref_mut();
        if mailbox.is_none() && !self.keys.contains_key(&key) {
            return behavior.facts(key, None, facts);
        }
        let persisted = self.keys.entry(key).or_default();
        let token = mailbox.as_ref().and_then(|mailbox| mailbox.run);
        let active = token.and_then(|token| runs.get_mut(token));
        behavior.facts(key, active.as_ref().map(|active| &active.run), facts);
        persisted.write_run(behavior, state.sequence, active, facts);
        persisted.write_waiting::<T, B>(mailbox, facts);
        if persisted.run.is_none() && persisted.first == persisted.next {
            self.keys.remove(&key);
        }
    }
}

impl Persisted {
    fn write_run<T: EpochTime, B: Behavior>(
        &mut self,
        behavior: &mut B,
        sequence: u64,
        active: Option<&mut ActiveRun<T, B::Run>>,
        facts: &mut KeyWriter,
    ) {
        let goes_on = self.run == Some(sequence) && active.is_some();
        let stale = if goes_on { 0 } else { std::mem::take(&mut self.entries) };
        match active {
            Some(active) => {
                if self.run != Some(sequence) {
                    let (time, beginning) = (&active.time, behavior.beginning(&active.run));
                    let written = match active.digest {
                        0 => facts.put(&What::Run, &(time, beginning)),
                        digest => facts.put(&What::Run, &(time, beginning, digest)),
                    };
                    written.unwrap_or_else(|e| panic!("a run cannot be encoded: {e}"));
                    self.run = Some(sequence);
                }
                let entries = &mut self.entries;
                behavior.journal(&mut active.run, &mut |entry| {
                    facts.put_bytes(&What::Entry(*entries), entry);
                    *entries += 1;
                });
            }
            None => {
                if self.run.take().is_some() {
                    facts.retire(&What::Run);
                }
            }
        }
        for n in self.entries..stale {
            facts.retire(&What::Entry(n));
        }
    }

    fn write_waiting<T: EpochTime, B: Behavior>(
        &mut self,
        mailbox: Option<&mut Mailbox<T, B::Input>>,
        facts: &mut KeyWriter,
    ) {
        let mut left = self.next;
        let mut new = Vec::new();
        for waiting in mailbox.into_iter().flat_map(|mailbox| mailbox.waiting.iter_mut()) {
            if let Waiting::Input { time, input, number, .. } = waiting {
                match number {
                    Some(n) => left = left.min(*n),
                    None => {
                        let n = self.next + new.len() as u64;
                        *number = Some(n);
                        let bytes =
                            B::encode_input(input).unwrap_or_else(|e| panic!("an input cannot be encoded: {e}"));
                        new.push((n, time.clone(), bytes));
                    }
                }
            }
        }
        for n in self.first..left {
            facts.retire(&What::Waiting(n));
        }
        self.first = left;
        self.next += new.len() as u64;
        for (n, time, bytes) in new {
            let value = (time, bytes);
            facts.put(&What::Waiting(n), &value).unwrap_or_else(|e| panic!("an input cannot be encoded: {e}"));
        }
    }
}

impl<T: EpochTime, B: Behavior, E: Emission<B::Key, B::Output>> Driver<T, B, E> {
    /// Where work of that time counts as open, and puts out.
    #[inline]
    pub(super) fn at(&self, time: &T) -> T {
        if self.carried.is_some() { time.with_epoch(self.floor) } else { time.clone() }
    }

    /// Something of `key` is about to change at `time`: what it was in an earlier epoch is encoded. That epoch.
    #[inline]
    pub(super) fn before_change(&mut self, key: KeyId, time: &T) -> Option<u64> {
        let epoch = self.seal.as_ref()?.older(key, time)?;
        self.encode(key, epoch);
        Some(epoch)
    }

    fn encode(&mut self, key: KeyId, epoch: u64) {
        if let Some((seal, mut durable)) = self.sealing() {
            seal.encode(key, epoch, &mut durable);
        }
    }

    /// What seals, if facts are wanted, and what of.
    pub(super) fn sealing(&mut self) -> Option<Sealing<'_, T, B>> {
        let Driver { seal, behavior, states, runs, carried, scheduled, notes, .. } = self;
        let (carried, notes) = (carried.as_mut(), notes.as_deref_mut());
        seal.as_mut().map(|seal| (seal, Durable { behavior, states, runs, carried, scheduled, notes }))
    }

    /// Something of `key` that is durable has changed at `time`.
    #[inline]
    pub(super) fn changed(&mut self, key: KeyId, time: &T) {
        if let Some(seal) = &mut self.seal {
            seal.changed(key, time);
        }
    }

    /// The epochs before `epoch` have closed at the input: what is unfinished of them moves there.
    pub(super) fn carry_to(&mut self, epoch: u64) {
        if self.carried.is_none() || epoch <= self.floor {
            return;
        }
        // What has not begun waits in mailboxes from here on: it is facts of the epoch in which it came.
        let rest = self.backlog.iter().position(|arrived| arrived.time.epoch() >= epoch).unwrap_or(self.backlog.len());
        let carried: Vec<_> = self.backlog.drain(..rest).collect();
        for Arrived { time, key, bytes, input } in carried {
            let at = self.at(&time);
            self.before_change(key, &at);
            let mailbox = self.states[key.index()].mailbox.get_or_insert_with(|| Box::new(Mailbox::new(None)));
            if mailbox.run.is_none() && mailbox.waiting.is_empty() {
                self.ready_keys.push_back(key);
            }
            self.waiting_bytes -= bytes - mailbox.push_input(time, bytes, input);
            self.changed(key, &at);
        }
        self.ready_keys.extend(self.held_back.drain(..));
        self.floor = epoch;
        self.open.carry_to(epoch);
    }
}

/// What seals, and what of.
pub(super) type Sealing<'d, T, B> = (&'d mut Seal<T, <B as Behavior>::Key>, Durable<'d, T, B>);

/// All that is durable of keys.
pub(super) struct Durable<'d, T, B: Behavior> {
    behavior: &'d mut B,
    states: &'d mut [KeyState<T, B::Input>],
    runs: &'d mut Slab<ActiveRun<T, B::Run>>,
    carried: Option<&'d mut Carried>,
    scheduled: &'d mut Scheduled<T>,
    notes: Option<&'d mut Notes<T, B::Input>>,
}

impl<T: EpochTime, B: Behavior> Source for Durable<'_, T, B> {
    fn columns(&mut self, keys: &[KeyId], columns: &mut FactColumns) {
        let column = columns.another();
        let Some(carried) = &mut self.carried else {
            column.numbers(&What::Sequence, keys, |key| Some(Some(self.states[key.index()].sequence)));
            self.behavior.facts_of(keys, columns);
            return;
        };
        // A key's run in progress decides what is left out of its facts: those are written key by key.
        for key in keys {
            column.key(|facts| {
                let state = &mut self.states[key.index()];
                facts.put_number(&What::Sequence, state.sequence);
                carried.facts(self.behavior, state, self.runs, *key, facts);
                self.scheduled.facts(*key, facts);
                if let Some(notes) = &mut self.notes {
                    notes.facts(*key, state.mailbox.is_some(), facts);
                }
            });
        }
    }
}
