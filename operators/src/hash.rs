//! A hash of keys that never changes: not between processes, builds, machines or releases (rule S1).
//!
//! A key is hashed through its serde form, not through `std::hash`, whose bytes may change with the
//! compiler. Every value is mixed with its kind and length, so `1`, `"1"`, `("a", "b")` and `"a_b"`
//! differ. Integers hash by value and width.
//!
//! Not here: the hash of the key index (`keys`), which lives for one process and may be any.

use serde::ser::{self, Serialize};
use xxhash_rust::xxh3::xxh3_64_with_seed;

/// The stable hash of a key.
///
/// # Panics
/// When the key's `Serialize` fails. Derived implementations of plain data do not.
///
/// ```
/// use timely_agents_operators::hash::stable_hash;
/// assert_eq!(stable_hash(&7u64), stable_hash(&7u64));
/// assert_ne!(stable_hash(&1u64), stable_hash("1"));
/// assert_ne!(stable_hash(&("a", "b")), stable_hash("a_b"));
/// ```
#[inline]
pub fn stable_hash<K: Serialize + ?Sized>(key: &K) -> u64 {
    match key.serialize(StableHasher { state: SEED }) {
        Ok(hasher) => finish(hasher.state),
        Err(error) => panic!("a key cannot be hashed: {error}"),
    }
}

/// Mixes two words into one; used to chain ids to their parents.
#[inline]
pub fn mix(state: u64, value: u64) -> u64 {
    (state.rotate_left(23) ^ value).wrapping_mul(0x9E6C_63D0_876A_9A35).rotate_left(29).wrapping_add(value)
}

const SEED: u64 = 0x7469_6D65_6C79_2D61;

/// The finalizer of `SplitMix64`: every input bit reaches every output bit.
#[inline]
fn finish(mut z: u64) -> u64 {
    z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    z ^ (z >> 31)
}

/// The kinds of the serde data model, as hashed. The numbers are part of the format.
#[derive(Clone, Copy)]
enum Kind {
    Bool = 1,
    Signed = 2,
    Unsigned = 3,
    Float = 4,
    Char = 5,
    Str = 6,
    Bytes = 7,
    None = 8,
    Some = 9,
    Unit = 10,
    Variant = 11,
    Seq = 12,
    Map = 13,
    Struct = 14,
}

struct StableHasher {
    state: u64,
}

impl StableHasher {
    #[inline]
    fn word(mut self, kind: Kind, width: u64, value: u64) -> Self {
        self.state = mix(self.state, (kind as u64) << 32 | width);
        self.state = mix(self.state, value);
        self
    }

    #[inline]
    fn bytes(mut self, kind: Kind, bytes: &[u8]) -> Self {
        self.state = mix(self.state, (kind as u64) << 32);
        self.state = mix(self.state, bytes.len() as u64);
        self.state = mix(self.state, xxh3_64_with_seed(bytes, SEED));
        self
    }

    fn parts(self, kind: Kind, length: Option<usize>) -> Parts {
        Parts { hasher: self.word(kind, 0, length.map_or(u64::MAX, |n| n as u64)), count: 0 }
    }
}

/// Why a key could not be hashed: its own `Serialize` said so.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct Error(String);

impl ser::Error for Error {
    fn custom<T: std::fmt::Display>(message: T) -> Self {
        Error(message.to_string())
    }
}

macro_rules! words {
    ($($method:ident: $type:ty => $kind:ident, $width:expr;)*) => {
        $(#[inline]
        fn $method(self, v: $type) -> Result<Self, Error> {
            #[allow(clippy::cast_lossless, reason = "one body serves all widths")]
            Ok(self.word(Kind::$kind, $width, v as u64))
        })*
    };
}

impl ser::Serializer for StableHasher {
    type Ok = Self;
    type Error = Error;
    type SerializeSeq = Parts;
    type SerializeTuple = Parts;
    type SerializeTupleStruct = Parts;
    type SerializeTupleVariant = Parts;
    type SerializeMap = Parts;
    type SerializeStruct = Parts;
    type SerializeStructVariant = Parts;

