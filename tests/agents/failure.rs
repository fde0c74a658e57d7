//! S8: what follows when an action fails.

use std::cell::Cell;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::Duration;

use serde_json::json;
use timely_agents::{Agent, CallError, Error, Exhausted, Policy, Retry, SentEvent};
use timely_agents_operators::completion::CallFailure;

use crate::support::{Pair, Ping, call, feed, finish, names, start, values};

/// Outputs values, and fails for negative ones.
fn picky(policy: impl Into<Policy>) -> Agent<Pair, i64> {
    let mut agent = Agent::new("picky");
    agent
        .on_input("pick", |(_, value), ctx| {
            ctx.output(*value);
            if *value < 0 { Err(Error::new(format!("no {value}"))) } else { Ok(()) }
        })
        .on_failure(policy);
    agent
}

#[test]
fn failed_action_stops_the_job_by_default() {
    let mut test = start(picky(Policy::default()));
    test.push(0, (1, 1));
    test.push(2, (1, 2));
    test.advance(1);
    test.run();
    test.push(1, (7, -1));
    test.push(1, (1, 3));
    test.run();
    let failure = test.failure().unwrap().clone();
    assert_eq!(failure.to_string(), "agent picky, action pick, key 7, epoch 1: no -1", "who, on what, when, why");
    assert_eq!(values(&mut test), [1], "nothing runs after it");
    test.end();
    test.run();
    assert!(!test.is_closed());
    assert_eq!(test.frontier(), [1], "what is open stays open");
}

#[test]
fn panic_is_the_failure_of_its_action_and_says_where() {
    let mut agent = Agent::<Pair, i64>::new("a");
    agent.on_input("panics", |(_, value), _| panic!("no {value}"));
    let mut test = start(agent);
    feed(&mut test, &[(1, 3)]);
    let message = &test.failure().unwrap().message;
    assert!(message.starts_with("panicked at ") && message.ends_with(": no 3"), "{message}");
    assert!(message.contains("failure.rs:"), "{message}");
}

#[test]
fn panic_in_an_action_is_not_printed() {
    // This binary runs itself with only the test above, whose panic nobody else would report.
    let name = "failure::panic_is_the_failure_of_its_action_and_says_where";
    let output = std::process::Command::new(std::env::current_exe().unwrap())
        .args(["--exact", name, "--nocapture", "--test-threads=1"])
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && text.contains("1 passed"), "{text}");
    assert!(!text.contains("panicked"), "{text}");
    assert!(!text.contains("no 3"), "{text}");
}

/// Panics when polled, and counts polls.
struct Bomb(Rc<Cell<u32>>);

impl Future for Bomb {
    type Output = ();

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        self.0.set(self.0.get() + 1);
        // Woken, as if it had more to do: nobody may follow that call.
        cx.waker().wake_by_ref();
        panic!("bomb")
    }
}

thread_local! {
    static POLLS: Rc<Cell<u32>> = Rc::default();
}

#[test]
fn future_that_panicked_is_never_polled_again() {
    let mut agent = Agent::<Pair, i64>::new("a");
    agent
        .on_input_async("bomb", async |_, ctx| {
            ctx.output(1);
            Bomb(POLLS.with(Rc::clone)).await;
            Ok(())
        })
        .on_failure(Policy::Ignore);
    agent.on_input_async("other", async |_, ctx| {
        ctx.sleep(Duration::from_secs(1)).await;
        ctx.output(2);
        Ok(())
    });
    let mut test = start(agent);
    feed(&mut test, &[(1, 0)]);
    test.pass(Duration::from_secs(1));
    assert_eq!(values(&mut test), [2]);
    assert_eq!(POLLS.with(|polls| polls.get()), 1);
    finish(&mut test);
}

#[test]
fn ignored_failure_takes_back_its_step_only() {
    let mut test = start(picky(Policy::Ignore));
    feed(&mut test, &[(1, 1), (1, -2), (1, 3)]);
    assert_eq!(values(&mut test), [1, 3]);
    finish(&mut test);
}

