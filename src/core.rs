//! What the actions of one agent share on one worker, and the step that is being taken.
//!
//! Actions hold a `Ctx`, which reaches this by reference counting and interior mutability; nothing in it
//! borrows the driver. Only one step is active at a time, so the buffers here are always that step's.
//!
//! # Invariants
//! - The log of memory belongs to the active step; between steps it is empty, except that the log of a run that
//!   never waited stays until its end.
//! - Outputs and queued events beyond [`Marks`] belong to the active step.

use std::any::{Any, type_name};
use std::borrow::Cow;
use std::cell::{Cell, RefCell, RefMut};
use std::collections::VecDeque;
use std::rc::Rc;
use std::sync::Arc;
use std::task::Waker;
use std::time::Duration;

use serde_json::Value;
use smallvec::SmallVec;
use timely_agents_operators::behavior::{CallJob, CallStart, Effects, Failure, RunHead, TimerStart};
use timely_agents_operators::completion::{CallResult, CallValue, CompletionQueue};
use timely_agents_operators::hash::{mix, stable_hash};
use timely_agents_operators::keys::{Key, KeyId, SharedKeys};
use timely_agents_operators::slab::{RunToken, Slab};

use crate::call::{Memo, ToldResult};
use crate::error::Error;
use crate::event::{Payload, names};
use crate::follow::{Halted, Held};
use crate::journal::{Asked, End, Given, Name, Recorded};
use crate::left::LeftCall;
use crate::memory::{Entry, Memory};
use crate::notes::Noting;
use crate::plan::Program;
use crate::record::{Keeping, Record};
use crate::resource::Resources;
use crate::signal::{Signals, Taken};
use crate::tagged::{EventRecord, SentEvent, Tagged};

/// An event on its way to actions.
pub(crate) struct Queued {
    pub(crate) event: u32,
    pub(crate) payload: Payload,
    /// Which of the event's triggers is next.
    pub(crate) next: u32,
    /// The event's place in its run: where it was sent, chained from the input.
    pub(crate) path: u64,
}

/// One call, or sleep, that a task has started and waits for.
pub(crate) struct CallCell {
    /// Its name in the run.
    pub(crate) call: u32,
    /// Its place among the waits of its task, which is the same in every execution.
    pub(crate) ordinal: u64,
    /// The clock of the turn that asked.
    pub(crate) began: u64,
    /// What is asked for, where that is of use later.
    pub(crate) asked: Option<Rc<Asked>>,
    /// Whether its end is noted before the task hears of it, and whether that has been.
    pub(crate) eager: bool,
    pub(crate) noted: bool,
    /// The signal that it waits for, if it does.
    pub(crate) signal: Option<Rc<str>>,
    pub(crate) result: Option<CallResult>,
    pub(crate) waker: Option<Waker>,
}

/// One task: an action that runs for an event.
pub(crate) struct TaskCell {
    pub(crate) index: Cell<u32>,
    pub(crate) action: Cell<u32>,
    pub(crate) attempt: Cell<u32>,
    pub(crate) path: Cell<u64>,
    /// Ordinals of what the task has sent, called and drawn: they do not depend on timing.
    pub(crate) sends: Cell<u32>,
    pub(crate) positions: Cell<u32>,
    pub(crate) waits: Cell<u32>,
    pub(crate) draws: Cell<u32>,
    /// Flushes of this attempt, and how many of them an earlier attempt has made already.
    pub(crate) flushes: Cell<u32>,
    pub(crate) flushed_before: Cell<u32>,
    /// Calls that have started and whose result has not been taken.
    pub(crate) calls: RefCell<SmallVec<[CallCell; 1]>>,
    /// In a replay: the waits whose ends are in the journal. They are not begun.
    pub(crate) known: RefCell<Vec<u64>>,
    /// There, too: the calls that had left.
    pub(crate) left: RefCell<Vec<LeftCall>>,
    /// What durable calls have given, where the action may be tried again.
    pub(crate) memo: RefCell<Option<Memo>>,
    /// Whether it has waited for signals, and those that it has taken.
    pub(crate) awaits: Cell<bool>,
    pub(crate) taken: RefCell<Vec<Taken>>,
}

