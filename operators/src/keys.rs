//! The key index: a dense id for each key of a worker.
//!
//! Ids count from 0 in order of first sight and index every per-key column, so the key is hashed and
//! compared once per input. Ids live for one process; what is durable names keys, never ids.
//!
//! A table that grows moves all that it has at once. So many keys lie in many tables, which grow at different moments: no
//! single key waits for the move of a million others.

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

/// Up to so many keys lie in one table.
const FEW: usize = 1 << 14;
/// More lie in so many tables, a power of two.
const TABLES: usize = 1 << 10;
/// Where the bits of a hash begin that choose a table; a table looks at the lowest and at the highest ones.
const CHOICE: u32 = 40;

/// Finds ids by keys.
pub struct KeyIndex<K> {
    tables: Vec<HashTable<(K, KeyId)>>,
    count: usize,
    hasher: FixedState,
    keys: SharedKeys<K>,
}

impl<K: Key> Default for KeyIndex<K> {
    fn default() -> Self {
        let tables = vec![HashTable::new()];
        KeyIndex { tables, count: 0, hasher: FixedState::with_seed(0x6B65_7973), keys: Rc::default() }
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
        match self.tables[self.table(hash)].find(hash, |(k, _)| k == key) {
            Some((_, id)) => *id,
            None => self.add(hash, key),
        }
    }

    /// Which table has the keys of that hash.
    #[inline]
    fn table(&self, hash: u64) -> usize {
        (hash >> CHOICE) as usize & (self.tables.len() - 1)
    }

    #[cold]
    fn add(&mut self, hash: u64, key: &K) -> KeyId {
        if self.count == FEW {
            self.spread();
        }
        let table = self.table(hash);
        let mut keys = self.keys.borrow_mut();
        let id = KeyId(u32::try_from(keys.len()).expect("fewer than 2^32 keys on a worker"));
        keys.push(key.clone());
        let hasher = &self.hasher;
        self.tables[table].insert_unique(hash, (key.clone(), id), |(k, _)| hasher.hash_one(k));
        self.count += 1;
        id
    }

    /// Moves the keys of the one table to many.
    fn spread(&mut self) {
        let all = std::mem::replace(&mut self.tables, (0..TABLES).map(|_| HashTable::new()).collect());
        for (key, id) in all.into_iter().flatten() {
            let hash = self.hasher.hash_one(&key);
            let (table, hasher) = (self.table(hash), &self.hasher);
            self.tables[table].insert_unique(hash, (key, id), |(k, _)| hasher.hash_one(k));
        }
    }

    /// The id of `key` if it has been seen.
    pub fn find(&self, key: &K) -> Option<KeyId> {
        let hash = self.hasher.hash_one(key);
        self.tables[self.table(hash)].find(hash, |(k, _)| k == key).map(|(_, id)| *id)
    }

    /// The number of keys.
    pub fn len(&self) -> usize {
        self.count
    }

    /// Whether no key has been seen.
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// The keys by id.
    pub fn keys(&self) -> SharedKeys<K> {
        Rc::clone(&self.keys)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_stay_when_keys_become_many() {
        let mut index = KeyIndex::default();
        let many = 3 * FEW as u64;
        for key in 0..many {
            assert_eq!(index.id(&key).index() as u64, key);
            assert_eq!(index.id(&(key / 2)).index() as u64, key / 2);
        }
        assert_eq!((index.len() as u64, index.find(&many)), (many, None));
        assert!((0..many).all(|key| index.find(&key) == Some(KeyId(key as u32))));
        assert_eq!(index.tables.len(), TABLES);
        let largest = index.tables.iter().map(HashTable::len).max();
        assert!(largest.is_some_and(|largest| largest < 3 * 3 * FEW / TABLES), "{largest:?}");
    }
}
