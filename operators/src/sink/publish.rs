//! Staged files take their places, and what an older generation left is removed.
//!
//! # Invariants
//! - To publish twice is to publish once: a recovery repeats what may have been done.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

use super::step::step;
use crate::checkpoint::Publication;
use crate::cluster::Failure;

/// The folder of staged files, in the folder of the output.
const STAGED: &str = ".staged";

/// Where a generation of a sink stages.
pub(super) fn stage_of(dir: &Path, sink: &str, generation: u64) -> PathBuf {
    dir.join(STAGED).join(format!("{sink}-g{generation}"))
}

/// Makes a staged output visible, durably. The commit of its epoch comes before. A [`Publication::Apply`] needs its
/// sink and is refused.
///
/// # Errors
/// What could not be done, on which files.
pub fn publish(publication: &Publication) -> io::Result<()> {
    match publication {
        Publication::Rename { from, to } => rename(Path::new(from), Path::new(to)),
        Publication::Apply { sink, .. } => {
            Err(io::Error::other(format!("the rows of the transactional sink {sink} are applied by the sink")))
        }
    }
}

fn rename(from: &Path, to: &Path) -> io::Result<()> {
    let failed = |error: &io::Error| {
        let (from, to) = (from.display(), to.display());
        io::Error::new(error.kind(), format!("cannot publish {from} as {to}: {}", super::reason(error)))
    };
    match step("sink.publish.rename", || fs::rename(from, to)) {
        Ok(()) => {}
        // It was done before, if perhaps not durably.
        Err(error) if error.kind() == io::ErrorKind::NotFound && !from.exists() && to.exists() => {}
        Err(error) if error.kind() == io::ErrorKind::NotFound && !from.exists() => {
            return Err(io::Error::new(
                io::ErrorKind::NotFound,
                format!(
                    "cannot publish {}: neither it nor its staged file {} is there; a committed output is lost",
                    to.display(),
                    from.display()
                ),
            ));
        }
        Err(error) => return Err(failed(&error)),
    }
    // The name first: without it the file would be nowhere.
    for file in [to, from] {
        if let Some(folder) = folder_of(file).filter(|folder| folder.exists()) {
            step("sink.publish.sync", || sync_folder(folder)).map_err(|error| failed(&error))?;
        }
    }
    Ok(())
}

/// Removes what generations before `generation` of `sink` have staged in `dir` and not published. At a start, after all
/// unfinished publications are done.
///
/// # Errors
/// What could not be read or removed.
pub fn sweep(dir: &Path, sink: &str, generation: u64) -> io::Result<()> {
    let staged = dir.join(STAGED);
    let failed = |path: &Path, error: &io::Error| {
        io::Error::new(error.kind(), format!("cannot remove {}: {}", path.display(), super::reason(error)))
    };
    let entries = match fs::read_dir(&staged) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(failed(&staged, &error)),
    };
    let prefix = format!("{sink}-g");
    for entry in entries {
        let entry = entry.map_err(|error| failed(&staged, &error))?;
        let name = entry.file_name();
        let older = name.to_str().and_then(|name| name.strip_prefix(&prefix)?.parse::<u64>().ok());
        if older.is_some_and(|older| older < generation) {
            let path = entry.path();
            // Several processes may sweep one folder.
            match step("sink.sweep.unlink", || fs::remove_dir_all(&path)) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(failed(&path, &error)),
                _ => {}
            }
        }
    }
    Ok(())
}

/// Makes the names in a folder durable.
pub(super) fn sync_folder(folder: &Path) -> io::Result<()> {
    File::open(folder)?.sync_all()
}

/// Creates a folder and those that it is in, durably.
pub(super) fn create_folder(path: &Path) -> io::Result<()> {
    let missing: Vec<_> = path.ancestors().take_while(|folder| !folder.exists()).collect();
    fs::create_dir_all(path)?;
    missing.into_iter().filter_map(folder_of).try_for_each(sync_folder)
}

/// The folder that `file` is in.
pub(super) fn folder_of(file: &Path) -> Option<&Path> {
    let folder = file.parent()?;
    Some(if folder.as_os_str().is_empty() { Path::new(".") } else { folder })
}

/// A sink's name is part of the names of its files.
pub(super) fn check_name(sink: &str) -> Result<(), Failure> {
    let fits = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    if sink.is_empty() || sink.starts_with('.') || !sink.chars().all(fits) {
        return Err(Failure::usage(format!(
            "sink {sink:?}: its name is part of the names of files: use letters, digits, '-', '_' and '.', and do not \
             begin with '.'"
        )));
    }
    Ok(())
}
