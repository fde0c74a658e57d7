//! Waits for signals and for times of day, and events for later.

use std::any::TypeId;
use std::fmt::{self, Debug, Formatter};
use std::future::Future;
use std::marker::PhantomData;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use timely_agents_operators::completion::{CallResult, CallValue};

use crate::agent::{Agent, Input};
use crate::call::{Sleep, SleepEnd};
use crate::core::{Common, Core, TaskCell, next};
use crate::ctx::Ctx;
use crate::error::WaitError;
use crate::event::Event;
use crate::journal::{self, Asked, Entry, Given, Name, Packed};
use crate::notes::Noting;
use crate::run::{Run, Task};
use crate::signal;

impl<O> Ctx<O> {
    /// Waits for the signal called `name`: an event for this run's key on the agent's signal input. One that came before,
    /// and that no run has taken, is taken at once. The agent [declares](Agent::waits_for) its signals.
    ///
    /// A signal is taken once. A wait that is dropped before it has looked at its signal gives it back; so does an attempt
    /// that fails and is made again.
    ///
    /// # Errors
    /// [`WaitError::Ended`] when the signal input has ended and no such signal is kept; [`WaitError::Timeout`] after the
    /// wait's timeout, if it has one; the others are mistakes.
    pub fn wait_for<E: Event>(&self, name: &str) -> WaitFor<E> {
        let declared = self.core.program.signals.iter().find(|signal| signal.name == name);
        let declared = declared.filter(|signal| signal.type_id == TypeId::of::<E>());
        WaitFor {
            common: Rc::clone(&self.core.common),
            task: Rc::clone(&self.task),
            name: name.into(),
            ordinal: u64::from(next(&self.task.waits)),
            timeout: declared.and_then(|signal| signal.bound),
            state: if declared.is_some() { State::Declared } else { State::Undeclared },
            event: PhantomData,
        }
    }

    /// Waits until `at`, on the operator's clock; other tasks and keys go on. A time that has passed is over at once.
    pub fn sleep_until(&self, at: SystemTime) -> Sleep {
        Sleep::new(&self.core.common, &self.task, SleepEnd::At(micros(at)))
    }

    /// Sends an event to this run's key at `at`, once, on the operator's clock: it sets off a run of its own, behind what
    /// the key has to do by then. The agent [declares](Agent::schedules) the events that it schedules.
    ///
    /// Where there are checkpoints, what is scheduled is part of them; what is not due when the input has ended
    /// stays there, and where there are none it is waited for.
    pub fn schedule<E: Event>(&self, event: &E, at: SystemTime) {
        if !self.core.program.schedules.contains(&TypeId::of::<E>()) {
            return self.core.fault(format!("event {:?} is scheduled: declare that with `schedules`", E::NAME));
        }
        match postcard::to_allocvec(event) {
            Ok(bytes) => {
                let event = journal::encode(&Packed::Typed(E::NAME.to_owned(), bytes));
                self.core.staged.borrow_mut().effects.scheduled.push((micros(at), event));
                self.core.common.control.set(true);
                self.core.common.attention.set(true);
            }
            Err(error) => self.core.fault(format!("event {:?} cannot be encoded: {error}", E::NAME)),
        }
    }
}

impl<I: Input, O: 'static> Agent<I, O> {
    /// Declares an event that actions schedule, by `ctx.schedule`. It needs [`Agent::carry`]: an epoch that held itself open
    /// until then would close for nobody.
    pub fn schedules<E: Event>(&mut self) -> &mut Self {
        self.schedules.push(TypeId::of::<E>());
        self.event::<E>()
    }
}

fn micros(at: SystemTime) -> u64 {
    at.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_micros() as u64)
}

enum State {
    /// The agent has not declared it.
    Undeclared,
    Declared,
    Waiting {
        call: u32,
        timed: bool,
    },
    Over,
}

