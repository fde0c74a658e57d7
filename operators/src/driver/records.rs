//! Records of runs, where somebody wants to look at them later: of those that are over, and of the beginnings of those that
//! are noted.
//!
//! # Invariants
//! - No epoch is committed before the records of the runs that ended in it are durable: until then their times are open
//!   for facts. So of each committed run there is a record, and of several the last one counts.
//!
//! Not here: what a record says (the behavior), and for how long it is kept (`journal`).

use std::collections::BTreeMap;

use super::{Driver, Emission, Sink};
use crate::behavior::{Behavior, RunHead};
use crate::completion::Completion;
use crate::journal::RunRecord;
use crate::slab::RunToken;
use crate::time::EpochTime;

/// Records that are not durable yet, by their numbers.
#[derive(Debug)]
pub(super) struct Records<T> {
    next: u64,
    waiting: BTreeMap<u64, T>,
}

impl<T> Default for Records<T> {
    fn default() -> Self {
        Records { next: 0, waiting: BTreeMap::new() }
    }
}

/// The record of a run about something at `time`.
pub(super) fn encoded<T: EpochTime>(sequence: u64, time: &T, body: Vec<u8>) -> Vec<u8> {
    let time = postcard::to_allocvec(time).unwrap_or_else(|e| panic!("{time:?} cannot be encoded: {e}"));
    let record = RunRecord { sequence, time, body };
    postcard::to_allocvec(&record).unwrap_or_else(|e| panic!("a record cannot be encoded: {e}"))
}

impl<T: EpochTime, B: Behavior, E: Emission<B::Key, B::Output>> Driver<T, B, E> {
    /// Records the run that has just ended, about something at `time`.
    pub(super) fn record<K>(&mut self, head: &RunHead, time: &T, sink: &mut K)
    where
        K: Sink<T, E::Item, B::Tagged>,
    {
        let at = self.at(time);
        let (Some(records), Some(seal)) = (&mut self.records, &mut self.seal) else { return };
        let Some(body) = self.behavior.take_record() else { return };
        let bytes = encoded(head.sequence, time, body);
        let number = records.next;
        records.next += 1;
        seal.unrecorded.add(&at, 1);
        records.waiting.insert(number, at.clone());
        let (group, key) = seal.place(head.key);
        sink.record(group, at.epoch(), key, bytes, Some(Completion::Recorded { number }));
    }

    /// Records the beginning of a run that had notes before a crash: it may make no other.
    pub(super) fn record_beginning<K>(&mut self, run: RunToken, sink: &mut K)
    where
        K: Sink<T, E::Item, B::Tagged>,
    {
        let active = self.runs.get_mut(run).expect("in flight");
        let Some(body) = self.behavior.take_beginning(&mut active.run) else { return };
        let (head, time) = (active.head, active.time.clone());
        if let Some(seal) = &self.seal {
            let (group, key) = seal.place(head.key);
            sink.record(group, self.at(&time).epoch(), key, encoded(head.sequence, &time, body), None);
        }
    }

    /// A record is durable.
    pub(super) fn recorded(&mut self, number: u64) {
        if let (Some(records), Some(seal)) = (&mut self.records, &mut self.seal)
            && let Some(at) = records.waiting.remove(&number)
        {
            seal.unrecorded.remove(&at, 1);
        }
    }

    /// Whether no record waits to be durable.
    pub(super) fn all_recorded(&self) -> bool {
        self.records.as_ref().is_none_or(|records| records.waiting.is_empty())
    }
}
