//! Actions: what the user's code is to the plan, and what can be said of each.

use std::any::Any;
use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;

use serde::Serialize;
use serde_json::Value;

use crate::ctx::Ctx;
use crate::error::Error;
use crate::policy::Policy;

pub(crate) type ActionFuture = Pin<Box<dyn Future<Output = Result<(), Error>>>>;
pub(crate) type SyncBody<O> = Box<dyn Fn(&dyn Any, &Ctx<O>) -> Result<(), Error> + Send + Sync>;
pub(crate) type AsyncBody<O> = Box<dyn Fn(Rc<dyn Any>, Ctx<O>) -> ActionFuture + Send + Sync>;

/// The user's code.
pub(crate) enum Body<O: 'static> {
    /// Runs to its end at once: no future, no allocation.
    Sync(SyncBody<O>),
    /// May suspend.
    Async(AsyncBody<O>),
}

/// In which form an action takes its event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Form {
    /// As its Rust type.
    Typed,
    /// As a [`DynamicEvent`](crate::DynamicEvent).
    Dynamic,
    /// As an [`AnyEvent`](crate::AnyEvent).
    Any,
}

/// One declared action.
pub(crate) struct Action<O: 'static> {
    pub(crate) name: String,
    /// Names of the events that trigger it.
    pub(crate) triggers: Vec<String>,
    pub(crate) form: Form,
    pub(crate) body: Body<O>,
    pub(crate) options: Options,
}

/// What is said of an action besides its code.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Options {
    pub(crate) version: u32,
    pub(crate) policy: Policy,
    pub(crate) config: Value,
    pub(crate) resources: Vec<String>,
    /// A config that could not be encoded, told by `build`.
    #[serde(skip)]
    pub(crate) fault: Option<String>,
}

impl Default for Options {
    fn default() -> Self {
        Options { version: 1, policy: Policy::Fail, config: Value::Null, resources: Vec::new(), fault: None }
    }
}

/// Says more of an action just declared.
pub struct ActionOptions<'a>(pub(crate) &'a mut Options);

impl ActionOptions<'_> {
    /// What follows when the action fails. Default: the job stops.
    pub fn on_failure(self, policy: impl Into<Policy>) -> Self {
        self.0.policy = policy.into();
        self
    }

    /// The version of the action's code, from 1. Raise it when the calls it makes change.
    pub fn version(self, version: u32) -> Self {
        self.0.version = version;
        self
    }

    /// What `ctx.config()` gives the action.
    pub fn config(self, config: impl Serialize) -> Self {
        match serde_json::to_value(config) {
            Ok(value) => self.0.config = value,
            Err(error) => self.0.fault = Some(error.to_string()),
        }
        self
    }

    /// Names a resource that the action uses; `build` refuses one that is not declared.
    pub fn uses(self, resource: impl Into<String>) -> Self {
        self.0.resources.push(resource.into());
        self
    }
}
