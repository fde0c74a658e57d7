//! The context of an action: everything that it can see and do.

use std::any::TypeId;
use std::borrow::Cow;
use std::fmt::{self, Debug, Formatter};
use std::future::Future;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde::Serialize;
use serde::de::DeserializeOwned;
use timely_agents_operators::behavior::CallJob;
use timely_agents_operators::completion::{CallFailure, CallResult, CallValue};
use timely_agents_operators::hash::mix;

use crate::call::{Call, CallInfo, Durable, Given, Make, Sleep, SleepEnd, place, show};
use crate::core::{Core, Queued, TaskCell, next};
use crate::counter::Counter;
use crate::error::{Error, NotifyError};
use crate::event::{DynamicEvent, Event, Payload};
use crate::memory::{PATHS, PathColumn, PathError, Remembered, SENSORY_PATHS, Slot, SlotColumn};
use crate::side::Tag;
use crate::tagged::Tagged;

/// The event id of events that nobody declared.
pub(crate) const UNKNOWN: u32 = u32::MAX;

/// The context of one task: an action that runs for an event.
///
/// What a task writes it sees at once; others see it, its events and its outputs when the task finishes, or
/// when it [flushes](Ctx::flush). A task that fails leaves nothing behind (rule S4).
pub struct Ctx<O: 'static> {
    pub(crate) core: Rc<Core<O>>,
    pub(crate) task: Rc<TaskCell>,
}

impl<O> Ctx<O> {
    /// Sends an event: it triggers actions of this run when the task finishes.
    pub fn send<E: Event>(&self, event: E) {
        let program = &self.core.program;
        match program.event_of_type(TypeId::of::<E>()) {
            Some(id) => self.enqueue(id, Payload::Typed(Rc::new(event))),
            // Nobody takes it as its type; somebody may by name.
            None => match serde_json::to_value(&event) {
                Ok(attributes) => self.send_dynamic(DynamicEvent::new(E::NAME, attributes)),
                Err(error) => self.core.fault(format!("event {:?} has no JSON form: {error}", E::NAME)),
            },
        }
    }

    /// Sends an event in dynamic form. It triggers actions of both forms that take events of its name.
    pub fn send_dynamic(&self, event: DynamicEvent) {
        let id = self.core.program.event_of_name(&event.name).unwrap_or(UNKNOWN);
        self.enqueue(id, Payload::Dynamic(Rc::new(event)));
    }

    #[inline]
    fn enqueue(&self, event: u32, payload: Payload) {
        let path = mix(self.task.path.get(), u64::from(next(&self.task.sends)) + 1);
        self.core.common.attention.set(true);
        self.core.staged.borrow_mut().queue.push_back(Queued { event, payload, next: 0, path });
    }

    /// Outputs a record downstream, at the run's time.
    #[inline]
    pub fn output(&self, output: O) {
        self.core.staged.borrow_mut().effects.outputs.push(output);
    }

