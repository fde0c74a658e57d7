//! Facts of many keys, thing by thing: how they are written where keys are sealed many at a time.
//!
//! Who knows a thing of all keys writes what it has to say of them in one go, one piece for each key, of a type that is known
//! there. The facts of a key are put together from its pieces afterwards.

use super::key::KeyWriter;

/// Pieces of at most so many bytes are copied faster.
const SHORT: usize = 16;

/// What there is to say of each of some keys about one thing.
#[derive(Debug, Default)]
pub struct FactColumn {
    facts: KeyWriter,
    /// By key: the end of its piece.
    ends: Vec<End>,
}

/// Where a piece ends, and how many facts there are up to there.
#[derive(Clone, Copy, Debug, Default)]
struct End {
    at: usize,
    count: u32,
}

impl FactColumn {
    /// Lets `write` write the facts of the next key, or none.
    #[inline]
    pub fn key(&mut self, write: impl FnOnce(&mut KeyWriter)) {
        write(&mut self.facts);
        self.ends.push(End { at: self.facts.arena.len(), count: self.facts.count });
    }

    fn clear(&mut self) {
        self.facts.arena.clear();
        self.facts.count = 0;
        self.ends.clear();
    }

    /// Copies the piece of the key of that place.
    #[inline]
    fn copy(&self, n: usize, to: &mut KeyWriter) {
        let start = n.checked_sub(1).map_or(End::default(), |before| self.ends[before]);
        let end = self.ends[n];
        let length = end.at - start.at;
        let rest = &self.facts.arena[start.at..];
        match rest.first_chunk::<SHORT>() {
            // A copy of a known length, and then of some bytes too many, is several times as fast.
            Some(more) if length <= SHORT => {
                let at = to.arena.len() + length;
                to.arena.extend_from_slice(more);
                to.arena.truncate(at);
            }
            _ => to.arena.extend_from_slice(&rest[..length]),
        }
        to.count += end.count - start.count;
    }
}

/// The columns of some keys. They keep their capacity when other keys are begun.
#[derive(Debug, Default)]
pub struct FactColumns {
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

    /// Begins with other keys.
    pub fn begin(&mut self) {
        self.used = 0;
    }

    /// Copies the pieces of the key of that place, column by column.
    #[inline]
    pub fn copy(&self, n: usize, to: &mut KeyWriter) {
        for column in &self.columns[..self.used] {
            column.copy(n, to);
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test that unwraps in vain has failed")]
mod tests {
    use super::*;
    use crate::fact::{BlockWriter, What};

    #[test]
    fn pieces_are_the_facts_that_each_key_would_have_written_alone() {
        let values: Vec<String> = (0..40).map(|n| "x".repeat(n)).collect();
        let (mut alone, mut together) = (BlockWriter::<u64>::default(), BlockWriter::default());
        let mut columns = FactColumns::default();
        for _ in 0..2 {
            columns.begin();
            for what in [What::Row, What::Slot(7)] {
                let column = columns.another();
                for (n, value) in values.iter().enumerate() {
                    column.key(|facts| {
                        if n % 3 > 0 {
                            facts.put(&what, value).unwrap();
                        }
                    });
                }
            }
        }
        for (n, value) in values.iter().enumerate() {
            let key = |bytes: &mut Vec<u8>| bytes.push(n as u8);
            together.key(3, &5, key, |facts| columns.copy(n, facts));
            alone.key(3, &5, key, |facts| {
                if n % 3 > 0 {
                    facts.put(&What::Row, value).unwrap();
                    facts.put(&What::Slot(7), value).unwrap();
                }
            });
        }
        let (mut a, mut b) = (Vec::new(), Vec::new());
        alone.finish(true, &mut |block| a.push(block));
        together.finish(true, &mut |block| b.push(block));
        assert_eq!(a, b);
        assert_eq!(a[0].count, 52);
    }
}
