//! Timers (S5, S6, D1): sleeps until a time of day, and events that are scheduled.

use std::time::{Duration, UNIX_EPOCH};

use timely::dataflow::operators::Capture;
use timely::dataflow::operators::capture::Extract;
use timely::dataflow::operators::vec::ToStream;
use timely_agents::testing::Harness;
use timely_agents::{Agent, AgentStream, Plan};
use timely_agents_operators::fact::{Fact, FactRef, What};
use timely_agents_operators::group::KeyGroups;
use timely_agents_operators::time::Stamp;

use crate::support::{Pair, Ping, Pong, Test, finish, start, values};

/// Schedules, for each input, an event for so many seconds after 1970; an async action answers it.
fn scheduling() -> Plan<Pair, String> {
    let mut agent = Agent::<Pair, String>::new("scheduling");
    agent.carry();
    agent.schedules::<Ping>();
    let seen = agent.memory::<u64>("seen");
    agent.on_input("take", move |(_, i), ctx| {
        ctx.update(seen, |n| *n += 1);
        ctx.schedule(&Ping(*i), UNIX_EPOCH + Duration::from_secs(*i as u64));
        Ok(())
    });
    agent.on_async::<Ping>("remind", async move |Ping(i), ctx| {
        let n = ctx.get(seen).unwrap_or(0);
        let i = ctx.durable("call", *i, async |i| i).await?;
        ctx.output(format!("{i} after {n}, run {}", ctx.sequence()));
        Ok(())
    });
    agent.build().unwrap()
}

fn open(plan: &Plan<Pair, String>) -> Test<String> {
    Harness::new(plan, |pair: &Pair| pair.0).unwrap()
}

fn restore(plan: &Plan<Pair, String>, resume: u64, facts: &[Fact<u64>]) -> Test<String> {
    let facts: Vec<_> = facts.iter().filter(|fact| fact.time < resume).collect();
    Harness::restored(plan, |pair: &Pair| pair.0, resume, facts).unwrap()
}

/// Lets time pass, and answers every call.
fn pass<O: 'static>(test: &mut Test<O>, seconds: u64) {
    test.pass(Duration::from_secs(seconds));
    while let Some(call) = test.calls().first().map(|call| call.id) {
        test.complete(call);
        test.run();
    }
}

#[test]
fn sleep_until_ends_at_its_time_also_one_that_has_passed() {
    let mut agent = Agent::<Pair, String>::new("sleeping");
    agent.carry();
    agent.on_input_async("sleep", async |(_, i), ctx| {
        ctx.sleep_until(UNIX_EPOCH + Duration::from_secs(*i as u64)).await;
        ctx.output(format!("{i} at {}", ctx.now().duration_since(UNIX_EPOCH)?.as_secs()));
        Ok(())
    });
    let plan = agent.build().unwrap();
    let mut test = open(&plan);
    test.push(0, (1, 100));
    test.push(0, (2, 10));
    test.pass(Duration::from_secs(20));
    test.push(0, (3, 5));
    test.run();
    assert_eq!(values(&mut test), ["10 at 10", "5 at 20"]);
    test.advance(1);
    test.step();
    let mut test = restore(&plan, 1, &test.facts());
    test.tick(Duration::from_secs(30));
    test.pass(Duration::from_secs(69));
    assert_eq!(values(&mut test), [] as [&str; 0]);
    test.pass(Duration::from_secs(1));
    assert_eq!(values(&mut test), ["100 at 100"]);
    finish(&mut test);
}

#[test]
fn scheduled_event_comes_once_at_its_time_as_a_run_of_its_own() {
    let mut test = open(&scheduling());
    test.push(0, (1, 50));
    test.push(0, (1, 20));
    pass(&mut test, 19);
    assert_eq!(values(&mut test), [] as [&str; 0]);
    pass(&mut test, 1);
    assert_eq!(values(&mut test), ["20 after 2, run 3"]);
    test.advance(4);
    test.run();
    assert_eq!(test.frontier(), [4]);
    pass(&mut test, 100);
    assert_eq!(test.outputs(), [(4, 1, "50 after 2, run 4".to_owned())]);
    finish(&mut test);
}

