//! The container: rows of this worker in a `Vec`, or rows of another one in a slab.

use std::borrow::Cow;
use std::fmt::{self, Debug};
use std::io::Write;
use std::{slice, vec};

use timely::Accountable;
use timely::bytes::arc::Bytes;
use timely::container::{DrainContainer, PushInto, SizableContainer, buffer};
use timely::dataflow::channels::ContainerBytes;

use crate::row::AbomRow;
use crate::slab::Slab;
use crate::wire;

/// Rows that timely exchanges between processes as memory; see the [crate] for when to use it, and when not.
///
/// Use it with `CapacityContainerBuilder<AbomVec<R>>` and `ExchangeCore`. It fills at as many rows as a `Vec` does.
///
/// # Panics
/// Receiving panics if the container is damaged or comes from another build: timely's decoder has no other way to
/// refuse one. A worker's panic fails the job.
pub struct AbomVec<R> {
    store: Store<R>,
}

enum Store<R> {
    /// Pushed here.
    Owned(Vec<R>),
    /// Received; read only.
    Received(Slab<R>),
}

impl<R: AbomRow> AbomVec<R> {
    /// A container without rows.
    pub const fn new() -> Self {
        Self { store: Store::Owned(Vec::new()) }
    }

    /// The rows. Those received are read in place.
    #[inline]
    pub fn rows(&self) -> &[R] {
        match &self.store {
            Store::Owned(rows) => rows,
            Store::Received(slab) => slab.rows(),
        }
    }

    /// Iterates over the rows.
    pub fn iter(&self) -> slice::Iter<'_, R> {
        self.rows().iter()
    }

    /// The rows as a `Vec`. Those received are cloned.
    pub fn into_rows(self) -> Vec<R> {
        match self.store {
            Store::Owned(rows) => rows,
            Store::Received(slab) => slab.rows().to_vec(),
        }
    }

    /// The rows, to be changed. Those received are cloned first.
    fn owned(&mut self) -> &mut Vec<R> {
        if let Store::Received(slab) = &self.store {
            self.store = Store::Owned(slab.rows().to_vec());
        }
        match &mut self.store {
            Store::Owned(rows) => rows,
            Store::Received(_) => unreachable!("received rows were cloned above"),
        }
    }
}

impl<R: AbomRow> ContainerBytes for AbomVec<R> {
    /// # Panics
    /// If the container is damaged or comes from another build.
    fn from_bytes(bytes: Bytes) -> Self {
        // SAFETY: timely hands over what a peer's `into_bytes` wrote. That the peer is a trusted process of this build
        // is what whoever chooses this container vouches for; accidents are found by the checksum and the fingerprint.
        match unsafe { wire::decode(&bytes) } {
            Ok(slab) => Self { store: Store::Received(slab) },
            Err(error) => panic!(
                "an exchanged container was refused: {error}; check that all processes run one binary, then restart \
                 the job from its last checkpoint"
            ),
        }
    }

    fn length_in_bytes(&self) -> usize {
        wire::length(self.rows())
    }

    fn into_bytes<W: Write>(&self, writer: &mut W) {
        if let Err(error) = writer.write_all(&wire::encode(self.rows())) {
            panic!("a container was not written, of {} bytes: {error}", self.length_in_bytes());
        }
    }
}

impl<R: AbomRow> Accountable for AbomVec<R> {
    #[inline]
    fn record_count(&self) -> i64 {
        self.rows().len() as i64
    }
}

impl<R: AbomRow> DrainContainer for AbomVec<R> {
    type Item<'a> = Cow<'a, R>;
    type DrainIter<'a> = Drain<'a, R>;

    #[inline]
    fn drain(&mut self) -> Drain<'_, R> {
        Drain {
            source: match &mut self.store {
                Store::Owned(rows) => Source::Owned(rows.drain(..)),
                Store::Received(slab) => Source::Received(slab.rows().iter()),
            },
        }
    }
}

impl<R: AbomRow> SizableContainer for AbomVec<R> {
    #[inline]
    fn at_capacity(&self) -> bool {
        match &self.store {
            Store::Owned(rows) => rows.len() == rows.capacity(),
            Store::Received(_) => true,
        }
    }

    #[inline]
    fn ensure_capacity(&mut self, stash: &mut Option<Self>) {
        if self.rows().is_empty() && !matches!(&self.store, Store::Owned(rows) if rows.capacity() > 0) {
            // A received stash has nothing to offer: its memory is not a `Vec`'s.
            *self = match stash.take() {
                Some(Self { store: Store::Owned(mut rows) }) => {
                    rows.clear();
                    Self::from(rows)
                }
                _ => Self::new(),
            };
        }
        let rows = self.owned();
        let preferred = buffer::default_capacity::<R>();
        if rows.capacity() < preferred {
            rows.reserve(preferred - rows.len());
        }
    }
}

impl<R: AbomRow> PushInto<R> for AbomVec<R> {
    #[inline]
    fn push_into(&mut self, row: R) {
        self.owned().push(row);
    }
}

impl<R: AbomRow> PushInto<&R> for AbomVec<R> {
    #[inline]
    fn push_into(&mut self, row: &R) {
        self.owned().push(row.clone());
    }
}

impl<R: AbomRow> PushInto<Cow<'_, R>> for AbomVec<R> {
    #[inline]
    fn push_into(&mut self, row: Cow<'_, R>) {
        self.owned().push(row.into_owned());
    }
}

/// Drains an [`AbomVec`]: rows pushed here are given away, rows received are lent.
pub struct Drain<'a, R: AbomRow> {
    source: Source<'a, R>,
}

enum Source<'a, R> {
    Owned(vec::Drain<'a, R>),
    Received(slice::Iter<'a, R>),
}

impl<'a, R: AbomRow> Iterator for Drain<'a, R> {
    type Item = Cow<'a, R>;

    #[inline]
    fn next(&mut self) -> Option<Cow<'a, R>> {
        match &mut self.source {
            Source::Owned(rows) => rows.next().map(Cow::Owned),
            Source::Received(rows) => rows.next().map(Cow::Borrowed),
        }
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        match &self.source {
            Source::Owned(rows) => rows.size_hint(),
            Source::Received(rows) => rows.size_hint(),
        }
    }
}

impl<R: AbomRow> ExactSizeIterator for Drain<'_, R> {}

impl<R: AbomRow> Default for AbomVec<R> {
    fn default() -> Self {
        Self::new()
    }
}

impl<R: AbomRow> Clone for AbomVec<R> {
    fn clone(&self) -> Self {
        Self::from(self.rows().to_vec())
    }
}

impl<R: AbomRow> From<Vec<R>> for AbomVec<R> {
    fn from(rows: Vec<R>) -> Self {
        Self { store: Store::Owned(rows) }
    }
}

impl<R: AbomRow> FromIterator<R> for AbomVec<R> {
    fn from_iter<I: IntoIterator<Item = R>>(rows: I) -> Self {
        Self::from(Vec::from_iter(rows))
    }
}

impl<'a, R: AbomRow> IntoIterator for &'a AbomVec<R> {
    type Item = &'a R;
    type IntoIter = slice::Iter<'a, R>;

    fn into_iter(self) -> Self::IntoIter {
        self.iter()
    }
}

impl<R: AbomRow + PartialEq> PartialEq for AbomVec<R> {
    fn eq(&self, other: &Self) -> bool {
        self.rows() == other.rows()
    }
}

impl<R: AbomRow + Debug> Debug for AbomVec<R> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_list().entries(self.rows()).finish()
    }
}

#[cfg(test)]
mod tests;
