//! D7, S8: attempts of a durable call, and durable calls in attempts of an action.

use std::sync::atomic::{AtomicU32, Ordering::Relaxed};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures::future::{Either, join, join_all, select, try_join};
use serde::{Deserialize, Serialize};
use timely_agents::CallFailure;
use timely_agents::testing::Harness;
use timely_agents::{Agent, CallInfo, Ctx, Error, Outcome, Plan, Retry};

use crate::support::{Carried, Dice, Pair, Ping, Test, call, feed, finish, names, start, values};

fn retry(attempts: u32) -> Retry {
    Retry::new(attempts).backoff(Duration::from_secs(10))
}

fn failure() -> CallFailure {
    CallFailure::Panicked("no".into())
}

/// Ends the only call that runs with a failure.
fn fail<O: 'static>(test: &mut Test<O>) {
    let [one] = &test.calls()[..] else { panic!("one call runs: {:?}", test.calls()) };
    test.fail(one.id, failure());
    test.run();
}

fn asking(carries: bool) -> Plan<Pair, String> {
    let mut agent = Agent::<Pair, String>::new("asking");
    if carries {
        agent.carry();
    }
    agent.on_input_async("ask", async |(_, value), ctx| {
        let told = ctx
            .durable_with("ask", *value, async |value, call: CallInfo| {
                format!("{value} {} {}", call.attempt(), call.idempotency_key())
            })
            .retry(retry(3))
            .timeout(Duration::from_mins(1))
            .await;
        ctx.output(told.unwrap_or_else(|error| error.to_string()));
        Ok(())
    });
    agent.build().unwrap()
}

#[test]
fn failed_call_is_made_again_after_pauses_that_double() {
    let mut test = Harness::new(&asking(false), |pair: &Pair| pair.0).unwrap();
    feed(&mut test, &[(1, 7)]);
    fail(&mut test);
    assert_eq!(names(&test), [] as [&str; 0]);
    test.pass(Duration::from_secs(9));
    assert_eq!(names(&test), [] as [&str; 0], "the pause is not over");
    test.pass(Duration::from_secs(1));
    fail(&mut test);
    test.pass(Duration::from_secs(20));
    let last = call(&test, "ask");
    test.complete(last);
    test.run();
    let told = values(&mut test).remove(0);
    let [value, attempt, key] = told.split(' ').collect::<Vec<_>>()[..] else { panic!("{told}") };
    assert_eq!((value, attempt), ("7", "3"));
    assert!(key.len() == 32 && key.chars().all(|c| c.is_ascii_hexdigit()), "{key}");
    finish(&mut test);
}

#[test]
fn timeout_is_one_of_an_attempt() {
    let mut test = Harness::new(&asking(false), |pair: &Pair| pair.0).unwrap();
    feed(&mut test, &[(1, 7)]);
    test.pass(Duration::from_mins(1));
    assert_eq!(names(&test), [] as [&str; 0]);
    test.pass(Duration::from_secs(10));
    assert_eq!(names(&test), ["ask"]);
    test.pass(Duration::from_secs(59));
    assert_eq!(names(&test), ["ask"]);
    test.pass(Duration::from_secs(1 + 20));
    assert_eq!(names(&test), ["ask"]);
    test.pass(Duration::from_mins(1));
    assert_eq!(values(&mut test), ["call \"ask\": all attempts have failed (3), the last: no result within 60s"]);
    finish(&mut test);
}

