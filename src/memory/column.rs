//! Columns: one value per key, and a log of what the current step replaced.

use std::any::Any;

use serde::Serialize;
use serde::de::DeserializeOwned;
use timely_agents_operators::fact::{FactColumn, KeyWriter, What, is_number, number_of, slot_id};
use timely_agents_operators::keys::KeyId;

use super::Place;

/// What memory asks of a column. The log is last in, first out; all of it belongs to one key.
pub(crate) trait Column: Any {
    /// Keys below `keys` exist.
    fn admit(&mut self, keys: usize);
    /// Takes back the last write.
    fn undo(&mut self, key: KeyId);
    /// Takes back the last write and gives what was written.
    fn swap_out(&mut self, key: KeyId) -> Box<dyn Any>;
    /// Writes what [`Column::swap_out`] gave; how many writes to the log that took.
    fn swap_in(&mut self, key: KeyId, written: Box<dyn Any>) -> usize;
    /// Gives what the last write replaced and forgets that it was a write.
    fn take_log(&mut self) -> Box<dyn Any>;
    /// Puts back what [`Column::take_log`] gave.
    fn restore(&mut self, key: KeyId, replaced: Box<dyn Any>);
    /// Whether two entries of this column are of one place.
    fn same_place(&self, a: &dyn Any, b: &dyn Any) -> bool;
    /// The run of the last write has ended.
    fn end(&mut self, key: KeyId, facts: bool);
    /// The same for a write that was taken out of the log.
    fn end_taken(&mut self, key: KeyId, replaced: Box<dyn Any>, facts: bool);
    /// Runs that wrote values of `keys` have ended, and what they wrote is to become facts; their logs are cleared next.
    fn changed(&mut self, keys: &[KeyId]);
    /// Hands over what has changed of `key` since last asked.
    /// `held` are old values of a run in progress, oldest first: they stand for what it has written.
    fn facts(&mut self, key: KeyId, held: &[&dyn Any], facts: &mut KeyWriter);
    /// Whether anything has changed, of whatever key, since last asked.
    fn has_facts(&self) -> bool;
    /// [`Column::facts`] of many keys without runs in progress.
    fn facts_of(&mut self, keys: &[KeyId], facts: &mut FactColumn);
    /// Whether facts about `what` are of this column.
    fn is(&self, what: &What) -> bool;
    /// Hands over all values of a key, encoded.
    fn values(&self, key: KeyId, each: &mut dyn FnMut(What, Vec<u8>));
    /// Puts back the value of a fact.
    fn load(&mut self, key: KeyId, what: &What, value: Option<&[u8]>) -> Result<(), String>;
    /// The place of an entry that was taken out of the log.
    fn place(&self, entry: &dyn Any) -> Place;
    /// Whether a place is of this column.
    fn has(&self, place: &Place) -> bool;
    /// What is at a place, encoded.
    fn encoded(&self, key: KeyId, place: &Place) -> Option<Vec<u8>>;
    /// Writes an encoded value to a place; one write to the log.
    fn rewrite(&mut self, key: KeyId, place: &Place, value: Option<&[u8]>) -> Result<(), String>;
    /// Whether values last from run to run and hold no memory of their own.
    fn is_plain(&self) -> bool;
    /// Empties the log: its writes are final.
    fn clear_log(&mut self);
    /// Brings the values of `keys` into the cache, all at once rather than one by one.
    fn touch(&self, keys: &[KeyId]);
}

/// The column of a slot.
pub(crate) struct SlotColumn<V> {
    name: String,
    what: What,
    sensory: bool,
    values: Vec<Option<V>>,
    log: Vec<Option<V>>,
    /// By key, a bit each: whether a change has not become a fact yet. Empty when no facts are wanted.
    stale: Vec<u64>,
}

impl<V: Serialize + 'static> SlotColumn<V> {
    pub(crate) fn new(name: &str, sensory: bool) -> Self {
        SlotColumn {
            name: name.into(),
            what: What::slot(name),
            sensory,
            values: Vec::new(),
            log: Vec::new(),
            stale: Vec::new(),
        }
    }

    #[inline]
    pub(crate) fn get(&self, key: KeyId) -> Option<&V> {
        self.values[key.index()].as_ref()
    }

    /// Writes; what was there goes to the log.
    #[inline]
    pub(crate) fn put(&mut self, key: KeyId, value: Option<V>) {
        let old = std::mem::replace(&mut self.values[key.index()], value);
        self.log.push(old);
    }

    /// A value, to be changed in place; a copy of what it was goes to the log.
    #[inline]
    pub(crate) fn change(&mut self, key: KeyId) -> &mut Option<V>
    where
        V: Clone,
    {
        let value = &mut self.values[key.index()];
        self.log.push(value.clone());
        value
    }

    fn pop(&mut self) -> Option<V> {
        self.log.pop().expect("a write is logged")
    }

    fn note(&mut self, key: KeyId, facts: bool) {
        if self.sensory {
            self.values[key.index()] = None;
        } else if facts {
            self.note_all(&[key]);
        }
    }

    fn note_all(&mut self, keys: &[KeyId]) {
        if self.stale.len() * 64 < self.values.len() {
            self.stale.resize(self.values.len().div_ceil(64), 0);
        }
        for key in keys {
            self.stale[key.index() / 64] |= 1 << (key.index() % 64);
        }
    }
}

