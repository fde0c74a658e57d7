//! S2, S5, S6: notifications at the end of epochs.

use timely_agents::testing::Harness;
use timely_agents::{Agent, NotifyError};

use crate::support::{Pair, call, feed, finish, start, values};

/// Asks for the epochs that inputs name, and tells of each notification.
fn teller() -> Agent<Pair, String> {
    let mut agent = Agent::new("teller");
    agent.on_input("ask", |(_, epoch), ctx| {
        ctx.output(format!("input at {}", ctx.epoch()));
        ctx.notify_at(*epoch as u64)?;
        Ok(())
    });
    agent.on_notify("told", |end, ctx| {
        ctx.output(format!("end of {}", end.epoch));
        assert_eq!((ctx.epoch(), ctx.time()), (end.epoch, end.epoch));
        Ok(())
    });
    agent
}

#[test]
fn notification_comes_once_when_its_epoch_has_closed() {
    let mut test = start(teller());
    feed(&mut test, &[(1, 2), (1, 2), (1, 2)]);
    assert_eq!(values(&mut test), ["input at 0"; 3]);
    assert_eq!(test.frontier(), [0]);
    test.advance(2);
    test.run();
    assert!(values(&mut test).is_empty(), "epoch 2 is open");
    assert_eq!(test.frontier(), [2], "it holds no earlier time");
    test.advance(5);
    assert_eq!(test.frontier(), [2], "open work at epoch 2 until it has run");
    test.run();
    assert_eq!(test.outputs(), [(2, 1, "end of 2".into())]);
    assert_eq!(test.frontier(), [5]);
    finish(&mut test);
    assert!(values(&mut test).is_empty());
}

#[test]
fn notification_of_a_current_or_past_epoch_means_the_end_of_the_current_one() {
    let mut test = start(teller());
    test.push(4, (1, 4));
    test.push(4, (2, 1));
    test.advance(4);
    test.run();
    assert_eq!(values(&mut test), ["input at 4"; 2]);
    test.advance(5);
    test.run();
    assert_eq!(test.outputs(), [(4, 1, "end of 4".into()), (4, 2, "end of 4".into())]);
}

#[test]
fn notification_that_is_due_at_once_outlives_a_crash_before_it_has_come() {
    // D1: the run that asks is committed at 0, and the notification is of 6.
    let mut agent = Agent::<Pair, String>::new("late");
    agent.on_input_async("ask", async |_, ctx| {
        ctx.durable("wait", (), async |()| ()).await?;
        ctx.notify_at(6)?;
        Ok(())
    });
    agent.on_notify("told", |end, ctx| {
        ctx.output(format!("end of {}", end.epoch));
        Ok(())
    });
    let plan = agent.build().unwrap();
    let mut test = Harness::<u64, Pair, String>::new(&plan, |pair| pair.0).unwrap();
    test.push(0, (1, 1));
    test.run();
    test.end();
    test.complete(call(&test, "wait"));
    test.run();
    assert_eq!(test.outputs(), [(6, 1, "end of 6".into())]);
    let committed: Vec<_> = test.facts().into_iter().filter(|fact| fact.time < 6).collect();
    let mut test = Harness::<u64, Pair, String>::restored(&plan, |pair| pair.0, 6, &committed).unwrap();
    finish(&mut test);
    assert_eq!(test.outputs(), [(6, 1, "end of 6".into())]);
}

#[test]
fn notification_follows_the_inputs_of_its_epoch_and_precedes_later_ones() {
    let mut agent = Agent::<Pair, String>::new("a");
    agent.on_input_async("ask", async |(_, value), ctx| {
        ctx.notify_at(ctx.epoch())?;
        ctx.durable(format!("{value}"), (), async |()| ()).await?;
        ctx.output(format!("input {value}"));
        Ok(())
    });
    agent.on_notify("told", |end, ctx| {
        ctx.output(format!("end of {}", end.epoch));
        Ok(())
    });
    let mut test = start(agent);
    for (epoch, value) in [(0, 1), (1, 3), (0, 2), (1, 4)] {
        test.push(epoch, (1, value));
    }
    test.end();
    test.run();
    for name in ["1", "2", "3", "4"] {
        assert_eq!(test.calls().len(), 1);
        let id = call(&test, name);
        test.complete_with(id, &());
        test.run();
    }
    assert_eq!(values(&mut test), ["input 1", "input 2", "end of 0", "input 3", "input 4", "end of 1"]);
    finish(&mut test);
}

