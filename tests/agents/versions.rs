//! Versions of actions (D7, D8): a run goes on with the code that it began with, or not at all.

use timely_agents::testing::Harness;
use timely_agents::{Agent, Plan, Signal, VersionChange};
use timely_agents_operators::fact::Fact;
use timely_agents_operators::journal::Note;

use crate::support::{Pair, Ping, Test, finish, names, values};

/// Asks once before and once after an event, in actions of these versions.
fn asking(first: u32, second: u32, then: VersionChange) -> Plan<Pair, String> {
    let mut agent = Agent::<Pair, String>::new("asking");
    agent.carry();
    agent.on_version_change(then);
    let runs = agent.memory::<u64>("runs");
    agent
        .on_input_async("first", async move |(_, i), ctx| {
            ctx.update(runs, |n| *n += 1);
            let a = ctx.durable("a", *i, async |i| i * 10).await?;
            ctx.output(format!("a {a} by {first}, run {}", ctx.get(runs).unwrap_or(0)));
            ctx.send(Ping(a));
            Ok(())
        })
        .version(first);
    agent
        .on_async::<Ping>("second", async move |Ping(a), ctx| {
            let b = ctx.durable("b", *a, async |a| a + 1).await?;
            ctx.output(format!("b {b} by {second}"));
            Ok(())
        })
        .version(second);
    agent.build().unwrap()
}

/// The facts of a run whose first action is over, if `calls` is 1, or not, if it is 0; another input waits.
fn begun(calls: usize) -> Vec<Fact<u64>> {
    let mut test = Harness::new(&asking(1, 1, VersionChange::Refuse), |pair: &Pair| pair.0).unwrap();
    test.push(0, (7, 1));
    test.push(0, (7, 2));
    test.run();
    for _ in 0..calls {
        test.complete(test.calls()[0].id);
        test.run();
    }
    test.advance(1);
    test.step();
    test.facts()
}

fn go_on(plan: &Plan<Pair, String>, facts: &[Fact<u64>]) -> Result<Test<String>, String> {
    Harness::restored(plan, |pair: &Pair| pair.0, 1, facts).map_err(|failure| failure.to_string())
}

fn outputs(test: &mut Test<String>) -> Vec<String> {
    test.run();
    while let Some(call) = test.calls().first().map(|call| call.id) {
        test.complete(call);
        test.run();
    }
    let outputs = values(test);
    finish(test);
    outputs
}

#[test]
fn run_goes_on_where_its_actions_are_of_the_same_versions() {
    let mut test = go_on(&asking(1, 1, VersionChange::Refuse), &begun(1)).unwrap();
    assert_eq!(outputs(&mut test), ["b 11 by 1", "a 20 by 1, run 2", "b 21 by 1"]);
    // The second action had not started.
    let mut test = go_on(&asking(1, 2, VersionChange::Refuse), &begun(0)).unwrap();
    assert_eq!(outputs(&mut test), ["a 10 by 1, run 1", "b 11 by 2", "a 20 by 1, run 2", "b 21 by 2"]);
}

#[test]
fn run_on_other_code_is_refused_with_the_choices_there_are() {
    for (first, second, calls) in [(2, 1, 0), (2, 1, 1), (1, 2, 1)] {
        let error = go_on(&asking(first, second, VersionChange::Refuse), &begun(calls)).err().unwrap();
        let action = if second == 1 { "\"first\"" } else { "\"second\"" };
        for part in ["agent asking", "key 7", action, "version 1", "version 2", "`Restart`", "`DeadLetter`"] {
            assert!(error.contains(part), "{part}: {error}");
        }
    }
    let mut agent = Agent::<Pair, String>::new("asking");
    agent.carry();
    agent.memory::<u64>("runs");
    agent.on_input("other", |_, _| Ok(()));
    let error = go_on(&agent.build().unwrap(), &begun(0)).err().unwrap();
    assert!(error.contains("\"first\"") && error.contains("is gone"), "{error}");
}

#[test]
fn run_can_begin_again_on_the_new_code() {
    let plan = asking(1, 2, VersionChange::Restart);
    let facts = begun(1);
    let mut test = go_on(&plan, &facts).unwrap();
    // What it was is replaced: it goes on once more from a checkpoint of the new code, in any place.
    let mut again = facts.clone();
    test.run();
    test.complete(test.calls()[0].id);
    test.run();
    test.advance(2);
    test.step();
    assert_eq!(values(&mut test), ["a 10 by 1, run 1"]);
    again.extend(test.facts());
    assert_eq!(outputs(&mut test), ["b 11 by 2", "a 20 by 1, run 2", "b 21 by 2"]);
    let refuses = asking(1, 2, VersionChange::Refuse);
    let mut test = Harness::restored(&refuses, |pair: &Pair| pair.0, 2, &again).unwrap();
    assert_eq!(outputs(&mut test), ["b 11 by 2", "a 20 by 1, run 2", "b 21 by 2"]);
}

