//! Many facts as bytes: how they travel, and what a log keeps.

use std::ops::Range;

use serde::Serialize;

use super::{Fact, What};

/// Facts of one time, encoded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Block<T> {
    /// Since when they hold.
    pub time: T,
    /// How many there are.
    pub count: u64,
    /// See [`fact`](super).
    pub bytes: Vec<u8>,
}

impl<T: Clone> Block<T> {
    /// Its facts, one by one.
    ///
    /// # Errors
    /// The bytes are no block.
    pub fn facts(&self) -> Result<Vec<Fact<T>>, BlockError> {
        let mut all = Vec::new();
        facts(&self.bytes, 0..u32::MAX, &mut |fact| {
            all.push(Fact {
                group: fact.group,
                key: fact.key.to_vec(),
                what: fact.what,
                value: fact.value.map(<[u8]>::to_vec),
                time: self.time.clone(),
            });
        })?;
        Ok(all)
    }
}

/// One fact inside a block.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FactRef<'a> {
    /// The key's group.
    pub group: u32,
    /// The key, encoded.
    pub key: &'a [u8],
    /// What of the key.
    pub what: What,
    /// Its value, encoded; `None` when it is gone.
    pub value: Option<&'a [u8]>,
}

/// The facts of one group inside a block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Section<'a> {
    /// The group.
    pub group: u32,
    /// Its keys, encoded.
    pub bytes: &'a [u8],
}

/// Bytes are no block.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the bytes at offset {offset} are no facts: {why}")]
pub struct BlockError {
    /// Where, from the start of the block.
    pub offset: usize,
    /// What is wrong.
    pub why: &'static str,
}

const SEQUENCE: u8 = 1;
const SLOT: u8 = 2;
const PATH: u8 = 3;
const NOTIFICATION: u8 = 4;
const WAITING: u8 = 5;
const RUN: u8 = 6;
const ENTRY: u8 = 7;
const ROW: u8 = 8;
/// Behind the last fact of a key.
const END_OF_KEY: u8 = 0;

/// Writes a block: groups ascend, the facts of a key stand together.
#[derive(Debug, Default)]
pub struct BlockWriter {
    bytes: Vec<u8>,
    count: u64,
    /// The group that is open, and where its length stands.
    section: Option<(u32, usize)>,
    /// Whether the current key has facts.
    opened: bool,
    group: u32,
    key: Vec<u8>,
}

impl BlockWriter {
    /// Facts of this key come next. It costs nothing if none do.
    pub fn key(&mut self, group: u32, encode: impl FnOnce(&mut Vec<u8>)) {
        self.end_key();
        debug_assert!(self.section.is_none_or(|(last, _)| last <= group), "groups ascend");
        self.group = group;
        self.key.clear();
        encode(&mut self.key);
    }

    /// The key's `what` is `value` from now on.
    ///
    /// # Errors
    /// The value cannot be encoded; it is left out.
    pub fn put<V: Serialize + ?Sized>(&mut self, what: &What, value: &V) -> Result<(), postcard::Error> {
        let before = (self.bytes.len(), self.section, self.opened);
        self.open_fact(what);
        let at = self.bytes.len();
        self.bytes.push(0);
        match postcard::to_extend(value, std::mem::take(&mut self.bytes)) {
            Ok(bytes) => self.bytes = bytes,
            Err(error) => {
                // What was encoded so far is gone with the buffer: a value that cannot be encoded ends the job.
                self.bytes.truncate(before.0);
                (self.section, self.opened) = (before.1, before.2);
                return Err(error);
            }
        }
        self.end_value(at);
        Ok(())
    }

    /// The key's `what` has these bytes for its value.
    pub fn put_bytes(&mut self, what: &What, value: &[u8]) {
        self.open_fact(what);
        let at = self.bytes.len();
        self.bytes.push(0);
        self.bytes.extend_from_slice(value);
        self.end_value(at);
    }

    /// The key's `what` is gone.
    pub fn retire(&mut self, what: &What) {
        self.open_fact(what);
        self.bytes.push(0);
        self.count += 1;
    }

    /// How many facts there are.
    pub fn count(&self) -> u64 {
        self.count
    }

    /// How many bytes there are.
    pub fn len(&self) -> usize {
        self.bytes.len()
    }

    /// Whether there is no fact.
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// What was written; the writer is as new.
    pub fn finish<T>(&mut self, time: T) -> Block<T> {
        self.end_key();
        self.end_section();
        Block { time, count: std::mem::take(&mut self.count), bytes: std::mem::take(&mut self.bytes) }
    }