#[test]
fn exhausted_call_follows_the_policy_of_its_action() {
    let mut agent = Agent::<Pair, String>::new("a");
    agent
        .on_input_async("ask", async |_, ctx| {
            ctx.durable("ask", (), async |()| ()).retry(retry(2)).await?;
            Ok(())
        })
        .on_failure(timely_agents::Policy::DeadLetter);
    let mut test = start(agent);
    feed(&mut test, &[(1, 7)]);
    fail(&mut test);
    test.pass(Duration::from_secs(10));
    fail(&mut test);
    let letters = test.dead_letters();
    assert_eq!(letters[0].error, "call \"ask\": all attempts have failed (2), the last: panicked: no");
    finish(&mut test);
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
enum Refusal {
    Busy,
    Never(String),
}

fn classified(first: Result<i64, Refusal>, attempts: u32) -> (Test<String>, Arc<AtomicU32>) {
    let made = Arc::new(AtomicU32::new(0));
    let counts = Arc::clone(&made);
    let mut agent = Agent::<Pair, String>::new("a");
    agent.on_input_async("ask", async move |_, ctx| {
        let (first, counts) = (first.clone(), Arc::clone(&counts));
        let ask = move |n: i64| {
            let made = counts.fetch_add(1, Relaxed);
            let first = first.clone();
            async move { if made == 0 { first } else { Ok(n) } }
        };
        let told = ctx.durable("ask", 5, ask).retry(retry(attempts)).classify(|told| match told {
            Ok(Err(Refusal::Busy)) => Outcome::Retryable,
            _ => Outcome::Terminal,
        });
        ctx.output(match told.await {
            Ok(told) => format!("{told:?}"),
            Err(error) => error.to_string(),
        });
        Ok(())
    });
    let mut test = start(agent);
    feed(&mut test, &[(1, 0)]);
    let first = call(&test, "ask");
    test.complete(first);
    test.run();
    (test, made)
}

#[test]
fn classify_tells_what_is_tried_again() {
    let (mut test, made) = classified(Err(Refusal::Busy), 2);
    test.pass(Duration::from_secs(10));
    let again = call(&test, "ask");
    test.complete(again);
    test.run();
    assert_eq!((values(&mut test), made.load(Relaxed)), (vec!["Ok(5)".to_owned()], 2));
    let (mut test, made) = classified(Err(Refusal::Never("closed".into())), 2);
    let typed = vec!["Err(Never(\"closed\"))".to_owned()];
    assert_eq!((values(&mut test), made.load(Relaxed)), (typed, 1), "a terminal error is the call's value");
    let (mut test, _) = classified(Err(Refusal::Busy), 1);
    let shown = "call \"ask\": all attempts have failed (1), the last: {\"Err\":\"Busy\"}";
    assert_eq!(values(&mut test), [shown], "a value that is to be tried again is no result");
    finish(&mut test);
}

#[test]
fn panic_in_classify_is_the_failure_of_the_action() {
    let mut agent = Agent::<Pair, String>::new("a");
    agent.on_input_async("ask", async |_, ctx| {
        ctx.durable("ask", (), async |()| ()).classify(|_| panic!("no idea")).await?;
        Ok(())
    });
    let mut test = start(agent);
    feed(&mut test, &[(1, 0)]);
    let id = call(&test, "ask");
    test.complete(id);
    test.run();
    let failure = test.failure().unwrap();
    assert!(failure.action == "ask" && failure.message.ends_with("no idea"), "{failure}");
}

#[test]
fn crash_in_a_pause_neither_repeats_nor_forgets_the_next_attempt() {
    let plan = asking(true);
    let mut job = Carried::start(&plan, &[(1, 7)]);
    job.fail("ask");
    job.pass(4);
    job.crash();
    assert_eq!(job.names(), [] as [&str; 0], "the first attempt is over");
    job.pass(5);
    assert_eq!(job.names(), [] as [&str; 0], "10 seconds after the failure, not after the crash");
    job.pass(1);
    assert_eq!(job.names(), ["ask"]);
    job.crash();
    assert_eq!(job.names(), ["ask"], "an attempt under way is made again");
    job.fail("ask");
    job.commit();
    // The second pause is over while the process is down.
    job.restart(&plan, Duration::from_mins(5));
    job.complete("ask");
    let told = job.told();
    assert!(told[0].starts_with("7 3 "), "the third attempt: {told:?}");
    finish(&mut job.test);
}

#[test]
fn crash_after_the_last_attempt_makes_no_further_one() {
    let plan = {
        let mut agent = Agent::<Pair, String>::new("a");
        agent.carry();
        agent.on_input_async("ask", async |_, ctx| {
            let told = ctx.durable("ask", (), async |()| ()).retry(retry(2)).await;
            ctx.sleep(Duration::from_mins(1)).await;
            ctx.output(told.unwrap_err().to_string());
            Ok(())
        });
        agent.build().unwrap()
    };
    let mut job = Carried::start(&plan, &[(1, 7)]);
    job.fail("ask");
    job.pass(10);
    job.fail("ask");
    job.crash();
    assert_eq!(job.names(), [] as [&str; 0]);
    job.pass(60);
    assert_eq!(job.told(), ["call \"ask\": all attempts have failed (2), the last: panicked: no"]);
}

/// Three retried calls at once; which of them fails first, and in which order they end, is the test's.
fn joined() -> Plan<Pair, String> {
    let mut agent = Agent::<Pair, String>::new("joined");
    agent.carry();
    agent.on_input_async("ask", async |_, ctx| {
        let calls = ["a", "b", "c"].map(|name| ctx.durable(name, name.to_owned(), async |name| name).retry(retry(2)));
        let told = join_all(calls).await;
        let after = ctx.durable("after", (), async |()| "after".to_owned()).await?;
        let told: Vec<String> = told.into_iter().collect::<Result<_, _>>()?;
        ctx.output(format!("{} {after}", told.join(" ")));
        Ok(())
    });
    agent.build().unwrap()
}

#[test]
fn retried_calls_that_are_joined_end_in_any_order_with_crashes_between() {
    let plan = joined();
    for first in ["a", "b", "c"] {
        for second in ["a", "b", "c"] {
            let mut job = Carried::start(&plan, &[(1, 0)]);
            job.fail(first);
            job.crash();
            let others: Vec<&str> = ["a", "b", "c"].into_iter().filter(|name| *name != first).collect();
            assert_eq!(job.names(), others, "the one that failed is in its pause");
            if second != first {
                job.complete(second);
                job.crash();
            }
            job.pass(10);
            job.crash();
            let mut made = Vec::new();
            while let Some(next) = job.test.calls().last().cloned() {
                job.complete(&next.name);
                made.push(next.name);
                job.crash();
            }
            made.sort_unstable();
            let expected = ["a", "after", "b", "c"].into_iter().filter(|name| second == first || *name != second);
            assert_eq!(made, expected.collect::<Vec<_>>(), "what had a result is not made again");
            assert_eq!(job.test.failure(), None);
            assert_eq!(job.told(), ["a b c after"]);
        }
    }
}

#[test]
fn retried_call_that_loses_a_race_is_given_up_in_its_pause_too() {
    let mut agent = Agent::<Pair, String>::new("race");
    agent.carry();
    agent.on_input_async("race", async |_, ctx| {
        let slow = ctx.durable("slow", (), async |()| "slow".to_owned()).retry(retry(5));
        let fast = ctx.durable("fast", (), async |()| "fast".to_owned());
        let told = match select(slow, fast).await {
            Either::Left((told, _)) | Either::Right((told, _)) => told?,
        };
        let last = ctx.durable("last", (), async |()| "last".to_owned()).await?;
        ctx.output(format!("{told} {last}"));
        Ok(())
    });
    let plan = agent.build().unwrap();
    let mut job = Carried::start(&plan, &[(1, 0)]);
    job.fail("slow");
    job.crash();
    job.complete("fast");
    assert_eq!(job.names(), ["last"]);
    job.crash();
    job.pass(60);
    assert_eq!(job.names(), ["last"], "the pause of the loser was given up");
    job.complete("last");
    assert_eq!(job.told(), ["fast last"]);
    finish(&mut job.test);
}

/// An action that fails at its end until its third attempt; before, it makes a call that works, and two at once of which
/// one fails at first.
fn stumbling(made: &Arc<Mutex<Vec<String>>>) -> Plan<Pair, String> {
    let mut agent = Agent::<Pair, String>::new("stumbling");
    agent.carry();
    let made = Arc::clone(made);
    agent
        .on_input_async("stumble", async move |(_, value), ctx| {
            let ask = |name: &'static str| {
                let made = Arc::clone(&made);
                ctx.durable_with(name, *value, async move |value, call: CallInfo| {
                    made.lock().unwrap().push(format!("{name} {}", call.idempotency_key()));
                    Some(value).filter(|_| name != "none")
                })
            };
            let steady = ask("steady").await?;
            let none = ask("none").await?;
            let plain = ctx.call("plain", || async { 1 }).await?;
            let (left, right) = try_join(ask("left"), ask("right")).await?;
            if ctx.attempt() < 3 {
                return Err(Error::new("stumbles"));
            }
            ctx.output(format!("{steady:?} {none:?} {plain} {left:?} {right:?}"));
            Ok(())
        })
        .on_failure(Retry::new(4).backoff(Duration::from_secs(1)));
    agent.build().unwrap()
}

