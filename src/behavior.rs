//! What a run of an agent does: the [`Behavior`] of plans.
//!
//! A run starts with its input's event and handles events breadth-first, for each its actions in plan order
//! (S3). A run whose actions never wait is driven on the stack, without allocation; one that waits, yields or
//! tries again becomes a [`Run`] and is driven from there. Both ways take steps by the same functions and end
//! in [`AgentBehavior::end`].
//!
//! # Invariants
//! - One step is active at a time; it ends in commit, undo or suspension before another begins.
//! - User code runs under `quiet::catch`: what it panics with is its action's failure (S8).
//! - A future that has panicked or finished is dropped, never polled again.
//!
//! Not here: when runs start, and time (the driver).

use std::any::Any;
use std::cell::Cell;
use std::cmp::Ordering;
use std::marker::PhantomData;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use timely_agents_operators::behavior::{Behavior, Effects, Failure, Opening, Progress, RunHead, Sequence, Work};
use timely_agents_operators::completion::{CallRef, CallResult};
use timely_agents_operators::fact::{KeyWriter, What};
use timely_agents_operators::hash::mix;
use timely_agents_operators::keys::{Key, KeyId};
use timely_agents_operators::quiet::{self, Panic};

use crate::action::{Body, Form};
use crate::agent::{Input, Place};
use crate::core::{Core, Queued, TaskCell};
use crate::ctx::Ctx;
use crate::error::Error;
use crate::event::{AnyEvent, DynamicEvent, Notification, Payload};
use crate::journal::{self, Beginning, Entry, Name, Recorded};
use crate::plan::{INPUT, Inner, NOTIFICATION, Plan};
use crate::policy::{Exhausted, Policy};
use crate::run::{Run, Saved, Task, TaskWaker, Tasks};
use crate::stats::ActionStats;
use crate::tagged::{DeadLetter, Tagged};

/// The path of a run's first event; those of others follow from it.
const ROOT: u64 = 0x726F_6F74;

/// A plan on one worker.
pub(crate) struct AgentBehavior<K, I: 'static, O: 'static> {
    plan: Arc<Inner<I, O>>,
    observed: Rc<Cell<bool>>,
    place: Place,
    /// Made when the behavior opens.
    open: Option<Opened<O>>,
    keys: PhantomData<fn(K)>,
}

pub(crate) struct Opened<O: 'static> {
    pub(crate) core: Rc<Core<O>>,
    /// The context of tasks that never wait.
    ctx: Ctx<O>,
    stats: Vec<ActionStats>,
}

/// What becomes of a run after a failure.
enum Verdict {
    /// The run goes on.
    GoOn,
    /// The task is tried again: the run must be kept.
    Again { pause: Duration },
    /// The run has ended as a dead letter.
    Dead,
    /// The job stops.
    Stop(Box<Failure>),
}

