//! Plans: validated agents, with triggers resolved and ids fixed.

use std::any::{TypeId, type_name};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::{self, Debug, Display, Formatter};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use serde::Serialize;
use serde::de::DeserializeOwned;
use serde::ser::{SerializeStruct, Serializer};
use timely_agents_operators::hash::{mix, stable_hash};
use timely_agents_operators::limits::Limits;
use timely_agents_operators::stats::RunStats;

use crate::action::{Action, Body};
use crate::agent::{Compare, Hook, Input, OpenHook, codec_of};
use crate::ctx::Ctx;
use crate::error::Error;
use crate::event::{Codec, names};
use crate::memory::SlotPlan;
use crate::policy::{Divergence, Exhausted, Policy};
use crate::resource::Factory;
use crate::side::SidePlan;
use crate::signal::SignalPlan;
use crate::stats::AgentStats;
use crate::versions::VersionChange;

pub(crate) type Order<I> = Box<Compare<I>>;
pub(crate) type Identity<I> = Box<dyn Fn(&I) -> u64 + Send + Sync>;

/// A sync action of inputs.
pub(crate) type DirectBody<I, O> = Arc<DirectFn<I, O>>;

/// The same where it stands.
pub(crate) type DirectFn<I, O> = dyn Fn(&I, &Ctx<O>) -> Result<(), Error> + Send + Sync;

/// The event id of inputs.
pub(crate) const INPUT: u32 = 0;
/// The event id of notifications.
pub(crate) const NOTIFICATION: u32 = 1;

/// One thing that is wrong with an agent.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BuildError {
    /// A name is empty.
    #[error("{what} number {number} has an empty name")]
    EmptyName {
        /// What has no name: agent, action, slot, ...
        what: &'static str,
        /// Which, counted from 1 in order of declaration.
        number: usize,
    },
    /// A name is given twice.
    #[error("{what} {name:?} is declared twice")]
    DuplicateName {
        /// What has the name.
        what: &'static str,
        /// The name.
        name: String,
    },
    /// Two event types have one name.
    #[error("event {name:?} is declared by two types, {first} and {second}")]
    EventTypes {
        /// The name.
        name: String,
        /// The type that was declared first.
        first: &'static str,
        /// The other type.
        second: &'static str,
    },
    /// An event has a name that every agent uses.
    #[error("event type {type_name} takes the reserved name {name:?}")]
    ReservedName {
        /// The name.
        name: String,
        /// The event's type.
        type_name: &'static str,
    },
    /// No event triggers an action.
    #[error("action {action:?} has no trigger: name at least one event")]
    NoTrigger {
        /// The action.
        action: String,
    },
    /// Outputs trigger nothing.
    #[error("action {action:?} is triggered by {event:?}, but outputs trigger nothing; send an event instead")]
    OutputTrigger {
        /// The action.
        action: String,
        /// The event.
        event: String,
    },
    /// An action uses a resource that is not declared.
    #[error("action {action:?} uses resource {resource:?}, which is not declared")]
    UnknownResource {
        /// The action.
        action: String,
        /// The resource.
        resource: String,
    },
    /// A limit stops all work.
    #[error("limit {limit} is 0: nothing could ever run")]
    BadLimit {
        /// The limit.
        limit: String,
    },
    /// A retry without attempts.
    #[error("action {action:?} is retried with 0 attempts: give at least 1")]
    NoAttempts {
        /// The action.
        action: String,
    },
    /// An action's configuration cannot be encoded.
    #[error("the config of action {action:?} has no JSON form: {error}")]
    Config {
        /// The action.
        action: String,
        /// Why.
        error: String,
    },
    /// A wait may last for ever while its epoch is held open.
    #[error("calls have no timeout: a wait without bound would hold its epoch open for ever; set `call_timeout`")]
    UnboundedWait,
    /// A wait for a signal may last for ever while its epoch is held open.
    #[error(
        "signal {signal:?} is waited for without bound, which would hold an epoch open for ever: give it one with \
         `within`, or let the agent `carry`"
    )]
    UnboundedSignal {
        /// The signal.
        signal: String,
    },
    /// An event is scheduled, and its epoch would be held open until then.
    #[error("event {event:?} is scheduled, which would hold its epoch open until then: let the agent `carry`")]
    HeldSchedule {
        /// The event.
        event: String,
    },
}

/// All that is wrong with an agent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BuildErrors {
    /// The agent's name.
    pub agent: String,
    /// What is wrong, in order of declaration.
    pub errors: Vec<BuildError>,
}

