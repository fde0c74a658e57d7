//! What leaves an agent beside its outputs, in a dataflow and in a harness; and what is counted.

use std::sync::mpsc::Receiver;
use std::time::Duration;

use serde_json::json;
use timely::dataflow::operators::Capture;
use timely::dataflow::operators::capture::Event;
use timely::dataflow::operators::vec::ToStream;
use timely_agents::testing::Harness;
use timely_agents::{Agent, AgentStream, DeadLetter, Error, EventRecord, Policy, Tag};

use crate::support::{Pair, Ping, call, feed, start};

/// Outputs values, tells odd ones to the side, and buries negative ones.
fn sorting() -> (Agent<Pair, i64>, Tag<String>) {
    let mut agent = Agent::new("sorting");
    let odd = agent.side::<String>("odd");
    agent.event::<Ping>();
    agent
        .on_input("sort", move |(_, value), ctx| {
            ctx.output(*value);
            ctx.send(Ping(*value));
            if value % 2 != 0 {
                ctx.side(odd, format!("odd {value}"));
            }
            if *value < 0 { Err(Error::new("negative")) } else { Ok(()) }
        })
        .on_failure(Policy::DeadLetter);
    (agent, odd)
}

/// The captured records in order of arrival, each with its time.
fn records<D>(captured: Receiver<Event<u64, Vec<D>>>) -> Vec<(u64, D)> {
    let batches = captured.into_iter().filter_map(|event| match event {
        Event::Messages(time, batch) => Some((time, batch)),
        Event::Progress(_) => None,
    });
    batches.flat_map(|(time, batch)| batch.into_iter().map(move |item| (time, item))).collect()
}

#[test]
fn side_outputs_dead_letters_and_events_are_streams_at_the_runs_time() {
    let (output, odd, dead, events) = timely::execute_directly(|worker| {
        let (agent, odd) = sorting();
        let plan = agent.build().unwrap();
        worker.dataflow::<u64, _, _>(|scope| {
            let inputs = vec![(1, 2), (1, 3), (2, -5)].to_stream(scope);
            let streams = inputs.agent_streams(|pair| &pair.0, &plan);
            (
                streams.output.clone().capture(),
                streams.side(odd).capture(),
                streams.dead_letters().capture(),
                streams.events().capture(),
            )
        })
    });
    assert_eq!(records(output), [(0, 2), (0, 3)]);
    assert_eq!(records(odd), [(0, "odd 3".to_string())], "a failed step tells nothing");
    let letter = DeadLetter {
        key: "2".into(),
        epoch: 0,
        sequence: 1,
        action: "sort".into(),
        attempts: 1,
        error: "negative".into(),
        input: Some((2, -5)),
        sent: vec![],
    };
    assert_eq!(records(dead), [(0, letter)]);
    let events: Vec<String> = records(events)
        .into_iter()
        .map(|(_, event)| format!("{} {} {}", event.key, event.name, event.attributes))
        .collect();
    assert_eq!(
        events,
        ["1 input [1,2]", "1 ping 2", "1 output null", "1 input [1,3]", "1 ping 3", "1 output null", "2 input [2,-5]"]
    );
}

#[test]
fn keyed_agent_gives_its_streams_too() {
    let (output, odd) = timely::execute_directly(|worker| {
        let (agent, odd) = sorting();
        let plan = agent.build().unwrap();
        worker.dataflow::<u64, _, _>(|scope| {
            let keyed = vec![(1, 2), (1, 3)].to_stream(scope).key_by(|pair| pair.0);
            let (keyed, streams) = keyed.agent_streams(&plan);
            (keyed.pairs().capture(), streams.side(odd).capture())
        })
    });
    assert_eq!(records(output), [(0, (1, 2)), (0, (1, 3))]);
    assert_eq!(records(odd), [(0, "odd 3".to_string())]);
}

#[test]
fn observed_events_are_those_of_finished_steps() {
    let mut agent = Agent::<Pair, i64>::new("a");
    agent.event::<Ping>();
    agent.on_input_async("send", async |(_, value), ctx| {
        ctx.send(Ping(*value));
        ctx.durable("wait", (), async |()| ()).await?;
        ctx.output(1);
        Ok(())
    });
    agent
        .on_input("fails", |_, ctx| {
            ctx.send(Ping(99));
            Err(Error::new("no"))
        })
        .on_failure(Policy::Ignore);
    let mut test = start(agent);
    test.observe();
    test.push(3, (5, 7));
    test.push(3, (5, 8));
    test.advance(3);
    test.run();
    let record = |name: &str, action: Option<&str>, attributes| EventRecord {
        key: "5".into(),
        epoch: 3,
        sequence: 1,
        name: name.into(),
        action: action.map(String::from),
        attributes,
    };
    assert_eq!(test.events(), [record("input", None, json!([5, 7]))], "an input, when its run starts");
    let wait = call(&test, "wait");
    test.complete_with(wait, &());
    assert!(test.step());
    assert_eq!(test.events(), [record("ping", Some("send"), json!(7)), record("output", Some("send"), json!(null))]);
    test.run();
    assert_eq!(test.events()[0].attributes, json!([5, 8]));
}

