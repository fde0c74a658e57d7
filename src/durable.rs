//! The checkpoints of a job: what its processes share, and what the operators of one worker see of it.
//!
//! ```text
//! Process (one per process): store, opened generation, log, stagers, sources
//!    └── Durable (one per worker): the board of acks, what is committed, what the program consists of
//! ```
//!
//! # Invariants
//! - Components are numbered alike on all workers: as the checkpoint has them, and new ones in order of registration.
//! - Nothing is committed before the whole program is there and fits the checkpoint.
//!
//! Not here: bytes and files (`operators::checkpoint`), dataflows of acks (`operators::commit`).

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::path::Path;
use std::rc::Rc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError, RwLock};

use timely::worker::Worker;
use timely_agents_operators::checkpoint::{
    self, Checkpoints, Committer, Component, ComponentKind, Log, Manifest, Opened, Opening, Part, Publication, Shape,
    SourcePosition,
};
use timely_agents_operators::cluster::{Control, Failure, FailureKind};
use timely_agents_operators::commit::{Board, Committed, Stopper, Stopping, Teller, Word};
use timely_agents_operators::fact::slot_id;
use timely_agents_operators::group::KeyGroups;
use timely_agents_operators::journal::{ActionStateStore, LogJournal};
use timely_agents_operators::keys::Key;
use timely_agents_operators::operator::{Journal, Restore};
use timely_agents_operators::sink::{self, Place, Publisher, Stager, StagerOptions, TransactionalSink};
use timely_agents_operators::source::{Resume, Sources};
use timely_agents_operators::time::EpochTime;

use crate::agent::Input;
use crate::event::names;
use crate::format::Format;
use crate::inspect::Description;
use crate::plan::Plan;

/// What stands for the input in an agent's description; no slot is called so.
pub(crate) const INPUT: &str = "<input>";

/// What the workers of one process share.
pub(crate) struct Process {
    checkpoints: Checkpoints,
    opened: RwLock<Option<Opened>>,
    log: OnceLock<Log>,
    journal: OnceLock<Arc<LogJournal>>,
    sources: Sources,
    /// By sink. With its folder, whose leftovers are to be swept.
    stagers: Mutex<BTreeMap<String, (Stager, Place)>>,
    index: usize,
    threads: usize,
    /// Whether a worker has seen to signals.
    sees_signals: AtomicBool,
    signals: Mutex<Option<signal_hook::iterator::Handle>>,
}

impl Process {
    /// Claims a generation of `job`, on process 0; elsewhere that is heard later.
    pub(crate) fn open(checkpoints: Checkpoints, job: &str, index: usize, threads: usize) -> Result<Self, Failure> {
        let opened = if index == 0 { Some(checkpoints.claim(job)?) } else { None };
        Ok(Process {
            checkpoints,
            opened: RwLock::new(opened),
            log: OnceLock::new(),
            journal: OnceLock::new(),
            sources: Sources::default(),
            stagers: Mutex::default(),
            index,
            threads,
            sees_signals: AtomicBool::new(false),
            signals: Mutex::default(),
        })
    }

    fn read<R>(&self, look: impl FnOnce(&Opened) -> R) -> R {
        let opened = self.opened.read().unwrap_or_else(PoisonError::into_inner);
        look(opened.as_ref().expect("it was opened before operators were built"))
    }

    /// Joins what process 0 has claimed, if nobody here has yet.
    fn join(&self, opening: &[u8]) -> Result<(), Failure> {
        let mut opened = self.opened.write().unwrap_or_else(PoisonError::into_inner);
        if opened.is_none() {
            *opened = Some(self.checkpoints.join(Opening::decode(opening)?, self.index as u32)?);
        }
        Ok(())
    }

    /// A run that was shut out meets it in many ways, since its successor removes what it has staged: this is the reason
    /// for all of them.
    pub(crate) fn explain(&self, failure: Failure) -> Failure {
        let opened = self.opened.read().unwrap_or_else(PoisonError::into_inner);
        match opened.as_ref().and_then(Opened::fenced) {
            Some(fenced) if failure.kind() != FailureKind::Stopped => fenced.into(),
            _ => failure,
        }
    }

    /// The log of this process.
    fn log(&self, control: &Control) -> Result<Log, Failure> {
        let _one = self.stagers.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(log) = self.log.get() {
            return Ok(log.clone());
        }
        let log = self.read(|opened| opened.log(control.clone()))?;
        Ok(self.log.get_or_init(|| log).clone())
    }

    /// The journal of this process.
    fn journal(&self, control: &Control) -> Result<Arc<LogJournal>, Failure> {
        let _one = self.stagers.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(journal) = self.journal.get() {
            return Ok(Arc::clone(journal));
        }
        let journal = self.read(|opened| opened.journal(control.clone()))?;
        Ok(Arc::clone(self.journal.get_or_init(|| Arc::new(journal))))
    }

