//! Records: the bytes of which logs and snapshots are made.
//!
//! ```text
//! record  := length:u32le crc32c:u32le kind:u8 payload       length of kind and payload; CRC of length, kind, payload
//! 1 head  := magic[8] version:u32le generation:u64le process:u32le number:u32le job
//! 2 facts := component:u32le epoch:u64le count:u64le flags:u8 block        flags 1: raw length:u32le, then LZ4
//! 3 note  := component:u32le group:u32le epoch:u64le length:u32le key bytes   of the journal
//! 5 blob  := number:u32le length:u64le, then as a note without bytes       those are in a file beside the log
//! 4 index := an index of a snapshot, its last record
//! ```
//!
//! # Invariants
//! - A record that does not end within the bytes, or whose checksum is wrong, is never taken for one.
//! - No byte of a file is outside of a checksum.

use crate::fact::{Block, BlockError, sections};
use crate::journal::Note;

/// The version of logs and snapshots that this program writes; it reads all up to it.
pub const VERSION: u32 = 1;
/// The first bytes of a log's first record.
pub(crate) const LOG: [u8; 8] = *b"TA\x00log\r\n";
/// The first bytes of a snapshot's first record.
pub(crate) const SNAPSHOT: [u8; 8] = *b"TA\x00base\n";
/// What stands before kind and payload.
pub(crate) const FRAME: usize = 8;
/// No record is longer; a length beyond it is damage.
pub(crate) const LONGEST: u32 = 1 << 30;

const HEAD: u8 = 1;
const FACTS: u8 = 2;
const NOTE: u8 = 3;
const INDEX: u8 = 4;
const BLOB: u8 = 5;
const COMPRESSED: u8 = 1;

/// What a log stores.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Record {
    /// Facts of an epoch; far less than 1 GiB of them.
    Facts {
        /// The component's number.
        component: u32,
        /// The facts.
        block: Block<u64>,
    },
    /// An entry of the journal.
    Note(Note),
    /// One whose bytes are in a file of their own, beside the log.
    Blob {
        /// The note, without its bytes.
        note: Note,
        /// The file's number.
        blob: u32,
        /// How long it is.
        length: u64,
    },
}

/// Whether blocks are compressed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Compression {
    /// They are not.
    #[default]
    None,
    /// By LZ4, where that makes them smaller.
    Lz4,
}

/// What a file says of itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Head {
    pub magic: [u8; 8],
    pub version: u32,
    pub generation: u64,
    pub process: u32,
    /// The segment or snapshot, among those of generation and process.
    pub number: u32,
    pub job: String,
}

/// A record as it lies in a file.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum RecordRef<'a> {
    Head(Head),
    Facts(FactsRef<'a>),
    Note(NoteRef<'a>),
    Blob { note: NoteRef<'a>, blob: u32, length: u64 },
    Index(&'a [u8]),
}

/// A note as it lies in a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct NoteRef<'a> {
    component: u32,
    group: u32,
    pub epoch: u64,
    key: &'a [u8],
    bytes: &'a [u8],
}

impl NoteRef<'_> {
    /// It as it was put.
    pub(crate) fn to_note(self) -> Note {
        self.with_bytes(self.bytes.to_vec())
    }

    /// The same with bytes that lie elsewhere.
    pub(crate) fn with_bytes(self, bytes: Vec<u8>) -> Note {
        let NoteRef { component, group, epoch, key, .. } = self;
        Note { component, group, epoch, key: key.to_vec(), bytes }
    }
}

/// Facts as they lie in a file.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct FactsRef<'a> {
    pub component: u32,
    pub epoch: u64,
    pub count: u64,
    flags: u8,
    stored: &'a [u8],
}

