//! Sealing: what changed in an epoch becomes facts when the epoch is over (rule D1).
//!
//! A key's facts of epoch e are encoded when its first later run starts, or when e is sealed, whichever
//! comes first; so memory is never kept in two versions.
//!
//! # Invariants
//! - A changed key is encoded once per epoch, and before a run of a later epoch touches it.
//! - Facts of a time go out while a capability for it is held: changed times count as open for the port.

use std::collections::BTreeMap;

use crate::behavior::Behavior;
use crate::fact::Fact;
use crate::group::KeyGroups;
use crate::keys::{Key, KeyId, SharedKeys};
use crate::open_work::OpenWork;
use crate::time::EpochTime;

pub(super) struct Seal<T> {
    encode_key: Box<dyn Fn(KeyId) -> (u32, Vec<u8>)>,
    /// By key: the time of the changes that are not encoded yet.
    changed: Vec<Option<T>>,
    /// Keys that changed, by epoch; some may be encoded already.
    keys: BTreeMap<u64, Vec<KeyId>>,
    /// Facts encoded before their epoch was sealed.
    early: BTreeMap<u64, Vec<Fact<T>>>,
    /// Times that facts may still come at.
    open: OpenWork<T>,
    /// The least of them, while they are looked at.
    unsealed: Vec<T>,
}

impl<T: EpochTime> Seal<T> {
    pub(super) fn new<K: Key>(groups: KeyGroups, keys: SharedKeys<K>) -> Self {
        Seal {
            encode_key: Box::new(move |id| {
                let keys = keys.borrow();
                let key = &keys[id.index()];
                let bytes = postcard::to_allocvec(key).unwrap_or_else(|e| panic!("key {key:?} cannot be encoded: {e}"));
                (groups.of(key), bytes)
            }),
            changed: Vec::new(),
            keys: BTreeMap::new(),
            early: BTreeMap::new(),
            open: OpenWork::default(),
            unsealed: Vec::new(),
        }
    }

    /// A run at `time` has changed what `key` remembers.
    pub(super) fn changed(&mut self, key: KeyId, time: &T) {
        if self.changed.len() <= key.index() {
            self.changed.resize(key.index() + 1, None);
        }
        let at = &mut self.changed[key.index()];
        match at {
            Some(before) if before.epoch() == time.epoch() => {}
            _ => {
                debug_assert!(at.is_none(), "changes of an earlier epoch are encoded before a later run");
                self.keys.entry(time.epoch()).or_default().push(key);
                self.open.add(time, 1);
                *at = Some(time.clone());
            }
        }
    }

    /// A run of `key` is about to start at `time`.
    #[inline]
    pub(super) fn before_run<B: Behavior>(&mut self, behavior: &mut B, key: KeyId, time: &T) {
        if let Some(Some(before)) = self.changed.get(key.index())
            && before.epoch() < time.epoch()
        {
            let epoch = before.epoch();
            let mut facts = self.early.remove(&epoch).unwrap_or_default();
            self.encode(behavior, key, &mut facts);
            self.early.insert(epoch, facts);
        }
    }

    fn encode<B: Behavior>(&mut self, behavior: &mut B, key: KeyId, facts: &mut Vec<Fact<T>>) {
        let Some(time) = self.changed[key.index()].take() else {
            return;
        };
        let mut encoded = None;
        behavior.facts(key, &mut |what, value| {
            let (group, key) = encoded.get_or_insert_with(|| (self.encode_key)(key)).clone();
            facts.push(Fact { group, key, what, value, time: time.clone() });
        });
    }

    /// Hands over the facts of epochs that `is_over` says are over.
    pub(super) fn close<B: Behavior>(
        &mut self,
        behavior: &mut B,
        is_over: impl Fn(u64) -> bool,
        mut each: impl FnMut(&T, &mut Vec<Fact<T>>),
    ) {
        while let Some(epoch) = self.keys.first_key_value().map(|(e, _)| *e).filter(|e| is_over(*e)) {
            let keys = self.keys.remove(&epoch).expect("found");
            let mut facts = self.early.remove(&epoch).unwrap_or_default();
            for key in keys {
                if matches!(self.changed.get(key.index()), Some(Some(at)) if at.epoch() == epoch) {
                    self.encode(behavior, key, &mut facts);
                }
            }
            facts.sort_by(|a, b| a.time.cmp(&b.time));
            let mut rest = facts;
            while let Some(time) = rest.first().map(|f| f.time.clone()) {
                let later = rest.split_off(rest.partition_point(|f| f.time <= time));
                each(&time, &mut rest);
                rest = later;
            }
            self.open.clear_epoch(epoch);
        }
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
