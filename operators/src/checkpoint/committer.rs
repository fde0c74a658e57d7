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
use std::thread::{self, JoinHandle};

use crossbeam::channel::{Receiver, Sender, select_biased, unbounded};

use super::ack::{Ack, Publication};
use super::chain::{Chain, Link};
use super::commit::{Command, Commit, Compacted, Event};
use super::compact::{self, Compaction};
use super::error::Error;
use super::failpoint::{self, step};
use super::gc::Kept;
use super::manifest::{Manifest, SegmentRef, SnapshotRef};
use super::record::Compression;
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
    /// What is sent here is dropped when there is nothing else to do.
    idle: Sender<Sender<()>>,
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

    /// Waits until all that follows from earlier word is done, a compaction too, or has failed. For simulations, whose
    /// steps follow one another.
    pub fn settle(&self) {
        let (tell, told) = unbounded();
        // A committer that failed drops it at once.
        let _ = self.idle.send(tell);
        let _ = told.recv();
    }

    /// Starts the thread.
    pub(crate) fn start(parts: Parts, publish: Publish, told: Told, control: Control) -> Result<Self, Error> {
        let (to_thread, events) = unbounded();
        let (idle, waiting) = unbounded();
        let commit = Commit::new(parts.start.clone());
        let compactor = Compactor::new(control.clone());
        let mut thread = Thread { parts, commit, publish, told, compactor };
        thread::Builder::new()
            .name("checkpoint-commit".to_owned())
            .spawn(failpoint::inherited(move || {
                match quiet::catch(|| thread.run(&events, &waiting)) {
                    Ok(Ok(())) => {}
                    Ok(Err(error)) => control.fail(error.into()),
                    Err(panic) => control.fail(Failure::panic(format!("the committer {panic}"))),
                }
                // Whoever waits for this thread finds the store at rest.
                drop(thread.compactor.finish());
            }))
            .map_err(|error| Error::Thread { name: "checkpoint-commit", error })?;
        Ok(Committer { to_thread, idle })
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
    pub compaction: Compaction,
    pub compression: Compression,
    #[expect(dead_code, reason = "it is held as long as the thread lives")]
    pub lock: Option<Arc<StoreLock>>,
}

struct Thread {
    parts: Parts,
    commit: Commit,
    publish: Publish,
    told: Told,
    compactor: Compactor,
}

