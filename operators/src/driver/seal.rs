//! Sealing: what changed in an epoch becomes facts when the epoch is over (rule D1).
//!
//! A key's facts of epoch e are encoded when its first later run starts, or when e is sealed, whichever comes first; so
//! memory is never kept in two versions. Facts that are encoded are final, and leave as blocks of up to [`SLICE`] keys:
//! an activation seals at most one slice, so that no worker stands still over a large epoch.
//!
//! # Invariants
//! - A changed key is encoded once per epoch, and before a run of a later epoch touches it.
//! - Facts of a time go out while a capability for it is held: changed times count as open for the port until the last
//!   block of their epoch has left.

use std::collections::BTreeMap;

use foldhash::fast::FixedState;
use hashbrown::HashMap;

use crate::fact::{Block, BlockWriter, KeyWriter, What};
use crate::group::KeyGroups;
use crate::keys::{Key, KeyId, SharedKeys};
use crate::open_work::OpenWork;
use crate::time::{EpochTime, TimeOrder};

/// Keys of one block, and of one slice of a seal.
const SLICE: usize = 1 << 13;

type EncodeKey = Box<dyn Fn(KeyId, &mut Vec<u8>)>;

pub(super) struct Seal<T> {
    /// Writes a key's bytes.
    encode_key: EncodeKey,
    group_of: Box<dyn Fn(KeyId) -> u32>,
    /// By key: its group, once it was asked for.
    groups: Vec<u32>,
    /// By key: since when it has changes that are not encoded yet.
    changed: Vec<Option<T>>,
    /// Keys that changed, by epoch; some may be encoded already.
    keys: BTreeMap<u64, Dirty>,
    /// Facts of each epoch that are encoded and have not left.
    writers: BTreeMap<u64, BlockWriter<T>>,
    /// By key: notifications that were asked for, by their epochs, or that have come, since the key was last encoded.
    notifications: HashMap<KeyId, BTreeMap<u64, Option<T>>, FixedState>,
    /// Times that facts may still come at.
    open: OpenWork<T>,
    /// The least of them, while they are looked at.
    unsealed: Vec<T>,
}

/// The keys that an epoch has changed.
#[derive(Default)]
struct Dirty {
    /// As they changed.
    added: Vec<KeyId>,
    /// In order of their ids, once the epoch is being sealed: what keys have lies side by side in that order.
    ordered: Option<std::vec::IntoIter<KeyId>>,
}

impl Dirty {
    /// At most `n` of the keys that are left.
    fn take(&mut self, n: usize) -> Vec<KeyId> {
        if !self.added.is_empty() {
            let mut left: Vec<KeyId> = self.ordered.take().into_iter().flatten().collect();
            left.append(&mut self.added);
            self.ordered = Some(in_order(left).into_iter());
        }
        self.ordered.iter_mut().flatten().take(n).collect()
    }

    fn is_empty(&self) -> bool {
        self.added.is_empty() && self.ordered.as_ref().is_none_or(|ordered| ordered.len() == 0)
    }
}

/// Keys in order of their ids, each once. Many of them are put in order by setting a bit for each, which takes a few
/// nanoseconds a key however many there are.
fn in_order(mut keys: Vec<KeyId>) -> Vec<KeyId> {
    let Some(greatest) = keys.iter().max() else { return keys };
    if keys.len() < greatest.index() / 64 {
        keys.sort_unstable();
        keys.dedup();
        return keys;
    }
    let mut bits = vec![0u64; greatest.index() / 64 + 1];
    for key in &keys {
        bits[key.index() / 64] |= 1 << (key.index() % 64);
    }
    keys.clear();
    for (word, mut left) in bits.into_iter().enumerate() {
        while left != 0 {
            keys.push(KeyId((word * 64) as u32 + left.trailing_zeros()));
            left &= left - 1;
        }
    }
    keys
}

impl<T: EpochTime> Seal<T> {
    pub(super) fn new<K: Key>(groups: KeyGroups, keys: SharedKeys<K>) -> Self {
        let hashed = SharedKeys::clone(&keys);
        Seal {
            encode_key: Box::new(move |id, bytes| {
                let key = &keys.borrow()[id.index()];
                *bytes = postcard::to_extend(key, std::mem::take(bytes))
                    .unwrap_or_else(|error| panic!("key {key:?} cannot be encoded: {error}"));
            }),
            group_of: Box::new(move |id| groups.of(&hashed.borrow()[id.index()])),
            groups: Vec::new(),
            changed: Vec::new(),
            keys: BTreeMap::new(),
            writers: BTreeMap::new(),
            notifications: HashMap::default(),
            open: OpenWork::default(),
            unsealed: Vec::new(),
        }
    }

    /// A key's group and bytes.
    pub(super) fn place(&self, key: KeyId) -> (u32, Vec<u8>) {
        let mut bytes = Vec::new();
        (self.encode_key)(key, &mut bytes);
        ((self.group_of)(key), bytes)
    }

