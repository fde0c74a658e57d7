//! Sealing: what changed in an epoch becomes facts when the epoch is over (rule D1).
//!
//! A key's facts of epoch e are encoded when its first later run starts, or when e is sealed, whichever comes first; so
//! memory is never kept in two versions. Facts that are encoded are final, and leave as blocks of about [`SLICE`] keys:
//! an activation seals at most one slice, so that no worker stands still over a large epoch.
//!
//! Which epoch a key has changes of is four bits by key, which most runs only look at. Keys are sealed in order of their
//! ids, in which all that is known of them lies side by side: of many by a walk over those bits, of few from a list.
//!
//! Not here: how a key's changes are encoded (`encoder`).
//!
//! # Invariants
//! - A changed key is encoded once per epoch, and before a run of a later epoch touches it. So it has changes of one epoch
//!   at a time.
//! - Facts of a time go out while a capability for it is held: changed times count as open for the port until the last
//!   block of their epoch has left.

use std::collections::VecDeque;

use foldhash::fast::FixedState;
use hashbrown::HashMap;

use super::encoder::{Encoder, Source};
use super::tags::{BEYOND, CLEAN, Tag, Tags};
use crate::fact::{Block, BlockWriter};
use crate::group::KeyGroups;
use crate::keys::{Key, KeyId, SharedKeys};
use crate::open_work::OpenWork;
use crate::time::{EpochTime, TimeOrder};

/// Keys of one block, more or less, and of one slice of a seal.
const SLICE: usize = 1 << 14;
/// Bytes after which a block leaves and a slice ends, though they have fewer keys.
const SLICE_BYTES: usize = 1 << 20;
/// The keys of an epoch are listed while they are at most one in so many, and a slice.
const LISTED: usize = 64;

/// So many keys are found at a time.
const GATHERED: usize = 512;

pub(super) struct Seal<T, K> {
    /// By key: the epoch of which it has changes that are not encoded yet.
    since: Tags,
    /// Those of keys that are beyond tags.
    beyond: HashMap<KeyId, u64, FixedState>,
    /// By tag: the epoch that has it, if one does.
    tags: [Option<u64>; BEYOND as usize],
    /// Epochs with changes, ascending.
    unsealed: VecDeque<Unsealed<T>>,
    /// The first time of the newest of them, and its tag, if it has one to itself.
    newest: Option<(T, Tag)>,
    encoder: Encoder<T, K>,
    /// Times that facts may still come at.
    open: OpenWork<T>,
    /// Times of records that are not durable yet: no commit passes them either.
    pub(super) unrecorded: OpenWork<T>,
    /// Keys of earlier epochs, while they are looked for.
    older: Vec<KeyId>,
    /// The least of the open times, while they are looked at.
    least: Vec<T>,
    /// A writer that has nothing to write.
    spare: BlockWriter<T>,
}

/// An epoch with changes that are not sealed.
pub(super) struct Unsealed<T> {
    epoch: u64,
    tag: Tag,
    /// The time of its first change.
    pub(super) first: T,
    /// How many keys have changes of it that are not encoded.
    pub(super) left: usize,
    keys: Changed,
    /// While the epoch is being sealed: the keys of all ids before this are encoded.
    from: usize,
    /// Facts that are encoded and have not left.
    pub(super) writer: BlockWriter<T>,
}

/// The keys with changes of an epoch; some may be encoded already.
enum Changed {
    /// A few.
    Listed { keys: Vec<KeyId>, sorted: bool },
    /// So many that they are found by their tags.
    Many,
}

impl<T: EpochTime, K: Key> Seal<T, K> {
    pub(super) fn new(key_groups: KeyGroups, keys: SharedKeys<K>) -> Self {
        Seal {
            since: Tags::default(),
            beyond: HashMap::default(),
            tags: [None; BEYOND as usize],
            unsealed: VecDeque::new(),
            newest: None,
            encoder: Encoder::new(key_groups, keys),
            open: OpenWork::default(),
            unrecorded: OpenWork::default(),
            older: Vec::new(),
            least: Vec::new(),
            spare: BlockWriter::default(),
        }
    }

    /// A key's group and bytes.
    pub(super) fn place(&self, key: KeyId) -> (u32, Vec<u8>) {
        self.encoder.place(key)
    }

