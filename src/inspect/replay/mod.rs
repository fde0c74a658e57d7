//! Runs against the program at hand: what it would have done in their place, without asking anybody anything.
//!
//! ```text
//! newest checkpoint ── a key's unfinished run, with notes behind it ──┐
//! records of runs that are over ── memory that they found ────────────┴▶ the plan, in a harness of its own ──▶ differences
//! ```
//! A run goes the way of its journal: who takes the next turn, the clock and the ends of waits are what they were. Where it
//! asks for something else it goes on by itself, up to its first call whose end is not known.
//!
//! # Invariants
//! - No call is made: those whose ends are not in the journal are named, and left. Nothing is changed.
//! - One run does not see another: each has a harness with the facts and notes of its key alone.

mod difference;
mod over;
mod puts;
mod unfinished;

use std::collections::BTreeMap;
use std::fmt::{self, Display, Formatter};

use serde::{Deserialize, Serialize};
use serde_json::Value;
use timely_agents_operators::checkpoint::{
    Catalogue, CheckpointStore, Component, ComponentKind, Error, Manifest, Shape, Stored,
};
use timely_agents_operators::cluster::Failure;
use timely_agents_operators::fact::What;
use timely_agents_operators::journal::{RUNS, RunRecord};
use timely_agents_operators::keys::Key;
use timely_agents_operators::time::EpochTime;

pub use self::difference::Difference;
use super::description::Description;
use super::formats::Formats;
use super::run::{State, StoredNotes};
use super::{Selection, list, order};
use crate::agent::Input;
use crate::call::{ToldResult, place_of};
use crate::format::Format;
use crate::journal::{Entry, holding};
use crate::plan::Plan;

/// What a call has given, as its program knows it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct CallResult {
    /// The task's place in the run, as a [`Task`](super::Task) has it.
    pub task: String,
    /// The attempt of the task, from 1.
    pub task_attempt: u32,
    /// The call's place among the waits of its task.
    pub wait: u32,
    /// The attempt of the call, from 1.
    pub attempt: u32,
    /// What it gave.
    pub value: Value,
}

impl CallResult {
    fn of(told: ToldResult) -> Self {
        let ToldResult { task, ordinal, value } = told;
        let (wait, number) = place_of(ordinal);
        CallResult {
            task: format!("{:016x}", task.path),
            task_attempt: task.attempt,
            wait,
            attempt: number / 2 + 1,
            value: serde_json::from_str(&value).unwrap_or(Value::Null),
        }
    }
}

/// A run, done again.
#[derive(Clone, Debug, Serialize)]
pub struct Replayed {
    /// The agent.
    pub agent: String,
    /// The key, as it shows.
    pub key: Value,
    /// The run's number among those of its key.
    pub sequence: u64,
    /// What had become of it: unfinished or over.
    pub state: State,
    /// Where it is not what it was.
    pub differences: Vec<Difference>,
    /// Calls that it asks for where its journal ends: a job would make them, or wait for them.
    pub calls: Vec<String>,
    /// How many outputs it makes before such calls; of an unfinished run, behind its journal.
    pub outputs: usize,
    /// Whether it is over then.
    pub over: bool,
    /// What its calls gave, as far as it has asked for it.
    pub results: Vec<CallResult>,
}

impl Replayed {
    /// Whether it is what it was.
    pub fn is_same(&self) -> bool {
        self.differences.is_empty()
    }
}

impl Display for Replayed {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let Replayed { agent, key, sequence, state, differences, calls, outputs, over, .. } = self;
        write!(f, "agent {agent}, key {key}, run {sequence}: ")?;
        f.write_str(if differences.is_empty() { "same" } else { "DIFFERS" })?;
        let unfinished = *state == State::Unfinished;
        if !calls.is_empty() {
            let calls: Vec<String> = calls.iter().map(|name| format!("{name:?}")).collect();
            write!(f, ", goes on with call {}", calls.join(", "))?;
        } else if !over && differences.is_empty() {
            f.write_str(if unfinished { ", waits" } else { ", and was cut short there" })?;
        } else if unfinished && differences.is_empty() {
            f.write_str(", ends without another call")?;
        }
        if unfinished && *outputs > 0 {
            write!(f, ", puts out {outputs} more")?;
        }
        differences.iter().try_for_each(|difference| write!(f, "\n    {difference}"))
    }
}

