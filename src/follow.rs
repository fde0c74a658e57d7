//! Following notes: a run that had begun before a crash goes the way that it went then (rule D7).
//!
//! Unlike a replay of a checkpoint's journal (`replay`) nothing of this was committed: actions run, write and put out as
//! they do in any run. Only which task takes the next turn, what time it is, and how waits end, comes from the notes, as
//! far as they go; a wait whose end is in none begins anew.
//!
//! # Invariants
//! - No call is made whose end was noted.
//! - A program that does not go the way of the notes is found out, and the job told.

use std::collections::BTreeMap;
use std::rc::Rc;

use timely_agents_operators::behavior::{Behavior, CallStart, PastRun, Progress, RunHead, TimerStart, Work};
use timely_agents_operators::hash::mix;
use timely_agents_operators::keys::Key;

use crate::agent::Input;
use crate::behavior::AgentBehavior;
use crate::core::Core;
use crate::journal::{End, Name};
use crate::left::LeftCall;
use crate::notes::{Note, Noting};
use crate::policy::Divergence;
use crate::run::{Run, Task, TaskStart};
use crate::versions::VersionChange;
use crate::wait::Gave;

/// What a run that has waited says outside a job if it does so no more.
pub(crate) const WITHOUT_A_WAIT: &str = "it ends without a wait";

/// By task: the places of its waits whose ends are known.
type Known = BTreeMap<Name, Vec<u64>>;

