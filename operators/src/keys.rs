//! The key index: a dense id for each key of a worker.
//!
//! Ids count from 0 in order of first sight and index every per-key column, so the key is hashed and
//! compared once per input. Ids live for one process; what is durable names keys, never ids.

use std::cell::RefCell;
use std::fmt::Debug;
use std::hash::{BuildHasher, Hash};
use std::rc::Rc;

use foldhash::fast::FixedState;
use hashbrown::HashTable;
use serde::Serialize;
use serde::de::DeserializeOwned;

/// What a key must be: comparable in memory, and of one byte form for placement and storage.
pub trait Key: Clone + Eq + Hash + Debug + Serialize + DeserializeOwned + 'static {}

impl<K: Clone + Eq + Hash + Debug + Serialize + DeserializeOwned + 'static> Key for K {}

/// The dense id of a key on this worker.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct KeyId(pub u32);

impl KeyId {
    /// As an index into per-key columns.
    #[inline]
    pub fn index(self) -> usize {
        self.0 as usize
    }
}

/// The keys by id, shared between the driver, which adds, and the behavior, which reads.
pub type SharedKeys<K> = Rc<RefCell<Vec<K>>>;

/// Finds ids by keys.
pub struct KeyIndex<K> {
    table: HashTable<(K, KeyId)>,
    hasher: FixedState,
    keys: SharedKeys<K>,
}

impl<K: Key> Default for KeyIndex<K> {
    fn default() -> Self {
        KeyIndex { table: HashTable::new(), hasher: FixedState::with_seed(0x6B65_7973), keys: Rc::default() }
    }
}

impl<K: Key> KeyIndex<K> {
    /// The id of `key`, new when the key has not been seen.
    ///
    /// # Panics
    /// Beyond `u32::MAX` keys on one worker.
    #[inline]
    pub fn id(&mut self, key: &K) -> KeyId {
        let hash = self.hasher.hash_one(key);
        match self.table.find(hash, |(k, _)| k == key) {
            Some((_, id)) => *id,
            None => self.add(hash, key),
        }
    }

    #[cold]
    fn add(&mut self, hash: u64, key: &K) -> KeyId {
        let mut keys = self.keys.borrow_mut();
        let id = KeyId(u32::try_from(keys.len()).expect("fewer than 2^32 keys on a worker"));
        keys.push(key.clone());
        let hasher = &self.hasher;
        self.table.insert_unique(hash, (key.clone(), id), |(k, _)| hasher.hash_one(k));
        id
    }

    /// The id of `key` if it has been seen.
    pub fn find(&self, key: &K) -> Option<KeyId> {
        self.table.find(self.hasher.hash_one(key), |(k, _)| k == key).map(|(_, id)| *id)
    }

    /// The number of keys.
    pub fn len(&self) -> usize {
        self.table.len()
    }

    /// Whether no key has been seen.
    pub fn is_empty(&self) -> bool {
        self.table.is_empty()
    }

    /// The keys by id.
    pub fn keys(&self) -> SharedKeys<K> {
        Rc::clone(&self.keys)
    }
}
