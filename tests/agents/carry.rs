//! Carry (S5, D1): epochs close without waiting for unfinished runs, which outlive a crash.
//!
//! A crash is a harness that is dropped; what remains are the facts of closed epochs. The next one is given them, and
//! the inputs of later epochs again.
//!
//! # Not checked
//! - Logs and commits: `tests/crash` does, with processes that die.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use timely_agents::testing::Harness;
use timely_agents::{Agent, Error, Plan, Retry, Slot};
use timely_agents_operators::fact::{Fact, What};
use timely_agents_operators::time::{EpochTime, Stamp};

use crate::support::{Dice, Pair, Ping, Pong};

type Test<T> = Harness<u64, Pair, String, T>;

/// Keeps a run busy: two durable calls, a flush, a sleep, events to a sync and an async action, a failure that is tried
/// again, memory of all kinds.
fn busy() -> (Plan<Pair, String>, Slot<u64>, Slot<i64>) {
    let mut agent = Agent::<Pair, String>::new("busy");
    let count = agent.memory::<u64>("count");
    let sum = agent.memory::<i64>("sum");
    let seen = agent.sensory::<i64>("seen");
    agent.carry();
    agent.on_input_async("take", async move |(_, i), ctx| {
        let n = ctx.update(count, |n| {
            *n += 1;
            *n
        });
        ctx.put(seen, *i);
        let a = ctx.durable("a", *i, async |i| i * 2).await?;
        ctx.output(format!("a {i} {a}"));
        ctx.send(Ping(*i));
        ctx.flush().await;
        ctx.sensory().set("a.value", a)?;
        let b = ctx.durable("b", a, async |a| a + 1).await?;
        let a: i64 = ctx.sensory().get("a.value")?.unwrap_or(0);
        ctx.update(sum, |sum| *sum += b);
        ctx.output(format!("b {i} {n} {a} {b}"));
        if i % 3 == 0 {
            ctx.notify_at(ctx.epoch() + 2)?;
        }
        Ok(())
    });
    agent.on_async::<Ping>("follow", async move |Ping(i), ctx| {
        let s = ctx.get(seen).unwrap_or(-1);
        ctx.sleep(Duration::from_secs(3)).await;
        let c = ctx.call("c", move || async move { s * 10 }).await?;
        ctx.update(sum, |sum| *sum += 1);
        ctx.output(format!("c {i} {c}"));
        Ok(())
    });
    agent.on::<Ping>("mark", |Ping(i), ctx| {
        ctx.memory().set("last.mark", *i)?;
        ctx.output(format!("m {i}"));
        ctx.send(Pong(*i));
        Ok(())
    });
    agent
        .on_async::<Pong>("stumble", async |Pong(i), ctx| {
            ctx.output(format!("s {i}"));
            ctx.flush().await;
            ctx.durable("d", *i, async |i| i).await?;
            if ctx.attempt() == 1 && i % 2 == 0 {
                return Err(Error::new("the first attempt fails"));
            }
            ctx.output(format!("d {i}"));
            Ok(())
        })
        .on_failure(Retry::new(3).backoff(Duration::from_secs(2)));
    agent.on_notify("over", |over, ctx| {
        ctx.output(format!("over {} {}", ctx.key_text(), over.epoch));
        Ok(())
    });
    (agent.build().unwrap(), count, sum)
}

/// What an input of that number brings about, whatever happens.
fn expected(n: u64, i: i64) -> Vec<String> {
    vec![
        format!("a {i} {}", i * 2),
        format!("b {i} {n} {} {}", i * 2, i * 2 + 1),
        format!("c {i} {}", i * 10),
        format!("m {i}"),
        format!("s {i}"),
        format!("d {i}"),
    ]
}

/// A job that crashes: inputs by epoch, the facts of closed epochs, what was put out in them.
struct Job<T: EpochTime> {
    plan: Plan<Pair, String>,
    test: Test<T>,
    inputs: Vec<(T, Pair)>,
    facts: Vec<Fact<T>>,
    /// Outputs of epochs that are not closed, and of those that are.
    staged: Vec<(T, String)>,
    published: Vec<(T, String)>,
    epoch: u64,
    /// The time of day, which no crash turns back.
    clock: Duration,
}

impl<T: EpochTime> Job<T> {
    fn new(plan: &Plan<Pair, String>) -> Self {
        Job {
            plan: plan.clone(),
            test: Harness::over_time(plan, |pair: &Pair| pair.0).unwrap(),
            inputs: Vec::new(),
            facts: Vec::new(),
            staged: Vec::new(),
            published: Vec::new(),
            epoch: 0,
            clock: Duration::ZERO,
        }
    }

