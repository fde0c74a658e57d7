//! `async`: each input awaits one call on the runtime.
//!
//! # Workload
//! `immediate`: 500,000 inputs whose call is over as soon as it is polled, about 4,000 under way. `10ms`: 200,000 inputs
//! whose call sleeps for 10 ms, about 10,000 under way. Inputs under way have distinct keys out of 100,000.
//!
//! # Back-of-the-envelope limit
//! A task of the runtime is made, stolen or handed over, polled and freed in about 1 µs, and the reply crosses threads
//! again: 1 million per second, of which the agent's own part, a future made, polled twice and freed, is 0.2 µs. With
//! latency the runtime's timer adds an entry and a firing: 0.6 million per second; 10,000 under way for 10 ms allow 1
//! million.
//!
//! # Baseline
//! A timely operator that spawns a bare task per input, which pushes its reply into a queue of crossbeam and wakes the
//! operator, once for many. It uses the same runtime of two threads.

use std::time::Duration;

use timely::worker::Worker;
use timely_agents::prelude::*;

use crate::baseline;
use crate::report::Row;
use crate::support::{Error, Lane, Pace, Scale, TURNS, compare, mix};

const KEYS: u64 = 100_000;

fn lanes(worker: &mut Worker, pause: Option<Duration>) -> [Lane<u64>; 2] {
    let mut agent = Agent::<u64, u64>::new("caller");
    agent.on_input_async("ask", async move |value, ctx| {
        let value = *value;
        let answer = ctx
            .call("echo", move || async move {
                if let Some(pause) = pause {
                    tokio::time::sleep(pause).await;
                }
                value
            })
            .await?;
        ctx.output(answer);
        Ok(())
    });
    let plan = agent.build().expect("the agent is sound");
    let runtime = timely_agents_operators::runtime::handle().expect("the runtime starts");
    let value = |output: &u64| mix(*output);
    [
        Lane::new(worker, |stream| stream.agent(|value: &u64| value, &plan), value),
        Lane::new(worker, move |stream| baseline::spawn_each(stream, runtime, pause), value),
    ]
}

pub(crate) fn calls(scale: Scale) -> Result<Vec<Row>, Error> {
    let cases = [
        ("async/immediate", None, scale.of(500_000, 5_000), 4, 500e3),
        ("async/10ms", Some(Duration::from_millis(10)), scale.of(200_000, 5_000), 10, 200e3),
    ];
    let mut rows = Vec::new();
    for (name, pause, inputs, ahead, target) in cases {
        let data = move |_| (0..inputs as u64).map(|n| n % KEYS).collect();
        let pace = Pace { epoch: 1000, ahead, rounds: 1 };
        let turns = compare(1, TURNS, pace, data, move |worker| lanes(worker, pause))?;
        let (agent, bare) = turns.rates(inputs);
        rows.push(Row::new(name, 1, agent, bare).at_least(target, 0.0));
    }
    Ok(rows)
}
