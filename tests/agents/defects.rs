//! Defects that agents on other systems have had, and that must not appear here (docs/parity.md, W1 to W17).

use timely_agents::{Agent, Event};
use timely_agents_operators::group::KeyGroups;

use crate::support::{Pair, Ping, call, feed, finish, start, values};

#[test]
fn events_sent_before_an_await_leave_with_their_own_task() {
    // W1: two keys, and two actions of one key, all of them between a send and its step's end.
    let mut agent = Agent::<Pair, String>::new("a");
    agent.on_input_async("slow", async |(key, value), ctx| {
        ctx.send(Ping(*value));
        ctx.output(format!("slow {value}"));
        ctx.durable(format!("{key}"), (), async |()| ()).await?;
        Ok(())
    });
    agent.on_input("quick", |(_, value), ctx| {
        ctx.send(Ping(value + 100));
        Ok(())
    });
    agent.on::<Ping>("ping", |ping, ctx| {
        ctx.output(format!("{} of key {} at {}", ping.0, ctx.key_text(), ctx.epoch()));
        Ok(())
    });
    let mut test = start(agent);
    test.push(0, (1, 10));
    test.push(1, (2, 20));
    test.advance(1);
    test.run();
    assert_eq!(values(&mut test), ["110 of key 1 at 0", "120 of key 2 at 1"]);
    for key in ["2", "1"] {
        let id = call(&test, key);
        test.complete_with(id, &());
        test.run();
    }
    let expected = [(1, 2, "slow 20"), (1, 2, "20 of key 2 at 1"), (0, 1, "slow 10"), (0, 1, "10 of key 1 at 0")];
    assert_eq!(test.outputs(), expected.map(|(t, k, s)| (t, k, s.to_string())));
}

#[test]
fn inputs_without_action_neither_stick_nor_hold_the_frontier() {
    // W2: first an agent whose inputs trigger nothing at all.
    let mut deaf = Agent::<Pair, i64>::new("b");
    deaf.on_dynamic("never", "never", |_, _| Ok(()));
    let mut test = start(deaf);
    feed(&mut test, &[(2, 0), (2, 1)]);
    test.advance(1);
    test.run();
    assert_eq!((test.frontier(), test.stats().runs), (vec![1], 2));
    finish(&mut test);

    // Then inputs whose action does nothing, behind a run that waits.
    let mut agent = Agent::<Pair, i64>::new("c");
    agent.on_input_async("some", async |(_, value), ctx| {
        if *value == 0 {
            ctx.durable("wait", (), async |()| ()).await?;
            ctx.output(0);
        }
        Ok(())
    });
    let mut test = start(agent);
    feed(&mut test, &[(1, 0), (1, 1), (1, 2)]);
    test.end();
    test.run();
    assert!(!test.is_closed(), "the end waits");
    assert_eq!(test.frontier(), [0]);
    let wait = call(&test, "wait");
    test.complete_with(wait, &());
    finish(&mut test);
    assert_eq!((values(&mut test), test.stats().runs), (vec![0], 3));
    assert_eq!(test.frontier(), [] as [u64; 0]);
}

#[test]
fn equal_events_of_a_run_are_both_handled() {
    // W4.
    let mut agent = Agent::<Pair, i64>::new("a");
    let count = agent.memory::<i64>("count");
    agent.on_input("in", |_, ctx| {
        ctx.send(Ping(1));
        ctx.send(Ping(1));
        Ok(())
    });
    agent.on_async::<Ping>("count", async move |ping, ctx| {
        let n = ctx.durable("same", ping.0, async |n| n).await?;
        let n = ctx.update(count, |count| {
            *count += n;
            *count
        });
        ctx.output(n);
        Ok(())
    });
    let mut test = start(agent);
    feed(&mut test, &[(1, 0), (1, 0)]);
    for _ in 0..4 {
        let next = test.calls()[0].id;
        test.complete(next);
        test.run();
    }
    assert_eq!(values(&mut test), [1, 2, 3, 4]);
    finish(&mut test);
}

