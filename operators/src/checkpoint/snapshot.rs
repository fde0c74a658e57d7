//! A snapshot: all facts as of a frontier in one file, found by component and group.
//!
//! ```text
//! file    := head record, facts records, index record, trailer
//! trailer := offset of the index record:u64le crc32c of these bytes:u32le
//! ```
//! Facts are sorted by component, group and key, so those of a component and a range of groups lie together. A record
//! has facts of one group; a group with many has several. Their epoch is the last one below the frontier.
//!
//! # Invariants
//! - A snapshot counts from the moment when a manifest names it, and is whole and durable before that.
//! - A reader reads the trailer, the index and the ranges that it was asked for.

use std::io;
use std::ops::Range;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::error::Error;
use super::failpoint::step;
use super::gc::snapshot_name;
use super::manifest::SnapshotRef;
use super::record::{self, Compression, Head, RecordRef, SNAPSHOT, VERSION};
use super::restore::Found;
use super::segment::{Records, check_head};
use super::store::{CheckpointStore, StoreFile};
use crate::fact::Block;

/// Bytes that are written at once.
const PART: usize = 1 << 20;
/// The length of the trailer.
const TRAILER: u64 = 12;

/// A component and a group of it.
pub(crate) type Place = (u32, u32);

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Index {
    pub frontier: u64,
    /// By component and group, ascending.
    pub entries: Vec<Entry>,
}

/// Where the facts of one component and group lie.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Entry {
    pub component: u32,
    pub group: u32,
    pub offset: u64,
    pub length: u64,
    /// How many they are.
    pub count: u64,
    pub digest: u64,
}

/// Writes a snapshot.
pub(crate) struct SnapshotWriter {
    store: Arc<dyn CheckpointStore>,
    name: String,
    file: Box<dyn StoreFile>,
    snapshot: SnapshotRef,
    compression: Compression,
    waiting: Vec<u8>,
    written: u64,
    index: Index,
}

impl SnapshotWriter {
    /// A new snapshot as of `frontier`, which is not 0.
    pub(crate) fn create(
        store: Arc<dyn CheckpointStore>,
        job: &str,
        (generation, number): (u64, u32),
        frontier: u64,
        compression: Compression,
    ) -> Result<Self, Error> {
        let name = snapshot_name(generation, number);
        let file = store.append_new(&name).map_err(|error| Error::Io {
            action: "create",
            file: store.describe(&name),
            error,
        })?;
        let mut waiting = Vec::new();
        let head = Head { magic: SNAPSHOT, version: VERSION, generation, process: 0, number, job: job.to_owned() };
        record::write_head(&mut waiting, &head);
        let snapshot = SnapshotRef { generation, number, length: 0, frontier };
        let index = Index { frontier, entries: Vec::new() };
        Ok(SnapshotWriter { store, name, file, snapshot, compression, waiting, written: 0, index })
    }

    /// Facts of one group, behind those of all lesser components and groups and lesser keys of its own.
    pub(crate) fn put(&mut self, component: u32, group: u32, block: &Block<u64>) -> Result<(), Error> {
        let offset = self.written + self.waiting.len() as u64;
        record::write_facts(&mut self.waiting, component, block, self.compression);
        let length = self.written + self.waiting.len() as u64 - offset;
        let digest = record::digest(component, block.time, &block.bytes())
            .map_err(|error| Error::damaged(self.store.describe(&self.name), offset, error.to_string()))?;
        let digest = digest.iter().fold(0u64, |sum, (_, digest)| sum.wrapping_add(*digest));
        match self.index.entries.last_mut() {
            Some(last) if (last.component, last.group) == (component, group) => {
                last.length += length;
                last.count += block.count;
                last.digest = last.digest.wrapping_add(digest);
            }
            _ => self.index.entries.push(Entry { component, group, offset, length, count: block.count, digest }),
        }
        if self.waiting.len() >= PART { self.flush() } else { Ok(()) }
    }

    fn flush(&mut self) -> Result<(), Error> {
        step("snapshot.write", || self.file.append(&self.waiting)).map_err(|error| self.failed("write", error))?;
        self.written += self.waiting.len() as u64;
        self.waiting.clear();
        Ok(())
    }

    fn failed(&self, action: &'static str, error: io::Error) -> Error {
        Error::Io { action, file: self.store.describe(&self.name), error }
    }

    /// Makes the snapshot whole and durable.
    pub(crate) fn finish(mut self) -> Result<SnapshotRef, Error> {
        let at = (self.written + self.waiting.len() as u64).to_le_bytes();
        let index = postcard::to_allocvec(&self.index).expect("numbers can always be encoded");
        record::write_index(&mut self.waiting, &index);
        self.waiting.extend_from_slice(&at);
        self.waiting.extend_from_slice(&crc32c::crc32c(&at).to_le_bytes());
        self.flush()?;
        step("snapshot.sync", || self.file.sync()).map_err(|error| self.failed("sync", error))?;
        Ok(SnapshotRef { length: self.written, ..self.snapshot })
    }
}

