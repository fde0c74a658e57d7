//! Times whose epoch is the unit of completion.
//!
//! [`EpochTime`] is implemented for `u64`, `u32`, [`Stamp`] and, for agents in nested scopes,
//! `Product<u64, _>`. Implement it for a timestamp of your own to run agents over it.
//!
//! # Invariants
//! - `s.less_equal(t)` implies `s.epoch() <= t.epoch()`.
//! - `t.with_epoch(e).epoch() == e` for `e >= t.epoch()`, and `t.less_equal(&t.with_epoch(e))`.

use std::fmt::{self, Debug, Formatter};

use differential_dataflow::lattice::Lattice;
use serde::{Deserialize, Serialize};
use timely::order::{PartialOrder, Product};
use timely::progress::Timestamp;
use timely::progress::timestamp::{PathSummary, Refines};

/// What is known of the order of two times, `Ord` agreeing with it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TimeOrder {
    /// Any two times are comparable: there is one least open time.
    Total,
    /// Two times of one epoch are comparable: there is one least open time in each epoch.
    TotalWithinEpoch,
    /// Nothing is known beyond the partial order.
    Partial,
}

/// A timestamp with an epoch: the coordinate whose closing completes a unit of work (rule S5).
pub trait EpochTime: Timestamp {
    /// How far the times that an agent holds open are comparable; finding the least ones gets cheaper with it.
    const ORDER: TimeOrder;

    /// The epoch of this time.
    fn epoch(&self) -> u64;

    /// The event time of this time; the epoch where time has no other coordinate.
    fn event_time(&self) -> u64 {
        self.epoch()
    }

    /// This time moved to `epoch`, or `self` when `epoch` lies in its past.
    fn with_epoch(&self, epoch: u64) -> Self;

    /// The least time that is at or after both, as far as this type of time knows one: unless it says otherwise, the
    /// greater of the two by `Ord`, moved to the later epoch.
    fn after_both(&self, other: &Self) -> Self {
        let epoch = self.epoch().max(other.epoch());
        self.max(other).with_epoch(epoch)
    }
}

impl EpochTime for u64 {
    const ORDER: TimeOrder = TimeOrder::Total;

    #[inline]
    fn epoch(&self) -> u64 {
        *self
    }

    #[inline]
    fn with_epoch(&self, epoch: u64) -> Self {
        epoch.max(*self)
    }
}

impl EpochTime for u32 {
    const ORDER: TimeOrder = TimeOrder::Total;

    #[inline]
    fn epoch(&self) -> u64 {
        u64::from(*self)
    }

    /// Epochs beyond `u32::MAX` saturate: no later time exists in this type.
    #[inline]
    fn with_epoch(&self, epoch: u64) -> Self {
        u32::try_from(epoch).unwrap_or(u32::MAX).max(*self)
    }
}

impl<I: Timestamp> EpochTime for Product<u64, I> {
    const ORDER: TimeOrder = TimeOrder::Partial;

    fn epoch(&self) -> u64 {
        self.outer
    }

    fn with_epoch(&self, epoch: u64) -> Self {
        Product::new(epoch.max(self.outer), self.inner.clone())
    }
}

/// An epoch and an event time, ordered by both: one frontier says what is durable and what is complete.
///
/// Unlike timely's `Product` it refines `()`, so it can head a dataflow.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
pub struct Stamp {
    /// When the record entered: the unit of completion and of checkpoints.
    pub epoch: u64,
    /// When what the record tells happened.
    pub event: u64,
}

impl Stamp {
    /// The time at `epoch` and `event`.
    pub fn new(epoch: u64, event: u64) -> Self {
        Stamp { epoch, event }
    }
}

impl Debug for Stamp {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        write!(f, "({}, {})", self.epoch, self.event)
    }
}

impl PartialOrder for Stamp {
    #[inline]
    fn less_equal(&self, other: &Self) -> bool {
        self.epoch <= other.epoch && self.event <= other.event
    }
}

/// How far a path advances each coordinate of a [`Stamp`].
impl PathSummary<Stamp> for Stamp {
    #[inline]
    fn results_in(&self, time: &Stamp) -> Option<Stamp> {
        Some(Stamp::new(time.epoch.checked_add(self.epoch)?, time.event.checked_add(self.event)?))
    }

    #[inline]
    fn followed_by(&self, other: &Self) -> Option<Self> {
        other.results_in(self)
    }
}

impl Lattice for Stamp {
    #[inline]
    fn join(&self, other: &Self) -> Self {
        Stamp::new(self.epoch.max(other.epoch), self.event.max(other.event))
    }

    #[inline]
    fn meet(&self, other: &Self) -> Self {
        Stamp::new(self.epoch.min(other.epoch), self.event.min(other.event))
    }
}

impl Timestamp for Stamp {
    type Summary = Stamp;

    fn minimum() -> Self {
        Stamp::default()
    }
}

impl Refines<()> for Stamp {
    fn to_inner((): ()) -> Self {
        Stamp::default()
    }

    fn to_outer(self) {}

    fn summarize(_: Self::Summary) {}
}

impl EpochTime for Stamp {
    const ORDER: TimeOrder = TimeOrder::TotalWithinEpoch;

    #[inline]
    fn epoch(&self) -> u64 {
        self.epoch
    }

    #[inline]
    fn event_time(&self) -> u64 {
        self.event
    }

    #[inline]
    fn with_epoch(&self, epoch: u64) -> Self {
        Stamp::new(epoch.max(self.epoch), self.event)
    }

    #[inline]
    fn after_both(&self, other: &Self) -> Self {
        Lattice::join(self, other)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stamp_order_is_the_product_order() {
        let (a, b) = (Stamp::new(1, 5), Stamp::new(2, 3));
        assert!(!a.less_equal(&b) && !b.less_equal(&a));
        assert!(a.less_equal(&Stamp::new(2, 5)));
        assert_eq!(a.with_epoch(7), Stamp::new(7, 5));
        assert_eq!(b.with_epoch(1), b, "time does not move back");
    }

    #[test]
    fn u32_epochs_saturate() {
        assert_eq!(3u32.with_epoch(u64::MAX), u32::MAX);
        assert_eq!(7u32.with_epoch(3), 7);
    }
}