    words! {
        serialize_bool: bool => Bool, 1;
        serialize_i8: i8 => Signed, 1;
        serialize_i16: i16 => Signed, 2;
        serialize_i32: i32 => Signed, 4;
        serialize_i64: i64 => Signed, 8;
        serialize_u8: u8 => Unsigned, 1;
        serialize_u16: u16 => Unsigned, 2;
        serialize_u32: u32 => Unsigned, 4;
        serialize_u64: u64 => Unsigned, 8;
        serialize_char: char => Char, 4;
    }

    fn serialize_i128(self, v: i128) -> Result<Self, Error> {
        Ok(self.bytes(Kind::Signed, &v.to_le_bytes()))
    }
    fn serialize_u128(self, v: u128) -> Result<Self, Error> {
        Ok(self.bytes(Kind::Unsigned, &v.to_le_bytes()))
    }
    fn serialize_f32(self, v: f32) -> Result<Self, Error> {
        Ok(self.word(Kind::Float, 4, u64::from(v.to_bits())))
    }
    fn serialize_f64(self, v: f64) -> Result<Self, Error> {
        Ok(self.word(Kind::Float, 8, v.to_bits()))
    }
    #[inline]
    fn serialize_str(self, v: &str) -> Result<Self, Error> {
        Ok(self.bytes(Kind::Str, v.as_bytes()))
    }
    fn serialize_bytes(self, v: &[u8]) -> Result<Self, Error> {
        Ok(self.bytes(Kind::Bytes, v))
    }
    fn serialize_none(self) -> Result<Self, Error> {
        Ok(self.word(Kind::None, 0, 0))
    }
    fn serialize_some<T: Serialize + ?Sized>(self, value: &T) -> Result<Self, Error> {
        value.serialize(self.word(Kind::Some, 0, 0))
    }
    fn serialize_unit(self) -> Result<Self, Error> {
        Ok(self.word(Kind::Unit, 0, 0))
    }
    fn serialize_unit_struct(self, _name: &'static str) -> Result<Self, Error> {
        self.serialize_unit()
    }
    fn serialize_unit_variant(self, _name: &'static str, index: u32, _variant: &'static str) -> Result<Self, Error> {
        Ok(self.word(Kind::Variant, 0, u64::from(index)))
    }
    fn serialize_newtype_struct<T: Serialize + ?Sized>(self, _name: &'static str, value: &T) -> Result<Self, Error> {
        value.serialize(self)
    }
    fn serialize_newtype_variant<T: Serialize + ?Sized>(
        self,
        _name: &'static str,
        index: u32,
        _variant: &'static str,
        value: &T,
    ) -> Result<Self, Error> {
        value.serialize(self.word(Kind::Variant, 1, u64::from(index)))
    }
    fn serialize_seq(self, length: Option<usize>) -> Result<Parts, Error> {
        Ok(self.parts(Kind::Seq, length))
    }
    fn serialize_tuple(self, length: usize) -> Result<Parts, Error> {
        Ok(self.parts(Kind::Seq, Some(length)))
    }
    fn serialize_tuple_struct(self, _name: &'static str, length: usize) -> Result<Parts, Error> {
        Ok(self.parts(Kind::Struct, Some(length)))
    }
    fn serialize_tuple_variant(
        self,
        _name: &'static str,
        index: u32,
        _variant: &'static str,
        length: usize,
    ) -> Result<Parts, Error> {
        Ok(self.word(Kind::Variant, 2, u64::from(index)).parts(Kind::Seq, Some(length)))
    }
    fn serialize_map(self, length: Option<usize>) -> Result<Parts, Error> {
        Ok(self.parts(Kind::Map, length))
    }
    fn serialize_struct(self, _name: &'static str, length: usize) -> Result<Parts, Error> {
        Ok(self.parts(Kind::Struct, Some(length)))
    }
    fn serialize_struct_variant(
        self,
        _name: &'static str,
        index: u32,
        _variant: &'static str,
        length: usize,
    ) -> Result<Parts, Error> {
        Ok(self.word(Kind::Variant, 3, u64::from(index)).parts(Kind::Struct, Some(length)))
    }
}

