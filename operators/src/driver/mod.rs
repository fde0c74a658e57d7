//! The driver of a keyed mailbox operator: epochs, mailboxes, fuel, deadlines, completions, facts.
//!
//! It knows when a run may start and when a time is over; what a run does is the [`Behavior`]'s. It holds
//! no capability and reads no clock: the operator (`operator`) does, and so does a test harness, which
//! drives the very same code without timely.
//!
//! # Steps of an activation
//! 1. [`Driver::advance`] tells the input's frontier: inputs that waited for their epoch are released.
//! 2. [`Driver::input`] runs inputs of current epochs at once, and keeps the others.
//! 3. [`Driver::complete`] and due timers make suspended runs ready.
//! 4. [`Driver::work`] runs what is ready, seals what closed, flushes outputs.
//! 5. [`Driver::minimal`] names the least open times, to which capabilities are lowered.
//!
//! # Invariants
//! - A key has at most one run in flight; its runs start in order of epochs, within one as inputs arrived
//!   (or as the behavior sorts them), then its notification (S2).
//! - Each accepted input and notification is open work at its time until its run ends; one function,
//!   `Driver::ended`, ends runs (S3, S5).
//! - No run starts whose epoch lies beyond the least epoch open at the input (S2).
//! - After a failure nothing runs and nothing that was open is ever closed (S8).
//!
//! Not here: exchange and capabilities (`operator`), what memory holds (the behavior).

mod begun;
mod calls;
mod carry;
mod encoder;
mod intake;
mod mailbox;
mod notes;
mod records;
mod restore;
mod scheduled;
mod seal;
mod shape;
mod signals;
mod tags;
mod view;

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use smallvec::SmallVec;
use tokio::task::AbortHandle;

use self::carry::Carried;
use self::mailbox::{Mailbox, Waiting};
use self::notes::Notes;
use self::records::Records;
use self::restore::Restoring;
use self::scheduled::Scheduled;
use self::seal::Seal;
pub use self::shape::{Bare, ByRef, Emission, Intake, Paired, WithKey};
use self::signals::Signals;
use crate::behavior::{Behavior, CallJob, CallStart, Failure, Opening, Progress, RunHead, Sequence, TimerStart, Work};
use crate::completion::{CallRef, Completion, CompletionQueue};
use crate::fact::Block;
use crate::group::KeyGroups;
use crate::keys::{KeyId, KeyIndex};
use crate::limits::Limits;
use crate::open_work::OpenWork;
use crate::quiet;
use crate::slab::{RunToken, Slab};
use crate::stats::RunStats;
use crate::time::EpochTime;
use crate::timers::{TimerKey, Timers};

/// Up to so many keys, their states are in the cache anyway.
const CACHED_KEYS: usize = 1 << 14;

/// Where the driver's output goes.
pub trait Sink<T, O, S> {
    /// Items for the output port at `time`; leaves the vector empty.
    fn outputs(&mut self, time: &T, items: &mut Vec<O>);
    /// Items for the tagged port at `time`; leaves the vector empty.
    fn tagged(&mut self, time: &T, items: &mut Vec<S>);
    /// Facts.
    fn facts(&mut self, block: Block<T>);
    /// Makes a note of `key`, whose group and epoch are given, durable; `then` comes through the completion queue.
    fn note(&mut self, group: u32, epoch: u64, key: Vec<u8>, bytes: Vec<u8>, then: Option<Completion>);
    /// The same for the record of a run.
    fn record(&mut self, group: u32, epoch: u64, key: Vec<u8>, bytes: Vec<u8>, then: Option<Completion>);
    /// Starts a call off the worker; its end comes through the completion queue.
    fn spawn(&mut self, call: CallRef, name: Cow<'static, str>, job: CallJob) -> Option<AbortHandle>;
}

/// How much an operator holds on one worker.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Load {
    /// Runs in flight, without those that wait for signals.
    pub runs: usize,
    /// Bytes of inputs that wait for such runs of their key, or for fuel.
    pub waiting_bytes: usize,
    /// Bytes of inputs that wait for their epoch.
    pub ahead_bytes: usize,
    /// Distinct open times.
    pub open_times: usize,
    /// The least epoch of them.
    pub least_open: Option<u64>,
    /// The least epoch open at the input; `None` at its end.
    pub epoch: Option<u64>,
}

