//! A job as the dice would have it: sources, links, workers, logs, the committer, the store; and its crashes.
//!
//! ```text
//! Source ──▶ links (one per source and worker) ──▶ Harness ──blocks──▶ Log ──acks──▶ in flight ──▶ Committer
//!                                                     └──outputs──▶ staged ──acks──────┘             │
//!                                                                      └──────── published ◀─────────┘
//! ```
//!
//! The threads of logs and of the committer are the real ones. They are given one thing at a time, and whoever gives
//! waits until it is done: so nothing depends on how threads are scheduled.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::mpsc::{Receiver, channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use timely_agents::testing::Harness;
use timely_agents::{Plan, testing::PendingCall};
use timely_agents_operators::checkpoint::{
    self, Ack, CheckpointStore, Checkpoints, Committer, Compaction, Component, ComponentKind, Log, MemoryStore, Opened,
    Opening, Publication, Publish, Shape, SourcePosition, digest,
};
use timely_agents_operators::cluster::Control;
use timely_agents_operators::fact::Block;
use timely_agents_operators::group::KeyGroups;
use timely_agents_operators::journal::{ActionStateStore, LogJournal, Note};
use timely_agents_operators::time::{EpochTime, Stamp};

use crate::agent::{Emit, MARK, Memory, Places, RECEIPT, Record, signal};
use crate::dice::{Dice, Trace};

macro_rules! ensure {
    ($condition:expr, $($text:tt)+) => {
        if !$condition {
            return Err(format!($($text)+));
        }
    };
}
pub(crate) use ensure;

/// Times that jobs are simulated over.
pub(crate) trait SimTime: EpochTime {
    fn at(epoch: u64, record: Record) -> Self;
}

impl SimTime for u64 {
    fn at(epoch: u64, _: Record) -> u64 {
        epoch
    }
}

impl SimTime for Stamp {
    fn at(epoch: u64, record: Record) -> Stamp {
        Stamp::new(epoch, record.value as u64)
    }
}

/// A bug that is put in on purpose: a simulation that does not find it is worth nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Bug {
    /// A log says that it has synced, and has not.
    #[cfg_attr(not(any(debug_assertions, feature = "failpoints")), expect(dead_code, reason = "it is a failpoint"))]
    SyncLeftOut,
    /// Some block of facts never reaches its log, and nobody says so.
    BlockLost,
    /// After a restart a source goes on one record too late.
    RecordLost,
    /// After a restart a source goes on one record too early.
    RecordTwice,
    /// An epoch counts as over though its outputs are not staged yet.
    FrontierAhead,
    /// Outputs are visible as soon as they are staged.
    VisibleEarly,
}

/// What the seed says of a job.
#[expect(clippy::struct_excessive_bools, reason = "each is a question of its own")]
pub(crate) struct Case {
    pub(crate) carries: bool,
    pub(crate) sequenced: bool,
    /// Whether ends of calls are noted before their runs hear of them.
    pub(crate) journaled: bool,
    pub(crate) sources: Vec<Vec<Record>>,
    pub(crate) crashes: bool,
    pub(crate) bug: Option<Bug>,
}

/// An output that somebody outside can see.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Seen {
    pub(crate) epoch: u64,
    pub(crate) event: u64,
    pub(crate) emit: Emit,
}

/// What lies outside of the job and its store: outputs, staged and visible.
#[derive(Default)]
pub(crate) struct Outside {
    staged: BTreeMap<String, Vec<Seen>>,
    /// By epoch and worker.
    pub(crate) visible: BTreeMap<(u64, usize), Vec<Seen>>,
    fault: Option<String>,
}

impl Outside {
    /// Does a publication; doing it twice does no harm.
    fn publish(&mut self, publication: &Publication) {
        let Publication::Rename { from, to } = publication else {
            self.fault = Some(format!("{publication:?} was never asked for"));
            return;
        };
        let (epoch, worker) = to.split_once('.').expect("epoch and worker");
        let place = (epoch.parse().expect("an epoch"), worker.parse().expect("a worker"));
        match self.staged.remove(from) {
            Some(rows) => {
                if self.visible.insert(place, rows).is_some() {
                    self.fault = Some(format!("D6: the outputs of {to} are published twice"));
                }
            }
            None if self.visible.contains_key(&place) => {}
            None => self.fault = Some(format!("D6: {from} is gone, and {to} is not there")),
        }
    }
}

