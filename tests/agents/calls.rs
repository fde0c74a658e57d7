//! S7, S8, S9: calls, sleeps, foreign futures, and their timeouts.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures::channel::oneshot;
use futures::future::{Either, join, join_all, select};
use timely_agents::{Agent, Error};
use timely_agents_operators::completion::CallFailure;
use timely_agents_operators::limits::Limits;

use crate::support::{Pair, call, feed, finish, names, start, values};

#[test]
fn join_of_two_durable_calls_waits_for_both_in_any_order() {
    let mut agent = Agent::<Pair, i64>::new("a");
    agent.on_input_async("both", async |(_, value), ctx| {
        let left = ctx.durable("left", *value, async |v| v);
        let right = ctx.durable("right", *value, async |v| v * 10);
        assert_eq!((left.position(), right.position()), (0, 1), "taken when the call is made");
        let (right, left) = join(right, left).await;
        ctx.output(left? + right?);
        Ok(())
    });
    for order in [["left", "right"], ["right", "left"]] {
        let mut agent_again = Agent::<Pair, i64>::new("b");
        agent_again.on_input_async("both", async |(_, value), ctx| {
            let left = ctx.durable("left", *value, async |v| v);
            let right = ctx.durable("right", *value, async |v| v * 10);
            let (left, right) = join(left, right).await;
            ctx.output(left? + right?);
            Ok(())
        });
        let mut test = start(agent_again);
        feed(&mut test, &[(1, 3)]);
        for name in order {
            assert!(values(&mut test).is_empty());
            let id = call(&test, name);
            test.complete(id);
            test.run();
        }
        assert_eq!(values(&mut test), [33]);
        finish(&mut test);
    }
    let mut test = start(agent);
    feed(&mut test, &[(1, 2)]);
    assert_eq!(names(&test), ["right", "left"], "a call starts when it is polled");
    let ids: Vec<_> = test.calls().into_iter().map(|call| call.id).collect();
    for id in ids {
        test.complete(id);
    }
    test.run();
    assert_eq!(values(&mut test), [22]);
}

#[test]
fn select_takes_the_first_and_gives_the_other_up() {
    let mut agent = Agent::<Pair, String>::new("a");
    agent.on_input_async("race", async |_, ctx| {
        let slow = ctx.durable("advisor", (), async |()| 7i64);
        let limit = ctx.sleep(Duration::from_secs(5));
        match select(slow, limit).await {
            Either::Left((answer, _)) => ctx.output(format!("answer {}", answer?)),
            Either::Right(_) => ctx.output("too slow".into()),
        }
        ctx.sleep(Duration::from_mins(1)).await;
        Ok(())
    });
    let mut test = start(agent);
    feed(&mut test, &[(1, 0), (2, 0)]);
    let [first, second] = &test.calls()[..] else { panic!("two calls run") };
    let (first, second) = (first.id, second.id);
    test.complete(first);
    test.run();
    assert_eq!(test.outputs(), [] as [(u64, u64, String); 0], "the step goes on after the race");
    test.pass(Duration::from_secs(5));
    assert_eq!(names(&test), [] as [&str; 0], "the other call is abandoned");
    test.complete(second);
    assert_eq!(test.late(), 1);
    test.pass(Duration::from_mins(1));
    assert_eq!(values(&mut test), ["answer 7", "too slow"]);
    finish(&mut test);
}

#[test]
fn foreign_waker_resumes_its_task_from_any_thread() {
    let (tell, told) = oneshot::channel::<i64>();
    let told = Arc::new(Mutex::new(Some(told)));
    let mut agent = Agent::<Pair, i64>::new("a");
    agent.on_input_async("wait", async move |(key, value), ctx| {
        if *key == 1 {
            let told = told.lock().map_err(|_| Error::new("poisoned"))?.take().unwrap();
            let call = ctx.durable("call", (), async |()| 1i64);
            let (told, called) = join(told, call).await;
            ctx.output(told? + called?);
        } else {
            ctx.output(*value);
        }
        Ok(())
    });
    let mut test = start(agent);
    feed(&mut test, &[(1, 0), (2, 5)]);
    assert_eq!(values(&mut test), [5]);
    let id = call(&test, "call");
    test.complete(id);
    test.run();
    assert!(values(&mut test).is_empty());
    assert!(!test.step(), "nothing polls");
    std::thread::spawn(move || tell.send(41).unwrap()).join().unwrap();
    test.run();
    assert_eq!(values(&mut test), [42]);
    finish(&mut test);
}

#[test]
fn task_that_wakes_itself_goes_on() {
    let mut agent = Agent::<Pair, i64>::new("a");
    agent.on_input_async("yields", async |_, ctx| {
        let mut polls = 0;
        std::future::poll_fn(|cx| {
            polls += 1;
            cx.waker().wake_by_ref();
            if polls < 4 { std::task::Poll::Pending } else { std::task::Poll::Ready(()) }
        })
        .await;
        ctx.output(polls);
        Ok(())
    });
    let mut test = start(agent);
    feed(&mut test, &[(1, 0)]);
    assert_eq!(values(&mut test), [4]);
    finish(&mut test);
}