struct KeyState<T, I> {
    sequence: u64,
    mailbox: Option<Box<Mailbox<T, I>>>,
}

struct ActiveRun<T, R> {
    head: RunHead,
    time: T,
    started: u64,
    run: R,
    /// Of what it is about, where there are notes.
    digest: u64,
    ready: bool,
    /// Mostly there is one.
    calls: SmallVec<[ActiveCall; 1]>,
    deadline: Option<TimerKey>,
    /// Whether it waits for a signal, and so counts for no limit.
    parked: bool,
}

struct ActiveCall {
    task: u32,
    call: u32,
    timer: Option<TimerKey>,
    /// How long it may take once its turn has come, while it waits for that.
    limit: Option<Duration>,
    /// Whether it counts among the calls on the runtime.
    running: bool,
    abort: Option<AbortHandle>,
}

/// Lists that travel between the behavior and the driver.
#[derive(Default)]
struct Requests {
    cancelled: Vec<(u32, u32)>,
    calls: Vec<CallStart>,
    timers: Vec<TimerStart>,
    notifications: Vec<u64>,
    scheduled: Vec<(u64, Vec<u8>)>,
}

enum Deadline {
    /// A sleep is over.
    Timer(CallRef),
    /// A call has taken too long.
    Call(CallRef, Duration),
    /// A run has taken too long.
    Run(RunToken),
    /// A scheduled event is due.
    Scheduled(KeyId, u64),
}

#[derive(Debug)]
struct Arrived<T, I> {
    time: T,
    key: KeyId,
    bytes: usize,
    input: I,
}

#[derive(Default)]
struct Registered<T> {
    order: Vec<(KeyId, T)>,
    keys: BTreeSet<KeyId>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Phase {
    Open,
    Failed(Failure),
    Closed,
}

/// The driver of one operator on one worker. See the module.
pub struct Driver<T: EpochTime, B: Behavior, E: Emission<B::Key, B::Output>> {
    behavior: B,
    limits: Limits,
    index: KeyIndex<B::Key>,
    states: Vec<KeyState<T, B::Input>>,
    queue: CompletionQueue,
    phase: Phase,

    /// The least epoch open at the input; `None` when the input has ended.
    epoch: Option<u64>,
    now: u64,
    open: OpenWork<T>,

