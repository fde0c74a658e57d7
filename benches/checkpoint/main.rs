//! What checkpoints cost, and what it takes to go on from one.
//!
//! # Workload
//! One file per group of cases; its header has the workload, a back-of-the-envelope limit and the baseline. All are jobs
//! of one worker whose checkpoints lie in a folder of their own under cargo's target folder. Inputs come out of an operator
//! of the bench (`feed.rs`), so that the cost of reading them is next to nothing and the same on both sides.
//!
//! # Back-of-the-envelope limit
//! See the cases. What the disk takes for a sync is printed before them: nothing is committed in less than three of
//! those, one for the log, and two for a link of the chain and its name.
//!
//! # Baseline
//! The same job without checkpoints, in turns, where a rate is the subject; else files written and read by hand.
//!
//! # Usage
//! `cargo bench --bench checkpoint [-- --quick] [-- --case NAME]`; `BENCH_QUICK=1` does as `--quick` does: tiny sizes, to
//! see that the bench works. Results are printed, and written to `target/bench/checkpoint.json`; after `--case` that file
//! holds this case alone. A file system in memory is refused, but for `--quick`: its syncs cost nothing.
#![forbid(unsafe_code)]

#[path = "../support/allocator.rs"]
mod allocator;
mod carry;
#[path = "../support/cases.rs"]
mod cases;
mod counter;
mod disk;
mod feed;
mod latency;
#[path = "../support/measure.rs"]
mod measure;
mod recovery;
#[path = "../support/report.rs"]
mod report;

use std::process::ExitCode;

use cases::Case;

/// In the order in which they run.
const CASES: [Case; 6] = [
    ("disk", disk::disk),
    ("counter_u64", counter::counter_u64),
    ("latency", latency::latency),
    ("carry", carry::carry),
    ("recovery", recovery::recovery),
    ("recovery_10m", recovery::recovery_10m),
];

fn main() -> ExitCode {
    cases::main("checkpoint", &CASES)
}
