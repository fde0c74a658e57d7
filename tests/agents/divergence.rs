//! D7: a program that does not go the way of a run's journal is found out, and may go its own way from there.

use std::time::Duration;

use futures::future::join;
use serde::{Deserialize, Serialize};
use timely_agents::{Agent, CallFailure, Ctx, Divergence, Error, Plan, Retry, Slot};

use crate::support::{Carried, Dice, Pair, Ping, finish, names};

#[derive(Clone, Serialize, Deserialize)]
struct Question {
    model: &'static str,
    temperature: u32,
    text: String,
}

/// Asks twice.
fn asking(second: Question, keep: bool, alone: bool) -> Plan<Pair, String> {
    let mut agent = Agent::<Pair, String>::new("asking");
    agent.carry();
    agent.on_input_async("ask", async move |(_, i), ctx| {
        ctx.sleep(Duration::from_secs(1)).await;
        ctx.durable("first", *i, async |i| i).await?;
        if alone {
            ctx.durable("second", second.text.clone(), async |_| ()).await?;
        } else {
            let call = ctx.durable("second", second.clone(), async |_| ());
            if keep { call.keep_arguments() } else { call }.await?;
        }
        ctx.sleep(Duration::from_secs(1000)).await;
        Ok(())
    });
    agent.build().unwrap()
}

fn question(model: &'static str, temperature: u32) -> Question {
    Question { model, temperature, text: "why?".into() }
}

/// A job that stands behind its second call.
fn asked(plan: &Plan<Pair, String>) -> Carried<String> {
    let mut job = Carried::start(plan, &[(7, 41)]);
    job.pass(1);
    job.complete("first");
    job.complete("second");
    job.commit();
    job
}

/// What another program says to it.
fn message(job: &mut Carried<String>, plan: &Plan<Pair, String>) -> String {
    job.restart(plan, Duration::ZERO);
    assert_eq!(names(&job.test), [] as [&str; 0], "nothing is called");
    let failure = job.test.failure().unwrap();
    assert!(failure.to_string().starts_with("agent asking, key 7, epoch 0: run 1 of the key "), "{failure}");
    failure.message.clone()
}

#[test]
fn report_names_the_run_the_call_and_the_first_argument_that_differs() {
    let mut job = asked(&asking(question("small", 1), false, false));
    let report = message(&mut job, &asking(question("small", 2), false, false));
    let start = "run 1 of the key does not go the way of its journal: action \"ask\", wait 2: it was call \"second\" with \
                 arguments of digest ";
    assert!(report.starts_with(start), "{report}");
    assert_eq!(report.matches("digest").count(), 2, "{report}");
    assert!(report.ends_with("; the first argument that differs is \"temperature\""), "{report}");
    let report = message(&mut job, &asking(question("large", 2), false, false));
    assert!(report.ends_with("; the first argument that differs is \"model\""), "{report}");
    let report = message(&mut job, &asking(question("small", 1), false, true));
    assert!(report.matches("digest").count() == 2 && !report.contains("; the first"), "{report}");
    assert!(!report.contains("why?"), "arguments are not kept");
}

#[test]
fn report_shows_arguments_that_were_kept() {
    let mut job = asked(&asking(question("small", 1), true, false));
    let report = message(&mut job, &asking(question("small", 2), true, false));
    for side in ["\"temperature\":1", "\"temperature\":2"] {
        assert!(report.contains(side), "{report}");
    }
    let report = message(&mut job, &asking(question("small", 2), false, false));
    assert!(report.contains("\"temperature\":1") && !report.contains("\"temperature\":2"), "{report}");
}

