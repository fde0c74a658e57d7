//! Cancellation (S8): runs and keys that are given up from outside.

use std::time::Duration;

use timely_agents::testing::Harness;
use timely_agents::{Agent, Plan, Signal, Slot};
use timely_agents_operators::fact::Fact;

use crate::support::{NoteOnDrop, Notes, Pair, Ping, Test, finish, names, values};

/// Writes, flushes if the value is negative, and waits for a call.
fn slow(notes: &Notes) -> (Plan<Pair, String>, Slot<i64>) {
    let mut agent = Agent::<Pair, String>::new("slow");
    agent.carry();
    let last = agent.memory::<i64>("last");
    let notes = notes.clone();
    agent.on_input_async("wait", async move |(_, i), ctx| {
        let _note = NoteOnDrop(notes.clone(), "dropped");
        ctx.put(last, *i);
        ctx.output(format!("begins {i}"));
        if *i < 0 {
            ctx.flush().await;
        }
        ctx.send(Ping(*i));
        ctx.put(last, i * 100);
        ctx.durable("call", *i, async |i| i).await?;
        ctx.output(format!("ends {i}"));
        Ok(())
    });
    agent.on_notify("over", |_, _| Ok(()));
    (agent.build().unwrap(), last)
}

fn open(plan: &Plan<Pair, String>) -> Test<String> {
    Harness::new(plan, |pair: &Pair| pair.0).unwrap()
}

fn restore(plan: &Plan<Pair, String>, resume: u64, facts: &[Fact<u64>]) -> Test<String> {
    let facts: Vec<_> = facts.iter().filter(|fact| fact.time < resume).collect();
    Harness::restored(plan, |pair: &Pair| pair.0, resume, facts).unwrap()
}

#[test]
fn cancelled_run_is_undone_and_the_next_one_starts() {
    let notes = Notes::default();
    let (plan, last) = slow(&notes);
    let mut test = open(&plan);
    for pair in [(1, 1), (1, 2), (2, 3)] {
        test.push(0, pair);
    }
    test.run();
    let call = test.calls()[0].id;
    test.signal(0, Signal::cancel(1).because("a mistake"));
    assert_eq!(notes.take(), ["dropped"], "at once");
    test.run();
    let letters = test.dead_letters();
    assert_eq!(letters.len(), 1);
    let letter = &letters[0];
    assert_eq!((&*letter.key, letter.input, &*letter.error, letter.sequence), ("1", Some((1, 1)), "a mistake", 1));
    assert_eq!(test.memory(&1, last), None, "its writes are taken back");
    assert_eq!(names(&test).len(), 2, "of the other two");
    test.complete(call);
    assert_eq!(test.late(), 1, "nobody waits for it");
    test.signal(0, Signal::cancel(7));
    test.signal(0, Signal::cancel_key(7));
    while let Some(call) = test.calls().first().map(|call| call.id) {
        test.complete(call);
        test.run();
    }
    let mut outputs = values(&mut test);
    outputs.sort_unstable();
    assert_eq!(outputs, ["begins 2", "begins 3", "ends 2", "ends 3"]);
    assert_eq!(test.memory(&1, last), Some(200));
    finish(&mut test);
}

#[test]
fn flushed_steps_of_a_cancelled_run_are_final() {
    let (plan, last) = slow(&Notes::default());
    let mut test = open(&plan);
    test.push(0, (1, -1));
    test.run();
    test.signal(0, Signal::cancel(1));
    test.run();
    assert_eq!(values(&mut test), ["begins -1"]);
    assert_eq!(test.memory(&1, last), Some(-1));
    assert_eq!(test.dead_letters()[0].error, "cancelled");
    finish(&mut test);
}

#[test]
fn cancelled_key_gives_up_what_waits_and_nothing_that_comes_later() {
    let (plan, _) = slow(&Notes::default());
    let mut test = open(&plan);
    test.push(0, (1, 1));
    test.run();
    for pair in [(1, 2), (2, 3), (1, 4)] {
        test.push(0, pair);
    }
    test.push(1, (1, 5));
    test.signal(0, Signal::cancel_key(1));
    test.run();
    let inputs: Vec<_> =
        test.dead_letters().into_iter().map(|letter| (letter.sequence, letter.input.unwrap().1)).collect();
    assert_eq!(inputs, [(1, 1), (2, 2), (3, 4)]);
    assert_eq!(names(&test).len(), 1);
    test.advance(1);
    test.run();
    while let Some(call) = test.calls().first().map(|call| call.id) {
        test.complete(call);
        test.run();
    }
    assert_eq!(values(&mut test).into_iter().filter(|value| value.starts_with("ends")).count(), 2);
    finish(&mut test);
    assert_eq!(test.stats().cancelled, 3);
    assert_eq!(test.load().waiting_bytes, 0);
}

#[test]
fn cancelled_runs_stay_cancelled_and_others_do_not_become_so() {
    let (plan, last) = slow(&Notes::default());
    for tasks in [0, 1, 50] {
        let mut test = open(&plan);
        for i in 1..4 {
            test.push(0, (1, i));
        }
        test.push(0, (2, 9));
        for _ in 0..tasks {
            test.step();
        }
        test.advance(1);
        test.step();
        let mut facts = test.facts();
        // Cancelled in epoch 2, by a signal that comes early.
        let mut test = restore(&plan, 1, &facts);
        test.signal(2, Signal::cancel_key(1));
        for _ in 0..tasks {
            test.step();
        }
        test.advance(2);
        assert_eq!(test.dead_letters().len(), 3);
        test.advance(3);
        test.run();
        facts.extend(test.facts());
        let mut test = restore(&plan, 3, &facts);
        test.push(3, (1, 4));
        test.run();
        while let Some(call) = test.calls().first().map(|call| call.id) {
            test.complete(call);
            test.run();
        }
        let mut ends = values(&mut test);
        ends.retain(|value| value.starts_with("ends"));
        ends.sort_unstable();
        assert_eq!(ends, ["ends 4", "ends 9"], "{tasks} tasks");
        assert_eq!(test.memory(&1, last), Some(400));
        finish(&mut test);
        assert_eq!(test.dead_letters(), []);
    }
}

#[test]
fn agent_that_holds_can_be_cancelled_too() {
    let mut agent = Agent::<Pair, String>::new("holding");
    agent.on_input_async("wait", async |(_, i), ctx| {
        ctx.sleep(Duration::from_secs(*i as u64)).await;
        ctx.output(format!("{i}"));
        Ok(())
    });
    let mut test = open(&agent.build().unwrap());
    for (epoch, i) in [(0, 1000), (1, 1), (2, 2)] {
        test.push(epoch, (1, i));
    }
    test.advance(2);
    test.run();
    assert_eq!(test.frontier(), [0]);
    test.signal(2, Signal::cancel(1));
    test.run();
    assert_eq!(test.frontier(), [1]);
    test.signal(2, Signal::cancel_key(1));
    test.run();
    assert_eq!(test.frontier(), [2]);
    assert_eq!(test.dead_letters().iter().map(|letter| letter.epoch).collect::<Vec<_>>(), [0, 1, 2]);
    finish(&mut test);
}