    /// All epochs before `frontier` are committed.
    fn prune(&self, frontier: Option<u64>) {
        if let Some(journal) = self.journal.get() {
            journal.prune(frontier);
        }
    }
}

impl<I: Input, O: 'static> Plan<I, O> {
    /// What a checkpoint says of the agent; its number is given later.
    pub(crate) fn component<T: EpochTime, K: Key>(&self) -> Component {
        let program = &self.0.program;
        let slots = program.slots.iter().filter(|slot| !slot.sensory);
        let mut parts: Vec<Part> = slots
            .map(|slot| Part { name: slot.name.clone(), id: slot_id(&slot.name), format: (slot.format)().to_text() })
            .collect();
        parts.push(Part { name: INPUT.to_owned(), id: 0, format: Format::of::<I>().to_text() });
        // Events are stored with unfinished runs only.
        let events = program.events.iter().filter(|event| program.carry && event.name != names::INPUT);
        let events = events.filter_map(|event| Some((event.name.clone(), (event.codec?.format)())));
        let actions = program.actions.iter().map(|action| action.name.clone()).collect();
        Component {
            number: 0,
            name: self.name().to_owned(),
            kind: ComponentKind::Agent,
            key: Format::of::<K>().to_text(),
            parts,
            description: Description::encode::<T>(events.collect(), actions),
        }
    }
}

/// What an operator whose state is durable needs.
pub(crate) struct Registered {
    pub(crate) number: u32,
    pub(crate) log: Log,
    /// Gives the facts of the checkpoint, if it has any of this component.
    pub(crate) restore: Option<Restore>,
}

/// See the module.
pub(crate) struct Durable {
    process: Arc<Process>,
    control: Control,
    groups: KeyGroups,
    worker: usize,
    peers: usize,
    resume: u64,
    manifest: Option<Manifest>,
    board: Board,
    committed: Committed,
    stopping: Stopping,
    teller: Teller,
    words: Rc<RefCell<Words>>,
    shape: RefCell<Shape>,
    /// Where publications go, on worker 0.
    publisher: RefCell<Publisher>,
}

/// Word for a committer that may not be there yet.
#[derive(Default)]
struct Words {
    committer: Option<Committer>,
    waiting: Vec<Word>,
}

impl Words {
    fn tell(&mut self, word: Word) {
        match (&self.committer, word) {
            (Some(committer), Word::Ack { epoch, ack }) => committer.ack(epoch, ack),
            (Some(committer), Word::Frontier(frontier)) => committer.advance(frontier),
            (None, word) => self.waiting.push(word),
        }
    }
}

/// A job that is open on a worker, or has nothing left to do.
pub(crate) enum Begun {
    Open(Rc<Durable>, Stopper),
    Complete,
}

impl Durable {
    /// Sets `worker` up; comes before all dataflows of the job.
    pub(crate) fn begin(
        worker: &mut Worker,
        process: &Arc<Process>,
        control: &Control,
        groups: KeyGroups,
    ) -> Result<Begun, Failure> {
        let opening = (worker.index() == 0).then(|| process.read(|opened| opened.opening().encode()));
        let (committed, teller) = Committed::build(worker, opening);
        process.join(&committed.opening(worker))?;
        let (frontier, manifest) = process.read(|opened| (opened.frontier(), opened.manifest().cloned()));
        let Some(resume) = frontier else {
            teller.tell(None);
            return Ok(Begun::Complete);
        };
        let sources = process.sources.clone();
        let (stopping, stopper) = Stopping::build(worker, &sources);
        let release = stopping.clone();
        let noted = worker.index().is_multiple_of(process.threads).then(|| Arc::clone(process));
        committed.watch(move |frontier| {
            if let Some(process) = &noted {
                process.prune(frontier);
            }
            sources.committed(frontier);
            if frontier.is_none() {
                release.release();
            }
        });
        let words: Rc<RefCell<Words>> = Rc::default();
        let hears = Rc::clone(&words);
        let listener: Option<Box<dyn FnMut(Word)>> =
            (worker.index() == 0).then(|| Box::new(move |word| hears.borrow_mut().tell(word)) as _);
        let durable = Durable {
            process: Arc::clone(process),
            control: control.clone(),
            groups,
            worker: worker.index(),
            peers: worker.peers(),
            resume,
            manifest,
            board: Board::new(listener),
            committed,
            stopping,
            teller,
            words,
            shape: RefCell::new(Shape { groups: groups.count(), ..Shape::default() }),
            publisher: RefCell::default(),
        };
        Ok(Begun::Open(Rc::new(durable), stopper))
    }

