//! What a run of an agent does: the [`Behavior`] of plans.
//!
//! A run starts with its input's event and handles events breadth-first, for each its actions in plan order (S3). A run
//! whose actions never wait is driven on the stack (`direct`); one that waits, yields or tries again becomes a [`Run`]
//! and is driven from there (`kept`), and if it was taken over from a checkpoint it goes through its journal first
//! (`replay`).
//!
//! # Invariants
//! - One step is active at a time; it ends in commit, undo or suspension before another begins.
//!
//! Not here: when runs start, and time (the driver).

use std::any::Any;
use std::cell::Cell;
use std::cmp::Ordering;
use std::marker::PhantomData;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use timely_agents_operators::behavior::{
    Begins, Behavior, Effects, Failure, Opening, PastRun, Progress, RunHead, RunNote, Sequence, Work,
    notification_digest,
};
use timely_agents_operators::completion::{CallRef, CallResult};
use timely_agents_operators::fact::{FactColumns, KeyWriter, What};
use timely_agents_operators::keys::{Key, KeyId};
use timely_agents_operators::quiet;

use crate::action::Body;
use crate::agent::{Input, Place};
use crate::core::{Core, Queued, TaskCell};
use crate::ctx::Ctx;
use crate::event::{Notification, Payload};
use crate::journal::{self, Entry, Packed, Sent};
use crate::plan::{INPUT, Inner, NOTIFICATION, Plan};
use crate::record::{About, RunEnd};
use crate::run::Run;
use crate::stats::ActionStats;
use crate::tagged::Tagged;

/// The path of a run's first event; those of others follow from it.
pub(crate) const ROOT: u64 = 0x726F_6F74;

/// A plan on one worker.
pub(crate) struct AgentBehavior<K, I: 'static, O: 'static> {
    pub(crate) plan: Arc<Inner<I, O>>,
    /// The name of the job.
    job: Rc<str>,
    observed: Rc<Cell<bool>>,
    place: Place,
    /// Made when the behavior opens.
    open: Option<Opened<O>>,
    keys: PhantomData<fn(K)>,
}

pub(crate) struct Opened<O: 'static> {
    pub(crate) core: Rc<Core<O>>,
    /// The context of tasks that never wait.
    pub(crate) ctx: Ctx<O>,
    pub(crate) stats: Vec<ActionStats>,
}

impl<K: Key, I: Input, O: 'static> AgentBehavior<K, I, O> {
    pub(crate) fn new(plan: &Plan<I, O>, job: Rc<str>, observed: Rc<Cell<bool>>) -> Self {
        let place = Place { worker: 0, peers: 1 };
        AgentBehavior { plan: Arc::clone(&plan.0), job, observed, place, open: None, keys: PhantomData }
    }

    /// The columns and buffers of this worker, for tests to look at.
    pub(crate) fn core(&self) -> Option<&Rc<Core<O>>> {
        self.open.as_ref().map(|open| &open.core)
    }

    /// The job's start that this is, where ends of calls are noted.
    fn start_of_job(&mut self) -> u64 {
        self.opened().1.core.generation.get().unwrap_or(0)
    }

    pub(crate) fn opened(&mut self) -> (&Arc<Inner<I, O>>, &mut Opened<O>) {
        (&self.plan, self.open.as_mut().expect("runs come after `open` and before `close`"))
    }
}

