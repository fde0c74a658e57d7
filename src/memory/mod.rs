//! What a key remembers: typed slots and dynamic paths, written in place (rules S3, S4).
//!
//! Every slot is a column indexed by the key's dense id. A step writes the columns in place and logs old
//! values; so a write costs no look-up by name and a step that fails is undone from its log. When a task
//! suspends, its log is *swapped* with the columns: what it wrote leaves memory and waits in the log until
//! the task is polled again. When a step finishes inside a run that is still in flight, its old values go
//! to the run, whose end drops them and whose dead letter restores them.
//!
//! # Invariants
//! - Between tasks, columns hold finished steps only.
//! - `touched` names the column of each logged write, in order; each column's own log has the old values.
//! - Writes before `base` are final; nothing looks at them again.
//!
//! Not here: when steps begin and end (`behavior`).

mod column;
mod path;
mod slot;

use std::any::Any;
use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use timely_agents_operators::fact::{FactColumns, KeyWriter, What};
use timely_agents_operators::keys::KeyId;

pub(crate) use self::column::{Column, SlotColumn};
pub(crate) use self::path::PathColumn;
pub use self::path::PathError;
pub(crate) use self::slot::SlotPlan;
pub use self::slot::{Remembered, Slot};

/// A logged write taken out of its column: what it takes to undo it or, for a suspended task, to redo it.
pub(crate) struct Entry {
    column: u32,
    value: Box<dyn Any>,
    /// False when a flush has made the write final.
    restore: bool,
}

/// A place in memory, as a journal names it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Place {
    /// A slot, by its id in facts.
    Slot(u32),
    /// A dynamic path.
    Path {
        /// Whether it lives for the length of a run.
        sensory: bool,
        /// The path.
        path: String,
    },
}

/// A place, and what a step has written there, encoded.
pub(crate) type Write = (Place, Option<Vec<u8>>);

/// How many writes of ended runs are kept before they are forgotten.
const FORGET_AT: usize = 1 << 10;

/// The columns of one agent on one worker. The first two are the dynamic paths, short-term and sensory.
pub(crate) struct Memory {
    columns: Vec<Box<dyn Column>>,
    /// The columns that have facts: those that last.
    lasting: Vec<u32>,
    touched: Vec<u32>,
    /// Where the active run's log begins; before it lie writes of runs that have ended.
    base: usize,
    /// The keys of the writes before `base`, where these are to become facts.
    ended: Vec<KeyId>,
    /// By column: whether the log may keep writes of ended runs. Not where they are cleared, and not where values hold
    /// memory of their own.
    forgettable: Vec<bool>,
    /// Whether the active run's log has writes that are not.
    to_end: bool,
    facts: bool,
}

/// The column of short-term paths.
pub(crate) const PATHS: u32 = 0;
/// The column of sensory paths.
pub(crate) const SENSORY_PATHS: u32 = 1;

impl Memory {
    pub(crate) fn new(slots: &[SlotPlan], facts: bool) -> Self {
        let mut columns: Vec<Box<dyn Column>> = vec![Box::new(PathColumn::new(false)), Box::new(PathColumn::new(true))];
        columns.extend(slots.iter().map(SlotPlan::column));
        let lasting = [PATHS].into_iter();
        let lasting =
            lasting.chain((2..).zip(slots).filter(|(_, slot)| !slot.sensory).map(|(column, _)| column)).collect();
        let forgettable = columns.iter().map(|column| column.is_plain()).collect();
        let (touched, ended) = (Vec::new(), Vec::new());
        Memory { columns, lasting, touched, base: 0, ended, forgettable, to_end: false, facts }
    }

    pub(crate) fn touch(&self, keys: &[KeyId]) {
        for column in &self.columns {
            column.touch(keys);
        }
    }

    pub(crate) fn admit(&mut self, keys: usize) {
        for column in &mut self.columns {
            column.admit(keys);
        }
    }

    /// A column as what it is.
    #[inline]
    pub(crate) fn column<C: Column>(&self, column: u32) -> Option<&C> {
        (&*self.columns[column as usize] as &dyn Any).downcast_ref()
    }

