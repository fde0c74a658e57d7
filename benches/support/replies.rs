//! What hand-written operators need whose work ends on other threads.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};

use crossbeam::queue::SegQueue;
use timely::dataflow::operators::{Capability, InputCapability};
use timely::scheduling::SyncActivator;

/// Completions from other threads: pushed, then the operator is woken, once for many.
pub(crate) struct Replies<R> {
    arrived: SegQueue<R>,
    flag: AtomicBool,
    activator: SyncActivator,
}

impl<R> Replies<R> {
    pub(crate) fn new(activator: SyncActivator) -> Arc<Self> {
        Arc::new(Replies { arrived: SegQueue::new(), flag: AtomicBool::new(false), activator })
    }

    pub(crate) fn push(&self, reply: R) {
        self.arrived.push(reply);
        if !self.flag.swap(true, SeqCst) {
            // It fails when the worker is gone; then nobody waits.
            let _ = self.activator.activate();
        }
    }

    pub(crate) fn drain(&self, mut each: impl FnMut(R)) {
        // Cleared first, so that what comes after the last look wakes again.
        self.flag.store(false, SeqCst);
        while let Some(reply) = self.arrived.pop() {
            each(reply);
        }
    }
}

/// One capability at the least open time, and how much is open at each.
#[derive(Default)]
pub(crate) struct LowWater {
    held: Option<Capability<u64>>,
    open: BTreeMap<u64, usize>,
}

impl LowWater {
    pub(crate) fn open(&mut self, capability: &InputCapability<u64>, count: usize) {
        if self.held.as_ref().is_none_or(|held| held.time() > capability.time()) {
            self.held = Some(capability.retain(0));
        }
        *self.open.entry(*capability.time()).or_default() += count;
    }

    pub(crate) fn at(&self, time: u64) -> Capability<u64> {
        self.held.as_ref().expect("held while something is open").delayed(&time)
    }

    pub(crate) fn close(&mut self, time: u64, count: usize) {
        if let Some(open) = self.open.get_mut(&time) {
            *open -= count;
        }
    }

    pub(crate) fn settle(&mut self) {
        while let Some(least) = self.open.first_entry()
            && *least.get() == 0
        {
            least.remove();
        }
        match (self.open.first_key_value(), &mut self.held) {
            (Some((least, _)), Some(held)) if held.time() < least => held.downgrade(least),
            (None, held) => *held = None,
            _ => {}
        }
    }
}