impl<K: Key, I: Input, O: 'static> AgentBehavior<K, I, O> {
    pub(crate) fn new(plan: &Plan<I, O>, observed: Rc<Cell<bool>>) -> Self {
        let place = Place { worker: 0, peers: 1 };
        AgentBehavior { plan: Arc::clone(&plan.0), observed, place, open: None, keys: PhantomData }
    }

    /// The columns and buffers of this worker, for tests to look at.
    pub(crate) fn core(&self) -> Option<&Rc<Core<O>>> {
        self.open.as_ref().map(|open| &open.core)
    }

    pub(crate) fn opened(&mut self) -> (&Arc<Inner<I, O>>, &mut Opened<O>) {
        (&self.plan, self.open.as_mut().expect("runs come after `open` and before `close`"))
    }

    /// Drives a run that has not waited yet, from its action number `from` on. `input` is boxed only when the run
    /// must be kept.
    fn start_direct(&mut self, head: &RunHead, input: I, from: usize, fuel: &mut u32) -> Progress<Box<Run<O>>> {
        let (plan, open) = self.opened();
        let core = &*open.core;
        if core.observed.get() && from == 0 {
            core.common.attention.set(true);
            core.observe_start(INPUT, &input);
        }
        let actions = plan.direct.as_deref().unwrap_or_default();
        for (i, (index, body)) in actions.iter().enumerate().skip(from) {
            if *fuel == 0 {
                let run = self.keep_direct(input, i);
                return Progress::Yielded(self.put_away(run));
            }
            *fuel -= 1;
            open.ctx.task.reuse(*index, mix(ROOT, u64::from(*index)), 1);
            core.begin_step();
            match take_step(core, &open.ctx.task, || body(&input, &open.ctx)) {
                Ok(()) => open.stats[*index as usize].finished += 1,
                Err(message) => return self.direct_failed(head, input, i, message, fuel),
            }
        }
        let (plan, core) = (Arc::clone(&self.plan), Rc::clone(&self.opened().1.core));
        self.direct_over(&plan, &core, head, input, fuel)
    }

    /// The actions of an input are over; the events that they sent remain.
    #[inline]
    fn direct_over(
        &mut self,
        plan: &Inner<I, O>,
        core: &Rc<Core<O>>,
        head: &RunHead,
        input: I,
        fuel: &mut u32,
    ) -> Progress<Box<Run<O>>> {
        if !core.common.attention.get() {
            core.memory.borrow_mut().end_inline_run(head.key);
            return Progress::Done;
        }
        if core.staged.borrow().queue.is_empty() {
            self.end(head.key);
            return Progress::Done;
        }
        self.chain_direct(plan, core, head, input, fuel)
    }

    /// Makes a run that is to go on with its input's action number `next` one that can be kept.
    fn keep_direct(&mut self, input: I, next: usize) -> Box<Run<O>> {
        let run = self.promote(Some(Rc::new(input)));
        if next < self.plan.program.triggers(INPUT).len() {
            let payload = Payload::Typed(Rc::clone(run.input.as_ref().expect("just put")));
            let first = Queued { event: INPUT, payload, next: next as u32, path: ROOT };
            self.opened().1.core.staged.borrow_mut().queue.push_front(first);
        }
        run
    }

    /// Action number `i` of an input has failed and its step is undone.
    #[cold]
    fn direct_failed(
        &mut self,
        head: &RunHead,
        input: I,
        i: usize,
        message: String,
        fuel: &mut u32,
    ) -> Progress<Box<Run<O>>> {
        let (plan, open) = self.opened();
        let index = plan.program.triggers(INPUT)[i];
        match judge(&open.core, &mut open.stats[index as usize], index, 1, true, &message) {
            Verdict::GoOn => self.start_direct(head, input, i + 1, fuel),
            Verdict::Stop(failure) => Progress::Failed(failure),
            Verdict::Dead => self.bury(&mut Tasks::new(), Some(Rc::new(input)), index, 1, message),
            Verdict::Again { pause } => {
                let mut run = self.keep_direct(input, i + 1);
                let event = Rc::clone(run.input.as_ref().expect("just put"));
                self.retry_later(&mut run, head, index, event, mix(ROOT, u64::from(index)), 2, 0, pause);
                self.drive(head, run, fuel)
            }
        }
    }

    /// Goes on with the events that the input's actions have sent.
    fn chain_direct(
        &mut self,
        plan: &Inner<I, O>,
        core: &Rc<Core<O>>,
        head: &RunHead,
        input: I,
        fuel: &mut u32,
    ) -> Progress<Box<Run<O>>> {
        loop {
            let Some(mut queued) = core.staged.borrow_mut().queue.pop_front() else { break };
            let triggers = plan.program.triggers(queued.event);
            while let Some(&index) = triggers.get(queued.next as usize) {
                let action = plan.program.action(index);
                let (Body::Sync(body), Form::Typed, Payload::Typed(value), true) =
                    (&action.body, action.form, &queued.payload, *fuel > 0)
                else {
                    core.staged.borrow_mut().queue.push_front(queued);
                    let run = self.promote(Some(Rc::new(input)));
                    return self.drive(head, run, fuel);
                };
                *fuel -= 1;
                queued.next += 1;
                let path = mix(queued.path, u64::from(index));
                let open = self.opened().1;
                open.ctx.task.reuse(index, path, 1);
                core.begin_step();
                let Err(message) = take_step(core, &open.ctx.task, || body(&**value, &open.ctx)) else {
                    open.stats[index as usize].finished += 1;
                    continue;
                };
                match judge(core, &mut open.stats[index as usize], index, 1, true, &message) {
                    Verdict::GoOn => {}
                    Verdict::Stop(failure) => return Progress::Failed(failure),
                    Verdict::Dead => {
                        return self.bury(&mut Tasks::new(), Some(Rc::new(input)), index, 1, message);
                    }
                    Verdict::Again { pause } => {
                        let event = Rc::clone(value);
                        if (queued.next as usize) < triggers.len() {
                            core.staged.borrow_mut().queue.push_front(queued);
                        }
                        let mut run = self.promote(Some(Rc::new(input)));
                        self.retry_later(&mut run, head, index, event, path, 2, 0, pause);
                        return self.drive(head, run, fuel);
                    }
                }
            }
        }
        self.end(head.key);
        Progress::Done
    }

    /// Makes a run that was driven on the stack one that can be kept. It stays the active one.
    fn promote(&mut self, input: Option<Rc<dyn Any>>) -> Box<Run<O>> {
        let core = &*self.opened().1.core;
        core.common.attention.set(true);
        core.memory.borrow_mut().take_log(&mut core.undo.borrow_mut());
        if core.records {
            let writes = core.memory.borrow().written(&core.undo.borrow(), core.key());
            let queue = core.pack(core.staged.borrow().queue.iter());
            let (identity, notifying) = (core.identity.get(), core.notifying.get());
            let bytes = input.as_ref().and_then(|input| input.downcast_ref::<I>()).map(journal::encode);
            let beginning = journal::encode(&Beginning { identity, notifying, input: bytes, writes, queue });
            *core.recorded.borrow_mut() = Some(Box::new(Recorded { beginning, ..Recorded::default() }));
        }
        Run::new(input, core.identity.get(), core.notifying.get())
    }

    /// Puts a promoted run away.
    fn put_away(&mut self, mut run: Box<Run<O>>) -> Box<Run<O>> {
        self.deactivate(&mut run);
        run
    }

    /// Drives a promoted run as far as fuel and waits allow.
    fn drive(&mut self, head: &RunHead, mut run: Box<Run<O>>, fuel: &mut u32) -> Progress<Box<Run<O>>> {
        match self.drive_active(head, &mut run, fuel) {
            Progress::Done => Progress::Done,
            Progress::Suspended(()) => Progress::Suspended(self.put_away(run)),
            Progress::Yielded(()) => Progress::Yielded(self.put_away(run)),
            Progress::Failed(failure) => Progress::Failed(failure),
        }
    }

    /// Drives a run that was put away.
    fn drive_kept(&mut self, head: &RunHead, run: &mut Run<O>, fuel: &mut u32) -> Progress<()> {
        self.activate(run);
        let progress = self.drive_active(head, run, fuel);
        if !matches!(progress, Progress::Done) {
            self.deactivate(run);
        }
        progress
    }

    /// Makes `run` the active one. Between runs all lists of the core are empty.
    fn activate(&mut self, run: &mut Run<O>) {
        let core = &*self.opened().1.core;
        core.common.attention.set(true);
        core.identity.set(run.identity);
        core.notifying.set(run.notifying);
        self.exchange(run);
    }

    fn deactivate(&mut self, run: &mut Run<O>) {
        self.exchange(run);
        self.opened().1.core.forget_run();
    }

    /// Exchanges the lists of the core and of a run. Where both are empty the core keeps its capacity.
    fn exchange(&mut self, run: &mut Run<O>) {
        let core = &*self.opened().1.core;
        let queue = &mut core.staged.borrow_mut().queue;
        if !(queue.is_empty() && run.queue.is_empty()) {
            std::mem::swap(queue, &mut run.queue);
        }
        let mut undo = core.undo.borrow_mut();
        if !(undo.is_empty() && run.undo.is_empty()) {
            std::mem::swap(&mut *undo, &mut run.undo);
        }
        std::mem::swap(&mut *core.history.borrow_mut(), &mut run.history);
        std::mem::swap(&mut *core.recorded.borrow_mut(), &mut run.recorded);
    }

    fn drive_active(&mut self, head: &RunHead, run: &mut Run<O>, fuel: &mut u32) -> Progress<()> {
        if run.replays
            && let Some(progress) = self.replay(head, run)
        {
            return progress;
        }
        if run.expired {
            return self.expire_active(run);
        }
        loop {
            let (plan, open) = self.opened();
            let core = &*open.core;
            let waiting = run.next_ready.is_some() || !core.staged.borrow().queue.is_empty();
            if !waiting {
                break;
            }
            if *fuel == 0 {
                return Progress::Yielded(());
            }
            *fuel -= 1;
            if let Some(task) = run.pop_ready() {
                if let Some(progress) = self.poll_task(head, run, task) {
                    return progress;
                }
                continue;
            }
            let (event, payload, next, path) = {
                let staged = core.staged.borrow();
                let queued = staged.queue.front().expect("not empty");
                (queued.event, queued.payload.clone(), queued.next, queued.path)
            };
            let triggers = plan.program.triggers(event);
            let index = triggers[next as usize];
            core.advance_queue(triggers.len());
            let action = plan.program.action(index);
            let path = mix(path, u64::from(index));
            let form = plan.program.in_form(event, &payload, action.form);
            let task = match form {
                Ok(value) => self.place_task(run, head, index, value, path, 1, 0),
                // Another attempt would meet the same event.
                Err(message) => match judge(core, &mut open.stats[index as usize], index, 1, false, &message) {
                    Verdict::Stop(failure) => return Progress::Failed(failure),
                    Verdict::Dead => {
                        let input = run.input.take();
                        return self.bury(&mut run.tasks, input, index, 1, message);
                    }
                    Verdict::GoOn | Verdict::Again { .. } => continue,
                },
            };
            if let Some(progress) = self.poll_task(head, run, task) {
                return progress;
            }
        }
        if run.has_tasks() {
            return Progress::Suspended(());
        }
        let core = Rc::clone(&self.opened().1.core);
        core.memory.borrow_mut().end_run_with(&mut core.undo.borrow_mut(), false, head.key);
        self.end(head.key);
        Progress::Done
    }

    /// Gives a task a place in the run.
    #[expect(clippy::too_many_arguments, reason = "what identifies a task")]
    pub(crate) fn place_task(
        &mut self,
        run: &mut Run<O>,
        head: &RunHead,
        action: u32,
        event: Rc<dyn Any>,
        path: u64,
        attempt: u32,
        flushed: u32,
    ) -> u32 {
        let queue = self.opened().1.core.queue.clone();
        run.place(|index| {
            let fired = TaskWaker::new(queue, head.token, index);
            Task {
                cell: TaskCell::new(index, action, path, attempt, flushed),
                event,
                future: None,
                waker: Waker::from(Arc::clone(&fired)),
                fired,
                ready: false,
                retry: None,
                saved: None,
            }
        })
    }

    /// Places a task that starts after a pause.
    #[expect(clippy::too_many_arguments, reason = "what identifies a task, and when")]
    fn retry_later(
        &mut self,
        run: &mut Run<O>,
        head: &RunHead,
        action: u32,
        event: Rc<dyn Any>,
        path: u64,
        attempt: u32,
        flushed: u32,
        pause: Duration,
    ) {
        let index = self.place_task(run, head, action, event, path, attempt, flushed);
        let deadline = head.now.saturating_add(pause.as_micros() as u64);
        if let Some(recorded) = &mut *self.opened().1.core.recorded.borrow_mut() {
            recorded.push(&Entry::Again { task: Name { path, attempt: attempt - 1 }, flushed, deadline });
        }
        self.pause_until(run, index, deadline);
    }

    /// Takes one step of a task; what the run has come to if that ends the call.
    pub(crate) fn poll_task(&mut self, head: &RunHead, run: &mut Run<O>, index: u32) -> Option<Progress<()>> {
        let mut task = run.tasks[index as usize].take()?;
        task.ready = false;
        let (plan, open) = self.opened();
        let core = &open.core;
        let action = plan.program.action(task.cell.action.get());
        core.begin_step();
        core.restore_step(task.saved.take());
        task.fired.rearm();
        if core.records
            && !core.replaying.get()
            && let Some(recorded) = &mut *core.recorded.borrow_mut()
        {
            recorded.turn(&task.cell, core.common.head.now.get());
        }
        let outcome = match &action.body {
            Body::Sync(body) => {
                let ctx = Ctx { core: Rc::clone(core), task: Rc::clone(&task.cell) };
                quiet::catch(|| Poll::Ready(body(&*task.event, &ctx)))
            }
            Body::Async(body) => {
                let future = task.future.get_or_insert_with(|| {
                    body(Rc::clone(&task.event), Ctx { core: Rc::clone(core), task: Rc::clone(&task.cell) })
                });
                quiet::catch(|| future.as_mut().poll(&mut Context::from_waker(&task.waker)))
            }
        };
        let result = match outcome {
            Ok(Poll::Pending) => {
                task.saved = core.save_step();
                run.tasks[index as usize] = Some(task);
                return None;
            }
            Ok(Poll::Ready(result)) => result.map_err(|error| error.to_string()),
            Err(panic) => Err(panic.to_string()),
        };
        run.vacate(index);
        // What the future still holds is dropped while its step is active, so that it cannot touch another.
        let dropped = quiet::catch(|| drop(task.future.take()));
        let result = result.and_then(|()| dropped.map_err(|panic| panic.to_string()));
        let result = result.and_then(|()| core.take_fault().map_or(Ok(()), Err));
        match result {
            Ok(()) => {
                core.finish_step(&task.cell, true);
                open.stats[task.cell.action.get() as usize].finished += 1;
                None
            }
            Err(message) => {
                core.take_fault();
                core.undo_step();
                let cell = &task.cell;
                let flushed = cell.flushes.get().max(cell.flushed_before.get());
                let (action, path, attempt) = (cell.action.get(), cell.path.get(), cell.attempt.get());
                self.fail_task(run, head, action, task.event, path, attempt, flushed, message)
            }
        }
    }

    /// A task has failed and its step is undone.
    #[expect(clippy::too_many_arguments, reason = "what identifies a task, and its failure")]
    fn fail_task(
        &mut self,
        run: &mut Run<O>,
        head: &RunHead,
        index: u32,
        event: Rc<dyn Any>,
        path: u64,
        attempt: u32,
        flushed: u32,
        message: String,
    ) -> Option<Progress<()>> {
        let open = self.opened().1;
        match judge(&open.core, &mut open.stats[index as usize], index, attempt, true, &message) {
            Verdict::GoOn => {
                if let Some(recorded) = &mut *open.core.recorded.borrow_mut() {
                    let task = Name { path, attempt };
                    recorded.push(&Entry::Step { task, writes: Vec::new(), sent: Vec::new(), over: true });
                }
                None
            }
            Verdict::Stop(failure) => Some(Progress::Failed(failure)),
            Verdict::Again { pause } => {
                self.retry_later(run, head, index, event, path, attempt + 1, flushed, pause);
                None
            }
            Verdict::Dead => {
                let input = run.input.take();
                Some(self.bury(&mut run.tasks, input, index, attempt, message))
            }
        }
    }

    /// The active run has taken too long.
    fn expire_active(&mut self, run: &mut Run<O>) -> Progress<()> {
        let (plan, open) = self.opened();
        let (limit, then) = plan.program.run_timeout.expect("only a plan with a limit expires");
        let message = format!("the run has not ended within {limit:?}");
        match then {
            Exhausted::Fail => Progress::Failed(Box::new(open.core.failure("", message))),
            Exhausted::DeadLetter | Exhausted::Ignore => {
                let input = run.input.take();
                self.end_early(&mut run.tasks);
                if then == Exhausted::DeadLetter {
                    self.dead_letter(input, String::new(), 1, message);
                }
                let key = self.opened().1.core.key();
                self.end(key);
                Progress::Done
            }
        }
    }

    /// Ends the active run as a dead letter.
    fn bury<R>(
        &mut self,
        tasks: &mut Tasks<O>,
        input: Option<Rc<dyn Any>>,
        action: u32,
        attempts: u32,
        error: String,
    ) -> Progress<R> {
        self.end_early(tasks);
        let name = self.plan.program.action(action).name.clone();
        self.dead_letter(input, name, attempts, error);
        let key = self.opened().1.core.key();
        self.end(key);
        Progress::Done
    }

    /// Drops the active run's tasks, events and writes.
    fn end_early(&mut self, tasks: &mut Tasks<O>) {
        let core = Rc::clone(&self.opened().1.core);
        for mut task in tasks.drain(..).flatten() {
            // What a future does when it is dropped belongs to its own step, which is undone.
            core.begin_step();
            core.restore_step(task.saved.take());
            let _: Result<(), Panic> = quiet::catch(|| drop(task));
            core.take_fault();
            core.undo_step();
        }
        core.staged.borrow_mut().queue.clear();
        let mut memory = core.memory.borrow_mut();
        memory.undo_to(0, core.key());
        memory.end_run_with(&mut core.undo.borrow_mut(), true, core.key());
    }

    fn dead_letter(&mut self, input: Option<Rc<dyn Any>>, action: String, attempts: u32, error: String) {
        let core = &*self.opened().1.core;
        let head = &core.common.head;
        let sent = core.history.take().iter().map(|(event, payload)| core.tell(*event, payload)).collect();
        let key = core.keys.text(head.key.get());
        tracing::warn!(agent = core.program.name, key, epoch = head.epoch.get(), action, error, "dead letter");
        let letter = DeadLetter {
            key,
            epoch: head.epoch.get(),
            sequence: head.sequence.get(),
            action,
            attempts,
            error,
            input,
            sent,
        };
        core.staged.borrow_mut().effects.tagged.push(Tagged::Dead(Rc::new(letter)));
    }

    /// Ends the active run: the one place, for runs of every kind.
    #[inline]
    fn end(&mut self, key: KeyId) {
        let core = &*self.opened().1.core;
        core.memory.borrow_mut().end_inline_run(key);
        core.forget_run();
        debug_assert!(core.staged.borrow().queue.is_empty(), "steps end before their run");
    }
}

