//! The command line of a bench: which cases run, and how much they do.

use std::env;
use std::process::ExitCode;

use crate::measure::{Error, Scale};
use crate::report::{self, Row};

/// A case by its name.
pub(crate) type Case = (&'static str, fn(Scale) -> Result<Vec<Row>, Error>);

/// Runs the cases that the command line asks for, all of them if it names none.
pub(crate) fn main(bench: &str, cases: &[Case]) -> ExitCode {
    match run(bench, cases) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{bench}: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run(bench: &str, cases: &[Case]) -> Result<(), Error> {
    let mut quick = env::var("BENCH_QUICK").is_ok_and(|value| value != "0");
    let mut only = None;
    let names = cases.iter().map(|(name, _)| *name).collect::<Vec<_>>().join(", ");
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
        && !cases.iter().any(|(name, _)| name == only)
    {
        return Err(format!("no case {only}; there are {names}").into());
    }
    let scale = Scale { quick };
    let mut rows = Vec::new();
    report::print_head();
    for (name, case) in cases {
        if only.as_deref().is_none_or(|only| only == *name) {
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
    let path = report::write_json(bench, &rows)?;
    println!("written to {}", path.display());
    Ok(())
}
