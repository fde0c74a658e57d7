//! What the calls of an action gave in earlier attempts of it: they are not made again.
//!
//! An attempt that fails and stops the job may have failed of what it was given: of an error, mostly, which it met in its
//! last turn, or before that, while a call that ended in its last turn was under way. That is asked for again, and the rest
//! is kept: it was paid for.
//!
//! # Invariants
//! - It has what was given in attempts that have failed, and in the one under way: every value of a durable call, in the
//!   order in which a call's attempts ended. A replay finds the same in the journal.
//! - What an attempt may have failed of is among what it met, or else it is all that there is.

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
    /// Whether it was of the last turn of an attempt that stopped the job, and was kept.
    spared: bool,
}

/// What a call has come to in the attempt under way. Calls begin and are met one after the other, which is counted.
#[derive(Clone, Copy, Debug)]
struct Met {
    place: u32,
    /// When it began; nothing if an earlier attempt had it.
    began: Option<u32>,
    at: u32,
    is_error: bool,
    /// Whether it was recorded before this start.
    is_recorded: bool,
}

/// See the module.
#[derive(Clone, Debug, Default)]
pub(crate) struct Memo {
    values: Vec<Remembered>,
    /// How many there were when the task took its last turn.
    marked: usize,
    met: Vec<Met>,
    count: u32,
    /// The count when the task took its last turn.
    turned: u32,
    /// How many attempts have stopped the job.
    stops: u32,
}

impl Memo {
    fn push(&mut self, ordinal: u64, asked: Rc<Asked>, value: Vec<u8>) {
        self.values.push(Remembered { ordinal, asked, value, spared: false });
    }

    /// The task takes a turn.
    pub(crate) fn mark(&mut self) {
        (self.marked, self.turned) = (self.values.len(), self.count);
    }

    /// Another attempt begins, which has met nothing.
    pub(crate) fn begin_attempt(&mut self) {
        self.met.clear();
    }

    fn next(&mut self) -> u32 {
        self.count += 1;
        self.count
    }

    /// The errors that the attempt may have failed of: those of its last turn, and those that came while a call of its last
    /// turn was under way. If no call ended then, any.
    fn errors(&self) -> impl Iterator<Item = &Met> {
        let of_last_turn = self.met.iter().filter(|met| met.at > self.turned).filter_map(|met| met.began);
        let since = of_last_turn.min().unwrap_or(0);
        self.met.iter().filter(move |met| met.is_error && met.at > since)
    }

    /// Whether the attempt may have failed of an error that was recorded before this start.
    pub(crate) fn has_recorded_errors(&self) -> bool {
        self.errors().any(|met| met.is_recorded)
    }

    /// The places of the calls that are asked for again after the attempt has stopped the job: errors that it may have
    /// failed of; without any, what its last turn was given; without that, all. Every now and then, ever more seldom, all
    /// errors are, and what last turns were given.
    pub(crate) fn suspects(&self) -> Vec<u32> {
        let fresh = |met: &&Met| met.at > self.turned && met.began.is_some();
        let last = self.met.iter().filter(fresh).map(|met| met.place);
        let mut suspects: Vec<u32> = self.errors().map(|met| met.place).collect();
        let stops = self.stops + 1;
        let patience = if suspects.is_empty() { 2 } else { 4 };
        if stops >= patience && stops.is_power_of_two() {
            suspects.extend(self.met.iter().filter(|met| met.is_error).map(|met| met.place).chain(last));
            suspects.extend(self.values.iter().filter(|value| value.spared).map(Remembered::place));
        } else if suspects.is_empty() {
            suspects.extend(last);
        }
        if suspects.is_empty() {
            suspects.extend(self.values.iter().map(Remembered::place));
        }
        suspects.sort_unstable();
        suspects.dedup();
        suspects
    }

    /// An attempt has stopped the job: the calls at these places are not remembered.
    pub(crate) fn forget(&mut self, places: &[u32]) {
        self.stops += 1;
        for value in &mut self.values[self.marked..] {
            value.spared = true;
        }
        self.values.retain(|value| !places.contains(&value.place()));
        self.marked = self.values.len();
    }

    /// The same by the rule of older versions: what was given at the last turn is not remembered; if that was nothing, nothing
    /// is.
    pub(crate) fn forget_last_turn(&mut self) {
        if self.values.len() > self.marked {
            self.values.truncate(self.marked);
        } else {
            self.values.clear();
        }
    }

    /// Takes note of what calls were given by the journal's account.
    pub(crate) fn take(&mut self, ends: &[Rc<End>]) {
        for end in ends.iter().filter(|end| end.asked.is_durable()) {
            if let Ok(Some(value)) = &end.given {
                self.push(end.ordinal, Rc::clone(&end.asked), value.clone());
            }
        }
    }

    /// What the call at this place was given last.
    pub(crate) fn find(&self, place: u32, asked: &Asked) -> Option<&[u8]> {
        let same = |r: &&Remembered| r.place() == place && r.asked.is_same(asked);
        self.values.iter().rev().find(same).map(|remembered| remembered.value.as_slice())
    }
}

impl Remembered {
    fn place(&self) -> u32 {
        place_of(self.ordinal).0
    }
}

impl TaskCell {
    /// Takes note of what a durable call was given, if the action may be tried again.
    pub(crate) fn remember(&self, ordinal: u64, asked: Option<Rc<Asked>>, value: Vec<u8>) {
        if let Some(memo) = &mut *self.memo.borrow_mut()
            && let Some(asked) = asked.filter(|asked| asked.is_durable())
        {
            memo.push(ordinal, asked, value);
        }
    }

    /// A durable call begins: when that is, by what the action meets.
    pub(crate) fn begins(&self) -> u32 {
        self.memo.borrow_mut().as_mut().map_or(0, Memo::next)
    }

    /// The action meets what a durable call has come to, which began then; nothing if an earlier attempt had it.
    pub(crate) fn meets(&self, place: u32, began: Option<u32>, is_recorded: bool, is_error: impl FnOnce() -> bool) {
        if let Some(memo) = &mut *self.memo.borrow_mut() {
            let met = Met { place, began, at: memo.next(), is_error: is_error(), is_recorded };
            memo.met.push(met);
        }
    }
}
