//! The journal of one run, for people: what its tasks did, turn by turn, as far as it is still known.
//!
//! ```text
//! notes ────────────────┐
//! newest checkpoint ── run, entries ──▶ happenings in order ──▶ tasks ── attempts ── waits ──▶ text, JSON
//! ```
//! A run that an agent carries is in the checkpoint until it is over; what came after the checkpoint is in notes, and all
//! that is known of runs that are over.
//!
//! # Invariants
//! - Nothing is changed, and a job may be at work: notes are read before the checkpoint, so what is let go of meanwhile is
//!   in the checkpoint.
//! - What is not known is not made up: it is left out, or said to be missing.

mod happened;
mod results;
mod text;
mod tree;

use std::collections::{BTreeMap, BTreeSet};

use serde::Serialize;
use serde_json::Value;
use timely_agents_operators::checkpoint::{self, CheckpointStore, ComponentKind, Stored};
use timely_agents_operators::cluster::Failure;
use timely_agents_operators::fact::What;
use timely_agents_operators::journal::{Note as StoredNote, RUNS, RunRecord, Written};

use self::happened::{Happenings, of_entries, of_notes};
pub use self::tree::{ActionVersion, Attempt, Dropped, Event, Step, Task, Try, Wait};
use super::formats::Formats;
use super::unfinished;
use super::{Selection, holding, list};
use crate::journal::Beginning;
use crate::notes::Body;
use crate::record::{About, Change, Record, RunEnd};

/// Notes as they lie in a directory.
#[derive(Debug, Default)]
pub struct StoredNotes(Vec<StoredNote>);

impl StoredNotes {
    /// Reads all that are there. It comes before the checkpoint is looked for.
    ///
    /// # Errors
    /// The store cannot be read.
    pub fn read(store: &dyn CheckpointStore) -> Result<Self, Failure> {
        let mut notes = Vec::new();
        checkpoint::notes(store, &mut |note| notes.push(note))?;
        Ok(StoredNotes(notes))
    }

    pub(super) fn all(&self) -> impl Iterator<Item = &StoredNote> {
        self.0.iter()
    }

    /// Those of a key.
    pub(super) fn of(&self, component: u32, key: &[u8]) -> Vec<StoredNote> {
        self.0.iter().filter(|note| note.component == component && note.key == key).cloned().collect()
    }
}

/// What is known of a run; it is shown by being displayed or serialized.
#[derive(Clone, Debug, Serialize)]
pub struct RunJournal {
    /// The agent.
    pub agent: String,
    /// The key, as it shows.
    pub key: Value,
    /// The run's number among those of its key, from 1.
    pub sequence: u64,
    /// How many runs of the key the checkpoint has.
    pub runs: u64,
    /// What has become of it.
    pub state: State,
    /// The epoch of its last note, or of the checkpoint.
    pub epoch: Option<u64>,
    /// The time of its input, where the checkpoint or a record has it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub time: Option<Value>,
    /// Its input, where the checkpoint or a record has it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub input: Option<Value>,
    /// The digest of its input, by which notes know it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub digest: Option<String>,
    /// What its notes are known by.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub journal: Option<String>,
    /// What the input gives for its identity.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub identity: Option<u64>,
    /// The end of an epoch that the run is about, instead of an input.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub notifying: Option<u64>,
    /// The clock when it began: microseconds since 1970.
    pub began: Option<u64>,
    /// How many of the notes that are there are of this run.
    pub notes: usize,
    /// Turns that it took, of which nothing is known any more.
    #[serde(skip_serializing_if = "is_zero")]
    pub missing_turns: u64,
    /// Actions that have taken a turn, with the versions of their code; of runs in a checkpoint.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub actions: Vec<ActionVersion>,
    /// What it wrote before it first waited; of runs in a checkpoint.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub writes: Option<Value>,
    /// Its tasks, in the order in which they started; those that another caused are with that.
    pub tasks: Vec<Task>,
    /// What it put out, where the agent keeps that; of runs that are over and recorded.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub outputs: Vec<Value>,
    /// The same of side outputs, by their names.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub sides: BTreeMap<String, Vec<Value>>,
    /// What of its key's memory it changed; of runs that are over and recorded.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub changes: Vec<Changed>,
    /// Why it did not end as runs do; of runs that are over and recorded.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub end: Option<String>,
    /// Where the program left the journal, and what was dropped then.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub divergences: Vec<Dropped>,
    /// Other runs of the key of which something is known.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub others: Vec<u64>,
}

