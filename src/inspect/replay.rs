//! Unfinished runs against the program at hand: whether they would go on with it, without asking anybody anything.
//!
//! ```text
//! newest checkpoint ── a key's run ─┐
//! notes behind it ──────────────────┴▶ the plan, in a harness of its own ──▶ same, or where it leaves the journal
//! ```
//!
//! # Invariants
//! - No call is made: those whose ends are not in the journal are named, and left. Nothing is changed.
//! - One run does not see another: each has a harness with the facts and notes of its key alone.

use std::collections::BTreeMap;
use std::fmt::{self, Display, Formatter};

use serde::Serialize;
use serde_json::Value;
use timely_agents_operators::checkpoint::{
    Catalogue, CheckpointStore, Component, ComponentKind, Error, Manifest, Shape,
};
use timely_agents_operators::cluster::Failure;
use timely_agents_operators::fact::{FactRef, What};
use timely_agents_operators::journal::Note;
use timely_agents_operators::keys::Key;
use timely_agents_operators::time::EpochTime;

use super::description::Description;
use super::formats::Formats;
use super::run::StoredNotes;
use super::{Selection, list, order};
use crate::agent::Input;
use crate::format::Format;
use crate::plan::Plan;
use crate::testing::Harness;

/// What has come of a run.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// It goes the way of its journal, to the end of it.
    Same,
    /// It does not; where, and how.
    Differs(String),
}

/// An unfinished run, replayed.
#[derive(Clone, Debug, Serialize)]
pub struct Replayed {
    /// The key, as it shows.
    pub key: Value,
    /// The run's number among those of its key.
    pub sequence: u64,
    /// Whether it went the way of its journal.
    pub outcome: Outcome,
    /// Calls that it asks for where its journal ends: a job would make them, or wait for them.
    pub calls: Vec<String>,
    /// How many outputs it makes behind the journal and before such calls.
    pub outputs: usize,
    /// Whether it is over then, without another call.
    pub over: bool,
}

impl Display for Replayed {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let Replayed { key, sequence, outcome, calls, outputs, over } = self;
        write!(f, "key {key}, run {sequence}: ")?;
        if let Outcome::Differs(why) = outcome {
            return write!(f, "DIFFERS: {why}");
        }
        f.write_str("same")?;
        if !calls.is_empty() {
            let calls: Vec<String> = calls.iter().map(|name| format!("{name:?}")).collect();
            write!(f, ", goes on with call {}", calls.join(", "))?;
        } else if *over {
            f.write_str(", ends without another call")?;
        } else {
            f.write_str(", waits")?;
        }
        if *outputs > 0 { write!(f, ", puts out {outputs} more") } else { Ok(()) }
    }
}

/// What a checkpoint keeps of a key, by what it is, with its group.
type Facts = BTreeMap<What, (u32, Vec<u8>)>;

