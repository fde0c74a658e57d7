//! Checkpoints: facts, offsets and outputs made durable together, by epochs (rules D1 to D6, D9, D10).
//!
//! Here is what stores and reads them: bytes, files and threads of its own, and no timely. `docs/design/0005` says how
//! the parts work together.

mod ack;
mod chain;
mod commit;
mod committer;
mod compact;
pub mod dir_store;
mod error;
pub mod failpoint;
#[cfg(test)]
mod fixture;
#[cfg(test)]
mod fuzz;
mod gc;
mod history;
mod log;
mod manifest;
pub mod memory_store;
mod offline;
mod opening;
mod record;
mod restore;
#[cfg(test)]
mod scenario;
mod segment;
mod snapshot;
pub mod store;
mod stored;
mod verify;

pub use self::ack::{Ack, LogPosition, Publication};
pub(crate) use self::chain::Bound;
pub use self::committer::{Committer, Publish, Told};
pub use self::compact::Compaction;
pub use self::dir_store::DirStore;
pub use self::error::Error;
pub use self::gc::gc;
pub(crate) use self::gc::retained;
pub use self::log::{Done, DoneFacts, Log, LogOptions};
pub use self::manifest::{Component, ComponentKind, Manifest, Part, SegmentRef, Shape, SnapshotRef, SourcePosition};
pub use self::memory_store::MemoryStore;
pub use self::offline::compact_offline;
pub use self::opening::{Checkpoints, Opened, Opening};
pub use self::record::{Compression, Record, VERSION, digest};
pub(crate) use self::segment::{JOURNAL, blobs as segment_blobs, name as segment_name, read_notes};
pub use self::store::CheckpointStore;
pub use self::stored::{Catalogue, Stored, notes};
pub use self::verify::{Finding, Report, verify};