impl Display for BuildErrors {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        write!(f, "agent {:?} cannot be built: ", self.agent)?;
        for (i, error) in self.errors.iter().enumerate() {
            write!(f, "{}{error}", if i > 0 { "; " } else { "" })?;
        }
        Ok(())
    }
}

impl std::error::Error for BuildErrors {}

/// A declared event, and the actions it triggers.
pub(crate) struct EventPlan {
    pub(crate) name: String,
    pub(crate) type_id: Option<TypeId>,
    type_name: &'static str,
    pub(crate) codec: Option<Codec>,
    /// Indexes of actions, in plan order.
    pub(crate) triggers: Vec<u32>,
}

impl EventPlan {
    pub(crate) fn typed<E: Serialize + DeserializeOwned + 'static>(name: &str) -> Self {
        EventPlan {
            name: name.into(),
            type_id: Some(TypeId::of::<E>()),
            type_name: type_name::<E>(),
            codec: Some(codec_of::<E>()),
            triggers: Vec::new(),
        }
    }

    fn dynamic(name: &str) -> Self {
        EventPlan { name: name.into(), type_id: None, type_name: "DynamicEvent", codec: None, triggers: Vec::new() }
    }
}

/// What runs need of a plan; it does not depend on the type of inputs.
pub(crate) struct Program<O: 'static> {
    pub(crate) name: String,
    pub(crate) id: u32,
    pub(crate) events: Vec<EventPlan>,
    pub(crate) actions: Vec<Action<O>>,
    pub(crate) slots: Vec<SlotPlan>,
    pub(crate) sides: Vec<SidePlan>,
    pub(crate) counters: Vec<String>,
    pub(crate) resources: BTreeMap<String, Factory>,
    pub(crate) on_open: Option<OpenHook>,
    pub(crate) on_drained: Option<Hook>,
    pub(crate) on_close: Option<Hook>,
    pub(crate) limits: Limits,
    pub(crate) call_timeout: Option<Duration>,
    pub(crate) run_timeout: Option<(Duration, Exhausted)>,
    /// Whether epochs close without waiting for unfinished runs.
    pub(crate) carry: bool,
    pub(crate) divergence: Divergence,
    pub(crate) signals: Vec<SignalPlan>,
    /// The types of events that are scheduled.
    pub(crate) schedules: Vec<TypeId>,
    pub(crate) version_change: VersionChange,
    /// How records show an output, if they do.
    pub(crate) show_output: Option<fn(&O) -> String>,
    pub(crate) stats: Arc<Mutex<AgentStats>>,
}

