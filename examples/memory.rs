//! Live memory: what agents remember, joined with a stream and counted over: `cargo run --example memory`.
//!
//! ```text
//! purchases ─▶ agent per customer, remembers a level ─▶ its memory, a collection ─┐
//! visits, as a collection ────────────────────────────────────────────────── join ┴─▶ count per level ─▶ lines
//! ```
//!
//! A customer may come, buy, become a gold customer and leave: the count of gold visitors follows, though nobody sent
//! the agent a question. A level that changes is a retraction and a new row, at the close of its epoch; differential
//! dataflow does the rest.

use std::process::ExitCode;

use differential_dataflow::AsCollection;
use serde::{Deserialize, Serialize};
use timely::dataflow::operators::vec::Map;
use timely_agents::prelude::*;

#[derive(Clone, Serialize, Deserialize)]
struct Purchase {
    customer: String,
    amount: u32,
}

/// A line of the output: so many visitors of a level there are from this epoch on, or no longer are.
#[derive(Clone, Serialize, Deserialize)]
struct Line {
    epoch: u64,
    level: String,
    visitors: isize,
    holds: bool,
}

fn main() -> ExitCode {
    let mut customer = Agent::<Purchase, ()>::new("customer");
    let spent = customer.memory::<u32>("spent");
    let level = customer.memory::<String>("level");
    customer.on_input("buy", move |purchase, ctx| {
        let spent = ctx.update(spent, |spent| {
            *spent += purchase.amount;
            *spent
        });
        ctx.put(level, if spent < 100 { "silver" } else { "gold" }.to_owned());
        Ok(())
    });

    let purchases = [(1, "Ann", 20), (1, "Bob", 150), (3, "Ann", 90), (4, "Cid", 5)];
    // Who comes, as 1, and who leaves, as -1. Cid comes before the shop knows of him.
    let visits = [(1, "Ann", 1), (2, "Bob", 1), (2, "Cid", 1), (5, "Bob", -1)];
    timely_agents::run(customer, move |job, scope, customer| {
        let purchases = purchases.map(|(epoch, customer, amount)| {
            let customer = customer.to_owned();
            (epoch, Purchase { customer, amount })
        });
        let visits = visits.map(|(epoch, customer, change)| (epoch, ((customer.to_owned(), ()), epoch, change)));
        let purchases = job.source(scope, "purchases", Records::from(purchases))?;
        let (_, memory) = purchases.agent_with_memory(|purchase| &purchase.customer, customer);
        let visitors = job.source(scope, "visits", Records::from(visits))?.as_collection();
        let counts = visitors.join(memory.slot(level)).map(|(_, ((), level))| level).count().consolidate();
        let line = |((level, visitors), epoch, change)| Line { epoch, level, visitors, holds: change > 0 };
        counts.inner.map(line).sink(job, "counts", JsonLines::stdout())?;
        Ok(())
    })
}
