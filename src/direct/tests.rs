//! Batches of an agent whose actions make calls now and then: what a note says of the runs before it (rule D7).
//!
//! A harness starts runs one by one; here the driver is given whole batches, as the operator gives them. What remains of a
//! crash are the facts of epochs that are committed, and the notes that were durable; inputs come again in another order.
//! Arguments of calls depend on all that their key has seen, in order, so a run that does not come to its turn as before
//! does not go the way of its journal, and fails.

#![allow(clippy::unwrap_used, reason = "a test that unwraps in vain has failed")]

use std::borrow::Cow;
use std::cell::Cell;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Debug;
use std::rc::Rc;

use serde::{Deserialize, Serialize};
use timely_agents_operators::behavior::CallJob;
use timely_agents_operators::completion::{CallRef, CallValue, Completion, CompletionQueue, Spent};
use timely_agents_operators::driver::{Bare, Driver, Paired, Sink};
use timely_agents_operators::fact::{Block, Fact, FactRef};
use timely_agents_operators::group::KeyGroups;
use timely_agents_operators::journal::Note;
use tokio::task::AbortHandle;

use crate::agent::{Agent, Input};
use crate::behavior::AgentBehavior;
use crate::event::Event;
use crate::plan::Plan;
use crate::tagged::Tagged;

#[derive(Clone, Debug, Serialize, Deserialize)]
struct Ask {
    key: u64,
    id: u64,
    sum: u64,
}

impl Event for Ask {
    const NAME: &'static str = "ask";
}

/// What a run says: its key, its number, its input, what it has made of all of them; and what a call gave, if it made one.
type Said = (u64, u64, u64, u64, Option<i64>);

/// Inputs of two kinds: plain ones, and such that hold something.
trait Numbered: Input + Clone + Debug {
    fn of(key: u64, id: u64) -> Self;
    fn parts(&self) -> (u64, u64);
}

impl Numbered for (u64, u64) {
    fn of(key: u64, id: u64) -> Self {
        (key, id)
    }
    fn parts(&self) -> (u64, u64) {
        *self
    }
}

impl Numbered for (u64, String) {
    fn of(key: u64, id: u64) -> Self {
        (key, id.to_string())
    }
    fn parts(&self) -> (u64, u64) {
        (self.0, self.1.parse().unwrap())
    }
}

/// Counts, and asks about every input that `asks` says.
fn plan<I: Numbered>(asks: fn(u64) -> bool) -> Plan<I, Said> {
    let mut agent = Agent::<I, Said>::new("asking");
    let seen = agent.memory::<(u64, u64)>("seen");
    agent.on_input("see", move |input: &I, ctx| {
        let (key, id) = input.parts();
        let (number, sum) = ctx.update(seen, |(number, sum)| {
            (*number, *sum) = (*number + 1, sum.wrapping_mul(31).wrapping_add(id + 1));
            (*number, *sum)
        });
        ctx.output((key, number, id, sum, None));
        if asks(id) {
            ctx.send(Ask { key, id, sum });
        }
        Ok(())
    });
    agent.on_async("ask", async move |Ask { key, id, sum }: &Ask, ctx| {
        let given = ctx.durable(format!("ask {id}"), (*id, *sum), async |_| 0i64).await?;
        ctx.output((*key, 0, *id, *sum, Some(given)));
        Ok(())
    });
    agent.build().unwrap()
}

#[derive(Default)]
struct Outside {
    said: Vec<(u64, Said)>,
    facts: Vec<Fact<u64>>,
    notes: Vec<Note>,
    /// What is told when notes are durable.
    noted: Vec<Completion>,
    calls: Vec<(CallRef, String)>,
}