    /// A run at `time` has changed what is durable of `key`.
    #[inline]
    pub(super) fn changed(&mut self, key: KeyId, time: &T) {
        if self.changed.len() <= key.index() {
            self.changed.resize(key.index() + 1, None);
        }
        match &mut self.changed[key.index()] {
            Some(before) if before.epoch() == time.epoch() => {
                if T::ORDER != TimeOrder::Total && !time.less_equal(before) {
                    *before = before.after_both(time);
                }
            }
            at => {
                debug_assert!(at.is_none(), "changes of an earlier epoch are encoded before a later run");
                self.keys.entry(time.epoch()).or_default().added.push(key);
                self.open.add(time, 1);
                *at = Some(time.clone());
            }
        }
    }

    /// A run of `key` at `time` has asked to be told of the end of `epoch`, `at` that time, or is being told.
    pub(super) fn notification(&mut self, key: KeyId, time: &T, epoch: u64, at: Option<T>) {
        self.notifications.entry(key).or_default().insert(epoch, at);
        self.changed(key, time);
    }

    /// The epoch that `key` has changes of which are not encoded, if it is before that of `time`.
    #[inline]
    pub(super) fn older(&self, key: KeyId, time: &T) -> Option<u64> {
        let before = self.changed.get(key.index())?.as_ref()?.epoch();
        (before < time.epoch()).then_some(before)
    }

    /// Encodes the changes of a key, which are of `epoch`; `write` writes all but notifications.
    pub(super) fn encode(&mut self, key: KeyId, epoch: u64, write: impl FnOnce(&mut KeyWriter)) {
        let Some(time) = self.changed[key.index()].take() else { return };
        if self.groups.len() <= key.index() {
            self.groups.resize((key.index() + 1).max(self.changed.len()), u32::MAX);
        }
        let group = &mut self.groups[key.index()];
        if *group == u32::MAX {
            *group = (self.group_of)(key);
        }
        let notified = if self.notifications.is_empty() { None } else { self.notifications.remove(&key) };
        let encode_key = &self.encode_key;
        self.writers.entry(epoch).or_default().key(
            *group,
            &time,
            |bytes| encode_key(key, bytes),
            |facts| {
                for (epoch, at) in notified.into_iter().flatten() {
                    let what = What::Notification(epoch);
                    match at {
                        Some(at) => facts.put(&what, &at).unwrap_or_else(|e| panic!("{at:?} cannot be encoded: {e}")),
                        None => facts.retire(&what),
                    }
                }
                write(facts);
            },
        );
    }

    /// Lets a block leave that is full.
    pub(super) fn ship_full(&mut self, epoch: u64, each: &mut impl FnMut(Block<T>)) {
        if let Some(writer) = self.writers.get_mut(&epoch)
            && writer.keys() >= SLICE
        {
            writer.finish(T::ORDER != TimeOrder::Partial, each);
        }
    }

    /// Encodes a slice of the least epoch that `is_over` says is over; whether more is left to seal.
    pub(super) fn close(
        &mut self,
        mut write: impl FnMut(KeyId, &mut KeyWriter),
        is_over: impl Fn(u64) -> bool,
        each: &mut impl FnMut(Block<T>),
    ) -> bool {
        let mut left = SLICE;
        while let Some(epoch) = self.keys.first_key_value().map(|(e, _)| *e).filter(|e| is_over(*e)) {
            if left == 0 {
                return true;
            }
            let dirty = self.keys.get_mut(&epoch).expect("found");
            let slice = dirty.take(left);
            left -= slice.len();
            let sealed = dirty.is_empty();
            for key in slice {
                if matches!(self.changed.get(key.index()), Some(Some(at)) if at.epoch() == epoch) {
                    self.encode(key, epoch, |facts| write(key, facts));
                }
            }
            if sealed {
                self.keys.remove(&epoch);
                if let Some(mut writer) = self.writers.remove(&epoch) {
                    writer.finish(T::ORDER != TimeOrder::Partial, each);
                }
                self.open.clear_epoch(epoch);
            } else {
                self.ship_full(epoch, each);
            }
        }
        false
    }

    /// Whether the times that facts may come at have changed since last asked.
    pub(super) fn take_changed(&mut self) -> bool {
        self.open.take_changed()
    }

    /// The least times of unfinished work and of changes that are not sealed.
    pub(super) fn minimal(&mut self, work: &OpenWork<T>, into: &mut Vec<T>) {
        self.open.minimal(&mut self.unsealed);
        work.minimal(into);
        for time in self.unsealed.drain(..) {
            if !into.iter().any(|m| m.less_equal(&time)) {
                into.retain(|m| !time.less_equal(m));
                into.push(time);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn changed_keys_are_sealed_in_order_each_once() {
        let ids = |ids: &[u32]| ids.iter().map(|id| KeyId(*id)).collect::<Vec<_>>();
        assert_eq!(in_order(ids(&[])), []);
        assert_eq!(in_order(ids(&[7, 3, 7, 64, 0])), ids(&[0, 3, 7, 64]));
        assert_eq!(in_order(ids(&[1_000_000, 3])), ids(&[3, 1_000_000]));
        let mut dirty = Dirty { added: ids(&[5, 4, 3, 2, 1]), ordered: None };
        assert_eq!((dirty.take(2), dirty.is_empty()), (ids(&[1, 2]), false));
        assert_eq!((dirty.take(9), dirty.is_empty()), (ids(&[3, 4, 5]), true));
    }
}