#[test]
fn scheduled_events_are_facts_and_come_once_whenever_the_job_crashes() {
    let plan = scheduling();
    for crash in 0..8u64 {
        for tasks in [0, 1, 2, 50] {
            let (mut test, mut facts) = (open(&plan), Vec::new());
            let (mut staged, mut published) = (Vec::new(), Vec::new());
            for epoch in 0..12u64 {
                if epoch < 4 {
                    test.push(epoch, (epoch % 2, 5 + 20 * epoch as i64));
                }
                for _ in 0..tasks {
                    test.step();
                    if let Some(call) = test.calls().first() {
                        test.complete(call.id);
                    }
                }
                test.advance(epoch + 1);
                test.step();
                facts.extend(test.facts());
                staged.extend(test.outputs());
                let (over, open): (Vec<_>, Vec<_>) = staged.into_iter().partition(|(at, ..)| *at <= epoch);
                published.extend(over);
                staged = open;
                if epoch == crash {
                    staged.clear();
                    test = restore(&plan, epoch + 1, &facts);
                    test.tick(Duration::from_secs(10 * epoch));
                }
                test.tick(Duration::from_secs(10));
            }
            for _ in 0..20 {
                pass(&mut test, 10);
            }
            test.end();
            pass(&mut test, 1);
            assert!(test.is_closed(), "crash {crash}, {tasks} tasks: {:?}", test.load());
            published.extend(staged.into_iter().chain(test.outputs()));
            let mut came: Vec<_> = published.iter().map(|(.., value)| value.split(' ').next().unwrap()).collect();
            came.sort_unstable();
            assert_eq!(came, ["25", "45", "5", "65"], "crash {crash}, {tasks} tasks");
            facts.extend(test.facts());
            let mut left: Vec<_> = facts.iter().filter(|fact| matches!(fact.what, What::Timer(_))).collect();
            left.sort_by_key(|fact| (&fact.key, fact.what.clone(), fact.time));
            let last = left.chunk_by(|a, b| (&a.key, &a.what) == (&b.key, &b.what)).map(|facts| facts.last().unwrap());
            assert_eq!(last.filter(|fact| fact.value.is_some()).count(), 0);
        }
    }
}

#[test]
fn events_that_are_not_due_at_the_end_stay_facts() {
    let mut test = open(&scheduling());
    test.push(0, (1, 50));
    test.push(0, (1, 5));
    test.run();
    test.end();
    pass(&mut test, 0);
    assert!(test.is_closed());
    let facts = test.facts();
    assert_eq!(facts.iter().filter(|fact| matches!(fact.what, What::Timer(_)) && fact.value.is_some()).count(), 2);
    // Whoever went on from there would have them.
    let mut test = restore(&scheduling(), 1, &facts);
    pass(&mut test, 60);
    assert_eq!(values(&mut test), ["5 after 2, run 3", "50 after 2, run 4"]);
}

#[test]
fn without_checkpoints_the_end_waits_for_what_is_scheduled() {
    let mut agent = Agent::<Pair, i64>::new("soon");
    agent.carry();
    agent.schedules::<Ping>();
    agent.on_input("take", |(_, i), ctx| {
        ctx.schedule(&Ping(*i), ctx.now() + Duration::from_millis(*i as u64));
        Ok(())
    });
    agent.on::<Ping>("come", |Ping(i), ctx| {
        ctx.output(*i);
        Ok(())
    });
    let plan = agent.build().unwrap();
    let guards = timely::execute(timely::Config::process(2), move |worker| {
        worker.dataflow::<u64, _, _>(|scope| {
            let inputs = (0..20).map(|i| (i % 7, i as i64 * 3)).collect::<Vec<Pair>>();
            let inputs = if scope.index() == 0 { inputs } else { Vec::new() };
            inputs.to_stream(scope).agent(|pair: &Pair| &pair.0, &plan).capture()
        })
    })
    .unwrap();
    let captured = guards.join().into_iter().flat_map(|captured| captured.unwrap().extract());
    let mut outputs: Vec<i64> = captured.flat_map(|(_, batch)| batch).collect();
    outputs.sort_unstable();
    assert_eq!(outputs, (0..20).map(|i| i * 3).collect::<Vec<_>>());
}

