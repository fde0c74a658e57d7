//! Runs against the program at hand: what it would have done in their place, without asking anybody anything.
//!
//! ```text
//! newest checkpoint ── a key's unfinished run, with notes behind it ──┐
//! records of what began behind it, with notes ─────────────────────────┼▶ the plan, in a harness of its own ──▶ differences
//! records of runs that are over ── memory that they found ────────────┘
//! ```
//! A run goes the way of its journal: who takes the next turn, the clock and the ends of waits are what they were. Where it
//! asks for something else it goes on by itself, up to its first call whose end is not known.
//!
//! # Invariants
//! - No call is made: those whose ends are not in the journal are named, and left. Nothing is changed.
//! - One run does not see another: each has a harness with the facts and notes of its key alone.
//! - A run that has a journal behind the checkpoint and cannot be done again is named.

mod again;
mod begun;
mod difference;
mod over;
mod puts;
mod replayed;
mod steps;
mod told;
mod unfinished;

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;
use timely_agents_operators::checkpoint::{
    Catalogue, CheckpointStore, Component, ComponentKind, Error, Manifest, Shape, Stored,
};
use timely_agents_operators::cluster::Failure;
use timely_agents_operators::fact::What;
use timely_agents_operators::keys::Key;
use timely_agents_operators::time::EpochTime;

use self::again::Memory;
pub use self::difference::Difference;
pub use self::replayed::{CallResult, NotReplayed, Replay, Replayed, Unknown};
use self::told::OfKey;
use super::description::Description;
use super::formats::Formats;
use super::run::{State, StoredNotes};
use super::{Selection, list, order};
use crate::agent::Input;
use crate::format::Format;
use crate::plan::Plan;

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

/// Does runs of `plan`'s agent again: those that are unfinished in the newest checkpoint, with the notes behind it; those
/// that have begun behind it; and those that are over and were recorded
/// (`Checkpoints::retain_journals`); of all keys, or of one as it shows; all runs of it, or the one of a number. `T` is the type
/// of the dataflow's times and `K` that of the keys, as in the job.
///
/// - A run that is over is compared as a whole: calls, outputs (their values, where the agent keeps them:
///   [`Agent::retain_outputs`](crate::Agent::retain_outputs), [`Agent::retain_side`](crate::Agent::retain_side); otherwise
///   their numbers), memory, and how it ends.
/// - A run that is unfinished in the checkpoint, which are those of agents that carry, is compared up to where its journal ends:
///   calls, what its finished steps wrote and sent and, where journals are retained, outputs.
/// - A run that is not over and has begun behind the checkpoint, as all of agents that hold have, is compared by its calls:
///   nothing else is durable of it. What it is about is recorded where journals are retained; those of which that is not known are
///   in [`Replay::not_replayed`].
///
/// Inputs that wait do not begin. The agent's `on_open` is called for each run, and for an unfinished one twice.
///
/// # Errors
/// There is no such agent, key or run, or no checkpoint; the plan or the types are others than the checkpoint's.
pub fn replay<T: EpochTime, K: Key, I: Input, O: 'static>(
    plan: &Plan<I, O>,
    store: &dyn CheckpointStore,
    key: Option<&str>,
    sequence: Option<u64>,
) -> Result<Replay, Failure> {
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
) -> Result<Replay, Failure> {
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
    keys.retain(|_, facts| !facts.is_empty());
    let wanted = |key: &[u8]| asked.has(&agent.formats.key(key));
    keys.retain(|key, _| wanted(key));
    let mut begun = told::told(notes, component.number, stored.manifest.frontier, wanted)?;
    // Behind the checkpoint: the records of all that is committed in it are durable.
    let mut records = told::told(&StoredNotes::read(store)?, component.number, None, wanted)?;
    let mut replayed = Replay::default();
    let all: BTreeSet<Vec<u8>> = keys.keys().chain(begun.keys()).cloned().collect();
    if all.is_empty()
        && let Some(key) = key
    {
        return Err(Failure::data(format!("there is no key {key} of {:?}; keys are named as they show", plan.name())));
    }
    for key in all {
        let of_key = KeyRuns {
            shown: agent.formats.key(&key),
            facts: keys.remove(&key).unwrap_or_default(),
            begun: begun.remove(&key).unwrap_or_default(),
            over: records.remove(&key).unwrap_or_default(),
            key,
        };
        of_key.replay::<T, K, I, O>(
            &agent,
            (notes, component.number),
            stored.manifest.frontier,
            sequence,
            &mut replayed,
        )?;
    }
    if let Some(sequence) = sequence.filter(|_| replayed.runs.is_empty()) {
        let why = replayed.not_replayed.first().map(|run| format!("run {sequence}: {}", run.not_replayed));
        return Err(Failure::data(why.unwrap_or_else(|| {
            format!(
                "no run {sequence} of {:?} is unfinished, or over and recorded: runs are recorded with --retain-journals, and \
                 as long as all later runs of their key are",
                plan.name()
            )
        })));
    }
    replayed.runs.sort_by(|a, b| order(&a.key, &b.key).then(a.sequence.cmp(&b.sequence)));
    replayed.not_replayed.sort_by(|a, b| order(&a.key, &b.key).then(a.sequence.cmp(&b.sequence)));
    Ok(replayed)
}

