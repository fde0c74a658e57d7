//! Files in memory, of a machine that loses its power: what was not synced is gone.
//!
//! # Invariants
//! - What survives [`SimulatedFiles::crash`] is what the contract of files promises, and not a byte more, except for what
//!   the caller asks to be left.
//! - Files that were open before a crash cannot be written after it.

use std::collections::BTreeMap;
use std::io::{self, Cursor, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::{Files, GrowingFile, Held};

/// See the [module](self). Clones share what is stored.
#[derive(Clone, Debug, Default)]
pub(crate) struct SimulatedFiles {
    disk: Arc<Mutex<Disk>>,
}

#[derive(Clone, Debug, Default)]
struct Disk {
    nodes: Vec<Node>,
    /// Names as everybody sees them, by their paths from the root.
    names: BTreeMap<PathBuf, usize>,
    /// Names that a crash leaves, if it leaves the folders that they are in.
    durable: BTreeMap<PathBuf, usize>,
    locks: BTreeMap<PathBuf, Arc<AtomicBool>>,
    crashes: u64,
}

#[derive(Clone, Debug)]
enum Node {
    Folder,
    File { bytes: Vec<u8>, synced: usize },
}

impl SimulatedFiles {
    /// An empty disk.
    pub(crate) fn new() -> Self {
        Self::default()
    }

    /// The machine loses its power: only what was synced is left, and of each file's bytes that were not as many as `kept`
    /// says, given path and number.
    pub(crate) fn crash(&self, mut kept: impl FnMut(&Path, usize) -> usize) {
        let mut disk = self.disk();
        disk.crashes += 1;
        disk.locks.clear();
        let mut names = BTreeMap::new();
        // A folder comes before what is in it.
        for (path, node) in std::mem::take(&mut disk.durable) {
            if path.parent().is_none_or(|folder| is_root(folder) || names.contains_key(folder)) {
                names.insert(path, node);
            }
        }
        for (path, node) in &names {
            if let Node::File { bytes, synced } = &mut disk.nodes[*node] {
                let unsynced = bytes.len() - *synced;
                bytes.truncate(*synced + kept(path, unsynced).min(unsynced));
                *synced = bytes.len();
            }
        }
        disk.durable.clone_from(&names);
        disk.names = names;
    }

    /// Another disk with the same files.
    pub(crate) fn duplicate(&self) -> Self {
        let copy = Disk { locks: BTreeMap::new(), ..self.disk().clone() };
        SimulatedFiles { disk: Arc::new(Mutex::new(copy)) }
    }

    /// Changes the bytes of a file behind everybody's back.
    pub(crate) fn tamper(&self, path: &Path, change: impl FnOnce(&mut Vec<u8>)) {
        let mut disk = self.disk();
        if let Some(node) = disk.names.get(path).copied()
            && let Node::File { bytes, synced } = &mut disk.nodes[node]
        {
            change(bytes);
            *synced = bytes.len();
        }
    }

    /// A step leaves the disk whole even if it panics, so a poisoned lock is as good as any.
    fn disk(&self) -> MutexGuard<'_, Disk> {
        self.disk.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn growing(&self, path: &Path, new: bool) -> io::Result<Box<dyn GrowingFile>> {
        let mut disk = self.disk();
        let there = disk.names.get(path).copied();
        let node = match there {
            Some(_) if new => return Err(io::ErrorKind::AlreadyExists.into()),
            Some(node) => {
                *disk.file_mut(node)? = Node::empty();
                node
            }
            None => {
                disk.folder_of(path)?;
                disk.add(path, Node::empty())
            }
        };
        Ok(Box::new(SimulatedFile { files: self.clone(), node, crashes: disk.crashes }))
    }
}

impl Node {
    fn empty() -> Self {
        Node::File { bytes: Vec::new(), synced: 0 }
    }
}

fn is_root(path: &Path) -> bool {
    path.parent().is_none()
}

impl Disk {
    fn add(&mut self, path: &Path, node: Node) -> usize {
        self.nodes.push(node);
        self.names.insert(path.to_owned(), self.nodes.len() - 1);
        self.nodes.len() - 1
    }

    fn find(&self, path: &Path) -> io::Result<usize> {
        self.names.get(path).copied().ok_or_else(|| io::ErrorKind::NotFound.into())
    }

    fn file_mut(&mut self, node: usize) -> io::Result<&mut Node> {
        match &mut self.nodes[node] {
            Node::Folder => Err(io::ErrorKind::IsADirectory.into()),
            file @ Node::File { .. } => Ok(file),
        }
    }

    fn bytes(&self, path: &Path) -> io::Result<&[u8]> {
        match &self.nodes[self.find(path)?] {
            Node::Folder => Err(io::ErrorKind::IsADirectory.into()),
            Node::File { bytes, .. } => Ok(bytes),
        }
    }

    /// The folder itself, if it is there.
    fn folder<'a>(&self, folder: &'a Path) -> io::Result<&'a Path> {
        if is_root(folder) || matches!(self.nodes[self.find(folder)?], Node::Folder) {
            Ok(folder)
        } else {
            Err(io::ErrorKind::NotADirectory.into())
        }
    }

    fn folder_of<'a>(&self, path: &'a Path) -> io::Result<&'a Path> {
        self.folder(path.parent().ok_or(io::ErrorKind::IsADirectory)?)
    }
}

