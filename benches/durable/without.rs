//! What the journal costs those who do not use it: `without_calls`.
//!
//! # Workload
//! That of the operator bench's `counter_u64` with 1,000 keys on one worker and checkpoints: 10 million numbers, one sync
//! action that increments a slot and outputs the number with the count, epochs of 100,000 inputs. One agent has beside it an
//! action that makes durable calls, and is never triggered; the other has not.
//!
//! # Back-of-the-envelope limit
//! An action that makes no call writes nothing: one.
//!
//! # Baseline
//! The agent without the second action, in turns.

use std::sync::{Arc, Mutex, PoisonError};

use serde::{Deserialize, Serialize};
use timely_agents::Plan;
use timely_agents::prelude::*;

use crate::disk;
use crate::feed::{Activations, Seen, Turn, activations, checkpoints, milliseconds, run};
use crate::measure::{Error, Scale, median, mix, now};
use crate::report::Row;

const KEYS: u64 = 1000;
const EPOCH: u64 = 100_000;
const BATCH: u64 = 4096;

#[derive(Clone, Serialize, Deserialize)]
struct Never(u64);

impl Event for Never {
    const NAME: &'static str = "never";
}

fn plan(with: bool) -> Result<Plan<u64, (u64, u64)>, Error> {
    let mut agent = Agent::<u64, (u64, u64)>::new("agent");
    let seen = agent.memory::<u64>("seen");
    agent.on_input("count", move |value, ctx| {
        let n = ctx.update(seen, |n| {
            *n += 1;
            *n
        });
        ctx.output((*value, n));
        Ok(())
    });
    if with {
        agent.on_async("call", async move |Never(n): &Never, ctx| {
            ctx.output((0, ctx.durable("echo", *n, |n| async move { n }).await?));
            Ok(())
        });
    }
    Ok(agent.build()?)
}

/// Inputs a second, from the first to the last output.
fn rate(scale: Scale, with: bool, inputs: u64, seen: &Activations) -> Result<f64, Error> {
    let folder = disk::folder(scale)?;
    let took = Arc::new(Mutex::new(None));
    let (tell, mut sent, mut closed, mut start) = (Arc::clone(&took), 0, 0, None);
    let script = move |look: Seen, buffer: &mut Vec<u64>| {
        let began = *start.get_or_insert_with(now);
        if look.outputs == inputs {
            *tell.lock().unwrap_or_else(PoisonError::into_inner) = Some(milliseconds(began));
            return Turn::End;
        }
        if sent == inputs || look.committed.is_some_and(|committed| committed + 8 < look.epoch) {
            return Turn::Wait;
        }
        if sent / EPOCH > closed {
            closed += 1;
            return Turn::Close;
        }
        let next = inputs.min(sent + BATCH);
        buffer.extend((sent..next).map(|n| ((u128::from(mix(n)) * u128::from(KEYS)) >> 64) as u64));
        sent = next;
        Turn::More
    };
    let seen = Some(Arc::clone(seen));
    run(Some(checkpoints(folder.path())?), plan(with)?, |n| n, |(n, _)| *n, seen, || {}, script)?;
    let took = took.lock().unwrap_or_else(PoisonError::into_inner).ok_or("not all inputs have put out")?;
    Ok(inputs as f64 * 1e3 / took)
}

pub(crate) fn without_calls(scale: Scale) -> Result<Vec<Row>, Error> {
    let inputs = scale.of(10_000_000, 20_000);
    let (mut with, mut bare, mut ratios) = (Vec::new(), Vec::new(), Vec::new());
    let seen = activations();
    for turn in 0..scale.of(9, 1) {
        // Who comes first changes.
        let mut found = [0.0; 2];
        for side in [turn % 2, 1 - turn % 2] {
            found[side] = rate(scale, side == 0, inputs, &seen)?;
        }
        with.push(found[0]);
        bare.push(found[1]);
        ratios.push(found[0] / found[1]);
    }
    let ratio = median(ratios);
    let longest = seen.lock().unwrap_or_else(PoisonError::into_inner).max() as f64 / 1e6;
    Ok(vec![
        Row::new("without_calls/1k_keys", 1, median(with), median(bare))
            .ratio(ratio)
            .also("activation_max_ms", longest)
            .target("at least 0.98 of the baseline, by the median of turns", ratio >= 0.98),
    ])
}
