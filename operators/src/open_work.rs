//! Unfinished work by time, and the least times of it (rule S5).
//!
//! An operator may hold a capability for every open time, but each change of the least one then costs
//! timely a scan of all. So one capability per *minimal* open time is held, and this is the count of
//! what is open, from which those times follow.
//!
//! Epochs mostly open and close in order, so they lie in a row: the first and the last are found at once. One that closes
//! before others leaves an empty place.
//!
//! # Invariants
//! - Every count is positive: a time without work is not open.
//! - The first place and the last are not empty, nor are most places of a long row.
//! - [`OpenWork::minimal`] is an antichain, and each open time is at or beyond one of its elements.
//!
//! Not here: capabilities (`capabilities`), which only the operator holds.

use std::collections::{BTreeMap, VecDeque};

use crate::time::{EpochTime, TimeOrder};

/// So many places may be empty, whatever the others are.
const EMPTY: usize = 64;

/// Counts of unfinished work by time.
#[derive(Debug)]
pub struct OpenWork<T> {
    /// Ascending.
    epochs: VecDeque<(u64, Option<Times<T>>)>,
    /// How many of them are empty.
    empty: usize,
    times: usize,
    changed: bool,
}

/// The open times of an epoch. Mostly there is one.
#[derive(Debug)]
enum Times<T> {
    One(T, u64),
    Many(BTreeMap<T, u64>),
}

impl<T: EpochTime> Times<T> {
    /// Counts `n` more pieces of work; whether the time was not open before.
    fn add(&mut self, time: &T, n: u64) -> bool {
        match self {
            Times::One(open, count) if open == time => {
                *count += n;
                false
            }
            Times::One(open, count) => {
                *self = Times::Many(BTreeMap::from([(open.clone(), *count), (time.clone(), n)]));
                true
            }
            Times::Many(times) => match times.get_mut(time) {
                Some(count) => {
                    *count += n;
                    false
                }
                None => times.insert(time.clone(), n).is_none(),
            },
        }
    }

    /// Takes away `n` pieces of work; whether none are left at that time, and at any.
    fn remove(&mut self, time: &T, n: u64) -> (bool, bool) {
        let count = match self {
            Times::One(open, count) if open == time => Some(count),
            Times::One(..) => None,
            Times::Many(times) => times.get_mut(time),
        };
        let count = count.expect("work ends at an open time");
        *count = count.checked_sub(n).expect("work ends once");
        if *count > 0 {
            return (false, false);
        }
        match self {
            Times::One(..) => (true, true),
            Times::Many(times) => {
                times.remove(time);
                (true, times.is_empty())
            }
        }
    }

    fn len(&self) -> usize {
        match self {
            Times::One(..) => 1,
            Times::Many(times) => times.len(),
        }
    }

    /// In order.
    fn iter(&self) -> impl Iterator<Item = (&T, u64)> {
        let (one, many) = match self {
            Times::One(time, count) => (Some((time, *count)), None),
            Times::Many(times) => (None, Some(times)),
        };
        one.into_iter().chain(many.into_iter().flatten().map(|(time, count)| (time, *count)))
    }

    fn first(&self) -> Option<&T> {
        match self {
            Times::One(time, _) => Some(time),
            Times::Many(times) => times.keys().next(),
        }
    }
}

impl<T> Default for OpenWork<T> {
    fn default() -> Self {
        OpenWork { epochs: VecDeque::new(), empty: 0, times: 0, changed: false }
    }
}

impl<T: EpochTime> OpenWork<T> {
    /// Counts `n` more pieces of work at `time`.
    pub fn add(&mut self, time: &T, n: u64) {
        if n == 0 {
            return;
        }
        let new = match self.find(time.epoch()) {
            Ok(at) => match &mut self.epochs[at].1 {
                Some(times) => times.add(time, n),
                empty => {
                    *empty = Some(Times::One(time.clone(), n));
                    self.empty -= 1;
                    true
                }
            },
            Err(at) => {
                self.epochs.insert(at, (time.epoch(), Some(Times::One(time.clone(), n))));
                true
            }
        };
        if new {
            self.times += 1;
            self.changed = true;
        }
    }