impl<K: Key, I: Input, O: 'static> Behavior for AgentBehavior<K, I, O> {
    type Key = K;
    type Input = I;
    type Output = O;
    type Tagged = Tagged;
    type Run = Box<Run<O>>;

    fn open(&mut self, opening: Opening<K>) -> Result<(), Failure> {
        quiet::install();
        let Opening { keys, queue, worker, peers, facts } = opening;
        self.place = Place { worker, peers };
        let program = Arc::clone(&self.plan.program);
        let observed = Rc::clone(&self.observed);
        let core = Rc::new(Core::new(program, Box::new(keys), queue, facts, observed, self.plan.keeps_sent));
        core.set_job(&self.job);
        let task = TaskCell::new(0, 0, ROOT, 1, 0, None);
        let ctx = Ctx { core: Rc::clone(&core), task };
        let stats = vec![ActionStats::default(); core.program.actions.len()];
        self.open = Some(Opened { core, ctx, stats });
        if let Some(hook) = &self.plan.program.on_open {
            let place = self.place;
            let message = match quiet::catch(|| hook(place)) {
                Ok(Ok(())) => return Ok(()),
                Ok(Err(error)) => error.to_string(),
                Err(panic) => panic.to_string(),
            };
            return Err(Failure {
                agent: self.plan.program.name.clone(),
                action: "open".into(),
                key: String::new(),
                epoch: 0,
                message,
            });
        }
        Ok(())
    }

    fn admit(&mut self, keys: usize) {
        self.opened().1.core.memory.borrow_mut().admit(keys);
    }

    fn touch(&mut self, keys: &[KeyId]) {
        self.opened().1.core.memory.borrow().touch(keys);
    }

    #[inline]
    fn start(&mut self, head: &RunHead, work: Work<I>, fuel: &mut u32) -> Progress<Box<Run<O>>> {
        let (plan, open) = self.opened();
        let core = &*open.core;
        core.common.head.set(head);
        if core.retains.get() {
            core.begin_keeping(About::of(&work));
        }
        match work {
            Work::Input(input) => {
                core.identity.set(plan.identity.as_ref().map(|identify| identify(&input)));
                core.notifying.set(None);
                if plan.direct.is_some() {
                    return self.start_direct(head, input, 0, fuel);
                }
                let input: Rc<dyn Any> = Rc::new(input);
                self.start_kept(head, INPUT, input, fuel)
            }
            Work::Scheduled { event } => {
                core.identity.set(None);
                core.notifying.set(None);
                self.start_scheduled(head, &event, fuel)
            }
            Work::Notify { epoch } => {
                core.identity.set(None);
                core.notifying.set(Some(epoch));
                self.start_kept(head, NOTIFICATION, Rc::new(Notification { epoch }), fuel)
            }
        }
    }

    #[inline]
    fn start_batch(
        &mut self,
        head: &mut RunHead,
        inputs: &mut impl Iterator<Item = (KeyId, u64, I)>,
        fuel: &mut u32,
        begun: &mut impl Begins<I>,
    ) -> (u64, Option<Progress<Box<Run<O>>>>) {
        self.start_direct_batch(head, inputs, fuel, begun)
    }

    fn resume(&mut self, head: &RunHead, run: &mut Box<Run<O>>, fuel: &mut u32) -> Progress<()> {
        self.opened().1.core.common.head.set(head);
        self.drive_kept(head, run, fuel)
    }

    fn complete(&mut self, run: &mut Box<Run<O>>, call: CallRef, result: CallResult) -> bool {
        run.complete(call, result)
    }

    fn wake(&mut self, run: &mut Box<Run<O>>, task: u32) -> bool {
        run.wake(task)
    }

    fn run_timeout(&self) -> Option<Duration> {
        self.plan.program.run_timeout.map(|(limit, _)| limit)
    }

    fn expire(&mut self, run: &mut Box<Run<O>>) -> bool {
        run.expired = true;
        true
    }

    fn signal(&mut self, key: KeyId, run: Option<&mut Box<Run<O>>>, name: String, payload: Vec<u8>) -> bool {
        let waited_for = name.clone();
        let kept = self.opened().1.core.common.signals.borrow_mut().arrive(key, name, payload);
        kept && run.is_some_and(|run| run.wake_waits(Some(&waited_for)))
    }

    fn awaits_signal(&self, run: &Box<Run<O>>) -> bool {
        !self.plan.program.signals.is_empty() && run.awaits_signal()
    }

    fn end_signals(&mut self) {
        self.opened().1.core.common.signals.borrow_mut().ended = true;
    }

    fn signals_ended(&mut self, run: &mut Box<Run<O>>) -> bool {
        run.wake_waits(None)
    }

    fn cancel(&mut self, run: &mut Box<Run<O>>, reason: &str) {
        run.cancelled = Some(reason.to_owned());
    }

    fn discard(&mut self, head: &RunHead, input: I, reason: &str) {
        let core = Rc::clone(&self.opened().1.core);
        core.common.head.set(head);
        if core.retains.get() {
            core.begin_keeping(About::Input(journal::encode(&input)));
            core.keep_end(RunEnd::NotBegun(reason.to_owned()));
            core.keep_run(head.key);
        }
        self.dead_letter(Some(Rc::new(input)), String::new(), 0, reason.to_owned());
    }

    #[inline]
    fn effects<R>(&mut self, look: impl FnOnce(&mut Effects<O, Tagged>) -> R) -> R {
        let core = &*self.opened().1.core;
        let mut staged = core.staged.borrow_mut();
        let effects = &mut staged.effects;
        if !core.common.control.replace(false) {
            return look(effects);
        }
        effects.calls.append(&mut core.common.calls.borrow_mut());
        effects.timers.append(&mut core.common.timers.borrow_mut());
        effects.cancelled.append(&mut core.common.cancelled.borrow_mut());
        let result = look(effects);
        core.scheduled.set(effects.scheduled.len());
        // Who looked for outputs only has left the rest for another look.
        let left = !effects.calls.is_empty()
            || !effects.timers.is_empty()
            || !effects.cancelled.is_empty()
            || !effects.notifications.is_empty()
            || !effects.scheduled.is_empty();
        core.common.control.set(left);
        result
    }

    #[inline]
    fn wants_control(&self) -> bool {
        self.open.as_ref().is_some_and(|open| open.core.common.control.get())
    }

    fn advance(&mut self, epoch: Option<u64>) {
        self.opened().1.core.ended.set(epoch.is_none());
    }

    fn facts(&mut self, key: KeyId, run: Option<&Box<Run<O>>>, facts: &mut KeyWriter) {
        let undo = run.map_or(&[][..], |run| &run.undo);
        let core = &*self.opened().1.core;
        core.memory.borrow_mut().facts(key, undo, facts);
        core.common.signals.borrow_mut().facts(key, facts);
    }

    fn facts_of(&mut self, keys: &[KeyId], columns: &mut FactColumns) {
        let core = &*self.opened().1.core;
        core.memory.borrow_mut().facts_of(keys, columns);
        let signals = &mut core.common.signals.borrow_mut();
        if signals.has_facts() {
            let column = columns.another();
            for key in keys {
                column.key(|facts| signals.facts(*key, facts));
            }
        }
    }

    fn carries(&self) -> bool {
        self.plan.program.carry
    }

    fn beginning(&self, run: &Box<Run<O>>) -> Vec<u8> {
        run.recorded.as_ref().map(|recorded| recorded.beginning.clone()).unwrap_or_default()
    }

    fn journal(&mut self, run: &mut Box<Run<O>>, each: &mut dyn FnMut(&[u8])) {
        if let Some(recorded) = &mut run.recorded {
            recorded.entries.drain(..).for_each(|entry| each(&entry));
            let Some(noting) = &mut run.noting else { return };
            for (task, ordinal, asked) in noting.take_left() {
                each(&journal::encode(&Entry::Left { task, ordinal, asked }));
            }
            for (task, end, at) in noting.take_pending() {
                each(&journal::encode(&Entry::Given { task, end: end.clone(), at }));
            }
        }
    }

    fn restore_run(
        &mut self,
        head: &RunHead,
        beginning: &[u8],
        journal: Vec<Vec<u8>>,
    ) -> Result<(Box<Run<O>>, bool), String> {
        self.take_over(head, beginning, &journal)
    }

    fn takes_notes(&mut self, generation: u64, records: bool) -> bool {
        let (plan, open) = self.opened();
        let notes = records || plan.program.actions.iter().any(|action| matches!(action.body, Body::Async(_)));
        if notes {
            open.core.generation.set(Some(generation));
            open.core.common.notes.set(true);
        }
        open.core.retains.set(records);
        notes
    }

    fn take_record(&mut self) -> Option<Vec<u8>> {
        self.opened().1.core.kept.take().map(|record| journal::encode(&record))
    }

    fn take_beginning(&mut self, run: &mut Box<Run<O>>) -> Option<Vec<u8>> {
        run.noting.as_mut().and_then(|noting| noting.take_noted_beginning())
    }

    fn digest(&self, input: &I) -> u64 {
        self.plan.digest(input)
    }

    fn run_digest(&self, run: &Box<Run<O>>) -> Option<u64> {
        let input = run.input.as_ref().and_then(|input| input.downcast_ref::<I>());
        match (input, run.notifying) {
            (Some(input), _) => Some(self.digest(input)),
            (None, epoch) => epoch.map(notification_digest),
        }
    }

    fn start_again(&mut self, head: &RunHead, work: Work<I>, past: PastRun, fuel: &mut u32) -> Progress<Box<Run<O>>> {
        self.start_noted(head, work, &past, fuel)
    }

    fn restore_notes(&mut self, head: &RunHead, run: &mut Box<Run<O>>, past: &PastRun) -> Result<(), String> {
        self.take_notes_over(run, head, past)
    }

    fn note_end(&mut self, now: u64, run: &mut Box<Run<O>>, call: CallRef, result: &CallResult) -> Option<RunNote> {
        run.note_end((self.start_of_job(), now), call, result)
    }

    fn note_start(&mut self, run: &mut Box<Run<O>>, call: CallRef) -> Option<RunNote> {
        run.note_start(self.start_of_job(), call)
    }

    fn note_failure(&mut self, run: &mut Box<Run<O>>) -> Option<RunNote> {
        run.note_failure(self.start_of_job())
    }

    fn encode_input(input: &I) -> Result<Vec<u8>, String> {
        postcard::to_allocvec(input).map_err(|error| error.to_string())
    }

    fn decode_input(bytes: &[u8]) -> Result<I, String> {
        postcard::from_bytes(bytes).map_err(|error| format!("an input of another type: {error}"))
    }

    fn restore(&mut self, key: KeyId, what: &What, value: Option<&[u8]>) -> Result<(), String> {
        let core = &*self.opened().1.core;
        match what {
            What::Signal(_) if !core.program.carry => {
                Err("it keeps signals, which only an agent that carries can take over".into())
            }
            What::Signal(number) => core.common.signals.borrow_mut().load(key, *number, value),
            what => core.memory.borrow_mut().load(key, what, value),
        }
    }

    fn sequence(&self) -> Option<Sequence<Self>> {
        self.plan.order.as_ref().map(|_| {
            (|this: &Self, a: &I, b: &I| this.plan.order.as_ref().map_or(Ordering::Equal, |order| order(a, b)))
                as Sequence<Self>
        })
    }

    fn input_bytes(input: &I) -> usize {
        postcard::experimental::serialized_size(input).unwrap_or(0).max(size_of::<I>())
    }

    fn drained(&mut self) {
        if let Some(hook) = &self.plan.program.on_drained {
            let place = self.place;
            if let Err(panic) = quiet::catch(|| hook(place)) {
                tracing::error!(agent = self.plan.program.name, %panic, "the hook on_drained failed");
            }
        }
    }

    fn close(&mut self) {
        let program = &self.plan.program;
        if let Some(hook) = &program.on_close {
            let place = self.place;
            if let Err(panic) = quiet::catch(|| hook(place)) {
                tracing::error!(agent = program.name, %panic, "the hook on_close failed");
            }
        }
        if let Some(Opened { core, stats, .. }) = &self.open {
            if let Err(panic) = quiet::catch(|| core.resources.close()) {
                tracing::error!(agent = program.name, %panic, "a resource failed to close");
            }
            if let Ok(mut total) = program.stats.lock() {
                total.diverged += core.diverged.get();
                for (action, stats) in program.actions.iter().zip(stats) {
                    total.actions.entry(action.name.clone()).or_default().merge(stats);
                }
                for (name, count) in program.counters.iter().zip(&core.counters) {
                    *total.counters.entry(name.clone()).or_default() += count.get();
                }
            }
        }
    }
}

