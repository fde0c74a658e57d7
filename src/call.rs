//! Waits of an action: calls to the outside, and sleeps.

use std::borrow::Cow;
use std::fmt::{self, Debug, Formatter};
use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use timely_agents_operators::behavior::CallJob;
use timely_agents_operators::completion::{CallFailure, CallResult, CallValue};

use crate::core::{Common, TaskCell, next};
use crate::error::CallError;

/// When the end of a durable call is durable.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Durability {
    /// Before its action goes on: after a crash it is not made again. The default.
    #[default]
    Eager,
    /// With its epoch: it is not waited for, and after a crash that comes before the commit the call is made again.
    WithEpoch,
}

enum State {
    Declared(CallJob),
    Waiting { call: u32 },
    Over,
}

/// How a call's result is found.
pub(crate) enum Given<R> {
    /// In its encoded form.
    Encoded(fn(CallValue) -> Result<R, CallFailure>),
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
            (Given::Encoded(decode), value) => decode(value),
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

/// A call to the outside, made by `Ctx::durable` or `Ctx::call` and their blocking forms.
///
/// It starts when it is first polled, so it can be configured first; its place in the run was taken when
/// it was made. Dropping it before its end abandons it, and aborts it where it runs.
#[must_use = "a call starts when it is awaited"]
pub struct Call<R> {
    common: Rc<Common>,
    task: Rc<TaskCell>,
    name: Cow<'static, str>,
    timeout: Option<Duration>,
    position: u32,
    ordinal: u32,
    /// Of the arguments, where they go to a journal; else 0.
    digest: u64,
    durability: Durability,
    given: Given<R>,
    state: State,
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
            common: Rc::clone(common),
            task: Rc::clone(task),
            name,
            timeout: common.call_timeout,
            position: next(&task.positions),
            ordinal: next(&task.waits),
            digest: 0,
            durability: Durability::WithEpoch,
            given,
            state: State::Declared(job),
        }
    }

    /// The digest of its arguments.
    pub(crate) fn of_arguments(mut self, digest: u64) -> Self {
        self.digest = digest;
        self.durability = Durability::Eager;
        self
    }

    /// When its end is durable, where the job has checkpoints.
    pub fn durability(mut self, durability: Durability) -> Self {
        self.durability = durability;
        self
    }

    /// How long the call may take. The agent's `call_timeout` unless said here.
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = Some(timeout);
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
        if let State::Declared(_) = this.state
            && let State::Declared(job) = std::mem::replace(&mut this.state, State::Over)
        {
            let (ordinal, digest) = (this.ordinal, this.digest);
            let (name, eager) = (this.name.clone(), this.durability == Durability::Eager);
            let call = this.common.start_call(&this.task, ordinal, name, digest, this.timeout, eager, job);
            this.state = State::Waiting { call };
        }
        let State::Waiting { call } = this.state else { panic!("a call is not polled after its end") };
        let result = match wait(&this.task, call, cx) {
            Poll::Ready(result) => result,
            Poll::Pending => return Poll::Pending,
        };
        this.state = State::Over;
        Poll::Ready(
            result
                .and_then(|value| this.given.take(value))
                .map_err(|failure| CallError { name: this.name.to_string(), failure }),
        )
    }
}

impl<R> Unpin for Call<R> {}

impl<R> Drop for Call<R> {
    fn drop(&mut self) {
        if let State::Waiting { call, .. } = self.state {
            self.common.abandon(&self.task, call);
        }
    }
}

impl<R> Debug for Call<R> {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        f.debug_struct("Call").field("name", &self.name).field("position", &self.position).finish_non_exhaustive()
    }
}

fn wait(task: &TaskCell, call: u32, cx: &mut Context<'_>) -> Poll<CallResult> {
    let mut calls = task.calls.borrow_mut();
    let at = calls.iter().position(|c| c.call == call).expect("a call that is waited for is on the task's list");
    if let Some(result) = calls[at].result.take() {
        calls.swap_remove(at);
        return Poll::Ready(result);
    }
    match &mut calls[at].waker {
        Some(waker) => waker.clone_from(cx.waker()),
        none => *none = Some(cx.waker().clone()),
    }
    Poll::Pending
}

/// A pause, made by `Ctx::sleep`. The clock is the operator's; dropping it cancels it.
#[must_use = "a sleep begins when it is awaited"]
pub struct Sleep {
    common: Rc<Common>,
    task: Rc<TaskCell>,
    ordinal: u32,
    duration: Duration,
    waiting: Option<u32>,
}

impl Sleep {
    pub(crate) fn new(common: &Rc<Common>, task: &Rc<TaskCell>, duration: Duration) -> Self {
        let ordinal = next(&task.waits);
        Sleep { common: Rc::clone(common), task: Rc::clone(task), ordinal, duration, waiting: None }
    }
}

impl Future for Sleep {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let this = &mut *self;
        let call = *this.waiting.get_or_insert_with(|| {
            let deadline = this.common.head.now.get().saturating_add(this.duration.as_micros() as u64);
            this.common.start_timer(&this.task, this.ordinal, deadline)
        });
        wait(&this.task, call, cx).map(|_| this.waiting = None)
    }
}

impl Drop for Sleep {
    fn drop(&mut self) {
        if let Some(call) = self.waiting {
            self.common.abandon(&self.task, call);
        }
    }
}

impl Debug for Sleep {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        f.debug_struct("Sleep").field("duration", &self.duration).finish_non_exhaustive()
    }
}
