//! Values as bytes, for a journal: short ones are put together on the stack, and cost one allocation of their length.
//!
//! Bytes inside of values are written and read at once: serde's own way is one by one, with the same result.

use serde::Serialize;

/// Values up to this length, in bytes, are put together on the stack.
const SHORT: usize = 256;

/// A value, encoded.
///
/// # Errors
/// It cannot be.
pub fn encoded<V: Serialize + ?Sized>(value: &V) -> Result<Vec<u8>, postcard::Error> {
    match postcard::to_slice(value, &mut [0; SHORT]) {
        Ok(bytes) => Ok(bytes.to_vec()),
        Err(postcard::Error::SerializeBufferFull) => postcard::to_allocvec(value),
        Err(error) => Err(error),
    }
}

/// For `#[serde(with = "…")]` of bytes.
pub(crate) mod bytes {
    use std::fmt::{self, Formatter};

    use serde::de::{Error, Visitor};
    use serde::{Deserializer, Serializer};

    pub(crate) fn serialize<S: Serializer>(bytes: &[u8], serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_bytes(bytes)
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<u8>, D::Error> {
        deserializer.deserialize_bytes(Bytes)
    }

    struct Bytes;

    impl Visitor<'_> for Bytes {
        type Value = Vec<u8>;

        fn expecting(&self, f: &mut Formatter<'_>) -> fmt::Result {
            f.write_str("bytes")
        }

        fn visit_bytes<E: Error>(self, bytes: &[u8]) -> Result<Vec<u8>, E> {
            Ok(bytes.to_vec())
        }
    }
}

#[cfg(test)]
mod tests {
    use serde::Deserialize;

    use super::*;

    #[derive(Debug, PartialEq, Serialize, Deserialize)]
    struct AtOnce {
        before: u32,
        #[serde(with = "bytes")]
        bytes: Vec<u8>,
    }

    #[test]
    fn bytes_at_once_are_those_of_one_by_one() {
        for length in [0, 1, 127, 128, SHORT - 4, SHORT, 70_000] {
            let bytes: Vec<u8> = (0..length).map(|n| n as u8).collect();
            let one_by_one = postcard::to_allocvec(&(7u32, &bytes)).unwrap();
            let at_once = AtOnce { before: 7, bytes };
            assert_eq!(encoded(&at_once).unwrap(), one_by_one, "{length} bytes");
            assert_eq!(postcard::from_bytes::<AtOnce>(&one_by_one).unwrap(), at_once);
            let cut = &one_by_one[..one_by_one.len() - 1];
            assert!(postcard::from_bytes::<AtOnce>(cut).is_err());
        }
    }
}