fn stumble(crashes: bool) {
    let made = Arc::default();
    let mut job = Carried::start(&stumbling(&made), &[(1, 3)]);
    let pause = |job: &mut Carried<String>| {
        if crashes {
            job.crash();
        }
    };
    for name in ["steady", "none", "plain"] {
        pause(&mut job);
        assert_eq!(job.names(), [name]);
        job.complete(name);
    }
    pause(&mut job);
    // Of the two at once one has a value, which nobody takes: the other fails, and with it the attempt.
    let (left, right) = (call(&job.test, "left"), call(&job.test, "right"));
    job.test.complete(right);
    job.test.fail(left, failure());
    job.test.run();
    pause(&mut job);
    assert_eq!(job.names(), [] as [&str; 0]);
    job.pass(1);
    for name in ["plain", "left"] {
        pause(&mut job);
        assert_eq!(job.names(), [name], "what had a value is not asked again");
        job.complete(name);
    }
    pause(&mut job);
    job.pass(2);
    pause(&mut job);
    assert_eq!(job.names(), ["plain"]);
    job.complete("plain");
    pause(&mut job);
    assert_eq!(job.test.failure(), None);
    assert_eq!(job.told(), ["Some(3) None 1 Some(3) Some(3)"]);
    let made = made.lock().unwrap();
    let called: Vec<&str> = made.iter().map(|made| made.split(' ').next().unwrap()).collect();
    assert_eq!(called, ["steady", "none", "right", "left"], "each is paid for once");
}

