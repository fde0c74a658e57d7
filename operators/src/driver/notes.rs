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
use std::collections::{BTreeMap, VecDeque};

use foldhash::fast::FixedState;
use hashbrown::HashMap;
use serde::{Deserialize, Serialize};

use super::mailbox::Waiting;
use smallvec::SmallVec;

use super::begun::Begun;
use super::{Arrived, Driver, Emission, Sink, records};
use crate::behavior::{Begins, Behavior, CallJob, PastRun, Progress, RunHead, RunNote, Work, notification_digest};
use crate::completion::{CallRef, CallResult, Completion};
use crate::encoded::encoded;
use crate::fact::{KeyWriter, What};
use crate::hash::stable_hash;
use crate::journal::Written;
use crate::keys::KeyId;
use crate::slab::RunToken;
use crate::time::EpochTime;

const NOT_TAKEN: &str = "there is a journal of calls, which an agent without them cannot take over";

/// What notes of before a crash say of a key.
#[derive(Debug)]
struct Past<T, I> {
    /// Which input each run was about: number and digest, ascending by number.
    order: VecDeque<(u64, u64)>,
    /// Mostly there is one.
    journals: SmallVec<[Journal; 1]>,
    /// Inputs whose turn has not come, with their digests, as they arrived.
    parked: VecDeque<(u64, Arrived<T, I>)>,
    /// Whether there is a fact of journals, and whether that is of others.
    stored: bool,
    stale: bool,
}

/// What is known of a run that has not begun again, or that a checkpoint has in progress and which has not gone on.
#[derive(Debug)]
struct Journal {
    epoch: u64,
    sequence: u64,
    digest: u64,
    /// Whether a checkpoint has the run in progress.
    begun: bool,
    run: PastRun,
    /// Where each of its notes ends.
    ends: SmallVec<[u32; 4]>,
}

impl Journal {
    fn new(epoch: u64, sequence: u64, digest: u64, journal: u64) -> Self {
        let run = PastRun { journal, bodies: Vec::new() };
        Journal { epoch, sequence, digest, begun: false, run, ends: SmallVec::new() }
    }

    fn push(&mut self, body: &[u8]) {
        self.run.bodies.extend_from_slice(body);
        self.ends.push(u32::try_from(self.run.bodies.len()).expect("the notes of a run have less than 4 GiB"));
    }

    fn bodies(&self) -> impl Iterator<Item = &[u8]> {
        let begins = std::iter::once(0).chain(self.ends.iter().copied());
        begins.zip(&self.ends).map(|(from, to)| &self.run.bodies[from as usize..*to as usize])
    }
}

/// A [`Journal`] as a fact.
#[derive(Serialize, Deserialize)]
struct Stored<'b> {
    epoch: u64,
    sequence: u64,
    digest: u64,
    begun: bool,
    journal: u64,
    #[serde(borrow)]
    bodies: Vec<&'b [u8]>,
}

impl<'b> Stored<'b> {
    fn of(of: &'b Journal) -> Self {
        let Journal { epoch, sequence, digest, begun, run, .. } = of;
        let (epoch, sequence, digest, begun) = (*epoch, *sequence, *digest, *begun);
        Stored { epoch, sequence, digest, begun, journal: run.journal, bodies: of.bodies().collect() }
    }

    fn journal(&self) -> Journal {
        let mut journal = Journal::new(self.epoch, self.sequence, self.digest, self.journal);
        journal.begun = self.begun;
        self.bodies.iter().for_each(|body| journal.push(body));
        journal
    }
}

impl<T, I> Default for Past<T, I> {
    fn default() -> Self {
        Past { order: VecDeque::new(), journals: SmallVec::new(), parked: VecDeque::new(), stored: false, stale: false }
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
        self.order.is_empty() && self.parked.is_empty() && self.journals.is_empty() && !self.stored
    }

    /// Takes back journals from facts, after those of notes: some of them may be in both.
    fn take_back(&mut self, stored: SmallVec<[Journal; 1]>) {
        self.stored = true;
        let mut noted = std::mem::replace(&mut self.journals, stored);
        for journal in &mut self.journals {
            let Some(at) = noted.iter().position(|noted| noted.run.journal == journal.run.journal) else { continue };
            let noted = noted.swap_remove(at);
            journal.epoch = journal.epoch.max(noted.epoch);
            // The stored ones are all that were noted before the start that stored them. What came since is of later starts.
            for body in noted.bodies() {
                if journal.bodies().all(|stored| stored != body) {
                    journal.push(body);
                    self.stale = true;
                }
            }
        }
        self.stale |= !noted.is_empty();
        self.journals.append(&mut noted);
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
        let of_it = past.journals.iter().enumerate().filter(|(_, journal)| journal.digest == digest && !journal.begun);
        let first = of_it.min_by_key(|(_, journal)| journal.sequence).map(|(at, _)| at);
        let run = first.map(|at| past.journals.swap_remove(at).run);
        past.stale |= run.is_some();
        if past.is_over() {
            self.past.remove(&key);
        }
        run
    }
}

impl<T, I> Notes<T, I> {
    /// Writes what runs of the key will begin with, if there is work that they may be about.
    pub(super) fn facts(&mut self, key: KeyId, has_work: bool, facts: &mut KeyWriter) {
        let Some(past) = self.past.get_mut(&key) else { return };
        if past.journals.is_empty() {
            if std::mem::take(&mut past.stored) {
                facts.retire(&What::Notes);
            }
        } else if has_work && (past.stale || !past.stored) {
            let stored: Vec<Stored<'_>> = past.journals.iter().map(Stored::of).collect();
            facts.put(&What::Notes, &stored).unwrap_or_else(|e| panic!("notes cannot be encoded: {e}"));
            past.stored = true;
        } else {
            return;
        }
        past.stale = false;
        if past.is_over() {
            self.past.remove(&key);
        }
    }

