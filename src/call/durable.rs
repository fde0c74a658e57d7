//! Calls whose results go to the journal.

use std::borrow::Cow;
use std::fmt::{self, Debug, Formatter};
use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use serde::Serialize;
use serde::de::DeserializeOwned;
use timely_agents_operators::behavior::CallJob;
use timely_agents_operators::completion::{CallFailure, CallResult, CallValue};

use super::failed::is_error;
use super::info::{CallInfo, CallKey};
use super::limits::{self, Shared};
use super::{Settings, Waits};
use crate::core::{Common, TaskCell, next};
use crate::ctx::encode;
use crate::error::CallError;
use crate::journal::Asked;
use crate::policy::Retry;

/// When the end of a durable call is durable.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Durability {
    /// Before its action goes on: after a crash the call is not made again. The default.
    #[default]
    Eager,
    /// With its epoch: nobody waits for it, and after a crash that comes before the commit the call is made again.
    WithEpoch,
}

/// What has become of a call that was under way in a crash, as [`Durable::reconcile`] finds out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reconciled<R> {
    /// It was done, and gave this.
    Done(R),
    /// It was not: it is made.
    NotDone,
}

/// What a call's attempt has come to, as [`Durable::classify`] says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It did not succeed, and another attempt may.
    Retryable,
    /// It is the call's result, good or bad.
    Terminal,
}

type CopyOf<W> = fn(&W) -> W;

/// Makes the work of a reconciler, with its copy of the arguments.
type Reconcile = Box<dyn Fn(CallInfo) -> CallJob>;

type Classify<R> = Box<dyn Fn(&Result<R, CallError>) -> Outcome>;

/// Makes what the runtime is to do.
pub(crate) enum Make<A, F> {
    Plain(fn(F, A) -> CallJob),
    /// Of a function that is told about its call.
    Informed(fn(F, A, CallInfo) -> CallJob),
}

enum State {
    Declared,
    Calling,
    Pausing,
    Over,
}

/// A durable call, made by `Ctx::durable` and its other forms.
///
/// It starts when it is first polled, so it can be configured first; its place in the run was taken when
/// it was made. Dropping it before its end abandons it, and aborts it where it runs.
///
/// ```
/// use std::time::Duration;
/// use timely_agents::prelude::*;
///
/// # async fn ask(question: String) -> Result<String, u16> { Ok(question) }
/// let mut agent = Agent::<String, String>::new("asking");
/// agent.on_input_async("ask", async |question, ctx| {
///     let answer = ctx
///         .durable("model", question.clone(), ask)
///         .timeout(Duration::from_secs(30))
///         .concurrency("model", 8)
///         .rate("model", 20)
///         .retry(Retry::new(4).backoff(Duration::from_secs(1)))
///         // The model is busy: that is no answer yet.
///         .classify(|answer| match answer {
///             Ok(Err(429 | 503)) | Err(_) => Outcome::Retryable,
///             Ok(_) => Outcome::Terminal,
///         })
///         .await?;
///     ctx.output(format!("{answer:?}"));
///     Ok(())
/// });
/// # agent.build()?;
/// # Ok::<(), timely_agents::BuildErrors>(())
/// ```
#[must_use = "a call starts when it is awaited"]
pub struct Durable<A, F, R> {
    waits: Waits,
    name: Cow<'static, str>,
    position: u32,
    settings: Settings,
    make: Make<A, F>,
    /// What the next attempt is made of; it is copied where there may be another.
    work: Option<(F, A)>,
    /// Mostly there is one attempt, and then nothing here.
    attempts: Option<Box<Attempts<A, F, R>>>,
    durability: Durability,
    /// Finds out about an attempt that was under way; there may be several, each in a crash of its own.
    reconcile: Option<Reconcile>,
    /// What a journal, or a later attempt of the action, knows it by.
    asked: Option<Rc<Asked>>,
    key: CallKey,
    form: Form<R>,
    /// Which attempt this is, from 1.
    attempt: u32,
    /// When it began, by what its action meets.
    began: u32,
    state: State,
}

/// When there is another attempt, and how it is made.
struct Attempts<A, F, R> {
    retry: Option<Retry>,
    copy: Option<CopyOf<(F, A)>>,
    classify: Option<Classify<R>>,
}

