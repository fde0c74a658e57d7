//! Many facts as bytes: how they travel, and what a log keeps.
//!
//! Not here: how they are written (`writer`, `key`).

use std::borrow::Cow;
use std::ops::Range;

use super::arrange;
use super::column::FactColumns;
use super::{Fact, What};

/// Facts of one epoch, encoded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Block<T> {
    /// Since when they hold, or the least of their times.
    pub time: T,
    /// The time of each entry of a key, in order, where they differ. Two entries of a key are two here.
    pub times: Vec<T>,
    /// How many there are.
    pub count: u64,
    /// See [`fact`](super).
    bytes: Vec<u8>,
    /// In place of them, while their order is not made.
    loose: Option<Loose>,
}

/// Keys as they were written, and their groups.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Loose {
    columns: FactColumns,
    groups: Vec<u32>,
}

impl<T> Block<T> {
    pub(super) fn arranged(time: T, times: Vec<T>, count: u64, bytes: Vec<u8>) -> Self {
        Block { time, times, count, bytes, loose: None }
    }

    pub(super) fn loose(time: T, columns: FactColumns, groups: Vec<u32>) -> Self {
        let count = u64::from(columns.count());
        Block { time, times: Vec::new(), count, bytes: Vec::new(), loose: Some(Loose { columns, groups }) }
    }

    /// No facts.
    pub fn empty(time: T) -> Self {
        Block { time, times: Vec::new(), count: 0, bytes: Vec::new(), loose: None }
    }

    /// The same facts, all as of `epoch`.
    pub fn at(self, epoch: u64) -> Block<u64> {
        let Block { count, bytes, loose, .. } = self;
        Block { time: epoch, times: Vec::new(), count, bytes, loose }
    }

    /// Puts its keys together and in order, if they are not: some tens of nanoseconds for each.
    pub fn arrange(&mut self) {
        if let Some(Loose { columns, groups }) = self.loose.take() {
            self.bytes = arrange::by_group(&columns, &groups);
        }
    }

    /// Its bytes: see [`fact`](super). They are made anew where its keys are not in order.
    pub fn bytes(&self) -> Cow<'_, [u8]> {
        match &self.loose {
            None => Cow::Borrowed(&self.bytes),
            Some(Loose { columns, groups }) => Cow::Owned(arrange::by_group(columns, groups)),
        }
    }

    /// How many bytes its keys and facts have, without what tells of groups.
    pub fn len(&self) -> usize {
        self.loose.as_ref().map_or(self.bytes.len(), |loose| loose.columns.len() + loose.groups.len())
    }

    /// Whether there are no facts.
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }
}

impl<T: Clone> Block<T> {
    /// Its facts, one by one.
    ///
    /// # Errors
    /// The bytes are no block.
    pub fn facts(&self) -> Result<Vec<Fact<T>>, BlockError> {
        let mut all = Vec::new();
        self.each(&mut |time, fact| {
            all.push(Fact {
                group: fact.group,
                key: fact.key.to_vec(),
                what: fact.what,
                value: fact.value.map(<[u8]>::to_vec),
                time: time.clone(),
            });
        })?;
        Ok(all)
    }

