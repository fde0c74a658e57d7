//! Digests of a call's arguments: of all of them, and of each where there are several.

use serde::ser::{self, Impossible, Serialize};
use timely_agents_operators::hash::stable_hash;

/// Beyond so many they are one: an array, not a list of arguments.
const MOST: usize = 16;

/// The digests of arguments. Not 0, which stands for arguments that are not known.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Digests {
    pub(crate) whole: u64,
    /// Of each, where they are a tuple or a struct; shortened, for they only say which one differs.
    pub(crate) parts: Vec<u32>,
    /// The names of the fields of a struct.
    pub(crate) fields: Vec<&'static str>,
}

/// Digests arguments.
pub(crate) fn digest<A: Serialize + ?Sized>(args: &A) -> Digests {
    match args.serialize(Apart) {
        Ok(Parts { hashes, fields }) => Digests {
            whole: stable_hash(&hashes).max(1),
            parts: hashes.iter().map(|hash| *hash as u32).collect(),
            fields,
        },
        Err(NotApart) => Digests { whole: stable_hash(args).max(1), parts: Vec::new(), fields: Vec::new() },
    }
}

/// Takes arguments apart.
struct Apart;

/// They are no tuple and no struct.
#[derive(Debug, thiserror::Error)]
#[error("a single argument")]
struct NotApart;

impl ser::Error for NotApart {
    fn custom<T: std::fmt::Display>(_: T) -> Self {
        NotApart
    }
}

/// What the arguments are, one by one.
#[derive(Default)]
struct Parts {
    hashes: Vec<u64>,
    fields: Vec<&'static str>,
}

impl Parts {
    fn begin(length: usize) -> Result<Self, NotApart> {
        if length > MOST { Err(NotApart) } else { Ok(Parts { hashes: Vec::with_capacity(length), fields: Vec::new() }) }
    }
}

macro_rules! single {
    ($($method:ident($($type:ty),*);)*) => {
        $(fn $method(self, $(_: $type),*) -> Result<Parts, NotApart> {
            Err(NotApart)
        })*
    };
}

impl ser::Serializer for Apart {
    type Ok = Parts;
    type Error = NotApart;
    type SerializeSeq = Impossible<Parts, NotApart>;
    type SerializeTuple = Parts;
    type SerializeTupleStruct = Parts;
    type SerializeTupleVariant = Impossible<Parts, NotApart>;
    type SerializeMap = Impossible<Parts, NotApart>;
    type SerializeStruct = Parts;
    type SerializeStructVariant = Impossible<Parts, NotApart>;

    single! {
        serialize_bool(bool);
        serialize_i8(i8);
        serialize_i16(i16);
        serialize_i32(i32);
        serialize_i64(i64);
        serialize_i128(i128);
        serialize_u8(u8);
        serialize_u16(u16);
        serialize_u32(u32);
        serialize_u64(u64);
        serialize_u128(u128);
        serialize_f32(f32);
        serialize_f64(f64);
        serialize_char(char);
        serialize_str(&str);
        serialize_bytes(&[u8]);
        serialize_none();
        serialize_unit();
        serialize_unit_struct(&'static str);
        serialize_unit_variant(&'static str, u32, &'static str);
    }

    fn serialize_some<T: Serialize + ?Sized>(self, _: &T) -> Result<Parts, NotApart> {
        Err(NotApart)
    }
    fn serialize_newtype_struct<T: Serialize + ?Sized>(self, _: &'static str, value: &T) -> Result<Parts, NotApart> {
        value.serialize(self)
    }
    fn serialize_newtype_variant<T: Serialize + ?Sized>(
        self,
        _: &'static str,
        _: u32,
        _: &'static str,
        _: &T,
    ) -> Result<Parts, NotApart> {
        Err(NotApart)
    }
    fn serialize_seq(self, _: Option<usize>) -> Result<Self::SerializeSeq, NotApart> {
        Err(NotApart)
    }
    fn serialize_tuple(self, length: usize) -> Result<Parts, NotApart> {
        Parts::begin(length)
    }
    fn serialize_tuple_struct(self, _: &'static str, length: usize) -> Result<Parts, NotApart> {
        Parts::begin(length)
    }
    fn serialize_tuple_variant(
        self,
        _: &'static str,
        _: u32,
        _: &'static str,
        _: usize,
    ) -> Result<Self::SerializeTupleVariant, NotApart> {
        Err(NotApart)
    }
    fn serialize_map(self, _: Option<usize>) -> Result<Self::SerializeMap, NotApart> {
        Err(NotApart)
    }
    fn serialize_struct(self, _: &'static str, length: usize) -> Result<Parts, NotApart> {
        Parts::begin(length)
    }
    fn serialize_struct_variant(
        self,
        _: &'static str,
        _: u32,
        _: &'static str,
        _: usize,
    ) -> Result<Self::SerializeStructVariant, NotApart> {
        Err(NotApart)
    }
}

impl ser::SerializeTuple for Parts {
    type Ok = Parts;
    type Error = NotApart;
    fn serialize_element<T: Serialize + ?Sized>(&mut self, value: &T) -> Result<(), NotApart> {
        self.hashes.push(stable_hash(value));
        Ok(())
    }
    fn end(self) -> Result<Parts, NotApart> {
        Ok(self)
    }
}

impl ser::SerializeTupleStruct for Parts {
    type Ok = Parts;
    type Error = NotApart;
    fn serialize_field<T: Serialize + ?Sized>(&mut self, value: &T) -> Result<(), NotApart> {
        self.hashes.push(stable_hash(value));
        Ok(())
    }
    fn end(self) -> Result<Parts, NotApart> {
        Ok(self)
    }
}

impl ser::SerializeStruct for Parts {
    type Ok = Parts;
    type Error = NotApart;
    fn serialize_field<T: Serialize + ?Sized>(&mut self, name: &'static str, value: &T) -> Result<(), NotApart> {
        self.hashes.push(stable_hash(value));
        self.fields.push(name);
        Ok(())
    }
    fn end(self) -> Result<Parts, NotApart> {
        Ok(self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(serde::Serialize)]
    struct Order<'a> {
        item: &'a str,
        count: u32,
    }

    #[derive(serde::Serialize)]
    struct Wrapped<T>(T);

    #[test]
    fn each_argument_has_a_digest_of_its_own() {
        let (a, b) = (digest(&("x", 1u32)), digest(&("x", 2u32)));
        assert_ne!(a.whole, b.whole);
        assert_eq!(a.parts[0], b.parts[0]);
        assert_ne!(a.parts[1], b.parts[1]);
        let order = digest(&Wrapped(Order { item: "x", count: 1 }));
        assert_eq!((order.fields, order.parts), (vec!["item", "count"], a.parts));
    }

    #[test]
    fn what_is_no_list_of_arguments_is_one() {
        let single: [Digests; 7] = [
            digest(&()),
            digest(&7u64),
            digest("seven"),
            digest(&vec![1, 2]),
            digest(&Some((1, 2))),
            digest(&Ok::<_, ()>((1, 2))),
            digest(&[0u8; 32]),
        ];
        for (i, digests) in single.iter().enumerate() {
            assert!(digests.whole != 0 && digests.parts.is_empty(), "{digests:?}");
            assert!(!single[..i].iter().any(|other| other.whole == digests.whole));
        }
        assert_ne!(digest(&("ab", "c")).whole, digest(&("a", "bc")).whole);
        assert_ne!(digest(&(1,)).whole, digest(&1).whole);
    }
}