    /// A run at `time` has changed what is durable of `key`.
    #[inline]
    pub(super) fn changed(&mut self, key: KeyId, time: &T) {
        let all = self.since.room();
        if let Some((first, tag)) = &self.newest
            && first == time
            && self.encoder.is_of_one_time()
            && key.index() < all
        {
            match self.since.get(key) {
                before if before == *tag => return,
                CLEAN => {
                    if let Some(newest) = self.unsealed.back_mut() {
                        self.since.replace(key, *tag);
                        newest.add(key, all);
                        return;
                    }
                }
                _ => {}
            }
        }
        self.note(key, time);
    }

    /// Runs at `time` change what is durable of `keys`, of which one may be there twice; their changes of earlier epochs are
    /// encoded.
    pub(super) fn changed_all(&mut self, keys: &[KeyId], time: &T) {
        let Some((key, keys)) = keys.split_first() else { return };
        self.changed(*key, time);
        self.since.admit(self.encoder.keys());
        let all = self.since.room();
        match (&self.newest, self.unsealed.back_mut()) {
            (Some((first, tag)), Some(newest)) if first == time && self.encoder.is_of_one_time() => {
                for key in keys {
                    let before = self.since.replace(*key, *tag);
                    debug_assert!(before == CLEAN || before == *tag, "a key has changes of one epoch");
                    if before == CLEAN {
                        newest.add(*key, all);
                    }
                }
            }
            _ => keys.iter().for_each(|key| self.changed(*key, time)),
        }
    }

    fn note(&mut self, key: KeyId, time: &T) {
        let (epoch, id) = (time.epoch(), key.index());
        self.since.admit(self.encoder.keys().max(id + 1));
        let before = self.epoch_of(key);
        debug_assert!(before.is_none_or(|e| e == epoch), "changes of an earlier epoch are encoded before a later run");
        let at = self.find_or_open(time);
        let unsealed = &mut self.unsealed[at];
        if before == Some(epoch) {
            if T::ORDER != TimeOrder::Total {
                self.encoder.later(id, time, &unsealed.first);
            }
            return;
        }
        self.since.replace(key, unsealed.tag);
        if unsealed.tag == BEYOND {
            self.beyond.insert(key, epoch);
        }
        unsealed.add(key, self.since.room());
        if *time != unsealed.first {
            self.open.add(time, 1);
        }
        self.encoder.since(id, time, &unsealed.first);
    }

    /// The epoch of which `key` has changes that are not encoded.
    #[inline]
    fn epoch_of(&self, key: KeyId) -> Option<u64> {
        match self.since.get(key) {
            CLEAN => None,
            BEYOND => self.beyond.get(&key).copied(),
            tag => self.tags[usize::from(tag)],
        }
    }

    fn find(&self, epoch: u64) -> Result<usize, usize> {
        match self.unsealed.back() {
            Some(last) if last.epoch == epoch => Ok(self.unsealed.len() - 1),
            _ => self.unsealed.binary_search_by_key(&epoch, |unsealed| unsealed.epoch),
        }
    }

    fn find_or_open(&mut self, time: &T) -> usize {
        let epoch = time.epoch();
        let at = match self.find(epoch) {
            Ok(at) => return at,
            Err(at) => at,
        };
        let free = self.tags.iter().skip(1).position(Option::is_none).map_or(usize::from(BEYOND), |n| n + 1);
        if let Some(tag) = self.tags.get_mut(free) {
            *tag = Some(epoch);
        }
        let tag = free as Tag;
        let keys = Changed::Listed { keys: Vec::new(), sorted: true };
        let writer = std::mem::take(&mut self.spare);
        self.unsealed.insert(at, Unsealed { epoch, tag, first: time.clone(), left: 0, keys, from: 0, writer });
        self.open.add(time, 1);
        if at + 1 == self.unsealed.len() {
            self.newest = (tag != BEYOND).then(|| (time.clone(), tag));
        }
        at
    }

    /// Puts those of `keys`, whose runs are at `time`, of which that is not noted yet into `fresh`, which has as much room; how
    /// many these are. A key may be there twice.
    pub(super) fn not_noted(&self, keys: &[KeyId], time: &T, fresh: &mut [KeyId]) -> usize {
        let Some((_, tag)) = self.newest.as_ref().filter(|(first, _)| first == time && self.encoder.is_of_one_time())
        else {
            fresh.copy_from_slice(keys);
            return keys.len();
        };
        let mut found = 0;
        for key in keys {
            // Without a branch for each: many would be guessed wrong.
            fresh[found] = *key;
            found += usize::from(self.since.get(*key) != *tag);
        }
        found
    }