#[test]
fn notifications_follow_the_order_in_which_they_were_asked_for() {
    let mut test = start(teller());
    feed(&mut test, &[(3, 1), (1, 1), (2, 0), (2, 1), (1, 1)]);
    values(&mut test);
    test.advance(9);
    test.run();
    let told: Vec<(u64, u64)> = test.outputs().into_iter().map(|(time, key, _)| (time, key)).collect();
    assert_eq!(told, [(0, 2), (1, 3), (1, 1), (1, 2)]);
}

#[test]
fn notification_cannot_ask_for_its_own_epoch_but_for_a_later_one() {
    let mut agent = Agent::<Pair, String>::new("a");
    agent.on_input("ask", |_, ctx| Ok(ctx.notify_at(0)?));
    agent.on_notify("told", |end, ctx| {
        for epoch in [0, end.epoch] {
            assert_eq!(ctx.notify_at(epoch), Err(NotifyError::SameEpoch(end.epoch)));
        }
        ctx.output(format!("{:?}", ctx.notify_at(end.epoch + 1)));
        Ok(())
    });
    let mut test = start(agent);
    feed(&mut test, &[(1, 0)]);
    for epoch in 1..4 {
        test.advance(epoch);
        test.run();
    }
    let ok = || "Ok(())".to_string();
    assert_eq!(test.outputs(), [(0, 1, ok()), (1, 1, ok()), (2, 1, ok())]);
    finish(&mut test);
    assert_eq!(
        test.outputs(),
        [(3, 1, "Err(Ended(4))".into())],
        "the end closes epoch 3; a chain of notifications comes to its end"
    );
}

#[test]
fn end_of_input_closes_every_epoch_that_was_asked_for() {
    let mut test = start(teller());
    feed(&mut test, &[(1, 1000), (2, 7)]);
    values(&mut test);
    finish(&mut test);
    assert_eq!(test.outputs(), [(7, 2, "end of 7".into()), (1000, 1, "end of 1000".into())]);
    assert_eq!(test.frontier(), [] as [u64; 0]);
}

#[test]
fn notification_without_an_action_is_a_run_that_ends_at_once() {
    let mut agent = Agent::<Pair, i64>::new("a");
    agent.on_input("ask", |(_, value), ctx| {
        ctx.output(*value);
        Ok(ctx.notify_at(0)?)
    });
    let mut test = start(agent);
    feed(&mut test, &[(1, 1)]);
    test.push(1, (1, 2));
    test.advance(1);
    test.run();
    assert_eq!(values(&mut test), [1, 2]);
    finish(&mut test);
}

#[test]
fn sequenced_inputs_come_before_the_notification_of_their_epoch() {
    let mut agent = teller();
    agent.sequenced_by(|(_, epoch)| *epoch);
    let mut test = start(agent);
    for (epoch, asked) in [(0, 1), (1, 0), (1, 1), (2, 2)] {
        test.push(epoch, (1, asked));
    }
    test.advance(2);
    test.run();
    assert_eq!(values(&mut test), ["input at 0", "input at 1", "input at 1", "end of 1"]);
    finish(&mut test);
    assert_eq!(values(&mut test), ["input at 2", "end of 2"]);
}

#[test]
fn run_of_an_input_may_ask_after_the_end_and_is_told() {
    let mut agent = Agent::<Pair, String>::new("a");
    agent.on_input_async("ask", async |_, ctx| {
        ctx.durable("wait", (), async |()| ()).await?;
        ctx.notify_at(7)?;
        Ok(())
    });
    agent.on_notify("told", |end, ctx| {
        ctx.output(format!("end of {}", end.epoch));
        Ok(())
    });
    let mut test = start(agent);
    feed(&mut test, &[(1, 0)]);
    test.end();
    test.run();
    let wait = call(&test, "wait");
    test.complete_with(wait, &());
    finish(&mut test);
    assert_eq!(test.outputs(), [(7, 1, "end of 7".into())]);
}