impl<A, F, R> Default for Attempts<A, F, R> {
    fn default() -> Self {
        Attempts { retry: None, copy: None, classify: None }
    }
}

/// How results are read and shown.
struct Form<R> {
    decode: fn(&[u8]) -> Result<R, CallFailure>,
    show: fn(&R) -> String,
    is_error: fn(&R) -> bool,
}

impl<A, F, R> Durable<A, F, R> {
    pub(crate) fn new(
        common: &Rc<Common>,
        task: &Rc<TaskCell>,
        name: Cow<'static, str>,
        (f, args): (F, A),
        make: Make<A, F>,
        key: impl FnOnce(u32, &str) -> CallKey,
    ) -> Self
    where
        A: Serialize,
        R: Serialize + DeserializeOwned,
    {
        let position = next(&task.positions);
        let key = key(position, &name);
        let wanted = common.tells() || task.memo.borrow().is_some();
        let asked = wanted.then(|| Rc::new(Asked::of_durable(&name, &args)));
        Durable {
            waits: Waits::new(common, task),
            make,
            name,
            position,
            settings: Settings::new(common),
            work: Some((f, args)),
            attempts: None,
            durability: Durability::default(),
            reconcile: None,
            key,
            asked,
            form: Form { decode, show, is_error },
            attempt: 1,
            began: 0,
            state: State::Declared,
        }
    }

    /// When the call's end is durable, in a job with checkpoints.
    pub fn durability(mut self, durability: Durability) -> Self {
        self.durability = durability;
        self
    }

    /// Finds out what has become of an attempt that was under way in a crash, of which it is not known whether it took effect:
    /// `g` is called then in place of the call, with its arguments. Without this the call is made again, with the same
    /// idempotency key.
    ///
    /// That the call is about to leave is durable before it does, which costs it another sync.
    pub fn reconcile<G, Fut>(mut self, g: G) -> Self
    where
        A: Clone + 'static,
        G: Fn(A, CallInfo) -> Fut + 'static,
        Fut: Future<Output = Reconciled<R>> + Send + 'static,
        R: Serialize,
    {
        if let Some((_, args)) = &self.work {
            let args = args.clone();
            self.reconcile = Some(Box::new(move |call| {
                let found = g(args.clone(), call);
                CallJob::future(async move {
                    match found.await {
                        Reconciled::Done(value) => encode(&value),
                        // Who asks sees that it has no value.
                        Reconciled::NotDone => Ok(CallValue::Unit),
                    }
                })
            }));
        }
        self
    }