impl Files for SimulatedFiles {
    fn create_new(&self, path: &Path) -> io::Result<Box<dyn GrowingFile>> {
        self.growing(path, true)
    }

    fn create(&self, path: &Path) -> io::Result<Box<dyn GrowingFile>> {
        self.growing(path, false)
    }

    fn read(&self, path: &Path) -> io::Result<Vec<u8>> {
        self.disk().bytes(path).map(<[u8]>::to_vec)
    }

    fn read_range(&self, path: &Path, offset: u64, length: usize) -> io::Result<Vec<u8>> {
        let disk = self.disk();
        let bytes = disk.bytes(path)?;
        let part = usize::try_from(offset).ok().and_then(|start| bytes.get(start..start.checked_add(length)?));
        part.map(<[u8]>::to_vec).ok_or_else(|| io::ErrorKind::UnexpectedEof.into())
    }

    fn open(&self, path: &Path) -> io::Result<Box<dyn Read + Send>> {
        Ok(Box::new(Cursor::new(self.read(path)?)))
    }

    fn link(&self, from: &Path, to: &Path) -> io::Result<()> {
        let mut disk = self.disk();
        let node = disk.find(from)?;
        disk.folder_of(to)?;
        if disk.names.contains_key(to) {
            return Err(io::ErrorKind::AlreadyExists.into());
        }
        disk.names.insert(to.to_owned(), node);
        Ok(())
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        let mut disk = self.disk();
        let node = disk.find(from)?;
        disk.folder_of(to)?;
        disk.file_mut(node)?;
        disk.names.remove(from);
        disk.names.insert(to.to_owned(), node);
        Ok(())
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        let mut disk = self.disk();
        let node = disk.find(path)?;
        disk.file_mut(node)?;
        disk.names.remove(path);
        Ok(())
    }

    fn remove_folder(&self, path: &Path) -> io::Result<()> {
        let mut disk = self.disk();
        disk.folder(path)?;
        disk.names.retain(|name, _| !name.starts_with(path));
        Ok(())
    }

    fn exists(&self, path: &Path) -> bool {
        is_root(path) || self.disk().names.contains_key(path)
    }

    fn list(&self, folder: &Path) -> io::Result<Vec<(String, u64)>> {
        let disk = self.disk();
        disk.folder(folder)?;
        let inside = disk.names.range(folder.to_owned()..).take_while(|(path, _)| path.starts_with(folder));
        let inside = inside.filter(|(path, _)| path.parent() == Some(folder));
        let length = |node: usize| match &disk.nodes[node] {
            Node::Folder => 0,
            Node::File { bytes, .. } => bytes.len() as u64,
        };
        Ok(inside.filter_map(|(path, node)| Some((path.file_name()?.to_str()?.to_owned(), length(*node)))).collect())
    }

    fn create_folders(&self, path: &Path) -> io::Result<()> {
        let mut disk = self.disk();
        let missing: Vec<_> = path.ancestors().take_while(|folder| disk.folder(folder).is_err()).collect();
        for folder in missing.into_iter().rev() {
            if disk.names.contains_key(folder) {
                return Err(io::ErrorKind::NotADirectory.into());
            }
            disk.add(folder, Node::Folder);
        }
        Ok(())
    }

