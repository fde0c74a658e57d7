//! In which order the runs of a key began: what a note of the key closes over (rule D7).
//!
//! ```text
//! a run begins ──▶ the log of its epoch: key, number, input or digest ── a note of the key ──▶ (number, digest) …
//! ```
//! Most keys never have a note, so a run only appends to a log; digests are made, and the entries of a key found, when a note
//! asks for them. With the commit of its epoch a log goes as a whole.
//!
//! # Invariants
//! - An entry is given to one note.
//! - Between a key's oldest entry and its newest run there are less than 2^32 runs.
//!
//! Not here: what a note is (`notes`).

use std::collections::BTreeMap;
use std::mem::needs_drop;

use foldhash::fast::FixedState;
use hashbrown::HashMap;

use crate::behavior::Begins;
use crate::keys::KeyId;

/// Inputs up to this size, in bytes, are kept as they are where nothing needs to be dropped of them.
const KEPT_BYTES: usize = 32;

/// So many logs are kept for epochs to come.
const SPARE: usize = 8;

/// A run that has begun.
#[derive(Debug)]
struct Entry<V> {
    key: KeyId,
    /// The number of the run, but for its upper half: so an entry about a word takes two.
    sequence: u32,
    /// The input, or its digest.
    of: V,
}

/// Runs as they began.
#[derive(Debug)]
struct Log<V> {
    entries: Vec<Entry<V>>,
    /// For the first entries: the one before of the same key, as far as that has not been given to a note.
    before: Vec<Option<usize>>,
    /// By key: the last of these entries, unless it was given to a note.
    last: HashMap<KeyId, usize, FixedState>,
}

impl<V> Default for Log<V> {
    fn default() -> Self {
        Log { entries: Vec::new(), before: Vec::new(), last: HashMap::default() }
    }
}

impl<V> Log<V> {
    #[inline]
    fn push(&mut self, key: KeyId, sequence: u64, of: V) {
        self.entries.push(Entry { key, sequence: sequence as u32, of });
    }

    /// Takes the runs of `key`, the newest of which has the number `newest` at most.
    fn take(&mut self, key: KeyId, newest: u64, digest: impl Fn(&V) -> u64, into: &mut Vec<(u64, u64)>) {
        for (at, entry) in self.entries.iter().enumerate().skip(self.before.len()) {
            self.before.push(self.last.insert(entry.key, at));
        }
        let mut next = self.last.remove(&key);
        while let Some(at) = next {
            let Entry { sequence, of, .. } = &self.entries[at];
            let since = (newest as u32).wrapping_sub(*sequence);
            into.push((newest - u64::from(since), digest(of)));
            next = self.before[at];
        }
    }

    fn clear(&mut self) {
        self.entries.clear();
        self.before.clear();
        self.last.clear();
    }
}

/// Runs of one epoch.
#[derive(Debug)]
pub(super) struct EpochLog<I> {
    inputs: Log<I>,
    digests: Log<u64>,
}

impl<I> Default for EpochLog<I> {
    fn default() -> Self {
        EpochLog { inputs: Log::default(), digests: Log::default() }
    }
}

impl<I> Begins<I> for EpochLog<I> {
    #[inline]
    fn begins(&mut self, key: KeyId, sequence: u64, digest: impl FnOnce() -> u64) {
        self.digests.push(key, sequence, digest());
    }

    #[inline]
    fn is_over(&mut self, key: KeyId, sequence: u64, input: I, digest: impl FnOnce(&I) -> u64) {
        if const { !needs_drop::<I>() && size_of::<I>() <= KEPT_BYTES } {
            self.inputs.push(key, sequence, input);
        } else {
            self.digests.push(key, sequence, digest(&input));
        }
    }
}

/// See the [module](self).
#[derive(Debug)]
pub(super) struct Begun<I> {
    epochs: BTreeMap<u64, EpochLog<I>>,
    /// Empty ones, whose memory is used again.
    spare: Vec<EpochLog<I>>,
}

impl<I> Default for Begun<I> {
    fn default() -> Self {
        Begun { epochs: BTreeMap::new(), spare: Vec::new() }
    }
}

impl<I> Begun<I> {
    /// Where runs of `epoch` are told to.
    #[inline]
    pub(super) fn of(&mut self, epoch: u64) -> &mut EpochLog<I> {
        self.epochs.entry(epoch).or_insert_with(|| self.spare.pop().unwrap_or_default())
    }

