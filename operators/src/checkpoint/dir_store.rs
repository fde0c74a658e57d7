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

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use super::failpoint::step;
use super::store::{CheckpointStore, StoreFile, StoreLock};

/// See the [module](self).
#[derive(Clone, Debug)]
pub struct DirStore {
    root: PathBuf,
}

/// What files are for, each a folder.
const FOLDERS: [&str; 4] = ["aside", "base", "chain", "log"];

impl DirStore {
    /// The store in the directory `root`, which is made if it is not there.
    ///
    /// # Errors
    /// Those of the system.
    pub fn open(root: impl Into<PathBuf>) -> io::Result<Self> {
        let root = root.into();
        let above = |path: &Path| match path.parent() {
            Some(parent) if !parent.as_os_str().is_empty() => parent.to_owned(),
            _ => PathBuf::from("."),
        };
        // Folders that are made have to be as durable as what will be in them: each in the one above it.
        let mut unsynced = vec![above(&root)];
        while let Some(folder) = unsynced.last().filter(|folder| !folder.exists()).cloned() {
            unsynced.push(above(&folder));
        }
        fs::create_dir_all(&root)?;
        for folder in FOLDERS {
            fs::create_dir_all(root.join(folder))?;
        }
        sync_folder(&root)?;
        unsynced.iter().try_for_each(|folder| sync_folder(folder))?;
        Ok(DirStore { root })
    }

    /// A store whose directory is there, to read from.
    ///
    /// # Errors
    /// There is no such directory.
    pub fn existing(root: impl Into<PathBuf>) -> io::Result<Self> {
        let root = root.into();
        if fs::metadata(root.join("chain"))?.is_dir() {
            Ok(DirStore { root })
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
    fn aside(&self) -> io::Result<(PathBuf, File)> {
        static NUMBER: AtomicU64 = AtomicU64::new(0);
        loop {
            let number = NUMBER.fetch_add(1, Ordering::Relaxed);
            let path = self.path(&format!("aside/{}-{number}", std::process::id()));
            match File::create_new(&path) {
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
            .and_then(|()| step("create.sync", || file.sync_all()))
            .and_then(|()| step("create.link", || fs::hard_link(&aside, self.path(name))))
            .and_then(|()| step("create.sync_dir", || sync_folder(&self.folder(name))));
        let unlinked = step("create.unlink", || fs::remove_file(&aside));
        if let Err(error) = unlinked {
            tracing::warn!(file = %aside.display(), %error, "a file stays aside");
        }
        linked
    }

    fn append_new(&self, name: &str) -> io::Result<Box<dyn StoreFile>> {
        let file = File::create_new(self.path(name))?;
        Ok(Box::new(DirFile { file, unsynced: Some(self.folder(name)) }))
    }

    fn read(&self, name: &str) -> io::Result<Vec<u8>> {
        fs::read(self.path(name))
    }

    fn read_range(&self, name: &str, offset: u64, length: usize) -> io::Result<Vec<u8>> {
        let mut file = File::open(self.path(name))?;
        // A length out of damaged bytes must not be reserved before it is known to be there.
        if file.metadata()?.len() < offset.saturating_add(length as u64) {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let mut bytes = vec![0; length];
        file.seek(SeekFrom::Start(offset))?;
        file.read_exact(&mut bytes)?;
        Ok(bytes)
    }

    fn list(&self, folder: &str) -> io::Result<Vec<(String, u64)>> {
        let entries = match fs::read_dir(self.path(folder)) {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => return Err(error),
        };
        let mut names = Vec::new();
        for entry in entries {
            let entry = entry?;
            let length = match entry.metadata() {
                Ok(metadata) => metadata.len(),
                // Removed meanwhile.
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                Err(error) => return Err(error),
            };
            // Ours are plain text; anything else was put here by others.
            if let Some(name) = entry.file_name().to_str() {
                names.push((format!("{folder}/{name}"), length));
            }
        }
        names.sort_unstable();
        Ok(names)
    }

    fn remove(&self, names: &[String]) -> io::Result<()> {
        let mut folders = Vec::new();
        for name in names {
            match step("remove.unlink", || fs::remove_file(self.path(name))) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                _ => folders.push(self.folder(name)),
            }
        }
        folders.sort_unstable();
        folders.dedup();
        folders.iter().try_for_each(|folder| step("remove.sync_dir", || sync_folder(folder)))
    }

    fn lock(&self) -> io::Result<Option<StoreLock>> {
        let file = OpenOptions::new().create(true).truncate(false).write(true).open(self.path("lock"))?;
        match file.try_lock() {
            Ok(()) => Ok(Some(StoreLock::new(file))),
            Err(TryLockError::WouldBlock) => Ok(None),
            Err(TryLockError::Error(error)) => Err(error),
        }
    }

    fn describe(&self, name: &str) -> String {
        if name.is_empty() { self.root.display().to_string() } else { self.path(name).display().to_string() }
    }
}

#[derive(Debug)]
struct DirFile {
    file: File,
    /// The folder, until the name in it is durable.
    unsynced: Option<PathBuf>,
}

impl StoreFile for DirFile {
    fn append(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.file.write_all(bytes)
    }

    fn sync(&mut self) -> io::Result<()> {
        self.file.sync_data()?;
        if let Some(folder) = self.unsynced.take() {
            step("append.sync_dir", || sync_folder(&folder))?;
        }
        Ok(())
    }
}

fn sync_folder(folder: &Path) -> io::Result<()> {
    File::open(folder)?.sync_all()
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
