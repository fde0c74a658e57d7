//! Replay: a run of a checkpoint becomes the run that it was.
//!
//! The journal says who took which turn. A task that is over by the journal's account is not run: where its steps stand,
//! what they wrote and sent is taken from there. Any other task is run up to its last turn, given at each turn what it
//! was given then, and left waiting as it was; a wait whose end is not in the journal begins anew.
//!
//! # Invariants
//! - No output of a step that was finished before is put out again, and no wait whose end is known is begun.
//! - A program that does not go the way of the journal is found out, and the job told.

use std::any::Any;
use std::collections::btree_map::Entry::Vacant;
use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;
use std::task::Waker;

use timely_agents_operators::behavior::{Progress, RunHead, TimerStart};
use timely_agents_operators::hash::mix;
use timely_agents_operators::keys::Key;

use crate::agent::Input;
use crate::behavior::AgentBehavior;
use crate::call::Memo;
use crate::core::{Core, Marks, TaskCell, next};
use crate::ends::Ends;
use crate::event::Payload;
use crate::journal::{self, Asked, Beginning, End, Entry, Name, Recorded};
use crate::notes::Noting;
use crate::policy::{Divergence, Policy};
use crate::run::{Run, Task, TaskStart};

/// Where a run has left its journal: at which entry, if not before the first.
struct Left {
    at: Option<usize>,
    message: String,
}

/// What is known of a journal, and of the run on its way through it.
struct Way {
    over: BTreeSet<Name>,
    /// The waits whose ends are in the journal.
    ends: BTreeMap<Name, Vec<u64>>,
    tasks: BTreeMap<u64, Known>,
    /// What calls gave in attempts that are over.
    memos: BTreeMap<u64, Memo>,
}

/// A task of the journal: its action and its event, in the form that the action takes.
struct Known {
    action: u32,
    event: Rc<dyn Any>,
    /// Its place in the run, while it is there.
    index: Option<u32>,
}