impl Sink<u64, Said, Tagged> for Outside {
    fn outputs(&mut self, time: &u64, items: &mut Vec<Said>) {
        self.said.extend(items.drain(..).map(|said| (*time, said)));
    }
    fn tagged(&mut self, _: &u64, items: &mut Vec<Tagged>) {
        items.clear();
    }
    fn facts(&mut self, block: Block<u64>) {
        self.facts.extend(block.facts().unwrap());
    }
    fn note(&mut self, group: u32, epoch: u64, key: Vec<u8>, bytes: Vec<u8>, then: Option<Completion>) {
        self.notes.push(Note { component: 0, group, epoch, key, bytes });
        self.noted.extend(then);
    }
    fn record(&mut self, _: u32, _: u64, _: Vec<u8>, _: Vec<u8>, _: Option<Completion>) {
        unreachable!("nobody asks for records")
    }
    fn spawn(&mut self, call: CallRef, name: Cow<'static, str>, _: CallJob) -> Option<AbortHandle> {
        self.calls.push((call, name.into_owned()));
        None
    }
}

/// One start of the job.
struct Life<I: Numbered> {
    driver: Driver<u64, AgentBehavior<u64, I, Said>, Bare>,
    queue: CompletionQueue,
    outside: Outside,
    open: Vec<u64>,
    open_facts: Vec<u64>,
}

impl<I: Numbered> Life<I> {
    fn new(plan: &Plan<I, Said>, generation: u64, resume: u64, facts: &[Fact<u64>], notes: &[Note]) -> Self {
        let behavior = AgentBehavior::new(plan, Rc::from(""), Rc::new(Cell::new(false)));
        let queue = CompletionQueue::new(None);
        let groups = KeyGroups::default();
        let mut driver = Driver::new(behavior, plan.limits(), groups, queue.clone(), 0, 1, true).unwrap();
        driver.end_signals();
        assert!(driver.take_notes(generation, false));
        for Fact { group, key, what, value, .. } in facts {
            let fact = FactRef { group: *group, key, what: what.clone(), value: value.as_deref() };
            driver.restore(&fact).unwrap();
        }
        for note in notes.iter().filter(|note| note.epoch >= resume) {
            driver.restore_note(note.epoch, &note.key, &note.bytes).unwrap();
        }
        driver.restored(resume).unwrap();
        Life { driver, queue, outside: Outside::default(), open: Vec::new(), open_facts: Vec::new() }
    }

    fn push(&mut self, time: u64, inputs: &[I]) {
        let mut batch = inputs.iter().map(|input| (input.parts().0, input.clone())).collect();
        self.driver.input(&Paired, &time, &mut batch, &mut 100_000, &mut self.outside);
    }

    fn advance(&mut self, epoch: Option<u64>) {
        self.driver.advance_to(epoch, &mut self.outside);
        self.work();
    }

    fn sync(&mut self) {
        self.outside.noted.drain(..).for_each(|told| self.queue.push(told));
        self.work();
    }

    fn work(&mut self) {
        let Life { driver, queue, outside, .. } = self;
        loop {
            queue.drain(|completion| driver.complete(completion, outside));
            if !driver.work(&mut 1_000, outside) {
                break;
            }
        }
        assert!(self.driver.failure().is_none(), "{:?}", self.driver.failure());
    }

    fn complete(&mut self, at: usize, given: i64) -> String {
        let (call, name) = self.outside.calls.remove(at);
        let result = Ok(CallValue::Bytes(postcard::to_allocvec(&given).unwrap()));
        self.queue.push(Completion::Call { call, result, spent: Spent::default() });
        self.work();
        name
    }

    /// The first epoch of which facts may still come.
    fn frontier(&mut self, input: u64) -> u64 {
        self.driver.minimal(&mut self.open);
        self.driver.minimal_facts(&mut self.open_facts);
        self.open.iter().chain(&self.open_facts).copied().min().unwrap_or(input).min(input)
    }
}

struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % sides
    }

    fn shuffle<V>(&mut self, values: &mut [V]) {
        for at in (1..values.len()).rev() {
            values.swap(at, self.roll(at as u64 + 1) as usize);
        }
    }
}

