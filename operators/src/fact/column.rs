//! Facts of many keys, thing by thing: how they are written where keys are sealed many at a time.
//!
//! Who knows a thing of all keys writes what it has to say of them in one go, one piece for each key, of a type that is known
//! there. A key and its facts are put together from its pieces where there is time for it (`arrange`).

use serde::Serialize;

use super::What;
use super::block::{SEQUENCE, SLOT};
use super::key::{KeyWriter, append, put_length};
use super::number::{WITH_HEAD, is_number, number_of, with_head};

/// What there is to say of each of some keys about one thing; behind it lie the columns that were written before.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FactColumn {
    facts: KeyWriter,
    /// Of each column the start of its first piece, and the end of each.
    ends: Vec<End>,
}

/// Where a piece ends, and how many facts there are up to there.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct End {
    at: u32,
    count: u32,
}

impl FactColumn {
    /// Lets `write` write the facts of the next key, or none.
    #[inline]
    pub fn key(&mut self, write: impl FnOnce(&mut KeyWriter)) {
        write(&mut self.facts);
        self.end();
    }

    /// Here a piece ends, or the first one begins.
    #[inline]
    fn end(&mut self) {
        let at = u32::try_from(self.facts.arena.len()).expect("a block is far below 4 GiB");
        self.ends.push(End { at, count: self.facts.count });
    }

    /// The facts of the next keys about `what`, which is a slot or the number of runs: `fact` gives the number that this is from
    /// now on, or that it is gone, or that there is nothing to say.
    #[inline]
    pub fn numbers<K: Copy>(&mut self, what: &What, keys: &[K], mut fact: impl FnMut(K) -> Option<Option<u64>>) {
        match what {
            What::Sequence => self.with_heads::<2, 1, K>(u64::from(SEQUENCE), keys, fact),
            What::Slot(id) => self.with_heads::<6, 1, K>(u64::from(SLOT) | u64::from(*id) << 8, keys, fact),
            what => {
                for key in keys {
                    match fact(*key) {
                        Some(Some(n)) => self.key(|facts| facts.put_number(what, n)),
                        Some(None) => self.key(|facts| facts.retire(what)),
                        None => self.key(|_| {}),
                    }
                }
            }
        }
    }

    /// One loop that looks at nothing but what it writes: a fraction of the time of a call for each number. They are so many
    /// facts each, one or, where they are keys, none; with one, the length is one more.
    #[inline]
    fn with_heads<const HEAD: usize, const FACTS: u32, K: Copy>(
        &mut self,
        head: u64,
        keys: &[K],
        mut fact: impl FnMut(K) -> Option<Option<u64>>,
    ) {
        let arena = &mut self.facts.arena;
        let start = arena.len();
        arena.resize(start + keys.len() * WITH_HEAD, 0);
        let (out, mut at, mut count) = (&mut arena[start..], 0, self.facts.count);
        self.ends.extend(keys.iter().map(|key| {
            if let Some(n) = fact(*key) {
                let (length, bytes) = with_head::<HEAD>(head, u64::from(FACTS), n.unwrap_or(0));
                out[at..at + WITH_HEAD].copy_from_slice(&bytes);
                at += length;
                count += FACTS;
                if n.is_none() {
                    // No value, of no length: it is gone.
                    at -= 1;
                    out[at - 1] = 0;
                }
            }
            End { at: (start + at) as u32, count }
        }));
        arena.truncate(start + at);
        u32::try_from(arena.len()).expect("a block is far below 4 GiB");
        self.facts.count = count;
    }

    /// The next keys themselves, with their lengths before them.
    ///
    /// # Errors
    /// One cannot be encoded.
    fn keys<'k, I: Copy, K: Serialize + 'static>(
        &mut self,
        ids: &[I],
        key: impl Fn(I) -> &'k K,
    ) -> Result<(), postcard::Error> {
        if is_number::<K>() {
            self.with_heads::<1, 0, I>(0, ids, |id| Some(Some(number_of(key(id)))));
            return Ok(());
        }
        for id in ids {
            let bytes = &mut self.facts.arena;
            let start = bytes.len();
            bytes.push(0);
            append(bytes, key(*id))?;
            put_length(bytes, start, 0);
            self.end();
        }
        Ok(())
    }
}