impl<K: Key, I: Input, O: 'static> AgentBehavior<K, I, O> {
    /// A run as it began, which has to go through `entries` first.
    pub(crate) fn begin_replay(beginning: &[u8], entries: &[Vec<u8>]) -> Result<Box<Run<O>>, String> {
        let wrong = |error: postcard::Error| format!("the journal of a run: {error}");
        let begun: Beginning = postcard::from_bytes(beginning).map_err(wrong)?;
        let input = begun.input.as_deref().map(postcard::from_bytes::<I>).transpose();
        let input = input.map_err(|error| format!("the input of a run: {error}"))?;
        let input = input.map(|input| Rc::new(input) as Rc<dyn Any>);
        let mut run = Run::new(input, begun.identity, begun.notifying);
        let entries: Vec<Entry> =
            entries.iter().map(|entry| postcard::from_bytes(entry)).collect::<Result<_, _>>().map_err(wrong)?;
        let replay = journal::holding(entries.into_iter());
        let beginning = beginning.to_vec();
        run.noting = begun.journal.map(|journal| Box::new(Noting::new(journal, 0)));
        run.recorded = Some(Box::new(Recorded { beginning, replay, ..Recorded::default() }));
        run.replays = true;
        Ok(run)
    }

    /// Brings the active run to where its journal ends; what it has come to if that ends the call.
    pub(crate) fn replay(&mut self, head: &RunHead, run: &mut Run<O>) -> Option<Progress<()>> {
        run.replays = false;
        let core = Rc::clone(&self.opened().1.core);
        let entries = core.recorded.borrow_mut().as_mut().map(|recorded| std::mem::take(&mut recorded.replay));
        core.replaying.set(true);
        core.common.retraces.set(true);
        let now = core.common.head.now.get();
        let replayed = self.replay_or_leave(head, run, entries.unwrap_or_default());
        core.common.head.now.set(now);
        core.replaying.set(false);
        core.common.retraces.set(false);
        if run.noting.as_ref().is_none_or(|noting| !noting.has_past()) {
            run.forget_known();
        }
        match replayed {
            Ok(None) => None,
            Ok(Some(kept)) => {
                if let Some(recorded) = &mut *core.recorded.borrow_mut() {
                    recorded.push(&Entry::Dropped { kept: kept as u64 });
                }
                core.diverged.set(core.diverged.get() + 1);
                None
            }
            Err(message) => {
                let message = format!("run {} of the key does not go the way of its journal: {message}", head.sequence);
                Some(Progress::Failed(Box::new(core.failure("", message))))
            }
        }
    }

    /// Goes through `entries`; where that is allowed, only as far as the run goes that way. How many that are, if not all.
    fn replay_or_leave(
        &mut self,
        head: &RunHead,
        run: &mut Run<O>,
        mut entries: Vec<Entry>,
    ) -> Result<Option<usize>, String> {
        let core = Rc::clone(&self.opened().1.core);
        let lenient = core.program.divergence == Divergence::Lenient;
        core.begin_step();
        let begun = core.marks.get();
        let mut left = None;
        let mut last = None;
        loop {
            let copy = if lenient { entries.clone() } else { Vec::new() };
            let Err(Left { at, message }) = self.replay_entries(head, run, entries) else {
                if let Some(Entry::Turn { task, given, .. }) = last {
                    core.take_along(run, task, given);
                }
                return Ok(left);
            };
            let Some(at) = at.filter(|_| lenient) else { return Err(message) };
            let (key, sequence) = (core.keys.text(core.key()), head.sequence);
            tracing::warn!(agent = core.program.name, key, sequence, message, "a run leaves its journal");
            // What is over by the entries that are dropped has to be run: from the beginning again.
            core.rewind(run, begun);
            if let Some(noting) = &mut run.noting {
                noting.drop_past();
            }
            entries = copy;
            last = entries.drain(at..).next();
            left = Some(at);
            if let Some(keeping) = &mut *core.keeping.borrow_mut() {
                keeping.rewind(&entries);
            }
        }
    }

    fn replay_entries(&mut self, head: &RunHead, run: &mut Run<O>, entries: Vec<Entry>) -> Result<(), Left> {
        self.replay_beginning(run).map_err(|message| Left { at: None, message })?;
        let over: BTreeSet<Name> = entries.iter().filter_map(Entry::ended).collect();
        let mut turns = 0;
        let mut ends: BTreeMap<Name, Vec<u64>> = run.noting.as_ref().map(|noting| noting.known()).unwrap_or_default();
        // What is noted and was not given by the end of the journal.
        let mut noted = Ends::default();
        for entry in &entries {
            match entry {
                Entry::Turn { task, given, .. } => {
                    turns += 1;
                    ends.entry(*task).or_default().extend(given.iter().map(|end| end.ordinal));
                }
                Entry::Given { task, end, at } => {
                    ends.entry(*task).or_default().push(end.ordinal);
                    noted.push(*task, Rc::clone(end), *at);
                }
                Entry::Left { .. } | Entry::LeftFrom { .. } => {
                    if let (Some(noting), Some((task, call))) = (&mut run.noting, entry.left()) {
                        noting.has_left(task, call);
                    }
                }
                Entry::Step { .. }
                | Entry::Again { .. }
                | Entry::Afresh { .. }
                | Entry::Dropped { .. }
                | Entry::Action { .. }
                | Entry::Returned { .. }
                | Entry::Kept(_)
                | Entry::Put(_) => {}
            }
        }
        noted.sort();
        for entry in &entries {
            if let Entry::Turn { task, given, .. } = entry {
                for end in given {
                    noted.take(*task, end.ordinal);
                }
            }
        }
        let mut way = Way { over, ends, tasks: BTreeMap::new(), memos: BTreeMap::new() };
        for (at, entry) in entries.into_iter().enumerate() {
            self.replay_entry(head, run, &mut way, entry).map_err(|message| Left { at: Some(at), message })?;
        }
        if let Some(noting) = &mut run.noting {
            noting.follow_checkpoint(turns, noted).map_err(|message| Left { at: None, message })?;
        }
        Ok(())
    }

    fn replay_entry(&mut self, head: &RunHead, run: &mut Run<O>, way: &mut Way, entry: Entry) -> Result<(), String> {
        match entry {
            Entry::Turn { task, now, given } => {
                if let Vacant(place) = way.tasks.entry(task.path) {
                    let (action, event) = self.replay_start(task.path)?;
                    place.insert(Known { action, event, index: None });
                }
                if way.over.contains(&task) {
                    let memo = way.memos.entry(task.path).or_default();
                    memo.mark();
                    memo.take(&given);
                    return Ok(());
                }
                let known = way.tasks.get_mut(&task.path).ok_or("a task without a start")?;
                let index = match known.index {
                    Some(index) => index,
                    None => {
                        let event = Rc::clone(&known.event);
                        let start =
                            TaskStart { attempt: task.attempt, ..TaskStart::first(known.action, event, task.path) };
                        *known.index.insert(self.place_task(run, head, start))
                    }
                };
                let placed = run.tasks[index as usize].as_mut().ok_or("a task that is over takes a turn")?;
                placed.retry = None;
                *placed.cell.known.borrow_mut() = way.ends.get(&task).cloned().unwrap_or_default();
                *placed.cell.left.borrow_mut() =
                    run.noting.as_ref().map(|noting| noting.left(task)).unwrap_or_default();
                let action = &self.plan.program.action(known.action).name;
                for end in given {
                    let waker =
                        placed.cell.give(&end, false).map_err(|message| format!("action {action:?}, {message}"))?;
                    placed.wake_between(waker);
                }
                self.opened().1.core.common.head.now.set(now);
                match self.poll_task(head, run, index) {
                    None => {}
                    Some(Progress::Failed(failure)) => {
                        return Err(format!(
                            "action {:?} fails, and did not then: {}",
                            failure.action, failure.message
                        ));
                    }
                    Some(_) => return Err("the run ends, and did not then".into()),
                }
                if run.tasks.get(index as usize).is_none_or(Option::is_none) {
                    return Err("an action ends that did not".into());
                }
            }
            Entry::Step { task, writes, sent, over: ended } => {
                // What a task that goes on has flushed, it flushes again.
                if ended || way.over.contains(&task) {
                    self.replay_step(run, writes, sent)?;
                }
            }
            Entry::Again { task, flushed, deadline } => {
                let action = way.tasks.get(&task.path).map(|known| &self.plan.program.action(known.action).options);
                if !action.is_some_and(
                    |options| matches!(&options.policy, Policy::Retry(retry) if task.attempt < retry.attempts),
                ) && let Some(memo) = way.memos.get_mut(&task.path)
                {
                    // It had stopped the job, in an older version.
                    memo.forget_last_turn();
                }
                self.replay_again(head, run, way, task, (flushed, deadline))?;
            }
            Entry::Afresh { task, flushed, deadline, asks } => {
                way.memos.entry(task.path).or_default().forget(&asks);
                self.replay_again(head, run, way, task, (flushed, deadline))?;
            }
            Entry::Left { .. } => {
                // The entry is of the close of an epoch: its action may have given the call up before.
                if let Some((task, left)) = entry.left()
                    && let Some(cell) = run.cell_of(task)
                {
                    let same = cell.asks_for_left(&left).unwrap_or(Ok(()));
                    let action = &self.plan.program.action(cell.action.get()).name;
                    same.map_err(|message| format!("action {action:?}, {message}"))?;
                }
            }
            // What was dropped is not among the entries that hold; what is noted comes behind them.
            Entry::Dropped { .. }
            | Entry::Given { .. }
            | Entry::Action { .. }
            | Entry::LeftFrom { .. }
            | Entry::Returned { .. }
            | Entry::Kept(_)
            | Entry::Put(_) => {}
        }
        Ok(())
    }

    /// A task has failed, and starts again then.
    fn replay_again(
        &mut self,
        head: &RunHead,
        run: &mut Run<O>,
        way: &mut Way,
        task: Name,
        (flushed, deadline): (u32, u64),
    ) -> Result<(), String> {
        let known = way.tasks.get_mut(&task.path).ok_or("a task starts again that did not start")?;
        if way.over.contains(&Name { attempt: task.attempt + 1, ..task }) {
            // The next attempt is over as well: its steps stand in the journal.
            return Ok(());
        }
        let event = Rc::clone(&known.event);
        let memo = way.memos.remove(&task.path).unwrap_or_default();
        let start = TaskStart { action: known.action, event, path: task.path, attempt: task.attempt, flushed, memo };
        let index = self.place_task(run, head, start.again());
        known.index = Some(index);
        self.pause_until(run, index, deadline);
        Ok(())
    }

    /// Puts the run's first events and writes in their places.
    fn replay_beginning(&mut self, run: &mut Run<O>) -> Result<(), String> {
        let core = Rc::clone(&self.opened().1.core);
        let begun = core.recorded.borrow().as_ref().map(|recorded| postcard::from_bytes(&recorded.beginning));
        let begun: Beginning = begun.ok_or("it has none")?.map_err(|error| error.to_string())?;
        let queue = begun.queue;
        self.replay_step(run, begun.writes, queue)
    }

    /// A finished step: its writes and events.
    fn replay_step(
        &mut self,
        run: &Run<O>,
        writes: Vec<crate::memory::Write>,
        sent: Vec<journal::Sent>,
    ) -> Result<(), String> {
        let (plan, open) = self.opened();
        let core = &*open.core;
        core.begin_step();
        let mut memory = core.memory.borrow_mut();
        memory.rewrite(writes, core.key())?;
        memory.take_log(&mut core.undo.borrow_mut());
        let input = run.input.clone().map(Payload::Typed);
        for sent in sent {
            let queued = core.unpack(sent, input.as_ref())?;
            if plan.keeps_sent && queued.event != crate::plan::INPUT {
                core.history.borrow_mut().push((queued.event, queued.payload.clone()));
            }
            if (queued.next as usize) < plan.program.triggers(queued.event).len() {
                core.staged.borrow_mut().queue.push_back(queued);
            }
        }
        Ok(())
    }

    /// The next task of the queue starts, which is to be that of `path`: its action and its event.
    pub(crate) fn replay_start(&mut self, path: u64) -> Result<(u32, Rc<dyn Any>), String> {
        let (plan, open) = self.opened();
        let core = &*open.core;
        loop {
            let (event, payload, next, from) = {
                let staged = core.staged.borrow();
                let queued = staged.queue.front().ok_or("a task starts for which there is no event")?;
                (queued.event, queued.payload.clone(), queued.next, queued.path)
            };
            let triggers = plan.program.triggers(event);
            let index = triggers[next as usize];
            core.advance_queue(triggers.len());
            let action = plan.program.action(index);
            match plan.program.in_form(event, &payload, action.form) {
                Ok(value) if mix(from, u64::from(index)) == path => return Ok((index, value)),
                Ok(_) => return Err(format!("action {:?} starts, and did not then", action.name)),
                // It was told and left then, too.
                Err(_) => {}
            }
        }
    }

    /// A task starts again at `deadline`.
    pub(crate) fn pause_until(&mut self, run: &mut Run<O>, index: u32, deadline: u64) {
        let common = &self.opened().1.core.common;
        let call = next(&common.next_call);
        common.timers.borrow_mut().push(TimerStart { task: index, call, deadline });
        common.control.set(true);
        run.tasks[index as usize].as_mut().expect("just placed").retry = Some(call);
    }
}