/// A place in memory that a run has changed.
#[derive(Clone, Debug, Serialize)]
pub struct Changed {
    /// The slot's name, or the path.
    pub place: String,
    /// What it held; null for nothing.
    pub before: Value,
    /// What it held then.
    pub after: Value,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde calls it")]
fn is_zero(n: &u64) -> bool {
    *n == 0
}

/// What has become of a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum State {
    /// It is in the checkpoint, and not over there.
    Unfinished,
    /// It began after the checkpoint, or ended after it.
    NotCommitted,
    /// It is over, and committed.
    Over,
}

/// The notes of one run.
#[derive(Debug, Default)]
struct OfRun {
    sequence: u64,
    digest: u64,
    epoch: u64,
    count: usize,
    bodies: Vec<Body>,
}

/// What notes say of a key.
#[derive(Debug, Default)]
struct OfKey {
    runs: BTreeMap<u64, OfRun>,
    /// The digests of inputs, by the numbers of their runs.
    begun: BTreeMap<u64, u64>,
    /// In which order journals were first seen.
    order: Vec<u64>,
}

impl RunJournal {
    /// Reads what is known of a run: that of number `sequence`, or else the newest of which something is known.
    ///
    /// # Errors
    /// There is no such agent, key or run, or nothing is known of it any more; the checkpoint is damaged, or was removed
    /// meanwhile.
    pub fn read(
        store: &dyn CheckpointStore,
        notes: &StoredNotes,
        stored: &Stored,
        (agent, key): (&str, &str),
        sequence: Option<u64>,
    ) -> Result<Self, Failure> {
        let agents: Vec<_> =
            stored.manifest.components.iter().filter(|component| component.kind == ComponentKind::Agent).collect();
        let Some(component) = agents.iter().find(|component| component.name == agent) else {
            let names: Vec<&str> = agents.iter().map(|component| &*component.name).collect();
            return Err(Failure::data(format!("there is no agent {agent:?}; there are: {}", list(&names))));
        };
        let formats = Formats::of(component);
        let asked = Selection { component: None, key: Some(key.to_owned()) };
        let shown = |bytes: &[u8]| Some(formats.key(bytes)).filter(|shown| asked.has(shown));
        let mut facts = holding(store, stored, component.number, shown)?;
        let mut of_key = OfKey::default();
        let mut name = None;
        let mut records: BTreeMap<u64, RunRecord> = BTreeMap::new();
        for note in notes.0.iter().filter(|note| note.component == RUNS + component.number) {
            if shown(&note.key).is_some() {
                let record: RunRecord = postcard::from_bytes(&note.bytes)
                    .map_err(|error| Failure::data(format!("a record of a run cannot be read: {error}")))?;
                records.insert(record.sequence, record);
            }
        }
        for note in notes.0.iter().filter(|note| note.component == component.number) {
            if let Some(shown) = shown(&note.key) {
                name = Some(shown);
                of_key.take(note).map_err(Failure::data)?;
            }
        }
        let facts = if facts.is_empty() { None } else { Some(facts.swap_remove(0)) };
        let (name, facts) = match (facts, name) {
            (Some((name, facts)), _) => (name, facts),
            (None, Some(name)) => (name, BTreeMap::new()),
            (None, None) => {
                return Err(Failure::data(format!("there is no key {key} of {agent:?}; keys are named as they show")));
            }
        };
        let runs = facts.get(&What::Sequence).and_then(|bytes| postcard::from_bytes(bytes).ok()).unwrap_or(0);
        let unfinished = facts.get(&What::Run).map(|_| runs);
        let mut known: BTreeSet<u64> = of_key.runs.values().map(|run| run.sequence).collect();
        known.extend(unfinished);
        // Of what is not committed there may be records, too: of how a run has begun, or of a start that was lost.
        let behind = records.extract_if(.., |sequence, _| *sequence > runs).map(|(_, record)| record).collect();
        records.retain(|sequence, _| unfinished != Some(*sequence));
        known.extend(records.keys());
        let Some(sequence) = sequence.or_else(|| unfinished.or(known.last().copied())) else {
            return Err(Failure::data(format!(
                "no run of key {key} of {agent:?} has a journal; it has had {runs} runs. Runs that made no call have none, and \
                 journals go with the commit of their epochs unless --retain-journals keeps them"
            )));
        };
        if !known.contains(&sequence) {
            return Err(Failure::data(of_key.none(sequence, runs, &known, &format!("key {key} of {agent:?}"))));
        }
        known.remove(&sequence);
        let carried = facts.get(&What::Run).filter(|_| unfinished == Some(sequence));
        let timed = carried.map(|bytes| formats.timed(bytes));
        if let Some(None) = timed {
            return Err(Failure::data(format!(
                "run {sequence} of key {key} is of an older version of this library, which did not say what times are; \
                 `checkpoint show` shows its bytes"
            )));
        }
        let (time, beginning) = timed.flatten().unzip();
        let beginning: Option<Beginning> = match beginning {
            None => None,
            Some(bytes) => Some(postcard::from_bytes(&bytes).map_err(|error| {
                Failure::data(format!("the journal of run {sequence} of key {key} cannot be read: {error}"))
            })?),
        };
        // An order that came out otherwise after a crash gives a number to another run: the last one counts.
        let id = beginning.as_ref().and_then(|beginning| beginning.journal).filter(|id| of_key.runs.contains_key(id));
        let of_it = |id: &&u64| of_key.runs.get(*id).is_some_and(|run| run.sequence == sequence);
        let id = id.or_else(|| of_key.order.iter().rev().find(of_it).copied().filter(|_| beginning.is_none()));
        let of_run = id.and_then(|id| of_key.runs.remove(&id));
        let recorded = match records.remove(&sequence) {
            Some(RunRecord { time, body, .. }) => {
                let body: Record = postcard::from_bytes(&body).map_err(|error| {
                    Failure::data(format!("the record of run {sequence} of key {key} cannot be read: {error}"))
                })?;
                Some((formats.time(&time), body))
            }
            None => None,
        };

        let entries: Vec<&[u8]> = if carried.is_some() {
            let entries = facts.iter().filter(|(what, _)| matches!(what, What::Entry(_)));
            entries.map(|(_, bytes)| bytes.as_slice()).collect()
        } else {
            Vec::new()
        };
        let mut happenings = Happenings::default();
        of_entries(&entries, &mut happenings).map_err(Failure::data)?;
        let began = of_run.as_ref().and_then(|run| run.bodies.first()).map(|body| body.began);
        let (notes, digest, epoch) = match &of_run {
            Some(run) => (run.count, Some(run.digest), Some(run.epoch)),
            None => (0, None, stored.last_epoch()),
        };
        let bodies = match (&recorded, of_run) {
            // It has all of them.
            (Some((_, Record { began, script, .. })), _) => {
                vec![Body { start: 0, began: *began, from: 0, notes: script.clone() }]
            }
            (None, Some(run)) => run.bodies,
            (None, None) => Vec::new(),
        };
        of_notes(bodies, &mut happenings);
        let state = match unfinished {
            Some(unfinished) if unfinished == sequence => State::Unfinished,
            _ if sequence <= runs => State::Over,
            _ => State::NotCommitted,
        };
        let digest = digest.or_else(|| of_key.begun.get(&sequence).copied());
        let began = began.or_else(|| recorded.as_ref().map(|(_, run)| run.began)).or_else(|| happenings.first_turn());
        let missing_turns = happenings.missing;
        let tree::Grown { tasks, actions, dropped } = tree::grow(happenings, &formats, state == State::Over);
        let identity = beginning.as_ref().and_then(|beginning| beginning.identity);
        let notifying = beginning.as_ref().and_then(|beginning| beginning.notifying);
        let input = beginning.as_ref().and_then(|beginning| beginning.input.as_ref()).map(|bytes| formats.input(bytes));
        let mut journal = id;
        let (mut time, mut input, mut notifying) = (time, input, notifying);
        if let Some((at, about)) = begun(behind, sequence, journal) {
            time = Some(formats.time(&at));
            match about {
                About::Input(bytes) => input = Some(formats.input(&bytes)),
                About::Notification(epoch) => notifying = Some(epoch),
                About::Scheduled(_) => {}
            }
        }
        let (mut outputs, mut sides, mut changes, mut end) = (Vec::new(), BTreeMap::new(), Vec::new(), None);
        if let Some((at, run)) = recorded {
            time = Some(at);
            match run.about {
                About::Input(bytes) => input = Some(formats.input(&bytes)),
                About::Notification(epoch) => notifying = Some(epoch),
                About::Scheduled(_) => {}
            }
            journal = journal.or(run.journal);
            let shown = |text: &String| serde_json::from_str(text).unwrap_or(Value::Null);
            outputs = run.puts.outputs.iter().flatten().map(shown).collect();
            let kept = |values: &Vec<Option<String>>| -> Vec<Value> { values.iter().flatten().map(shown).collect() };
            sides = run.puts.sides.iter().map(|(name, values)| (name.clone(), kept(values))).collect();
            sides.retain(|_, values: &mut Vec<Value>| !values.is_empty());
            changes = run.changes.iter().map(|change| changed(&formats, change)).collect();
            end = match run.end {
                RunEnd::Done => None,
                RunEnd::Dead(why) => Some(format!("dead letter: {why}")),
                RunEnd::Cut(why) => Some(format!("cut short: {why}")),
                RunEnd::NotBegun(why) => Some(format!("not begun: {why}")),
                RunEnd::Begun => Some("it has only begun".to_owned()),
            };
        }
        let writes = beginning.map(|beginning| unfinished::writes(&formats, beginning.writes));
        Ok(RunJournal {
            agent: agent.to_owned(),
            key: name,
            sequence,
            runs,
            state,
            epoch,
            time,
            input,
            digest: digest.map(|digest| format!("{digest:016x}")),
            journal: journal.map(|id| format!("{id:016x}")),
            identity,
            notifying,
            began,
            notes,
            missing_turns,
            actions,
            writes: writes.filter(|writes| writes.as_object().is_some_and(|writes| !writes.is_empty())),
            tasks,
            outputs,
            sides,
            changes,
            end,
            divergences: dropped,
            others: known.into_iter().collect(),
        })
    }
}