impl<O> Program<O> {
    fn check(&self, resource_names: &[String]) -> Vec<BuildError> {
        let mut errors = Vec::new();
        let mut names = |what: &'static str, names: &mut dyn Iterator<Item = &String>| {
            let mut seen = BTreeSet::new();
            for (i, name) in names.enumerate() {
                if name.trim().is_empty() {
                    errors.push(BuildError::EmptyName { what, number: i + 1 });
                } else if !seen.insert(name) {
                    errors.push(BuildError::DuplicateName { what, name: name.clone() });
                }
            }
        };
        names("agent", &mut std::iter::once(&self.name));
        names("action", &mut self.actions.iter().map(|a| &a.name));
        names("memory slot", &mut self.slots.iter().map(|s| &s.name));
        names("side output", &mut self.sides.iter().map(|s| &s.name));
        names("counter", &mut self.counters.iter());
        names("resource", &mut resource_names.iter());
        names("signal", &mut self.signals.iter().map(|s| &s.name));
        for (i, event) in self.events.iter().enumerate() {
            if event.name.trim().is_empty() {
                errors.push(BuildError::EmptyName { what: "event", number: i - 1 });
            } else if i > 1 && [names::INPUT, names::OUTPUT, names::NOTIFICATION].contains(&event.name.as_str()) {
                let type_name = event.type_name;
                errors.push(BuildError::ReservedName { name: event.name.clone(), type_name });
            } else if let Some(first) = self.events[..i].iter().find(|e| e.name == event.name) {
                errors.push(BuildError::EventTypes {
                    name: event.name.clone(),
                    first: first.type_name,
                    second: event.type_name,
                });
            }
        }
        for action in &self.actions {
            if action.triggers.is_empty() || action.triggers.iter().any(|t| t.trim().is_empty()) {
                errors.push(BuildError::NoTrigger { action: action.name.clone() });
            }
            if action.triggers.iter().any(|t| t == names::OUTPUT) {
                errors.push(BuildError::OutputTrigger { action: action.name.clone(), event: names::OUTPUT.into() });
            }
            for resource in action.options.resources.iter().filter(|r| !self.resources.contains_key(*r)) {
                errors.push(BuildError::UnknownResource { action: action.name.clone(), resource: resource.clone() });
            }
            if matches!(&action.options.policy, Policy::Retry(retry) if retry.attempts == 0) {
                errors.push(BuildError::NoAttempts { action: action.name.clone() });
            }
            if let Some(error) = &action.options.fault {
                errors.push(BuildError::Config { action: action.name.clone(), error: error.clone() });
            }
        }
        let faults = self.limits.faults();
        errors.extend(faults.into_iter().map(|limit| BuildError::BadLimit { limit: limit.into() }));
        if self.call_timeout.is_some_and(|t| t.is_zero()) {
            errors.push(BuildError::BadLimit { limit: "call_timeout".into() });
        }
        if self.run_timeout.is_some_and(|(t, _)| t.is_zero()) {
            errors.push(BuildError::BadLimit { limit: "run_timeout".into() });
        }
        if self.call_timeout.is_none() && !self.carry {
            errors.push(BuildError::UnboundedWait);
        }
        if !self.carry {
            let unbounded = self.signals.iter().filter(|signal| signal.bound.is_none());
            errors.extend(unbounded.map(|signal| BuildError::UnboundedSignal { signal: signal.name.clone() }));
            let scheduled = self.events.iter().filter(|e| e.type_id.is_some_and(|id| self.schedules.contains(&id)));
            errors.extend(scheduled.map(|event| BuildError::HeldSchedule { event: event.name.clone() }));
        }
        if self.signals.iter().any(|signal| signal.bound.is_some_and(|bound| bound.is_zero())) {
            errors.push(BuildError::BadLimit { limit: "within".into() });
        }
        errors
    }

    /// Fixes the ids of events and resolves triggers.
    fn resolve(&mut self) {
        for index in 0..self.actions.len() {
            let mut triggers = self.actions[index].triggers.clone();
            triggers.sort();
            triggers.dedup();
            for name in triggers {
                let event = match self.events.iter().position(|e| e.name == name) {
                    Some(event) => event,
                    None => {
                        self.events.push(EventPlan::dynamic(&name));
                        self.events.len() - 1
                    }
                };
                self.events[event].triggers.push(index as u32);
            }
        }
    }

    /// The event that is sent as a value of a type. Inputs, the first, are not sent: where the input's type is
    /// an event's as well, sending it is sending that event.
    pub(crate) fn event_of_type(&self, id: TypeId) -> Option<u32> {
        let mut events = self.events.iter().skip(1);
        events.position(|e| e.type_id == Some(id)).map(|i| i as u32 + 1)
    }

    pub(crate) fn event_of_name(&self, name: &str) -> Option<u32> {
        self.events.iter().position(|e| e.name == name).map(|i| i as u32)
    }

    pub(crate) fn triggers(&self, event: u32) -> &[u32] {
        self.events.get(event as usize).map_or(&[], |e| &e.triggers)
    }

    pub(crate) fn action(&self, action: u32) -> &Action<O> {
        &self.actions[action as usize]
    }
}

/// A validated agent. Clones are handles of the same plan.
pub struct Plan<I: 'static, O: 'static>(pub(crate) Arc<Inner<I, O>>);

pub(crate) struct Inner<I: 'static, O: 'static> {
    pub(crate) program: Arc<Program<O>>,
    pub(crate) order: Option<Order<I>>,
    pub(crate) identity: Option<Identity<I>>,
    /// The actions of inputs, if all are sync and take the input as its type: then no input is boxed.
    pub(crate) direct: Option<Vec<(u32, DirectBody<I, O>)>>,
    /// Whether a dead letter may have to tell what its run has sent.
    pub(crate) keeps_sent: bool,
}

impl<I: Input, O> Inner<I, O> {
    /// What an input is known by among those of its key.
    pub(crate) fn digest(&self, input: &I) -> u64 {
        match &self.identity {
            Some(identify) => mix(1, identify(input)),
            None => stable_hash(input),
        }
    }
}

impl<I, O> Clone for Plan<I, O> {
    fn clone(&self) -> Self {
        Plan(Arc::clone(&self.0))
    }
}