#[test]
fn call_with_a_value_is_not_made_again_by_the_next_attempt_of_its_action() {
    stumble(false);
}

#[test]
fn call_with_a_value_is_not_made_again_by_the_next_attempt_after_a_crash() {
    stumble(true);
}

#[test]
fn value_that_is_to_be_tried_again_is_none_for_the_next_attempt_of_the_action() {
    let made = Arc::new(AtomicU32::new(0));
    let counts = Arc::clone(&made);
    let mut agent = Agent::<Pair, String>::new("a");
    agent
        .on_input_async("ask", async move |_, ctx| {
            let counts = Arc::clone(&counts);
            let told = ctx
                .durable("ask", (), async move |()| counts.fetch_add(1, Relaxed))
                .classify(|told| if matches!(told, Ok(0)) { Outcome::Retryable } else { Outcome::Terminal })
                .await?;
            ctx.output(format!("{told}"));
            Ok(())
        })
        .on_failure(Retry::new(3).backoff(Duration::from_secs(1)));
    let mut test = start(agent);
    feed(&mut test, &[(1, 0)]);
    for _ in 0..2 {
        let id = call(&test, "ask");
        test.complete(id);
        test.run();
        test.pass(Duration::from_secs(1));
    }
    assert_eq!((values(&mut test), made.load(Relaxed)), (vec!["1".to_owned()], 2));
}

