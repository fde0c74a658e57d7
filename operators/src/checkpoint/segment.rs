//! One segment of a log, read.
//!
//! # Invariants
//! - Nothing beyond the length that the caller names is looked at, and all before it has to be there and whole: what a
//!   manifest counts on is never read as a torn tail.
//! - Memory is bounded by the longest record, and what damaged bytes claim to be long is not reserved.

use super::error::Error;
use super::record::{self, FRAME, FactsRef, Head, LOG, NoRecord, RecordRef, VERSION};
use super::store::CheckpointStore;

/// Bytes that are read at once.
const PART: usize = 1 << 20;

/// The name of a segment.
pub(crate) fn name(generation: u64, process: u32, segment: u32) -> String {
    format!("log/{generation:010}-{process:05}-{segment:08}")
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
    length: u64,
    /// Bytes of the file from `at` on.
    bytes: Vec<u8>,
    at: u64,
    /// How much of `bytes` the last record took.
    taken: usize,
}

impl<'s> Records<'s> {
    pub(crate) fn new(store: &'s dyn CheckpointStore, name: &'s str, length: u64) -> Self {
        Records { store, name, length, bytes: Vec::new(), at: 0, taken: 0 }
    }

    /// The next record and where it begins; nothing at the end.
    pub(crate) fn next(&mut self) -> Result<Option<(u64, RecordRef<'_>)>, Error> {
        self.bytes.drain(..self.taken);
        self.at += std::mem::take(&mut self.taken) as u64;
        if self.at == self.length {
            return Ok(None);
        }
        self.fill(FRAME)?;
        let damaged = |at, why| Error::damaged(self.store.describe(self.name), at, why);
        let Some(frame) = self.bytes.first_chunk() else {
            return Err(damaged(self.at, "it ends within a record"));
        };
        let length = match record::length(*frame) {
            Ok(length) => length,
            Err(NoRecord::Damaged(why)) => return Err(damaged(self.at, why)),
            Err(NoRecord::Short) => return Err(damaged(self.at, "it ends within a record")),
        };
        self.fill(length)?;
        match record::read(&self.bytes) {
            Ok((record, length)) => {
                self.taken = length;
                Ok(Some((self.at, record)))
            }
            Err(NoRecord::Damaged(why)) => Err(Error::damaged(self.store.describe(self.name), self.at, why)),
            Err(NoRecord::Short) => {
                Err(Error::damaged(self.store.describe(self.name), self.at, "it ends within a record"))
            }
        }
    }

    /// Has `wanted` bytes in memory, if the file is so long.
    fn fill(&mut self, wanted: usize) -> Result<(), Error> {
        if self.bytes.len() >= wanted {
            return Ok(());
        }
        let end = self.at + self.bytes.len() as u64;
        let more = (self.length.saturating_sub(end)).min((wanted - self.bytes.len()).max(PART) as u64) as usize;
        match self.store.read_range(self.name, end, more) {
            Ok(bytes) => {
                self.bytes.extend_from_slice(&bytes);
                Ok(())
            }
            Err(error) if error.kind() == std::io::ErrorKind::UnexpectedEof => Err(Error::damaged(
                self.store.describe(self.name),
                end,
                format!("it ends before its length of {} bytes", self.length),
            )),
            Err(error) => Err(Error::Io { action: "read", file: self.store.describe(self.name), error }),
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
    let mut records = Records::new(store, &name, length);
    let wanted = Head { magic: LOG, version: VERSION, generation, process, number: segment, job: job.to_owned() };
    if let Some((_, head)) = records.next()? {
        check_head(head, &wanted, || store.describe(&name))?;
    }
    while let Some((at, record)) = records.next()? {
        match record {
            RecordRef::Facts(facts) => each(at, &facts)?,
            RecordRef::Note => {}
            RecordRef::Head(_) | RecordRef::Index(_) => {
                return Err(Error::damaged(store.describe(&name), at, "a record of this kind has no place in a log"));
            }
        }
    }
    Ok(())
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
