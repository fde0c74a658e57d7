//! What can go wrong with checkpoints.

use std::io;

use crate::cluster::Failure;

/// Why a checkpoint cannot be read, written or taken over. The text says what failed, on what, and what helps.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The store failed.
    #[error("cannot {action} {file}: {}", reason(error))]
    Io {
        /// What was tried, such as `read`.
        action: &'static str,
        /// On which file.
        file: String,
        /// What the system says.
        error: io::Error,
    },
    /// Stored bytes are not what was written.
    #[error("{file} is damaged at offset {offset}: {why}")]
    Damaged {
        /// The file.
        file: String,
        /// Where in it.
        offset: u64,
        /// What is wrong there.
        why: String,
    },
    /// The newest link of the chain is damaged; an older checkpoint is there.
    #[error(
        "{damage}; the checkpoint before it, of frontier {frontier}, is whole: to go on from there, which does again \
             what came after it, allow falling back"
    )]
    NewestDamaged {
        /// What is wrong.
        damage: String,
        /// The frontier of the newest whole checkpoint.
        frontier: String,
    },
    /// The bytes are of a version that this program does not know.
    #[error("{file} has format version {found}, and this program knows only {known}; a newer program reads it")]
    Version {
        /// The file.
        file: String,
        /// Its version.
        found: u32,
        /// The newest known one.
        known: u32,
    },
    /// A later generation took over.
    #[error(
        "generation {own} of the job has been shut out by generation {by}, which was started later; nothing of it \
             counts any more"
    )]
    Fenced {
        /// The generation that was shut out.
        own: u64,
        /// The one that counts.
        by: u64,
    },
    /// Another cluster is at work on this store.
    #[error("{place} is in use by another run of the job; wait for its end, or take over if it is lost")]
    Locked {
        /// The store.
        place: String,
    },
    /// The checkpoints are those of another job.
    #[error("{file} holds checkpoints of the job `{found}`, and this is `{job}`; give each job a directory of its own")]
    OtherJob {
        /// The file that says so.
        file: String,
        /// Its job.
        found: String,
        /// The job that asked.
        job: String,
    },
    /// The program does not fit the checkpoint.
    #[error("the program does not fit its checkpoint: {}", .0.join("; "))]
    Differs(Vec<String>),
    /// A thread could not be started.
    #[error("cannot start the thread `{name}`: {}", reason(error))]
    Thread {
        /// Its name.
        name: &'static str,
        /// What the system says.
        error: io::Error,
    },
}

impl Error {
    pub(crate) fn damaged(file: impl Into<String>, offset: u64, why: impl Into<String>) -> Self {
        Error::Damaged { file: file.into(), offset, why: why.into() }
    }
}

impl Error {
    /// The same again; of an error of the system, its text.
    pub fn copy(&self) -> Self {
        match self {
            Error::Damaged { file, offset, why } => Error::damaged(file, *offset, why),
            other => Error::damaged("", 0, other.to_string()),
        }
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Failure::data(error.to_string())
    }
}

/// An error of the system without the number at its end.
pub(crate) fn reason(error: &io::Error) -> String {
    let text = error.to_string();
    match text.find(" (os error ") {
        Some(end) => text[..end].to_owned(),
        None => text,
    }
}
