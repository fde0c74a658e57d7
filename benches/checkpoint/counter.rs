//! Counting per key with checkpoints: `counter_u64`.
//!
//! # Workload
//! That of the operator bench's `counter_u64` with 1,000,000 keys on one worker: numbers, uniform over the keys, are their
//! own keys; one sync action increments a slot and outputs the number with the count. 4,096 inputs an activation come out of
//! 10 million that were made beforehand. First every key is sent once; then, for some seconds, as many inputs as go through,
//! in epochs that tick by the clock every 1,000 or 100 ms. A feed that is eight epochs ahead of what is committed waits. The
//! rate is that from one close of an epoch to another. Logs are not compacted during the run.
//!
//! # Back-of-the-envelope limit
//! At 10 million inputs a second all keys have changed after 1 s, and 63 % of them after 100 ms: 1 and 6.3 million encoded
//! keys a second. One is encoded into 16 to 20 bytes; key, state, group and slot lie beyond the second-level cache when it
//! is sealed: four misses, which overlap where keys are taken one after the other without waiting, 40 ns; encoding, sorting
//! by group, digest: 30 ns. That is 7 % of a core with epochs of 1 s, and 45 % with 100 ms. CRC, write and sync are done by
//! the log's thread: 20 and 120 MB/s.
//!
//! # Processor time
//! Beside the rates stands what an input takes of the worker's processor time, and the longest step of the worker by it: from
//! one turn of the feed to the next, with all that the agent, its neighbours and timely do in between. They tell what the code
//! does where other programs take the core away meanwhile.
//!
//! Epochs of a number of inputs in place of a time have the same work to seal for the same inputs on any machine: those are
//! cases of their own, for their processor time.
//!
//! # Baseline
//! The same job without checkpoints, in turns; epochs tick as well.

use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use hdrhistogram::Histogram;
use rustix::time::{ClockId, clock_gettime};
use timely_agents::prelude::*;

use crate::disk;
use crate::feed::{Activations, Seen, Turn, activations, checkpoints, run};
use crate::measure::{Error, Scale, median, mix, now};
use crate::report::Row;

/// Inputs of one activation.
const BATCH: usize = 4096;
/// Epochs that may be closed and not committed.
const AHEAD: u64 = 8;

/// The agent of the operator bench's `counter_u64`.
pub(crate) fn plan() -> Result<timely_agents::Plan<u64, (u64, u64)>, Error> {
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
    Ok(agent.build()?)
}

/// When an epoch is over.
#[derive(Clone, Copy)]
enum Epoch {
    /// After so long, by the clock.
    Time(Duration),
    /// After so many inputs: the work is the same however slow the machine is.
    Inputs(u64),
}

/// What a run found.
#[derive(Default)]
struct Found {
    inputs: u64,
    seconds: f64,
    /// Seconds that the worker had a processor.
    busy: f64,
    epochs: u64,
    /// The longest step while keys were new, and while the first epochs, of all keys, were sealed.
    loading: u64,
    /// Bytes of the log when the measured time began and ended.
    bytes: (u64, u64),
}

/// The processor time of this thread so far.
fn thread_time() -> Duration {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    Duration::new(time.tv_sec.unsigned_abs(), time.tv_nsec.unsigned_abs() as u32)
}

