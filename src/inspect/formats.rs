//! The formats of one component, as its checkpoint has them.
//!
//! # Invariants
//! - A format that is missing or not known shows bytes in hexadecimal; nothing is refused on its account.

use std::collections::BTreeMap;

use serde_json::Value;
use timely_agents_operators::checkpoint::Component;
use timely_agents_operators::fact::What;

use super::cbor;
use super::description::Description;
use crate::durable::INPUT;
use crate::format::{Format, Shape, hex};

/// See the module.
#[derive(Debug)]
pub(super) struct Formats {
    key: Option<Format>,
    /// Slots by their ids: names and formats of values.
    slots: BTreeMap<u32, (String, Option<Format>)>,
    input: Option<Format>,
    time: Option<Format>,
    /// Of a time with bytes behind it.
    timed: Option<Format>,
    events: BTreeMap<String, Format>,
    /// The names of an agent's actions.
    pub(super) actions: Vec<String>,
    /// The version of the library that wrote them.
    pub(super) version: Option<String>,
}

impl Formats {
    pub(super) fn of(component: &Component) -> Self {
        let format = |text: &str| Format::from_text(text).ok();
        let parts = component.parts.iter().filter(|part| part.name != INPUT);
        let input = component.parts.iter().find(|part| part.name == INPUT);
        let (version, time, events, actions) = match Description::decode(&component.description) {
            Some(Description { version, time, events, actions }) => (Some(version), Some(time), events, actions),
            None => (None, None, BTreeMap::new(), Vec::new()),
        };
        let timed = match &time {
            Some(Format::Traced { shape, types }) => {
                let shape = Shape::Tuple(vec![shape.clone(), Shape::Bytes]);
                Some(Format::Traced { shape, types: types.clone() })
            }
            _ => None,
        };
        Formats {
            key: format(&component.key),
            slots: parts.map(|part| (part.id, (part.name.clone(), format(&part.format)))).collect(),
            input: input.and_then(|part| format(&part.format)),
            time,
            timed,
            events,
            actions,
            version,
        }
    }

    /// A key, or the row of a collection.
    pub(super) fn key(&self, bytes: &[u8]) -> Value {
        show(self.key.as_ref(), bytes)
    }

    pub(super) fn time(&self, bytes: &[u8]) -> Value {
        show(self.time.as_ref(), bytes)
    }

    pub(super) fn input(&self, bytes: &[u8]) -> Value {
        show(self.input.as_ref(), bytes)
    }

    /// A typed event.
    pub(super) fn event(&self, name: &str, bytes: &[u8]) -> Value {
        show(self.events.get(name), bytes)
    }

    /// The name of a slot, and a value in it.
    pub(super) fn slot(&self, id: u32, bytes: Option<&[u8]>) -> (String, Value) {
        let (name, format) = match self.slots.get(&id) {
            Some((name, format)) => (name.clone(), format.as_ref()),
            None => (format!("slot {id:08x}"), None),
        };
        (name, bytes.map_or(Value::Null, |bytes| show(format, bytes)))
    }

    /// A place in memory by its name, and what is there.
    pub(super) fn place(&self, what: &What, bytes: Option<&[u8]>) -> (String, Value) {
        match what {
            What::Slot(id) => self.slot(*id, bytes),
            What::Path(path) => (path.clone(), bytes.map_or(Value::Null, cbor::show)),
            other => (other.to_string(), bytes.map_or(Value::Null, |bytes| Value::String(hex(bytes)))),
        }
    }

    /// A time, and the bytes behind it; `None` if the type of times is not known.
    pub(super) fn timed(&self, bytes: &[u8]) -> Option<(Value, Vec<u8>)> {
        let (Value::Array(pair), _) = self.timed.as_ref()?.show_first(bytes)? else { return None };
        let [time, Value::Array(rest)] = <[Value; 2]>::try_from(pair).ok()? else { return None };
        let rest = rest.iter().map(|byte| u8::try_from(byte.as_u64()?).ok()).collect::<Option<Vec<u8>>>()?;
        Some((time, rest))
    }
}

fn show(format: Option<&Format>, bytes: &[u8]) -> Value {
    format.map_or_else(|| Value::String(hex(bytes)), |format| format.show(bytes))
}
