//! Where checkpoints are kept: named files, of which some are created whole and some grow.
//!
//! # Contract
//! Names are relative, of parts joined by `/`; the first part says what the file is for. An implementation promises:
//!
//! 1. [`create`](CheckpointStore::create) is exclusive and whole: of several creators of one name one succeeds and all
//!    others get `AlreadyExists`, and nobody ever reads a part of the bytes.
//! 2. When `create` returns, name and bytes survive any crash. When it fails, they may or may not be there.
//! 3. [`append_new`](CheckpointStore::append_new) is exclusive too. The file has bytes and name for readers at once; both
//!    survive a crash as soon as [`StoreFile::sync`] has returned, and bytes appended later with the next `sync`.
//!    After a crash a file holds a beginning of what was appended that contains all that was synced.
//! 4. After `sync` has failed nothing is known of what was appended since the last one that succeeded; the file is not
//!    written again.
//! 5. [`read_range`](CheckpointStore::read_range) gives all bytes asked for, or `UnexpectedEof`; readers see what was
//!    appended before they began.
//! 6. [`list`](CheckpointStore::list) gives all names that were there from before it began, in ascending order.
//! 7. When [`remove`](CheckpointStore::remove) returns, the names are gone for good; a name that is not there is no error.
//! 8. [`lock`](CheckpointStore::lock) succeeds for one holder at a time, and a holder that dies lets go of it. It advises:
//!    nothing else looks at it.
//! 9. Names under `aside/` are the store's own: what `create` left behind in a crash. Whoever holds the lock may remove
//!    them.
//!
//! One suite of tests holds every implementation to this.

use std::any::Any;
use std::fmt;
use std::io;

/// See the [module](self).
pub trait CheckpointStore: fmt::Debug + Send + Sync {
    /// A new file with these bytes, whole and durable.
    ///
    /// # Errors
    /// `AlreadyExists`, and those of the system.
    fn create(&self, name: &str, bytes: &[u8]) -> io::Result<()>;

    /// A new empty file that grows.
    ///
    /// # Errors
    /// `AlreadyExists`, and those of the system.
    fn append_new(&self, name: &str) -> io::Result<Box<dyn StoreFile>>;

    /// All of a file.
    ///
    /// # Errors
    /// `NotFound`, and those of the system.
    fn read(&self, name: &str) -> io::Result<Vec<u8>>;

    /// A part of a file.
    ///
    /// # Errors
    /// `NotFound`; `UnexpectedEof` if the file ends before the part does; those of the system.
    fn read_range(&self, name: &str, offset: u64, length: usize) -> io::Result<Vec<u8>>;

    /// Names with their lengths whose first parts are `folder`.
    ///
    /// # Errors
    /// Those of the system.
    fn list(&self, folder: &str) -> io::Result<Vec<(String, u64)>>;

    /// Removes files.
    ///
    /// # Errors
    /// Those of the system.
    fn remove(&self, names: &[String]) -> io::Result<()>;

    /// The lock of the store, or nothing if another holder has it.
    ///
    /// # Errors
    /// Those of the system.
    fn lock(&self) -> io::Result<Option<StoreLock>>;

    /// What messages call the file; the store itself for an empty name.
    fn describe(&self, name: &str) -> String;
}

/// A file that grows, in the hand of its only writer.
pub trait StoreFile: fmt::Debug + Send {
    /// Puts bytes behind those that are there.
    ///
    /// # Errors
    /// Those of the system; a part of the bytes may be there then.
    fn append(&mut self, bytes: &[u8]) -> io::Result<()>;

    /// Makes durable what was appended, and the name.
    ///
    /// # Errors
    /// Those of the system; see point 4 of the contract.
    fn sync(&mut self) -> io::Result<()>;
}

/// The lock of a store, until it is dropped.
pub struct StoreLock(#[expect(dead_code, reason = "it is kept for its drop")] Box<dyn Any + Send + Sync>);

impl StoreLock {
    /// A lock that ends when `guard` is dropped.
    pub fn new(guard: impl Any + Send + Sync) -> Self {
        StoreLock(Box::new(guard))
    }
}

impl fmt::Debug for StoreLock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("StoreLock")
    }
}

/// Holds a store to the contract.
#[cfg(test)]
pub(crate) fn conforms(store: &dyn CheckpointStore) {
    use io::ErrorKind::{AlreadyExists, NotFound, UnexpectedEof};

    // 1 and 2: whole and exclusive.
    store.create("chain/2", b"two").unwrap();
    assert_eq!(store.create("chain/2", b"other").unwrap_err().kind(), AlreadyExists);
    assert_eq!(store.read("chain/2").unwrap(), b"two");
    let winners: usize = std::thread::scope(|threads| {
        let racers: Vec<_> =
            (0..4u8).map(|n| threads.spawn(move || usize::from(store.create("chain/3", &[n; 64]).is_ok()))).collect();
        racers.into_iter().map(|racer| racer.join().unwrap()).sum()
    });
    assert_eq!(winners, 1);
    let bytes = store.read("chain/3").unwrap();
    assert!(bytes.len() == 64 && bytes.iter().all(|byte| *byte == bytes[0]));
    assert_eq!(store.list("aside").unwrap(), [], "nothing stays aside");

    // 3 and 5: growing files.
    let mut file = store.append_new("log/a").unwrap();
    assert_eq!(store.append_new("log/a").unwrap_err().kind(), AlreadyExists);
    assert_eq!(store.create("log/a", b"").unwrap_err().kind(), AlreadyExists);
    file.append(b"hello ").unwrap();
    file.append(b"world").unwrap();
    file.sync().unwrap();
    assert_eq!(store.read_range("log/a", 3, 5).unwrap(), b"lo wo");
    assert_eq!(store.read_range("log/a", 11, 0).unwrap(), b"");
    assert_eq!(store.read_range("log/a", 3, 9).unwrap_err().kind(), UnexpectedEof);
    assert_eq!(store.read_range("log/b", 0, 1).unwrap_err().kind(), NotFound);
    assert_eq!(store.read("log/b").unwrap_err().kind(), NotFound);

    // 6 and 7.
    store.create("chain/1", b"1").unwrap();
    let chain = store.list("chain").unwrap();
    assert_eq!(chain, [("chain/1".to_owned(), 1), ("chain/2".to_owned(), 3), ("chain/3".to_owned(), 64)]);
    assert_eq!(store.list("log").unwrap(), [("log/a".to_owned(), 11)]);
    assert_eq!(store.list("nothing").unwrap(), []);
    store.remove(&["chain/1".to_owned(), "chain/9".to_owned(), "log/a".to_owned()]).unwrap();
    assert_eq!(store.list("chain").unwrap().len(), 2);
    assert_eq!(store.list("log").unwrap(), []);
    store.create("chain/1", b"again").unwrap();

    // 8.
    let lock = store.lock().unwrap().unwrap();
    assert!(store.lock().unwrap().is_none());
    drop(lock);
    assert!(store.lock().unwrap().is_some());
}
