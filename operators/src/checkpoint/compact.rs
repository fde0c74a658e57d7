//! Many facts into those that hold: base and logs become a new snapshot.
//!
//! ```text
//! survey: all logs once ── digests as in the manifest? sizes by group ──▶ passes ──▶ per pass: read, sort, write
//! ```
//!
//! # Invariants
//! - The snapshot holds exactly what a restore of the manifest would: what is retired is left out.
//! - Facts whose digests are not those of the manifest end the compaction: damage is never written as if it were whole.
//! - A pass keeps about as many bytes in memory as it may, and at least one group.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;

use super::commit::Compacted;
use super::error::Error;
use super::manifest::{Manifest, SegmentRef};
use super::record::Compression;
use super::restore;
use super::segment;
use super::snapshot::{self, Place, SnapshotWriter};
use super::store::CheckpointStore;
use crate::fact::{self, BlockWriter, What};

/// Bytes of a block of a snapshot, more or less.
const BLOCK: usize = 1 << 20;

/// When and how logs become snapshots.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Compaction {
    /// The logs have to be this many times as long as the snapshot.
    pub ratio: u64,
    /// And at least this long, in bytes.
    pub minimum_bytes: u64,
    /// About how many bytes of facts are sorted at a time; they take a multiple of it in memory.
    pub memory_bytes: u64,
}

impl Default for Compaction {
    fn default() -> Self {
        Compaction { ratio: 2, minimum_bytes: 64 << 20, memory_bytes: 32 << 20 }
    }
}

/// Writes a snapshot of what `manifest` holds. It has to have a frontier, and a greater one than 0.
pub(crate) fn compact(
    store: &Arc<dyn CheckpointStore>,
    manifest: &Manifest,
    frontier: u64,
    name: (u64, u32),
    memory: u64,
    compression: Compression,
) -> Result<Compacted, Error> {
    let (sizes, covered) = survey(&**store, manifest, frontier)?;
    let mut writer = SnapshotWriter::create(Arc::clone(store), &manifest.job, name, frontier, compression)?;
    for pass in passes(&sizes, memory) {
        for ((component, group), keys) in state(&**store, manifest, &pass)? {
            write(&mut writer, component, group, frontier - 1, &keys)?;
        }
    }
    let base = writer.finish()?;
    tracing::info!(generation = name.0, number = name.1, bytes = base.length, "facts are compacted");
    Ok(Compacted { base, digests: manifest.digests.clone(), covered })
}

/// What is where, and which segments will no longer be needed.
fn survey(
    store: &dyn CheckpointStore,
    manifest: &Manifest,
    frontier: u64,
) -> Result<(BTreeMap<Place, u64>, Vec<SegmentRef>), Error> {
    let mut sizes: BTreeMap<Place, u64> = BTreeMap::new();
    if let Some(base) = &manifest.base {
        sizes.extend(snapshot::sizes(store, base)?);
    }
    restore::check_digests(store, manifest, &mut |component, section| {
        *sizes.entry((component, section.group)).or_default() += section.bytes.len() as u64;
    })?;
    Ok((sizes, covered(store, manifest, frontier)?))
}

/// Segments of which no fact will be needed beside a snapshot of the manifest.
///
/// One of an earlier generation counts up to its length and no further. One of this generation may still grow, or hold
/// facts of later epochs behind its length: it is done with only when there is another after it, for then it has its
/// final length, up to which it is looked at.
fn covered(store: &dyn CheckpointStore, manifest: &Manifest, frontier: u64) -> Result<Vec<SegmentRef>, Error> {
    let logs = store.list("log").map_err(|error| Error::Io { action: "list", file: store.describe("log"), error })?;
    let lengths: BTreeMap<(u64, u32, u32), u64> =
        logs.into_iter().filter_map(|(name, length)| Some((segment::parse(&name)?, length))).collect();
    let mut covered = Vec::new();
    for segment in &manifest.segments {
        let (generation, process, number) = segment.id();
        let length = if generation < manifest.generation {
            segment.length
        } else if lengths.contains_key(&(generation, process, number + 1)) {
            lengths.get(&segment.id()).copied().unwrap_or(segment.length)
        } else {
            continue;
        };
        let mut needed = false;
        segment::read_facts(store, &manifest.job, segment.id(), length, &mut |_, facts| {
            needed |= facts.epoch >= frontier && segment.below.is_none_or(|below| facts.epoch < below);
            Ok(())
        })?;
        if !needed {
            covered.push(segment.clone());
        }
    }
    Ok(covered)
}

/// Ranges of places, each of which fits into memory.
fn passes(sizes: &BTreeMap<Place, u64>, memory: u64) -> Vec<Range<Place>> {
    let mut passes: Vec<Range<Place>> = Vec::new();
    let mut bytes = 0;
    for (place, size) in sizes {
        let after = (place.0, place.1 + 1);
        bytes += size;
        match passes.last_mut() {
            Some(pass) if bytes <= memory => pass.end = after,
            _ => {
                passes.push(*place..after);
                bytes = *size;
            }
        }
    }
    passes
}