impl TaskCell {
    pub(crate) fn new(
        index: u32,
        action: u32,
        path: u64,
        attempt: u32,
        flushed_before: u32,
        memo: Option<Memo>,
    ) -> Rc<Self> {
        Rc::new(TaskCell {
            index: Cell::new(index),
            action: Cell::new(action),
            attempt: Cell::new(attempt),
            path: Cell::new(path),
            sends: Cell::new(0),
            positions: Cell::new(0),
            waits: Cell::new(0),
            draws: Cell::new(0),
            flushes: Cell::new(0),
            flushed_before: Cell::new(flushed_before),
            calls: RefCell::default(),
            known: RefCell::default(),
            left: RefCell::default(),
            memo: RefCell::new(memo),
            awaits: Cell::new(false),
            taken: RefCell::default(),
        })
    }

    /// Makes the cell that of another task; used for tasks that never wait.
    #[inline]
    pub(crate) fn reuse(&self, action: u32, path: u64, attempt: u32) {
        self.action.set(action);
        self.path.set(path);
        self.attempt.set(attempt);
        self.sends.set(0);
        self.draws.set(0);
        self.positions.set(0);
    }
}

/// The next ordinal of a counter.
#[inline]
pub(crate) fn next(counter: &Cell<u32>) -> u32 {
    let n = counter.get();
    counter.set(n.wrapping_add(1));
    n
}

/// The head of the active run, field by field: it is set for each run, and copying it as a whole would stall on
/// fields that were stored one by one just before.
pub(crate) struct HeadCell {
    pub(crate) key: Cell<KeyId>,
    token: Cell<RunToken>,
    pub(crate) sequence: Cell<u64>,
    pub(crate) epoch: Cell<u64>,
    pub(crate) event_time: Cell<u64>,
    pub(crate) now: Cell<u64>,
}

impl HeadCell {
    fn new(head: &RunHead) -> Self {
        HeadCell {
            key: Cell::new(head.key),
            token: Cell::new(head.token),
            sequence: Cell::new(head.sequence),
            epoch: Cell::new(head.epoch),
            event_time: Cell::new(head.event_time),
            now: Cell::new(head.now),
        }
    }

    #[inline]
    pub(crate) fn set(&self, head: &RunHead) {
        self.key.set(head.key);
        self.sequence.set(head.sequence);
        self.token.set(head.token);
        // Runs of one batch share their time.
        if self.epoch.get() != head.epoch || self.event_time.get() != head.event_time || self.now.get() != head.now {
            self.epoch.set(head.epoch);
            self.event_time.set(head.event_time);
            self.now.set(head.now);
        }
    }
}

/// What does not depend on the type of outputs: calls and sleeps reach this.
pub(crate) struct Common {
    pub(crate) head: HeadCell,
    /// Whether the driver must look at what follows.
    pub(crate) control: Cell<bool>,
    /// Whether the active run has done more than write memory and output: only then its steps are looked at closer.
    pub(crate) attention: Cell<bool>,
    pub(crate) calls: RefCell<Vec<CallStart>>,
    pub(crate) timers: RefCell<Vec<TimerStart>>,
    pub(crate) cancelled: RefCell<Vec<(u32, u32)>>,
    pub(crate) next_call: Cell<u32>,
    pub(crate) call_timeout: Option<Duration>,
    /// Whether calls are told to a journal.
    records: Cell<bool>,
    /// Whether ends of calls are noted.
    pub(crate) notes: Cell<bool>,
    /// Whether the active run goes through what was recorded before this start.
    pub(crate) retraces: Cell<bool>,
    /// While a run follows its notes: what it asked for of waits whose ends are known.
    pub(crate) held: RefCell<Option<Held>>,
    pub(crate) signals: RefCell<Signals>,
    /// Waits that have given a signal back, which others of the run may wait for.
    pub(crate) returned: RefCell<Vec<(Name, u64)>>,
    /// Whether somebody looks at results of calls, and those that tasks have taken then.
    pub(crate) shows_results: Cell<bool>,
    pub(crate) results: RefCell<Vec<ToldResult>>,
}

impl Common {
    fn new(call_timeout: Option<Duration>) -> Self {
        Common {
            head: HeadCell::new(&no_run()),
            control: Cell::new(false),
            attention: Cell::new(true),
            calls: RefCell::default(),
            timers: RefCell::default(),
            cancelled: RefCell::default(),
            next_call: Cell::new(0),
            call_timeout,
            records: Cell::new(false),
            notes: Cell::new(false),
            retraces: Cell::new(false),
            held: RefCell::default(),
            signals: RefCell::default(),
            returned: RefCell::default(),
            shows_results: Cell::new(false),
            results: RefCell::default(),
        }
    }

