//! A line's fields as a Rust value, by serde: fields come in the order of the struct's, whatever the file's.
//!
//! # Invariants
//! - An error is the first field's that does not fit, and tells which.

use std::any::type_name;
use std::fmt::{self, Display};

use csv::StringRecord;
use serde::de::value::StrDeserializer;
use serde::de::{
    self, DeserializeOwned, DeserializeSeed, Deserializer, EnumAccess, IntoDeserializer, SeqAccess, Visitor,
};
use serde::forward_to_deserialize_any;

/// Why a row is not a value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct RowError {
    /// Which field, in the order of the struct's.
    pub(super) field: Option<usize>,
    pub(super) why: String,
}

impl Display for RowError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.why)
    }
}

impl std::error::Error for RowError {}

impl de::Error for RowError {
    fn custom<T: Display>(why: T) -> Self {
        RowError { field: None, why: why.to_string() }
    }
}

/// The name of a type without its path.
pub(super) fn name_of<R>() -> &'static str {
    let name = type_name::<R>();
    name.rsplit("::").next().unwrap_or(name)
}

/// The names of the fields of the struct `R`.
pub(super) fn fields_of<R: DeserializeOwned>() -> Result<&'static [&'static str], String> {
    let mut fields = None;
    // It fails as soon as the names are known.
    let _ = R::deserialize(Names(&mut fields));
    fields.ok_or_else(|| "it is not a struct with named fields".to_owned())
}

/// Asks a struct for the names of its fields.
struct Names<'a>(&'a mut Option<&'static [&'static str]>);

impl<'de> Deserializer<'de> for Names<'_> {
    type Error = RowError;

    fn deserialize_any<V: Visitor<'de>>(self, _: V) -> Result<V::Value, RowError> {
        Err(de::Error::custom("not a struct"))
    }

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        fields: &'static [&'static str],
        _: V,
    ) -> Result<V::Value, RowError> {
        *self.0 = Some(fields);
        Err(de::Error::custom("the names are known"))
    }

    forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char str string bytes byte_buf option unit unit_struct
        newtype_struct seq tuple tuple_struct map enum identifier ignored_any
    }
}

/// Reads the fields of `record` at `places` as the fields of `R`. An `Option` whose field is `none` is `None`.
pub(super) fn read<R: DeserializeOwned>(record: &StringRecord, places: &[usize], none: &str) -> Result<R, RowError> {
    R::deserialize(Row { record, places, none, next: 0 })
}

struct Row<'a> {
    record: &'a StringRecord,
    places: &'a [usize],
    none: &'a str,
    next: usize,
}

impl<'de> Deserializer<'de> for Row<'_> {
    type Error = RowError;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, RowError> {
        visitor.visit_seq(self)
    }

    forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char str string bytes byte_buf option unit unit_struct
        newtype_struct seq tuple tuple_struct map struct enum identifier ignored_any
    }
}

impl<'de> SeqAccess<'de> for Row<'_> {
    type Error = RowError;

    fn next_element_seed<V: DeserializeSeed<'de>>(&mut self, seed: V) -> Result<Option<V::Value>, RowError> {
        let index = self.next;
        let Some(text) = self.places.get(index).map(|place| &self.record[*place]) else {
            return Ok(None);
        };
        self.next += 1;
        let field = Field { text, none: self.none };
        seed.deserialize(field).map(Some).map_err(|error| RowError { field: error.field.or(Some(index)), ..error })
    }
}

struct Field<'a> {
    text: &'a str,
    none: &'a str,
}

/// Parses the text and visits the value.
macro_rules! parsed {
    ($($deserialize:ident $visit:ident $what:literal),* $(,)?) => {$(
        fn $deserialize<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, RowError> {
            match self.text.parse() {
                Ok(value) => visitor.$visit(value),
                Err(error) => Err(de::Error::custom(format_args!(concat!("not ", $what, ": {}"), error))),
            }
        }
    )*};
}

impl<'de> Deserializer<'de> for Field<'_> {
    type Error = RowError;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, RowError> {
        visitor.visit_str(self.text)
    }

    parsed! {
        deserialize_bool visit_bool "true or false",
        deserialize_i8 visit_i8 "a whole number",
        deserialize_i16 visit_i16 "a whole number",
        deserialize_i32 visit_i32 "a whole number",
        deserialize_i64 visit_i64 "a whole number",
        deserialize_i128 visit_i128 "a whole number",
        deserialize_u8 visit_u8 "a whole number",
        deserialize_u16 visit_u16 "a whole number",
        deserialize_u32 visit_u32 "a whole number",
        deserialize_u64 visit_u64 "a whole number",
        deserialize_u128 visit_u128 "a whole number",
        deserialize_f32 visit_f32 "a number",
        deserialize_f64 visit_f64 "a number",
        deserialize_char visit_char "one character",
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, RowError> {
        if self.text == self.none { visitor.visit_none() } else { visitor.visit_some(self) }
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(self, _: &'static str, visitor: V) -> Result<V::Value, RowError> {
        visitor.visit_newtype_struct(self)
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        _: &'static str,
        _: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, RowError> {
        visitor.visit_enum(Variant(self.text.into_deserializer()))
    }

    forward_to_deserialize_any! {
        str string bytes byte_buf unit unit_struct seq tuple tuple_struct map struct identifier ignored_any
    }
}

/// The name of a variant without fields.
struct Variant<'a>(StrDeserializer<'a, RowError>);

impl<'de> EnumAccess<'de> for Variant<'_> {
    type Error = RowError;
    type Variant = <StrDeserializer<'static, RowError> as EnumAccess<'static>>::Variant;

    fn variant_seed<V: DeserializeSeed<'de>>(self, seed: V) -> Result<(V::Value, Self::Variant), RowError> {
        self.0.variant_seed(seed)
    }
}
