//! Many facts as bytes: how they travel, and what a log keeps.

use std::ops::Range;

use postcard::ser_flavors::Flavor;
use serde::Serialize;

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
    pub bytes: Vec<u8>,
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

    /// Hands over each fact with its time.
    ///
    /// # Errors
    /// The bytes are no block.
    pub fn each<'a>(&'a self, each: &mut impl FnMut(&T, FactRef<'a>)) -> Result<(), BlockError> {
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

const SEQUENCE: u8 = 1;
const SLOT: u8 = 2;
const PATH: u8 = 3;
const NOTIFICATION: u8 = 4;
const WAITING: u8 = 5;
const RUN: u8 = 6;
const ENTRY: u8 = 7;
const ROW: u8 = 8;
const SIGNAL: u8 = 9;
const TIMER: u8 = 10;
const NOTES: u8 = 11;
/// Keys with facts of at most so many bytes are copied faster.
const SHORT: usize = 32;
/// Behind the last fact of a key.
const END_OF_KEY: u8 = 0;

/// Writes the facts of one key after the other.
#[derive(Debug, Default)]
pub struct KeyWriter {
    /// Keys with their facts, one behind the other.
    arena: Vec<u8>,
    /// Facts of the current key.
    count: u32,
}

/// Gathers the facts of keys, in any order of keys; the facts of a key stand together.
#[derive(Debug)]
pub struct BlockWriter<T> {
    writer: KeyWriter,
    entries: Vec<Entry>,
    /// The time of the first entry.
    time: Option<T>,
    /// The times of all entries, once they differ.
    times: Vec<T>,
    /// Lists that keep their capacity: entries in the order in which they leave, and where those of each group begin.
    order: Vec<u32>,
    places: Vec<u32>,
}

/// A key with its facts; it begins where the one before it ends.
#[derive(Clone, Copy, Debug)]
struct Entry {
    group: u32,
    count: u32,
    end: usize,
}

impl<T> Default for BlockWriter<T> {
    fn default() -> Self {
        BlockWriter {
            writer: KeyWriter::default(),
            entries: Vec::new(),
            time: None,
            times: Vec::new(),
            order: Vec::new(),
            places: Vec::new(),
        }
    }
}

impl<T: Ord + Clone> BlockWriter<T> {
    /// Lets `write` write facts of one key, which `encode` puts behind what is there. It costs nothing if there are none.
    #[inline]
    pub fn key(&mut self, group: u32, time: &T, encode: impl FnOnce(&mut Vec<u8>), write: impl FnOnce(&mut KeyWriter)) {
        let writer = &mut self.writer;
        let start = writer.arena.len();
        writer.arena.push(0);
        encode(&mut writer.arena);
        put_length(&mut writer.arena, start, 0);
        writer.count = 0;
        write(writer);
        if writer.count == 0 {
            writer.arena.truncate(start);
            return;
        }
        writer.arena.push(END_OF_KEY);
        self.entries.push(Entry { group, count: writer.count, end: writer.arena.len() });
        if self.time.as_ref() != Some(time) || !self.times.is_empty() {
            self.note_time(time);
        }
    }

    /// Notes the time of the newest entry, which is the first or not of the time of the first.
    #[cold]
    fn note_time(&mut self, time: &T) {
        match &self.time {
            None => self.time = Some(time.clone()),
            Some(first) => {
                self.times.resize(self.entries.len() - 1, first.clone());
                self.times.push(time.clone());
            }
        }
    }

    /// How many keys have facts.
    pub fn keys(&self) -> usize {
        self.entries.len()
    }

    /// How many bytes were written.
    pub fn len(&self) -> usize {
        self.writer.arena.len()
    }

    /// Whether nothing was.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Hands over what was written, if anything was; the writer is as new.
    ///
    /// With `mix`, times of one block may differ: then the least of them is one of theirs that all others are beyond.
    pub fn finish(&mut self, mix: bool, each: &mut impl FnMut(Block<T>)) {
        let Some(first) = self.time.take() else { return };
        let mut order = std::mem::take(&mut self.order);
        self.sort(mix, &mut order);
        let mut rest = &order[..];
        while let Some(next) = rest.first() {
            if self.times.is_empty() {
                each(self.block(rest, first, Vec::new()));
                break;
            }
            let time = |entry: &u32| &self.times[*entry as usize];
            let n = if mix { rest.len() } else { rest.partition_point(|entry| time(entry) <= time(next)) };
            let (entries, others) = rest.split_at(n);
            rest = others;
            let least = entries.iter().map(time).min().unwrap_or(&first).clone();
            let alike = entries.iter().all(|entry| *time(entry) == least);
            let times = if alike { Vec::new() } else { entries.iter().map(|entry| time(entry).clone()).collect() };
            each(self.block(entries, least, times));
        }
        self.order = order;
        self.entries.clear();
        self.times.clear();
        self.writer.arena.clear();
    }

    /// Writes entries to `order` by group, and by time before that without `mix`. Of several entries of a key the last one
    /// counts, so those of a group stay in order.
    fn sort(&mut self, mix: bool, order: &mut Vec<u32>) {
        let entries = &self.entries;
        order.clear();
        order.resize(entries.len(), 0);
        let (mut least, mut greatest) = (u32::MAX, 0);
        for entry in entries {
            least = least.min(entry.group);
            greatest = greatest.max(entry.group);
        }
        let span = (greatest - least) as usize + 1;
        if (mix || self.times.is_empty()) && span / 4 <= entries.len() {
            // By counting: a few nanoseconds an entry however many there are.
            let places = &mut self.places;
            places.clear();
            places.resize(span + 1, 0);
            for entry in entries {
                places[(entry.group - least) as usize + 1] += 1;
            }
            let mut before = 0;
            for place in places.iter_mut() {
                before += *place;
                *place = before;
            }
            for (n, entry) in entries.iter().enumerate() {
                let place = &mut places[(entry.group - least) as usize];
                order[*place as usize] = n as u32;
                *place += 1;
            }
            return;
        }
        order.iter_mut().enumerate().for_each(|(n, entry)| *entry = n as u32);
        let group = |n: &u32| entries[*n as usize].group;
        if mix || self.times.is_empty() {
            order.sort_by_key(group);
        } else {
            let times = &self.times;
            order.sort_by(|a, b| (&times[*a as usize], group(a)).cmp(&(&times[*b as usize], group(b))));
        }
    }

    fn block(&self, entries: &[u32], time: T, times: Vec<T>) -> Block<T> {
        let start = |n: usize| if n == 0 { 0 } else { self.entries[n - 1].end };
        let length = if entries.len() == self.entries.len() {
            self.writer.arena.len()
        } else {
            entries.iter().map(|n| self.entries[*n as usize].end - start(*n as usize)).sum()
        };
        let mut bytes = Vec::with_capacity(length + 8 * entries.len().min(1024) + SHORT);
        let mut section: Option<(u32, usize)> = None;
        let mut count = 0;
        for n in entries {
            let n = *n as usize;
            let entry = self.entries[n];
            if section.is_none_or(|(group, _)| group != entry.group) {
                end_section(&mut bytes, section);
                varint(&mut bytes, u64::from(entry.group));
                section = Some((entry.group, bytes.len()));
                bytes.extend_from_slice(&[0; 4]);
            }
            let rest = &self.writer.arena[start(n)..];
            let length = entry.end - start(n);
            match rest.first_chunk::<SHORT>() {
                // A copy of a known length, and then of some bytes too many, is several times as fast.
                Some(more) if length <= SHORT => {
                    let end = bytes.len() + length;
                    bytes.extend_from_slice(more);
                    bytes.truncate(end);
                }
                _ => bytes.extend_from_slice(&rest[..length]),
            }
            count += u64::from(entry.count);
        }
        end_section(&mut bytes, section);
        Block { time, times, count, bytes }
    }
}

impl KeyWriter {
    /// The key's `what` is `value` from now on.
    ///
    /// # Errors
    /// The value cannot be encoded; nothing that was written before is of use then.
    #[inline]
    pub fn put<V: Serialize + ?Sized>(&mut self, what: &What, value: &V) -> Result<(), postcard::Error> {
        let at = self.open_fact(what);
        append(&mut self.arena, value)?;
        self.end_value(at);
        Ok(())
    }

    /// The key's `what` is a number.
    #[inline]
    pub fn put_number(&mut self, what: &What, n: u64) {
        let at = self.open_fact(what);
        varint(&mut self.arena, n);
        self.end_value(at);
    }

    /// The key's `what` has these bytes for its value.
    pub fn put_bytes(&mut self, what: &What, value: &[u8]) {
        let at = self.open_fact(what);
        self.arena.extend_from_slice(value);
        self.end_value(at);
    }

    /// The key's `what` is gone.
    pub fn retire(&mut self, what: &What) {
        self.open_fact(what);
        self.count += 1;
    }

    /// Writes all that comes before a value, and the place of its length; where that is.
    #[inline]
    fn open_fact(&mut self, what: &What) -> usize {
        let bytes = &mut self.arena;
        match what {
            What::Sequence => bytes.extend_from_slice(&[SEQUENCE, 0]),
            What::Slot(id) => {
                let [a, b, c, d] = id.to_le_bytes();
                bytes.extend_from_slice(&[SLOT, a, b, c, d, 0]);
            }
            what => open_other(bytes, what),
        }
        bytes.len() - 1
    }

    /// Puts the length of the value that was written behind `at` in its place.
    #[inline]
    fn end_value(&mut self, at: usize) {
        put_length(&mut self.arena, at, 1);
        self.count += 1;
    }
}

fn open_other(bytes: &mut Vec<u8>, what: &What) {
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
        What::Signal(n) => tagged(bytes, SIGNAL, *n),
        What::Timer(n) => tagged(bytes, TIMER, *n),
        What::Notes => bytes.push(NOTES),
    }
    bytes.push(0);
}