impl<I, O> Plan<I, O> {
    pub(crate) fn new(
        mut program: Program<O>,
        resource_names: &[String],
        direct: Vec<(u32, DirectBody<I, O>)>,
        order: Option<Order<I>>,
        identity: Option<Identity<I>>,
    ) -> Result<Self, BuildErrors> {
        let errors = program.check(resource_names);
        if !errors.is_empty() {
            return Err(BuildErrors { agent: program.name, errors });
        }
        program.resolve();
        let direct = (direct.len() == program.triggers(INPUT).len()).then_some(direct);
        let keeps_sent = program.run_timeout.is_some_and(|(_, then)| then == Exhausted::DeadLetter)
            || program.actions.iter().any(|a| match &a.options.policy {
                Policy::DeadLetter => true,
                Policy::Retry(retry) => retry.then == Exhausted::DeadLetter,
                Policy::Fail | Policy::Ignore => false,
            });
        Ok(Plan(Arc::new(Inner { program: Arc::new(program), order, identity, direct, keeps_sent })))
    }

    /// The agent's name.
    pub fn name(&self) -> &str {
        &self.0.program.name
    }

    /// What the agent has done in this process, as far as its workers have ended.
    pub fn stats(&self) -> AgentStats {
        self.0.program.stats.lock().map(|stats| stats.clone()).unwrap_or_default()
    }

    /// Adds what one worker's runs were to the agent's counts.
    pub(crate) fn run_stats(&self) -> Box<dyn Fn(&RunStats)> {
        let stats = Arc::clone(&self.0.program.stats);
        Box::new(move |runs| {
            if let Ok(mut stats) = stats.lock() {
                stats.runs.merge(runs);
            }
        })
    }

    /// The bounds of what the agent holds on each worker.
    pub fn limits(&self) -> Limits {
        self.0.program.limits
    }
}

impl<I, O> Display for Plan<I, O> {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let program = &self.0.program;
        writeln!(f, "agent {}", program.name)?;
        for event in &program.events {
            for action in event.triggers.iter().map(|a| program.action(*a)) {
                let kind = if matches!(action.body, Body::Sync(_)) { "" } else { " async" };
                let options = &action.options;
                writeln!(f, "  {} ->{kind} {} v{} ({})", event.name, action.name, options.version, options.policy)?;
            }
        }
        for slot in &program.slots {
            let kind = if slot.sensory { "sensory" } else { "memory" };
            writeln!(f, "  {kind} {}: {}", slot.name, slot.type_name)?;
        }
        for side in &program.sides {
            writeln!(f, "  side {}: {}", side.name, side.type_name)?;
        }
        for resource in program.resources.keys() {
            writeln!(f, "  resource {resource}")?;
        }
        for signal in &program.signals {
            writeln!(f, "  signal {}: {}", signal.name, signal.type_name)?;
        }
        Ok(())
    }
}

impl<I, O> Debug for Plan<I, O> {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        Display::fmt(self, f)
    }
}

/// How an action stands in a printed plan.
#[derive(Serialize)]
struct ActionView<'a> {
    name: &'a str,
    triggers: &'a [String],
    kind: &'static str,
    #[serde(flatten)]
    options: &'a crate::action::Options,
}

#[derive(Serialize)]
struct SlotView<'a> {
    name: &'a str,
    sensory: bool,
    r#type: &'a str,
}

impl<I, O> Serialize for Plan<I, O> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let program = &self.0.program;
        let actions: Vec<ActionView<'_>> = program
            .actions
            .iter()
            .map(|a| ActionView {
                name: &a.name,
                triggers: &a.triggers,
                kind: if matches!(a.body, Body::Sync(_)) { "sync" } else { "async" },
                options: &a.options,
            })
            .collect();
        let slots: Vec<SlotView<'_>> =
            program.slots.iter().map(|s| SlotView { name: &s.name, sensory: s.sensory, r#type: s.type_name }).collect();
        let mut plan = serializer.serialize_struct("Plan", 9)?;
        plan.serialize_field("name", &program.name)?;
        plan.serialize_field("actions", &actions)?;
        plan.serialize_field("memory", &slots)?;
        plan.serialize_field("sides", &program.sides)?;
        plan.serialize_field("counters", &program.counters)?;
        plan.serialize_field("resources", &program.resources.keys().collect::<Vec<_>>())?;
        plan.serialize_field("limits", &program.limits)?;
        plan.serialize_field("call_timeout_ms", &program.call_timeout.map(|t| t.as_millis() as u64))?;
        plan.serialize_field("run_timeout_ms", &program.run_timeout.map(|(t, _)| t.as_millis() as u64))?;
        plan.end()
    }
}
