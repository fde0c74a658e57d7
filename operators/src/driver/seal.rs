//! Sealing: what changed in an epoch becomes facts when the epoch is over (rule D1).
//!
//! A key's facts of epoch e are encoded when its first later run starts, or when e is sealed, whichever comes first; so
//! memory is never kept in two versions. Facts that are encoded are final, and leave as blocks of about [`SLICE`] keys:
//! an activation seals at most one slice, so that no worker stands still over a large epoch.
//!
//! Which epoch a key has changes of is one byte by key, which most runs only look at. Keys are sealed in order of their
//! ids, in which all that is known of them lies side by side: of many by a walk over those bytes, of few from a list.
//!
//! # Invariants
//! - A changed key is encoded once per epoch, and before a run of a later epoch touches it. So it has changes of one epoch
//!   at a time.
//! - Facts of a time go out while a capability for it is held: changed times count as open for the port until the last
//!   block of their epoch has left.

use std::collections::{BTreeMap, VecDeque};

use foldhash::fast::FixedState;
use hashbrown::HashMap;

use crate::fact::{Block, BlockWriter, KeyWriter, What, append};
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

/// So many keys are found, and then encoded, at a time; tags are looked at so many at a time.
const GATHERED: usize = 512;
const TAGS: usize = 64;

/// Which epoch a key has changes of, as one byte.
type Tag = u8;
/// It has none.
const CLEAN: Tag = 0;
/// It is one of so many unsealed epochs that there was no byte left for it: `Seal::beyond` has it.
const BEYOND: Tag = Tag::MAX;

pub(super) struct Seal<T, K> {
    /// By key: the epoch of which it has changes that are not encoded yet.
    since: Vec<Tag>,
    beyond: HashMap<KeyId, u64, FixedState>,
    /// By tag: the epoch that has it, if one does.
    tags: Vec<Option<u64>>,
    /// Epochs with changes, ascending.
    unsealed: VecDeque<Unsealed<T>>,
    /// The first time of the newest of them, and its tag, if it has one to itself.
    newest: Option<(T, Tag)>,
    encoder: Encoder<T, K>,
    /// Times that facts may still come at.
    open: OpenWork<T>,
    /// Times of records that are not durable yet: no commit passes them either.
    pub(super) unrecorded: OpenWork<T>,
    /// The least of them, while they are looked at.
    least: Vec<T>,
    /// A writer that has nothing to write.
    spare: BlockWriter<T>,
}

/// What is known of keys and their changes.
struct Encoder<T, K> {
    keys: SharedKeys<K>,
    key_groups: KeyGroups,
    /// By key: its group, once it was asked for.
    groups: Vec<u32>,
    /// By key: since when its changes are, where that is not the first time of their epoch. Empty while there are no such.
    times: Vec<Option<T>>,
    /// By key: notifications that were asked for, by their epochs, or that have come, since the key was last encoded.
    notifications: HashMap<KeyId, BTreeMap<u64, Option<T>>, FixedState>,
}

/// An epoch with changes that are not sealed.
struct Unsealed<T> {
    epoch: u64,
    tag: Tag,
    /// The time of its first change.
    first: T,
    /// How many keys have changes of it that are not encoded.
    left: usize,
    keys: Changed,
    /// While the epoch is being sealed: the keys of all ids before this are encoded.
    from: usize,
    /// Facts that are encoded and have not left.
    writer: BlockWriter<T>,
}

/// The keys with changes of an epoch; some may be encoded already.
enum Changed {
    /// A few.
    Listed { keys: Vec<KeyId>, sorted: bool },
    /// So many that they are found by their tags.
    Many,
}

