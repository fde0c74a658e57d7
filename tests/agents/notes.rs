//! Durable calls (D7, D8): what was noted is not asked for again, whatever crashes and in whatever order inputs return.
//!
//! A crash is a harness that is dropped; what remains are the facts of closed epochs, and a beginning of the notes that has
//! all that were durable. Calls give another value each time that they are made, as models do: a call that is made again is
//! found out by its value, and so is a run that takes another's.
//!
//! # Not checked
//! - Files, processes and real calls: `tests/crash` does.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use timely_agents::testing::Harness;
use timely_agents::{Agent, Durability, Error, Plan, Retry, Slot};
use timely_agents_operators::fact::Fact;
use timely_agents_operators::journal::Note;
use timely_agents_operators::time::{EpochTime, Stamp};

use crate::support::{Pair, Ping};

type Test<T> = Harness<u64, Pair, String, T>;

/// Calls whose arguments come from all that a replay has to bring back: results, memory, the clock, other calls.
fn asking(carry: bool) -> (Plan<Pair, String>, Slot<u64>) {
    let mut agent = Agent::<Pair, String>::new("asking");
    let count = agent.memory::<u64>("count");
    if carry {
        agent.carry();
    }
    agent.on_input_async("ask", async move |(_, i), ctx| {
        let n = ctx.update(count, |n| {
            *n += 1;
            *n
        });
        if i % 4 == 3 {
            ctx.output(format!("{i} {n} quiet"));
            return Ok(());
        }
        let first: i64 = ctx.durable(format!("a {i}"), (*i, n), async |_| 0).await?;
        ctx.send(Ping(*i));
        ctx.flush().await;
        let at = ctx.now();
        let b: i64 = ctx.durable(format!("b {i}"), (first, n, at), async |_| 0).await?;
        let c: i64 = ctx.call("c", async || 0).await?;
        ctx.sleep(Duration::from_secs(1)).await;
        let d: i64 = ctx.durable(format!("d {i}"), (b, c), async |_| 0).await?;
        ctx.output(format!("{i} {n} {first} {b} {c} {d}"));
        Ok(())
    });
    agent
        .on_async::<Ping>("follow", async |Ping(i), ctx| {
            let (e, f) = futures::join!(
                ctx.durable(format!("e {i} {}", ctx.attempt()), *i, async |_| 0i64),
                ctx.durable(format!("f {i} {}", ctx.attempt()), *i, async |_| 0i64).durability(Durability::WithEpoch)
            );
            if ctx.attempt() == 1 && i % 5 == 0 {
                return Err(Error::new("the first attempt fails"));
            }
            ctx.output(format!("{i} ping {} {}", e?, f?));
            Ok(())
        })
        .on_failure(Retry::new(2).backoff(Duration::from_secs(2)));
    (agent.build().unwrap(), count)
}

/// Numbers that look random, the same for a seed.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % sides
    }
}

struct Job<T: EpochTime> {
    plan: Plan<Pair, String>,
    test: Test<T>,
    generation: u64,
    inputs: Vec<(T, Pair)>,
    facts: Vec<Fact<T>>,
    /// Notes of earlier starts that remain, and how many of this one's are durable.
    notes: Vec<Note>,
    durable: usize,
    /// Calls that ended, with the note of it in this start; and those of which it was durable.
    ended: Vec<(usize, String)>,
    noted: BTreeSet<String>,
    staged: Vec<(T, String)>,
    published: Vec<(T, String)>,
    epoch: u64,
    clock: Duration,
    /// What calls gave, in order: each value is new.
    given: i64,
}

impl<T: EpochTime> Job<T> {
    fn new(plan: &Plan<Pair, String>) -> Self {
        let mut test = Harness::over_time(plan, |pair: &Pair| pair.0).unwrap().journaled(1, []).unwrap();
        test.hold_notes();
        Job {
            plan: plan.clone(),
            test,
            generation: 1,
            inputs: Vec::new(),
            facts: Vec::new(),
            notes: Vec::new(),
            durable: 0,
            ended: Vec::new(),
            noted: BTreeSet::new(),
            staged: Vec::new(),
            published: Vec::new(),
            epoch: 0,
            clock: Duration::ZERO,
            given: 0,
        }
    }

    fn collect(&mut self) {
        self.staged.extend(self.test.outputs().into_iter().map(|(time, _, value)| (time, value)));
        self.facts.append(&mut self.test.facts());
    }

    fn sync(&mut self) {
        self.durable = self.test.notes().len();
        self.noted.extend(self.ended.drain(..).map(|(_, name)| name));
        self.test.sync();
    }

