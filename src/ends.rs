//! Ends of waits that were noted and not given yet: found by their task and their place among its waits.
//!
//! # Invariants
//! - Those that are looked for are in order; of several of one wait the last counts.

use std::rc::Rc;

use crate::journal::{End, Name};

/// An end, and the clock; none where it was taken.
type Noted = (Rc<End>, u64);

/// See the [module](self).
#[derive(Debug, Default)]
pub(crate) struct Ends {
    all: Vec<(Name, u64, Option<Noted>)>,
    /// How many are not taken.
    left: usize,
}

impl Ends {
    /// Adds one; [`Ends::sort`] comes before the next look.
    pub(crate) fn push(&mut self, task: Name, end: Rc<End>, at: u64) {
        self.all.push((task, end.ordinal, Some((end, at))));
        self.left += 1;
    }

    /// Puts those that were added in their places.
    pub(crate) fn sort(&mut self) {
        // The last of one wait comes first, and stays.
        self.all.reverse();
        self.all.sort_by_key(|(task, ordinal, _)| (*task, *ordinal));
        self.all.dedup_by_key(|(task, ordinal, _)| (*task, *ordinal));
        self.all.retain(|(.., end)| end.is_some());
        self.left = self.all.len();
    }

    /// Adds others.
    pub(crate) fn append(&mut self, mut others: Ends) {
        if !others.all.is_empty() {
            self.all.append(&mut others.all);
            self.sort();
        }
    }

    fn find(&self, task: Name, ordinal: u64) -> Option<usize> {
        self.all.binary_search_by_key(&(task, ordinal), |(task, ordinal, _)| (*task, *ordinal)).ok()
    }

    /// Takes the end of a wait, and the clock.
    pub(crate) fn take(&mut self, task: Name, ordinal: u64) -> Option<Noted> {
        let taken = self.find(task, ordinal).and_then(|at| self.all[at].2.take());
        self.left -= usize::from(taken.is_some());
        taken
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.left == 0
    }

    /// Those that are not taken, by task and place: the task, the end, the clock.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (Name, &Rc<End>, u64)> {
        self.all.iter().filter_map(|(task, _, end)| end.as_ref().map(|(end, at)| (*task, end, *at)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn end(ordinal: u64, given: u8) -> Rc<End> {
        Rc::new(End { ordinal, began: 0, asked: Rc::default(), given: Ok(Some(vec![given])) })
    }

    fn task(path: u64) -> Name {
        Name { path, attempt: 1 }
    }

    #[test]
    fn last_end_of_a_wait_counts_and_is_taken_once() {
        let mut ends = Ends::default();
        for (path, ordinal, given) in [(2, 7, 1), (1, 9, 2), (2, 7, 3), (1, 3, 4)] {
            ends.push(task(path), end(ordinal, given), u64::from(given) * 10);
        }
        ends.sort();
        let all: Vec<_> = ends.iter().map(|(task, end, at)| (task.path, end.ordinal, at)).collect();
        assert_eq!(all, [(1, 3, 40), (1, 9, 20), (2, 7, 30)]);
        assert!(ends.take(task(2), 9).is_none());
        let taken = ends.take(task(2), 7).map(|(end, at)| (end.given.clone(), at));
        assert_eq!(taken, Some((Ok(Some(vec![3])), 30)));
        assert!(ends.take(task(2), 7).is_none());
        let mut others = Ends::default();
        others.push(task(1), end(3, 9), 90);
        others.push(task(2), end(7, 8), 80);
        ends.append(others);
        assert_eq!(ends.take(task(1), 3).map(|(_, at)| at), Some(90));
        assert_eq!(ends.take(task(2), 7).map(|(_, at)| at), Some(80));
        assert_eq!(ends.take(task(1), 9).map(|(_, at)| at), Some(20));
        assert!(ends.is_empty() && ends.iter().next().is_none());
    }
}
