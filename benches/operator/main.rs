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
//! holds this case alone. Bytes and time per container between processes are the subject of the bench `exchange`.
#![forbid(unsafe_code)]

mod baseline;
mod calls;
mod chain;
mod counter;
mod frontier;
mod latency;
mod report;
mod support;
mod suspended;

use std::env;
use std::process::ExitCode;

use report::Row;
use support::{Error, Scale};

type Case = (&'static str, fn(Scale) -> Result<Vec<Row>, Error>);

/// In the order in which they run.
const CASES: [Case; 8] = [
    ("suspended", suspended::suspended),
    ("counter_u64", counter::counter_u64),
    ("counter_record", counter::counter_record),
    ("chain", chain::chain),
    ("async", calls::calls),
    ("latency", latency::latency),
    ("frontier", frontier::frontier),
    ("exchange", counter::exchange),
];

fn run() -> Result<(), Error> {
    let mut quick = env::var("BENCH_QUICK").is_ok_and(|value| value != "0");
    let mut only = None;
    let names = CASES.map(|(name, _)| name).join(", ");
    let mut arguments = env::args().skip(1);
    while let Some(argument) = arguments.next() {
        match argument.as_str() {
            "--quick" => quick = true,
            // Cargo says so to every bench.
            "--bench" => {}
            "--case" => only = Some(arguments.next().ok_or_else(|| format!("--case needs one of {names}"))?),
            _ => return Err(format!("unknown argument {argument}; there are --quick and --case").into()),
        }
    }
    if let Some(only) = &only
        && !CASES.iter().any(|(name, _)| name == only)
    {
        return Err(format!("no case {only}; there are {names}").into());
    }
    let scale = Scale { quick };
    let mut rows = Vec::new();
    report::print_head();
    for (name, case) in CASES {
        if only.as_deref().is_none_or(|only| only == name) {
            let mut found = case(scale).map_err(|error| format!("{name}: {error}"))?;
            if quick {
                found.iter_mut().for_each(Row::forget_target);
            }
            found.iter().for_each(report::print);
            rows.extend(found);
        }
    }
    if quick {
        println!("sizes are tiny: these figures say nothing, and targets are not looked at");
    }
    let path = report::write_json(&rows)?;
    println!("written to {}", path.display());
    Ok(())
}

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("operator: {error}");
            ExitCode::FAILURE
        }
    }
}
