//! Whether what a call gave is an error: the `Err` of a [`Result`], which serde tells by its name.

use serde::ser::{self, Impossible, Serialize};

/// Whether a value is an `Err`.
pub(crate) fn is_error<R: Serialize + ?Sized>(value: &R) -> bool {
    value.serialize(Probe).is_ok()
}

/// Succeeds at an `Err`, and looks no further than the outermost value.
struct Probe;

/// It is anything else.
#[derive(Debug, thiserror::Error)]
#[error("no error")]
struct NoError;

impl ser::Error for NoError {
    fn custom<T: std::fmt::Display>(_: T) -> Self {
        NoError
    }
}

macro_rules! no_error {
    ($($method:ident($($type:ty),*) -> $given:ty;)*) => {
        $(fn $method(self, $(_: $type),*) -> Result<$given, NoError> {
            Err(NoError)
        })*
    };
}

impl ser::Serializer for Probe {
    type Ok = ();
    type Error = NoError;
    type SerializeSeq = Impossible<(), NoError>;
    type SerializeTuple = Impossible<(), NoError>;
    type SerializeTupleStruct = Impossible<(), NoError>;
    type SerializeTupleVariant = Impossible<(), NoError>;
    type SerializeMap = Impossible<(), NoError>;
    type SerializeStruct = Impossible<(), NoError>;
    type SerializeStructVariant = Impossible<(), NoError>;

    no_error! {
        serialize_bool(bool) -> ();
        serialize_i8(i8) -> ();
        serialize_i16(i16) -> ();
        serialize_i32(i32) -> ();
        serialize_i64(i64) -> ();
        serialize_i128(i128) -> ();
        serialize_u8(u8) -> ();
        serialize_u16(u16) -> ();
        serialize_u32(u32) -> ();
        serialize_u64(u64) -> ();
        serialize_u128(u128) -> ();
        serialize_f32(f32) -> ();
        serialize_f64(f64) -> ();
        serialize_char(char) -> ();
        serialize_str(&str) -> ();
        serialize_bytes(&[u8]) -> ();
        serialize_none() -> ();
        serialize_unit() -> ();
        serialize_unit_struct(&'static str) -> ();
        serialize_unit_variant(&'static str, u32, &'static str) -> ();
        serialize_seq(Option<usize>) -> Self::SerializeSeq;
        serialize_tuple(usize) -> Self::SerializeTuple;
        serialize_tuple_struct(&'static str, usize) -> Self::SerializeTupleStruct;
        serialize_tuple_variant(&'static str, u32, &'static str, usize) -> Self::SerializeTupleVariant;
        serialize_map(Option<usize>) -> Self::SerializeMap;
        serialize_struct(&'static str, usize) -> Self::SerializeStruct;
        serialize_struct_variant(&'static str, u32, &'static str, usize) -> Self::SerializeStructVariant;
    }

    fn serialize_some<T: Serialize + ?Sized>(self, _: &T) -> Result<(), NoError> {
        Err(NoError)
    }

    fn serialize_newtype_struct<T: Serialize + ?Sized>(self, _: &'static str, value: &T) -> Result<(), NoError> {
        value.serialize(self)
    }

    fn serialize_newtype_variant<T: Serialize + ?Sized>(
        self,
        name: &'static str,
        _: u32,
        variant: &'static str,
        _: &T,
    ) -> Result<(), NoError> {
        if name == "Result" && variant == "Err" { Ok(()) } else { Err(NoError) }
    }
}

#[cfg(test)]
mod tests {
    use serde::Serialize;

    use super::is_error;

    #[derive(Serialize)]
    struct Answer(Result<u8, String>);

    #[derive(Serialize)]
    enum Verdict {
        Err(u8),
        Other { code: u8 },
    }

    #[test]
    fn only_the_err_of_a_result_is_an_error() {
        assert!(is_error(&Err::<u8, _>("busy")));
        assert!(is_error(&Err::<u8, ()>(())));
        assert!(is_error(&Answer(Err("busy".into()))), "a result by another name");
        assert!(!is_error(&Ok::<_, String>(Err::<u8, _>("within"))));
        assert!(!is_error(&Answer(Ok(1))));
        assert!(!is_error(&Verdict::Err(1)), "what is called so, and is no result");
        assert!(!is_error(&Verdict::Other { code: 1 }));
        assert!(!is_error(&Some(Err::<u8, u8>(1))) && !is_error(&(Err::<u8, u8>(1), 2)) && !is_error(&"Err"));
    }
}