#[test]
fn scheduled_events_move_to_the_owners_of_their_keys() {
    let plan = scheduling();
    let mut test = open(&plan);
    (0..20).for_each(|key| test.push(0, (key, 10)));
    test.run();
    test.advance(1);
    test.step();
    let facts = test.facts();
    let mut told = Vec::new();
    for worker in 0..3 {
        let own = KeyGroups::default().of_worker(worker, 3);
        let mut test = Harness::<u64, Pair, String>::of_worker(&plan, |pair: &Pair| pair.0, worker, 3)
            .unwrap()
            .restored_by(1, |take| {
                for Fact { group, key, what, value, .. } in facts.iter().filter(|fact| own.contains(&fact.group)) {
                    take(&FactRef { group: *group, key, what: what.clone(), value: value.as_deref() })?;
                }
                Ok(())
            })
            .unwrap();
        pass(&mut test, 20);
        told.extend(test.outputs().into_iter().map(|(_, key, _)| key));
        finish(&mut test);
    }
    told.sort_unstable();
    assert_eq!(told, (0..20).collect::<Vec<_>>());
}

#[test]
fn scheduled_events_keep_the_event_time_of_their_run() {
    let plan = scheduling();
    let mut test = Harness::<u64, Pair, String, Stamp>::over_time(&plan, |pair: &Pair| pair.0).unwrap();
    test.push_at(Stamp::new(0, 7), (1, 50));
    test.run();
    test.advance(3);
    test.run();
    assert_eq!(test.frontier(), [Stamp::new(3, 0)], "times with the event time 7 may come, and all of epoch 3");
    test.pass(Duration::from_secs(50));
    test.complete(test.calls()[0].id);
    test.run();
    assert_eq!(test.outputs(), [(Stamp::new(3, 7), 1, "50 after 1, run 2".to_owned())]);
}

#[test]
fn step_that_fails_schedules_nothing() {
    let mut agent = Agent::<Pair, String>::new("failing");
    agent.carry();
    agent.schedules::<Ping>();
    agent
        .on_input_async("fail", async |(_, i), ctx| {
            ctx.schedule(&Ping(*i), UNIX_EPOCH + Duration::from_secs(1));
            ctx.sleep(Duration::from_secs(5)).await;
            if *i == 1 { Err(timely_agents::Error::new("no")) } else { Ok(()) }
        })
        .on_failure(timely_agents::Policy::Ignore);
    agent.on::<Ping>("come", |Ping(i), ctx| {
        ctx.output(format!("{i}"));
        Ok(())
    });
    let mut test = start(agent);
    test.push(0, (1, 1));
    test.push(0, (2, 2));
    pass(&mut test, 4);
    assert_eq!(values(&mut test), [] as [&str; 0], "the step that schedules is not over");
    pass(&mut test, 1);
    assert_eq!(values(&mut test), ["2"]);
    finish(&mut test);
}

#[test]
fn event_that_is_not_declared_so_is_not_scheduled() {
    let mut agent = Agent::<Pair, String>::new("undeclared");
    agent.event::<Pong>();
    agent.on_input("take", |(_, i), ctx| {
        ctx.schedule(&Pong(*i), UNIX_EPOCH);
        Ok(())
    });
    let mut test = start(agent);
    test.push(0, (1, 1));
    test.run();
    let failure = test.failure().unwrap();
    assert!(failure.message.contains("\"pong\"") && failure.message.contains("`schedules`"), "{failure}");
}
