//! Slots: typed places in an agent's memory, declared before the plan is built.

use std::any::type_name;
use std::fmt::{self, Debug, Formatter};
use std::marker::PhantomData;

use serde::Serialize;
use serde::de::DeserializeOwned;

use super::column::{Column, SlotColumn};
use crate::format::Format;

/// What a slot or path can hold: it is cloned when read and encoded when it becomes durable.
pub trait Remembered: Clone + Serialize + DeserializeOwned + 'static {}

impl<V: Clone + Serialize + DeserializeOwned + 'static> Remembered for V {}

/// A typed place in the memory of an agent, made by `Agent::memory` or `Agent::sensory`. It is `Copy`: actions capture it.
pub struct Slot<V> {
    pub(crate) column: u32,
    pub(crate) agent: u32,
    value: PhantomData<fn() -> V>,
}

impl<V> Slot<V> {
    pub(crate) fn new(column: u32, agent: u32) -> Self {
        Slot { column, agent, value: PhantomData }
    }
}

impl<V> Clone for Slot<V> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<V> Copy for Slot<V> {}

impl<V> Debug for Slot<V> {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        write!(f, "Slot<{}>({})", type_name::<V>(), self.column)
    }
}

/// A declared slot.
pub(crate) struct SlotPlan {
    pub(crate) name: String,
    pub(crate) sensory: bool,
    pub(crate) type_name: &'static str,
    pub(crate) format: fn() -> Format,
    make: fn(&str, bool) -> Box<dyn Column>,
}

impl SlotPlan {
    pub(crate) fn new<V: Remembered>(name: String, sensory: bool) -> Self {
        SlotPlan {
            name,
            sensory,
            type_name: type_name::<V>(),
            format: Format::of::<V>,
            make: |name, sensory| Box::new(SlotColumn::<V>::new(name, sensory)),
        }
    }

    pub(crate) fn column(&self) -> Box<dyn Column> {
        (self.make)(&self.name, self.sensory)
    }
}