/// What a run is about that is not committed, and when, if it is recorded of the one with that journal.
fn begun(behind: Vec<RunRecord>, sequence: u64, journal: Option<u64>) -> Option<(Vec<u8>, About)> {
    let record = behind.into_iter().find(|record| record.sequence == sequence)?;
    let body: Record = postcard::from_bytes(&record.body).ok()?;
    (journal.is_some() && body.journal == journal).then_some((record.time, body.about))
}

fn changed(formats: &Formats, change: &Change) -> Changed {
    let (place, before) = formats.place(&change.what, change.before.as_deref());
    let (_, after) = formats.place(&change.what, change.after.as_deref());
    Changed { place, before, after }
}

impl OfKey {
    fn take(&mut self, note: &StoredNote) -> Result<(), String> {
        let wrong = |error: postcard::Error| format!("a note of a run cannot be read: {error}");
        let Written { sequence, digest, journal, begun, body } = postcard::from_bytes(&note.bytes).map_err(wrong)?;
        self.begun.extend(begun);
        if !self.runs.contains_key(&journal) {
            self.order.push(journal);
        }
        let run = self.runs.entry(journal).or_default();
        (run.sequence, run.digest) = (sequence, digest);
        run.epoch = run.epoch.max(note.epoch);
        run.count += 1;
        run.bodies.push(postcard::from_bytes(&body).map_err(wrong)?);
        Ok(())
    }

    /// Why nothing is known of a run.
    fn none(&self, sequence: u64, runs: u64, known: &BTreeSet<u64>, of: &str) -> String {
        let known: Vec<String> = known.iter().map(u64::to_string).collect();
        let known = if known.is_empty() { "of none".to_owned() } else { format!("of {}", known.join(", ")) };
        if let Some(digest) = self.begun.get(&sequence) {
            return format!(
                "run {sequence} of {of} has no journal: it noted no call; the digest of its input is {digest:016x}. There are \
                 journals {known}"
            );
        }
        if sequence == 0 || sequence > runs {
            return format!("{of} has no run {sequence}: it has had {runs} runs. There are journals {known}");
        }
        format!(
            "run {sequence} of {of} is over, and has no journal any more, if it had one: they go with the commit of their \
             epochs unless --retain-journals keeps them. There are journals {known}"
        )
    }
}
