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
mod stopping;
mod wrong;

use std::fmt::{self, Debug, Formatter};
use std::path::Path;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use serde::Serialize;
use timely::ExchangeData;
use timely::dataflow::operators::Concatenate;
use timely::dataflow::{Scope, StreamVec};
use timely::worker::Worker;
use timely_agents_operators::clock::Clock;
use timely_agents_operators::cluster::{Control, Failure};
use timely_agents_operators::commit::{Committed, gather, gather_source};
use timely_agents_operators::durable_input::{DurableInput, DurableReader};
use timely_agents_operators::flow::Flow;
use timely_agents_operators::group::KeyGroups;
use timely_agents_operators::limits::Limits;
use timely_agents_operators::sink::{FileSink, Place, SinkLoad, TransactionalSink, stage_rows, stage_whole};
use timely_agents_operators::source::{Reader, SourceOptions, source, source_with_acks};
use timely_agents_operators::stop::Stop;
use timely_agents_operators::time::EpochTime;

pub use self::csv::{Csv, CsvFile, CsvReader, CsvRows};
pub use self::csv_lines::CsvLines;
pub use self::execute::{execute, execute_from_args, execute_with, run};
pub use self::json_lines::{JsonLines, JsonLinesFile, JsonLinesReader, JsonLinesRows};
pub use self::output::{Output, Sink, SinkStream};
pub use self::plans::Plans;
pub use self::program::{Arguments, Program};
pub use self::records::Records;
#[cfg(feature = "sqlite")]
pub use self::sqlite::{SqliteDatabase, SqliteSink};
pub use self::wrong::Wrong;

use self::output::Outputs;
use crate::durable::Durable;
use crate::environment::Environment;

/// How many epochs a source of a job with checkpoints may have begun that are not committed, unless it says otherwise.
const OPEN_EPOCHS: u64 = 1024;

/// Bytes that a sink may have to write before the job's sources wait for it.
const SINK_BYTES: usize = 64 << 20;

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
    durable: Option<Rc<Durable>>,
}

