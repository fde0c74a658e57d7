//! Runs that are over, done again from their records.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;
use timely_agents_operators::cluster::Failure;
use timely_agents_operators::fact::What;
use timely_agents_operators::journal::RunRecord;
use timely_agents_operators::keys::Key;
use timely_agents_operators::time::EpochTime;

use super::again::{self, Again, Memory, last_clock};
use super::puts::{self, Far};
use super::{Agent, CallResult, Difference, Replayed};
use crate::agent::Input;
use crate::call::place_of;
use crate::follow::WITHOUT_A_WAIT;
use crate::inspect::formats::Formats;
use crate::inspect::run::State;
use crate::journal::End;
use crate::notes::Note;
use crate::record::{Change, Record, RunEnd};

/// A run that waits for the clock alone so often is left waiting.
const PAUSES: usize = 1_000;

/// What is said of how a run ends that has not.
pub(super) const GOES_ON: &str = "it goes on";

/// A run that is over.
pub(super) struct Over<'a, T> {
    pub(super) sequence: u64,
    /// Whether it is committed.
    pub(super) state: State,
    pub(super) time: T,
    pub(super) body: Record,
    /// What its key remembered when it began.
    pub(super) found: &'a Memory,
}

pub(super) fn read<T: EpochTime>(record: &RunRecord) -> Result<(T, Record), postcard::Error> {
    Ok((postcard::from_bytes(&record.time)?, postcard::from_bytes(&record.body)?))
}

/// Takes back what a run has changed; whether memory was what it left.
pub(super) fn take_back(run: &Record, memory: &mut Memory) -> bool {
    run.changes.iter().all(|Change { what, before, after }| change(memory, what, after.as_ref(), before.as_ref()))
}

/// Changes what a run has changed; whether memory was what it found.
pub(super) fn take_on(run: &Record, memory: &mut Memory) -> bool {
    run.changes.iter().all(|Change { what, before, after }| change(memory, what, before.as_ref(), after.as_ref()))
}

fn change(memory: &mut Memory, what: &What, from: Option<&Vec<u8>>, to: Option<&Vec<u8>>) -> bool {
    if memory.get(what) != from {
        return false;
    }
    match to {
        Some(value) => drop(memory.insert(what.clone(), value.clone())),
        None => drop(memory.remove(what)),
    }
    true
}

