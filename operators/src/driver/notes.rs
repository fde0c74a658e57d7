//! Notes: what a run has to know after a crash that comes before its epoch is committed (rule D7).
//!
//! ```text
//! a call ends ── note_end ──▶ note { order of the key's runs, the run's journal } ── durable ──▶ the run hears of it
//! ```
//! A note closes over its past: with the journal of its run it has, by digest, the inputs that the key's runs since its last
//! note were about. After a crash these runs start in that order: an input that comes before its turn is parked until those
//! before it are there, or until its epoch closes without them. An input whose run has a journal starts with it.
//!
//! # Invariants
//! - An end that is noted reaches its run after the note is durable; what such a run does next is in a later note.
//! - A journal is given to one run, and only to one of an input with its digest.
//! - Parked inputs are of epochs that have not closed at the input.
//!
//! Not here: what a journal says (the behavior), where notes are kept (`journal`).

use std::borrow::Cow;
use std::collections::VecDeque;

use foldhash::fast::FixedState;
use hashbrown::HashMap;
use smallvec::SmallVec;

use super::begun::Begun;
use super::{Arrived, Driver, Emission, Sink};
use crate::behavior::{Begins, Behavior, CallJob, PastRun, Progress, RunHead, RunNote, Work, notification_digest};
use crate::completion::{CallRef, CallResult, Completion};
use crate::encoded::encoded;
use crate::hash::stable_hash;
use crate::journal::Written;
use crate::keys::KeyId;
use crate::slab::RunToken;
use crate::time::EpochTime;

/// What notes of before a crash say of a key.
#[derive(Debug)]
struct Past<T, I> {
    /// Which input each run was about: number and digest, ascending by number.
    order: VecDeque<(u64, u64)>,
    /// Mostly there is one.
    journals: SmallVec<[Journal; 1]>,
    /// Inputs whose turn has not come, with their digests, as they arrived.
    parked: VecDeque<(u64, Arrived<T, I>)>,
}

#[derive(Debug)]
struct Journal {
    epoch: u64,
    sequence: u64,
    digest: u64,
    run: PastRun,
}

impl<T, I> Default for Past<T, I> {
    fn default() -> Self {
        Past { order: VecDeque::new(), journals: SmallVec::new(), parked: VecDeque::new() }
    }
}

impl<T, I> Past<T, I> {
    /// A run of that number was about an input with that digest; what is told last counts.
    fn begun(&mut self, sequence: u64, digest: u64) {
        if self.order.back().is_none_or(|(last, _)| *last < sequence) {
            return self.order.push_back((sequence, digest));
        }
        match self.order.binary_search_by_key(&sequence, |(sequence, _)| *sequence) {
            Ok(at) => self.order[at].1 = digest,
            Err(at) => self.order.insert(at, (sequence, digest)),
        }
    }

    /// Takes what may run now, in its order.
    fn ready(&mut self, into: &mut Vec<Arrived<T, I>>) {
        while let Some((_, next)) = self.order.front() {
            let Some(at) = self.parked.iter().position(|(digest, _)| digest == next) else { return };
            self.order.pop_front();
            into.extend(self.parked.remove(at).map(|(_, arrived)| arrived));
        }
        into.extend(self.parked.drain(..).map(|(_, arrived)| arrived));
    }

    fn is_over(&self) -> bool {
        self.order.is_empty() && self.parked.is_empty() && self.journals.is_empty()
    }
}

/// See the [module](self).
pub(super) struct Notes<T, I> {
    /// Runs that have begun, for the next note of their key.
    pub(super) begun: Begun<I>,
    past: HashMap<KeyId, Past<T, I>, FixedState>,
    /// Calls that leave when their start is durable.
    leaving: HashMap<CallRef, (Cow<'static, str>, CallJob), FixedState>,
    /// The digest of what the run is about that is just beginning, where it had to be made.
    pub(super) beginning: Option<u64>,
    committed: u64,
}

impl<T, I> Default for Notes<T, I> {
    fn default() -> Self {
        Notes {
            begun: Begun::default(),
            past: HashMap::default(),
            leaving: HashMap::default(),
            beginning: None,
            committed: 0,
        }
    }
}

impl<T, I> Notes<T, I> {
    /// Whether inputs have to be looked at one by one, because of what was before a crash.
    pub(super) fn has_past(&self) -> bool {
        !self.past.is_empty()
    }

