//! Deadlines, in order of time and then of registration.
//!
//! Times are microseconds of the operator's clock. A timer that is cancelled leaves nothing behind, so
//! a default timeout of minutes on every call costs memory for the calls in flight only.

use std::collections::BTreeMap;

/// Names a timer, to cancel it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct TimerKey {
    deadline: u64,
    id: u64,
}

/// Pending deadlines with what is due at each.
#[derive(Debug)]
pub struct Timers<V> {
    pending: BTreeMap<TimerKey, V>,
    next_id: u64,
}

impl<V> Default for Timers<V> {
    fn default() -> Self {
        Timers { pending: BTreeMap::new(), next_id: 0 }
    }
}

impl<V> Timers<V> {
    /// Adds a timer due at `deadline`.
    pub fn add(&mut self, deadline: u64, value: V) -> TimerKey {
        let key = TimerKey { deadline, id: self.next_id };
        self.next_id += 1;
        self.pending.insert(key, value);
        key
    }

    /// Takes a timer away; `None` when it has fired.
    pub fn cancel(&mut self, key: TimerKey) -> Option<V> {
        self.pending.remove(&key)
    }

    /// The next timer due at `now` or before.
    pub fn pop_due(&mut self, now: u64) -> Option<V> {
        let (key, _) = self.pending.first_key_value()?;
        (key.deadline <= now).then(|| self.pending.pop_first()).flatten().map(|(_, value)| value)
    }

    /// When the next timer is due.
    pub fn next_deadline(&self) -> Option<u64> {
        self.pending.first_key_value().map(|(key, _)| key.deadline)
    }

    /// The number of pending timers.
    pub fn len(&self) -> usize {
        self.pending.len()
    }

    /// Whether none is pending.
    pub fn is_empty(&self) -> bool {
        self.pending.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn timers_fire_in_order_of_deadline_then_registration() {
        let mut timers = Timers::default();
        timers.add(20, 'c');
        let cancelled = timers.add(10, 'x');
        timers.add(10, 'a');
        timers.add(10, 'b');
        assert_eq!(timers.cancel(cancelled), Some('x'));
        assert_eq!(timers.pop_due(9), None);
        assert_eq!(timers.pop_due(15), Some('a'));
        assert_eq!(timers.pop_due(15), Some('b'));
        assert_eq!(timers.pop_due(15), None);
        assert_eq!(timers.next_deadline(), Some(20));
    }
}