impl FactsRef<'_> {
    /// The block.
    pub(crate) fn block(&self) -> Result<std::borrow::Cow<'_, [u8]>, String> {
        if self.flags & COMPRESSED == 0 {
            return Ok(self.stored.into());
        }
        let (length, bytes) = self.stored.split_first_chunk().ok_or("a compressed block has no length")?;
        let length = u32::from_le_bytes(*length);
        if length > LONGEST {
            return Err(format!("a compressed block would be {length} bytes long"));
        }
        let block = lz4_flex::block::decompress(bytes, length as usize).map_err(|error| error.to_string())?;
        if block.len() == length as usize { Ok(block.into()) } else { Err("a compressed block is too short".into()) }
    }
}

/// Why bytes are no record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum NoRecord {
    /// They end before it does: a torn tail, if nothing was promised to be there.
    Short,
    /// They are something else.
    Damaged(&'static str),
}

/// Puts a frame around what `payload` writes.
fn frame(out: &mut Vec<u8>, kind: u8, payload: impl FnOnce(&mut Vec<u8>)) {
    let start = out.len();
    out.extend_from_slice(&[0; FRAME]);
    out.push(kind);
    payload(out);
    let length = u32::try_from(out.len() - start - FRAME).ok().filter(|length| *length <= LONGEST);
    let length = length.expect("a record is at most 1 GiB long").to_le_bytes();
    out[start..start + 4].copy_from_slice(&length);
    let sum = crc32c::crc32c_append(crc32c::crc32c(&length), &out[start + FRAME..]);
    out[start + 4..start + FRAME].copy_from_slice(&sum.to_le_bytes());
}

pub(crate) fn write_head(out: &mut Vec<u8>, head: &Head) {
    frame(out, HEAD, |out| {
        out.extend_from_slice(&head.magic);
        out.extend_from_slice(&head.version.to_le_bytes());
        out.extend_from_slice(&head.generation.to_le_bytes());
        out.extend_from_slice(&head.process.to_le_bytes());
        out.extend_from_slice(&head.number.to_le_bytes());
        out.extend_from_slice(head.job.as_bytes());
    });
}

pub(crate) fn write_facts(out: &mut Vec<u8>, component: u32, block: &Block<u64>, compression: Compression) {
    let bytes = &*block.bytes();
    frame(out, FACTS, |out| {
        out.extend_from_slice(&component.to_le_bytes());
        out.extend_from_slice(&block.time.to_le_bytes());
        out.extend_from_slice(&block.count.to_le_bytes());
        if compression == Compression::Lz4 {
            let compressed = lz4_flex::block::compress(bytes);
            if compressed.len() + 4 < bytes.len() {
                out.push(COMPRESSED);
                out.extend_from_slice(&(bytes.len() as u32).to_le_bytes());
                out.extend_from_slice(&compressed);
                return;
            }
        }
        out.push(0);
        out.extend_from_slice(bytes);
    });
}

pub(crate) fn write_index(out: &mut Vec<u8>, index: &[u8]) {
    frame(out, INDEX, |out| out.extend_from_slice(index));
}

pub(crate) fn write(out: &mut Vec<u8>, record: &Record, compression: Compression) {
    match record {
        Record::Facts { component, block } => write_facts(out, *component, block, compression),
        Record::Blob { note, blob, length } => frame(out, BLOB, |out| {
            out.extend_from_slice(&blob.to_le_bytes());
            out.extend_from_slice(&length.to_le_bytes());
            write_note(out, note);
        }),
        Record::Note(note) => frame(out, NOTE, |out| write_note(out, note)),
    }
}

fn write_note(out: &mut Vec<u8>, note: &Note) {
    out.extend_from_slice(&note.component.to_le_bytes());
    out.extend_from_slice(&note.group.to_le_bytes());
    out.extend_from_slice(&note.epoch.to_le_bytes());
    out.extend_from_slice(&(note.key.len() as u32).to_le_bytes());
    out.extend_from_slice(&note.key);
    out.extend_from_slice(&note.bytes);
}