    /// Asks for a call; the task's cell of it gets its end.
    #[expect(clippy::too_many_arguments, reason = "each is a field of what is put down")]
    #[inline]
    pub(crate) fn start_call(
        &self,
        task: &TaskCell,
        ordinal: u64,
        asked: Option<Rc<Asked>>,
        name: Cow<'static, str>,
        timeout: Option<Duration>,
        (eager, noted): (bool, bool),
        job: CallJob,
    ) -> u32 {
        let call = self.enlist(task, ordinal, asked, eager);
        let start = CallStart { task: task.index.get(), call, name, timeout, noted: noted && eager, job };
        if !task.known.borrow().contains(&ordinal) {
            self.calls.borrow_mut().push(start);
        } else if let Some(held) = &mut *self.held.borrow_mut() {
            held.calls.push(start);
        }
        call
    }

    /// Asks for a wake-up at `deadline`.
    pub(crate) fn start_timer(&self, task: &TaskCell, ordinal: u64, deadline: u64) -> u32 {
        let call = self.enlist(task, ordinal, None, false);
        let start = TimerStart { task: task.index.get(), call, deadline };
        if !task.known.borrow().contains(&ordinal) {
            self.timers.borrow_mut().push(start);
        } else if let Some(held) = &mut *self.held.borrow_mut() {
            held.timers.push(start);
        }
        call
    }

    /// Whether what calls are about, and what they give, is written down.
    #[inline]
    pub(crate) fn tells(&self) -> bool {
        self.records.get() || self.notes.get()
    }

    #[inline]
    pub(crate) fn enlist(&self, task: &TaskCell, ordinal: u64, asked: Option<Rc<Asked>>, eager: bool) -> u32 {
        self.control.set(true);
        let call = next(&self.next_call);
        let cell = CallCell {
            call,
            ordinal,
            began: self.head.now.get(),
            asked,
            eager: eager && self.notes.get(),
            noted: false,
            signal: None,
            result: None,
            waker: None,
        };
        task.calls.borrow_mut().push(cell);
        call
    }

    /// Nobody waits for a call any more.
    pub(crate) fn abandon(&self, task: &TaskCell, call: u32) {
        let mut calls = task.calls.borrow_mut();
        let Some(at) = calls.iter().position(|c| c.call == call) else { return };
        let CallCell { ordinal, asked, result, .. } = calls.swap_remove(at);
        match result {
            None => {
                self.cancelled.borrow_mut().push((task.index.get(), call));
                self.control.set(true);
            }
            Some(Ok(CallValue::Bytes(value))) => task.remember(ordinal, asked, value),
            Some(_) => {}
        }
    }
}

impl CallCell {
    /// Its end, for a journal.
    pub(crate) fn end(&self, given: Given) -> Rc<End> {
        let asked = self.asked.clone().unwrap_or_default();
        Rc::new(End { ordinal: self.ordinal, began: self.began, asked, given })
    }
}

/// The job's and the agent's part in ids of runs.
fn scope(job: &str, agent: &str) -> u64 {
    stable_hash(&(job, agent))
}

/// A head that names no run.
fn no_run() -> RunHead {
    let token: RunToken = Slab::<()>::default().vacant();
    RunHead { key: KeyId(0), token, sequence: 0, epoch: 0, event_time: 0, now: 0 }
}

/// Reads keys whose type the agent does not know.
pub(crate) trait KeyTable {
    fn text(&self, key: KeyId) -> String;
    fn hash(&self, key: KeyId) -> u64;
    /// Another hash for each salt.
    fn salted_hash(&self, key: KeyId, salt: u8) -> u64;
    fn value(&self, key: KeyId) -> Box<dyn Any>;
    fn type_name(&self) -> &'static str;
}

impl<K: Key> KeyTable for SharedKeys<K> {
    fn text(&self, key: KeyId) -> String {
        format!("{:?}", self.borrow()[key.index()])
    }

    fn hash(&self, key: KeyId) -> u64 {
        stable_hash(&self.borrow()[key.index()])
    }

    fn salted_hash(&self, key: KeyId, salt: u8) -> u64 {
        stable_hash(&(salt, &self.borrow()[key.index()]))
    }

