//! What the calls of an action gave in earlier attempts of it: they are not made again.
//!
//! # Invariants
//! - It has what was given in attempts that have failed, and in the one under way: every value of a durable call, in the
//!   order in which a call's attempts ended. A replay finds the same in the journal.

use std::rc::Rc;

use super::place_of;
use crate::core::TaskCell;
use crate::journal::{Asked, End};

/// A value that a durable call was given.
#[derive(Clone, Debug)]
pub(crate) struct Remembered {
    pub(crate) ordinal: u64,
    pub(crate) asked: Rc<Asked>,
    pub(crate) value: Vec<u8>,
}

/// See the module.
#[derive(Clone, Debug, Default)]
pub(crate) struct Memo {
    values: Vec<Remembered>,
    /// How many there were when the task took its last turn.
    marked: usize,
}

impl Memo {
    pub(crate) fn push(&mut self, remembered: Remembered) {
        self.values.push(remembered);
    }

    /// The task takes a turn.
    pub(crate) fn mark(&mut self) {
        self.marked = self.values.len();
    }

    /// What it was given at its last turn is not remembered: it may be why it failed. If that was nothing, it may be any
    /// other.
    pub(crate) fn forget_last_turn(&mut self) {
        if self.values.len() > self.marked {
            self.values.truncate(self.marked);
        } else {
            self.values.clear();
        }
    }

    /// Takes note of what calls were given by the journal's account.
    pub(crate) fn take(&mut self, ends: &[Rc<End>]) {
        self.values.extend(ends.iter().filter(|end| end.asked.is_durable()).filter_map(|end| {
            let value = end.given.as_ref().ok()?.clone()?;
            Some(Remembered { ordinal: end.ordinal, asked: Rc::clone(&end.asked), value })
        }));
    }

    /// What the call at this place was given last.
    pub(crate) fn find(&self, place: u32, asked: &Asked) -> Option<&[u8]> {
        let same = |r: &&Remembered| place_of(r.ordinal).0 == place && r.asked.is_same(asked);
        self.values.iter().rev().find(same).map(|remembered| remembered.value.as_slice())
    }
}

impl TaskCell {
    /// Takes note of what a durable call was given, if the action may be tried again.
    pub(crate) fn remember(&self, ordinal: u64, asked: Option<Rc<Asked>>, value: Vec<u8>) {
        if let Some(memo) = &mut *self.memo.borrow_mut()
            && let Some(asked) = asked.filter(|asked| asked.is_durable())
        {
            memo.push(Remembered { ordinal, asked, value });
        }
    }
}
