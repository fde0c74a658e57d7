//! D7, S7, S9: limits that calls share by name, over the process.
//!
//! Each test has limits of its own names, since all tests are one process.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::time::Duration;

use futures::future::{Either, join_all, select};
use timely::dataflow::operators::vec::Input as _;
use timely::dataflow::operators::{Capture, Probe, capture::Extract};
use timely_agents::CallFailure;
use timely_agents::{Agent, AgentStream, Policy, Retry};

use crate::support::{Carried, Pair, Test, call, feed, finish, names, start, values};

/// Makes a call that shares a limit.
fn limited(name: &'static str, n: usize) -> Agent<Pair, i64> {
    let mut agent = Agent::new("limited");
    agent.on_input_async("ask", async move |(_, value), ctx| {
        let value = ctx.durable("ask", *value, async |value| value).concurrency(name, n).await?;
        ctx.output(value);
        Ok(())
    });
    agent
}

#[test]
fn calls_of_one_limit_are_under_way_by_so_many_at_once() {
    let (mut one, mut other) = (start(limited("over agents", 2)), start(limited("over agents", 2)));
    feed(&mut one, &[(1, 1), (2, 2), (3, 3)]);
    feed(&mut other, &[(4, 4)]);
    assert_eq!((one.calls().len(), other.calls().len()), (2, 0), "the limit is the process's");
    let first = one.calls()[0].id;
    one.complete(first);
    one.run();
    other.run();
    assert_eq!((one.calls().len(), other.calls().len()), (2, 0), "who asked first begins first");
    while let Some(next) = one.calls().first().cloned() {
        one.complete(next.id);
        one.run();
    }
    other.run();
    assert_eq!(other.calls().len(), 1);
    let last = other.calls()[0].id;
    other.complete(last);
    finish(&mut one);
    finish(&mut other);
    assert_eq!((values(&mut one), values(&mut other)), (vec![1, 2, 3], vec![4]));
}

#[test]
fn call_that_is_given_up_gives_its_turn_to_the_next() {
    let mut agent = Agent::<Pair, String>::new("a");
    agent.on_input_async("race", async |(key, secs), ctx| {
        let call = ctx.durable(format!("{key}"), (), async |()| ()).concurrency("given up", 1);
        let limit = ctx.sleep(Duration::from_secs(*secs as u64));
        match select(call, limit).await {
            Either::Left((done, _)) => ctx.output(format!("done {key} {done:?}")),
            Either::Right(_) => ctx.output(format!("too slow {key}")),
        }
        Ok(())
    });
    let mut test = start(agent);
    feed(&mut test, &[(1, 2), (2, 1), (3, 9)]);
    assert_eq!(names(&test), ["1"]);
    test.pass(Duration::from_secs(1));
    assert_eq!(values(&mut test), ["too slow 2"], "one that waits is given up as well");
    test.pass(Duration::from_secs(1));
    assert_eq!(values(&mut test), ["too slow 1"]);
    assert_eq!(names(&test), ["3"]);
    let last = call(&test, "3");
    test.complete(last);
    finish(&mut test);
    assert_eq!(values(&mut test), ["done 3 Ok(())"]);
}

#[test]
fn timeout_begins_when_the_turn_has_come() {
    let mut agent = Agent::<Pair, String>::new("a");
    agent.on_input_async("ask", async |(key, _), ctx| {
        let call = ctx.durable(format!("{key}"), (), async |()| ()).concurrency("timed", 1);
        let told = call.timeout(Duration::from_secs(5)).await;
        ctx.output(told.map_or_else(|error| error.to_string(), |()| format!("done {key}")));
        Ok(())
    });
    let mut test = start(agent);
    feed(&mut test, &[(1, 0), (2, 0)]);
    test.pass(Duration::from_secs(4));
    let first = call(&test, "1");
    test.complete(first);
    test.run();
    assert_eq!(names(&test), ["2"]);
    test.pass(Duration::from_secs(4));
    assert_eq!(values(&mut test), ["done 1"]);
    test.pass(Duration::from_secs(1));
    assert_eq!(values(&mut test), ["call \"2\": no result within 5s"]);
    finish(&mut test);
}

#[test]
fn each_attempt_takes_its_turn() {
    let mut agent = Agent::<Pair, i64>::new("a");
    agent.on_input_async("ask", async |(_, value), ctx| {
        let retry = Retry::new(2).backoff(Duration::from_secs(1));
        let call = ctx.durable(format!("{value}"), *value, async |value| value).retry(retry);
        ctx.output(call.concurrency("attempts", 1).await?);
        Ok(())
    });
    let mut test = start(agent);
    feed(&mut test, &[(1, 1), (2, 2)]);
    let first = call(&test, "1");
    test.fail(first, CallFailure::Aborted);
    test.run();
    assert_eq!(names(&test), ["2"], "a pause holds nothing");
    test.pass(Duration::from_secs(1));
    assert_eq!(names(&test), ["2"]);
    let second = call(&test, "2");
    test.complete(second);
    test.run();
    assert_eq!(names(&test), ["1"]);
}

fn told(mut test: Test<String>) -> Vec<String> {
    feed(&mut test, &[(1, 0)]);
    while let Some(next) = test.calls().first().cloned() {
        test.complete(next.id);
        test.run();
    }
    finish(&mut test);
    values(&mut test)
}