impl<K: Key, I: Input, O: 'static> AgentBehavior<K, I, O> {
    /// Starts a run with its first event in the queue.
    fn start_kept(&mut self, head: &RunHead, event: u32, value: Rc<dyn Any>, fuel: &mut u32) -> Progress<Box<Run<O>>> {
        let (plan, open) = self.opened();
        let core = &*open.core;
        if core.observed.get() {
            core.observe_start(event, &*value);
        }
        if plan.program.triggers(event).is_empty() {
            self.end(head.key);
            return Progress::Done;
        }
        let payload = Payload::Typed(Rc::clone(&value));
        core.staged.borrow_mut().queue.push_back(Queued { event, payload, next: 0, path: ROOT });
        let run = self.promote((event == INPUT).then_some(value));
        self.drive(head, run, fuel)
    }

    /// Starts a run with a scheduled event.
    fn start_scheduled(&mut self, head: &RunHead, event: &[u8], fuel: &mut u32) -> Progress<Box<Run<O>>> {
        let core = &*self.opened().1.core;
        let event: Result<Packed, _> = postcard::from_bytes(event);
        let queued = event.map_err(|error| error.to_string());
        let queued = queued.and_then(|event| core.unpack(Sent { path: ROOT, next: 0, event }, None));
        match queued {
            Ok(Queued { event, payload: Payload::Typed(value), .. }) => self.start_kept(head, event, value, fuel),
            Ok(_) => Progress::Failed(Box::new(core.failure("", "a scheduled event is of no type"))),
            Err(message) => Progress::Failed(Box::new(core.failure("", format!("a scheduled event: {message}")))),
        }
    }
}