    /// Inputs whose epoch is not current, by epoch, as they arrived.
    later: BTreeMap<u64, Vec<Arrived<T, B::Input>>>,
    /// Inputs whose epoch is current and whose turn has not come: ascending epochs.
    backlog: VecDeque<Arrived<T, B::Input>>,
    notifications: BTreeMap<u64, Registered<T>>,
    signals: Signals<T>,
    scheduled: Scheduled<T>,
    runs: Slab<ActiveRun<T, B::Run>>,
    /// How many of them wait for signals.
    parked: usize,
    ready_runs: VecDeque<RunToken>,
    ready_keys: VecDeque<KeyId>,
    /// Whether a run has used up its fuel; then one that has not begun comes first (S7).
    yielded: bool,
    /// Keys whose notification waits for inputs that are still in the backlog.
    held_back: Vec<KeyId>,
    timers: Timers<Deadline>,
    calls_running: usize,
    requests: Requests,
    calls_waiting: VecDeque<(CallRef, Cow<'static, str>, CallJob)>,

    /// The time of what is staged in `items` and in the behavior's effects.
    staged: Option<T>,
    items: Vec<E::Item>,
    seal: Option<Seal<T, B::Key>>,
    /// Whether epochs are over that are not sealed.
    unsealed: bool,
    restoring: Restoring<T>,
    /// Where calls are noted.
    notes: Option<Box<Notes<T, B::Input>>>,
    /// Where runs that are over are recorded.
    records: Option<Records<T>>,
    /// Which unfinished work is facts, where epochs do not wait for it.
    carried: Option<Carried>,
    /// The greatest epoch to which unfinished work has been moved.
    floor: u64,
    /// The epoch at which the job goes on.
    start: u64,
    /// Whether open work has changed since the least times of facts were asked for.
    work_changed: bool,
    ids: Vec<KeyId>,
    /// Those of a part whose changes are not noted.
    fresh: Vec<KeyId>,
    waiting_bytes: usize,
    ahead_bytes: usize,
    stats: RunStats,
}

impl<T: EpochTime, B: Behavior, E: Emission<B::Key, B::Output>> Driver<T, B, E> {
    /// Opens the behavior. `facts` says whether facts are wanted.
    ///
    /// # Errors
    /// What the behavior could not make; it is closed again.
    pub fn new(
        mut behavior: B,
        limits: Limits,
        groups: KeyGroups,
        queue: CompletionQueue,
        worker: usize,
        peers: usize,
        facts: bool,
    ) -> Result<Self, Failure> {
        let index = KeyIndex::default();
        let opening = Opening { keys: index.keys(), queue: queue.clone(), worker, peers, facts };
        if let Err(failure) = behavior.open(opening) {
            behavior.close();
            return Err(failure);
        }
        let carried = behavior.carries().then(Carried::default);
        Ok(Driver {
            behavior,
            limits,
            states: Vec::new(),
            queue,
            phase: Phase::Open,
            epoch: Some(T::minimum().epoch()),
            now: 0,
            open: OpenWork::default(),
            later: BTreeMap::new(),
            backlog: VecDeque::new(),
            notifications: BTreeMap::new(),
            signals: Signals::default(),
            scheduled: Scheduled::default(),
            runs: Slab::default(),
            parked: 0,
            ready_runs: VecDeque::new(),
            ready_keys: VecDeque::new(),
            yielded: false,
            held_back: Vec::new(),
            timers: Timers::default(),
            calls_running: 0,
            requests: Requests::default(),
            calls_waiting: VecDeque::new(),
            staged: None,
            items: Vec::new(),
            seal: facts.then(|| Seal::new(groups, index.keys())),
            unsealed: false,
            restoring: Restoring::default(),
            notes: None,
            records: None,
            carried,
            floor: T::minimum().epoch(),
            start: T::minimum().epoch(),
            work_changed: false,
            index,
            ids: Vec::new(),
            fresh: Vec::new(),
            waiting_bytes: 0,
            ahead_bytes: 0,
            stats: RunStats::default(),
        })
    }

    /// From here on calls are noted, if the behavior makes any; comes before all work and notes of before a crash.
    /// `generation` is this start of the job; with `records` each run is recorded when it is over. Whether there will be
    /// notes.
    pub fn take_notes(&mut self, generation: u64, records: bool) -> bool {
        if self.seal.is_some() && self.behavior.takes_notes(generation, records) {
            self.notes = Some(Box::default());
            self.records = records.then(Records::default);
        }
        self.notes.is_some()
    }

    /// Tells the clock, in microseconds since 1970; it does not go back.
    pub fn tick(&mut self, now: u64) {
        self.now = self.now.max(now);
    }

    /// Tells the least epoch open at the input; `None` when it has ended.
    pub fn advance(&mut self, epoch: Option<u64>) {
        // Until word of where the sources go on has come, the input seems to be before that.
        let epoch = epoch.map(|epoch| epoch.max(self.start));
        if epoch == self.epoch || self.phase != Phase::Open {
            return;
        }
        debug_assert!(epoch.is_none_or(|new| self.epoch.is_some_and(|old| new >= old)), "frontiers advance");
        if epoch.is_none()
            && self.carried.is_some()
            && let Some(last) = self.later.last_key_value().map(|(e, _)| *e)
        {
            // The end comes with inputs of later epochs: what is unfinished moves there first, as by single steps.
            self.advance(Some(last));
        }
        if self.carried.is_some() {
            self.store_notes();
        }
        self.epoch = epoch;
        self.behavior.advance(epoch);
        let sequence = self.behavior.sequence();
        let closed = |e: u64| epoch.is_none_or(|open| e < open);
        let released = |e: u64| {
            if sequence.is_some() { closed(e) } else { epoch.is_none_or(|open| e <= open) }
        };
        loop {
            let inputs = self.later.first_key_value().map(|(e, _)| *e).filter(|e| released(*e));
            let notify = self.notifications.first_key_value().map(|(e, _)| *e).filter(|e| closed(*e));
            match (inputs, notify) {
                (Some(i), n) if n.is_none_or(|n| i <= n) => {
                    self.unpark_before(Some(i));
                    self.release(i, sequence);
                }
                (_, Some(n)) => {
                    let registered = self.notifications.remove(&n).expect("found");
                    for (key, time) in registered.order {
                        self.deliver_notification(key, &time);
                    }
                }
                (_, None) => break,
            }
        }
        self.unpark_before(epoch);
        // At the end there is no least open epoch: what is left meets at the greatest that has inputs.
        let last = || self.backlog.iter().map(|arrived| arrived.time.epoch()).max();
        if let Some(epoch) = epoch.or_else(last) {
            self.carry_to(epoch);
        }
        if self.epoch.is_none() {
            self.leave_scheduled();
        }
    }