    fn tick(&mut self, duration: Duration) {
        self.clock += duration;
        self.test.tick(duration);
    }

    fn push(&mut self, time: T, pair: Pair) {
        self.inputs.push((time.clone(), pair));
        self.test.push_at(time, pair);
    }

    fn collect(&mut self) {
        self.staged.extend(self.test.outputs().into_iter().map(|(time, _, value)| (time, value)));
        self.facts.append(&mut self.test.facts());
    }

    /// Closes epochs, and commits them.
    fn advance(&mut self, to: u64) {
        self.test.advance(to);
        self.test.step();
        self.collect();
        self.epoch = to;
        let (over, open) = std::mem::take(&mut self.staged).into_iter().partition(|(time, _)| time.epoch() < to);
        self.published.extend::<Vec<_>>(over);
        self.staged = open;
    }

    /// Loses all but what is committed, and goes on.
    fn crash(&mut self) {
        self.collect();
        let resume = self.epoch;
        self.staged.clear();
        self.facts.retain(|fact| fact.time.epoch() < resume);
        self.test = Harness::restored(&self.plan, |pair: &Pair| pair.0, resume, &self.facts).unwrap();
        self.test.tick(self.clock);
        let again: Vec<_> = self.inputs.iter().filter(|(time, _)| time.epoch() >= resume).cloned().collect();
        for (time, pair) in again {
            self.test.push_at(time, pair);
        }
    }

    /// Lets everything come to its end.
    fn finish(&mut self) -> Vec<String> {
        self.test.end();
        loop {
            self.test.run();
            let calls = self.test.calls();
            if calls.is_empty() && self.test.is_closed() {
                break;
            }
            for call in &calls {
                self.test.complete(call.id);
            }
            self.test.pass(Duration::from_secs(1));
        }
        self.collect();
        self.published.append(&mut self.staged);
        let mut values: Vec<String> = self.published.iter().map(|(_, value)| value.clone()).collect();
        values.sort_unstable();
        values
    }
}

/// Rolls what happens next; the order of everything comes from the dice.
fn act<T: EpochTime>(job: &mut Job<T>, dice: &mut Dice, made: &mut BTreeMap<u64, Vec<i64>>, next: &mut i64) {
    match dice.roll(9) {
        0 | 1 => {
            let key = dice.roll(4);
            let ahead = dice.roll(2);
            let time = T::minimum().with_epoch(job.epoch + ahead);
            // Inputs of a later epoch come after those of an earlier one, so that their order is known.
            let late = job.inputs.iter().any(|(at, pair)| pair.0 == key && at.epoch() > time.epoch());
            if !late {
                job.push(time, (key, *next));
                made.entry(key).or_default().push(*next);
                *next += 1;
            }
        }
        2 => job.advance(job.epoch + 1 + dice.roll(2)),
        3 | 4 => {
            let calls = job.test.calls();
            if !calls.is_empty() {
                job.test.complete(calls[dice.roll(calls.len() as u64) as usize].id);
            }
        }
        5 => job.tick(Duration::from_secs(1)),
        _ => {
            job.test.step();
        }
    }
}

fn crash_at_random<T: EpochTime>(seeds: std::ops::Range<u64>) {
    for seed in seeds {
        let (plan, count, sum) = busy();
        let mut dice = Dice(seed);
        let mut job = Job::<T>::new(&plan);
        let (mut made, mut next) = (BTreeMap::<u64, Vec<i64>>::new(), 0);
        for _ in 0..200 {
            act(&mut job, &mut dice, &mut made, &mut next);
            if dice.roll(25) == 0 {
                job.crash();
            }
        }
        let values = job.finish();
        let (over, values): (Vec<_>, Vec<_>) = values.into_iter().partition(|value| value.starts_with("over"));
        let inputs = made.values().flat_map(|inputs| (1..).zip(inputs));
        let mut right: Vec<String> = inputs.flat_map(|(n, i)| expected(n, *i)).collect();
        right.sort_unstable();
        assert_eq!(values, right, "seed {seed}");
        // A run that was carried asks for what is over by then: it is told of the end of a later epoch.
        let told: Vec<(u64, u64)> = over
            .iter()
            .map(|value| {
                let mut words = value.split(' ').skip(1).map(|word| word.parse().unwrap());
                (words.next().unwrap(), words.next().unwrap())
            })
            .collect();
        assert_eq!(told.iter().collect::<BTreeSet<_>>().len(), told.len(), "seed {seed}: told once");
        for (time, (key, _)) in job.inputs.iter().filter(|(_, (_, i))| i % 3 == 0) {
            let after = |(of, epoch): &(u64, u64)| of == key && *epoch >= time.epoch() + 2;
            assert!(told.iter().any(after), "seed {seed}: key {key} asked in epoch {}", time.epoch());
        }
        for (key, inputs) in &made {
            assert_eq!(job.test.memory(key, count), Some(inputs.len() as u64), "seed {seed}");
            let total = inputs.iter().map(|i| i * 2 + 2).sum();
            assert_eq!(job.test.memory(key, sum), Some(total), "seed {seed}");
        }
    }
}