#[test]
fn arguments_without_names_are_counted() {
    let plan = |third: &'static str, more: bool| {
        let mut agent = Agent::<Pair, String>::new("asking");
        agent.carry();
        agent.on_input_async("ask", async move |(_, i), ctx| {
            if more {
                ctx.durable("ask", (*i, 1u8, third, 0), async |_| ()).await?;
            } else {
                ctx.durable("ask", (*i, 1u8, third), async |_| ()).await?;
            }
            ctx.sleep(Duration::from_secs(1)).await;
            Ok(())
        });
        agent.build().unwrap()
    };
    let mut job = Carried::start(&plan("a", false), &[(7, 0)]);
    job.complete("ask");
    job.commit();
    let report = message(&mut job, &plan("b", false));
    assert!(report.ends_with("the first argument that differs is number 2, counted from 0"), "{report}");
    let report = message(&mut job, &plan("a", true));
    assert!(report.ends_with("there were 3 arguments, and are 4"), "{report}");
}

#[test]
fn report_names_the_attempt() {
    let plan = |name: &'static str, attempts: u32| {
        let mut agent = Agent::<Pair, String>::new("asking");
        agent.carry();
        agent.on_input_async("ask", async move |_, ctx| {
            let retry = Retry::new(attempts).backoff(Duration::from_secs(1));
            ctx.durable(name, (), async |()| ()).retry(retry).await?;
            ctx.sleep(Duration::from_secs(1)).await;
            Ok(())
        });
        agent.build().unwrap()
    };
    let mut job = Carried::start(&plan("ask", 3), &[(7, 0)]);
    job.fail("ask");
    job.pass(1);
    job.complete("ask");
    job.commit();
    let report = message(&mut job, &plan("tell", 3));
    assert!(report.contains("wait 0: it was call \"ask\""), "{report}");
    let report = message(&mut job, &plan("ask", 1));
    // Its call fails, and with it the action.
    assert!(
        report.contains("action \"ask\" fails, and did not then: call \"ask\": all attempts have failed (1)"),
        "{report}"
    );
    job.restart(&plan("ask", 3), Duration::ZERO);
    assert_eq!(job.test.failure(), None);
}

/// What a version of the program asks: the name of its second call, and what it adds to its argument.
#[derive(Clone, Copy)]
struct Version {
    name: &'static str,
    more: i64,
    divergence: Divergence,
}

const OLD: Version = Version { name: "second", more: 0, divergence: Divergence::Lenient };

/// Two tasks of one run: a chain of calls with a flush between, and an action that is over by the time of the second call.
fn versioned(version: Version) -> (Plan<Pair, String>, Slot<i64>) {
    let Version { name, more, divergence } = version;
    let mut agent = Agent::<Pair, String>::new("versioned");
    let sum = agent.memory::<i64>("sum");
    agent.carry().divergence(divergence);
    agent.on_input_async("ask", async move |(_, i), ctx| {
        ctx.send(Ping(*i));
        ctx.update(sum, |sum| *sum += 1);
        ctx.output("flushed".into());
        ctx.flush().await;
        let first = ctx.durable("first", *i, async |i| i).await?;
        let second = ctx.durable(name, first + more, async |i| i * 10).await?;
        ctx.update(sum, |sum| *sum += second);
        ctx.flush().await;
        let third = ctx.durable("third", second, async |i| i + 1).await?;
        ctx.update(sum, |sum| *sum += third);
        ctx.output(format!("asked {third}"));
        Ok(())
    });
    agent.on_async::<Ping>("follow", async move |Ping(i), ctx| {
        let told = ctx.durable("aside", *i, async |i| i).await?;
        ctx.update(sum, |sum| *sum += 100);
        ctx.output(format!("followed {told}"));
        Ok(())
    });
    (agent.build().unwrap(), sum)
}

/// A job of the old version that stands before its third call.
fn before_the_third() -> Carried<String> {
    let mut job = Carried::start(&versioned(OLD).0, &[(7, 4)]);
    job.complete("first");
    job.crash();
    job.complete("second");
    job.complete("aside");
    job.crash();
    assert_eq!(job.names(), ["third"]);
    assert_eq!(job.told(), ["flushed", "followed 4"]);
    job
}

