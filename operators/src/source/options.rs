//! How a source is set up, and where it goes on.

use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use super::sources::Sources;
use crate::clock::Clock;
use crate::cluster::Control;
use crate::flow::Flow;

/// How a source is set up.
#[derive(Clone, Debug)]
pub struct SourceOptions {
    /// Its name in timely's logs, in failures and in checkpoints.
    pub name: String,
    /// Records that one activation reads at most. Default 1,024.
    pub batch: usize,
    /// Records that it sends in a second at most; without it, as many as it can.
    pub rate: Option<f64>,
    /// What `rate` is measured by.
    pub clock: Clock,
    /// How many epochs may have records out and not be committed: at that number the source closes its epoch and sends
    /// none of the next. Without `sources` it has no effect.
    pub open_epochs: Option<u64>,
    /// The sources of the process, by which this one is stopped and learns what is committed.
    pub sources: Option<Sources>,
    /// What holds the source back while other operators are at their limits; without it, nothing does.
    pub flow: Option<Flow>,
    /// Ends the job when reading fails.
    pub control: Control,
    /// Counts the records that have been sent, for progress bars.
    pub read: Option<Arc<AtomicU64>>,
}

impl SourceOptions {
    /// The defaults for a source called `name`.
    pub fn new(name: impl Into<String>, control: Control) -> Self {
        SourceOptions {
            name: name.into(),
            batch: 1024,
            rate: None,
            clock: Clock::system(),
            open_epochs: None,
            sources: None,
            flow: None,
            control,
            read: None,
        }
    }
}

/// Where a source of a job with checkpoints goes on.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Resume {
    /// The frontier that the checkpoint covers: all earlier epochs are over.
    pub epoch: u64,
    /// What the checkpoint knows of the source: nothing; or where its next record begins, in its reader's own terms; or,
    /// as `Some(None)`, that it has ended.
    pub position: Option<Option<Vec<u8>>>,
}

impl Resume {
    /// Whether the source had ended.
    pub(super) fn has_ended(&self) -> bool {
        matches!(self.position, Some(None))
    }
}
