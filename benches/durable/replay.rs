//! How long it takes until runs are where they were: `replay`.
//!
//! # Workload
//! 100,000 keys have a run each that has made three durable calls and waits for a fourth, which takes for ever. The job is
//! stopped. It is started again, by one worker: the time from the start to the last fourth call being made. Three times,
//! after each of which the fourth calls are answered and all must put out what the recorded results are.
//! `committed`: what there is stands in a checkpoint. `noted`: nothing is committed; inputs come again, and find what was
//! noted of their runs.
//!
//! # Back-of-the-envelope limit
//! A run has some 150 bytes of facts, read and checked at 1 GB/s: 15 ms. Its future is made and polled four times, its input
//! and three results are decoded and compared: 2 µs; a call is handed over in 0.5 µs. 0.3 s for 100,000.
//!
//! # Baseline
//! The log's files read whole, three results for each run taken out of them into a hash map, and a task of the runtime
//! spawned for each.

use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst};
use std::sync::{Mutex, PoisonError};

use timely_agents::Plan;
use timely_agents::prelude::*;

use crate::calls::{CALLS, give};
use crate::disk;
use crate::feed::{Seen, Turn, checkpoints, milliseconds, run};
use crate::measure::{Error, Scale, median, now};
use crate::report::Row;

/// What the outside does and sees.
#[derive(Default)]
struct Outside {
    /// Of the first three of each run.
    made: AtomicU64,
    /// Of the last of each run.
    waiting: AtomicU64,
    /// Whether last calls are answered.
    answers: AtomicBool,
}

fn plan(outside: &Arc<Outside>) -> Result<Plan<u64, u64>, Error> {
    let outside = Arc::clone(outside);
    let mut agent = Agent::<u64, u64>::new("agent");
    agent.carry();
    agent.call_timeout(None);
    agent.on_input_async("call", async move |input: &u64, ctx| {
        let mut value = 0;
        for call in 0..CALLS {
            let made = Arc::clone(&outside);
            value ^= ctx
                .durable("echo", (*input, call), move |(input, call)| async move {
                    made.made.fetch_add(1, SeqCst);
                    give(input, call)
                })
                .await?;
        }
        let waits = Arc::clone(&outside);
        ctx.durable("last", *input, move |_| async move {
            waits.waiting.fetch_add(1, SeqCst);
            if !waits.answers.load(SeqCst) {
                std::future::pending::<()>().await;
            }
        })
        .await?;
        ctx.output(value);
        Ok(())
    });
    Ok(agent.build()?)
}

/// Begins all runs, lets them be committed where they wait, and stops.
fn fill(folder: &Path, runs: u64, eager: bool) -> Result<(), Error> {
    let outside = Arc::new(Outside::default());
    let (seen, mut sent, mut closed) = (Arc::clone(&outside), 0, None);
    let script = move |look: Seen, buffer: &mut Vec<u64>| {
        if sent < runs {
            let next = runs.min(sent + 1024);
            buffer.extend(sent..next);
            sent = next;
        } else if seen.waiting.load(SeqCst) == runs {
            if eager {
                return Turn::Stop;
            }
            match closed {
                None => {
                    closed = Some(look.epoch);
                    return Turn::Close;
                }
                Some(epoch) if look.committed.is_some_and(|committed| committed > epoch) => return Turn::Stop,
                Some(_) => return Turn::Wait,
            }
        }
        Turn::More
    };
    run(Some(checkpoints(folder)?), plan(&outside)?, |n| n, |n| *n, None, || {}, script)
}