    /// Hands over each fact with its time; those of a key in order, and keys by groups once these are in order.
    ///
    /// # Errors
    /// The bytes are no block.
    pub fn each<'a>(&'a self, each: &mut impl FnMut(&T, FactRef<'a>)) -> Result<(), BlockError> {
        if let Some(Loose { columns, groups }) = &self.loose {
            for (row, group) in columns.rows().into_iter().zip(groups) {
                let mut key = None;
                for (rest, length) in columns.pieces(row) {
                    let mut piece = Cursor { bytes: &rest[..length], at: 0 };
                    let key = match key {
                        Some(key) => key,
                        None => *key.insert(piece.prefixed()?),
                    };
                    while piece.at < length {
                        if let Some((what, value)) = piece.next()? {
                            each(&self.time, FactRef { group: *group, key, what, value });
                        }
                    }
                }
            }
            return Ok(());
        }
        let mut entry = 0;
        for section in sections(&self.bytes)? {
            section.entries(&mut |key, facts| {
                let time = self.times.get(entry).unwrap_or(&self.time);
                entry += 1;
                while let Some((what, value)) = facts.next()? {
                    each(time, FactRef { group: section.group, key, what, value });
                }
                Ok(())
            })?;
        }
        Ok(())
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

pub(super) const SEQUENCE: u8 = 1;
pub(super) const SLOT: u8 = 2;
pub(super) const PATH: u8 = 3;
pub(super) const NOTIFICATION: u8 = 4;
pub(super) const WAITING: u8 = 5;
pub(super) const RUN: u8 = 6;
pub(super) const ENTRY: u8 = 7;
pub(super) const ROW: u8 = 8;
pub(super) const SIGNAL: u8 = 9;
pub(super) const TIMER: u8 = 10;
pub(super) const NOTES: u8 = 11;
/// Behind the last fact of a key.
pub(super) const END_OF_KEY: u8 = 0;

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
    for section in sections(block)?.into_iter().filter(|s| groups.contains(&s.group)) {
        section.entries(&mut |key, facts| {
            while let Some((what, value)) = facts.next()? {
                each(FactRef { group: section.group, key, what, value });
            }
            Ok(())
        })?;
    }
    Ok(())
}

impl<'a> Section<'a> {
    /// Hands over each entry: a key, and its facts, which are to be read to their end.
    fn entries(
        &self,
        each: &mut impl FnMut(&'a [u8], &mut Cursor<'a>) -> Result<(), BlockError>,
    ) -> Result<(), BlockError> {
        let mut cursor = Cursor { bytes: self.bytes, at: 0 };
        while cursor.at < self.bytes.len() {
            let key = cursor.prefixed()?;
            each(key, &mut cursor)?;
        }
        Ok(())
    }
}

/// A thing of a key and its value.
type Told<'a> = (What, Option<&'a [u8]>);

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

    /// The next fact of the key.
    fn next(&mut self) -> Result<Option<Told<'a>>, BlockError> {
        let Some(what) = self.what()? else { return Ok(None) };
        let value = match self.varint()? {
            0 => None,
            n => Some(self.take(usize::try_from(n - 1).map_err(|_| self.wrong("a value is too long"))?)?),
        };
        Ok(Some((what, value)))
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
            SIGNAL => What::Signal(self.varint()?),
            TIMER => What::Timer(self.varint()?),
            NOTES => What::Notes,
            _ => return Err(self.wrong("an unknown kind of fact")),
        }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fact::BlockWriter;

    fn one(writer: &mut BlockWriter<u64>) -> Block<u64> {
        let mut blocks = Vec::new();
        writer.finish(true, &mut |block| blocks.push(block));
        blocks.pop().unwrap()
    }

    fn sample() -> Block<u64> {
        let mut writer = BlockWriter::default();
        writer.key(900, &7, |_| {}, |facts| facts.put_bytes(&What::Row, b""));
        writer.key(
            3,
            &5,
            |key| key.extend_from_slice(b"a"),
            |facts| {
                facts.put(&What::Slot(7), &300u64).unwrap();
                facts.put(&What::Path("x.y".into()), &"z".repeat(200)).unwrap();
            },
        );
        writer.key(3, &5, |key| key.extend_from_slice(b"no facts"), |_| {});
        writer.key(3, &6, |key| key.extend_from_slice(b"b"), |facts| facts.retire(&What::Entry(900)));
        writer.key(4, &8, |_| {}, |facts| facts.put_bytes(&What::Signal(1 << 32), b"s"));
        writer.key(4, &8, |_| {}, |facts| facts.put_bytes(&What::Timer(2), b"tt"));
        writer.key(4, &8, |_| {}, |facts| facts.put_bytes(&What::Notes, b"n"));
        one(&mut writer)
    }

    #[test]
    fn facts_come_back_as_they_were_written() {
        let block = sample();
        assert_eq!(block.count, 7);
        let facts = block.facts().unwrap();
        let brief: Vec<_> =
            facts.iter().map(|f| (f.time, f.group, &*f.key, f.what.clone(), f.value.as_ref().map(Vec::len))).collect();
        assert_eq!(
            brief,
            [
                (5, 3, &b"a"[..], What::Slot(7), Some(2)),
                (5, 3, &b"a"[..], What::Path("x.y".into()), Some(202)),
                (6, 3, &b"b"[..], What::Entry(900), None),
                (8, 4, &b""[..], What::Signal(1 << 32), Some(1)),
                (8, 4, &b""[..], What::Timer(2), Some(2)),
                (8, 4, &b""[..], What::Notes, Some(1)),
                (7, 900, &b""[..], What::Row, Some(0)),
            ]
        );
        assert_eq!(sections(&block.bytes()).unwrap().iter().map(|s| s.group).collect::<Vec<_>>(), [3, 4, 900]);
    }

    #[test]
    fn keys_are_read_as_well_before_they_are_in_order() {
        let mut writer = BlockWriter::default();
        for key in 0..1000u32 {
            let group = key * 7 % 100;
            writer.key(
                group,
                &4u64,
                |bytes| bytes.extend_from_slice(&key.to_le_bytes()),
                |facts| {
                    facts.put(&What::Sequence, &key).unwrap();
                },
            );
        }
        let mut block = one(&mut writer);
        let before = block.facts().unwrap();
        assert_eq!((block.count, before.len()), (1000, 1000));
        let bytes = block.bytes().into_owned();
        assert_eq!(sections(&bytes).unwrap().len(), 100, "one for each group");
        block.arrange();
        assert_eq!(block.bytes(), bytes);
        let mut after = block.facts().unwrap();
        assert!(after.is_sorted_by_key(|fact| fact.group) && !before.is_sorted_by_key(|fact| fact.group));
        after.sort_by_key(|fact| fact.key.clone());
        assert_eq!(after, {
            let mut before = before;
            before.sort_by_key(|fact| fact.key.clone());
            before
        });
    }

    #[test]
    fn a_reader_passes_over_groups_of_others() {
        let mut seen = 0;
        facts(&sample().bytes(), 5..1000, &mut |fact| {
            assert_eq!(fact.group, 900);
            seen += 1;
        })
        .unwrap();
        assert_eq!(seen, 1);
    }

    #[test]
    fn cut_or_changed_bytes_never_panic() {
        let block = sample();
        let bytes = block.bytes().to_vec();
        for cut in 0..bytes.len() {
            let _ = facts(&bytes[..cut], 0..u32::MAX, &mut |_| {});
        }
        for at in 0..bytes.len() {
            for bit in 0..8 {
                let mut bytes = bytes.clone();
                bytes[at] ^= 1 << bit;
                let _ = facts(&bytes, 0..u32::MAX, &mut |_| {});
            }
        }
    }

    #[test]
    fn a_fact_costs_little_beside_its_key_and_value() {
        let mut writer = BlockWriter::default();
        for key in 0..1000u64 {
            let encode = |bytes: &mut Vec<u8>| bytes.extend_from_slice(&key.to_le_bytes());
            writer.key((key / 10) as u32, &0u64, encode, |facts| facts.put(&What::Slot(1), &key).unwrap());
        }
        let length = one(&mut writer).bytes().len();
        let values: usize = (0..1000u64).map(|n| postcard::to_allocvec(&n).unwrap().len()).sum();
        assert!((length - values) / 1000 <= 18, "{length} bytes for 1000 facts");
    }
}