/// The index of a snapshot, and where it begins.
fn index(store: &dyn CheckpointStore, snapshot: &SnapshotRef) -> Result<(Index, u64), Error> {
    let name = snapshot.name();
    let file = || store.describe(&name);
    let end = snapshot.length.checked_sub(TRAILER).ok_or_else(|| Error::damaged(file(), 0, "it is too short"))?;
    let trailer = store.read_range(&name, end, TRAILER as usize).map_err(|error| match error.kind() {
        io::ErrorKind::NotFound => Error::damaged(file(), 0, "it is missing"),
        io::ErrorKind::UnexpectedEof => {
            Error::damaged(file(), end, format!("it ends before its length of {} bytes", snapshot.length))
        }
        _ => Error::Io { action: "read", file: file(), error },
    })?;
    let (at, sum) = trailer.split_at(8);
    if crc32c::crc32c(at).to_le_bytes() != *sum {
        return Err(Error::damaged(file(), end, "the checksum of its trailer is wrong"));
    }
    let at = at.try_into().map_or(u64::MAX, u64::from_le_bytes);
    if at >= end {
        return Err(Error::damaged(file(), end, "its index would be behind its end"));
    }
    let mut records = Records::range(store, &name, at..end);
    let Some((_, RecordRef::Index(bytes))) = records.next()? else {
        return Err(Error::damaged(file(), at, "there is no index"));
    };
    let index: Index = postcard::from_bytes(bytes)
        .map_err(|error| Error::damaged(file(), at, format!("the index cannot be decoded: {error}")))?;
    let sorted = index.entries.is_sorted_by(|a, b| (a.component, a.group, a.offset) < (b.component, b.group, b.offset));
    if !sorted || index.frontier != snapshot.frontier {
        return Err(Error::damaged(file(), at, "the index is that of another snapshot"));
    }
    Ok((index, at))
}

/// Bytes of each component and group, ascending.
pub(crate) fn sizes(store: &dyn CheckpointStore, snapshot: &SnapshotRef) -> Result<Vec<(Place, u64)>, Error> {
    let (index, _) = index(store, snapshot)?;
    Ok(index.entries.iter().map(|entry| ((entry.component, entry.group), entry.length)).collect())
}

/// Hands out the blocks of components and groups in a range of pairs, ascending.
pub(crate) fn blocks(
    store: &dyn CheckpointStore,
    snapshot: &SnapshotRef,
    wanted: Range<Place>,
    each: &mut dyn FnMut(Found<'_>) -> Result<(), Error>,
) -> Result<(), Error> {
    let name = snapshot.name();
    let (index, at) = index(store, snapshot)?;
    let mut entries = index.entries.iter().filter(|entry| wanted.contains(&(entry.component, entry.group)));
    let Some(first) = entries.next() else {
        return Ok(());
    };
    let last = entries.next_back().unwrap_or(first);
    let end = last.offset.saturating_add(last.length);
    if end > at {
        return Err(Error::damaged(store.describe(&name), at, "an entry of the index leads behind the facts"));
    }
    facts(store, &name, first.offset..end, each)
}

fn facts(
    store: &dyn CheckpointStore,
    name: &str,
    range: Range<u64>,
    each: &mut dyn FnMut(Found<'_>) -> Result<(), Error>,
) -> Result<(), Error> {
    let file = || store.describe(name);
    let mut records = Records::range(store, name, range);
    while let Some((offset, record)) = records.next()? {
        let RecordRef::Facts(facts) = record else {
            return Err(Error::damaged(file(), offset, "a record of this kind has no place among facts"));
        };
        let block = facts.block().map_err(|why| Error::damaged(file(), offset, why))?;
        each(Found { component: facts.component, epoch: facts.epoch, block, file: &file, offset })?;
    }
    Ok(())
}

/// Whether every byte is as it was written and the index tells the truth.
pub(crate) fn check(store: &dyn CheckpointStore, job: &str, snapshot: &SnapshotRef) -> Result<(), Error> {
    let name = snapshot.name();
    let (index, at) = index(store, snapshot)?;
    let mut records = Records::range(store, &name, 0..at);
    let SnapshotRef { generation, number, .. } = *snapshot;
    let wanted = Head { magic: SNAPSHOT, version: VERSION, generation, process: 0, number, job: job.to_owned() };
    let start = match records.next()? {
        Some((_, head)) => check_head(head, &wanted, || store.describe(&name)).map(|()| records.at())?,
        None => return Err(Error::damaged(store.describe(&name), 0, "it does not begin with a head")),
    };
    let mut found: Vec<Entry> = Vec::new();
    let mut count = 0;
    facts(store, &name, start..at, &mut |block| {
        for (group, digest) in
            record::digest(block.component, block.epoch, &block.block).map_err(|error| block.damaged(error))?
        {
            let component = block.component;
            if found.last().is_none_or(|last| (last.component, last.group) != (component, group)) {
                found.push(Entry { component, group, offset: block.offset, length: 0, count: 0, digest: 0 });
            }
            if let Some(last) = found.last_mut() {
                last.digest = last.digest.wrapping_add(digest);
            }
        }
        crate::fact::facts(&block.block, 0..u32::MAX, &mut |_| count += 1).map_err(|error| block.damaged(error))?;
        Ok(())
    })?;
    let same = found.len() == index.entries.len()
        && found.iter().zip(&index.entries).all(|(found, entry)| {
            (found.component, found.group, found.offset, found.digest)
                == (entry.component, entry.group, entry.offset, entry.digest)
        })
        && index.entries.iter().map(|entry| entry.count).sum::<u64>() == count;
    if same { Ok(()) } else { Err(Error::damaged(store.describe(&name), at, "the facts are not those of the index")) }
}