#[test]
fn calls_of_all_forms_give_their_results() {
    let mut agent = Agent::<Pair, String>::new("a");
    agent.on_input_async("ask", async |(_, value), ctx| {
        let v = *value;
        let durable = ctx.durable("durable", v, async |v| Ok::<_, String>(v + 1)).await?.map_err(Error::new)?;
        let blocking = ctx.durable_blocking("blocking", v, |v| Err::<i64, String>(format!("no {v}"))).await?;
        let plain = ctx.call("plain", move || async move { format!("{:?}", std::thread::current().id()) }).await?;
        let here = ctx.call_blocking("plain blocking", move || Arc::new(v)).await?;
        assert_eq!(plain, format!("{:?}", std::thread::current().id()), "`complete` runs it on this thread");
        ctx.output(format!("{durable} {blocking:?} {here}"));
        Ok(())
    });
    let mut test = start(agent);
    feed(&mut test, &[(1, 3)]);
    for name in ["durable", "blocking", "plain", "plain blocking"] {
        assert_eq!(names(&test), [name]);
        let id = call(&test, name);
        test.complete(id);
        test.run();
    }
    assert_eq!(values(&mut test), ["4 Err(\"no 3\") 3"]);
}

#[test]
fn call_that_takes_too_long_fails_with_a_timeout() {
    let mut agent = Agent::<Pair, String>::new("a");
    agent.on_input_async("ask", async |(key, _), ctx| {
        let call = ctx.durable("advisor", (), async |()| 7i64);
        let call = if *key == 1 { call } else { call.timeout(Duration::from_secs(2)) };
        match call.await {
            Err(error) if error.failure == CallFailure::Timeout(Duration::from_secs(2)) => ctx.output("2 s".into()),
            Err(error) => ctx.output(error.to_string()),
            Ok(answer) => ctx.output(format!("{answer}")),
        }
        Ok(())
    });
    let mut test = start(agent);
    feed(&mut test, &[(1, 0), (2, 0)]);
    test.pass(Duration::from_secs(2));
    assert_eq!(values(&mut test), ["2 s"]);
    assert_eq!(test.calls().len(), 1, "a call that timed out is given up");
    test.pass(Duration::from_secs(297));
    assert!(values(&mut test).is_empty());
    test.pass(Duration::from_secs(1));
    assert_eq!(values(&mut test), ["call \"advisor\": no result within 300s"], "five minutes unless told otherwise");
    finish(&mut test);
}

#[test]
fn sleeps_end_in_order_of_their_deadlines() {
    let mut agent = Agent::<Pair, i64>::new("a");
    agent.on_input_async("sleep", async |(_, secs), ctx| {
        for _ in 0..2 {
            ctx.sleep(Duration::from_secs(*secs as u64)).await;
            ctx.output(*secs);
            ctx.flush().await;
        }
        Ok(())
    });
    let mut test = start(agent);
    feed(&mut test, &[(1, 3), (2, 2), (3, 5)]);
    assert_eq!(test.clock().now(), 0);
    test.pass(Duration::from_secs(10));
    assert_eq!(values(&mut test), [2, 3, 2, 5, 3, 5], "at 2, 3, 4, 5, 6 and 10 s");
    assert_eq!(test.clock().now(), 10_000_000);
    finish(&mut test);
}

#[test]
fn completion_of_an_abandoned_call_is_refused_and_counted() {
    let mut agent = Agent::<Pair, i64>::new("a");
    agent.on_input_async("ask", async |_, ctx| {
        let mut first = ctx.durable("first", (), async |()| 1i64);
        assert!(futures::poll!(&mut first).is_pending());
        drop(first);
        ctx.output(ctx.durable("second", (), async |()| 2i64).await?);
        Ok(())
    });
    let mut test = start(agent);
    feed(&mut test, &[(1, 0)]);
    assert_eq!(names(&test), ["second"]);
    let second = call(&test, "second");
    test.complete(second);
    test.complete_with(second, &3i64);
    test.run();
    assert_eq!(values(&mut test), [2]);
    assert_eq!(test.late(), 1, "a call ends once");
}

#[test]
fn calls_beyond_the_limit_wait_their_turn() {
    let mut agent = Agent::<Pair, i64>::new("a");
    agent.limits(Limits { concurrent_calls: 2, ..Limits::default() });
    agent.on_input_async("ask", async |(_, value), ctx| {
        let calls = (0..*value).map(|n| ctx.durable(format!("{n}"), n, async |n| n));
        let results = join_all(calls).await;
        ctx.output(results.into_iter().sum::<Result<i64, _>>()?);
        Ok(())
    });
    let mut test = start(agent);
    feed(&mut test, &[(1, 4)]);
    let mut seen = Vec::new();
    while let Some(next) = test.calls().first().cloned() {
        assert!(test.calls().len() <= 2);
        seen.push(next.name);
        test.complete(next.id);
        test.run();
    }
    assert_eq!(seen, ["0", "1", "2", "3"]);
    assert_eq!(values(&mut test), [6]);
    finish(&mut test);
}