    /// Writes all that comes before a value.
    fn open_fact(&mut self, what: &What) {
        if !self.opened {
            self.opened = true;
            if self.section.is_none_or(|(group, _)| group != self.group) {
                self.end_section();
                varint(&mut self.bytes, u64::from(self.group));
                self.section = Some((self.group, self.bytes.len()));
                self.bytes.extend_from_slice(&[0; 4]);
            }
            varint(&mut self.bytes, self.key.len() as u64);
            self.bytes.extend_from_slice(&self.key);
        }
        let bytes = &mut self.bytes;
        match what {
            What::Sequence => bytes.push(SEQUENCE),
            What::Slot(id) => {
                bytes.push(SLOT);
                bytes.extend_from_slice(&id.to_le_bytes());
            }
            What::Path(path) => {
                bytes.push(PATH);
                varint(bytes, path.len() as u64);
                bytes.extend_from_slice(path.as_bytes());
            }
            What::Notification(n) => tagged(bytes, NOTIFICATION, *n),
            What::Waiting(n) => tagged(bytes, WAITING, *n),
            What::Run => bytes.push(RUN),
            What::Entry(n) => tagged(bytes, ENTRY, *n),
            What::Row => bytes.push(ROW),
        }
    }

    /// Puts the length of the value that was written behind `at` in its place.
    fn end_value(&mut self, at: usize) {
        let length = (self.bytes.len() - at) as u64;
        if length < 0x80 {
            self.bytes[at] = length as u8;
        } else {
            let mut prefix = Vec::with_capacity(5);
            varint(&mut prefix, length);
            self.bytes.splice(at..=at, prefix);
        }
        self.count += 1;
    }

    fn end_key(&mut self) {
        if std::mem::take(&mut self.opened) {
            self.bytes.push(END_OF_KEY);
        }
    }

    fn end_section(&mut self) {
        if let Some((_, at)) = self.section.take() {
            let length = u32::try_from(self.bytes.len() - at - 4).expect("a block is far below 4 GiB");
            self.bytes[at..at + 4].copy_from_slice(&length.to_le_bytes());
        }
    }
}

fn tagged(bytes: &mut Vec<u8>, tag: u8, n: u64) {
    bytes.push(tag);
    varint(bytes, n);
}

fn varint(bytes: &mut Vec<u8>, mut n: u64) {
    while n >= 0x80 {
        bytes.push(n as u8 | 0x80);
        n >>= 7;
    }
    bytes.push(n as u8);
}

/// The sections of a block, without a look at the facts inside.
///
/// # Errors
/// The bytes are no block.
pub fn sections(block: &[u8]) -> Result<Vec<Section<'_>>, BlockError> {
    let mut cursor = Cursor { bytes: block, at: 0 };
    let mut found: Vec<Section<'_>> = Vec::new();
    while cursor.at < block.len() {
        let group = u32::try_from(cursor.varint()?).map_err(|_| cursor.wrong("a group is too large"))?;
        if found.last().is_some_and(|last| last.group >= group) {
            return Err(cursor.wrong("groups do not ascend"));
        }
        let length = cursor.take(4)?;
        let length = u32::from_le_bytes([length[0], length[1], length[2], length[3]]);
        found.push(Section { group, bytes: cursor.take(length as usize)? });
    }
    Ok(found)
}

/// The facts of a block whose groups are in `groups`, in order.
///
/// # Errors
/// The bytes are no block.
pub fn facts<'a>(block: &'a [u8], groups: Range<u32>, each: &mut impl FnMut(FactRef<'a>)) -> Result<(), BlockError> {
    for Section { group, bytes } in sections(block)?.into_iter().filter(|s| groups.contains(&s.group)) {
        let mut cursor = Cursor { bytes, at: 0 };
        while cursor.at < bytes.len() {
            let key = cursor.prefixed()?;
            while let Some(what) = cursor.what()? {
                let value = match cursor.varint()? {
                    0 => None,
                    n => Some(cursor.take(usize::try_from(n - 1).map_err(|_| cursor.wrong("a value is too long"))?)?),
                };
                each(FactRef { group, key, what, value });
            }
        }
    }
    Ok(())
}

