//! The thread that stages the output of a sink, epoch by epoch.
//!
//! Workers hand over bytes with their epochs, and tell which epochs are closed at them. When an epoch is closed at all
//! workers of the process, its file is completed and synced, and its folder; then the workers that had a part in it are
//! told, and one of them acknowledges.
//!
//! # Invariants
//! - Who acknowledges an epoch has the file of the whole process durable.
//! - An epoch without bytes has no file.
//! - Files of a generation are in a folder of their own: an older generation cannot touch them (rule D9).
//! - Bytes of an open epoch beyond a mebibyte wait in its file and not in memory.
//!
//! Not here: bounds for what was handed over and is not written yet; capabilities (`stage`), the thread's work (`staging`), and what is visible (`publish`).

use std::fmt;
use std::io;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;

use crossbeam::channel::{Sender, unbounded};
use timely::scheduling::SyncActivator;

use super::backlog::Backlog;
use super::naming::{Naming, Place};
use super::publish::{check_name, create_folder, stage_of};
use super::reason;
use super::staging::Staging;
use super::step::step;
use crate::checkpoint::{Publication, failpoint};
use crate::cluster::{Control, Failure};
use crate::files::{self, Files};

/// How a stager is set up.
#[derive(Clone, Debug)]
pub struct StagerOptions {
    /// The sink's name: one of its own in the job, made of letters, digits, `-`, `_` and `.`.
    pub sink: String,
    /// Where its output becomes visible.
    pub place: Place,
    /// The number of this start of the job.
    pub generation: u64,
    /// This process.
    pub process: usize,
    /// How many workers of this process hand over; each does so through one operator.
    pub workers: usize,
    /// The frontier of the checkpoint from which the job goes on: epochs below are over.
    pub resume: u64,
}

/// Stages the output of one sink for all workers of a process. Clones are handles of the same.
#[derive(Clone)]
pub struct Stager {
    shared: Arc<Shared>,
}

struct Shared {
    sink: String,
    resume: u64,
    workers: usize,
    to_thread: Sender<Message>,
    seats: Mutex<Vec<Arc<Inbox>>>,
    backlog: Backlog,
}

/// What a worker is told.
pub(super) struct Inbox {
    done: Mutex<Vec<Staged>>,
    waker: SyncActivator,
}

impl Inbox {
    pub(super) fn put(&self, staged: Staged) {
        self.done.lock().unwrap_or_else(PoisonError::into_inner).push(staged);
    }

    pub(super) fn wake(&self) {
        // An error means that the worker is gone, and its operator with it.
        let _ = self.waker.activate();
    }
}

/// An epoch is durable.
pub(super) struct Staged {
    pub(super) epoch: u64,
    /// For the one worker that acknowledges it.
    pub(super) publication: Option<Publication>,
}

/// What the thread is told.
pub(super) enum Message {
    Seat(Arc<Inbox>),
    Bytes {
        worker: usize,
        epoch: u64,
        header: Vec<u8>,
        bytes: Vec<u8>,
    },
    /// The worker has handed over all below.
    Closed {
        worker: usize,
        frontier: Option<u64>,
    },
}

impl Stager {
    /// Prepares the folders, and starts the thread. What fails later ends the job.
    ///
    /// # Errors
    /// The name does not fit, or a folder cannot be created.
    pub fn new(options: StagerOptions, control: &Control) -> Result<Self, Failure> {
        Self::on(files::system(), options, control)
    }

    /// As [`Stager::new`], on other files than the system's.
    pub(super) fn on(files: Arc<dyn Files>, options: StagerOptions, control: &Control) -> Result<Self, Failure> {
        let StagerOptions { sink, place, generation, process, workers, resume } = options;
        check_name(&sink)?;
        // A later start may be elsewhere.
        let dir = std::path::absolute(place.dir()).map_err(|error| failed(&sink, "find", place.dir(), &error))?;
        let stage = stage_of(&dir, &sink, generation);
        let naming = Naming::new(&sink, process, &stage, &dir, place)?;
        step("sink.stage.create", || create_folder(&*files, &stage))
            .map_err(|error| failed(&sink, "create", &stage, &error))?;
        let (to_thread, messages) = unbounded();
        let backlog = Backlog::default();
        let mut staging = Staging::new(files, naming, workers, backlog.clone(), control.clone());
        thread::Builder::new()
            .name(format!("stage-{sink}"))
            .spawn(failpoint::inherited(move || staging.run(&messages)))
            .map_err(|error| Failure::data(format!("sink {sink}: cannot start its thread: {error}")))?;
        Ok(Stager { shared: Arc::new(Shared { sink, resume, workers, to_thread, seats: Mutex::default(), backlog }) })
    }

    /// The sink's name.
    pub fn sink(&self) -> &str {
        &self.shared.sink
    }

    /// Epochs below are over.
    pub fn resume(&self) -> u64 {
        self.shared.resume
    }

    /// A worker takes part, through the operator that `waker` wakes.
    ///
    /// # Panics
    /// When more operators than workers want to.
    pub(super) fn join(&self, waker: SyncActivator) -> Seat {
        let inbox = Arc::new(Inbox { done: Mutex::default(), waker });
        let mut seats = self.shared.seats.lock().unwrap_or_else(PoisonError::into_inner);
        assert!(seats.len() < self.shared.workers, "sink {}: one operator on each worker", self.shared.sink);
        // Under the lock, so that the thread sees seats in their order.
        let _ = self.shared.to_thread.send(Message::Seat(Arc::clone(&inbox)));
        seats.push(Arc::clone(&inbox));
        Seat { worker: seats.len() - 1, inbox, stager: self.clone() }
    }
}

impl fmt::Debug for Stager {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Stager").field("sink", &self.shared.sink).finish_non_exhaustive()
    }
}

/// A worker's end of a stager.
pub(super) struct Seat {
    worker: usize,
    inbox: Arc<Inbox>,
    stager: Stager,
}

impl Seat {
    pub(super) fn sink(&self) -> &str {
        self.stager.sink()
    }

    pub(super) fn resume(&self) -> u64 {
        self.stager.resume()
    }

    pub(super) fn write(&self, epoch: u64, header: Vec<u8>, bytes: Vec<u8>) {
        self.backlog().add(bytes.len());
        self.send(Message::Bytes { worker: self.worker, epoch, header, bytes });
    }

    /// What the thread has not written yet, of all workers.
    pub(super) fn backlog(&self) -> &Backlog {
        &self.stager.shared.backlog
    }

    pub(super) fn close(&self, frontier: Option<u64>) {
        self.send(Message::Closed { worker: self.worker, frontier });
    }

    /// What has become durable since it was last asked.
    pub(super) fn staged(&self) -> Vec<Staged> {
        std::mem::take(&mut *self.inbox.done.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn send(&self, message: Message) {
        // Without the thread the job has failed.
        let _ = self.stager.shared.to_thread.send(message);
    }
}

pub(super) fn failed(sink: &str, what: &str, path: &Path, error: &io::Error) -> Failure {
    Failure::data(format!("sink {sink}: cannot {what} {}: {}", path.display(), reason(error)))
}
