//! Waits of an action: calls to the outside, and sleeps.
//!
//! What an action waits for has a place among the waits of its task, taken when it is made and not when it is polled. A
//! durable call that is tried again is several waits at one place: its attempts, and the pauses between them. So a journal
//! that knows single waits knows attempts and pauses too, and nothing of it depends on which of several calls that are
//! under way at once is over first.

mod args;
mod durable;
mod failed;
mod info;
mod limits;
mod memo;
mod results;

use std::borrow::Cow;
use std::fmt::{self, Debug, Formatter};
use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use timely_agents_operators::behavior::CallJob;
use timely_agents_operators::completion::{CallFailure, CallResult, CallValue};

pub(crate) use self::args::{Digests, digest};
pub use self::durable::{Durability, Durable, Outcome, Reconciled};
pub(crate) use self::durable::{Make, show};
pub use self::info::CallInfo;
use self::limits::Shared;
pub(crate) use self::memo::Memo;
pub(crate) use self::results::ToldResult;
use crate::core::{Common, TaskCell, next};
use crate::error::CallError;
use crate::journal::Asked;

/// The waits at one place of a task, one after the other. What is waited for is given up when this is dropped.
pub(crate) struct Waits {
    common: Rc<Common>,
    task: Rc<TaskCell>,
    place: u32,
    begun: u32,
    waiting: Option<u32>,
}

/// What stands for a wait in its task: its place, and its number there.
pub(crate) fn ordinal(place: u32, number: u32) -> u64 {
    // The first waits of a task have the smallest numbers: journals are full of them.
    u64::from(number) << 32 | u64::from(place)
}

/// The place of a wait, and its number there.
pub(crate) fn place_of(ordinal: u64) -> (u32, u32) {
    (ordinal as u32, (ordinal >> 32) as u32)
}

impl Waits {
    /// Takes the task's next place.
    #[inline]
    pub(crate) fn new(common: &Rc<Common>, task: &Rc<TaskCell>) -> Self {
        let place = next(&task.waits);
        Waits { common: Rc::clone(common), task: Rc::clone(task), place, begun: 0, waiting: None }
    }

    #[inline]
    fn next_ordinal(&mut self) -> u64 {
        debug_assert!(self.waiting.is_none(), "one wait after the other");
        self.begun += 1;
        ordinal(self.place, self.begun - 1)
    }

    /// Asks for a call.
    #[inline]
    fn call(
        &mut self,
        asked: Option<Rc<Asked>>,
        name: Cow<'static, str>,
        timeout: Option<Duration>,
        noted: (bool, bool),
        job: CallJob,
    ) {
        let ordinal = self.next_ordinal();
        self.waiting = Some(self.common.start_call(&self.task, ordinal, asked, name, timeout, noted, job));
    }

    /// Asks to be woken after `pause`, by the clock of the turn that this is.
    fn pause(&mut self, pause: Duration) {
        self.pause_until(self.common.head.now.get().saturating_add(pause.as_micros() as u64));
    }

    /// Asks to be woken at `deadline`.
    fn pause_until(&mut self, deadline: u64) {
        let ordinal = self.next_ordinal();
        self.waiting = Some(self.common.start_timer(&self.task, ordinal, deadline));
    }

    /// The end of what was asked for, and what that was.
    #[inline]
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<(CallResult, Option<Rc<Asked>>)> {
        let call = self.waiting.expect("something was asked for");
        let end = ready!(self.task.poll_wait(call, cx));
        self.waiting = None;
        Poll::Ready(end)
    }

    /// What stands for the wait that is asked for next.
    fn coming_ordinal(&self) -> u64 {
        ordinal(self.place, self.begun)
    }

    /// What stands for the last wait that was asked for.
    fn last_ordinal(&self) -> u64 {
        ordinal(self.place, self.begun - 1)
    }
}

impl Drop for Waits {
    #[inline]
    fn drop(&mut self) {
        if let Some(call) = self.waiting {
            self.common.abandon(&self.task, call);
        }
    }
}

impl TaskCell {
    /// The end of a wait, and what was asked for.
    #[inline]
    pub(crate) fn poll_wait(&self, call: u32, cx: &mut Context<'_>) -> Poll<(CallResult, Option<Rc<Asked>>)> {
        let mut calls = self.calls.borrow_mut();
        let at = calls.iter().position(|c| c.call == call).expect("a call that is waited for is on the task's list");
        if let Some(result) = calls[at].result.take() {
            return Poll::Ready((result, calls.swap_remove(at).asked));
        }
        match &mut calls[at].waker {
            Some(waker) => waker.clone_from(cx.waker()),
            none => *none = Some(cx.waker().clone()),
        }
        Poll::Pending
    }
}

/// What a call may be told before it starts.
struct Settings {
    timeout: Option<Duration>,
    /// Mostly there are none.
    shared: Vec<Shared>,
}

impl Settings {
    fn new(common: &Common) -> Self {
        Settings { timeout: common.call_timeout, shared: Vec::new() }
    }
}

