//! Facts: all that is durable, as upserts (rule D1).
//!
//! A fact says what one thing of one key is from a time on. Within an epoch the last one per key and thing counts, so
//! what is made and retired within an epoch costs nothing. Facts travel and are stored as [`Block`]s of bytes; a
//! [`Fact`] is one of them decoded, for who looks at single ones.
//!
//! # Bytes of a block
//! ```text
//! block   := section*                       groups ascend
//! section := group:varint length:u32le key{length bytes in all}
//! key     := length:varint bytes (what value)* 0
//! what    := 1 | 2 slot:u32le | 3 length:varint text | 4 varint | 5 varint | 6 | 7 varint | 8 | 9 varint | 10 varint
//! value   := 0 | length+1:varint bytes
//! ```
//! Varints are LEB128. A value of `0` retires the fact.

mod arrange;
mod block;
mod column;
mod key;
mod number;
mod writer;

use std::fmt;

use serde::{Deserialize, Serialize};

pub use self::block::{Block, BlockError, FactRef, Section, facts, sections};
pub use self::column::{FactColumn, FactColumns};
pub use self::key::KeyWriter;
pub(crate) use self::key::append;
pub use self::number::{is_number, number_of};
pub use self::writer::BlockWriter;

use crate::hash::stable_hash;

/// Which thing of a key a fact tells of.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum What {
    /// How many runs the key has had.
    Sequence,
    /// A memory slot, by [`slot_id`].
    Slot(u32),
    /// A path of dynamic memory.
    Path(String),
    /// The key is to be told when this epoch is over.
    Notification(u64),
    /// An input that waits, by its place among those that do.
    Waiting(u64),
    /// The run in progress: its input and identity.
    Run,
    /// One entry of the journal of the run in progress.
    Entry(u64),
    /// The multiplicity of a row of a collection; the key is the row.
    Row,
    /// A signal that no run has taken, by its number among the key's.
    Signal(u64),
    /// An event that is to come at its time, by its number among the key's.
    Timer(u64),
    /// What was noted of runs that work which waits will begin with.
    Notes,
}

impl What {
    /// A memory slot, by its declared name.
    pub fn slot(name: &str) -> Self {
        What::Slot(slot_id(name))
    }
}

impl fmt::Display for What {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            What::Sequence => f.write_str("sequence"),
            What::Slot(id) => write!(f, "slot {id:08x}"),
            What::Path(path) => write!(f, "path {path}"),
            What::Notification(epoch) => write!(f, "notification {epoch}"),
            What::Waiting(n) => write!(f, "waiting {n}"),
            What::Run => f.write_str("run"),
            What::Entry(n) => write!(f, "entry {n}"),
            What::Row => f.write_str("row"),
            What::Signal(n) => write!(f, "signal {n}"),
            What::Timer(n) => write!(f, "timer {n}"),
            What::Notes => f.write_str("notes"),
        }
    }
}

/// What a slot is called in facts: four bytes that follow from its name alone.
pub fn slot_id(name: &str) -> u32 {
    stable_hash(name) as u32
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