#[test]
fn retried_action_runs_again_after_a_pause_that_delays_no_other_key() {
    let mut agent = Agent::<Pair, (u64, u32)>::new("a");
    agent
        .on_input("flaky", |(key, _), ctx| {
            ctx.output((*key, ctx.attempt()));
            if *key == 1 && ctx.attempt() < 3 { Err(Error::new("flaky")) } else { Ok(()) }
        })
        .on_failure(Retry::new(3).backoff(Duration::from_secs(1)));
    let plan = agent.build().unwrap();
    let mut test = timely_agents::testing::Harness::<u64, Pair, _>::new(&plan, |pair| pair.0).unwrap();
    for pair in [(1, 0), (2, 0), (1, 0)] {
        test.push(0, pair);
    }
    test.run();
    assert_eq!(values(&mut test), [(2, 1)], "the other key does not wait");
    assert_eq!(test.mailbox(&1), (true, 1));
    test.pass(Duration::from_millis(999));
    assert!(values(&mut test).is_empty());
    test.pass(Duration::from_millis(1));
    assert_eq!(values(&mut test), [], "the second attempt fails, the third comes after twice the pause");
    test.pass(Duration::from_millis(1999));
    assert!(values(&mut test).is_empty());
    test.pass(Duration::from_millis(1));
    assert_eq!(values(&mut test), [(1, 3)]);
    test.pass(Duration::from_secs(3));
    assert_eq!(values(&mut test), [(1, 3)]);
    finish(&mut test);
    let stats = plan.stats().actions["flaky"];
    assert_eq!((stats.finished, stats.failed, stats.retried), (3, 4, 4));
}

#[test]
fn retried_action_among_others_runs_again_alone() {
    let mut agent = Agent::<Pair, String>::new("a");
    agent.on_input("first", |_, ctx| {
        ctx.output("first".into());
        Ok(())
    });
    agent
        .on_input("flaky", |_, ctx| {
            ctx.output(format!("flaky {}", ctx.attempt()));
            assert!(ctx.attempt() > 1, "flaky");
            ctx.send(Ping(0));
            Ok(())
        })
        .on_failure(Retry::new(2).backoff(Duration::from_secs(1)));
    agent.on_input("last", |_, ctx| {
        ctx.output("last".into());
        Ok(())
    });
    agent
        .on::<Ping>("ping", |_, ctx| {
            ctx.output(format!("ping {}", ctx.attempt()));
            assert!(ctx.attempt() > 1, "flaky");
            Ok(())
        })
        .on_failure(Retry::new(2).backoff(Duration::from_secs(1)));
    let mut test = start(agent);
    feed(&mut test, &[(1, 0)]);
    assert_eq!(values(&mut test), ["first", "last"]);
    test.pass(Duration::from_secs(5));
    assert_eq!(values(&mut test), ["flaky 2", "ping 2"]);
    finish(&mut test);
}

#[test]
fn used_up_attempts_fail_unless_the_policy_says_otherwise() {
    let retry = || Retry::new(2).backoff(Duration::from_secs(1));
    let mut test = start(picky(retry()));
    feed(&mut test, &[(1, -1)]);
    assert_eq!(test.failure(), None);
    test.pass(Duration::from_secs(1));
    assert_eq!(test.failure().unwrap().message, "no -1");

    let mut test = start(picky(retry().then(Exhausted::DeadLetter)));
    feed(&mut test, &[(1, -1), (1, 5)]);
    test.pass(Duration::from_secs(1));
    assert_eq!(values(&mut test), [5]);
    assert_eq!(test.dead_letters()[0].attempts, 2);

    let mut test = start(picky(retry().then(Exhausted::Ignore)));
    feed(&mut test, &[(1, -1), (1, 5)]);
    test.pass(Duration::from_secs(1));
    assert_eq!(values(&mut test), [5]);
    assert_eq!(test.dead_letters(), []);
    finish(&mut test);
}

