//! Whether what is stored is what was written.
//!
//! Every kept checkpoint is read whole: the checksums of all its bytes, the files that it names, the index of its
//! snapshot, and the digests of its groups against its logs. Nothing is changed.

use super::chain;
use super::error::{Error, reason};
use super::history::History;
use super::manifest::Manifest;
use super::restore;
use super::snapshot;
use super::store::CheckpointStore;

/// Something that is not as it was written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// The file.
    pub file: String,
    /// Where in it.
    pub offset: u64,
    /// What is wrong there.
    pub what: String,
}

/// What was looked at, and what is wrong with it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// The frontiers of all checkpoints that were looked at, oldest first.
    pub checkpoints: Vec<Option<u64>>,
    /// What is wrong; the first thing of each checkpoint.
    pub findings: Vec<Finding>,
}

/// Reads all that is stored. A job may be at work meanwhile: what it removes is looked at no longer.
///
/// # Errors
/// The store cannot be listed, or a link is of a version that is not known.
pub fn verify(store: &dyn CheckpointStore) -> Result<Report, Error> {
    let mut report = Report::default();
    let history = History::read(store, None)?;
    let mut note = |number: u64, error: &Error| -> Result<(), Error> {
        // A checkpoint that has been removed meanwhile has nothing left to be wrong.
        if chain::numbers(store)?.contains(&number) {
            let file = match error {
                Error::Damaged { file, .. }
                | Error::Io { file, .. }
                | Error::Version { file, .. }
                | Error::OtherJob { file, .. } => file.clone(),
                _ => store.describe(&chain::name(number)),
            };
            let finding = Finding { file, offset: offset(error), what: why(error) };
            // Checkpoints share files: one finding is enough.
            if !report.findings.contains(&finding) {
                report.findings.push(finding);
            }
        }
        Ok(())
    };
    for (number, link) in history.links() {
        if let Err(error) = link {
            note(*number, error)?;
        }
    }
    if let Err(error) = history.checkpoint(None) {
        note(history.next() - 1, &error)?;
    }
    for (number, manifest) in history.path(None).into_iter().rev() {
        if let Err(error) = checkpoint(store, manifest) {
            note(number, &error)?;
        }
        report.checkpoints.push(manifest.frontier);
    }
    Ok(report)
}

/// Reads all of one checkpoint.
pub(crate) fn checkpoint(store: &dyn CheckpointStore, manifest: &Manifest) -> Result<(), Error> {
    if let Some(base) = &manifest.base {
        snapshot::check(store, &manifest.job, base)?;
    }
    restore::check_digests(store, manifest, &mut |_, _| {})
}

fn offset(error: &Error) -> u64 {
    if let Error::Damaged { offset, .. } = error { *offset } else { 0 }
}

fn why(error: &Error) -> String {
    match error {
        Error::Damaged { why, .. } => why.clone(),
        Error::Io { error, .. } => reason(error),
        other => other.to_string(),
    }
}
