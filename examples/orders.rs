//! An order workflow of asynchronous steps, with a failure in each: `cargo run --example orders`.
//!
//! ```text
//! order ─▶ validate ─▶ stock ─▶ payment ─▶ status ─▶ notify ─▶ line of output
//! ```
//!
//! Each step asks a service by a durable call and sends the event that triggers the next. What a failure means is said
//! per step, by its policy, and not in its code:
//!
//! | step | failure | policy |
//! |---|---|---|
//! | validate | the order makes no sense | dead letter: a person looks at it |
//! | stock | the store is busy, twice | retried, with pauses; others do not wait |
//! | payment | the card is refused | handled by the action itself: the order is cancelled |
//! | status | the archive is down for good | retried, then a dead letter that says what was sent so far |
//! | notify | no message can be sent | ignored: the order stands |

use std::process::ExitCode;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use timely::dataflow::operators::Concatenate;
use timely::dataflow::operators::vec::Map;
use timely_agents::prelude::*;

/// What a customer sends.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Order {
    id: u64,
    item: String,
    pieces: i32,
    card: String,
}

/// Declares an event that carries the order from one step to the next.
macro_rules! step_event {
    ($($event:ident $name:literal),*) => {$(
        #[derive(Clone, Serialize, Deserialize)]
        struct $event(Order);

        impl Event for $event {
            const NAME: &'static str = $name;
        }
    )*};
}

step_event!(Valid "valid", Reserved "reserved", Paid "paid", Archived "archived");

/// What becomes of an order.
#[derive(Clone, Serialize, Deserialize)]
#[expect(clippy::struct_field_names, reason = "the names of the output")]
struct Outcome {
    order: u64,
    outcome: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<String>,
}

fn outcome(order: u64, outcome: &str) -> Outcome {
    let (outcome, error) = (outcome.to_owned(), None);
    Outcome { order, outcome, error }
}

/// A service somewhere else. It takes a while, and for some orders it has bad days.
async fn service(name: &'static str, order: Order, attempt: u32) -> Result<(), String> {
    tokio::time::sleep(Duration::from_millis(2)).await;
    let fails = match name {
        "validate" => order.pieces <= 0,
        "stock" => order.item == "lamp" && attempt < 3,
        "payment" => order.card == "stolen",
        "status" => order.item == "piano",
        "notify" => order.card == "unknown",
        _ => false,
    };
    if fails { Err(format!("{name} refuses order {}", order.id)) } else { Ok(()) }
}

/// Asks a service, durably; its answer is an error value where it refuses.
async fn ask(ctx: &Ctx<Outcome>, name: &'static str, order: &Order) -> Result<(), timely_agents::Error> {
    let attempt = ctx.attempt();
    let call = ctx.durable(name, (order.clone(), attempt), move |(order, attempt)| service(name, order, attempt));
    call.await?.map_err(timely_agents::Error::new)
}

fn main() -> ExitCode {
    let mut agent = Agent::<Order, Outcome>::new("orders");
    let quick = Retry::new(3).backoff(Duration::from_millis(5));

    agent
        .on_input_async("validate", async |order: &Order, ctx| {
            ask(ctx, "validate", order).await?;
            ctx.send(Valid(order.clone()));
            Ok(())
        })
        .on_failure(Policy::DeadLetter);
    agent
        .on_async("stock", async |Valid(order): &Valid, ctx| {
            ask(ctx, "stock", order).await?;
            ctx.send(Reserved(order.clone()));
            Ok(())
        })
        .on_failure(quick.clone());
    agent.on_async("payment", async |Reserved(order): &Reserved, ctx| {
        match ask(ctx, "payment", order).await {
            Ok(()) => ctx.send(Paid(order.clone())),
            // Not an accident but an answer: the workflow goes another way.
            Err(_) => ctx.output(outcome(order.id, "cancelled: card refused")),
        }
        Ok(())
    });
    agent
        .on_async("status", async |Paid(order): &Paid, ctx| {
            ask(ctx, "status", order).await?;
            ctx.output(outcome(order.id, "accepted"));
            ctx.send(Archived(order.clone()));
            Ok(())
        })
        .on_failure(quick.then(Exhausted::DeadLetter));
    agent
        .on_async("notify", async |Archived(order): &Archived, ctx| {
            ask(ctx, "notify", order).await?;
            ctx.output(outcome(order.id, "customer notified"));
            Ok(())
        })
        .on_failure(Policy::Ignore);

    let orders = [
        (1, "chair", 4, "good"),
        (2, "chair", 0, "good"),
        (3, "lamp", 1, "good"),
        (4, "chair", 1, "stolen"),
        (5, "piano", 1, "good"),
        (6, "chair", 2, "unknown"),
    ];
    timely_agents::run(agent, move |job, scope, agent| {
        let orders = orders.map(|(id, item, pieces, card)| {
            let (item, card) = (item.to_string(), card.to_string());
            (1, Order { id, item, pieces, card })
        });
        let streams = job.source(scope, "orders", Records::from(orders))?.agent_streams(|order| &order.id, agent);
        let dead = streams.dead_letters().map(|letter| Outcome {
            order: letter.input.map_or(0, |order| order.id),
            outcome: format!("left to a person: {} failed", letter.action),
            error: Some(letter.error),
        });
        scope.concatenate([streams.output, dead]).sink(job, "outcomes", JsonLines::stdout())?;
        Ok(())
    })
}
