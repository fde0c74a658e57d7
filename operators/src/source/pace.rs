//! A limit of records per second.

use std::time::Duration;

use crate::clock::Clock;

/// How much of a second's records may come at once after a pause.
const BURST_SECONDS: f64 = 0.1;

/// The shortest time worth waiting for: timers are no finer.
const SHORTEST: Duration = Duration::from_millis(1);

/// Lets records through at a rate.
pub(super) struct Pace {
    clock: Clock,
    /// Records per second.
    rate: f64,
    /// Records that may be sent now.
    credit: f64,
    /// When the credit was last added to, in nanoseconds.
    last: u64,
}

impl Pace {
    /// None if `rate` is not a number above zero.
    pub(super) fn new(rate: f64, clock: Clock) -> Option<Self> {
        let last = clock.now_ns();
        (rate.is_finite() && rate > 0.0).then_some(Pace { clock, rate, credit: 1.0, last })
    }

    /// Takes leave to send one record, or says how long to wait for it.
    pub(super) fn take(&mut self) -> Result<(), Duration> {
        if self.credit < 1.0 {
            let now = self.clock.now_ns();
            let seconds = now.saturating_sub(self.last) as f64 / 1e9;
            self.credit = (self.credit + seconds * self.rate).min((self.rate * BURST_SECONDS).max(1.0));
            self.last = now;
        }
        if self.credit >= 1.0 {
            self.credit -= 1.0;
            return Ok(());
        }
        let wait = Duration::from_secs_f64(((1.0 - self.credit) / self.rate).min(3600.0));
        Err(wait.max(SHORTEST))
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;
    use std::rc::Rc;

    use super::*;

    #[test]
    fn records_pass_at_their_rate_and_pauses_are_not_made_up_for() {
        let now = Rc::new(Cell::new(0));
        let mut pace = Pace::new(10.0, Clock::Manual(Rc::clone(&now))).unwrap();
        assert_eq!(pace.take(), Ok(()));
        assert_eq!(pace.take(), Err(Duration::from_millis(100)));
        now.set(50_000);
        assert_eq!(pace.take(), Err(Duration::from_millis(50)));
        now.set(100_000);
        assert_eq!(pace.take(), Ok(()));
        // After a minute of rest there is one record to send, not six hundred.
        now.set(60_000_000);
        assert_eq!(pace.take(), Ok(()));
        assert!(pace.take().is_err());
    }

    #[test]
    fn only_rates_above_zero_are_rates() {
        for rate in [0.0, -1.0, f64::NAN, f64::INFINITY] {
            assert!(Pace::new(rate, Clock::system()).is_none(), "{rate}");
        }
    }
}
