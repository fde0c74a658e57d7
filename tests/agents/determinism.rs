//! S10: what a run draws, tells and puts out depends on its input, its memory and its calls alone.

use std::time::{Duration, UNIX_EPOCH};

use timely::dataflow::operators::capture::Extract;
use timely::dataflow::operators::vec::Input as _;
use timely::dataflow::operators::{Capture, Probe};
use timely_agents::{Agent, AgentStream, Plan, Retry};

use crate::support::{Pair, Ping, finish, start, values};

/// What an action draws: value, action, two numbers and a UUID.
type Drawn = (i64, String, u64, u64, String);

fn drawing() -> Agent<Pair, Drawn> {
    let mut agent = Agent::new("drawing");
    for name in ["a", "b"] {
        agent.on_input_async(name, async move |(_, value), ctx| {
            let first = ctx.random();
            ctx.durable("wait", (), async |()| ()).await?;
            ctx.output((*value, name.into(), first, ctx.random(), ctx.uuid()));
            if name == "a" {
                ctx.send(Ping(*value));
            }
            Ok(())
        });
    }
    agent
        .on::<Ping>("ping", |ping, ctx| {
            if ctx.attempt() == 1 {
                ctx.random();
                return Err(timely_agents::Error::new("again"));
            }
            ctx.output((ping.0, "ping".into(), ctx.random(), ctx.random(), ctx.uuid()));
            Ok(())
        })
        .on_failure(Retry::new(2));
    agent
}

fn drawn_in_order(first_out: bool) -> Vec<Drawn> {
    let mut test = start(drawing());
    for value in 0..3 {
        test.push(0, (1, value));
        test.push(0, (2, value + 10));
    }
    test.end();
    test.run();
    while let Some(next) = if first_out { test.calls().first().cloned() } else { test.calls().last().cloned() } {
        test.complete(next.id);
        test.pass(Duration::from_secs(1));
    }
    finish(&mut test);
    let mut drawn = values(&mut test);
    drawn.sort();
    drawn
}

#[test]
fn random_numbers_and_uuids_are_the_same_whatever_the_order_of_completions() {
    let drawn = drawn_in_order(true);
    assert_eq!(drawn.len(), 18);
    assert_eq!(drawn, drawn_in_order(false));
    let mut numbers: Vec<u64> = drawn.iter().flat_map(|d| [d.2, d.3]).collect();
    numbers.sort_unstable();
    numbers.dedup();
    assert_eq!(numbers.len(), 36, "runs, actions and draws differ");
    for (.., uuid) in &drawn {
        let parts: Vec<usize> = uuid.split('-').map(str::len).collect();
        assert_eq!(parts, [8, 4, 4, 4, 12]);
        assert_eq!(&uuid[14..15], "8", "version 8");
        assert!("89ab".contains(&uuid[19..20]), "variant of RFC 9562");
    }
}

/// Runs in real workers; each of them brings every key's inputs from the one that owns them all.
fn drawn_by(workers: usize) -> Vec<Drawn> {
    let plan: Plan<Pair, Drawn> = drawing().build().unwrap();
    let guards = timely::execute(timely::Config::process(workers), move |worker| {
        let plan = plan.clone();
        let index = worker.index();
        let (mut input, probe, captured) = worker.dataflow::<u64, _, _>(|scope| {
            let (input, stream) = scope.new_input::<Pair>();
            let (probe, output) = stream.agent(|pair| &pair.0, &plan).probe();
            (input, probe, output.capture())
        });
        if index == 0 {
            for value in 0..3 {
                input.send((1, value));
                input.send((2, value + 10));
            }
        }
        input.close();
        worker.step_or_park_while(None, || !probe.done());
        captured
    })
    .unwrap();
    let streams = guards.join().into_iter().flat_map(|captured| captured.unwrap().extract());
    let mut drawn: Vec<Drawn> = streams.flat_map(|(_, batch)| batch).collect();
    drawn.sort();
    drawn
}

#[test]
fn random_numbers_are_the_same_for_any_number_of_workers() {
    let drawn = drawn_in_order(true);
    assert_eq!(drawn, drawn_by(1));
    assert_eq!(drawn, drawn_by(3));
}

#[test]
fn identity_of_an_input_is_that_of_its_run() {
    let run = |values: &[i64]| {
        let mut agent = Agent::<Pair, (i64, u64)>::new("a");
        agent.identified_by(|(_, value)| *value);
        agent.on_input("draw", |(_, value), ctx| {
            ctx.output((*value, ctx.random()));
            Ok(())
        });
        let mut test = start(agent);
        for value in values {
            test.push(0, (1, *value));
        }
        test.run();
        let mut drawn = crate::support::values(&mut test);
        drawn.sort_unstable();
        drawn
    };
    assert_eq!(run(&[1, 2, 3]), run(&[3, 1, 2]), "the order of arrival is no part of it");
}

#[test]
fn now_is_the_operators_clock_when_the_step_began() {
    let mut agent = Agent::<Pair, u64>::new("a");
    agent.on_input_async("tell", async |_, ctx| {
        let now = || ctx.now().duration_since(UNIX_EPOCH).map(|d| d.as_micros() as u64);
        ctx.output(now()?);
        ctx.sleep(Duration::from_millis(5)).await;
        ctx.output(now()?);
        Ok(())
    });
    let mut test = start(agent);
    test.pass(Duration::from_micros(77));
    test.push(0, (1, 0));
    test.pass(Duration::from_secs(1));
    assert_eq!(values(&mut test), [77, 5077]);
}

#[test]
fn ticks_of_epochs_do_not_change_what_comes_out() {
    let run = |advance_each: bool| {
        let mut agent = Agent::<Pair, String>::new("a");
        let sum = agent.memory::<i64>("sum");
        agent.on_input("add", move |(_, value), ctx| {
            let sum = ctx.update(sum, |sum| {
                *sum += value;
                *sum
            });
            ctx.output(format!("{} {sum}", ctx.epoch()));
            Ok(ctx.notify_at(ctx.epoch())?)
        });
        agent.on_notify("end", move |end, ctx| {
            ctx.output(format!("end of {}: {:?}", end.epoch, ctx.get(sum)));
            Ok(())
        });
        let mut test = start(agent);
        for epoch in 0..5 {
            for value in 0..2 {
                test.push(epoch, (1, value + 1));
            }
            if advance_each {
                test.advance(epoch + 1);
                test.run();
            }
        }
        finish(&mut test);
        values(&mut test)
    };
    let ticked = run(true);
    assert_eq!(ticked[..3], ["0 1", "0 3", "end of 0: Some(3)"]);
    assert_eq!(ticked, run(false));
}
