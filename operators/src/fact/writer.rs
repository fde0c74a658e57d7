//! Gathers the facts of keys, in any order of keys, into blocks.

use serde::Serialize;

use super::arrange;
use super::block::Block;
use super::column::FactColumns;
use super::key::KeyWriter;

/// Gathers the facts of keys, in any order of keys; the facts of a key stand together.
#[derive(Debug)]
pub struct BlockWriter<T> {
    columns: FactColumns,
    /// The groups of the keys.
    groups: Vec<u32>,
    /// How many facts there were when the last keys were begun.
    before: u32,
    /// The time of the first key.
    time: Option<T>,
    /// The times of all keys, once they differ.
    times: Vec<T>,
}

impl<T> Default for BlockWriter<T> {
    fn default() -> Self {
        BlockWriter { columns: FactColumns::default(), groups: Vec::new(), before: 0, time: None, times: Vec::new() }
    }
}

impl<T: Ord + Clone> BlockWriter<T> {
    /// Lets `write` write facts of one key, which `encode` puts behind what is there. It costs nothing if there are none.
    #[inline]
    pub fn key(&mut self, group: u32, time: &T, encode: impl FnOnce(&mut Vec<u8>), write: impl FnOnce(&mut KeyWriter)) {
        if self.columns.row(encode, write) {
            self.place(group, time);
        }
    }

    /// Begins with the keys of `ids`, whose facts are to be put into columns.
    ///
    /// # Errors
    /// One cannot be encoded; nothing that was written before is of use then.
    pub fn begin<'k, I: Copy, K: Serialize + 'static>(
        &mut self,
        ids: &[I],
        key: impl Fn(I) -> &'k K,
    ) -> Result<&mut FactColumns, postcard::Error> {
        self.before = self.columns.count();
        self.columns.begin(ids, key)?;
        Ok(&mut self.columns)
    }

    /// The columns of the keys that were begun, so many, are complete. `place` gives the group of a key, and the time of its
    /// facts.
    pub fn end<'t>(&mut self, keys: usize, place: impl Fn(usize) -> (u32, &'t T))
    where
        T: 't,
    {
        if self.columns.end(self.before) {
            for n in 0..keys {
                let (group, time) = place(n);
                self.place(group, time);
            }
        }
    }

    #[inline]
    fn place(&mut self, group: u32, time: &T) {
        self.groups.push(group);
        if self.time.as_ref() != Some(time) || !self.times.is_empty() {
            self.note_time(time);
        }
    }

    /// Notes the time of the newest key, which is the first or not of the time of the first.
    #[cold]
    fn note_time(&mut self, time: &T) {
        match &self.time {
            None => self.time = Some(time.clone()),
            Some(first) => {
                self.times.resize(self.groups.len() - 1, first.clone());
                self.times.push(time.clone());
            }
        }
    }

    /// How many keys there are.
    pub fn keys(&self) -> usize {
        self.groups.len()
    }

    /// How many bytes were written.
    pub fn len(&self) -> usize {
        self.columns.len()
    }

    /// Whether nothing was.
    pub fn is_empty(&self) -> bool {
        self.groups.is_empty()
    }

    /// Hands over what was written, if anything was; the writer is as new.
    ///
    /// With `mix`, times of one block may differ: then the least of them is one of theirs that all others are beyond.
    pub fn finish(&mut self, mix: bool, each: &mut impl FnMut(Block<T>)) {
        let Some(first) = self.time.take() else { return };
        if self.times.is_empty() {
            let columns = FactColumns::with_room_of(&self.columns);
            let groups = Vec::with_capacity(self.groups.len());
            let columns = std::mem::replace(&mut self.columns, columns);
            each(Block::loose(first, columns, std::mem::replace(&mut self.groups, groups)));
            return;
        }
        let rows = self.columns.rows();
        let count = |n: &u32| self.columns.count_of(rows[*n as usize]);
        let mut order: Vec<u32> = (0..rows.len() as u32).filter(|n| count(n) > 0).collect();
        self.sort(mix, &mut order);
        let mut rest = &order[..];
        while let Some(next) = rest.first() {
            let time = |key: &u32| &self.times[*key as usize];
            let n = if mix { rest.len() } else { rest.partition_point(|key| time(key) <= time(next)) };
            let (keys, others) = rest.split_at(n);
            rest = others;
            let least = keys.iter().map(time).min().unwrap_or(&first).clone();
            let alike = keys.iter().all(|key| *time(key) == least);
            let times = if alike { Vec::new() } else { keys.iter().map(|key| time(key).clone()).collect() };
            let count = keys.iter().map(|key| u64::from(count(key))).sum();
            let bytes = arrange::in_order(&self.columns, &self.groups, keys);
            each(Block::arranged(least, times, count, bytes));
        }
        self.columns.clear();
        self.groups.clear();
        self.times.clear();
    }

    /// Sorts keys by time, and by group in each; with `mix` by group alone. Of several entries of a key the last one counts, so
    /// those of a group stay in order.
    fn sort(&self, mix: bool, order: &mut [u32]) {
        let group = |n: &u32| self.groups[*n as usize];
        if mix {
            order.sort_by_key(group);
        } else {
            let times = &self.times;
            order.sort_by(|a, b| (&times[*a as usize], group(a)).cmp(&(&times[*b as usize], group(b))));
        }
    }
}