/// Puts the length of what was written behind `at`, and `more`, in its place.
#[inline]
fn put_length(bytes: &mut Vec<u8>, at: usize, more: u64) {
    let length = (bytes.len() - at - 1) as u64 + more;
    if length < 0x80 {
        bytes[at] = length as u8;
    } else {
        put_long(bytes, at, length);
    }
}

fn put_long(bytes: &mut Vec<u8>, at: usize, length: u64) {
    let mut prefix = Vec::with_capacity(5);
    varint(&mut prefix, length);
    bytes.splice(at..=at, prefix);
}

/// Writes a value behind what is there.
///
/// # Errors
/// It cannot be encoded; a part of it may have been written.
#[inline]
pub(crate) fn append<V: Serialize + ?Sized>(bytes: &mut Vec<u8>, value: &V) -> Result<(), postcard::Error> {
    postcard::serialize_with_flavor(value, Appended(bytes))
}

/// A buffer that postcard writes to where it is.
struct Appended<'a>(&'a mut Vec<u8>);

impl Flavor for Appended<'_> {
    type Output = ();

    #[inline]
    fn try_push(&mut self, byte: u8) -> postcard::Result<()> {
        self.0.push(byte);
        Ok(())
    }

    #[inline]
    fn try_extend(&mut self, bytes: &[u8]) -> postcard::Result<()> {
        // Most are numbers. A copy of a known length needs no call.
        match *bytes {
            [a] => self.0.push(a),
            [a, b] => self.0.extend_from_slice(&[a, b]),
            [a, b, c] => self.0.extend_from_slice(&[a, b, c]),
            [a, b, c, d] => self.0.extend_from_slice(&[a, b, c, d]),
            _ => self.0.extend_from_slice(bytes),
        }
        Ok(())
    }

    fn finalize(self) -> postcard::Result<()> {
        Ok(())
    }
}