fn lock(outside: &Mutex<Outside>) -> MutexGuard<'_, Outside> {
    outside.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Reads records one by one, and puts them into epochs.
struct Source {
    /// `None` when it has ended.
    epoch: Option<u64>,
    next: usize,
}

struct Worker<T: EpochTime> {
    harness: Harness<u64, Record, Emit, T>,
    /// What it knows of the input's frontier.
    view: Option<u64>,
    /// Blocks on their way to the log.
    blocks: VecDeque<Block<T>>,
    /// Outputs that are not staged, by epoch.
    unstaged: BTreeMap<u64, Vec<Seen>>,
    outputs: Vec<T>,
    facts: Vec<T>,
    calls: Vec<PendingCall>,
    /// How many of its notes are durable.
    noted: usize,
}

/// A start of the job, up to its crash.
struct Generation<T: EpochTime> {
    number: u64,
    component: u32,
    workers: Vec<Worker<T>>,
    sources: Vec<Source>,
    /// By source and worker.
    links: Vec<Vec<VecDeque<(T, Record)>>>,
    processes: usize,
    logs: Vec<Log>,
    /// One for each process, if there are any.
    journals: Vec<LogJournal>,
    committer: Committer,
    told: Receiver<Option<u64>>,
    /// On their way to the committer.
    acks: Vec<(u64, Ack)>,
    control: Control,
    /// The frontier that the committer was given.
    asked: Option<u64>,
}

/// See the [module](self).
pub(crate) struct Job<T: EpochTime> {
    pub(crate) case: Case,
    plan: Plan<Record, Emit>,
    places: Places,
    pub(crate) dice: Dice,
    pub(crate) trace: Trace,
    store: MemoryStore,
    outside: Arc<Mutex<Outside>>,
    generation: Option<Generation<T>>,
    /// By source and record: the epoch in which it was last read, or to which its source had turned before.
    pub(crate) epochs: Vec<Vec<u64>>,
    /// By source: how many records have been read, in any start.
    read: Vec<usize>,
    /// Receipts that were given, as they are stored, and are not in a durable note.
    given: Vec<(i64, Vec<u8>)>,
    /// Those that are.
    pub(crate) kept: BTreeSet<i64>,
    /// How many there are of both.
    receipts: i64,
    /// The frontier that was told, and the one that may have become durable.
    committed: Option<u64>,
    attempted: Option<u64>,
    pub(crate) clock: Duration,
    pub(crate) crashes: u64,
}

type Outcome<R = ()> = Result<R, String>;

/// The least of frontiers, of which `None` is beyond all.
fn least(frontiers: impl IntoIterator<Item = Option<u64>>) -> Option<u64> {
    frontiers.into_iter().flatten().min()
}

/// Whether one frontier is beyond another.
fn beyond(frontier: Option<u64>, other: Option<u64>) -> bool {
    other.is_some_and(|other| frontier.is_none_or(|frontier| frontier > other))
}

fn epoch_of<T: EpochTime>(frontier: &[T]) -> Option<u64> {
    frontier.iter().map(EpochTime::epoch).min()
}

fn source(index: usize) -> String {
    format!("source{index}")
}

fn owner(key: u64, workers: usize) -> usize {
    KeyGroups::default().owner_of(&key, workers)
}

impl<T: SimTime> Job<T> {
    pub(crate) fn new(case: Case, dice: Dice, trace: Trace) -> Self {
        let (plan, places) = crate::agent::agent(case.carries, case.sequenced);
        let epochs = case.sources.iter().map(|records| vec![0; records.len()]).collect();
        let read = vec![0; case.sources.len()];
        Job {
            case,
            plan,
            places,
            dice,
            trace,
            store: MemoryStore::new(),
            outside: Arc::default(),
            generation: None,
            epochs,
            read,
            given: Vec::new(),
            kept: BTreeSet::new(),
            receipts: 0,
            committed: Some(0),
            attempted: Some(0),
            clock: Duration::ZERO,
            crashes: 0,
        }
    }

    fn checkpoints(&self) -> Checkpoints {
        let compaction = Compaction { ratio: 1, minimum_bytes: 400, memory_bytes: 300 };
        Checkpoints::new(Arc::new(self.store.clone())).segment_bytes(500).compaction(compaction)
    }