    /// Epochs before this one are over.
    pub(crate) fn resume(&self) -> u64 {
        self.resume
    }

    pub(crate) fn board(&self) -> &Board {
        &self.board
    }

    pub(crate) fn committed(&self) -> &Committed {
        &self.committed
    }

    pub(crate) fn stopping(&self) -> &Stopping {
        &self.stopping
    }

    /// Whether it falls to this worker to see to the signals of the process; asked once.
    pub(crate) fn sees_to_signals(&self) -> bool {
        !self.process.sees_signals.swap(true, Ordering::Relaxed)
    }

    /// What ends the watch for signals, for the end of the job.
    pub(crate) fn keep_signals(&self, handle: signal_hook::iterator::Handle) {
        *self.process.signals.lock().unwrap_or_else(PoisonError::into_inner) = Some(handle);
    }

    /// Ends the job if it was asked to stop and all that its sources have closed is committed. On worker 0.
    pub(crate) fn end_if_stopped(&self) {
        let committed = self.committed.frontier().unwrap_or(u64::MAX);
        if self.stopping.all_stopped() && self.board.sources().is_some_and(|epoch| epoch <= committed) {
            self.control.fail(Failure::stopped(format!("stopped; all epochs before {committed} are committed")));
        }
    }

    pub(crate) fn sources(&self) -> &Sources {
        &self.process.sources
    }

    pub(crate) fn groups(&self) -> KeyGroups {
        self.groups
    }