/// What becomes of the run of an action that has failed; `again` says whether another attempt could help.
#[cold]
fn judge<O>(core: &Core<O>, stats: &mut ActionStats, index: u32, attempt: u32, again: bool, message: &str) -> Verdict {
    stats.failed += 1;
    let action = core.program.action(index);
    let then = match &action.options.policy {
        Policy::Retry(retry) if again && attempt < retry.attempts => {
            stats.retried += 1;
            return Verdict::Again { pause: retry.pause(attempt) };
        }
        Policy::Retry(retry) => retry.then,
        Policy::Fail => Exhausted::Fail,
        Policy::DeadLetter => Exhausted::DeadLetter,
        Policy::Ignore => Exhausted::Ignore,
    };
    match then {
        Exhausted::Fail => Verdict::Stop(Box::new(core.failure(&action.name, message))),
        Exhausted::DeadLetter => {
            stats.dead_lettered += 1;
            Verdict::Dead
        }
        Exhausted::Ignore => {
            stats.ignored += 1;
            Verdict::GoOn
        }
    }
}

/// Runs the body of a task that does not wait, and commits or undoes its step; what went wrong, as text.
#[inline]
fn take_step<O>(core: &Core<O>, task: &TaskCell, body: impl FnOnce() -> Result<(), Error>) -> Result<(), String> {
    match quiet::catch(body) {
        Ok(Ok(())) => {}
        failed => return Err(undo_failed(core, failed)),
    }
    if core.common.attention.get() {
        if core.has_fault() {
            return Err(undo_failed(core, Ok(Ok(()))));
        }
        core.publish_step(task);
    }
    Ok(())
}

