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
use std::fmt;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_reflection::{Format as Shape, Registry, Samples, Tracer, TracerConfig};

/// How often a type is traced at most, to find the variants of the enums in it.
const ROUNDS: usize = 64;

/// What is known of a type.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Format {
    /// Its name in Rust.
    name: String,
    /// How it is written, if that could be traced.
    traced: Option<Traced>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Traced {
    shape: Shape,
    registry: Registry,
}

impl Format {
    /// The format of `V`.
    pub fn of<V: DeserializeOwned>() -> Self {
        Format { name: type_name::<V>().to_owned(), traced: trace::<V>() }
    }

    /// Reads a format as [`Format::to_text`] wrote it.
    ///
    /// # Errors
    /// The text is none.
    pub fn from_text(text: &str) -> Result<Self, String> {
        serde_json::from_str(text).map_err(|error| format!("a format of a type: {error}"))
    }

    /// The format as a line of text.
    pub fn to_text(&self) -> String {
        serde_json::to_string(self).unwrap_or_else(|error| panic!("a format has a JSON form: {error}"))
    }

    /// Whether values of the one can be read as values of the other.
    pub fn matches(&self, other: &Format) -> bool {
        match (&self.traced, &other.traced) {
            (Some(a), Some(b)) => a == b,
            _ => self.name == other.name,
        }
    }

    /// A value of this type as JSON; bytes in hexadecimal where the type is not known.
    pub fn show(&self, bytes: &[u8]) -> serde_json::Value {
        let shown = self.traced.as_ref().and_then(|traced| json::show(&traced.shape, &traced.registry, bytes));
        shown.unwrap_or_else(|| serde_json::Value::String(hex(bytes)))
    }
}

impl fmt::Display for Format {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.name)
    }
}

fn trace<V: DeserializeOwned>() -> Option<Traced> {
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
            Ok(registry) => return shape.map(|shape| Traced { shape, registry }),
            Err(serde_reflection::Error::MissingVariants(names)) => enums.extend(names),
            Err(_) => return None,
        }
        rounds *= 2;
    }
    None
}

fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write;
    bytes.iter().fold(String::from("0x"), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

#[cfg(test)]
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
    fn a_changed_type_does_not_match() {
        assert!(Format::of::<(u64, String)>().matches(&Format::of::<(u64, String)>()));
        assert!(!Format::of::<u64>().matches(&Format::of::<i64>()));
        assert!(!Format::of::<Option<u8>>().matches(&Format::of::<u8>()));
    }

    #[test]
    fn bytes_that_are_no_value_show_as_bytes() {
        assert_eq!(Format::of::<String>().show(&[200, 1]), json!("0xc801"));
    }
}
