//! What a checkpoint keeps of a component beside its formats, for who looks at it without its program.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use timely_agents_operators::time::EpochTime;

use crate::format::Format;

/// Stored as JSON; fields that are not known are passed over.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Description {
    /// The version of this library that wrote it.
    pub(crate) version: String,
    /// The format of the times of its dataflow.
    pub(crate) time: Format,
    /// The formats of typed events, by name; of agents whose unfinished runs are stored.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub(crate) events: BTreeMap<String, Format>,
    /// The names of an agent's actions, by their numbers.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) actions: Vec<String>,
}

impl Description {
    /// The bytes for a component in a dataflow of `T`.
    pub(crate) fn encode<T: EpochTime>(events: BTreeMap<String, Format>, actions: Vec<String>) -> Vec<u8> {
        let version = env!("CARGO_PKG_VERSION").to_owned();
        let description = Description { version, time: Format::of::<T>(), events, actions };
        serde_json::to_vec(&description).unwrap_or_else(|error| panic!("a description has a JSON form: {error}"))
    }

    /// A description, if the bytes are one.
    pub(crate) fn decode(bytes: &[u8]) -> Option<Self> {
        serde_json::from_slice(bytes).ok()
    }
}
