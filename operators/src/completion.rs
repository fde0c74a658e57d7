//! How work off the worker comes back: one queue per operator and one wake-up for many arrivals.
//!
//! # Protocol
//! A producer pushes, then sets the flag, and wakes the operator only if the flag was clear. The operator
//! clears the flag *before* it drains. So an arrival is either seen by the drain or wakes the operator again;
//! the other order loses wake-ups.
//!
//! After [`CompletionQueue::close`] arrivals are refused and counted (rule S6).

use std::any::Any;
use std::fmt::{self, Debug, Formatter};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use crossbeam::queue::SegQueue;
use serde::{Deserialize, Serialize};
use timely::scheduling::SyncActivator;
use tokio::task::AbortHandle;

use crate::behavior::CallFuture;
use crate::slab::RunToken;

/// Names a call, or a sleep, of a run in flight: the task that made it and its place among the task's calls.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct CallRef {
    /// The run.
    pub run: RunToken,
    /// The task within the run.
    pub task: u32,
    /// The call within the task, in the order in which calls were made.
    pub call: u32,
}

/// What a call gives.
#[derive(Debug)]
pub enum CallValue {
    /// Nothing but the fact that it is over: a sleep.
    Unit,
    /// An encoded result, fit for a journal.
    Bytes(Vec<u8>),
    /// A value of a call that is not journaled.
    Any(Box<dyn Any + Send>),
}

/// Why a call gave no value.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error, Serialize, Deserialize)]
pub enum CallFailure {
    /// It took longer than its timeout.
    #[error("no result within {0:?}")]
    Timeout(Duration),
    /// It panicked.
    #[error("panicked: {0}")]
    Panicked(String),
    /// Its result cannot be encoded.
    #[error("its result cannot be encoded: {0}")]
    Encoding(String),
    /// The runtime that should run it is shutting down.
    #[error("aborted: the runtime is shutting down")]
    Aborted,
    /// None of its attempts has succeeded.
    #[error("all attempts have failed ({attempts}), the last: {last}")]
    Exhausted {
        /// How many there were.
        attempts: u32,
        /// What the last one came to.
        last: String,
    },
    /// It was not begun.
    #[error("not begun: {0}")]
    Refused(String),
}

/// The end of a call.
pub type CallResult = Result<CallValue, CallFailure>;

/// The future of a call that is over. Its memory goes back to the worker that it came from: an allocator is slow where
/// one thread frees what another is allocating.
#[derive(Default)]
pub struct Spent(pub(crate) Option<CallFuture>);

impl Debug for Spent {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        f.write_str("Spent")
    }
}

/// Something that came back.
#[derive(Debug)]
pub enum Completion {
    /// A foreign waker fired for a task.
    Wake {
        /// The run.
        run: RunToken,
        /// The task within the run.
        task: u32,
    },
    /// A call has ended.
    Call {
        /// The call.
        call: CallRef,
        /// How it ended.
        result: CallResult,
        /// What is left of it.
        spent: Spent,
    },
    /// The end of a call, which is durable now.
    Durable {
        /// The call.
        call: CallRef,
        /// How it ended.
        result: CallResult,
    },
    /// The start of a call is durable: it may leave.
    Leave {
        /// The call.
        call: CallRef,
    },
    /// The record of a run that is over is durable.
    Recorded {
        /// Its number among those of the driver.
        number: u64,
    },
    /// The turn of a call has come that waited for it.
    Begins {
        /// The call.
        call: CallRef,
    },
    /// A call was not over at once: from now on it can be aborted.
    Waits {
        /// The call.
        call: CallRef,
        /// Aborts it.
        abort: AbortHandle,
    },
}

/// The queue of one operator on one worker; clones are handles of it.
#[derive(Clone)]
pub struct CompletionQueue(Arc<Inner>);

struct Inner {
    arrived: SegQueue<Completion>,
    flag: AtomicBool,
    closed: AtomicBool,
    refused: AtomicU64,
    activator: Option<SyncActivator>,
}

impl CompletionQueue {
    /// A queue that wakes the operator of `activator`; `None` where somebody polls, as a test does.
    pub fn new(activator: Option<SyncActivator>) -> Self {
        CompletionQueue(Arc::new(Inner {
            arrived: SegQueue::new(),
            flag: AtomicBool::new(false),
            closed: AtomicBool::new(false),
            refused: AtomicU64::new(0),
            activator,
        }))
    }

    /// Delivers from any thread.
    pub fn push(&self, completion: Completion) {
        let inner = &*self.0;
        if inner.closed.load(Ordering::SeqCst) {
            inner.refused.fetch_add(1, Ordering::Relaxed);
            return;
        }
        inner.arrived.push(completion);
        if !inner.flag.swap(true, Ordering::SeqCst)
            && let Some(activator) = &inner.activator
        {
            // An error means that the worker is gone, and with it whoever waits.
            let _ = activator.activate();
        }
    }

    /// Whether what arrives is refused.
    pub(crate) fn is_closed(&self) -> bool {
        self.0.closed.load(Ordering::SeqCst)
    }

    /// Takes what has arrived. Called by the operator's worker only.
    pub fn drain(&self, mut each: impl FnMut(Completion)) {
        if self.0.flag.load(Ordering::SeqCst) {
            self.0.flag.store(false, Ordering::SeqCst);
            while let Some(completion) = self.0.arrived.pop() {
                each(completion);
            }
        }
    }

    /// Refuses what comes from now on, and drops what has come.
    pub fn close(&self) {
        self.0.closed.store(true, Ordering::SeqCst);
        while self.0.arrived.pop().is_some() {
            self.0.refused.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// How many arrivals came too late.
    pub fn refused(&self) -> u64 {
        self.0.refused.load(Ordering::Relaxed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::slab::Slab;

    #[test]
    fn arrivals_after_close_are_refused_and_counted() {
        let queue = CompletionQueue::new(None);
        let run = Slab::<()>::default().insert(());
        queue.push(Completion::Wake { run, task: 0 });
        let mut seen = 0;
        queue.drain(|_| seen += 1);
        assert_eq!(seen, 1);
        queue.push(Completion::Wake { run, task: 1 });
        queue.close();
        queue.push(Completion::Wake { run, task: 2 });
        queue.drain(|_| seen += 1);
        assert_eq!((seen, queue.refused()), (1, 2));
    }
}
