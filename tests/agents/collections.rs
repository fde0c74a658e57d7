//! What agents remember, as differential collections (D1): joined, counted, retracted.

use std::collections::BTreeMap;
use std::sync::mpsc::Receiver;

use differential_dataflow::AsCollection;
use timely::dataflow::operators::capture::Event;
use timely::dataflow::operators::{Capture, Input, Probe};
use timely_agents::{Agent, AgentStream, Plan, Slot};
use timely_agents_operators::time::{EpochTime, Stamp};

use crate::support::Pair;

/// Remembers the last value of each key; a negative one makes it forget.
fn last() -> (Plan<Pair, ()>, Slot<i64>) {
    let mut agent = Agent::new("last");
    let last = agent.memory::<i64>("last");
    agent.on_input("remember", move |(_, value), ctx| {
        ctx.put(last, Some(*value).filter(|value| *value >= 0));
        Ok(())
    });
    (agent.build().unwrap(), last)
}

type Updates<T, D> = Receiver<Event<T, Vec<(D, T, isize)>>>;

/// The updates of each time, consolidated.
fn consolidated<T: EpochTime, D: Ord>(captured: Updates<T, D>) -> Vec<(T, D, isize)> {
    let mut sums: BTreeMap<(T, D), isize> = BTreeMap::new();
    for event in captured {
        if let Event::Messages(capability, updates) = event {
            for (row, time, change) in updates {
                assert!(capability.less_equal(&time), "an update is not before its capability");
                *sums.entry((time, row)).or_default() += change;
            }
        }
    }
    sums.into_iter().filter(|(_, n)| *n != 0).map(|((time, row), n)| (time, row, n)).collect()
}

#[test]
fn memory_is_a_collection_with_retractions() {
    let captured = timely::execute_directly(|worker| {
        let (plan, last) = last();
        let (mut input, captured) = worker.dataflow::<u64, _, _>(|scope| {
            let (input, stream) = scope.new_input::<Vec<Pair>>();
            let (_, memory) = stream.agent_with_memory(|pair| &pair.0, &plan);
            (input, memory.slot(last).inner.capture())
        });
        input.send((1, 10));
        input.send((1, 11));
        input.send((2, 20));
        input.advance_to(3);
        input.send((1, 12));
        input.advance_to(4);
        input.send((2, -1));
        captured
    });
    let expected = [(0, (1, 11), 1), (0, (2, 20), 1), (3, (1, 11), -1), (3, (1, 12), 1), (4, (2, 20), -1)];
    assert_eq!(consolidated(captured), expected, "of an epoch the last value counts, and the one before is retracted");
}

#[test]
fn a_stream_joins_live_memory_and_the_join_is_counted() {
    let captured = timely::execute_directly(|worker| {
        let (plan, last) = last();
        let (mut inputs, mut asked, captured) = worker.dataflow::<u64, _, _>(|scope| {
            let (inputs, stream) = scope.new_input::<Vec<Pair>>();
            let (asked, questions) = scope.new_input::<Vec<((u64, char), u64, isize)>>();
            let (_, memory) = stream.agent_with_memory(|pair| &pair.0, &plan);
            let answers = questions.as_collection().join(memory.slot(last)).map(|(_, (_, value))| value);
            (inputs, asked, answers.count().inner.capture())
        });
        asked.send(((1, 'a'), 0, 1));
        asked.send(((1, 'b'), 0, 1));
        inputs.send((1, 5));
        asked.advance_to(1);
        inputs.advance_to(1);
        inputs.send((1, 6));
        asked.send(((1, 'b'), 1, -1));
        captured
    });
    let expected = [(0, (5, 2), 1), (1, (5, 2), -1), (1, (6, 1), 1)];
    assert_eq!(consolidated(captured), expected);
}

#[test]
fn memory_over_stamps_has_one_value_at_any_time() {
    let captured = timely::execute_directly(|worker| {
        let (plan, last) = last();
        let (captured, mut input, capability) = worker.dataflow::<Stamp, _, _>(|scope| {
            use timely::container::CapacityContainerBuilder;
            use timely::dataflow::operators::core::UnorderedInput;
            let ((input, capability), stream) = scope.new_unordered_input::<CapacityContainerBuilder<Vec<Pair>>>();
            let (_, memory) = stream.agent_with_memory(|pair| &pair.0, &plan);
            (memory.slot(last).inner.capture(), input, capability)
        });
        let mut send = |worker: &mut timely::worker::Worker, epoch, event, pair| {
            let at = capability.delayed(&Stamp::new(epoch, event));
            input.activate().session(&at).give(pair);
            drop(at);
            worker.step();
        };
        send(worker, 0, 30, (1, 1));
        send(worker, 0, 10, (1, 2));
        send(worker, 0, 20, (2, 7));
        captured
    });
    let updates = consolidated(captured);
    // Of the two changes of key 1 the second is of an earlier event time: the value holds from both on.
    assert_eq!(updates, [(Stamp::new(0, 20), (2, 7), 1), (Stamp::new(0, 30), (1, 2), 1)]);
}

#[test]
fn memory_of_two_workers_is_one_collection() {
    let guards = timely::execute(timely::Config::process(2), |worker| {
        let (plan, last) = last();
        let index = worker.index();
        let (mut input, probe, captured) = worker.dataflow::<u64, _, _>(|scope| {
            let (input, stream) = scope.new_input::<Vec<Pair>>();
            let (_, memory) = stream.agent_with_memory(|pair| &pair.0, &plan);
            let counts = memory.slot(last).map(|(_, value)| value).count();
            let (probe, counts) = counts.inner.probe();
            (input, probe, counts.capture())
        });
        for key in (0..100u64).filter(|key| *key as usize % 2 == index) {
            input.send((key, (key % 3) as i64));
        }
        input.close();
        while !probe.done() {
            worker.step_or_park(None);
        }
        captured
    })
    .unwrap();
    let mut counts: Vec<_> = guards.join().into_iter().flat_map(|captured| consolidated(captured.unwrap())).collect();
    counts.sort_unstable();
    assert_eq!(counts, [(0, (0, 34), 1), (0, (1, 33), 1), (0, (2, 33), 1)]);
}
