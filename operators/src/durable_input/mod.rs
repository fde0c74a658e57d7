//! Records from any thread of the process, acknowledged when they are committed.
//!
//! What comes over a socket or in a request cannot be read again after a crash. Its safety is the acknowledgement: a
//! record's [`Ticket`] is settled only when the record's epoch is committed, so who got no acknowledgement sends again,
//! and who got one never has to.
//!
//! Epochs tick when they are asked to ([`DurableInput::tick`]) or by a period, also while no record comes: the sources
//! of a job commit together, and an epoch that stays open here stays open for all.
//!
//! # Invariants
//! - At most as many records as the input's capacity are unacknowledged; beyond that it refuses (rule S9).
//! - Records keep the order in which they were pushed, and ticks their place among them.
//! - No ticket is acknowledged before its epoch is committed, and none waits for ever: when the job fails, or the input
//!   ends before a record was taken, its ticket says that nothing is known.
//!
//! In a job of several processes it is the handle of the process that reads the source that takes records.
//!
//! Not here: who listens to clients, and how a client's second sending is told from a second record; give records an
//! identity of their own for that.

mod reader;
mod ticket;

use std::collections::{BTreeMap, VecDeque};
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use timely::scheduling::SyncActivator;

pub use self::reader::DurableReader;
pub use self::ticket::{Ticket, Unacknowledged};

use crate::cluster::Failure;

/// Where threads leave records for a source. Clones are handles of the same.
pub struct DurableInput<I> {
    shared: Arc<Shared<I>>,
}

/// A record that was not taken.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refused<I> {
    /// As many records are unacknowledged as may be. Try again when some of them are not any more.
    #[error("the input is full: as many records are unacknowledged as may be")]
    Full(I),
    /// The input was closed, or its job has ended.
    #[error("the input is closed")]
    Closed(I),
}

struct Shared<I> {
    capacity: usize,
    period: Option<Duration>,
    state: Mutex<State<I>>,
}

struct State<I> {
    waiting: VecDeque<Waiting<I>>,
    /// How many records are unacknowledged: those that wait, and those that were taken.
    records: usize,
    /// By epoch, what was taken and is not committed.
    taken: BTreeMap<u64, Vec<Ticket>>,
    has_reader: bool,
    closed: bool,
    waker: Option<SyncActivator>,
}

enum Waiting<I> {
    Record(I, Ticket),
    Tick,
}

impl<I> DurableInput<I> {
    /// An input of which up to `capacity` records may be unacknowledged, and whose epochs tick when asked to.
    pub fn new(capacity: usize) -> Self {
        Self::with(capacity, None)
    }

    /// An input whose epochs tick after every `period` as well.
    pub fn ticking(capacity: usize, period: Duration) -> Self {
        Self::with(capacity, Some(period))
    }

    fn with(capacity: usize, period: Option<Duration>) -> Self {
        let state = State {
            waiting: VecDeque::new(),
            records: 0,
            taken: BTreeMap::new(),
            has_reader: false,
            closed: false,
            waker: None,
        };
        DurableInput { shared: Arc::new(Shared { capacity: capacity.max(1), period, state: Mutex::new(state) }) }
    }

    /// Hands a record over; returns at once.
    ///
    /// # Errors
    /// The record itself, if it was not taken.
    pub fn push(&self, record: I) -> Result<Ticket, Refused<I>> {
        let mut state = self.shared.lock();
        if state.closed {
            return Err(Refused::Closed(record));
        }
        if state.records >= self.shared.capacity {
            return Err(Refused::Full(record));
        }
        let ticket = Ticket::new();
        state.records += 1;
        state.put(Waiting::Record(record, ticket.clone()));
        Ok(ticket)
    }

    /// Ends the present epoch behind the records that were pushed so far.
    pub fn tick(&self) {
        self.shared.lock().put(Waiting::Tick);
    }

    /// No more records: the source ends when it has taken those that wait.
    pub fn close(&self) {
        let mut state = self.shared.lock();
        state.closed = true;
        state.wake();
    }

    /// What a source reads; there is one.
    ///
    /// # Errors
    /// When it was asked for before.
    pub fn reader(&self) -> Result<DurableReader<I>, Failure> {
        let mut state = self.shared.lock();
        if std::mem::replace(&mut state.has_reader, true) {
            return Err(Failure::usage("a durable input feeds one source; make another input for another source"));
        }
        Ok(DurableReader::new(Arc::clone(&self.shared)))
    }
}

impl<I> Shared<I> {
    /// A panic cannot happen between two writes to the state, so a poisoned lock is as good as a whole one.
    fn lock(&self) -> MutexGuard<'_, State<I>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Everything below `frontier` is committed; with `None`, everything.
    fn committed(&self, frontier: Option<u64>) {
        let settled = {
            let mut state = self.lock();
            let later = frontier.map_or_else(BTreeMap::new, |frontier| state.taken.split_off(&frontier));
            let settled = std::mem::replace(&mut state.taken, later);
            state.records -= settled.values().map(Vec::len).sum::<usize>();
            settled
        };
        for (epoch, tickets) in settled {
            for ticket in tickets {
                ticket.settle(Ok(epoch));
            }
        }
    }

    /// No more records are taken.
    fn end(&self) {
        let mut refused = Vec::new();
        {
            let mut state = self.lock();
            state.closed = true;
            for entry in std::mem::take(&mut state.waiting) {
                if let Waiting::Record(_, ticket) = entry {
                    refused.push(ticket);
                }
            }
            state.records -= refused.len();
        }
        for ticket in refused {
            ticket.settle(Err(Unacknowledged));
        }
    }

    /// Nothing more will be heard of commits.
    fn abandon(&self) {
        self.end();
        let taken: Vec<Ticket> = {
            let mut state = self.lock();
            let taken: Vec<_> = std::mem::take(&mut state.taken).into_values().flatten().collect();
            state.records -= taken.len();
            taken
        };
        for ticket in taken {
            ticket.settle(Err(Unacknowledged));
        }
    }
}

impl<I> State<I> {
    fn put(&mut self, entry: Waiting<I>) {
        self.waiting.push_back(entry);
        // Who has not taken what was there before will come for it and for this.
        if self.waiting.len() == 1 {
            self.wake();
        }
    }

    fn wake(&self) {
        if let Some(waker) = &self.waker {
            // An error means that the worker is gone, and its source with it.
            let _ = waker.activate();
        }
    }
}

impl<I> Clone for DurableInput<I> {
    fn clone(&self) -> Self {
        DurableInput { shared: Arc::clone(&self.shared) }
    }
}

impl<I> fmt::Debug for DurableInput<I> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let state = self.shared.lock();
        f.debug_struct("DurableInput")
            .field("unacknowledged", &state.records)
            .field("closed", &state.closed)
            .finish_non_exhaustive()
    }
}
