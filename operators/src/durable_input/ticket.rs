//! The promise of an acknowledgement.

use std::fmt;
use std::pin::Pin;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};

/// Settled when the epoch of a record is committed: a future, and something to wait for. It gives the epoch.
#[derive(Clone)]
pub struct Ticket {
    cell: Arc<Cell>,
}

/// The job ended before the record's epoch was known to be committed. Send the record again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the job ended before the record was known to be committed; send it again")]
pub struct Unacknowledged;

#[derive(Default)]
struct Cell {
    state: Mutex<State>,
    settled: Condvar,
}

#[derive(Default)]
struct State {
    outcome: Option<Result<u64, Unacknowledged>>,
    wakers: Vec<Waker>,
}

impl Ticket {
    pub(super) fn new() -> Self {
        Ticket { cell: Arc::default() }
    }

    /// The outcome, if there is one yet.
    pub fn outcome(&self) -> Option<Result<u64, Unacknowledged>> {
        self.cell.lock().outcome
    }

    /// Waits for the outcome. Not for workers, which never block.
    ///
    /// # Errors
    /// The job ended before.
    pub fn wait(&self) -> Result<u64, Unacknowledged> {
        let mut state = self.cell.lock();
        loop {
            if let Some(outcome) = state.outcome {
                return outcome;
            }
            state = self.cell.settled.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// The first outcome counts.
    pub(super) fn settle(&self, outcome: Result<u64, Unacknowledged>) {
        let wakers = {
            let mut state = self.cell.lock();
            state.outcome.get_or_insert(outcome);
            std::mem::take(&mut state.wakers)
        };
        self.cell.settled.notify_all();
        wakers.into_iter().for_each(Waker::wake);
    }
}

impl Cell {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Future for Ticket {
    type Output = Result<u64, Unacknowledged>;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let mut state = self.cell.lock();
        if let Some(outcome) = state.outcome {
            return Poll::Ready(outcome);
        }
        if !state.wakers.iter().any(|waker| waker.will_wake(context.waker())) {
            state.wakers.push(context.waker().clone());
        }
        Poll::Pending
    }
}

impl fmt::Debug for Ticket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Ticket").field(&self.outcome()).finish()
    }
}

#[cfg(test)]
mod tests {
    use std::task::Wake;
    use std::thread;

    use super::*;

    struct Unpark(thread::Thread);

    impl Wake for Unpark {
        fn wake(self: Arc<Self>) {
            self.0.unpark();
        }
    }

    #[test]
    fn it_wakes_threads_and_futures_and_keeps_its_first_outcome() {
        let ticket = Ticket::new();
        let (waiting, polled) = (ticket.clone(), ticket.clone());
        let waiter = thread::spawn(move || waiting.wait());
        let poller = thread::spawn(move || {
            let waker = Waker::from(Arc::new(Unpark(thread::current())));
            let mut polled = polled;
            loop {
                match Pin::new(&mut polled).poll(&mut Context::from_waker(&waker)) {
                    Poll::Ready(outcome) => return outcome,
                    Poll::Pending => thread::park(),
                }
            }
        });
        assert_eq!(ticket.outcome(), None);
        ticket.settle(Ok(7));
        ticket.settle(Err(Unacknowledged));
        assert_eq!((waiter.join().unwrap(), poller.join().unwrap()), (Ok(7), Ok(7)));
    }
}
