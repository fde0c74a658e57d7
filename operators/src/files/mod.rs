//! Files as checkpoints and sinks use them: on the system, or in memory, where a crash loses what was not synced.
//!
//! # Contract
//! 1. Bytes of a file survive a crash once [`GrowingFile::sync`] has returned; of what was written later a beginning may.
//! 2. Which names a folder has survives once [`Files::sync_folder`] has returned, if the folder itself does, whose name is
//!    one of the folder above it. Names that were given, moved and removed since may or may not be as before.
//! 3. What was done is seen at once by everybody, and [`Files::rename`] and [`Files::link`] are seen as a whole.
//!
//! Both implementations are held to 3 by the same test; that a machine keeps 1 and 2 is up to its disks.
//!
//! Not here: what the files are, and in which order they are synced.

mod simulated;
mod system;

use std::any::Any;
use std::fmt;
use std::io::{self, Read, Write};
use std::path::Path;
use std::sync::Arc;

pub(crate) use self::simulated::SimulatedFiles;
use self::system::SystemFiles;

/// The files of the system.
pub(crate) fn system() -> Arc<dyn Files> {
    Arc::new(SystemFiles)
}

/// Held for as long as it lives.
pub(crate) type Held = Box<dyn Any + Send + Sync>;

/// See the [module](self). Errors are those of the system.
pub(crate) trait Files: fmt::Debug + Send + Sync {
    /// A new empty file; `AlreadyExists` if there is one.
    fn create_new(&self, path: &Path) -> io::Result<Box<dyn GrowingFile>>;

    /// An empty file; one that is there is emptied.
    fn create(&self, path: &Path) -> io::Result<Box<dyn GrowingFile>>;

    /// All of a file.
    fn read(&self, path: &Path) -> io::Result<Vec<u8>>;

    /// A part of a file; `UnexpectedEof` if it ends before the part does.
    fn read_range(&self, path: &Path, offset: u64, length: usize) -> io::Result<Vec<u8>>;

    /// A file from its beginning.
    fn open(&self, path: &Path) -> io::Result<Box<dyn Read + Send>>;

    /// A second name for a file; `AlreadyExists` if it is taken.
    fn link(&self, from: &Path, to: &Path) -> io::Result<()>;

    /// Another name for a file, in the place of the file that has it.
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()>;

    /// Takes a file its name.
    fn remove(&self, path: &Path) -> io::Result<()>;

    /// Removes a folder and all that is in it.
    fn remove_folder(&self, path: &Path) -> io::Result<()>;

    /// Whether there is a file or folder of that name.
    fn exists(&self, path: &Path) -> bool;

    /// The names in a folder that are text, with the lengths of the files, in no order.
    fn list(&self, folder: &Path) -> io::Result<Vec<(String, u64)>>;

    /// Creates a folder and those that it is in, as far as they are not there.
    fn create_folders(&self, path: &Path) -> io::Result<()>;

    /// Makes the names in a folder durable.
    fn sync_folder(&self, folder: &Path) -> io::Result<()>;

    /// A lock on a file, which is created; nothing if another holder has it.
    fn lock(&self, path: &Path) -> io::Result<Option<Held>>;
}

/// A file that is written from its beginning on.
pub(crate) trait GrowingFile: Write + fmt::Debug + Send {
    /// Makes its bytes durable, not its name.
    fn sync(&mut self) -> io::Result<()>;
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Holds files in the folder `root` to what is seen at once.
    fn conforms(files: &dyn Files, root: &Path) {
        use io::ErrorKind::{AlreadyExists, NotFound, UnexpectedEof};
        let (folder, a, b) = (root.join("x/y"), root.join("x/y/a"), root.join("x/y/b"));
        let kind = |result: io::Result<()>| result.unwrap_err().kind();

        assert!(!files.exists(&folder));
        assert_eq!(files.create(&a).unwrap_err().kind(), NotFound, "there is no folder for it");
        files.create_folders(&folder).unwrap();
        files.create_folders(&folder).unwrap();
        assert!(files.exists(&folder) && files.list(&folder).unwrap().is_empty());
        files.sync_folder(&folder).unwrap();

        let mut file = files.create_new(&a).unwrap();
        file.write_all(b"hello").unwrap();
        file.flush().unwrap();
        file.sync().unwrap();
        assert_eq!(files.create_new(&a).unwrap_err().kind(), AlreadyExists);
        assert_eq!(files.read(&a).unwrap(), b"hello");
        assert_eq!(files.read_range(&a, 1, 3).unwrap(), b"ell");
        assert_eq!(files.read_range(&a, 5, 0).unwrap(), b"");
        assert_eq!(files.read_range(&a, 3, 3).unwrap_err().kind(), UnexpectedEof);
        let mut read = String::new();
        files.open(&a).unwrap().read_to_string(&mut read).unwrap();
        assert_eq!(read, "hello");

        files.link(&a, &b).unwrap();
        assert_eq!(kind(files.link(&a, &b)), AlreadyExists);
        let mut listed = files.list(&folder).unwrap();
        listed.sort_unstable();
        assert_eq!(listed, [("a".to_owned(), 5), ("b".to_owned(), 5)]);
        assert_eq!(files.list(root).unwrap().len(), 1, "folders too");
        files.remove(&a).unwrap();
        assert_eq!(kind(files.remove(&a)), NotFound);
        assert_eq!(kind(files.rename(&a, &b)), NotFound);
        assert_eq!(files.read(&b).unwrap(), b"hello");
        files.create(&a).unwrap().write_all(b"other").unwrap();
        files.rename(&a, &b).unwrap();
        assert!(!files.exists(&a) && files.exists(&b));
        assert_eq!(files.read(&b).unwrap(), b"other");
        assert!(files.create(&b).unwrap().flush().is_ok() && files.read(&b).unwrap().is_empty());

        let lock = root.join("lock");
        let held = files.lock(&lock).unwrap();
        assert!(held.is_some() && files.lock(&lock).unwrap().is_none());
        drop(held);
        assert!(files.lock(&lock).unwrap().is_some());

        files.remove_folder(&root.join("x")).unwrap();
        assert_eq!(kind(files.remove_folder(&root.join("x"))), NotFound);
        assert!(!files.exists(&b) && !files.exists(&folder));
        for missing in [files.read(&b).err(), files.read_range(&b, 0, 1).err(), files.open(&b).err()] {
            assert_eq!(missing.map(|error| error.kind()), Some(NotFound));
        }
        assert_eq!(files.list(&folder).unwrap_err().kind(), NotFound);
        assert_eq!(kind(files.sync_folder(&folder)), NotFound);
    }

    #[test]
    fn files_of_the_system_and_simulated_ones_are_the_same_to_who_looks() {
        let root = tempfile::tempdir().unwrap();
        conforms(&*system(), root.path());
        conforms(&SimulatedFiles::new(), Path::new("/"));
    }
}