/// How many seeds there are; `AGENTS_CARRY_SEEDS` says otherwise.
fn seeds() -> u64 {
    std::env::var("AGENTS_CARRY_SEEDS").ok().and_then(|seeds| seeds.parse().ok()).unwrap_or(200)
}

#[test]
fn carried_runs_outlive_crashes_at_random() {
    crash_at_random::<u64>(0..seeds());
}

#[test]
fn carried_runs_over_stamps_outlive_crashes_at_random() {
    crash_at_random::<Stamp>(1_000_000..1_000_000 + seeds());
}

/// A run that sleeps for 200 epochs.
fn sleeper() -> Plan<Pair, String> {
    let mut agent = Agent::<Pair, String>::new("sleeper");
    let nights = agent.memory::<u64>("nights");
    agent.carry();
    agent.on_input_async("sleep", async move |(_, i), ctx| {
        for night in 0..199u64 {
            ctx.sleep(Duration::from_secs(1)).await;
            ctx.put(nights, night);
        }
        ctx.output(format!("awake {i} at {}", ctx.time()));
        Ok(())
    });
    agent.build().unwrap()
}

#[test]
fn run_over_200_epochs_killed_in_each_puts_out_once_at_its_event_time() {
    let plan = sleeper();
    let mut job = Job::<Stamp>::new(&plan);
    job.push(Stamp::new(0, 7), (1, 42));
    job.push(Stamp::new(0, 9), (1, 43));
    job.test.run();
    for epoch in 1..=200 {
        job.advance(epoch);
        let open = job.test.frontier();
        assert!(open.iter().all(|time| time.epoch >= epoch), "the commit of epoch {epoch} does not wait: {open:?}");
        assert!(open.iter().any(|time| time.event <= 7), "the event time does: {open:?}");
        job.crash();
        job.test.run();
        job.tick(Duration::from_secs(1));
        job.test.run();
        job.collect();
    }
    job.advance(201);
    let first: Vec<_> = job.published.clone();
    assert_eq!(first.len(), 1, "{first:?}");
    let (time, value) = &first[0];
    assert_eq!((time.event, value.as_str()), (7, "awake 42 at 7"));
    assert!(time.epoch >= 199);
    assert_eq!(job.finish(), ["awake 42 at 7", "awake 43 at 9"]);
}

#[test]
fn observers_are_told_once_of_a_run_that_outlives_a_crash() {
    let (plan, _, _) = busy();
    let mut job = Job::<u64>::new(&plan);
    job.test.observe();
    job.push(0, (1, 5));
    let mut names = Vec::new();
    let mut told = |job: &mut Job<u64>| names.extend(job.test.events().into_iter().map(|event| event.name));
    for epoch in 1..20 {
        job.test.run();
        for call in job.test.calls() {
            job.test.complete(call.id);
        }
        job.test.run();
        job.advance(epoch);
        told(&mut job);
        job.crash();
        job.test.observe();
        job.tick(Duration::from_secs(1));
    }
    job.finish();
    told(&mut job);
    names.sort_unstable();
    let outputs = 6;
    let mut expected = vec!["input", "ping", "pong"];
    expected.extend(std::iter::repeat_n("output", outputs));
    expected.sort_unstable();
    assert_eq!(names, expected);
}

