//! What a checkpoint holds, shown as JSON without the program that wrote it.
//!
//! ```text
//! Stored ── facts ──▶ per agent: keys with their facts ── formats of the checkpoint ──▶ JSON, key by key
//!                └──▶ per collection: rows with their multiplicities
//! ```
//!
//! # Invariants
//! - Nothing is changed, and a job may be at work: see `operators::checkpoint::Stored`.
//! - The facts that hold are in memory as bytes; their JSON is made while it is written.
//! - Equal checkpoints show equally, whatever wrote them: keys and rows are sorted as they show.

mod agent;
mod cbor;
mod collection;
mod description;
mod formats;
mod replay;
mod run;
mod unfinished;

use std::cmp::Ordering;
use std::collections::BTreeMap;

use serde::ser::SerializeMap;
use serde::{Serialize, Serializer};
use serde_json::{Value, json};
use timely_agents_operators::checkpoint::{
    CheckpointStore, Component, ComponentKind, Error, Manifest, SourcePosition, Stored,
};
use timely_agents_operators::cluster::Failure;
use timely_agents_operators::fact::What;

use self::agent::{AgentState, Facts};
use self::collection::CollectionState;
pub(crate) use self::description::Description;
use self::formats::Formats;
pub use self::replay::{CallResult, Difference, NotReplayed, Replay, Replayed, Unknown, replay};
pub use self::run::{
    ActionVersion, Attempt, Changed, Dropped, Event, RunJournal, State, Step, StoredNotes, Task, Try, Wait,
};
use crate::format::hex;

/// What of a checkpoint is asked for: all of it, unless told otherwise.
#[derive(Clone, Debug, Default)]
pub struct Selection {
    /// One agent or collection.
    pub component: Option<String>,
    /// One key of agents, or row of collections, as it shows: JSON, or plain text for text.
    pub key: Option<String>,
}

impl Selection {
    /// Whether a key is asked for that shows like this.
    fn has(&self, shown: &Value) -> bool {
        let Some(key) = &self.key else { return true };
        shown.as_str() == Some(key) || serde_json::from_str(key).is_ok_and(|asked: Value| asked == *shown)
    }

    fn names(&self, component: &Component) -> bool {
        self.component.as_ref().is_none_or(|name| *name == component.name)
    }
}

/// A checkpoint that was read; it is shown by being serialized.
#[derive(Debug)]
pub struct Inspection {
    link: u64,
    manifest: Manifest,
    /// Whether all of it is here.
    all: bool,
    agents: BTreeMap<String, AgentState>,
    collections: BTreeMap<String, CollectionState>,
}

impl Inspection {
    /// Reads what is asked for.
    ///
    /// # Errors
    /// The checkpoint has no such agent, collection or key; it is damaged, or was removed meanwhile.
    pub fn read(store: &dyn CheckpointStore, stored: &Stored, asked: &Selection) -> Result<Self, Failure> {
        let mut inspection = Inspection {
            link: stored.link,
            manifest: stored.manifest.clone(),
            all: asked.component.is_none() && asked.key.is_none(),
            agents: BTreeMap::new(),
            collections: BTreeMap::new(),
        };
        let components = &stored.manifest.components;
        if let Some(name) = asked.component.as_ref().filter(|_| !components.iter().any(|one| asked.names(one))) {
            let names: Vec<&str> = components.iter().map(|component| &*component.name).collect();
            return Err(Failure::data(format!(
                "there is no agent or collection {name:?}; there are: {}",
                list(&names)
            )));
        }
        for component in components.iter().filter(|component| asked.names(component)) {
            let formats = Formats::of(component);
            let found = holding(store, stored, component.number, |key| {
                let shown = formats.key(key);
                asked.has(&shown).then_some(shown)
            })?;
            let name = component.name.clone();
            match component.kind {
                ComponentKind::Agent => {
                    if asked.key.is_none() || !found.is_empty() {
                        inspection.agents.insert(name, AgentState { formats, keys: found });
                    }
                }
                ComponentKind::Collection => {
                    let row = |(row, mut facts): (Value, Facts)| Some((row, facts.remove(&What::Row)?));
                    let rows: Vec<_> = found.into_iter().filter_map(row).collect();
                    if asked.key.is_none() || !rows.is_empty() {
                        inspection.collections.insert(name, CollectionState { rows });
                    }
                }
            }
        }
        if let Some(key) = asked.key.as_ref().filter(|_| inspection.agents.is_empty())
            && inspection.collections.is_empty()
        {
            let of = asked.component.as_ref().map_or_else(String::new, |name| format!(" of {name:?}"));
            return Err(Failure::data(format!("there is no key {key}{of}; keys are named as they show")));
        }
        Ok(inspection)
    }
}

