//! Commits inside a dataflow: what is durable is told to the committer, what is committed to everybody (rule D3).
//!
//! ```text
//! facts ─▶ PERSIST ─acks─┐
//! source ───────acks─────┼─▶ GATHER (worker 0) ─▶ Board ╌╌▶ committer ╌╌▶ Teller ─▶ COMMITTED ─▶ a probe everywhere
//! sink ─────────acks─────┘
//! ```
//!
//! # Invariants
//! - An ack leaves PERSIST after the log has synced what it tells of, and until then its epoch stays open there.
//! - The committed frontier passes an epoch only after its manifest is durable and its outputs are published.
//! - No edge of a dataflow leads from COMMITTED to what it tells of.
//!
//! Not here: logs, manifests, the committer's thread (`checkpoint`).

mod board;
mod collection;
mod committed;
mod gather;
mod memory;
mod persist;
mod replies;
mod stopping;

pub use self::board::{Board, Word};
pub use self::collection::{Rows, Updates, checkpointed};
pub use self::committed::{Committed, Teller};
pub use self::gather::{gather, gather_source};
pub use self::memory::{MemoryUpdates, memory};
pub use self::persist::persist;
pub use self::stopping::{Stopper, Stopping};

use crate::time::EpochTime;

/// The least epoch of a frontier; `None` where nothing can come any more.
pub(crate) fn least_epoch<T: EpochTime>(frontier: &[T]) -> Option<u64> {
    frontier.iter().map(EpochTime::epoch).min()
}