#[test]
fn suspension_does_not_count_as_an_action() {
    let mut agent = Agent::<Pair, i64>::new("a");
    agent.on_input_async("sleep", async |_, ctx| {
        for _ in 0..5 {
            ctx.sleep(Duration::from_secs(1)).await;
            ctx.flush().await;
        }
        Ok(())
    });
    agent.on_input("now", |_, _| Ok(()));
    let plan = agent.build().unwrap();
    let mut test = Harness::<u64, Pair, i64>::new(&plan, |pair| pair.0).unwrap();
    feed(&mut test, &[(1, 0), (1, 0), (2, 0)]);
    test.end();
    test.pass(Duration::from_secs(10));
    assert!(test.is_closed());
    let stats = plan.stats();
    assert_eq!((stats.actions["sleep"].finished, stats.actions["now"].finished), (3, 3));
    assert_eq!(test.stats().runs, 3);
}

#[test]
fn counts_of_all_workers_are_summed() {
    let mut agent = Agent::<Pair, i64>::new("a");
    let big = agent.counter("big");
    agent
        .on_input("count", move |(key, value), ctx| {
            if *value > 7 {
                ctx.count(big, 2);
            }
            if *key == 3 { Err(Error::new("no")) } else { Ok(()) }
        })
        .on_failure(Policy::Ignore);
    let plan = agent.build().unwrap();
    let shared = plan.clone();
    timely::execute(timely::Config::process(2), move |worker| {
        let plan = shared.clone();
        worker.dataflow::<u64, _, _>(|scope| {
            let inputs = (0..10u64).map(|n| (n, n as i64));
            inputs.to_stream(scope).agent(|pair| &pair.0, &plan);
        });
    })
    .unwrap()
    .join();
    let stats = plan.stats();
    assert_eq!(stats.runs.runs, 20);
    assert_eq!(stats.counters["big"], 8);
    let action = stats.actions["count"];
    assert_eq!((action.finished, action.failed, action.ignored), (18, 2, 2));
}

#[test]
fn sequence_gives_the_same_order_from_any_number_of_senders() {
    let run = |workers: usize| {
        let mut agent = Agent::<Pair, Vec<i64>>::new("a");
        let seen = agent.memory::<Vec<i64>>("seen");
        agent.sequenced_by(|(_, value)| *value);
        agent.on_input("collect", move |(_, value), ctx| {
            ctx.update(seen, |seen| seen.push(*value));
            Ok(ctx.notify_at(ctx.epoch())?)
        });
        agent.on_notify("tell", move |_, ctx| {
            ctx.output(ctx.take(seen).unwrap_or_default());
            Ok(())
        });
        let plan = agent.build().unwrap();
        let guards = timely::execute(timely::Config::process(workers), move |worker| {
            let plan = plan.clone();
            let (index, peers) = (worker.index(), worker.peers());
            worker.dataflow::<u64, _, _>(|scope| {
                let own = (0..100).filter(move |n| n % peers == index).map(|n| (n as u64 % 3, n as i64 * 7 % 50));
                own.to_stream(scope).agent(|pair| &pair.0, &plan).capture()
            })
        })
        .unwrap();
        let captured = guards.join().into_iter().flat_map(|captured| records(captured.unwrap()));
        let mut lists: Vec<Vec<i64>> = captured.map(|(_, list)| list).collect();
        lists.sort();
        lists
    };
    let one = run(1);
    assert_eq!((one.len(), one[0].len()), (3, 34));
    assert!(one.iter().all(|list| list.is_sorted()));
    assert_eq!(one, run(3));
}

#[test]
fn dataflow_ends_only_when_suspended_runs_have_ended() {
    let captured = timely::execute_directly(|worker| {
        let mut agent = Agent::<Pair, i64>::new("a");
        agent.on_input_async("work", async |(_, value), ctx| {
            let value = *value;
            let doubled = ctx.durable("double", value, async |v| v * 2).await?;
            let pooled = ctx.call_blocking("pool", move || value).await?;
            ctx.sleep(Duration::from_millis(1)).await;
            ctx.output(doubled + pooled);
            Ok(())
        });
        let plan = agent.build().unwrap();
        worker.dataflow::<u64, _, _>(|scope| {
            let inputs = (0..100u64).map(|n| (n % 10, n as i64));
            inputs.to_stream(scope).agent(|pair| &pair.0, &plan).capture()
        })
    });
    let ended = matches!(captured.iter().last(), Some(Event::Progress(last)) if last.iter().all(|(_, diff)| *diff < 0));
    assert!(ended, "the last word is that the time is over");
}
