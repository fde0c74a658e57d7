//! Runs that have waited, or yielded, or try again: driven from where they were put away.
//!
//! # Invariants
//! - One run is active at a time; between runs all lists of the core are empty.
//! - User code runs under `quiet::catch`: what it panics with is its action's failure (S8).
//! - A future that has panicked or finished is dropped, never polled again.
//! - [`AgentBehavior::end`] ends runs of every kind.

use std::any::Any;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use timely_agents_operators::behavior::{Failure, Progress, RunHead};
use timely_agents_operators::hash::mix;
use timely_agents_operators::keys::{Key, KeyId};
use timely_agents_operators::quiet::{self, Panic};

use crate::action::{Body, Form};
use crate::afresh::Again;
use crate::agent::Input;
use crate::behavior::AgentBehavior;
use crate::core::{Core, TaskCell};
use crate::ctx::Ctx;
use crate::event::{AnyEvent, DynamicEvent, Payload};
use crate::journal::{self, Beginning, Entry, Name, Recorded};
use crate::notes::Noting;
use crate::policy::{Exhausted, Policy};
use crate::record::RunEnd;
use crate::run::{Run, Saved, Task, TaskStart, TaskWaker, Tasks};
use crate::stats::ActionStats;
use crate::tagged::{DeadLetter, Tagged};

/// How many tasks a run may take that has just gone through its notes.
const AFTER_NOTES: u32 = 1_000;

/// What becomes of a run after a failure.
pub(crate) enum Verdict {
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
    /// Makes a run that was driven on the stack one that can be kept. It stays the active one.
    pub(crate) fn promote(&mut self, input: Option<Rc<dyn Any>>) -> Box<Run<O>> {
        let core = &*self.opened().1.core;
        core.common.attention.set(true);
        core.memory.borrow_mut().take_log(&mut core.undo.borrow_mut());
        let noting = core.generation.get().map(|generation| {
            let new = || Noting::new(core.journal_id(generation), core.common.head.now.get());
            Box::new(core.past.take().unwrap_or_else(new))
        });
        if core.records {
            let writes = core.memory.borrow().written(&core.undo.borrow(), core.key());
            let queue = core.pack(core.staged.borrow().queue.iter());
            let (identity, notifying) = (core.identity.get(), core.notifying.get());
            let bytes = input.as_ref().and_then(|input| input.downcast_ref::<I>()).map(journal::encode);
            let journal = noting.as_ref().map(|noting| noting.journal());
            let beginning = journal::encode(&Beginning { identity, notifying, input: bytes, writes, queue, journal });
            let mut recorded = Recorded { beginning, ..Recorded::default() };
            if let Some(keeping) = &*core.keeping.borrow() {
                recorded.push(&Entry::Kept(keeping.clone()));
            }
            *core.recorded.borrow_mut() = Some(Box::new(recorded));
        }
        let mut run = Run::new(input, core.identity.get(), core.notifying.get());
        run.noting = noting;
        if core.retains.get()
            && let Some(noting) = &mut run.noting
        {
            noting.keep();
            noting.begins_as(core.keep_beginning(noting.journal()));
        }
        run.cancelled = run.noting.as_mut().and_then(|noting| noting.given_up());
        run
    }

    /// Puts a promoted run away.
    pub(crate) fn put_away(&mut self, mut run: Box<Run<O>>) -> Box<Run<O>> {
        self.deactivate(&mut run);
        run
    }

    /// Drives a promoted run as far as fuel and waits allow.
    pub(crate) fn drive(&mut self, head: &RunHead, mut run: Box<Run<O>>, fuel: &mut u32) -> Progress<Box<Run<O>>> {
        match self.drive_active(head, &mut run, fuel) {
            Progress::Done => {
                self.opened().1.core.keep_notes(&mut run);
                Progress::Done
            }
            Progress::Suspended(()) => Progress::Suspended(self.put_away(run)),
            Progress::Yielded(()) => Progress::Yielded(self.put_away(run)),
            Progress::Failed(failure) => Progress::Failed(failure),
        }
    }