/// Starts again; milliseconds until all runs wait where they waited. `last` lets them end.
fn resume(folder: &Path, runs: u64, eager: bool, last: bool) -> Result<f64, Error> {
    let outside = Arc::new(Outside::default());
    outside.answers.store(last, SeqCst);
    let took = Arc::new(Mutex::new((0.0, 0)));
    let (seen, tell, start) = (Arc::clone(&outside), Arc::clone(&took), now());
    // What is not committed comes again.
    let mut sent = if eager { 0 } else { runs };
    let mut waited = None;
    let script = move |look: Seen, buffer: &mut Vec<u64>| {
        if sent < runs {
            let next = runs.min(sent + 1024);
            buffer.extend(sent..next);
            sent = next;
            return Turn::More;
        }
        if seen.waiting.load(SeqCst) < runs {
            return Turn::More;
        }
        let waited = *waited.get_or_insert_with(|| milliseconds(start));
        if last && look.outputs < runs {
            return Turn::More;
        }
        *tell.lock().unwrap_or_else(PoisonError::into_inner) = (waited, look.sum);
        Turn::Stop
    };
    run(Some(checkpoints(folder)?), plan(&outside)?, |n| n, |n| *n, None, || {}, script)?;
    let (waited, sum) = *took.lock().unwrap_or_else(PoisonError::into_inner);
    let made = outside.made.load(SeqCst);
    if made > 0 {
        return Err(format!("{made} calls were made again whose results were recorded").into());
    }
    let value = |input: u64| (0..CALLS).fold(0, |value, call| value ^ give(input, call));
    if last && sum != (0..runs).fold(0, |sum: u64, input| sum.wrapping_add(value(input))) {
        return Err("the outputs are not those of the recorded results".into());
    }
    Ok(waited)
}

/// Milliseconds for the baseline.
fn by_hand(folder: &Path, runs: u64) -> Result<f64, Error> {
    let start = now();
    let runtime = timely_agents_operators::runtime::handle()?;
    let mut journals = hashbrown::HashMap::<u64, [u64; 3]>::new();
    let mut files: Vec<_> = fs::read_dir(folder.join("log"))?.collect::<Result<_, _>>()?;
    files.sort_by_key(fs::DirEntry::path);
    for file in files {
        for chunk in fs::read(file.path())?.chunks_exact(32) {
            let run = journals.len() as u64;
            if run < runs {
                let word = |n: usize| chunk[n * 8..].iter().take(8).fold(0, |word, byte| word << 8 | u64::from(*byte));
                journals.insert(run, [word(0), word(1), word(2)]);
            }
        }
    }
    let waiting = Arc::new(AtomicU64::new(0));
    let tasks: Vec<_> = (0..runs)
        .map(|run| {
            let (waiting, results) = (Arc::clone(&waiting), journals.get(&run).copied());
            runtime.spawn(async move {
                std::hint::black_box(results);
                waiting.fetch_add(1, SeqCst);
                std::future::pending::<()>().await;
            })
        })
        .collect();
    while waiting.load(SeqCst) < runs {
        std::thread::yield_now();
    }
    let took = milliseconds(start);
    tasks.iter().for_each(tokio::task::JoinHandle::abort);
    Ok(took)
}

fn of(scale: Scale, name: &str, eager: bool) -> Result<Row, Error> {
    let (runs, turns) = scale.of((100_000, 3), (500, 1));
    let folder = disk::folder(scale)?;
    fill(folder.path(), runs, eager)?;
    let bytes = disk::bytes_of(folder.path(), "log")?;
    let (mut took, mut bare) = (Vec::new(), Vec::new());
    for turn in 1..=turns {
        took.push(resume(folder.path(), runs, eager, turn == turns)?);
        bare.push(by_hand(folder.path(), runs)?);
    }
    let (took, bare) = (median(took), median(bare));
    Ok(Row::new(format!("replay/{name}"), 1, runs as f64 * 1e3 / took, runs as f64 * 1e3 / bare)
        .also("runs", runs as f64)
        .also("milliseconds", took)
        .also("baseline_milliseconds", bare)
        .also("bytes_per_run", bytes as f64 / runs as f64)
        .target("within 2 s", took < 2000.0))
}

pub(crate) fn replay(scale: Scale) -> Result<Vec<Row>, Error> {
    Ok(vec![of(scale, "committed", false)?, of(scale, "noted", true)?])
}
