//! A place in a file of lines, for readers to go on at.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use timely_agents_operators::cluster::Failure;

/// How often the end of a file that may grow is looked at.
pub(super) const LOOK: Duration = Duration::from_millis(100);

/// Between two lines.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Place {
    /// The bytes before it.
    pub(super) byte: u64,
    /// The number of the line that begins there, from 1.
    pub(super) line: u64,
}

impl Place {
    pub(super) const START: Place = Place { byte: 0, line: 1 };

    /// As a reader's position.
    pub(super) fn encode(self) -> Option<Vec<u8>> {
        postcard::to_allocvec(&self).ok()
    }

    /// The place of a position in `file`.
    pub(super) fn decode(position: &[u8], file: &str) -> Result<Self, Failure> {
        postcard::from_bytes(position).map_err(|_| {
            Failure::data(format!(
                "{file}: the checkpoint's position is of another kind of source; give a source that is new a new name"
            ))
        })
    }

    /// Fails if a file with `length` bytes does not reach to here.
    pub(super) fn check(self, length: u64, file: &str) -> Result<(), Failure> {
        if length < self.byte {
            return Err(Failure::data(format!(
                "{file}: it has {length} bytes, but {} of it have been read: it was cut or replaced; a file that is \
                 read on must only grow",
                self.byte
            )));
        }
        Ok(())
    }
}
