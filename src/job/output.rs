//! Outputs of a process: each is opened once for all of its workers, and settled when the job ends.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use timely::ExchangeData;
use timely::container::CapacityContainerBuilder;
use timely::dataflow::StreamVec;
use timely::dataflow::channels::pact::{Exchange, Pipeline};
use timely::dataflow::operators::generic::operator::Operator;
use timely_agents_operators::cluster::{Control, Failure};
use timely_agents_operators::commit::gather;
use timely_agents_operators::sink::{Encode, FileSink, Place, stage_lines, write_lines};
use timely_agents_operators::time::EpochTime;

use super::Job;
use crate::durable::Durable;

/// The part of a file's name that becomes the index of the process.
const PROCESS: &str = "{process}";

/// Where records go.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Output {
    /// Standard output.
    Stdout,
    /// A file, which appears when the job has succeeded. `{process}` in its path becomes the index of the process.
    File(PathBuf),
    /// A folder in which a file appears for each epoch and process, when the epoch is committed. Only a job with
    /// checkpoints has such outputs.
    Parts(PathBuf),
}

impl Output {
    /// As it stands on a command line: `-` is standard output, all else names a file.
    pub fn parse(text: &str) -> Self {
        if text == "-" { Output::Stdout } else { Output::File(text.into()) }
    }

    /// Whether each of several processes has an output of its own under this name.
    ///
    /// # Errors
    /// A usage failure that says what is missing.
    pub fn check(&self, processes: usize) -> Result<(), Failure> {
        match self {
            Output::File(path) if processes > 1 && !path.to_string_lossy().contains(PROCESS) => {
                Err(Failure::usage(format!(
                    "output {}: with {processes} processes its name must contain {PROCESS}, or they write one file",
                    path.display()
                )))
            }
            _ => Ok(()),
        }
    }

    fn of_process(&self, process: usize) -> Output {
        match self {
            // The names of parts have the process in them.
            Output::Stdout | Output::Parts(_) => self.clone(),
            Output::File(path) => match path.to_str() {
                Some(text) => Output::File(text.replace(PROCESS, &process.to_string()).into()),
                // No placeholder can be seen in a name that is no text.
                None => self.clone(),
            },
        }
    }
}

/// What writes records of type `D`, a line or so each.
pub trait Sink<D> {
    /// Where to.
    fn output(&self) -> &Output;

    /// What the names of parts end in, without the dot.
    fn extension(&self) -> &'static str {
        "txt"
    }

    /// What stands once at the start of a file whose first record is `first`. Nothing, unless told otherwise.
    ///
    /// # Errors
    /// Why there is no such thing; the job ends with it.
    fn header(&self, first: &D, bytes: &mut Vec<u8>) -> Result<(), String> {
        let _ = (first, bytes);
        Ok(())
    }

    /// Appends a record with its end.
    ///
    /// # Errors
    /// Why the record has no such form; the job ends with it.
    fn encode(&self, record: &D, bytes: &mut Vec<u8>) -> Result<(), String>;
}

/// A sink as operators see it; its errors name it.
struct Named<S> {
    name: String,
    sink: S,
}

impl<D, S: Sink<D>> Encode<D> for Named<S> {
    fn header(&mut self, first: &D, bytes: &mut Vec<u8>) -> Result<(), String> {
        self.sink.header(first, bytes).map_err(|error| format!("{}: {error}", self.name))
    }

    fn encode(&mut self, record: &D, bytes: &mut Vec<u8>) -> Result<(), String> {
        self.sink.encode(record, bytes).map_err(|error| format!("{}: {error}", self.name))
    }
}

/// Streams into sinks.
pub trait SinkStream<'scope, T: EpochTime, D> {
    /// Writes every record, each process those of its own workers. `name` is what failures call the sink.
    ///
    /// The stream that is returned carries nothing; its frontier tells which times have been handed over.
    ///
    /// # Errors
    /// When the output cannot be opened.
    fn sink(
        self,
        job: &Job,
        name: &str,
        sink: impl Sink<D> + 'static,
    ) -> Result<StreamVec<'scope, T, Infallible>, Failure>;
}

