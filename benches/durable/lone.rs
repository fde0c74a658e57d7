//! How long one eager call takes by itself: `lone`.
//!
//! # Workload
//! One key whose runs make one durable call each, over at once; the next input is sent when the last run has put out. An
//! epoch of the job stays open all the time, so that nothing but the results is synced. 1,000 calls.
//!
//! # Back-of-the-envelope limit
//! One sync, and four hops between threads, which wake up in 10 to 50 µs each where a core rests meanwhile.
//!
//! # Baseline
//! 24 bytes appended to a file and synced by hand, in turns with the calls, a hundred at a time.

use std::fs::File;
use std::io::Write;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use timely_agents::prelude::*;

use crate::disk;
use crate::feed::{Seen, Turn, checkpoints, nanoseconds, run};
use crate::measure::{Error, Scale, mix, now};
use crate::report::Row;

/// Microseconds of each append with its sync.
fn appends(folder: &Path, times: u64) -> Result<Vec<f64>, Error> {
    let mut file = File::options().create(true).append(true).open(folder.join("appended"))?;
    let mut took = Vec::new();
    for _ in 0..times {
        let start = now();
        file.write_all(&[7; 24])?;
        file.sync_data()?;
        took.push(start.elapsed().as_secs_f64() * 1e6);
    }
    Ok(took)
}

/// Microseconds of each call, from its input to its output.
fn calls(folder: &Path, times: u64) -> Result<Vec<f64>, Error> {
    let mut agent = Agent::<u64, u64>::new("agent");
    agent.carry();
    agent.on_input_async("call", async move |input: &u64, ctx| {
        ctx.output(ctx.durable("echo", *input, |input| async move { mix(input) }).await?);
        Ok(())
    });
    let took = Arc::new(Mutex::new(Vec::new()));
    let (tell, mut sent): (_, Option<(u64, Instant)>) = (Arc::clone(&took), None);
    let script = move |look: Seen, buffer: &mut Vec<u64>| {
        let n = match sent {
            Some((n, _)) if look.outputs < n => return Turn::Wait,
            Some((n, at)) => {
                tell.lock().unwrap_or_else(PoisonError::into_inner).push(at.elapsed().as_secs_f64() * 1e6);
                n
            }
            None => 0,
        };
        if n == times {
            return Turn::End;
        }
        buffer.push(n);
        sent = Some((n + 1, now()));
        Turn::Wait
    };
    run(Some(checkpoints(folder)?), agent.build()?, |_| &0, |n| *n, None, || {}, script)?;
    let took = std::mem::take(&mut *took.lock().unwrap_or_else(PoisonError::into_inner));
    Ok(took)
}

pub(crate) fn lone(scale: Scale) -> Result<Vec<Row>, Error> {
    let (mut alone, mut synced) = (nanoseconds(), nanoseconds());
    for _ in 0..scale.of(10, 1) {
        let folder = disk::folder(scale)?;
        let times = scale.of(100, 10);
        // The first ones open files.
        for us in calls(folder.path(), times)?.split_off(times as usize / 10) {
            alone.saturating_record((us * 1e3) as u64);
        }
        for us in appends(folder.path(), times)?.split_off(times as usize / 10) {
            synced.saturating_record((us * 1e3) as u64);
        }
    }
    let us = |nanoseconds: u64| nanoseconds as f64 / 1e3;
    let (p50, by_hand) = (us(alone.value_at_quantile(0.5)), us(synced.value_at_quantile(0.5)));
    Ok(vec![
        Row::new("lone/eager_p50", 1, 1e6 / p50, 1e6 / by_hand)
            .also("p50_us", p50)
            .also("p99_us", us(alone.value_at_quantile(0.99)))
            .also("by_hand_p50_us", by_hand)
            .also("by_hand_p99_us", us(synced.value_at_quantile(0.99)))
            .target("p50 within 3 times a sync by hand", p50 <= 3.0 * by_hand),
    ])
}