/// How long the record is, frame included, that begins with these bytes.
pub(crate) fn length(frame: [u8; FRAME]) -> Result<usize, NoRecord> {
    match u32::from_le_bytes([frame[0], frame[1], frame[2], frame[3]]) {
        0 => Err(NoRecord::Damaged("a record has no length")),
        length if length > LONGEST => Err(NoRecord::Damaged("a record is too long")),
        length => Ok(FRAME + length as usize),
    }
}

/// The first record of `bytes`, and how long it is.
pub(crate) fn read(bytes: &[u8]) -> Result<(RecordRef<'_>, usize), NoRecord> {
    let length = length(*bytes.first_chunk().ok_or(NoRecord::Short)?)?;
    let record = bytes.get(..length).ok_or(NoRecord::Short)?;
    let sum = u32::from_le_bytes([record[4], record[5], record[6], record[7]]);
    if crc32c::crc32c_append(crc32c::crc32c(&record[..4]), &record[FRAME..]) != sum {
        return Err(NoRecord::Damaged("the checksum of a record is wrong"));
    }
    let mut rest = Fields(&record[FRAME + 1..]);
    let read = match record[FRAME] {
        HEAD => RecordRef::Head(Head {
            magic: rest.take()?,
            version: u32::from_le_bytes(rest.take()?),
            generation: u64::from_le_bytes(rest.take()?),
            process: u32::from_le_bytes(rest.take()?),
            number: u32::from_le_bytes(rest.take()?),
            job: String::from_utf8(rest.0.to_vec()).map_err(|_| NoRecord::Damaged("the name of a job is no text"))?,
        }),
        FACTS => RecordRef::Facts(FactsRef {
            component: u32::from_le_bytes(rest.take()?),
            epoch: u64::from_le_bytes(rest.take()?),
            count: u64::from_le_bytes(rest.take()?),
            flags: rest.take::<1>()?[0],
            stored: rest.0,
        }),
        kind @ (NOTE | BLOB) => {
            let beside = match kind {
                BLOB => Some((u32::from_le_bytes(rest.take()?), u64::from_le_bytes(rest.take()?))),
                _ => None,
            };
            let component = u32::from_le_bytes(rest.take()?);
            let group = u32::from_le_bytes(rest.take()?);
            let epoch = u64::from_le_bytes(rest.take()?);
            let length = u32::from_le_bytes(rest.take()?) as usize;
            let (key, bytes) =
                rest.0.split_at_checked(length).ok_or(NoRecord::Damaged("a note ends within its key"))?;
            let note = NoteRef { component, group, epoch, key, bytes };
            match beside {
                Some((blob, length)) => RecordRef::Blob { note, blob, length },
                None => RecordRef::Note(note),
            }
        }
        INDEX => RecordRef::Index(rest.0),
        _ => return Err(NoRecord::Damaged("a record is of an unknown kind")),
    };
    Ok((read, length))
}

struct Fields<'a>(&'a [u8]);

impl Fields<'_> {
    fn take<const N: usize>(&mut self) -> Result<[u8; N], NoRecord> {
        let (field, rest) = self.0.split_first_chunk().ok_or(NoRecord::Damaged("a record lacks fields"))?;
        self.0 = rest;
        Ok(*field)
    }
}

