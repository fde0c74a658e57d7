//! The rows of a collection with their multiplicities.

use serde::{Serialize, Serializer};
use serde_json::Value;

/// See the module.
#[derive(Debug)]
pub(super) struct CollectionState {
    /// The rows as they show, and their facts.
    pub(super) rows: Vec<(Value, Vec<u8>)>,
}

/// One row, as it shows.
#[derive(Serialize)]
struct Row<'a> {
    row: &'a Value,
    /// How many there are of it; nothing if the fact is not understood.
    count: Option<i64>,
}

impl Serialize for CollectionState {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.collect_seq(self.rows.iter().map(|(row, count)| Row { row, count: postcard::from_bytes(count).ok() }))
    }
}
