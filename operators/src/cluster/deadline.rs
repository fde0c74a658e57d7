//! A point in time by which something must have happened. The only place of the cluster that reads the clock: waiting
//! for other processes has no other time than the machine's.

use std::time::{Duration, Instant};

#[derive(Clone, Copy, Debug)]
pub(super) struct Deadline(Instant);

impl Deadline {
    #[expect(clippy::disallowed_methods, reason = "peers are waited for in real time")]
    pub(super) fn after(time: Duration) -> Self {
        let now = Instant::now();
        // A time beyond the clock's range is as good as a century.
        let century = Duration::from_hours(100 * 365 * 24);
        Self(now.checked_add(time).unwrap_or_else(|| now + century))
    }

    pub(super) fn instant(self) -> Instant {
        self.0
    }

    /// What is left, or nothing.
    #[expect(clippy::disallowed_methods, reason = "peers are waited for in real time")]
    pub(super) fn left(self) -> Option<Duration> {
        let left = self.0.saturating_duration_since(Instant::now());
        (!left.is_zero()).then_some(left)
    }

    /// The earlier of this and `time` from now.
    pub(super) fn at_most(self, time: Duration) -> Self {
        Self(self.0.min(Self::after(time).0))
    }
}