/// Puts ids, not before `from`, that have this tag into `ids`, in order: about as many as it has room for. How many.
fn tagged(since: &[Tag], from: usize, tag: Tag, ids: &mut [KeyId; GATHERED]) -> usize {
    let mut found = 0;
    let mut first = from;
    for tags in since.get(from..).unwrap_or_default().chunks(TAGS) {
        if found + TAGS > ids.len() {
            break;
        }
        if tags.contains(&tag) {
            // Without a branch for each: half of them would be guessed wrong.
            for (n, at) in tags.iter().enumerate() {
                ids[found] = KeyId((first + n) as u32);
                found += usize::from(*at == tag);
            }
        }
        first += tags.len();
    }
    found
}

impl<T: EpochTime, K: Key> Seal<T, K> {
    pub(super) fn new(key_groups: KeyGroups, keys: SharedKeys<K>) -> Self {
        Seal {
            since: Vec::new(),
            beyond: HashMap::default(),
            tags: vec![None; usize::from(BEYOND)],
            unsealed: VecDeque::new(),
            newest: None,
            encoder: Encoder {
                keys,
                key_groups,
                groups: Vec::new(),
                times: Vec::new(),
                notifications: HashMap::default(),
            },
            open: OpenWork::default(),
            unrecorded: OpenWork::default(),
            least: Vec::new(),
            spare: BlockWriter::default(),
        }
    }

    /// A key's group and bytes.
    pub(super) fn place(&self, key: KeyId) -> (u32, Vec<u8>) {
        let keys = self.encoder.keys.borrow();
        let key = &keys[key.index()];
        let bytes = postcard::to_allocvec(key).unwrap_or_else(|error| panic!("key {key:?} cannot be encoded: {error}"));
        (self.encoder.key_groups.of(key), bytes)
    }

    /// A run at `time` has changed what is durable of `key`.
    #[inline]
    pub(super) fn changed(&mut self, key: KeyId, time: &T) {
        if let Some((first, tag)) = &self.newest
            && first == time
            && self.since.get(key.index()) == Some(tag)
            && self.encoder.times.is_empty()
        {
            return;
        }
        self.note(key, time);
    }

    fn note(&mut self, key: KeyId, time: &T) {
        let (epoch, id) = (time.epoch(), key.index());
        if self.since.len() <= id {
            self.since.resize(self.encoder.keys.borrow().len().max(id + 1), CLEAN);
        }
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
        self.since[id] = unsealed.tag;
        if unsealed.tag == BEYOND {
            self.beyond.insert(key, epoch);
        }
        unsealed.add(key, self.since.len());
        if *time != unsealed.first {
            self.open.add(time, 1);
        }
        self.encoder.since(id, time, &unsealed.first);
    }