    /// A run of `key` at `time` has asked to be told of the end of `epoch`, `at` that time, or is being told.
    pub(super) fn notification(&mut self, key: KeyId, time: &T, epoch: u64, at: Option<T>) {
        self.encoder.notification(key, epoch, at);
        self.changed(key, time);
    }

    /// Whether there may be keys with changes of an epoch before that of `time`.
    #[inline]
    pub(super) fn has_older(&self, time: &T) -> bool {
        self.unsealed.front().is_some_and(|unsealed| unsealed.epoch < time.epoch())
    }

    /// The epoch that `key` has changes of which are not encoded, if it is before that of `time`.
    #[inline]
    pub(super) fn older(&self, key: KeyId, time: &T) -> Option<u64> {
        self.epoch_of(key).filter(|before| *before < time.epoch())
    }

    /// Encodes the changes of a key, which are of `epoch`.
    pub(super) fn encode(&mut self, key: KeyId, epoch: u64, source: &mut impl Source) {
        if self.epoch_of(key) == Some(epoch) {
            self.clear(key);
            self.encode_cleared(&[key], epoch, source);
        }
    }

    /// Encodes those changes of `keys` that are of epochs before that of `time`; blocks that are full leave.
    pub(super) fn encode_older(
        &mut self,
        keys: &[KeyId],
        time: &T,
        source: &mut impl Source,
        each: &mut impl FnMut(Block<T>),
    ) {
        let mut older = std::mem::take(&mut self.older);
        let mut epoch = None;
        for key in keys {
            let Some(before) = self.older(*key, time) else { continue };
            if let Some(last) = epoch.replace(before).filter(|last| *last != before) {
                self.encode_cleared(&older, last, source);
                self.ship_full(last, each);
                older.clear();
            }
            // At once, since it may be there twice.
            self.clear(*key);
            older.push(*key);
        }
        if let Some(last) = epoch {
            self.encode_cleared(&older, last, source);
            self.ship_full(last, each);
        }
        older.clear();
        self.older = older;
    }

    /// Encodes changes of `epoch` of keys that are not known to have them any more.
    fn encode_cleared(&mut self, mut keys: &[KeyId], epoch: u64, source: &mut impl Source) {
        let Ok(at) = self.find(epoch) else { return };
        let unsealed = &mut self.unsealed[at];
        while !keys.is_empty() {
            let done = self.encoder.encode(unsealed, keys, source);
            keys = &keys[done..];
        }
    }

    /// Lets a block leave that is full.
    #[inline]
    pub(super) fn ship_full(&mut self, epoch: u64, each: &mut impl FnMut(Block<T>)) {
        if let Ok(at) = self.find(epoch) {
            self.unsealed[at].ship_full(each);
        }
    }

    /// Encodes a slice of the least epoch that `is_over` says is over; whether more is left to seal.
    pub(super) fn close(
        &mut self,
        source: &mut impl Source,
        is_over: impl Fn(u64) -> bool,
        each: &mut impl FnMut(Block<T>),
    ) -> bool {
        if self.unsealed.front().is_none_or(|unsealed| !is_over(unsealed.epoch)) {
            return false;
        }
        self.close_over(source, is_over, each)
    }

    fn close_over(
        &mut self,
        source: &mut impl Source,
        is_over: impl Fn(u64) -> bool,
        each: &mut impl FnMut(Block<T>),
    ) -> bool {
        let mut room = SLICE;
        let mut ids = [KeyId(0); GATHERED];
        while self.unsealed.front().is_some_and(|unsealed| is_over(unsealed.epoch)) {
            let Some(mut unsealed) = self.unsealed.pop_front() else { break };
            let full = unsealed.writer.len() + SLICE_BYTES;
            while unsealed.left > 0 {
                if room == 0 || unsealed.writer.len() >= full {
                    unsealed.ship_full(each);
                    self.unsealed.push_front(unsealed);
                    return true;
                }
                let found = self.gather(&mut unsealed, &mut ids);
                debug_assert!(found > 0 || unsealed.from > 0, "keys that are counted are found");
                if found == 0 && std::mem::take(&mut unsealed.from) == 0 {
                    break;
                }
                let mut keys = &ids[..found.min(room)];
                while !keys.is_empty() && unsealed.writer.len() < full {
                    let done = self.encoder.encode(&mut unsealed, keys, source);
                    for key in &keys[..done] {
                        self.clear(*key);
                        unsealed.from = key.index() + 1;
                    }
                    room -= done;
                    keys = &keys[done..];
                }
            }
            self.sealed(unsealed, each);
        }
        false
    }

