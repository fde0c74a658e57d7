//! What keeps sources from sending more than operators hold, on all workers of all processes (rule S9).
//!
//! Timely's channels have no bounds. So sources count what they send, and after each chunk send a mark behind it; a
//! worker that has seen the mark answers with its pressure: which of its operators' limits are reached. A source goes on
//! while no worker is more than a few chunks behind and every worker's pressure admits the epoch of its next record.
//! Workers also report, unasked, whenever their pressure changes.
//!
//! # Invariants
//! - A source that stands in the lowest epoch of all sources is never held back by inputs that wait for an epoch, only by
//!   work that ends without it: there is no deadlock, whatever the limits.
//! - What is on its way from one worker's sources to one other worker stays below about five chunks of 1 MiB or 16,384
//!   records, by the sizes that readers tell, even while that worker does nothing at all.
//! - Nothing polls: a source that waits is activated by what may let it go on.
//! - On a single worker there is no dataflow: sources read the pressure where meters leave it.
//!
//! Not here: limits within an operator (the driver keeps them), and bounds for data between two operators.

mod dataflow;
mod ledger;
mod pressure;

use std::cell::{Cell, RefCell};
use std::fmt;
use std::rc::Rc;

use timely::scheduling::Activator;
use timely::worker::Worker;

use self::dataflow::Motion;
use self::ledger::{CHUNK_BYTES, Ledger};
use self::pressure::Pressure;
use crate::driver::Load;
use crate::limits::Limits;

/// Flow control as the sources of one worker see it.
///
/// The worker's part of it ends, and with it the dataflow that carries it, when [`Flow::close`] was called, or all
/// handles were dropped, and all sources have ended.
#[derive(Clone)]
pub struct Flow {
    meters: Meters,
    open: Rc<Open>,
}

impl fmt::Debug for Flow {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Flow").finish_non_exhaustive()
    }
}

/// What operators tell their load by. It may be kept for any time.
#[derive(Clone)]
pub struct Meters {
    ledger: Rc<RefCell<Ledger>>,
    /// None on a single worker.
    motion: Option<Motion>,
}

impl fmt::Debug for Meters {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Meters").finish_non_exhaustive()
    }
}

/// A source of this worker. Dropped at its end.
pub(crate) struct Attached {
    meters: Meters,
    life: Rc<Life>,
}

/// Whether marks may still come from this worker.
#[derive(Default)]
struct Life {
    closed: Cell<bool>,
    sources: Cell<usize>,
}

impl Life {
    fn is_over(&self) -> bool {
        self.closed.get() && self.sources.get() == 0
    }
}

/// Closes the flow with the last handle.
struct Open {
    meters: Meters,
    life: Rc<Life>,
}

impl Open {
    fn close(&self) {
        self.life.closed.set(true);
        self.meters.mark();
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.close();
    }
}

impl Flow {
    /// Builds the dataflow that marks and reports travel by: on every worker alike, before the dataflows that it serves.
    pub fn build(worker: &mut Worker) -> Flow {
        let ledger = Rc::new(RefCell::new(Ledger::new(worker.index(), worker.peers())));
        let life = Rc::new(Life::default());
        let motion = (worker.peers() > 1).then(|| dataflow::build(worker, &ledger, &life));
        let meters = Meters { ledger, motion };
        Flow { open: Rc::new(Open { meters: meters.clone(), life }), meters }
    }

    /// No source of this worker will be built any more; without this the job does not end while a handle is alive.
    pub fn close(&self) {
        self.open.close();
    }

    /// A listener for the load of one operator with these limits, to be given to it as its `on_load`.
    pub fn meter(&self, limits: Limits) -> Box<dyn Fn(Load)> {
        self.meters.meter(limits)
    }

    /// What makes meters, without keeping the flow open.
    pub fn meters(&self) -> Meters {
        self.meters.clone()
    }

    /// A source of this worker begins: the other workers are asked for reports.
    ///
    /// # Panics
    /// When the flow is closed: there would be nobody to ask.
    pub(crate) fn attach(&self) -> Attached {
        let life = Rc::clone(&self.open.life);
        assert!(!life.closed.get(), "sources are built before their flow is closed");
        life.sources.set(life.sources.get() + 1);
        let meters = self.meters();
        meters.ledger.borrow_mut().attached = true;
        meters.mark();
        Attached { meters, life }
    }
}

impl Attached {
    /// Bytes after which a source ends its activation, so that they can be counted.
    pub(crate) const CHUNK_BYTES: usize = CHUNK_BYTES;

    /// Whether a record of `epoch` may be sent; if not, `source` is activated when this may have changed. `opened` if the
    /// source has sent some of this epoch before.
    pub(crate) fn admits(&self, epoch: u64, opened: bool, source: &Activator) -> bool {
        self.meters.ledger.borrow_mut().admits(epoch, opened, source)
    }

    /// Counts what the source has sent.
    pub(crate) fn sent(&self, records: usize, bytes: usize) {
        if self.meters.ledger.borrow_mut().sent(records, bytes) {
            self.meters.mark();
        }
    }
}

impl Drop for Attached {
    fn drop(&mut self) {
        self.life.sources.set(self.life.sources.get() - 1);
        self.meters.mark();
    }
}

impl Meters {
    /// Lets the marks that are due leave, or the end be seen.
    fn mark(&self) {
        if let Some(motion) = &self.motion {
            motion.marks.activate();
        }
    }

    /// A listener for the load of one operator with these limits, to be given to it as its `on_load`.
    pub fn meter(&self, limits: Limits) -> Box<dyn Fn(Load)> {
        let meter = self.ledger.borrow_mut().add_meter();
        let meters = self.clone();
        Box::new(move |load| {
            let changed = meters.ledger.borrow_mut().measure(meter, Pressure::of(&limits, &load));
            if changed && let Some(motion) = &meters.motion {
                motion.meter.activate();
            }
        })
    }
}