#[test]
fn lenient_run_drops_the_rest_of_its_journal_and_goes_on() {
    let mut job = before_the_third();
    let (plan, sum) = versioned(Version { more: 1, ..OLD });
    job.restart(&plan, Duration::ZERO);
    assert_eq!(job.test.failure(), None);
    assert_eq!(
        job.names(),
        ["aside", "second"],
        "the first call has its result; what came after the second is dropped"
    );
    assert_eq!(job.test.memory(&7, sum), Some(1), "and taken back, though it was flushed");
    job.complete("second");
    job.complete("third");
    job.complete("aside");
    assert_eq!(job.told(), ["asked 51", "followed 4"], "what was put out in the rest comes again");
    assert_eq!(job.test.memory(&7, sum), Some(1 + 50 + 51 + 100));
    drop(job);
    assert_eq!(plan.stats().diverged, 1);
}

#[test]
fn run_that_has_left_its_journal_goes_the_new_way_after_another_crash() {
    let version = Version { more: 1, ..OLD };
    let (plan, sum) = versioned(version);
    // Before anything is committed of the new way it is found anew, then it is read.
    for committed in [false, true] {
        let mut job = before_the_third();
        job.restart(&plan, Duration::ZERO);
        if committed {
            job.crash();
        } else {
            job.restart(&plan, Duration::ZERO);
        }
        assert_eq!(job.names(), ["aside", "second"]);
        job.complete("second");
        job.crash();
        assert_eq!(job.names(), ["aside", "third"]);
        job.complete("aside");
        job.crash();
        // Strict, for now there is nothing to differ from.
        let (strict, _) = versioned(Version { divergence: Divergence::Strict, ..version });
        job.restart(&strict, Duration::ZERO);
        assert_eq!(job.test.failure(), None);
        assert_eq!(job.names(), ["third"]);
        // And back, to differ once more.
        job.restart(&versioned(OLD).0, Duration::ZERO);
        assert_eq!(job.names(), ["aside", "second"]);
        job.restart(&plan, Duration::ZERO);
        assert_eq!(job.names(), ["third"], "nothing was committed meanwhile");
        job.complete("third");
        job.commit();
        assert_eq!(job.told(), ["followed 4", "asked 51"]);
        assert_eq!(job.test.memory(&7, sum), Some(1 + 50 + 51 + 100));
    }
}

#[test]
fn strict_run_stops_the_job_where_a_lenient_one_goes_on() {
    for (name, more) in [("other", 0), ("second", 1)] {
        let mut job = before_the_third();
        job.restart(&versioned(Version { name, more, divergence: Divergence::Strict }).0, Duration::ZERO);
        let failure = job.test.failure().unwrap();
        assert!(failure.message.contains("action \"ask\", wait 1: it was call \"second\""), "{failure}");
        assert_eq!(job.names(), [] as [&str; 0]);
        job.restart(&versioned(OLD).0, Duration::ZERO);
        assert_eq!(job.test.failure(), None, "the journal is as it was");
        assert_eq!(job.names(), ["third"]);
    }
}

#[test]
fn lenient_run_goes_on_where_an_action_ends_or_fails_that_did_not() {
    let plan = |way: u32| {
        let mut agent = Agent::<Pair, String>::new("a");
        agent.carry().divergence(Divergence::Lenient);
        agent
            .on_input_async("ask", async move |_, ctx| {
                ctx.output("begun".into());
                ctx.durable("first", (), async |()| ()).await?;
                if way == 1 {
                    ctx.output("ended".into());
                    return Ok(());
                }
                if way == 2 && ctx.attempt() == 1 {
                    return Err(Error::new("fails"));
                }
                let both = join(ctx.durable("left", (), async |()| ()), ctx.durable("right", (), async |()| ())).await;
                both.0?;
                both.1?;
                ctx.output("whole".into());
                Ok(())
            })
            .on_failure(Retry::new(2).backoff(Duration::from_secs(1)));
        agent.build().unwrap()
    };
    let begin = || {
        let mut job = Carried::start(&plan(0), &[(7, 4)]);
        job.complete("first");
        job.complete("left");
        job.commit();
        job
    };
    let mut job = begin();
    job.restart(&plan(1), Duration::ZERO);
    assert_eq!(job.names(), [] as [&str; 0], "the result is the right one, though what follows is not");
    assert_eq!(job.told(), ["begun", "ended"]);
    let mut job = begin();
    job.restart(&plan(2), Duration::ZERO);
    job.crash();
    job.pass(1);
    assert_eq!(job.names(), ["left", "right"], "the second attempt has the result of the first call");
    job.complete("right");
    job.crash();
    job.complete("left");
    assert_eq!(job.told(), ["begun", "whole"]);
}

