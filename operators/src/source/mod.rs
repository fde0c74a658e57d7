//! Records from outside, read once by the cluster.
//!
//! One worker of the cluster is given a [`Reader`] and puts its records into the dataflow at their epochs; on all other
//! workers the operator holds nothing from the start. An activation reads at most a batch and then lets other operators
//! have their turn. [`source_with_acks`] also tells, at the close of each epoch, where it would go on: what checkpoints
//! record, and what it resumes from.
//!
//! # Invariants
//! - As soon as a record of a later epoch has been read, the epochs before it are closed: before the question whether
//!   more may be sent, because what closes them may be what makes room (rule S9), and what lets them be committed.
//! - Word of where to go on leaves at the epoch that ends, before its capability is lowered: whoever sees the frontier
//!   pass the epoch has the word.
//! - A source that fails keeps its capability: nobody takes what was not read for read (rule S8). So does one that was
//!   asked to stop.
//! - A source that may not send is not activated until that changes (rule S7).
//!
//! Not here: formats of files, and when epochs tick; both are the reader's. Nor who commits.

mod alarm;
mod options;
mod pace;
mod reader;
mod reading;
mod sources;

use timely::container::CapacityContainerBuilder;
use timely::dataflow::operators::Capability;
use timely::dataflow::operators::generic::OutputBuilder;
use timely::dataflow::operators::generic::builder_rc::OperatorBuilder;
use timely::dataflow::{Scope, StreamVec};

pub use self::options::{Resume, SourceOptions};
pub use self::reader::{Next, Opening, Reader};
pub use self::sources::{SourceState, Sources};

use self::reading::{Outcome, Reading};
use crate::checkpoint::Ack;
use crate::time::EpochTime;

/// Records, and acks where there are any.
type Streams<'scope, T, D> = (StreamVec<'scope, T, D>, Option<StreamVec<'scope, T, Ack>>);

type Port<T, D> = OutputBuilder<T, CapacityContainerBuilder<Vec<D>>>;

/// A stream of what `reader` reads, each record at its epoch.
///
/// `reader` is given on one worker of the cluster, on the others it is `None`. An error of the reader, or an epoch that
/// goes back, ends the job.
pub fn source<T: EpochTime, R: Reader>(
    scope: Scope<'_, T>,
    reader: Option<R>,
    options: SourceOptions,
) -> StreamVec<'_, T, R::Item> {
    build(scope, reader, options, None).0
}

/// A [`source`] of a job with checkpoints, which goes on where `resume` says. The second stream tells at each epoch,
/// when it closes, where the source would go on after it ([`Ack::Source`]); the source's name there is that of its
/// options.
///
/// A reader that cannot be replayed, or a record of an epoch that is over, ends the job.
pub fn source_with_acks<T: EpochTime, R: Reader>(
    scope: Scope<'_, T>,
    reader: Option<R>,
    options: SourceOptions,
    resume: Resume,
) -> (StreamVec<'_, T, R::Item>, StreamVec<'_, T, Ack>) {
    let (records, acks) = build(scope, reader, options, Some(resume));
    (records, acks.expect("there is a port for acks"))
}

fn build<T: EpochTime, R: Reader>(
    scope: Scope<'_, T>,
    reader: Option<R>,
    options: SourceOptions,
    resume: Option<Resume>,
) -> Streams<'_, T, R::Item> {
    let mut builder = OperatorBuilder::new(options.name.clone(), scope);
    let address = builder.operator_info().address;
    let activator = scope.worker().activator_for(address.clone());
    let waker = scope.worker().sync_activator_for(address.to_vec());
    let (port, records) = builder.new_output();
    let mut port: Port<T, R::Item> = OutputBuilder::from(port);
    let (mut ack_port, acks) = match &resume {
        Some(_) => {
            let (port, acks) = builder.new_output();
            (Some(Port::<T, Ack>::from(port)), Some(acks))
        }
        None => (None, None),
    };
    builder.build(move |capabilities: Vec<Capability<T>>| {
        // Without a reader, and after the source's end, the capabilities go at once.
        let reader = reader.filter(|_| !resume.as_ref().is_some_and(Resume::has_ended));
        let mut reading =
            reader.map(|reader| Reading::new(reader, capabilities, options, resume.as_ref(), activator, waker));
        move |_| {
            let Some(active) = &mut reading else { return };
            let mut acks = ack_port.as_mut().map(Port::activate);
            if active.activation(&mut port.activate(), acks.as_mut()) == Outcome::Ended {
                reading = None;
            }
        }
    });
    (records, acks)
}
