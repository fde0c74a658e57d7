//! Agents: what a user declares, before it is validated into a plan.

use std::any::{Any, TypeId, type_name};
use std::cmp::Ordering;
use std::collections::BTreeMap;
use std::marker::PhantomData;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};
use std::time::Duration;

use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;
use timely_agents_operators::hash::stable_hash;
use timely_agents_operators::limits::Limits;

use crate::action::{Action, ActionOptions, Body, Form, Options};
use crate::counter::Counter;
use crate::ctx::Ctx;
use crate::error::Error;
use crate::event::{AnyEvent, Codec, DynamicEvent, Event, Notification, names};
use crate::memory::{Remembered, Slot, SlotPlan};
use crate::plan::{self, BuildErrors, EventPlan, Plan, Program};
use crate::policy::{Divergence, Exhausted};
use crate::resource::Factory;
use crate::side::{SidePlan, Tag};
use crate::signal::SignalPlan;
use crate::versions::VersionChange;

/// What an agent can take: it is exchanged between workers, and kept while it waits.
pub trait Input: Serialize + DeserializeOwned + 'static {}

impl<I: Serialize + DeserializeOwned + 'static> Input for I {}

/// On which worker a hook runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    /// This worker, from 0 over all processes.
    pub worker: usize,
    /// The number of workers.
    pub peers: usize,
}

pub(crate) type OpenHook = Box<dyn Fn(Place) -> Result<(), Error> + Send + Sync>;
pub(crate) type Hook = Box<dyn Fn(Place) + Send + Sync>;

/// Numbers agents, so that a slot of one is not taken for a slot of another.
static NEXT_AGENT: AtomicU32 = AtomicU32::new(0);

/// An agent: actions that inputs of type `I`, and the events they send, trigger; outputs of type `O`.
///
/// Slots, side outputs and counters are declared first and captured by the actions. [`Agent::build`]
/// validates the whole into a [`Plan`].
///
/// ```
/// use timely_agents::prelude::*;
///
/// let mut agent = Agent::<u64, (u64, u64)>::new("counter");
/// let seen = agent.memory::<u64>("seen");
/// agent.on_input("count", move |value, ctx| {
///     let n = ctx.update(seen, |n| { *n += 1; *n });
///     ctx.output((*value, n));
///     Ok(())
/// });
/// let plan = agent.build()?;
/// assert_eq!(plan.name(), "counter");
/// # Ok::<(), timely_agents::BuildErrors>(())
/// ```
pub struct Agent<I: 'static, O: 'static> {
    name: String,
    id: u32,
    events: Vec<EventPlan>,
    actions: Vec<Action<O>>,
    /// Sync actions of inputs by their index, as they are: called without a look at the event's type.
    direct: Vec<(u32, plan::DirectBody<I, O>)>,
    slots: Vec<SlotPlan>,
    sides: Vec<SidePlan>,
    counters: Vec<String>,
    resources: Vec<(String, Factory)>,
    on_open: Option<OpenHook>,
    on_drained: Option<Hook>,
    on_close: Option<Hook>,
    order: Option<plan::Order<I>>,
    identity: Option<plan::Identity<I>>,
    limits: Limits,
    call_timeout: Option<Duration>,
    run_timeout: Option<(Duration, Exhausted)>,
    carry: bool,
    divergence: Divergence,
    pub(crate) signals: Vec<SignalPlan>,
    pub(crate) schedules: Vec<TypeId>,
    pub(crate) version_change: VersionChange,
    show_output: Option<fn(&O) -> String>,
    input: PhantomData<fn(I) -> O>,
}