    /// Closes epochs; commits what the facts' frontier has passed.
    fn advance(&mut self, to: u64) {
        self.test.advance(to);
        while self.test.step() {}
        self.commit();
    }

    fn commit(&mut self) {
        self.collect();
        let frontier = self.test.facts_frontier().iter().map(EpochTime::epoch).min().unwrap_or(u64::MAX);
        let frontier = frontier.min(self.test.frontier().iter().map(EpochTime::epoch).min().unwrap_or(u64::MAX));
        self.epoch = self.epoch.max(frontier);
        self.test.commit(self.epoch);
        let (over, open) = std::mem::take(&mut self.staged).into_iter().partition(|(time, _)| time.epoch() < frontier);
        self.published.extend::<Vec<_>>(over);
        self.staged = open;
    }

    /// Loses what is not durable. Inputs come again in an order of their own.
    fn crash(&mut self, dice: &mut Dice) {
        self.collect();
        let resume = self.epoch;
        self.staged.clear();
        self.facts.retain(|fact| fact.time.epoch() < resume);
        let made = self.test.notes();
        let kept = self.durable + dice.roll((made.len() - self.durable) as u64 + 1) as usize;
        self.notes.extend_from_slice(&made[..kept]);
        let remains = self.ended.drain(..).filter(|(note, _)| *note < kept);
        self.noted.extend(remains.map(|(_, name)| name));
        if dice.roll(2) == 0 {
            self.notes.retain(|note| note.epoch >= resume);
        }
        self.durable = 0;
        self.generation += 1;
        let test = Harness::over_time(&self.plan, |pair: &Pair| pair.0).unwrap();
        let facts = &self.facts;
        self.test = test
            .journaled(self.generation, &self.notes)
            .unwrap()
            .restored_by(resume, |take| {
                for Fact { group, key, what, value, .. } in facts {
                    let what = what.clone();
                    take(&timely_agents_operators::fact::FactRef {
                        group: *group,
                        key,
                        what,
                        value: value.as_deref(),
                    })?;
                }
                Ok(())
            })
            .unwrap();
        self.test.hold_notes();
        self.test.tick(self.clock);
        let mut again: Vec<_> = self.inputs.iter().filter(|(time, _)| time.epoch() >= resume).cloned().collect();
        for at in (1..again.len()).rev() {
            again.swap(at, dice.roll(at as u64 + 1) as usize);
        }
        again.sort_by_key(|(time, _)| time.epoch());
        for (time, pair) in again {
            self.test.push_at(time, pair);
        }
    }

    fn complete(&mut self, which: u64) {
        let calls = self.test.calls();
        if !calls.is_empty() {
            self.given += 1;
            let call = &calls[(which % calls.len() as u64) as usize];
            assert!(!self.noted.contains(&call.name), "{} is made again", call.name);
            self.test.complete_with(call.id, &self.given);
            let before = self.test.notes().len();
            self.test.step();
            if self.test.notes().len() > before {
                self.ended.push((before, call.name.clone()));
            }
        }
    }

    fn finish(&mut self) -> Vec<String> {
        self.test.end();
        for _ in 0..2_000 {
            self.test.run();
            self.sync();
            while !self.test.calls().is_empty() {
                self.complete(0);
                self.test.run();
                self.sync();
            }
            self.test.run();
            if self.test.is_closed() {
                break;
            }
            assert!(self.test.failure().is_none(), "{:?}", self.test.failure());
            self.test.pass(Duration::from_secs(1));
        }
        assert!(self.test.is_closed(), "work is left: {:?}", self.test.load());
        self.collect();
        self.published.append(&mut self.staged);
        self.published.iter().map(|(_, value)| value.clone()).collect()
    }
}

fn crash_at_random<T: EpochTime>(carry: bool, seeds: std::ops::Range<u64>) {
    for seed in seeds {
        let (plan, count) = asking(carry);
        let mut dice = Dice(seed);
        let mut job = Job::<T>::new(&plan);
        let mut made: BTreeMap<u64, Vec<i64>> = BTreeMap::new();
        let (mut next, mut open, mut top) = (0, 0, 0);
        for _ in 0..250 {
            match dice.roll(12) {
                0 | 1 => {
                    let key = dice.roll(3);
                    // A source never sends what is new before what it has sent.
                    top = top.max(open).max(job.epoch);
                    let time = T::minimum().with_epoch(top);
                    job.inputs.push((time.clone(), (key, next)));
                    job.test.push_at(time, (key, next));
                    made.entry(key).or_default().push(next);
                    next += 1;
                }
                2 => {
                    open = open.max(job.epoch) + 1;
                    job.advance(open);
                }
                3..=5 => job.complete(dice.roll(1000)),
                6 => {
                    job.clock += Duration::from_secs(1);
                    job.test.tick(Duration::from_secs(1));
                }
                7 | 8 => job.sync(),
                _ => {
                    job.test.step();
                    assert!(job.test.failure().is_none(), "seed {seed}: {:?}", job.test.failure());
                }
            }
            if dice.roll(30) == 0 {
                job.commit();
                job.crash(&mut dice);
                open = job.epoch;
            }
        }
        let values = job.finish();
        check(seed, &values, &made);
        for (key, inputs) in &made {
            assert_eq!(job.test.memory(key, count), Some(inputs.len() as u64), "seed {seed}");
        }
    }
}