    /// How long an attempt of the call may take; the agent's `call_timeout` unless said here. Where it waits for a limit that
    /// it shares with others, the time begins when its turn has come.
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.settings.timeout = Some(timeout);
        self
    }

    /// Tries again, after a pause that blocks nobody, what fails: attempts that time out or panic, unless
    /// [`Durable::classify`] says otherwise. Attempts and the time of the next one are as durable as results.
    ///
    /// When the attempts are used up the call fails with [`CallFailure::Exhausted`], which the action may handle or return
    /// with `?`; `then` of the policy is not for calls.
    pub fn retry(mut self, retry: Retry) -> Self
    where
        A: Clone,
        F: Clone,
    {
        let attempts = self.attempts.get_or_insert_default();
        attempts.copy = Some(Clone::clone);
        attempts.retry = Some(retry);
        self
    }

    /// Says what is tried again: what an attempt has given, or why it gave nothing. A value that is `Retryable` never
    /// becomes the call's result. It is asked again in a replay and must say the same.
    pub fn classify(mut self, classify: impl Fn(&Result<R, CallError>) -> Outcome + 'static) -> Self {
        self.attempts.get_or_insert_default().classify = Some(Box::new(classify));
        self
    }

    /// Lets at most `n` calls with a limit of this name be under way in the process. A call waits for its turn off the
    /// worker, and has it until it is over or given up; a blocking one that was given up until it returns. While it waits
    /// it is one of the agent's concurrent calls.
    ///
    /// Calls that give one name different limits contradict each other: the first one in the process counts, the others
    /// fail with [`CallFailure::Refused`].
    pub fn concurrency(mut self, name: impl Into<Cow<'static, str>>, n: usize) -> Self {
        self.settings.shared.push(Shared::concurrency(name.into(), n));
        self
    }

    /// Lets calls with a rate of this name begin at most so many times a second in the process, evenly spaced. Otherwise
    /// as [`Durable::concurrency`].
    pub fn rate(mut self, name: impl Into<Cow<'static, str>>, per_second: impl Into<f64>) -> Self {
        self.settings.shared.push(Shared::rate(name.into(), per_second.into()));
        self
    }

    /// Keeps the arguments themselves in the journal, as JSON, so that a report of a program that goes another way shows
    /// them. Otherwise the journal has digests of them.
    pub fn keep_arguments(mut self) -> Self
    where
        A: Serialize,
    {
        if let (Some(asked), Some((_, args))) = (&mut self.asked, &self.work) {
            Rc::make_mut(asked).kept = serde_json::to_string(args).ok();
        }
        self
    }

    /// The call's place among the calls of its action, from 0: taken when the call was made, not when polled.
    pub fn position(&self) -> u32 {
        self.position
    }

    /// Starts an attempt, or finds out about one that had left.
    fn begin(&mut self) {
        let eager = self.durability == Durability::Eager;
        if let Some(reconcile) = self.reconcile.as_ref().filter(|_| self.had_left()) {
            let job = reconcile(CallInfo::new(self.key, self.attempt));
            self.waits.call(self.asked.clone(), self.name.clone(), self.settings.timeout, (eager, false), job);
            self.state = State::Calling;
            return;
        }
        let copy = self.pause().and(self.attempts.as_ref()).and_then(|attempts| attempts.copy);
        let work = match (&self.work, copy) {
            (Some(work), Some(copy)) => copy(work),
            _ => self.work.take().expect("the last attempt comes once"),
        };
        let job = match (&self.make, work) {
            (Make::Plain(make), (f, args)) => make(f, args),
            (Make::Informed(make), (f, args)) => make(f, args, CallInfo::new(self.key, self.attempt)),
        };
        let job = limits::gated(&self.settings.shared, job);
        // Whose start matters after a crash: to a reconciler, and to who knows the call by its key.
        let noted = self.reconcile.is_some() || matches!(self.make, Make::Informed(..));
        self.waits.call(self.asked.clone(), self.name.clone(), self.settings.timeout, (eager, noted), job);
        self.state = State::Calling;
    }

    /// Whether the attempt that begins now had left before a crash. Of one whose end is known nothing is asked: it may have
    /// been that the reconciler has found nothing, and then what is to be made of it is still needed.
    fn had_left(&self) -> bool {
        let (task, ordinal) = (&self.waits.task, self.waits.coming_ordinal());
        let had_left = task.had_left(ordinal, self.asked.as_deref());
        had_left.unwrap_or_else(|| task.known.borrow().contains(&ordinal))
    }

    /// The pause after this attempt, unless it is the last.
    fn pause(&self) -> Option<Duration> {
        let retry = self.attempts.as_ref()?.retry.as_ref()?;
        (self.attempt < retry.attempts).then(|| retry.pause(self.attempt))
    }

    /// What the result of an attempt is.
    fn outcome(&self, result: &Result<R, CallError>) -> Outcome {
        match (self.attempts.as_deref(), result) {
            (Some(Attempts { classify: Some(classify), .. }), result) => classify(result),
            (Some(_), Err(error)) => may_pass(&error.failure),
            _ => Outcome::Terminal,
        }
    }

    /// The result that an earlier attempt of the action was given.
    fn remembered(&self) -> Option<R> {
        let task = &self.waits.task;
        let value = {
            let memo = task.memo.borrow();
            let bytes = memo.as_ref()?.find(self.waits.place, self.asked.as_deref()?)?;
            (self.form.decode)(bytes).ok()?
        };
        let result = Ok(value);
        let value = (self.outcome(&result) == Outcome::Terminal).then_some(result.ok()?)?;
        task.meets(self.waits.place, None, false, || (self.form.is_error)(&value));
        Some(value)
    }

    /// The action is given the call's result.
    fn meets(&self, result: &Result<R, CallError>) {
        let is_error = || result.as_ref().map_or(true, self.form.is_error);
        let is_recorded = self.waits.common.retraces.get();
        self.waits.task.meets(self.waits.place, Some(self.began), is_recorded, is_error);
    }

    /// Says what a result is, to who has asked.
    fn tell(&self, value: &R) {
        let waits = &self.waits;
        waits.common.tell_result(&waits.task, waits.last_ordinal(), || (self.form.show)(value));
    }

    /// Reads what an attempt has given, and remembers it for a later attempt of the action.
    fn read(&self, given: CallResult, asked: Option<Rc<Asked>>) -> Result<R, CallError> {
        let value = given.and_then(|value| match value {
            CallValue::Bytes(bytes) => {
                let value = (self.form.decode)(&bytes)?;
                self.tell(&value);
                self.waits.task.remember(self.waits.last_ordinal(), asked, bytes);
                Ok(value)
            }
            other => Err(CallFailure::Encoding(format!("a durable call gives bytes, not {other:?}"))),
        });
        value.map_err(|failure| self.failed(failure))
    }

    fn failed(&self, failure: CallFailure) -> CallError {
        CallError { name: self.name.to_string(), failure }
    }

    /// The pause before the next attempt, or the result of the call.
    fn judge(&self, result: Result<R, CallError>) -> Result<Duration, Result<R, CallError>> {
        if self.outcome(&result) == Outcome::Terminal {
            return Err(result);
        }
        self.pause().ok_or_else(|| {
            let last = match result {
                Ok(value) => cut((self.form.show)(&value)),
                Err(error) => error.failure.to_string(),
            };
            Err(self.failed(CallFailure::Exhausted { attempts: self.attempt, last }))
        })
    }
}