impl<I: Input, O: 'static> Agent<I, O> {
    /// An agent without actions. Its name is stable: it is part of the identity of runs.
    pub fn new(name: impl Into<String>) -> Self {
        Agent {
            name: name.into(),
            id: NEXT_AGENT.fetch_add(1, Relaxed),
            events: vec![EventPlan::typed::<I>(names::INPUT), EventPlan::typed::<Notification>(names::NOTIFICATION)],
            actions: Vec::new(),
            direct: Vec::new(),
            slots: Vec::new(),
            sides: Vec::new(),
            counters: Vec::new(),
            resources: Vec::new(),
            on_open: None,
            on_drained: None,
            on_close: None,
            order: None,
            identity: None,
            limits: Limits::default(),
            call_timeout: Some(Duration::from_mins(5)),
            run_timeout: None,
            carry: false,
            divergence: Divergence::Strict,
            signals: Vec::new(),
            schedules: Vec::new(),
            version_change: VersionChange::default(),
            show_output: None,
            input: PhantomData,
        }
    }

    /// A place in each key's memory that lasts from run to run.
    pub fn memory<V: Remembered>(&mut self, name: impl Into<String>) -> Slot<V> {
        self.slot(name.into(), false)
    }

    /// A place in each key's memory that is cleared when a run ends.
    pub fn sensory<V: Remembered>(&mut self, name: impl Into<String>) -> Slot<V> {
        self.slot(name.into(), true)
    }

    fn slot<V: Remembered>(&mut self, name: String, sensory: bool) -> Slot<V> {
        self.slots.push(SlotPlan::new::<V>(name, sensory));
        // The first two columns are those of dynamic paths.
        Slot::new(self.slots.len() as u32 + 1, self.id)
    }

    /// A side output of values of type `V`.
    pub fn side<V: Clone + 'static>(&mut self, name: impl Into<String>) -> Tag<V> {
        self.sides.push(SidePlan { name: name.into(), type_name: type_name::<V>(), show: None });
        Tag::new(self.sides.len() as u32 - 1, self.id)
    }

    /// A counter, summed over workers.
    pub fn counter(&mut self, name: impl Into<String>) -> Counter {
        self.counters.push(name.into());
        Counter(self.counters.len() as u32 - 1)
    }

    /// A resource: made once per worker when an action first asks for it, dropped at the end.
    pub fn resource<R: 'static>(
        &mut self,
        name: impl Into<String>,
        make: impl Fn() -> Result<R, Error> + Send + Sync + 'static,
    ) -> &mut Self {
        self.resources.push((name.into(), Box::new(move || Ok(Rc::new(make()?)))));
        self
    }

    /// Declares an event type that is sent and triggers nothing, so that its name is checked and observed.
    pub fn event<E: Event>(&mut self) -> &mut Self {
        self.declare::<E>();
        self
    }

    fn declare<E: Event>(&mut self) {
        if !self.events.iter().any(|e| e.type_id == Some(TypeId::of::<E>()) && e.name == E::NAME) {
            self.events.push(EventPlan::typed::<E>(E::NAME));
        }
    }

    fn act(&mut self, name: &str, triggers: Vec<String>, form: Form, body: Body<O>) -> ActionOptions<'_> {
        self.actions.push(Action { name: name.into(), triggers, form, body, options: Options::default() });
        let last = self.actions.len() - 1;
        ActionOptions(&mut self.actions[last].options)
    }

    /// An action that runs for each input, to its end at once.
    pub fn on_input(
        &mut self,
        name: &str,
        action: impl Fn(&I, &Ctx<O>) -> Result<(), Error> + Send + Sync + 'static,
    ) -> ActionOptions<'_> {
        let action = Arc::new(action);
        self.direct.push((self.actions.len() as u32, Arc::clone(&action) as plan::DirectBody<I, O>));
        let body = sync_body(move |input: &I, ctx: &Ctx<O>| action(input, ctx));
        self.act(name, vec![names::INPUT.into()], Form::Typed, body)
    }

    /// An action that runs for each input and may wait.
    pub fn on_input_async(
        &mut self,
        name: &str,
        action: impl AsyncFn(&I, &Ctx<O>) -> Result<(), Error> + Send + Sync + 'static,
    ) -> ActionOptions<'_> {
        self.act(name, vec![names::INPUT.into()], Form::Typed, async_body(action))
    }

    /// An action that runs for each event of type `E`, to its end at once.
    pub fn on<E: Event>(
        &mut self,
        name: &str,
        action: impl Fn(&E, &Ctx<O>) -> Result<(), Error> + Send + Sync + 'static,
    ) -> ActionOptions<'_> {
        self.declare::<E>();
        self.act(name, vec![E::NAME.into()], Form::Typed, sync_body(action))
    }

    /// An action that runs for each event of type `E` and may wait.
    pub fn on_async<E: Event>(
        &mut self,
        name: &str,
        action: impl AsyncFn(&E, &Ctx<O>) -> Result<(), Error> + Send + Sync + 'static,
    ) -> ActionOptions<'_> {
        self.declare::<E>();
        self.act(name, vec![E::NAME.into()], Form::Typed, async_body(action))
    }

    /// An action that runs when an epoch is over that the key asked for by `notify_at`.
    pub fn on_notify(
        &mut self,
        name: &str,
        action: impl Fn(&Notification, &Ctx<O>) -> Result<(), Error> + Send + Sync + 'static,
    ) -> ActionOptions<'_> {
        self.on::<Notification>(name, action)
    }

    /// The same for an action that may wait.
    pub fn on_notify_async(
        &mut self,
        name: &str,
        action: impl AsyncFn(&Notification, &Ctx<O>) -> Result<(), Error> + Send + Sync + 'static,
    ) -> ActionOptions<'_> {
        self.on_async::<Notification>(name, action)
    }

    /// An action that runs for each event called `event`, which it takes in dynamic form.
    pub fn on_dynamic(
        &mut self,
        name: &str,
        event: &str,
        action: impl Fn(&DynamicEvent, &Ctx<O>) -> Result<(), Error> + Send + Sync + 'static,
    ) -> ActionOptions<'_> {
        self.act(name, vec![event.into()], Form::Dynamic, sync_body(action))
    }

    /// The same for an action that may wait.
    pub fn on_dynamic_async(
        &mut self,
        name: &str,
        event: &str,
        action: impl AsyncFn(&DynamicEvent, &Ctx<O>) -> Result<(), Error> + Send + Sync + 'static,
    ) -> ActionOptions<'_> {
        self.act(name, vec![event.into()], Form::Dynamic, async_body(action))
    }

    /// An action that events of several names trigger; inputs are called `input`.
    pub fn on_any(
        &mut self,
        name: &str,
        events: &[&str],
        action: impl Fn(&AnyEvent, &Ctx<O>) -> Result<(), Error> + Send + Sync + 'static,
    ) -> ActionOptions<'_> {
        let events = events.iter().map(ToString::to_string).collect();
        self.act(name, events, Form::Any, sync_body(action))
    }

    /// The same for an action that may wait.
    pub fn on_any_async(
        &mut self,
        name: &str,
        events: &[&str],
        action: impl AsyncFn(&AnyEvent, &Ctx<O>) -> Result<(), Error> + Send + Sync + 'static,
    ) -> ActionOptions<'_> {
        let events = events.iter().map(ToString::to_string).collect();
        self.act(name, events, Form::Any, async_body(action))
    }

    /// Runs on each worker before the first input; a failure stops the job.
    pub fn on_open(&mut self, hook: impl Fn(Place) -> Result<(), Error> + Send + Sync + 'static) -> &mut Self {
        self.on_open = Some(Box::new(hook));
        self
    }

    /// Runs on each worker when the input has ended and all work is done.
    pub fn on_drained(&mut self, hook: impl Fn(Place) + Send + Sync + 'static) -> &mut Self {
        self.on_drained = Some(Box::new(hook));
        self
    }

    /// Runs on each worker at the very end, also after a failure; resources are dropped after it.
    pub fn on_close(&mut self, hook: impl Fn(Place) + Send + Sync + 'static) -> &mut Self {
        self.on_close = Some(Box::new(hook));
        self
    }

    /// Sorts a key's inputs of one epoch by `f`, and starts them when the epoch has closed.
    ///
    /// Without it inputs start as they arrive, which is faster, and the same in every execution only if all
    /// inputs of a key come from one sender in order. Inputs for which `f` is equal are sorted by their bytes.
    pub fn sequenced_by<S: Ord>(&mut self, f: impl Fn(&I) -> S + Send + Sync + 'static) -> &mut Self {
        self.order = Some(Box::new(move |a, b| f(a).cmp(&f(b)).then_with(|| bytes_of(a).cmp(&bytes_of(b)))));
        self
    }

    /// Gives inputs an identity of their own: that of their runs, and of all that is derived from it.
    ///
    /// Without it a run is known by its key and its number among the key's runs.
    pub fn identified_by<D: Serialize>(&mut self, f: impl Fn(&I) -> D + Send + Sync + 'static) -> &mut Self {
        self.identity = Some(Box::new(move |input| stable_hash(&f(input))));
        self
    }

    /// Sets the bounds of what the agent holds on each worker.
    pub fn limits(&mut self, limits: Limits) -> &mut Self {
        self.limits = limits;
        self
    }

    /// How long a call may take unless it says otherwise; default 5 minutes. `None` never gives up, which an
    /// agent that holds its epoch open while it waits cannot have.
    pub fn call_timeout(&mut self, timeout: impl Into<Option<Duration>>) -> &mut Self {
        self.call_timeout = timeout.into();
        self
    }

    /// How long a run may take, and what follows when it takes longer. Default: no limit.
    pub fn run_timeout(&mut self, timeout: Duration, then: Exhausted) -> &mut Self {
        self.run_timeout = Some((timeout, then));
        self
    }

    /// Lets epochs close without waiting for unfinished runs: those go on in the next epoch, and put out there (rule S5).
    ///
    /// For slow agents: what waits for frontiers downstream, commits first of all, then does not wait for a slow run.
    /// Over `Stamp` times outputs keep the event time of their input. Without it an epoch stays open until all its inputs
    /// are done, so that outputs come at the epoch of their input.
    ///
    /// An agent that carries must not be inside a feedback loop, nor in a nested scope.
    pub fn carry(&mut self) -> &mut Self {
        self.carry = true;
        self
    }

    /// What follows when a run does not go the way of its journal after a restart; default: the job stops.
    pub fn divergence(&mut self, divergence: Divergence) -> &mut Self {
        self.divergence = divergence;
        self
    }

    /// Keeps outputs, as JSON, in the records of runs that are over, where those are kept
    /// (`Checkpoints::retain_journals`): so that a replay against another program compares them. Otherwise records have
    /// their number.
    pub fn retain_outputs(&mut self) -> &mut Self
    where
        O: Serialize,
    {
        self.show_output = Some(as_json::<O>);
        self
    }

    /// The same for the values of a side output.
    ///
    /// # Panics
    /// When the side output is another agent's.
    pub fn retain_side<V: Clone + Serialize + 'static>(&mut self, tag: Tag<V>) -> &mut Self {
        assert_eq!(tag.agent, self.id, "a side output belongs to the agent that declared it");
        let show = |value: &dyn Any| value.downcast_ref::<V>().map_or_else(String::new, as_json::<V>);
        self.sides[tag.index as usize].show = Some(show);
        self
    }

    /// Validates the agent.
    ///
    /// # Errors
    /// Everything that is wrong with it, at once.
    pub fn build(self) -> Result<Plan<I, O>, BuildErrors> {
        let mut resources = BTreeMap::new();
        let mut resource_names = Vec::new();
        for (name, factory) in self.resources {
            resource_names.push(name.clone());
            resources.insert(name, factory);
        }
        let program = Program {
            name: self.name,
            id: self.id,
            events: self.events,
            actions: self.actions,
            slots: self.slots,
            sides: self.sides,
            counters: self.counters,
            resources,
            on_open: self.on_open,
            on_drained: self.on_drained,
            on_close: self.on_close,
            limits: self.limits,
            call_timeout: self.call_timeout,
            run_timeout: self.run_timeout,
            carry: self.carry,
            divergence: self.divergence,
            signals: self.signals,
            schedules: self.schedules,
            version_change: self.version_change,
            show_output: self.show_output,
            stats: Arc::default(),
        };
        Plan::new(program, &resource_names, self.direct, self.order, self.identity)
    }
}