    /// A column as what it is, for one write that the caller logs in it.
    #[inline]
    pub(crate) fn write<C: Column>(&mut self, column: u32) -> Option<&mut C> {
        let found = (&mut *self.columns[column as usize] as &mut dyn Any).downcast_mut();
        if found.is_some() {
            self.touched.push(column);
            self.to_end |= !self.forgettable[column as usize];
        }
        found
    }

    /// How many writes are logged: where a step begins.
    #[inline]
    pub(crate) fn mark(&self) -> usize {
        self.touched.len()
    }

    /// Undoes the writes since `mark`, or since the run began if that is later.
    pub(crate) fn undo_to(&mut self, mark: usize, key: KeyId) {
        while self.touched.len() > mark.max(self.base) {
            let column = self.touched.pop().expect("longer than the mark");
            self.columns[column as usize].undo(key);
        }
    }

    /// The column of the run's last logged write, which leaves the log.
    #[inline]
    fn pop(&mut self) -> Option<u32> {
        if self.touched.len() > self.base { self.touched.pop() } else { None }
    }

    /// Takes the log out and the writes with it: memory is as it was before them.
    pub(crate) fn swap_out(&mut self, key: KeyId) -> Vec<Entry> {
        let mut log = Vec::with_capacity(self.touched.len() - self.base);
        while let Some(column) = self.pop() {
            let value = self.columns[column as usize].swap_out(key);
            log.push(Entry { column, value, restore: true });
        }
        log
    }

    /// Puts a log and its writes back.
    pub(crate) fn swap_in(&mut self, log: Vec<Entry>, key: KeyId) {
        for Entry { column, value, .. } in log.into_iter().rev() {
            let writes = self.columns[column as usize].swap_in(key, value);
            self.touched.extend(std::iter::repeat_n(column, writes));
        }
    }

    /// Moves the log, as old values, behind `undo`; memory stays as it is.
    pub(crate) fn take_log(&mut self, undo: &mut Vec<Entry>) {
        let from = undo.len();
        while let Some(column) = self.pop() {
            undo.push(Entry { column, value: self.columns[column as usize].take_log(), restore: true });
        }
        undo[from..].reverse();
    }

    /// Moves the log behind `undo` and makes its writes final: nothing restores what they, or earlier writes
    /// to the same places, replaced.
    pub(crate) fn finalize(&mut self, undo: &mut Vec<Entry>) {
        let from = undo.len();
        self.take_log(undo);
        let (earlier, flushed) = undo.split_at_mut(from);
        for entry in flushed {
            entry.restore = false;
            let column = &self.columns[entry.column as usize];
            for before in earlier.iter_mut().filter(|e| e.column == entry.column) {
                if column.same_place(&*before.value, &*entry.value) {
                    before.restore = false;
                }
            }
        }
    }

    /// Ends a run whose log is all here: sensory memory is cleared, changes are noted for facts.
    #[inline]
    pub(crate) fn end_run(&mut self, key: KeyId) {
        self.to_end = false;
        while let Some(column) = self.pop() {
            self.columns[column as usize].end(key, self.facts);
        }
    }

    /// Ends a run that never waited. Where nothing needs to be done for its writes, they stay logged, before
    /// `base`, and are forgotten many at a time.
    #[inline]
    pub(crate) fn end_inline_run(&mut self, key: KeyId) {
        if self.to_end {
            self.end_run(key);
        } else {
            let end = self.touched.len();
            if self.facts {
                self.ended.resize(end, key);
            }
            self.base = end;
            if end > FORGET_AT {
                self.forget();
            }
        }
    }

    /// Forgets the writes of runs that have ended; what they have changed is noted for facts.
    #[cold]
    fn forget(&mut self) {
        debug_assert_eq!(self.base, self.touched.len(), "no run is active");
        let mut ended = &self.ended[..];
        for touched in self.touched.chunk_by(|a, b| a == b) {
            if let Some((keys, rest)) = ended.split_at_checked(touched.len()) {
                self.columns[touched[0] as usize].changed(keys);
                ended = rest;
            }
        }
        self.ended.clear();
        self.touched.clear();
        self.base = 0;
        for column in &mut self.columns {
            column.clear_log();
        }
    }

