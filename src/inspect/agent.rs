//! What an agent remembers and has to do, key by key.

use std::collections::BTreeMap;

use serde::{Serialize, Serializer};
use serde_json::{Map, Value, json};
use timely_agents_operators::fact::What;

use super::cbor;
use super::formats::Formats;
use super::unfinished;
use crate::format::hex;

/// The facts of a key that hold.
pub(super) type Facts = BTreeMap<What, Vec<u8>>;

/// See the module.
#[derive(Debug)]
pub(super) struct AgentState {
    pub(super) formats: Formats,
    /// The keys as they show, and their facts.
    pub(super) keys: Vec<(Value, Facts)>,
}

/// One key, as it shows.
#[derive(Serialize)]
struct Shown<'a> {
    key: &'a Value,
    sequence: u64,
    memory: Map<String, Value>,
    #[serde(skip_serializing_if = "Map::is_empty")]
    paths: Map<String, Value>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    notifications: Vec<Value>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    waiting: Vec<Value>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    signals: Vec<Value>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    scheduled: Vec<Value>,
    #[serde(skip_serializing_if = "Option::is_none")]
    run: Option<Value>,
}

impl Serialize for AgentState {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.collect_seq(self.keys.iter().map(|(key, facts)| self.key(key, facts)))
    }
}

impl AgentState {
    fn key<'a>(&self, key: &'a Value, facts: &Facts) -> Shown<'a> {
        let formats = &self.formats;
        let mut shown = Shown {
            key,
            sequence: 0,
            memory: Map::new(),
            paths: Map::new(),
            notifications: Vec::new(),
            waiting: Vec::new(),
            signals: Vec::new(),
            scheduled: Vec::new(),
            run: None,
        };
        let entries = facts.iter().filter(|(what, _)| matches!(what, What::Entry(_)));
        let entries: Vec<&[u8]> = entries.map(|(_, bytes)| bytes.as_slice()).collect();
        for (what, bytes) in facts {
            match what {
                What::Sequence => shown.sequence = postcard::from_bytes(bytes).unwrap_or(0),
                What::Slot(id) => {
                    let (name, value) = formats.slot(*id, Some(bytes));
                    shown.memory.insert(name, value);
                }
                What::Path(path) => {
                    shown.paths.insert(path.clone(), cbor::show(bytes));
                }
                What::Notification(epoch) => {
                    shown.notifications.push(json!({"epoch": epoch, "time": formats.time(bytes)}));
                }
                What::Waiting(n) => shown.waiting.push(match formats.timed(bytes) {
                    Some((time, input)) => json!({"number": n, "time": time, "input": formats.input(&input)}),
                    None => json!({"number": n, "bytes": hex(bytes)}),
                }),
                What::Signal(n) => shown.signals.push(unfinished::signal(*n, bytes)),
                What::Timer(n) => shown.scheduled.push(unfinished::scheduled(formats, *n, bytes)),
                What::Run => shown.run = Some(unfinished::show(formats, bytes, &entries)),
                What::Entry(_) | What::Notes | What::Row => {}
            }
        }
        shown
    }
}
