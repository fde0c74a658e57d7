//! The harness: one agent, one thread, a virtual clock.

mod outside;

use std::cell::Cell;
use std::fmt::{self, Debug, Formatter};
use std::rc::Rc;
use std::time::Duration;

use serde::Serialize;
use timely_agents_operators::behavior::Failure;
use timely_agents_operators::clock::Clock;
use timely_agents_operators::completion::{CallFailure, CallResult, CallValue, Completion, CompletionQueue, Spent};
use timely_agents_operators::driver::{Driver, Load, Paired, WithKey};
use timely_agents_operators::fact::{Block, Fact, FactRef};
use timely_agents_operators::group::KeyGroups;
use timely_agents_operators::journal::Note;
use timely_agents_operators::keys::Key;
use timely_agents_operators::stats::RunStats;
use timely_agents_operators::time::EpochTime;

use super::rim::{CallId, PendingCall, Rim, execute};
use crate::agent::Input;
use crate::behavior::AgentBehavior;
use crate::memory::{PATHS, PathColumn, PathError, Remembered, Slot, SlotColumn};
use crate::plan::Plan;
use crate::side::Tag;
use crate::signal::Signal;
use crate::tagged::{DeadLetter, EventRecord, Tagged};

/// Finds the key of an input.
type KeyOf<K, I> = Box<dyn Fn(&I) -> K>;

/// An agent under test: inputs and epochs are pushed, tasks are stepped, calls are completed, the clock is
/// moved, all by the test; then it looks at what came of it.
///
/// Pushing and advancing run nothing: [`Harness::step`] runs one task, [`Harness::run`] all that can run.
///
/// ```
/// use std::time::Duration;
/// use timely_agents::prelude::*;
/// use timely_agents::testing::Harness;
///
/// // An agent that asks a slow advisor about every reading, and counts readings by sensor.
/// let mut agent = Agent::<(String, i64), String>::new("advice");
/// let seen = agent.memory::<u64>("seen");
/// agent.on_input_async("advise", async move |(_, value), ctx| {
///     let n = ctx.update(seen, |n| { *n += 1; *n });
///     let advice = ctx.durable("advisor", *value, async |value| format!("turn {value}")).await?;
///     ctx.sleep(Duration::from_secs(60)).await;
///     ctx.output(format!("{advice}, reading {n}"));
///     Ok(())
/// });
/// let plan = agent.build()?;
///
/// let mut harness = Harness::<String, (String, i64), String>::new(&plan, |(sensor, _)| sensor.clone())?;
/// harness.push(1, ("left".into(), 7));
/// harness.push(1, ("left".into(), 8));
/// harness.advance(2); // Epoch 1 is complete at the input.
/// harness.run();
///
/// // The first run waits for its call, the second input waits for the first run.
/// assert_eq!(harness.mailbox(&"left".into()), (true, 1));
/// assert_eq!(harness.memory(&"left".into(), seen), None, "unfinished steps are not seen");
/// assert_eq!(harness.frontier(), [1], "epoch 1 has unfinished work");
/// let call = harness.calls()[0].clone();
/// assert_eq!(call.name, "advisor");
///
/// // Answer for the advisor, or let `complete` ask the real one; then let a minute pass.
/// harness.complete_with(call.id, &"hold".to_string());
/// harness.run();
/// harness.pass(Duration::from_secs(60));
/// assert_eq!(harness.outputs(), [(1, "left".into(), "hold, reading 1".into())]);
///
/// harness.complete(harness.calls()[0].id);
/// harness.run();
/// harness.pass(Duration::from_secs(60));
/// assert_eq!(harness.outputs(), [(1, "left".into(), "turn 8, reading 2".into())]);
/// assert_eq!(harness.memory(&"left".into(), seen), Some(2));
/// assert_eq!(harness.frontier(), [2]);
///
/// harness.end();
/// harness.run();
/// assert!(harness.is_closed());
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub struct Harness<K: Key, I: Input, O: 'static, T: EpochTime = u64> {
    driver: Driver<T, AgentBehavior<K, I, O>, WithKey>,
    rim: Rim<T, K, O>,
    key_of: KeyOf<K, I>,
    queue: CompletionQueue,
    now: Rc<Cell<u64>>,
    clock: Clock,
    observed: Rc<Cell<bool>>,
    agent: u32,
    agent_name: String,
    /// The times at which inputs may still come: none when the input has ended.
    input: Option<T>,
    open: Vec<T>,
    open_facts: Vec<T>,
    /// Notes of earlier starts.
    past: Vec<Note>,
    /// Whether notes are durable at once.
    syncs: bool,
}

