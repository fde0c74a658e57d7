//! Checkpoints in memory, for simulations: a crash loses all that a machine without power might lose.
//!
//! # Invariants
//! - What survives [`MemoryStore::crash`] is what the contract of stores promises, and not a byte more.
//! - Files that were open before a crash cannot be written after it.

use std::collections::BTreeMap;
use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::failpoint::step;
use super::store::{CheckpointStore, StoreFile, StoreLock};

/// See the [module](self). Clones share what is stored.
#[derive(Clone, Debug, Default)]
pub struct MemoryStore {
    disk: Arc<Mutex<Disk>>,
}

#[derive(Debug, Default)]
struct Disk {
    files: Vec<Bytes>,
    /// Names as readers see them.
    names: BTreeMap<String, usize>,
    /// Names that a crash leaves.
    durable: BTreeMap<String, usize>,
    locked: Arc<AtomicBool>,
    crashes: u64,
}

#[derive(Clone, Debug, Default)]
struct Bytes {
    bytes: Vec<u8>,
    synced: usize,
}

impl MemoryStore {
    /// An empty store.
    pub fn new() -> Self {
        Self::default()
    }

    /// The machine loses its power: only what was synced is left.
    pub fn crash(&self) {
        self.crash_torn(|_, _| 0);
    }

    /// As [`MemoryStore::crash`], but of each file's bytes that were not synced as many are left as `kept` says, given
    /// name and number.
    pub fn crash_torn(&self, mut kept: impl FnMut(&str, usize) -> usize) {
        let mut disk = self.disk();
        disk.crashes += 1;
        disk.locked = Arc::default();
        disk.names = disk.durable.clone();
        let names: Vec<_> = disk.names.iter().map(|(name, file)| (name.clone(), *file)).collect();
        for (name, file) in names {
            let file = &mut disk.files[file];
            let unsynced = file.bytes.len() - file.synced;
            file.bytes.truncate(file.synced + kept(&name, unsynced).min(unsynced));
            file.synced = file.bytes.len();
        }
    }

    /// Another store with the same files.
    pub fn duplicate(&self) -> Self {
        let disk = self.disk();
        let copy = Disk {
            files: disk.files.clone(),
            names: disk.names.clone(),
            durable: disk.durable.clone(),
            ..Disk::default()
        };
        MemoryStore { disk: Arc::new(Mutex::new(copy)) }
    }

    /// Changes the bytes of a file behind everybody's back, for tests of damage.
    pub fn tamper(&self, name: &str, change: impl FnOnce(&mut Vec<u8>)) {
        let mut disk = self.disk();
        if let Some(file) = disk.names.get(name).copied() {
            let file = &mut disk.files[file];
            change(&mut file.bytes);
            file.synced = file.bytes.len();
        }
    }

    /// A step leaves the disk whole even if it panics, so a poisoned lock is as good as any.
    fn disk(&self) -> MutexGuard<'_, Disk> {
        self.disk.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Disk {
    fn find(&self, name: &str) -> io::Result<&Bytes> {
        self.names.get(name).map(|file| &self.files[*file]).ok_or_else(|| io::ErrorKind::NotFound.into())
    }

    fn add(&mut self) -> usize {
        self.files.push(Bytes::default());
        self.files.len() - 1
    }

    /// Makes durable which names are in the folder that `name` would be in, as a directory's sync does.
    fn sync_folder(&mut self, name: &str) {
        let folder = name.rsplit_once('/').map_or("", |(folder, _)| folder).to_owned();
        let inside = |name: &str| name.rsplit_once('/').map_or("", |(folder, _)| folder) == folder;
        self.durable.retain(|name, _| !inside(name));
        let names = self.names.iter().filter(|(name, _)| inside(name));
        self.durable.extend(names.map(|(name, file)| (name.clone(), *file)));
    }

    /// Gives a name to a file, unless it is taken.
    fn link(&mut self, name: &str, file: usize) -> io::Result<()> {
        if self.names.contains_key(name) {
            return Err(io::ErrorKind::AlreadyExists.into());
        }
        self.names.insert(name.to_owned(), file);
        Ok(())
    }
}

impl CheckpointStore for MemoryStore {
    fn create(&self, name: &str, bytes: &[u8]) -> io::Result<()> {
        let file = self.disk().add();
        step("create.write", || {
            self.disk().files[file].bytes = bytes.to_vec();
            Ok(())
        })?;
        step("create.sync", || {
            let file = &mut self.disk().files[file];
            file.synced = file.bytes.len();
            Ok(())
        })?;
        step("create.link", || self.disk().link(name, file))?;
        step("create.sync_dir", || {
            self.disk().sync_folder(name);
            Ok(())
        })
    }