    /// Drives a run that was put away.
    pub(crate) fn drive_kept(&mut self, head: &RunHead, run: &mut Run<O>, fuel: &mut u32) -> Progress<()> {
        self.activate(run);
        let progress = self.drive_active(head, run, fuel);
        if matches!(progress, Progress::Done) {
            self.opened().1.core.keep_notes(run);
        } else {
            self.deactivate(run);
        }
        progress
    }

    /// Makes `run` the active one. Between runs all lists of the core are empty.
    pub(crate) fn activate(&mut self, run: &mut Run<O>) {
        let core = &*self.opened().1.core;
        core.common.attention.set(true);
        core.identity.set(run.identity);
        core.notifying.set(run.notifying);
        if core.retains.get() {
            core.mark_puts();
        }
        self.exchange(run);
    }

    pub(crate) fn deactivate(&mut self, run: &mut Run<O>) {
        if self.opened().1.core.retains.get() {
            self.opened().1.core.keep_puts();
        }
        self.exchange(run);
        self.opened().1.core.forget_run();
    }

    /// Exchanges the lists of the core and of a run. Where both are empty the core keeps its capacity.
    pub(crate) fn exchange(&mut self, run: &mut Run<O>) {
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
        std::mem::swap(&mut *core.keeping.borrow_mut(), &mut run.keeping);
    }