impl TaskCell {
    /// Gives the task the end of a wait, which it has to be asking for; who is to be woken.
    pub(crate) fn give(&self, end: &End, noted: bool) -> Result<Option<Waker>, String> {
        let End { ordinal, asked, given, .. } = end;
        let mut calls = self.calls.borrow_mut();
        let Some(wait) = calls.iter_mut().find(|call| call.ordinal == *ordinal) else {
            return Err(asked.differs(*ordinal, None));
        };
        let now = wait.asked.clone().unwrap_or_default();
        if !now.is_same(asked) {
            return Err(asked.differs(*ordinal, Some(&now)));
        }
        wait.noted = noted;
        wait.result = Some(journal::result(given.clone()));
        Ok(wait.waker.take())
    }
}

impl<O> Run<O> {
    /// Of no wait the end is known any more.
    pub(crate) fn forget_known(&self) {
        for task in self.tasks.iter().flatten() {
            task.cell.known.borrow_mut().clear();
            task.cell.left.borrow_mut().clear();
        }
    }
}

impl<O> Task<O> {
    /// What stands between a wait and its task, as a `select`, looks only at what has woken it.
    pub(crate) fn wake_between(&self, waker: Option<Waker>) {
        if let Some(waker) = waker.filter(|waker| !waker.will_wake(&self.waker)) {
            waker.wake();
        }
    }
}

