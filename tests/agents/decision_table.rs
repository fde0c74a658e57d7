//! D7: what becomes of one durable call in the start after a crash, by what was durable of it then.
//!
//! A row tells how often the call (`f`) was made and its reconciler (`g`) asked in the second start, how many notes that
//! start wrote, and what its action was given.

use std::fmt::Debug;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use serde::Serialize;
use serde::de::DeserializeOwned;
use timely_agents::testing::Harness;
use timely_agents::{Agent, CallFailure, Divergence, Error, Plan, Reconciled};
use timely_agents_operators::journal::Note;

use self::At::{Begun, Failed, Heard, Noted, Nowhere};
use self::Came::{Diverges, Fails, Found, Made};
use self::Change::{Arguments, Name, Same};
use self::Finds::{Done, Nobody, NotDone};
use crate::support::{Pair, Test, finish, values};

/// How far the call was when the process went away.
#[derive(Clone, Copy, Debug, PartialEq)]
enum At {
    /// Nothing is known of it.
    Nowhere,
    /// It had left; its end is not durable.
    Begun,
    /// Its end is durable, and nobody has heard of it.
    Noted,
    /// Its action had gone on with it.
    Heard,
    /// It had failed, and its action had gone on.
    Failed,
}

/// What the program calls after the crash.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Change {
    Same,
    Name,
    Arguments,
}

/// What the reconciler finds, if there is one.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Finds {
    Nobody,
    Done,
    NotDone,
}

/// What comes of it.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Came {
    /// What the call gives.
    Made,
    /// What the reconciler gives.
    Found,
    /// The failure of the call.
    Fails,
    /// The job stops, and says what differs.
    Diverges,
}

/// Reconciler, where the call was, what changes, and in lenient mode; then: calls, reconcilers, notes, what came.
type Row = (Finds, At, Change, bool, (u32, u32, usize), Came);

/// A call whose end is noted in one piece.
const PLAIN: [Row; 18] = [
    (Nobody, Nowhere, Same, false, (1, 0, 1), Made),
    (Nobody, Begun, Same, false, (1, 0, 1), Made),
    (Nobody, Noted, Same, false, (0, 0, 0), Made),
    (Nobody, Heard, Same, false, (0, 0, 0), Made),
    (Nobody, Failed, Same, false, (0, 0, 0), Fails),
    // Of such a call that has not ended nothing is noted that could differ.
    (Nobody, Begun, Name, false, (1, 0, 1), Made),
    (Nobody, Begun, Arguments, false, (1, 0, 1), Made),
    (Nobody, Noted, Name, false, (0, 0, 0), Diverges),
    (Nobody, Noted, Arguments, false, (0, 0, 0), Diverges),
    (Nobody, Heard, Name, false, (0, 0, 0), Diverges),
    (Nobody, Heard, Arguments, false, (0, 0, 0), Diverges),
    (Nobody, Failed, Name, false, (0, 0, 0), Diverges),
    (Nobody, Noted, Name, true, (1, 0, 1), Made),
    (Nobody, Noted, Arguments, true, (1, 0, 1), Made),
    (Nobody, Heard, Name, true, (1, 0, 1), Made),
    (Nobody, Heard, Arguments, true, (1, 0, 1), Made),
    (Nobody, Failed, Name, true, (1, 0, 1), Made),
    (Nobody, Failed, Arguments, true, (1, 0, 1), Made),
];

/// A call with a reconciler, whose beginning is noted too.
const RECONCILED: [Row; 21] = [
    (Done, Nowhere, Same, false, (1, 0, 2), Made),
    (NotDone, Nowhere, Same, false, (1, 0, 2), Made),
    (Done, Begun, Same, false, (0, 1, 1), Found),
    // That nothing was found, that the call leaves, and its end.
    (NotDone, Begun, Same, false, (1, 1, 3), Made),
    (Done, Noted, Same, false, (0, 0, 0), Made),
    (Done, Heard, Same, false, (0, 0, 0), Made),
    (NotDone, Heard, Same, false, (0, 0, 0), Made),
    (Done, Failed, Same, false, (0, 0, 0), Fails),
    // The reconciler of another call is not asked.
    (NotDone, Begun, Name, false, (0, 0, 0), Diverges),
    (Done, Begun, Name, false, (0, 0, 0), Diverges),
    (Done, Begun, Arguments, false, (0, 0, 0), Diverges),
    (Done, Noted, Name, false, (0, 0, 0), Diverges),
    (Done, Heard, Arguments, false, (0, 0, 0), Diverges),
    (Done, Failed, Name, false, (0, 0, 0), Diverges),
    // The journal is dropped, and the new call had not left: it is made.
    (NotDone, Begun, Name, true, (1, 0, 2), Made),
    (Done, Begun, Name, true, (1, 0, 2), Made),
    (Done, Begun, Arguments, true, (1, 0, 2), Made),
    (NotDone, Heard, Name, true, (1, 0, 2), Made),
    (NotDone, Heard, Arguments, true, (1, 0, 2), Made),
    (Done, Heard, Arguments, true, (1, 0, 2), Made),
    (NotDone, Failed, Name, true, (1, 0, 2), Made),
];