    /// The journal of a run about an input of that digest, if there is one.
    fn claim(&mut self, key: KeyId, digest: u64) -> Option<PastRun> {
        let past = self.past.get_mut(&key)?;
        let of_it = past.journals.iter().enumerate().filter(|(_, journal)| journal.digest == digest);
        let first = of_it.min_by_key(|(_, journal)| journal.sequence).map(|(at, _)| at);
        let run = first.map(|at| past.journals.swap_remove(at).run);
        if past.is_over() {
            self.past.remove(&key);
        }
        run
    }
}

impl<T: EpochTime, B: Behavior, E: Emission<B::Key, B::Output>> Driver<T, B, E> {
    /// Takes back a note, after the facts and before [`Driver::restored`]. Those of one key come in the order in which they
    /// were made.
    ///
    /// # Errors
    /// What does not fit this program.
    pub fn restore_note(&mut self, epoch: u64, key: &[u8], bytes: &[u8]) -> Result<(), String> {
        let wrong = |error: postcard::Error| format!("a note of the journal: {error}");
        let key: B::Key = postcard::from_bytes(key).map_err(wrong)?;
        let Written { sequence, digest, journal, begun, body } = postcard::from_bytes(bytes).map_err(wrong)?;
        let id = self.index.id(&key);
        if self.states.len() < self.index.len() {
            self.admit();
        }
        let Some(notes) = &mut self.notes else {
            return Err(format!("key {key:?} has a journal of calls, which an agent without them cannot take over"));
        };
        let past = notes.past.entry(id).or_default();
        for (sequence, digest) in begun {
            past.begun(sequence, digest);
        }
        match past.journals.iter_mut().find(|known| known.run.journal == journal) {
            Some(known) => {
                (known.epoch, known.sequence) = (known.epoch.max(epoch), sequence);
                known.run.bodies.extend_from_slice(&body);
            }
            None => {
                // Of a run that began again, what it was before does not count.
                past.journals.retain(|known| (known.sequence, known.digest) != (sequence, digest));
                let run = PastRun { journal, bodies: body };
                past.journals.push(Journal { epoch, sequence, digest, run });
            }
        }
        Ok(())
    }

    /// Facts and notes are there: what of the notes is over is left out, and runs in progress get theirs.
    ///
    /// # Errors
    /// What does not fit this program.
    pub(super) fn restored_notes(&mut self) -> Result<(), String> {
        let Driver { notes, states, runs, behavior, .. } = self;
        let Some(notes) = notes else { return Ok(()) };
        let mut taken = Ok(());
        notes.past.retain(|key, past| {
            let state = &states[key.index()];
            past.order.retain(|(sequence, _)| *sequence > state.sequence);
            // Inputs that waited at the checkpoint wait again, and come first.
            let waiting = state.mailbox.iter().flat_map(|mailbox| &mailbox.waiting);
            for digest in waiting.filter_map(|waiting| waiting.input()).map(|input| behavior.digest(input)) {
                if let Some(first) = past.order.iter().position(|(_, of)| *of == digest) {
                    past.order.remove(first);
                }
            }
            let token = state.mailbox.as_ref().and_then(|mailbox| mailbox.run);
            if let Some(active) = token.and_then(|token| runs.get_mut(token)) {
                let (sequence, digest) = (active.head.sequence, behavior.run_digest(&active.run));
                let its = |journal: &Journal| {
                    journal.sequence == sequence && digest.is_none_or(|digest| journal.digest == digest)
                };
                if let Some(at) = past.journals.iter().position(its) {
                    active.digest = past.journals[at].digest;
                    let given =
                        behavior.restore_notes(&active.head, &mut active.run, past.journals.swap_remove(at).run);
                    taken = std::mem::replace(&mut taken, Ok(())).and(given);
                }
            }
            past.journals.retain(|journal| journal.sequence > state.sequence);
            !past.is_over()
        });
        taken
    }