/// The keys that `shown` lets through, with the facts that hold, sorted as they show.
fn holding(
    store: &dyn CheckpointStore,
    stored: &Stored,
    component: u32,
    shown: impl Fn(&[u8]) -> Option<Value>,
) -> Result<Vec<(Value, Facts)>, Error> {
    let mut keys: BTreeMap<Vec<u8>, Option<(Value, Facts)>> = BTreeMap::new();
    stored.facts(store, component, &mut |fact| {
        if !keys.contains_key(fact.key) {
            keys.insert(fact.key.to_vec(), shown(fact.key).map(|shown| (shown, Facts::new())));
        }
        if let Some(Some((_, facts))) = keys.get_mut(fact.key) {
            match fact.value {
                Some(value) => drop(facts.insert(fact.what, value.to_vec())),
                None => drop(facts.remove(&fact.what)),
            }
        }
    })?;
    let mut found: Vec<_> = keys.into_values().flatten().filter(|(_, facts)| !facts.is_empty()).collect();
    found.sort_by(|(a, _), (b, _)| order(a, b));
    Ok(found)
}

/// As people sort: numbers by their size, text by its letters, all else by its JSON.
fn order(a: &Value, b: &Value) -> Ordering {
    match (a, b) {
        (Value::Number(x), Value::Number(y)) => {
            let float = || x.as_f64().partial_cmp(&y.as_f64()).unwrap_or(Ordering::Equal);
            match (x.as_i128(), y.as_i128()) {
                (Some(x), Some(y)) => x.cmp(&y),
                _ => float(),
            }
        }
        (Value::String(x), Value::String(y)) => x.cmp(y),
        (Value::Array(x), Value::Array(y)) => {
            let first = x.iter().zip(y).map(|(x, y)| order(x, y)).find(|order| order.is_ne());
            first.unwrap_or_else(|| x.len().cmp(&y.len()))
        }
        _ => a.to_string().cmp(&b.to_string()),
    }
}

/// Names in a sentence.
fn list(names: &[&str]) -> String {
    if names.is_empty() { "none".to_owned() } else { names.join(", ") }
}

impl Serialize for Inspection {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        let Inspection { link, manifest, .. } = self;
        let mut map = to.serialize_map(None)?;
        map.serialize_entry("job", &manifest.job)?;
        map.serialize_entry("complete", &manifest.frontier.is_none())?;
        map.serialize_entry("epoch", &manifest.frontier.and_then(|frontier| frontier.checked_sub(1)))?;
        map.serialize_entry("generation", &manifest.generation)?;
        map.serialize_entry("link", link)?;
        let mut versions: Vec<_> =
            manifest.components.iter().filter_map(|component| Formats::of(component).version).collect();
        versions.dedup();
        if let Some(version) = versions.first() {
            map.serialize_entry("written_by", &format!("timely-agents {version}"))?;
        }
        if self.all {
            let sources = manifest.sources.iter().map(|(name, at)| (name, position(at)));
            map.serialize_entry("sources", &sources.collect::<BTreeMap<_, _>>())?;
            map.serialize_entry("sinks", &manifest.sinks)?;
        }
        map.serialize_entry("agents", &self.agents)?;
        map.serialize_entry("collections", &self.collections)?;
        map.end()
    }
}

/// Where a source goes on, in its own terms: as text if it is some.
fn position(position: &SourcePosition) -> Value {
    match position {
        SourcePosition::Start => json!("start"),
        SourcePosition::Ended => json!("ended"),
        SourcePosition::At(bytes) => {
            let text = std::str::from_utf8(bytes).ok().filter(|text| !text.contains(char::is_control));
            json!({"at": text.map_or_else(|| hex(bytes), str::to_owned)})
        }
    }
}
