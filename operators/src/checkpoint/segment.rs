//! One segment of a log, read.
//!
//! # Invariants
//! - Nothing beyond the length that the caller names is looked at, and all before it has to be there and whole: what a
//!   manifest counts on is never read as a torn tail.
//! - Memory is bounded by the longest record, and what damaged bytes claim to be long is not reserved.

use std::io;
use std::ops::Range;

use super::chain::Bound;
use super::error::Error;
use super::record::{self, FRAME, FactsRef, Head, LOG, NoRecord, NoteRef, RecordRef, VERSION};
use super::store::CheckpointStore;
use crate::journal::Note;

/// Segments of journals are those of this process number and greater ones.
pub(crate) const JOURNAL: u32 = 1 << 16;
/// Bytes that are read at once.
const PART: usize = 1 << 20;

/// The name of a segment.
pub(crate) fn name(generation: u64, process: u32, segment: u32) -> String {
    format!("log/{generation:010}-{process:05}-{segment:08}")
}

/// The name of a file beside a segment, with the bytes of a note that are too long for it.
pub(crate) fn blob_name(generation: u64, process: u32, segment: u32, blob: u32) -> String {
    format!("blob/{generation:010}-{process:05}-{segment:08}-{blob:08}")
}

/// The names of all files beside a segment.
pub(crate) fn blobs(store: &dyn CheckpointStore, segment: &str) -> Result<Vec<String>, Error> {
    let prefix = segment.replacen("log/", "blob/", 1) + "-";
    let listed = store.list("blob");
    let listed = listed.map_err(|error| Error::Io { action: "list", file: store.describe("blob"), error })?;
    Ok(listed.into_iter().map(|(name, _)| name).filter(|name| name.starts_with(&prefix)).collect())
}

/// What a name says, if it is one of a segment.
pub(crate) fn parse(name: &str) -> Option<(u64, u32, u32)> {
    let mut parts = name.strip_prefix("log/")?.split('-');
    let parsed = (parts.next()?.parse().ok()?, parts.next()?.parse().ok()?, parts.next()?.parse().ok()?);
    (self::name(parsed.0, parsed.1, parsed.2) == name).then_some(parsed)
}

/// Reads a file's records one after the other.
pub(crate) struct Records<'s> {
    store: &'s dyn CheckpointStore,
    name: &'s str,
    /// Where in the file to end.
    end: u64,
    /// Bytes of the file, from `start` on.
    bytes: Vec<u8>,
    start: u64,
    /// How many of `bytes` are behind us.
    taken: usize,
}

impl<'s> Records<'s> {
    /// All from the start of a record to the end of another.
    pub(crate) fn range(store: &'s dyn CheckpointStore, name: &'s str, range: Range<u64>) -> Self {
        Records { store, name, end: range.end, bytes: Vec::new(), start: range.start, taken: 0 }
    }

    /// Where the next record begins.
    pub(crate) fn at(&self) -> u64 {
        self.start + self.taken as u64
    }

    /// The next record and where it begins; nothing at the end.
    pub(crate) fn next(&mut self) -> Result<Option<(u64, RecordRef<'_>)>, Error> {
        let at = self.at();
        if at == self.end {
            return Ok(None);
        }
        let no_record = |no: NoRecord| {
            let why = match no {
                NoRecord::Damaged(why) => why,
                NoRecord::Short => "it ends within a record",
            };
            Error::damaged(self.store.describe(self.name), at, why)
        };
        self.fill(FRAME)?;
        let frame = self.bytes[self.taken..].first_chunk().ok_or_else(|| no_record(NoRecord::Short))?;
        let length = record::length(*frame).map_err(no_record)?;
        self.fill(length)?;
        let (record, length) = record::read(&self.bytes[self.taken..]).map_err(no_record)?;
        self.taken += length;
        Ok(Some((at, record)))
    }

