//! A columnar container for timely's exchange: one array per field, read in place on receipt. Safe code throughout.
//!
//! It follows the container of timely's own `columnar` example: rows collect in typed columns, go out as the words of
//! these columns, and are read from the received bytes without a copy where those are aligned.
//!
//! # Invariants
//! - Rows pushed = rows in the containers that were built, in order.
//! - A container that the builder ships on its own is close under a multiple of 2 MiB; `finish` ships any remainder.
//!
//! Not here: the rows. A row gets its columns by `#[derive(Columnar)]`.

use std::collections::VecDeque;
use std::io::Write;

use columnar::bytes::indexed;
use columnar::bytes::stash::Stash;
use columnar::common::IterOwn;
use columnar::{ContainerBytes as Columns, Index, Len, Push};
use timely::Accountable;
use timely::bytes::arc::Bytes;
use timely::container::{ContainerBuilder, DrainContainer, LengthPreservingContainerBuilder, PushInto};
use timely::dataflow::channels::ContainerBytes;

/// Rows in columns `C`: typed on this worker, words or bytes on the way.
#[derive(Clone, Default)]
pub(crate) struct Column<C> {
    stash: Stash<C, Bytes>,
}

impl<C: Columns> Column<C> {
    /// The columns, wherever they lie.
    #[inline]
    pub(crate) fn borrow(&self) -> C::Borrowed<'_> {
        self.stash.borrow()
    }
}

impl<C: Columns> Accountable for Column<C> {
    #[inline]
    fn record_count(&self) -> i64 {
        self.borrow().len() as i64
    }
}

impl<C: Columns> DrainContainer for Column<C> {
    type Item<'a> = C::Ref<'a>;
    type DrainIter<'a> = IterOwn<C::Borrowed<'a>>;

    #[inline]
    fn drain(&mut self) -> Self::DrainIter<'_> {
        self.borrow().into_index_iter()
    }
}

impl<C: Columns> ContainerBytes for Column<C> {
    fn from_bytes(bytes: Bytes) -> Self {
        match Stash::try_from_bytes(bytes) {
            Ok(stash) => Self { stash },
            Err(error) => panic!("a received container does not hold these columns: {error}"),
        }
    }

    fn length_in_bytes(&self) -> usize {
        self.stash.length_in_bytes()
    }

    fn into_bytes<W: Write>(&self, writer: &mut W) {
        if let Err(error) = self.stash.write_bytes(writer) {
            panic!("a container of {} bytes was not written: {error}", self.length_in_bytes());
        }
    }
}

/// Words in 2 MiB, the unit in which containers are shipped.
const UNIT: usize = 1 << 18;

/// Builds [`Column`]s of about 2 MiB.
#[derive(Default)]
pub(crate) struct ColumnBuilder<C> {
    /// The columns being filled.
    current: C,
    /// The container that the caller looks at.
    lent: Option<Column<C>>,
    /// Built, not yet looked at.
    pending: VecDeque<Column<C>>,
}

impl<C: Columns + Push<T>, T> PushInto<T> for ColumnBuilder<C> {
    #[inline]
    fn push_into(&mut self, row: T) {
        self.current.push(row);
        let words = indexed::length_in_words(&self.current.borrow());
        let round = words.next_multiple_of(UNIT);
        // Ship when the allocation, a multiple of the unit, would waste less than a tenth.
        if round - words < round / 10 {
            let mut alloc = Vec::with_capacity(round);
            indexed::encode(&mut alloc, &self.current.borrow());
            self.pending.push_back(Column { stash: Stash::Align(alloc.into_boxed_slice().into()) });
            self.current.clear();
        }
    }
}

impl<C: Columns> ContainerBuilder for ColumnBuilder<C> {
    type Container = Column<C>;

    #[inline]
    fn extract(&mut self) -> Option<&mut Column<C>> {
        self.lent = Some(self.pending.pop_front()?);
        self.lent.as_mut()
    }

    #[inline]
    fn finish(&mut self) -> Option<&mut Column<C>> {
        if !self.current.is_empty() {
            self.pending.push_back(Column { stash: Stash::Typed(std::mem::take(&mut self.current)) });
        }
        self.lent = self.pending.pop_front();
        self.lent.as_mut()
    }

    fn relax(&mut self) {
        assert!(self.current.is_empty() && self.pending.is_empty(), "relaxed before everything was shipped");
        *self = Self::default();
    }
}

impl<C: Columns> LengthPreservingContainerBuilder for ColumnBuilder<C> {}
