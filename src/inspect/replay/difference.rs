//! Where a run that is done again is not what it was.

use std::fmt::{self, Display, Formatter};

use serde::Serialize;
use serde_json::Value;

/// One difference. Where something has no counterpart, that is missing; a value that is not kept is null.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Difference {
    /// Another call, or one more or less: what was asked for, and what is now.
    Call(String),
    /// An output.
    Output {
        /// Its number in the run, from 1.
        number: usize,
        /// What it was.
        #[serde(skip_serializing_if = "Option::is_none")]
        recorded: Option<Value>,
        /// What it is.
        #[serde(skip_serializing_if = "Option::is_none")]
        replayed: Option<Value>,
    },
    /// A value of a side output.
    Side {
        /// The side output's name.
        name: String,
        /// The value's number in the run among those of this side output, from 1.
        number: usize,
        /// What it was.
        #[serde(skip_serializing_if = "Option::is_none")]
        recorded: Option<Value>,
        /// What it is.
        #[serde(skip_serializing_if = "Option::is_none")]
        replayed: Option<Value>,
    },
    /// How many values went to a side output, where the values are not kept.
    Sides {
        /// Its name.
        name: String,
        /// How many did.
        recorded: usize,
        /// How many do.
        replayed: usize,
    },
    /// An event that a finished step of an unfinished run has sent.
    Event {
        /// Its number among those that are compared, from 1.
        number: usize,
        /// What it was: its name, and what it said.
        #[serde(skip_serializing_if = "Option::is_none")]
        recorded: Option<Value>,
        /// What it is.
        #[serde(skip_serializing_if = "Option::is_none")]
        replayed: Option<Value>,
    },
    /// What a slot or path holds when the run is over, or, of an unfinished one, behind its finished steps; null where it
    /// holds nothing.
    Memory {
        /// The slot's name, or the path.
        place: String,
        /// What it held.
        recorded: Value,
        /// What it holds.
        replayed: Value,
    },
    /// How the run ends.
    End {
        /// How it did.
        recorded: String,
        /// How it does.
        replayed: String,
    },
}

impl Display for Difference {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let shown = |value: &Option<Value>| value.as_ref().map_or_else(|| "none".to_owned(), Value::to_string);
        match self {
            Difference::Call(what) => write!(f, "call: {what}"),
            Difference::Output { number, recorded, replayed } => {
                write!(f, "output {number}: recorded {}, replayed {}", shown(recorded), shown(replayed))
            }
            Difference::Side { name, number, recorded, replayed } => {
                write!(f, "side output {name:?}, value {number}: recorded {}", shown(recorded))?;
                write!(f, ", replayed {}", shown(replayed))
            }
            Difference::Sides { name, recorded, replayed } => write!(
                f,
                "side output {name:?}: recorded {recorded} values, replayed {replayed}; what they are is not kept \
                 (`Agent::retain_side`)"
            ),
            Difference::Event { number, recorded, replayed } => {
                write!(f, "event {number}: recorded {}, replayed {}", shown(recorded), shown(replayed))
            }
            Difference::Memory { place, recorded, replayed } => {
                write!(f, "memory {place}: recorded {recorded}, replayed {replayed}")
            }
            Difference::End { recorded, replayed } => write!(f, "end: recorded {recorded}, replayed {replayed}"),
        }
    }
}
