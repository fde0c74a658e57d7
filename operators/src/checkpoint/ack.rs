//! What reaches the committer: word of what is durable, or staged, as of an epoch (rule D3).

use serde::{Deserialize, Serialize};

/// A place in a log: all before `end` of one segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct LogPosition {
    /// The generation that wrote the segment.
    pub generation: u64,
    /// The process that wrote it.
    pub process: u32,
    /// Its number, from 0.
    pub segment: u32,
    /// The length up to which it counts.
    pub end: u64,
}

/// A step by which a sink makes an epoch's output visible. Doing it twice does no harm.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Publication {
    /// A staged file takes its place. Nothing is left to do when `from` is gone and `to` is there.
    Rename {
        /// The staged file.
        from: String,
        /// Its place.
        to: String,
    },
    /// The rows in a staged file go to the transactional sink of that name, with the progress mark, in one transaction;
    /// the staged file is removed then. Nothing is left to do when the sink's mark is beyond the epoch.
    Apply {
        /// The sink's name.
        sink: String,
        /// The epoch of the rows.
        epoch: u64,
        /// The staged file.
        from: String,
    },
}

/// One piece of word for the committer. It travels at its epoch, so the committer's frontier says when all is in.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Ack {
    /// Facts of a component are durable in a log.
    Facts {
        /// The component's number in the manifest.
        component: u32,
        /// Up to where.
        position: LogPosition,
        /// By group: what the facts add to the group's digest.
        digests: Vec<(u32, u64)>,
    },
    /// A source has sent all before `epoch`; it would go on at `position`, or has ended.
    Source {
        /// The source's name.
        source: String,
        /// Its records of all earlier epochs are out.
        epoch: u64,
        /// Where the record after them begins, in the reader's own terms; `None` when there is none and never will be.
        position: Option<Vec<u8>>,
    },
    /// A sink has staged output of an epoch durably.
    Staged {
        /// The sink's name.
        sink: String,
        /// The epoch.
        epoch: u64,
        /// What is to be done at the commit.
        publication: Publication,
    },
}
