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
    pub(crate) report: Option<Output>,
    /// How long the advisor takes.
    pub(crate) advisor_latency: Duration,
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
                "where alerts go; {process} becomes the index of the process; - is standard output, the default",
            )
            .option("report", "FILE", "where alerts per day and carrier go, as CSV")
            .option("advisor-latency", "MS", "how long the advisor takes (default 0)")
    }

    /// Reads and checks them.
    pub(crate) fn read(arguments: &Arguments) -> Result<Self, Failure> {
        let output = Output::parse(&arguments.value("output").unwrap_or_else(|| "-".to_owned()));
        output.check(arguments.config().processes)?;
        Ok(Options {
            input: arguments.value("input").unwrap_or_else(|| JANUARY.to_owned()).into(),
            output,
            report: arguments.value("report").map(|path| Output::File(path.into())),
            advisor_latency: Duration::from_millis(arguments.parsed("advisor-latency")?.unwrap_or(0)),
        })
    }
}
