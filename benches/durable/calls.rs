//! Three durable calls a run, as many as go through: `with_epoch`, `eager`.
//!
//! # Workload
//! Numbers are their own keys. A run makes three durable calls, one after the other, each over as soon as it is polled, and
//! outputs what they gave. The agent carries; epochs tick every 100 ms, and checkpoints are written. `with_epoch`: results
//! become durable with the epoch, 100,000 runs, 4,000 of them at once. `eager`: they are durable before the run goes on,
//! 20,000 runs, 1,000 at once. The rate is that of calls, from the first input to the last output.
//!
//! # Back-of-the-envelope limit
//! `with_epoch`: a call is handed to a thread and back in 1 µs where many go together (see the operator bench's `async`),
//! and its result is encoded into some 20 bytes of journal: 0.1 µs. A run of three is three turns of the worker: about 0.5
//! million calls a second on two cores. `eager`: all calls of the runs at once wait for one sync; with 0.2 ms for it, and as
//! much for the turns between syncs, 1,000 of them allow 2.5 million a second, so it is the work per call that counts.
//!
//! # Baseline
//! A hand-written operator (`by_hand.rs`) that spawns a task for each call and writes 24 bytes for its result: at the close
//! of epochs in a thread that nobody waits for, or, `eager`, into a log that is synced for all that wait.

use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use timely_agents::prelude::*;
use timely_agents::{Durability, Plan};

use crate::feed::{Seen, Turn, checkpoints, drive, run};
use crate::measure::{Error, Scale, median, mix, now};
use crate::report::Row;
use crate::{by_hand, disk};

/// Calls of a run.
pub(crate) const CALLS: u64 = 3;

/// What a call gives.
pub(crate) fn give(input: u64, call: u64) -> u64 {
    mix(input ^ call << 60)
}

/// Runs that make the calls and output what these gave.
fn plan(durability: Durability) -> Result<Plan<u64, u64>, Error> {
    let mut agent = Agent::<u64, u64>::new("agent");
    agent.carry();
    agent.on_input_async("call", async move |input: &u64, ctx| {
        let mut value = 0;
        for call in 0..CALLS {
            let made = ctx.durable("echo", (*input, call), |(input, call)| async move { give(input, call) });
            value ^= made.durability(durability).await?;
        }
        ctx.output(value);
        Ok(())
    });
    Ok(agent.build()?)
}

/// Runs that are fed, and the seconds that they took.
struct Fed {
    runs: u64,
    at_once: u64,
    seconds: Arc<Mutex<Option<(f64, u64)>>>,
}

impl Fed {
    fn new(runs: u64, at_once: u64) -> Self {
        Fed { runs, at_once, seconds: Arc::default() }
    }

    /// Keeps `at_once` runs under way, and closes an epoch every 100 ms.
    fn script(&self) -> impl FnMut(Seen, &mut Vec<u64>) -> Turn + Send + use<> {
        let (runs, at_once, tell) = (self.runs, self.at_once, Arc::clone(&self.seconds));
        let (mut sent, mut start, mut epoch) = (0, None, now());
        move |look: Seen, buffer: &mut Vec<u64>| {
            let began = *start.get_or_insert_with(now);
            if look.outputs == runs {
                *tell.lock().unwrap_or_else(PoisonError::into_inner) = Some((began.elapsed().as_secs_f64(), look.sum));
                return Turn::End;
            }
            if epoch.elapsed() >= Duration::from_millis(100) {
                epoch = now();
                return Turn::Close;
            }
            let next = runs.min(look.outputs + at_once);
            // A few together, as a source gives them.
            if next == sent || (next < runs && next - sent < at_once / 16) {
                return Turn::Wait;
            }
            buffer.extend(sent..next);
            sent = next;
            Turn::Wait
        }
    }

    /// Calls a second.
    fn rate(&self) -> Result<f64, Error> {
        let (seconds, sum) =
            self.seconds.lock().unwrap_or_else(PoisonError::into_inner).ok_or("not all runs have put out")?;
        let value = |input: u64| (0..CALLS).fold(0, |value, call| value ^ give(input, call));
        let expected = (0..self.runs).fold(0, |sum: u64, input| sum.wrapping_add(value(input)));
        if sum != expected {
            return Err("the outputs are not those of the inputs".into());
        }
        Ok((self.runs * CALLS) as f64 / seconds)
    }
}

fn agent_rate(folder: &Path, runs: u64, at_once: u64, eager: bool) -> Result<f64, Error> {
    let durability = if eager { Durability::Eager } else { Durability::WithEpoch };
    let fed = Fed::new(runs, at_once);
    run(Some(checkpoints(folder)?), plan(durability)?, |n| n, |n| *n, None, || {}, fed.script())?;
    fed.rate()
}

fn bare_rate(folder: &Path, runs: u64, at_once: u64, eager: bool) -> Result<f64, Error> {
    let fed = Fed::new(runs, at_once);
    let folder = folder.to_path_buf();
    drive(None, move |inputs| by_hand::journaled(inputs, &folder, eager), |n| *n, None, || {}, fed.script())?;
    fed.rate()
}

fn of(scale: Scale, name: &str, eager: bool, runs: u64, at_once: u64, goal: f64) -> Result<Row, Error> {
    let (mut with, mut bare, mut bytes) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..scale.of(5, 1) {
        let folder = disk::folder(scale)?;
        with.push(agent_rate(folder.path(), runs, at_once, eager)?);
        bytes.push(disk::bytes_of(folder.path(), "log")? as f64 / (runs * CALLS) as f64);
        bare.push(bare_rate(folder.path(), runs, at_once, eager)?);
    }
    Ok(Row::new(name, 1, median(with), median(bare)).also("bytes_per_call", median(bytes)).at_least(goal, 0.0))
}

pub(crate) fn with_epoch(scale: Scale) -> Result<Vec<Row>, Error> {
    Ok(vec![of(scale, "calls/with_epoch", false, scale.of(100_000, 1_000), scale.of(4_000, 100), 150e3)?])
}

pub(crate) fn eager(scale: Scale) -> Result<Vec<Row>, Error> {
    Ok(vec![of(scale, "calls/eager", true, scale.of(20_000, 300), scale.of(1_000, 50), 30e3)?])
}