    /// The epoch of which `key` has changes that are not encoded.
    #[inline]
    fn epoch_of(&self, key: KeyId) -> Option<u64> {
        match *self.since.get(key.index())? {
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

    /// Brings what [`Seal::changed`] and [`Seal::older`] look at into the cache.
    pub(super) fn touch(&self, keys: &[KeyId]) {
        let changed = keys.iter().filter(|key| self.since.get(key.index()).is_some_and(|tag| *tag != CLEAN)).count();
        std::hint::black_box(changed);
    }

    /// A run of `key` at `time` has asked to be told of the end of `epoch`, `at` that time, or is being told.
    pub(super) fn notification(&mut self, key: KeyId, time: &T, epoch: u64, at: Option<T>) {
        self.encoder.notifications.entry(key).or_default().insert(epoch, at);
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

    /// Encodes the changes of a key, which are of `epoch`; `write` writes all but notifications.
    pub(super) fn encode(&mut self, key: KeyId, epoch: u64, write: impl FnOnce(&mut KeyWriter)) {
        if self.epoch_of(key) == Some(epoch)
            && let Ok(at) = self.find(epoch)
        {
            self.clear(key);
            self.encoder.encode(&mut self.unsealed[at], key, write);
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
        mut write: impl FnMut(KeyId, &mut KeyWriter),
        is_over: impl Fn(u64) -> bool,
        each: &mut impl FnMut(Block<T>),
    ) -> bool {
        if self.unsealed.front().is_none_or(|unsealed| !is_over(unsealed.epoch)) {
            return false;
        }
        self.close_over(&mut write, is_over, each)
    }

    fn close_over(
        &mut self,
        write: &mut impl FnMut(KeyId, &mut KeyWriter),
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
                for key in ids[..found].iter().copied().take(room) {
                    room -= 1;
                    unsealed.from = key.index() + 1;
                    self.clear(key);
                    self.encoder.encode(&mut unsealed, key, |facts| write(key, facts));
                    if unsealed.writer.len() >= full {
                        break;
                    }
                }
            }
            self.sealed(unsealed, each);
        }
        false
    }

    /// Puts the next keys, in order of ids, with changes of the epoch into `ids`; how many.
    fn gather(&self, unsealed: &mut Unsealed<T>, ids: &mut [KeyId; GATHERED]) -> usize {
        match &mut unsealed.keys {
            Changed::Many => tagged(&self.since, unsealed.from, unsealed.tag, ids),
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
        if std::mem::replace(&mut self.since[key.index()], CLEAN) == BEYOND {
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
            self.encoder.times = Vec::new();
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

impl<T: EpochTime, K: Key> Encoder<T, K> {
    /// The changes of the key of that id, which had none, are since `time`; `first` is the first time of the epoch.
    #[inline]
    fn since(&mut self, id: usize, time: &T, first: &T) {
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
    fn later(&mut self, id: usize, time: &T, first: &T) {
        let before = self.times.get(id).and_then(Option::as_ref).unwrap_or(first);
        if !time.less_equal(before) {
            let both = before.after_both(time);
            self.set_time(id, &both, first);
        }
    }

    /// Encodes the changes of a key of an epoch; `write` writes all but notifications.
    #[inline]
    fn encode(&mut self, unsealed: &mut Unsealed<T>, key: KeyId, write: impl FnOnce(&mut KeyWriter)) {
        let id = key.index();
        unsealed.left -= 1;
        let keys = self.keys.borrow();
        if self.groups.len() <= id {
            self.groups.resize(keys.len(), u32::MAX);
        }
        let (group, key_groups) = (&mut self.groups[id], self.key_groups);
        if *group == u32::MAX {
            *group = key_groups.of(&keys[id]);
        }
        let time = self.times.get(id).and_then(Option::as_ref).unwrap_or(&unsealed.first);
        // By reference: what was made just before would have to wait until it can be moved.
        let notifications = &mut self.notifications;
        let encode = |bytes: &mut Vec<u8>| {
            let key = &keys[id];
            append(bytes, key).unwrap_or_else(|error| panic!("key {key:?} cannot be encoded: {error}"));
        };
        unsealed.writer.key(*group, time, encode, |facts| {
            if !notifications.is_empty()
                && let Some(notified) = notifications.remove(&key)
            {
                put_notifications(notified, facts);
            }
            write(facts);
        });
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

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test that unwraps in vain has failed")]
mod tests {
    use super::*;
    use crate::keys::KeyIndex;

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
                |key, facts| facts.put_number(&What::Sequence, u64::from(key.0)),
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
            seal.encode(KeyId(key), 5, |facts| facts.retire(&What::Sequence));
            assert_eq!(seal.older(KeyId(key), &6), None);
            seal.changed(KeyId(key), &6);
        }
        assert_eq!(sealed(&mut seal, 7).0, [(5, (0..1000).collect()), (6, vec![0, 7, 999])]);
    }

    #[test]
    fn more_epochs_than_tags_can_be_open() {
        let mut seal = seal(1000);
        (0..1000).for_each(|key| seal.changed(KeyId(key), &u64::from(key)));
        assert_eq!(seal.older(KeyId(900), &1000), Some(900));
        seal.encode(KeyId(900), 900, |facts| facts.retire(&What::Sequence));
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
        while seal.close(|_, facts| facts.put_bytes(&What::Row, &value), |_| true, &mut |_| blocks += 1) {
            slices += 1;
        }
        assert_eq!((slices, blocks), (16, 16));
    }
}
