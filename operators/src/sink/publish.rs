//! Staged files take their places, and what an older generation left is removed.
//!
//! # Invariants
//! - To publish twice is to publish once: a recovery repeats what may have been done.

use std::io;
use std::path::{Path, PathBuf};

use super::step::step;
use crate::checkpoint::Publication;
use crate::cluster::Failure;
use crate::files::{self, Files};

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
    publish_on(&*files::system(), publication)
}

/// As [`publish`], on other files than the system's.
pub(super) fn publish_on(files: &dyn Files, publication: &Publication) -> io::Result<()> {
    match publication {
        Publication::Rename { from, to } => rename(files, Path::new(from), Path::new(to)),
        Publication::Apply { sink, .. } => {
            Err(io::Error::other(format!("the rows of the transactional sink {sink} are applied by the sink")))
        }
    }
}

fn rename(files: &dyn Files, from: &Path, to: &Path) -> io::Result<()> {
    let failed = |error: &io::Error| {
        let (from, to) = (from.display(), to.display());
        io::Error::new(error.kind(), format!("cannot publish {from} as {to}: {}", super::reason(error)))
    };
    match step("sink.publish.rename", || files.rename(from, to)) {
        Ok(()) => {}
        // It was done before, if perhaps not durably.
        Err(error) if error.kind() == io::ErrorKind::NotFound && !files.exists(from) && files.exists(to) => {}
        Err(error) if error.kind() == io::ErrorKind::NotFound && !files.exists(from) => {
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
        if let Some(folder) = folder_of(file).filter(|folder| files.exists(folder)) {
            step("sink.publish.sync", || files.sync_folder(folder)).map_err(|error| failed(&error))?;
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
    sweep_on(&*files::system(), dir, sink, generation)
}

/// As [`sweep`], on other files than the system's.
pub(super) fn sweep_on(files: &dyn Files, dir: &Path, sink: &str, generation: u64) -> io::Result<()> {
    let staged = dir.join(STAGED);
    let failed = |path: &Path, error: &io::Error| {
        io::Error::new(error.kind(), format!("cannot remove {}: {}", path.display(), super::reason(error)))
    };
    let names = match files.list(&staged) {
        Ok(names) => names,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(failed(&staged, &error)),
    };
    let prefix = format!("{sink}-g");
    for (name, _) in names {
        let older = name.strip_prefix(&prefix).and_then(|number| number.parse::<u64>().ok());
        if older.is_some_and(|older| older < generation) {
            let path = staged.join(name);
            // Several processes may sweep one folder.
            match step("sink.sweep.unlink", || files.remove_folder(&path)) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(failed(&path, &error)),
                _ => {}
            }
        }
    }
    Ok(())
}

/// Creates a folder and those that it is in, durably.
pub(super) fn create_folder(files: &dyn Files, path: &Path) -> io::Result<()> {
    let missing: Vec<_> = path.ancestors().take_while(|folder| !files.exists(folder)).collect();
    files.create_folders(path)?;
    missing.into_iter().filter_map(folder_of).try_for_each(|folder| files.sync_folder(folder))
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
