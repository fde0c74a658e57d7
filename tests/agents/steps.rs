//! S4: steps are atomic. What a step writes, sends and puts out appears when it ends, and all of it.

use std::time::Duration;

use timely_agents::{Agent, Policy, Retry};

use crate::support::{Pair, Ping, call, feed, names, start, values};

#[test]
fn outputs_of_a_step_leave_in_sending_order() {
    let mut agent = Agent::<Pair, i64>::new("a");
    agent.on_input_async("three", async |(_, value), ctx| {
        ctx.output(value + 1);
        ctx.sleep(Duration::from_secs(1)).await;
        ctx.output(value + 2);
        ctx.output(value + 3);
        Ok(())
    });
    let mut test = start(agent);
    feed(&mut test, &[(1, 0)]);
    assert!(values(&mut test).is_empty(), "the step has not ended");
    test.pass(Duration::from_secs(1));
    assert_eq!(values(&mut test), [1, 2, 3]);
}

#[test]
fn events_sent_before_an_await_appear_when_the_step_ends() {
    let mut agent = Agent::<Pair, i64>::new("a");
    agent.on_input_async("send", async |(_, value), ctx| {
        ctx.send(Ping(*value));
        ctx.durable("wait", (), async |()| ()).await?;
        ctx.send(Ping(value + 1));
        Ok(())
    });
    agent.on::<Ping>("ping", |ping, ctx| {
        ctx.output(ping.0);
        Ok(())
    });
    let mut test = start(agent);
    feed(&mut test, &[(1, 1)]);
    assert!(values(&mut test).is_empty());
    let wait = call(&test, "wait");
    test.complete_with(wait, &());
    test.run();
    assert_eq!(values(&mut test), [1, 2]);
}

#[test]
fn flush_lets_a_step_be_seen_before_its_action_returns() {
    let mut agent = Agent::<Pair, i64>::new("a");
    let slot = agent.memory::<i64>("slot");
    agent.on_input_async("send", async move |(_, value), ctx| {
        ctx.send(Ping(*value));
        ctx.put(slot, *value);
        ctx.flush().await;
        ctx.put(slot, -1);
        ctx.durable("wait", (), async |()| ()).await?;
        Ok(())
    });
    agent.on::<Ping>("ping", move |ping, ctx| {
        ctx.output(ping.0 + ctx.get(slot).unwrap());
        Ok(())
    });
    let mut test = start(agent);
    feed(&mut test, &[(1, 7)]);
    assert_eq!(values(&mut test), [14], "flushed: the event, and the write");
    assert_eq!(test.memory(&1, slot), Some(7), "written after the flush: not yet");
    let wait = call(&test, "wait");
    test.complete_with(wait, &());
    test.run();
    assert_eq!(test.memory(&1, slot), Some(-1));
}

#[test]
fn unfinished_writes_are_seen_by_their_task_alone() {
    let mut agent = Agent::<Pair, String>::new("a");
    let slot = agent.memory::<i64>("slot");
    agent.on_input_async("writer", async move |(_, value), ctx| {
        ctx.put(slot, *value);
        ctx.memory().set("a.b", *value)?;
        ctx.output(format!("writer sees {:?}", ctx.get(slot)));
        ctx.durable("wait", (), async |()| ()).await?;
        ctx.output(format!("writer still sees {:?}", ctx.get(slot)));
        ctx.output(format!("and {:?}", ctx.memory().get::<i64>("a.b")?));
        ctx.send(Ping(0));
        Ok(())
    });
    agent.on_input("reader", move |_, ctx| {
        ctx.output(format!("reader sees {:?}", ctx.get(slot)));
        ctx.output(format!("and {}", ctx.memory().contains("a")));
        Ok(())
    });
    agent.on::<Ping>("later", move |_, ctx| {
        ctx.output(format!("later sees {:?}", ctx.get(slot)));
        Ok(())
    });
    let mut test = start(agent);
    feed(&mut test, &[(1, 7)]);
    assert_eq!(values(&mut test), ["reader sees None", "and false"]);
    assert_eq!(test.memory(&1, slot), None);
    let wait = call(&test, "wait");
    test.complete_with(wait, &());
    test.run();
    assert_eq!(
        values(&mut test),
        ["writer sees Some(7)", "writer still sees Some(7)", "and Some(7)", "later sees Some(7)"]
    );
}

