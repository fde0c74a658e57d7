//! Runs that are over, done again from their records.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;
use timely_agents_operators::behavior::notification_digest;
use timely_agents_operators::cluster::Failure;
use timely_agents_operators::fact::{FactRef, What};
use timely_agents_operators::hash::stable_hash;
use timely_agents_operators::journal::{Note as StoredNote, RunRecord, Written};
use timely_agents_operators::keys::Key;
use timely_agents_operators::time::EpochTime;

use super::puts::{self, Far};
use super::{Agent, CallResult, Difference, Replayed};
use crate::agent::Input;
use crate::call::place_of;
use crate::follow::WITHOUT_A_WAIT;
use crate::inspect::formats::Formats;
use crate::inspect::run::State;
use crate::journal::{End, encode};
use crate::notes::{Body, Note};
use crate::record::{About, Change, Record, RunEnd};
use crate::testing::Harness;

/// A run that waits for the clock alone so often is left waiting.
const PAUSES: usize = 1_000;

/// What a key remembers.
type Memory = BTreeMap<What, Vec<u8>>;

/// A run that is over.
pub(super) struct Over<'a, T> {
    pub(super) sequence: u64,
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
    for Change { what, before, after } in &run.changes {
        if memory.get(what) != after.as_ref() {
            return false;
        }
        match before {
            Some(value) => drop(memory.insert(what.clone(), value.clone())),
            None => drop(memory.remove(what)),
        }
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
        let plan = agent.plan;
        let wrong = |error: postcard::Error| Failure::data(format!("key {shown}, run {}: {error}", self.sequence));
        let key: K = postcard::from_bytes(bytes).map_err(wrong)?;
        let input = match &self.body.about {
            About::Input(input) => Some(postcard::from_bytes::<I>(input).map_err(wrong)?),
            About::Notification(_) | About::Scheduled(_) => None,
        };
        let digest = match (&self.body.about, &input) {
            (_, Some(input)) => plan.0.digest(input),
            (About::Notification(epoch), None) => notification_digest(*epoch),
            (About::Scheduled(event), None) => stable_hash(event),
            (About::Input(_), None) => 0,
        };
        let epoch = self.time.epoch();
        let mut facts = self.found.clone();
        facts.insert(What::Sequence, encode(&(self.sequence - 1)));
        match &self.body.about {
            About::Input(_) => {}
            About::Notification(epoch) => drop(facts.insert(What::Notification(*epoch), encode(&self.time))),
            About::Scheduled(event) => {
                let due = encode(&(self.body.began, event));
                facts.insert(What::Timer(0), encode(&(&self.time, due)));
            }
        }
        let mut replayed = Replayed {
            agent: plan.name().to_owned(),
            key: shown.clone(),
            sequence: self.sequence,
            state: State::Over,
            differences: Vec::new(),
            calls: Vec::new(),
            outputs: 0,
            over: false,
            results: Vec::new(),
        };
        if matches!(self.body.end, RunEnd::NotBegun(_)) {
            return Ok(replayed);
        }
        let harness = Harness::<K, I, O, T>::over_time(plan, move |_: &I| key.clone())
            .map_err(|failure| Failure::data(format!("agent {}: {}", failure.agent, failure.message)))?;
        let harness = harness.in_job(agent.job).outside(self.journal(bytes, digest)).restored_by(epoch, |take| {
            let mut facts = facts.iter();
            facts.try_for_each(|(what, value)| {
                take(&FactRef { group: 0, key: bytes, what: what.clone(), value: Some(value) })
            })
        });
        let mut harness = harness.map_err(|failure| Failure::data(failure.message))?;
        harness.show_results();
        harness.stand_at(self.last_clock());
        match (&self.body.about, input) {
            (_, Some(input)) => {
                harness.push_at(self.time.clone(), input);
                harness.close_if_sequenced(plan, epoch);
            }
            (About::Notification(_), None) => harness.advance(epoch.saturating_add(1)),
            (_, None) => {}
        }
        if self.body.ended {
            harness.let_input_seem_over();
        }
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
        let left_out = again.as_ref().filter(|_| left.is_some()).map(|again| self.calls_left_out(again));
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

    /// What it went through, as a journal that it begins with; nothing if it never waited.
    fn journal(&self, key: &[u8], digest: u64) -> Option<StoredNote> {
        let journal = self.body.journal.filter(|_| !self.body.script.is_empty())?;
        let body = encode(&Body { start: 0, began: self.body.began, from: 0, notes: self.body.script.clone() });
        let written = Written { sequence: self.sequence, digest, journal, begun: Vec::new(), body };
        let (epoch, key) = (self.time.epoch(), key.to_vec());
        Some(StoredNote { component: 0, group: 0, epoch, key, bytes: encode(&written) })
    }

    /// The clock at its end.
    fn last_clock(&self) -> u64 {
        let turns = self.body.script.iter().filter_map(|note| match note {
            Note::Turn { now, .. } => Some(*now),
            _ => None,
        });
        turns.fold(self.body.until, u64::max)
    }

    /// Calls that are not made any more by a run that is over.
    fn calls_left_out(&self, again: &Record) -> Vec<String> {
        let mut made: BTreeSet<_> = calls(again).map(|(place, _)| place).collect();
        let left_out = calls(&self.body).filter(|(place, _)| made.insert(*place));
        left_out.map(|(_, name)| format!("it does not make call {name:?} now")).collect()
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

fn end(end: &RunEnd) -> String {
    match end {
        RunEnd::Done => "done".to_owned(),
        RunEnd::Dead(why) => format!("dead letter: {why}"),
        RunEnd::Cut(why) | RunEnd::NotBegun(why) => format!("cut short: {why}"),
    }
}

/// The calls of a run that have ended: where they were made, and their names.
fn calls(record: &Record) -> impl Iterator<Item = ((u64, u64), &str)> {
    let ends = record.script.iter().flat_map(|note| {
        let (task, ends): (_, Vec<&End>) = match note {
            Note::Given { task, end, .. } => (task, vec![end]),
            Note::Turn { task, given, .. } => (task, given.iter().map(|end| &**end).collect()),
            Note::Left { task, .. } | Note::Failed { task } => (task, Vec::new()),
            Note::Action { .. } => return Vec::new(),
        };
        ends.into_iter().map(|end| (task.path, end)).collect()
    });
    let calls = ends.filter(|(_, end)| !end.asked.name.is_empty() && end.asked.is_signal().is_none());
    calls.map(|(path, end)| ((path, u64::from(place_of(end.ordinal).0)), end.asked.name.as_str()))
}
