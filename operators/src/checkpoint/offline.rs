//! Compaction without the job.
//!
//! # Invariants
//! - It is a generation of its own: it holds the lock, claims, and adds one manifest, of the same frontier as the one it
//!   came from. So a run that is started meanwhile is turned away, and one that was taken for lost is shut out.
//! - What was to be published still is: the new manifest names it all, and the next start does it.

use std::sync::Arc;

use super::chain::Link;
use super::compact::{self, Compaction};
use super::error::Error;
use super::history::History;
use super::manifest::{Manifest, Shape};
use super::opening::Checkpoints;
use super::record::Compression;
use super::store::CheckpointStore;

/// Turns the logs of the newest checkpoint into a snapshot; gives the manifest that names it, or nothing if there is
/// nothing to be gained: there is no checkpoint, it has no logs, or the job is complete. No file of a kept checkpoint is
/// removed.
///
/// # Errors
/// A job is at work; the newest checkpoint is damaged; the store fails.
pub fn compact_offline(store: &Arc<dyn CheckpointStore>, compression: Compression) -> Result<Option<Manifest>, Error> {
    let of_use =
        |manifest: &Manifest| !manifest.segments.is_empty() && manifest.frontier.is_some_and(|frontier| frontier > 0);
    let history = History::read(&**store, None)?;
    let Some((_, newest)) = history.checkpoint(None)?.filter(|(_, manifest)| of_use(manifest)) else {
        return Ok(None);
    };
    let opened = Checkpoints::new(Arc::clone(store)).keep(usize::MAX).retain_journals(u64::MAX);
    let opened = opened.claim(&newest.job)?;
    let (generation, manifest) = (opened.generation(), opened.manifest().cloned());
    // The job may have gone on before the claim.
    let Some(manifest) = manifest.filter(of_use) else { return Ok(None) };
    let Some((mut chain, _lock)) = opened.lead() else { return Ok(None) };
    let Some(frontier) = manifest.frontier else { return Ok(None) };
    let mut manifest = manifest.resumed(generation, &Shape::default());
    let memory = Compaction::default().memory_bytes;
    compact::compact(store, &manifest, frontier, (generation, 0), memory, compression)?.rebase(&mut manifest);
    chain.add(&Link::Manifest(manifest.clone()))?;
    Ok(Some(manifest))
}

#[cfg(test)]
mod tests {
    use super::super::scenario::{Run, expected, loaded};
    use super::super::{Catalogue, Stored, verify};
    use super::*;

    #[test]
    fn a_compacted_checkpoint_holds_what_it_held_and_the_job_goes_on_from_it() {
        let dir = tempfile::tempdir().unwrap();
        let never = Compaction { minimum_bytes: u64::MAX, ..Compaction::default() };
        let checkpoints = Checkpoints::dir(dir.path()).unwrap().segment_bytes(300).compaction(never);
        let mut run = Run::start(&checkpoints).unwrap();
        assert!((0..7).all(|_| run.epoch()));
        let store = checkpoints.store();
        assert!(matches!(compact_offline(store, Compression::None), Err(Error::Locked { .. })));
        run.stop();

        let before = Catalogue::read(&**store).unwrap().checkpoints.pop().unwrap();
        let manifest = compact_offline(store, Compression::None).unwrap().unwrap();
        assert_eq!((manifest.frontier, manifest.segments.len()), (Some(7), 0));
        assert_eq!(manifest.publications, before.manifest.publications);
        assert_eq!(verify(&**store).unwrap().findings, []);
        assert_eq!(compact_offline(store, Compression::None).unwrap(), None, "there is nothing left to do");

        let opened = checkpoints.claim("job").unwrap();
        assert_eq!(loaded(&opened, 0..4).unwrap(), expected(7));
        drop(opened);
        let mut run = Run::start(&checkpoints).unwrap();
        assert!(run.epoch());
        run.stop();
        assert_eq!(verify(&**store).unwrap().findings, []);
    }

    #[test]
    fn an_epoch_is_found_in_the_checkpoint_that_has_it() {
        let dir = tempfile::tempdir().unwrap();
        let checkpoints = Checkpoints::dir(dir.path()).unwrap().keep(3);
        let mut run = Run::start(&checkpoints).unwrap();
        assert!((0..4).all(|_| run.epoch()));
        let catalogue = Catalogue::read(&**checkpoints.store()).unwrap();
        let of = |epoch| catalogue.covering(epoch).and_then(Stored::last_epoch);
        assert_eq!([0, 1, 3, 4].map(of), [Some(0), Some(1), Some(3), None]);
        assert_eq!(catalogue.newest().unwrap().and_then(Stored::last_epoch), Some(3));
        assert!((0..40).all(|_| run.epoch()));
        run.stop();
        let catalogue = Catalogue::read(&**checkpoints.store()).unwrap();
        assert!(catalogue.covering(0).is_none() && catalogue.covering(43).is_some());
    }
}
