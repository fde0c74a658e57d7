//! GATHER: brings the acks of a component to the board of worker 0.

use timely::dataflow::StreamVec;
use timely::dataflow::channels::pact::Exchange;
use timely::dataflow::operators::generic::operator::Operator;

use super::{Board, least_epoch};
use crate::checkpoint::Ack;
use crate::time::EpochTime;

/// Adds what `acks` is the word of to what a commit waits for. On every worker alike.
pub fn gather<T: EpochTime>(acks: StreamVec<'_, T, Ack>, board: &Board) {
    build(acks, board, false);
}

/// The same for the acks of a source.
pub fn gather_source<T: EpochTime>(acks: StreamVec<'_, T, Ack>, board: &Board) {
    build(acks, board, true);
}

fn build<T: EpochTime>(acks: StreamVec<'_, T, Ack>, board: &Board, source: bool) {
    let (component, board) = (board.add(source), board.clone());
    acks.sink(Exchange::new(|_: &Ack| 0), "Gather", move |(input, frontier)| {
        input.for_each(|time, acks| {
            for ack in acks.drain(..) {
                board.ack(time.time().epoch(), ack);
            }
        });
        board.frontier(component, least_epoch(&frontier.frontier()));
    });
}
