//! Records from outside, read once by the cluster.
//!
//! One worker of the cluster is given a [`Reader`] and puts its records into the dataflow at their epochs; on all other
//! workers the operator holds nothing from the start. An activation reads at most a batch and then lets other operators
//! have their turn.
//!
//! # Invariants
//! - As soon as a record of a later epoch has been read, the epochs before it are closed: before the question whether
//!   more may be sent, because what closes them may be what makes room (rule S9).
//! - A source that fails keeps its capability: nobody takes what was not read for read (rule S8).
//! - A source that may not send is not activated until that changes (rule S7).
//!
//! Not here: formats of files, and when epochs tick; both are the reader's.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use timely::container::CapacityContainerBuilder;
use timely::dataflow::operators::Capability;
use timely::dataflow::operators::generic::builder_rc::OperatorBuilder;
use timely::dataflow::operators::generic::{OutputBuilder, OutputBuilderSession};
use timely::dataflow::{Scope, StreamVec};
use timely::scheduling::Activator;

use crate::cluster::{Control, Failure};
use crate::flow::{Attached, Flow};
use crate::time::EpochTime;

/// Records in the order of their epochs.
pub trait Reader: 'static {
    /// One record.
    type Item: 'static;

    /// The next record with its epoch, never lower than the one before; `None` at the end.
    ///
    /// Short work only: it runs on a worker. It is not called again after `None` or an error.
    ///
    /// # Errors
    /// What cannot be read; the job ends with it.
    fn next(&mut self) -> Result<Option<(u64, Self::Item)>, Failure>;

    /// About how many bytes `item` takes in memory and on its way to other workers. Flow control counts them.
    fn bytes(&self, item: &Self::Item) -> usize {
        size_of_val(item)
    }
}

/// How a source is set up.
#[derive(Clone, Debug)]
pub struct SourceOptions {
    /// Its name in timely's logs and in failures.
    pub name: String,
    /// Records that one activation reads at most. Default 1,024.
    pub batch: usize,
    /// What holds the source back while other operators are at their limits; without it, nothing does.
    pub flow: Option<Flow>,
    /// Ends the job when reading fails.
    pub control: Control,
    /// Counts the records that have been sent, for progress bars.
    pub read: Option<Arc<AtomicU64>>,
}

impl SourceOptions {
    /// The defaults for a source called `name`.
    pub fn new(name: impl Into<String>, control: Control) -> Self {
        SourceOptions { name: name.into(), batch: 1024, flow: None, control, read: None }
    }
}

/// A stream of what `reader` reads, each record at its epoch.
///
/// `reader` is given on one worker of the cluster, on the others it is `None`. An error of the reader, or an epoch that
/// goes back, ends the job.
pub fn source<T: EpochTime, R: Reader>(
    scope: Scope<'_, T>,
    reader: Option<R>,
    mut options: SourceOptions,
) -> StreamVec<'_, T, R::Item> {
    let mut builder = OperatorBuilder::new(options.name.clone(), scope);
    let activator = scope.worker().activator_for(builder.operator_info().address);
    let (port, stream) = builder.new_output();
    let mut port: OutputBuilder<T, CapacityContainerBuilder<Vec<R::Item>>> = OutputBuilder::from(port);
    builder.build(move |mut capabilities| {
        let capability = capabilities.pop().expect("one for the one output");
        // Without a reader the capability goes at once.
        let mut reading = reader.map(|reader| Reading {
            flow: options.flow.take().as_ref().map(Flow::attach),
            reader,
            next: None,
            epoch: 0,
            opened: false,
            buffer: Vec::new(),
            capability,
            activator,
            options,
        });
        let mut failed = false;
        move |_| {
            if failed {
                return;
            }
            let Some(active) = &mut reading else { return };
            match active.activation(&mut port.activate()) {
                Ok(Outcome::Paused) => {}
                Ok(Outcome::More) => active.activator.activate(),
                Ok(Outcome::Ended) => reading = None,
                Err(failure) => {
                    active.options.control.fail(failure);
                    failed = true;
                }
            }
        }
    });
    stream
}

type Session<'a, T, D> = OutputBuilderSession<'a, T, CapacityContainerBuilder<Vec<D>>>;

/// How an activation ends.
enum Outcome {
    /// The batch is full.
    More,
    /// Flow control activates the source again.
    Paused,
    /// Nothing is left to read.
    Ended,
}

/// The source on the worker that reads.
struct Reading<T: EpochTime, R: Reader> {
    reader: R,
    /// Read, but not to be sent yet; its epoch is the capability's.
    next: Option<R::Item>,
    epoch: u64,
    /// Whether records of this epoch have been sent.
    opened: bool,
    /// Records of the capability's epoch on their way out.
    buffer: Vec<R::Item>,
    capability: Capability<T>,
    activator: Activator,
    flow: Option<Attached>,
    options: SourceOptions,
}

impl<T: EpochTime, R: Reader> Reading<T, R> {
    fn activation(&mut self, output: &mut Session<'_, T, R::Item>) -> Result<Outcome, Failure> {
        let outcome = self.read(output);
        // Also what was read before an error: it is good.
        self.ship(output);
        outcome
    }

    fn read(&mut self, output: &mut Session<'_, T, R::Item>) -> Result<Outcome, Failure> {
        let mut bytes = 0;
        let mut records = 0;
        let outcome = loop {
            if records >= self.options.batch.max(1) || bytes >= Attached::CHUNK_BYTES {
                break Ok(Outcome::More);
            }
            let (item, asked) = match self.next.take() {
                Some(item) => (item, false),
                None => match self.reader.next() {
                    Ok(Some((epoch, item))) => match self.enter(epoch, output) {
                        // Within an epoch the question at the start of the activation answers for all.
                        Ok(entered) => (item, !entered && records > 0),
                        Err(failure) => break Err(failure),
                    },
                    Ok(None) => break Ok(Outcome::Ended),
                    Err(failure) => break Err(failure),
                },
            };
            if !asked && !self.admitted() {
                self.next = Some(item);
                break Ok(Outcome::Paused);
            }
            bytes += self.reader.bytes(&item);
            records += 1;
            self.opened = true;
            self.buffer.push(item);
        };
        if records > 0
            && let Some(flow) = &self.flow
        {
            flow.sent(records, bytes);
        }
        outcome
    }

    /// Whether flow control lets a record of the present epoch through; if not, the source is activated again.
    fn admitted(&self) -> bool {
        self.flow.as_ref().is_none_or(|flow| flow.admits(self.epoch, self.opened, &self.activator))
    }

    /// Closes the epochs before `epoch`; whether there were any.
    fn enter(&mut self, epoch: u64, output: &mut Session<'_, T, R::Item>) -> Result<bool, Failure> {
        if epoch < self.epoch {
            return Err(Failure::data(format!(
                "{}: epoch {epoch} comes after epoch {}: epochs must not go back",
                self.options.name, self.epoch
            )));
        }
        let later = epoch > self.epoch;
        if later {
            self.ship(output);
            self.capability.downgrade(&T::minimum().with_epoch(epoch));
            self.epoch = epoch;
            self.opened = false;
        }
        Ok(later)
    }

    fn ship(&mut self, output: &mut Session<'_, T, R::Item>) {
        if self.buffer.is_empty() {
            return;
        }
        if let Some(read) = &self.options.read {
            read.fetch_add(self.buffer.len() as u64, Ordering::Relaxed);
        }
        output.session(&self.capability).give_container(&mut self.buffer);
        self.buffer.clear();
    }
}
