//! Runs that have begun behind the newest checkpoint and are not known to be over, done again from the beginning, as the next
//! start of the job would do them.

use serde_json::Value;
use timely_agents_operators::cluster::Failure;
use timely_agents_operators::journal::RunRecord;
use timely_agents_operators::keys::Key;
use timely_agents_operators::time::EpochTime;

use super::again::{Again, Memory, last_clock};
use super::over::{self, calls_left_out};
use super::told::Journal;
use super::{Agent, CallResult, Difference, Replayed};
use crate::agent::Input;
use crate::follow::WITHOUT_A_WAIT;
use crate::inspect::run::State;
use crate::notes::{Body, Note};
use crate::record::Record;

/// Goes the way of the run's notes, to their end; `found` is what its key remembered when it began.
pub(super) fn one<T: EpochTime, K: Key, I: Input, O: 'static>(
    agent: &Agent<'_, I, O>,
    (bytes, shown): (&[u8], &Value),
    record: &RunRecord,
    journal: Option<&Journal>,
    found: &Memory,
) -> Result<Replayed, Failure> {
    let sequence = record.sequence;
    let wrong = |error: postcard::Error| Failure::data(format!("key {shown}, run {sequence}: {error}"));
    let (time, Record { about, began, ended, .. }) = over::read::<T>(record).map_err(wrong)?;
    let mut script: Vec<Note> = Vec::new();
    for body in journal.iter().flat_map(|journal| &journal.bodies) {
        script.extend(postcard::from_bytes::<Body>(body).map_err(wrong)?.notes);
    }
    let again = Again {
        sequence,
        time: &time,
        about: &about,
        began,
        until: last_clock(began, script.iter()),
        ended,
        found,
        journal: journal.map(|journal| (journal.id, journal.bodies.clone())),
    };
    let mut harness = again.harness::<K, I, O>(agent, bytes, shown)?;
    while !harness.has_record() && harness.failure().is_none() && harness.step() {}
    let mut replayed = Replayed::new(agent, shown, sequence, State::NotCommitted);
    replayed.results = harness.results().into_iter().map(CallResult::of).collect();
    replayed.calls = harness.calls().into_iter().map(|call| call.name).collect();
    replayed.outputs = harness.puts().outputs.len();
    let over = harness.record();
    replayed.over = over.is_some();
    let left = harness.left();
    let left_out = over.map(|over| calls_left_out(&script, &over)).unwrap_or_default();
    let told = left.filter(|left| left != WITHOUT_A_WAIT || left_out.is_empty());
    replayed.differences.extend(told.into_iter().chain(left_out).map(Difference::Call));
    if let Some(failure) = harness.failure() {
        let replayed_end = format!("fails the job: {}", failure.message);
        replayed.differences.push(Difference::End { recorded: over::GOES_ON.to_owned(), replayed: replayed_end });
    }
    Ok(replayed)
}
