//! Gathers the facts of keys, in any order of keys, into blocks.

use super::arrange::{self, Entry};
use super::block::{Block, END_OF_KEY};
use super::column::FactColumns;
use super::key::{KeyWriter, put_length};

/// Gathers the facts of keys, in any order of keys; the facts of a key stand together.
#[derive(Debug)]
pub struct BlockWriter<T> {
    writer: KeyWriter,
    entries: Vec<Entry>,
    /// The time of the first entry.
    time: Option<T>,
    /// The times of all entries, once they differ.
    times: Vec<T>,
}

impl<T> Default for BlockWriter<T> {
    fn default() -> Self {
        BlockWriter { writer: KeyWriter::default(), entries: Vec::new(), time: None, times: Vec::new() }
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
        let end = u32::try_from(writer.arena.len()).expect("a block is far below 4 GiB");
        self.entries.push(Entry { group, count: writer.count, end });
        if self.time.as_ref() != Some(time) || !self.times.is_empty() {
            self.note_time(time);
        }
    }

    /// Writes so many keys with their facts; those without facts cost nothing. `place` gives a key's group, and the time of its
    /// facts.
    pub fn columns<'t>(&mut self, columns: &FactColumns, keys: usize, place: impl Fn(usize) -> (u32, &'t T))
    where
        T: 't,
    {
        let mut at = self.writer.arena.len();
        self.writer.arena.resize(at + columns.room(keys), 0);
        for n in 0..keys {
            let out = &mut self.writer.arena[..];
            let (end, count) = columns.copy(n, out, at);
            if count == 0 {
                continue;
            }
            out[end] = END_OF_KEY;
            at = end + 1;
            let (group, time) = place(n);
            self.entries.push(Entry { group, count, end: at as u32 });
            if self.time.as_ref() != Some(time) || !self.times.is_empty() {
                self.note_time(time);
            }
        }
        self.writer.arena.truncate(at);
        u32::try_from(at).expect("a block is far below 4 GiB");
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
        if self.times.is_empty() {
            // As much is likely to come again.
            let arena = Vec::with_capacity(self.writer.arena.len());
            let entries = Vec::with_capacity(self.entries.len());
            let bytes = std::mem::replace(&mut self.writer.arena, arena);
            each(Block::loose(first, bytes, std::mem::replace(&mut self.entries, entries)));
            return;
        }
        let mut order = Vec::new();
        self.sort(mix, &mut order);
        let mut rest = &order[..];
        while let Some(next) = rest.first() {
            let time = |entry: &u32| &self.times[*entry as usize];
            let n = if mix { rest.len() } else { rest.partition_point(|entry| time(entry) <= time(next)) };
            let (entries, others) = rest.split_at(n);
            rest = others;
            let least = entries.iter().map(time).min().unwrap_or(&first).clone();
            let alike = entries.iter().all(|entry| *time(entry) == least);
            let times = if alike { Vec::new() } else { entries.iter().map(|entry| time(entry).clone()).collect() };
            let count = entries.iter().map(|entry| u64::from(self.entries[*entry as usize].count)).sum();
            let bytes = arrange::in_order(&self.writer.arena, &self.entries, entries);
            each(Block::arranged(least, times, count, bytes));
        }
        self.entries.clear();
        self.times.clear();
        self.writer.arena.clear();
    }

    /// Writes entries to `order` by time, and by group in each; with `mix` by group alone. Of several entries of a key the last
    /// one counts, so those of a group stay in order.
    fn sort(&self, mix: bool, order: &mut Vec<u32>) {
        order.clear();
        order.extend(0..self.entries.len() as u32);
        let group = |n: &u32| self.entries[*n as usize].group;
        if mix {
            order.sort_by_key(group);
        } else {
            let times = &self.times;
            order.sort_by(|a, b| (&times[*a as usize], group(a)).cmp(&(&times[*b as usize], group(b))));
        }
    }
}
