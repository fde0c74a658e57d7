//! S8, D7: a failure that stops the job. The next start tries again; what the failure may be due to is asked for again, and
//! what was paid for is kept.

use std::collections::BTreeSet;

use futures::future::{Either, join, join3, select};
use timely_agents::testing::{CallId, Harness};
use timely_agents::{Agent, CallFailure, Ctx, Durability, Durable, Error, Plan, Signal};
use timely_agents_operators::fact::{Fact, FactRef};
use timely_agents_operators::journal::Note;

use crate::support::{Pair, Ping, Test, values};

type Answer = Result<i64, String>;

/// What an action does with its calls `a`, `b` and `c`, behind a call that gives what was paid for.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Way {
    /// Asks for `a` and `b` side by side, and then looks.
    Joined,
    /// The same with a third, which is the last to end.
    Three,
    /// Asks for `a` and `b` side by side, looks at neither before it has both, in the order in which they end.
    Selected,
    /// Asks for `a` and `b` side by side, and fails of a `b` below 0, whatever `a` is.
    Handled,
    /// Makes do without `a`, asks for `b` and then for `c`, of which it fails.
    Fallback,
    /// Keeps what `a` gave until it has `b`.
    Stored,
}

type Call = Durable<i64, fn(i64) -> std::future::Ready<Answer>, Answer>;

async fn ask(way: Way, durability: Durability, i: i64, ctx: &Ctx<String>) -> Result<(), Error> {
    let made: fn(i64) -> _ = |i| std::future::ready(Ok::<i64, String>(i));
    let of = |name: &'static str| -> Call { ctx.durable(name, i, made).durability(durability) };
    let paid: i64 = ctx.durable("paid", i, async |i| i).await?;
    let (a, b) = match way {
        Way::Joined => {
            let (a, b) = join(of("a"), of("b")).await;
            (a?.map_err(Error::new)?, b?.map_err(Error::new)?)
        }
        Way::Three => {
            let (a, b, c) = join3(of("a"), of("b"), of("c")).await;
            (a?.map_err(Error::new)?, b?.map_err(Error::new)? + c?.map_err(Error::new)?)
        }
        Way::Selected => {
            let (a, b) = match select(of("a"), of("b")).await {
                Either::Left((a, b)) => (a?, b.await?),
                Either::Right((b, a)) => (a.await?, b?),
            };
            (a.map_err(Error::new)?, b.map_err(Error::new)?)
        }
        Way::Handled => {
            let (a, b) = join(of("a"), of("b")).await;
            let b = b?.ok().filter(|b| *b >= 0).ok_or_else(|| Error::new("b is no number"))?;
            (a?.unwrap_or(0), b)
        }
        Way::Fallback => {
            let a = of("a").await?.unwrap_or(0);
            let b = of("b").await?.map_err(Error::new)?;
            (a, b + of("c").await?.map_err(Error::new)?)
        }
        Way::Stored => {
            let a = of("a").await?;
            let b = of("b").await?.map_err(Error::new)?;
            (a.map_err(Error::new)?, b)
        }
    };
    ctx.output(format!("{paid} {a} {b}"));
    Ok(())
}

fn plan(way: Way, durability: Durability, carry: bool) -> Plan<Pair, String> {
    let mut agent = Agent::<Pair, String>::new("asking");
    if carry {
        agent.carry();
    }
    agent.on_input_async("ask", async move |(_, i), ctx| ask(way, durability, *i, ctx).await);
    agent.build().unwrap()
}

/// The starts of a job. Under Carry what is unfinished is committed in each, once its calls have left.
struct Lives {
    plan: Plan<Pair, String>,
    carry: bool,
    number: u64,
    notes: Vec<Note>,
    facts: Vec<Fact<u64>>,
    resume: u64,
}

impl Lives {
    fn new(way: Way, durability: Durability, carry: bool) -> Self {
        let plan = plan(way, durability, carry);
        Lives { plan, carry, number: 0, notes: Vec::new(), facts: Vec::new(), resume: 0 }
    }

    fn start(&mut self, keys: u64) -> Test<String> {
        self.number += 1;
        let test = Harness::new(&self.plan, |pair: &Pair| pair.0).unwrap().journaled(self.number, &self.notes).unwrap();
        let (resume, facts) = (self.resume, &self.facts);
        let mut test = test
            .restored_by(resume, |take| {
                let of_checkpoint = facts.iter().filter(|fact| fact.time < resume);
                of_checkpoint.into_iter().try_for_each(|Fact { group, key, what, value, .. }| {
                    take(&FactRef { group: *group, key, what: what.clone(), value: value.as_deref() })
                })
            })
            .unwrap();
        if resume == 0 {
            (0..keys).for_each(|key| test.push(0, (key, 1)));
        }
        test.run();
        if self.carry && self.number > 1 {
            self.resume += 1;
            test.advance(self.resume);
            test.run();
            self.facts.extend(test.facts());
        }
        test
    }

