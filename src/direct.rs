//! Runs that never wait: driven on the stack, without allocation.
//!
//! Where all actions of an input are sync, its run is: the actions one after the other, then those of the events that
//! they sent. Once a run has to wait, to yield or to try again, it is promoted to one that can be kept (`kept`).
//!
//! # Invariants
//! - The input stays on the stack until the run is promoted.
//! - A run that has done no more than write memory and output ends without a look at anything else.

use std::any::Any;
use std::rc::Rc;
use std::sync::Arc;

use smallvec::SmallVec;
use timely_agents_operators::behavior::{Begins, Behavior, Progress, RunHead, Work};
use timely_agents_operators::hash::mix;
use timely_agents_operators::keys::{Key, KeyId};
use timely_agents_operators::quiet::{self, Panic};

use crate::action::{Body, Form};
use crate::afresh::Again;
use crate::agent::Input;
use crate::behavior::{AgentBehavior, ROOT};
use crate::core::{Core, Queued, TaskCell};
use crate::ctx::Ctx;
use crate::error::Error;
use crate::event::Payload;
use crate::kept::{Verdict, judge};
use crate::plan::{DirectBody, DirectFn, INPUT, Inner};
use crate::run::{Run, TaskStart, Tasks};

impl<K: Key, I: Input, O: 'static> AgentBehavior<K, I, O> {
    /// Drives a run that has not waited yet, from its action number `from` on. `input` is boxed only when the run
    /// must be kept.
    pub(crate) fn start_direct(
        &mut self,
        head: &RunHead,
        input: I,
        from: usize,
        fuel: &mut u32,
    ) -> Progress<Box<Run<O>>> {
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
    pub(crate) fn direct_over(
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
    pub(crate) fn keep_direct(&mut self, input: I, next: usize) -> Box<Run<O>> {
        let input: Rc<dyn Any> = Rc::new(input);
        if next < self.plan.program.triggers(INPUT).len() {
            let payload = Payload::Typed(Rc::clone(&input));
            let first = Queued { event: INPUT, payload, next: next as u32, path: ROOT };
            self.opened().1.core.staged.borrow_mut().queue.push_front(first);
        }
        self.promote(Some(input))
    }

    /// A task that has failed on the stack was the next of a run that has become one that can be kept: it has had its turn,
    /// also by the journal's account.
    fn took_turn(&mut self, triggers: usize) {
        let open = self.opened().1;
        open.core.advance_queue(triggers);
        if let Some(recorded) = &mut *open.core.recorded.borrow_mut() {
            recorded.turn(&open.ctx.task, open.core.common.head.now.get());
        }
    }

    /// Action number `i` of an input has failed and its step is undone.
    #[cold]
    pub(crate) fn direct_failed(
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
                let triggers = plan.program.triggers(INPUT).len();
                let mut run = self.keep_direct(input, i);
                self.took_turn(triggers);
                let event = Rc::clone(run.input.as_ref().expect("just put"));
                let start = TaskStart::first(index, event, mix(ROOT, u64::from(index)));
                self.retry_later(&mut run, head, start, pause, Again::Plain);
                self.drive(head, run, fuel)
            }
        }
    }

    /// Goes on with the events that the input's actions have sent.
    pub(crate) fn chain_direct(
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
                        queued.next -= 1;
                        core.staged.borrow_mut().queue.push_front(queued);
                        let mut run = self.promote(Some(Rc::new(input)));
                        self.took_turn(triggers.len());
                        self.retry_later(&mut run, head, TaskStart::first(index, event, path), pause, Again::Plain);
                        return self.drive(head, run, fuel);
                    }
                }
            }
        }
        self.end(head.key);
        Progress::Done
    }

    /// Starts direct runs until one has not simply ended, or there is nothing more to start.
    #[inline]
    pub(crate) fn start_direct_batch(
        &mut self,
        head: &mut RunHead,
        inputs: &mut impl Iterator<Item = (KeyId, u64, I)>,
        fuel: &mut u32,
        begun: &mut impl Begins<I>,
    ) -> (u64, Option<Progress<Box<Run<O>>>>) {
        // Handles of their own, so that a run that is not simple can be handed on without leaving the loop.
        let plan = Arc::clone(&self.plan);
        let open = self.opened().1;
        let core = Rc::clone(&open.core);
        let ctx = Ctx { core: Rc::clone(&core), task: Rc::clone(&open.ctx.task) };
        let Some(actions) = plan.direct.as_deref().filter(|_| plan.identity.is_none() && !core.observed.get()) else {
            let Some((key, sequence, input)) = inputs.next() else { return (0, None) };
            (head.key, head.sequence) = (key, sequence);
            begun.begins(key, sequence, || self.digest(&input));
            return (0, Some(self.start(head, Work::Input(input), fuel)));
        };
        core.common.head.set(head);
        let steps: SmallVec<[Step<'_, I, O>; 2]> = actions.iter().map(Step::of).collect();
        let (mut simple, mut ended, mut last) = (0, 0, None);
        let mut after_simple = false;
        while *fuel > 0 {
            let Some((key, sequence, input)) = inputs.next() else { break };
            core.common.head.key.set(key);
            core.common.head.sequence.set(sequence);
            // A run is not cut short inside a batch: it may use a little more than there is.
            *fuel = fuel.saturating_sub(steps.len() as u32);
            let left = 'run: {
                for (i, Step { action, path, body }) in steps.iter().enumerate() {
                    ctx.task.reuse(*action, *path, 1);
                    if after_simple {
                        core.begin_simple_step();
                    } else {
                        core.begin_step();
                    }
                    match quiet::catch(|| body(&input, &ctx)) {
                        Ok(Ok(())) if !core.common.attention.get() => {}
                        Ok(Ok(())) => break 'run Some((i, publish(&core, &ctx.task).err())),
                        failed => break 'run Some((i, Some(undo_failed(&core, failed)))),
                    }
                }
                None
            };
            let Some((i, failed)) = left else {
                core.memory.borrow_mut().end_inline_run(key);
                begun.is_over(key, sequence, input, |input| self.digest(input));
                simple += 1;
                after_simple = true;
                continue;
            };
            after_simple = false;
            begun.begins(key, sequence, || self.digest(&input));
            (head.key, head.sequence) = (key, sequence);
            let stats = &mut self.opened().1.stats;
            for step in &steps[..i + usize::from(failed.is_none())] {
                stats[step.action as usize].finished += 1;
            }
            let progress = match failed {
                Some(message) => self.direct_failed(head, input, i, message, fuel),
                None if i + 1 < steps.len() => self.start_direct(head, input, i + 1, fuel),
                None => self.direct_over(&plan, &core, head, input, fuel),
            };
            if !matches!(progress, Progress::Done) || self.wants_control() {
                last = Some(progress);
                break;
            }
            ended += 1;
        }
        let stats = &mut self.opened().1.stats;
        for step in &steps {
            stats[step.action as usize].finished += simple;
        }
        (simple + ended, last)
    }
}

