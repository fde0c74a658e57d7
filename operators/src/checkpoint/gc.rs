//! Which files are still needed.
//!
//! # Invariants
//! - A file goes only after every link that names it is gone for good, and a link only after newer manifests are durable.
//! - What belongs to a running generation, and to no checkpoint yet, is never touched.

use std::collections::{BTreeSet, VecDeque};

use super::chain;
use super::error::Error;
use super::manifest::{Manifest, SnapshotRef};
use super::segment;
use super::store::CheckpointStore;

/// Checkpoints that may pile up before they are removed at once: each removal has a sync of its own.
const SLACK: usize = 8;

/// The name of a snapshot.
pub(crate) fn snapshot_name(generation: u64, number: u32) -> String {
    format!("base/{generation:010}-{number:08}")
}

/// What a name says, if it is one of a snapshot.
pub(crate) fn parse_snapshot(name: &str) -> Option<(u64, u32)> {
    let (generation, number) = name.strip_prefix("base/")?.split_once('-')?;
    let parsed = (generation.parse().ok()?, number.parse().ok()?);
    (snapshot_name(parsed.0, parsed.1) == name).then_some(parsed)
}

impl SnapshotRef {
    pub(crate) fn name(&self) -> String {
        snapshot_name(self.generation, self.number)
    }
}

/// The files that a checkpoint consists of, besides its link.
pub(crate) fn files(manifest: &Manifest) -> BTreeSet<String> {
    let segments = manifest.segments.iter().map(|s| segment::name(s.generation, s.process, s.segment));
    segments.chain(manifest.base.as_ref().map(SnapshotRef::name)).collect()
}

/// The checkpoints of a running job that can still be returned to, oldest first.
#[derive(Debug)]
pub(crate) struct Kept {
    keep: usize,
    checkpoints: VecDeque<(u64, BTreeSet<String>)>,
}

impl Kept {
    pub(crate) fn new<'a>(keep: usize, checkpoints: impl Iterator<Item = (u64, &'a Manifest)>) -> Self {
        Kept { keep, checkpoints: checkpoints.map(|(number, manifest)| (number, files(manifest))).collect() }
    }

    /// A checkpoint is durable. Removes what nobody needs any more, when enough of it is there.
    pub(crate) fn add(&mut self, store: &dyn CheckpointStore, number: u64, manifest: &Manifest) -> Result<(), Error> {
        self.checkpoints.push_back((number, files(manifest)));
        let surplus = self.checkpoints.len().saturating_sub(self.keep);
        let Some((oldest, needed)) = self.checkpoints.get(surplus).map(|(n, files)| (*n, files.clone())) else {
            return Ok(());
        };
        let drops = self.checkpoints.iter().take(surplus).any(|(_, files)| !files.is_subset(&needed));
        if surplus == 0 || (surplus < SLACK && !drops) {
            return Ok(());
        }
        let dropped: BTreeSet<String> = self.checkpoints.drain(..surplus).flat_map(|(_, files)| files).collect();
        let needed: BTreeSet<&String> = self.checkpoints.iter().flat_map(|(_, files)| files).collect();
        let links: Vec<_> = chain::numbers(store)?.into_iter().filter(|link| *link < oldest).map(chain::name).collect();
        remove(store, &links)?;
        let dropped: Vec<_> = dropped.into_iter().filter(|file| !needed.contains(file)).collect();
        remove(store, &dropped)
    }
}

fn remove(store: &dyn CheckpointStore, names: &[String]) -> Result<(), Error> {
    let Some(first) = names.first() else {
        return Ok(());
    };
    tracing::debug!(files = names.len(), %first, "what no checkpoint needs is removed");
    store.remove(names).map_err(|error| Error::Io { action: "remove", file: store.describe(first), error })
}