    /// Where an epoch is, or would be.
    #[inline]
    fn find(&self, epoch: u64) -> Result<usize, usize> {
        match (self.epochs.front(), self.epochs.back()) {
            (_, Some((last, _))) if *last == epoch => Ok(self.epochs.len() - 1),
            (_, Some((last, _))) if *last < epoch => Err(self.epochs.len()),
            (Some((first, _)), _) if *first == epoch => Ok(0),
            _ => self.epochs.binary_search_by_key(&epoch, |(epoch, _)| *epoch),
        }
    }

    /// Nothing is open of the epoch at that place any more.
    fn close(&mut self, at: usize) {
        self.epochs[at].1 = None;
        self.empty += 1;
        while self.epochs.front().is_some_and(|(_, times)| times.is_none()) {
            self.epochs.pop_front();
            self.empty -= 1;
        }
        while self.epochs.back().is_some_and(|(_, times)| times.is_none()) {
            self.epochs.pop_back();
            self.empty -= 1;
        }
        if self.empty > EMPTY.max(self.epochs.len() / 2) {
            self.epochs.retain(|(_, times)| times.is_some());
            self.empty = 0;
        }
    }

    /// Takes away `n` finished pieces of work at `time`.
    ///
    /// # Panics
    /// When fewer than `n` are open there: work would end twice.
    pub fn remove(&mut self, time: &T, n: u64) {
        if n == 0 {
            return;
        }
        let at = self.find(time.epoch()).ok();
        let open = at.and_then(|at| Some((at, self.epochs[at].1.as_mut()?)));
        let (at, times) = open.expect("work ends at an open epoch");
        let (over, none) = times.remove(time, n);
        if none {
            self.close(at);
        }
        if over {
            self.times -= 1;
            self.changed = true;
        }
    }

    /// Takes away all work of an epoch.
    pub fn clear_epoch(&mut self, epoch: u64) {
        if let Ok(at) = self.find(epoch)
            && let Some(times) = &self.epochs[at].1
        {
            self.times -= times.len();
            self.changed = true;
            self.close(at);
        }
    }

    /// Moves all work of earlier epochs to `epoch`.
    pub fn carry_to(&mut self, epoch: u64) {
        let earlier = self.epochs.partition_point(|(of, _)| *of < epoch);
        let carried: Vec<Times<T>> = self.epochs.drain(..earlier).filter_map(|(_, times)| times).collect();
        self.empty -= earlier - carried.len();
        for times in carried {
            self.times -= times.len();
            for (time, n) in times.iter() {
                self.add(&time.with_epoch(epoch), n);
            }
            self.changed = true;
        }
    }

    fn open_epochs(&self) -> impl Iterator<Item = &Times<T>> {
        self.epochs.iter().filter_map(|(_, times)| times.as_ref())
    }

    /// Whether nothing is open.
    pub fn is_empty(&self) -> bool {
        self.times == 0
    }

    /// The number of distinct open times.
    pub fn times(&self) -> usize {
        self.times
    }

    /// The least open epoch.
    pub fn least_epoch(&self) -> Option<u64> {
        self.epochs.front().map(|(epoch, _)| *epoch)
    }

    /// Whether the set of open times has changed since this was last asked.
    pub fn take_changed(&mut self) -> bool {
        std::mem::take(&mut self.changed)
    }

    /// Writes the minimal open times to `into`, replacing what it holds.
    pub fn minimal(&self, into: &mut Vec<T>) {
        into.clear();
        match T::ORDER {
            TimeOrder::Total => {
                into.extend(self.open_epochs().next().and_then(Times::first).cloned());
            }
            TimeOrder::TotalWithinEpoch => {
                for times in self.open_epochs() {
                    into.extend(times.first().filter(|t| !dominated(into, t)).cloned());
                }
            }
            TimeOrder::Partial => {
                for (time, _) in self.open_epochs().flat_map(Times::iter) {
                    if !dominated(into, time) {
                        into.retain(|t| !time.less_equal(t));
                        into.push(time.clone());
                    }
                }
            }
        }
        debug_assert!(into.iter().all(|a| into.iter().all(|b| a == b || !a.less_equal(b))), "an antichain");
    }
}

fn dominated<T: EpochTime>(minimal: &[T], time: &T) -> bool {
    minimal.iter().any(|m| m.less_equal(time))
}