    fn shape(&self) -> Shape {
        Shape {
            groups: KeyGroups::default().count(),
            components: vec![Component {
                number: 0,
                name: self.plan.name().to_owned(),
                kind: ComponentKind::Agent,
                key: "u64".to_owned(),
                parts: Vec::new(),
                description: Vec::new(),
            }],
            sources: (0..self.case.sources.len()).map(source).collect(),
            sinks: vec!["sink".to_owned()],
        }
    }

    /// Makes outputs visible when the committer says so.
    fn publish(&self) -> Publish {
        let outside = Arc::clone(&self.outside);
        Box::new(move |publications| {
            for publication in publications {
                lock(&outside).publish(publication);
            }
            Ok(())
        })
    }

    /// A harness with the facts of a worker's groups.
    fn restore(
        &self,
        opened: &Opened,
        component: u32,
        (worker, workers): (usize, usize),
        resume: u64,
        notes: Option<&[Note]>,
    ) -> Outcome<Harness<u64, Record, Emit, T>> {
        let groups = KeyGroups::default().of_worker(worker, workers);
        let harness = Harness::of_worker(&self.plan, |record: &Record| record.key, worker, workers);
        let give = |take: timely_agents::testing::TakeFact<'_>| {
            let mut taken = Ok(());
            let read = opened.facts(component, groups, &mut |_, fact| {
                if taken.is_ok() {
                    taken = take(&fact);
                }
            });
            read.map_err(|error| error.to_string()).and(taken)
        };
        let harness = harness.and_then(|harness| match notes {
            Some(notes) => harness.journaled(opened.generation(), notes),
            None => Ok(harness),
        });
        let harness = harness.and_then(|harness| harness.restored_by(resume, give));
        harness.map_err(|failure| format!("D4: a restore fails: {failure}"))
    }

    /// Starts a generation on what the store has. Whether there was anything left to do.
    pub(crate) fn start(&mut self) -> Outcome<bool> {
        let workers = 1 + self.dice.index(4);
        let processes = 1 + self.dice.index(workers.min(2));
        let mut opened = match self.checkpoints().claim("job") {
            Ok(opened) => opened,
            Err(error) => return self.stumble(&format!("a claim fails: {error}")).map(|()| true),
        };
        let frontier = opened.frontier();
        ensure!(
            !beyond(self.committed, frontier) && !beyond(frontier, self.attempted),
            "D3: it goes on at {frontier:?}, though {:?} was committed and {:?} attempted",
            self.committed,
            self.attempted
        );
        self.committed = frontier;
        self.attempted = frontier;
        let seen = lock(&self.outside).visible.last_key_value().map(|((epoch, _), _)| *epoch);
        ensure!(
            seen.is_none_or(|epoch| frontier.is_none_or(|frontier| epoch < frontier)),
            "D6: outputs of epoch {seen:?} are visible, and it goes on at {frontier:?}"
        );
        self.trace.note(format_args!("start {} with {workers} at {frontier:?}", opened.generation()));
        let start = opened.resume(&self.shape()).map_err(|error| error.to_string())?;
        let component = start.components[0].number;
        let resume = frontier.unwrap_or(u64::MAX);
        let mut sources = Vec::new();
        for (index, records) in self.case.sources.iter().enumerate() {
            let position = &start.sources[&source(index)];
            let mut next = match position {
                SourcePosition::Start => 0,
                SourcePosition::At(bytes) => usize::from(bytes[0]),
                SourcePosition::Ended => records.len(),
            };
            match self.case.bug {
                Some(Bug::RecordLost) if *position != SourcePosition::Start => next = (next + 1).min(records.len()),
                Some(Bug::RecordTwice) => next = next.saturating_sub(1),
                _ => {}
            }
            sources.push(Source { epoch: frontier, next });
        }
        let control = Control::detached();
        let (mut logs, mut journals) = (Vec::new(), Vec::new());
        let journaled = self.case.journaled;
        if journaled {
            journals.push(opened.journal(control.clone()).map_err(|error| error.to_string())?);
        }
        for process in 1..processes {
            let opening = Opening::decode(&opened.opening().encode()).map_err(|error| error.to_string())?;
            let joined = self.checkpoints().join(opening, process as u32).map_err(|error| error.to_string())?;
            logs.push(joined.log(control.clone()).map_err(|error| error.to_string())?);
            if journaled {
                journals.push(joined.journal(control.clone()).map_err(|error| error.to_string())?);
            }
        }
        logs.insert(0, opened.log(control.clone()).map_err(|error| error.to_string())?);
        let mut running = Vec::new();
        for worker in 0..workers {
            let notes = journals.get(worker * processes / workers).map(|journal| {
                let (mut notes, groups) = (Vec::new(), KeyGroups::default().of_worker(worker, workers));
                let marker = opened.opening().marker();
                let read = journal.rebuild(&marker, component, groups, &mut |note| notes.push(note));
                read.map(|()| notes).map_err(|error| error.to_string())
            });
            let notes = notes.transpose()?;
            let mut harness = self.restore(&opened, component, (worker, workers), resume, notes.as_deref())?;
            harness.hold_notes();
            harness.tick(self.clock);
            running.push(Worker {
                harness,
                view: frontier,
                blocks: VecDeque::new(),
                unstaged: BTreeMap::new(),
                outputs: vec![T::minimum().with_epoch(resume)],
                facts: vec![T::minimum().with_epoch(resume)],
                calls: Vec::new(),
                noted: 0,
            });
        }
        let (tell, told) = channel();
        let committer = opened.committer(
            start,
            self.publish(),
            Box::new(move |frontier| {
                // Nobody may listen any more.
                let _ = tell.send(frontier);
            }),
            control.clone(),
        );
        let committer = committer.map_err(|error| error.to_string())?.expect("process 0 has the committer");
        committer.settle();
        self.generation = Some(Generation {
            number: opened.generation(),
            component,
            links: vec![(0..workers).map(|_| VecDeque::new()).collect(); sources.len()],
            workers: running,
            sources,
            processes,
            logs,
            journals,
            committer,
            told,
            acks: Vec::new(),
            control,
            asked: frontier,
        });
        Ok(frontier.is_some())
    }

    fn running(&mut self) -> &mut Generation<T> {
        self.generation.as_mut().expect("it has been started")
    }

    /// A step of the store has failed, as a failpoint said: the job is over, and starts again later.
    fn stumble(&mut self, why: &str) -> Outcome {
        ensure!(why.contains("failpoint"), "{why}");
        self.trace.note(format_args!("fails: {why}"));
        Ok(())
    }

    /// All that is in memory is gone, and of the store what was not synced may be.
    pub(crate) fn crash(&mut self) -> Outcome {
        self.crashes += 1;
        if let Some(Generation { logs, journals, committer, told, .. }) = self.generation.take() {
            journals.iter().for_each(LogJournal::close);
            drop((logs, committer));
            // The committer's thread lets go of this last.
            while told.recv().is_ok() {}
        }
        let dice = &mut self.dice;
        match dice.roll(3) {
            0 => {}
            1 => self.store.crash(),
            _ => self.store.crash_torn(|_, unsynced| dice.index(unsynced + 1)),
        }
        for folder in ["base", "chain", "log"] {
            let files = self.store.list(folder).map_err(|error| error.to_string())?;
            self.trace.note(format_args!("crash {} {files:?}", self.crashes));
        }
        self.check_outside()
    }

    fn check_outside(&self) -> Outcome {
        lock(&self.outside).fault.take().map_or(Ok(()), Err)
    }

    /// Whether the store has failed: then nothing goes on.
    pub(crate) fn failed(&mut self) -> Outcome<bool> {
        let Some(generation) = &self.generation else { return Ok(true) };
        match generation.control.failure() {
            None => Ok(false),
            Some(failure) => self.stumble(failure.message()).map(|()| true),
        }
    }

    /// The input's frontier: of what is not delivered, and of what sources may still read.
    fn input_frontier(&mut self) -> Option<u64> {
        let generation = self.running();
        let undelivered = generation.links.iter().flatten().flatten().map(|(time, _)| Some(time.epoch()));
        least(generation.sources.iter().map(|source| source.epoch).chain(undelivered))
    }

    /// What can be committed: the least of what sources, facts, outputs and acks may still come at.
    fn ack_frontier(&mut self) -> Option<u64> {
        let bug = self.case.bug;
        let input = self.input_frontier();
        let generation = self.running();
        let workers = generation.workers.iter().flat_map(|worker| {
            let blocks = worker.blocks.iter().map(|block| Some(block.time.epoch()));
            let unstaged = worker.unstaged.keys().map(|epoch| Some(*epoch));
            let unstaged = unstaged.filter(|_| bug != Some(Bug::FrontierAhead));
            blocks.chain(unstaged).chain([epoch_of(&worker.outputs), epoch_of(&worker.facts)])
        });
        let acks = generation.acks.iter().map(|(epoch, _)| Some(*epoch));
        least(workers.chain(acks).chain([input]))
    }

    /// A source reads some records.
    pub(crate) fn read(&mut self, index: usize, count: usize) {
        for _ in 0..count {
            let source = &self.generation.as_ref().expect("it has been started").sources[index];
            let Some(mut epoch) = source.epoch else { return };
            // A source that is read again gives records the epochs that they had: only there notes find them.
            let known = self.epochs[index].get(source.next).copied().filter(|_| self.case.journaled);
            if let Some(known) = known.filter(|known| *known > epoch) {
                epoch = known;
                self.turn(index, epoch);
            }
            let (records, generation) =
                (&self.case.sources[index], self.generation.as_mut().expect("it has been started"));
            let source = &mut generation.sources[index];
            let Some(record) = records.get(source.next) else {
                source.epoch = None;
                let ack = Ack::Source { source: self::source(index), epoch: epoch + 1, position: None };
                generation.acks.push((epoch, ack));
                self.trace.note(format_args!("source {index} ends"));
                return;
            };
            self.epochs[index][source.next] = epoch;
            source.next += 1;
            self.read[index] = self.read[index].max(source.next);
            let to = owner(record.key, generation.workers.len());
            generation.links[index][to].push_back((T::at(epoch, *record), *record));
            self.trace.note(format_args!("source {index} reads {record:?} in {epoch}"));
        }
    }

    /// A source closes its epoch.
    pub(crate) fn close(&mut self, index: usize) {
        let ahead = 1 + self.dice.roll(2);
        let source = &self.generation.as_ref().expect("it has been started").sources[index];
        let Some(epoch) = source.epoch else { return };
        let known = self.case.journaled && source.next < self.read[index];
        let next = if known { (epoch + ahead).min(self.epochs[index][source.next]) } else { epoch + ahead };
        if next > epoch {
            self.turn(index, next);
        }
    }

    /// A source turns to an epoch.
    fn turn(&mut self, index: usize, next: u64) {
        let generation = self.generation.as_mut().expect("it has been started");
        let source = &mut generation.sources[index];
        let Some(epoch) = source.epoch.replace(next) else { return };
        if let Some(known) = self.epochs[index].get_mut(source.next) {
            *known = next.max(*known);
        }
        let position = Some(vec![u8::try_from(source.next).expect("few records")]);
        generation.acks.push((epoch, Ack::Source { source: self::source(index), epoch: next, position }));
        self.trace.note(format_args!("source {index} turns to {next}"));
    }

    /// The oldest message of a link arrives.
    pub(crate) fn deliver(&mut self, source: usize, to: usize) -> Outcome {
        let generation = self.running();
        if let Some((time, record)) = generation.links[source][to].pop_front() {
            let harness = &mut generation.workers[to].harness;
            match signal(record) {
                Some(signal) => harness.signal_at(time.clone(), signal),
                None => harness.push_at(time.clone(), record),
            }
            self.trace.note(format_args!("{record:?} of {source} reaches {to} at {time:?}"));
            self.collect(to)?;
        }
        Ok(())
    }

    /// Word of the frontier reaches a worker.
    pub(crate) fn advance(&mut self, to: usize) -> Outcome {
        let frontier = self.input_frontier();
        let worker = &mut self.running().workers[to];
        if beyond(frontier, worker.view) {
            worker.view = frontier;
            match frontier {
                Some(epoch) => worker.harness.advance(epoch),
                None => worker.harness.end(),
            }
            self.trace.note(format_args!("worker {to} hears of {frontier:?}"));
            self.collect(to)?;
        }
        Ok(())
    }

    /// A worker runs so many tasks.
    pub(crate) fn step(&mut self, at: usize, tasks: usize) -> Outcome {
        let worker = &mut self.running().workers[at];
        let mut left = tasks;
        while left > 0 && worker.harness.step() {
            left -= 1;
        }
        self.collect(at)
    }

    /// Looks at what a worker has come to.
    fn collect(&mut self, at: usize) -> Outcome {
        let drops = self.case.bug == Some(Bug::BlockLost);
        let generation = self.generation.as_mut().expect("it has been started");
        let worker = &mut generation.workers[at];
        if let Some(failure) = worker.harness.failure() {
            return Err(format!("worker {at} fails: {failure}"));
        }
        for (time, key, emit) in worker.harness.outputs() {
            ensure!(key == emit.key, "an output of key {key} is {emit:?}");
            let open = worker.outputs.iter().any(|least| least.less_equal(&time));
            ensure!(open, "S5: {emit:?} at {time:?} behind {:?}", worker.outputs);
            self.trace.note(format_args!("worker {at} puts out {emit:?} at {time:?}"));
            let seen = Seen { epoch: time.epoch(), event: time.event_time(), emit };
            worker.unstaged.entry(time.epoch()).or_default().push(seen);
        }
        for block in worker.harness.blocks() {
            let open = worker.facts.iter().any(|least| least.less_equal(&block.time));
            ensure!(open, "S5: facts at {:?} behind {:?}", block.time, worker.facts);
            self.trace.note(format_args!("worker {at} seals {} at {:?}", block.count, block.time));
            if !(drops && self.dice.roll(3) == 0) {
                worker.blocks.push_back(block);
            }
        }
        worker.calls = worker.harness.calls();
        let (outputs, facts) = (worker.harness.frontier(), worker.harness.facts_frontier());
        for (before, now) in [(&worker.outputs, &outputs), (&worker.facts, &facts)] {
            let ahead = now.iter().all(|time| before.iter().any(|least| least.less_equal(time)));
            ensure!(ahead, "S5: a frontier goes back from {before:?} to {now:?}");
        }
        let behind = outputs.iter().all(|time| facts.iter().any(|least| least.less_equal(time)));
        ensure!(behind, "S5: facts at {facts:?} are ahead of work at {outputs:?}");
        (worker.outputs, worker.facts) = (outputs, facts);
        Ok(())
    }

    /// How many calls a worker waits for.
    pub(crate) fn calls(&self, at: usize) -> usize {
        self.generation.as_ref().map_or(0, |generation| generation.workers[at].calls.len())
    }

    /// A call ends.
    pub(crate) fn complete(&mut self, at: usize, call: usize) -> Outcome {
        let receipts = self.receipts;
        let worker = &mut self.running().workers[at];
        let call = worker.calls[call].clone();
        if call.name == RECEIPT {
            // Not a number that other bytes could look like.
            let receipt = 0x5eed_0000_0000 + receipts;
            worker.harness.complete_with(call.id, &receipt);
            self.receipts += 1;
            self.trace.note(format_args!("receipt {receipt}"));
            self.given.push((receipt, postcard::to_allocvec(&receipt).map_err(|error| error.to_string())?));
        } else {
            worker.harness.complete(call.id);
        }
        self.trace.note(format_args!("worker {at}: {} {} ends", call.id, call.name));
        self.collect(at)
    }

    /// A second passes.
    pub(crate) fn tick(&mut self) {
        let second = Duration::from_secs(1);
        self.clock += second;
        self.running().workers.iter_mut().for_each(|worker| worker.harness.tick(second));
    }

    /// The oldest block of a worker becomes durable.
    pub(crate) fn persist(&mut self, at: usize) -> Outcome {
        let Generation { workers, logs, component, processes, acks, .. } = self.running();
        let Some(block) = workers[at].blocks.pop_front() else { return Ok(()) };
        let (epoch, component) = (block.time.epoch(), *component);
        let digests = digest(component, epoch, &block.bytes()).map_err(|error| error.to_string())?;
        let block = block.at(epoch);
        let (tell, told) = channel();
        let done = Box::new(move |position| {
            // Whoever waits is still there.
            let _ = tell.send(position);
        });
        logs[at * *processes / workers.len()].append(checkpoint::Record::Facts { component, block }, done);
        // Nothing comes of a log that has failed.
        if let Ok(position) = told.recv() {
            acks.push((epoch, Ack::Facts { component, position, digests }));
            self.trace.note(format_args!("worker {at}: facts of {epoch} are durable up to {position:?}"));
        }
        Ok(())
    }

    /// Notes of a worker become durable, so many at most; when all are, their runs hear of it.
    pub(crate) fn note(&mut self, at: usize, most: usize) {
        let Generation { workers, journals, component, processes, .. } =
            self.generation.as_mut().expect("it has been started");
        let (process, component) = (at * *processes / workers.len(), *component);
        let Some(journal) = journals.get(process) else { return };
        let worker = &mut workers[at];
        let notes: Vec<Note> = worker.harness.notes()[worker.noted..].iter().take(most).cloned().collect();
        for note in notes {
            let (tell, told) = channel();
            let bytes = note.bytes.clone();
            let done = Box::new(move || {
                // Whoever waits is still there.
                let _ = tell.send(());
            });
            journal.put(Note { component, ..note }, done);
            // Nothing comes of a log that has failed.
            if told.recv().is_err() {
                return;
            }
            worker.noted += 1;
            self.trace.note(format_args!("worker {at}: {} notes are durable", worker.noted));
            let (kept, given) = std::mem::take(&mut self.given)
                .into_iter()
                .partition(|(_, of_it)| bytes.windows(of_it.len()).any(|window| window == of_it));
            self.given = given;
            self.kept.extend::<Vec<i64>>(Vec::<(i64, Vec<u8>)>::into_iter(kept).map(|(receipt, _)| receipt).collect());
        }
        if worker.noted == worker.harness.notes().len() {
            worker.harness.sync();
        }
    }

    /// The sink stages what has come of a worker in epochs that are over.
    pub(crate) fn stage(&mut self, at: usize) {
        let early = self.case.bug == Some(Bug::VisibleEarly);
        let generation = self.generation.as_mut().expect("it has been started");
        let over = least(generation.workers.iter().map(|worker| epoch_of(&worker.outputs)));
        let unstaged = &mut generation.workers[at].unstaged;
        while let Some(first) = unstaged.first_entry().filter(|first| over.is_none_or(|over| *first.key() < over)) {
            let (epoch, rows) = first.remove_entry();
            let publication = Publication::Rename {
                from: format!("staged {epoch}.{at} of {}", generation.number),
                to: format!("{epoch}.{at}"),
            };
            let Publication::Rename { from, .. } = &publication else { unreachable!("made above") };
            let mut outside = lock(&self.outside);
            outside.staged.insert(from.clone(), rows);
            if early {
                outside.publish(&publication);
            }
            generation.acks.push((epoch, Ack::Staged { sink: "sink".to_owned(), epoch, publication }));
            self.trace.note(format_args!("outputs of {epoch} are staged on {at}"));
        }
    }

    /// How many acks are on their way.
    pub(crate) fn acks(&self) -> usize {
        self.generation.as_ref().map_or(0, |generation| generation.acks.len())
    }

    /// An ack reaches the committer.
    pub(crate) fn acknowledge(&mut self, which: usize) -> Outcome {
        let committed = self.committed;
        let generation = self.running();
        let (epoch, ack) = generation.acks.swap_remove(which);
        ensure!(committed.is_some_and(|committed| epoch >= committed), "D3: {committed:?} is told before {ack:?}");
        generation.committer.ack(epoch, ack.clone());
        self.trace.note(format_args!("the committer hears of {ack:?} at {epoch}"));
        Ok(())
    }

    /// The frontier of acks reaches the committer, which commits.
    pub(crate) fn commit(&mut self) -> Outcome {
        let frontier = self.ack_frontier();
        let generation = self.generation.as_mut().expect("it has been started");
        if !beyond(frontier, generation.asked) {
            return Ok(());
        }
        generation.asked = frontier;
        self.attempted = frontier;
        generation.committer.advance(frontier);
        generation.committer.settle();
        if let Some(told) = generation.told.try_iter().last() {
            self.committed = told;
            self.trace.note(format_args!("committed: {told:?}"));
            for worker in &mut generation.workers {
                worker.harness.commit(told.unwrap_or(u64::MAX));
            }
        }
        self.check_outside()?;
        let committed = self.committed;
        ensure!(
            committed == frontier || self.failed()?,
            "D3: the committer was told of {frontier:?} and has committed {committed:?}"
        );
        let last = lock(&self.outside).visible.last_key_value().map(|((epoch, _), _)| *epoch);
        let attempted = self.attempted;
        ensure!(
            last.is_none_or(|last| attempted.is_none_or(|attempted| last < attempted)),
            "D6: outputs of epoch {last:?} are visible, and {attempted:?} is not committed"
        );
        Ok(())
    }

    /// Lets all that does not wait for calls, for the clock or for sources come to its end.
    pub(crate) fn calm(&mut self) -> Outcome {
        let (sources, workers) = self.width();
        for source in 0..sources {
            for worker in 0..workers {
                while !self.running().links[source][worker].is_empty() {
                    self.deliver(source, worker)?;
                }
            }
        }
        for worker in 0..workers {
            self.advance(worker)?;
            self.step(worker, usize::MAX)?;
            while self.unnoted(worker) {
                self.note(worker, usize::MAX);
                if self.failed()? {
                    return Ok(());
                }
                self.step(worker, usize::MAX)?;
            }
            while !self.failed()? && !self.running().workers[worker].blocks.is_empty() {
                self.persist(worker)?;
            }
        }
        (0..workers).for_each(|worker| self.stage(worker));
        while self.acks() > 0 {
            self.acknowledge(0)?;
        }
        if self.failed()? {
            return Ok(());
        }
        self.commit()?;
        let input = self.input_frontier();
        ensure!(
            !self.case.carries || self.committed == input || input.is_none() || self.failed()?,
            "S5: under Carry {:?} is committed, and the input is at {input:?}",
            self.committed
        );
        Ok(())
    }

    /// Whether a worker has notes that are not durable.
    fn unnoted(&self, at: usize) -> bool {
        self.generation.as_ref().is_some_and(|generation| {
            let worker = &generation.workers[at];
            !generation.journals.is_empty() && worker.noted < worker.harness.notes().len()
        })
    }

    /// Sources and workers.
    pub(crate) fn width(&self) -> (usize, usize) {
        self.generation.as_ref().map_or((0, 0), |running| (running.sources.len(), running.workers.len()))
    }

    /// Whether all is committed.
    pub(crate) fn is_complete(&self) -> bool {
        self.committed.is_none()
    }

    /// The facts of the checkpoint as one harness, when all is committed.
    pub(crate) fn restored(&mut self) -> Outcome<(Harness<u64, Record, Emit, T>, Places)> {
        if let Some(Generation { logs, journals, committer, told, .. }) = self.generation.take() {
            journals.iter().for_each(LogJournal::close);
            drop((logs, committer));
            while told.recv().is_ok() {}
        }
        self.check_outside()?;
        let report = checkpoint::verify(&self.store).map_err(|error| error.to_string())?;
        ensure!(report.findings.is_empty(), "D2: {:?}", report.findings);
        let mut opened = self.checkpoints().claim("job").map_err(|error| error.to_string())?;
        ensure!(opened.frontier().is_none(), "D3: it would go on at {:?}", opened.frontier());
        let start = opened.resume(&self.shape()).map_err(|error| error.to_string())?;
        let component = start.components[0].number;
        let notes = self.case.journaled.then_some(&[][..]);
        let harness = self.restore(&opened, component, (0, 1), u64::MAX >> 1, notes)?;
        let committer = opened.committer(start, self.publish(), Box::new(|_| {}), Control::detached());
        committer.map_err(|error| error.to_string())?.expect("process 0 has the committer").settle();
        self.check_outside()?;
        Ok((harness, self.places))
    }

    /// What a key remembers where it is, and how often it was told.
    pub(crate) fn memory(&mut self, key: u64) -> (Memory, u64) {
        let Places { count, sum, told } = self.places;
        let workers = &mut self.running().workers;
        let at = owner(key, workers.len());
        let harness = &mut workers[at].harness;
        let memory = Memory {
            count: harness.memory(&key, count).unwrap_or(0),
            sum: harness.memory(&key, sum),
            mark: harness.memory_at(&key, MARK).unwrap_or(None),
        };
        (memory, harness.memory(&key, told).unwrap_or(0))
    }

    /// What can be seen of a key, in order.
    pub(crate) fn seen(&self, key: u64) -> Vec<Seen> {
        let outside = lock(&self.outside);
        outside.visible.values().flatten().filter(|seen| seen.emit.key == key).cloned().collect()
    }
}
