//! Replies from other threads to an operator of a worker.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use crossbeam::queue::SegQueue;
use timely::scheduling::SyncActivator;

/// A queue that wakes its operator, once for many replies. Clones are handles of it.
pub(super) struct Replies<A>(Arc<Inner<A>>);

struct Inner<A> {
    arrived: SegQueue<A>,
    flag: AtomicBool,
    activator: SyncActivator,
}

impl<A> Clone for Replies<A> {
    fn clone(&self) -> Self {
        Replies(Arc::clone(&self.0))
    }
}

impl<A> Replies<A> {
    pub(super) fn new(activator: SyncActivator) -> Self {
        Replies(Arc::new(Inner { arrived: SegQueue::new(), flag: AtomicBool::new(false), activator }))
    }

    /// From any thread.
    pub(super) fn push(&self, reply: A) {
        self.0.arrived.push(reply);
        if !self.0.flag.swap(true, Ordering::SeqCst) {
            // An error means that the worker is gone, and with it whoever waits.
            let _ = self.0.activator.activate();
        }
    }

    /// By the operator.
    pub(super) fn drain(&self, mut each: impl FnMut(A)) {
        if self.0.flag.swap(false, Ordering::SeqCst) {
            while let Some(reply) = self.0.arrived.pop() {
                each(reply);
            }
        }
    }
}
