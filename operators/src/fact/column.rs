//! Facts of many keys, thing by thing: how they are written where keys are sealed many at a time.
//!
//! Who knows a thing of all keys writes what it has to say of them in one go, one piece for each key, of a type that is known
//! there. A key and its facts are put together from its pieces afterwards.

use serde::Serialize;

use super::What;
use super::block::{SEQUENCE, SLOT};
use super::key::{KeyWriter, append, put_length};
use super::number::{WITH_HEAD, is_number, number_of, with_head};

/// Pieces of at most so many bytes are copied faster.
pub(super) const SHORT: usize = WITH_HEAD;

/// What there is to say of each of some keys about one thing.
#[derive(Debug)]
pub struct FactColumn {
    facts: KeyWriter,
    /// The start of the first piece, and the end of each.
    ends: Vec<End>,
}

/// Where a piece ends, and how many facts there are up to there.
#[derive(Clone, Copy, Debug, Default)]
struct End {
    at: u32,
    count: u32,
}

impl Default for FactColumn {
    fn default() -> Self {
        FactColumn { facts: KeyWriter::default(), ends: vec![End::default()] }
    }
}

impl FactColumn {
    /// Lets `write` write the facts of the next key, or none.
    #[inline]
    pub fn key(&mut self, write: impl FnOnce(&mut KeyWriter)) {
        write(&mut self.facts);
        self.ends.push(End { at: offset(self.facts.arena.len()), count: self.facts.count });
    }

    /// The facts of the next keys about `what`, which is a slot or the number of runs: `fact` gives the number that this is from
    /// now on, or that it is gone, or that there is nothing to say.
    #[inline]
    pub fn numbers<K: Copy>(&mut self, what: &What, keys: &[K], mut fact: impl FnMut(K) -> Option<Option<u64>>) {
        match what {
            What::Sequence => self.with_heads::<2, K>(u64::from(SEQUENCE), 1, keys, fact),
            What::Slot(id) => self.with_heads::<6, K>(u64::from(SLOT) | u64::from(*id) << 8, 1, keys, fact),
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

    /// One loop that looks at nothing but what it writes: a fraction of the time of a call for each number.
    #[inline]
    fn with_heads<const HEAD: usize, K: Copy>(
        &mut self,
        head: u64,
        more: u64,
        keys: &[K],
        mut fact: impl FnMut(K) -> Option<Option<u64>>,
    ) {
        let arena = &mut self.facts.arena;
        let start = arena.len();
        arena.resize(start + keys.len() * WITH_HEAD, 0);
        let (out, mut at, mut count) = (&mut arena[..], start, self.facts.count);
        self.ends.extend(keys.iter().map(|key| {
            if let Some(n) = fact(*key) {
                let (length, bytes) = match n {
                    Some(n) => with_head::<HEAD>(head, more, n),
                    None => with_head::<HEAD>(head, more, 0),
                };
                out[at..at + WITH_HEAD].copy_from_slice(&bytes);
                at += length;
                count += 1;
                if n.is_none() {
                    // A value of no length: it is gone.
                    at -= 1;
                    out[at - 1] = 0;
                }
            }
            End { at: at as u32, count }
        }));
        arena.truncate(at);
        offset(at);
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
            self.with_heads::<1, I>(0, 0, ids, |id| Some(Some(number_of(key(id)))));
            return Ok(());
        }
        for id in ids {
            let bytes = &mut self.facts.arena;
            let start = bytes.len();
            bytes.push(0);
            append(bytes, key(*id))?;
            put_length(bytes, start, 0);
            self.key(|_| {});
        }
        Ok(())
    }

    fn clear(&mut self) {
        self.facts.arena.clear();
        self.facts.count = 0;
        self.ends.truncate(1);
    }

    /// Copies the piece of the key of that place to `out[at..]`, where [`SHORT`] bytes more may be written; where it ends
    /// there, and how many facts it has.
    #[inline]
    fn copy(&self, n: usize, out: &mut [u8], at: usize) -> (usize, u32) {
        let [start, end] = [self.ends[n], self.ends[n + 1]];
        let length = (end.at - start.at) as usize;
        let rest = &self.facts.arena[start.at as usize..];
        match rest.first_chunk::<SHORT>() {
            // A copy of a known length, of some bytes too many, is several times as fast.
            Some(more) if length <= SHORT => out[at..at + SHORT].copy_from_slice(more),
            _ => out[at..at + length].copy_from_slice(&rest[..length]),
        }
        (at + length, end.count - start.count)
    }
}

fn offset(at: usize) -> u32 {
    u32::try_from(at).expect("a block is far below 4 GiB")
}

/// Some keys, and the columns of their facts. They keep their capacity when other keys are begun.
#[derive(Debug, Default)]
pub struct FactColumns {
    /// The first is that of the keys themselves.
    columns: Vec<FactColumn>,
    used: usize,
}

impl FactColumns {
    /// Another column, behind those that there are. It is to be given a piece for each of the keys.
    pub fn another(&mut self) -> &mut FactColumn {
        if self.used == self.columns.len() {
            self.columns.push(FactColumn::default());
        }
        self.used += 1;
        let column = &mut self.columns[self.used - 1];
        column.clear();
        column
    }