/// Each input has put out once, and no value of a call is in two of them.
fn check(seed: u64, values: &[String], made: &BTreeMap<u64, Vec<i64>>) {
    let mut seen = BTreeSet::new();
    let mut puts: BTreeMap<(i64, bool), Vec<&str>> = BTreeMap::new();
    let mut numbers: BTreeMap<u64, BTreeSet<u64>> = BTreeMap::new();
    for value in values {
        let words: Vec<&str> = value.split(' ').collect();
        let i: i64 = words[0].parse().unwrap();
        let ping = words[1] == "ping";
        puts.entry((i, ping)).or_default().push(value);
        if !ping {
            let key = made.iter().find(|(_, inputs)| inputs.contains(&i)).map(|(key, _)| *key).unwrap();
            assert!(numbers.entry(key).or_default().insert(words[1].parse().unwrap()), "seed {seed}: {value}");
        }
        for word in &words[2..] {
            if *word != "quiet" {
                assert!(seen.insert(word.parse::<i64>().unwrap()), "seed {seed}: {value:?} has a value of another");
            }
        }
    }
    for i in made.values().flatten() {
        assert_eq!(puts.remove(&(*i, false)).map(|of_it| of_it.len()), Some(1), "seed {seed}: input {i} puts out once");
        let pings = puts.remove(&(*i, true)).map(|of_it| of_it.len());
        assert_eq!(pings, (i % 4 != 3).then_some(1), "seed {seed}: so does its event");
    }
    assert!(puts.is_empty(), "seed {seed}: {puts:?}");
}

/// How many seeds there are; `AGENTS_CARRY_SEEDS` says otherwise.
fn seeds() -> u64 {
    std::env::var("AGENTS_CARRY_SEEDS").ok().and_then(|seeds| seeds.parse().ok()).unwrap_or(60)
}

#[test]
fn noted_calls_outlive_crashes_at_random_under_hold() {
    crash_at_random::<u64>(false, 0..seeds());
}

#[test]
fn noted_calls_outlive_crashes_at_random_under_carry() {
    crash_at_random::<u64>(true, 2_000_000..2_000_000 + seeds());
}

#[test]
fn noted_calls_over_stamps_outlive_crashes_at_random() {
    crash_at_random::<Stamp>(true, 3_000_000..3_000_000 + seeds());
    crash_at_random::<Stamp>(false, 4_000_000..4_000_000 + seeds());
}

#[test]
fn crash_in_a_pause_before_the_epoch_is_committed_keeps_the_time_of_the_next_attempt() {
    let mut agent = Agent::<Pair, String>::new("trying");
    agent.on_input_async("ask", async |(_, i), ctx| {
        let retry = Retry::new(3).backoff(Duration::from_secs(10));
        ctx.output(ctx.durable("ask", *i, async |i| i).retry(retry).await?.to_string());
        Ok(())
    });
    let plan = agent.build().unwrap();
    let open = |generation, notes: &[Note], now| {
        let test = Harness::<u64, Pair, String>::new(&plan, |pair: &Pair| pair.0).unwrap();
        let mut test = test.journaled(generation, notes).unwrap().restored_by(0, |_| Ok(())).unwrap();
        test.tick(now);
        test.push(0, (1, 7));
        test.run();
        test
    };
    let mut first = open(1, &[], Duration::from_secs(100));
    first.fail(first.calls()[0].id, timely_agents_operators::completion::CallFailure::Panicked("no".into()));
    first.run();
    assert_eq!(first.notes().len(), 1);
    let mut second = open(2, first.notes(), Duration::from_secs(104));
    assert!(second.calls().is_empty(), "the first attempt is over");
    second.pass(Duration::from_secs(5));
    assert!(second.calls().is_empty(), "ten seconds after the failure, not after the crash");
    second.pass(Duration::from_secs(1));
    assert_eq!(second.calls().len(), 1);
    second.complete_with(second.calls()[0].id, &5i64);
    second.end();
    second.run();
    assert_eq!(second.outputs().into_iter().map(|(_, _, value)| value).collect::<Vec<_>>(), ["5"]);
}
