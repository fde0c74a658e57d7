//! The thread that commits (rule D3).
//!
//! ```text
//! acks, frontier ──▶ commit: next manifest ──▶ link to the chain ──▶ publications ──▶ told ──▶ removal of old files
//! ```
//!
//! # Invariants
//! - Nothing is published before its manifest is durable, and nothing is told before all is published.
//! - The publications of the checkpoint that was resumed are done again before anything else.
//! - After the first error nothing is committed, published or removed, and the job has been told to fail.

use std::fmt;
use std::io;
use std::sync::Arc;
use std::thread;

use crossbeam::channel::{Receiver, Sender, unbounded};

use super::ack::{Ack, Publication};
use super::chain::{Chain, Link};
use super::commit::{Command, Commit, Event};
use super::error::Error;
use super::failpoint::{self, step};
use super::gc::Kept;
use super::manifest::Manifest;
use super::store::StoreLock;
use crate::cluster::{Control, Failure};
use crate::quiet;

/// Does the publications of a commit, durably; doing them twice does no harm.
pub type Publish = Box<dyn FnMut(&[Publication]) -> io::Result<()> + Send>;

/// Told of the frontier below which all is committed.
pub type Told = Box<dyn FnMut(Option<u64>) + Send>;

/// A handle of the committer; clones are handles of the same. It ends with the last of them.
#[derive(Clone)]
pub struct Committer {
    to_thread: Sender<Event>,
}

impl fmt::Debug for Committer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Committer").field("waiting", &self.to_thread.len()).finish_non_exhaustive()
    }
}

impl Committer {
    /// Word that came at `epoch`. Returns at once.
    pub fn ack(&self, epoch: u64, ack: Ack) {
        // A committer that failed has ended the job.
        let _ = self.to_thread.send(Event::Ack { epoch, ack });
    }

    /// All word of epochs below `frontier` has come; with `None` all there will ever be. Returns at once.
    pub fn advance(&self, frontier: Option<u64>) {
        let _ = self.to_thread.send(Event::Frontier(frontier));
    }

    /// Starts the thread.
    pub(crate) fn start(parts: Parts, publish: Publish, told: Told, control: Control) -> Result<Self, Error> {
        let (to_thread, events) = unbounded();
        let commit = Commit::new(parts.start.clone());
        let mut thread = Thread { parts, commit, publish, told };
        thread::Builder::new()
            .name("checkpoint-commit".to_owned())
            .spawn(failpoint::inherited(move || match quiet::catch(|| thread.run(&events)) {
                Ok(Ok(())) => {}
                Ok(Err(error)) => control.fail(error.into()),
                Err(panic) => control.fail(Failure::panic(format!("the committer {panic}"))),
            }))
            .map_err(|error| Error::Thread { name: "checkpoint-commit", error })?;
        Ok(Committer { to_thread })
    }
}

/// What the thread works with.
#[derive(Debug)]
pub(crate) struct Parts {
    pub chain: Chain,
    /// From where it goes on.
    pub start: Manifest,
    /// Whether that is a checkpoint, or the beginning of the job.
    pub resumed: bool,
    pub kept: Kept,
    #[expect(dead_code, reason = "it is held as long as the thread lives")]
    pub lock: Option<Arc<StoreLock>>,
}

struct Thread {
    parts: Parts,
    commit: Commit,
    publish: Publish,
    told: Told,
}

impl Thread {
    fn run(&mut self, events: &Receiver<Event>) -> Result<(), Error> {
        let start = std::mem::take(&mut self.parts.start.publications);
        self.publish_all(&start)?;
        if self.parts.resumed {
            self.tell(self.commit.last().frontier)?;
        }
        while let Ok(event) = events.recv() {
            let mut commands = self.commit.step(event);
            // What has come meanwhile goes into one manifest.
            while let Some(Command::Committed(_)) | None = commands.last() {
                match events.try_recv() {
                    Ok(event) => commands.extend(self.commit.step(event)),
                    Err(_) => break,
                }
            }
            self.perform(commands)?;
        }
        Ok(())
    }

    fn perform(&mut self, mut commands: Vec<Command>) -> Result<(), Error> {
        while !commands.is_empty() {
            for command in std::mem::take(&mut commands) {
                match command {
                    Command::Committed(frontier) => self.tell(frontier)?,
                    Command::Write(manifest) => {
                        self.write(*manifest)?;
                        commands = self.commit.step(Event::Written);
                    }
                }
            }
        }
        Ok(())
    }

    fn write(&mut self, manifest: Manifest) -> Result<(), Error> {
        let store = Arc::clone(self.parts.chain.store());
        let link = Link::Manifest(manifest);
        let mut added = Ok(0);
        step("commit.manifest", || {
            added = self.parts.chain.add(&link);
            Ok(())
        })
        .map_err(|error| Error::Io { action: "commit to", file: store.describe("chain"), error })?;
        let (number, Link::Manifest(manifest)) = (added?, link) else { return Ok(()) };
        tracing::debug!(number, frontier = ?manifest.frontier, "a checkpoint is durable");
        self.publish_all(&manifest.publications)?;
        self.parts.kept.add(&*store, number, &manifest)
    }

    fn publish_all(&mut self, publications: &[Publication]) -> Result<(), Error> {
        if publications.is_empty() {
            return Ok(());
        }
        step("commit.publish", || (self.publish)(publications)).map_err(|error| {
            let (Publication::Rename { from, .. } | Publication::Apply { from, .. }) = &publications[0];
            Error::Io { action: "publish", file: from.clone(), error }
        })
    }

    fn tell(&mut self, frontier: Option<u64>) -> Result<(), Error> {
        let told = step("commit.done", || {
            (self.told)(frontier);
            Ok(())
        });
        told.map_err(|error| Error::Io { action: "tell of the commit in", file: String::new(), error })
    }
}
