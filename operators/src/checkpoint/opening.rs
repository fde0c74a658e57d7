//! How a job comes to its checkpoints: lock, chain, claim, restore (rules D4, D9).
//!
//! ```text
//! process 0:  Checkpoints::claim ──▶ Opened ── opening() ── encode ──▶ to all others
//! others:     Opening::decode ──▶ Checkpoints::join ──▶ Opened
//! all:        resume (what program is this?) ── facts (per component and groups) ── log; process 0: committer
//! ```
//!
//! # Invariants
//! - One process claims; all others read the very link that it names, whatever the chain has become meanwhile.
//! - Memory while facts are read is bounded by the longest record.

use std::ops::Range;
use std::path::PathBuf;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::chain::{self, Bound, Chain, Claim, Link};
use super::committer::{Committer, Parts, Publish, Told};
use super::compact::Compaction;
use super::dir_store::DirStore;
use super::error::Error;
use super::gc::{self, Kept};
use super::history::{History, Usable};
use super::log::{Log, LogOptions};
use super::manifest::{Manifest, Shape};
use super::record::Compression;
use super::restore;
use super::segment::{self, JOURNAL};
use super::store::{CheckpointStore, StoreLock};
use super::verify;
use crate::cluster::Control;
use crate::fact::FactRef;
use crate::journal::{LogJournal, Marker};

/// Starts that may come in between before a claim gives up.
const TRIES: usize = 100;
/// A segment of a journal that is this long is followed by another: the one being written cannot be removed.
const JOURNAL_BYTES: u64 = 8 << 20;

/// Where and how a job keeps its checkpoints.
#[derive(Clone, Debug)]
pub struct Checkpoints {
    store: Arc<dyn CheckpointStore>,
    options: Options,
}

#[derive(Clone, Copy, Debug)]
struct Options {
    log: LogOptions,
    keep: usize,
    retain: u64,
    compaction: Compaction,
    take_over: bool,
    fall_back: bool,
}

impl Checkpoints {
    /// In a directory, which is made if it is not there.
    ///
    /// # Errors
    /// It cannot be made.
    pub fn dir(path: impl Into<PathBuf>) -> Result<Self, Error> {
        let path = path.into();
        let file = path.display().to_string();
        let store = DirStore::open(path).map_err(|error| Error::Io { action: "open", file, error })?;
        Ok(Self::new(Arc::new(store)))
    }

    /// In a store.
    pub fn new(store: Arc<dyn CheckpointStore>) -> Self {
        let options = Options {
            log: LogOptions::default(),
            keep: 2,
            retain: 0,
            compaction: Compaction::default(),
            take_over: false,
            fall_back: false,
        };
        Checkpoints { store, options }
    }

    /// A segment of a log that is this long is followed by another. 64 MiB unless told otherwise.
    pub fn segment_bytes(mut self, bytes: u64) -> Self {
        self.options.log.segment_bytes = bytes;
        self
    }

    /// Whether facts are compressed; they are not unless told otherwise.
    pub fn compression(mut self, compression: Compression) -> Self {
        self.options.log.compression = compression;
        self
    }

    /// How many checkpoints are kept at least; 2 unless told otherwise, and never less.
    pub fn keep(mut self, checkpoints: usize) -> Self {
        self.options.keep = checkpoints.max(2);
        self
    }

    /// For how many epochs beyond their commit journals are kept, for who looks at runs that are over; none unless told
    /// otherwise. They go in segments of some megabytes, so some are there for longer. With any number above zero each run
    /// is recorded when it is over, and no epoch is committed before the records of its runs are durable; a run that is noted
    /// is recorded with its first note, too.
    pub fn retain_journals(mut self, epochs: u64) -> Self {
        self.options.retain = epochs;
        self
    }

    /// When and how logs become snapshots.
    pub fn compaction(mut self, compaction: Compaction) -> Self {
        self.options.compaction = compaction;
        self
    }

    /// Whether to go ahead though another run seems to be at work. It is shut out then.
    pub fn take_over(mut self, allowed: bool) -> Self {
        self.options.take_over = allowed;
        self
    }

    /// Whether to go on from an older checkpoint if the newest is damaged. What came after it is done again, though
    /// others may have seen it.
    pub fn fall_back(mut self, allowed: bool) -> Self {
        self.options.fall_back = allowed;
        self
    }

    /// The store.
    pub fn store(&self) -> &Arc<dyn CheckpointStore> {
        &self.store
    }

