//! Three actions per input, linked by two events.
//!
//! # Workload
//! 3 million numbers over 1,000 keys. The first action counts and sends an event, the second counts and sends another,
//! the third counts and outputs the number with the sum of the counts.
//!
//! # Back-of-the-envelope limit
//! An input costs three steps of an agent at about 20 ns, and two events: each made on the heap, queued, dispatched by
//! type, freed, about 30 ns. 120 ns are 8 million inputs per second.
//!
//! # Baseline
//! Three timely operators in a row, one behind an exchange and two in place, each with a hash map from key to count;
//! events are records on the streams between them.

use serde::{Deserialize, Serialize};
use timely::worker::Worker;
use timely_agents::prelude::*;

use crate::baseline::{self, FastMap};
use crate::counter::numbers;
use crate::report::Row;
use crate::support::{Error, Lane, Pace, Scale, TURNS, compare, mix};

#[derive(Serialize, Deserialize)]
struct Counted {
    value: u64,
    count: u64,
}

impl Event for Counted {
    const NAME: &'static str = "counted";
}

#[derive(Serialize, Deserialize)]
struct Summed {
    value: u64,
    sum: u64,
}

impl Event for Summed {
    const NAME: &'static str = "summed";
}

fn lanes(worker: &mut Worker) -> [Lane<u64>; 2] {
    let mut agent = Agent::<u64, (u64, u64)>::new("chain");
    let slots = ["first", "second", "third"].map(|name| agent.memory::<u64>(name));
    let count = move |slot: usize, ctx: &Ctx<(u64, u64)>| {
        ctx.update(slots[slot], |n| {
            *n += 1;
            *n
        })
    };
    agent.on_input("first", move |value, ctx| {
        let count = count(0, ctx);
        ctx.send(Counted { value: *value, count });
        Ok(())
    });
    agent.on::<Counted>("second", move |event, ctx| {
        let sum = event.count + count(1, ctx);
        ctx.send(Summed { value: event.value, sum });
        Ok(())
    });
    agent.on::<Summed>("third", move |event, ctx| {
        ctx.output((event.value, event.sum + count(2, ctx)));
        Ok(())
    });
    let plan = agent.build().expect("the agent is sound");
    let value = |output: &(u64, u64)| mix(output.0) ^ output.1;
    [
        Lane::new(worker, |stream| stream.agent(|value: &u64| value, &plan), value),
        Lane::new(
            worker,
            move |stream| {
                let add = || {
                    let mut counts = FastMap::<u64, u64>::default();
                    move |(value, sum): (u64, u64)| {
                        let count = counts.entry(value).or_default();
                        *count += 1;
                        (value, sum + *count)
                    }
                };
                let first = baseline::count_values(stream);
                baseline::chained(baseline::chained(first, add()), add())
            },
            value,
        ),
    ]
}

pub(crate) fn chain(scale: Scale) -> Result<Vec<Row>, Error> {
    let inputs = scale.of(3_000_000, 20_000);
    let pace = Pace { epoch: 10_000, ahead: 3, rounds: 1 };
    let turns = compare(1, TURNS, pace, move |worker| numbers(inputs, worker, 1000), lanes)?;
    let (agent, bare) = turns.rates(inputs);
    Ok(vec![Row::new("chain", 1, agent, bare).at_least(5e6, 0.0)])
}