/// Keys with the columns of their facts, batch by batch.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FactColumns {
    column: FactColumn,
    batches: Vec<Batch>,
}

/// Some keys that have their columns in common. The first column has the keys themselves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Batch {
    keys: u32,
    columns: u32,
}

/// Where a key's pieces end: one column after the other.
#[derive(Clone, Copy, Debug)]
pub(super) struct Row {
    first: u32,
    step: u32,
    columns: u32,
}

impl FactColumns {
    /// Another column of the keys that were begun last, behind those that there are. It is to be given a piece for each of them.
    pub fn another(&mut self) -> &mut FactColumn {
        if let Some(batch) = self.batches.last_mut() {
            batch.columns += 1;
        }
        self.column.end();
        &mut self.column
    }

    /// Begins with the keys of `ids`.
    ///
    /// # Errors
    /// One cannot be encoded.
    pub(super) fn begin<'k, I: Copy, K: Serialize + 'static>(
        &mut self,
        ids: &[I],
        key: impl Fn(I) -> &'k K,
    ) -> Result<(), postcard::Error> {
        self.batches.push(Batch { keys: ids.len() as u32, columns: 0 });
        self.another().keys(ids, key)
    }

    /// Ends with the keys that were begun when there were `before` facts; whether anything is said of them. Otherwise they are
    /// not there.
    pub(super) fn end(&mut self, before: u32) -> bool {
        if self.count() > before {
            return true;
        }
        if let Some(Batch { keys, columns }) = self.batches.pop() {
            let ends = self.column.ends.len() - ((keys + 1) * columns) as usize;
            let start = self.column.ends.get(ends).map_or(0, |end| end.at as usize);
            self.column.facts.arena.truncate(start);
            self.column.ends.truncate(ends);
        }
        false
    }

    /// One key that is encoded by `encode`, with the facts that `write` writes; whether there are any.
    pub(super) fn row(&mut self, encode: impl FnOnce(&mut Vec<u8>), write: impl FnOnce(&mut KeyWriter)) -> bool {
        let FactColumn { facts, ends } = &mut self.column;
        let (start, before) = (facts.arena.len(), facts.count);
        facts.arena.push(0);
        encode(&mut facts.arena);
        put_length(&mut facts.arena, start, 0);
        write(facts);
        if facts.count == before {
            facts.arena.truncate(start);
            return false;
        }
        // Keys that came so are one batch of one column.
        match self.batches.last_mut() {
            Some(Batch { keys, columns: 1 }) => *keys += 1,
            _ => {
                self.batches.push(Batch { keys: 1, columns: 1 });
                ends.push(End { at: start as u32, count: before });
            }
        }
        self.column.end();
        true
    }

    /// How many facts there are.
    pub(super) fn count(&self) -> u32 {
        self.column.facts.count
    }

    /// How many bytes.
    pub(super) fn len(&self) -> usize {
        self.column.facts.arena.len()
    }

    /// As many are likely to come again.
    pub(super) fn with_room_of(other: &Self) -> Self {
        let arena = Vec::with_capacity(other.column.facts.arena.len() + WITH_HEAD);
        let facts = KeyWriter { arena, count: 0 };
        let ends = Vec::with_capacity(other.column.ends.len());
        FactColumns { column: FactColumn { facts, ends }, batches: Vec::with_capacity(other.batches.len()) }
    }

    pub(super) fn clear(&mut self) {
        self.column.facts.arena.clear();
        self.column.facts.count = 0;
        self.column.ends.clear();
        self.batches.clear();
    }

    /// All keys, in the order in which they came.
    pub(super) fn rows(&self) -> Vec<Row> {
        let keys = self.batches.iter().map(|batch| batch.keys as usize).sum();
        let (mut rows, mut first) = (Vec::with_capacity(keys), 0);
        for Batch { keys, columns } in &self.batches {
            let step = keys + 1;
            rows.extend((first..first + keys).map(|first| Row { first, step, columns: *columns }));
            first += step * columns;
        }
        rows
    }

    /// The pieces of a key, behind each of which other bytes follow, and how long each is.
    #[inline]
    pub(super) fn pieces(&self, row: Row) -> impl Iterator<Item = (&[u8], usize)> {
        (0..row.columns).map(move |column| {
            let at = (row.first + column * row.step) as usize;
            let (start, end) = (self.column.ends[at].at, self.column.ends[at + 1].at);
            (&self.column.facts.arena[start as usize..], (end - start) as usize)
        })
    }