impl<'scope, T: EpochTime, D: 'static> SinkStream<'scope, T, D> for StreamVec<'scope, T, D> {
    fn sink(
        self,
        job: &Job,
        name: &str,
        sink: impl Sink<D> + 'static,
    ) -> Result<StreamVec<'scope, T, Infallible>, Failure> {
        let output = sink.output();
        if let Some(durable) = job.durable() {
            return stage(self, durable, job, name, sink);
        }
        let writer = output
            .check(job.processes())
            .and_then(|()| job.output(output))
            .map_err(|failure| Failure::new(failure.kind(), format!("{name}: {failure}")))?;
        let encode = Named { name: name.to_owned(), sink };
        Ok(write_lines(self, writer, encode, Some(job.sink_load()), job.control().clone()))
    }
}

/// Renders a file as [`Job::whole_file`] says, and writes it when no more records can come.
pub(super) fn write_whole<T: EpochTime, D: ExchangeData>(
    stream: StreamVec<'_, T, D>,
    sink: Option<FileSink>,
    mut render: impl FnMut(u64, Vec<D>) -> Result<Vec<u8>, String> + 'static,
    control: Control,
) {
    let mut open: BTreeMap<u64, Vec<D>> = BTreeMap::new();
    let (mut last, mut written) = (None, false);
    Operator::sink(stream, Exchange::new(|_: &D| 0), "WholeFile", move |(input, frontier)| {
        let Some(sink) = &sink else { return };
        input.for_each(|time, records| open.entry(time.time().epoch()).or_default().append(records));
        let least = frontier.frontier().iter().map(EpochTime::epoch).min();
        let rest = least.map_or_else(BTreeMap::new, |least| open.split_off(&least));
        for (epoch, records) in std::mem::replace(&mut open, rest) {
            match render(epoch, records) {
                Ok(content) => last = Some(content),
                Err(why) => control.fail(Failure::data(format!("cannot render a file: {why}"))),
            }
        }
        if frontier.is_empty() {
            // Also where there never was a record.
            let content = last.take().map_or_else(|| render(0, Vec::new()), Ok);
            match content {
                Ok(content) if !written => {
                    written = true;
                    sink.write(content);
                }
                Ok(_) => {}
                Err(why) => control.fail(Failure::data(format!("cannot render a file: {why}"))),
            }
        }
    });
}

/// Stages every record for the commit of its epoch.
fn stage<'scope, T: EpochTime, D: 'static>(
    stream: StreamVec<'scope, T, D>,
    durable: &Durable,
    job: &Job,
    name: &str,
    sink: impl Sink<D> + 'static,
) -> Result<StreamVec<'scope, T, Infallible>, Failure> {
    let Output::Parts(dir) = sink.output() else {
        return Err(Failure::usage(format!(
            "{name}: with checkpoints output goes to a folder of parts, not to standard output or a file"
        )));
    };
    let place = Place::Parts { dir: dir.clone(), extension: sink.extension().to_owned() };
    let stager = durable.sink(name, place)?;
    let encode = Named { name: name.to_owned(), sink };
    let acks = stage_lines(stream, &stager, encode, Some(job.sink_load()), job.control().clone());
    gather(acks.clone(), durable.board());
    let staged = acks.unary::<CapacityContainerBuilder<Vec<Infallible>>, _, _, _>(Pipeline, "Staged", |_, _| {
        |input, _| input.for_each(|_, acks| acks.clear())
    });
    Ok(staged)
}

/// The outputs of one process. Clones are handles of the same.
#[derive(Clone, Default)]
pub(super) struct Outputs {
    open: Arc<Mutex<BTreeMap<Output, FileSink>>>,
}

impl Outputs {
    /// The writer of `output`, opened now if this process has not used it yet.
    pub(super) fn open(&self, output: &Output, control: &Control) -> Result<FileSink, Failure> {
        let output = output.of_process(control.process());
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(sink) = open.get(&output) {
            return Ok(sink.clone());
        }
        let sink = match &output {
            Output::Stdout => FileSink::stdout(control),
            Output::File(path) => FileSink::create(path, control)?,
            Output::Parts(dir) => {
                return Err(Failure::usage(format!(
                    "output {}: parts appear with commits; give the job checkpoints, or write to a file",
                    dir.display()
                )));
            }
        };
        open.insert(output, sink.clone());
        Ok(sink)
    }

    /// The job has succeeded: all is written out, and files take their places.
    pub(super) fn finish(&self) -> Result<(), Failure> {
        let open = std::mem::take(&mut *self.open.lock().unwrap_or_else(PoisonError::into_inner));
        open.into_values().try_for_each(FileSink::finish)
    }
}
