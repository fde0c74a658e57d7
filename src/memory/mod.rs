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
//!
//! Not here: when steps begin and end (`behavior`).

mod column;
mod path;
mod slot;

use std::any::Any;

use timely_agents_operators::fact::What;
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

/// The columns of one agent on one worker. The first two are the dynamic paths, short-term and sensory.
pub(crate) struct Memory {
    columns: Vec<Box<dyn Column>>,
    touched: Vec<u32>,
    facts: bool,
    changed: bool,
}

/// The column of short-term paths.
pub(crate) const PATHS: u32 = 0;
/// The column of sensory paths.
pub(crate) const SENSORY_PATHS: u32 = 1;

impl Memory {
    pub(crate) fn new(slots: &[SlotPlan], facts: bool) -> Self {
        let mut columns: Vec<Box<dyn Column>> = vec![Box::new(PathColumn::new(false)), Box::new(PathColumn::new(true))];
        columns.extend(slots.iter().map(SlotPlan::column));
        Memory {
            columns,
            touched: Vec::new(),
            facts,
            changed: false,
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

    /// A column as what it is, for a write that is logged already.
    #[inline]
    pub(crate) fn column_mut<C: Column>(&mut self, column: u32) -> Option<&mut C> {
        (&mut *self.columns[column as usize] as &mut dyn Any).downcast_mut()
    }

    /// A column as what it is, for one write that the caller logs in it.
    #[inline]
    pub(crate) fn write<C: Column>(&mut self, column: u32) -> Option<&mut C> {
        let found = (&mut *self.columns[column as usize] as &mut dyn Any).downcast_mut();
        if found.is_some() {
            self.touched.push(column);
        }
        found
    }

    /// How many writes are logged: where a step begins.
    #[inline]
    pub(crate) fn mark(&self) -> usize {
        self.touched.len()
    }

    /// Undoes the writes since `mark`.
    pub(crate) fn undo_to(&mut self, mark: usize, key: KeyId) {
        while self.touched.len() > mark {
            let column = self.touched.pop().expect("longer than the mark");
            self.columns[column as usize].undo(key);
        }
    }

    /// Takes the log out and the writes with it: memory is as it was before them.
    pub(crate) fn swap_out(&mut self, key: KeyId) -> Vec<Entry> {
        let mut log = Vec::with_capacity(self.touched.len());
        while let Some(column) = self.touched.pop() {
            log.push(Entry {
                column,
                value: self.columns[column as usize].swap_out(key),
                restore: true,
            });
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
        while let Some(column) = self.touched.pop() {
            undo.push(Entry {
                column,
                value: self.columns[column as usize].take_log(),
                restore: true,
            });
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
        while let Some(column) = self.touched.pop() {
            self.changed |= self.columns[column as usize].end(key, self.facts);
        }
    }

    /// Ends a run whose old values were moved out. With `restore`, its writes are dropped, but for final ones.
    pub(crate) fn end_run_with(&mut self, undo: Vec<Entry>, restore: bool, key: KeyId) {
        for entry in undo.into_iter().rev() {
            let column = &mut self.columns[entry.column as usize];
            if restore && entry.restore {
                column.restore(key, entry.value);
            } else {
                self.changed |= column.end_taken(key, entry.value, self.facts);
            }
        }
    }

    pub(crate) fn take_changed(&mut self) -> bool {
        std::mem::take(&mut self.changed)
    }

    /// Hands over what has changed of `key` since this was last asked.
    pub(crate) fn facts(&mut self, key: KeyId, each: &mut dyn FnMut(What, Option<Vec<u8>>)) {
        for column in &mut self.columns {
            column.facts(key, each);
        }
    }
}
