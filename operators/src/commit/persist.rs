//! PERSIST: hands the facts of a component to the log and acknowledges them when they are durable.
//!
//! # Invariants
//! - For each block that was handed over and is not durable a capability of its epoch is held; blocks become durable in
//!   the order in which they were handed over.
//! - A log that has failed never answers: what waits for it stays open, and the job has been told.

use std::collections::VecDeque;

use timely::container::CapacityContainerBuilder;
use timely::dataflow::StreamVec;
use timely::dataflow::channels::pact::Pipeline;
use timely::dataflow::operators::Capability;
use timely::dataflow::operators::generic::OutputBuilder;
use timely::dataflow::operators::generic::builder_rc::OperatorBuilder;

use super::replies::Replies;
use crate::checkpoint::{Ack, Log};
use crate::fact::Block;
use crate::sink::{Backlog, SinkLoad};
use crate::time::EpochTime;

/// Acknowledges the facts of the component of that number when `log` has them. Facts of epochs before `resume` are durable
/// already and passed over. With `load` the job's sources wait while the log has too much to write.
pub fn persist<'scope, T: EpochTime>(
    facts: StreamVec<'scope, T, Block<T>>,
    name: &str,
    component: u32,
    resume: u64,
    log: Log,
    load: Option<SinkLoad>,
) -> StreamVec<'scope, T, Ack> {
    let scope = facts.scope();
    let mut builder = OperatorBuilder::new(format!("Persist {name}"), scope);
    let replies = Replies::new(scope.worker().sync_activator_for(builder.operator_info().address.to_vec()));
    let backlog = Backlog::default();
    if let Some(load) = &load {
        load.watch(&backlog, scope.worker().sync_activator_for(builder.operator_info().address.to_vec()));
    }
    let mut input = builder.new_input(facts, Pipeline);
    let (port, acks) = builder.new_output();
    let mut port: OutputBuilder<T, CapacityContainerBuilder<Vec<Ack>>> = OutputBuilder::from(port);
    builder.build(move |_| {
        let mut waiting: VecDeque<Capability<T>> = VecDeque::new();
        move |_| {
            input.for_each(|capability, blocks| {
                for block in blocks.drain(..) {
                    let epoch = block.time.epoch();
                    if epoch < resume {
                        continue;
                    }
                    waiting.push_back(capability.retain(0));
                    let (replies, written, length) = (replies.clone(), backlog.clone(), block.len());
                    backlog.add(length);
                    log.append_facts(
                        component,
                        block.at(epoch),
                        Box::new(move |position, digests| {
                            written.remove(length);
                            replies.push(Ack::Facts { component, position, digests });
                        }),
                    );
                }
            });
            if let Some(load) = &load {
                load.tell(&backlog);
            }
            let mut output = port.activate();
            replies.drain(|ack| {
                if let Some(capability) = waiting.pop_front() {
                    output.session(&capability).give(ack);
                }
            });
        }
    });
    acks
}
