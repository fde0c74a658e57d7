//! Jobs: programs with agents, from their command line to their exit code.
//!
//! ```text
//! Program (options) ──▶ Arguments ──▶ execute ──▶ on each worker: Job ──▶ sources, agents, sinks
//!                                        └──▶ Ok: outputs take their places │ Err: one line, exit code 1 or 2
//! ```
//!
//! [`run`] is all of it for a program without options of its own; [`Program`] has more options; [`execute`] takes a
//! configuration and is for programs with a parser of their own.
//!
//! # Invariants
//! - The command line is checked whole before a thread starts.
//! - A source is read once by the cluster: on worker 0 of process 0. Only that host needs its file.
//! - An output that is a file takes its place when the job has succeeded in all processes, and not before.
//! - A job that fails closes the agents of every worker that is still at work, or waits, before its process ends; see
//!   [`execute`] for the one case that is left.
//!
//! Not here: the cluster and its failures (`operators::cluster`), sources and sinks as operators (`operators`).

mod closing;
mod csv;
mod csv_lines;
mod execute;
mod json_lines;
mod output;
mod place;
mod plans;
mod program;
mod records;
#[cfg(feature = "sqlite")]
mod sqlite;
mod wrong;

use std::fmt::{self, Debug, Formatter};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use timely::dataflow::operators::Concatenate;
use timely::dataflow::{Scope, StreamVec};
use timely::worker::Worker;
use timely_agents_operators::clock::Clock;
use timely_agents_operators::cluster::{Control, Failure};
use timely_agents_operators::durable_input::{DurableInput, DurableReader};
use timely_agents_operators::flow::Flow;
use timely_agents_operators::group::KeyGroups;
use timely_agents_operators::sink::FileSink;
use timely_agents_operators::source::{Reader, SourceOptions, source};
use timely_agents_operators::stop::Stop;
use timely_agents_operators::time::EpochTime;

pub use self::csv::{Csv, CsvFile, CsvReader, CsvRows};
pub use self::csv_lines::CsvLines;
pub use self::execute::{execute, execute_from_args, run};
pub use self::json_lines::{JsonLines, JsonLinesFile, JsonLinesReader, JsonLinesRows};
pub use self::output::{Output, Sink, SinkStream};
pub use self::plans::Plans;
pub use self::program::{Arguments, Program};
pub use self::records::Records;
#[cfg(feature = "sqlite")]
pub use self::sqlite::{SqliteDatabase, SqliteSink};
pub use self::wrong::Wrong;

use self::output::Outputs;
use crate::environment::Environment;

/// What can be read once it is opened; opening is for the worker that reads.
pub trait IntoReader {
    /// What reads.
    type Reader: Reader;

    /// Opens it.
    ///
    /// # Errors
    /// What cannot be opened; the job ends with it.
    fn into_reader(self) -> Result<Self::Reader, Failure>;
}

impl<R: Reader, F: FnOnce() -> Result<R, Failure>> IntoReader for F {
    type Reader = R;

    fn into_reader(self) -> Result<R, Failure> {
        self()
    }
}

impl<I: Send + 'static> IntoReader for DurableInput<I> {
    type Reader = DurableReader<I>;

    fn into_reader(self) -> Result<Self::Reader, Failure> {
        self.reader()
    }
}

/// The job as one of its workers sees it.
#[derive(Clone)]
pub struct Job {
    control: Control,
    flow: Flow,
    outputs: Outputs,
    index: usize,
    peers: usize,
    read: Arc<AtomicU64>,
}