/// What is known of the runs of a key.
struct KeyRuns {
    key: Vec<u8>,
    shown: Value,
    facts: Facts,
    /// What was told before the checkpoint was read, and what was told after that.
    begun: OfKey,
    over: OfKey,
}

impl KeyRuns {
    fn replay<T: EpochTime, K: Key, I: Input, O: 'static>(
        &self,
        agent: &Agent<'_, I, O>,
        (notes, component): (&StoredNotes, u32),
        frontier: Option<u64>,
        sequence: Option<u64>,
        replayed: &mut Replay,
    ) -> Result<(), Failure> {
        let KeyRuns { key, shown, facts, begun, over: ended } = self;
        let wrong = |error: postcard::Error| Failure::data(format!("key {shown}: {error}"));
        let last: u64 = match facts.get(&What::Sequence) {
            Some((_, number)) => postcard::from_bytes(number).map_err(wrong)?,
            None => 0,
        };
        let wanted = |number: u64| sequence.is_none_or(|sequence| sequence == number);
        // What a run in progress has written is not among it, whether flushed or not.
        let between: Memory = facts
            .iter()
            .filter(|(what, _)| matches!(what, What::Slot(_) | What::Path(_)))
            .map(|(what, (_, bytes))| (what.clone(), bytes.clone()))
            .collect();
        let unfinished = facts.contains_key(&What::Run);
        if unfinished
            && wanted(last)
            && let Some(resume) = frontier
        {
            let (notes, of_run) = (notes.of(component, key), (&**key, facts, &between));
            replayed.runs.push(unfinished::one::<T, K, I, O>(agent, shown, last, of_run, resume, &notes)?);
        }
        let finished = if unfinished { last.saturating_sub(1) } else { last };
        let mut memory = between.clone();
        // From the last to the first: what each has changed is taken back.
        for number in (1..=finished).rev() {
            let Some(told) = ended.records.get(&number).filter(|told| !told.begun) else { break };
            let (time, body) = over::read::<T>(&told.record).map_err(wrong)?;
            if !over::take_back(&body, &mut memory) {
                break;
            }
            if wanted(number) {
                let run = over::Over { sequence: number, state: State::Over, time, body, found: &memory };
                replayed.runs.push(run.again::<K, I, O>(agent, key, shown)?);
            }
        }
        // Behind the checkpoint: from the first to the last.
        let behind = |number: u64| number > last && frontier.is_some();
        for journal in begun.journals.iter().filter(|journal| behind(journal.sequence) && wanted(journal.sequence)) {
            if begun.records.get(&journal.sequence).is_none_or(|told| told.is_of_another(journal.id)) {
                replayed.not_replayed.push(self.not_replayed(agent, journal.sequence, Unknown::Input));
            }
        }
        let (mut found, mut next) = (Some(between), finished + 1);
        for (number, told) in begun.records.range(next..) {
            found = found.filter(|_| *number == next);
            next = number + 1;
            if behind(*number) && wanted(*number) {
                match &found {
                    Some(found) if !told.gone_back && told.begun => {
                        let journal = begun.journals.iter().find(|journal| told.journal == Some(journal.id));
                        let run = begun::one::<T, K, I, O>(agent, (key, shown), &told.record, journal, found)?;
                        replayed.runs.push(run);
                    }
                    Some(found) if !told.gone_back => {
                        let (time, body) = over::read::<T>(&told.record).map_err(wrong)?;
                        let run = over::Over { sequence: *number, state: State::NotCommitted, time, body, found };
                        replayed.runs.push(run.again::<K, I, O>(agent, key, shown)?);
                    }
                    _ => replayed.not_replayed.push(self.not_replayed(agent, *number, Unknown::Memory)),
                }
            }
            let (_, body) = over::read::<T>(&told.record).map_err(wrong)?;
            found =
                found.filter(|_| !told.begun).and_then(|mut found| over::take_on(&body, &mut found).then_some(found));
        }
        Ok(())
    }

    fn not_replayed<I, O>(&self, agent: &Agent<'_, I, O>, sequence: u64, why: Unknown) -> NotReplayed {
        NotReplayed { agent: agent.plan.name().to_owned(), key: self.shown.clone(), sequence, not_replayed: why }
    }
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