    /// All epochs before `frontier` are committed.
    pub fn committed(&mut self, frontier: u64) {
        let Some(notes) = &mut self.notes else { return };
        if frontier <= notes.committed {
            return;
        }
        notes.committed = frontier;
        notes.begun.committed(frontier);
        let orphans = &mut self.stats.orphans;
        notes.past.retain(|_, past| {
            let before = past.journals.len();
            past.journals.retain(|journal| journal.epoch >= frontier);
            *orphans += (before - past.journals.len()) as u64;
            !past.is_over()
        });
    }

    /// Puts an input into the backlog, or aside until its turn has come.
    pub(super) fn arrive(&mut self, arrived: Arrived<T, B::Input>) {
        if let Some(notes) = &mut self.notes
            && let Some(past) = notes.past.get_mut(&arrived.key)
            && !past.order.is_empty()
        {
            let key = arrived.key;
            let digest = self.behavior.digest(&arrived.input);
            if past.parked.is_empty() && past.order.front().is_some_and(|(_, next)| *next == digest) {
                past.order.pop_front();
                self.backlog.push_back(arrived);
            } else {
                past.parked.push_back((digest, arrived));
                let mut ready = Vec::new();
                past.ready(&mut ready);
                self.backlog.extend(ready);
            }
            if past.is_over() {
                notes.past.remove(&key);
            }
        } else {
            self.backlog.push_back(arrived);
        }
    }

    /// The epochs before `epoch` close: what is parked of them does not wait any longer.
    pub(super) fn unpark_before(&mut self, epoch: Option<u64>) {
        let Some(notes) = self.notes.as_mut().filter(|notes| notes.has_past()) else { return };
        let closes = |arrived: &Arrived<T, B::Input>| epoch.is_none_or(|epoch| arrived.time.epoch() < epoch);
        let mut keys: Vec<KeyId> =
            notes.past.iter().filter(|(_, past)| !past.parked.is_empty()).map(|(k, _)| *k).collect();
        keys.sort_unstable();
        let mut ready = Vec::new();
        for key in keys {
            let Some(past) = notes.past.get_mut(&key) else { continue };
            while past.parked.iter().any(|(_, arrived)| closes(arrived)) {
                // Who should come first is not there.
                past.order.pop_front();
                past.ready(&mut ready);
            }
            if past.is_over() {
                notes.past.remove(&key);
            }
        }
        ready.sort_by_key(|arrived| arrived.time.epoch());
        self.backlog.extend(ready);
    }

    /// Starts a run where there are notes.
    pub(super) fn start_noted(
        &mut self,
        head: &RunHead,
        time: &T,
        work: Work<B::Input>,
        fuel: &mut u32,
    ) -> Progress<B::Run> {
        let at = self.at(time).epoch();
        let Some(notes) = &mut self.notes else { return self.behavior.start(head, work, fuel) };
        let digest = match &work {
            Work::Input(input) => {
                let digest = self.behavior.digest(input);
                notes.begun.of(at).begins(head.key, head.sequence, || digest);
                digest
            }
            // Their order follows from the inputs'.
            Work::Notify { epoch } => notification_digest(*epoch),
            Work::Scheduled { event } => stable_hash(event),
        };
        notes.beginning = Some(digest);
        match if notes.has_past() { notes.claim(head.key, digest) } else { None } {
            Some(past) => {
                self.stats.replayed += 1;
                self.behavior.start_again(head, work, past, fuel)
            }
            None => self.behavior.start(head, work, fuel),
        }
    }

