//! The operators that hand output over to a stager, and acknowledge it at its epoch.
//!
//! # Invariants
//! - A worker holds a capability for each epoch that it had a part in until the stager has it durable: the frontier of
//!   the acknowledgements tells the truth.
//! - Epochs below the frontier from which the job goes on are passed over: their output is published.
//! - After a failure the capability of what was not handed over is kept.

use std::collections::BTreeMap;

use timely::container::CapacityContainerBuilder;
use timely::dataflow::StreamVec;
use timely::dataflow::channels::pact::{Exchange, Pipeline};
use timely::dataflow::operators::generic::OutputBuilderSession;
use timely::dataflow::operators::generic::operator::Operator;
use timely::dataflow::operators::{Capability, InputCapability};
use timely::progress::frontier::MutableAntichain;
use timely::scheduling::SyncActivator;

use super::backlog::SinkLoad;
use super::encode::Encode;
use super::stager::{Seat, Stager};
use crate::checkpoint::Ack;
use crate::cluster::{Control, Failure};
use crate::time::EpochTime;

type Acks<'a, T> = OutputBuilderSession<'a, T, CapacityContainerBuilder<Vec<Ack>>>;

/// Stages the records of `stream` as `encode` puts them: for each epoch one file of all workers of the process, in which
/// the records of a worker keep their order. On every worker alike.
///
/// With `load` the job's sources wait while the stager has too much to write. The stream that is returned has an
/// [`Ack::Staged`] for each epoch and process with output, once it is durable.
pub fn stage_lines<'scope, T: EpochTime, D: 'static>(
    stream: StreamVec<'scope, T, D>,
    stager: &Stager,
    mut encode: impl Encode<D> + 'static,
    load: Option<SinkLoad>,
    control: Control,
) -> StreamVec<'scope, T, Ack> {
    let scope = stream.scope();
    stream.unary_frontier(Pipeline, "StageLines", move |_, info| {
        let waker = scope.worker().sync_activator_for(info.address.to_vec());
        let mut desk = Desk::new(stager, waker);
        if let Some(load) = &load {
            load.watch(desk.seat.backlog(), scope.worker().sync_activator_for(info.address.to_vec()));
        }
        let mut failed = false;
        move |(input, frontier), output| {
            let mut header = Vec::new();
            // One piece for each epoch of an activation.
            let mut pieces = BTreeMap::<u64, Vec<u8>>::new();
            input.for_each_time(|capability, batches| {
                let epoch = capability.time().epoch();
                let mut items = batches.flat_map(|batch| batch.drain(..)).peekable();
                // What is no output has no file.
                if failed || epoch < desk.seat.resume() || items.peek().is_none() {
                    return;
                }
                desk.hold(epoch, &capability);
                let bytes = pieces.entry(epoch).or_default();
                for item in items {
                    let headed = if header.is_empty() { encode.header(&item, &mut header) } else { Ok(()) };
                    if let Err(why) = headed.and_then(|()| encode.encode(&item, bytes)) {
                        let sink = desk.seat.sink();
                        control.fail(Failure::data(format!("sink {sink}: cannot encode a record for output: {why}")));
                        failed = true;
                        return;
                    }
                }
            });
            if failed {
                return;
            }
            for (epoch, bytes) in pieces {
                desk.seat.write(epoch, header.clone(), bytes);
            }
            if let Some(load) = &load {
                load.tell(desk.seat.backlog());
            }
            desk.close(frontier);
            desk.acknowledge(output);
        }
    })
}

/// Stages one file as a whole whenever its content changes.
///
/// All records go to worker 0, where alone `stager` is given, for a single worker. When an epoch closes there, `render`
/// takes its records and says what the file contains from now on. Epochs below the frontier from which the job goes on
/// are rendered too, since what was restored comes with them, but not staged: their content is at its place.
///
/// The stream that is returned has an [`Ack::Staged`] for each epoch that changed the file. Without any record there is
/// no file.
pub fn stage_whole<T: EpochTime, D: timely::ExchangeData>(
    stream: StreamVec<'_, T, D>,
    stager: Option<Stager>,
    mut render: impl FnMut(u64, Vec<D>) -> Result<Vec<u8>, String> + 'static,
    control: Control,
) -> StreamVec<'_, T, Ack> {
    let scope = stream.scope();
    stream.unary_frontier(Exchange::new(|_: &D| 0), "StageWhole", move |_, info| {
        let waker = scope.worker().sync_activator_for(info.address.to_vec());
        let mut desk = stager.map(|stager| Desk::new(&stager, waker));
        let mut records = BTreeMap::<u64, Vec<D>>::new();
        let mut last = None;
        let mut failed = false;
        move |(input, frontier), output| {
            let Some(desk) = &mut desk else { return };
            input.for_each_time(|capability, batches| {
                let epoch = capability.time().epoch();
                desk.hold(epoch, &capability);
                records.entry(epoch).or_default().extend(batches.flat_map(|batch| batch.drain(..)));
            });
            if failed {
                return;
            }
            let open = least(frontier).map_or_else(BTreeMap::new, |least| records.split_off(&least));
            for (epoch, records) in std::mem::replace(&mut records, open) {
                let content = match render(epoch, records) {
                    Ok(content) => content,
                    Err(why) => {
                        let sink = desk.seat.sink();
                        control.fail(Failure::data(format!("sink {sink}: cannot render its file: {why}")));
                        failed = true;
                        return;
                    }
                };
                let changed = last.as_ref() != Some(&content);
                if changed && epoch >= desk.seat.resume() {
                    desk.seat.write(epoch, Vec::new(), content.clone());
                } else {
                    desk.held.remove(&epoch);
                }
                last = Some(content);
            }
            desk.close(frontier);
            desk.acknowledge(output);
        }
    })
}

/// What a worker's operator keeps for its stager.
struct Desk<T: EpochTime> {
    seat: Seat,
    /// By epoch, until it is durable.
    held: BTreeMap<u64, Capability<T>>,
    /// Where the worker was when the stager was last told.
    told: Option<u64>,
}

/// The lowest epoch that is open.
fn least<T: EpochTime>(frontier: &MutableAntichain<T>) -> Option<u64> {
    frontier.frontier().iter().map(EpochTime::epoch).min()
}

impl<T: EpochTime> Desk<T> {
    fn new(stager: &Stager, waker: SyncActivator) -> Self {
        Desk { seat: stager.join(waker), held: BTreeMap::new(), told: Some(0) }
    }

    fn hold(&mut self, epoch: u64, capability: &InputCapability<T>) {
        // Any time of the epoch holds the epoch.
        self.held.entry(epoch).or_insert_with(|| capability.retain(0));
    }

    fn close(&mut self, frontier: &MutableAntichain<T>) {
        let open = least(frontier);
        if open != self.told {
            self.seat.close(open);
            self.told = open;
        }
    }

    fn acknowledge(&mut self, output: &mut Acks<'_, T>) {
        for staged in self.seat.staged() {
            let Some(capability) = self.held.remove(&staged.epoch) else { continue };
            if let Some(publication) = staged.publication {
                let (sink, epoch) = (self.seat.sink().to_owned(), staged.epoch);
                output.session(&capability).give(Ack::Staged { sink, epoch, publication });
            }
        }
    }
}