struct Cursor<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Cursor<'a> {
    fn wrong(&self, why: &'static str) -> BlockError {
        BlockError { offset: self.at, why }
    }

    fn take(&mut self, n: usize) -> Result<&'a [u8], BlockError> {
        let end = self.at.checked_add(n).filter(|end| *end <= self.bytes.len());
        let end = end.ok_or_else(|| self.wrong("they end too early"))?;
        let taken = &self.bytes[self.at..end];
        self.at = end;
        Ok(taken)
    }

    fn varint(&mut self) -> Result<u64, BlockError> {
        let mut n = 0u64;
        for shift in (0..64).step_by(7) {
            let byte = self.take(1)?[0];
            n |= u64::from(byte & 0x7F) << shift;
            if byte & 0x80 == 0 {
                return Ok(n);
            }
        }
        Err(self.wrong("a number is too long"))
    }

    fn prefixed(&mut self) -> Result<&'a [u8], BlockError> {
        let length = usize::try_from(self.varint()?).map_err(|_| self.wrong("a length is too large"))?;
        self.take(length)
    }

    fn what(&mut self) -> Result<Option<What>, BlockError> {
        Ok(Some(match self.take(1)?[0] {
            END_OF_KEY => return Ok(None),
            SEQUENCE => What::Sequence,
            SLOT => {
                let id = self.take(4)?;
                What::Slot(u32::from_le_bytes([id[0], id[1], id[2], id[3]]))
            }
            PATH => {
                let path = self.prefixed()?;
                What::Path(String::from_utf8(path.to_vec()).map_err(|_| self.wrong("a path is no text"))?)
            }
            NOTIFICATION => What::Notification(self.varint()?),
            WAITING => What::Waiting(self.varint()?),
            RUN => What::Run,
            ENTRY => What::Entry(self.varint()?),
            ROW => What::Row,
            _ => return Err(self.wrong("an unknown kind of fact")),
        }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> Block<u64> {
        let mut writer = BlockWriter::default();
        writer.key(3, |key| key.extend_from_slice(b"a"));
        writer.put(&What::Slot(7), &300u64).unwrap();
        writer.put(&What::Path("x.y".into()), &"z".repeat(200)).unwrap();
        writer.key(3, |key| key.extend_from_slice(b"no facts"));
        writer.key(3, |key| key.extend_from_slice(b"b"));
        writer.retire(&What::Entry(900));
        writer.key(900, |key| key.extend_from_slice(b""));
        writer.put_bytes(&What::Row, b"");
        writer.finish(5)
    }

    #[test]
    fn facts_come_back_as_they_were_written() {
        let block = sample();
        assert_eq!(block.count, 4);
        let facts = block.facts().unwrap();
        let brief: Vec<_> =
            facts.iter().map(|f| (f.group, &*f.key, f.what.clone(), f.value.as_ref().map(Vec::len))).collect();
        assert_eq!(
            brief,
            [
                (3, &b"a"[..], What::Slot(7), Some(2)),
                (3, &b"a"[..], What::Path("x.y".into()), Some(202)),
                (3, &b"b"[..], What::Entry(900), None),
                (900, &b""[..], What::Row, Some(0)),
            ]
        );
        assert_eq!(sections(&block.bytes).unwrap().iter().map(|s| s.group).collect::<Vec<_>>(), [3, 900]);
    }

    #[test]
    fn a_reader_passes_over_groups_of_others() {
        let mut seen = 0;
        facts(&sample().bytes, 4..1000, &mut |fact| {
            assert_eq!(fact.group, 900);
            seen += 1;
        })
        .unwrap();
        assert_eq!(seen, 1);
    }

    #[test]
    fn cut_or_changed_bytes_never_panic() {
        let block = sample();
        for cut in 0..block.bytes.len() {
            let _ = facts(&block.bytes[..cut], 0..u32::MAX, &mut |_| {});
        }
        for at in 0..block.bytes.len() {
            for bit in 0..8 {
                let mut bytes = block.bytes.clone();
                bytes[at] ^= 1 << bit;
                let _ = facts(&bytes, 0..u32::MAX, &mut |_| {});
            }
        }
    }

    #[test]
    fn a_fact_costs_little_beside_its_key_and_value() {
        let mut writer = BlockWriter::default();
        for key in 0..1000u64 {
            writer.key((key / 10) as u32, |bytes| bytes.extend_from_slice(&key.to_le_bytes()));
            writer.put(&What::Slot(1), &key).unwrap();
        }
        let block = writer.finish(0u64);
        let values: usize = (0..1000u64).map(|n| postcard::to_allocvec(&n).unwrap().len()).sum();
        assert!((block.bytes.len() - values) / 1000 <= 18, "{} bytes for 1000 facts", block.bytes.len());
    }
}