/// A wait for a signal, made by `Ctx::wait_for`. Dropping it gives it up.
#[must_use = "a wait begins when it is awaited"]
pub struct WaitFor<E> {
    common: Rc<Common>,
    task: Rc<TaskCell>,
    name: Rc<str>,
    ordinal: u64,
    timeout: Option<Duration>,
    state: State,
    event: PhantomData<fn() -> E>,
}

impl<E> WaitFor<E> {
    /// How long to wait. What the agent declares for the signal unless said here.
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = Some(timeout);
        self
    }

    fn begin(&mut self, cx: &Context<'_>) -> u32 {
        let deadline = self.timeout.map(|limit| self.common.head.now.get().saturating_add(limit.as_micros() as u64));
        let call = self.common.start_wait(&self.task, self.ordinal, &self.name, deadline);
        self.state = State::Waiting { call, timed: deadline.is_some() };
        let known = self.task.known.borrow().contains(&self.ordinal);
        if !known && self.common.signals.borrow().answers(self.common.head.key.get(), &self.name) {
            // It is given in a turn, as the journal has it: in the next one.
            cx.waker().wake_by_ref();
        }
        call
    }
}

impl<E: Event> Future for WaitFor<E> {
    type Output = Result<E, WaitError>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = &mut *self;
        let call = match this.state {
            State::Undeclared => {
                this.state = State::Over;
                return Poll::Ready(Err(WaitError::Undeclared { name: this.name.to_string(), event: E::NAME }));
            }
            State::Declared => this.begin(cx),
            State::Waiting { call, .. } => call,
            State::Over => panic!("a wait is not polled after its end"),
        };
        let (result, _) = ready!(this.task.poll_wait(call, cx));
        let timed = matches!(std::mem::replace(&mut this.state, State::Over), State::Waiting { timed: true, .. });
        Poll::Ready(match Gave::of(result) {
            Gave::Signal(payload) => {
                if timed {
                    this.common.cancelled.borrow_mut().push((this.task.index.get(), call));
                    this.common.control.set(true);
                }
                let event = signal::read(&payload);
                this.task.taken.borrow_mut().push((Rc::clone(&this.name), payload));
                event.map_err(|error| WaitError::Malformed { name: this.name.to_string(), error })
            }
            Gave::Ended => Err(WaitError::Ended { name: this.name.to_string() }),
            Gave::Timeout => {
                Err(WaitError::Timeout { name: this.name.to_string(), after: this.timeout.unwrap_or_default() })
            }
        })
    }
}

impl<E> Unpin for WaitFor<E> {}

impl<E> Drop for WaitFor<E> {
    fn drop(&mut self) {
        let State::Waiting { call, timed } = self.state else { return };
        let mut calls = self.task.calls.borrow_mut();
        let Some(at) = calls.iter().position(|cell| cell.call == call) else { return };
        let cell = calls.swap_remove(at);
        if timed {
            self.common.cancelled.borrow_mut().push((self.task.index.get(), call));
            self.common.control.set(true);
        }
        // In a replay it was given back then, and is a fact again.
        if !self.task.known.borrow().contains(&self.ordinal)
            && let Some(Gave::Signal(payload)) = cell.result.map(Gave::of)
        {
            let key = self.common.head.key.get();
            self.common.signals.borrow_mut().put_back(key, self.name.to_string(), payload);
            self.common.returned.borrow_mut().push((Name::of(&self.task), self.ordinal));
        }
    }
}

impl<E> Debug for WaitFor<E> {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        f.debug_struct("WaitFor").field("name", &self.name).field("timeout", &self.timeout).finish_non_exhaustive()
    }
}

/// What the end of a wait for a signal was.
pub(crate) enum Gave {
    /// A signal, which says this.
    Signal(Vec<u8>),
    /// No more signals come.
    Ended,
    /// None came in time.
    Timeout,
}

impl Gave {
    /// The signal that a wait was given, if one was.
    pub(crate) fn signal(given: &Given) -> Option<Vec<u8>> {
        match Gave::of(journal::result(given.clone())) {
            Gave::Signal(payload) => Some(payload),
            Gave::Ended | Gave::Timeout => None,
        }
    }