    /// A start in which calls end so, in this order, as far as it makes them; all that it has made, and what came of it.
    fn live(&mut self, ends: &[(&str, Answer)]) -> (BTreeSet<String>, Result<String, String>) {
        let mut test = self.start(1);
        let mut made = BTreeSet::new();
        let mut ended: Vec<CallId> = Vec::new();
        for (name, answer) in ends {
            let calls: Vec<_> = test.calls().into_iter().filter(|call| !ended.contains(&call.id)).collect();
            made.extend(calls.iter().map(|call| call.name.clone()));
            let Some(id) = calls.iter().find(|call| call.name == *name).map(|call| call.id) else { continue };
            ended.push(id);
            match (*name, answer) {
                ("paid", answer) => test.complete_with(id, answer.as_ref().unwrap()),
                (_, Err(error)) if error == "lost" => test.fail(id, CallFailure::Panicked("lost".into())),
                (_, answer) => test.complete_with(id, answer),
            }
            test.run();
        }
        self.notes.extend_from_slice(test.notes());
        self.notes.retain(|note| note.epoch >= self.resume);
        made.extend(test.calls().into_iter().map(|call| call.name));
        let came = match test.failure() {
            Some(failure) => Err(failure.message.clone()),
            None => Ok(values(&mut test).concat()),
        };
        (made, came)
    }

    /// All forms in which that is so.
    fn each(way: Way, mut holds: impl FnMut(Lives)) {
        for durability in [Durability::Eager, Durability::WithEpoch] {
            for carry in [false, true] {
                holds(Lives::new(way, durability, carry));
            }
        }
    }

    /// The next start makes these calls, and fails of that.
    fn fails(&mut self, ends: &[(&str, Answer)], made: &[&str], of: &str) {
        let (calls, came) = self.live(ends);
        assert_eq!(
            calls,
            made.iter().map(|name| (*name).to_owned()).collect(),
            "start {}, carry {}",
            self.number,
            self.carry
        );
        let failure = came.unwrap_err();
        assert!(failure.contains(of), "start {}, carry {}: {failure}", self.number, self.carry);
    }

    /// The next start makes these calls, and puts that out.
    fn ends(&mut self, ends: &[(&str, Answer)], made: &[&str], with: &str) {
        let (calls, came) = self.live(ends);
        assert_eq!(
            calls,
            made.iter().map(|name| (*name).to_owned()).collect(),
            "start {}, carry {}",
            self.number,
            self.carry
        );
        assert_eq!(came.as_deref(), Ok(with), "start {}, carry {}", self.number, self.carry);
    }
}

fn busy() -> Answer {
    Err("busy".into())
}

const PAID: (&str, Answer) = ("paid", Ok(1));

#[test]
fn error_that_came_before_the_end_of_a_joined_call_is_asked_for_again_and_nothing_else() {
    for way in [Way::Joined, Way::Selected] {
        Lives::each(way, |mut lives| {
            lives.fails(&[PAID, ("a", busy()), ("b", Ok(10))], &["paid", "a", "b"], "busy");
            lives.fails(&[("a", busy())], &["a"], "busy");
            lives.ends(&[("a", Ok(3))], &["a"], "1 3 10");
        });
        // The other one comes first.
        Lives::each(way, |mut lives| {
            lives.fails(&[PAID, ("b", Ok(10)), ("a", busy())], &["paid", "a", "b"], "busy");
            lives.ends(&[("a", Ok(3))], &["a"], "1 3 10");
        });
    }
    // Two errors, and one that has no value.
    Lives::each(Way::Three, |mut lives| {
        lives.fails(&[PAID, ("a", busy()), ("b", Err("lost".into())), ("c", Ok(10))], &["paid", "a", "b", "c"], "busy");
        lives.fails(&[("b", Ok(5)), ("a", busy())], &["a", "b"], "busy");
        lives.ends(&[("a", Ok(3))], &["a"], "1 3 15");
    });
}

#[test]
fn error_that_lasts_has_what_was_joined_with_it_asked_for_again_ever_more_seldom() {
    Lives::each(Way::Joined, |mut lives| {
        lives.fails(&[PAID, ("a", busy()), ("b", Ok(10))], &["paid", "a", "b"], "busy");
        let mut both = Vec::new();
        for start in 2..=18 {
            let (made, came) = lives.live(&[("a", busy()), ("b", Ok(start))]);
            assert!(made.contains("a") && came.unwrap_err() == "busy", "start {start}");
            both.extend(made.contains("b").then_some(start));
        }
        assert_eq!(both, [5, 9, 17], "after the 4th failure, the 8th and the 16th");
    });
}