impl Thread {
    fn run(&mut self, events: &Receiver<Event>, waiting: &Receiver<Sender<()>>) -> Result<(), Error> {
        let start = std::mem::take(&mut self.parts.start.publications);
        self.publish_all(&start)?;
        if self.parts.resumed {
            self.tell(self.commit.last().frontier)?;
        }
        let mut idle = Vec::new();
        loop {
            // What was told before may have been seen after the question.
            if !idle.is_empty() && events.is_empty() {
                if let Some(compacted) = self.compactor.finish() {
                    let commands = self.commit.step(Event::Compacted(compacted));
                    self.perform(commands)?;
                }
                idle.clear();
            }
            let event = select_biased! {
                recv(self.compactor.done) -> compacted => match compacted {
                    Ok(compacted) => Event::Compacted(compacted),
                    Err(_) => unreachable!("the compactor keeps a sender"),
                },
                recv(events) -> event => match event {
                    Ok(event) => event,
                    Err(_) => return Ok(()),
                },
                recv(waiting) -> who => {
                    idle.extend(who);
                    continue;
                },
            };
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
    }

    fn perform(&mut self, mut commands: Vec<Command>) -> Result<(), Error> {
        let mut written = None;
        while !commands.is_empty() {
            for command in std::mem::take(&mut commands) {
                match command {
                    Command::Committed(frontier) => {
                        self.tell(frontier)?;
                        // Nobody waits for what comes now.
                        if let Some((number, manifest)) = written.take() {
                            self.parts.kept.add(&**self.parts.chain.store(), number, &manifest)?;
                            self.compactor.consider(&self.parts, manifest)?;
                        }
                    }
                    Command::Write(manifest) => {
                        written = Some(self.write(*manifest)?);
                        commands = self.commit.step(Event::Written);
                    }
                }
            }
        }
        Ok(())
    }

    /// Makes a manifest durable, then its publications; says its number.
    fn write(&mut self, manifest: Manifest) -> Result<(u64, Manifest), Error> {
        let file = self.parts.chain.store().describe("chain");
        let mut added = Ok(0);
        step("commit.manifest", || {
            added = self.parts.chain.add(&Link::Manifest(manifest.clone()));
            Ok(())
        })
        .map_err(|error| Error::Io { action: "commit to", file, error })?;
        let number = added?;
        tracing::debug!(number, frontier = ?manifest.frontier, "a checkpoint is durable");
        self.publish_all(&manifest.publications)?;
        Ok((number, manifest))
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
        let file = self.parts.chain.store().describe("");
        let told = step("commit.done", || {
            (self.told)(frontier);
            Ok(())
        });
        told.map_err(|error| Error::Io { action: "tell of a commit of", file, error })
    }
}

/// Turns logs into snapshots, on a thread for each.
struct Compactor {
    control: Control,
    tell: Sender<Compacted>,
    done: Receiver<Compacted>,
    /// The number of the next snapshot.
    next: u32,
    state: Compacting,
    thread: Option<JoinHandle<()>>,
    /// Bytes of logs that the last compaction could not make do without.
    left: u64,
}

enum Compacting {
    Idle,
    /// Until a manifest names the snapshot of this number.
    Until(u32),
}

impl Compactor {
    fn new(control: Control) -> Self {
        let (tell, done) = unbounded();
        Compactor { control, tell, done, next: 0, state: Compacting::Idle, thread: None, left: 0 }
    }

    /// Waits for the compaction that is under way; what came of it.
    fn finish(&mut self) -> Option<Compacted> {
        // It catches its panics.
        let _ = self.thread.take()?.join();
        self.done.try_recv().ok()
    }

    /// Begins a compaction if the logs have become long enough.
    fn consider(&mut self, parts: &Parts, manifest: Manifest) -> Result<(), Error> {
        let generation = manifest.generation;
        let logged = |segments: &[SegmentRef]| segments.iter().map(|segment| segment.length).sum::<u64>();
        if let Compacting::Until(number) = self.state {
            if manifest.base.as_ref().is_none_or(|base| (base.generation, base.number) != (generation, number)) {
                return Ok(());
            }
            self.state = Compacting::Idle;
            self.left = logged(&manifest.segments);
        }
        let base = manifest.base.as_ref().map_or(0, |base: &SnapshotRef| base.length);
        let Compaction { ratio, minimum_bytes, memory_bytes } = parts.compaction;
        let enough = base.saturating_mul(ratio).max(minimum_bytes);
        let Some(frontier) = manifest.frontier.filter(|frontier| *frontier > 0) else {
            return Ok(());
        };
        if logged(&manifest.segments).saturating_sub(self.left) < enough {
            return Ok(());
        }
        let name = (generation, self.next);
        self.state = Compacting::Until(self.next);
        self.next += 1;
        let (store, compression) = (Arc::clone(parts.chain.store()), parts.compression);
        let (tell, control) = (self.tell.clone(), self.control.clone());
        let work = move || compact::compact(&store, &manifest, frontier, name, memory_bytes, compression);
        let thread = thread::Builder::new()
            .name("checkpoint-compact".to_owned())
            .spawn(failpoint::inherited(move || match quiet::catch(work) {
                // Nobody listens if the job is over: the next start removes the snapshot.
                Ok(Ok(compacted)) => drop(tell.send(compacted)),
                Ok(Err(error)) => control.fail(error.into()),
                Err(panic) => control.fail(Failure::panic(format!("the compaction {panic}"))),
            }))
            .map_err(|error| Error::Thread { name: "checkpoint-compact", error })?;
        self.thread = Some(thread);
        Ok(())
    }
}
