//! Key groups: which worker owns a key (rule S1, D5).
//!
//! A key's group depends on the key alone, a group's owner on the number of workers. What is durable is
//! keyed by group, so any number of workers can take it over.
//!
//! # Invariants
//! - `owner(group, peers) < peers`, and owners ascend with groups: a worker's groups are one range.

use std::ops::Range;

use serde::Serialize;

use crate::hash::stable_hash;

/// The number of key groups of a job. Fixed when the job first runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KeyGroups(u32);

impl Default for KeyGroups {
    /// 1,024 groups: enough for as many workers, few enough to index.
    fn default() -> Self {
        KeyGroups(1024)
    }
}

impl KeyGroups {
    /// `count` groups.
    ///
    /// # Errors
    /// Counts outside 1 to 65,536.
    pub fn new(count: u32) -> Result<Self, String> {
        if (1..=65_536).contains(&count) {
            Ok(KeyGroups(count))
        } else {
            Err(format!("{count} key groups: give a number from 1 to 65536"))
        }
    }

    /// The number of groups.
    pub fn count(self) -> u32 {
        self.0
    }

    /// The group of a key, from 0 to `count() - 1`.
    #[inline]
    pub fn of<K: Serialize + ?Sized>(self, key: &K) -> u32 {
        self.of_hash(stable_hash(key))
    }

    /// The group of a key whose stable hash is known.
    #[inline]
    pub fn of_hash(self, hash: u64) -> u32 {
        // The high half scaled to the range: as even as a remainder, and without a division.
        (((hash >> 32) * u64::from(self.0)) >> 32) as u32
    }

    /// The worker, of `peers`, that owns `group`.
    #[inline]
    pub fn owner(self, group: u32, peers: usize) -> usize {
        (u64::from(group) * peers as u64 / u64::from(self.0)) as usize
    }

    /// The groups that `worker`, of `peers`, owns.
    pub fn of_worker(self, worker: usize, peers: usize) -> Range<u32> {
        let first = |worker: usize| (worker as u64 * u64::from(self.0)).div_ceil(peers as u64) as u32;
        first(worker)..first(worker + 1)
    }

    /// The worker that owns `key`.
    #[inline]
    pub fn owner_of<K: Serialize + ?Sized>(self, key: &K, peers: usize) -> usize {
        self.owner(self.of(key), peers)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_worker_owns_a_range_of_groups() {
        for peers in 1..9 {
            let groups = KeyGroups::default();
            let owners: Vec<usize> = (0..groups.count()).map(|g| groups.owner(g, peers)).collect();
            assert!(owners.is_sorted());
            assert_eq!(owners.first(), Some(&0));
            assert_eq!(owners.last(), Some(&(peers - 1)));
            for worker in 0..peers {
                let owned: Vec<u32> = groups.of_worker(worker, peers).collect();
                assert_eq!(owned.len(), owners.iter().filter(|owner| **owner == worker).count());
                assert!(owned.iter().all(|group| groups.owner(*group, peers) == worker));
            }
        }
    }

    #[test]
    fn bad_counts_are_refused() {
        assert!(KeyGroups::new(0).is_err());
        assert!(KeyGroups::new(65_537).is_err());
    }
}
