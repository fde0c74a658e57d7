//! Bytes to a file or to standard output, without a worker ever waiting for them.
//!
//! A [`FileSink`] is one per process and output. Workers hand bytes over; a thread of its own writes them. A file is
//! written under a temporary name beside its place and takes its place when the job has succeeded.
//!
//! # Invariants
//! - A file at the given path is a whole one: what was there before, or all of a successful job.
//! - The temporary file is removed when the job fails, and when the sink is dropped without [`FileSink::finish`].
//! - Pieces appear whole and in the order in which they were handed over by one worker.
//! - The first write that fails ends the job; nothing is written after it.
//!
//! Not here: bounds. What was handed over and is not written yet stays in memory. Nor files that become visible piece
//! by piece with checkpoints (`stager`).

use std::convert::Infallible;
use std::fmt;
use std::fs::{self, OpenOptions};
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;

use crossbeam::channel::{Receiver, Sender, bounded, unbounded};
use timely::container::CapacityContainerBuilder;
use timely::dataflow::StreamVec;
use timely::dataflow::channels::pact::Pipeline;
use timely::dataflow::operators::generic::operator::Operator;
use timely::progress::Timestamp;

use super::backlog::{Backlog, SinkLoad};
use super::encode::Encode;
use super::publish::folder_of;
use super::reason;
use crate::cluster::{Control, Failure};
use crate::files::{self, Files, GrowingFile};

/// Bytes that a thread of its own gathers before it writes to a file.
const BUFFER: usize = 64 << 10;

/// Where workers of one process leave bytes to be written.
#[derive(Clone)]
pub struct FileSink {
    to_writer: Sender<Message>,
    backlog: Backlog,
}

impl fmt::Debug for FileSink {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FileSink").field("waiting", &self.to_writer.len()).finish_non_exhaustive()
    }
}

enum Message {
    /// What stands at the start, if nothing does yet, and what follows.
    Bytes {
        header: Vec<u8>,
        bytes: Vec<u8>,
    },
    Finish(Sender<Result<(), Failure>>),
}

impl FileSink {
    /// A sink that writes to standard output.
    pub fn stdout(control: &Control) -> Self {
        Self::new("standard output", io::stdout(), control)
    }

    /// A sink that writes to `writer`, which messages call `name`. A thread that cannot be started ends the job.
    pub fn new(name: impl Into<String>, writer: impl Write + Send + 'static, control: &Control) -> Self {
        Self::start(name.into(), Output::Stream(Box::new(writer)), control)
    }

    /// A sink for the file at `path`, which appears, or is replaced, at [`FileSink::finish`].
    ///
    /// What is at `path` and is no regular file, such as a device or a named pipe, is written to directly.
    ///
    /// # Errors
    /// The file cannot be created.
    pub fn create(path: impl AsRef<Path>, control: &Control) -> Result<Self, Failure> {
        Self::create_on(files::system(), path.as_ref(), control)
    }

    /// As [`FileSink::create`], on other files than the system's, but for what is there and is no file.
    pub(super) fn create_on(files: Arc<dyn Files>, path: &Path, control: &Control) -> Result<Self, Failure> {
        let name = path.display().to_string();
        let failed = |error: io::Error| Failure::data(format!("cannot create {name}: {}", reason(&error)));
        // A link is followed: the file that it names is replaced, not the link.
        let place = fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
        let output = match fs::metadata(&place) {
            Ok(there) if there.is_dir() => return Err(failed(io::ErrorKind::IsADirectory.into())),
            Ok(there) if !there.is_file() => {
                let device = OpenOptions::new().write(true).open(&place).map_err(failed)?;
                Output::Stream(Box::new(device))
            }
            _ => {
                let (part, file) = Part::create(files, place).map_err(failed)?;
                let abandoned = part.clone();
                control.on_failure(move || abandoned.remove());
                Output::File(BufWriter::with_capacity(BUFFER, file), part)
            }
        };
        Ok(Self::start(name, output, control))
    }

    fn start(name: String, output: Output, control: &Control) -> Self {
        let (to_writer, messages) = unbounded();
        let writer = control.clone();
        let backlog = Backlog::default();
        let written = backlog.clone();
        let started = thread::Builder::new()
            .name("sink".to_owned())
            .spawn(move || write_all(&name, output, &messages, &written, &writer));
        if let Err(error) = started {
            control.fail(Failure::data(format!("cannot start the thread of a sink: {error}")));
        }
        FileSink { to_writer, backlog }
    }

    /// Hands `bytes` over; returns at once. They are written as one piece. After [`FileSink::finish`] they are dropped.
    pub fn write(&self, bytes: Vec<u8>) {
        self.write_below(Vec::new(), bytes);
    }

    /// The same, but with `header` in front if these are the first bytes of the output.
    pub fn write_below(&self, header: Vec<u8>, bytes: Vec<u8>) {
        self.backlog.add(bytes.len());
        let _ = self.to_writer.send(Message::Bytes { header, bytes });
    }

    /// Waits until all is written and durable, and puts a file in its place. To be called when the job has succeeded.
    ///
    /// # Errors
    /// The first write that failed, or what kept the file from its place.
    pub fn finish(self) -> Result<(), Failure> {
        let ended = || Failure::data("a sink was finished twice");
        let (tell, told) = bounded(1);
        self.to_writer.send(Message::Finish(tell)).map_err(|_| ended())?;
        told.recv().map_err(|_| ended())?
    }
}

