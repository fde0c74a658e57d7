//! Values of dynamic memory as JSON.

use ciborium::Value as Cbor;
use serde_json::{Number, Value};

use crate::format::hex;

/// The value in `bytes`, which are CBOR; in hexadecimal if they are not.
pub(super) fn show(bytes: &[u8]) -> Value {
    match ciborium::from_reader(bytes) {
        Ok(value) => json(value),
        Err(_) => Value::String(hex(bytes)),
    }
}

fn json(value: Cbor) -> Value {
    match value {
        Cbor::Integer(n) => {
            let n = i128::from(n);
            Number::from_i128(n).map_or_else(|| Value::String(n.to_string()), Value::Number)
        }
        Cbor::Bytes(bytes) => Value::String(hex(&bytes)),
        Cbor::Float(n) => Number::from_f64(n).map_or_else(|| Value::String(n.to_string()), Value::Number),
        Cbor::Text(text) => Value::String(text),
        Cbor::Bool(truth) => Value::Bool(truth),
        Cbor::Tag(_, value) => json(*value),
        Cbor::Array(values) => values.into_iter().map(json).collect(),
        Cbor::Map(pairs) => {
            let key = |key| match json(key) {
                Value::String(text) => text,
                other => other.to_string(),
            };
            Value::Object(pairs.into_iter().map(|(k, v)| (key(k), json(v))).collect())
        }
        _ => Value::Null,
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test that unwraps in vain has failed")]
mod tests {
    use std::collections::BTreeMap;

    use serde_json::json;

    use super::*;

    #[test]
    fn values_show_as_json_and_other_bytes_as_bytes() {
        let mut bytes = Vec::new();
        let value = (7u8, -1.5, "text", Some(true), None::<u8>, BTreeMap::from([(3, f64::NAN)]), u64::MAX);
        ciborium::into_writer(&value, &mut bytes).unwrap();
        assert_eq!(show(&bytes), json!([7, -1.5, "text", true, null, {"3": "NaN"}, u64::MAX]));
        assert_eq!(show(&[0xFF, 1]), json!("0xff01"));
    }
}