/// Writes what a slot has become.
#[inline]
fn put<V: Serialize>(name: &str, what: &What, value: Option<&V>, facts: &mut KeyWriter) {
    match value {
        Some(value) => facts
            .put(what, value)
            .unwrap_or_else(|error| panic!("slot {name:?} holds a value that cannot be encoded: {error}")),
        None => facts.retire(what),
    }
}

fn value<V: 'static>(boxed: Box<dyn Any>) -> Option<V> {
    *boxed.downcast::<Option<V>>().expect("an entry of this column")
}

impl<V: Serialize + DeserializeOwned + 'static> Column for SlotColumn<V> {
    fn admit(&mut self, keys: usize) {
        self.values.resize_with(keys, || None);
    }

    fn undo(&mut self, key: KeyId) {
        self.values[key.index()] = self.pop();
    }

    fn swap_out(&mut self, key: KeyId) -> Box<dyn Any> {
        let old = self.pop();
        Box::new(std::mem::replace(&mut self.values[key.index()], old))
    }

    fn swap_in(&mut self, key: KeyId, written: Box<dyn Any>) -> usize {
        self.put(key, value(written));
        1
    }

    fn take_log(&mut self) -> Box<dyn Any> {
        Box::new(self.pop())
    }

    fn restore(&mut self, key: KeyId, replaced: Box<dyn Any>) {
        self.values[key.index()] = value(replaced);
    }

    fn same_place(&self, _: &dyn Any, _: &dyn Any) -> bool {
        true
    }

    #[inline]
    fn end(&mut self, key: KeyId, facts: bool) {
        self.log.pop();
        self.note(key, facts);
    }

    fn end_taken(&mut self, key: KeyId, _: Box<dyn Any>, facts: bool) {
        self.note(key, facts);
    }

    fn is_plain(&self) -> bool {
        !self.sensory && !std::mem::needs_drop::<V>()
    }

    fn clear_log(&mut self) {
        self.log.clear();
    }

    fn touch(&self, keys: &[KeyId]) {
        let there = keys.iter().filter(|key| self.values[key.index()].is_some()).count();
        std::hint::black_box(there);
    }

    fn changed(&mut self, keys: &[KeyId]) {
        self.note_all(keys);
    }

    fn facts(&mut self, key: KeyId, held: &[&dyn Any], facts: &mut KeyWriter) {
        let bit = 1 << (key.index() % 64);
        if let Some(stale) = self.stale.get_mut(key.index() / 64)
            && *stale & bit != 0
        {
            *stale &= !bit;
            let held = held.first().and_then(|held| held.downcast_ref::<Option<V>>());
            put(&self.name, &self.what, held.unwrap_or(&self.values[key.index()]).as_ref(), facts);
        }
    }

    fn has_facts(&self) -> bool {
        !self.stale.is_empty()
    }

    fn facts_of(&mut self, keys: &[KeyId], facts: &mut FactColumn) {
        self.touch(keys);
        let SlotColumn { name, what, values, stale, .. } = self;
        let mut changed = |key: KeyId| {
            let bit = 1 << (key.index() % 64);
            let stale = stale.get_mut(key.index() / 64).filter(|stale| **stale & bit != 0)?;
            *stale &= !bit;
            Some(values[key.index()].as_ref())
        };
        if is_number::<V>() {
            return facts.numbers(what, keys, |key| changed(key).map(|value| value.map(number_of)));
        }
        for key in keys {
            facts.key(|facts| {
                if let Some(value) = changed(*key) {
                    put(name, what, value, facts);
                }
            });
        }
    }

    fn place(&self, _: &dyn Any) -> Place {
        Place::Slot(slot_id(&self.name))
    }

    fn has(&self, place: &Place) -> bool {
        *place == Place::Slot(slot_id(&self.name))
    }

    fn encoded(&self, key: KeyId, _: &Place) -> Option<Vec<u8>> {
        self.values[key.index()].as_ref().map(|value| {
            postcard::to_allocvec(value)
                .unwrap_or_else(|error| panic!("slot {:?} holds a value that cannot be encoded: {error}", self.name))
        })
    }

    fn rewrite(&mut self, key: KeyId, _: &Place, value: Option<&[u8]>) -> Result<(), String> {
        let value = value.map(postcard::from_bytes).transpose();
        self.put(key, value.map_err(|error| format!("slot {:?}: {error}", self.name))?);
        Ok(())
    }

    fn values(&self, key: KeyId, each: &mut dyn FnMut(What, Vec<u8>)) {
        if let Some(value) = self.encoded(key, &Place::Slot(slot_id(&self.name))) {
            each(self.what.clone(), value);
        }
    }

    fn is(&self, what: &What) -> bool {
        !self.sensory && *what == self.what
    }

    fn load(&mut self, key: KeyId, _: &What, value: Option<&[u8]>) -> Result<(), String> {
        let value = value.map(postcard::from_bytes).transpose();
        self.values[key.index()] = value.map_err(|error| format!("slot {:?}: {error}", self.name))?;
        Ok(())
    }
}