    /// Gives a value to a side output, at the run's time.
    ///
    /// # Panics
    /// When the side output is another agent's.
    pub fn side<V: Clone + 'static>(&self, tag: Tag<V>, value: V) {
        assert_eq!(tag.agent, self.core.program.id, "a side output belongs to the agent that declared it");
        let value = Rc::new(value);
        self.core.staged.borrow_mut().effects.tagged.push(Tagged::Side { tag: tag.index, value });
    }

    /// Ends a step early: what was written, sent and output so far becomes visible as one step, and no later
    /// failure undoes or repeats it.
    #[expect(clippy::unused_async, reason = "a flush may wait for the journal")]
    pub async fn flush(&self) {
        let made = next(&self.task.flushes);
        if made < self.task.flushed_before.get() {
            // An earlier attempt has made this step; it counts once.
            self.core.undo_step();
        } else {
            self.core.flush_step(&self.task);
        }
    }

    /// What the key remembers in `slot`, cloned. To look without cloning use [`Ctx::read`].
    ///
    /// # Panics
    /// When the slot is another agent's, as all methods that take one.
    #[inline]
    #[expect(clippy::redundant_closure_for_method_calls, reason = "the method is not general in its lifetime")]
    pub fn get<V: Remembered>(&self, slot: Slot<V>) -> Option<V> {
        self.read(slot, |value| value.cloned())
    }

    /// Looks at what the key remembers in `slot`. Memory cannot be written inside `look`.
    ///
    /// It is a closure rather than a guard, because a guard held across an `await` would be in the way of
    /// other tasks.
    #[inline]
    pub fn read<V: Remembered, R>(&self, slot: Slot<V>, look: impl FnOnce(Option<&V>) -> R) -> R {
        self.own(slot);
        let memory = self.core.memory.borrow();
        let column: &SlotColumn<V> = memory.column(slot.column).expect("a slot is of its column's type");
        look(column.get(self.core.key()))
    }

    /// Remembers a value in `slot`; `None` forgets.
    #[inline]
    pub fn put<V: Remembered>(&self, slot: Slot<V>, value: impl Into<Option<V>>) {
        self.own(slot);
        let value = value.into();
        let mut memory = self.core.writable();
        let column: &mut SlotColumn<V> = memory.write(slot.column).expect("a slot is of its column's type");
        column.put(self.core.key(), value);
    }

    /// Changes what the key remembers in `slot`, starting from the default when there is nothing. Memory cannot
    /// be used inside `change`.
    #[inline]
    pub fn update<V: Remembered + Default, R>(&self, slot: Slot<V>, change: impl FnOnce(&mut V) -> R) -> R {
        self.own(slot);
        let mut memory = self.core.writable();
        let column: &mut SlotColumn<V> = memory.write(slot.column).expect("a slot is of its column's type");
        change(column.change(self.core.key()).get_or_insert_with(V::default))
    }

    /// Takes what the key remembers in `slot`, which is forgotten.
    pub fn take<V: Remembered>(&self, slot: Slot<V>) -> Option<V> {
        let value = self.get(slot);
        if value.is_some() {
            self.put(slot, None);
        }
        value
    }

    #[inline]
    fn own<V>(&self, slot: Slot<V>) {
        assert_eq!(slot.agent, self.core.program.id, "a slot belongs to the agent that declared it");
    }

    /// The key's dynamic memory, by dotted path.
    pub fn memory(&self) -> Paths<'_, O> {
        Paths { ctx: self, column: PATHS }
    }

    /// The run's dynamic memory, by dotted path; cleared when the run ends.
    pub fn sensory(&self) -> Paths<'_, O> {
        Paths { ctx: self, column: SENSORY_PATHS }
    }

    /// Calls `f` with `args` off the worker, as an asynchronous task of the runtime.
    ///
    /// The call is known by its place in the run, its name and its arguments; values that `f` captures are
    /// not part of that. Its result, errors included, is what `f` gave; where an action is tried again, a call that had
    /// a result has it, and one that failed is made again.
    pub fn durable<A, F, Fut, R>(&self, name: impl Into<Cow<'static, str>>, args: A, f: F) -> Durable<A, F, R>
    where
        A: Clone + Serialize + Send + 'static,
        F: FnOnce(A) -> Fut + Send + 'static,
        Fut: Future<Output = R> + Send + 'static,
        R: Serialize + DeserializeOwned,
    {
        let make = |f: F, args: A| CallJob::future(async move { encode(&f(args).await) });
        self.durable_call(name.into(), args, f, Make::Plain(make))
    }

    /// The same for a function that blocks: it runs on the pool for blocking calls.
    pub fn durable_blocking<A, F, R>(&self, name: impl Into<Cow<'static, str>>, args: A, f: F) -> Durable<A, F, R>
    where
        A: Clone + Serialize + Send + 'static,
        F: FnOnce(A) -> R + Send + 'static,
        R: Serialize + DeserializeOwned,
    {
        let make = |f: F, args: A| CallJob::Blocking(Box::new(move || encode(&f(args))));
        self.durable_call(name.into(), args, f, Make::Plain(make))
    }

    /// [`Ctx::durable`] for a function that is told about its call: its idempotency key, and which attempt it is.
    ///
    /// ```
    /// use timely_agents::prelude::*;
    ///
    /// # async fn pay(_: u64, _: String) -> Result<(), String> { Ok(()) }
    /// let mut agent = Agent::<u64, ()>::new("paying");
    /// agent.on_input_async("pay", async |amount, ctx| {
    ///     ctx.durable_with("pay", *amount, async |amount, call: CallInfo| pay(amount, call.idempotency_key()).await)
    ///         .await?
    ///         .map_err(timely_agents::Error::new)
    /// });
    /// # agent.build()?;
    /// # Ok::<(), timely_agents::BuildErrors>(())
    /// ```
    pub fn durable_with<A, F, Fut, R>(&self, name: impl Into<Cow<'static, str>>, args: A, f: F) -> Durable<A, F, R>
    where
        A: Clone + Serialize + Send + 'static,
        F: FnOnce(A, CallInfo) -> Fut + Send + 'static,
        Fut: Future<Output = R> + Send + 'static,
        R: Serialize + DeserializeOwned,
    {
        let make = |f: F, args: A, call: CallInfo| CallJob::future(async move { encode(&f(args, call).await) });
        self.durable_call(name.into(), args, f, Make::Informed(make))
    }

    /// The same for a function that blocks.
    pub fn durable_blocking_with<A, F, R>(&self, name: impl Into<Cow<'static, str>>, args: A, f: F) -> Durable<A, F, R>
    where
        A: Clone + Serialize + Send + 'static,
        F: FnOnce(A, CallInfo) -> R + Send + 'static,
        R: Serialize + DeserializeOwned,
    {
        let make = |f: F, args: A, call: CallInfo| CallJob::Blocking(Box::new(move || encode(&f(args, call))));
        self.durable_call(name.into(), args, f, Make::Informed(make))
    }

    fn durable_call<A: Serialize, F, R: Serialize + DeserializeOwned>(
        &self,
        name: Cow<'static, str>,
        args: A,
        f: F,
        make: Make<A, F>,
    ) -> Durable<A, F, R> {
        let core = &self.core;
        // A reconciler may want it, and only notes say that there is something to reconcile.
        let wanted = core.common.notes.get() || matches!(make, Make::Informed(_));
        let key = |position, name: &str| if wanted { core.idempotency(&self.task, position, name) } else { 0 };
        Durable::new(&core.common, &self.task, name, (f, args), make, key)
    }

    /// Calls `f` off the worker, as an asynchronous task of the runtime, without durability: the result is encoded only
    /// where the run may be carried from one epoch to the next and outlive the process.
    pub fn call<F, Fut, R>(&self, name: impl Into<Cow<'static, str>>, f: F) -> Call<R>
    where
        F: FnOnce() -> Fut + Send + 'static,
        Fut: Future<Output = R> + Send + 'static,
        R: Serialize + DeserializeOwned + Send + 'static,
    {
        if self.core.common.tells() {
            let job = CallJob::future(async move { encode(&f().await) });
            return Call::new(&self.core.common, &self.task, name.into(), job, Given::Encoded(take, show));
        }
        let result = Arc::default();
        let at = Arc::clone(&result);
        let job = CallJob::future(async move { Ok(place(&at, f().await)) });
        Call::new(&self.core.common, &self.task, name.into(), job, Given::Placed { at: result, unbox: take })
    }

    /// The same for a function that blocks.
    pub fn call_blocking<F, R>(&self, name: impl Into<Cow<'static, str>>, f: F) -> Call<R>
    where
        F: FnOnce() -> R + Send + 'static,
        R: Serialize + DeserializeOwned + Send + 'static,
    {
        if self.core.common.tells() {
            let job = CallJob::Blocking(Box::new(move || encode(&f())));
            return Call::new(&self.core.common, &self.task, name.into(), job, Given::Encoded(take, show));
        }
        let result = Arc::default();
        let at = Arc::clone(&result);
        let job = CallJob::Blocking(Box::new(move || Ok(place(&at, f()))));
        Call::new(&self.core.common, &self.task, name.into(), job, Given::Placed { at: result, unbox: take })
    }

    /// Waits for `duration` of the operator's clock; other tasks and keys go on.
    pub fn sleep(&self, duration: Duration) -> Sleep {
        Sleep::new(&self.core.common, &self.task, SleepEnd::After(duration))
    }

    /// Asks that the key be told when `epoch` is over: closed at the input, and this key's inputs up to it
    /// done. A current or past epoch means the end of the run's own. Asked twice, it is told once.
    ///
    /// # Errors
    /// From a notification: [`NotifyError::SameEpoch`] for the epoch that is being notified, and
    /// [`NotifyError::Ended`] when the input has ended, so that a chain of notifications comes to its end.
    pub fn notify_at(&self, epoch: u64) -> Result<(), NotifyError> {
        if let Some(notified) = self.core.notifying.get() {
            if epoch <= notified {
                return Err(NotifyError::SameEpoch(notified));
            }
            if self.core.ended.get() {
                return Err(NotifyError::Ended(epoch));
            }
        }
        self.core.staged.borrow_mut().effects.notifications.push(epoch);
        self.core.common.control.set(true);
        self.core.common.attention.set(true);
        Ok(())
    }

    /// The time of day when this step began, on the operator's clock.
    pub fn now(&self) -> SystemTime {
        UNIX_EPOCH + Duration::from_micros(self.core.common.head.now.get())
    }

    /// A number that looks random and is the same in every execution of this run.
    pub fn random(&self) -> u64 {
        let draw = u64::from(next(&self.task.draws));
        let state = mix(mix(self.core.run_id(), self.task.path.get()), mix(u64::from(self.task.action.get()), draw));
        // The finalizer of SplitMix64.
        let z = (state ^ (state >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    /// A UUID (version 8, RFC 9562) that is the same in every execution of this run.
    pub fn uuid(&self) -> String {
        let bits = (u128::from(self.random()) << 64) | u128::from(self.random());
        let bits = bits & !(0xF << 76) & !(0x3 << 62) | (0x8 << 76) | (0x2 << 62);
        let hex = format!("{bits:032x}");
        format!("{}-{}-{}-{}-{}", &hex[..8], &hex[8..12], &hex[12..16], &hex[16..20], &hex[20..])
    }

    /// The key of this run.
    ///
    /// # Errors
    /// When keys are of another type.
    pub fn key<K: 'static>(&self) -> Result<K, Error> {
        self.core.typed_key()
    }

    /// The key of this run, as text.
    pub fn key_text(&self) -> String {
        self.core.keys.text(self.core.key())
    }

    /// The epoch of this run.
    pub fn epoch(&self) -> u64 {
        self.core.common.head.epoch.get()
    }

    /// The event time of this run: its epoch, where time has no other coordinate.
    pub fn time(&self) -> u64 {
        self.core.common.head.event_time.get()
    }

    /// The number of this run among its key's, from 1.
    pub fn sequence(&self) -> u64 {
        self.core.common.head.sequence.get()
    }

    /// Which attempt of the action this is, from 1.
    pub fn attempt(&self) -> u32 {
        self.task.attempt.get()
    }

    /// The action's configuration.
    ///
    /// # Errors
    /// When there is none, or it is of another form.
    pub fn config<C: DeserializeOwned>(&self) -> Result<C, Error> {
        let action = self.core.program.action(self.task.action.get());
        C::deserialize(&action.options.config)
            .map_err(|error| Error::new(format!("the config of action {:?}: {error}", action.name)))
    }

    /// A resource of the agent, made now if this worker has not used it yet.
    ///
    /// # Errors
    /// When it is not declared, cannot be made, or is of another type.
    pub fn resource<R: 'static>(&self, name: &str) -> Result<Rc<R>, Error> {
        self.core.resources.get(name, &self.core.program.resources)
    }

    /// Adds to a counter, at once and for good.
    pub fn count(&self, counter: Counter, n: u64) {
        let counter = &self.core.counters[counter.0 as usize];
        counter.set(counter.get() + n);
    }
}

impl<O> Debug for Ctx<O> {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        f.debug_struct("Ctx").field("key", &self.key_text()).field("epoch", &self.epoch()).finish_non_exhaustive()
    }
}

/// No result of a call is longer, in bytes.
const LONGEST: usize = 64 << 20;

pub(crate) fn encode<R: Serialize>(result: &R) -> CallResult {
    let bytes = postcard::to_allocvec(result).map_err(|error| CallFailure::Encoding(error.to_string()))?;
    if bytes.len() > LONGEST {
        let why = format!(
            "it is {} bytes long, and {LONGEST} are allowed; store it elsewhere and return where it is",
            bytes.len()
        );
        return Err(CallFailure::Encoding(why));
    }
    Ok(CallValue::Bytes(bytes))
}

fn decode<R: DeserializeOwned>(value: CallValue) -> Result<R, CallFailure> {
    match value {
        CallValue::Bytes(bytes) => {
            postcard::from_bytes(&bytes).map_err(|error| CallFailure::Encoding(error.to_string()))
        }
        other => Err(CallFailure::Encoding(format!("a durable call gives bytes, not {other:?}"))),
    }
}

/// The result of a call that is not durable, as it is or encoded.
fn take<R: DeserializeOwned + 'static>(value: CallValue) -> Result<R, CallFailure> {
    match value {
        CallValue::Any(value) => {
            value.downcast().map(|v| *v).map_err(|_| CallFailure::Encoding("a value of another type".into()))
        }
        other => decode(other),
    }
}

/// Dynamic memory: values of any type by dotted path. Parents come with their children and go with them.
pub struct Paths<'a, O: 'static> {
    ctx: &'a Ctx<O>,
    column: u32,
}

impl<O> Paths<'_, O> {
    fn read<R>(&self, look: impl FnOnce(&PathColumn) -> R) -> R {
        let memory = self.ctx.core.memory.borrow();
        look(memory.column(self.column).expect("the columns of paths are there"))
    }

    fn write(&self, change: impl FnOnce(&mut PathColumn)) {
        let mut memory = self.ctx.core.writable();
        change(memory.write(self.column).expect("the columns of paths are there"));
    }

    /// The value at `path`, cloned.
    ///
    /// # Errors
    /// When the value is not a `V`.
    pub fn get<V: Remembered>(&self, path: &str) -> Result<Option<V>, PathError> {
        self.read(|paths| paths.get(self.ctx.core.key(), path))
    }

    /// Puts a value at `path`; parents come to be as needed.
    ///
    /// # Errors
    /// When `path` has values below it or lies below a value, or has an empty part.
    pub fn set<V: Remembered>(&self, path: &str, value: V) -> Result<(), PathError> {
        let key = self.ctx.core.key();
        self.read(|paths| paths.check(key, path))?;
        self.write(|paths| paths.set(key, path, value));
        Ok(())
    }

    /// Changes the value at `path`, starting from the default when there is none.
    ///
    /// # Errors
    /// As [`Paths::get`] and [`Paths::set`].
    pub fn update<V: Remembered + Default, R>(
        &self,
        path: &str,
        change: impl FnOnce(&mut V) -> R,
    ) -> Result<R, PathError> {
        let mut value = self.get(path)?.unwrap_or_default();
        let result = change(&mut value);
        self.set(path, value)?;
        Ok(result)
    }

    /// Forgets what is at and below `path`; how many values that were.
    pub fn remove(&self, path: &str) -> usize {
        let key = self.ctx.core.key();
        let paths = self.read(|paths| paths.at_and_below(key, path));
        let count = paths.len();
        for path in paths {
            self.write(|paths| paths.remove_one(key, path));
        }
        count
    }

    /// Whether there is a value at `path`, or an object with values below it.
    pub fn contains(&self, path: &str) -> bool {
        self.read(|paths| !paths.at_and_below(self.ctx.core.key(), path).is_empty())
    }

    /// The paths that hold values at or below `path`, in order; all of them for the empty path.
    pub fn iter(&self, path: &str) -> impl Iterator<Item = String> + use<O> {
        let key = self.ctx.core.key();
        let paths = self.read(|paths| if path.is_empty() { paths.all(key) } else { paths.at_and_below(key, path) });
        paths.into_iter().map(|path| path.to_string())
    }
}