/// Where the writer's thread writes.
enum Output {
    Stream(Box<dyn Write + Send>),
    File(BufWriter<Box<dyn GrowingFile>>, Part),
}

impl Output {
    fn writer(&mut self) -> &mut dyn Write {
        match self {
            Output::Stream(writer) => writer,
            Output::File(writer, _) => writer,
        }
    }

    fn finish(mut self) -> io::Result<()> {
        self.writer().flush()?;
        match self {
            Output::Stream(_) => Ok(()),
            Output::File(writer, part) => {
                writer.into_inner()?.sync()?;
                part.publish()
            }
        }
    }
}

/// The writer's thread.
fn write_all(name: &str, mut output: Output, messages: &Receiver<Message>, backlog: &Backlog, control: &Control) {
    let failed = |error: &io::Error| Failure::data(format!("cannot write {name}: {}", reason(error)));
    let mut outcome = Ok(());
    let mut finish = None;
    let mut begun = false;
    for message in messages {
        match message {
            Message::Bytes { header, bytes } => {
                if outcome.is_ok() {
                    let writer = output.writer();
                    let header = if begun { Vec::new() } else { header };
                    begun = true;
                    let mut written = writer.write_all(&header).and_then(|()| writer.write_all(&bytes));
                    if messages.is_empty() {
                        written = written.and_then(|()| writer.flush());
                    }
                    outcome = written.map_err(|error| failed(&error));
                    if let Err(failure) = &outcome {
                        control.fail(failure.clone());
                    }
                }
                backlog.remove(bytes.len());
            }
            Message::Finish(tell) => {
                finish = Some(tell);
                break;
            }
        }
    }
    match finish {
        Some(tell) if outcome.is_ok() => {
            let _ = tell.send(output.finish().map_err(|error| failed(&error)));
        }
        other => {
            if let Output::File(_, part) = &output {
                part.remove();
            }
            if let Some(tell) = other {
                let _ = tell.send(outcome);
            }
        }
    }
}

/// A file under its temporary name.
#[derive(Clone, Debug)]
struct Part {
    files: Arc<dyn Files>,
    temporary: PathBuf,
    place: PathBuf,
}

impl Part {
    fn create(files: Arc<dyn Files>, place: PathBuf) -> io::Result<(Self, Box<dyn GrowingFile>)> {
        static NUMBER: AtomicU64 = AtomicU64::new(0);
        let Some(name) = place.file_name() else {
            return Err(io::ErrorKind::IsADirectory.into());
        };
        loop {
            let number = NUMBER.fetch_add(1, Ordering::Relaxed);
            let mut temporary = name.to_owned();
            temporary.push(format!(".{}-{number}.part", std::process::id()));
            let temporary = place.with_file_name(temporary);
            match files.create_new(&temporary) {
                Ok(file) => return Ok((Part { files, temporary, place }, file)),
                // Left behind by a process that was killed and had this one's number.
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
                Err(error) => return Err(error),
            }
        }
    }

    /// Puts the file in its place, durably.
    fn publish(&self) -> io::Result<()> {
        if let Err(error) = self.files.rename(&self.temporary, &self.place) {
            self.remove();
            return Err(error);
        }
        folder_of(&self.place).map_or(Ok(()), |folder| self.files.sync_folder(folder))
    }

    fn remove(&self) {
        if let Err(error) = self.files.remove(&self.temporary)
            && error.kind() != io::ErrorKind::NotFound
        {
            tracing::warn!(file = %self.temporary.display(), %error, "a temporary file stays behind");
        }
    }
}

/// Writes the records of `stream` as `encode` puts them, one piece an activation. `encode` ends its records itself,
/// with a line feed for instance.
///
/// With `load` the job's sources wait while the sink has too much to write. The stream that is returned carries nothing;
/// its frontier tells which times have been handed over.
pub fn write_lines<T: Timestamp, D: 'static>(
    stream: StreamVec<'_, T, D>,
    sink: FileSink,
    mut encode: impl Encode<D> + 'static,
    load: Option<SinkLoad>,
    control: Control,
) -> StreamVec<'_, T, Infallible> {
    let scope = stream.scope();
    stream.unary::<CapacityContainerBuilder<Vec<Infallible>>, _, _, _>(Pipeline, "WriteLines", move |_, info| {
        if let Some(load) = &load {
            load.watch(&sink.backlog, scope.worker().sync_activator_for(info.address.to_vec()));
        }
        // After a failure: the capability of what could not be written, for ever.
        let mut kept = None;
        let mut begun = false;
        move |input, output| {
            let (mut header, mut bytes) = (Vec::new(), Vec::new());
            input.for_each_time(|capability, batches| {
                if kept.is_some() {
                    return;
                }
                for item in batches.flat_map(|batch| batch.drain(..)) {
                    let whole = bytes.len();
                    let headed = if begun { Ok(()) } else { encode.header(&item, &mut header) };
                    begun = true;
                    if let Err(why) = headed.and_then(|()| encode.encode(&item, &mut bytes)) {
                        bytes.truncate(whole);
                        control.fail(Failure::data(format!("cannot encode a record for output: {why}")));
                        kept = Some(capability.retain(output.output_index()));
                        return;
                    }
                }
            });
            if !bytes.is_empty() {
                sink.write_below(header, bytes);
            }
            if let Some(load) = &load {
                load.tell(&sink.backlog);
            }
        }
    })
}
