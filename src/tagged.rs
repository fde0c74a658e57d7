//! What leaves an agent beside its outputs: side outputs, dead letters, observed events. They share one port.

use std::any::Any;
use std::rc::Rc;

use serde::{Deserialize, Serialize};
use serde_json::Value;

/// An item of the tagged port.
#[derive(Clone)]
pub(crate) enum Tagged {
    /// A value of a side output.
    Side {
        /// The side output.
        tag: u32,
        /// The value.
        value: Rc<dyn Any>,
    },
    /// The remains of a run that failed. The input is of the agent's input type.
    Dead(Rc<DeadLetter<Rc<dyn Any>>>),
    /// An event, for observation.
    Event(Rc<EventRecord>),
}

/// The remains of a run that failed: its writes are dropped, this is what is left.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct DeadLetter<I> {
    /// The key, as text.
    pub key: String,
    /// The run's epoch.
    pub epoch: u64,
    /// The run's number among its key's runs, from 1.
    pub sequence: u64,
    /// The action that failed, or the empty string when the run took too long.
    pub action: String,
    /// How often the action was tried.
    pub attempts: u32,
    /// The last error.
    pub error: String,
    /// The input; `None` for the run of a notification.
    pub input: Option<I>,
    /// The events that the run's finished steps had sent, in order.
    pub sent: Vec<SentEvent>,
}

impl DeadLetter<Rc<dyn Any>> {
    /// The letter with its input as what it is.
    pub(crate) fn typed<I: Clone + 'static>(&self) -> DeadLetter<I> {
        let input = self.input.as_ref().and_then(|input| input.downcast_ref::<I>());
        DeadLetter {
            key: self.key.clone(),
            epoch: self.epoch,
            sequence: self.sequence,
            action: self.action.clone(),
            attempts: self.attempts,
            error: self.error.clone(),
            input: input.cloned(),
            sent: self.sent.clone(),
        }
    }
}

/// An event that a run had sent before it failed.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct SentEvent {
    /// The event's name.
    pub name: String,
    /// What it said; null when it has no JSON form.
    pub attributes: Value,
}

/// An event as observed: a step that sent it has finished.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct EventRecord {
    /// The key, as text.
    pub key: String,
    /// The run's epoch.
    pub epoch: u64,
    /// The run's number among its key's runs, from 1.
    pub sequence: u64,
    /// The event's name.
    pub name: String,
    /// The action that sent it; `None` for the run's input or notification.
    pub action: Option<String>,
    /// What it says; null when it has no JSON form, and for outputs.
    pub attributes: Value,
}