impl Job {
    /// Sets up `worker` for agents; comes before the dataflows that they are in.
    fn new(
        worker: &mut Worker,
        name: &str,
        control: &Control,
        outputs: &Outputs,
        read: &Arc<AtomicU64>,
        stop: &Stop,
        durable: Option<Rc<Durable>>,
    ) -> Self {
        let flow = Flow::build(worker);
        let (meters, failed, broken) = (flow.meters(), control.clone(), control.clone());
        Environment {
            job: Rc::from(name),
            groups: KeyGroups::default(),
            clock: Clock::system(),
            on_failure: Rc::new(move |failure| failed.fail(Failure::data(failure.to_string()))),
            on_load: Some(Rc::new(move |limits| meters.meter(limits))),
            stop: stop.clone(),
            on_broken: Rc::new(move |failure| broken.fail(failure)),
            durable: durable.clone(),
        }
        .set();
        Job {
            control: control.clone(),
            flow,
            outputs: outputs.clone(),
            index: worker.index(),
            peers: worker.peers(),
            read: Arc::clone(read),
            durable,
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
        self.source_with(scope, name, reader, |_| {})
    }

    /// The same, with options set by `adjust`: the greatest rate, or how many epochs may be open.
    ///
    /// # Errors
    /// As [`Job::source`].
    pub fn source_with<'scope, T: EpochTime, S: IntoReader>(
        &self,
        scope: Scope<'scope, T>,
        name: &str,
        reader: S,
        adjust: impl FnOnce(&mut SourceOptions),
    ) -> Result<StreamVec<'scope, T, <S::Reader as Reader>::Item>, Failure> {
        let mut options = self.source_options(name);
        adjust(&mut options);
        self.read_on(scope, 0, reader, options)
    }

    /// A source that `worker` reads.
    fn read_on<'scope, T: EpochTime, S: IntoReader>(
        &self,
        scope: Scope<'scope, T>,
        worker: usize,
        reader: S,
        options: SourceOptions,
    ) -> Result<StreamVec<'scope, T, <S::Reader as Reader>::Item>, Failure> {
        let reader = if self.index == worker { Some(reader.into_reader()?) } else { None };
        let Some(durable) = &self.durable else { return Ok(source(scope, reader, options)) };
        let resume = durable.source(&options.name)?;
        let (records, acks) = source_with_acks(scope, reader, options, resume);
        gather_source(acks, durable.board());
        Ok(records)
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
        self.sources_with(scope, name, readers, |_| {})
    }

    /// The same, with the options of each set by `adjust`.
    ///
    /// # Errors
    /// As [`Job::sources`].
    pub fn sources_with<'scope, T: EpochTime, S: IntoReader>(
        &self,
        scope: Scope<'scope, T>,
        name: &str,
        readers: impl IntoIterator<Item = S>,
        adjust: impl Fn(&mut SourceOptions),
    ) -> Result<StreamVec<'scope, T, <S::Reader as Reader>::Item>, Failure> {
        let mut streams = Vec::new();
        for (i, reader) in readers.into_iter().enumerate() {
            let mut options = self.source_options(&format!("{name}/{i}"));
            adjust(&mut options);
            streams.push(self.read_on(scope, i % self.peers, reader, options)?);
        }
        Ok(scope.concatenate(streams))
    }

    fn source_options(&self, name: &str) -> SourceOptions {
        let mut options = SourceOptions::new(name, self.control.clone());
        options.flow = Some(self.flow.clone());
        options.read = Some(Arc::clone(&self.read));
        if let Some(durable) = &self.durable {
            options.sources = Some(durable.sources().clone());
            options.open_epochs = Some(OPEN_EPOCHS);
        }
        options
    }

    /// The epoch at which the job goes on: all before it are over. 0 when it begins, or has no checkpoints.
    pub fn resume_epoch(&self) -> u64 {
        self.durable.as_ref().map_or(0, |durable| durable.resume())
    }

    /// What is committed, as this worker sees it, if the job has checkpoints.
    pub fn committed(&self) -> Option<&Committed> {
        self.durable.as_ref().map(|durable| durable.committed())
    }

    pub(crate) fn durable(&self) -> Option<&Rc<Durable>> {
        self.durable.as_ref()
    }

    /// A file that is replaced at each commit that changes it: worker 0 is given all records of `stream`, and when an
    /// epoch closes `render` says, from those of that epoch, what the file contains from now on.
    ///
    /// A job without checkpoints has no commits: its file appears when it has succeeded, as it was last.
    ///
    /// # Errors
    /// When the output cannot be opened.
    pub fn whole_file<T: EpochTime, D: ExchangeData>(
        &self,
        stream: StreamVec<'_, T, D>,
        name: &str,
        file: &Path,
        render: impl FnMut(u64, Vec<D>) -> Result<Vec<u8>, String> + 'static,
    ) -> Result<(), Failure> {
        let Some(durable) = &self.durable else {
            let sink = if self.index == 0 { Some(self.output(&Output::File(file.to_owned()))?) } else { None };
            output::write_whole(stream, sink, render, self.control.clone());
            return Ok(());
        };
        let stager = if self.index == 0 {
            Some(durable.sink(name, Place::Whole(file.to_owned()))?)
        } else {
            durable.name_sink(name)?;
            None
        };
        gather(stage_whole(stream, stager, render, self.control.clone()), durable.board());
        Ok(())
    }

    /// Hands records to a database: those of an epoch become rows of it, all in one transaction, at the epoch's commit.
    ///
    /// Until then they are staged in `dir`, which all processes must see. `open` is called once, on worker 0.
    ///
    /// # Errors
    /// The job has no checkpoints, or the sink cannot be opened.
    pub fn transactional_sink<T: EpochTime, S: TransactionalSink<Row: Serialize>>(
        &self,
        stream: StreamVec<'_, T, S::Row>,
        name: &str,
        dir: &Path,
        open: impl FnOnce() -> Result<S, Failure>,
    ) -> Result<(), Failure> {
        let Some(durable) = &self.durable else {
            return Err(Failure::usage(format!("{name}: a transactional sink needs a job with checkpoints")));
        };
        let stager = durable.transactional(name, dir, open)?;
        gather(stage_rows(stream, &stager, self.control.clone()), durable.board());
        Ok(())
    }

    /// What holds sources back while a sink has too much to write.
    fn sink_load(&self) -> SinkLoad {
        let limits = Limits { inbox_bytes: SINK_BYTES, ..Limits::default() };
        SinkLoad::new(limits, self.flow.meter(limits))
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