    /// Starts a new generation of `job`, which shuts out all earlier ones. For process 0 alone.
    ///
    /// # Errors
    /// Another run is at work; the checkpoint is damaged or of another job; the store fails.
    pub fn claim(&self, job: &str) -> Result<Opened, Error> {
        let store = &*self.store;
        let lock = store.lock().map_err(|error| Error::Io { action: "lock", file: store.describe(""), error })?;
        if lock.is_none() && !self.options.take_over {
            return Err(Error::Locked { place: store.describe("") });
        }
        let lock = lock.map(Arc::new);
        let mut tries = 0;
        loop {
            let history = History::read(store, Some(job))?;
            let usable = |manifest: &Manifest| verify::checkpoint(store, manifest);
            let usable = self.options.fall_back.then_some::<Usable<'_>>(&usable);
            let base = history.checkpoint(usable)?;
            let bounds = bounds(store, &history)?;
            let newest = bounds.iter().map(|bound| bound.generation).max().unwrap_or(0);
            let generation = history.generation().max(newest) + 1;
            let mut chain = Chain::new(Arc::clone(&self.store), generation, history.next());
            let base_link = base.map(|(number, _)| number);
            let journal = bounds.iter().filter(|bound| bound.process >= JOURNAL).copied().collect();
            let claim = Claim { job: job.to_owned(), generation, base: base_link, bounds };
            match chain.add(&Link::Claim(claim)) {
                Ok(link) => {
                    let manifest = base.map(|(_, manifest)| manifest.clone());
                    let frontier = manifest.as_ref().map(|manifest| manifest.frontier);
                    tracing::info!(generation, ?frontier, "the job's checkpoints are taken over");
                    gc::sweep(store, &history, base_link, (self.options.keep, self.options.retain), generation)?;
                    let kept = Kept::new(self.options.keep, history.path(base_link).into_iter().rev());
                    let job = job.to_owned();
                    let opening = Opening { job, generation, link, base: base_link, journal };
                    let leader = Some(Leader { chain, kept, lock });
                    return Ok(Opened { checkpoints: self.clone(), process: 0, opening, manifest, leader });
                }
                // A run that is about to be shut out has committed, or another start has claimed: look again.
                Err(Error::Fenced { .. }) if tries < TRIES => tries += 1,
                Err(error) => return Err(error),
            }
        }
    }

    /// Joins a generation that process 0 has claimed.
    ///
    /// # Errors
    /// The checkpoint that it names cannot be read here.
    pub fn join(&self, opening: Opening, process: u32) -> Result<Opened, Error> {
        let store = &*self.store;
        let manifest = match opening.base {
            None => None,
            Some(number) => match chain::read(store, number)? {
                Link::Manifest(manifest) if manifest.job == opening.job => Some(manifest),
                other => {
                    let file = store.describe(&chain::name(number));
                    let (found, job) = (other.job().to_owned(), opening.job.clone());
                    return Err(match other {
                        Link::Manifest(_) => Error::OtherJob { file, found, job },
                        Link::Claim(_) => Error::damaged(file, 0, "it is no manifest"),
                    });
                }
            },
        };
        Ok(Opened { checkpoints: self.clone(), process, opening, manifest, leader: None })
    }
}

/// All segments that are there, with their lengths; what an earlier claim has shut out stays out.
pub(crate) fn bounds(store: &dyn CheckpointStore, history: &History) -> Result<Vec<Bound>, Error> {
    let logs = store.list("log").map_err(|error| Error::Io { action: "list", file: store.describe("log"), error })?;
    let links = history.links().iter().filter_map(|(_, link)| link.as_ref().ok());
    let earlier: Vec<&Claim> = links
        .filter_map(|link| match link {
            Link::Claim(claim) => Some(claim),
            Link::Manifest(_) => None,
        })
        .collect();
    let bound = |(name, length): (String, u64)| {
        let (generation, process, segment) = segment::parse(&name)?;
        let found = Bound { generation, process, segment, length };
        let is_same = |bound: &&Bound| Bound { length, ..**bound } == found;
        let shorter = earlier.iter().flat_map(|claim| &claim.bounds).filter(is_same).map(|bound| bound.length).min();
        Some(Bound { length: shorter.unwrap_or(length).min(length), ..found })
    };
    Ok(logs.into_iter().filter_map(bound).collect())
}

/// What process 0 tells the others of its claim.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Opening {
    job: String,
    generation: u64,
    /// The claim.
    link: u64,
    /// The checkpoint.
    base: Option<u64>,
    /// What of journals counts.
    journal: Vec<Bound>,
}

impl Opening {
    /// Up to where journals are read.
    pub fn marker(&self) -> Marker {
        Marker(postcard::to_allocvec(&self.journal).expect("numbers can always be encoded"))
    }

    /// As bytes.
    pub fn encode(&self) -> Vec<u8> {
        postcard::to_allocvec(self).expect("numbers and text can always be encoded")
    }

    /// Out of bytes.
    ///
    /// # Errors
    /// They are something else.
    pub fn decode(bytes: &[u8]) -> Result<Self, Error> {
        postcard::from_bytes(bytes)
            .map_err(|error| Error::damaged("what process 0 told of the checkpoints", 0, error.to_string()))
    }
}

