//! S6: the end of input is not the end of the work, and nothing hangs once none is left.

use std::time::Duration;

use timely_agents::{Agent, Error, Retry};

use crate::support::{Pair, Ping, call, feed, start, values};

#[test]
fn end_of_input_waits_for_all_runs() {
    let mut agent = Agent::<Pair, String>::new("a");
    agent
        .on_input_async("work", async |(key, value), ctx| {
            match key {
                1 => ctx.durable("call", (), async |()| ()).await?,
                2 => ctx.sleep(Duration::from_mins(1)).await,
                3 if ctx.attempt() < 3 => return Err(Error::new("again")),
                3 => {}
                _ => ctx.notify_at(9)?,
            }
            ctx.output(format!("{key} {value}"));
            ctx.send(Ping(*value));
            Ok(())
        })
        .on_failure(Retry::new(3).backoff(Duration::from_secs(10)));
    agent.on_async::<Ping>("after", async |ping, ctx| {
        ctx.sleep(Duration::from_secs(1)).await;
        ctx.output(format!("ping {}", ping.0));
        Ok(())
    });
    agent.on_notify("notified", |_, ctx| {
        ctx.output("told".into());
        Ok(())
    });
    let mut test = start(agent);
    feed(&mut test, &[(1, 10), (1, 11), (2, 20), (3, 30), (4, 40)]);
    test.end();
    test.run();
    for _ in 0..2 {
        assert!(!test.is_closed());
        assert_eq!(test.frontier(), [0]);
        let id = call(&test, "call");
        test.complete_with(id, &());
        test.pass(Duration::from_secs(2));
    }
    test.pass(Duration::from_secs(55));
    assert!(!test.is_closed());
    test.pass(Duration::from_secs(2));
    assert!(test.is_closed());
    assert_eq!(test.frontier(), [] as [u64; 0], "the last capability is given back");
    let mut outputs = values(&mut test);
    outputs.sort();
    assert_eq!(
        outputs,
        ["1 10", "1 11", "2 20", "3 30", "4 40", "ping 10", "ping 11", "ping 20", "ping 30", "ping 40", "told"]
    );
}

#[test]
fn empty_input_ends_at_once() {
    let mut test = start(Agent::<Pair, i64>::new("a"));
    test.end();
    test.run();
    assert!(test.is_closed());
    assert_eq!(test.frontier(), [] as [u64; 0]);
}

#[test]
fn inputs_ahead_of_the_frontier_are_done_at_the_end() {
    let mut agent = Agent::<Pair, i64>::new("a");
    agent.on_input("tell", |(_, value), ctx| {
        ctx.output(*value);
        Ok(())
    });
    let mut test = start(agent);
    for (epoch, value) in [(5, 50), (3, 30), (9, 90)] {
        test.push(epoch, (1, value));
    }
    test.end();
    test.run();
    assert!(test.is_closed());
    assert_eq!(test.outputs(), [(3, 1, 30), (5, 1, 50), (9, 1, 90)]);
}

#[test]
fn completions_after_the_end_are_refused_and_counted() {
    let mut agent = Agent::<Pair, i64>::new("a");
    agent.on_input_async("race", async |_, ctx| {
        let call = ctx.durable("call", (), async |()| 1i64);
        futures::future::select(call, ctx.sleep(Duration::from_secs(1))).await;
        ctx.output(1);
        Ok(())
    });
    let mut test = start(agent);
    feed(&mut test, &[(1, 0)]);
    let id = call(&test, "call");
    test.end();
    test.pass(Duration::from_secs(1));
    assert!(test.is_closed());
    assert_eq!((values(&mut test), test.late()), (vec![1], 0));
    test.complete(id);
    test.run();
    assert_eq!((values(&mut test), test.late()), (vec![], 1));
}

#[test]
fn completions_after_a_failure_are_refused_and_counted() {
    let mut agent = Agent::<Pair, i64>::new("a");
    agent.on_input_async("ask", async |(_, value), ctx| {
        ctx.output(ctx.durable(format!("{value}"), (), async |()| 1i64).await?);
        if *value == 2 { Err(Error::new("no")) } else { Ok(()) }
    });
    let mut test = start(agent);
    feed(&mut test, &[(1, 1), (2, 2)]);
    let (one, two) = (call(&test, "1"), call(&test, "2"));
    test.complete(two);
    test.run();
    assert_eq!(test.failure().unwrap().message, "no");
    assert_eq!(test.calls(), []);
    test.complete(one);
    test.run();
    assert_eq!((values(&mut test), test.late()), (vec![], 1));
    test.pass(Duration::from_secs(1000));
    assert_eq!(test.frontier(), [0], "nothing more is done");
}

#[test]
fn carried_run_moves_to_the_last_epoch_when_the_input_ends_with_later_inputs_waiting() {
    let mut agent = Agent::<Pair, String>::new("a");
    agent.carry();
    agent.on_input_async("work", async |(key, value), ctx| {
        ctx.durable("call", (), async |()| ()).await?;
        ctx.output(format!("{key} {value}"));
        Ok(())
    });
    let mut test = start(agent);
    feed(&mut test, &[(1, 10)]);
    test.run();
    // Ahead of the input's frontier, which then goes from epoch 0 to its end in one step.
    test.push(2, (1, 20));
    test.push(3, (1, 30));
    test.end();
    test.run();
    for _ in 0..3 {
        let id = call(&test, "call");
        test.complete_with(id, &());
        test.run();
    }
    assert!(test.is_closed());
    let outputs: Vec<(u64, String)> = test.outputs().into_iter().map(|(time, _, output)| (time, output)).collect();
    assert_eq!(outputs, [(3, "1 10".to_owned()), (3, "1 20".to_owned()), (3, "1 30".to_owned())]);
}
