//! Hand-written timely operators, as fast as they come, for the agents to be measured against.

use std::collections::VecDeque;
use std::hash::{BuildHasherDefault, Hasher};
use std::sync::Arc;
use std::time::Duration;

use timely::ExchangeData;
use timely::dataflow::StreamVec;
use timely::dataflow::channels::pact::{Exchange, Pipeline};
use timely::dataflow::operators::generic::Operator;

use crate::replies::{LowWater, Replies};
use crate::support::mix;

/// A hash for trusted keys: one multiplication per word.
#[derive(Clone, Copy, Default)]
pub(crate) struct WordHasher(u64);

impl Hasher for WordHasher {
    #[inline]
    fn write(&mut self, bytes: &[u8]) {
        let (words, rest) = bytes.as_chunks::<8>();
        for word in words {
            self.write_u64(u64::from_le_bytes(*word));
        }
        if !rest.is_empty() {
            let mut word = [0; 8];
            word[..rest.len()].copy_from_slice(rest);
            self.write_u64(u64::from_le_bytes(word));
        }
    }

    #[inline]
    fn write_u8(&mut self, byte: u8) {
        self.write_u64(u64::from(byte));
    }

    #[inline]
    fn write_u64(&mut self, word: u64) {
        self.0 = (self.0.rotate_left(5) ^ word).wrapping_mul(0x517C_C1B7_2722_0A95);
    }

    #[inline]
    fn finish(&self) -> u64 {
        self.0.rotate_left(26)
    }
}

pub(crate) type FastMap<K, V> = hashbrown::HashMap<K, V, BuildHasherDefault<WordHasher>>;

/// Routes records by `route` and turns each into an output.
pub(crate) fn keyed<D: ExchangeData, O: 'static>(
    stream: StreamVec<'_, u64, D>,
    route: impl Fn(&D) -> u64 + 'static,
    step: impl FnMut(D) -> O + 'static,
) -> StreamVec<'_, u64, O> {
    let mut step = step;
    stream.unary(Exchange::new(route), "Keyed", move |_, _| {
        move |input, output| {
            input.for_each_time(|time, batches| {
                let mut session = output.session(&time);
                for batch in batches {
                    session.give_iterator(batch.drain(..).map(&mut step));
                }
            });
        }
    })
}

/// Turns each record into an output where it is.
pub(crate) fn chained<D: 'static, O: 'static>(
    stream: StreamVec<'_, u64, D>,
    step: impl FnMut(D) -> O + 'static,
) -> StreamVec<'_, u64, O> {
    let mut step = step;
    stream.unary(Pipeline, "Chained", move |_, _| {
        move |input, output| {
            input.for_each_time(|time, batches| {
                let mut session = output.session(&time);
                for batch in batches {
                    session.give_iterator(batch.drain(..).map(&mut step));
                }
            });
        }
    })
}

/// Counts each value and gives it with its count.
pub(crate) fn count_values(stream: StreamVec<'_, u64, u64>) -> StreamVec<'_, u64, (u64, u64)> {
    let mut counts = FastMap::<u64, u64>::default();
    keyed(
        stream,
        |value| mix(*value),
        move |value| {
            let count = counts.entry(value).or_default();
            *count += 1;
            (value, *count)
        },
    )
}

/// Spawns a task of the runtime for each record and outputs the record when the task has ended, after `pause` if any.
pub(crate) fn spawn_each(
    stream: StreamVec<'_, u64, u64>,
    runtime: tokio::runtime::Handle,
    pause: Option<Duration>,
) -> StreamVec<'_, u64, u64> {
    let scope = stream.scope();
    stream.unary(Exchange::new(|value: &u64| mix(*value)), "SpawnEach", move |_, info| {
        let activator = scope.worker().sync_activator_for(info.address.to_vec());
        let replies = Replies::new(activator);
        let mut low = LowWater::default();
        let mut ended: Vec<(u64, u64)> = Vec::new();
        move |input, output| {
            input.for_each_time(|capability, batches| {
                let time = *capability.time();
                for batch in batches {
                    low.open(&capability, batch.len());
                    for value in batch.drain(..) {
                        let replies = Arc::clone(&replies);
                        runtime.spawn(async move {
                            if let Some(pause) = pause {
                                tokio::time::sleep(pause).await;
                            }
                            replies.push((time, value));
                        });
                    }
                }
            });
            replies.drain(|reply| ended.push(reply));
            for ended in ended.chunk_by(|a, b| a.0 == b.0) {
                let time = ended[0].0;
                output.session(&low.at(time)).give_iterator(ended.iter().map(|(_, value)| *value));
                low.close(time, ended.len());
            }
            ended.clear();
            low.settle();
        }
    })
}

/// Keeps each record until the next reply and outputs records in order, one a reply.
pub(crate) fn hold_each(
    stream: StreamVec<'_, u64, u64>,
    give: impl FnOnce(Arc<Replies<()>>),
) -> StreamVec<'_, u64, u64> {
    let scope = stream.scope();
    stream.unary(Pipeline, "HoldEach", move |_, info| {
        let replies = Replies::new(scope.worker().sync_activator_for(info.address.to_vec()));
        give(Arc::clone(&replies));
        let mut low = LowWater::default();
        let mut waiting = VecDeque::new();
        move |input, output| {
            input.for_each_time(|capability, batches| {
                for batch in batches {
                    low.open(&capability, batch.len());
                    waiting.extend(batch.drain(..).map(|value| (*capability.time(), value)));
                }
            });
            replies.drain(|()| {
                let (time, value) = waiting.pop_front().expect("a reply for each record");
                output.session(&low.at(time)).give(value);
                low.close(time, 1);
            });
            low.settle();
        }
    })
}