    pub(crate) fn drive_active(&mut self, head: &RunHead, run: &mut Run<O>, fuel: &mut u32) -> Progress<()> {
        if run.replays
            && let Some(progress) = self.replay(head, run)
        {
            return progress;
        }
        if run.noting.as_ref().is_some_and(|noting| noting.has_past()) {
            if let Some(progress) = self.follow(head, run) {
                return progress;
            }
            if self.opened().1.core.halt(run) {
                return Progress::Suspended(());
            }
            // From here on it is a run as any other, which makes way for others.
            *fuel = (*fuel).min(AFTER_NOTES);
            // One that is over by its notes is not cut short.
            if !run.has_tasks() && self.opened().1.core.staged.borrow().queue.is_empty() {
                (run.expired, run.cancelled) = (false, None);
            }
        }
        if run.expired {
            return self.expire_active(run);
        }
        if let Some(reason) = run.cancelled.take() {
            return self.cancel_active(run, reason);
        }
        loop {
            let (plan, open) = self.opened();
            let core = &*open.core;
            if !core.common.returned.borrow().is_empty() {
                core.tell_returned();
                run.wake_waits(None);
            }
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
                Ok(value) => self.place_task(run, head, TaskStart::first(index, value, path)),
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
    pub(crate) fn place_task(&mut self, run: &mut Run<O>, head: &RunHead, start: TaskStart) -> u32 {
        let core = &self.opened().1.core;
        let queue = core.queue.clone();
        let TaskStart { action, event, path, attempt, flushed, memo } = start;
        // What goes its former way may have failed then.
        let follows = core.common.retraces.get();
        // A later attempt keeps what earlier ones were given, whatever it is made for.
        let again = matches!(core.program.action(action).options.policy, Policy::Retry(_)) || follows || attempt > 1;
        run.place(|index| {
            let fired = TaskWaker::new(queue, head.token, index);
            Task {
                cell: TaskCell::new(index, action, path, attempt, flushed, again.then_some(memo)),
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

    /// Places the next attempt of a task, which starts after a pause.
    pub(crate) fn retry_later(
        &mut self,
        run: &mut Run<O>,
        head: &RunHead,
        failed: TaskStart,
        pause: Duration,
        again: Again,
    ) {
        let task = Name { path: failed.path, attempt: failed.attempt };
        let flushed = failed.flushed;
        let index = self.place_task(run, head, failed.again());
        let deadline = self.opened().1.core.common.head.now.get().saturating_add(pause.as_micros() as u64);
        if let Some(recorded) = &mut *self.opened().1.core.recorded.borrow_mut() {
            recorded.push(&match again {
                Again::Plain => Entry::Again { task, flushed, deadline },
                Again::Afresh(asks) => Entry::Afresh { task, flushed, deadline, asks },
            });
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
        core.journal.set(run.noting.as_ref().map(|noting| noting.journal()));
        if let Some(memo) = &mut *task.cell.memo.borrow_mut() {
            memo.mark();
        }
        task.fired.rearm();
        if task.cell.awaits.get() && !core.replaying.get() {
            core.give_signals(&task, run.noting.as_deref_mut());
        }
        if core.records
            && !core.replaying.get()
            && let Some(recorded) = &mut *core.recorded.borrow_mut()
        {
            recorded.names(task.cell.action.get(), &action.name, action.options.version);
            recorded.turn(&task.cell, core.common.head.now.get());
        }
        if !core.replaying.get()
            && let Some(noting) = &mut run.noting
        {
            noting.names(task.cell.action.get(), &action.name, action.options.version);
            noting.turn(&task.cell, core.common.head.now.get());
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
                core.common.signals.borrow_mut().failing = cell.taken.take();
                let failed = TaskStart {
                    action: cell.action.get(),
                    event: task.event,
                    path: cell.path.get(),
                    attempt: cell.attempt.get(),
                    flushed: cell.flushes.get().max(cell.flushed_before.get()),
                    memo: cell.memo.take().unwrap_or_default(),
                };
                self.fail_task(run, head, failed, message)
            }
        }
    }

    /// A task has failed and its step is undone.
    fn fail_task(
        &mut self,
        run: &mut Run<O>,
        head: &RunHead,
        mut failed: TaskStart,
        message: String,
    ) -> Option<Progress<()>> {
        let (index, attempt) = (failed.action, failed.attempt);
        let name = Name { path: failed.path, attempt };
        let open = self.opened().1;
        if open.core.replaying.get() {
            // It did not then.
            let name = &open.core.program.action(index).name;
            return Some(Progress::Failed(Box::new(open.core.failure(name, message))));
        }
        match judge(&open.core, &mut open.stats[index as usize], index, attempt, true, &message) {
            Verdict::GoOn => {
                if let Some(recorded) = &mut *open.core.recorded.borrow_mut() {
                    let task = Name { path: failed.path, attempt };
                    recorded.push(&Entry::Step { task, writes: Vec::new(), sent: Vec::new(), over: true });
                }
                None
            }
            Verdict::Stop(failure) => {
                if let Some(again) = open.core.tries_afresh(run, name, &mut failed.memo, &message) {
                    open.core.common.signals.borrow_mut().give_back_failing(head.key);
                    self.retry_later(run, head, failed, Duration::ZERO, again);
                    return None;
                }
                if let Some(noting) = &mut run.noting {
                    noting.fails(name);
                }
                Some(Progress::Failed(failure))
            }
            Verdict::Again { pause } => {
                open.core.common.signals.borrow_mut().give_back_failing(head.key);
                self.retry_later(run, head, failed, pause, Again::Plain);
                None
            }
            Verdict::Dead => {
                let input = run.input.take();
                Some(self.bury(&mut run.tasks, input, index, attempt, message))
            }
        }
    }

    /// The active run has taken too long.
    pub(crate) fn expire_active(&mut self, run: &mut Run<O>) -> Progress<()> {
        let (plan, open) = self.opened();
        let (limit, then) = plan.program.run_timeout.expect("only a plan with a limit expires");
        let message = format!("the run has not ended within {limit:?}");
        match then {
            Exhausted::Fail => Progress::Failed(Box::new(open.core.failure("", message))),
            Exhausted::DeadLetter | Exhausted::Ignore => {
                let input = run.input.take();
                self.end_early(&mut run.tasks);
                if then == Exhausted::DeadLetter {
                    self.dead_letter(input, String::new(), 1, message.clone());
                }
                self.opened().1.core.keep_end(RunEnd::Cut(message));
                let key = self.opened().1.core.key();
                self.end(key);
                Progress::Done
            }
        }
    }

    /// The active run was cancelled from outside.
    fn cancel_active(&mut self, run: &mut Run<O>, reason: String) -> Progress<()> {
        let input = run.input.take();
        self.end_early(&mut run.tasks);
        self.dead_letter(input, String::new(), 1, reason.clone());
        self.opened().1.core.keep_end(RunEnd::Cut(reason));
        let key = self.opened().1.core.key();
        self.end(key);
        Progress::Done
    }

    /// Ends the active run as a dead letter.
    pub(crate) fn bury<R>(
        &mut self,
        tasks: &mut Tasks<O>,
        input: Option<Rc<dyn Any>>,
        action: u32,
        attempts: u32,
        error: String,
    ) -> Progress<R> {
        self.end_early(tasks);
        let name = self.plan.program.action(action).name.clone();
        self.opened().1.core.keep_end(RunEnd::Dead(error.clone()));
        self.dead_letter(input, name, attempts, error);
        let key = self.opened().1.core.key();
        self.end(key);
        Progress::Done
    }

    /// Drops the active run's tasks, events and writes.
    pub(crate) fn end_early(&mut self, tasks: &mut Tasks<O>) {
        let core = Rc::clone(&self.opened().1.core);
        core.drop_tasks(tasks);
        let mut memory = core.memory.borrow_mut();
        memory.undo_to(0, core.key());
        memory.end_run_with(&mut core.undo.borrow_mut(), true, core.key());
    }

    pub(crate) fn dead_letter(&mut self, input: Option<Rc<dyn Any>>, action: String, attempts: u32, error: String) {
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
    pub(crate) fn end(&mut self, key: KeyId) {
        let core = &*self.opened().1.core;
        core.memory.borrow_mut().end_inline_run(key);
        if core.retains.get() {
            core.keep_run(key);
        }
        core.forget_run();
        debug_assert!(core.staged.borrow().queue.is_empty(), "steps end before their run");
    }
}

/// What becomes of the run of an action that has failed; `again` says whether another attempt could help.
#[cold]
pub(crate) fn judge<O>(
    core: &Core<O>,
    stats: &mut ActionStats,
    index: u32,
    attempt: u32,
    again: bool,
    message: &str,
) -> Verdict {
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

    /// Drops the active run's tasks and events.
    pub(crate) fn drop_tasks(&self, tasks: &mut Tasks<O>) {
        for mut task in tasks.drain(..).flatten() {
            // What a future does when it is dropped belongs to its own step, which is undone.
            self.begin_step();
            self.restore_step(task.saved.take());
            let _: Result<(), Panic> = quiet::catch(|| drop(task));
            self.take_fault();
            self.undo_step();
        }
        self.staged.borrow_mut().queue.clear();
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
            && effects.scheduled.len() == self.scheduled.get()
        {
            return None;
        }
        Some(Box::new(Saved {
            log,
            outputs: effects.outputs.split_off(marks.outputs),
            tagged: effects.tagged.split_off(marks.tagged),
            sent: staged.queue.drain(marks.queued..).collect(),
            notifications: effects.notifications.split_off(marks.notifications),
            scheduled: effects.scheduled.split_off(self.scheduled.get()),
        }))
    }

    /// Puts back what [`Core::save_step`] took.
    fn restore_step(&self, saved: Option<Box<Saved<O>>>) {
        let Some(saved) = saved else { return };
        let Saved { log, outputs, tagged, sent, notifications, scheduled } = *saved;
        self.memory.borrow_mut().swap_in(log, self.key());
        if !(notifications.is_empty() && scheduled.is_empty()) {
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
        staged.effects.scheduled.extend(scheduled);
    }
}
