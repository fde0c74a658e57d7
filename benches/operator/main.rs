//! The agent operator beside hand-written timely operators that do the same work on the same data.
//!
//! # Workload
//! One file per group of cases; its header has the workload, a back-of-the-envelope limit and the baseline. Within a
//! case agent and baseline alternate; a figure is the median of five turns after one that does not count, unless the
//! case says otherwise. Outputs of both are summed and must agree. Data is made beforehand, so that rates are those of
//! the dataflow: send, exchange, operate, sum, and follow progress.
//!
//! # Back-of-the-envelope limit
//! See the cases. Rates vary by a third on a machine that others use; ratios vary less, for both sides of a ratio are
//! measured within seconds of each other.
//!
//! # Baseline
//! `baseline.rs`. A ratio means something only where the baseline is as fast as such an operator can be.
//!
//! # Usage
//! `cargo bench --bench operator [-- --quick] [-- --case NAME]`; `BENCH_QUICK=1` does as `--quick` does: tiny sizes, to see
//! that the bench works. Results are printed, and written to `target/bench/operator.json`; after `--case` that file
//! holds this case alone. With `--features abomonation` the case `exchange` has that container, too.
#![forbid(unsafe_code)]

mod baseline;
mod calls;
#[path = "../support/cases.rs"]
mod cases;
mod chain;
#[path = "../support/columnar.rs"]
mod columns;
mod counter;
mod exchange;
mod frontier;
mod latency;
#[path = "../support/measure.rs"]
mod measure;
#[path = "../support/replies.rs"]
mod replies;
#[path = "../support/report.rs"]
mod report;
mod support;
mod suspended;

use std::process::ExitCode;

use cases::Case;
use measure::{Error, Scale};
use report::Row;

/// In the order in which they run.
const CASES: [Case; 8] = [
    ("suspended", suspended::suspended),
    ("counter_u64", counter::counter_u64),
    ("counter_record", counter::counter_record),
    ("chain", chain::chain),
    ("async", calls::calls),
    ("latency", latency::latency),
    ("frontier", frontier::frontier),
    ("exchange", exchange),
];

/// What crossing to another process costs, and what a second worker gains.
fn exchange(scale: Scale) -> Result<Vec<Row>, Error> {
    let mut rows = exchange::containers(scale)?;
    rows.extend(counter::scaling(scale)?);
    Ok(rows)
}

fn main() -> ExitCode {
    exchange::second_process().unwrap_or_else(|| cases::main("operator", &CASES))
}
