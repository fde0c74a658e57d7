//! What the loads of one worker's operators mean for sources.
//!
//! # Invariants
//! - A pressure holds back for good no source that stands in the lowest epoch that any source stands in: what makes it
//!   full ends by itself, and all its epochs reach that lowest one once the work before it is done.
//! - Two loads with one meaning have equal pressures, so that nothing is sent while nothing changes.

use serde::{Deserialize, Serialize};

use crate::driver::Load;
use crate::limits::Limits;

/// Which sources a worker asks to stop.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Pressure {
    /// All: runs in flight or waiting bytes are at a limit.
    pub(super) full: bool,
    /// Those beyond this epoch: inputs that wait for their epoch are at a limit.
    pub(super) ahead: Option<u64>,
    /// Those that would open an epoch beyond this one: open epochs are at a limit.
    pub(super) open: Option<u64>,
}

impl Pressure {
    /// The pressure of one operator.
    pub(super) fn of(limits: &Limits, load: &Load) -> Self {
        let full = load.runs >= limits.runs_in_flight || load.waiting_bytes >= limits.inbox_bytes;
        // At the end of the input nothing is ahead.
        let ahead = load.epoch.filter(|_| load.ahead_bytes >= limits.inbox_bytes);
        // Work before the input's epoch ends without any source; work of that epoch may need its close.
        let open = (load.open_times >= limits.open_epochs).then(|| least(load.least_open, load.epoch)).flatten();
        Pressure { full, ahead, open }
    }

    /// The pressure of both.
    pub(super) fn and(self, other: Self) -> Self {
        Pressure {
            full: self.full || other.full,
            ahead: least(self.ahead, other.ahead),
            open: least(self.open, other.open),
        }
    }

    /// Whether a source may send a record of `epoch`; `opened` if it has sent some of this epoch before.
    pub(super) fn admits(&self, epoch: u64, opened: bool) -> bool {
        let within = |bound: Option<u64>| bound.is_none_or(|bound| epoch <= bound);
        !self.full && within(self.ahead) && (opened || within(self.open))
    }
}

fn least(a: Option<u64>, b: Option<u64>) -> Option<u64> {
    match (a, b) {
        (Some(a), Some(b)) => Some(a.min(b)),
        (a, b) => a.or(b),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pressure(load: Load) -> Pressure {
        let limits = Limits { runs_in_flight: 10, inbox_bytes: 100, open_epochs: 3, ..Limits::default() };
        Pressure::of(&limits, &load)
    }

    fn load() -> Load {
        Load { runs: 9, waiting_bytes: 99, ahead_bytes: 99, open_times: 2, least_open: Some(4), epoch: Some(5) }
    }

    #[test]
    fn below_all_limits_everybody_may_send() {
        let pressure = pressure(load());
        assert_eq!(pressure, Pressure::default());
        assert!(pressure.admits(u64::MAX, false));
    }

    #[test]
    fn runs_and_waiting_bytes_stop_all_sources() {
        for load in [Load { runs: 10, ..load() }, Load { waiting_bytes: 100, ..load() }] {
            assert!(!pressure(load).admits(0, true));
        }
    }

    #[test]
    fn inputs_ahead_stop_sources_beyond_the_lowest_epoch() {
        let ahead = |epoch| pressure(Load { ahead_bytes: 100, epoch, ..load() });
        assert!(ahead(Some(5)).admits(5, false), "it stands in the lowest epoch");
        assert!(ahead(Some(5)).admits(4, false), "it is behind");
        assert!(!ahead(Some(5)).admits(6, true));
        assert!(ahead(None).admits(6, false), "the input has ended");
    }

    #[test]
    fn open_epochs_stop_sources_that_would_open_another() {
        let open = |least_open, epoch| pressure(Load { open_times: 3, least_open, epoch, ..load() });
        // Epoch 4 ends by itself.
        assert!(!open(Some(4), Some(5)).admits(5, false));
        assert!(open(Some(4), Some(5)).admits(5, true));
        // Nothing ends before epoch 5 closes.
        assert!(open(Some(5), Some(5)).admits(5, false));
        assert!(!open(Some(5), Some(5)).admits(6, false));
    }

    #[test]
    fn the_stricter_of_two_counts() {
        let one = Pressure { full: false, ahead: Some(3), open: None };
        let other = Pressure { full: true, ahead: Some(2), open: Some(7) };
        let both = Pressure { full: true, ahead: Some(2), open: Some(7) };
        assert_eq!(one.and(other), both);
        assert_eq!(other.and(one), both);
    }
}
