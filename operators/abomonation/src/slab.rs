//! Received rows in one allocation: the rows themselves, then the text that they point to.
//!
//! # Invariants
//! - The allocation starts at the alignment of `R`, whatever the alignment of the bytes that it was copied from.
//! - The first `rows` rows are valid and point into the same allocation; nobody writes to it once it is built.
//! - A row in a slab is never dropped, moved out or lent mutably: its strings are not the allocator's. Only `&R`
//!   leaves.

use std::alloc::{Layout, alloc, dealloc, handle_alloc_error};
use std::marker::PhantomData;
use std::ptr::{NonNull, copy_nonoverlapping};
use std::slice::{from_raw_parts, from_raw_parts_mut};

use crate::row::AbomRow;

/// See the module.
pub(crate) struct Slab<R> {
    start: NonNull<R>,
    layout: Layout,
    rows: usize,
    owns: PhantomData<R>,
}

impl<R: AbomRow> Slab<R> {
    /// Copies `payload`, which is `rows` rows and then their text, and points the rows at their text.
    /// `None` if the text is not as long as the rows say.
    ///
    /// # Panics
    /// If `payload` is shorter than its rows.
    ///
    /// # Safety
    /// `payload` was written by [`wire::encode`](crate::wire::encode) for rows `R`, in a process of this same build.
    pub(crate) unsafe fn copy_from(payload: &[u8], rows: usize) -> Option<Self> {
        let heads = rows.checked_mul(size_of::<R>())?;
        assert!(heads <= payload.len(), "{rows} rows do not fit into {} bytes", payload.len());

        let mut slab = Self::allocate(payload.len(), rows);
        let start = slab.start.as_ptr();
        // SAFETY: `start` has room for the payload, and a new allocation overlaps nothing.
        unsafe { copy_nonoverlapping(payload.as_ptr(), start.cast::<u8>(), payload.len()) };
        // SAFETY: `heads` is within the allocation; the bytes behind it are initialised, and no other reference to
        // them exists: rows are reached below only by pointers to the part before them.
        let mut text = unsafe { from_raw_parts_mut(start.cast::<u8>().add(heads), payload.len() - heads) };
        for index in 0..rows {
            // SAFETY: within `heads`, aligned as `start` is, and apart from `text`. The caller vouches that these
            // bytes were a row; its strings' pointers are stale, and `exhume` sets them without following them.
            let row = unsafe { &mut *start.add(index) };
            // SAFETY: as above; the row's strings now borrow from `text`, which lives as long as the row.
            text = unsafe { row.exhume(text) }?;
        }
        if !text.is_empty() {
            return None;
        }
        slab.rows = rows;
        Some(slab)
    }

    /// Memory for `bytes` bytes at the alignment of `R`, without a row yet.
    fn allocate(bytes: usize, rows: usize) -> Self {
        let Ok(layout) = Layout::from_size_align(bytes, align_of::<R>()) else {
            panic!("{rows} rows of {bytes} bytes exceed the address space");
        };
        let start = if layout.size() == 0 {
            NonNull::dangling()
        } else {
            // SAFETY: the layout has a size.
            let start = unsafe { alloc(layout) };
            NonNull::new(start.cast::<R>()).unwrap_or_else(|| handle_alloc_error(layout))
        };
        Self { start, layout, rows: 0, owns: PhantomData }
    }

    /// The rows.
    #[inline]
    pub(crate) fn rows(&self) -> &[R] {
        // SAFETY: `rows` rows from `start` are valid and unchanging while the slab lives, by the module's invariants.
        unsafe { from_raw_parts(self.start.as_ptr(), self.rows) }
    }
}

impl<R> Drop for Slab<R> {
    fn drop(&mut self) {
        if self.layout.size() > 0 {
            // SAFETY: allocated by `allocate` with this layout. Rows are not dropped: what they own is this memory.
            unsafe { dealloc(self.start.as_ptr().cast(), self.layout) };
        }
    }
}

// SAFETY: a slab owns its memory alone, like a `Vec<R>` and its strings, and `R: Send`.
unsafe impl<R: AbomRow> Send for Slab<R> {}
