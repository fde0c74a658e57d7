//! How long a commit takes: `latency`.
//!
//! # Workload
//! 100 inputs, each of a key of its own out of 10,000, and the close of their epoch; the next epoch's are sent when the
//! commit has been seen on the worker. 500 times.
//!
//! # Back-of-the-envelope limit
//! What the disk takes for three syncs (log, link, name of the link), four hops between threads of some 10 µs each, and
//! 100 runs.
//!
//! # Baseline
//! The same three syncs by hand: see `disk.rs`.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use crate::counter::plan;
use crate::disk;
use crate::feed::{Seen, Turn, checkpoints, milliseconds, nanoseconds, run};
use crate::measure::{Error, Scale, median, mix, now};
use crate::report::Row;

const INPUTS: u64 = 100;

pub(crate) fn latency(scale: Scale) -> Result<Vec<Row>, Error> {
    let folder = disk::folder(scale)?;
    let (commits, warm) = scale.of((500, 50), (10, 2));
    let seconds = Arc::new(Mutex::new(Vec::new()));
    let tell = Arc::clone(&seconds);
    let mut closed: Option<(u64, Instant)> = None;
    let script = move |look: Seen, buffer: &mut Vec<u64>| {
        if let Some((epoch, at)) = closed {
            if look.committed.is_none_or(|committed| committed <= epoch) {
                return Turn::Wait;
            }
            tell.lock().unwrap_or_else(PoisonError::into_inner).push(milliseconds(at));
            if epoch + 1 == commits + warm {
                return Turn::End;
            }
        }
        buffer.extend((0..INPUTS).map(|n| mix(look.epoch * INPUTS + n) % 10_000));
        closed = Some((look.epoch, now()));
        Turn::Close
    };
    run(Some(checkpoints(folder.path())?), plan()?, |n| n, |(_, n)| *n, None, || {}, script)?;
    let seconds = seconds.lock().unwrap_or_else(PoisonError::into_inner).split_off(warm as usize);
    let mut histogram = nanoseconds();
    for ms in seconds {
        histogram.saturating_record((ms * 1e6) as u64);
    }
    let quantile = |q| histogram.value_at_quantile(q) as f64 / 1e6;
    let (p50, p99) = (quantile(0.5), quantile(0.99));
    let by_hand = median(disk::commits(folder.path(), scale.of(100, 5))?) * 1e3;
    Ok(vec![
        Row::new("latency/commit_p50", 1, INPUTS as f64 * 1e3 / p50, INPUTS as f64 * 1e3 / by_hand)
            .ratio(by_hand / p50)
            .also("p50_ms", p50)
            .also("p99_ms", p99)
            .also("max_ms", histogram.max() as f64 / 1e6)
            .also("by_hand_ms", by_hand)
            .target("p50 below 10 ms, p99 below 50 ms", p50 < 10.0 && p99 < 50.0),
    ])
}