/// What a step's body has come to.
type StepResult = Result<Result<(), Error>, Panic>;

/// An action as a batch needs it.
struct Step<'a, I, O: 'static> {
    action: u32,
    path: u64,
    body: &'a DirectFn<I, O>,
}

impl<'a, I, O> Step<'a, I, O> {
    fn of((action, body): &'a (u32, DirectBody<I, O>)) -> Self {
        Step { action: *action, path: mix(ROOT, u64::from(*action)), body: &**body }
    }
}

/// Runs the body of a task that does not wait, and commits or undoes its step; what went wrong, as text.
#[inline]
fn take_step<O>(core: &Core<O>, task: &TaskCell, body: impl FnOnce() -> Result<(), Error>) -> Result<(), String> {
    match quiet::catch(body) {
        Ok(Ok(())) => {}
        failed => return Err(undo_failed(core, failed)),
    }
    if core.common.attention.get() { publish(core, task) } else { Ok(()) }
}

/// Commits a step that has done more than write memory and output, or undoes it; what went wrong, as text.
#[inline]
fn publish<O>(core: &Core<O>, task: &TaskCell) -> Result<(), String> {
    if core.has_fault() {
        return Err(undo_failed(core, Ok(Ok(()))));
    }
    core.publish_step(task);
    Ok(())
}

#[cold]
fn undo_failed<O>(core: &Core<O>, result: StepResult) -> String {
    let fault = core.take_fault();
    core.undo_step();
    match result {
        Ok(Ok(())) => fault.unwrap_or_default(),
        Ok(Err(error)) => error.to_string(),
        Err(panic) => panic.to_string(),
    }
}

#[cfg(test)]
mod tests;