    pub(crate) fn of(result: CallResult) -> Self {
        match result {
            Ok(CallValue::Bytes(bytes)) => match postcard::from_bytes(&bytes) {
                Ok(Some(payload)) => Gave::Signal(payload),
                _ => Gave::Ended,
            },
            _ => Gave::Timeout,
        }
    }
}

impl Common {
    /// Begins a wait for a signal.
    fn start_wait(&self, task: &TaskCell, ordinal: u64, name: &Rc<str>, deadline: Option<u64>) -> u32 {
        let call = match deadline {
            Some(deadline) => self.start_timer(task, ordinal, deadline),
            None => self.enlist(task, ordinal, None, false),
        };
        if let Some(cell) = task.calls.borrow_mut().iter_mut().find(|cell| cell.call == call) {
            cell.asked = self.tells().then(|| Rc::new(Asked::signal(name)));
            cell.signal = Some(Rc::clone(name));
        }
        task.awaits.set(true);
        call
    }
}

impl<O> Core<O> {
    /// A task takes a turn: its waits get what is kept for them, or that no more comes.
    pub(crate) fn give_signals(&self, task: &Task<O>, mut noting: Option<&mut Noting>) {
        let (waker, task) = (&task.waker, &*task.cell);
        let key = self.key();
        let mut signals = self.common.signals.borrow_mut();
        let mut calls = task.calls.borrow_mut();
        calls.sort_unstable_by_key(|cell| cell.ordinal);
        for cell in calls.iter_mut().filter(|cell| cell.result.is_none()) {
            let Some(name) = &cell.signal else { continue };
            let payload = signals.take(key, name);
            if payload.is_none() && !signals.ended {
                continue;
            }
            let bytes = journal::encode(&payload);
            if self.common.tells() {
                let end = cell.end(Ok(Some(bytes.clone())));
                if let Some(noting) = noting.as_mut() {
                    noting.arrives(task.index.get(), cell.ordinal, Some(Rc::clone(&end)));
                }
                if let Some(recorded) = &mut *self.recorded.borrow_mut() {
                    recorded.arrived.push((task.index.get(), end));
                }
            }
            cell.result = Some(Ok(CallValue::Bytes(bytes)));
            if let Some(between) = cell.waker.take().filter(|between| !between.will_wake(waker)) {
                // Something between the wait and its task, as a `select`, which looks at what was woken only.
                between.wake();
            }
        }
    }
}

impl<O> Core<O> {
    /// Tells the journal of the active run which signals were given back.
    pub(crate) fn tell_returned(&self) {
        let returned = std::mem::take(&mut *self.common.returned.borrow_mut());
        if let Some(recorded) = &mut *self.recorded.borrow_mut() {
            for (task, ordinal) in returned {
                recorded.push(&Entry::Returned { task, ordinal });
            }
        }
    }
}

impl<O> Run<O> {
    /// Whether a task waits for a signal.
    pub(crate) fn awaits_signal(&self) -> bool {
        let waits = |cell: &TaskCell| cell.calls.borrow().iter().any(|c| c.signal.is_some() && c.result.is_none());
        self.tasks.iter().flatten().any(|task| task.cell.awaits.get() && waits(&task.cell))
    }

    /// Wakes what waits for the signals of a name, or for any; whether a task can go on because of it.
    pub(crate) fn wake_waits(&mut self, name: Option<&str>) -> bool {
        let mut ready = Vec::new();
        for task in self.tasks.iter().flatten().filter(|task| task.cell.awaits.get()) {
            let mut calls = task.cell.calls.borrow_mut();
            for cell in calls.iter_mut().filter(|cell| cell.result.is_none()) {
                let Some(waits_for) = &cell.signal else { continue };
                if name.is_none_or(|name| **waits_for == *name)
                    && let Some(waker) = cell.waker.take()
                {
                    if waker.will_wake(&task.waker) {
                        ready.push(task.cell.index.get());
                    } else {
                        waker.wake();
                    }
                }
            }
        }
        let mut any = false;
        for task in ready {
            any |= self.wake(task);
        }
        any
    }
}
