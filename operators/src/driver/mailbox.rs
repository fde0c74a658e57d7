//! Per-key mailboxes: work waits here until its run may start (rule S2).
//!
//! # Invariants
//! - Work stands in ascending order of epochs; of one epoch inputs and scheduled events first, in order of arrival,
//!   then the notification.
//! - A key without a run and without waiting work has no mailbox.

use std::collections::VecDeque;

use crate::slab::RunToken;
use crate::time::EpochTime;

/// One waiting piece of work.
#[derive(Debug)]
pub(super) enum Waiting<T, I> {
    /// An input, with the bytes it takes and, once it is a fact, its number among those that wait.
    Input { time: T, bytes: usize, input: I, number: Option<u64> },
    /// The end of the epoch of `time`.
    Notify { time: T },
    /// A scheduled event that is due, by its number; `time` is when it came to be.
    Scheduled { time: T, number: u64 },
}

impl<T: EpochTime, I> Waiting<T, I> {
    pub(super) fn time(&self) -> &T {
        match self {
            Waiting::Input { time, .. } | Waiting::Notify { time } | Waiting::Scheduled { time, .. } => time,
        }
    }

    pub(super) fn input(&self) -> Option<&I> {
        match self {
            Waiting::Input { input, .. } => Some(input),
            Waiting::Notify { .. } | Waiting::Scheduled { .. } => None,
        }
    }

    fn is_notify(&self) -> bool {
        matches!(self, Waiting::Notify { .. })
    }
}

/// What waits for one key.
#[derive(Debug)]
pub(super) struct Mailbox<T, I> {
    /// The key's run in flight.
    pub(super) run: Option<RunToken>,
    pub(super) waiting: VecDeque<Waiting<T, I>>,
    /// What the inputs of `waiting` take.
    pub(super) bytes: usize,
    /// Whether they wait for a run that waits for a signal: they count for no limit then.
    pub(super) parked: bool,
}

impl<T: EpochTime, I> Mailbox<T, I> {
    pub(super) fn new(run: Option<RunToken>) -> Self {
        Mailbox { run, waiting: VecDeque::new(), bytes: 0, parked: false }
    }

    /// Adds an input behind all inputs of its epoch and before the epoch's notification. How many of its bytes count.
    pub(super) fn push_input(&mut self, time: T, bytes: usize, input: I) -> usize {
        self.bytes += bytes;
        self.push(Waiting::Input { time, bytes, input, number: None });
        if self.parked { 0 } else { bytes }
    }

    /// Adds work that is no notification, in the same place.
    pub(super) fn push(&mut self, work: Waiting<T, I>) {
        let epoch = work.time().epoch();
        let behind = self
            .waiting
            .iter()
            .rev()
            .take_while(|w| w.time().epoch() > epoch || w.is_notify() && w.time().epoch() == epoch)
            .count();
        self.waiting.insert(self.waiting.len() - behind, work);
    }

    /// Adds a notification behind all work of its epoch; false when there is one already.
    pub(super) fn push_notify(&mut self, time: T) -> bool {
        let epoch = time.epoch();
        if self.waiting.iter().any(|w| w.is_notify() && w.time().epoch() == epoch) {
            return false;
        }
        let behind = self.waiting.iter().rev().take_while(|w| w.time().epoch() > epoch).count();
        self.waiting.insert(self.waiting.len() - behind, Waiting::Notify { time });
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_notification_comes_after_its_epoch_and_before_the_next() {
        let mut mailbox = Mailbox::new(None);
        for (time, input) in [(1u64, 'a'), (2, 'c')] {
            mailbox.push_input(time, 1, input);
        }
        assert!(mailbox.push_notify(1));
        assert!(!mailbox.push_notify(1), "once per epoch");
        mailbox.push_input(1, 1, 'b');
        let order: Vec<String> = mailbox
            .waiting
            .iter()
            .map(|w| match w {
                Waiting::Input { input, .. } => input.to_string(),
                Waiting::Notify { time } | Waiting::Scheduled { time, .. } => format!("end {time}"),
            })
            .collect();
        assert_eq!(order, ["a", "b", "end 1", "c"]);
    }
}