#[test]
fn dead_letter_tells_the_input_the_error_and_what_was_sent() {
    let mut agent = Agent::<Pair, i64>::new("a");
    agent.on_input("in", |(_, value), ctx| {
        ctx.send(Ping(*value));
        ctx.output(1);
        Ok(())
    });
    agent
        .on::<Ping>("fails", |ping, ctx| {
            ctx.send(Ping(ping.0 + 1));
            Err(Error::new("broken"))
        })
        .on_failure(Policy::DeadLetter);
    let mut test = start(agent);
    test.push(3, (5, 7));
    test.push(3, (6, 8));
    test.advance(3);
    test.run();
    let letters = test.dead_letters();
    assert_eq!(letters.len(), 2);
    let letter = &letters[0];
    assert_eq!((letter.key.as_str(), letter.epoch, letter.sequence), ("5", 3, 1));
    assert_eq!((letter.action.as_str(), letter.attempts, letter.error.as_str()), ("fails", 1, "broken"));
    assert_eq!(letter.input, Some((5, 7)));
    let sent = SentEvent { name: "ping".into(), attributes: json!(7) };
    assert_eq!(letter.sent, [sent], "of finished steps only");
    assert_eq!(values(&mut test), [1, 1], "what has left the operator stays out");
    finish(&mut test);
}

#[test]
fn dead_letter_drops_the_writes_of_its_run_but_those_that_were_flushed() {
    let mut agent = Agent::<Pair, i64>::new("a");
    let slots = ["before", "finished", "flushed", "suspended", "failed"].map(|name| agent.memory::<i64>(name));
    let [before, finished, flushed, suspended, failed] = slots;
    agent.on_input("set", move |(_, value), ctx| {
        if *value == 0 {
            for slot in slots {
                ctx.put(slot, 1);
            }
            ctx.memory().set("p.kept", 1i64)?;
            return Ok(());
        }
        ctx.put(finished, 2);
        ctx.memory().set("p.finished", 2i64)?;
        ctx.memory().remove("p.kept");
        ctx.send(Ping(0));
        Ok(())
    });
    agent.on_async::<Ping>("suspends", async move |_, ctx| {
        ctx.put(suspended, 2);
        ctx.durable("never", (), async |()| ()).await?;
        Ok(())
    });
    agent
        .on_async::<Ping>("fails", async move |_, ctx| {
            ctx.put(flushed, 2);
            ctx.memory().set("p.flushed", 2i64)?;
            ctx.flush().await;
            ctx.put(flushed, 3);
            ctx.put(failed, 2);
            ctx.durable("ask", (), async |()| ()).await?;
            Ok(())
        })
        .on_failure(Policy::DeadLetter);
    let mut test = start(agent);
    feed(&mut test, &[(1, 0), (1, 1)]);
    assert_eq!(test.memory(&1, finished), Some(2), "the other actions see it until the run is buried");
    let ask = call(&test, "ask");
    let never = call(&test, "never");
    test.fail(ask, CallFailure::Aborted);
    test.run();
    assert_eq!(slots.map(|slot| test.memory(&1, slot)), [Some(1), Some(1), Some(2), Some(1), Some(1)]);
    assert_eq!(test.memory(&1, before), Some(1));
    assert_eq!(test.paths(&1), ["p.flushed", "p.kept"]);
    assert_eq!(test.dead_letters().len(), 1);
    assert_eq!(names(&test), [] as [&str; 0], "what the run waited for is given up");
    test.complete_with(never, &());
    assert_eq!(test.late(), 1);
    finish(&mut test);
}

