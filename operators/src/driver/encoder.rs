//! Encodes the changes of keys: many at a time, thing by thing, so that little is done by key and value beside the encoding.
//!
//! # Invariants
//! - So many keys are encoded at a time that what they come to is small beside a slice of a seal, as far as those before
//!   them tell.

use std::collections::BTreeMap;

use foldhash::fast::FixedState;
use hashbrown::HashMap;

use super::seal::Unsealed;
use crate::fact::{FactColumns, KeyWriter, What};
use crate::group::KeyGroups;
use crate::keys::{Key, KeyId, SharedKeys};
use crate::time::EpochTime;

/// At most so many keys are encoded at a time.
const TOGETHER: usize = 128;
/// Fewer, where they come to more bytes than these.
const TOGETHER_BYTES: usize = 1 << 14;

/// What knows the facts of keys.
pub(super) trait Source {
    /// Writes columns of keys, which differ.
    fn columns(&mut self, keys: &[KeyId], columns: &mut FactColumns);
}

/// What is known of keys and their changes.
pub(super) struct Encoder<T, K> {
    keys: SharedKeys<K>,
    key_groups: KeyGroups,
    /// By key: its group, once it was asked for.
    groups: Vec<u32>,
    /// By key: since when its changes are, where that is not the first time of their epoch. Empty while there are no such.
    times: Vec<Option<T>>,
    /// By key: notifications that were asked for, by their epochs, or that have come, since the key was last encoded.
    notifications: HashMap<KeyId, BTreeMap<u64, Option<T>>, FixedState>,
    /// How many keys are encoded at a time.
    together: usize,
}

impl<T: EpochTime, K: Key> Encoder<T, K> {
    pub(super) fn new(key_groups: KeyGroups, keys: SharedKeys<K>) -> Self {
        Encoder {
            keys,
            key_groups,
            groups: Vec::new(),
            times: Vec::new(),
            notifications: HashMap::default(),
            together: 1,
        }
    }

    /// How many keys there are.
    pub(super) fn keys(&self) -> usize {
        self.keys.borrow().len()
    }

    /// A key's group and bytes.
    pub(super) fn place(&self, key: KeyId) -> (u32, Vec<u8>) {
        let key = &self.keys.borrow()[key.index()];
        let bytes = postcard::to_allocvec(key).unwrap_or_else(|error| panic!("key {key:?} cannot be encoded: {error}"));
        (self.key_groups.of(key), bytes)
    }

    /// Whether all changes are since the first times of their epochs.
    #[inline]
    pub(super) fn is_of_one_time(&self) -> bool {
        self.times.is_empty()
    }

    /// There are no changes of any key.
    pub(super) fn forget_times(&mut self) {
        self.times = Vec::new();
    }

    /// `key` has asked to be told of the end of `epoch`, `at` that time, or is being told.
    pub(super) fn notification(&mut self, key: KeyId, epoch: u64, at: Option<T>) {
        self.notifications.entry(key).or_default().insert(epoch, at);
    }

    /// The changes of the key of that id, which had none, are since `time`; `first` is the first time of the epoch.
    #[inline]
    pub(super) fn since(&mut self, id: usize, time: &T, first: &T) {
        if *time != *first || !self.times.is_empty() {
            self.set_time(id, time, first);
        }
    }

    fn set_time(&mut self, id: usize, time: &T, first: &T) {
        if self.times.len() <= id {
            self.times.resize(self.keys.borrow().len().max(id + 1), None);
        }
        self.times[id] = (time != first).then(|| time.clone());
    }

    /// The key of that id has changed again, at `time`.
    pub(super) fn later(&mut self, id: usize, time: &T, first: &T) {
        let before = self.times.get(id).and_then(Option::as_ref).unwrap_or(first);
        if !time.less_equal(before) {
            let both = before.after_both(time);
            self.set_time(id, &both, first);
        }
    }

    /// Encodes the changes, of an epoch, of the first of `keys`, as many as are encoded at a time; how many these are.
    pub(super) fn encode(&mut self, unsealed: &mut Unsealed<T>, keys: &[KeyId], source: &mut impl Source) -> usize {
        let Encoder { keys: all, key_groups, groups, times, notifications, together } = self;
        let all = all.borrow();
        if groups.len() < all.len() {
            groups.resize(all.len(), u32::MAX);
        }
        let ids = &keys[..keys.len().min(*together)];
        // The misses of what is looked at here overlap.
        for id in ids {
            let group = &mut groups[id.index()];
            if *group == u32::MAX {
                *group = key_groups.of(&all[id.index()]);
            }
        }
        let before = unsealed.writer.len();
        let begun = unsealed.writer.begin(ids, |id| &all[id.index()]);
        let columns = begun.unwrap_or_else(|error| panic!("a key cannot be encoded: {error}"));
        if !notifications.is_empty() {
            let column = columns.another();
            for id in ids {
                column.key(|facts| notifications.remove(id).into_iter().for_each(|n| put_notifications(n, facts)));
            }
        }
        source.columns(ids, columns);
        let first = &unsealed.first;
        unsealed.writer.end(ids.len(), |n| {
            let id = ids[n].index();
            (groups[id], times.get(id).and_then(Option::as_ref).unwrap_or(first))
        });
        unsealed.left -= ids.len();
        if ids.len() == *together {
            let few = unsealed.writer.len() - before <= TOGETHER_BYTES;
            *together = if few { (*together * 2).min(TOGETHER) } else { (*together / 2).max(1) };
        }
        ids.len()
    }
}

fn put_notifications<T: EpochTime>(notified: BTreeMap<u64, Option<T>>, facts: &mut KeyWriter) {
    for (epoch, at) in notified {
        let what = What::Notification(epoch);
        match at {
            Some(at) => facts.put(&what, &at).unwrap_or_else(|e| panic!("{at:?} cannot be encoded: {e}")),
            None => facts.retire(&what),
        }
    }
}
