//! Reactionary delays: aircraft that leave late because they came in late, and what to do about it.
//!
//! `cargo run --release --example turnaround` reads the departures from New York in January 2013 and writes one JSON
//! line for each reactionary delay. One agent per aircraft remembers how late it last arrived (`agent`); differential
//! dataflow counts the alerts of each day and carrier, and a day's counts are written when its epoch closes (`report`).
//!
//! ```text
//! file ─▶ flights, epoch = day ─▶ agent per aircraft ─┬─▶ alerts, as JSON lines, by each process
//!         (worker 0 of process 0)                     └─▶ count per day and carrier ─▶ report, by process 0
//! ```
//!
//! The alerts, as a set, are the same for any `-w`, `-n` and hostfile: all flights of an aircraft come from one source
//! in file order, and its agent takes them one at a time.

mod advisor;
mod agent;
mod flight;
mod options;
mod progress;
mod report;
mod summary;

use std::process::ExitCode;
use std::sync::Arc;

use timely::dataflow::operators::Inspect;
use timely_agents::cluster::Failure;
use timely_agents::prelude::*;

use crate::advisor::Advisor;
use crate::flight::{Counts, flights};
use crate::options::Options;
use crate::progress::Progress;
use crate::summary::Summary;

fn main() -> ExitCode {
    Options::program().main(|arguments| {
        let options = Options::read(&arguments)?;
        let advisor = Advisor::new(options.advisor_latency, options.advisor_ledger.as_deref())?;
        let plan = agent::plan(&advisor).map_err(|errors| Failure::usage(errors.to_string()))?;
        arguments.replay::<u64, String, _, _>(&plan)?;
        let counts = Arc::new(Counts::default());
        let progress = Progress::new(arguments.config().process == 0, &options.input);

        let (agent, counted, shown) = (plan.clone(), Arc::clone(&counts), progress.clone());
        let summary = Summary::start();
        let workers = arguments.execute(move |worker, job| {
            shown.clear_on_failure(job.control());
            worker.dataflow::<u64, _, _>(|scope| {
                let input = flights(&options.input, &counted, &shown);
                let flights = job.source_with(scope, "flights", input, |source| {
                    source.rate = options.rate;
                    source.open_epochs = options.open_epochs.or(source.open_epochs);
                })?;
                let alerts = flights.agent(|flight| &flight.tailnum, &agent);
                if let Some(file) = &options.report {
                    report::report(alerts.clone(), job, file)?;
                }
                if let Some(file) = &options.running {
                    report::running(alerts.clone(), job, file)?;
                }
                let counted = Arc::clone(&counted);
                alerts.inspect(move |_| counted.alert()).sink(job, "alerts", JsonLines::to(options.output.clone()))?;
                Ok(())
            })
        })?;
        progress.clear();
        if workers.is_empty() {
            // The job was complete already, or runs were replayed, and that was said.
            return Ok(());
        }
        summary.print(&counts, &plan.stats(), &advisor);
        Ok(())
    })
}