#[test]
fn next_attempt_that_asks_something_else_is_answered_by_nobody_else() {
    let mut agent = Agent::<Pair, String>::new("a");
    agent
        .on_input_async("ask", async |_, ctx| {
            let attempt = ctx.attempt();
            let told = ctx.durable("ask", attempt, async |attempt| attempt).await?;
            if attempt == 1 {
                return Err(Error::new("again"));
            }
            ctx.output(format!("{told}"));
            Ok(())
        })
        .on_failure(Retry::new(2).backoff(Duration::from_secs(1)));
    let mut test = start(agent);
    feed(&mut test, &[(1, 0)]);
    for _ in 0..2 {
        let id = call(&test, "ask");
        test.complete(id);
        test.pass(Duration::from_secs(1));
    }
    assert_eq!(values(&mut test), ["2"]);
}

#[test]
fn idempotency_key_is_of_its_call_alone() {
    let keys = Arc::new(Mutex::new(Vec::new()));
    let told = Arc::clone(&keys);
    let mut agent = Agent::<Pair, String>::new("a");
    for action in ["one", "two"] {
        let told = Arc::clone(&told);
        agent
            .on_input_async(action, async move |_, ctx| {
                let call = |attempts| {
                    let told = Arc::clone(&told);
                    let body = move |(), call: CallInfo| {
                        told.lock().unwrap().push(call.idempotency_key());
                        assert!(call.attempt() == attempts, "until the last attempt");
                    };
                    ctx.durable_blocking_with("ask", (), body).retry(retry(attempts))
                };
                let both = join(call(1), call(2)).await;
                both.0?;
                both.1?;
                Ok(())
            })
            .on_failure(Retry::new(2).backoff(Duration::from_secs(1)));
    }
    let mut test = start(agent);
    feed(&mut test, &[(1, 0), (2, 0), (1, 0)]);
    loop {
        while let Some(next) = test.calls().first().cloned() {
            test.complete(next.id);
            test.run();
        }
        if test.mailbox(&1).0 || test.mailbox(&2).0 {
            test.pass(Duration::from_secs(1));
        } else {
            break;
        }
    }
    finish(&mut test);
    let mut keys = keys.lock().unwrap().clone();
    assert_eq!(keys.len(), 3 * 2 * 3, "three runs of two actions, of two calls, of one and two attempts");
    keys.sort_unstable();
    keys.dedup();
    assert_eq!(keys.len(), 3 * 2 * 2);
}

#[test]
fn idempotency_key_of_an_input_with_an_identity_is_that_of_its_job_agent_and_key() {
    let asked = |job: &str, agent: &'static str, key: u64, before: i64| {
        let keys = Arc::new(Mutex::new(Vec::new()));
        let told = Arc::clone(&keys);
        let mut plan = Agent::<Pair, String>::new(agent);
        plan.identified_by(|(_, value)| *value);
        plan.on_input_async("ask", async move |_, ctx| {
            let told = Arc::clone(&told);
            let body = move |(), call: CallInfo| told.lock().unwrap().push(call.idempotency_key());
            ctx.durable_blocking_with("ask", (), body).await?;
            Ok(())
        });
        let mut test = start(plan).in_job(job);
        // What comes before it changes nothing.
        let others: Vec<Pair> = (0..before).map(|n| (key, 100 + n)).collect();
        feed(&mut test, &others);
        feed(&mut test, &[(key, 7)]);
        while let Some(next) = test.calls().first().cloned() {
            test.complete(next.id);
            test.run();
        }
        finish(&mut test);
        let keys = keys.lock().unwrap().clone();
        keys.last().expect("a call").clone()
    };
    let key = asked("pay", "a", 1, 0);
    assert_eq!(key, asked("pay", "a", 1, 3));
    let others = [asked("try", "a", 1, 0), asked("pay", "b", 1, 0), asked("pay", "a", 2, 0)];
    assert!(others.iter().all(|other| *other != key), "{key} {others:?}");
    for other in others {
        assert!(other[..16] != key[..16] && other[16..] != key[16..], "each half differs");
    }
}

