//! Checkpoints in a directory, which all processes of the job share.
//!
//! ```text
//! create:  aside/<unique> ── write ── fsync ── link to its name ── fsync folder ── unlink aside
//! ```
//!
//! # Invariants
//! - A name is linked only after its bytes are durable, so a reader finds whole files.
//! - A link cannot replace a file, so a name is given once.
//!
//! The file system has to link exclusively and to keep what it synced; a network file system that all processes share
//! has to do so among machines. Not here: which files there are, and what is in them.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use super::failpoint::step;
use super::store::{CheckpointStore, StoreFile, StoreLock};
use crate::files::{self, Files, GrowingFile};

/// See the [module](self).
#[derive(Clone, Debug)]
pub struct DirStore {
    files: Arc<dyn Files>,
    root: PathBuf,
}

/// What files are for, each a folder.
const FOLDERS: [&str; 5] = ["aside", "base", "blob", "chain", "log"];

impl DirStore {
    /// The store in the directory `root`, which is made if it is not there.
    ///
    /// # Errors
    /// Those of the system.
    pub fn open(root: impl Into<PathBuf>) -> io::Result<Self> {
        Self::open_on(files::system(), root.into())
    }

    /// As [`DirStore::open`], on other files than the system's.
    pub(crate) fn open_on(files: Arc<dyn Files>, root: PathBuf) -> io::Result<Self> {
        let above = |path: &Path| match path.parent() {
            Some(parent) if !parent.as_os_str().is_empty() => parent.to_owned(),
            _ => PathBuf::from("."),
        };
        // Folders that are made have to be as durable as what will be in them: each in the one above it.
        let mut unsynced = vec![above(&root)];
        while let Some(folder) = unsynced.last().filter(|folder| !files.exists(folder)).cloned() {
            unsynced.push(above(&folder));
        }
        files.create_folders(&root)?;
        for folder in FOLDERS {
            files.create_folders(&root.join(folder))?;
        }
        files.sync_folder(&root)?;
        unsynced.iter().try_for_each(|folder| files.sync_folder(folder))?;
        Ok(DirStore { files, root })
    }

    /// A store whose directory is there, to read from.
    ///
    /// # Errors
    /// There is no such directory.
    pub fn existing(root: impl Into<PathBuf>) -> io::Result<Self> {
        let root = root.into();
        if fs::metadata(root.join("chain"))?.is_dir() {
            Ok(DirStore { files: files::system(), root })
        } else {
            Err(io::ErrorKind::NotADirectory.into())
        }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.root.join(name)
    }

    fn folder(&self, name: &str) -> PathBuf {
        let path = self.path(name);
        path.parent().map_or_else(|| self.root.clone(), Path::to_owned)
    }

    /// A name that no other process or call uses.
    fn aside(&self) -> io::Result<(PathBuf, Box<dyn GrowingFile>)> {
        static NUMBER: AtomicU64 = AtomicU64::new(0);
        loop {
            let number = NUMBER.fetch_add(1, Ordering::Relaxed);
            let path = self.path(&format!("aside/{}-{number}", std::process::id()));
            match self.files.create_new(&path) {
                Ok(file) => return Ok((path, file)),
                // Left behind by a process that was killed and had this one's number.
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
                Err(error) => return Err(error),
            }
        }
    }
}

impl CheckpointStore for DirStore {
    fn create(&self, name: &str, bytes: &[u8]) -> io::Result<()> {
        let (aside, mut file) = self.aside()?;
        let linked = step("create.write", || file.write_all(bytes))
            .and_then(|()| step("create.sync", || file.sync()))
            .and_then(|()| step("create.link", || self.files.link(&aside, &self.path(name))))
            .and_then(|()| step("create.sync_dir", || self.files.sync_folder(&self.folder(name))));
        let unlinked = step("create.unlink", || self.files.remove(&aside));
        if let Err(error) = unlinked {
            tracing::warn!(file = %aside.display(), %error, "a file stays aside");
        }
        linked
    }

    fn append_new(&self, name: &str) -> io::Result<Box<dyn StoreFile>> {
        let file = self.files.create_new(&self.path(name))?;
        Ok(Box::new(DirFile { file, files: Arc::clone(&self.files), unsynced: Some(self.folder(name)) }))
    }

    fn read(&self, name: &str) -> io::Result<Vec<u8>> {
        self.files.read(&self.path(name))
    }

    fn read_range(&self, name: &str, offset: u64, length: usize) -> io::Result<Vec<u8>> {
        self.files.read_range(&self.path(name), offset, length)
    }

    fn list(&self, folder: &str) -> io::Result<Vec<(String, u64)>> {
        let mut names = match self.files.list(&self.path(folder)) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Vec::new(),
            names => names?,
        };
        for (name, _) in &mut names {
            *name = format!("{folder}/{name}");
        }
        names.sort_unstable();
        Ok(names)
    }

    fn remove(&self, names: &[String]) -> io::Result<()> {
        let mut folders = Vec::new();
        for name in names {
            match step("remove.unlink", || self.files.remove(&self.path(name))) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                _ => folders.push(self.folder(name)),
            }
        }
        folders.sort_unstable();
        folders.dedup();
        folders.iter().try_for_each(|folder| step("remove.sync_dir", || self.files.sync_folder(folder)))
    }

    fn lock(&self) -> io::Result<Option<StoreLock>> {
        Ok(self.files.lock(&self.path("lock"))?.map(StoreLock::new))
    }

    fn describe(&self, name: &str) -> String {
        if name.is_empty() { self.root.display().to_string() } else { self.path(name).display().to_string() }
    }
}

#[derive(Debug)]
struct DirFile {
    file: Box<dyn GrowingFile>,
    files: Arc<dyn Files>,
    /// The folder, until the name in it is durable.
    unsynced: Option<PathBuf>,
}

impl StoreFile for DirFile {
    fn append(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.file.write_all(bytes)
    }

    fn sync(&mut self) -> io::Result<()> {
        self.file.sync()?;
        if let Some(folder) = self.unsynced.take() {
            step("append.sync_dir", || self.files.sync_folder(&folder))?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::super::store::conforms;
    use super::*;

    #[test]
    fn a_directory_keeps_the_contract() {
        let dir = tempfile::tempdir().unwrap();
        let store = DirStore::open(dir.path().join("deep/er")).unwrap();
        conforms(&store);
        // What is durable is there for who opens it again.
        assert_eq!(DirStore::open(dir.path().join("deep/er")).unwrap().read("chain/1").unwrap(), b"again");
        assert!(DirStore::existing(dir.path()).is_err());
    }
}