    fn sync_folder(&self, folder: &Path) -> io::Result<()> {
        let mut disk = self.disk();
        disk.folder(folder)?;
        let inside = |path: &Path| path.parent() == Some(folder);
        disk.durable.retain(|path, _| !inside(path));
        let Disk { names, durable, .. } = &mut *disk;
        let names = names.range(folder.to_owned()..).take_while(|(path, _)| path.starts_with(folder));
        durable.extend(names.filter(|(path, _)| inside(path)).map(|(path, node)| (path.clone(), *node)));
        Ok(())
    }

    fn lock(&self, path: &Path) -> io::Result<Option<Held>> {
        let locked = Arc::clone(self.disk().locks.entry(path.to_owned()).or_default());
        Ok((!locked.swap(true, Ordering::AcqRel)).then(|| Box::new(Lock(locked)) as Held))
    }
}

struct Lock(Arc<AtomicBool>);

impl Drop for Lock {
    fn drop(&mut self) {
        self.0.store(false, Ordering::Release);
    }
}

#[derive(Debug)]
struct SimulatedFile {
    files: SimulatedFiles,
    node: usize,
    crashes: u64,
}

impl SimulatedFile {
    /// Its bytes, and how many of them are synced.
    fn change(&self, change: impl FnOnce(&mut Vec<u8>, &mut usize)) -> io::Result<()> {
        let mut disk = self.files.disk();
        if disk.crashes != self.crashes {
            return Err(io::Error::other("the machine has crashed"));
        }
        if let Node::File { bytes, synced } = disk.file_mut(self.node)? {
            change(bytes, synced);
        }
        Ok(())
    }
}

impl Write for SimulatedFile {
    fn write(&mut self, written: &[u8]) -> io::Result<usize> {
        self.change(|bytes, _| bytes.extend_from_slice(written))?;
        Ok(written.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl GrowingFile for SimulatedFile {
    fn sync(&mut self) -> io::Result<()> {
        self.change(|bytes, synced| *synced = bytes.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Files under a folder after a crash that tears nothing.
    fn crashed(files: &SimulatedFiles, folder: &str) -> Vec<(String, u64)> {
        files.crash(|_, _| 0);
        files.list(Path::new(folder)).unwrap_or_default()
    }

    #[test]
    fn a_crash_loses_names_and_bytes_that_were_not_synced() {
        let files = SimulatedFiles::new();
        let (root, folder) = (Path::new("/"), Path::new("/x"));
        files.create_folders(folder).unwrap();
        let mut file = files.create(&folder.join("a")).unwrap();
        file.write_all(b"kept").unwrap();
        file.sync().unwrap();
        file.write_all(b"lost").unwrap();
        files.sync_folder(folder).unwrap();
        assert_eq!(crashed(&files.duplicate(), "/"), [], "a folder is a name as well");
        files.sync_folder(root).unwrap();
        assert_eq!(crashed(&files.duplicate(), "/x"), [("a".to_owned(), 4)]);
        files.crash(|path, unsynced| {
            assert_eq!((path, unsynced), (&*folder.join("a"), 4));
            1
        });
        assert_eq!(files.read(&folder.join("a")).unwrap(), b"keptl");
        assert!(file.write_all(b"late").is_err() && file.sync().is_err());
    }

    #[test]
    fn what_a_crash_leaves_of_a_rename_is_up_to_the_folders() {
        let files = SimulatedFiles::new();
        let (from, to) = (Path::new("/from"), Path::new("/to"));
        for folder in [from, to] {
            files.create_folders(folder).unwrap();
        }
        let mut file = files.create(&from.join("a")).unwrap();
        file.write_all(b"new").unwrap();
        file.sync().unwrap();
        files.create(&to.join("b")).unwrap().sync().unwrap();
        for folder in [from, to, Path::new("/")] {
            files.sync_folder(folder).unwrap();
        }
        files.rename(&from.join("a"), &to.join("b")).unwrap();
        for (synced, left) in [
            (&[][..], (1, 0)),
            // Without the other folder it is in both, or in none.
            (&[to], (1, 3)),
            (&[from], (0, 0)),
            (&[from, to], (0, 3)),
        ] {
            let files = files.duplicate();
            for folder in synced {
                files.sync_folder(folder).unwrap();
            }
            files.crash(|_, _| 0);
            let length = files.list(to).unwrap()[0].1;
            assert_eq!((files.list(from).unwrap().len(), length), left, "{synced:?}");
        }
        files.remove_folder(to).unwrap();
        assert_eq!(crashed(&files, "/to").len(), 1, "a removal is no more durable than a name");
    }
}
