//! S2: one run per key, in order of epochs; S3: order in a run; S10 where order is at stake.

use timely_agents::Agent;

use crate::support::{Pair, Ping, Pong, call, feed, finish, names, start, values};

/// An agent that asks `call {value}` about each input and outputs the input's value.
fn asking() -> Agent<Pair, i64> {
    let mut agent = Agent::new("asking");
    agent.on_input_async("ask", async |(_, value), ctx| {
        ctx.durable(format!("{value}"), *value, async |v| v).await?;
        ctx.output(*value);
        Ok(())
    });
    agent
}

#[test]
fn input_triggers_its_actions_at_its_time() {
    let mut agent = Agent::<Pair, (u64, u64, i64)>::new("a");
    agent.on_input("tell", |(_, value), ctx| {
        ctx.output((ctx.epoch(), ctx.time(), *value));
        Ok(())
    });
    let mut test = start(agent);
    test.push(0, (1, 7));
    test.push(3, (1, 8));
    test.advance(3);
    test.run();
    assert_eq!(test.outputs(), [(0, 1, (0, 0, 7)), (3, 1, (3, 3, 8))]);
}

#[test]
fn input_waits_behind_the_run_of_its_key() {
    let mut test = start(asking());
    feed(&mut test, &[(1, 10), (1, 11), (2, 20)]);
    assert_eq!(names(&test), ["10", "20"], "a run of another key does not wait");
    assert_eq!(test.mailbox(&1), (true, 1));
    assert_eq!(test.mailbox(&2), (true, 0));
    let first = call(&test, "10");
    test.complete(first);
    test.run();
    assert_eq!(names(&test), ["20", "11"]);
    assert_eq!(test.mailbox(&1), (true, 0));
}

#[test]
fn runs_of_a_key_follow_each_other() {
    let mut test = start(asking());
    for (epoch, pair) in [(0, (1, 1)), (0, (1, 2)), (1, (1, 3)), (2, (1, 4)), (1, (1, 5))] {
        test.push(epoch, pair);
    }
    test.advance(5);
    let mut started = Vec::new();
    test.run();
    while let [only] = &names(&test)[..] {
        started.push(only.clone());
        let only = call(&test, only);
        test.complete(only);
        test.run();
    }
    assert_eq!(started, ["1", "2", "3", "5", "4"], "by epoch, then by arrival");
    let times: Vec<u64> = test.outputs().into_iter().map(|(time, ..)| time).collect();
    assert_eq!(times, [0, 0, 1, 1, 2]);
}

#[test]
fn run_numbers_of_a_key_ascend_by_one() {
    let mut agent = Agent::<Pair, u64>::new("a");
    agent.on_input("number", |_, ctx| {
        ctx.output(ctx.sequence());
        Ok(())
    });
    let mut test = start(agent);
    feed(&mut test, &[(1, 0), (2, 0), (1, 0), (1, 0), (2, 0)]);
    let mut numbers: Vec<(u64, u64)> = test.outputs().into_iter().map(|(_, key, n)| (key, n)).collect();
    numbers.sort_unstable();
    assert_eq!(numbers, [(1, 1), (1, 2), (1, 3), (2, 1), (2, 2)]);
}

#[test]
fn inputs_ahead_of_the_frontier_wait_for_their_epoch() {
    let mut agent = Agent::<Pair, i64>::new("sum");
    let sum = agent.memory::<i64>("sum");
    agent.on_input("add", move |(_, value), ctx| {
        ctx.output(ctx.update(sum, |sum| {
            *sum += value;
            *sum
        }));
        Ok(())
    });
    let mut test = start(agent);
    test.push(2, (1, 100));
    test.push(0, (1, 1));
    test.run();
    assert_eq!(test.memory(&1, sum), Some(1), "memory holds inputs up to the current epoch, and no other");
    assert_eq!(test.mailbox(&1), (false, 1));
    test.advance(1);
    test.run();
    assert_eq!(values(&mut test), [1]);
    test.push(1, (1, 10));
    test.advance(2);
    test.run();
    assert_eq!(test.outputs(), [(1, 1, 11), (2, 1, 111)]);
}

#[test]
fn sequenced_inputs_wait_for_the_close_of_their_epoch_and_start_sorted() {
    let mut agent = Agent::<Pair, i64>::new("a");
    agent.sequenced_by(|(_, value)| value / 10);
    agent.on_input("tell", |(_, value), ctx| {
        ctx.output(*value);
        Ok(())
    });
    let mut test = start(agent);
    for value in [31, 12, 11, 30, 25] {
        test.push(0, (1, value));
    }
    test.push(1, (1, 5));
    test.run();
    assert!(values(&mut test).is_empty(), "epoch 0 is open");
    assert_eq!(test.mailbox(&1), (false, 6));
    test.advance(1);
    test.run();
    assert_eq!(values(&mut test), [11, 12, 25, 30, 31], "inputs that sort alike go by their bytes");
    test.advance(2);
    test.run();
    assert_eq!(test.outputs(), [(1, 1, 5)]);
}

