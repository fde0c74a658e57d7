//! Journals of calls: notes that are durable before their run goes on (rule D7).
//!
//! A checkpoint holds whole epochs; a call to the outside cannot wait for one. What such a call gave is a note in a store of
//! its own, which a recovery reads beside the checkpoint, so that no call is made twice whose end was noted.
//!
//! Not here: what a note says (the driver and the behavior), and when one is made.

pub mod conformance;
mod log;
mod memory;

use std::fmt::Debug;
use std::ops::Range;

use serde::{Deserialize, Serialize};

pub use self::log::LogJournal;
pub use self::memory::MemoryJournal;
use crate::checkpoint::Error;

/// One entry of a journal.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Note {
    /// The component's number.
    pub component: u32,
    /// The key's group.
    pub group: u32,
    /// The epoch of the run: with its commit the note is over.
    pub epoch: u64,
    /// The key, encoded.
    pub key: Vec<u8>,
    /// What it says.
    pub bytes: Vec<u8>,
}

/// What a driver's note says.
#[derive(Debug, Serialize, Deserialize)]
pub struct Written {
    /// The run's number among those of its key.
    pub sequence: u64,
    /// Of its input.
    pub digest: u64,
    /// What the run's journal is known by, in all generations.
    pub journal: u64,
    /// Runs that the key has begun since its last note: number and digest.
    pub begun: Vec<(u64, u64)>,
    /// For the behavior.
    #[serde(with = "crate::encoded::bytes")]
    pub body: Vec<u8>,
}

/// Notes of component `RUNS + n` are records of runs of component `n`: of those that are over, and of the beginnings of those
/// that have notes. They are for people: no start reads them.
pub const RUNS: u32 = 1 << 31;

/// What is kept of a run.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct RunRecord {
    /// The run's number among those of its key.
    pub sequence: u64,
    /// The time of what it was about, encoded.
    pub time: Vec<u8>,
    /// What the behavior says of it.
    pub body: Vec<u8>,
}

/// Called when a note is durable.
pub type Noted = Box<dyn FnOnce() + Send>;

/// Up to where a store is read by the generation that took it: what is put later by an older one does not exist for it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Marker(pub Vec<u8>);

/// Where notes are kept.
///
/// # Contract
/// 1. `done` is called after the note is durable, never before, at most once; for the notes of one caller in the order of
///    their puts. A store that fails calls none, and tells the job.
/// 2. `put` returns at once; notes that wait are made durable together.
/// 3. `rebuild` gives every note that was put before the marker was taken and not pruned, those of one key in the order of
///    their puts, generations ascending; of the component and the groups that are asked for, and no others. It may be
///    called for each range once.
/// 4. What is put after the marker was taken, by an older generation, is given by no rebuild from that marker.
/// 5. `prune` lets go of notes of epochs before the frontier, and of no others, when it likes: what it has not let go of yet
///    is given by a rebuild, but for notes of epochs that were committed when the store was opened.
/// 6. `get` gives a key's notes as `rebuild` does, and those of this generation that are durable; it is for people who look,
///    and may be slow.
/// 7. `close` returns when all that was put is durable, or the store has failed. What is put then is dropped.
pub trait ActionStateStore: Debug + Send + Sync + 'static {
    /// Makes a note durable.
    fn put(&self, note: Note, done: Noted);

    /// The notes of a key.
    ///
    /// # Errors
    /// The store fails.
    fn get(&self, component: u32, group: u32, key: &[u8]) -> Result<Vec<Note>, Error>;

    /// Where the store stands.
    ///
    /// # Errors
    /// The store fails.
    fn marker(&self) -> Result<Marker, Error>;

    /// Reads back what a recovery needs.
    ///
    /// # Errors
    /// The store fails, or the marker is none of it.
    fn rebuild(
        &self,
        marker: &Marker,
        component: u32,
        groups: Range<u32>,
        each: &mut dyn FnMut(Note),
    ) -> Result<(), Error>;

    /// All epochs before `frontier` are committed; `None`: all there will ever be.
    fn prune(&self, frontier: Option<u64>);

    /// Ends the store.
    fn close(&self);
}