    /// How many facts a key has.
    #[inline]
    pub(super) fn count_of(&self, row: Row) -> u32 {
        let count = |column: u32| {
            let at = (row.first + column * row.step) as usize;
            self.column.ends[at + 1].count - self.column.ends[at].count
        };
        (0..row.columns).map(count).sum()
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test that unwraps in vain has failed")]
mod tests {
    use super::*;
    use crate::fact::{Block, BlockWriter};

    fn one(mut writer: BlockWriter<u64>) -> Block<u64> {
        let mut blocks = Vec::new();
        writer.finish(true, &mut |block| blocks.push(block));
        let mut block = blocks.pop().unwrap();
        assert!(blocks.is_empty());
        block.arrange();
        block
    }

    #[test]
    fn pieces_are_the_facts_that_each_key_would_have_written_alone() {
        let values: Vec<String> = (0..40).map(|n| "x".repeat(n)).collect();
        let number = |n: usize| (!n.is_multiple_of(3)).then(|| (!n.is_multiple_of(5)).then(|| 1 << (n % 64)));
        let (mut alone, mut together) = (BlockWriter::<u64>::default(), BlockWriter::default());
        let ids: Vec<usize> = (0..40).collect();
        for ids in [&ids[..30], &ids[30..]] {
            let columns = together.begin(ids, |n| &values[n]).unwrap();
            for what in [What::Sequence, What::Slot(9), What::Timer(3)] {
                columns.another().numbers(&what, ids, number);
            }
            for what in [What::Row, What::Slot(7)] {
                let column = columns.another();
                for n in ids {
                    column.key(|facts| {
                        if n % 4 > 0 {
                            facts.put(&what, &values[*n]).unwrap();
                        }
                    });
                }
            }
            together.end(ids.len(), |n| (ids[n] as u32 % 3, &5));
            // Nothing is said of them.
            together.begin(ids, |n| &values[n]).unwrap().another().numbers(&What::Sequence, ids, |_| None);
            together.end(ids.len(), |_| (7, &5));
        }
        for (n, value) in values.iter().enumerate() {
            let key = |bytes: &mut Vec<u8>| bytes.extend_from_slice(&postcard::to_allocvec(value).unwrap());
            alone.key(n as u32 % 3, &5, key, |facts| {
                for what in [What::Sequence, What::Slot(9), What::Timer(3)] {
                    match number(n) {
                        Some(Some(n)) => facts.put_number(&what, n),
                        Some(None) => facts.retire(&what),
                        None => {}
                    }
                }
                if n % 4 > 0 {
                    facts.put(&What::Row, value).unwrap();
                    facts.put(&What::Slot(7), value).unwrap();
                }
            });
        }
        let together = one(together);
        assert_eq!(one(alone), together);
        // Of each twelfth key there is nothing to say.
        assert_eq!(together.count, 3 * 26 + 2 * 30);
    }

    #[test]
    fn keys_that_are_numbers_are_written_as_others() {
        let keys: Vec<u64> = (0..64).map(|bit| 1 << bit).collect();
        let ids: Vec<usize> = (0..64).collect();
        let time = |n: usize| if n < 32 { &5 } else { &6 };
        let (mut alone, mut together) = (BlockWriter::<u64>::default(), BlockWriter::default());
        let columns = together.begin(&ids, |n| &keys[n]).unwrap();
        columns.another().numbers(&What::Sequence, &ids, |n| (n % 4 > 0).then_some(Some(1)));
        together.end(ids.len(), |n| (n as u32 % 2, time(n)));
        for (n, key) in keys.iter().enumerate() {
            let encode = |bytes: &mut Vec<u8>| bytes.extend_from_slice(&postcard::to_allocvec(key).unwrap());
            alone.key(n as u32 % 2, time(n), encode, |facts| {
                if n % 4 > 0 {
                    facts.put_number(&What::Sequence, 1);
                }
            });
        }
        let together = one(together);
        assert_eq!(one(alone), together);
        assert_eq!((together.count, together.times.len()), (48, 48));
    }
}
