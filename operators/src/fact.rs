//! Facts: all that is durable, as upserts (rule D1).
//!
//! A fact says what one thing of one key is from a time on. Within an epoch the last one per key and thing
//! counts, so what is made and retired within an epoch costs nothing.

use serde::{Deserialize, Serialize};

/// Which thing of a key a fact tells of.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum What {
    /// A memory slot, by its declared name.
    Slot(String),
    /// A path of dynamic memory.
    Path(String),
}

/// One upsert: `None` retires what was.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Fact<T> {
    /// The key's group.
    pub group: u32,
    /// The key, encoded.
    pub key: Vec<u8>,
    /// What of the key.
    pub what: What,
    /// Its value from `time` on, encoded; `None` when it is gone.
    pub value: Option<Vec<u8>>,
    /// Since when.
    pub time: T,
}