#[test]
fn keys_that_print_alike_are_different_keys() {
    // W6: tuples and texts whose parts join to the same text, and a number beside its digits.
    #[derive(Clone, Debug, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
    enum Id {
        Number(u64),
        Text(String),
        Parts(String, String),
    }
    let keys = [
        Id::Number(1),
        Id::Text("1".into()),
        Id::Text("a_b".into()),
        Id::Parts("a".into(), "b".into()),
        Id::Parts("a_b".into(), String::new()),
        Id::Parts(String::new(), "a_b".into()),
    ];
    let mut agent = Agent::<Id, u64>::new("a");
    let seen = agent.memory::<u64>("seen");
    agent.on_input("count", move |_, ctx| {
        ctx.output(ctx.update(seen, |n| {
            *n += 1;
            *n
        }));
        Ok(())
    });
    let plan = agent.build().unwrap();
    let mut test = timely_agents::testing::Harness::<Id, Id, u64>::new(&plan, Clone::clone).unwrap();
    for key in &keys {
        test.push(0, key.clone());
    }
    test.run();
    assert!(test.outputs().iter().all(|(_, _, n)| *n == 1), "each is a key of its own");
    // With as many groups as can be, different keys land in different groups: the hash sees type and length.
    let groups = KeyGroups::new(65_536).unwrap();
    let placed: std::collections::BTreeSet<u32> = keys.iter().map(|key| groups.of(key)).collect();
    assert_eq!(placed.len(), keys.len());
}

#[test]
fn value_under_a_new_path_creates_its_parents() {
    // W9: there is no act of creating a parent that a replay could get wrong.
    let mut agent = Agent::<Pair, bool>::new("a");
    agent.on_input("in", |(_, value), ctx| {
        ctx.memory().set(&format!("a.b.c{value}"), *value)?;
        ctx.output(ctx.memory().contains("a") && ctx.memory().contains("a.b"));
        Ok(())
    });
    let mut test = start(agent);
    feed(&mut test, &[(1, 1), (1, 2)]);
    assert_eq!(values(&mut test), [true, true]);
    assert_eq!(test.paths(&1), ["a.b.c1", "a.b.c2"]);
}

#[test]
fn call_may_return_nothing() {
    // W10: unit, `None` and errors are results.
    let mut agent = Agent::<Pair, String>::new("a");
    #[expect(clippy::let_unit_value, reason = "the unit is the result under test")]
    agent.on_input_async("ask", async |_, ctx| {
        let unit = ctx.durable("unit", (), async |()| ()).await?;
        let none = ctx.durable("none", (), async |()| None::<String>).await?;
        let error = ctx.durable("error", (), async |()| Err::<(), _>("no".to_string())).await?;
        let nested = ctx.durable("nested", (), async |()| Some(None::<u8>)).await?;
        ctx.output(format!("{unit:?} {none:?} {error:?} {nested:?}"));
        Ok(())
    });
    let mut test = start(agent);
    feed(&mut test, &[(1, 0)]);
    while let Some(next) = test.calls().first().cloned() {
        test.complete(next.id);
        test.run();
    }
    assert_eq!(values(&mut test), ["() None Err(\"no\") Some(None)"]);
}

#[test]
fn events_sent_before_an_await_leave_once() {
    // W11: with an observer, and a retry of the action that sent them.
    let mut agent = Agent::<Pair, i64>::new("a");
    agent
        .on_input_async("send", async |(_, value), ctx| {
            ctx.send(Ping(*value));
            ctx.durable("wait", (), async |()| ()).await?;
            Ok(())
        })
        .on_failure(timely_agents::Retry::new(2));
    agent.on::<Ping>("ping", |ping, ctx| {
        ctx.output(ping.0);
        Ok(())
    });
    let mut test = start(agent);
    test.observe();
    feed(&mut test, &[(1, 7)]);
    let wait = call(&test, "wait");
    test.fail(wait, timely_agents_operators::completion::CallFailure::Aborted);
    test.run();
    test.pass(std::time::Duration::from_secs(1));
    assert!(values(&mut test).is_empty());
    let wait = call(&test, "wait");
    test.complete_with(wait, &());
    test.run();
    assert_eq!(values(&mut test), [7]);
    let pings = test.events().into_iter().filter(|event| event.name == Ping::NAME).count();
    assert_eq!(pings, 1);
    finish(&mut test);
}