/// A value as JSON; what is wrong with it where it has no such form.
fn as_json<V: Serialize>(value: &V) -> String {
    serde_json::to_string(value).unwrap_or_else(|error| Value::String(error.to_string()).to_string())
}

fn bytes_of<I: Serialize>(input: &I) -> Vec<u8> {
    // An input that cannot be encoded cannot be exchanged either; it equals its like here.
    postcard::to_allocvec(input).unwrap_or_default()
}

fn sync_body<E: 'static, O: 'static>(
    action: impl Fn(&E, &Ctx<O>) -> Result<(), Error> + Send + Sync + 'static,
) -> Body<O> {
    Body::Sync(Box::new(move |event, ctx| {
        let event = event.downcast_ref::<E>().expect("the plan delivers events in the form declared");
        action(event, ctx)
    }))
}

fn async_body<E: 'static, O: 'static>(
    action: impl AsyncFn(&E, &Ctx<O>) -> Result<(), Error> + Send + Sync + 'static,
) -> Body<O> {
    let action = Arc::new(action);
    Body::Async(Box::new(move |event, ctx| {
        let action = Arc::clone(&action);
        let event = event.downcast::<E>().expect("the plan delivers events in the form declared");
        Box::pin(async move { action(&event, &ctx).await })
    }))
}

/// Compares two inputs of one key and epoch.
pub(crate) type Compare<I> = dyn Fn(&I, &I) -> Ordering + Send + Sync;
/// The codec of inputs, as of events.
pub(crate) fn codec_of<E: Serialize + DeserializeOwned + 'static>() -> Codec {
    Codec::of::<E>()
}
