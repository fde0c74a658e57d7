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

use timely_agents_operators::behavior::{Progress, RunHead, TimerStart};
use timely_agents_operators::hash::mix;
use timely_agents_operators::keys::Key;

use crate::agent::Input;
use crate::behavior::AgentBehavior;
use crate::core::next;
use crate::event::Payload;
use crate::journal::{self, Beginning, End, Entry, Name, Recorded};
use crate::run::{Run, TaskStart};

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
        let replay =
            entries.iter().map(|entry| postcard::from_bytes(entry)).collect::<Result<_, _>>().map_err(wrong)?;
        let beginning = beginning.to_vec();
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
        let now = core.common.head.now.get();
        let replayed = self.replay_entries(head, run, entries.unwrap_or_default());
        core.common.head.now.set(now);
        core.replaying.set(false);
        for task in run.tasks.iter().flatten() {
            task.cell.known.borrow_mut().clear();
        }
        match replayed {
            Ok(progress) => progress,
            Err(message) => {
                let message = format!("the run does not go the way of its journal: {message}");
                Some(Progress::Failed(Box::new(core.failure("", message))))
            }
        }
    }

    fn replay_entries(
        &mut self,
        head: &RunHead,
        run: &mut Run<O>,
        entries: Vec<Entry>,
    ) -> Result<Option<Progress<()>>, String> {
        self.replay_beginning(run)?;
        let over: BTreeSet<Name> = entries.iter().filter_map(Entry::ended).collect();
        let mut ends: BTreeMap<Name, Vec<u32>> = BTreeMap::new();
        for entry in &entries {
            if let Entry::Turn { task, given, .. } = entry {
                ends.entry(*task).or_default().extend(given.iter().map(|end| end.ordinal));
            }
        }
        let mut tasks: BTreeMap<u64, Known> = BTreeMap::new();
        for entry in entries {
            match entry {
                Entry::Turn { task, now, given } => {
                    if let Vacant(place) = tasks.entry(task.path) {
                        let (action, event) = self.replay_start(task.path)?;
                        place.insert(Known { action, event, index: None });
                    }
                    if over.contains(&task) {
                        continue;
                    }
                    let known = tasks.get_mut(&task.path).ok_or("a task without a start")?;
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
                    *placed.cell.known.borrow_mut() = ends.get(&task).cloned().unwrap_or_default();
                    for End { ordinal, asked, given } in given {
                        let mut calls = placed.cell.calls.borrow_mut();
                        let wait = calls.iter_mut().find(|call| call.ordinal == ordinal);
                        let place =
                            || format!("action {:?}, wait {ordinal}", self.plan.program.action(known.action).name);
                        let wait = wait.ok_or_else(|| format!("{}: it was {asked}, and is not made now", place()))?;
                        let now = wait.asked.as_deref().cloned().unwrap_or_default();
                        if now != asked {
                            return Err(format!("{}: it was {asked}, and is {now} now", place()));
                        }
                        wait.result = Some(journal::result(given));
                    }
                    self.opened().1.core.common.head.now.set(now);
                    if let Some(progress) = self.poll_task(head, run, index) {
                        return Ok(Some(progress));
                    }
                    if run.tasks.get(index as usize).is_none_or(Option::is_none) {
                        return Err("an action ends that did not".into());
                    }
                }
                Entry::Step { task, writes, sent, over: ended } => {
                    // What a task that goes on has flushed, it flushes again.
                    if ended || over.contains(&task) {
                        self.replay_step(run, writes, sent)?;
                    }
                }
                // The next attempt is over as well: its steps stand in the journal.
                Entry::Again { task, .. } if over.contains(&Name { attempt: task.attempt + 1, ..task }) => {}
                Entry::Action { .. } | Entry::Returned { .. } => {}
                Entry::Again { task, flushed, deadline } => {
                    let known = tasks.get_mut(&task.path).ok_or("a task starts again that did not start")?;
                    let event = Rc::clone(&known.event);
                    let start =
                        TaskStart { action: known.action, event, path: task.path, attempt: task.attempt, flushed };
                    let index = self.place_task(run, head, start.again());
                    known.index = Some(index);
                    self.pause_until(run, index, deadline);
                }
            }
        }
        Ok(None)
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
    fn replay_start(&mut self, path: u64) -> Result<(u32, Rc<dyn Any>), String> {
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

impl Entry {
    /// The attempt of a task that is over with this entry.
    fn ended(&self) -> Option<Name> {
        match self {
            Entry::Step { task, over: true, .. } | Entry::Again { task, .. } => Some(*task),
            _ => None,
        }
    }
}