    fn value(&self, key: KeyId) -> Box<dyn Any> {
        Box::new(self.borrow()[key.index()].clone())
    }

    fn type_name(&self) -> &'static str {
        type_name::<K>()
    }
}

/// Where the active step began.
#[derive(Clone, Copy, Default)]
pub(crate) struct Marks {
    pub(crate) outputs: usize,
    pub(crate) tagged: usize,
    pub(crate) notifications: usize,
    pub(crate) queued: usize,
    pub(crate) writes: usize,
}

/// What steps bring about.
pub(crate) struct Staged<O> {
    pub(crate) effects: Effects<O, Tagged>,
    /// Events of the active run that are on their way. They are put where they are taken from: a copy of what was
    /// stored just before would wait for it.
    pub(crate) queue: VecDeque<Queued>,
}

/// See the module.
pub(crate) struct Core<O: 'static> {
    pub(crate) program: Arc<Program<O>>,
    pub(crate) common: Rc<Common>,
    pub(crate) memory: RefCell<Memory>,
    pub(crate) staged: RefCell<Staged<O>>,
    pub(crate) marks: Cell<Marks>,
    /// Old values of the active run's finished steps, when it has waited.
    pub(crate) undo: RefCell<Vec<Entry>>,
    pub(crate) keys: Box<dyn KeyTable>,
    pub(crate) queue: CompletionQueue,
    pub(crate) resources: Resources,
    pub(crate) counters: Vec<Cell<u64>>,
    /// The identity that the active run's input was given, if any.
    pub(crate) identity: Cell<Option<u64>>,
    /// How many of the scheduled events are of finished steps; so few schedule any that steps have no mark of it.
    pub(crate) scheduled: Cell<usize>,
    /// The epoch that the active run is told of, if it is a notification's.
    pub(crate) notifying: Cell<Option<u64>>,
    /// Whether the input has ended.
    pub(crate) ended: Cell<bool>,
    /// Whether somebody observes events.
    pub(crate) observed: Rc<Cell<bool>>,
    /// What is wrong with the active step, though its action does not know.
    fault: RefCell<Option<String>>,
    /// What the active run has sent, for a dead letter.
    pub(crate) history: RefCell<Vec<(u32, Payload)>>,
    /// Whether what is unfinished outlives the process.
    pub(crate) records: bool,
    /// The journal of the active run, if it has one.
    pub(crate) recorded: RefCell<Option<Box<Recorded>>>,
    /// Whether the active run goes through its journal.
    pub(crate) replaying: Cell<bool>,
    /// Where ends of calls are noted: this start of the job.
    pub(crate) generation: Cell<Option<u64>>,
    /// The notes of the run that is about to start, and the clock.
    pub(crate) past: RefCell<Option<Noting>>,
    /// What the notes of the active run are known by.
    pub(crate) journal: Cell<Option<u64>>,
    /// How many calls were answered from journals.
    pub(crate) replayed: Cell<u64>,
    /// How often a run has left its journal.
    pub(crate) diverged: Cell<u64>,
    /// Whether runs are recorded when they are over.
    pub(crate) retains: Cell<bool>,
    /// What is kept of the active run, and of the run that has just ended.
    pub(crate) keeping: RefCell<Option<Box<Keeping>>>,
    pub(crate) kept: RefCell<Option<Box<Record>>>,
    /// How many of the outputs and tagged items were there before the active run was driven.
    pub(crate) put_from: Cell<(usize, usize)>,
    /// Whether runs are done again outside a job: who leaves its journal says so, and goes on.
    pub(crate) outside: Cell<bool>,
    /// Where that was.
    pub(crate) left: RefCell<Option<String>>,
    /// Whether a run stops where its journal ends, and what it had done by then, if it is to outlive the process.
    pub(crate) halts: Cell<bool>,
    pub(crate) halted: RefCell<Option<Halted>>,
    /// Whether `history` is kept.
    keeps_sent: bool,
    /// Stands for the job and the agent in ids of runs.
    scope: Cell<u64>,
}