/// The parts of a compound value, hashed in order and closed by their count.
struct Parts {
    hasher: StableHasher,
    count: u64,
}

impl Parts {
    fn add<T: Serialize + ?Sized>(&mut self, value: &T) -> Result<(), Error> {
        let state = self.hasher.state;
        self.hasher = value.serialize(StableHasher { state })?;
        self.count += 1;
        Ok(())
    }

    fn close(self) -> StableHasher {
        let count = self.count;
        self.hasher.word(Kind::Seq, 1, count)
    }
}

macro_rules! compound {
    ($($trait:ident :: $method:ident $(($field:ty))?;)*) => {
        $(impl ser::$trait for Parts {
            type Ok = StableHasher;
            type Error = Error;
            fn $method<T: Serialize + ?Sized>(&mut self, $(_: $field,)? value: &T) -> Result<(), Error> {
                self.add(value)
            }
            fn end(self) -> Result<StableHasher, Error> {
                Ok(self.close())
            }
        })*
    };
}

compound! {
    SerializeSeq::serialize_element;
    SerializeTuple::serialize_element;
    SerializeTupleStruct::serialize_field;
    SerializeTupleVariant::serialize_field;
    SerializeStruct::serialize_field(&'static str);
    SerializeStructVariant::serialize_field(&'static str);
}

impl ser::SerializeMap for Parts {
    type Ok = StableHasher;
    type Error = Error;
    fn serialize_key<T: Serialize + ?Sized>(&mut self, key: &T) -> Result<(), Error> {
        self.add(key)
    }
    fn serialize_value<T: Serialize + ?Sized>(&mut self, value: &T) -> Result<(), Error> {
        self.add(value)
    }
    fn end(self) -> Result<StableHasher, Error> {
        Ok(self.close())
    }
}

#[cfg(test)]
mod tests {
    use super::stable_hash;

    /// The values are frozen: a change of any of them orphans every checkpoint.
    #[test]
    fn hashes_of_known_keys_never_change() {
        let known = [
            stable_hash(&0u64),
            stable_hash(&1u64),
            stable_hash("N14228"),
            stable_hash(&("a", 1u32)),
            stable_hash(&Some(-1i64)),
        ];
        assert_eq!(known, FROZEN);
    }

    const FROZEN: [u64; 5] = [
        8_120_112_884_884_409_611,
        18_051_187_041_055_857_664,
        16_534_714_693_329_012_974,
        5_236_690_655_516_068_625,
        10_197_107_912_354_520_840,
    ];

    #[test]
    fn keys_of_different_kind_or_split_differ() {
        let hashes = [
            stable_hash(&1u64),
            stable_hash(&1i64),
            stable_hash(&1u32),
            stable_hash("1"),
            stable_hash("a_b"),
            stable_hash(&("a", "b")),
            stable_hash(&["a", "b", ""][..]),
            stable_hash("a_1"),
            stable_hash("a"),
            stable_hash(&None::<u64>),
            stable_hash(&Some(1u64)),
            stable_hash(&()),
        ];
        for (i, a) in hashes.iter().enumerate() {
            assert!(!hashes[..i].contains(a), "hash {i} collides");
        }
    }

    #[test]
    fn low_bits_are_spread() {
        let mut buckets = [0u32; 16];
        for key in 0..16_000u64 {
            buckets[(stable_hash(&(key * 1024)) % 16) as usize] += 1;
        }
        assert!(buckets.iter().all(|n| (800..1200).contains(n)), "{buckets:?}");
    }
}
