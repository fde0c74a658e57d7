//! Unfinished runs of a checkpoint, done again: as the next start of the job does them, and from their beginnings, for what
//! the next start takes from the journal without running it.

use serde_json::Value;
use timely_agents_operators::cluster::Failure;
use timely_agents_operators::fact::{FactRef, What};
use timely_agents_operators::journal::Note;
use timely_agents_operators::keys::Key;
use timely_agents_operators::time::EpochTime;

use super::again::Memory;
use super::{Agent, CallResult, Difference, Facts, Replayed, steps};
use crate::agent::Input;
use crate::inspect::run::State;
use crate::testing::Harness;

/// Goes the way of the run's journal, to its end.
pub(super) fn one<T: EpochTime, K: Key, I: Input, O: 'static>(
    agent: &Agent<'_, I, O>,
    shown: &Value,
    sequence: u64,
    (bytes, facts, found): (&[u8], &Facts, &Memory),
    resume: u64,
    notes: &[Note],
) -> Result<Replayed, Failure> {
    let wrong = |error: postcard::Error| Failure::data(format!("key {shown}: {error}"));
    let (key, plan): (K, _) = (postcard::from_bytes(bytes).map_err(wrong)?, agent.plan);
    // What waits behind the run does not begin.
    let of_run = |what: &What| !matches!(what, What::Waiting(_) | What::Notification(_) | What::Timer(_));
    let harness = Harness::<K, I, O, T>::over_time(plan, |_: &I| unreachable!("no input is brought"))
        .map_err(|failure| Failure::data(format!("agent {}: {}", failure.agent, failure.message)))?;
    let harness = harness.in_job(agent.job).journaled(u64::MAX, notes).and_then(|harness| {
        harness.restored_by(resume, |take| {
            let mut of_run = facts.iter().filter(|(what, _)| of_run(what));
            of_run.try_for_each(|(what, (group, value))| {
                take(&FactRef { group: *group, key: bytes, what: what.clone(), value: Some(value) })
            })
        })
    });
    let mut replayed = Replayed::new(agent, shown, sequence, State::Unfinished);
    // What it did differs whatever the next start makes of it.
    let compared = steps::compare::<T, K, I, O>(agent, (bytes, shown), sequence, facts, found)?;
    let (calls, differences, results) =
        compared.map(|compared| (compared.calls, compared.differences, compared.results)).unwrap_or_default();
    (replayed.differences, replayed.results) = (differences, results);
    let mut harness = match harness {
        Ok(harness) => harness,
        Err(failure) => {
            replayed.differences.insert(0, Difference::Call(failure.message));
            return Ok(replayed);
        }
    };
    harness.show_results();
    harness.run();
    for result in harness.results().into_iter().map(CallResult::of) {
        if replayed.results.iter().all(|known| !known.is_of(&result)) {
            replayed.results.push(result);
        }
    }
    let left = "it leaves its journal, which the agent allows (`Divergence::Lenient`)";
    let failure = harness.failure().map(|failure| failure.message.clone());
    let why = match failure {
        Some(message) => Some(message),
        None if harness.diverged() > 0 => Some(left.to_owned()),
        None => harness.dead_letter_reasons().into_iter().next().map(|why| format!("it is given up: {why}")),
    };
    if let Some(why) = why {
        replayed.differences.insert(0, Difference::Call(why));
        return Ok(replayed);
    }
    // The next start does not run what is over by the journal.
    replayed.differences.splice(..0, calls.into_iter().map(Difference::Call));
    replayed.calls = harness.calls().into_iter().map(|call| call.name).collect();
    replayed.outputs = harness.outputs().len();
    replayed.over = !harness.mailbox(&key).0;
    Ok(replayed)
}