#[cold]
fn undo_failed<O>(core: &Core<O>, result: Result<Result<(), Error>, Panic>) -> String {
    let fault = core.take_fault();
    core.undo_step();
    match result {
        Ok(Ok(())) => fault.unwrap_or_default(),
        Ok(Err(error)) => error.to_string(),
        Err(panic) => panic.to_string(),
    }
}

impl<O> crate::plan::Program<O> {
    /// An event in the form that an action takes.
    pub(crate) fn in_form(&self, event: u32, payload: &Payload, form: Form) -> Result<Rc<dyn Any>, String> {
        let plan = &self.events[event as usize];
        match (form, payload) {
            (Form::Typed, Payload::Typed(value)) => Ok(Rc::clone(value)),
            (Form::Typed, Payload::Dynamic(value)) => match plan.codec {
                Some(codec) => (codec.decode)(&value.attributes)
                    .map_err(|error| format!("event {:?} is not of its declared type: {error}", plan.name)),
                None => Err(format!("event {:?} has no type", plan.name)),
            },
            (Form::Dynamic, Payload::Dynamic(value)) => {
                let value: Rc<DynamicEvent> = Rc::clone(value);
                Ok(value)
            }
            (Form::Dynamic, Payload::Typed(value)) => match plan.codec {
                Some(codec) => (codec.encode)(&**value)
                    .map(|attributes| Rc::new(DynamicEvent::new(plan.name.clone(), attributes)) as Rc<dyn Any>)
                    .map_err(|error| format!("event {:?} has no JSON form: {error}", plan.name)),
                None => Err(format!("event {:?} has no type", plan.name)),
            },
            (Form::Any, payload) => {
                Ok(Rc::new(AnyEvent { name: plan.name.as_str().into(), payload: payload.clone(), codec: plan.codec }))
            }
        }
    }
}

