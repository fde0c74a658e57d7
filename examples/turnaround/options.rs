//! The program's own options, beside those of every job.

use std::path::PathBuf;
use std::time::Duration;

use timely_agents::cluster::Failure;
use timely_agents::{Arguments, Output, Program};

/// January 2013, wherever the program is started.
const JANUARY: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/examples/data/flights-2013-01.csv");

/// What the command line says.
pub(crate) struct Options {
    /// The flights.
    pub(crate) input: PathBuf,
    /// Where alerts go.
    pub(crate) output: Output,
    /// Where the counts per day and carrier go, if anywhere.
    pub(crate) report: Option<PathBuf>,
    /// Where the running totals per carrier go, if anywhere.
    pub(crate) running: Option<PathBuf>,
    /// How many days may be open that are not committed.
    pub(crate) open_epochs: Option<u64>,
    /// How many rows are read in a second at most.
    pub(crate) rate: Option<f64>,
    /// How long the advisor takes.
    pub(crate) advisor_latency: Duration,
    /// Where the advisor keeps its ledger, if anywhere.
    pub(crate) advisor_ledger: Option<PathBuf>,
}

impl Options {
    /// The options as `--help` prints them.
    pub(crate) fn program() -> Program {
        Program::new("turnaround")
            .about("Finds reactionary delays of aircraft and asks an advisor about each.")
            .option("input", "FILE", "flights to read (default January 2013)")
            .option(
                "output",
                "FILE",
                "where alerts go; {process} becomes the index of the process; - is standard output, the default; \
                 with --checkpoints a folder, in which each commit publishes parts",
            )
            .option("report", "FILE", "where alerts per day and carrier go, as CSV")
            .option("running", "FILE", "where running totals of alerts per carrier go, as CSV")
            .option("open-epochs", "NUM", "with --checkpoints: days that may be open and not committed")
            .option("rate", "ROWS", "rows to read in a second at most")
            .option("advisor-latency", "MS", "how long the advisor takes (default 0)")
            .option("advisor-ledger", "FILE", "where the advisor notes what it is asked, and that it has answered")
    }

    /// Reads and checks them.
    pub(crate) fn read(arguments: &Arguments) -> Result<Self, Failure> {
        let output = Output::parse(&arguments.value("output").unwrap_or_else(|| "-".to_owned()));
        let output = match (arguments.has_checkpoints(), output) {
            (true, Output::File(dir)) => Output::Parts(dir),
            (true, _) => {
                return Err(Failure::usage(
                    "--output: with --checkpoints it must name a folder: what was printed cannot be taken back",
                ));
            }
            (false, output) => output,
        };
        output.check(arguments.config().processes)?;
        let rate = arguments.parsed("rate")?;
        if rate.is_some_and(|rate: f64| rate.is_nan() || rate <= 0.0) {
            return Err(Failure::usage("--rate: give a number of rows above 0"));
        }
        let open_epochs = arguments.parsed("open-epochs")?;
        if open_epochs == Some(0) {
            return Err(Failure::usage("--open-epochs 0: at least one day must be open"));
        }
        Ok(Options {
            input: arguments.value("input").unwrap_or_else(|| JANUARY.to_owned()).into(),
            output,
            report: arguments.value("report").map(PathBuf::from),
            running: arguments.value("running").map(PathBuf::from),
            open_epochs,
            rate,
            advisor_latency: Duration::from_millis(arguments.parsed("advisor-latency")?.unwrap_or(0)),
            advisor_ledger: arguments.value("advisor-ledger").map(PathBuf::from),
        })
    }
}