    /// Registers an agent.
    pub(crate) fn agent<T: EpochTime, K: Key, I: Input, O: 'static>(
        &self,
        plan: &Plan<I, O>,
    ) -> Result<(Registered, Journal), Failure> {
        let registered = self.register(plan.component::<T, K>())?;
        let journal = self.journal(registered.number)?;
        Ok((registered, journal))
    }

    /// Where calls of a component are noted.
    fn journal(&self, component: u32) -> Result<Journal, Failure> {
        let committed = self.committed.clone();
        Ok(Journal {
            store: self.process.journal(&self.control)?,
            marker: self.process.read(|opened| opened.opening().marker()),
            component,
            generation: self.process.read(Opened::generation),
            groups: self.groups.of_worker(self.worker, self.peers),
            resume: self.resume,
            records: self.process.read(Opened::retains_journals),
            committed: Box::new(move || committed.frontier().unwrap_or(u64::MAX)),
        })
    }

    /// Registers a collection of rows of type `D`.
    pub(crate) fn collection<T: EpochTime, D: serde::de::DeserializeOwned>(
        &self,
        name: &str,
    ) -> Result<Registered, Failure> {
        self.register(Component {
            number: 0,
            name: name.to_owned(),
            kind: ComponentKind::Collection,
            key: Format::of::<D>().to_text(),
            parts: Vec::new(),
            description: Description::encode::<T>(BTreeMap::new(), Vec::new()),
        })
    }

    fn register(&self, component: Component) -> Result<Registered, Failure> {
        let mut shape = self.shape.borrow_mut();
        let name = component.name.clone();
        if shape.components.iter().any(|other| other.name == name) {
            return Err(Failure::usage(format!("two agents or collections with checkpoints are called {name:?}")));
        }
        let stored = self.manifest.as_ref().and_then(|manifest| manifest.component(&name));
        if let Some(stored) = stored {
            // Before a byte of it is read as something else.
            let mut only = self.manifest.clone().expect("it has the component");
            only.components = vec![stored.clone()];
            only.sources.clear();
            only.sinks.clear();
            let now = Shape { groups: self.groups.count(), components: vec![component.clone()], ..Shape::default() };
            let differences = only.differences(&now);
            if !differences.is_empty() {
                return Err(checkpoint::Error::Differs(differences).into());
            }
        }
        let number = match stored {
            Some(stored) => stored.number,
            None => self.number_of_new(&shape),
        };
        shape.components.push(component);
        drop(shape);
        let log = self.process.log(&self.control)?;
        let restore = self.restore(&name);
        Ok(Registered { number, log, restore })
    }

    /// The number that the checkpoint gives to the next component that it does not know.
    fn number_of_new(&self, shape: &Shape) -> u32 {
        let stored = self.manifest.iter().flat_map(|manifest| &manifest.components);
        let first = stored.map(|component| component.number + 1).max().unwrap_or(0);
        let known = |name: &str| self.manifest.as_ref().is_some_and(|manifest| manifest.component(name).is_some());
        let new = shape.components.iter().filter(|component| !known(&component.name)).count();
        first + new as u32
    }

    /// What gives this worker's facts of a component, if the checkpoint has any.
    pub(crate) fn restore(&self, component: &str) -> Option<Restore> {
        let number = self.manifest.as_ref()?.component(component)?.number;
        let process = Arc::clone(&self.process);
        let groups = self.groups.of_worker(self.worker, self.peers);
        Some(Box::new(move |each| {
            let mut first = Ok(());
            let read = process.read(|opened| {
                opened.facts(number, groups, &mut |_, fact| {
                    if first.is_ok() {
                        first = each(fact);
                    }
                })
            });
            read.map_err(|error| error.to_string())?;
            first
        }))
    }

    /// Registers a source; where it goes on.
    pub(crate) fn source(&self, name: &str) -> Result<Resume, Failure> {
        let mut shape = self.shape.borrow_mut();
        if shape.sources.iter().any(|other| other == name) {
            return Err(Failure::usage(format!("two sources are called {name:?}")));
        }
        shape.sources.push(name.to_owned());
        let stored = self.manifest.as_ref().and_then(|manifest| manifest.sources.get(name));
        let position = match stored {
            None | Some(SourcePosition::Start) => None,
            Some(SourcePosition::At(position)) => Some(Some(position.clone())),
            Some(SourcePosition::Ended) => Some(None),
        };
        Ok(Resume { epoch: self.resume, position })
    }

    /// Registers a sink whose output this process stages for its place.
    pub(crate) fn sink(&self, name: &str, place: Place) -> Result<Stager, Failure> {
        self.name_sink(name)?;
        let mut stagers = self.process.stagers.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((stager, _)) = stagers.get(name) {
            return Ok(stager.clone());
        }
        let workers = if matches!(place, Place::Whole(_)) { 1 } else { self.process.threads };
        let options = StagerOptions {
            sink: name.to_owned(),
            place: place.clone(),
            generation: self.process.read(Opened::generation),
            process: self.process.index,
            workers,
            resume: self.resume,
        };
        let stager = Stager::new(options, &self.control)?;
        stagers.insert(name.to_owned(), (stager.clone(), place));
        Ok(stager)
    }

    /// Registers a sink that another worker stages.
    pub(crate) fn name_sink(&self, name: &str) -> Result<(), Failure> {
        let mut shape = self.shape.borrow_mut();
        if shape.sinks.iter().any(|other| other == name) {
            return Err(Failure::usage(format!("two sinks are called {name:?}")));
        }
        shape.sinks.push(name.to_owned());
        Ok(())
    }

    /// Registers a transactional sink, whose rows are staged in `dir`. `open` is called on the worker that publishes.
    pub(crate) fn transactional<S: TransactionalSink>(
        &self,
        name: &str,
        dir: &Path,
        open: impl FnOnce() -> Result<S, Failure>,
    ) -> Result<Stager, Failure> {
        if self.worker == 0 {
            self.publisher.borrow_mut().add(name, open()?);
        }
        self.sink(name, Place::Rows { dir: dir.to_owned() })
    }

    /// The program is whole: from here on it is committed.
    pub(crate) fn finish(&self) -> Result<(), Failure> {
        if self.worker == 0 {
            let shape = self.shape.borrow().clone();
            let mut opened = self.process.opened.write().unwrap_or_else(PoisonError::into_inner);
            let opened = opened.as_mut().expect("it was opened before operators were built");
            let start = opened.resume(&shape)?;
            let generation = opened.generation();
            let (teller, mut swept) = (self.teller.clone(), false);
            let process = Arc::clone(&self.process);
            let told = move |frontier| {
                if !std::mem::replace(&mut swept, true) {
                    process.sweep(generation);
                }
                teller.tell(frontier);
            };
            let mut publisher = self.publisher.take();
            let publish = move |publications: &[Publication]| {
                publisher.publish(publications).map_err(|failure| std::io::Error::other(failure.to_string()))
            };
            let committer = opened.committer(start, Box::new(publish), Box::new(told), self.control.clone())?;
            let mut words = self.words.borrow_mut();
            words.committer = committer;
            for word in std::mem::take(&mut words.waiting) {
                words.tell(word);
            }
        }
        self.board.close();
        Ok(())
    }
}

impl Process {
    /// The job has ended: nobody watches for signals any more.
    pub(crate) fn end(&self) {
        if let Some(handle) = self.signals.lock().unwrap_or_else(PoisonError::into_inner).take() {
            handle.close();
        }
        if let Some(journal) = self.journal.get() {
            journal.close();
        }
    }

    /// Removes what older generations have staged: all of it that counts is published.
    fn sweep(&self, generation: u64) {
        let stagers = self.stagers.lock().unwrap_or_else(PoisonError::into_inner);
        for (name, (_, place)) in &*stagers {
            if let Err(error) = sink::sweep(place.dir(), name, generation) {
                tracing::warn!(sink = name, %error, "what an earlier run has staged cannot be removed");
            }
        }
    }
}