    /// The key's run in progress goes on: what it does next is facts of its own.
    pub(super) fn goes_on(&mut self, key: KeyId) {
        let Some(past) = self.past.get_mut(&key) else { return };
        let before = past.journals.len();
        past.journals.retain(|journal| !journal.begun);
        past.stale |= past.journals.len() < before;
        if past.is_over() {
            self.past.remove(&key);
        }
    }

    /// Keys with journals that are no facts, in order.
    fn not_stored(&self) -> Vec<KeyId> {
        let not_stored = self.past.iter().filter(|(_, past)| !past.journals.is_empty() && (past.stale || !past.stored));
        let mut keys: Vec<KeyId> = not_stored.map(|(key, _)| *key).collect();
        keys.sort_unstable();
        keys
    }
}

impl<T: EpochTime, B: Behavior, E: Emission<B::Key, B::Output>> Driver<T, B, E> {
    /// An epoch is about to close, and its notes are let go of when it is committed: what is carried beyond it keeps its
    /// own as facts.
    pub(super) fn store_notes(&mut self) {
        let keys = self.notes.as_ref().map(|notes| notes.not_stored()).unwrap_or_default();
        for key in keys {
            let Some(mailbox) = &self.states[key.index()].mailbox else { continue };
            let run = mailbox.run.and_then(|run| self.runs.get(run)).map(|active| &active.time);
            let Some(time) = run.or_else(|| mailbox.waiting.front().map(Waiting::time)) else { continue };
            let at = self.at(time);
            self.before_change(key, &at);
            self.changed(key, &at);
        }
    }

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
            return Err(format!("key {key:?}: {NOT_TAKEN}"));
        };
        let past = notes.past.entry(id).or_default();
        for (sequence, digest) in begun {
            past.begun(sequence, digest);
        }
        match past.journals.iter_mut().find(|known| known.run.journal == journal) {
            Some(known) => {
                (known.epoch, known.sequence) = (known.epoch.max(epoch), sequence);
                known.push(&body);
            }
            None => {
                // Of a run that began again, what it was before does not count.
                past.journals.retain(|known| (known.sequence, known.digest) != (sequence, digest));
                let mut new = Journal::new(epoch, sequence, digest, journal);
                new.push(&body);
                past.journals.push(new);
            }
        }
        Ok(())
    }

    /// Facts and notes are there: what of the notes is over is left out, and runs in progress get theirs.
    ///
    /// # Errors
    /// What does not fit this program.
    pub(super) fn restored_notes(&mut self, stored: BTreeMap<KeyId, Vec<u8>>) -> Result<(), String> {
        let Driver { notes, states, runs, behavior, .. } = self;
        let Some(notes) = notes else {
            return if stored.is_empty() { Ok(()) } else { Err(NOT_TAKEN.into()) };
        };
        let mut kept: HashMap<KeyId, Vec<u64>, FixedState> = HashMap::default();
        for (key, bytes) in stored {
            let stored: Vec<Stored<'_>> =
                postcard::from_bytes(&bytes).map_err(|error| format!("notes of a key: {error}"))?;
            kept.insert(key, stored.iter().map(|stored| stored.journal).collect());
            let journals = stored.iter().map(Stored::journal).collect();
            notes.past.entry(key).or_default().take_back(journals);
        }
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
                let (sequence, digest) = (active.head.sequence, active.digest);
                let its = |journal: &Journal| journal.sequence == sequence && journal.digest == digest;
                if let Some(at) = past.journals.iter().position(its) {
                    let journal = &mut past.journals[at];
                    journal.begun = true;
                    let given = behavior.restore_notes(&active.head, &mut active.run, &journal.run);
                    taken = std::mem::replace(&mut taken, Ok(())).and(given);
                }
            }
            let kept = kept.get(key).map_or(&[][..], Vec::as_slice);
            let is_kept = |journal: &Journal| journal.begun || kept.contains(&journal.run.journal);
            past.journals.retain(|journal| journal.sequence > state.sequence || is_kept(journal));
            !past.is_over()
        });
        taken
    }

    /// All epochs before `frontier` are committed.
    pub fn committed(&mut self, frontier: u64) {
        let Driver { notes, states, carried, stats, .. } = self;
        let Some(notes) = notes else { return };
        if frontier <= notes.committed {
            return;
        }
        notes.committed = frontier;
        notes.begun.committed(frontier);
        notes.past.retain(|key, past| {
            // What is carried beyond its epoch may yet begin with one.
            let works = carried.is_some() && states[key.index()].mailbox.is_some();
            let before = past.journals.len();
            past.journals.retain(|journal| works || journal.epoch >= frontier);
            past.stale |= past.journals.len() < before;
            stats.orphans += (before - past.journals.len()) as u64;
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
        let record = note.record.map(|body| records::encoded(sequence, &active.time, body));
        let (Some(notes), Some(seal)) = (&mut self.notes, &mut self.seal) else { return };
        let newest = self.states[key.index()].sequence;
        let begun = notes.begun.take(key, newest, |input| self.behavior.digest(input));
        let written = Written { sequence, digest, journal: note.journal, begun, body: note.body };
        let bytes = encoded(&written).unwrap_or_else(|e| panic!("a note cannot be encoded: {e}"));
        let (group, key) = seal.place(key);
        if let Some(record) = record {
            sink.record(group, epoch, key.clone(), record, None);
        }
        sink.note(group, epoch, key, bytes, then);
    }
}
