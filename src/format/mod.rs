//! Formats of types: what a checkpoint knows of the values in it.
//!
//! Values are stored as postcard, which does not tell what it is. So a checkpoint has a [`Format`] beside each type: traced
//! from the type's serde implementation, comparable between programs, and enough to show values as JSON without the
//! program that wrote them.
//!
//! # Invariants
//! - Two programs whose formats of a type are equal read each other's values of it.
//! - A type that cannot be traced has its Rust name for a format: it is compared by that, and shown as bytes.

mod json;

use std::any::type_name;
use std::collections::BTreeSet;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
pub use serde_reflection::{Format as Shape, Registry};
use serde_reflection::{Samples, Tracer, TracerConfig};

/// How often a type is traced at most, to find the variants of the enums in it.
const ROUNDS: usize = 64;

/// What is known of a type.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Format {
    /// How it is written.
    #[serde(rename = "format")]
    Traced {
        /// The type itself.
        shape: Shape,
        /// The types that it names.
        #[serde(default, skip_serializing_if = "Registry::is_empty")]
        types: Registry,
    },
    /// Its name in Rust; no more is known.
    #[serde(rename = "name")]
    Named(String),
}

impl Format {
    /// The format of `V`.
    pub fn of<V: DeserializeOwned>() -> Self {
        trace::<V>().unwrap_or_else(|| Format::Named(type_name::<V>().to_owned()))
    }

    /// Reads a format as [`Format::to_text`] wrote it.
    ///
    /// # Errors
    /// The text is none.
    pub fn from_text(text: &str) -> Result<Self, String> {
        serde_json::from_str(text).map_err(|error| format!("a format of a type: {error}"))
    }

    /// The format as a line of text: equal for types whose values can be read as each other's.
    pub fn to_text(&self) -> String {
        serde_json::to_string(self).unwrap_or_else(|error| panic!("a format has a JSON form: {error}"))
    }

    /// A value of this type as JSON; bytes in hexadecimal where the type is not known.
    pub fn show(&self, bytes: &[u8]) -> serde_json::Value {
        let whole = self.show_first(bytes).filter(|(_, rest)| rest.is_empty());
        whole.map_or_else(|| serde_json::Value::String(hex(bytes)), |(value, _)| value)
    }

    /// The value that `bytes` begin with, if its type is known, and what is behind it.
    pub(crate) fn show_first<'b>(&self, bytes: &'b [u8]) -> Option<(serde_json::Value, &'b [u8])> {
        match self {
            Format::Traced { shape, types } => json::show(shape, types, bytes),
            Format::Named(_) => None,
        }
    }
}

fn trace<V: DeserializeOwned>() -> Option<Format> {
    // Each round finds one more variant of every enum that it is told to look at again.
    let mut enums: BTreeSet<String> = BTreeSet::new();
    let mut rounds = 1;
    while rounds <= ROUNDS {
        let samples = Samples::new();
        let mut tracer = Tracer::new(TracerConfig::default().is_human_readable(false));
        let mut shape = None;
        for _ in 0..rounds {
            for name in &enums {
                tracer.check_incomplete_enum(name);
            }
            shape = Some(tracer.trace_type::<V>(&samples).ok()?.0);
        }
        match tracer.registry() {
            Ok(types) => return shape.map(|shape| Format::Traced { shape, types }),
            Err(serde_reflection::Error::MissingVariants(names)) => enums.extend(names),
            Err(_) => return None,
        }
        rounds *= 2;
    }
    None
}

/// Bytes in hexadecimal.
pub(crate) fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write;
    bytes.iter().fold(String::from("0x"), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test that unwraps in vain has failed")]
mod tests {
    use std::collections::BTreeMap;

    use serde_json::json;

    use super::*;

    #[derive(Serialize, Deserialize)]
    struct Flight {
        tail: String,
        delay: Option<i32>,
        legs: Vec<(u8, f64)>,
        state: State,
        notes: BTreeMap<u32, bool>,
    }

    #[derive(Serialize, Deserialize)]
    enum State {
        Parked,
        Flying(u16),
        Diverted { to: String },
        Lost(u8, char),
    }

    fn flight(state: State) -> Flight {
        Flight { tail: "N1".into(), delay: Some(-3), legs: vec![(1, 0.5)], state, notes: BTreeMap::from([(7, true)]) }
    }

    #[test]
    fn values_show_without_their_type() {
        let format = Format::from_text(&Format::of::<Flight>().to_text()).unwrap();
        let show = |state| format.show(&postcard::to_allocvec(&flight(state)).unwrap());
        let expected =
            |state| json!({"tail": "N1", "delay": -3, "legs": [[1, 0.5]], "state": state, "notes": {"7": true}});
        assert_eq!(show(State::Parked), expected(json!("Parked")));
        assert_eq!(show(State::Flying(9)), expected(json!({"Flying": 9})));
        assert_eq!(show(State::Diverted { to: "x".into() }), expected(json!({"Diverted": {"to": "x"}})));
        assert_eq!(show(State::Lost(1, 'c')), expected(json!({"Lost": [1, "c"]})));
    }

    #[test]
    fn a_changed_type_has_another_text() {
        assert_eq!(Format::of::<(u64, String)>().to_text(), Format::of::<(u64, String)>().to_text());
        assert_ne!(Format::of::<u64>().to_text(), Format::of::<i64>().to_text());
        assert_ne!(Format::of::<Option<u8>>().to_text(), Format::of::<u8>().to_text());
        assert_eq!(Format::of::<u64>().to_text(), r#"{"format":{"shape":"U64"}}"#);
    }

    #[test]
    fn bytes_that_are_no_value_show_as_bytes() {
        assert_eq!(Format::of::<String>().show(&[200, 1]), json!("0xc801"));
    }
}
