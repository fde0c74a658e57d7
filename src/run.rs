//! Runs in flight: what a run keeps between the times that it is driven.

use std::any::Any;
use std::collections::VecDeque;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Wake, Waker};

use smallvec::SmallVec;
use timely_agents_operators::completion::{CallRef, CallResult, Completion, CompletionQueue};
use timely_agents_operators::slab::RunToken;

use crate::action::ActionFuture;
use crate::call::Memo;
use crate::core::{Queued, TaskCell};
use crate::event::Payload;
use crate::journal::{self, Name, Recorded};
use crate::memory::Entry;
use crate::notes::Noting;
use crate::record::Keeping;
use crate::tagged::Tagged;

/// A run that has waited or yielded.
pub(crate) struct Run<O> {
    /// The input; `None` for a notification's run.
    pub(crate) input: Option<Rc<dyn Any>>,
    pub(crate) identity: Option<u64>,
    pub(crate) notifying: Option<u64>,
    /// Events whose actions have not all started.
    pub(crate) queue: VecDeque<Queued>,
    /// Tasks that wait, each at its index for its life.
    pub(crate) tasks: Tasks<O>,
    /// Places without a task, but for the last ones, which are given up.
    pub(crate) free: Vec<u32>,
    /// The task that goes on next, and those after it.
    pub(crate) next_ready: Option<u32>,
    pub(crate) ready: VecDeque<u32>,
    /// Old values of finished steps.
    pub(crate) undo: Vec<Entry>,
    /// What finished steps have sent, for a dead letter.
    pub(crate) history: Vec<(u32, Payload)>,
    /// Whether the run has taken too long.
    pub(crate) expired: bool,
    /// Why it is to end, if it was cancelled.
    pub(crate) cancelled: Option<String>,
    /// Where what is unfinished outlives the process: how the run has gone so far.
    pub(crate) recorded: Option<Box<Recorded>>,
    /// Where ends of calls are noted: the notes of this run.
    pub(crate) noting: Option<Box<Noting>>,
    /// What is kept of it for when it is over.
    pub(crate) keeping: Option<Box<Keeping>>,
    /// Whether the run has to go through its journal first.
    pub(crate) replays: bool,
}

/// Mostly there is one.
pub(crate) type Tasks<O> = SmallVec<[Option<Task<O>>; 1]>;

impl<O> Run<O> {
    pub(crate) fn new(input: Option<Rc<dyn Any>>, identity: Option<u64>, notifying: Option<u64>) -> Box<Self> {
        Box::new(Run {
            input,
            identity,
            notifying,
            queue: VecDeque::new(),
            tasks: Tasks::new(),
            free: Vec::new(),
            next_ready: None,
            ready: VecDeque::new(),
            undo: Vec::new(),
            history: Vec::new(),
            expired: false,
            cancelled: None,
            recorded: None,
            noting: None,
            keeping: None,
            replays: false,
        })
    }

    /// Gives a task a place, which it keeps for its life.
    pub(crate) fn place(&mut self, make: impl FnOnce(u32) -> Task<O>) -> u32 {
        let index = self.free.pop().unwrap_or_else(|| {
            self.tasks.push(None);
            self.tasks.len() as u32 - 1
        });
        self.tasks[index as usize] = Some(make(index));
        index
    }

    /// The task of that name, while it is there.
    pub(crate) fn cell_of(&self, name: Name) -> Option<&Rc<TaskCell>> {
        self.tasks.iter().flatten().map(|task| &task.cell).find(|cell| Name::of(cell) == name)
    }

    /// The task at a place is over.
    pub(crate) fn vacate(&mut self, index: u32) {
        debug_assert!(self.tasks[index as usize].is_none(), "the task is taken out first");
        if index as usize + 1 == self.tasks.len() {
            self.tasks.pop();
        } else {
            self.free.push(index);
        }
    }

    pub(crate) fn has_tasks(&self) -> bool {
        self.tasks.len() > self.free.len()
    }

    pub(crate) fn make_ready(&mut self, index: u32) -> bool {
        if let Some(Some(task)) = self.tasks.get_mut(index as usize)
            && !std::mem::replace(&mut task.ready, true)
        {
            if self.next_ready.is_none() {
                self.next_ready = Some(index);
            } else {
                self.ready.push_back(index);
            }
        }
        true
    }

    /// The task that goes on next, which is then no longer among those that can.
    pub(crate) fn pop_ready(&mut self) -> Option<u32> {
        let next = self.next_ready.take();
        self.next_ready = self.ready.pop_front();
        next
    }

