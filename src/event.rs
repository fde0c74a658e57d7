//! Events: typed values that trigger actions, and their dynamic form.
//!
//! An event is known by its declared name, never by its Rust type's. Typed and dynamic events of one name
//! are the same event: each triggers the actions of both forms, converted through JSON.

use std::any::Any;
use std::fmt::{self, Debug, Formatter};
use std::rc::Rc;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::format::Format;

/// A typed event that actions send and that triggers others.
///
/// ```
/// use serde::{Deserialize, Serialize};
/// use timely_agents::Event;
///
/// #[derive(Serialize, Deserialize)]
/// struct Late { minutes: i32 }
///
/// impl Event for Late {
///     const NAME: &'static str = "late";
/// }
/// ```
pub trait Event: Serialize + DeserializeOwned + 'static {
    /// The event's name: one per type in an agent, stable for ever.
    const NAME: &'static str;
}

/// The names of the events that every agent has.
pub mod names {
    /// A record that came in. It triggers `on_input`.
    pub const INPUT: &str = "input";
    /// A record that goes out. It triggers nothing; it is seen among observed events.
    pub const OUTPUT: &str = "output";
    /// The end of an epoch that a key asked to be told of. It triggers `on_notify`.
    pub const NOTIFICATION: &str = "notification";
}

/// The end of an epoch that the key asked for by `notify_at`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Notification {
    /// The epoch that is over.
    pub epoch: u64,
}

impl Event for Notification {
    const NAME: &'static str = names::NOTIFICATION;
}

/// An event without a Rust type: a name and JSON-like attributes.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct DynamicEvent {
    /// The event's name.
    pub name: String,
    /// What it says.
    pub attributes: Value,
}

impl DynamicEvent {
    /// An event called `name`.
    pub fn new(name: impl Into<String>, attributes: Value) -> Self {
        DynamicEvent { name: name.into(), attributes }
    }

    /// One attribute of an object.
    pub fn get(&self, attribute: &str) -> Option<&Value> {
        self.attributes.get(attribute)
    }
}

/// What a queued event carries.
#[derive(Clone)]
pub(crate) enum Payload {
    Typed(Rc<dyn Any>),
    Dynamic(Rc<DynamicEvent>),
}

type Unpack = fn(&[u8]) -> Result<Rc<dyn Any>, String>;

/// How a typed event turns into JSON and back, and into bytes and back.
#[derive(Clone, Copy)]
pub(crate) struct Codec {
    pub(crate) encode: fn(&dyn Any) -> Result<Value, String>,
    pub(crate) decode: fn(&Value) -> Result<Rc<dyn Any>, String>,
    pub(crate) pack: fn(&dyn Any) -> Result<Vec<u8>, String>,
    pub(crate) unpack: Unpack,
    pub(crate) format: fn() -> Format,
}

impl Codec {
    pub(crate) fn of<E: Serialize + DeserializeOwned + 'static>() -> Self {
        Codec {
            format: Format::of::<E>,
            encode: |event| {
                let event = event.downcast_ref::<E>().ok_or("the event is of another type")?;
                serde_json::to_value(event).map_err(|error| error.to_string())
            },
            decode: |value| {
                let event: E = E::deserialize(value).map_err(|error| error.to_string())?;
                Ok(Rc::new(event))
            },
            pack: |event| {
                let event = event.downcast_ref::<E>().ok_or("the event is of another type")?;
                postcard::to_allocvec(event).map_err(|error| error.to_string())
            },
            unpack: |bytes| {
                let event: E = postcard::from_bytes(bytes).map_err(|error| error.to_string())?;
                Ok(Rc::new(event))
            },
        }
    }
}

/// An event of any kind, for actions that several kinds trigger.
pub struct AnyEvent {
    pub(crate) name: Rc<str>,
    pub(crate) payload: Payload,
    pub(crate) codec: Option<Codec>,
}

impl AnyEvent {
    /// The event's name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The event as an `E`, if that is its type: an input, a notification or a typed event.
    pub fn get<E: 'static>(&self) -> Option<&E> {
        match &self.payload {
            Payload::Typed(event) => event.downcast_ref(),
            Payload::Dynamic(event) => (&**event as &dyn Any).downcast_ref(),
        }
    }

    /// What the event says, as JSON.
    ///
    /// # Errors
    /// When a typed event has no JSON form, as a map whose keys are not strings.
    pub fn attributes(&self) -> Result<Value, crate::Error> {
        match (&self.payload, &self.codec) {
            (Payload::Dynamic(event), _) => Ok(event.attributes.clone()),
            (Payload::Typed(event), Some(codec)) => {
                (codec.encode)(&**event).map_err(|e| crate::Error::new(format!("event {:?}: {e}", &*self.name)))
            }
            (Payload::Typed(_), None) => Ok(Value::Null),
        }
    }
}

impl Debug for AnyEvent {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        f.debug_struct("AnyEvent").field("name", &self.name).finish_non_exhaustive()
    }
}