impl<O> Core<O> {
    /// Gives a task the ends that led away from the journal, as far as it waits for them.
    fn take_along(&self, run: &mut Run<O>, name: Name, given: Vec<Rc<End>>) {
        let waits = |task: &&Task<O>| Name::of(&task.cell) == name;
        let Some(cell) = run.tasks.iter().flatten().find(waits).map(|task| Rc::clone(&task.cell)) else { return };
        let index = cell.index.get();
        for end in given {
            let mut calls = cell.calls.borrow_mut();
            let asked = |asked: &Option<Rc<Asked>>| asked.clone().unwrap_or_default().is_same(&end.asked);
            let wait = calls.iter_mut().find(|wait| wait.ordinal == end.ordinal && asked(&wait.asked));
            let Some(wait) = wait else { continue };
            self.common.calls.borrow_mut().retain(|start| (start.task, start.call) != (index, wait.call));
            self.common.timers.borrow_mut().retain(|start| (start.task, start.call) != (index, wait.call));
            wait.result = Some(journal::result(end.given.clone()));
            if let Some(noting) = &mut run.noting {
                noting.arrives(index, end.ordinal, Some(Rc::clone(&end)));
            }
            if let Some(recorded) = &mut *self.recorded.borrow_mut() {
                recorded.arrived.push((index, end));
            }
            run.make_ready(index);
        }
    }