/// Checkpoints that may be removed, one after the other, while they are read.
const TRIES: usize = 10;

/// What a checkpoint keeps of a key, by what it is, with its group.
type Facts = BTreeMap<What, (u32, Vec<u8>)>;

/// What is the same for all runs of an agent.
struct Agent<'a, I: 'static, O: 'static> {
    plan: &'a Plan<I, O>,
    /// The name of its job.
    job: &'a str,
    formats: Formats,
}

/// Does runs of `plan`'s agent again: those that are unfinished in the newest checkpoint, with the notes behind it, and those
/// that are over and were recorded (`Checkpoints::retain_journals`); of all keys, or of one as it shows; all runs of
/// it, or the one of a number. `T` is the type of the dataflow's times and `K` that of the keys, as in the job.
///
/// Unfinished runs are those of agents that carry; inputs that wait do not begin, and what such a run put out before its journal
/// ends is not compared. Of runs that are over all is: calls, outputs (their values, where the agent keeps them:
/// [`Agent::retain_outputs`](crate::Agent::retain_outputs), [`Agent::retain_side`](crate::Agent::retain_side); otherwise their
/// numbers), memory, and how they end.
/// The agent's `on_open` is called for each run.
///
/// # Errors
/// There is no such agent, key or run, or no checkpoint; the plan or the types are others than the checkpoint's.
pub fn replay<T: EpochTime, K: Key, I: Input, O: 'static>(
    plan: &Plan<I, O>,
    store: &dyn CheckpointStore,
    key: Option<&str>,
    sequence: Option<u64>,
) -> Result<Vec<Replayed>, Failure> {
    let mut tries = 0;
    loop {
        // Before the checkpoint, so that what is let go of meanwhile is in it.
        let notes = StoredNotes::read(store)?;
        let catalogue = Catalogue::read(store)?;
        let stored = catalogue.newest()?;
        let stored = stored.ok_or_else(|| Failure::data(format!("{} has no checkpoint yet", store.describe(""))))?;
        tries += 1;
        match replay_of::<T, K, I, O>(plan, store, (&notes, stored), key, sequence) {
            // The job has gone on and removed it: there are newer ones.
            Err(_) if tries < TRIES && !stored.is_there(store)? => {}
            replayed => return replayed,
        }
    }
}