impl<T: EpochTime> Over<'_, T> {
    /// Does the run again.
    pub(super) fn again<K: Key, I: Input, O: 'static>(
        self,
        agent: &Agent<'_, I, O>,
        bytes: &[u8],
        shown: &Value,
    ) -> Result<Replayed, Failure> {
        let mut replayed = Replayed::new(agent, shown, self.sequence, self.state);
        replayed.was_over = true;
        if matches!(self.body.end, RunEnd::NotBegun(_)) {
            return Ok(replayed);
        }
        let Record { about, began, until, ended, journal, script, .. } = &self.body;
        let again = Again {
            sequence: self.sequence,
            time: &self.time,
            about,
            began: *began,
            until: last_clock(*until, script.iter()),
            ended: *ended,
            found: self.found,
            journal: again::journal(*journal, *began, script.clone()),
        };
        let mut harness = again.harness::<K, I, O>(agent, bytes, shown)?;
        let cut = matches!(self.body.end, RunEnd::Cut(_));
        for _ in 0..PAUSES {
            while !harness.has_record() && harness.failure().is_none() && harness.step() {}
            let deadline = harness.next_deadline().filter(|_| harness.calls().is_empty() && !cut);
            match deadline {
                Some(deadline) if !harness.has_record() && harness.failure().is_none() => harness.stand_at(deadline),
                _ => break,
            }
        }
        let again = harness.record();
        let left = harness.left();
        let failure = harness.failure().map(|failure| failure.message.clone());
        replayed.results = harness.results().into_iter().map(CallResult::of).collect();
        replayed.over = again.is_some();
        replayed.calls = harness.calls().into_iter().map(|call| call.name).collect();
        let differences = &mut replayed.differences;
        let left_out = again.as_ref().filter(|_| left.is_some()).map(|again| calls_left_out(&self.body.script, again));
        let left_out = left_out.unwrap_or_default();
        let told = left.clone().filter(|left| left != WITHOUT_A_WAIT || left_out.is_empty());
        differences.extend(told.into_iter().chain(left_out).map(Difference::Call));
        // Who was cut short may go further now, up to a wait.
        let far = match &again {
            _ if cut => Far::AsItGoes,
            None => Far::ToACall,
            Some(_) => Far::ToTheEnd,
        };
        let puts = again.as_ref().map_or_else(|| harness.puts(), |again| again.puts.clone());
        puts::compare(&self.body.puts, &puts, far, differences);
        replayed.outputs = puts.outputs.len();
        let recorded = end(&self.body.end);
        match (again, failure) {
            (Some(again), _) => {
                if !cut {
                    self.memory(&agent.formats, &again, differences);
                    let replayed = end(&again.end);
                    if recorded != replayed {
                        differences.push(Difference::End { recorded, replayed });
                    }
                }
            }
            (None, Some(failure)) => {
                differences.push(Difference::End { recorded, replayed: format!("fails the job: {failure}") });
            }
            (None, None) if cut || left.is_some() => {}
            (None, None) if replayed.calls.is_empty() => {
                differences.push(Difference::End { recorded, replayed: "waits".to_owned() });
            }
            (None, None) => {
                let asks = replayed.calls.iter().map(|name| Difference::Call(format!("it asks for {name:?} now")));
                differences.extend(asks);
            }
        }
        Ok(replayed)
    }

    /// Compares what the run has left in memory.
    fn memory(&self, formats: &Formats, again: &Record, differences: &mut Vec<Difference>) {
        let changed = |record: &Record| -> BTreeMap<What, Option<Vec<u8>>> {
            record.changes.iter().map(|change| (change.what.clone(), change.after.clone())).collect()
        };
        let (then, now) = (changed(&self.body), changed(again));
        let places: BTreeSet<&What> = then.keys().chain(now.keys()).collect();
        for what in places {
            let of = |changed: &BTreeMap<What, Option<Vec<u8>>>| match changed.get(what) {
                Some(after) => after.clone(),
                None => self.found.get(what).cloned(),
            };
            let (place, recorded) = formats.place(what, of(&then).as_deref());
            let (_, replayed) = formats.place(what, of(&now).as_deref());
            // Bytes of one value may differ, as those of an unordered map do.
            if recorded != replayed {
                differences.push(Difference::Memory { place, recorded, replayed });
            }
        }
    }
}

pub(super) fn end(end: &RunEnd) -> String {
    match end {
        RunEnd::Done => "done".to_owned(),
        RunEnd::Dead(why) => format!("dead letter: {why}"),
        RunEnd::Cut(why) | RunEnd::NotBegun(why) => format!("cut short: {why}"),
        RunEnd::Begun => GOES_ON.to_owned(),
    }
}

/// Calls of a journal that are not made any more by a run that is over.
pub(super) fn calls_left_out(script: &[Note], again: &Record) -> Vec<String> {
    let mut made: BTreeSet<_> = calls(&again.script).map(|(place, _)| place).collect();
    let left_out = calls(script).filter(|(place, _)| made.insert(*place));
    left_out.map(|(_, name)| format!("it does not make call {name:?} now")).collect()
}

/// The calls that have ended: where they were made, and their names.
fn calls(script: &[Note]) -> impl Iterator<Item = ((u64, u64), &str)> {
    let ends = script.iter().flat_map(|note| {
        let (task, ends): (_, Vec<&End>) = match note {
            Note::Given { task, end, .. } => (task, vec![end]),
            Note::Turn { task, given, .. } => (task, given.iter().map(|end| &**end).collect()),
            Note::Left { task, .. } | Note::LeftFrom { task, .. } | Note::Failed { task } | Note::Stopped { task } => {
                (task, Vec::new())
            }
            Note::Action { .. } => return Vec::new(),
        };
        ends.into_iter().map(|end| (task.path, end)).collect()
    });
    let calls = ends.filter(|(_, end)| !end.asked.name.is_empty() && end.asked.is_signal().is_none());
    calls.map(|(path, end)| ((path, u64::from(place_of(end.ordinal).0)), end.asked.name.as_str()))
}
