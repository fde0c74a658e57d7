//! Signals: kept for the runs that wait for them, and what ends runs from outside.
//!
//! The epochs of signals are those of inputs: one that is ahead waits, and no epoch is over before both have passed it.
//! What is kept, and for which wait, is the behavior's.
//!
//! # Invariants
//! - A signal that waits for its epoch is open work; one that is kept is not.
//! - What a signal brings about is a fact of its own epoch: no later one is current while it is looked at.

use std::collections::BTreeMap;

use super::mailbox::Waiting;
use super::{Driver, Emission, Phase, Sink};
use crate::behavior::Behavior;
use crate::keys::KeyId;
use crate::signal::{Signal, Told};
use crate::slab::RunToken;
use crate::time::EpochTime;

/// Signals that have come, and whether more may.
#[derive(Debug)]
pub(super) struct Signals<T> {
    /// Those whose epoch is not current, as they came.
    later: BTreeMap<u64, Vec<(T, KeyId, Told)>>,
    /// Whether no more come.
    ended: bool,
    /// Whether the behavior knows.
    told: bool,
}

impl<T> Default for Signals<T> {
    fn default() -> Self {
        Signals { later: BTreeMap::new(), ended: false, told: false }
    }
}

impl<T: EpochTime, B: Behavior, E: Emission<B::Key, B::Output>> Driver<T, B, E> {
    /// Tells the least epoch open at both inputs, as [`Driver::advance`] does, and looks at the signals that waited for
    /// theirs.
    pub fn advance_to<K>(&mut self, epoch: Option<u64>, sink: &mut K)
    where
        K: Sink<T, E::Item, B::Tagged>,
    {
        let due = |later: &BTreeMap<u64, _>| {
            later.first_key_value().map(|(e, _)| *e).filter(|e| epoch.is_none_or(|open| *e <= open))
        };
        while let Some(next) = due(&self.signals.later).filter(|_| self.phase == Phase::Open) {
            self.advance(Some(next));
            for (time, key, told) in self.signals.later.remove(&next).unwrap_or_default() {
                self.take_signal(&time, key, told, sink);
                let at = self.at(&time);
                self.open.remove(&at, 1);
            }
        }
        self.advance(epoch);
        if self.signals.ended && !self.signals.told && self.signals.later.is_empty() && self.phase == Phase::Open {
            self.signals.told = true;
            self.behavior.end_signals();
            for token in self.runs.iter().map(|(token, _)| token).collect::<Vec<_>>() {
                let active = self.runs.get_mut(token).expect("it is there");
                if self.behavior.signals_ended(&mut active.run) && !std::mem::replace(&mut active.ready, true) {
                    self.ready_runs.push_back(token);
                }
            }
        }
    }

    /// No more signals come; what waits for one is told when epochs are next.
    pub fn end_signals(&mut self) {
        self.signals.ended = true;
    }

    /// Takes a batch of signals of one time.
    pub fn signals<K>(
        &mut self,
        time: &T,
        batch: impl ExactSizeIterator<Item = impl Into<Signal<B::Key>>>,
        sink: &mut K,
    ) where
        K: Sink<T, E::Item, B::Tagged>,
    {
        // Also after a failure, as with inputs: what was not processed stays open.
        self.open.add(time, batch.len() as u64);
        if self.phase != Phase::Open {
            return;
        }
        let ahead = self.epoch.is_some_and(|current| time.epoch() > current);
        for signal in batch {
            let Signal { key, told } = signal.into();
            let key = self.index.id(&key);
            if self.states.len() < self.index.len() {
                self.admit();
            }
            if ahead {
                self.signals.later.entry(time.epoch()).or_default().push((time.clone(), key, told));
            } else {
                self.take_signal(time, key, told, sink);
                self.open.remove(time, 1);
            }
        }
    }

