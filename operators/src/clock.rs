//! The one place where wall time is read.
//!
//! Operators take it once an activation; tests and simulations set it.

use std::cell::Cell;
use std::rc::Rc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// Microseconds since 1970 that never go back, or a time that a test sets.
#[derive(Clone, Debug)]
pub enum Clock {
    /// The machine's: system time when the clock was made, and steady from there.
    System {
        /// Microseconds since 1970 at `start`.
        base: u64,
        /// When the clock was made.
        start: Instant,
    },
    /// Set by hand.
    Manual(Rc<Cell<u64>>),
}

impl Clock {
    /// The machine's clock.
    #[expect(clippy::disallowed_methods, reason = "this is the clock")]
    pub fn system() -> Self {
        let base = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_micros() as u64;
        Clock::System { base, start: Instant::now() }
    }

    /// Microseconds since 1970.
    #[inline]
    pub fn now(&self) -> u64 {
        self.now_ns() / 1000
    }

    /// The same in nanoseconds, for durations.
    #[inline]
    pub fn now_ns(&self) -> u64 {
        match self {
            Clock::System { base, start } => base * 1000 + start.elapsed().as_nanos() as u64,
            Clock::Manual(now) => now.get() * 1000,
        }
    }

    /// How long until `deadline`, in microseconds of this clock.
    pub fn until(&self, deadline: u64) -> Duration {
        Duration::from_micros(deadline.saturating_sub(self.now()))
    }
}
