//! What runs cost while they wait.
//!
//! # Workload
//! `waiting`: 100,000 runs of as many keys of 16 bytes, for events of 100 bytes; half wait in a call, which is a task of
//! the runtime, half in `ctx.sleep`. Once all wait, the processor time of the process is taken for 2 s. Its resident memory
//! is compared with that before the first input.
//! `pauses`: 1,000 keys with one run each that waits for 200 ms, on one worker, until the probe has passed.
//!
//! # Back-of-the-envelope limit
//! A run that waits holds its event (100 bytes), its action's future (200), the run, the key's state, the timer or the
//! task of the runtime (300), and their heap headers: about 1 KB. Nothing polls, so the processor rests. All pauses run at
//! once: 200 ms and a few more.
//!
//! # Baseline
//! `waiting`: as many bare tasks of the runtime, spawned and left waiting; only the rate of admission is compared.
//! `pauses`: bare tasks that sleep as long.

#[path = "../support/process.rs"]
mod process;
#[path = "../support/suspension.rs"]
mod suspension;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use tokio::sync::Notify;

use crate::report::Row;
use crate::support::{Error, Scale, TURNS, median, now};

const PAUSE: Duration = Duration::from_millis(200);

/// Seconds until `runs` bare tasks wait.
fn bare_admission(runs: u64) -> Result<f64, Error> {
    let runtime = timely_agents_operators::runtime::handle()?;
    let begun = Arc::new(AtomicU64::new(0));
    let end = Arc::new(Notify::new());
    let start = now();
    for number in 0..runs {
        let (begun, end) = (Arc::clone(&begun), Arc::clone(&end));
        let event = [number; 12];
        runtime.spawn(async move {
            begun.fetch_add(1, Relaxed);
            end.notified().await;
            std::hint::black_box(event);
        });
    }
    while begun.load(Relaxed) < runs {
        std::thread::yield_now();
    }
    let seconds = start.elapsed().as_secs_f64();
    end.notify_waiters();
    Ok(seconds)
}

/// Seconds for `keys` bare tasks that sleep.
fn bare_pauses(keys: u64) -> Result<f64, Error> {
    let runtime = timely_agents_operators::runtime::handle()?;
    let start = now();
    let tasks: Vec<_> = (0..keys).map(|_| runtime.spawn(async { tokio::time::sleep(PAUSE).await })).collect();
    for task in tasks {
        runtime.block_on(task)?;
    }
    Ok(start.elapsed().as_secs_f64())
}

/// Comes first of all cases, for memory that a case has freed before would not show.
pub(crate) fn suspended(scale: Scale) -> Result<Vec<Row>, Error> {
    let runs = scale.of(100_000, 2000);
    let watched = Duration::from_millis(scale.of(2000, 100));
    let mut turns = vec![suspension::waiting(runs, watched)?];
    let bytes_per_run = turns[0].bytes_per_run;
    let mut bare = vec![bare_admission(runs)?];
    for _ in 1..TURNS {
        turns.push(suspension::waiting(runs, watched)?);
        bare.push(bare_admission(runs)?);
    }
    let share = median(turns.iter().map(|turn| turn.share_of_core).collect());
    let admission = median(turns.iter().map(|turn| turn.admission.as_secs_f64()).collect());
    let waiting = Row::new("suspended/waiting", 1, runs as f64 / admission, runs as f64 / median(bare))
        .also("runs", runs as f64)
        .also("share_of_core", share)
        .also("rss_bytes_per_run", bytes_per_run)
        .target("under 1% of a core and 2 KB each", share < 0.01 && bytes_per_run < 2048.0);

    let keys = 1000;
    let (mut agent, mut bare) = (Vec::new(), Vec::new());
    for _ in 0..TURNS {
        agent.push(suspension::pauses(keys, PAUSE)?.as_secs_f64());
        bare.push(bare_pauses(keys)?);
    }
    let (agent, bare) = (median(agent), median(bare));
    let pauses = Row::new("suspended/pauses_200ms", 1, keys as f64 / agent, keys as f64 / bare)
        .also("ms", agent * 1e3)
        .also("baseline_ms", bare * 1e3)
        .target("under 400 ms", agent < 0.4);
    Ok(vec![waiting, pauses])
}
