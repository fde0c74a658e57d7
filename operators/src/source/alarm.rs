//! Activates a source after a while, without a queue of activations piling up.

use std::time::Duration;

use timely::scheduling::Activator;

use crate::clock::Clock;

/// One timer of one operator.
pub(super) struct Alarm {
    activator: Activator,
    /// Real time, whatever clock the source goes by: timely's timers know no other.
    clock: Clock,
    /// When an activation comes that was asked for.
    at: Option<u64>,
}

impl Alarm {
    pub(super) fn new(activator: Activator) -> Self {
        Alarm { activator, clock: Clock::system(), at: None }
    }

    /// Sees to an activation in at most `delay`, or a little later.
    pub(super) fn ring_after(&mut self, delay: Duration) {
        let now = self.clock.now();
        let due = now + delay.as_micros() as u64;
        // The operator may be activated often before the time comes; one timer is enough.
        if !self.at.is_some_and(|at| now < at && at <= due) {
            self.activator.activate_after(delay);
            self.at = Some(due);
        }
    }
}