    fn take_signal<K>(&mut self, time: &T, key: KeyId, told: Told, sink: &mut K)
    where
        K: Sink<T, E::Item, B::Tagged>,
    {
        let token = self.states[key.index()].mailbox.as_ref().and_then(|mailbox| mailbox.run);
        match told {
            Told::Given { name, payload } => {
                let at = self.at(time);
                if self.carried.is_some() {
                    self.before_run(key, &at, sink);
                }
                let mut active = token.and_then(|token| self.runs.get_mut(token));
                let run = active.as_mut().map(|active| &mut active.run);
                if self.behavior.signal(key, run, name, payload)
                    && let (Some(active), Some(token)) = (active, token)
                    && !std::mem::replace(&mut active.ready, true)
                {
                    self.ready_runs.push_back(token);
                }
                if self.carried.is_some() {
                    self.changed(key, &at);
                }
            }
            Told::Cancel { waiting, reason } => {
                if let Some(token) = token {
                    self.cancel(token, &reason, sink);
                }
                if waiting && self.phase == Phase::Open {
                    self.discard_waiting(key, &reason, sink);
                }
                if self.phase == Phase::Open {
                    // Before anybody takes the time of what was ended for over.
                    self.flush(sink);
                }
            }
        }
    }

    /// Ends a run now, within the epoch of who asks for it.
    fn cancel<K>(&mut self, token: RunToken, reason: &str, sink: &mut K)
    where
        K: Sink<T, E::Item, B::Tagged>,
    {
        let Some(active) = self.runs.get_mut(token) else { return };
        self.behavior.cancel(&mut active.run, reason);
        self.resume(token, &mut 1, sink);
        self.stats.cancelled += 1;
    }

    /// A run is suspended: if it waits for a signal it counts for no limit, nor does what waits behind it, for they do not
    /// end by themselves.
    pub(super) fn park(&mut self, token: RunToken) {
        let Some(active) = self.runs.get_mut(token) else { return };
        if !active.ready && !active.parked && self.behavior.awaits_signal(&active.run) {
            active.parked = true;
            self.parked += 1;
            if let Some(mailbox) = &mut self.states[active.head.key.index()].mailbox {
                mailbox.parked = true;
                self.waiting_bytes -= mailbox.bytes;
            }
        }
    }

    /// A run goes on.
    #[inline]
    pub(super) fn unpark(&mut self, token: RunToken) {
        let Some(active) = self.runs.get_mut(token).filter(|active| active.parked) else { return };
        active.parked = false;
        self.parked -= 1;
        if let Some(mailbox) = &mut self.states[active.head.key.index()].mailbox {
            mailbox.parked = false;
            self.waiting_bytes += mailbox.bytes;
        }
    }

    /// Gives up the inputs of a key whose epochs are current and whose runs have not begun.
    fn discard_waiting<K>(&mut self, key: KeyId, reason: &str, sink: &mut K)
    where
        K: Sink<T, E::Item, B::Tagged>,
    {
        let mut given_up = Vec::new();
        if let Some(mailbox) = &mut self.states[key.index()].mailbox {
            mailbox.bytes = 0;
            for waiting in std::mem::take(&mut mailbox.waiting) {
                match waiting {
                    Waiting::Input { .. } => given_up.push(waiting),
                    other => mailbox.waiting.push_back(other),
                }
            }
        }
        if self.backlog.iter().any(|arrived| arrived.key == key) {
            for arrived in std::mem::take(&mut self.backlog) {
                if arrived.key == key {
                    let super::Arrived { time, bytes, input, .. } = arrived;
                    given_up.push(Waiting::Input { time, bytes, input, number: None });
                } else {
                    self.backlog.push_back(arrived);
                }
            }
            // They look for themselves whether something is still before them.
            self.ready_keys.extend(self.held_back.drain(..));
        }
        for waiting in given_up {
            let Waiting::Input { time, bytes, input, .. } = waiting else { continue };
            let at = self.at(&time);
            self.before_run(key, &at, sink);
            self.stage(&at, sink);
            let mut head = self.head(&time);
            let state = &mut self.states[key.index()];
            state.sequence += 1;
            (head.key, head.sequence) = (key, state.sequence);
            self.behavior.discard(&head, input, reason);
            self.waiting_bytes -= bytes;
            self.stats.cancelled += 1;
            self.changed(key, &at);
            if self.records.is_some() {
                self.record(&head, &time, sink);
            }
            self.open.remove(&at, 1);
        }
        let state = &mut self.states[key.index()];
        if state.mailbox.as_ref().is_some_and(|mailbox| mailbox.run.is_none() && mailbox.waiting.is_empty()) {
            state.mailbox = None;
        }
    }
}