#[test]
fn failed_step_leaves_nothing_behind() {
    let mut agent = Agent::<Pair, i64>::new("a");
    let (slot, other) = (agent.memory::<i64>("slot"), agent.memory::<i64>("other"));
    let side = agent.side::<i64>("side");
    agent.on_input("before", move |_, ctx| {
        ctx.put(slot, 1);
        Ok(())
    });
    agent
        .on_input("fails", move |(_, value), ctx| {
            ctx.put(slot, 2);
            ctx.put(other, 2);
            ctx.update(slot, |n| *n += 1);
            ctx.memory().set("a.b", 2)?;
            ctx.output(2);
            ctx.side(side, 2);
            ctx.send(Ping(2));
            ctx.notify_at(9)?;
            if *value < 0 { panic!("on purpose") } else { Err(timely_agents::Error::new("no")) }
        })
        .on_failure(Policy::Ignore);
    agent.on_input("after", move |_, ctx| {
        ctx.output(ctx.get(slot).unwrap() * 10 + ctx.get(other).unwrap_or(0));
        Ok(())
    });
    agent.on::<Ping>("ping", |_, ctx| {
        ctx.output(99);
        Ok(())
    });
    agent.on_notify("notified", |_, ctx| {
        ctx.output(98);
        Ok(())
    });
    let mut test = start(agent);
    feed(&mut test, &[(1, 0), (2, -1)]);
    test.end();
    test.run();
    assert_eq!(test.outputs(), [(0, 1, 10), (0, 2, 10)]);
    assert_eq!(test.sides(side), []);
    assert_eq!(test.paths(&1), [] as [&str; 0]);
}

#[test]
fn finished_step_leaves_whole() {
    let mut agent = Agent::<Pair, i64>::new("a");
    let slot = agent.memory::<i64>("slot");
    let side = agent.side::<i64>("side");
    agent.on_input("all", move |(_, value), ctx| {
        ctx.output(*value);
        ctx.put(slot, *value);
        ctx.side(side, value * 2);
        ctx.send(Ping(value * 3));
        Ok(())
    });
    agent.on_async::<Ping>("ping", async |_, ctx| {
        ctx.durable("wait", (), async |()| ()).await?;
        Ok(())
    });
    let mut test = start(agent);
    test.push(0, (1, 5));
    assert!(test.step());
    assert_eq!(test.outputs(), [(0, 1, 5)]);
    assert_eq!(test.memory(&1, slot), Some(5));
    assert_eq!(test.sides(side), [(0, 10)]);
    test.run();
    assert_eq!(names(&test), ["wait"]);
}

#[test]
fn flush_then_retry_is_not_repeated() {
    let mut agent = Agent::<Pair, i64>::new("a");
    let count = agent.memory::<i64>("count");
    agent
        .on_input_async("flushes", async move |_, ctx| {
            ctx.update(count, |n| *n += 1);
            ctx.output(i64::from(ctx.attempt()));
            ctx.send(Ping(1));
            ctx.flush().await;
            ctx.update(count, |n| *n += 10);
            ctx.output(100 + i64::from(ctx.attempt()));
            ctx.flush().await;
            ctx.update(count, |n| *n += 100);
            if ctx.attempt() < 3 { Err(timely_agents::Error::new("again")) } else { Ok(()) }
        })
        .on_failure(Retry::new(3).backoff(Duration::from_secs(1)));
    agent.on::<Ping>("ping", |_, ctx| {
        ctx.output(7);
        Ok(())
    });
    let mut test = start(agent);
    feed(&mut test, &[(1, 0)]);
    assert_eq!(values(&mut test), [1, 101, 7]);
    assert_eq!(test.memory(&1, count), Some(11));
    test.pass(Duration::from_secs(10));
    assert!(values(&mut test).is_empty());
    assert_eq!(test.memory(&1, count), Some(111), "the last step only");
}

#[test]
fn notification_asked_for_before_an_await_is_kept() {
    let mut agent = Agent::<Pair, String>::new("a");
    agent.on_input_async("ask", async |_, ctx| {
        ctx.notify_at(0)?;
        ctx.durable("wait", (), async |()| ()).await?;
        Ok(())
    });
    agent.on_notify("told", |end, ctx| {
        ctx.output(format!("{} {}", ctx.key_text(), end.epoch));
        Ok(())
    });
    let mut test = start(agent);
    feed(&mut test, &[(1, 0)]);
    let wait = call(&test, "wait");
    test.complete_with(wait, &());
    test.run();
    // A run of another key that asks for control must not take the notification for its own.
    feed(&mut test, &[(2, 0)]);
    test.advance(1);
    test.run();
    assert_eq!(test.outputs(), [(0, 1, "1 0".into())]);
}