/// A program that makes one call, and the counts of it and of its reconciler.
struct Program {
    plan: Plan<Pair, String>,
    made: Arc<AtomicU32>,
    asked: Arc<AtomicU32>,
}

fn program<R>(finds: Finds, change: Change, lenient: bool, (value, found): (R, R)) -> Program
where
    R: Clone + Debug + Serialize + DeserializeOwned + Send + Sync + 'static,
{
    let (made, asked) = (Arc::new(AtomicU32::new(0)), Arc::new(AtomicU32::new(0)));
    let (calls, reconcilers) = (Arc::clone(&made), Arc::clone(&asked));
    let mut agent = Agent::<Pair, String>::new("asking");
    if lenient {
        agent.divergence(Divergence::Lenient);
    }
    agent.on_input_async("ask", async move |(_, i), ctx| {
        let name = if change == Name { "other" } else { "call" };
        let args = (*i, if change == Arguments { "other" } else { "same" });
        let (calls, value) = (Arc::clone(&calls), value.clone());
        let call = ctx.durable(name, args, async move |_| {
            calls.fetch_add(1, Ordering::Relaxed);
            value
        });
        let given = if finds == Nobody {
            call.await
        } else {
            let (reconcilers, found) = (Arc::clone(&reconcilers), found.clone());
            let find = move |_, _| {
                let (reconcilers, found) = (Arc::clone(&reconcilers), found.clone());
                async move {
                    reconcilers.fetch_add(1, Ordering::Relaxed);
                    if finds == Done { Reconciled::Done(found) } else { Reconciled::NotDone }
                }
            };
            call.reconcile(find).await
        };
        ctx.output(match given {
            Ok(value) => format!("{value:?}"),
            Err(error) => error.failure.to_string(),
        });
        Ok(())
    });
    Program { plan: agent.build().unwrap(), made, asked }
}

/// The notes that are durable when the process goes away.
fn first_start(plan: &Plan<Pair, String>, at: At) -> Vec<Note> {
    let mut test: Test<String> = Harness::new(plan, |pair: &Pair| pair.0).unwrap().journaled(1, []).unwrap();
    test.hold_notes();
    test.push(0, (7, 1));
    test.run();
    if at == Nowhere {
        return Vec::new();
    }
    // Its beginning, if that is noted.
    test.sync();
    test.run();
    let begun = test.notes().len();
    let id = test.calls()[0].id;
    if at == Failed {
        test.fail(id, down());
    } else {
        test.complete(id);
    }
    test.run();
    assert_eq!(values(&mut test), [] as [&str; 0], "nobody hears of what is not durable");
    assert_eq!(test.notes().len(), begun + 1);
    if at == Begun {
        return test.notes()[..begun].to_vec();
    }
    if at != Noted {
        test.sync();
        test.run();
        assert_eq!(values(&mut test).len(), 1);
    }
    test.notes().to_vec()
}

fn down() -> CallFailure {
    CallFailure::Panicked("down".into())
}

/// The next start, to its end.
fn next_start(plan: &Plan<Pair, String>, notes: &[Note]) -> (Test<String>, Vec<String>) {
    let test: Test<String> = Harness::new(plan, |pair: &Pair| pair.0).unwrap();
    let mut test = test.journaled(2, notes).unwrap().restored_by(0, |_| Ok(())).unwrap();
    test.push(0, (7, 1));
    test.run();
    while let Some(call) = test.calls().first().map(|call| call.id) {
        test.complete(call);
        test.run();
    }
    let values = values(&mut test);
    (test, values)
}