    /// Puts the next keys, in order of ids, with changes of the epoch into `ids`; how many.
    fn gather(&self, unsealed: &mut Unsealed<T>, ids: &mut [KeyId; GATHERED]) -> usize {
        match &mut unsealed.keys {
            Changed::Many => self.since.find(unsealed.from, unsealed.tag, ids),
            Changed::Listed { keys, sorted } => {
                if !std::mem::replace(sorted, true) {
                    keys.sort_unstable();
                    keys.dedup();
                }
                let from = keys.partition_point(|key| key.index() < unsealed.from);
                let left = keys[from..].iter().filter(|key| self.epoch_of(**key) == Some(unsealed.epoch));
                ids.iter_mut().zip(left).map(|(id, key)| *id = *key).count()
            }
        }
    }

    /// The key has no changes from here on that are not encoded.
    #[inline]
    fn clear(&mut self, key: KeyId) {
        if self.since.replace(key, CLEAN) == BEYOND {
            self.beyond.remove(&key);
        }
    }

    /// All changes of an epoch are encoded: what is left of it leaves.
    fn sealed(&mut self, mut unsealed: Unsealed<T>, each: &mut impl FnMut(Block<T>)) {
        unsealed.finish(each);
        self.spare = unsealed.writer;
        self.open.clear_epoch(unsealed.epoch);
        if let Some(tag) = self.tags.get_mut(usize::from(unsealed.tag)) {
            *tag = None;
        }
        if self.unsealed.is_empty() {
            self.newest = None;
            self.encoder.forget_times();
        }
    }

    /// Whether the times that facts may come at have changed since last asked.
    pub(super) fn take_changed(&mut self) -> bool {
        let unrecorded = self.unrecorded.take_changed();
        self.open.take_changed() || unrecorded
    }

    /// The least times of unfinished work and of changes that are not sealed.
    pub(super) fn minimal(&mut self, work: &OpenWork<T>, into: &mut Vec<T>) {
        work.minimal(into);
        for open in [&self.open, &self.unrecorded] {
            open.minimal(&mut self.least);
            for time in self.least.drain(..) {
                if !into.iter().any(|m| m.less_equal(&time)) {
                    into.retain(|m| !time.less_equal(m));
                    into.push(time);
                }
            }
        }
    }
}

impl<T: EpochTime> Unsealed<T> {
    /// Takes note of a key that had no changes, of `all` that there are.
    fn add(&mut self, key: KeyId, all: usize) {
        self.left += 1;
        self.from = self.from.min(key.index());
        match &mut self.keys {
            Changed::Many => {}
            Changed::Listed { keys, .. } if self.tag != BEYOND && keys.len() >= SLICE.min(all / LISTED) => {
                self.keys = Changed::Many;
            }
            Changed::Listed { keys, sorted } => {
                keys.push(key);
                *sorted = false;
            }
        }
    }

    #[inline]
    fn ship_full(&mut self, each: &mut impl FnMut(Block<T>)) {
        if self.writer.keys() >= SLICE || self.writer.len() >= SLICE_BYTES {
            self.finish(each);
        }
    }

