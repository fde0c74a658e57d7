//! What a commit costs while many runs are in flight: `carry`.
//!
//! # Workload
//! 10,000 keys have a run each that sleeps for an hour, of an agent that carries. Then come 300 epochs in which ten other
//! keys have a run that ends; the next epoch begins when the commit of the last was seen.
//!
//! # Back-of-the-envelope limit
//! A run is written once, in the epoch in which it came; what is in flight costs later epochs nothing but the close, which
//! moves one count of open work. So a commit takes three syncs and some 10 keys of 20 bytes.
//!
//! # Baseline
//! The same with no runs in flight.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use timely_agents::prelude::*;

use crate::disk;
use crate::feed::{Seen, Turn, checkpoints, milliseconds, run};
use crate::measure::{Error, Scale, median, now};
use crate::report::Row;

/// Keys from here on do not sleep.
const SHORT: u64 = 1 << 32;
/// Runs of an epoch that end.
const INPUTS: u64 = 10;

/// What each commit took: milliseconds, and the bytes of the log after it.
fn commits(scale: Scale, in_flight: u64, epochs: u64) -> Result<Vec<(f64, u64)>, Error> {
    let folder = disk::folder(scale)?;
    let mut agent = Agent::<u64, u64>::new("agent");
    let seen = agent.memory::<u64>("seen");
    agent.carry();
    agent.on_input_async("take", async move |n, ctx| {
        ctx.put(seen, *n);
        if *n < SHORT {
            ctx.sleep(Duration::from_hours(1)).await;
        }
        ctx.output(*n);
        Ok(())
    });
    let found = Arc::new(Mutex::new(Vec::new()));
    let (tell, log) = (Arc::clone(&found), folder.path().to_path_buf());
    let mut closed: Option<(u64, Instant)> = None;
    let mut next = 0;
    let script = move |look: Seen, buffer: &mut Vec<u64>| {
        if next < in_flight {
            // As many as an activation has fuel for, so that none waits in a mailbox.
            let end = in_flight.min(next + 1024);
            buffer.extend(next..end);
            next = end;
            return Turn::More;
        }
        if let Some((epoch, at)) = closed {
            if look.committed.is_none_or(|committed| committed <= epoch) {
                return Turn::Wait;
            }
            let bytes = disk::bytes_of(&log, "log").unwrap_or(0);
            tell.lock().unwrap_or_else(PoisonError::into_inner).push((milliseconds(at), bytes));
            if epoch + 1 == epochs {
                return Turn::Stop;
            }
        }
        buffer.extend((0..INPUTS).map(|n| SHORT + n));
        closed = Some((look.epoch, now()));
        Turn::Close
    };
    run(Some(checkpoints(folder.path())?), agent.build()?, |n| n, |n| *n, None, || {}, script)?;
    let found = std::mem::take(&mut *found.lock().unwrap_or_else(PoisonError::into_inner));
    Ok(found)
}

/// Median milliseconds and mean bytes of some commits, which are not the first ones.
fn typical(commits: &[(f64, u64)], from: usize, to: usize) -> (f64, f64) {
    let milliseconds = median(commits[from..to].iter().map(|(ms, _)| *ms).collect());
    let bytes = (commits[to - 1].1 - commits[from - 1].1) as f64 / (to - from) as f64;
    (milliseconds, bytes)
}

pub(crate) fn carry(scale: Scale) -> Result<Vec<Row>, Error> {
    let (runs, epochs) = scale.of((10_000, 300), (100, 12));
    let carried = commits(scale, runs, epochs)?;
    let bare = commits(scale, 0, epochs)?;
    if carried.len() as u64 != epochs || bare.len() as u64 != epochs {
        return Err("not all epochs were committed".into());
    }
    let third = epochs as usize / 3;
    let (first, first_bytes) = typical(&carried, 1, 1 + third);
    let (last, last_bytes) = typical(&carried, carried.len() - third, carried.len());
    let (baseline, baseline_bytes) = typical(&bare, 1, bare.len());
    // By bytes, which the disk's mood does not touch.
    let steady = last_bytes <= first_bytes * 1.05 && last <= first * 1.5;
    Ok(vec![
        Row::new(format!("carry/{runs}_runs"), 1, INPUTS as f64 * 1e3 / last, INPUTS as f64 * 1e3 / baseline)
            .also("first_commit_ms", carried[0].0)
            .also("bytes_per_run", carried[0].1 as f64 / runs as f64)
            .also("early_ms", first)
            .also("late_ms", last)
            .also("baseline_ms", baseline)
            .also("early_bytes", first_bytes)
            .also("late_bytes", last_bytes)
            .also("baseline_bytes", baseline_bytes)
            .target("late commits cost what early ones do", steady),
    ])
}
