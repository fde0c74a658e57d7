//! S9: limits hold work back and drop nothing; S7: nothing polls.

use std::time::Duration;

use timely_agents::{Agent, Exhausted};
use timely_agents_operators::limits::Limits;

use crate::support::{Pair, Ping, feed, finish, start, values};

#[test]
fn limits_of_one_make_progress() {
    let mut agent = Agent::<Pair, i64>::new("tight");
    agent.limits(Limits::tight());
    let sum = agent.memory::<i64>("sum");
    agent.on_input_async("ask", async move |(_, value), ctx| {
        let both = futures::future::join(ctx.durable("a", *value, async |v| v), ctx.durable("b", *value, async |v| v));
        let (a, b) = both.await;
        ctx.update(sum, |sum| *sum += value);
        ctx.send(Ping(a? + b?));
        ctx.notify_at(ctx.epoch())?;
        Ok(())
    });
    agent.on::<Ping>("ping", |ping, ctx| {
        ctx.output(ping.0);
        Ok(())
    });
    agent.on_notify("end", move |_, ctx| {
        ctx.output(ctx.get(sum).unwrap() * 1000);
        Ok(())
    });
    let mut test = start(agent);
    for epoch in 0..3 {
        for key in 0..3 {
            test.push(epoch, (key, 1));
            test.push(epoch, (key, 2));
        }
    }
    test.end();
    test.run();
    let mut calls = 0;
    while let Some(next) = test.calls().first().cloned() {
        assert_eq!(test.calls().len(), 1, "one call at once");
        assert_eq!(test.load().runs, 1, "one run at once");
        test.complete(next.id);
        calls += 1;
        test.run();
    }
    finish(&mut test);
    assert_eq!(calls, 36);
    let outputs = test.outputs();
    assert_eq!(outputs.len(), 18 + 9);
    assert_eq!(test.stats().runs, 27);
    for key in 0..3 {
        let of_key: Vec<i64> = outputs.iter().filter(|o| o.1 == key).map(|o| o.2).collect();
        assert_eq!(of_key, [2, 4, 3000, 2, 4, 6000, 2, 4, 9000]);
    }
}

#[test]
fn load_counts_runs_waiting_inputs_and_those_ahead() {
    let mut agent = Agent::<Pair, i64>::new("a");
    agent.limits(Limits { runs_in_flight: 2, ..Limits::default() });
    agent.on_input_async("sleep", async |_, ctx| {
        ctx.sleep(Duration::from_secs(1)).await;
        Ok(())
    });
    let mut test = start(agent);
    feed(&mut test, &[(1, 0), (2, 0), (3, 0), (1, 0)]);
    test.push(7, (4, 0));
    let load = test.load();
    assert_eq!((load.runs, load.open_times, load.epoch), (2, 2, Some(0)));
    assert_eq!(load.waiting_bytes, 2 * size_of::<Pair>());
    assert_eq!(load.ahead_bytes, size_of::<Pair>());
    test.pass(Duration::from_secs(2));
    let load = test.load();
    assert_eq!((load.runs, load.waiting_bytes, load.ahead_bytes), (0, 0, 16));
    test.end();
    test.pass(Duration::from_secs(1));
    assert!(test.is_closed());
    let load = test.load();
    assert_eq!((load.runs, load.waiting_bytes, load.ahead_bytes, load.open_times), (0, 0, 0, 0));
}

#[test]
fn action_that_triggers_itself_for_ever_meets_the_timeout_of_its_run() {
    let mut agent = Agent::<Pair, i64>::new("a");
    agent.limits(Limits { fuel: 10, ..Limits::default() });
    agent.run_timeout(Duration::from_secs(1), Exhausted::DeadLetter);
    agent.on_input("in", |(_, value), ctx| {
        if *value == 0 {
            ctx.send(Ping(0));
        } else {
            ctx.output(*value);
        }
        Ok(())
    });
    agent.on::<Ping>("again", |ping, ctx| {
        ctx.send(ping.clone());
        Ok(())
    });
    let mut test = start(agent);
    for pair in [(1, 0), (2, 5)] {
        test.push(0, pair);
    }
    for _ in 0..100 {
        assert!(test.step());
    }
    assert_eq!(values(&mut test), [5], "it holds up no other key");
    test.tick(Duration::from_secs(1));
    test.run();
    assert_eq!(test.dead_letters().len(), 1);
    finish(&mut test);
}

#[test]
fn suspended_runs_cost_no_steps() {
    let mut agent = Agent::<Pair, i64>::new("a");
    agent.on_input_async("sleep", async |_, ctx| {
        ctx.sleep(Duration::from_secs(1)).await;
        Ok(())
    });
    let mut test = start(agent);
    for key in 0..1000 {
        test.push(0, (key, 0));
    }
    let mut steps = 0;
    while test.step() {
        steps += 1;
    }
    assert_eq!(steps, 1000);
    assert!(!test.step());
    assert_eq!(test.load().runs, 1000);
    test.pass(Duration::from_secs(1));
    assert_eq!(test.load().runs, 0);
}
