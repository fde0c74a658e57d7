//! What keys remember in one place, as the updates of a differential collection (rule D1).
//!
//! # Invariants
//! - At every time each key has at most one value: a new one comes with the retraction of the old one.
//! - The times of a key ascend: a change that comes at a time beside the key's last one comes after both.

use foldhash::fast::FixedState;
use hashbrown::HashMap;
use serde::de::DeserializeOwned;
use timely::ExchangeData;
use timely::container::CapacityContainerBuilder;
use timely::dataflow::StreamVec;
use timely::dataflow::channels::pact::Pipeline;
use timely::dataflow::operators::generic::OutputBuilder;
use timely::dataflow::operators::generic::builder_rc::OperatorBuilder;

use crate::fact::{Block, What};
use crate::operator::Restore;
use crate::time::EpochTime;

/// Keys and what they remember, as updates.
pub type MemoryUpdates<'scope, T, K, V> = StreamVec<'scope, T, ((K, V), T, isize)>;

type Port<T, K, V> = OutputBuilder<T, CapacityContainerBuilder<Vec<((K, V), T, isize)>>>;

struct Known<V, T> {
    value: V,
    time: T,
}

/// The memory of an agent in the place `what`: of its facts, those about it. Begins with what `restore` gives, as of the
/// epoch before `resume`. `on_failure` is told what cannot be read; the collection then stays open for ever.
pub fn memory<'scope, T, K, V>(
    facts: StreamVec<'scope, T, Block<T>>,
    name: &str,
    what: What,
    resume: u64,
    restore: Option<Restore>,
    on_failure: impl Fn(String) + 'static,
) -> MemoryUpdates<'scope, T, K, V>
where
    T: EpochTime,
    K: ExchangeData + DeserializeOwned,
    V: ExchangeData + Clone + DeserializeOwned,
{
    let mut builder = OperatorBuilder::new(format!("Memory {name}"), facts.scope());
    let mut input = builder.new_input(facts, Pipeline);
    let (port, updates) = builder.new_output();
    let mut port: Port<T, K, V> = OutputBuilder::from(port);
    builder.build(move |mut capabilities| {
        let start = T::minimum().with_epoch(resume.saturating_sub(1));
        // By encoded key, which is compared faster than most keys.
        let mut known: HashMap<Vec<u8>, Known<V, T>, FixedState> = HashMap::default();
        let mut first = Ok(());
        if let Some(restore) = restore {
            first = restore(&mut |fact| {
                if fact.what == what {
                    match fact.value {
                        Some(bytes) => {
                            let value = postcard::from_bytes(bytes).map_err(|error| error.to_string())?;
                            known.insert(fact.key.to_vec(), Known { value, time: start.clone() });
                        }
                        None => drop(known.remove(fact.key)),
                    }
                }
                Ok(())
            });
        }
        let mut initial = capabilities.pop();
        let mut failed = false;
        move |_| {
            if failed {
                return;
            }
            let mut output = port.activate();
            let mut step = || -> Result<(), String> {
                std::mem::replace(&mut first, Ok(()))?;
                let key = |bytes: &[u8]| postcard::from_bytes::<K>(bytes).map_err(|error| error.to_string());
                if let Some(held) = &initial {
                    let mut given = Vec::new();
                    for (bytes, known) in &known {
                        given.push(((key(bytes)?, known.value.clone()), start.clone(), 1));
                    }
                    if !given.is_empty() {
                        output.session(&held.delayed(&start)).give_iterator(given.into_iter());
                    }
                    initial = None;
                }
                let mut result = Ok(());
                input.for_each(|capability, blocks| {
                    let mut changes = Vec::new();
                    for block in blocks.drain(..) {
                        let read = block.each(&mut |time, fact| {
                            if fact.what == what && result.is_ok() {
                                result = change(&mut known, time, fact.key, fact.value, &mut changes);
                            }
                        });
                        if let Err(error) = read {
                            result = Err(error.to_string());
                        }
                    }
                    output.session(&capability).give_iterator(changes.into_iter());
                });
                result
            };
            if let Err(error) = step() {
                failed = true;
                on_failure(error);
            }
        }
    });
    updates
}

/// A key remembers another value from `time` on.
fn change<T: EpochTime, K: DeserializeOwned, V: Clone + DeserializeOwned>(
    known: &mut HashMap<Vec<u8>, Known<V, T>, FixedState>,
    time: &T,
    bytes: &[u8],
    value: Option<&[u8]>,
    changes: &mut Vec<((K, V), T, isize)>,
) -> Result<(), String> {
    let decode = || postcard::from_bytes::<K>(bytes).map_err(|error| error.to_string());
    let old = known.remove(bytes);
    let time = old.as_ref().map_or_else(|| time.clone(), |old| old.time.after_both(time));
    if let Some(old) = old {
        changes.push(((decode()?, old.value), time.clone(), -1));
    }
    if let Some(value) = value {
        let value: V = postcard::from_bytes(value).map_err(|error| error.to_string())?;
        changes.push(((decode()?, value.clone()), time.clone(), 1));
        known.insert(bytes.to_vec(), Known { value, time });
    }
    Ok(())
}