    /// The runs of `key` since this was last asked, in order: number and digest. Its newest run has the number `newest`.
    pub(super) fn take(&mut self, key: KeyId, newest: u64, digest: impl Fn(&I) -> u64) -> Vec<(u64, u64)> {
        let mut taken = Vec::new();
        for log in self.epochs.values_mut() {
            log.inputs.take(key, newest, &digest, &mut taken);
            log.digests.take(key, newest, |digest| *digest, &mut taken);
        }
        taken.sort_unstable();
        taken
    }

    /// The epochs before `frontier` are committed.
    pub(super) fn committed(&mut self, frontier: u64) {
        while let Some(first) = self.epochs.first_entry().filter(|first| *first.key() < frontier) {
            let mut log = first.remove();
            if self.spare.len() < SPARE {
                log.inputs.clear();
                log.digests.clear();
                self.spare.push(log);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;

    const A: KeyId = KeyId(0);
    const B: KeyId = KeyId(7);

    #[test]
    fn first_note_of_a_key_has_its_runs_of_all_epochs_in_order() {
        let mut begun = Begun::<u64>::default();
        for n in 1..=10_000 {
            begun.of(n / 3_000).is_over(if n % 2 == 0 { A } else { B }, n, n + 5, |input| *input);
        }
        let made = Cell::new(0);
        let digest = |input: &u64| {
            made.set(made.get() + 1);
            input * 2
        };
        let even: Vec<(u64, u64)> = (1..=5_000).map(|n| (2 * n, 2 * (2 * n + 5))).collect();
        assert_eq!(begun.take(A, 10_000, digest), even);
        assert_eq!(made.get(), 5_000, "digests are made of what is asked for");
        assert_eq!(begun.take(A, 10_000, digest), []);
    }

    #[test]
    fn next_note_has_what_began_since() {
        let mut begun = Begun::<u64>::default();
        begun.of(4).is_over(A, 1, 10, |_| unreachable!("a number is kept"));
        begun.of(4).is_over(B, 1, 20, |_| unreachable!("a number is kept"));
        assert_eq!(begun.take(A, 1, |input| *input), [(1, 10)]);
        begun.of(4).begins(A, 2, || 11);
        begun.of(5).is_over(A, 4, 12, |_| unreachable!("a number is kept"));
        begun.of(4).is_over(B, 2, 21, |_| unreachable!("a number is kept"));
        assert_eq!(begun.take(A, 4, |input| *input), [(2, 11), (4, 12)]);
        assert_eq!(begun.take(B, 2, |input| *input), [(1, 20), (2, 21)]);
    }

    #[test]
    fn commit_lets_go_of_epochs_and_their_memory_is_used_again() {
        let mut begun = Begun::<u64>::default();
        for epoch in [3, 5, 4] {
            begun.of(epoch).begins(A, epoch, || epoch);
        }
        begun.of(3).begins(B, 1, || 1);
        assert_eq!(begun.take(B, 1, |input| *input), [(1, 1)]);
        begun.committed(5);
        assert_eq!((begun.epochs.len(), begun.spare.len()), (1, 2));
        begun.of(6).begins(B, 2, || 2);
        assert_eq!(begun.take(A, 5, |input| *input), [(5, 5)], "nothing of an epoch that is committed");
        assert_eq!(begun.take(B, 2, |input| *input), [(2, 2)]);
        assert_eq!(begun.spare.len(), 1);
    }

    #[test]
    fn inputs_that_hold_something_are_kept_as_digests() {
        let mut begun = Begun::<String>::default();
        begun.of(1).is_over(A, 1, "four".to_owned(), |input| input.len() as u64);
        assert_eq!((begun.of(1).inputs.entries.len(), begun.of(1).digests.entries.len()), (0, 1));
        assert_eq!(begun.take(A, 1, |_| unreachable!("a digest is kept")), [(1, 4)]);
        let mut begun = Begun::<[u64; 64]>::default();
        begun.of(1).is_over(A, 1, [9; 64], |input| input[3]);
        assert_eq!(begun.of(1).inputs.entries.len(), 0, "as are large ones");
        assert_eq!(begun.take(A, 1, |_| unreachable!("a digest is kept")), [(1, 9)]);
    }

    #[test]
    fn numbers_are_whole() {
        let mut begun = Begun::<u64>::default();
        let numbers = [(1 << 32) - 2, (1 << 32) - 1, 1 << 32, (1 << 32) + 7];
        for number in numbers {
            begun.of(1).is_over(A, number, 3, |_| unreachable!("a number is kept"));
        }
        assert_eq!(begun.take(A, numbers[3] + 2, |_| 0), numbers.map(|number| (number, 0)));
    }
}