#[test]
fn results_of_any_kind_come_back_as_they_were() {
    let plan = {
        let mut agent = Agent::<Pair, String>::new("a");
        agent.carry();
        agent.on_input_async("ask", async |_, ctx| {
            ctx.durable("unit", (), async |()| ()).await?;
            let none = ctx.durable("none", (), async |()| None::<i64>).await?;
            let error = ctx.durable("error", (), async |()| Err::<(), _>(Refusal::Never("closed".into()))).await?;
            let blocked = ctx.durable_blocking("blocked", (), |()| Err::<(), _>(Refusal::Busy)).await?;
            let failed = ctx.durable("failed", (), async |()| panic!("broken")).await.map(|()| 0).unwrap_err();
            ctx.sleep(Duration::from_secs(1)).await;
            let typed = error == Err(Refusal::Never("closed".into())) && blocked == Err(Refusal::Busy);
            ctx.output(format!("{none:?} {typed} {}", matches!(failed.failure, CallFailure::Panicked(_))));
            Ok(())
        });
        agent.build().unwrap()
    };
    let mut job = Carried::start(&plan, &[(1, 0)]);
    for name in ["unit", "none", "error", "blocked", "failed"] {
        job.complete(name);
    }
    job.crash();
    assert_eq!(job.names(), [] as [&str; 0], "each has a result, also those that have none to tell");
    job.pass(1);
    assert_eq!(job.told(), ["None true true"]);
    finish(&mut job.test);
}

#[test]
fn sync_action_in_its_pause_outlives_a_crash() {
    // Triggered by the input or by an event, alone or before another action.
    for (event, others) in [(false, false), (false, true), (true, false), (true, true)] {
        let mut agent = Agent::<Pair, String>::new("a");
        agent.carry();
        let sum = agent.memory::<i64>("sum");
        let stumble = move |value: i64, ctx: &Ctx<String>| {
            ctx.update(sum, |sum| *sum += 1);
            if ctx.attempt() == 1 {
                return Err(Error::new("again"));
            }
            ctx.output(format!("{value} {}", ctx.attempt()));
            Ok(())
        };
        let retry = Retry::new(2).backoff(Duration::from_secs(10));
        if event {
            agent.on_input("send", move |(_, value), ctx| {
                ctx.update(sum, |sum| *sum += 10);
                ctx.send(Ping(*value));
                Ok(())
            });
            agent.on::<Ping>("stumble", move |Ping(value), ctx| stumble(*value, ctx)).on_failure(retry);
        } else {
            agent.on_input("stumble", move |(_, value), ctx| stumble(*value, ctx)).on_failure(retry);
        }
        if others {
            agent.on_any("other", &[if event { "ping" } else { "input" }], |_, ctx| {
                ctx.output("other".into());
                Ok(())
            });
        }
        let mut job = Carried::start(&agent.build().unwrap(), &[(1, 7)]);
        job.crash();
        job.crash();
        job.pass(10);
        assert_eq!(job.test.failure(), None);
        assert_eq!(job.told(), if others { vec!["other", "7 2"] } else { vec!["7 2"] });
        assert_eq!(job.test.memory(&1, sum), Some(if event { 11 } else { 1 }));
        finish(&mut job.test);
    }
}

#[test]
fn run_that_made_way_for_others_outlives_a_crash() {
    let mut agent = Agent::<Pair, String>::new("a");
    agent.carry().identified_by(|(_, value)| *value);
    for name in ["one", "two", "three"] {
        agent.on_input(name, move |_, ctx| {
            ctx.output(name.into());
            Ok(())
        });
    }
    let mut job = Carried::start(&agent.build().unwrap(), &[]);
    job.test.push(0, (1, 7));
    job.test.step();
    assert_eq!(values(&mut job.test), ["one"], "a step is one task");
    job.test.advance(1);
    job.test.step();
    job.restart_at_once(1);
    assert_eq!(job.told(), ["two", "three"]);
    finish(&mut job.test);
}