#[test]
fn limits_that_contradict_each_other_are_refused() {
    let mut agent = Agent::<Pair, String>::new("a");
    agent.on_input_async("ask", async |_, ctx| {
        let ask = || ctx.durable("ask", (), async |()| ());
        let refused = [
            ask().concurrency("contradiction", 2).concurrency("contradiction", 2).await,
            ask().concurrency("contradiction", 3).retry(Retry::new(3)).await,
            ask().rate("contradiction", 1000).await,
            ask().rate("contradiction", 2000.5).await,
            ask().concurrency("nothing", 0).await,
            ask().rate("nothing", 0).await,
            ask().rate("nothing", f64::NAN).await,
        ];
        for refused in refused {
            ctx.output(refused.map_or_else(|error| error.to_string(), |()| "done".into()));
        }
        Ok(())
    });
    let of = "call \"ask\": not begun: limit";
    assert_eq!(
        told(start(agent)),
        [
            "done".to_owned(),
            format!("{of} \"contradiction\" is 3 calls at once here, and 2 elsewhere in the process"),
            "done".to_owned(),
            format!("{of} \"contradiction\" is 2000.5 calls a second here, and 1000 elsewhere in the process"),
            format!("{of} \"nothing\" is 0 calls at once"),
            format!("{of} \"nothing\" is 0 calls a second"),
            format!("{of} \"nothing\" is NaN calls a second"),
        ]
    );
}

#[test]
fn calls_with_a_rate_begin_at_so_many_a_second() {
    let mut agent = Agent::<Pair, i64>::new("a");
    agent.on_input_async("ask", async |(_, value), ctx| {
        let calls = (0..*value).map(|n| ctx.durable("ask", n, async |n| n).rate("rated", 50));
        let told: i64 = join_all(calls).await.into_iter().sum::<Result<_, _>>()?;
        ctx.output(told);
        Ok(())
    });
    let mut test = start(agent);
    let begun = tokio::time::Instant::now();
    feed(&mut test, &[(1, 6)]);
    let mut told = Vec::new();
    while told.is_empty() {
        if let Some(next) = test.calls().first().cloned() {
            test.complete(next.id);
        }
        test.run();
        told = values(&mut test);
        std::thread::yield_now();
    }
    let took = begun.elapsed();
    assert_eq!(told, [15]);
    assert!(took >= Duration::from_millis(5 * 20 - 10), "{took:?}");
}

#[test]
fn turn_of_a_call_is_taken_again_after_a_crash() {
    let mut agent = limited("crashes", 1);
    agent.carry();
    let mut job = Carried::start(&agent.build().unwrap(), &[(1, 1), (2, 2)]);
    assert_eq!(job.names(), ["ask"]);
    job.crash();
    assert_eq!(job.names(), ["ask"], "the process that had the turn is gone");
    job.complete("ask");
    job.crash();
    assert_eq!(job.names(), ["ask"]);
    job.complete("ask");
    let mut told = job.told();
    told.sort_unstable();
    assert_eq!(told, [1, 2]);
}

/// How many are at work.
#[derive(Default)]
struct Gauge {
    now: AtomicUsize,
    most: AtomicUsize,
}

impl Gauge {
    fn enter(&self) {
        let now = self.now.fetch_add(1, SeqCst) + 1;
        self.most.fetch_max(now, SeqCst);
    }

    fn leave(&self) {
        self.now.fetch_sub(1, SeqCst);
    }
}

#[test]
fn workers_of_a_process_share_limits_of_calls_of_all_forms() {
    let gauge = Arc::new(Gauge::default());
    let gauged = Arc::clone(&gauge);
    let mut agent = Agent::<Pair, i64>::new("a");
    agent
        .on_input_async("ask", async move |(_, value), ctx| {
            let (here, there) = (Arc::clone(&gauged), Arc::clone(&gauged));
            let polled = ctx.durable("polled", *value, async move |value| {
                here.enter();
                for _ in 0..20 {
                    tokio::task::yield_now().await;
                }
                here.leave();
                value
            });
            let blocking = ctx.durable_blocking("blocking", *value, move |value| {
                there.enter();
                (0..20).for_each(|_| std::thread::yield_now());
                there.leave();
                assert!(value % 5 != 0, "a call that panics gives its turn back too");
                value
            });
            let (polled, blocking) = (polled.concurrency("workers", 3), blocking.concurrency("workers", 3));
            let (polled, blocking) = futures::future::join(polled, blocking).await;
            ctx.output(polled? + blocking?);
            Ok(())
        })
        .on_failure(Policy::Ignore);
    let plan = agent.build().unwrap();
    let guards = timely::execute(timely::Config::process(2), move |worker| {
        let (mut input, probe, captured) = worker.dataflow::<u64, _, _>(|scope| {
            let (input, stream) = scope.new_input::<Pair>();
            let (probe, output) = stream.agent(|pair| &pair.0, &plan).probe();
            (input, probe, output.capture())
        });
        if worker.index() == 0 {
            (0..100).for_each(|n| input.send((n, n as i64)));
        }
        input.close();
        worker.step_or_park_while(None, || !probe.done());
        captured
    })
    .unwrap();
    let streams = guards.join().into_iter().flat_map(|captured| captured.unwrap().extract());
    let sum: i64 = streams.flat_map(|(_, batch)| batch).sum();
    assert_eq!(sum, (0..100).filter(|n| n % 5 != 0).map(|n| 2 * n).sum::<i64>());
    let most = gauge.most.load(SeqCst);
    assert!((1..=3).contains(&most), "{most} at once");
}
