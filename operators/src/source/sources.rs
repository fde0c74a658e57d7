//! The sources of a process, from any thread: stopped together, and told what is committed.
//!
//! # Invariants
//! - What is told wakes every source that may be waiting for it; nothing polls.
//! - What is committed never goes back.
//!
//! Not here: who commits, and what makes a process stop.

use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use timely::scheduling::SyncActivator;

type Listener = Arc<dyn Fn(Option<u64>) + Send + Sync>;

/// The sources of a process. Clones are handles of the same.
#[derive(Clone, Default)]
pub struct Sources {
    shared: Arc<Mutex<Shared>>,
}

#[derive(Default)]
struct Shared {
    stopped: bool,
    committed: Committed,
    seats: Vec<(SourceState, SyncActivator)>,
    listeners: Vec<Listener>,
}

/// A source as other threads see it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SourceState {
    /// Its name.
    pub name: String,
    /// The epoch at which it reads; `None` when it has ended.
    pub epoch: Option<u64>,
    /// It has seen that it is to stop: nothing more of its epoch, and no later one, will come.
    pub stopped: bool,
}

/// Up to where epochs are committed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Committed {
    /// All below.
    Below(u64),
    /// All.
    All,
}

impl Default for Committed {
    fn default() -> Self {
        Committed::Below(0)
    }
}

impl Committed {
    pub(super) fn covers(self, epoch: u64) -> bool {
        self > Committed::Below(epoch)
    }
}

impl Sources {
    /// Stops all sources: they read no more, and keep the epochs at which they stand open, so that no part of an epoch
    /// is taken for all of it.
    pub fn stop(&self) {
        let mut shared = self.lock();
        shared.stopped = true;
        shared.wake();
    }

    /// Whether the sources were asked to stop.
    pub fn is_stopped(&self) -> bool {
        self.lock().stopped
    }

    /// All epochs below `frontier` are committed; `None` means all that there are. May be told by several workers, in
    /// any order.
    pub fn committed(&self, frontier: Option<u64>) {
        let listeners = {
            let mut shared = self.lock();
            let committed = frontier.map_or(Committed::All, Committed::Below);
            if committed <= shared.committed {
                return;
            }
            shared.committed = committed;
            shared.wake();
            shared.listeners.clone()
        };
        for listener in listeners {
            listener(frontier);
        }
    }

    /// Calls `listener` with the frontier whenever more is committed, on the thread that tells of it.
    pub fn on_committed(&self, listener: impl Fn(Option<u64>) + Send + Sync + 'static) {
        self.lock().listeners.push(Arc::new(listener));
    }

    /// The sources of this process that are read here, in the order in which they were built.
    pub fn states(&self) -> Vec<SourceState> {
        self.lock().seats.iter().map(|(state, _)| state.clone()).collect()
    }

    /// Activates every source.
    pub fn wake(&self) {
        self.lock().wake();
    }

    pub(super) fn attach(&self, name: &str, epoch: u64, waker: SyncActivator) -> Seat {
        let mut shared = self.lock();
        let state = SourceState { name: name.to_owned(), epoch: Some(epoch), stopped: false };
        shared.seats.push((state, waker));
        Seat { sources: self.clone(), index: shared.seats.len() - 1 }
    }

    /// A panic cannot happen between two writes, so a poisoned lock is as good as a whole one.
    fn lock(&self) -> MutexGuard<'_, Shared> {
        self.shared.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Shared {
    fn wake(&self) {
        for (state, waker) in &self.seats {
            if state.epoch.is_some() {
                // An error means that the worker is gone, and its source with it.
                let _ = waker.activate();
            }
        }
    }
}

impl fmt::Debug for Sources {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let shared = self.lock();
        let states: Vec<_> = shared.seats.iter().map(|(state, _)| state).collect();
        f.debug_struct("Sources")
            .field("stopped", &shared.stopped)
            .field("committed", &shared.committed)
            .field("states", &states)
            .finish_non_exhaustive()
    }
}

/// A source's place among the sources.
pub(super) struct Seat {
    sources: Sources,
    index: usize,
}

impl Seat {
    /// Whether the source is to stop. That it has seen this is noted.
    pub(super) fn is_stopped(&self) -> bool {
        let mut shared = self.sources.lock();
        let stopped = shared.stopped;
        shared.seats[self.index].0.stopped = stopped;
        stopped
    }

    pub(super) fn committed(&self) -> Committed {
        self.sources.lock().committed
    }

    pub(super) fn enter(&self, epoch: Option<u64>) {
        self.sources.lock().seats[self.index].0.epoch = epoch;
    }
}