#[test]
fn run_can_be_given_up() {
    let mut test = go_on(&asking(2, 1, VersionChange::DeadLetter), &begun(1)).unwrap();
    assert_eq!(outputs(&mut test), ["a 20 by 2, run 1", "b 21 by 1"], "of the run nothing is left");
    let letters = test.dead_letters();
    assert_eq!((letters.len(), letters[0].input), (1, Some((7, 1))));
    assert!(letters[0].error.contains("version 1") && letters[0].error.contains("version 2"), "{}", letters[0].error);
}

#[test]
fn run_that_begins_again_finds_the_signals_that_it_had_taken() {
    let waiting = |version: u32| {
        let mut agent = Agent::<Pair, String>::new("waiting");
        agent.carry();
        agent.on_version_change(VersionChange::Restart);
        agent.waits_for::<Ping>("ping");
        agent
            .on_input_async("wait", async |(_, i), ctx| {
                let Ping(a) = ctx.wait_for("ping").await?;
                ctx.flush().await;
                ctx.durable("call", a, async |a| a).await?;
                let Ping(b) = ctx.wait_for("ping").await?;
                ctx.output(format!("{i}: {a} {b}"));
                Ok(())
            })
            .version(version);
        agent.build().unwrap()
    };
    let mut test = Harness::new(&waiting(1), |pair: &Pair| pair.0).unwrap();
    test.push(0, (7, 1));
    for n in 1..4 {
        test.signal(0, Signal::new(7, "ping", &Ping(n)));
    }
    test.run();
    assert_eq!(test.signals(&7, "ping"), 2);
    test.advance(1);
    test.step();
    let mut facts = test.facts();
    let mut test = go_on(&waiting(2), &facts).unwrap();
    assert_eq!(test.signals(&7, "ping"), 3);
    // And it is so once it is in a checkpoint of its own.
    test.run();
    test.advance(2);
    test.step();
    facts.extend(test.facts());
    let mut test = Harness::restored(&waiting(2), |pair: &Pair| pair.0, 2, &facts).unwrap();
    assert_eq!(outputs(&mut test), ["1: 1 2"]);
    assert_eq!(test.signals(&7, "ping"), 1);
}

/// The journal of a run that is not in a checkpoint: its first call has ended, and that is noted.
fn noted() -> Vec<Note> {
    let mut test = open(&asking(1, 1, VersionChange::Refuse), 1, &[]);
    test.complete(test.calls()[0].id);
    test.run();
    test.notes().to_vec()
}

/// A start of the job in which the input comes again, with the notes of those before.
fn open(plan: &Plan<Pair, String>, generation: u64, notes: &[Note]) -> Test<String> {
    let test = Harness::new(plan, |pair: &Pair| pair.0).unwrap().journaled(generation, notes).unwrap();
    let mut test = test.restored_by(0, |_| Ok(())).unwrap();
    test.push(0, (7, 1));
    test.run();
    test
}

#[test]
fn notes_are_not_followed_on_other_code() {
    let notes = noted();
    let mut test = open(&asking(1, 2, VersionChange::Refuse), 2, &notes);
    assert_eq!(outputs(&mut test), ["a 10 by 1, run 1", "b 11 by 2"], "the second action had not ended a turn");
    let test = open(&asking(2, 1, VersionChange::Refuse), 2, &notes);
    let error = test.failure().unwrap().to_string();
    for part in ["agent asking", "key 7", "\"first\"", "version 1", "version 2", "`Restart`", "`DeadLetter`"] {
        assert!(error.contains(part), "{part}: {error}");
    }
    let mut test = open(&asking(2, 1, VersionChange::DeadLetter), 2, &notes);
    assert!(test.calls().is_empty());
    finish(&mut test);
    assert_eq!(values(&mut test), [] as [&str; 0]);
    assert_eq!(test.dead_letters()[0].input, Some((7, 1)));
}

#[test]
fn run_that_begins_again_on_the_new_code_keeps_its_new_results() {
    let plan = asking(2, 1, VersionChange::Restart);
    let mut notes = noted();
    let mut test = open(&plan, 2, &notes);
    assert_eq!(names(&test), ["a"], "the call is made again");
    test.complete(test.calls()[0].id);
    test.run();
    notes.extend_from_slice(test.notes());
    // Both journals are there: that of the new code counts.
    let mut test = open(&plan, 3, &notes);
    assert_eq!(names(&test), ["b"]);
    assert_eq!(outputs(&mut test), ["a 10 by 2, run 1", "b 11 by 1"]);
}
