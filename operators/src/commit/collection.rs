//! Collections that survive: their rows and multiplicities are facts (rule D11).
//!
//! # Invariants
//! - What a resumed collection gives first is its consolidation as of the last committed epoch, at that epoch.
//! - A row's fact is its multiplicity as of the end of an epoch, written if the epoch has changed it.

use std::collections::BTreeMap;
use std::hash::Hash;

use foldhash::fast::FixedState;
use hashbrown::HashMap;
use serde::Serialize;
use serde::de::DeserializeOwned;
use timely::ExchangeData;
use timely::container::CapacityContainerBuilder;
use timely::dataflow::StreamVec;
use timely::dataflow::channels::pact::Exchange;
use timely::dataflow::operators::Capability;
use timely::dataflow::operators::generic::OutputBuilder;
use timely::dataflow::operators::generic::builder_rc::OperatorBuilder;

use super::least_epoch;
use crate::fact::{Block, BlockWriter, What, append};
use crate::group::KeyGroups;
use crate::operator::Restore;
use crate::time::{EpochTime, TimeOrder};

/// Updates of a collection: rows, their times, and by how much their multiplicity changes.
pub type Updates<'scope, T, D> = StreamVec<'scope, T, (D, T, isize)>;

/// What a row can be.
pub trait Rows: ExchangeData + Clone + Hash + Eq + Serialize + DeserializeOwned {}

impl<D: ExchangeData + Clone + Hash + Eq + Serialize + DeserializeOwned> Rows for D {}

type Port<T, D> = OutputBuilder<T, CapacityContainerBuilder<Vec<D>>>;

/// What an epoch has changed so far.
struct Epoch<T: EpochTime, D> {
    /// For its facts.
    capability: Capability<T>,
    changes: HashMap<D, i64, FixedState>,
}

/// Passes the updates of a collection on and makes facts of them; begins with the rows that `restore` gives, as of the
/// epoch before `resume`. `on_failure` is told what cannot be restored; the collection then stays open for ever.
pub fn checkpointed<'scope, T: EpochTime, D: Rows>(
    updates: Updates<'scope, T, D>,
    name: &str,
    groups: KeyGroups,
    resume: u64,
    restore: Option<Restore>,
    on_failure: impl Fn(String) + 'static,
) -> (Updates<'scope, T, D>, StreamVec<'scope, T, Block<T>>) {
    let scope = updates.scope();
    let peers = scope.peers();
    let mut builder = OperatorBuilder::new(format!("Checkpointed {name}"), scope);
    let pact = Exchange::new(move |(row, _, _): &(D, T, isize)| groups.owner_of(row, peers) as u64);
    let mut input = builder.new_input(updates, pact);
    let (port, passed) = builder.new_output();
    let mut passed_port: Port<T, (D, T, isize)> = OutputBuilder::from(port);
    let (port, facts) = builder.new_output();
    let mut facts_port: Port<T, Block<T>> = OutputBuilder::from(port);
    builder.build(move |mut capabilities| {
        let mut rows: HashMap<D, i64, FixedState> = HashMap::default();
        let restored = restore.map_or(Ok(()), |restore| {
            restore(&mut |fact| {
                let row = postcard::from_bytes(fact.key).map_err(|error| format!("a row of another type: {error}"))?;
                match fact.value.map(postcard::from_bytes).transpose().map_err(|error| format!("a row: {error}"))? {
                    Some(n) => rows.insert(row, n),
                    None => rows.remove(&row),
                };
                Ok(())
            })
        });
        // Held only to give what is restored, or for ever if that fails.
        let _facts = capabilities.pop();
        let mut initial = capabilities.pop();
        let failed = restored.is_err();
        if let Err(error) = restored {
            on_failure(error);
        }
        let mut open: BTreeMap<u64, Epoch<T, D>> = BTreeMap::new();
        move |frontiers| {
            if failed {
                return;
            }
            let mut passed = passed_port.activate();
            if let Some(initial) = initial.take()
                && let Some(last) = resume.checked_sub(1)
            {
                let time = initial.time().with_epoch(last);
                let given = rows.iter().map(|(row, n)| (row.clone(), time.clone(), *n as isize));
                passed.session(&initial.delayed(&time)).give_iterator(given);
            }
            input.for_each(|capability, updates| {
                for (row, time, change) in updates.iter() {
                    let epoch = open.entry(time.epoch()).or_insert_with(|| {
                        let at = capability.time().with_epoch(time.epoch());
                        Epoch { capability: capability.delayed(&at, 1), changes: HashMap::default() }
                    });
                    *epoch.changes.entry(row.clone()).or_insert(0) += *change as i64;
                }
                passed.session(&capability).give_container(updates);
            });
            let least = least_epoch(&frontiers[0].frontier());
            while let Some(epoch) = open.first_entry().filter(|open| least.is_none_or(|least| *open.key() < least)) {
                let Epoch { capability, changes } = epoch.remove();
                let mut writer = BlockWriter::default();
                for (row, change) in changes.into_iter().filter(|(_, change)| *change != 0) {
                    let n = rows.get(&row).copied().unwrap_or(0) + change;
                    let encode = |bytes: &mut Vec<u8>| {
                        append(bytes, &row).unwrap_or_else(|error| panic!("a row cannot be encoded: {error}"));
                    };
                    writer.key(groups.of(&row), capability.time(), encode, |facts| {
                        if n == 0 {
                            facts.retire(&What::Row);
                        } else {
                            facts.put(&What::Row, &n).unwrap_or_else(|e| panic!("a number cannot be encoded: {e}"));
                        }
                    });
                    if n == 0 {
                        rows.remove(&row);
                    } else {
                        rows.insert(row, n);
                    }
                }
                let mut output = facts_port.activate();
                let mut session = output.session(&capability);
                writer.finish(T::ORDER != TimeOrder::Partial, &mut |block| session.give(block));
            }
        }
    });
    (passed, facts)
}