    fn finish(&mut self, each: &mut impl FnMut(Block<T>)) {
        self.writer.finish(T::ORDER != TimeOrder::Partial, each);
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test that unwraps in vain has failed")]
mod tests {
    use super::*;
    use crate::fact::{FactColumns, KeyWriter, What};
    use crate::keys::KeyIndex;

    /// Writes the same for each key, in a column.
    struct Each<F>(F);

    impl<F: FnMut(KeyId, &mut KeyWriter)> Source for Each<F> {
        fn columns(&mut self, keys: &[KeyId], columns: &mut FactColumns) {
            let column = columns.another();
            for key in keys {
                column.key(|facts| self.0(*key, facts));
            }
        }
    }

    fn retired() -> impl Source {
        Each(|_, facts: &mut KeyWriter| facts.retire(&What::Sequence))
    }

    fn seal(keys: u64) -> Seal<u64, u64> {
        let mut index = KeyIndex::default();
        for key in 0..keys {
            index.id(&key);
        }
        Seal::new(KeyGroups::default(), index.keys())
    }

    /// The keys of each epoch below `over`, as they are sealed, and after how many slices.
    fn sealed(seal: &mut Seal<u64, u64>, over: u64) -> (Vec<(u64, Vec<u64>)>, usize) {
        let mut found: Vec<(u64, Vec<u64>)> = Vec::new();
        let (mut slices, mut more) = (0, true);
        while more {
            let mut blocks = Vec::new();
            more = seal.close(
                &mut Each(|key: KeyId, facts: &mut KeyWriter| facts.put_number(&What::Sequence, u64::from(key.0))),
                |epoch| epoch < over,
                &mut |block| blocks.push(block),
            );
            slices += 1;
            for block in blocks {
                let mut keys: Vec<u64> =
                    block.facts().unwrap().iter().map(|fact| postcard::from_bytes(&fact.key).unwrap()).collect();
                match found.last_mut() {
                    Some((epoch, all)) if *epoch == block.time => all.append(&mut keys),
                    _ => found.push((block.time, keys)),
                }
            }
        }
        for (_, keys) in &mut found {
            keys.sort_unstable();
        }
        (found, slices)
    }

    #[test]
    fn each_changed_key_is_sealed_once_in_its_epoch() {
        for keys in [3, 1000, 100_000] {
            let mut seal = seal(keys);
            let some: Vec<u64> = (0..keys).filter(|key| key % 3 == 0).collect();
            for _ in 0..2 {
                some.iter().rev().for_each(|key| seal.changed(KeyId(*key as u32), &5));
            }
            assert_eq!(sealed(&mut seal, 5).0, []);
            assert!(seal.has_older(&6) && !seal.has_older(&5));
            let (found, slices) = sealed(&mut seal, 6);
            assert_eq!(found, [(5, some.clone())]);
            assert_eq!(slices, some.len().div_ceil(SLICE));
            assert_eq!(sealed(&mut seal, 9).0, []);
        }
    }

    #[test]
    fn a_key_that_is_needed_again_is_encoded_before() {
        let mut seal = seal(1000);
        (0..1000).for_each(|key| seal.changed(KeyId(key), &5));
        for key in [7, 999, 0] {
            assert_eq!((seal.older(KeyId(key), &6), seal.older(KeyId(key), &5)), (Some(5), None));
            seal.encode(KeyId(key), 5, &mut retired());
            assert_eq!(seal.older(KeyId(key), &6), None);
            seal.changed(KeyId(key), &6);
        }
        assert_eq!(sealed(&mut seal, 7).0, [(5, (0..1000).collect()), (6, vec![0, 7, 999])]);
    }

    #[test]
    fn keys_that_are_needed_again_together_are_encoded_once() {
        let mut seal = seal(1000);
        (0..1000).for_each(|key| seal.changed(KeyId(key), &(4 + u64::from(key % 2))));
        let keys: Vec<_> = (10..16).chain(10..16).map(KeyId).collect();
        let mut found = keys.clone();
        let n = seal.not_noted(&keys, &5, &mut found);
        assert_eq!(found[..n], [10, 12, 14, 10, 12, 14].map(KeyId), "the others have changed at that time");
        seal.encode_older(&keys, &6, &mut retired(), &mut |_| {});
        for key in &keys {
            seal.changed(*key, &6);
        }
        let of = |rest: u64| (0..1000).filter(|key| key % 2 == rest).collect::<Vec<u64>>();
        assert_eq!(sealed(&mut seal, 7).0, [(4, of(0)), (5, of(1)), (6, (10..16).collect())]);
    }

    #[test]
    fn more_epochs_than_tags_can_be_open() {
        let mut seal = seal(1000);
        (0..1000).for_each(|key| seal.changed(KeyId(key), &u64::from(key)));
        assert_eq!(seal.older(KeyId(900), &1000), Some(900));
        seal.encode(KeyId(900), 900, &mut retired());
        seal.changed(KeyId(900), &1000);
        let all: Vec<(u64, Vec<u64>)> = (0..1000).map(|key| (key, vec![key])).chain([(1000, vec![900])]).collect();
        assert_eq!(sealed(&mut seal, 1001).0, all);
        assert!(seal.beyond.is_empty() && seal.tags.iter().all(Option::is_none));
    }

    #[test]
    fn large_values_make_small_slices() {
        let mut seal = seal(64);
        (0..64).for_each(|key| seal.changed(KeyId(key), &0));
        let value = vec![7; SLICE_BYTES / 4];
        let (mut slices, mut blocks) = (1, 0);
        let mut source = Each(|_, facts: &mut KeyWriter| facts.put_bytes(&What::Row, &value));
        while seal.close(&mut source, |_| true, &mut |_| blocks += 1) {
            slices += 1;
        }
        assert_eq!((slices, blocks), (16, 16));
    }
}