impl<K: Key, I: Input, O: 'static> AgentBehavior<K, I, O> {
    /// Starts a run that has notes.
    pub(crate) fn start_noted(
        &mut self,
        head: &RunHead,
        work: Work<I>,
        past: &PastRun,
        fuel: &mut u32,
    ) -> Progress<Box<Run<O>>> {
        *fuel = fuel.saturating_sub(1);
        let core = Rc::clone(&self.opened().1.core);
        let mut noting = match Noting::of_past(past) {
            Ok(noting) => noting,
            Err(message) => {
                core.common.head.set(head);
                return Progress::Failed(Box::new(core.failure("", message)));
            }
        };
        match self.changed(noting.actions()) {
            Ok(_) => {}
            // What another version does is the question then.
            Err(_) if core.outside.get() => {}
            Err(message) => match self.version_changed(head, &message) {
                Err(message) => {
                    let core = &self.opened().1.core;
                    core.common.head.set(head);
                    return Progress::Failed(Box::new(core.failure("", message)));
                }
                Ok(VersionChange::DeadLetter) => noting.give_up(message),
                Ok(_) => return self.start(head, work, fuel),
            },
        }
        let then = RunHead { now: noting.began(), ..*head };
        noting.goes_on_at(head.now);
        *core.past.borrow_mut() = Some(noting);
        // What went before its first wait took no turns: it goes there in one go.
        let progress = self.start(&then, work, &mut u32::MAX.clone());
        if core.past.take().is_some() {
            core.common.head.set(head);
            let message = "the run does not go the way of its journal: it ends without the calls that it made then";
            if core.outside.get() {
                *core.left.borrow_mut() = Some(WITHOUT_A_WAIT.to_owned());
                return progress;
            }
            return Progress::Failed(Box::new(core.failure("", message)));
        }
        progress
    }

    /// Brings the active run to where its notes end; what it has come to if that ends the call.
    pub(crate) fn follow(&mut self, head: &RunHead, run: &mut Run<O>) -> Option<Progress<()>> {
        let now = run.noting.as_ref().and_then(|noting| noting.now()).unwrap_or(head.now);
        let known = run.noting.as_ref().map(|noting| noting.known()).unwrap_or_default();
        let core = Rc::clone(&self.opened().1.core);
        *core.common.held.borrow_mut() = Some(Held::default());
        core.common.retraces.set(true);
        let followed = match self.follow_notes(head, run, &known) {
            Ok(None) => self.follow_ends(head, run),
            other => other,
        };
        core.common.retraces.set(false);
        core.common.head.now.set(now);
        run.forget_known();
        let held = core.common.held.take().unwrap_or_default();
        match followed {
            Ok(progress) => progress,
            Err(message) => {
                let outside = core.outside.get();
                if outside {
                    core.left.borrow_mut().get_or_insert(message.clone());
                }
                let message = format!("run {} of the key does not go the way of its journal: {message}", head.sequence);
                if core.program.divergence == Divergence::Strict && !outside {
                    return Some(Progress::Failed(Box::new(core.failure("", message))));
                }
                let (key, agent) = (core.keys.text(core.key()), &core.program.name);
                tracing::warn!(agent, key, sequence = head.sequence, message, "a run leaves its journal");
                core.diverged.set(core.diverged.get() + 1);
                if let Some(noting) = &mut run.noting {
                    noting.drop_past();
                }
                run.begin_held(&core, held);
                None
            }
        }
    }

    fn follow_notes(
        &mut self,
        head: &RunHead,
        run: &mut Run<O>,
        known: &Known,
    ) -> Result<Option<Progress<()>>, String> {
        while let Some(noting) = run.noting.as_mut()
            && let Some(note) = noting.past().script.pop_front()
        {
            let Note::Turn { task, now, noted, given } = note else {
                // Actions are named again as they take their turns.
                match note.left() {
                    Some((task, left)) => self.follow_left(run, task, &left, note)?,
                    None if matches!(note, Note::Action { .. }) => {}
                    None => noting.again(note),
                }
                continue;
            };
            let head = RunHead { now, ..*head };
            let Some(index) = self.task_of(&head, run, task)? else {
                if noted.is_empty() && given.is_empty() {
                    // It took its turn before the run first waited, this time.
                    continue;
                }
                return Err(format!("a task goes on that is not there, of attempt {}", task.attempt));
            };
            let noting = run.noting.as_mut().ok_or("it has no notes")?;
            let mut ends: Vec<(Rc<End>, bool)> = given.into_iter().map(|end| (end, false)).collect();
            for ordinal in noted {
                let end = noting.past().given.take(task, ordinal);
                let (end, _) = end.ok_or_else(|| format!("wait {ordinal} ended, and its end is not noted"))?;
                ends.push((end, true));
            }
            let placed = run.tasks[index as usize].as_mut().ok_or("a task that is over takes a turn")?;
            placed.retry = None;
            *placed.cell.known.borrow_mut() = known.get(&task).cloned().unwrap_or_default();
            *placed.cell.left.borrow_mut() = noting.left(task);
            let core = Rc::clone(&self.opened().1.core);
            for (end, noted) in ends {
                run.give(&core, index, end, noted)?;
            }
            self.opened().1.core.common.head.now.set(now);
            if let Some(progress) = self.poll_task(&head, run, index) {
                return Ok(Some(progress));
            }
        }
        Ok(None)
    }

    /// A call had left: its task has to wait for the same now.
    fn follow_left(&mut self, run: &mut Run<O>, task: Name, left: &LeftCall, note: Note) -> Result<(), String> {
        if let (ordinal, Some(asked)) = left {
            let cell = run.cell_of(task);
            let same = cell.and_then(|cell| cell.asks_for_left(left));
            let action = cell.map(|cell| &self.plan.program.action(cell.action.get()).name);
            same.unwrap_or_else(|| Err(asked.differs(*ordinal, None))).map_err(|message| match action {
                Some(action) => format!("action {action:?}, {message}"),
                None => message,
            })?;
        }
        if let Some(noting) = &mut run.noting {
            noting.leaves_again(note);
        }
        Ok(())
    }

    /// Noted ends that no turn was given go to their tasks, each when it was noted: what follows from the clock, as a pause
    /// before another attempt, is as it was.
    fn follow_ends(&mut self, head: &RunHead, run: &mut Run<O>) -> Result<Option<Progress<()>>, String> {
        let core = Rc::clone(&self.opened().1.core);
        let given = run.noting.as_mut().map(|noting| std::mem::take(&mut noting.past().given)).unwrap_or_default();
        let mut ends: Vec<_> = given.iter().map(|(name, end, at)| (at, name, Rc::clone(end))).collect();
        ends.sort_by_key(|(at, name, _)| (*at, *name));
        for (at, name, end) in ends {
            let of_name = |task: &Task<O>| Name::of(&task.cell) == name;
            let index = run.tasks.iter().position(|task| task.as_ref().is_some_and(of_name));
            // Whose task is over, or who no longer waits, has been given up since.
            let Some(index) = index else { continue };
            let waits = |task: &Task<O>| {
                let calls = task.cell.calls.borrow();
                calls.iter().any(|wait| wait.ordinal == end.ordinal && wait.result.is_none())
            };
            if !run.tasks[index].as_ref().is_some_and(waits) {
                continue;
            }
            core.common.head.now.set(at);
            run.give(&core, index as u32, end, true)?;
            if let Some(progress) = self.poll_task(&RunHead { now: at, ..*head }, run, index as u32) {
                return Ok(Some(progress));
            }
        }
        Ok(None)
    }

    /// The task of that name; it starts now if it is the next of the queue.
    fn task_of(&mut self, head: &RunHead, run: &mut Run<O>, name: Name) -> Result<Option<u32>, String> {
        let there = run.tasks.iter().position(|task| task.as_ref().is_some_and(|task| Name::of(&task.cell) == name));
        if let Some(there) = there {
            return Ok(Some(there as u32));
        }
        let (plan, open) = self.opened();
        let next = {
            let staged = open.core.staged.borrow();
            let next = |queued: &crate::core::Queued| {
                let action = plan.program.triggers(queued.event).get(queued.next as usize)?;
                Some(mix(queued.path, u64::from(*action)))
            };
            staged.queue.front().and_then(next)
        };
        if next != Some(name.path) || name.attempt != 1 {
            return Ok(None);
        }
        let (action, event) = self.replay_start(name.path)?;
        Ok(Some(self.place_task(run, head, TaskStart::first(action, event, name.path))))
    }
}