/// A run with checkpoints in `folder`, or without. `seen` are activations by the clock, `steps` all of the worker's by its
/// processor time.
fn measure(
    folder: Option<&Path>,
    data: &Arc<Vec<u64>>,
    keys: u64,
    epoch: Epoch,
    span: Duration,
    [seen, steps]: [&Activations; 2],
    tiny: bool,
) -> Result<Found, Error> {
    let found = Arc::new(Mutex::new(Found::default()));
    let tell = Arc::clone(&found);
    let (data, cleared, steps) = (Arc::clone(data), Arc::clone(seen), Arc::clone(steps));
    let log = folder.map(Path::to_path_buf);
    let (mut sent, mut offset, mut next_key) = (0u64, 0, 0);
    let started = now();
    let (mut epoch_began, mut epoch_sent) = (started, 0);
    // When the measured time began, with the inputs sent and the epoch by then.
    let mut began = None;
    let mut warm = 0;
    let (mut last_turn, mut waits, mut loading) = (Duration::ZERO, true, 0);
    let bytes = move || log.as_ref().map_or(Ok(0), |folder| disk::bytes_of(folder, "log"));
    let script = move |look: Seen, buffer: &mut Vec<u64>| {
        // Valgrind, which is for tiny runs, does not bear the way to a thread's time.
        let busy = if tiny { started.elapsed() } else { thread_time() };
        let step = busy.saturating_sub(std::mem::replace(&mut last_turn, busy));
        // While it waits for commits the worker takes many steps.
        if !std::mem::take(&mut waits) {
            steps.lock().unwrap_or_else(PoisonError::into_inner).saturating_record(step.as_nanos() as u64);
        }
        if next_key < keys {
            let end = keys.min(next_key + BATCH as u64);
            buffer.extend(next_key..end);
            next_key = end;
            return Turn::More;
        }
        if look.committed.is_some_and(|committed| committed + AHEAD < look.epoch) {
            waits = true;
            return Turn::Wait;
        }
        let over = match epoch {
            Epoch::Time(length) => epoch_began.elapsed() >= length,
            Epoch::Inputs(count) => sent - epoch_sent >= count,
        };
        if over {
            (epoch_began, epoch_sent) = (now(), sent);
            // The first epochs have all keys in them, at once.
            warm += 1;
            match began {
                None if warm >= 2 => {
                    loading = steps.lock().unwrap_or_else(PoisonError::into_inner).max();
                    for all in [&cleared, &steps] {
                        all.lock().unwrap_or_else(PoisonError::into_inner).reset();
                    }
                    began = Some((epoch_began, busy, sent, look.epoch, bytes().unwrap_or(0)));
                }
                Some((at, busy_before, before, first, bytes_before)) if at.elapsed() >= span => {
                    *tell.lock().unwrap_or_else(PoisonError::into_inner) = Found {
                        inputs: sent - before,
                        seconds: at.elapsed().as_secs_f64(),
                        busy: busy.saturating_sub(busy_before).as_secs_f64(),
                        epochs: look.epoch - first,
                        loading,
                        bytes: (bytes_before, bytes().unwrap_or(0)),
                    };
                    return Turn::End;
                }
                _ => {}
            }
            return Turn::Close;
        }
        let end = (offset + BATCH).min(data.len());
        buffer.extend_from_slice(&data[offset..end]);
        sent += (end - offset) as u64;
        offset = if end == data.len() { 0 } else { end };
        Turn::More
    };
    let checkpoints = folder.map(checkpoints).transpose()?;
    run(checkpoints, plan()?, |n| n, |(n, count)| mix(*n) ^ count, Some(Arc::clone(seen)), || {}, script)?;
    let found = std::mem::take(&mut *found.lock().unwrap_or_else(PoisonError::into_inner));
    if found.inputs == 0 { Err("the run ended before it was measured".into()) } else { Ok(found) }
}

/// The runs of one side.
#[derive(Default)]
struct Side {
    rates: Vec<f64>,
    /// Nanoseconds of processor time by input.
    busy: Vec<f64>,
    /// By epoch.
    bytes: Vec<f64>,
    /// Median, 99.9 % and maximum of activations, in milliseconds: the greatest of the runs.
    longest: (f64, f64, f64),
    /// The same of steps by processor time.
    steps: (f64, f64, f64),
    /// The longest step while keys were new, of each run.
    loading: Vec<f64>,
}

impl Side {
    fn add(&mut self, found: &Found, seen: &Activations, steps: &Activations) {
        self.rates.push(found.inputs as f64 / found.seconds);
        self.busy.push(found.busy * 1e9 / found.inputs as f64);
        self.bytes.push((found.bytes.1 - found.bytes.0) as f64 / found.epochs.max(1) as f64);
        self.loading.push(found.loading as f64 / 1e6);
        for (kept, seen) in [(&mut self.longest, seen), (&mut self.steps, steps)] {
            let (p50, p999, max) = longest(seen);
            *kept = (kept.0.max(p50), kept.1.max(p999), kept.2.max(max));
        }
    }
}