fn first_note_after_many_runs<I: Numbered>() {
    let plan = plan::<I>(|id| id == 2_999);
    let of = |id: u64| I::of(id % 3, id);
    let mut first = Life::new(&plan, 1, 0, &[], &[]);
    for epoch in 0..3 {
        let mut ids: Vec<u64> = (epoch * 1_000..epoch * 1_000 + 999).collect();
        Dice(epoch).shuffle(&mut ids);
        first.push(epoch, &ids.iter().map(|id| of(*id)).collect::<Vec<_>>());
        first.advance(Some(epoch + 1));
        assert_eq!(first.outside.said.len() as u64, (epoch + 1) * 999);
    }
    first.push(3, &[of(2_999), of(3_002), of(3_000)]);
    first.work();
    assert_eq!((first.outside.notes.len(), first.outside.calls.len()), (0, 1));
    first.complete(0, 77);
    first.sync();
    assert_eq!(first.outside.notes.len(), 1);

    // All comes again, the other way round: key 2 has its old order, as far as its note goes.
    let notes = &first.outside.notes;
    let mut second = Life::new(&plan, 2, 0, &[], notes);
    for epoch in 0..3 {
        let ids = (epoch * 1_000..epoch * 1_000 + 999).rev();
        second.push(epoch, &ids.map(of).collect::<Vec<_>>());
        second.work();
        second.advance(Some(epoch + 1));
    }
    second.push(3, &[of(3_002), of(3_000), of(2_999)]);
    second.advance(None);
    assert!(second.outside.calls.is_empty(), "the call is not made again");
    let of_key = |life: &Life<I>, key: u64| {
        let said = life.outside.said.iter().map(|(_, said)| *said);
        said.filter(|said| said.0 == key).collect::<Vec<_>>()
    };
    assert_eq!(of_key(&first, 2), of_key(&second, 2));
    assert!(of_key(&second, 2).iter().any(|said| said.4 == Some(77)));
    assert_ne!(of_key(&first, 1), of_key(&second, 1), "no note has the order of another key");
    assert_eq!(of_key(&first, 1).len(), of_key(&second, 1).len());
}

#[test]
fn key_whose_first_note_comes_after_many_runs_of_several_epochs_has_its_order() {
    first_note_after_many_runs::<(u64, u64)>();
    first_note_after_many_runs::<(u64, String)>();
}

