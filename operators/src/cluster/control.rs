//! The handle through which any thread of a process ends the job.
//!
//! # Invariants
//! - The first failure counts; later ones are dropped.
//! - Every cleanup runs at most once, and all of them run if the job fails: those registered later, at once.

use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crossbeam::channel::Sender;

use super::failure::Failure;
use super::supervisor::Event;
use crate::quiet;

type Cleanup = Box<dyn FnOnce() + Send>;

/// Ends the job on request, from any thread of this process.
#[derive(Clone)]
pub struct Control {
    shared: Arc<Shared>,
}

struct Shared {
    process: usize,
    processes: usize,
    generation: u64,
    events: Option<Sender<Event>>,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    failure: Option<Failure>,
    cleanups: Vec<Cleanup>,
    cleaned: bool,
}

impl Control {
    pub(super) fn new(process: usize, processes: usize, generation: u64, events: Sender<Event>) -> Self {
        Self::with(process, processes, generation, Some(events))
    }

    /// A handle without a job, for tests: it keeps the first failure and tells nobody.
    pub fn detached() -> Self {
        Self::with(0, 1, 0, None)
    }

    fn with(process: usize, processes: usize, generation: u64, events: Option<Sender<Event>>) -> Self {
        let state = Mutex::default();
        Self { shared: Arc::new(Shared { process, processes, generation, events, state }) }
    }

    /// Ends the job in all its processes because of `failure`, unless it fails for another reason already.
    ///
    /// Returns at once. The caller must not let go of what the job still needs to be held, such as capabilities: it
    /// carries on or parks until the process ends.
    pub fn fail(&self, failure: Failure) {
        if self.shared.record(&failure)
            && let Some(events) = &self.shared.events
        {
            // Without a receiver the job has ended already.
            let _ = events.send(Event::Failed(failure));
        }
    }

    /// The first failure, if there was one.
    pub fn failure(&self) -> Option<Failure> {
        self.shared.state().failure.clone()
    }

    /// The index of this process.
    pub fn process(&self) -> usize {
        self.shared.process
    }

    /// How many processes the job has.
    pub fn processes(&self) -> usize {
        self.shared.processes
    }

    /// The run of the job, as configured.
    pub fn generation(&self) -> u64 {
        self.shared.generation
    }

    /// Runs `cleanup` if the job fails, before `execute` returns; at once if it has failed. Workers may still be
    /// running then. A panic in a cleanup is logged and does not keep the others from running.
    pub fn on_failure(&self, cleanup: impl FnOnce() + Send + 'static) {
        let mut state = self.shared.state();
        if state.cleaned {
            drop(state);
            run(Box::new(cleanup));
        } else {
            state.cleanups.push(Box::new(cleanup));
        }
    }

    /// Records what the job ends with and runs the cleanups, newest first.
    pub(super) fn clean(&self, failure: &Failure) {
        self.shared.record(failure);
        let cleanups = {
            let mut state = self.shared.state();
            state.cleaned = true;
            std::mem::take(&mut state.cleanups)
        };
        cleanups.into_iter().rev().for_each(run);
    }
}

impl fmt::Debug for Control {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Control")
            .field("process", &self.shared.process)
            .field("processes", &self.shared.processes)
            .field("failure", &self.failure())
            .finish_non_exhaustive()
    }
}

impl Shared {
    /// A panic cannot happen between two writes to the state, so a poisoned lock is as good as a whole one.
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether this is the first failure.
    fn record(&self, failure: &Failure) -> bool {
        let mut state = self.state();
        let first = state.failure.is_none();
        if first {
            state.failure = Some(failure.clone());
        }
        first
    }
}

fn run(cleanup: Cleanup) {
    if let Err(panic) = quiet::catch(cleanup) {
        tracing::warn!(%panic, "a cleanup after a failure failed itself");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_failure_counts() {
        let control = Control::detached();
        assert_eq!(control.failure(), None);
        control.fail(Failure::data("first"));
        control.clone().fail(Failure::panic("second"));
        assert_eq!(control.failure(), Some(Failure::data("first")));
    }

    #[test]
    fn cleanups_run_once_newest_first_and_late_ones_at_once() {
        quiet::install();
        let (tell, told) = std::sync::mpsc::channel();
        let control = Control::detached();
        let note = |n: u32| {
            let tell = tell.clone();
            move || tell.send(n).unwrap()
        };
        control.on_failure(note(1));
        control.on_failure(|| panic!("a cleanup that fails"));
        control.on_failure(note(2));
        control.clean(&Failure::data("x"));
        control.clean(&Failure::data("y"));
        control.on_failure(note(3));
        assert_eq!(told.try_iter().collect::<Vec<_>>(), [2, 1, 3]);
        assert_eq!(control.failure(), Some(Failure::data("x")));
    }
}
