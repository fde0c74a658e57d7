//! D7: a call that had left when the process went away, and what its run asks for in the next start.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use futures::future::{Either, select};
use timely_agents::testing::Harness;
use timely_agents::{Agent, Divergence, Plan, Reconciled};
use timely_agents_operators::fact::{Fact, FactRef};
use timely_agents_operators::journal::Note;

use crate::support::{Pair, Test, call, names, values};

/// What the second action of a run does: a call of that name with that argument, or none.
type Asks = Option<(&'static str, i64)>;

/// A program, and how often its reconciler was asked.
struct Program {
    plan: Plan<Pair, String>,
    found: Arc<AtomicU32>,
}

impl Program {
    fn new(carry: bool, lenient: bool, asks: Asks) -> Self {
        let found = Arc::new(AtomicU32::new(0));
        let count = Arc::clone(&found);
        let mut agent = Agent::<Pair, String>::new("asking");
        if carry {
            agent.carry();
        }
        if lenient {
            agent.divergence(Divergence::Lenient);
        }
        agent.on_input_async("ask", async move |(_, i), ctx| {
            let first: i64 = ctx.durable("first", *i, async |i| i).await?;
            let Some((name, argument)) = asks else {
                ctx.sleep(Duration::from_secs(1)).await;
                ctx.output(format!("{first}"));
                return Ok(());
            };
            let count = Arc::clone(&count);
            let find = move |argument: i64, _| {
                count.fetch_add(1, Ordering::Relaxed);
                async move { Reconciled::Done(-argument) }
            };
            let second = ctx.durable(name, argument, async |argument| argument).reconcile(find).await?;
            ctx.output(format!("{first} {second}"));
            Ok(())
        });
        Program { plan: agent.build().unwrap(), found }
    }

    fn start(&self, generation: u64, notes: &[Note], facts: &[Fact<u64>], resume: u64) -> Test<String> {
        let test = Harness::new(&self.plan, |pair: &Pair| pair.0).unwrap().journaled(generation, notes).unwrap();
        let of_checkpoint = facts.iter().filter(|fact| fact.time < resume);
        let mut test = test
            .restored_by(resume, |take| {
                of_checkpoint.into_iter().try_for_each(|Fact { group, key, what, value, .. }| {
                    take(&FactRef { group: *group, key, what: what.clone(), value: value.as_deref() })
                })
            })
            .unwrap();
        test.hold_notes();
        test
    }

    fn found(&self) -> u32 {
        self.found.load(Ordering::Relaxed)
    }
}

/// All that is noted becomes durable, and runs go on.
fn sync(test: &mut Test<String>) {
    // The end of a call, and the start of the next.
    for _ in 0..2 {
        test.sync();
        test.run();
    }
}

fn complete(test: &mut Test<String>, name: &str) {
    test.complete(call(test, name));
    test.run();
    sync(test);
}

const SAME: Asks = Some(("second", 5));

/// A run whose second call has left, and is under way.
fn left(program: &Program) -> Test<String> {
    let mut test = program.start(1, &[], &[], 0);
    test.push(0, (7, 1));
    test.run();
    complete(&mut test, "first");
    assert_eq!(names(&test), ["second"], "its start is durable");
    test
}

/// What the run asks for instead, and what a report says of that.
const CHANGES: [(Asks, &str); 3] = [
    (Some(("other", 5)), "and is call \"other\" with arguments of digest "),
    (Some(("second", 6)), "and is call \"second\" with arguments of digest "),
    (None, "and is "),
];

#[test]
fn another_call_in_place_of_one_in_doubt_is_found_out() {
    for carry in [false, true] {
        let mut first = left(&Program::new(carry, false, SAME));
        let facts = if carry {
            first.advance(1);
            first.run();
            first.facts()
        } else {
            Vec::new()
        };
        let noted = first.notes().to_vec();
        for (asks, report) in CHANGES {
            let second = Program::new(carry, false, asks);
            let (notes, resume) = if carry { (&[][..], 1) } else { (&noted[..], 0) };
            let mut test = second.start(2, notes, &facts, resume);
            if !carry {
                test.push(0, (7, 1));
            }
            test.run();
            let failure =
                test.failure().unwrap_or_else(|| panic!("carry {carry}, {asks:?}: the job goes on")).to_string();
            let place = "run 1 of the key does not go the way of its journal: action \"ask\", wait 1: it was call \
                         \"second\" with arguments of digest ";
            for part in [place, report] {
                assert!(failure.contains(part), "carry {carry}, {asks:?}: {failure}");
            }
            assert_eq!((names(&test).len(), second.found()), (0, 0), "nothing leaves, and nobody is asked");
            // A lenient one makes it anew, and asks nobody about what had not left.
            let second = Program::new(carry, true, asks);
            let mut test = second.start(2, notes, &facts, resume);
            if !carry {
                test.push(0, (7, 1));
            }
            test.run();
            assert_eq!(test.failure(), None);
            sync(&mut test);
            match asks {
                Some((name, argument)) => {
                    complete(&mut test, name);
                    assert_eq!(values(&mut test), [format!("1 {argument}")], "carry {carry}, {asks:?}");
                }
                None => {
                    test.pass(Duration::from_secs(1));
                    assert_eq!(values(&mut test), ["1"], "carry {carry}");
                }
            }
            assert_eq!(second.found(), 0, "carry {carry}, {asks:?}");
            drop(test);
            assert_eq!(second.plan.stats().diverged, 1, "carry {carry}, {asks:?}");
        }
    }
}

#[test]
fn call_that_a_lenient_run_makes_anew_is_in_doubt_by_what_it_asks() {
    let first = left(&Program::new(false, true, SAME));
    let changed = Program::new(false, true, Some(("other", 6)));
    let mut second = changed.start(2, first.notes(), &[], 0);
    second.push(0, (7, 1));
    second.run();
    sync(&mut second);
    assert_eq!((names(&second), changed.found()), (vec!["other".to_owned()], 0));
    let third = Program::new(false, false, Some(("other", 6)));
    let mut test = third.start(3, second.notes(), &[], 0);
    test.push(0, (7, 1));
    test.run();
    complete(&mut test, "other");
    assert_eq!((values(&mut test), third.found(), test.failure()), (vec!["1 -6".to_owned()], 1, None));
}

#[test]
fn call_that_was_in_doubt_before_a_commit_is_so_after_it() {
    let program = Program::new(true, false, SAME);
    let first = left(&program);
    let mut second = program.start(2, first.notes(), &[], 0);
    second.push(0, (7, 1));
    second.run();
    assert_eq!((names(&second), program.found()), (vec!["second".to_owned()], 1), "the reconciler is asked");
    second.advance(1);
    second.run();
    let facts = second.facts();
    // The notes went with the commit.
    let mut third = program.start(3, &[], &facts, 1);
    third.run();
    complete(&mut third, "second");
    assert_eq!((values(&mut third), program.found()), (vec!["1 -5".to_owned()], 2));
}

/// Two calls side by side, of which the second to end is given up, and then another wait.
fn racing(carry: bool) -> Plan<Pair, String> {
    let mut agent = Agent::<Pair, String>::new("asking");
    if carry {
        agent.carry();
    }
    agent.on_input_async("ask", async move |(_, i), ctx| {
        let ask = |name| ctx.durable(name, *i, async |i| i).reconcile(async |i, _| Reconciled::Done(-i));
        let won = match select(ask("left"), ask("right")).await {
            Either::Left((won, _)) | Either::Right((won, _)) => won?,
        };
        let last: i64 = ctx.durable("last", won, async |i| i).await?;
        ctx.output(format!("{won} {last}"));
        Ok(())
    });
    agent.build().unwrap()
}

#[test]
fn call_that_had_left_and_was_given_up_is_no_difference() {
    for carry in [false, true] {
        let program = Program { plan: racing(carry), found: Arc::default() };
        let mut first = program.start(1, &[], &[], 0);
        first.push(0, (7, 1));
        first.run();
        sync(&mut first);
        complete(&mut first, "right");
        assert_eq!(names(&first), ["last"]);
        let mut notes = first.notes().to_vec();
        let (mut facts, mut resume) = (Vec::new(), 0);
        if carry {
            first.advance(1);
            first.run();
            (facts, resume) = (first.facts(), 1);
            // With notes of what came behind the checkpoint, and without.
            complete(&mut first, "last");
            let behind = first.notes()[notes.len()..].to_vec();
            let mut test = program.start(2, &behind, &facts, resume);
            test.run();
            assert_eq!(test.failure(), None);
            assert_eq!(values(&mut test), ["1 1"]);
            notes.clear();
        }
        let mut test = program.start(2, &notes, &facts, resume);
        if !carry {
            test.push(0, (7, 1));
        }
        test.run();
        assert_eq!(test.failure(), None, "carry {carry}");
        complete(&mut test, "last");
        assert_eq!(values(&mut test), ["1 1"], "carry {carry}");
    }
}
