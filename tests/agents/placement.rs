//! S1: everything of a key happens with the owner of its group, and a stream remembers how it was placed.

use std::cell::Cell;
use std::collections::BTreeSet;
use std::sync::{Arc, Mutex};

use timely::dataflow::operators::capture::Extract;
use timely::dataflow::operators::vec::{Input as _, ToStream};
use timely::dataflow::operators::{Capture, Probe};
use timely::logging::{TimelyEvent, TimelyEventBuilder};
use timely_agents::{Agent, AgentStream, Plan};
use timely_agents_operators::group::KeyGroups;

use crate::support::Pair;

thread_local! {
    static WORKER: Cell<usize> = const { Cell::new(usize::MAX) };
}

/// Outputs key, value, the worker it ran on, and how many inputs of the key it has seen.
fn placing() -> Plan<Pair, (u64, i64, usize, u64)> {
    let mut agent = Agent::new("placing");
    let seen = agent.memory::<u64>("seen");
    agent.on_open(|place| {
        WORKER.set(place.worker);
        Ok(())
    });
    agent.on_input("tell", move |(key, value), ctx| {
        let n = ctx.update(seen, |n| {
            *n += 1;
            *n
        });
        ctx.output((*key, *value, WORKER.get(), n));
        Ok(())
    });
    agent.build().unwrap()
}

#[test]
fn inputs_go_to_the_owner_of_their_key_from_every_worker() {
    let plan = placing();
    let guards = timely::execute(timely::Config::process(3), move |worker| {
        let plan = plan.clone();
        let index = worker.index() as i64;
        worker.dataflow::<u64, _, _>(|scope| {
            let inputs = (0..60).map(move |key| (key, index));
            inputs.to_stream(scope).agent(|pair| &pair.0, &plan).capture()
        })
    })
    .unwrap();
    let captured = guards.join().into_iter().flat_map(|captured| captured.unwrap().extract());
    let outputs: Vec<_> = captured.flat_map(|(_, batch)| batch).collect();
    assert_eq!(outputs.len(), 180);
    let groups = KeyGroups::default();
    for (key, _, worker, _) in &outputs {
        assert_eq!(*worker, groups.owner_of(key, 3), "key {key}");
    }
    let last: Vec<_> = outputs.iter().filter(|(.., n)| *n == 3).collect();
    assert_eq!(last.len(), 60, "each key has one memory, which has seen the inputs of all workers");
    let workers: BTreeSet<usize> = outputs.iter().map(|o| o.2).collect();
    assert_eq!(workers.len(), 3);
}

#[test]
fn owners_do_not_depend_on_process_or_build() {
    // Frozen: another value here moves every key of every job.
    let groups = KeyGroups::default();
    let owners: Vec<usize> = ["N14228", "N24211", "N619AA", ""].iter().map(|key| groups.owner_of(key, 4)).collect();
    let of_numbers: Vec<u32> = [0u64, 1, 2, u64::MAX].iter().map(|key| groups.of(key)).collect();
    assert_eq!((owners, of_numbers), (vec![3, 3, 0, 1], vec![450, 1002, 473, 92]));
}

/// How many channels have carried messages from one worker to another, when every worker feeds every key.
fn crossed(build: fn(timely::dataflow::StreamVec<'_, u64, Pair>) -> timely::dataflow::ProbeHandle<u64>) -> usize {
    let crossed = Arc::new(Mutex::new(BTreeSet::new()));
    let log = Arc::clone(&crossed);
    timely::execute(timely::Config::process(2), move |worker| {
        let log = Arc::clone(&log);
        let mut register = worker.log_register().unwrap();
        register.insert::<TimelyEventBuilder, _>("timely", move |_, events| {
            for (_, event) in events.iter().flat_map(|events| events.iter()) {
                if let TimelyEvent::Messages(messages) = event
                    && messages.source != messages.target
                {
                    log.lock().unwrap().insert(messages.channel);
                }
            }
        });
        drop(register);
        let (mut input, probe) = worker.dataflow::<u64, _, _>(|scope| {
            let (input, stream) = scope.new_input::<Pair>();
            (input, build(stream))
        });
        for key in 0..100 {
            input.send((key, 1));
        }
        input.close();
        worker.step_or_park_while(None, || !probe.done());
    })
    .unwrap()
    .join()
    .into_iter()
    .for_each(|worker| worker.unwrap());
    let crossed = crossed.lock().unwrap();
    crossed.len()
}

fn adding() -> Plan<i64, i64> {
    let mut agent = Agent::new("adding");
    agent.on_input("add", |value, ctx| {
        ctx.output(value + 1);
        Ok(())
    });
    agent.build().unwrap()
}

#[test]
fn agent_after_an_agent_of_the_same_key_is_chained_without_an_exchange() {
    let channels = crossed(|stream| {
        let chained = stream.key_by(|pair| pair.0).map_values(|pair| pair.1).agent(&adding());
        assert!(chained.is_partitioned());
        chained.map_values(|value| value * 2).agent(&adding()).agent(&adding()).values().probe().0
    });
    assert_eq!(channels, 1);
}

#[test]
fn changed_key_is_exchanged() {
    let channels = crossed(|stream| {
        let keyed = stream.key_by(|pair| pair.0).map_values(|pair| pair.1).agent(&adding());
        let keyed = keyed.key_by(|key, value| format!("{key} {value}"));
        assert!(!keyed.is_partitioned());
        keyed.agent(&adding()).pairs().probe().0
    });
    assert_eq!(channels, 2);
}

#[test]
fn value_may_be_its_own_key() {
    let captured = timely::execute_directly(|worker| {
        let mut agent = Agent::<String, usize>::new("a");
        let seen = agent.memory::<usize>("seen");
        agent.on_input("count", move |_, ctx| {
            ctx.update(seen, |n| *n += 1);
            ctx.output(ctx.get(seen).unwrap());
            Ok(())
        });
        let plan = agent.build().unwrap();
        worker.dataflow::<u64, _, _>(|scope| {
            let words = ["a", "b", "a"].map(String::from);
            words.to_stream(scope).key_by_value().agent(&plan).pairs().capture()
        })
    });
    let counts: Vec<(String, usize)> = captured.extract().into_iter().flat_map(|(_, batch)| batch).collect();
    assert_eq!(counts, [("a".into(), 1), ("a".into(), 2), ("b".into(), 1)]);
}