    /// Moves the inputs of `epoch` to the backlog.
    fn release(&mut self, epoch: u64, sequence: Option<Sequence<B>>) {
        let mut inputs = self.later.remove(&epoch).expect("found");
        if let Some(compare) = sequence {
            inputs.sort_by(|a, b| compare(&self.behavior, &a.input, &b.input));
        }
        for arrived in &inputs {
            self.ahead_bytes -= arrived.bytes;
            self.waiting_bytes += arrived.bytes;
        }
        if self.notes.as_ref().is_some_and(|notes| notes.has_past()) {
            for arrived in inputs {
                self.arrive(arrived);
            }
        } else {
            self.backlog.extend(inputs);
        }
    }

    /// Starts a run of a key that has none and is touched; whether it ended at once. The caller accounts for its end.
    #[inline]
    fn begin<K>(
        &mut self,
        head: &mut RunHead,
        time: &T,
        key: KeyId,
        work: Work<B::Input>,
        fuel: &mut u32,
        sink: &mut K,
    ) -> bool
    where
        K: Sink<T, E::Item, B::Tagged>,
    {
        let state = &mut self.states[key.index()];
        debug_assert!(state.mailbox.as_ref().is_none_or(|m| m.run.is_none()), "one run per key");
        state.sequence += 1;
        head.key = key;
        head.sequence = state.sequence;
        head.token = self.runs.vacant();
        if let Some(seal) = &mut self.seal
            && let Work::Notify { epoch } = work
        {
            let at = if self.carried.is_some() { time.with_epoch(self.floor) } else { time.clone() };
            seal.notification(key, &at, epoch, None);
        }
        let progress = if self.notes.is_some() {
            self.start_noted(head, time, work, fuel)
        } else {
            self.behavior.start(head, work, fuel)
        };
        self.started(head, time, progress, sink)
    }

    /// Takes note of how a run has started; whether it has ended at once. The caller accounts for its end.
    #[inline]
    fn started<K>(&mut self, head: &RunHead, time: &T, progress: Progress<B::Run>, sink: &mut K) -> bool
    where
        K: Sink<T, E::Item, B::Tagged>,
    {
        let key = head.key;
        let ended = match progress {
            Progress::Done => {
                if self.behavior.wants_control() {
                    self.control_of_ended(key, time);
                }
                if self.seal.is_some() {
                    self.changed(key, &self.at(time));
                }
                if self.records.is_some() {
                    self.record(head, time, sink);
                }
                true
            }
            Progress::Suspended(run) => {
                self.keep(*head, time, run, false, sink);
                false
            }
            Progress::Yielded(run) => {
                self.keep(*head, time, run, true, sink);
                false
            }
            Progress::Failed(failure) => {
                self.fail(*failure);
                false
            }
        };
        // After control, which to look at effects would take as seen.
        if E::KEYED {
            self.collect(key);
        }
        ended
    }

    /// Watches how long a run takes, if there is a limit.
    fn deadline(&mut self, run: RunToken) -> Option<TimerKey> {
        let limit = self.behavior.run_timeout()?;
        Some(self.timers.add(self.now.saturating_add(limit.as_micros() as u64), Deadline::Run(run)))
    }