/// Calls in all arrangements, each tried again when it fails, in an action that is tried again twice.
fn arranged() -> Plan<Pair, String> {
    let mut agent = Agent::<Pair, String>::new("arranged");
    agent.carry();
    let sum = agent.memory::<i64>("sum");
    agent
        .on_input_async("arrange", async move |(key, value), ctx| {
            let ask = |name: &str| {
                let name = format!("{name} of {key}.{value}.");
                let call = ctx.durable_with(name, *value, async |value, call: CallInfo| (value, call.attempt()));
                let odd = |told: &Result<(i64, u32), _>| match told {
                    Ok((value, 1)) if value % 2 != 0 => Outcome::Retryable,
                    Ok(_) => Outcome::Terminal,
                    Err(_) => Outcome::Retryable,
                };
                call.retry(Retry::new(1000).backoff(Duration::from_secs(1)).max_backoff(Duration::from_secs(2)))
                    .classify(odd)
            };
            let first = ask("first").await?;
            ctx.send(Ping(*value));
            let all = join_all([ask("a"), ask("b"), ask("c")]).await;
            let all: i64 = all.into_iter().map(|told| told.map(|told| told.0)).sum::<Result<_, _>>()?;
            ctx.update(sum, |sum| *sum += all);
            if ctx.attempt() == 2 {
                return Err(Error::new("stumbles"));
            }
            ctx.flush().await;
            let race = match select(ask("race"), ctx.sleep(Duration::from_secs(3))).await {
                Either::Left((told, _)) => Some(told?.0),
                Either::Right(_) => None,
            };
            if ctx.attempt() == 1 {
                return Err(Error::new("stumbles"));
            }
            let last = ask("last").await?;
            assert!(race.is_none_or(|race| race == *value));
            ctx.output(format!("{key} {} {all} {}", first.0, last.0));
            Ok(())
        })
        .on_failure(Retry::new(3).backoff(Duration::from_secs(1)));
    agent.on_async::<Ping>("follow", async |Ping(value), ctx| {
        let call = ctx.durable_blocking(format!("aside of {}.{value}.", ctx.key_text()), *value, |value| -value);
        ctx.output(format!("{}", call.retry(Retry::new(1000)).await?));
        Ok(())
    });
    agent.build().unwrap()
}

#[test]
fn what_was_paid_for_is_not_asked_again_whatever_happens() {
    for seed in 0..150 {
        let plan = arranged();
        let mut dice = Dice(seed);
        let pairs: Vec<Pair> = (0..3).map(|key| (key, dice.roll(100) as i64)).collect();
        let mut job = Carried::start(&plan, &pairs);
        job.commit();
        let (mut paid, mut since) = (Vec::new(), Vec::new());
        let mut left = 60;
        loop {
            let calls = job.test.calls();
            for call in &calls {
                assert!(!paid.contains(&call.name), "seed {seed}: {} is made again", call.name);
            }
            assert_eq!(job.test.failure(), None, "seed {seed}");
            left -= i32::from(left > 0);
            let one = (!calls.is_empty()).then(|| calls[dice.roll(calls.len().max(1) as u64) as usize].clone());
            match (dice.roll(if left == 0 { 4 } else { 8 }), one) {
                (0 | 1, Some(call)) => {
                    job.complete(&call.name);
                    // An odd value of the first attempt is none.
                    let value: i64 = call.name.split('.').nth(1).unwrap().parse().unwrap();
                    if value % 2 == 0 {
                        since.push(call.name);
                    }
                }
                (2 | 3, _) => job.pass(1),
                (4 | 5, Some(call)) => job.fail(&call.name),
                (6, _) => {
                    job.commit();
                    paid.append(&mut since);
                }
                (7, _) => {
                    since.clear();
                    job.lose();
                }
                _ => {}
            }
            if left == 0 && job.test.calls().is_empty() && pairs.iter().all(|(key, _)| !job.test.mailbox(key).0) {
                break;
            }
        }
        job.commit();
        let mut told = job.told();
        told.sort_unstable();
        let each = pairs.iter().flat_map(|(key, i)| [format!("{key} {i} {} {i}", 3 * i), format!("{}", -i)]);
        let mut right: Vec<String> = each.collect();
        right.sort_unstable();
        assert_eq!(told, right, "seed {seed}");
        finish(&mut job.test);
    }
}