    fn append_new(&self, name: &str) -> io::Result<Box<dyn StoreFile>> {
        let mut disk = self.disk();
        let file = disk.add();
        disk.link(name, file)?;
        let crashes = disk.crashes;
        Ok(Box::new(MemoryFile { store: self.clone(), name: name.to_owned(), file, crashes }))
    }

    fn read(&self, name: &str) -> io::Result<Vec<u8>> {
        self.disk().find(name).map(|file| file.bytes.clone())
    }

    fn read_range(&self, name: &str, offset: u64, length: usize) -> io::Result<Vec<u8>> {
        let disk = self.disk();
        let bytes = &disk.find(name)?.bytes;
        let part = usize::try_from(offset).ok().and_then(|start| bytes.get(start..start.checked_add(length)?));
        part.map(<[u8]>::to_vec).ok_or_else(|| io::ErrorKind::UnexpectedEof.into())
    }

    fn list(&self, folder: &str) -> io::Result<Vec<(String, u64)>> {
        let disk = self.disk();
        let inside = |name: &str| name.strip_prefix(folder).is_some_and(|rest| rest.starts_with('/'));
        let names = disk.names.iter().filter(|(name, _)| inside(name));
        Ok(names.map(|(name, file)| (name.clone(), disk.files[*file].bytes.len() as u64)).collect())
    }

    fn remove(&self, names: &[String]) -> io::Result<()> {
        for name in names {
            step("remove.unlink", || {
                self.disk().names.remove(name);
                Ok(())
            })?;
        }
        step("remove.sync_dir", || {
            let mut disk = self.disk();
            for name in names {
                disk.sync_folder(name);
            }
            Ok(())
        })
    }

    fn lock(&self) -> io::Result<Option<StoreLock>> {
        let locked = Arc::clone(&self.disk().locked);
        Ok((!locked.swap(true, Ordering::AcqRel)).then(|| StoreLock::new(Held(locked))))
    }

    fn describe(&self, name: &str) -> String {
        if name.is_empty() { "memory".to_owned() } else { name.to_owned() }
    }
}

struct Held(Arc<AtomicBool>);

impl Drop for Held {
    fn drop(&mut self) {
        self.0.store(false, Ordering::Release);
    }
}

#[derive(Debug)]
struct MemoryFile {
    store: MemoryStore,
    name: String,
    file: usize,
    crashes: u64,
}

impl MemoryFile {
    fn disk(&self) -> io::Result<MutexGuard<'_, Disk>> {
        let disk = self.store.disk();
        if disk.crashes == self.crashes { Ok(disk) } else { Err(io::Error::other("the machine has crashed")) }
    }
}

impl StoreFile for MemoryFile {
    fn append(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.disk()?.files[self.file].bytes.extend_from_slice(bytes);
        Ok(())
    }

    fn sync(&mut self) -> io::Result<()> {
        let mut disk = self.disk()?;
        let file = &mut disk.files[self.file];
        file.synced = file.bytes.len();
        drop(disk);
        step("append.sync_dir", || {
            self.disk()?.sync_folder(&self.name);
            Ok(())
        })
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
}