/// A run whose program changes with each crash: what it asks, whether it sleeps, where its events go.
fn changing(way: u64) -> Plan<Pair, String> {
    let mut agent = Agent::<Pair, String>::new("changing");
    agent.carry().divergence(Divergence::Lenient);
    let steps = agent.memory::<u64>("steps");
    agent
        .on_input_async("ask", async move |(_, value), ctx| {
            let ask = |name: &'static str, args: (i64, u64)| {
                let call = ctx.durable(name, args, async |(value, _)| value);
                call.retry(Retry::new(100).backoff(Duration::from_secs(1)))
            };
            ask("first", (*value, way % 2)).await?;
            ctx.update(steps, |steps| *steps += 1);
            ctx.send(Ping(*value));
            if way.is_multiple_of(3) {
                ctx.flush().await;
            } else {
                ctx.sleep(Duration::from_secs(way % 3)).await;
            }
            let both = join(ask("left", (*value, 0)), ask("right", (*value, way % 5))).await;
            if way % 7 == 1 && ctx.attempt() == 1 {
                return Err(Error::new("stumbles"));
            }
            ctx.update(steps, |steps| *steps += 1);
            ctx.output(format!("asked {}", both.0? + both.1?));
            Ok(())
        })
        .on_failure(Retry::new(100).backoff(Duration::from_secs(1)));
    // An action that is there no more would be another version of the program, for which leniency is not enough.
    agent.on_async::<Ping>("follow", async move |Ping(value), ctx| {
        if way % 4 != 3 {
            ctx.durable("aside", (*value, way % 2), async |_| ()).retry(Retry::new(100)).await?;
            ctx.update(steps, |steps| *steps += 1);
        }
        Ok(())
    });
    agent.on::<Ping>("mark", mark);
    agent.build().unwrap()
}

#[expect(clippy::unnecessary_wraps, reason = "it is an action")]
fn mark(_: &Ping, ctx: &Ctx<String>) -> Result<(), Error> {
    ctx.output("marked".into());
    Ok(())
}

#[test]
fn lenient_runs_come_to_their_end_whatever_the_program_becomes() {
    let mut diverged = 0;
    for seed in 0..150 {
        let mut dice = Dice(seed);
        let mut plan = changing(dice.roll(420));
        let mut job = Carried::start(&plan, &[(1, 1), (2, 2)]);
        job.commit();
        let mut left = 50;
        loop {
            let calls = job.test.calls();
            let one = (!calls.is_empty()).then(|| calls[dice.roll(calls.len().max(1) as u64) as usize].id);
            left -= i32::from(left > 0);
            match (dice.roll(if left == 0 { 3 } else { 7 }), one) {
                (0 | 1, Some(id)) => job.test.complete(id),
                (2, _) => job.pass(1),
                (3, Some(id)) => job.test.fail(id, CallFailure::Aborted),
                (4 | 5, _) => job.commit(),
                (6, _) => {
                    let next = changing(dice.roll(420));
                    job.restart(&next, Duration::ZERO);
                    diverged += std::mem::replace(&mut plan, next).stats().diverged;
                }
                _ => {}
            }
            job.test.run();
            assert_eq!(job.test.failure(), None, "seed {seed}");
            if left == 0 && job.names().is_empty() && [1, 2].iter().all(|key| !job.test.mailbox(key).0) {
                break;
            }
        }
        finish(&mut job.test);
    }
    assert!(diverged > 150, "{diverged} in 150 jobs");
}