    /// Keeps a run that has not ended.
    fn keep<K>(&mut self, head: RunHead, time: &T, run: B::Run, ready: bool, sink: &mut K)
    where
        K: Sink<T, E::Item, B::Tagged>,
    {
        let token = head.token;
        let deadline = self.deadline(token);
        let began = self.notes.as_mut().and_then(|notes| notes.beginning.take());
        let of_run = || self.notes.is_some().then(|| self.behavior.run_digest(&run)).flatten();
        let digest = began.or_else(of_run).unwrap_or(0);
        let active = ActiveRun {
            head,
            time: time.clone(),
            started: self.now,
            run,
            digest,
            ready,
            calls: SmallVec::new(),
            deadline,
            parked: false,
        };
        let placed = self.runs.insert(active);
        debug_assert_eq!(placed, token, "the vacant token is the next");
        let mailbox = &mut self.states[head.key.index()].mailbox;
        mailbox.get_or_insert_with(|| Box::new(Mailbox::new(None))).run = Some(token);
        if ready {
            self.ready_runs.push_back(token);
        }
        if self.carried.is_some() {
            self.changed(head.key, &self.at(time));
        }
        if self.records.is_some() {
            self.record_beginning(token, sink);
        }
        if self.behavior.wants_control() {
            self.control(token, sink);
        }
        self.park(token);
    }

    /// Runs what is ready, within `fuel`; seals closed epochs; flushes. Whether there is more to do now.
    pub fn work<K>(&mut self, fuel: &mut u32, sink: &mut K) -> bool
    where
        K: Sink<T, E::Item, B::Tagged>,
    {
        if self.phase != Phase::Open {
            return false;
        }
        self.fire_timers(sink);
        while *fuel > 0 && self.phase == Phase::Open && self.step(fuel, sink) {}
        if let Phase::Failed(_) = self.phase {
            return false;
        }
        self.unsealed = self.seal(sink);
        self.flush(sink);
        if self.epoch.is_none() && self.open.is_empty() && !self.unsealed && self.all_recorded() {
            self.behavior.drained();
            self.shut(Phase::Closed);
        }
        self.has_work()
    }

    /// Runs one ready run or starts one; whether there was one.
    fn step<K>(&mut self, fuel: &mut u32, sink: &mut K) -> bool
    where
        K: Sink<T, E::Item, B::Tagged>,
    {
        let begin = std::mem::take(&mut self.yielded) && self.can_begin();
        if !begin && let Some(token) = self.ready_runs.pop_front() {
            self.resume(token, fuel, sink);
            return true;
        }
        if self.runs.len() - self.parked >= self.limits.runs_in_flight {
            return false;
        }
        if let Some(key) = self.ready_keys.pop_front() {
            self.start_next(key, fuel, sink);
            return true;
        }
        let Some(Arrived { time, key, bytes, input }) = self.backlog.pop_front() else {
            return false;
        };
        if self.backlog.front().is_none_or(|next| next.time.epoch() > time.epoch()) {
            self.ready_keys.extend(self.held_back.drain(..));
        }
        self.waiting_bytes -= bytes;
        if self.states[key.index()].mailbox.is_some() {
            self.wait(time, key, input);
        } else {
            self.before_run(key, &time, sink);
            self.stage(&self.at(&time), sink);
            let mut head = self.head(&time);
            if self.begin(&mut head, &time, key, Work::Input(input), fuel, sink) {
                self.stats.inline += 1;
                self.ended(&time, key);
            }
        }
        true
    }

