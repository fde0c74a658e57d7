//! Checkpoints: facts, offsets and outputs made durable together, by epochs (rules D1 to D6, D9, D10).
//!
//! Here is what stores and reads them: bytes, files and threads of its own, and no timely. `docs/design/0005` says how
//! the parts work together.

mod ack;
pub mod dir_store;
#[allow(dead_code, reason = "recovery is what reads")]
mod error;
pub mod failpoint;
mod log;
pub mod memory_store;
#[allow(dead_code, reason = "recovery is what reads")]
mod record;
#[allow(dead_code, reason = "recovery is what reads")]
mod segment;
pub mod store;

pub use self::ack::{Ack, LogPosition, Publication};
pub use self::dir_store::DirStore;
pub use self::error::Error;
pub use self::log::{Done, Log, LogOptions};
pub use self::memory_store::MemoryStore;
pub use self::record::{Compression, Record, VERSION, digest};
pub use self::store::CheckpointStore;