fn end_section(bytes: &mut [u8], section: Option<(u32, usize)>) {
    if let Some((_, at)) = section {
        let length = u32::try_from(bytes.len() - at - 4).expect("a block is far below 4 GiB");
        bytes[at..at + 4].copy_from_slice(&length.to_le_bytes());
    }
}

fn tagged(bytes: &mut Vec<u8>, tag: u8, n: u64) {
    bytes.push(tag);
    varint(bytes, n);
}

#[inline]
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
        assert_eq!(sections(&block.bytes).unwrap().iter().map(|s| s.group).collect::<Vec<_>>(), [3, 4, 900]);
    }

    #[test]
    fn a_reader_passes_over_groups_of_others() {
        let mut seen = 0;
        facts(&sample().bytes, 5..1000, &mut |fact| {
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
            let encode = |bytes: &mut Vec<u8>| bytes.extend_from_slice(&key.to_le_bytes());
            writer.key((key / 10) as u32, &0u64, encode, |facts| facts.put(&What::Slot(1), &key).unwrap());
        }
        let block = one(&mut writer);
        let values: usize = (0..1000u64).map(|n| postcard::to_allocvec(&n).unwrap().len()).sum();
        assert!((block.bytes.len() - values) / 1000 <= 18, "{} bytes for 1000 facts", block.bytes.len());
    }
}