    /// Ends a run whose old values were moved out. With `restore`, its writes are dropped, but for final ones.
    pub(crate) fn end_run_with(&mut self, undo: &mut Vec<Entry>, restore: bool, key: KeyId) {
        for entry in undo.drain(..).rev() {
            let column = &mut self.columns[entry.column as usize];
            if restore && entry.restore {
                column.restore(key, entry.value);
            } else {
                column.end_taken(key, entry.value, self.facts);
            }
        }
    }

    /// Takes back all that a run has written whose old values were moved out: final writes, too.
    pub(crate) fn rewind(&mut self, undo: &mut Vec<Entry>, key: KeyId) {
        for entry in undo.drain(..).rev() {
            self.columns[entry.column as usize].restore(key, entry.value);
        }
    }

    /// What the logged writes behind `undo[from..]`, of finished steps, have made of their places.
    pub(crate) fn written(&self, undo: &[Entry], key: KeyId) -> Vec<Write> {
        let mut writes: Vec<Write> = Vec::new();
        for entry in undo {
            let column = &self.columns[entry.column as usize];
            let place = column.place(&*entry.value);
            if !writes.iter().any(|(written, _)| *written == place) {
                let value = column.encoded(key, &place);
                writes.push((place, value));
            }
        }
        writes
    }

    /// All that a key remembers from run to run, encoded.
    pub(crate) fn all(&self, key: KeyId) -> BTreeMap<What, Vec<u8>> {
        let mut all = BTreeMap::new();
        for index in &self.lasting {
            self.columns[*index as usize].values(key, &mut |what, value| drop(all.insert(what, value)));
        }
        all
    }

    /// Writes what [`Memory::written`] told, as writes of the active step.
    pub(crate) fn rewrite(&mut self, writes: Vec<Write>, key: KeyId) -> Result<(), String> {
        // What is gone goes first: a path is a value or a parent of others.
        let (gone, there): (Vec<_>, Vec<_>) = writes.into_iter().partition(|(_, value)| value.is_none());
        for (place, value) in gone.into_iter().chain(there) {
            let index = self.columns.iter().position(|column| column.has(&place));
            let index = index.ok_or_else(|| format!("the agent has no place {place:?}"))?;
            self.columns[index].rewrite(key, &place, value.as_deref())?;
            self.touched.push(index as u32);
            self.to_end |= !self.forgettable[index];
        }
        Ok(())
    }

    /// Writes what has changed of `key` since this was last asked, without what the run of `undo` has written.
    pub(crate) fn facts(&mut self, key: KeyId, undo: &[Entry], facts: &mut KeyWriter) {
        if self.base > 0 {
            self.forget();
        }
        for index in &self.lasting {
            let column = &mut self.columns[*index as usize];
            if undo.is_empty() {
                column.facts(key, &[], facts);
                continue;
            }
            let held: Vec<&dyn Any> =
                undo.iter().filter(|entry| entry.column == *index).map(|entry| &*entry.value).collect();
            column.facts(key, &held, facts);
        }
    }

    /// [`Memory::facts`] of many keys without runs in progress.
    pub(crate) fn facts_of(&mut self, keys: &[KeyId], facts: &mut FactColumns) {
        if self.base > 0 {
            self.forget();
        }
        for index in &self.lasting {
            let column = &mut self.columns[*index as usize];
            if column.has_facts() {
                column.facts_of(keys, facts.another());
            }
        }
    }

    /// Puts back the value of a fact.
    pub(crate) fn load(&mut self, key: KeyId, what: &What, value: Option<&[u8]>) -> Result<(), String> {
        match self.columns.iter_mut().find(|column| column.is(what)) {
            Some(column) => column.load(key, what, value),
            None => Err(format!("the agent has no {what}")),
        }
    }
}