    /// Begins with other keys: those of `ids`.
    ///
    /// # Errors
    /// One cannot be encoded.
    pub fn begin<'k, I: Copy, K: Serialize + 'static>(
        &mut self,
        ids: &[I],
        key: impl Fn(I) -> &'k K,
    ) -> Result<(), postcard::Error> {
        self.used = 0;
        self.another().keys(ids, key)
    }

    /// At most so many bytes are written by [`FactColumns::copy`] for all of so many keys, what may be written beyond the last
    /// one included.
    pub(super) fn room(&self, keys: usize) -> usize {
        self.columns[..self.used].iter().map(|column| column.facts.arena.len()).sum::<usize>() + keys + SHORT
    }

    /// Copies the key of that place, and its facts from column to column, to `out[at..]`; where they end there, and how many
    /// facts there are.
    #[inline]
    pub(super) fn copy(&self, n: usize, out: &mut [u8], mut at: usize) -> (usize, u32) {
        let mut count = 0;
        for (place, column) in self.columns[..self.used].iter().enumerate() {
            let (end, more) = column.copy(n, out, at);
            at = end;
            if place > 0 {
                count += more;
            }
        }
        (at, count)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test that unwraps in vain has failed")]
mod tests {
    use super::*;
    use crate::fact::BlockWriter;

    #[test]
    fn pieces_are_the_facts_that_each_key_would_have_written_alone() {
        let values: Vec<String> = (0..40).map(|n| "x".repeat(n)).collect();
        let number = |n: usize| (n % 3 > 0).then(|| (n % 5 > 0).then(|| 1 << (n % 64)));
        let (mut alone, mut together) = (BlockWriter::<u64>::default(), BlockWriter::default());
        let mut columns = FactColumns::default();
        let ids: Vec<usize> = (0..40).collect();
        for _ in 0..2 {
            columns.begin(&ids, |n| &values[n]).unwrap();
            for what in [What::Sequence, What::Slot(9), What::Timer(3)] {
                columns.another().numbers(&what, &ids, number);
            }
            for what in [What::Row, What::Slot(7)] {
                let column = columns.another();
                for (n, value) in values.iter().enumerate() {
                    column.key(|facts| {
                        if n % 4 > 0 {
                            facts.put(&what, value).unwrap();
                        }
                    });
                }
            }
        }
        together.columns(&columns, 40, |n| (n as u32 % 3, &5));
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
        let (mut a, mut b) = (Vec::new(), Vec::new());
        alone.finish(true, &mut |block| a.push(block));
        together.finish(true, &mut |block| b.push(block));
        assert_eq!(a, b);
        // Of each twelfth key there is nothing to say.
        assert_eq!(a[0].count, 3 * 26 + 2 * 30);
    }

    #[test]
    fn keys_that_are_numbers_are_written_as_others() {
        let keys: Vec<u64> = (0..64).map(|bit| 1 << bit).collect();
        let ids: Vec<usize> = (0..64).collect();
        let (mut alone, mut together) = (BlockWriter::<u64>::default(), BlockWriter::default());
        let mut columns = FactColumns::default();
        columns.begin(&ids, |n| &keys[n]).unwrap();
        columns.another().numbers(&What::Sequence, &ids, |_| Some(Some(1)));
        together.columns(&columns, 64, |n| (0, if n < 32 { &5 } else { &6 }));
        for (n, key) in keys.iter().enumerate() {
            let encode = |bytes: &mut Vec<u8>| bytes.extend_from_slice(&postcard::to_allocvec(key).unwrap());
            alone.key(0, if n < 32 { &5 } else { &6 }, encode, |facts| facts.put_number(&What::Sequence, 1));
        }
        let (mut a, mut b) = (Vec::new(), Vec::new());
        alone.finish(true, &mut |block| a.push(block));
        together.finish(true, &mut |block| b.push(block));
        assert_eq!(a, b);
        assert_eq!((a[0].count, a[0].times.len()), (64, 64));
    }
}