    fn resume<K>(&mut self, token: RunToken, fuel: &mut u32, sink: &mut K)
    where
        K: Sink<T, E::Item, B::Tagged>,
    {
        self.unpark(token);
        let Some(active) = self.runs.get_mut(token) else { return };
        active.ready = false;
        active.head.now = self.now;
        let head = active.head;
        if self.carried.is_some() {
            let at = active.time.with_epoch(self.floor);
            self.before_run(head.key, &at, sink);
            if let Some(notes) = self.notes.as_mut().filter(|notes| notes.has_past()) {
                notes.goes_on(head.key);
            }
            self.stage(&at, sink);
        } else if self.staged.as_ref() != Some(&active.time) {
            let time = active.time.clone();
            self.stage(&time, sink);
        }
        let run = &mut self.runs.get_mut(token).expect("in flight").run;
        let progress = self.behavior.resume(&head, run, fuel);
        match progress {
            Progress::Done => {
                if self.behavior.wants_control() {
                    self.control(token, sink);
                }
                let active = self.runs.remove(token).expect("in flight");
                for call in active.calls {
                    self.release_call(call, true);
                }
                if let Some(deadline) = active.deadline {
                    self.timers.cancel(deadline);
                }
                if self.seal.is_some() {
                    self.changed(head.key, &self.at(&active.time));
                }
                if self.records.is_some() {
                    self.record(&head, &active.time, sink);
                }
                self.start_calls(sink);
                self.stats.record(self.now.saturating_sub(active.started).saturating_mul(1000), 1);
                self.ended(&active.time, head.key);
            }
            Progress::Suspended(()) | Progress::Yielded(()) => {
                if matches!(progress, Progress::Yielded(())) {
                    self.yielded = true;
                    self.runs.get_mut(token).expect("in flight").ready = true;
                    self.ready_runs.push_back(token);
                }
                if self.carried.is_some() {
                    let at = self.runs.get(token).expect("in flight").time.with_epoch(self.floor);
                    self.changed(head.key, &at);
                }
                if self.behavior.wants_control() {
                    self.control(token, sink);
                }
                self.park(token);
            }
            Progress::Failed(failure) => {
                self.note_failure(token, sink);
                self.fail(*failure);
            }
        }
        if E::KEYED {
            self.collect(head.key);
        }
    }

    /// [`Driver::before_change`], where full blocks can leave.
    #[inline]
    pub(super) fn before_run<K>(&mut self, key: KeyId, time: &T, sink: &mut K)
    where
        K: Sink<T, E::Item, B::Tagged>,
    {
        if let Some(epoch) = self.before_change(key, time)
            && let Some(seal) = &mut self.seal
        {
            seal.ship_full(epoch, &mut |block| sink.facts(block));
        }
    }

    /// Starts the next work of a key's mailbox.
    fn start_next<K>(&mut self, key: KeyId, fuel: &mut u32, sink: &mut K)
    where
        K: Sink<T, E::Item, B::Tagged>,
    {
        let Some(mailbox) = &mut self.states[key.index()].mailbox else {
            return;
        };
        if mailbox.run.is_some() {
            return;
        }
        if let Some(Waiting::Notify { time }) = mailbox.waiting.front()
            && self.backlog.front().is_some_and(|next| next.time.epoch() <= time.epoch())
        {
            self.held_back.push(key);
            return;
        }
        let Some(first) = mailbox.waiting.front().map(|first| first.time().clone()) else {
            return;
        };
        if self.seal.is_some() {
            // While it still waits: it is part of what the key was.
            let at = self.at(&first);
            self.before_run(key, &at, sink);
        }
        let mailbox = self.states[key.index()].mailbox.as_mut();
        let Some(waiting) = mailbox.and_then(|mailbox| mailbox.waiting.pop_front()) else {
            return;
        };
        let (time, work) = match waiting {
            Waiting::Input { time, bytes, input, .. } => {
                self.waiting_bytes -= bytes;
                if let Some(mailbox) = &mut self.states[key.index()].mailbox {
                    mailbox.bytes -= bytes;
                }
                (time, Work::Input(input))
            }
            Waiting::Notify { time } => {
                let epoch = time.epoch();
                (time, Work::Notify { epoch })
            }
            Waiting::Scheduled { time, number } => {
                let event = self.scheduled.begin(key, number).expect("it waits until its run begins");
                (time, Work::Scheduled { event })
            }
        };
        self.stage(&self.at(&time), sink);
        let mut head = self.head(&time);
        if self.begin(&mut head, &time, key, work, fuel, sink) {
            self.ended(&time, key);
        }
    }

    /// Ends a run, for all runs that did not end within the batch that brought them.
    fn ended(&mut self, time: &T, key: KeyId) {
        self.stats.runs += 1;
        let at = self.at(time);
        self.open.remove(&at, 1);
        let state = &mut self.states[key.index()];
        if let Some(mailbox) = &mut state.mailbox {
            mailbox.run = None;
            if mailbox.waiting.is_empty() {
                state.mailbox = None;
            } else {
                self.ready_keys.push_back(key);
            }
        }
    }

