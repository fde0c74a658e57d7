//! What was handed to a thread that writes and is not written yet: bounded by stopping the sources (rule S9).
//!
//! # Invariants
//! - Bytes count from when they are handed over until they are written, or given to the system's care in a file.
//! - When the backlog falls below a limit that it was at, the operators that hand over are activated, to say so.

use std::fmt;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use timely::scheduling::SyncActivator;

use crate::driver::Load;
use crate::limits::Limits;

/// Bytes that wait for a thread that writes. Clones are handles of the same.
#[derive(Clone, Default)]
pub(crate) struct Backlog(Arc<Shared>);

#[derive(Default)]
struct Shared {
    bytes: AtomicUsize,
    /// The least limit that anybody watches.
    limit: AtomicUsize,
    watchers: Mutex<Vec<SyncActivator>>,
}

impl Backlog {
    pub(crate) fn add(&self, bytes: usize) {
        self.0.bytes.fetch_add(bytes, Ordering::SeqCst);
    }

    pub(crate) fn remove(&self, bytes: usize) {
        let before = self.0.bytes.fetch_sub(bytes, Ordering::SeqCst);
        let limit = self.0.limit.load(Ordering::SeqCst);
        if before >= limit && before - bytes < limit {
            for watcher in &*self.0.watchers.lock().unwrap_or_else(PoisonError::into_inner) {
                // An error means that the worker is gone, and with it whoever hands over.
                let _ = watcher.activate();
            }
        }
    }

    fn bytes(&self) -> usize {
        self.0.bytes.load(Ordering::SeqCst)
    }
}

impl fmt::Debug for Backlog {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Backlog").field(&self.bytes()).finish()
    }
}

/// Holds the sources of a job back while a sink or a log has too much to write. One for each operator that hands over.
pub struct SinkLoad {
    limit: usize,
    tell: Box<dyn Fn(Load)>,
}

impl SinkLoad {
    /// `tell` is a meter of the job's flow for these limits; there may be `limits.inbox_bytes` to write.
    pub fn new(limits: Limits, tell: Box<dyn Fn(Load)>) -> Self {
        SinkLoad { limit: limits.inbox_bytes.max(1), tell }
    }

    pub(crate) fn watch(&self, backlog: &Backlog, operator: SyncActivator) {
        let shared = &backlog.0;
        let mut watchers = shared.watchers.lock().unwrap_or_else(PoisonError::into_inner);
        let least = shared.limit.load(Ordering::SeqCst);
        let limit = if watchers.is_empty() { self.limit } else { least.min(self.limit) };
        shared.limit.store(limit, Ordering::SeqCst);
        watchers.push(operator);
    }

    pub(crate) fn tell(&self, backlog: &Backlog) {
        (self.tell)(Load { waiting_bytes: backlog.bytes(), ..Load::default() });
    }
}

impl fmt::Debug for SinkLoad {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SinkLoad").field("limit", &self.limit).finish_non_exhaustive()
    }
}