/// Batches, commits, calls and crashes by the dice.
fn crash_at_random<I: Numbered>(seed: u64) {
    let plan = plan::<I>(|id| id % 13 == 5);
    let mut dice = Dice(seed);
    let mut life = Life::new(&plan, 1, 0, &[], &[]);
    let (mut generation, mut given) = (1, 0);
    let mut inputs: Vec<(u64, I)> = Vec::new();
    let mut published: Vec<Said> = Vec::new();
    let (mut facts, mut notes): (Vec<Fact<u64>>, Vec<Note>) = (Vec::new(), Vec::new());
    let (mut epoch, mut committed, mut durable) = (0, 0, 0);
    // Calls that ended, by their notes in this life; and those that were durable.
    let mut ended: Vec<(usize, String)> = Vec::new();
    let mut noted = BTreeSet::new();
    for _ in 0..300 {
        match dice.roll(10) {
            0..=3 => {
                let new: Vec<I> = (0..=dice.roll(40)).map(|n| I::of(dice.roll(3), inputs.len() as u64 + n)).collect();
                inputs.extend(new.iter().map(|input| (epoch, input.clone())));
                life.push(epoch, &new);
                life.work();
            }
            4 => {
                epoch += 1;
                life.advance(Some(epoch));
            }
            5 | 6 if !life.outside.calls.is_empty() => {
                given += 1;
                let at = dice.roll(life.outside.calls.len() as u64) as usize;
                let name = life.complete(at, given);
                assert!(!noted.contains(&name), "seed {seed}: {name} is made again");
                ended.push((life.outside.notes.len(), name));
            }
            7 => {
                durable = life.outside.notes.len();
                noted.extend(ended.drain(..).map(|(_, name)| name));
                life.sync();
            }
            8 => {
                committed = life.frontier(epoch).max(committed);
                let (over, open) =
                    std::mem::take(&mut life.outside.said).into_iter().partition(|(t, _)| *t < committed);
                published.extend::<Vec<Said>>(Vec::<(u64, Said)>::into_iter(over).map(|(_, said)| said).collect());
                life.outside.said = open;
                let (over, open) =
                    std::mem::take(&mut life.outside.facts).into_iter().partition(|f| f.time < committed);
                facts.extend::<Vec<Fact<u64>>>(over);
                life.outside.facts = open;
                life.driver.committed(committed);
            }
            _ if dice.roll(6) == 0 => {
                let made = &life.outside.notes;
                let kept = durable + dice.roll((made.len() - durable) as u64 + 1) as usize;
                notes.extend_from_slice(&made[..kept]);
                noted.extend(ended.drain(..).filter(|(note, _)| *note <= kept).map(|(_, name)| name));
                durable = 0;
                generation += 1;
                life = Life::new(&plan, generation, committed, &facts, &notes);
                let mut again: Vec<_> = inputs.iter().filter(|(time, _)| *time >= committed).cloned().collect();
                dice.shuffle(&mut again);
                again.sort_by_key(|(time, _)| *time);
                for of_epoch in again.chunk_by(|a, b| a.0 == b.0) {
                    let time = of_epoch[0].0;
                    life.advance(Some(time));
                    let batch: Vec<I> = of_epoch.iter().map(|(_, input)| input.clone()).collect();
                    life.push(time, &batch);
                    life.work();
                }
                life.advance(Some(epoch));
            }
            _ => {}
        }
    }
    life.advance(None);
    life.sync();
    while !life.outside.calls.is_empty() {
        given += 1;
        let name = life.complete(0, given);
        assert!(!noted.contains(&name), "seed {seed}: {name} is made again");
        life.sync();
    }
    assert!(life.driver.is_closed(), "seed {seed}");
    published.extend(life.outside.said.iter().map(|(_, said)| *said));
    check(seed, &published, &inputs);
}

/// Each input was seen once, with what those before it had made; each call has given one value, to one input.
fn check<I: Numbered>(seed: u64, published: &[Said], inputs: &[(u64, I)]) {
    let mut by_key: BTreeMap<u64, BTreeMap<u64, (u64, u64)>> = BTreeMap::new();
    let mut answers: BTreeMap<u64, (u64, i64)> = BTreeMap::new();
    for (key, number, id, sum, given) in published {
        let twice = match given {
            Some(given) => answers.insert(*id, (*sum, *given)).is_some(),
            None => by_key.entry(*key).or_default().insert(*number, (*id, *sum)).is_some(),
        };
        assert!(!twice, "seed {seed}: input {id} was taken twice");
    }
    let mut seen = BTreeSet::new();
    for runs in by_key.values() {
        let mut before = 0u64;
        for (number, (id, sum)) in runs {
            assert_eq!(*sum, before.wrapping_mul(31).wrapping_add(id + 1), "seed {seed}: run {number} about {id}");
            assert!(seen.insert(*id), "seed {seed}: input {id} was taken twice");
            assert_eq!(answers.remove(id).map(|(then, _)| then), (id % 13 == 5).then_some(*sum), "seed {seed}");
            before = *sum;
        }
    }
    assert!(answers.is_empty(), "seed {seed}: {answers:?}");
    assert_eq!(seen.len(), inputs.len(), "seed {seed}");
}

#[test]
fn batches_with_notes_outlive_crashes_at_random() {
    for seed in 0..24 {
        crash_at_random::<(u64, u64)>(seed);
        crash_at_random::<(u64, String)>(1_000 + seed);
    }
}