impl<O> Core<O> {
    /// The front event's next action starts; the event leaves with its last of `triggers`.
    pub(crate) fn advance_queue(&self, triggers: usize) {
        let mut staged = self.staged.borrow_mut();
        if let Some(queued) = staged.queue.front_mut() {
            queued.next += 1;
            if queued.next as usize == triggers {
                staged.queue.pop_front();
            }
        }
    }

    /// Takes all of the active step out of sight.
    fn save_step(&self) -> Option<Box<Saved<O>>> {
        let marks = self.marks.get();
        let log = self.memory.borrow_mut().swap_out(self.key());
        let mut staged = self.staged.borrow_mut();
        let staged = &mut *staged;
        let effects = &mut staged.effects;
        if log.is_empty()
            && staged.queue.len() == marks.queued
            && effects.outputs.len() == marks.outputs
            && effects.tagged.len() == marks.tagged
            && effects.notifications.len() == marks.notifications
        {
            return None;
        }
        Some(Box::new(Saved {
            log,
            outputs: effects.outputs.split_off(marks.outputs),
            tagged: effects.tagged.split_off(marks.tagged),
            sent: staged.queue.drain(marks.queued..).collect(),
            notifications: effects.notifications.split_off(marks.notifications),
        }))
    }

    /// Puts back what [`Core::save_step`] took.
    fn restore_step(&self, saved: Option<Box<Saved<O>>>) {
        let Some(saved) = saved else { return };
        let Saved { log, outputs, tagged, sent, notifications } = *saved;
        self.memory.borrow_mut().swap_in(log, self.key());
        if !notifications.is_empty() {
            // The flag was taken when the task suspended; without it nobody would see them.
            self.common.control.set(true);
        }
        let mut staged = self.staged.borrow_mut();
        staged.queue.extend(sent);
        staged.effects.outputs.extend(outputs);
        staged.effects.tagged.extend(tagged);
        if !notifications.is_empty() {
            staged.effects.notifications.extend(notifications);
            self.common.control.set(true);
        }
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
        let task = TaskCell::new(0, 0, ROOT, 1, 0);
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
    ) -> (u64, Option<Progress<Box<Run<O>>>>) {
        let mut ended = 0;
        // Handles of their own, so that a run that is not simple can be handed on without leaving the loop.
        let plan = Arc::clone(&self.plan);
        let open = self.opened().1;
        let core = Rc::clone(&open.core);
        let ctx = Ctx { core: Rc::clone(&core), task: Rc::clone(&open.ctx.task) };
        let Some(actions) = plan.direct.as_deref().filter(|_| plan.identity.is_none() && !core.observed.get()) else {
            let Some((key, sequence, input)) = inputs.next() else { return (0, None) };
            (head.key, head.sequence) = (key, sequence);
            return (0, Some(self.start(head, Work::Input(input), fuel)));
        };
        core.common.head.set(head);
        while *fuel > 0 {
            let Some((key, sequence, input)) = inputs.next() else { break };
            core.common.head.key.set(key);
            core.common.head.sequence.set(sequence);
            let stats = &mut self.opened().1.stats;
            let mut failed = None;
            for (i, (index, body)) in actions.iter().enumerate() {
                // A run is not cut short inside a batch: it may use a little more than there is.
                *fuel = fuel.saturating_sub(1);
                ctx.task.reuse(*index, mix(ROOT, u64::from(*index)), 1);
                core.begin_step();
                match take_step(&core, &ctx.task, || body(&input, &ctx)) {
                    Ok(()) => stats[*index as usize].finished += 1,
                    Err(message) => {
                        failed = Some((i, message));
                        break;
                    }
                }
            }
            if failed.is_none() && !core.common.attention.get() {
                core.memory.borrow_mut().end_inline_run(key);
                ended += 1;
                continue;
            }
            (head.key, head.sequence) = (key, sequence);
            let progress = match failed {
                Some((i, message)) => self.direct_failed(head, input, i, message, fuel),
                None => self.direct_over(&plan, &core, head, input, fuel),
            };
            if !matches!(progress, Progress::Done) || self.wants_control() {
                return (ended, Some(progress));
            }
            ended += 1;
        }
        (ended, None)
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
        // Who looked for outputs only has left the rest for another look.
        let left = !effects.calls.is_empty()
            || !effects.timers.is_empty()
            || !effects.cancelled.is_empty()
            || !effects.notifications.is_empty();
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
        self.opened().1.core.memory.borrow_mut().facts(key, undo, facts);
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
        }
    }

    fn restore_run(&mut self, _: &RunHead, beginning: &[u8], journal: Vec<Vec<u8>>) -> Result<Box<Run<O>>, String> {
        Self::begin_replay(beginning, &journal)
    }

    fn encode_input(input: &I) -> Result<Vec<u8>, String> {
        postcard::to_allocvec(input).map_err(|error| error.to_string())
    }

    fn decode_input(bytes: &[u8]) -> Result<I, String> {
        postcard::from_bytes(bytes).map_err(|error| format!("an input of another type: {error}"))
    }

    fn restore(&mut self, key: KeyId, what: &What, value: Option<&[u8]>) -> Result<(), String> {
        self.opened().1.core.memory.borrow_mut().load(key, what, value)
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
}
