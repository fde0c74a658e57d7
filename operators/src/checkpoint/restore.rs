//! The facts of a checkpoint, in the order in which they hold.
//!
//! # Invariants
//! - Of one key later facts come later: its facts of a generation are in the log of one process, and generations follow
//!   each other.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::ops::Range;

use super::error::Error;
use super::manifest::Manifest;
use super::record;
use super::segment;
use super::snapshot;
use super::store::CheckpointStore;
use crate::fact::{self, FactRef, Section};

/// A block of facts that count, and where it lies.
pub(crate) struct Found<'a> {
    pub component: u32,
    pub epoch: u64,
    pub block: Cow<'a, [u8]>,
    pub file: &'a dyn Fn() -> String,
    pub offset: u64,
}

impl Found<'_> {
    /// An error about the block.
    pub(crate) fn damaged(&self, why: impl std::fmt::Display) -> Error {
        Error::damaged((self.file)(), self.offset, why.to_string())
    }
}

/// Hands out the blocks that the logs add to the base; only those of one component, if it is named.
pub(crate) fn logged(
    store: &dyn CheckpointStore,
    manifest: &Manifest,
    component: Option<u32>,
    each: &mut dyn FnMut(Found<'_>) -> Result<(), Error>,
) -> Result<(), Error> {
    for segment in &manifest.segments {
        let name = segment::name(segment.generation, segment.process, segment.segment);
        let file = || store.describe(&name);
        segment::read_facts(store, &manifest.job, segment.id(), segment.length, &mut |offset, facts| {
            let wanted = component.is_none_or(|component| component == facts.component);
            if !wanted || !manifest.counts(segment, facts.epoch) {
                return Ok(());
            }
            let block = facts.block().map_err(|why| Error::damaged(file(), offset, why))?;
            each(Found { component: facts.component, epoch: facts.epoch, block, file: &file, offset })
        })?;
    }
    Ok(())
}

/// Hands out the facts of a component whose groups are in `groups`.
pub(crate) fn facts(
    store: &dyn CheckpointStore,
    manifest: &Manifest,
    component: u32,
    groups: Range<u32>,
    each: &mut dyn FnMut(u64, FactRef<'_>),
) -> Result<(), Error> {
    let mut hand_out = |found: Found<'_>| {
        let epoch = found.epoch;
        fact::facts(&found.block, groups.clone(), &mut |fact| each(epoch, fact)).map_err(|error| found.damaged(error))
    };
    if let Some(base) = &manifest.base {
        snapshot::blocks(store, base, (component, groups.start)..(component, groups.end), &mut hand_out)?;
    }
    logged(store, manifest, Some(component), &mut hand_out)
}

/// Holds all facts that the logs add against the digests of the manifest; hands out their sections.
pub(crate) fn check_digests(
    store: &dyn CheckpointStore,
    manifest: &Manifest,
    each: &mut dyn FnMut(u32, Section<'_>),
) -> Result<(), Error> {
    let mut sums: BTreeMap<(u32, u32), u64> = BTreeMap::new();
    logged(store, manifest, None, &mut |found| {
        let digests = record::digest(found.component, found.epoch, &found.block);
        for (group, digest) in digests.map_err(|error| found.damaged(error))? {
            let sum = sums.entry((found.component, group)).or_default();
            *sum = sum.wrapping_add(digest);
        }
        for section in fact::sections(&found.block).map_err(|error| found.damaged(error))? {
            each(found.component, section);
        }
        Ok(())
    })?;
    for (component, groups) in &manifest.digests {
        for (group, digest) in groups {
            let sum = sums.entry((*component, *group)).or_default();
            *sum = sum.wrapping_sub(*digest);
        }
    }
    match sums.iter().find(|(_, rest)| **rest != 0) {
        None => Ok(()),
        Some(((component, group), _)) => {
            let why = format!("the facts of group {group} of component {component} are not those that were committed");
            Err(Error::damaged(store.describe("log"), 0, why))
        }
    }
}
