//! How long it takes to go on: `recovery`.
//!
//! # Workload
//! 1 million keys, numbers, remember 100 bytes each; all are committed in one epoch, and the job is stopped. It is started
//! again on the same checkpoint, by one worker: the time from the start to the agent being there. Then 1,000 keys are asked
//! whether they remember. Where the machine has 12 GB of memory to spare, the same with 10 million keys. The file is in the
//! page cache, for it has just been written.
//!
//! # Back-of-the-envelope limit
//! 130 MB are read from the page cache at 5 GB/s, and checked by CRC at 10 GB/s: 40 ms. A key costs a look at its facts,
//! 20 ns; a place in the index, the states and the column, three misses that overlap little, 100 ns; its value an
//! allocation and a copy, 50 ns: 0.2 s for a million.
//!
//! # Baseline
//! The log's files read whole, and as many values of 100 bytes, found in those bytes, put into a hash map by their keys.

use std::fs;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use serde::{Deserialize, Serialize};
use timely_agents::prelude::*;

use crate::disk;
use crate::feed::{Seen, Turn, checkpoints, milliseconds, run};
use crate::measure::{Error, Scale, median, now};
use crate::report::Row;

/// Bytes that a key remembers.
const VALUE: usize = 100;

/// A key, and whether it is asked.
#[derive(Clone, Serialize, Deserialize)]
struct Order {
    key: u64,
    asks: bool,
}

/// 100 characters for a key.
fn text(key: u64) -> String {
    format!("{key:0100}")
}

fn plan() -> Result<timely_agents::Plan<Order, u64>, Error> {
    let mut agent = Agent::<Order, u64>::new("agent");
    let remembered = agent.memory::<String>("text");
    agent.on_input("take", move |order, ctx| {
        if order.asks {
            ctx.output(u64::from(ctx.get(remembered).is_some_and(|found| found == text(order.key))));
        } else {
            ctx.put(remembered, text(order.key));
        }
        Ok(())
    });
    Ok(agent.build()?)
}

fn key(order: &Order) -> &u64 {
    &order.key
}

/// Commits all keys and stops.
fn fill(folder: &Path, keys: u64) -> Result<(), Error> {
    let mut next = 0;
    let script = move |look: Seen, buffer: &mut Vec<Order>| {
        if next < keys {
            let end = keys.min(next + 1024);
            buffer.extend((next..end).map(|key| Order { key, asks: false }));
            next = end;
            return Turn::More;
        }
        match (look.epoch, look.committed) {
            (0, _) => Turn::Close,
            (_, Some(committed)) if committed > 0 => Turn::Stop,
            _ => Turn::Wait,
        }
    };
    run(Some(checkpoints(folder)?), plan()?, key, |n| *n, None, || {}, script)
}

/// Starts again; milliseconds until the agent is there.
fn recover(folder: &Path, keys: u64) -> Result<f64, Error> {
    let start = now();
    let took = Arc::new(Mutex::new(None));
    let (tell, answers) = (Arc::clone(&took), Arc::new(Mutex::new(0)));
    let answered = Arc::clone(&answers);
    let asked = keys.min(1000);
    let mut sent = false;
    let script = move |look: Seen, buffer: &mut Vec<Order>| {
        if !sent {
            sent = true;
            buffer.extend((0..asked).map(|n| Order { key: n * (keys / asked), asks: true }));
        }
        if look.outputs < asked {
            return Turn::More;
        }
        *answered.lock().unwrap_or_else(PoisonError::into_inner) = look.sum;
        Turn::Stop
    };
    let ready = move || *tell.lock().unwrap_or_else(PoisonError::into_inner) = Some(milliseconds(start));
    run(Some(checkpoints(folder)?), plan()?, key, |n| *n, None, ready, script)?;
    let answers = *answers.lock().unwrap_or_else(PoisonError::into_inner);
    if answers != asked {
        return Err(format!("of {asked} keys {answers} remember").into());
    }
    let took = took.lock().unwrap_or_else(PoisonError::into_inner).take();
    took.ok_or_else(|| "the job did not start".into())
}

/// Milliseconds for the baseline.
fn by_hand(folder: &Path, keys: u64) -> Result<f64, Error> {
    let start = now();
    let mut files: Vec<_> = fs::read_dir(folder.join("log"))?.collect::<Result<_, _>>()?;
    files.sort_by_key(fs::DirEntry::path);
    let mut values = hashbrown::HashMap::<u64, Box<[u8]>>::new();
    for file in files {
        let bytes = fs::read(file.path())?;
        let first = values.len() as u64;
        for (n, chunk) in bytes.chunks_exact(128).enumerate() {
            let key = first + n as u64;
            if key < keys {
                values.insert(key, chunk[..VALUE].into());
            }
        }
    }
    std::hint::black_box(values.len());
    Ok(milliseconds(start))
}

/// Bytes of memory that can be had.
fn available_memory() -> Result<u64, Error> {
    let meminfo = fs::read_to_string("/proc/meminfo")?;
    let line = meminfo.lines().find_map(|line| line.strip_prefix("MemAvailable:")).ok_or("no MemAvailable")?;
    Ok(line.trim().trim_end_matches(" kB").parse::<u64>()? << 10)
}

fn of(scale: Scale, keys: u64, turns: usize, goal_ms: f64) -> Result<Row, Error> {
    let folder = disk::folder(scale)?;
    fill(folder.path(), keys)?;
    let log = disk::bytes_of(folder.path(), "log")?;
    let (mut took, mut bare) = (Vec::new(), Vec::new());
    for _ in 0..turns {
        took.push(recover(folder.path(), keys)?);
        bare.push(by_hand(folder.path(), keys)?);
    }
    let (took, bare) = (median(took), median(bare));
    // A key is 8 bytes in memory.
    let raw = keys * (8 + VALUE as u64);
    let per_key = log as f64 / keys as f64;
    // Two facts a key: how many runs it has had, and the text.
    let beside = (log - keys * VALUE as u64) as f64 / keys as f64;
    Ok(Row::new(format!("recovery/{keys}_keys"), 1, keys as f64 * 1e3 / took, keys as f64 * 1e3 / bare)
        .also("milliseconds", took)
        .also("baseline_milliseconds", bare)
        .also("bytes_per_dirty_key", per_key)
        .also("bytes_beside_value", beside)
        .also("checkpoint_by_raw_state", log as f64 / raw as f64)
        .target(format!("within {goal_ms} ms, 40 bytes a fact beside its value"), took <= goal_ms && beside <= 40.0))
}

pub(crate) fn recovery(scale: Scale) -> Result<Vec<Row>, Error> {
    Ok(vec![of(scale, scale.of(1_000_000, 2_000), scale.of(3, 1), 2000.0)?])
}

/// Ten times as many keys.
pub(crate) fn recovery_10m(scale: Scale) -> Result<Vec<Row>, Error> {
    if scale.quick || available_memory()? < 12 << 30 {
        println!("recovery of 10 million keys is left out: it needs 12 GB of memory, and time");
        return Ok(Vec::new());
    }
    Ok(vec![of(scale, 10_000_000, 1, 20_000.0)?])
}
