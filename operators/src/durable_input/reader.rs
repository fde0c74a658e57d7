//! The end of a durable input that a source reads.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use super::{Shared, Waiting};
use crate::clock::Clock;
use crate::cluster::Failure;
use crate::source::{Next, Opening, Reader};

/// Gives what was pushed, at the epoch that ticks.
pub struct DurableReader<I> {
    shared: Arc<Shared<I>>,
    epoch: u64,
    clock: Clock,
    /// When the epoch ends by itself.
    tick_at: Option<u64>,
}

impl<I> DurableReader<I> {
    pub(super) fn new(shared: Arc<Shared<I>>) -> Self {
        DurableReader { shared, epoch: 0, clock: Clock::system(), tick_at: None }
    }

    fn schedule(&mut self) {
        self.tick_at = self.shared.period.map(|period| self.clock.now() + period.as_micros() as u64);
    }

    fn tick(&mut self) -> Next<I> {
        self.epoch += 1;
        self.schedule();
        Next::Epoch(self.epoch)
    }
}

impl<I: Send + 'static> Reader for DurableReader<I> {
    type Item = I;

    /// Of what is there now.
    fn next(&mut self) -> Result<Option<(u64, I)>, Failure> {
        loop {
            match self.poll()? {
                Next::Record(epoch, record) => return Ok(Some((epoch, record))),
                Next::Epoch(_) => {}
                Next::Idle(_) | Next::End => return Ok(None),
            }
        }
    }

    fn poll(&mut self) -> Result<Next<I>, Failure> {
        let left = self.tick_at.map(|at| self.clock.until(at));
        if left.is_some_and(|left| left.is_zero()) {
            return Ok(self.tick());
        }
        let mut state = self.shared.lock();
        match state.waiting.pop_front() {
            Some(Waiting::Record(record, ticket)) => {
                state.taken.entry(self.epoch).or_default().push(ticket);
                Ok(Next::Record(self.epoch, record))
            }
            Some(Waiting::Tick) => {
                drop(state);
                Ok(self.tick())
            }
            None if state.closed => Ok(Next::End),
            // A timer may be a little early; less than a millisecond is not worth one.
            None => Ok(Next::Idle(left.map(|left| left.max(Duration::from_millis(1))))),
        }
    }

    fn open(&mut self, opening: Opening) -> Result<(), Failure> {
        let Some(sources) = opening.sources else {
            return Err(Failure::usage(
                "a durable input needs a job with checkpoints: without commits nothing is acknowledged",
            ));
        };
        self.epoch = opening.epoch;
        self.schedule();
        let shared = Arc::clone(&self.shared);
        sources.on_committed(move |frontier| shared.committed(frontier));
        let shared = Arc::clone(&self.shared);
        opening.control.on_failure(move || shared.abandon());
        let mut state = self.shared.lock();
        state.waker = Some(opening.waker);
        // What was pushed before.
        state.wake();
        Ok(())
    }

    /// Nothing can be read again, and nothing has to be: what is not committed is not acknowledged.
    fn position(&self) -> Option<Vec<u8>> {
        Some(Vec::new())
    }

    fn seek(&mut self, _: &[u8]) -> Result<(), Failure> {
        Ok(())
    }
}

/// What was taken may still be committed; what was not never will be.
impl<I> Drop for DurableReader<I> {
    fn drop(&mut self) {
        self.shared.end();
    }
}

impl<I> fmt::Debug for DurableReader<I> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DurableReader").field("epoch", &self.epoch).finish_non_exhaustive()
    }
}