#[test]
fn events_of_a_run_are_handled_breadth_first() {
    let mut agent = Agent::<Pair, String>::new("a");
    agent.on_input("in", |(_, value), ctx| {
        ctx.output("in".into());
        ctx.send(Ping(*value));
        ctx.send(Pong(*value));
        ctx.send(Ping(*value + 1));
        Ok(())
    });
    agent.on::<Ping>("ping", |ping, ctx| {
        ctx.output(format!("ping {}", ping.0));
        ctx.send(Pong(ping.0 * 10));
        Ok(())
    });
    agent.on::<Pong>("pong", |pong, ctx| {
        ctx.output(format!("pong {}", pong.0));
        Ok(())
    });
    let mut test = start(agent);
    feed(&mut test, &[(1, 1)]);
    assert_eq!(values(&mut test), ["in", "ping 1", "pong 1", "ping 2", "pong 10", "pong 20"]);
}

#[test]
fn event_triggers_its_actions_in_plan_order() {
    let mut agent = Agent::<Pair, &'static str>::new("a");
    agent.on_input("first", |_, ctx| {
        ctx.output("first");
        ctx.send(Ping(0));
        Ok(())
    });
    agent.on::<Ping>("z", |_, ctx| {
        ctx.output("z");
        Ok(())
    });
    agent.on_any("both", &["ping", "input"], |event, ctx| {
        ctx.output(if event.name() == "ping" { "both ping" } else { "both input" });
        Ok(())
    });
    agent.on::<Ping>("a", |_, ctx| {
        ctx.output("a");
        ctx.send(Pong(0)); // No action wants it: it is dropped.
        Ok(())
    });
    let mut test = start(agent);
    feed(&mut test, &[(1, 1)]);
    assert_eq!(values(&mut test), ["first", "both input", "z", "both ping", "a"]);
    finish(&mut test);
}

#[test]
fn input_without_action_starts_the_next() {
    let mut agent = Agent::<Pair, i64>::new("a");
    agent.on_notify("end", |_, ctx| {
        ctx.output(-1);
        Ok(())
    });
    let mut test = start(agent);
    feed(&mut test, &[(1, 1), (1, 2), (2, 3)]);
    assert_eq!(test.stats().runs, 3, "each is a run that ends at once");
    assert_eq!(test.mailbox(&1), (false, 0));
    test.advance(1);
    assert_eq!(test.frontier(), [1]);
    finish(&mut test);
}

#[test]
fn tasks_of_a_run_interleave_at_awaits() {
    let mut agent = Agent::<Pair, String>::new("a");
    for action in ["a", "b"] {
        agent.on_input_async(action, async move |_, ctx| {
            for step in 1..3 {
                ctx.durable(format!("{action}{step}"), step, async |s: u32| s).await?;
                ctx.output(format!("{action}{step}"));
                ctx.flush().await;
            }
            Ok(())
        });
    }
    let mut test = start(agent);
    feed(&mut test, &[(1, 0)]);
    assert_eq!(names(&test), ["a1", "b1"], "both tasks have started");
    for name in ["b1", "a1", "a2", "b2"] {
        let id = call(&test, name);
        test.complete_with(id, &0u32);
        test.run();
    }
    assert_eq!(values(&mut test), ["b1", "a1", "a2", "b2"]);
    assert_eq!(test.mailbox(&1), (false, 0));
}

#[test]
fn resumed_task_queues_behind_those_that_are_ready() {
    let mut agent = Agent::<Pair, String>::new("a");
    for action in ["a", "b", "c"] {
        agent.on_input_async(action, async move |_, ctx| {
            ctx.durable(action, 0, async |s: u32| s).await?;
            ctx.output(action.into());
            Ok(())
        });
    }
    let mut test = start(agent);
    feed(&mut test, &[(1, 0)]);
    for name in ["c", "a", "b"] {
        let id = call(&test, name);
        test.complete_with(id, &0u32);
    }
    assert!(test.step());
    assert_eq!(values(&mut test), ["c"], "one task a step, the first that got ready");
    test.run();
    assert_eq!(values(&mut test), ["a", "b"]);
}

#[test]
fn event_of_the_inputs_type_triggers_by_its_own_name() {
    let mut agent = Agent::<Ping, i64>::new("a");
    agent.on_input("in", |ping, ctx| {
        ctx.send(Ping(ping.0 + 1));
        Ok(())
    });
    agent.on::<Ping>("ping", |ping, ctx| {
        ctx.output(ping.0);
        Ok(())
    });
    let plan = agent.build().unwrap();
    let mut test = timely_agents::testing::Harness::<u64, Ping, i64>::new(&plan, |_| 1).unwrap();
    test.push(0, Ping(1));
    for _ in 0..10 {
        test.step();
    }
    assert_eq!(test.outputs(), [(0, 1, 2)]);
}