fn holds<R>(rows: &[Row], value: &R, found: &R)
where
    R: Clone + Debug + Serialize + DeserializeOwned + Send + Sync + 'static,
{
    for row @ (finds, at, change, lenient, counts, came) in rows {
        let both = || (value.clone(), found.clone());
        let notes = first_start(&program(*finds, Same, *lenient, both()).plan, *at);
        let second = program(*finds, *change, *lenient, both());
        let (mut test, values) = next_start(&second.plan, &notes);
        let count = |of: &AtomicU32| of.load(Ordering::Relaxed);
        let counted = (count(&second.made), count(&second.asked), test.notes().len());
        let came = match came {
            Made => format!("{value:?}"),
            Found => format!("{found:?}"),
            Fails => down().to_string(),
            Diverges => {
                let failure = test.failure().unwrap_or_else(|| panic!("{row:?}: the job goes on")).to_string();
                let now = if *change == Name { "call \"other\"" } else { "call \"call\"" };
                for part in ["it was call \"call\" with arguments of digest", now] {
                    assert!(failure.contains(part), "{row:?}: {failure}");
                }
                assert_eq!(failure.matches("digest").count(), 2, "{row:?}: {failure}");
                assert_eq!((counted, values), (*counts, vec![]), "{row:?}");
                continue;
            }
        };
        assert_eq!(test.failure(), None, "{row:?}");
        assert_eq!((counted, values), (*counts, vec![came]), "{row:?}");
        finish(&mut test);
        drop(test);
        let diverged = u64::from(*lenient && *change != Same);
        assert_eq!(second.plan.stats().diverged, diverged, "{row:?}");
    }
}

#[test]
fn call_without_a_reconciler_comes_to_what_the_table_says() {
    holds(&PLAIN, &7u64, &70);
    holds(&PLAIN, &(), &());
    holds(&PLAIN, &None, &Some(3u8));
    holds(&PLAIN, &Err::<u64, _>("refused".to_owned()), &Ok(1));
}

#[test]
fn call_with_a_reconciler_comes_to_what_the_table_says() {
    holds(&RECONCILED, &7u64, &70);
    holds(&RECONCILED, &(), &());
    holds(&RECONCILED, &None, &Some(3u8));
    holds(&RECONCILED, &Err::<u64, _>("refused".to_owned()), &Ok(1));
}

/// Three calls, one after the other, the second of which changes.
fn three(second: &'static str) -> Plan<Pair, String> {
    let mut agent = Agent::<Pair, String>::new("asking");
    agent.divergence(Divergence::Lenient);
    agent.on_input_async("ask", async move |(_, i), ctx| {
        for name in ["first", second, "third"] {
            ctx.durable(name, *i, async |_| ()).await?;
        }
        ctx.output("over".into());
        Ok(())
    });
    agent.build().unwrap()
}

#[test]
fn lenient_run_keeps_what_came_before_the_difference_and_asks_for_the_rest_again() {
    let plan = three("second");
    let (test, values) = next_start(&plan, &[]);
    assert_eq!((test.notes().len(), values), (3, vec!["over".to_owned()]));
    let notes = test.notes().to_vec();
    for (plan, made) in [(plan, 0), (three("other"), 2)] {
        let (test, values) = next_start(&plan, &notes);
        assert_eq!((test.notes().len(), values), (made, vec!["over".to_owned()]), "a note for each call");
    }
}

#[test]
fn failure_that_an_action_meets_a_turn_later_is_asked_for_again_at_the_next_start() {
    let mut agent = Agent::<Pair, String>::new("asking");
    agent.on_input_async("ask", async |(_, i), ctx| {
        let found = ctx.durable("ask", *i, async |_| Err::<u32, _>("refused".to_owned())).await?;
        ctx.sleep(Duration::from_secs(1)).await;
        ctx.output(found.map_err(Error::new)?.to_string());
        Ok(())
    });
    let plan = agent.build().unwrap();
    let (mut test, _) = next_start(&plan, &[]);
    test.pass(Duration::from_secs(1));
    assert_eq!(test.failure().unwrap().message, "refused");
    let notes = test.notes().to_vec();
    let test: Test<String> = Harness::new(&plan, |pair: &Pair| pair.0).unwrap();
    let mut test = test.journaled(2, &notes).unwrap().restored_by(0, |_| Ok(())).unwrap();
    test.tick(Duration::from_secs(1));
    test.push(0, (7, 1));
    test.run();
    assert_eq!(test.failure(), None);
    test.complete_with(test.calls()[0].id, &Ok::<_, String>(5u32));
    test.run();
    test.pass(Duration::from_secs(1));
    assert_eq!(values(&mut test), ["5"]);
    finish(&mut test);
}