fn longest(seen: &Activations) -> (f64, f64, f64) {
    let seen: &Histogram<u64> = &seen.lock().unwrap_or_else(PoisonError::into_inner);
    let ms = |nanoseconds: u64| nanoseconds as f64 / 1e6;
    (ms(seen.value_at_quantile(0.5)), ms(seen.value_at_quantile(0.999)), ms(seen.max()))
}

pub(crate) fn counter_u64(scale: Scale) -> Result<Vec<Row>, Error> {
    let keys = scale.of(1_000_000, 2_000u64);
    let inputs = scale.of(10_000_000, 20_000u64);
    let data: Vec<u64> = (0..inputs).map(|n| ((u128::from(mix(n)) * u128::from(keys)) >> 64) as u64).collect();
    let data = Arc::new(data);
    let mut rows = Vec::new();
    let ticks = |ms| Epoch::Time(Duration::from_millis(scale.of(ms, 20)));
    let counts = |inputs| Epoch::Inputs(scale.of(inputs, inputs / 500));
    let cases = [
        ("1s_epochs", ticks(1000), Some(0.85)),
        ("100ms_epochs", ticks(100), Some(0.7)),
        ("epochs_of_10m", counts(10_000_000), None),
        ("epochs_of_1m", counts(1_000_000), None),
    ];
    for (name, epoch, goal) in cases {
        let span = Duration::from_millis(scale.of(4000, 60));
        let (mut with, mut without) = (Side::default(), Side::default());
        for _ in 0..scale.of(3, 1) {
            let folder = disk::folder(scale)?;
            for (side, folder) in [(&mut with, Some(folder.path())), (&mut without, None)] {
                let (seen, steps) = (activations(), activations());
                let found = measure(folder, &data, keys, epoch, span, [&seen, &steps], scale.quick)?;
                side.add(&found, &seen, &steps);
            }
        }
        let (longest_with, longest_without) = (with.longest, without.longest);
        let (busy, busy_without) = (median(with.busy), median(without.busy));
        let row = Row::new(format!("counter_u64/{name}"), 1, median(with.rates), median(without.rates));
        let row = match goal {
            Some(goal) => row.at_least(0.0, goal),
            None => row,
        };
        rows.push(
            row.also("bytes_per_epoch", median(with.bytes))
                .also("busy_ns", busy)
                .also("baseline_busy_ns", busy_without)
                .also("busy_ratio", busy_without / busy)
                .also("activation_p50_ms", longest_with.0)
                .also("activation_p999_ms", longest_with.1)
                .also("activation_max_ms", longest_with.2)
                .also("step_p50_ms", with.steps.0)
                .also("step_p999_ms", with.steps.1)
                .also("step_max_ms", with.steps.2)
                .also("loading_step_max_ms", median(with.loading))
                .also("baseline_activation_p999_ms", longest_without.1)
                .also("baseline_activation_max_ms", longest_without.2)
                .also("baseline_step_p999_ms", without.steps.1)
                .also("baseline_step_max_ms", without.steps.2)
                .also("baseline_loading_step_max_ms", median(without.loading)),
        );
        if goal.is_none() {
            continue;
        }
        // A thread that is not given a core for a while looks as if it had worked: what the other side shows is that.
        let reached = longest_with.1 <= 5.0 && longest_with.2 <= 5f64.max(longest_without.2);
        rows.push(
            // By how often a second it could have been activated.
            Row::new(
                format!("counter_u64/{}_pause", name.trim_end_matches("_epochs")),
                1,
                1e3 / longest_with.2,
                1e3 / longest_without.2,
            )
            .target("no activation longer than 5 ms, or than without checkpoints", reached),
        );
    }
    Ok(rows)
}