/// Whether another attempt may do better.
fn may_pass(failure: &CallFailure) -> Outcome {
    match failure {
        CallFailure::Timeout(_) | CallFailure::Panicked(_) | CallFailure::Aborted => Outcome::Retryable,
        CallFailure::Encoding(_) | CallFailure::Exhausted { .. } | CallFailure::Refused(_) => Outcome::Terminal,
    }
}

impl<A, F, R> Future for Durable<A, F, R> {
    type Output = Result<R, CallError>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = &mut *self;
        loop {
            match this.state {
                State::Declared => {
                    if let Some(value) = this.remembered() {
                        this.state = State::Over;
                        return Poll::Ready(Ok(value));
                    }
                    this.began = this.waits.task.begins();
                    this.begin();
                }
                State::Calling => {
                    let (given, asked) = ready!(this.waits.poll(cx));
                    this.state = State::Over;
                    if let Ok(CallValue::Unit) = given {
                        // It was not done: the attempt is made now.
                        this.waits.pause(Duration::ZERO);
                        this.attempt -= 1;
                        this.state = State::Pausing;
                        continue;
                    }
                    match this.judge(this.read(given, asked)) {
                        Ok(pause) => {
                            this.waits.pause(pause);
                            this.state = State::Pausing;
                        }
                        Err(result) => {
                            this.meets(&result);
                            return Poll::Ready(result);
                        }
                    }
                }
                State::Pausing => {
                    ready!(this.waits.poll(cx)).0.ok();
                    this.attempt += 1;
                    this.begin();
                }
                State::Over => panic!("a call is not polled after its end"),
            }
        }
    }
}

impl<A, F, R> Unpin for Durable<A, F, R> {}

impl<A, F, R> Debug for Durable<A, F, R> {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        f.debug_struct("Durable").field("name", &self.name).field("position", &self.position).finish_non_exhaustive()
    }
}

fn decode<R: DeserializeOwned>(bytes: &[u8]) -> Result<R, CallFailure> {
    postcard::from_bytes(bytes).map_err(|error| CallFailure::Encoding(error.to_string()))
}

/// How many characters of a result an error shows.
const SHOWN: usize = 200;

/// A value as JSON.
pub(crate) fn show<R: Serialize>(value: &R) -> String {
    serde_json::to_string(value).unwrap_or_else(|_| "a value without a JSON form".to_owned())
}

fn cut(text: String) -> String {
    match text.char_indices().nth(SHOWN) {
        Some((end, _)) => format!("{}...", &text[..end]),
        None => text,
    }
}