    /// A foreign waker has fired.
    pub(crate) fn wake(&mut self, task: u32) -> bool {
        match self.tasks.get(task as usize) {
            Some(Some(waiting)) if waiting.retry.is_none() => self.make_ready(task),
            _ => false,
        }
    }

    /// A call or pause is over; whether a task can go on because of it.
    pub(crate) fn complete(&mut self, call: CallRef, result: CallResult) -> bool {
        let Some(Some(task)) = self.tasks.get_mut(call.task as usize) else {
            return false;
        };
        if task.retry == Some(call.call) {
            task.retry = None;
            return self.make_ready(call.task);
        }
        let waker = {
            let mut calls = task.cell.calls.borrow_mut();
            let Some(waited_for) = calls.iter_mut().find(|c| c.call == call.call) else {
                return false;
            };
            if waited_for.result.is_some() {
                // A signal has come before its wait's timeout, and has not been looked at.
                return false;
            }
            let tells = self.recorded.is_some() || (self.noting.is_some() && !waited_for.noted);
            let end = tells.then(|| waited_for.end(journal::copy(&result)));
            if let (Some(recorded), Some(end)) = (&mut self.recorded, &end) {
                recorded.arrived.push((call.task, Rc::clone(end)));
            }
            if let Some(noting) = &mut self.noting {
                noting.arrives(call.task, waited_for.ordinal, end.filter(|_| !waited_for.noted));
            }
            waited_for.result = Some(result);
            waited_for.waker.take()
        };
        match waker {
            // The task itself waits for the call: no detour through the queue.
            Some(waker) if waker.will_wake(&task.waker) => self.make_ready(call.task),
            // Something between them does, as a `select`; it wakes the task if it cares.
            Some(waker) => {
                waker.wake();
                false
            }
            None => false,
        }
    }
}

/// What a task is, before it has a place in its run.
pub(crate) struct TaskStart {
    pub(crate) action: u32,
    /// The event, in the form that the action takes.
    pub(crate) event: Rc<dyn Any>,
    /// Where the event was sent, and to which action it goes.
    pub(crate) path: u64,
    pub(crate) attempt: u32,
    /// How many of its steps an earlier attempt has finished.
    pub(crate) flushed: u32,
    /// What its calls gave in earlier attempts.
    pub(crate) memo: Memo,
}

impl TaskStart {
    /// The first attempt of a task.
    pub(crate) fn first(action: u32, event: Rc<dyn Any>, path: u64) -> Self {
        TaskStart { action, event, path, attempt: 1, flushed: 0, memo: Memo::default() }
    }

    /// The next attempt.
    pub(crate) fn again(self) -> Self {
        let mut next = TaskStart { attempt: self.attempt + 1, ..self };
        next.memo.begin_attempt();
        next
    }
}

/// A task that waits: its future, and what its unfinished step has brought about.
pub(crate) struct Task<O> {
    pub(crate) cell: Rc<TaskCell>,
    /// The event, in the form that the action takes.
    pub(crate) event: Rc<dyn Any>,
    /// `None` when the task is to start, or to start again.
    pub(crate) future: Option<ActionFuture>,
    pub(crate) waker: Waker,
    pub(crate) fired: Arc<TaskWaker>,
    /// Whether the task is among those that can go on.
    pub(crate) ready: bool,
    /// The pause after which the task starts again.
    pub(crate) retry: Option<u32>,
    pub(crate) saved: Option<Box<Saved<O>>>,
}

/// What an unfinished step has brought about, out of sight while its task waits.
pub(crate) struct Saved<O> {
    pub(crate) log: Vec<Entry>,
    pub(crate) outputs: Vec<O>,
    pub(crate) tagged: Vec<Tagged>,
    pub(crate) sent: Vec<Queued>,
    pub(crate) notifications: Vec<u64>,
    pub(crate) scheduled: Vec<(u64, Vec<u8>)>,
}

/// Wakes a task from anywhere, once until it is polled.
pub(crate) struct TaskWaker {
    queue: CompletionQueue,
    run: RunToken,
    task: u32,
    woken: AtomicBool,
}

impl TaskWaker {
    pub(crate) fn new(queue: CompletionQueue, run: RunToken, task: u32) -> Arc<Self> {
        Arc::new(TaskWaker { queue, run, task, woken: AtomicBool::new(false) })
    }

    /// The task is about to be polled: from now on a wake-up counts again.
    pub(crate) fn rearm(&self) {
        self.woken.store(false, Ordering::SeqCst);
    }
}

impl Wake for TaskWaker {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        if !self.woken.swap(true, Ordering::SeqCst) {
            self.queue.push(Completion::Wake { run: self.run, task: self.task });
        }
    }
}
