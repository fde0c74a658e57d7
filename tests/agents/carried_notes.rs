//! Notes of runs that are carried (D7): what was noted outlives the commit of its epoch until its run has gone on.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use timely_agents::testing::Harness;
use timely_agents::{Agent, Event, Plan, Signal, Slot};
use timely_agents_operators::fact::{Fact, FactRef};
use timely_agents_operators::journal::Note;

use crate::support::{Pair, Test, values};

#[derive(Clone, Debug, Serialize, Deserialize)]
struct Due(i64);

impl Event for Due {
    const NAME: &'static str = "due";
}

/// 0 waits for a call that nobody notes, 1 schedules an event that does so in a second; others ask twice.
fn asking() -> (Plan<Pair, String>, Slot<u64>) {
    let mut agent = Agent::<Pair, String>::new("asking");
    let count = agent.memory::<u64>("count");
    agent.carry();
    agent.schedules::<Due>();
    agent.on_input_async("ask", async move |(_, i), ctx| {
        ctx.update(count, |n| *n += 1);
        match i {
            0 => ctx.call("hold", async || ()).await?,
            1 => ctx.schedule(&Due(*i), ctx.now() + Duration::from_secs(1)),
            _ => {
                let first: i64 = ctx.durable("first", *i, async |_| 0).await?;
                let second: i64 = ctx.durable("second", first, async |_| 0).await?;
                ctx.output(format!("{first} {second}"));
            }
        }
        Ok(())
    });
    agent.on_async::<Due>("due", async |_, ctx| ctx.call("hold", async || ()).await.map_err(Into::into));
    (agent.build().unwrap(), count)
}

fn start(plan: &Plan<Pair, String>, generation: u64, notes: &[Note], facts: &[Fact<u64>], resume: u64) -> Test<String> {
    let test = Harness::new(plan, |pair: &Pair| pair.0).unwrap().journaled(generation, notes).unwrap();
    let of_checkpoint = facts.iter().filter(|fact| fact.time < resume);
    let mut test = test
        .restored_by(resume, |take| {
            of_checkpoint.into_iter().try_for_each(|Fact { group, key, what, value, .. }| {
                take(&FactRef { group: *group, key, what: what.clone(), value: value.as_deref() })
            })
        })
        .unwrap();
    test.tick(Duration::from_secs(generation));
    test
}

/// Ends the one call that is under way, which has this name.
fn complete(test: &mut Test<String>, name: &str, value: i64) {
    let calls = test.calls();
    assert_eq!(calls.iter().map(|call| &*call.name).collect::<Vec<_>>(), [name]);
    match name {
        "hold" => test.complete(calls[0].id),
        _ => test.complete_with(calls[0].id, &value),
    }
    test.run();
}

#[test]
fn notes_of_an_input_that_waits_behind_a_carried_run_are_kept() {
    let (plan, _) = asking();
    let feed = |test: &mut Test<String>| {
        test.push(0, (1, 0));
        test.push(0, (1, 5));
        test.run();
    };
    let mut first = start(&plan, 1, &[], &[], 0);
    feed(&mut first);
    complete(&mut first, "hold", 0);
    complete(&mut first, "first", 50);
    let mut second = start(&plan, 2, first.notes(), &[], 0);
    feed(&mut second);
    second.advance(4);
    second.run();
    let facts = second.facts();
    // The commit lets go of the notes of its epochs.
    let mut third = start(&plan, 3, &[], &facts, 4);
    third.run();
    complete(&mut third, "hold", 0);
    complete(&mut third, "second", 60);
    assert_eq!(values(&mut third), ["50 60"]);
}

/// A run in progress, with a note of the epoch behind the checkpoint.
fn noted_behind_a_checkpoint(plan: &Plan<Pair, String>) -> (Vec<Note>, Vec<Fact<u64>>) {
    let mut first = start(plan, 1, &[], &[], 0);
    first.push(0, (1, 5));
    first.run();
    first.advance(1);
    first.run();
    let facts = first.facts();
    complete(&mut first, "first", 50);
    complete(&mut first, "second", 60);
    (first.notes().to_vec(), facts)
}

#[test]
fn notes_of_a_run_in_progress_that_has_not_gone_on_are_kept() {
    let (plan, _) = asking();
    let (notes, mut facts) = noted_behind_a_checkpoint(&plan);
    let mut second = start(&plan, 2, &notes, &facts, 1);
    second.advance(4);
    second.run();
    facts.extend(second.facts());
    let mut third = start(&plan, 3, &[], &facts, 4);
    third.run();
    assert!(third.calls().is_empty(), "{:?}", third.calls());
    assert_eq!(values(&mut third), ["50 60"]);
}

#[test]
fn run_that_is_over_by_its_notes_is_not_cut_short_by_a_cancellation() {
    let (plan, count) = asking();
    let (notes, facts) = noted_behind_a_checkpoint(&plan);
    let mut second = start(&plan, 2, &notes, &facts, 1);
    second.signal(1, Signal::cancel(1));
    second.run();
    assert_eq!(values(&mut second), ["50 60"]);
    assert_eq!(second.memory(&1, count), Some(1), "what it wrote goes with what it put out");
}

#[test]
fn scheduled_event_takes_no_notes_of_an_input_whose_run_had_its_number() {
    let (plan, _) = asking();
    let mut first = start(&plan, 1, &[], &[], 0);
    first.push(0, (1, 1));
    first.run();
    first.advance(1);
    first.run();
    let mut facts = first.facts();
    first.push(1, (1, 5));
    first.run();
    complete(&mut first, "first", 50);
    // Now the event comes first.
    let mut second = start(&plan, 2, first.notes(), &facts, 1);
    second.run();
    second.push(1, (1, 5));
    second.advance(2);
    second.run();
    facts.extend(second.facts());
    let mut third = start(&plan, 3, &[], &facts, 2);
    third.run();
    complete(&mut third, "hold", 0);
    assert_eq!(third.failure(), None);
    complete(&mut third, "second", 60);
    assert_eq!(values(&mut third), ["50 60"]);
}