/// What was asked for of waits whose ends are known: it is begun if they do not count after all.
#[derive(Default)]
pub(crate) struct Held {
    pub(crate) calls: Vec<CallStart>,
    pub(crate) timers: Vec<TimerStart>,
}

/// A run that has come to the end of its journal.
#[derive(Debug)]
pub(crate) struct Halted {
    /// How it began, encoded.
    pub(crate) beginning: Vec<u8>,
    /// Its journal, entry by entry.
    pub(crate) entries: Vec<Vec<u8>>,
}

impl<O> Core<O> {
    /// Whether the active run stops here, at the end of its journal: it does if that is asked for, and it is not over.
    pub(crate) fn halt(&self, run: &Run<O>) -> bool {
        let goes_on = run.has_tasks() || !self.staged.borrow().queue.is_empty();
        let halts = self.halts.get() && goes_on;
        if halts {
            let recorded = self.recorded.borrow();
            let recorded = recorded.as_ref().map(|recorded| (recorded.beginning.clone(), recorded.entries.clone()));
            let (beginning, entries) = recorded.unwrap_or_default();
            *self.halted.borrow_mut() = Some(Halted { beginning, entries });
        }
        halts
    }
}

impl<O> Run<O> {
    /// A wait of a task is over, as it was then.
    fn give(&mut self, core: &Core<O>, index: u32, end: Rc<End>, noted: bool) -> Result<(), String> {
        let task = self.tasks[index as usize].as_mut().ok_or("a task that is over hears of a call")?;
        let waker = task.cell.give(&end, noted).map_err(|message| {
            let action = &core.program.action(task.cell.action.get()).name;
            format!("action {action:?}, {message}")
        })?;
        task.wake_between(waker);
        let name_of_task = Name::of(&task.cell);
        if let Some(name) = end.asked.is_signal() {
            if let Some(payload) = Gave::signal(&end.given) {
                core.common.signals.borrow_mut().owe(core.key(), name, payload);
            }
        } else if !end.asked.name.is_empty() {
            core.replayed.set(core.replayed.get() + 1);
        }
        if let Some(recorded) = &mut *core.recorded.borrow_mut() {
            recorded.arrived.push((index, Rc::clone(&end)));
        }
        if let Some(noting) = &mut self.noting {
            noting.ends(name_of_task, end.ordinal);
            noting.arrives(index, end.ordinal, (!noted).then_some(end));
        }
        Ok(())
    }

    /// The ends that were known do not count: who still waits for one, waits for a new one.
    fn begin_held(&self, core: &Core<O>, held: Held) {
        let waits = |task: u32, call: u32| {
            let task = self.tasks.get(task as usize).and_then(Option::as_ref);
            task.is_some_and(|task| task.cell.calls.borrow().iter().any(|w| w.call == call && w.result.is_none()))
        };
        core.common.calls.borrow_mut().extend(held.calls.into_iter().filter(|start| waits(start.task, start.call)));
        core.common.timers.borrow_mut().extend(held.timers.into_iter().filter(|start| waits(start.task, start.call)));
        core.common.control.set(true);
    }
}