/// How a call's result is found.
pub(crate) enum Given<R> {
    /// In its encoded form; and how a value is shown.
    Encoded(fn(CallValue) -> Result<R, CallFailure>, fn(&R) -> String),
    /// In a place that the worker made and will free: the allocator is slow where a thread frees what another made.
    Placed {
        at: Arc<Mutex<Option<R>>>,
        /// Of who answers in the call's place, as a test does, and gives a value of its own.
        unbox: fn(CallValue) -> Result<R, CallFailure>,
    },
}

impl<R> Given<R> {
    fn take(&self, value: CallValue) -> Result<R, CallFailure> {
        match (self, value) {
            (Given::Encoded(decode, _), value) => decode(value),
            (Given::Placed { at, .. }, CallValue::Unit) => {
                let given = at.lock().unwrap_or_else(PoisonError::into_inner).take();
                given.ok_or_else(|| CallFailure::Encoding("a call gives a value, not nothing".into()))
            }
            (Given::Placed { unbox, .. }, value) => unbox(value),
        }
    }
}

/// Puts the result of a call that is not journaled into its place.
pub(crate) fn place<R>(at: &Mutex<Option<R>>, value: R) -> CallValue {
    *at.lock().unwrap_or_else(PoisonError::into_inner) = Some(value);
    CallValue::Unit
}

/// A call that is not durable, made by `Ctx::call` or its blocking form.
///
/// It starts when it is first polled, so it can be configured first; its place in the run was taken when
/// it was made. Dropping it before its end abandons it, and aborts it where it runs.
#[must_use = "a call starts when it is awaited"]
pub struct Call<R> {
    waits: Waits,
    name: Cow<'static, str>,
    position: u32,
    settings: Settings,
    /// Until it has started.
    job: Option<CallJob>,
    given: Given<R>,
}

impl<R> Call<R> {
    pub(crate) fn new(
        common: &Rc<Common>,
        task: &Rc<TaskCell>,
        name: Cow<'static, str>,
        job: CallJob,
        given: Given<R>,
    ) -> Self {
        Call {
            waits: Waits::new(common, task),
            name,
            position: next(&task.positions),
            settings: Settings::new(common),
            job: Some(job),
            given,
        }
    }

    /// How long the call may take. The agent's `call_timeout` unless said here.
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.settings.timeout = Some(timeout);
        self
    }

    /// Shares a limit on calls at once with others of its name; see [`Durable::concurrency`].
    pub fn concurrency(mut self, name: impl Into<Cow<'static, str>>, n: usize) -> Self {
        self.settings.shared.push(Shared::concurrency(name.into(), n));
        self
    }

    /// Shares a limit on calls a second with others of its name; see [`Durable::rate`].
    pub fn rate(mut self, name: impl Into<Cow<'static, str>>, per_second: impl Into<f64>) -> Self {
        self.settings.shared.push(Shared::rate(name.into(), per_second.into()));
        self
    }

    /// The call's place among the calls of its action, from 0: taken when the call was made, not when polled.
    pub fn position(&self) -> u32 {
        self.position
    }
}

impl<R> Future for Call<R> {
    type Output = Result<R, CallError>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = &mut *self;
        if let Some(job) = this.job.take() {
            // Of what it takes nothing is known.
            let asked = this.waits.common.tells().then(|| Rc::new(Asked::of_call(&this.name)));
            let job = limits::gated(&this.settings.shared, job);
            this.waits.call(asked, this.name.clone(), this.settings.timeout, (false, false), job);
        }
        let (result, _) = ready!(this.waits.poll(cx));
        let result = result.and_then(|value| this.given.take(value));
        if let (Ok(value), Given::Encoded(_, show)) = (&result, &this.given) {
            this.waits.common.tell_result(&this.waits.task, this.waits.last_ordinal(), || show(value));
        }
        Poll::Ready(result.map_err(|failure| CallError { name: this.name.to_string(), failure }))
    }
}

impl<R> Unpin for Call<R> {}

impl<R> Debug for Call<R> {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        f.debug_struct("Call").field("name", &self.name).field("position", &self.position).finish_non_exhaustive()
    }
}

/// A pause, made by `Ctx::sleep` or `Ctx::sleep_until`. The clock is the operator's; dropping it cancels it.
#[must_use = "a sleep begins when it is awaited"]
pub struct Sleep {
    waits: Waits,
    end: SleepEnd,
}

/// When a pause is over.
#[derive(Clone, Copy, Debug)]
pub(crate) enum SleepEnd {
    /// So long after it began.
    After(Duration),
    /// At a time of day, in microseconds since 1970.
    At(u64),
}

impl Sleep {
    pub(crate) fn new(common: &Rc<Common>, task: &Rc<TaskCell>, end: SleepEnd) -> Self {
        Sleep { waits: Waits::new(common, task), end }
    }
}

impl Future for Sleep {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let this = &mut *self;
        if this.waits.waiting.is_none() {
            match this.end {
                SleepEnd::After(duration) => this.waits.pause(duration),
                SleepEnd::At(deadline) => this.waits.pause_until(deadline),
            }
        }
        this.waits.poll(cx).map(|_| ())
    }
}

impl Debug for Sleep {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        f.debug_struct("Sleep").field("end", &self.end).finish_non_exhaustive()
    }
}
