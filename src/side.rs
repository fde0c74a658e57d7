//! Side outputs: streams beside the main one, each of its own type.

use std::any::Any;
use std::marker::PhantomData;

use serde::Serialize;

/// A side output of values of type `V`, made by `Agent::side`. It is `Copy`: actions capture it.
pub struct Tag<V> {
    pub(crate) index: u32,
    pub(crate) agent: u32,
    value: PhantomData<fn() -> V>,
}

impl<V> Tag<V> {
    pub(crate) fn new(index: u32, agent: u32) -> Self {
        Tag { index, agent, value: PhantomData }
    }
}

impl<V> Clone for Tag<V> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<V> Copy for Tag<V> {}

/// A declared side output.
#[derive(Debug, Serialize)]
pub(crate) struct SidePlan {
    pub(crate) name: String,
    pub(crate) type_name: &'static str,
    /// How records show a value, if they do.
    #[serde(skip)]
    pub(crate) show: Option<fn(&dyn Any) -> String>,
}
