//! How the files of a sink are called, while they are staged and when they are published.
//!
//! # Invariants
//! - Staged names of a generation are in a folder of their own, and name epoch and process.
//! - Published names sort by epoch.

use std::path::{Path, PathBuf};

use super::publish::folder_of;
use crate::checkpoint::Publication;
use crate::cluster::Failure;

/// Where staged output becomes visible.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Place {
    /// A file for each epoch and process in a folder, called `<sink>-<epoch>-p<process>.<extension>`.
    Parts {
        /// The folder.
        dir: PathBuf,
        /// What its names end in, without the dot.
        extension: String,
    },
    /// One file, replaced as a whole.
    Whole(PathBuf),
    /// A transactional sink; staged in a folder.
    Rows {
        /// The folder.
        dir: PathBuf,
    },
}

impl Place {
    /// The folder in which the output is, and beside it what is staged.
    pub fn dir(&self) -> &Path {
        match self {
            Place::Parts { dir, .. } | Place::Rows { dir } => dir,
            Place::Whole(file) => folder_of(file).unwrap_or(file),
        }
    }
}

/// How files are called.
#[derive(Debug)]
pub(super) struct Naming {
    pub(super) sink: String,
    process: usize,
    /// The folder in which they are staged.
    pub(super) stage: String,
    to: Target,
}

#[derive(Debug)]
enum Target {
    Parts { dir: String, extension: String },
    Whole(String),
    Rows,
}

impl Naming {
    /// The names of what a sink stages in `stage` and publishes in `dir`.
    pub(super) fn new(sink: &str, process: usize, stage: &Path, dir: &Path, place: Place) -> Result<Self, Failure> {
        let (stage, to) = (text(sink, stage)?, target(sink, dir, place)?);
        Ok(Naming { sink: sink.to_owned(), process, stage, to })
    }

    pub(super) fn staged(&self, epoch: u64) -> String {
        format!("{}/{epoch:020}-p{}", self.stage, self.process)
    }

    pub(super) fn publication(&self, epoch: u64) -> Publication {
        let from = self.staged(epoch);
        let to = match &self.to {
            Target::Parts { dir, extension } => {
                format!("{dir}/{}-{epoch:020}-p{}.{extension}", self.sink, self.process)
            }
            Target::Whole(file) => file.clone(),
            Target::Rows => return Publication::Apply { sink: self.sink.clone(), epoch, from },
        };
        Publication::Rename { from, to }
    }
}

fn target(sink: &str, dir: &Path, place: Place) -> Result<Target, Failure> {
    Ok(match place {
        Place::Parts { extension, .. } => Target::Parts { dir: text(sink, dir)?, extension },
        Place::Rows { .. } => Target::Rows,
        Place::Whole(file) => match file.file_name() {
            Some(name) => Target::Whole(text(sink, &dir.join(name))?),
            None => return Err(Failure::usage(format!("sink {sink}: {} names no file", file.display()))),
        },
    })
}

/// A checkpoint names files as text.
fn text(sink: &str, path: &Path) -> Result<String, Failure> {
    match path.to_str() {
        Some(text) => Ok(text.to_owned()),
        None => Err(Failure::usage(format!("sink {sink}: the name of {} must be UTF-8", path.display()))),
    }
}
