//! Closes the agents of a failed job: every worker of the process is asked to, and waited for a while.
//!
//! # Invariants
//! - A worker closes at most once, and parks for ever afterwards: its capabilities stay.
//! - The process waits at most [`PATIENCE`] for its workers: one that is stuck in user code is left to the exit.
//!
//! Not here: what an agent does when it closes (`operators::stop`, `behavior`).

use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread::{self, Thread};
use std::time::Duration;

use timely::worker::Worker;
use timely_agents_operators::cluster::Control;
use timely_agents_operators::quiet;
use timely_agents_operators::stop::Stop;

/// How long a failed process waits for its workers to close their agents.
const PATIENCE: Duration = Duration::from_secs(2);

/// Asks the workers of a process to close, once the job has failed. Clones are handles.
#[derive(Clone, Default)]
pub(super) struct Closing {
    shared: Arc<Shared>,
}

#[derive(Default)]
struct Shared {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    asked: bool,
    /// Workers at work.
    open: Vec<Thread>,
}

impl Closing {
    /// Registers this thread; until the guard is dropped the process, if it fails, waits for it.
    pub(super) fn enter(&self) -> Entered {
        self.shared.lock().open.push(thread::current());
        Entered(self.clone())
    }

    /// Whether the job has failed.
    fn is_asked(&self) -> bool {
        self.shared.lock().asked
    }

    /// Asks all workers and waits for them; runs when the job has failed.
    pub(super) fn close(&self) {
        let mut state = self.shared.lock();
        state.asked = true;
        for worker in &state.open {
            worker.unpark();
        }
        let waiting = |state: &mut State| !state.open.is_empty();
        let (state, timeout) =
            self.shared.changed.wait_timeout_while(state, PATIENCE, waiting).unwrap_or_else(PoisonError::into_inner);
        if timeout.timed_out() {
            tracing::warn!(workers = state.open.len(), "workers did not close their agents in time");
        }
    }
}

impl Shared {
    /// No panic comes between two writes to the state.
    fn lock(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// This thread is at work.
pub(super) struct Entered(Closing);

impl Entered {
    /// Runs the worker until its dataflows are complete; if the job fails, closes its agents and never returns.
    pub(super) fn work(self, worker: &mut Worker, stop: &Stop) {
        while worker.has_dataflows() {
            if self.0.is_asked() {
                close_agents(worker, stop);
                drop(self);
                loop {
                    thread::park();
                }
            }
            worker.step_or_park(None);
        }
    }
}

impl Drop for Entered {
    fn drop(&mut self) {
        let shared = &self.0.shared;
        let this = thread::current().id();
        shared.lock().open.retain(|worker| worker.id() != this);
        shared.changed.notify_all();
    }
}

/// Has the agents of this worker close, by one more step.
pub(super) fn close_agents(worker: &mut Worker, stop: &Stop) {
    stop.ask();
    // The job has failed: what else the step brings about, a panic included, changes nothing.
    if let Err(panic) = quiet::catch(|| worker.step()) {
        tracing::debug!(%panic, "a worker could not close its agents");
    }
}

/// Has `closing` run when the job fails.
pub(super) fn on_failure(closing: &Closing, control: &Control) {
    let closing = closing.clone();
    control.on_failure(move || closing.close());
}
