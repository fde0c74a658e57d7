//! Which files are still needed.
//!
//! # Invariants
//! - A file goes only after every link that names it is gone for good, and a link only after newer manifests are durable.
//! - What belongs to a running generation, and to no checkpoint yet, is never touched.

use std::collections::{BTreeSet, VecDeque};

use super::chain::{self, Bound, Link};
use super::error::Error;
use super::history::History;
use super::manifest::{Manifest, SnapshotRef};
use super::segment::{self, JOURNAL};
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
    /// The name of its file.
    pub fn name(&self) -> String {
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

/// How much stays: so many checkpoints, and journals of calls for so many epochs beyond their commit.
pub(crate) type Stays = (usize, u64);

/// Removes what no checkpoint of `job` needs, keeping at least so many of them as `stays` says first, and journals of calls
/// for so many epochs beyond their commit as it says then; says what that was. Of a store that is in use, which is left
/// alone unless `live`, the files of the running generation stay.
///
/// # Errors
/// It is in use; a link is damaged, so it cannot be known what is needed; the store fails.
pub fn gc(
    store: &dyn CheckpointStore,
    job: &str,
    (keep, retain): (usize, u64),
    live: bool,
) -> Result<Vec<String>, Error> {
    let lock = store.lock().map_err(|error| Error::Io { action: "lock", file: store.describe(""), error })?;
    if lock.is_none() && !live {
        return Err(Error::Locked { place: store.describe("") });
    }
    let history = History::read(store, Some(job))?;
    history.whole()?;
    let generation = if lock.is_some() { u64::MAX } else { history.generation() };
    let (links, files) = garbage(store, &history, None, (keep.max(2), retain), (generation, lock.is_some()))?;
    remove(store, &links)?;
    remove(store, &files)?;
    Ok([links, files].concat())
}

/// Removes, at the start of `generation` from the checkpoint of link `base`, what earlier ones have left behind. If a link
/// is damaged all is kept: somebody may want to look at it.
pub(crate) fn sweep(
    store: &dyn CheckpointStore,
    history: &History,
    base: Option<u64>,
    stays: Stays,
    generation: u64,
) -> Result<(), Error> {
    if let Err(error) = history.whole() {
        tracing::warn!(%error, "old files are kept");
        return Ok(());
    }
    let (links, files) = garbage(store, history, base, stays, (generation, true))?;
    remove(store, &links)?;
    remove(store, &files)
}

/// Links that are too old, and files of generations below `generation` that no kept checkpoint names. The checkpoints are
/// that of link `base`, or else the newest, and those before it.
fn garbage(
    store: &dyn CheckpointStore,
    history: &History,
    base: Option<u64>,
    (keep, retain): Stays,
    (generation, aside): (u64, bool),
) -> Result<(Vec<String>, Vec<String>), Error> {
    let mut kept = history.path(base);
    let trimmed = kept.len() > keep;
    kept.truncate(keep);
    let oldest = kept.last().filter(|_| trimmed).map_or(0, |(number, _)| *number);
    let links = history.numbers().filter(|number| *number < oldest).map(chain::name).collect();
    let needed: BTreeSet<String> = kept.iter().flat_map(|(_, manifest)| files(manifest)).collect();
    let mut unneeded = Vec::new();
    let mut journals = Vec::new();
    for folder in ["aside", "base", "log"] {
        let names =
            store.list(folder).map_err(|error| Error::Io { action: "list", file: store.describe(folder), error })?;
        for (name, length) in names {
            if let Some((generation_of, process, segment)) = segment::parse(&name)
                && process >= JOURNAL
            {
                let bound = Bound { generation: generation_of, process, segment, length };
                let job = history.links().iter().find_map(|(_, link)| link.as_ref().ok()).map(Link::job);
                journals.push((name, generation_of, segment::last_epoch(store, job.unwrap_or_default(), &bound)?));
                continue;
            }
            let of = segment::parse(&name).map(|(generation, ..)| generation);
            let of = of.or(parse_snapshot(&name).map(|(generation, _)| generation));
            // Files with other names are not ours. What lies aside may be what a running job is about to link.
            let old = of.is_some_and(|of| of < generation) || (folder == "aside" && aside);
            if old && !needed.contains(&name) {
                unneeded.push(name);
            }
        }
    }
    // Notes of epochs that all kept checkpoints hold are over.
    if let Some((_, manifest)) = kept.last() {
        let last = journals.iter().filter_map(|(.., last)| *last).max();
        let over = retained(manifest.frontier, last, retain);
        let is_over = |last: Option<u64>| over.is_none_or(|over| last.is_none_or(|last| last < over));
        let gone = journals.into_iter().filter(|(_, of, last)| *of < generation && is_over(*last));
        for (name, ..) in gone {
            unneeded.extend(segment::blobs(store, &name)?);
            unneeded.push(name);
        }
    }
    Ok((links, unneeded))
}

/// Before which epoch notes go, when all before `frontier` are committed, and `last` is the greatest that has notes; `None`:
/// all go.
pub(crate) fn retained(frontier: Option<u64>, last: Option<u64>, retain: u64) -> Option<u64> {
    match frontier {
        None if retain == 0 => None,
        None => Some(last.map_or(0, |last| last.saturating_add(1)).saturating_sub(retain)),
        Some(frontier) => Some(frontier.saturating_sub(retain)),
    }
}

fn remove(store: &dyn CheckpointStore, names: &[String]) -> Result<(), Error> {
    let Some(first) = names.first() else {
        return Ok(());
    };
    tracing::debug!(files = names.len(), %first, "what no checkpoint needs is removed");
    store.remove(names).map_err(|error| Error::Io { action: "remove", file: store.describe(first), error })
}
