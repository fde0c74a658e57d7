//! What has been acknowledged, of all components of a job: the board of worker 0.
//!
//! Components may be of different dataflows and timestamps; what they have in common is their epochs.
//!
//! # Invariants
//! - The frontier that is told is at most that of any component, and ascends.
//! - Nothing is told before the board is closed: until then components may still be added.

use std::cell::RefCell;
use std::fmt;
use std::rc::Rc;

use crate::checkpoint::Ack;

/// What the committer hears.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Word {
    /// A component acknowledges something of an epoch.
    Ack {
        /// The epoch.
        epoch: u64,
        /// What.
        ack: Ack,
    },
    /// All acks of earlier epochs have been told; `None` when none will come any more.
    Frontier(Option<u64>),
}

/// The board of one worker. Clones are handles of it.
#[derive(Clone, Default)]
pub struct Board {
    shared: Rc<RefCell<Shared>>,
}

#[derive(Default)]
struct Shared {
    /// By component: the least epoch of which acks may still come.
    frontiers: Vec<Option<u64>>,
    /// Which components are sources.
    sources: Vec<usize>,
    /// What was told last, if anything was.
    told: Option<Word>,
    closed: bool,
    listener: Option<Box<dyn FnMut(Word)>>,
}

impl Board {
    /// A board that tells `listener`. Where there is none, as on all workers but the first, it keeps what it hears to
    /// itself.
    pub fn new(listener: Option<Box<dyn FnMut(Word)>>) -> Self {
        Board { shared: Rc::new(RefCell::new(Shared { listener, ..Shared::default() })) }
    }

    /// All components are there.
    pub fn close(&self) {
        let mut shared = self.shared.borrow_mut();
        shared.closed = true;
        shared.tell();
    }

    /// The least epoch at which a source of the job stands; `None` when all have ended.
    pub fn sources(&self) -> Option<u64> {
        let shared = self.shared.borrow();
        shared.sources.iter().filter_map(|source| shared.frontiers[*source]).min()
    }

    /// Adds a component; its number on this board.
    pub(super) fn add(&self, source: bool) -> usize {
        let mut shared = self.shared.borrow_mut();
        assert!(!shared.closed, "components are added before the board is closed");
        shared.frontiers.push(Some(0));
        let component = shared.frontiers.len() - 1;
        if source {
            shared.sources.push(component);
        }
        component
    }

    pub(super) fn ack(&self, epoch: u64, ack: Ack) {
        if let Some(listener) = &mut self.shared.borrow_mut().listener {
            listener(Word::Ack { epoch, ack });
        }
    }

    pub(super) fn frontier(&self, component: usize, least: Option<u64>) {
        let mut shared = self.shared.borrow_mut();
        if shared.frontiers[component] != least {
            shared.frontiers[component] = least;
            shared.tell();
        }
    }
}

impl Shared {
    fn tell(&mut self) {
        let least = self.frontiers.iter().filter_map(|frontier| *frontier).min();
        let word = Word::Frontier(least);
        if self.closed && self.told.as_ref() != Some(&word) {
            self.told = Some(word.clone());
            if let Some(listener) = &mut self.listener {
                listener(word);
            }
        }
    }
}

impl fmt::Debug for Board {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let shared = self.shared.borrow();
        f.debug_struct("Board")
            .field("frontiers", &shared.frontiers)
            .field("closed", &shared.closed)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_least_frontier_of_all_components_is_told_once() {
        let told = Rc::new(RefCell::new(Vec::new()));
        let hears = Rc::clone(&told);
        let board = Board::new(Some(Box::new(move |word| hears.borrow_mut().push(word))));
        let (a, b) = (board.add(false), board.add(true));
        board.frontier(a, Some(5));
        board.close();
        board.frontier(b, Some(3));
        board.frontier(b, Some(7));
        assert_eq!(board.sources(), Some(7));
        board.frontier(a, Some(6));
        board.frontier(b, None);
        board.frontier(a, None);
        let frontiers = [Some(0), Some(3), Some(5), Some(6), None].map(Word::Frontier);
        assert_eq!(*told.borrow(), frontiers);
    }
}