#[cfg(test)]
mod tests {
    use timely::order::Product;

    use super::*;
    use crate::time::Stamp;

    fn minimal<T: EpochTime>(open: &OpenWork<T>) -> Vec<T> {
        let mut times = Vec::new();
        open.minimal(&mut times);
        times
    }

    #[test]
    fn total_orders_have_one_least_time() {
        let mut open = OpenWork::default();
        for time in [7u64, 3, 9, 3] {
            open.add(&time, 1);
        }
        assert_eq!(minimal(&open), [3]);
        open.remove(&3, 1);
        assert_eq!(minimal(&open), [3], "one of two is still open");
        open.remove(&3, 1);
        assert_eq!(minimal(&open), [7]);
        assert_eq!(open.times(), 2);
    }

    #[test]
    fn stamps_have_an_antichain() {
        let mut open = OpenWork::default();
        for (epoch, event) in [(1, 50), (2, 40), (2, 45), (3, 60), (4, 10)] {
            open.add(&Stamp::new(epoch, event), 1);
        }
        assert_eq!(minimal(&open), [Stamp::new(1, 50), Stamp::new(2, 40), Stamp::new(4, 10)]);
    }

    #[test]
    fn products_have_an_antichain() {
        let mut open = OpenWork::default();
        for (outer, inner) in [(0u64, 5u64), (0, 3), (1, 1), (1, 4)] {
            open.add(&Product::new(outer, inner), 1);
        }
        assert_eq!(minimal(&open), [Product::new(0, 3), Product::new(1, 1)]);
    }

    #[test]
    fn carried_work_keeps_its_event_times() {
        let mut open = OpenWork::default();
        for (epoch, event) in [(1, 50), (2, 40), (2, 50), (3, 60)] {
            open.add(&Stamp::new(epoch, event), 1);
        }
        open.carry_to(3);
        assert_eq!(minimal(&open), [Stamp::new(3, 40)]);
        open.remove(&Stamp::new(3, 40), 1);
        open.remove(&Stamp::new(3, 50), 2);
        assert_eq!((minimal(&open), open.times()), (vec![Stamp::new(3, 60)], 1));
    }

    #[test]
    fn epochs_that_close_in_any_order_leave_little_behind() {
        let mut open = OpenWork::default();
        let mut model = BTreeMap::<u64, u64>::new();
        let mut dice = 7u64;
        for step in 0..20_000u64 {
            dice = dice.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            let (roll, which) = (dice >> 60, dice >> 33);
            let at = model.keys().nth(which as usize % model.len().max(1)).copied();
            match at.filter(|_| roll < 7 || model.len() > 400) {
                Some(epoch) => {
                    open.remove(&epoch, 1);
                    let count = model.get_mut(&epoch).unwrap();
                    *count -= 1;
                    if *count == 0 {
                        model.remove(&epoch);
                    }
                }
                None => {
                    let epoch = if roll == 15 { which % (step + 1) } else { step };
                    open.add(&epoch, 1);
                    *model.entry(epoch).or_default() += 1;
                }
            }
            assert_eq!(open.times(), model.len());
            assert_eq!(minimal(&open), model.keys().take(1).copied().collect::<Vec<_>>());
            assert_eq!(open.least_epoch(), model.keys().next().copied());
            assert!(open.epochs.len() <= EMPTY + 1 + 2 * model.len() + 1, "{} places", open.epochs.len());
            assert_eq!(open.epochs.iter().filter(|(_, times)| times.is_none()).count(), open.empty);
        }
        let middle = model.keys().nth(model.len() / 2).copied().unwrap();
        let earlier: u64 = model.range(..middle).map(|(_, n)| n).sum();
        open.carry_to(middle);
        assert_eq!((open.least_epoch(), open.times()), (Some(middle), model.range(middle..).count()));
        open.remove(&middle, model[&middle] + earlier);
        open.clear_epoch(*model.keys().last().unwrap());
        assert_eq!(open.times(), model.range(middle..).count() - 2);
    }

    #[test]
    #[should_panic(expected = "work ends once")]
    fn work_does_not_end_twice() {
        let mut open = OpenWork::default();
        open.add(&1u64, 1);
        open.remove(&1, 2);
    }
}