impl<O> Core<O> {
    pub(crate) fn new(
        program: Arc<Program<O>>,
        keys: Box<dyn KeyTable>,
        queue: CompletionQueue,
        facts: bool,
        observed: Rc<Cell<bool>>,
        keeps_sent: bool,
    ) -> Self {
        let common = Rc::new(Common::new(program.call_timeout));
        common.records.set(facts && program.carry);
        *common.signals.borrow_mut() = Signals::new(facts && program.carry);
        Core {
            common,
            memory: RefCell::new(Memory::new(&program.slots, facts)),
            staged: RefCell::new(Staged { effects: Effects::default(), queue: VecDeque::new() }),
            marks: Cell::new(Marks::default()),
            undo: RefCell::default(),
            keys,
            queue,
            resources: Resources::default(),
            counters: program.counters.iter().map(|_| Cell::new(0)).collect(),
            identity: Cell::new(None),
            scheduled: Cell::new(0),
            notifying: Cell::new(None),
            ended: Cell::new(false),
            observed,
            fault: RefCell::default(),
            history: RefCell::default(),
            records: facts && program.carry,
            recorded: RefCell::default(),
            replaying: Cell::new(false),
            generation: Cell::new(None),
            past: RefCell::default(),
            journal: Cell::new(None),
            replayed: Cell::new(0),
            diverged: Cell::new(0),
            retains: Cell::new(false),
            keeping: RefCell::default(),
            kept: RefCell::default(),
            put_from: Cell::new((0, 0)),
            outside: Cell::new(false),
            left: RefCell::default(),
            halts: Cell::new(false),
            halted: RefCell::default(),
            keeps_sent,
            scope: Cell::new(scope("", &program.name)),
            program,
        }
    }

    #[inline]
    pub(crate) fn key(&self) -> KeyId {
        self.common.head.key.get()
    }

    /// Begins a step.
    #[inline]
    pub(crate) fn begin_step(&self) {
        let staged = self.staged.borrow();
        self.marks.set(Marks {
            outputs: staged.effects.outputs.len(),
            tagged: staged.effects.tagged.len(),
            notifications: staged.effects.notifications.len(),
            queued: staged.queue.len(),
            writes: self.memory.borrow().mark(),
        });
    }

    /// Begins a step after one of a run that did no more than write memory and output: what else there is, is as it was.
    #[inline]
    pub(crate) fn begin_simple_step(&self) {
        let mut marks = self.marks.get();
        {
            let effects = &self.staged.borrow().effects;
            (marks.outputs, marks.tagged) = (effects.outputs.len(), effects.tagged.len());
        }
        marks.writes = self.memory.borrow().mark();
        self.marks.set(marks);
    }

    /// Takes back all of the active step.
    pub(crate) fn undo_step(&self) {
        let marks = self.marks.get();
        self.memory.borrow_mut().undo_to(marks.writes, self.key());
        let mut staged = self.staged.borrow_mut();
        let staged = &mut *staged;
        staged.queue.truncate(marks.queued);
        staged.effects.outputs.truncate(marks.outputs);
        staged.effects.tagged.truncate(marks.tagged);
        staged.effects.notifications.truncate(marks.notifications);
        staged.effects.scheduled.truncate(self.scheduled.get());
    }

    /// Lets what the active step has sent be seen; memory is the caller's.
    #[inline]
    pub(crate) fn publish_step(&self, task: &TaskCell) {
        let mut staged = self.staged.borrow_mut();
        self.scheduled.set(staged.effects.scheduled.len());
        if self.observed.get() {
            self.observe_step(&mut staged, task);
        }
        let queued = self.marks.get().queued;
        let queue = &mut staged.queue;
        if self.keeps_sent {
            let sent = queue.range(queued..).map(|q| (q.event, q.payload.clone()));
            self.history.borrow_mut().extend(sent);
        }
        let wanted = |event| !self.program.triggers(event).is_empty();
        if !queue.range(queued..).all(|q| wanted(q.event)) {
            let sent = queue.split_off(queued);
            queue.extend(sent.into_iter().filter(|q| wanted(q.event)));
        }
    }

    /// Tells observers of the active step's events and outputs.
    fn observe_step(&self, staged: &mut Staged<O>, task: &TaskCell) {
        let action = &self.program.action(task.action.get()).name;
        let Staged { effects, queue } = staged;
        for queued in queue.range(self.marks.get().queued..) {
            let event = self.tell(queued.event, &queued.payload);
            let record = self.record(event.name, event.attributes, Some(action));
            effects.tagged.push(record);
        }
        for _ in self.marks.get().outputs..effects.outputs.len() {
            let record = self.record(names::OUTPUT.into(), Value::Null, Some(action));
            effects.tagged.push(record);
        }
    }