#[test]
fn result_that_is_no_error_is_asked_for_again_though_an_error_was_handled_beside_it() {
    Lives::each(Way::Handled, |mut lives| {
        lives.fails(&[PAID, ("a", busy()), ("b", Ok(-1))], &["paid", "a", "b"], "b is no number");
        for _ in 0..3 {
            lives.fails(&[("a", busy())], &["a"], "b is no number");
        }
        lives.ends(&[("a", busy()), ("b", Ok(4))], &["a", "b"], "1 0 4");
    });
}

#[test]
fn errors_that_were_handled_and_what_was_paid_for_are_kept() {
    Lives::each(Way::Fallback, |mut lives| {
        lives.fails(&[PAID, ("a", busy()), ("b", Ok(10)), ("c", busy())], &["paid", "a", "b", "c"], "busy");
        for _ in 0..2 {
            lives.fails(&[("c", busy())], &["c"], "busy");
        }
        lives.ends(&[("c", Ok(5))], &["c"], "1 0 15");
    });
    // A call without a result is asked for again in any case.
    Lives::each(Way::Fallback, |mut lives| {
        lives.fails(&[PAID, ("a", Ok(2)), ("b", Err("lost".into()))], &["paid", "a", "b"], "lost");
        lives.ends(&[("b", Ok(10)), ("c", Ok(5))], &["b", "c"], "1 2 15");
    });
}

#[test]
fn error_that_was_put_aside_stops_no_more_than_two_starts() {
    Lives::each(Way::Stored, |mut lives| {
        lives.fails(&[PAID, ("a", busy()), ("b", Ok(10))], &["paid", "a", "b"], "busy");
        lives.fails(&[("b", Ok(10))], &["b"], "busy");
        lives.ends(&[("a", Ok(3)), ("b", Ok(11))], &["a", "b"], "1 3 11");
    });
}

#[test]
fn one_start_frees_all_runs_of_recorded_errors() {
    for carry in [false, true] {
        let mut lives = Lives::new(Way::Joined, Durability::Eager, carry);
        let mut test = lives.start(3);
        test.hold_notes();
        for name in ["paid", "a", "b"] {
            for call in test.calls().into_iter().filter(|call| call.name == name) {
                match name {
                    "paid" => test.complete_with(call.id, &1i64),
                    "a" => test.complete_with(call.id, &busy()),
                    _ => test.complete_with(call.id, &Ok::<i64, String>(10)),
                }
            }
            test.run();
            test.sync();
            test.run();
        }
        assert_eq!(test.failure().unwrap().message, "busy", "the first of three runs stops the job");
        lives.notes = test.notes().to_vec();
        let mut test = lives.start(3);
        assert_eq!(test.failure(), None);
        let calls = test.calls();
        assert_eq!(calls.iter().map(|call| &*call.name).collect::<Vec<_>>(), ["a"; 3], "carry {carry}");
        for call in calls {
            test.complete_with(call.id, &Ok::<i64, String>(3));
        }
        test.run();
        assert_eq!(values(&mut test), ["1 3 10"; 3], "carry {carry}");
    }
}

#[test]
fn signal_that_an_attempt_had_taken_which_stopped_the_job_is_there_for_the_next() {
    let mut agent = Agent::<Pair, String>::new("asking");
    agent.carry();
    agent.waits_for::<Ping>("go");
    agent.on_input_async("ask", async |(_, i), ctx| {
        let Ping(n) = ctx.wait_for::<Ping>("go").await?;
        let found = ctx.durable("a", *i, async |i| Ok::<i64, String>(i)).await?;
        ctx.output(format!("{n} {}", found.map_err(Error::new)?));
        Ok(())
    });
    let plan = agent.build().unwrap();
    // Where the signal was committed with the run that took it, and where it comes again.
    for committed in [false, true] {
        let mut lives = Lives { plan: plan.clone(), ..Lives::new(Way::Joined, Durability::Eager, false) };
        let mut test = lives.start(1);
        test.signal(0, Signal::new(0, "go", &Ping(7)));
        test.run();
        if committed {
            lives.resume = 1;
            test.advance(1);
            test.run();
            lives.facts = test.facts();
        }
        test.complete_with(test.calls()[0].id, &busy());
        test.run();
        assert_eq!(test.failure().unwrap().message, "busy");
        lives.notes = test.notes().to_vec();
        let mut test = lives.start(1);
        if !committed {
            test.signal(0, Signal::new(0, "go", &Ping(7)));
            test.run();
        }
        let calls = test.calls();
        assert_eq!(calls.len(), 1, "committed {committed}: it has its signal");
        test.complete_with(calls[0].id, &Ok::<i64, String>(3));
        test.run();
        assert_eq!(values(&mut test), ["7 3"], "committed {committed}");
        assert_eq!(test.signals(&0, "go"), 0, "it is taken once");
    }
}