    /// A call has ended, or has taken too long: the run hears of it when that is durable, if that is asked for.
    pub(super) fn settle<K>(&mut self, call: CallRef, result: CallResult, abort: bool, sink: &mut K)
    where
        K: Sink<T, E::Item, B::Tagged>,
    {
        if self.notes.is_none() || self.active_call(call).is_none() {
            return self.end_call(call, result, abort);
        }
        let active = self.runs.get(call.run).expect("it has calls");
        let (key, at) = (active.head.key, self.at(&active.time));
        if self.carried.is_some() {
            self.before_run(key, &at, sink);
        }
        let active = self.runs.get_mut(call.run).expect("it has calls");
        if let Some(note) = self.behavior.note_end(self.now, &mut active.run, call, &result) {
            if self.carried.is_some() {
                // Until the run hears of it, it is among its facts.
                self.changed(key, &at);
            }
            self.is_over(call, abort);
            self.write_note(call.run, note, Some(Completion::Durable { call, result }), sink);
        } else {
            self.end_call(call, result, abort);
        }
    }

    /// A call runs no longer, though its end has not reached its run.
    fn is_over(&mut self, name: CallRef, abort: bool) {
        let Some(call) = self.active_call(name) else { return };
        let (timer, running, handle) = (call.timer.take(), std::mem::take(&mut call.running), call.abort.take());
        if let Some(timer) = timer {
            self.timers.cancel(timer);
        }
        self.calls_running -= usize::from(running);
        if abort && let Some(handle) = handle {
            handle.abort();
        }
    }

    /// Lets a call leave when its start is durable.
    pub(super) fn leave_noted<K>(&mut self, call: CallRef, name: Cow<'static, str>, job: CallJob, sink: &mut K)
    where
        K: Sink<T, E::Item, B::Tagged>,
    {
        let active = self.runs.get_mut(call.run).expect("in flight");
        match self.behavior.note_start(&mut active.run, call) {
            Some(note) if self.notes.is_some() => {
                if let Some(notes) = &mut self.notes {
                    notes.leaving.insert(call, (name, job));
                }
                self.write_note(call.run, note, Some(Completion::Leave { call }), sink);
            }
            _ => self.calls_waiting.push_back((call, name, job)),
        }
    }

    /// The start of a call is durable.
    pub(super) fn left(&mut self, call: CallRef) {
        if let Some((name, job)) = self.notes.as_mut().and_then(|notes| notes.leaving.remove(&call)) {
            self.calls_waiting.push_back((call, name, job));
        }
    }

    /// A run has failed for good: the next start of the job is told, so that it does not fail over the same result.
    pub(super) fn note_failure<K>(&mut self, run: RunToken, sink: &mut K)
    where
        K: Sink<T, E::Item, B::Tagged>,
    {
        if self.notes.is_some()
            && let Some(active) = self.runs.get_mut(run)
            && let Some(note) = self.behavior.note_failure(&mut active.run)
        {
            self.write_note(run, note, None, sink);
        }
    }

    fn write_note<K>(&mut self, run: RunToken, note: RunNote, then: Option<Completion>, sink: &mut K)
    where
        K: Sink<T, E::Item, B::Tagged>,
    {
        let active = self.runs.get(run).expect("in flight");
        let (key, sequence, digest) = (active.head.key, active.head.sequence, active.digest);
        let epoch = self.at(&active.time).epoch();
        let (Some(notes), Some(seal)) = (&mut self.notes, &mut self.seal) else { return };
        let newest = self.states[key.index()].sequence;
        let begun = notes.begun.take(key, newest, |input| self.behavior.digest(input));
        let written = Written { sequence, digest, journal: note.journal, begun, body: note.body };
        let bytes = encoded(&written).unwrap_or_else(|e| panic!("a note cannot be encoded: {e}"));
        let (group, key) = seal.place(key);
        sink.note(group, epoch, key, bytes, then);
    }
}