    fn record(&self, name: String, attributes: Value, action: Option<&String>) -> Tagged {
        let head = &self.common.head;
        Tagged::Event(Rc::new(EventRecord {
            key: self.keys.text(head.key.get()),
            epoch: head.epoch.get(),
            sequence: head.sequence.get(),
            name,
            action: action.cloned(),
            attributes,
        }))
    }

    /// Tells observers of the run's input or notification.
    pub(crate) fn observe_start(&self, event: u32, payload: &dyn Any) {
        let plan = &self.program.events[event as usize];
        let attributes = plan.codec.and_then(|c| (c.encode)(payload).ok()).unwrap_or(Value::Null);
        let record = self.record(plan.name.clone(), attributes, None);
        self.staged.borrow_mut().effects.tagged.push(record);
    }

    /// An event as text tells it.
    pub(crate) fn tell(&self, event: u32, payload: &Payload) -> SentEvent {
        match payload {
            Payload::Dynamic(event) => SentEvent { name: event.name.clone(), attributes: event.attributes.clone() },
            Payload::Typed(value) => {
                let plan = &self.program.events[event as usize];
                let attributes = plan.codec.and_then(|c| (c.encode)(&**value).ok()).unwrap_or(Value::Null);
                SentEvent { name: plan.name.clone(), attributes }
            }
        }
    }

    /// Forgets what the active run has done beyond memory and outputs.
    pub(crate) fn forget_run(&self) {
        self.notifying.set(None);
        self.history.borrow_mut().clear();
        self.common.returned.borrow_mut().clear();
        if self.records {
            *self.recorded.borrow_mut() = None;
        }
        if self.retains.get() {
            *self.keeping.borrow_mut() = None;
        }
        self.common.attention.set(self.keeps_sent);
    }

    /// Memory, to write to.
    ///
    /// # Panics
    /// Inside the closure of `Ctx::read`.
    #[inline]
    pub(crate) fn writable(&self) -> RefMut<'_, Memory> {
        self.memory.try_borrow_mut().expect("memory is not written inside `read`")
    }

    /// Lets the active step fail when it ends.
    pub(crate) fn fault(&self, message: String) {
        self.common.attention.set(true);
        *self.fault.borrow_mut() = Some(message);
    }

    #[inline]
    pub(crate) fn has_fault(&self) -> bool {
        self.fault.borrow().is_some()
    }

    pub(crate) fn take_fault(&self) -> Option<String> {
        self.fault.take()
    }

    /// Tells in which job the agent is: by then no run has begun.
    pub(crate) fn set_job(&self, job: &str) {
        self.scope.set(scope(job, &self.program.name));
    }

    /// Identifies the active run: the same in every execution that gives the key the same inputs.
    pub(crate) fn run_id(&self) -> u64 {
        let head = &self.common.head;
        let run = mix(mix(0x7275_6E73, self.scope.get()), self.keys.hash(head.key.get()));
        match (self.identity.get(), self.notifying.get()) {
            (Some(identity), None) => mix(mix(run, 1), identity),
            (_, Some(epoch)) => mix(mix(run, 2), epoch),
            (None, None) => mix(mix(run, 3), head.sequence.get()),
        }
    }

    /// What the notes of the active run are known by, if it has any: new in each start of the job.
    pub(crate) fn journal_id(&self, generation: u64) -> u64 {
        let head = &self.common.head;
        let run = mix(mix(0x6E6F_7465, generation), self.scope.get());
        mix(mix(run, self.keys.hash(head.key.get())), head.sequence.get())
    }

    pub(crate) fn failure(&self, action: &str, message: impl Into<String>) -> Failure {
        let head = &self.common.head;
        Failure {
            agent: self.program.name.clone(),
            action: action.into(),
            key: self.keys.text(head.key.get()),
            epoch: head.epoch.get(),
            message: message.into(),
        }
    }

    /// The key as a `K`.
    pub(crate) fn typed_key<K: 'static>(&self) -> Result<K, Error> {
        self.keys
            .value(self.key())
            .downcast()
            .map(|key| *key)
            .map_err(|_| Error::new(format!("the key is a {}, not a {}", self.keys.type_name(), type_name::<K>())))
    }
}