    /// Makes `time` the time of what is staged; what is staged for another goes out first.
    #[inline]
    fn stage<K>(&mut self, time: &T, sink: &mut K)
    where
        K: Sink<T, E::Item, B::Tagged>,
    {
        if self.staged.as_ref() != Some(time) {
            self.flush(sink);
            self.staged = Some(time.clone());
        }
    }

    fn collect(&mut self, key: KeyId) {
        let keys = self.index.keys();
        let keys = keys.borrow();
        let items = &mut self.items;
        self.behavior
            .effects(|effects| items.extend(effects.outputs.drain(..).map(|o| E::item(&keys[key.index()], o))));
    }

    fn flush<K>(&mut self, sink: &mut K)
    where
        K: Sink<T, E::Item, B::Tagged>,
    {
        let Some(time) = self.staged.take() else { return };
        let items = &mut self.items;
        self.behavior.effects(|effects| {
            if !E::KEYED {
                E::swap(&mut effects.outputs, items);
            }
            if !items.is_empty() {
                sink.outputs(&time, items);
            }
            if !E::KEYED {
                E::swap(&mut effects.outputs, items);
            }
            if !effects.tagged.is_empty() {
                sink.tagged(&time, &mut effects.tagged);
            }
        });
    }

    /// Seals a slice of what is over; whether more is left to seal.
    fn seal<K>(&mut self, sink: &mut K) -> bool
    where
        K: Sink<T, E::Item, B::Tagged>,
    {
        let (epoch, least) = (self.epoch, self.open.least_epoch());
        let is_over = |e: u64| epoch.is_none_or(|now| e < now) && least.is_none_or(|least| e < least);
        let Some((seal, mut durable)) = self.sealing() else { return false };
        seal.close(&mut durable, is_over, &mut |block| sink.facts(block))
    }

    #[cold]
    fn fail(&mut self, failure: Failure) {
        tracing::error!(%failure, "an agent stops its job");
        self.shut(Phase::Failed(failure));
    }

    /// Ends the behavior; late completions are refused from here on.
    fn shut(&mut self, phase: Phase) {
        self.phase = phase;
        self.queue.close();
        // Runs that are given up go before what they use; dropping them is user code.
        let runs = std::mem::take(&mut self.runs);
        if let Err(panic) = quiet::catch(|| drop(runs)) {
            tracing::error!(%panic, "a run failed to be dropped");
        }
        self.behavior.close();
    }

    /// Whether [`Driver::work`] would find something to do without anything else happening.
    pub fn has_work(&self) -> bool {
        self.phase == Phase::Open && (self.unsealed || !self.ready_runs.is_empty() || self.can_begin())
    }

    /// Whether a run could begin now.
    fn can_begin(&self) -> bool {
        self.runs.len() - self.parked < self.limits.runs_in_flight
            && (!self.ready_keys.is_empty() || !self.backlog.is_empty())
    }

    /// Writes the least times at which work is open to `into` if they may have changed since last asked.
    pub fn minimal(&mut self, into: &mut Vec<T>) -> bool {
        let changed = self.open.take_changed();
        if changed {
            self.open.minimal(into);
            self.work_changed = true;
        }
        changed
    }

    /// Writes the least times at which facts may still come to `into` if they may have changed since last asked.
    /// Comes after [`Driver::minimal`].
    pub fn minimal_facts(&mut self, into: &mut Vec<T>) -> bool {
        let Some(seal) = &mut self.seal else { return false };
        let changed = seal.take_changed() || std::mem::take(&mut self.work_changed);
        if changed {
            seal.minimal(&self.open, into);
        }
        changed
    }
}

impl<T: EpochTime, B: Behavior, E: Emission<B::Key, B::Output>> Drop for Driver<T, B, E> {
    /// A driver that is dropped before its end, as when construction fails, still closes its behavior.
    fn drop(&mut self) {
        if self.phase == Phase::Open {
            self.shut(Phase::Closed);
        }
    }
}