#[test]
fn held_epoch_commits_with_its_slow_run_and_later_ones_run_meanwhile() {
    let mut agent = Agent::<Pair, String>::new("held");
    let count = agent.memory::<u64>("count");
    agent.on_input_async("ask", async move |(key, i), ctx| {
        if *key == 1 {
            ctx.durable("slow", (), async |()| ()).await?;
        }
        ctx.update(count, |n| *n += 1);
        ctx.output(format!("done {i}"));
        Ok(())
    });
    let mut job = Job::<u64>::new(&agent.build().unwrap());
    job.push(0, (1, 10));
    job.push(0, (2, 20));
    job.push(1, (2, 21));
    job.test.run();
    job.test.advance(1);
    job.test.run();
    job.collect();
    let done: Vec<_> = job.staged.iter().map(|(time, value)| (*time, value.as_str())).collect();
    assert_eq!(done, [(0, "done 20"), (1, "done 21")], "a later epoch runs");
    assert_eq!(job.facts, [], "epoch 0 is not over");
    assert_eq!(job.test.frontier(), [0]);
    let call = job.test.calls()[0].id;
    job.test.complete(call);
    job.test.run();
    job.collect();
    let facts: Vec<_> = job.facts.iter().map(|fact| (fact.time, fact.what.clone(), fact.value.clone())).collect();
    let of_each = [(0, What::Sequence, Some(vec![1])), (0, What::slot("count"), Some(vec![1]))];
    assert_eq!(facts, [of_each.clone(), of_each].concat(), "as of epoch 0, though key 2 has gone on");
}

#[test]
fn carried_run_costs_a_commit_only_what_has_changed() {
    let plan = sleeper();
    let mut job = Job::<u64>::new(&plan);
    job.push(0, (1, 42));
    job.push(0, (1, 43));
    job.test.run();
    job.advance(1);
    let begun: Vec<_> = job.facts.iter().map(|fact| fact.what.clone()).collect();
    let entries = [What::Entry(0), What::Entry(1)]; // The version of its action, and its first turn.
    assert_eq!(begun, [&[What::Sequence, What::Run], &entries[..], &[What::Waiting(0)]].concat());
    for epoch in 2..50 {
        job.advance(epoch);
    }
    assert_eq!(job.facts.len(), begun.len(), "nothing has happened to it");
    job.tick(Duration::from_secs(1));
    job.test.run();
    job.advance(50);
    let more: Vec<_> = job.facts[begun.len()..].iter().map(|fact| fact.what.clone()).collect();
    assert_eq!(more, [What::Sequence, What::Entry(2)], "one turn is one entry");
}

#[test]
fn program_that_goes_another_way_than_the_journal_is_found_out() {
    // What the second call asks, and under which name.
    let asking = |name: &'static str, more: i64| {
        let mut agent = Agent::<Pair, String>::new("asking");
        agent.carry();
        agent.on_input_async("ask", async move |(_, i), ctx| {
            ctx.durable("first", *i, async |i| i).await?;
            let answer = ctx.durable(name, i + more, async |i| i).await?;
            ctx.durable("third", answer, async |i| i).await?;
            Ok(())
        });
        agent.build().unwrap()
    };
    let mut job = Job::<u64>::new(&asking("second", 1));
    job.push(0, (1, 42));
    for _ in 0..2 {
        job.test.run();
        let call = job.test.calls()[0].id;
        job.test.complete(call);
    }
    job.test.run();
    job.advance(1);
    let go_on = |plan: &Plan<Pair, String>| {
        let mut test = Harness::<u64, Pair, String>::restored(plan, |pair: &Pair| pair.0, 1, &job.facts).unwrap();
        test.run();
        (test.failure().map(|failure| failure.message.clone()), test.calls().len())
    };
    assert_eq!(go_on(&asking("second", 1)), (None, 1), "the third call is made again, and no other");
    let (failure, calls) = go_on(&asking("another", 1));
    let failure = failure.unwrap();
    assert!(
        failure.contains("\"ask\"") && failure.contains("\"second\"") && failure.contains("\"another\""),
        "{failure}"
    );
    assert_eq!(calls, 0);
    let (failure, _) = go_on(&asking("second", 2));
    let failure = failure.unwrap();
    assert_eq!(failure.matches("with arguments of digest").count(), 2, "{failure}");
}

#[test]
fn agent_that_holds_does_not_take_over_unfinished_runs() {
    let plan = sleeper();
    let mut job = Job::<u64>::new(&plan);
    job.push(0, (1, 42));
    job.test.run();
    job.advance(1);
    let mut agent = Agent::<Pair, String>::new("sleeper");
    agent.memory::<u64>("nights");
    agent.on_input("now", |_, _| Ok(()));
    let plan = agent.build().unwrap();
    let restored = Harness::<u64, Pair, String>::restored(&plan, |pair: &Pair| pair.0, 1, &job.facts);
    let failure = restored.err().unwrap();
    assert!(failure.message.contains("unfinished runs"), "{failure}");
}
