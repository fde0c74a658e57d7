//! What two runs have put out, compared.

use std::collections::BTreeSet;

use serde_json::Value;

use super::Difference;
use crate::record::Puts;

/// How far runs can be compared.
#[derive(Clone, Copy)]
pub(super) enum Far {
    /// As far as both have come.
    AsItGoes,
    /// As far as the run has come now.
    ToACall,
    /// As far as it had come.
    AsRecorded,
    /// Both are as far as they go.
    ToTheEnd,
}

impl Far {
    /// How many of what was put out.
    fn of(self, then: usize, now: usize) -> usize {
        match self {
            Far::AsItGoes => then.min(now),
            Far::ToACall => now,
            Far::AsRecorded => then,
            Far::ToTheEnd => then.max(now),
        }
    }
}

pub(super) fn compare(then: &Puts, now: &Puts, far: Far, differences: &mut Vec<Difference>) {
    for at in 0..far.of(then.outputs.len(), now.outputs.len()) {
        let (then, now) = (then.outputs.get(at), now.outputs.get(at));
        if differs(then, now) {
            let (recorded, replayed) = (then.map(|then| value(then.as_ref())), now.map(|now| value(now.as_ref())));
            differences.push(Difference::Output { number: at + 1, recorded, replayed });
        }
    }
    let names: BTreeSet<&String> = then.sides.keys().chain(now.sides.keys()).collect();
    for name in names {
        let of = |puts: &Puts| puts.sides.get(name).cloned().unwrap_or_default();
        let (then, now) = (of(then), of(now));
        let count = far.of(then.len(), now.len());
        let compared = then.iter().take(count).chain(now.iter().take(count));
        if compared.clone().any(Option::is_none) {
            let counts = (then.len().min(count), now.len().min(count));
            if counts.0 != counts.1 {
                let (recorded, replayed) = (then.len(), now.len());
                differences.push(Difference::Sides { name: name.clone(), recorded, replayed });
            }
            continue;
        }
        for at in 0..count {
            let (then, now) = (then.get(at), now.get(at));
            if differs(then, now) {
                let (recorded, replayed) = (then.map(|then| value(then.as_ref())), now.map(|now| value(now.as_ref())));
                differences.push(Difference::Side { name: name.clone(), number: at + 1, recorded, replayed });
            }
        }
    }
}

/// A value that is not kept equals any.
fn differs(then: Option<&Option<String>>, now: Option<&Option<String>>) -> bool {
    match (then, now) {
        (Some(Some(then)), Some(Some(now))) => then != now,
        (then, now) => then.is_some() != now.is_some(),
    }
}

fn value(text: Option<&String>) -> Value {
    text.map_or(Value::Null, |text| serde_json::from_str(text).unwrap_or(Value::Null))
}
