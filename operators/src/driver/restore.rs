//! Restoring: facts of a checkpoint become the state of a driver that has not run yet (rule D4).
//!
//! Facts come in the order in which they were written; of several about one thing the last counts. When all are there,
//! what is not over, such as a notification that was asked for, is open work again.
//!
//! Not here: which facts a worker is given (`checkpoint`).

use std::collections::BTreeMap;

use smallvec::SmallVec;

use super::carry::Persisted;
use super::mailbox::{Mailbox, Waiting};
use super::{ActiveRun, Driver, Emission, KeyState};
use crate::behavior::{Behavior, RunHead};
use crate::fact::{FactRef, What};
use crate::keys::KeyId;
use crate::time::EpochTime;

/// What a driver remembers of facts until all are there.
#[derive(Debug)]
pub(super) struct Restoring<T> {
    notifications: BTreeMap<(u64, KeyId), T>,
    waiting: BTreeMap<(KeyId, u64), Vec<u8>>,
    runs: BTreeMap<KeyId, Vec<u8>>,
    entries: BTreeMap<(KeyId, u64), Vec<u8>>,
    timers: BTreeMap<(KeyId, u64), Vec<u8>>,
    notes: BTreeMap<KeyId, Vec<u8>>,
}

impl<T> Default for Restoring<T> {
    fn default() -> Self {
        Restoring {
            notifications: BTreeMap::new(),
            waiting: BTreeMap::new(),
            runs: BTreeMap::new(),
            entries: BTreeMap::new(),
            timers: BTreeMap::new(),
            notes: BTreeMap::new(),
        }
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
            What::Waiting(n) => upsert(&mut self.restoring.waiting, (id, *n), fact.value),
            What::Run => upsert(&mut self.restoring.runs, id, fact.value),
            What::Entry(n) => upsert(&mut self.restoring.entries, (id, *n), fact.value),
            What::Timer(n) => upsert(&mut self.restoring.timers, (id, *n), fact.value),
            What::Notes => upsert(&mut self.restoring.notes, id, fact.value),
            what => self.behavior.restore(id, what, fact.value).map_err(|error| format!("key {key:?}: {error}"))?,
        }
        Ok(())
    }

    /// All facts are there, of all epochs before `resume`: what they leave to do is open work from here on.
    ///
    /// # Errors
    /// What does not fit this program.
    pub fn restored(&mut self, resume: u64) -> Result<(), String> {
        self.floor = resume;
        self.start = resume;
        self.epoch = Some(resume);
        self.behavior.advance(self.epoch);
        let Restoring { notifications, waiting, runs, entries, timers, notes } = std::mem::take(&mut self.restoring);
        if self.carried.is_none() && !(waiting.is_empty() && runs.is_empty() && timers.is_empty()) {
            return Err("it has unfinished runs, which only an agent that carries them can take over".into());
        }
        let wrong = |error: postcard::Error| format!("unfinished work: {error}");
        let mut entries = entries.into_iter().peekable();
        for (key, bytes) in runs {
            let ((time, beginning), rest): ((T, Vec<u8>), _) = postcard::take_from_bytes(&bytes).map_err(wrong)?;
            let digest = if rest.is_empty() { None } else { Some(postcard::from_bytes(rest).map_err(wrong)?) };
            let mut journal = Vec::new();
            while let Some((_, entry)) = entries.next_if(|((of, _), _)| *of <= key) {
                journal.push(entry);
            }
            let count = journal.len() as u64;
            let mut head = self.head(&time);
            head.key = key;
            head.sequence = self.states[key.index()].sequence;
            let (run, anew) = self.behavior.restore_run(&head, &beginning, journal)?;
            self.put_back(head, time, run, digest, (count, anew));
        }
        for ((key, n), bytes) in waiting {
            let (time, input): (T, Vec<u8>) = postcard::from_bytes(&bytes).map_err(wrong)?;
            let input = B::decode_input(&input)?;
            let bytes = B::input_bytes(&input);
            self.waiting_bytes += bytes;
            self.open.add(&time.with_epoch(resume), 1);
            let mailbox = self.states[key.index()].mailbox.get_or_insert_with(|| Box::new(Mailbox::new(None)));
            if mailbox.run.is_none() && mailbox.waiting.is_empty() {
                self.ready_keys.push_back(key);
            }
            mailbox.bytes += bytes;
            mailbox.waiting.push_back(Waiting::Input { time, bytes, input, number: Some(n) });
            if let Some(carried) = &mut self.carried {
                let persisted =
                    carried.keys.entry(key).or_insert_with(|| Persisted { first: n, ..Persisted::default() });
                if persisted.first == persisted.next {
                    persisted.first = n;
                }
                persisted.next = n + 1;
            }
        }
        self.restored_notes(notes)?;
        for ((key, number), bytes) in timers {
            self.restore_scheduled(key, number, &bytes).map_err(wrong)?;
        }
        for ((epoch, key), at) in notifications {
            if epoch < resume {
                self.open.add(&at.with_epoch(resume), 1);
                self.deliver_notification(key, &at);
            } else {
                self.notify(key, &at);
            }
        }
        Ok(())
    }

    /// Takes back a run in progress whose journal has `entries`, which it begins anew.
    fn put_back(&mut self, head: RunHead, time: T, run: B::Run, digest: Option<u64>, (entries, anew): (u64, bool)) {
        self.open.add(&self.at(&time), 1);
        if let Some(carried) = &mut self.carried {
            // No run has the number 0: what is stored is of another.
            let stored = if anew { 0 } else { head.sequence };
            let persisted = Persisted { run: Some(stored), entries, first: 0, next: 0 };
            carried.keys.insert(head.key, persisted);
        }
        let deadline = self.deadline(head.token);
        // Whatever it notes from now on, has notes of before or not, is found by it.
        let of_input = || self.behavior.run_digest(&run).unwrap_or(0);
        let digest = self.notes.as_ref().map_or(0, |_| digest.unwrap_or_else(of_input));
        let active = ActiveRun {
            head,
            time,
            started: self.now,
            run,
            digest,
            ready: true,
            calls: SmallVec::new(),
            deadline,
            parked: false,
        };
        let token = self.runs.insert(active);
        self.states[head.key.index()].mailbox = Some(Box::new(Mailbox::new(Some(token))));
        self.ready_runs.push_back(token);
    }

    /// Takes note of keys that the index has been given.
    pub(super) fn admit(&mut self) {
        self.states.resize_with(self.index.len(), || KeyState { sequence: 0, mailbox: None });
        self.behavior.admit(self.index.len());
    }
}

fn upsert<P: Ord>(facts: &mut BTreeMap<P, Vec<u8>>, place: P, value: Option<&[u8]>) {
    match value {
        Some(value) => facts.insert(place, value.to_vec()),
        None => facts.remove(&place),
    };
}
