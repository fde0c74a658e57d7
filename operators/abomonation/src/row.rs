//! Which rows may be copied as memory: flat ones without padding.
//!
//! # Invariants
//! - Bytes of a row = sum of the bytes of its fields: no padding, so every byte is initialised (checked at compile
//!   time).
//! - What a row owns on the heap is text, alignment 1: text may start anywhere, so nothing after it is misaligned.
//! - Every field is a [`Field`], a closed list (checked at compile time).

use abomonation::Abomonation;

use crate::fingerprint::Fingerprint;

/// A row that [`AbomVec`](crate::AbomVec) may carry: integers, floats and strings, without padding.
///
/// Tuples of up to eight [`Field`]s are rows, and each field by itself. A struct becomes a row by
/// [`flat_row!`](crate::flat_row), which checks all of what follows; there is hardly a reason to implement this by
/// hand.
///
/// # Safety
/// 1. A row has no padding: its size is the sum of the sizes of its fields. *(checked by tuples and by `flat_row!`)*
/// 2. Each field is a [`Field`]; so all that a row owns on the heap is text. *(checked by tuples and by `flat_row!`)*
/// 3. [`Abomonation`]'s methods visit each field once, in one order. *(held by tuples and by `flat_row!`)*
/// 4. [`SHAPE`](Self::SHAPE) tells apart rows of different layouts. *(held by tuples and by `flat_row!`)*
///
/// A row with padding does not compile into a container:
///
/// ```compile_fail,E0080
/// timely_agents_abomonation::fingerprint::<(u64, u8)>();
/// ```
///
/// Nor is a row with a nested vector admitted:
///
/// ```compile_fail,E0277
/// timely_agents_abomonation::fingerprint::<(u64, Vec<u64>)>();
/// ```
pub unsafe trait AbomRow: Abomonation + Clone + Send + 'static {
    /// A number for the row's layout: its size and alignment, each field's type and place.
    const SHAPE: u64;
}

/// What a row may consist of: an integer, a float or a `String`. A closed list.
///
/// Left out: `bool`, `char` and enums, for which most bytes are invalid; anything that owns more than text.
///
/// # Safety
/// The type has no padding, each of its byte patterns is a value (but for the pointer, length and capacity of a
/// `String`), and it owns nothing on the heap but bytes.
pub unsafe trait Field: Abomonation + Clone + Send + sealed::Sealed + 'static {
    /// The type's name, for the row's shape.
    const NAME: &'static str;
}

mod sealed {
    /// Keeps the list of fields closed.
    pub trait Sealed {}
}

macro_rules! fields {
    ($($kind:ty),+ $(,)?) => {$(
        impl sealed::Sealed for $kind {}

        // SAFETY: a primitive integer or float has no padding, every byte pattern is a value, it owns nothing; a
        // `String` is three words, as asserted below, and owns bytes.
        unsafe impl Field for $kind {
            const NAME: &'static str = stringify!($kind);
        }

        // SAFETY: one field, hence no padding; abomonation implements its methods for the type itself.
        unsafe impl AbomRow for $kind {
            const SHAPE: u64 = shape(size_of::<Self>(), align_of::<Self>(), &[(0, size_of::<Self>(), Self::NAME)]);
        }
    )+};
}

fields!(u8, u16, u32, u64, u128, usize, i8, i16, i32, i64, i128, isize, f32, f64, String);

/// Pointer, length and capacity, and nothing between them that could be padding.
const _: () = assert!(size_of::<String>() == 3 * size_of::<usize>());

macro_rules! tuples {
    ($($field:ident $index:tt),+) => {
        // SAFETY: `shape` refuses padding, each element is a `Field`, abomonation implements its methods for tuples
        // element by element, and the shape has each element's place and type.
        unsafe impl<$($field: Field),+> AbomRow for ($($field,)+) {
            const SHAPE: u64 = shape(
                size_of::<Self>(),
                align_of::<Self>(),
                &[$((std::mem::offset_of!(Self, $index), size_of::<$field>(), $field::NAME)),+],
            );
        }
    };
}

tuples!(A 0);
tuples!(A 0, B 1);
tuples!(A 0, B 1, C 2);
tuples!(A 0, B 1, C 2, D 3);
tuples!(A 0, B 1, C 2, D 3, E 4);
tuples!(A 0, B 1, C 2, D 3, E 4, F 5);
tuples!(A 0, B 1, C 2, D 3, E 4, F 5, G 6);
tuples!(A 0, B 1, C 2, D 3, E 4, F 5, G 6, H 7);

