//! What a source reads from.

use std::time::Duration;

use timely::scheduling::SyncActivator;

use super::sources::Sources;
use crate::cluster::{Control, Failure};

/// What a reader has next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Next<I> {
    /// A record with its epoch.
    Record(u64, I),
    /// No record now, and none before this epoch any more: the epochs before it close.
    Epoch(u64),
    /// Nothing now. The source asks again after this time; without one, when the reader has woken it by
    /// [`Opening::waker`].
    Idle(Option<Duration>),
    /// Nothing any more.
    End,
}

/// What a reader is told before it is first asked.
#[derive(Clone, Debug)]
pub struct Opening {
    /// The lowest epoch that a record may have.
    pub epoch: u64,
    /// Has the source ask again. From any thread.
    pub waker: SyncActivator,
    /// The sources of the process; where there are checkpoints they tell what is committed.
    pub sources: Option<Sources>,
    /// Ends the job.
    pub control: Control,
}

/// Records in the order of their epochs.
///
/// A reader that can go on after a crash has positions: [`Reader::position`] and [`Reader::seek`]. One whose records are
/// not all there yet overrides [`Reader::poll`].
pub trait Reader: 'static {
    /// One record.
    type Item: 'static;

    /// The next record with its epoch, never lower than the one before; `None` at the end.
    ///
    /// Short work only: it runs on a worker. It is not called again after `None` or an error.
    ///
    /// # Errors
    /// What cannot be read; the job ends with it.
    fn next(&mut self) -> Result<Option<(u64, Self::Item)>, Failure>;

    /// What is next; this is what a source asks. By default whatever [`Reader::next`] gives.
    ///
    /// # Errors
    /// What cannot be read; the job ends with it.
    fn poll(&mut self) -> Result<Next<Self::Item>, Failure> {
        Ok(match self.next()? {
            Some((epoch, item)) => Next::Record(epoch, item),
            None => Next::End,
        })
    }

    /// Called once, before the reader is asked for anything, and after it has moved to its position.
    ///
    /// # Errors
    /// What keeps it from reading; the job ends with it.
    fn open(&mut self, opening: Opening) -> Result<(), Failure> {
        let _ = opening;
        Ok(())
    }

    /// Where a source would go on that has sent all before the record that was given last: where that record begins, in
    /// terms of the reader's own. Before the first record, where that one begins; after [`Next::Epoch`] and at the end,
    /// behind all that was given. `None`, the default, if records cannot be read again.
    fn position(&self) -> Option<Vec<u8>> {
        None
    }

    /// Goes to a [`Reader::position`] of a reader of the same records: the record there is next.
    ///
    /// # Errors
    /// The reader cannot go there; the job ends with it.
    fn seek(&mut self, position: &[u8]) -> Result<(), Failure> {
        let _ = position;
        Err(Failure::data("it cannot go on after a checkpoint: its records cannot be read again"))
    }

    /// About how many bytes `item` takes in memory and on its way to other workers. Flow control counts them.
    fn bytes(&self, item: &Self::Item) -> usize {
        size_of_val(item)
    }
}
