//! What durable calls cost, and what it takes to go on with runs that have made some.
//!
//! # Workload
//! One file per group of cases; its header has the workload, a back-of-the-envelope limit and the baseline. All are jobs
//! of one worker whose checkpoints lie in a folder of their own under cargo's target folder; calls are over at once, so
//! that what is measured is what the journal costs. Inputs come out of an operator of the bench (`feed.rs`).
//!
//! # Back-of-the-envelope limit
//! See the cases. What the disk takes for a sync is printed before them: no eager result is there sooner.
//!
//! # Baseline
//! Operators and files by hand that do the same, in turns.
//!
//! # Usage
//! `cargo bench --bench durable [-- --quick] [-- --case NAME]`; `BENCH_QUICK=1` does as `--quick` does: tiny sizes, to see
//! that the bench works. Results are printed, and written to `target/bench/durable.json`; after `--case` that file holds
//! this case alone. A file system in memory is refused, but for `--quick`: its syncs cost nothing.
#![forbid(unsafe_code)]

#[path = "../support/allocator.rs"]
mod allocator;
mod by_hand;
mod calls;
#[path = "../support/cases.rs"]
mod cases;
#[path = "../checkpoint/disk.rs"]
mod disk;
#[path = "../checkpoint/feed.rs"]
mod feed;
mod lone;
#[path = "../support/measure.rs"]
mod measure;
mod replay;
#[path = "../support/replies.rs"]
mod replies;
#[path = "../support/report.rs"]
mod report;
mod without;

use std::process::ExitCode;

use cases::Case;

/// In the order in which they run.
const CASES: [Case; 6] = [
    ("disk", disk::disk),
    ("with_epoch", calls::with_epoch),
    ("eager", calls::eager),
    ("lone", lone::lone),
    ("without_calls", without::without_calls),
    ("replay", replay::replay),
];

fn main() -> ExitCode {
    cases::main("durable", &CASES)
}