#[test]
fn interleaved_tasks_keep_each_others_writes() {
    // W12: two suspended tasks write the same place and places of their own, under one parent.
    let mut agent = Agent::<Pair, i64>::new("a");
    let (shared, left, right) = (agent.memory("shared"), agent.memory("left"), agent.memory("right"));
    for (name, own, n) in [("left", left, 1i64), ("right", right, 2)] {
        agent.on_input_async(name, async move |_, ctx| {
            ctx.put(own, n);
            ctx.put(shared, n);
            ctx.memory().set(&format!("p.{name}"), n)?;
            ctx.memory().set("p.shared", n)?;
            ctx.durable(name, (), async |()| ()).await?;
            ctx.put(own, ctx.get(own).unwrap() * 10);
            Ok(())
        });
    }
    let mut test = start(agent);
    feed(&mut test, &[(1, 0)]);
    for name in ["right", "left"] {
        let id = call(&test, name);
        test.complete_with(id, &());
        test.run();
    }
    assert_eq!(test.memory(&1, left), Some(10));
    assert_eq!(test.memory(&1, right), Some(20));
    assert_eq!(test.memory(&1, shared), Some(1), "the step that ended last");
    assert_eq!(test.paths(&1), ["p.left", "p.right", "p.shared"]);
    assert_eq!(test.memory_at(&1, "p.shared").unwrap(), Some(1i64));
}

#[test]
fn bounded_input_loses_nothing_when_keys_alternate() {
    // W16: keys change with each input, as they do not in a sorted batch.
    let mut agent = Agent::<Pair, i64>::new("a");
    let sum = agent.memory::<i64>("sum");
    agent.on_input("add", move |(_, value), ctx| {
        ctx.output(ctx.update(sum, |sum| {
            *sum += value;
            *sum
        }));
        Ok(())
    });
    let mut test = start(agent);
    for round in 0..100 {
        for key in 0..10 {
            test.push(round / 10, (key, 1));
        }
    }
    test.end();
    test.run();
    assert!(test.is_closed());
    assert_eq!(test.outputs().len(), 1000);
    for key in 0..10 {
        assert_eq!(test.memory(&key, sum), Some(100));
    }
}

#[test]
fn observing_events_changes_nothing() {
    // W17: an event without a JSON form is observed as null, and fails nothing.
    #[derive(serde::Serialize, serde::Deserialize)]
    struct Odd(std::collections::BTreeMap<(u8, u8), u8>);
    impl Event for Odd {
        const NAME: &'static str = "odd";
    }
    let run = |observe: bool| {
        let mut agent = Agent::<Pair, i64>::new("a");
        agent.on_input("in", |(_, value), ctx| {
            ctx.send(Odd(std::collections::BTreeMap::from([((1, 2), 3)])));
            ctx.output(*value);
            Ok(())
        });
        agent.on::<Odd>("odd", |odd, ctx| {
            ctx.output(i64::from(odd.0[&(1, 2)]));
            Ok(())
        });
        let mut test = start(agent);
        if observe {
            test.observe();
        }
        feed(&mut test, &[(1, 7)]);
        let odd = test.events().into_iter().find(|event| event.name == "odd");
        assert_eq!(odd.map(|event| event.attributes), observe.then_some(serde_json::Value::Null));
        finish(&mut test);
        values(&mut test)
    };
    assert_eq!(run(true), [7, 3]);
    assert_eq!(run(false), [7, 3]);
}

#[test]
fn action_may_send_an_event_equal_to_its_own() {
    let mut agent = Agent::<Pair, i64>::new("a");
    let count = agent.sensory::<i64>("count");
    agent.on_input("in", |_, ctx| {
        ctx.send(Ping(1));
        Ok(())
    });
    agent.on::<Ping>("again", move |ping, ctx| {
        let n = ctx.update(count, |n| {
            *n += 1;
            *n
        });
        if n < 3 {
            ctx.send(ping.clone());
        } else {
            ctx.output(n);
        }
        Ok(())
    });
    let mut test = start(agent);
    feed(&mut test, &[(1, 0), (1, 0)]);
    assert_eq!(values(&mut test), [3, 3]);
}