impl Job {
    /// Sets up `worker` for agents; comes before the dataflows that they are in.
    fn new(worker: &mut Worker, control: &Control, outputs: &Outputs, read: &Arc<AtomicU64>, stop: &Stop) -> Self {
        let flow = Flow::build(worker);
        let (meters, failed) = (flow.meters(), control.clone());
        Environment {
            groups: KeyGroups::default(),
            clock: Clock::system(),
            on_failure: Rc::new(move |failure| failed.fail(Failure::data(failure.to_string()))),
            on_load: Some(Rc::new(move |limits| meters.meter(limits))),
            stop: stop.clone(),
        }
        .set();
        Job {
            control: control.clone(),
            flow,
            outputs: outputs.clone(),
            index: worker.index(),
            peers: worker.peers(),
            read: Arc::clone(read),
        }
    }

    /// Ends the job on request, and tells of its failure.
    pub fn control(&self) -> &Control {
        &self.control
    }

    /// What holds sources back while agents are at their limits.
    pub fn flow(&self) -> &Flow {
        &self.flow
    }

    /// The index of this process.
    pub fn process(&self) -> usize {
        self.control.process()
    }

    /// How many processes the job has.
    pub fn processes(&self) -> usize {
        self.control.processes()
    }

    /// This worker, from 0 over all processes.
    pub fn worker(&self) -> usize {
        self.index
    }

    /// The number of workers over all processes.
    pub fn peers(&self) -> usize {
        self.peers
    }

    /// How many records the sources of this process have sent.
    pub fn read(&self) -> Arc<AtomicU64> {
        Arc::clone(&self.read)
    }

    /// A source that the cluster reads once: `reader` is opened on worker 0 of process 0 only, though all workers
    /// name it. It waits while agents of the job are at their limits (rule S9).
    ///
    /// `reader` is a [`Csv`], [`Records`], or a closure that opens a [`Reader`].
    ///
    /// # Errors
    /// On the worker that reads, when it cannot be opened.
    pub fn source<'scope, T: EpochTime, S: IntoReader>(
        &self,
        scope: Scope<'scope, T>,
        name: &str,
        reader: S,
    ) -> Result<StreamVec<'scope, T, <S::Reader as Reader>::Item>, Failure> {
        let reader = if self.index == 0 { Some(reader.into_reader()?) } else { None };
        Ok(source(scope, reader, self.source_options(name)))
    }

    /// Several sources, such as the files of a directory, each read by one worker: the `i`-th by worker `i % peers`,
    /// under the name `name/i`. Every process must name all of them in one order, and hold those of its workers.
    ///
    /// Each has epochs of its own; an epoch of the stream is over when it is over in all of them.
    ///
    /// # Errors
    /// On the worker that reads it, when one of them cannot be opened.
    pub fn sources<'scope, T: EpochTime, S: IntoReader>(
        &self,
        scope: Scope<'scope, T>,
        name: &str,
        readers: impl IntoIterator<Item = S>,
    ) -> Result<StreamVec<'scope, T, <S::Reader as Reader>::Item>, Failure> {
        let mut streams = Vec::new();
        for (i, reader) in readers.into_iter().enumerate() {
            let reader = if i % self.peers == self.index { Some(reader.into_reader()?) } else { None };
            streams.push(source(scope, reader, self.source_options(&format!("{name}/{i}"))));
        }
        Ok(scope.concatenate(streams))
    }

    fn source_options(&self, name: &str) -> SourceOptions {
        let mut options = SourceOptions::new(name, self.control.clone());
        options.flow = Some(self.flow.clone());
        options.read = Some(Arc::clone(&self.read));
        options
    }

    /// The writer of an output, one for all workers of this process; the first that asks opens it.
    ///
    /// # Errors
    /// When it cannot be opened. Whether several processes would write one file is for [`Output::check`] to say: a
    /// process opens no output that its workers do not ask for.
    pub fn output(&self, output: &Output) -> Result<FileSink, Failure> {
        self.outputs.open(output, &self.control)
    }
}

impl Debug for Job {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        f.debug_struct("Job")
            .field("process", &self.process())
            .field("worker", &self.index)
            .field("peers", &self.peers)
            .finish_non_exhaustive()
    }
}