/// What the facts of a block add to the digests of their groups.
///
/// A group's digest is the wrapping sum of the hashes of its sections, each over component, epoch, group and bytes. So
/// it does not depend on the order in which sections came or on who wrote them.
///
/// # Errors
/// The bytes are no block.
pub fn digest(component: u32, epoch: u64, block: &[u8]) -> Result<Vec<(u32, u64)>, BlockError> {
    let hash = |section: crate::fact::Section<'_>| {
        let mut hasher = xxhash_rust::xxh3::Xxh3::new();
        hasher.update(&component.to_le_bytes());
        hasher.update(&epoch.to_le_bytes());
        hasher.update(&section.group.to_le_bytes());
        hasher.update(section.bytes);
        (section.group, hasher.digest())
    };
    Ok(sections(block)?.into_iter().map(hash).collect())
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::fact::{BlockWriter, What};

    /// A block of single facts: group, key, value.
    pub(crate) fn block(epoch: u64, facts: &[(u32, &str, Option<&str>)]) -> Block<u64> {
        let mut writer = BlockWriter::default();
        for (group, key, value) in facts {
            let encode = |bytes: &mut Vec<u8>| bytes.extend_from_slice(key.as_bytes());
            writer.key(*group, &epoch, encode, |facts| match value {
                Some(value) => facts.put_bytes(&What::Slot(1), value.as_bytes()),
                None => facts.retire(&What::Slot(1)),
            });
        }
        let mut made = None;
        writer.finish(true, &mut |block| made = Some(block));
        made.unwrap_or_else(|| Block::empty(epoch))
    }

    fn samples() -> Vec<Vec<u8>> {
        let head = Head { magic: LOG, version: VERSION, generation: 3, process: 1, number: 2, job: "job".into() };
        let block = block(7, &[(1, "a", Some(&"x".repeat(100))), (2, "b", None)]);
        let note = Note { component: 1, group: 2, epoch: 3, key: b"key".to_vec(), bytes: b"note".to_vec() };
        let noted = Record::Note(note.clone());
        let mut all = vec![Vec::new(); 5];
        write_head(&mut all[0], &head);
        write_facts(&mut all[1], 4, &block, Compression::None);
        write_facts(&mut all[2], 4, &block, Compression::Lz4);
        write(&mut all[3], &noted, Compression::None);
        write_index(&mut all[4], b"index");
        let RecordRef::Head(read_head) = read(&all[0]).unwrap().0 else { panic!() };
        assert_eq!(read_head, head);
        for facts in &all[1..3] {
            let (RecordRef::Facts(facts), _) = read(facts).unwrap() else { panic!() };
            assert_eq!((facts.component, facts.epoch, facts.count), (4, 7, 2));
            assert_eq!(facts.block().unwrap(), block.bytes());
        }
        assert!(all[2].len() < all[1].len());
        let RecordRef::Note(read_note) = read(&all[3]).unwrap().0 else { panic!() };
        assert_eq!(read_note.to_note(), note);
        assert_eq!(read(&all[4]).unwrap().0, RecordRef::Index(b"index"));
        all
    }

    #[test]
    fn records_come_back_as_they_were_written() {
        for record in samples() {
            let mut longer = record.clone();
            longer.extend_from_slice(b"next");
            assert_eq!(read(&longer).unwrap().1, record.len());
        }
    }

    #[test]
    fn a_cut_or_changed_record_is_none() {
        for record in samples() {
            for cut in 0..record.len() {
                assert_eq!(read(&record[..cut]), Err(NoRecord::Short));
            }
            for at in 0..record.len() * 8 {
                let mut changed = record.clone();
                changed[at / 8] ^= 1 << (at % 8);
                assert!(read(&changed).is_err());
            }
        }
        assert_eq!(read(&[0; 64]), Err(NoRecord::Damaged("a record has no length")));
    }

    #[test]
    fn a_digest_changes_with_all_that_it_covers() {
        let facts = block(7, &[(1, "a", Some("1")), (2, "b", None)]).bytes().into_owned();
        let digests = digest(4, 7, &facts).unwrap();
        assert_eq!(digests.iter().map(|(group, _)| *group).collect::<Vec<_>>(), [1, 2]);
        assert_eq!(digests[0].1, 1_325_631_684_826_105_888, "digests are stored, so they stay as they are");
        for other in
            [digest(5, 7, &facts), digest(4, 8, &facts), digest(4, 7, &block(7, &[(1, "a", Some("2"))]).bytes())]
        {
            assert_ne!(other.unwrap()[0].1, digests[0].1);
        }
    }
}