/// A generation that has begun.
#[derive(Debug)]
pub struct Opened {
    checkpoints: Checkpoints,
    process: u32,
    opening: Opening,
    manifest: Option<Manifest>,
    leader: Option<Leader>,
}

/// What process 0 has beyond the others.
#[derive(Debug)]
struct Leader {
    chain: Chain,
    kept: Kept,
    lock: Option<Arc<StoreLock>>,
}

impl Opened {
    /// What the other processes have to be told.
    pub fn opening(&self) -> &Opening {
        &self.opening
    }

    /// The number of this start.
    pub fn generation(&self) -> u64 {
        self.opening.generation
    }

    /// The checkpoint from which the job goes on; nothing if it begins.
    pub fn manifest(&self) -> Option<&Manifest> {
        self.manifest.as_ref()
    }

    /// The first epoch that is not in the checkpoint; `None` if the job is complete.
    pub fn frontier(&self) -> Option<u64> {
        self.manifest.as_ref().map_or(Some(0), |manifest| manifest.frontier)
    }

    /// Whether a later generation has begun, and this one counts no more. What cannot be read says nothing.
    pub fn fenced(&self) -> Option<Error> {
        let history = History::read(&*self.checkpoints.store, Some(&self.opening.job)).ok()?;
        let (own, by) = (self.generation(), history.generation());
        (by > own).then_some(Error::Fenced { own, by })
    }

    /// Where the program goes on: what is in the checkpoint, and what is new in the program. It gives components their
    /// numbers and sources their positions, and it is the same in all processes.
    ///
    /// # Errors
    /// The program does not fit the checkpoint.
    pub fn resume(&self, program: &Shape) -> Result<Manifest, Error> {
        let stored = match &self.manifest {
            Some(manifest) => manifest.clone(),
            None => Manifest::empty(&self.opening.job, program.groups),
        };
        let differences = stored.differences(program);
        if differences.is_empty() {
            Ok(stored.resumed(self.generation(), program))
        } else {
            Err(Error::Differs(differences))
        }
    }

    /// Hands out the facts of a component whose groups are in `groups`, with their epochs, earlier before later. Of those
    /// out of a snapshot the epoch is the last one that the snapshot covers.
    ///
    /// # Errors
    /// The checkpoint is damaged or cannot be read; some facts may have been handed out by then.
    pub fn facts(
        &self,
        component: u32,
        groups: Range<u32>,
        each: &mut dyn FnMut(u64, FactRef<'_>),
    ) -> Result<(), Error> {
        let Some(manifest) = &self.manifest else {
            return Ok(());
        };
        restore::facts(&*self.checkpoints.store, manifest, component, groups, each)
    }

    /// What adds to the chain, with the lock; of process 0.
    pub(crate) fn lead(self) -> Option<(Chain, Option<Arc<StoreLock>>)> {
        self.leader.map(|leader| (leader.chain, leader.lock))
    }

    /// This process's log of the generation.
    ///
    /// # Errors
    /// Its thread cannot be started.
    pub fn log(&self, control: Control) -> Result<Log, Error> {
        let (store, options) = (Arc::clone(&self.checkpoints.store), self.checkpoints.options.log);
        Log::open(store, &self.opening.job, self.generation(), self.process, options, control)
    }

    /// Whether journals are kept beyond their commit.
    pub fn retains_journals(&self) -> bool {
        self.checkpoints.options.retain > 0
    }

    /// This process's journal of the generation.
    ///
    /// # Errors
    /// Its thread cannot be started.
    pub fn journal(&self, control: Control) -> Result<LogJournal, Error> {
        let store = Arc::clone(&self.checkpoints.store);
        let (job, generation) = (&self.opening.job, self.generation());
        let options = LogOptions { segment_bytes: JOURNAL_BYTES, ..self.checkpoints.options.log };
        let log = Log::open(Arc::clone(&store), job, generation, JOURNAL + self.process, options, control)?;
        let from = self.frontier().unwrap_or(u64::MAX);
        Ok(LogJournal::new(store, job, generation, self.process, log).of_epochs(from, self.checkpoints.options.retain))
    }

    /// The committer, which goes on from what [`Opened::resume`] gave. Of process 0, once; nothing in any other.
    ///
    /// # Errors
    /// Its thread cannot be started.
    pub fn committer(
        &mut self,
        start: Manifest,
        publish: Publish,
        told: Told,
        control: Control,
    ) -> Result<Option<Committer>, Error> {
        let Some(Leader { chain, kept, lock }) = self.leader.take() else {
            return Ok(None);
        };
        let options = self.checkpoints.options;
        let (resumed, compaction) = (self.manifest.is_some(), options.compaction);
        let parts = Parts { chain, start, resumed, kept, lock, compaction, compression: options.log.compression };
        Committer::start(parts, publish, told, control).map(Some)
    }
}