/// Takes facts one by one; see [`Harness::restored_by`].
pub type TakeFact<'a> = &'a mut dyn FnMut(&FactRef<'_>) -> Result<(), String>;

impl<K: Key, I: Input, O: 'static> Harness<K, I, O, u64> {
    /// Opens the agent of `plan`, as worker 0 of 1; `key` computes the keys of inputs. The clock stands at 1970.
    ///
    /// # Errors
    /// When the agent cannot open; it is closed again.
    pub fn new(plan: &Plan<I, O>, key: impl Fn(&I) -> K + 'static) -> Result<Self, Failure> {
        Harness::over_time(plan, key)
    }
}

impl<K: Key, I: Input, O: 'static, T: EpochTime> Harness<K, I, O, T> {
    /// The same for times other than `u64`.
    ///
    /// # Errors
    /// As [`Harness::new`].
    pub fn over_time(plan: &Plan<I, O>, key: impl Fn(&I) -> K + 'static) -> Result<Self, Failure> {
        Harness::of_worker(plan, key, 0, 1)
    }

    /// The same as worker `worker` of `peers`. A harness exchanges nothing: whoever pushes brings it the inputs of the
    /// keys whose groups it owns ([`KeyGroups::owner_of`], with the default number of groups).
    ///
    /// # Errors
    /// As [`Harness::new`].
    ///
    /// # Panics
    /// When there is no such worker.
    pub fn of_worker(
        plan: &Plan<I, O>,
        key: impl Fn(&I) -> K + 'static,
        worker: usize,
        peers: usize,
    ) -> Result<Self, Failure> {
        assert!(worker < peers, "worker {worker} of {peers}");
        let observed = Rc::new(Cell::new(false));
        let behavior = AgentBehavior::new(plan, Rc::from(""), Rc::clone(&observed));
        let queue = CompletionQueue::new(None);
        let groups = KeyGroups::default();
        let mut driver = Driver::new(behavior, plan.limits(), groups, queue.clone(), worker, peers, true)?;
        driver.let_scheduled_outlive();
        let now = Rc::new(Cell::new(0));
        Ok(Harness {
            driver,
            rim: Rim::default(),
            key_of: Box::new(key),
            queue,
            clock: Clock::Manual(Rc::clone(&now)),
            now,
            observed,
            agent: plan.0.program.id,
            agent_name: plan.name().to_owned(),
            input: Some(T::minimum()),
            open: Vec::new(),
            open_facts: Vec::new(),
            past: Vec::new(),
            syncs: true,
        })
    }

    /// The same for an agent that goes on after a crash: `facts` are those of all epochs before `resume`, in order, as
    /// [`Harness::facts`] gave them. What was unfinished runs at the next steps.
    ///
    /// # Errors
    /// As [`Harness::new`]; also when the facts do not fit the plan.
    pub fn restored<'a>(
        plan: &Plan<I, O>,
        key: impl Fn(&I) -> K + 'static,
        resume: u64,
        facts: impl IntoIterator<Item = &'a Fact<T>>,
    ) -> Result<Self, Failure> {
        Harness::over_time(plan, key)?.restored_by(resume, |take| {
            for Fact { group, key, what, value, .. } in facts {
                take(&FactRef { group: *group, key, what: what.clone(), value: value.as_deref() })?;
            }
            Ok(())
        })
    }

    /// As in the job of this name, not in one without: the ids of runs, and random numbers and idempotency keys with them,
    /// depend on it. Comes first of all.
    pub fn in_job(mut self, name: &str) -> Self {
        if let Some(core) = self.driver.behavior().core() {
            core.set_job(name);
        }
        self
    }

    /// From here on ends of durable calls are noted before their actions hear of them, as in start number `generation` of a
    /// job with checkpoints. `notes` are those of earlier starts, as [`Harness::notes`] gave them. Comes before
    /// [`Harness::restored_by`], with which it has to be followed if there are facts or notes.
    ///
    /// # Errors
    /// When the notes do not fit the plan.
    pub fn journaled<'a>(
        mut self,
        generation: u64,
        notes: impl IntoIterator<Item = &'a Note>,
    ) -> Result<Self, Failure> {
        self.driver.take_notes(generation, false);
        self.past = notes.into_iter().cloned().collect();
        Ok(self)
    }

    /// The notes that were made, whether durable or not, in order.
    pub fn notes(&self) -> &[Note] {
        &self.rim.notes
    }

    /// What was noted becomes durable from here on only when [`Harness::sync`] is called.
    pub fn hold_notes(&mut self) {
        self.syncs = false;
    }

    /// All that was noted is durable.
    pub fn sync(&mut self) {
        for told in self.rim.noted.drain(..) {
            self.queue.push(told);
        }
    }

    /// All epochs before `frontier` are committed.
    pub fn commit(&mut self, frontier: u64) {
        self.driver.committed(frontier);
    }

    /// Takes back the facts that `give` hands over, which are those of all epochs before `resume` and of this worker's
    /// groups, in order, as a checkpoint has them. Comes first, before any input.
    ///
    /// # Errors
    /// When the facts do not fit the plan, or `give` fails.
    pub fn restored_by(
        mut self,
        resume: u64,
        give: impl FnOnce(TakeFact<'_>) -> Result<(), String>,
    ) -> Result<Self, Failure> {
        let driver = &mut self.driver;
        let past = std::mem::take(&mut self.past);
        let mut notes = past.iter().filter(|note| note.epoch >= resume);
        let restored = give(&mut |fact| driver.restore(fact))
            .and_then(|()| notes.try_for_each(|note| driver.restore_note(note.epoch, &note.key, &note.bytes)))
            .and_then(|()| driver.restored(resume));
        restored.map_err(|message| Failure {
            agent: self.agent_name.clone(),
            action: "restore".into(),
            key: String::new(),
            epoch: resume,
            message,
        })?;
        self.input = Some(T::minimum().with_epoch(resume));
        Ok(self)
    }

    /// Brings an input at the least time of `epoch`.
    ///
    /// # Panics
    /// When the epoch has closed, or the input has ended.
    pub fn push(&mut self, epoch: u64, input: I) {
        self.push_at(T::minimum().with_epoch(epoch), input);
    }

    /// Brings an input at `time`.
    ///
    /// # Panics
    /// When the epoch of `time` has closed, or the input has ended.
    #[expect(clippy::needless_pass_by_value, reason = "a time is a small value; callers write it in place")]
    pub fn push_at(&mut self, time: T, input: I) {
        let open = self.input.as_ref().is_some_and(|least| least.less_equal(&time));
        assert!(open, "an input comes at a time that is open at the input, not at {time:?}");
        let key = (self.key_of)(&input);
        self.driver.tick(self.now.get());
        // Without fuel it is taken in, and waits for a step.
        self.driver.input(&Paired, &time, &mut vec![(key, input)], &mut 0, &mut self.rim);
    }

    /// Closes all epochs before `epoch` at the input.
    ///
    /// # Panics
    /// When `epoch` has closed already.
    pub fn advance(&mut self, epoch: u64) {
        let next = T::minimum().with_epoch(epoch);
        let ahead = self.input.as_ref().is_some_and(|least| least.less_equal(&next));
        assert!(ahead, "epochs ascend: {epoch} has closed");
        self.input = Some(next);
        self.driver.tick(self.now.get());
        self.driver.advance_to(Some(epoch), &mut self.rim);
    }

    /// Ends the input, and that of signals.
    pub fn end(&mut self) {
        self.input = None;
        self.driver.tick(self.now.get());
        self.driver.end_signals();
        self.driver.advance_to(None, &mut self.rim);
    }

    /// Brings a signal at the least time of `epoch`.
    ///
    /// # Panics
    /// When the epoch has closed, or the input has ended.
    pub fn signal(&mut self, epoch: u64, signal: Signal<K>) {
        self.signal_at(T::minimum().with_epoch(epoch), signal);
    }

    /// Brings a signal at `time`.
    ///
    /// # Panics
    /// When the epoch of `time` has closed, or the input has ended.
    #[expect(clippy::needless_pass_by_value, reason = "a time is a small value; callers write it in place")]
    pub fn signal_at(&mut self, time: T, signal: Signal<K>) {
        let open = self.input.as_ref().is_some_and(|least| least.less_equal(&time));
        assert!(open, "a signal comes at a time that is open at the input, not at {time:?}");
        self.driver.tick(self.now.get());
        self.driver.signals(&time, std::iter::once(signal), &mut self.rim);
    }

    /// Ends the input of signals alone.
    pub fn end_signals(&mut self) {
        let epoch = self.input.as_ref().map(EpochTime::epoch);
        self.driver.tick(self.now.get());
        self.driver.end_signals();
        self.driver.advance_to(epoch, &mut self.rim);
    }

    /// How many signals of that name are kept for a key.
    pub fn signals(&mut self, key: &K, name: &str) -> usize {
        let Some(id) = self.driver.key_id(key) else { return 0 };
        let core = self.driver.behavior().core().expect("open");
        core.common.signals.borrow().count(id, name)
    }

    /// Runs one task, or what else is due; false when there was nothing to do.
    pub fn step(&mut self) -> bool {
        self.driver.tick(self.now.get());
        if self.syncs {
            self.sync();
        }
        self.queue.drain(|completion| self.driver.complete(completion, &mut self.rim));
        let due = self.driver.next_deadline().is_some_and(|at| at <= self.now.get());
        let found = due || self.driver.has_work();
        self.driver.work(&mut 1, &mut self.rim);
        let mut begun = false;
        let Harness { rim, driver, queue, .. } = self;
        rim.take_turns(
            |call| driver.awaits(call),
            |completion| {
                begun = true;
                queue.push(completion);
            },
        );
        found || begun || (self.syncs && !self.rim.noted.is_empty())
    }

    /// Runs tasks until all that is left waits: for calls, for the clock or for the input.
    pub fn run(&mut self) {
        while self.step() {}
    }

    /// Moves the clock alone; what comes due runs at the next step.
    pub fn tick(&mut self, duration: Duration) {
        self.now.set(self.now.get().saturating_add(duration.as_micros() as u64));
    }

    /// Lets time pass: what comes due on the way runs at its own time, and what can run then.
    pub fn pass(&mut self, duration: Duration) {
        let end = self.now.get().saturating_add(duration.as_micros() as u64);
        self.run();
        while let Some(deadline) = self.driver.next_deadline().filter(|at| *at <= end) {
            self.now.set(deadline.max(self.now.get()));
            self.run();
        }
        self.now.set(end);
        self.run();
    }

    /// The harness's clock, in microseconds since 1970.
    pub fn clock(&self) -> &Clock {
        &self.clock
    }

    /// The calls that run: started, and waited for by their actions. Of calls that share a limit, those whose turn has
    /// come; that of a rate comes by the clock of the machine.
    pub fn calls(&self) -> Vec<PendingCall> {
        let started = self.rim.started.iter().enumerate();
        started
            .filter(|(id, started)| self.driver.awaits(started.call) && !self.rim.waits(*id))
            .map(|(id, started)| PendingCall { id: CallId(id), name: started.name.to_string() })
            .collect()
    }

    /// Does what the call is to do, on this thread and to its end, and delivers what that gives.
    ///
    /// # Panics
    /// When there is no such call, it was completed this way before, or it waits for its turn.
    pub fn complete(&mut self, id: CallId) {
        assert!(!self.rim.waits(id.0), "{id} waits for its turn");
        let job = self.rim.started[id.0].job.take();
        let result = execute(job.unwrap_or_else(|| panic!("{id} has been executed already")));
        self.deliver(id, result);
    }

    /// Ends a durable call with `value` in place of what it would give.
    ///
    /// A call that was given up, or has ended, may still be completed: that is refused and counted as late.
    ///
    /// # Panics
    /// When there is no such call, or `value` cannot be encoded.
    pub fn complete_with<R: Serialize>(&mut self, id: CallId, value: &R) {
        let bytes = postcard::to_allocvec(value).unwrap_or_else(|error| panic!("the value for {id}: {error}"));
        self.deliver(id, Ok(CallValue::Bytes(bytes)));
    }

    /// The same for a call that is not durable, whose result is not encoded.
    ///
    /// # Panics
    /// When there is no such call.
    pub fn complete_with_value<R: Send + 'static>(&mut self, id: CallId, value: R) {
        self.deliver(id, Ok(CallValue::Any(Box::new(value))));
    }

    /// Ends a call with a failure.
    ///
    /// # Panics
    /// When there is no such call.
    pub fn fail(&mut self, id: CallId, failure: CallFailure) {
        self.deliver(id, Err(failure));
    }

    fn deliver(&mut self, id: CallId, result: CallResult) {
        let call = self.rim.started[id.0].call;
        self.queue.push(Completion::Call { call, result, spent: Spent::default() });
        self.driver.tick(self.now.get());
        self.queue.drain(|completion| self.driver.complete(completion, &mut self.rim));
    }

    /// What came out since last asked, in order: time, key and value.
    pub fn outputs(&mut self) -> Vec<(T, K, O)> {
        std::mem::take(&mut self.rim.outputs)
    }

    /// What came out of a side output since last asked, in order.
    ///
    /// # Panics
    /// When the side output is another agent's.
    pub fn sides<V: Clone + 'static>(&mut self, tag: Tag<V>) -> Vec<(T, V)> {
        assert_eq!(tag.agent, self.agent, "a side output belongs to the agent that declared it");
        self.take_tagged(|item| match item {
            Tagged::Side { tag: index, value } if *index == tag.index => {
                { value.downcast_ref::<V>().expect("a value of its side output").clone() }.into()
            }
            _ => None,
        })
    }

    /// The dead letters since last asked, in order.
    pub fn dead_letters(&mut self) -> Vec<DeadLetter<I>>
    where
        I: Clone,
    {
        let letters = self.take_tagged(|item| match item {
            Tagged::Dead(letter) => Some(letter.typed()),
            _ => None,
        });
        letters.into_iter().map(|(_, letter)| letter).collect()
    }

    /// Observes events from now on. It costs each event its JSON form.
    pub fn observe(&mut self) {
        self.observed.set(true);
    }

    /// The events observed since last asked, in order; see [`Harness::observe`].
    pub fn events(&mut self) -> Vec<EventRecord> {
        let events = self.take_tagged(|item| match item {
            Tagged::Event(event) => Some(EventRecord::clone(event)),
            _ => None,
        });
        events.into_iter().map(|(_, event)| event).collect()
    }

    /// How often a run has left its journal.
    pub(crate) fn diverged(&mut self) -> u64 {
        self.driver.behavior().core().map_or(0, |core| core.diverged.get())
    }

    /// Why runs have become dead letters.
    pub(crate) fn dead_letter_reasons(&mut self) -> Vec<String> {
        let reason = |item: &Tagged| match item {
            Tagged::Dead(letter) => Some(letter.error.clone()),
            _ => None,
        };
        self.take_tagged(reason).into_iter().map(|(_, reason)| reason).collect()
    }

    fn take_tagged<V>(&mut self, pick: impl Fn(&Tagged) -> Option<V>) -> Vec<(T, V)> {
        let mut picked = Vec::new();
        self.rim.tagged.retain(|(time, item)| match pick(item) {
            Some(value) => {
                picked.push((time.clone(), value));
                false
            }
            None => true,
        });
        picked
    }

    /// The facts since last asked: what memory was when epochs were sealed.
    pub fn facts(&mut self) -> Vec<Fact<T>> {
        self.blocks().iter().flat_map(|block| block.facts().expect("a sealed block is whole")).collect()
    }

    /// The same as they travel and are stored: in blocks.
    pub fn blocks(&mut self) -> Vec<Block<T>> {
        std::mem::take(&mut self.rim.facts)
    }

    /// What finished steps have made a key remember in `slot`.
    ///
    /// # Panics
    /// When the slot is another agent's.
    pub fn memory<V: Remembered>(&mut self, key: &K, slot: Slot<V>) -> Option<V> {
        assert_eq!(slot.agent, self.agent, "a slot belongs to the agent that declared it");
        let id = self.driver.key_id(key)?;
        let core = self.driver.behavior().core().expect("open");
        let memory = core.memory.borrow();
        let column: &SlotColumn<V> = memory.column(slot.column).expect("a slot is of its column's type");
        column.get(id).cloned()
    }

    /// What finished steps have made a key remember at a dotted path.
    ///
    /// # Errors
    /// When the value is not a `V`.
    pub fn memory_at<V: Remembered>(&mut self, key: &K, path: &str) -> Result<Option<V>, PathError> {
        let Some(id) = self.driver.key_id(key) else {
            return Ok(None);
        };
        let core = self.driver.behavior().core().expect("open");
        let memory = core.memory.borrow();
        let column: &PathColumn = memory.column(PATHS).expect("the columns of paths are there");
        column.get(id, path)
    }

    /// The dotted paths at which finished steps have made a key remember values, in order.
    pub fn paths(&mut self, key: &K) -> Vec<String> {
        let Some(id) = self.driver.key_id(key) else {
            return Vec::new();
        };
        let core = self.driver.behavior().core().expect("open");
        let memory = core.memory.borrow();
        let column: &PathColumn = memory.column(PATHS).expect("the columns of paths are there");
        column.all(id).iter().map(ToString::to_string).collect()
    }

    /// Whether a run of `key` is in flight, and how many inputs and notifications wait for it to be done.
    pub fn mailbox(&self, key: &K) -> (bool, usize) {
        self.driver.mailbox(key)
    }

    /// The least times at which outputs may still come: those open at the input, and those of unfinished work.
    pub fn frontier(&mut self) -> Vec<T> {
        self.driver.minimal(&mut self.open);
        least(&self.open, self.input.as_ref())
    }

    /// The least times at which facts may still come: those of [`Harness::frontier`], and those of changes that are not
    /// sealed.
    pub fn facts_frontier(&mut self) -> Vec<T> {
        self.driver.minimal(&mut self.open);
        self.driver.minimal_facts(&mut self.open_facts);
        least(&self.open_facts, self.input.as_ref())
    }

    /// What the agent holds.
    pub fn load(&self) -> Load {
        self.driver.load()
    }

    /// What runs have been done. Counts of actions and counters are the plan's, once the harness has ended.
    pub fn stats(&self) -> &RunStats {
        self.driver.stats()
    }

    /// Completions that came when nobody waited for them any more; they were refused.
    pub fn late(&self) -> u64 {
        self.driver.stats().late + self.queue.refused()
    }

    /// Why the job must stop, if it must.
    pub fn failure(&self) -> Option<&Failure> {
        self.driver.failure()
    }

    /// Whether the input has ended and all work is done.
    pub fn is_closed(&self) -> bool {
        self.driver.is_closed()
    }
}

/// The least times of work that is open, and of what may come.
fn least<T: EpochTime>(open: &[T], input: Option<&T>) -> Vec<T> {
    let mut frontier = open.to_vec();
    if let Some(input) = input
        && !frontier.iter().any(|time| time.less_equal(input))
    {
        frontier.retain(|time| !input.less_equal(time));
        frontier.push(input.clone());
    }
    frontier.sort();
    frontier
}

impl<K: Key, I: Input, O: 'static, T: EpochTime> Debug for Harness<K, I, O, T> {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        f.debug_struct("Harness").field("input", &self.input).field("load", &self.load()).finish_non_exhaustive()
    }
}