type Keys = BTreeMap<Vec<u8>, BTreeMap<What, Vec<u8>>>;

/// All that holds in some places.
fn state(
    store: &dyn CheckpointStore,
    manifest: &Manifest,
    pass: &Range<Place>,
) -> Result<BTreeMap<Place, Keys>, Error> {
    let mut places: BTreeMap<Place, Keys> = BTreeMap::new();
    let mut take = |found: restore::Found<'_>| {
        let component = found.component;
        let from = if component == pass.start.0 { pass.start.1 } else { 0 };
        let to = if component == pass.end.0 { pass.end.1 } else { u32::MAX };
        if !(pass.start.0..=pass.end.0).contains(&component) {
            return Ok(());
        }
        let each = &mut |fact: fact::FactRef<'_>| {
            let keys = places.entry((component, fact.group)).or_default();
            if !keys.contains_key(fact.key) {
                keys.insert(fact.key.to_vec(), BTreeMap::new());
            }
            if let Some(key) = keys.get_mut(fact.key) {
                match fact.value {
                    Some(value) => drop(key.insert(fact.what, value.to_vec())),
                    None => drop(key.remove(&fact.what)),
                }
                if key.is_empty() {
                    keys.remove(fact.key);
                }
            }
        };
        fact::facts(&found.block, from..to, each).map_err(|error| found.damaged(error))
    };
    if let Some(base) = &manifest.base {
        snapshot::blocks(store, base, pass.clone(), &mut take)?;
    }
    restore::logged(store, manifest, None, &mut take)?;
    Ok(places)
}

fn write(writer: &mut SnapshotWriter, component: u32, group: u32, epoch: u64, keys: &Keys) -> Result<(), Error> {
    let mut block = BlockWriter::default();
    let mut put = |block: &mut BlockWriter<u64>| {
        let mut written = Ok(());
        block.finish(true, &mut |mut block| {
            block.arrange();
            written = writer.put(component, group, &block);
        });
        written
    };
    for (key, facts) in keys {
        let encode = |bytes: &mut Vec<u8>| bytes.extend_from_slice(key);
        block.key(group, &epoch, encode, |written| {
            for (what, value) in facts {
                written.put_bytes(what, value);
            }
        });
        if block.len() >= BLOCK {
            put(&mut block)?;
        }
    }
    put(&mut block)
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::channel;

    use super::super::log::{Log, LogOptions};
    use super::super::memory_store::MemoryStore;
    use super::super::record::Record;
    use super::super::record::tests::block;
    use super::*;
    use crate::cluster::Control;

    #[test]
    fn a_segment_is_done_with_when_nothing_in_it_can_count_any_more() {
        let store: Arc<dyn CheckpointStore> = Arc::new(MemoryStore::new());
        // Three segments of two records each; word of the last record of the second has not come yet.
        let size = 150;
        let options = LogOptions { segment_bytes: size, ..LogOptions::default() };
        let write = |generation| {
            let log = Log::open(Arc::clone(&store), "job", generation, 0, options, Control::detached()).unwrap();
            let (tell, told) = channel();
            let mut ends = Vec::new();
            for epoch in [1, 2, 1, 7, 2, 3] {
                let tell = tell.clone();
                let value = "x".repeat(size as usize / 3);
                let record = Record::Facts { component: 0, block: block(epoch, &[(0, "key", Some(&value))]) };
                log.append(record, Box::new(move |position| tell.send(position).unwrap()));
                ends.push(told.recv().unwrap());
            }
            assert_eq!(ends.iter().map(|end| end.segment).collect::<Vec<_>>(), [0, 0, 1, 1, 2, 2]);
            let segment = |at: usize| SegmentRef {
                generation,
                process: 0,
                segment: ends[at].segment,
                length: ends[at].end,
                below: (generation == 1).then_some(4),
            };
            vec![segment(1), segment(2), segment(5)]
        };
        let mut manifest = Manifest { generation: 2, frontier: Some(4), ..Manifest::empty("job", 1) };
        manifest.segments = [write(1), write(2)].concat();
        let covered: Vec<_> =
            covered(&*store, &manifest, 4).unwrap().iter().map(|s| (s.generation, s.segment)).collect();
        // Of this generation only the first: the second has a fact of epoch 7, and the last may still grow.
        assert_eq!(covered, [(1, 0), (1, 1), (1, 2), (2, 0)]);
    }

    #[test]
    fn passes_fit_into_memory_and_miss_nothing() {
        let sizes = BTreeMap::from([((0, 0), 3), ((0, 7), 3), ((1, 2), 9), ((1, 3), 4), ((5, 0), 1)]);
        assert_eq!(passes(&sizes, 6), [(0, 0)..(0, 8), (1, 2)..(1, 3), (1, 3)..(5, 1)]);
        assert_eq!(passes(&sizes, 0).len(), 5);
        assert_eq!(passes(&sizes, 100), [(0, 0)..(5, 1)]);
    }
}
