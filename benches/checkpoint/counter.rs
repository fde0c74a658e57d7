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
//! # Baseline
//! The same job without checkpoints, in turns; epochs tick as well.

use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use hdrhistogram::Histogram;
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

/// What a run found.
#[derive(Default)]
struct Found {
    inputs: u64,
    seconds: f64,
    epochs: u64,
    /// Bytes of the log when the measured time began and ended.
    bytes: (u64, u64),
}

/// A run with checkpoints in `folder`, or without.
fn measure(
    folder: Option<&Path>,
    data: &Arc<Vec<u64>>,
    keys: u64,
    epoch: Duration,
    span: Duration,
    seen: &Activations,
) -> Result<Found, Error> {
    let found = Arc::new(Mutex::new(Found::default()));
    let tell = Arc::clone(&found);
    let (data, cleared) = (Arc::clone(data), Arc::clone(seen));
    let log = folder.map(Path::to_path_buf);
    let (mut sent, mut offset, mut next_key) = (0u64, 0, 0);
    let mut epoch_began = now();
    // When the measured time began, with the inputs sent and the epoch by then.
    let mut began = None;
    let mut warm = 0;
    let bytes = move || log.as_ref().map_or(Ok(0), |folder| disk::bytes_of(folder, "log"));
    let script = move |look: Seen, buffer: &mut Vec<u64>| {
        if next_key < keys {
            let end = keys.min(next_key + BATCH as u64);
            buffer.extend(next_key..end);
            next_key = end;
            return Turn::More;
        }
        if look.committed.is_some_and(|committed| committed + AHEAD < look.epoch) {
            return Turn::Wait;
        }
        if epoch_began.elapsed() >= epoch {
            epoch_began = now();
            // The first epochs have all keys in them, at once.
            warm += 1;
            match began {
                None if warm >= 2 => {
                    cleared.lock().unwrap_or_else(PoisonError::into_inner).reset();
                    began = Some((epoch_began, sent, look.epoch, bytes().unwrap_or(0)));
                }
                Some((at, before, first, bytes_before)) if at.elapsed() >= span => {
                    *tell.lock().unwrap_or_else(PoisonError::into_inner) = Found {
                        inputs: sent - before,
                        seconds: at.elapsed().as_secs_f64(),
                        epochs: look.epoch - first,
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
    for (name, epoch, goal) in [("1s", 1000, 0.85), ("100ms", 100, 0.7)] {
        let epoch = Duration::from_millis(scale.of(epoch, 20));
        let span = Duration::from_millis(scale.of(4000, 60));
        let (mut with, mut without) = (Vec::new(), Vec::new());
        let (mut longest_with, mut longest_without) = ((0f64, 0f64, 0f64), (0f64, 0f64, 0f64));
        let mut bytes = Vec::new();
        for _ in 0..scale.of(3, 1) {
            let folder = disk::folder(scale)?;
            for side in [true, false] {
                let seen = activations();
                let found = measure(side.then_some(folder.path()), &data, keys, epoch, span, &seen)?;
                let rate = found.inputs as f64 / found.seconds;
                let (p50, p999, max) = longest(&seen);
                let kept = if side { &mut longest_with } else { &mut longest_without };
                *kept = (kept.0.max(p50), kept.1.max(p999), kept.2.max(max));
                if side {
                    with.push(rate);
                    bytes.push((found.bytes.1 - found.bytes.0) as f64 / found.epochs.max(1) as f64);
                } else {
                    without.push(rate);
                }
            }
        }
        rows.push(
            Row::new(format!("counter_u64/{name}_epochs"), 1, median(with), median(without))
                .at_least(0.0, goal)
                .also("bytes_per_epoch", median(bytes))
                .also("activation_p50_ms", longest_with.0)
                .also("activation_p999_ms", longest_with.1)
                .also("activation_max_ms", longest_with.2)
                .also("baseline_activation_p999_ms", longest_without.1)
                .also("baseline_activation_max_ms", longest_without.2),
        );
        // A thread that is not given a core for a while looks as if it had worked: what the other side shows is that.
        let reached = longest_with.1 <= 5.0 && longest_with.2 <= 5f64.max(longest_without.2);
        rows.push(
            // By how often a second it could have been activated.
            Row::new(format!("counter_u64/{name}_pause"), 1, 1e3 / longest_with.2, 1e3 / longest_without.2)
                .target("no activation longer than 5 ms, or than without checkpoints", reached),
        );
    }
    Ok(rows)
}