/// Runs what `plan`'s agent has not finished in the newest checkpoint, and in notes behind it, up to where its journals end;
/// all keys, or one as it shows. `T` is the type of the dataflow's times and `K` that of the keys, as in the job.
///
/// These are runs of agents that carry. Others, and runs that are over, are not replayed, for neither their input nor the
/// memory that they found is kept; inputs that wait do not begin. What a run put out before its journal ends is not compared. The agent's `on_open` is called for each run.
///
/// # Errors
/// There is no such agent or key, or no checkpoint; the plan or the types are others than the checkpoint's.
pub fn replay<T: EpochTime, K: Key, I: Input, O: 'static>(
    plan: &Plan<I, O>,
    store: &dyn CheckpointStore,
    key: Option<&str>,
) -> Result<Vec<Replayed>, Failure> {
    let notes = StoredNotes::read(store)?;
    let catalogue = Catalogue::read(store)?;
    let stored = catalogue.newest()?;
    let stored = stored.ok_or_else(|| Failure::data(format!("{} has no checkpoint yet", store.describe(""))))?;
    let now = plan.component::<T, K>();
    let agents = stored.manifest.components.iter().filter(|component| component.kind == ComponentKind::Agent);
    let Some(component) = agents.clone().find(|component| component.name == now.name) else {
        let names: Vec<&str> = agents.map(|component| &*component.name).collect();
        return Err(Failure::data(format!("the checkpoint has no agent {:?}; it has: {}", now.name, list(&names))));
    };
    fits::<T>(&stored.manifest, component, now)?;
    let formats = Formats::of(component);
    let asked = Selection { component: None, key: key.map(str::to_owned) };
    let mut keys: BTreeMap<Vec<u8>, Facts> = BTreeMap::new();
    stored.facts(store, component.number, &mut |fact| {
        let facts = keys.entry(fact.key.to_vec()).or_default();
        match fact.value {
            Some(value) => drop(facts.insert(fact.what, (fact.group, value.to_vec()))),
            None => drop(facts.remove(&fact.what)),
        }
    })?;
    keys.retain(|key, facts| !facts.is_empty() && asked.has(&formats.key(key)));
    if keys.is_empty()
        && let Some(key) = key
    {
        return Err(Failure::data(format!("there is no key {key} of {:?}; keys are named as they show", plan.name())));
    }
    let Some(resume) = stored.manifest.frontier else { return Ok(Vec::new()) };
    let mut replayed = Vec::new();
    for (key, facts) in keys.iter().filter(|(_, facts)| facts.contains_key(&What::Run)) {
        let of_key = notes.of(component.number, key);
        replayed.push(one::<T, K, I, O>(plan, formats.key(key), (key, facts), resume, &of_key, &stored.manifest.job)?);
    }
    replayed.sort_by(|a, b| order(&a.key, &b.key));
    Ok(replayed)
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

fn one<T: EpochTime, K: Key, I: Input, O: 'static>(
    plan: &Plan<I, O>,
    shown: Value,
    (bytes, facts): (&[u8], &Facts),
    resume: u64,
    notes: &[Note],
    job: &str,
) -> Result<Replayed, Failure> {
    let wrong = |error: postcard::Error| Failure::data(format!("key {shown}: {error}"));
    let key: K = postcard::from_bytes(bytes).map_err(wrong)?;
    let sequence = facts.get(&What::Sequence).map(|(_, number)| postcard::from_bytes(number)).transpose();
    let sequence = sequence.map_err(wrong)?.unwrap_or(0);
    // What waits behind the run does not begin.
    let of_run = |what: &What| !matches!(what, What::Waiting(_) | What::Notification(_) | What::Timer(_) | What::Notes);
    let harness = Harness::<K, I, O, T>::over_time(plan, |_: &I| unreachable!("no input is brought"))
        .map_err(|failure| Failure::data(format!("agent {}: {}", failure.agent, failure.message)))?;
    let harness = harness.in_job(job).journaled(u64::MAX, notes).and_then(|harness| {
        harness.restored_by(resume, |take| {
            let mut of_run = facts.iter().filter(|(what, _)| of_run(what));
            of_run.try_for_each(|(what, (group, value))| {
                take(&FactRef { group: *group, key: bytes, what: what.clone(), value: Some(value) })
            })
        })
    });
    let mut replayed =
        Replayed { key: shown, sequence, outcome: Outcome::Same, calls: Vec::new(), outputs: 0, over: false };
    let mut harness = match harness {
        Ok(harness) => harness,
        Err(failure) => {
            replayed.outcome = Outcome::Differs(failure.message);
            return Ok(replayed);
        }
    };
    harness.run();
    let left = "it leaves its journal, which the agent allows (`Divergence::Lenient`)";
    let failure = harness.failure().map(|failure| failure.message.clone());
    let why = match failure {
        Some(message) => Some(message),
        None if harness.diverged() > 0 => Some(left.to_owned()),
        None => harness.dead_letter_reasons().into_iter().next().map(|why| format!("it is given up: {why}")),
    };
    if let Some(why) = why {
        replayed.outcome = Outcome::Differs(why);
        return Ok(replayed);
    }
    replayed.calls = harness.calls().into_iter().map(|call| call.name).collect();
    replayed.outputs = harness.outputs().len();
    replayed.over = !harness.mailbox(&key).0;
    Ok(replayed)
}