#[test]
fn dead_letter_ends_the_run_and_the_next_input_starts() {
    let mut agent = Agent::<Pair, i64>::new("a");
    agent
        .on_input("first", |(_, value), _| if *value < 0 { Err(Error::new("no")) } else { Ok(()) })
        .on_failure(Policy::DeadLetter);
    agent.on_input("second", |(_, value), ctx| {
        ctx.output(*value);
        Ok(())
    });
    let mut test = start(agent);
    feed(&mut test, &[(1, 1), (1, -2), (1, 3)]);
    assert_eq!(values(&mut test), [1, 3], "the dead run's other actions do not run");
    finish(&mut test);
}

#[test]
fn failed_call_is_an_error_at_its_await() {
    let mut agent = Agent::<Pair, String>::new("a");
    agent.on_input_async("ask", async |(key, _), ctx| {
        let answer: Result<i64, CallError> = ctx.durable("advisor", *key, async |_| 7i64).await;
        match answer {
            Ok(answer) => ctx.output(format!("answer {answer}")),
            Err(error) => ctx.output(error.to_string()),
        }
        Ok(())
    });
    let mut test = start(agent);
    feed(&mut test, &[(1, 0), (2, 0), (3, 0)]);
    let calls = test.calls();
    test.complete(calls[0].id);
    test.fail(calls[1].id, CallFailure::Panicked("out of luck".into()));
    test.fail(calls[2].id, CallFailure::Aborted);
    test.run();
    assert_eq!(
        values(&mut test),
        [
            "answer 7",
            "call \"advisor\": panicked: out of luck",
            "call \"advisor\": aborted: the runtime is shutting down"
        ]
    );
    finish(&mut test);
}

#[test]
fn unhandled_failure_of_a_call_is_the_actions_own() {
    let mut agent = Agent::<Pair, String>::new("a");
    agent.on_input_async("ask", async |_, ctx| {
        ctx.durable("advisor", (), async |()| -> u8 { panic!("on purpose") }).await?;
        Ok(())
    });
    let mut test = start(agent);
    feed(&mut test, &[(1, 0)]);
    let ask = call(&test, "advisor");
    test.complete(ask);
    test.run();
    let message = &test.failure().unwrap().message;
    assert!(message.starts_with("call \"advisor\": panicked: panicked at "), "{message}");
    assert!(message.ends_with(": on purpose"), "{message}");
}

#[test]
fn run_that_takes_too_long_ends_as_its_timeout_says() {
    for (then, dead, failed) in
        [(Exhausted::DeadLetter, 1, false), (Exhausted::Ignore, 0, false), (Exhausted::Fail, 0, true)]
    {
        let mut agent = Agent::<Pair, i64>::new("a");
        let slot = agent.memory::<i64>("slot");
        agent.run_timeout(Duration::from_secs(10), then);
        agent.on_input("put", move |(_, value), ctx| {
            ctx.put(slot, *value);
            Ok(())
        });
        agent.on_input_async("slow", async |(_, value), ctx| {
            ctx.sleep(Duration::from_secs(if *value == 1 { 60 } else { 9 })).await;
            ctx.output(*value);
            Ok(())
        });
        let mut test = start(agent);
        feed(&mut test, &[(1, 1), (1, 2)]);
        test.pass(Duration::from_millis(9_999));
        assert_eq!(test.mailbox(&1), (true, 1));
        test.pass(Duration::from_millis(1));
        assert_eq!(test.failure().is_some(), failed);
        let letters = test.dead_letters();
        assert_eq!(letters.len(), dead);
        if let [letter] = &letters[..] {
            assert_eq!((letter.action.as_str(), letter.input), ("", Some((1, 1))));
            assert_eq!(letter.error, "the run has not ended within 10s");
        }
        if !failed {
            assert_eq!(test.memory(&1, slot), Some(2), "the next input has started");
            test.pass(Duration::from_secs(9));
            assert_eq!(values(&mut test), [2], "a run of 9 s is in time");
            assert_eq!(test.stats().runs, 2);
        }
    }
}