    /// Takes back all that the active run has done in a replay.
    fn rewind(&self, run: &mut Run<O>, begun: Marks) {
        self.drop_tasks(&mut run.tasks);
        run.free.clear();
        run.next_ready = None;
        run.ready.clear();
        let mut staged = self.staged.borrow_mut();
        staged.effects.outputs.truncate(begun.outputs);
        staged.effects.tagged.truncate(begun.tagged);
        staged.effects.notifications.truncate(begun.notifications);
        let mut memory = self.memory.borrow_mut();
        memory.undo_to(0, self.key());
        memory.rewind(&mut self.undo.borrow_mut(), self.key());
        self.history.borrow_mut().clear();
        self.common.calls.borrow_mut().clear();
        self.common.timers.borrow_mut().clear();
        self.common.cancelled.borrow_mut().clear();
        if let Some(recorded) = &mut *self.recorded.borrow_mut() {
            recorded.entries.clear();
            recorded.arrived.clear();
        }
    }
}

impl Entry {
    /// The attempt of a task that is over with this entry.
    fn ended(&self) -> Option<Name> {
        match self {
            Entry::Step { task, over: true, .. } | Entry::Again { task, .. } | Entry::Afresh { task, .. } => {
                Some(*task)
            }
            _ => None,
        }
    }
}