/// A row's shape from its fields' (offset, size, type).
///
/// # Panics
/// At compile time, if the fields do not fill the row.
#[doc(hidden)]
pub const fn shape(size: usize, align: usize, fields: &[(usize, usize, &str)]) -> u64 {
    let mut shape = Fingerprint::new().number(size as u64).number(align as u64);
    let mut filled = 0;
    let mut index = 0;
    while index < fields.len() {
        let (offset, size, name) = fields[index];
        shape = shape.number(offset as u64).number(size as u64).text(name);
        filled += size;
        index += 1;
    }
    assert!(filled == size, "the row has padding, which must not reach the wire: widen its fields until it has none");
    shape.finish()
}

/// Size and type of the field that a projection reads; only a [`Field`] has them.
#[doc(hidden)]
pub const fn field_of<R, F: Field>(_: fn(&R) -> &F) -> (usize, &'static str) {
    (size_of::<F>(), F::NAME)
}

/// Makes a struct a row of [`AbomVec`](crate::AbomVec): `flat_row!(Order { customer, cents, item });`.
///
/// It names every field of the struct once, in any order. The struct is `Clone` and not generic. The compiler refuses a
/// forgotten field, a field that is no [`Field`](crate::Field), a union, a packed struct, and a struct with padding; so
/// the macro is safe to use, also in a crate that forbids `unsafe`.
///
/// ```
/// #![forbid(unsafe_code)]
/// use timely_agents_abomonation::{AbomVec, flat_row};
///
/// #[derive(Clone)]
/// struct Order { customer: u64, item: String }
/// flat_row!(Order { customer, item });
///
/// let orders = AbomVec::from(vec![Order { customer: 7, item: "tea".to_owned() }]);
/// assert_eq!(orders.rows()[0].item, "tea");
/// ```
///
/// A forgotten field:
///
/// ```compile_fail
/// #[derive(Clone)]
/// struct Order { customer: u64, item: String }
/// timely_agents_abomonation::flat_row!(Order { customer });
/// ```
///
/// A box, although it could pass for the integer that it points to:
///
/// ```compile_fail,E0277
/// #[derive(Clone)]
/// struct Order { customer: Box<u64> }
/// timely_agents_abomonation::flat_row!(Order { customer });
/// ```
///
/// A union:
///
/// ```compile_fail,E0133
/// #[derive(Clone, Copy)]
/// union Order { customer: u64 }
/// timely_agents_abomonation::flat_row!(Order { customer });
/// ```
///
/// Padding:
///
/// ```compile_fail,E0080
/// #[derive(Clone)]
/// struct Order { customer: u64, cents: u32 }
/// timely_agents_abomonation::flat_row!(Order { customer, cents });
/// ```
#[macro_export]
macro_rules! flat_row {
    ($row:ident { $($field:ident),+ $(,)? }) => {
        const _: () = {
            impl $crate::expansion::Abomonation for $row {
                #[inline]
                unsafe fn entomb<W: ::std::io::Write>(&self, write: &mut W) -> ::std::io::Result<()> {
                    let $row { $($field),+ } = self;
                    // SAFETY: the caller holds the contract of `entomb`, field by field.
                    $( unsafe { $crate::expansion::Abomonation::entomb($field, write)?; } )+
                    ::std::result::Result::Ok(())
                }

                #[inline]
                unsafe fn exhume<'b>(&mut self, bytes: &'b mut [u8]) -> ::std::option::Option<&'b mut [u8]> {
                    let $row { $($field),+ } = self;
                    // SAFETY: the caller holds the contract of `exhume`; each field takes its own bytes off the front.
                    $( let bytes = unsafe { $crate::expansion::Abomonation::exhume($field, bytes)? }; )+
                    ::std::option::Option::Some(bytes)
                }

                // A safe function, in which the pattern refuses a union.
                #[inline]
                fn extent(&self) -> usize {
                    let $row { $($field),+ } = self;
                    0 $( + $crate::expansion::Abomonation::extent($field) )+
                }
            }

            // SAFETY: the patterns above name every field once; `field_of` refuses what is no `Field`, `shape` refuses
            // padding and has each field's place and type.
            unsafe impl $crate::AbomRow for $row {
                const SHAPE: u64 = {
                    let fields = [$({
                        let (size, name) = $crate::expansion::field_of::<$row, _>(|row| &row.$field);
                        (::std::mem::offset_of!($row, $field), size, name)
                    }),+];
                    $crate::expansion::shape(
                        ::std::mem::size_of::<$row>(),
                        ::std::mem::align_of::<$row>(),
                        &fields,
                    )
                };
            }

            // Here rather than where the row is first sent.
            const _: u64 = <$row as $crate::AbomRow>::SHAPE;
        };
    };
}