fn replay_of<T: EpochTime, K: Key, I: Input, O: 'static>(
    plan: &Plan<I, O>,
    store: &dyn CheckpointStore,
    (notes, stored): (&StoredNotes, &Stored),
    key: Option<&str>,
    sequence: Option<u64>,
) -> Result<Vec<Replayed>, Failure> {
    let now = plan.component::<T, K>();
    let agents = stored.manifest.components.iter().filter(|component| component.kind == ComponentKind::Agent);
    let Some(component) = agents.clone().find(|component| component.name == now.name) else {
        let names: Vec<&str> = agents.map(|component| &*component.name).collect();
        return Err(Failure::data(format!("the checkpoint has no agent {:?}; it has: {}", now.name, list(&names))));
    };
    fits::<T>(&stored.manifest, component, now)?;
    let agent = Agent { plan, job: &stored.manifest.job, formats: Formats::of(component) };
    let asked = Selection { component: None, key: key.map(str::to_owned) };
    let mut keys: BTreeMap<Vec<u8>, Facts> = BTreeMap::new();
    stored.facts(store, component.number, &mut |fact| {
        let facts = keys.entry(fact.key.to_vec()).or_default();
        match fact.value {
            Some(value) => drop(facts.insert(fact.what, (fact.group, value.to_vec()))),
            None => drop(facts.remove(&fact.what)),
        }
    })?;
    keys.retain(|key, facts| !facts.is_empty() && asked.has(&agent.formats.key(key)));
    if keys.is_empty()
        && let Some(key) = key
    {
        return Err(Failure::data(format!("there is no key {key} of {:?}; keys are named as they show", plan.name())));
    }
    // Behind the checkpoint: the records of all that is committed in it are durable.
    let mut records = records(&StoredNotes::read(store)?, component.number)?;
    let mut replayed = Vec::new();
    for (key, facts) in &keys {
        let shown = agent.formats.key(key);
        let of_key = records.remove(key).unwrap_or_default();
        let wrong = |error: postcard::Error| Failure::data(format!("key {shown}: {error}"));
        let last: u64 = match facts.get(&What::Sequence) {
            Some((_, number)) => postcard::from_bytes(number).map_err(wrong)?,
            None => 0,
        };
        let wanted = |number: u64| sequence.is_none_or(|sequence| sequence == number);
        let unfinished = facts.contains_key(&What::Run);
        if unfinished
            && wanted(last)
            && let Some(resume) = stored.manifest.frontier
        {
            let of_key = notes.of(component.number, key);
            replayed.push(unfinished::one::<T, K, I, O>(&agent, shown.clone(), last, (key, facts), resume, &of_key)?);
        }
        let over = if unfinished { last.saturating_sub(1) } else { last };
        let Some(mut memory) = memory_between_runs(facts) else { continue };
        // From the last to the first: what each has changed is taken back.
        for number in (1..=over).rev() {
            let Some(record) = of_key.get(&number) else { break };
            let (time, body) = over::read::<T>(record).map_err(wrong)?;
            if !over::take_back(&body, &mut memory) {
                break;
            }
            if wanted(number) {
                let run = over::Over { sequence: number, time, body, found: &memory };
                replayed.push(run.again::<K, I, O>(&agent, key, &shown)?);
            }
        }
    }
    if let Some(sequence) = sequence.filter(|_| replayed.is_empty()) {
        return Err(Failure::data(format!(
            "no run {sequence} of {:?} is unfinished, or over and recorded: runs are recorded with --retain-journals, and as \
             long as all later runs of their key are",
            plan.name()
        )));
    }
    replayed.sort_by(|a, b| order(&a.key, &b.key).then(a.sequence.cmp(&b.sequence)));
    Ok(replayed)
}

/// The records of runs, by key and number. Of several of one run the last counts: those before it were not committed.
fn records(notes: &StoredNotes, component: u32) -> Result<BTreeMap<Vec<u8>, BTreeMap<u64, RunRecord>>, Failure> {
    let mut records: BTreeMap<Vec<u8>, BTreeMap<u64, RunRecord>> = BTreeMap::new();
    for note in notes.all().filter(|note| note.component == RUNS + component) {
        let record: RunRecord = postcard::from_bytes(&note.bytes)
            .map_err(|error| Failure::data(format!("a record of a run cannot be read: {error}")))?;
        records.entry(note.key.clone()).or_default().insert(record.sequence, record);
    }
    Ok(records)
}

/// What a key remembers after its last run that is over, if that is known.
fn memory_between_runs(facts: &Facts) -> Option<BTreeMap<What, Vec<u8>>> {
    if facts.contains_key(&What::Run) {
        let entries = facts.iter().filter(|(what, _)| matches!(what, What::Entry(_)));
        let entries = entries.filter_map(|(_, (_, bytes))| postcard::from_bytes::<Entry>(bytes).ok());
        let entries = holding(entries);
        for entry in entries {
            match entry {
                Entry::Kept(keeping) => return Some(keeping.found),
                // What it has flushed is among the facts.
                Entry::Step { over: false, .. } => return None,
                _ => {}
            }
        }
    }
    let memory = facts.iter().filter(|(what, _)| matches!(what, What::Slot(_) | What::Path(_)));
    Some(memory.map(|(what, (_, bytes))| (what.clone(), bytes.clone())).collect())
}

/// Whether what is stored is read as what it was written as.
fn fits<T: EpochTime>(manifest: &Manifest, stored: &Component, now: Component) -> Result<(), Failure> {
    let time = Description::decode(&stored.description).map(|description| description.time);
    if time.is_some_and(|time| time != Format::of::<T>()) {
        return Err(Failure::data("times are of another type than in the checkpoint"));
    }
    let mut only = manifest.clone();
    only.components = vec![stored.clone()];
    only.sources.clear();
    only.sinks.clear();
    let differences = only.differences(&Shape { groups: manifest.groups, components: vec![now], ..Shape::default() });
    if differences.is_empty() { Ok(()) } else { Err(Error::Differs(differences).into()) }
}
