//! Checkpoints in memory, for simulations: a crash loses all that a machine without power might lose.
//!
//! It is the store in a directory, on simulated files: what is simulated are files, and not what the store does with them.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::dir_store::DirStore;
use super::store::{CheckpointStore, StoreFile, StoreLock};
use crate::files::SimulatedFiles;

/// The only folder of the disk.
const ROOT: &str = "/store";

/// See the [module](self). Clones share what is stored.
#[derive(Clone, Debug)]
pub struct MemoryStore {
    files: SimulatedFiles,
    store: DirStore,
}

impl Default for MemoryStore {
    fn default() -> Self {
        Self::on(SimulatedFiles::new())
    }
}

impl MemoryStore {
    /// An empty store.
    pub fn new() -> Self {
        Self::default()
    }

    fn on(files: SimulatedFiles) -> Self {
        let store = DirStore::open_on(Arc::new(files.clone()), PathBuf::from(ROOT));
        MemoryStore { files, store: store.expect("nothing is in the way of its folders") }
    }

    /// The machine loses its power: only what was synced is left.
    pub fn crash(&self) {
        self.crash_torn(|_, _| 0);
    }

    /// As [`MemoryStore::crash`], but of each file's bytes that were not synced as many are left as `kept` says, given
    /// name and number.
    pub fn crash_torn(&self, mut kept: impl FnMut(&str, usize) -> usize) {
        self.files.crash(|path, unsynced| {
            let name = path.strip_prefix(ROOT).ok().and_then(Path::to_str);
            kept(name.unwrap_or_default(), unsynced)
        });
    }

    /// Another store with the same files.
    pub fn duplicate(&self) -> Self {
        Self::on(self.files.duplicate())
    }

    /// Changes the bytes of a file behind everybody's back, for tests of damage.
    pub fn tamper(&self, name: &str, change: impl FnOnce(&mut Vec<u8>)) {
        self.files.tamper(&Path::new(ROOT).join(name), change);
    }
}

impl CheckpointStore for MemoryStore {
    fn create(&self, name: &str, bytes: &[u8]) -> io::Result<()> {
        self.store.create(name, bytes)
    }

    fn append_new(&self, name: &str) -> io::Result<Box<dyn StoreFile>> {
        self.store.append_new(name)
    }

    fn read(&self, name: &str) -> io::Result<Vec<u8>> {
        self.store.read(name)
    }

    fn read_range(&self, name: &str, offset: u64, length: usize) -> io::Result<Vec<u8>> {
        self.store.read_range(name, offset, length)
    }

    fn list(&self, folder: &str) -> io::Result<Vec<(String, u64)>> {
        self.store.list(folder)
    }

    fn remove(&self, names: &[String]) -> io::Result<()> {
        self.store.remove(names)
    }

    fn lock(&self) -> io::Result<Option<StoreLock>> {
        self.store.lock()
    }

    fn describe(&self, name: &str) -> String {
        if name.is_empty() { "memory".to_owned() } else { name.to_owned() }
    }
}

#[cfg(test)]
mod tests {
    use super::super::store::conforms;
    use super::*;

    #[test]
    fn memory_keeps_the_contract() {
        conforms(&MemoryStore::new());
    }

    #[test]
    fn a_crash_loses_what_was_not_synced() {
        let store = MemoryStore::new();
        store.create("chain/1", b"1").unwrap();
        let mut synced = store.append_new("log/a").unwrap();
        synced.append(b"kept").unwrap();
        synced.sync().unwrap();
        synced.append(b"lost").unwrap();
        let mut nameless = store.append_new("log/b").unwrap();
        nameless.append(b"lost").unwrap();
        let lock = store.lock().unwrap();
        store.crash_torn(|name, unsynced| {
            assert_eq!((name, unsynced), if name == "log/a" { ("log/a", 4) } else { ("chain/1", 0) });
            1
        });
        assert_eq!(store.read("log/a").unwrap(), b"keptl");
        assert_eq!(store.read("chain/1").unwrap(), b"1");
        assert!(store.read("log/b").is_err());
        assert!(synced.append(b"late").is_err() && nameless.sync().is_err());
        assert!(lock.is_some() && store.lock().unwrap().is_some());
    }

    #[test]
    fn a_file_that_was_removed_does_not_come_back() {
        let store = MemoryStore::new();
        store.create("chain/1", b"1").unwrap();
        store.create("base/1", b"1").unwrap();
        store.remove(&["chain/1".to_owned(), "base/1".to_owned()]).unwrap();
        store.crash();
        assert_eq!((store.list("chain").unwrap(), store.list("base").unwrap()), (vec![], vec![]));
    }
}