    /// Has `wanted` bytes in memory, if there are so many.
    fn fill(&mut self, wanted: usize) -> Result<(), Error> {
        if self.bytes.len() - self.taken >= wanted {
            return Ok(());
        }
        self.bytes.drain(..self.taken);
        self.start += std::mem::take(&mut self.taken) as u64;
        let from = self.start + self.bytes.len() as u64;
        let more = self.end.saturating_sub(from).min((wanted - self.bytes.len()).max(PART) as u64) as usize;
        let file = || self.store.describe(self.name);
        match self.store.read_range(self.name, from, more) {
            Ok(bytes) => {
                self.bytes.extend_from_slice(&bytes);
                Ok(())
            }
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => {
                Err(Error::damaged(file(), from, format!("it ends before the {} bytes that were durable", self.end)))
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => Err(Error::damaged(file(), 0, "it is missing")),
            Err(error) => Err(Error::Io { action: "read", file: file(), error }),
        }
    }
}

/// Checks what a file says of itself.
pub(crate) fn check_head(found: RecordRef<'_>, wanted: &Head, file: impl Fn() -> String) -> Result<(), Error> {
    let RecordRef::Head(found) = found else {
        return Err(Error::damaged(file(), 0, "it does not begin with a head"));
    };
    if found.magic != wanted.magic {
        return Err(Error::damaged(file(), 0, "it is a file of another kind"));
    }
    if found.version == 0 || found.version > VERSION {
        return Err(Error::Version { file: file(), found: found.version, known: VERSION });
    }
    if found.job != wanted.job {
        return Err(Error::OtherJob { file: file(), found: found.job, job: wanted.job.clone() });
    }
    if *wanted != (Head { version: wanted.version, ..found }) {
        return Err(Error::damaged(file(), 0, "it is the file of another generation, process or number"));
    }
    Ok(())
}

/// Hands out the facts of a segment's first `length` bytes, in order, each with its place.
///
/// # Errors
/// The segment is damaged or cannot be read; or the error of `each`.
pub(crate) fn read_facts(
    store: &dyn CheckpointStore,
    job: &str,
    (generation, process, segment): (u64, u32, u32),
    length: u64,
    each: &mut dyn FnMut(u64, &FactsRef<'_>) -> Result<(), Error>,
) -> Result<(), Error> {
    let name = name(generation, process, segment);
    let mut records = Records::range(store, &name, 0..length);
    let wanted = Head { magic: LOG, version: VERSION, generation, process, number: segment, job: job.to_owned() };
    if let Some((_, head)) = records.next()? {
        check_head(head, &wanted, || store.describe(&name))?;
    }
    while let Some((at, record)) = records.next()? {
        match record {
            RecordRef::Facts(facts) => each(at, &facts)?,
            RecordRef::Note(_) | RecordRef::Blob { .. } | RecordRef::Head(_) | RecordRef::Index(_) => {
                return Err(Error::damaged(store.describe(&name), at, "a record of this kind has no place in a log"));
            }
        }
    }
    Ok(())
}

/// Hands out the notes of a segment of a journal, up to its bound or the first record that is torn.
///
/// # Errors
/// The segment is of another job or version, or cannot be read.
pub(crate) fn read_notes(
    store: &dyn CheckpointStore,
    job: &str,
    bound: &Bound,
    each: &mut dyn FnMut(Note),
) -> Result<(), Error> {
    let Bound { generation, process, segment, .. } = *bound;
    look_at_notes(store, job, bound, &mut |at, note, beside| {
        let Some((blob, length)) = beside else {
            each(note.to_note());
            return Ok(());
        };
        let blob = blob_name(generation, process, segment, blob);
        let failed = |error| Error::Io { action: "read", file: store.describe(&blob), error };
        let bytes = store.read(&blob).map_err(failed)?;
        if bytes.len() as u64 != length {
            let why = format!("it has {} bytes, and {length} by the journal at {at}", bytes.len());
            return Err(Error::damaged(store.describe(&blob), 0, why));
        }
        each(note.with_bytes(bytes));
        Ok(())
    })
}

/// The greatest epoch among the notes of a segment.
///
/// # Errors
/// As [`read_notes`].
pub(crate) fn last_epoch(store: &dyn CheckpointStore, job: &str, bound: &Bound) -> Result<Option<u64>, Error> {
    let mut last = None;
    look_at_notes(store, job, bound, &mut |_, note, _| {
        last = last.max(Some(note.epoch));
        Ok(())
    })?;
    Ok(last)
}

/// Told of a note where it lies: where that is, and the number and the length of the file that has its bytes, if one has.
type LookAtNote<'a> = dyn FnMut(u64, NoteRef<'_>, Option<(u32, u64)>) -> Result<(), Error> + 'a;

fn look_at_notes(
    store: &dyn CheckpointStore,
    job: &str,
    bound: &Bound,
    each: &mut LookAtNote<'_>,
) -> Result<(), Error> {
    let Bound { generation, process, segment, length } = *bound;
    let name = name(generation, process, segment);
    let mut records = Records::range(store, &name, 0..length);
    let wanted = Head { magic: LOG, version: VERSION, generation, process, number: segment, job: job.to_owned() };
    let mut first = true;
    loop {
        match records.next() {
            Ok(None) => return Ok(()),
            Ok(Some((_, head))) if first => check_head(head, &wanted, || store.describe(&name))?,
            Ok(Some((at, RecordRef::Note(note)))) => each(at, note, None)?,
            Ok(Some((at, RecordRef::Blob { note, blob, length }))) => each(at, note, Some((blob, length)))?,
            Ok(Some((at, _))) => {
                return Err(Error::damaged(
                    store.describe(&name),
                    at,
                    "a record of this kind has no place in a journal",
                ));
            }
            // A tail that a crash has torn was never durable.
            Err(error @ Error::Damaged { .. }) => {
                tracing::warn!(%error, "a journal ends here");
                return Ok(());
            }
            Err(error) => return Err(error),
        }
        first = false;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_segments_sort_as_their_numbers() {
        assert_eq!(name(3, 1, 22), "log/0000000003-00001-00000022");
        assert_eq!(parse(&name(3, 1, 22)), Some((3, 1, 22)));
        for other in ["log/3-1-22", "log/x", "chain/0000000003-00001-00000022"] {
            assert_eq!(parse(other), None);
        }
    }
}
