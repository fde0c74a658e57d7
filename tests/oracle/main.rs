//! The oracle: random agents on real workers against a naive interpreter that shares only their description.
//!
//! - `plan`: descriptions, made from a seed. `translate` builds real agents from them. `system` runs them on timely.
//! - `oracle`: the interpreter and judge; its header says what it judges.
//! - `regressions`: what was wrong once. `flights`: January's flights under `Sequence`.
//!
//! # Orders
//! Some results depend on an order that the rules leave open: inputs of several senders under `Arrival`, tasks of one run
//! that go on after waits, the first of two calls. Results are then compared with the admissible ones: tasks tell the
//! order in which they were run, the oracle checks that the rules allow it and that exactly its results came out. All
//! that has one order by the rules (breadth-first, plan order, each sender's order, `sequenced_by`) is not taken from the
//! system but demanded of it.
//!
//! # Seeds
//! `AGENTS_ORACLE_SEEDS=10000 cargo test --test oracle` runs more cases, `AGENTS_ORACLE_SEED=17` that case alone, a
//! hundred times, for threads make each execution another. A case that fails is reduced first; the message has its seed
//! and what is left of it.

mod flights;
mod oracle;
mod plan;
mod regressions;
mod system;
mod translate;

use std::sync::Arc;

use crate::plan::{Case, Random};

fn variable(name: &str) -> Option<u64> {
    let value = std::env::var(name).ok()?;
    Some(value.parse().unwrap_or_else(|_| panic!("{name} is a number, not {value:?}")))
}

fn verdict(case: &Case, salt: u64) -> Result<(), String> {
    let case = Arc::new(case.clone());
    let (shared, captured) = system::run(&case, salt);
    oracle::judge(&case, &shared, &captured)
}

/// Takes away parts of a failing case as long as it still fails.
fn reduce(mut case: Case, mut fault: String) -> (Case, String) {
    let random = &mut Random(case.seed);
    let mut in_vain = 0;
    while in_vain < 120 {
        let mut smaller = case.clone();
        if random.below(2) == 0 {
            let feeds = &mut smaller.feeds;
            let feed = random.index(feeds.len());
            let feed = &mut feeds[feed];
            if feed.is_empty() {
                continue;
            }
            let from = random.index(feed.len());
            let to = (from + 1 + random.index(4)).min(feed.len());
            feed.drain(from..to);
        } else {
            let action = random.index(smaller.actions.len());
            let ops = &mut smaller.actions[action].ops;
            if ops.is_empty() {
                in_vain += 1;
                continue;
            }
            let at = random.index(ops.len());
            ops.remove(at);
        }
        match (0..3).find_map(|salt| verdict(&smaller, salt).err()) {
            Some(found) => {
                (case, fault) = (smaller, found);
                in_vain = 0;
            }
            None => in_vain += 1,
        }
    }
    (case, fault)
}

fn check(seed: u64, salt: u64) {
    let case = Case::from_seed(seed);
    if let Err(fault) = verdict(&case, salt) {
        let (case, fault) = reduce(case, fault);
        panic!("seed {seed} (AGENTS_ORACLE_SEED={seed} repeats it): {fault}\n{case:#?}");
    }
}

#[test]
fn random_agents_do_what_the_rules_say() {
    if let Some(seed) = variable("AGENTS_ORACLE_SEED") {
        for salt in 0..100 {
            check(seed, salt);
        }
        return;
    }
    let seeds = variable("AGENTS_ORACLE_SEEDS").unwrap_or(3_000);
    for seed in 0..seeds {
        check(seed, 0);
    }
}
