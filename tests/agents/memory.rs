//! S4 and S3 as memory shows them: slots and paths, short-term and sensory; D1's facts of them.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use timely_agents::{Agent, PathError};
use timely_agents_operators::fact::What;

use crate::support::{Pair, Ping, call, feed, finish, start, values};

#[test]
fn slots_get_put_update_take_and_read() {
    let mut agent = Agent::<Pair, String>::new("a");
    let slot = agent.memory::<Vec<i64>>("slot");
    agent.on_input("use", move |(_, value), ctx| {
        ctx.output(format!("{:?}", ctx.get(slot)));
        match value {
            0 => ctx.put(slot, vec![1]),
            1 => ctx.output(format!(
                "updated to {}",
                ctx.update(slot, |v| {
                    v.push(2);
                    v.len()
                })
            )),
            2 => ctx.output(format!("read {}", ctx.read(slot, |v| v.map_or(0, Vec::len)))),
            3 => ctx.output(format!("took {:?}", ctx.take(slot))),
            _ => ctx.put(slot, None),
        }
        Ok(())
    });
    let mut test = start(agent);
    feed(&mut test, &[(1, 0), (1, 1), (1, 2), (1, 3), (1, 1), (1, 4)]);
    assert_eq!(
        values(&mut test),
        [
            "None",
            "Some([1])",
            "updated to 2",
            "Some([1, 2])",
            "read 2",
            "Some([1, 2])",
            "took Some([1, 2])",
            "None",
            "updated to 1",
            "Some([2])"
        ]
    );
    assert_eq!(test.memory(&1, slot), None);
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Profile {
    name: String,
    tags: BTreeMap<String, u8>,
}

#[test]
fn paths_hold_any_type_and_list_themselves() {
    let mut agent = Agent::<Pair, String>::new("a");
    agent.on_input("use", |_, ctx| {
        let memory = ctx.memory();
        let profile = Profile { name: "x".into(), tags: BTreeMap::from([("t".into(), 1)]) };
        memory.set("user.profile", profile.clone())?;
        memory.set("user.visits", 1u64)?;
        memory.update("user.visits", |n: &mut u64| *n += 1)?;
        memory.set("users", true)?;
        assert_eq!(memory.get::<Profile>("user.profile")?, Some(profile));
        assert_eq!(memory.get::<u64>("user.visits")?, Some(2));
        ctx.output(memory.iter("user").collect::<Vec<_>>().join(" "));
        ctx.output(memory.iter("").collect::<Vec<_>>().join(" "));
        ctx.output(format!("{} {}", memory.contains("user"), memory.contains("use")));
        ctx.output(format!("removed {}", memory.remove("user")));
        ctx.output(memory.iter("").collect::<Vec<_>>().join(" "));
        Ok(())
    });
    let mut test = start(agent);
    feed(&mut test, &[(1, 0)]);
    assert_eq!(
        values(&mut test),
        ["user.profile user.visits", "user.profile user.visits users", "true false", "removed 2", "users"]
    );
    assert_eq!(test.paths(&1), ["users"]);
    assert_eq!(test.memory_at::<bool>(&1, "users").unwrap(), Some(true));
}

#[test]
fn path_is_a_value_or_a_parent_never_both() {
    let mut agent = Agent::<Pair, PathError>::new("a");
    agent.on_input("use", |_, ctx| {
        let memory = ctx.memory();
        memory.set("a.b", 1i64)?;
        for path in ["a", "a.b.c", "a..b", ""] {
            ctx.output(memory.set(path, 2i64).unwrap_err());
        }
        ctx.output(memory.get::<String>("a.b").unwrap_err());
        Ok(())
    });
    let mut test = start(agent);
    feed(&mut test, &[(1, 0)]);
    let expected = [
        PathError::IsObject { path: "a".into(), child: "a.b".into() },
        PathError::BelowValue { path: "a.b.c".into(), parent: "a.b".into() },
        PathError::Empty("a..b".into()),
        PathError::Empty(String::new()),
        PathError::OtherType { path: "a.b".into(), holds: "i64", asked: "alloc::string::String" },
    ];
    assert_eq!(values(&mut test), expected);
}

#[test]
fn end_of_run_clears_sensory_memory_and_starts_the_next_input() {
    let mut agent = Agent::<Pair, String>::new("a");
    let sensory = agent.sensory::<i64>("scratch");
    agent.on_input_async("in", async move |(_, value), ctx| {
        ctx.output(format!("{value} finds {:?} {}", ctx.get(sensory), ctx.sensory().contains("p")));
        ctx.put(sensory, *value);
        ctx.sensory().set("p.q", *value)?;
        ctx.durable("wait", (), async |()| ()).await?;
        ctx.send(Ping(*value));
        Ok(())
    });
    agent.on::<Ping>("ping", move |_, ctx| {
        ctx.output(format!("later {:?} {:?}", ctx.get(sensory), ctx.sensory().get::<i64>("p.q")?));
        Ok(())
    });
    let mut test = start(agent);
    feed(&mut test, &[(1, 1), (1, 2)]);
    for _ in 0..2 {
        let wait = call(&test, "wait");
        test.complete_with(wait, &());
        test.run();
    }
    assert_eq!(
        values(&mut test),
        ["1 finds None false", "later Some(1) Some(1)", "2 finds None false", "later Some(2) Some(2)"]
    );
    assert_eq!(test.memory(&1, sensory), None);
}

#[test]
fn resumed_task_sees_the_memory_of_its_key() {
    let mut agent = Agent::<Pair, (u64, i64)>::new("a");
    let slot = agent.memory::<i64>("slot");
    agent.on_input_async("in", async move |(key, value), ctx| {
        ctx.put(slot, *value);
        ctx.durable(format!("{key}"), (), async |()| ()).await?;
        let own: u64 = ctx.key()?;
        ctx.output((own, ctx.get(slot).unwrap()));
        Ok(())
    });
    let mut test = start(agent);
    feed(&mut test, &[(1, 10), (2, 20), (3, 30)]);
    for key in ["3", "1", "2"] {
        let id = call(&test, key);
        test.complete_with(id, &());
        test.run();
    }
    assert_eq!(values(&mut test), [(3, 30), (1, 10), (2, 20)]);
}

#[test]
fn suspended_writes_of_parent_and_child_paths_never_both_stand() {
    let mut agent = Agent::<Pair, i64>::new("a");
    agent.on_input_async("parent", async |_, ctx| {
        ctx.memory().set("a", 1i64)?;
        ctx.durable("wait", (), async |()| ()).await?;
        Ok(())
    });
    agent.on_input("child", |_, ctx| {
        ctx.memory().set("a.b", 2i64)?;
        Ok(())
    });
    let mut test = start(agent);
    feed(&mut test, &[(1, 0)]);
    assert_eq!(test.paths(&1), ["a.b"]);
    let wait = call(&test, "wait");
    test.complete_with(wait, &());
    test.run();
    assert_eq!(test.paths(&1), ["a"], "the step that ends last wins");
    assert_eq!(test.memory_at(&1, "a").unwrap(), Some(1i64));
}

#[test]
fn facts_tell_memory_as_of_the_close_of_each_epoch() {
    let mut agent = Agent::<Pair, i64>::new("a");
    let sum = agent.memory::<i64>("sum");
    let scratch = agent.sensory::<i64>("scratch");
    agent.on_input("add", move |(_, value), ctx| {
        ctx.update(sum, |sum| *sum += value);
        ctx.put(scratch, 1);
        ctx.memory().set("last.value", *value)?;
        if *value == 0 {
            ctx.put(sum, None);
            ctx.memory().remove("last");
        }
        Ok(())
    });
    let mut test = start(agent);
    feed(&mut test, &[(1, 5), (1, 6)]);
    assert_eq!(test.facts(), [], "epoch 0 is open");
    test.push(1, (1, 0));
    test.advance(1);
    test.run();
    let facts = |facts: Vec<timely_agents_operators::fact::Fact<u64>>| -> Vec<(u64, What, Option<i64>)> {
        let memory = facts.into_iter().filter(|fact| fact.what != What::Sequence);
        let value = |what: &What, bytes: Vec<u8>| match what {
            What::Path(_) => ciborium::from_reader(&*bytes).unwrap(),
            _ => postcard::from_bytes(&bytes).unwrap(),
        };
        memory.map(|f| (f.time, f.what.clone(), f.value.map(|bytes| value(&f.what, bytes)))).collect()
    };
    let path = || What::Path("last.value".into());
    let slot = || What::slot("sum");
    assert_eq!(facts(test.facts()), [(0, path(), Some(6)), (0, slot(), Some(11))]);
    finish(&mut test);
    assert_eq!(facts(test.facts()), [(1, path(), None), (1, slot(), None)]);
}

#[test]
#[should_panic(expected = "a slot belongs to the agent that declared it")]
fn slot_of_another_agent_is_refused() {
    let mut other = Agent::<Pair, i64>::new("other");
    let slot = other.memory::<i64>("slot");
    let mut test = start(Agent::<Pair, i64>::new("a"));
    feed(&mut test, &[(1, 0)]);
    test.memory(&1, slot);
}
