//! What an unfinished run of a checkpoint has done by its journal there, compared with what it does when it begins again.
//!
//! The checkpoint has what each finished step wrote and sent and, where runs are recorded, what they put out. The run begins
//! again with what its key remembered then, goes the way of that journal, and stops where it ends.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Value, json};
use timely_agents_operators::cluster::Failure;
use timely_agents_operators::fact::{What, slot_id};
use timely_agents_operators::keys::Key;
use timely_agents_operators::time::EpochTime;

use super::again::{self, Again, Memory, last_clock};
use super::over::calls_left_out;
use super::puts::{self, Far};
use super::{Agent, CallResult, Difference, Facts, over};
use crate::agent::Input;
use crate::behavior::ROOT;
use crate::follow::WITHOUT_A_WAIT;
use crate::inspect::formats::Formats;
use crate::inspect::unfinished::unpacked;
use crate::journal::{Beginning, Entry, Name, Packed, Sent, encode, holding};
use crate::memory::{Place, Write};
use crate::notes::Note;
use crate::plan::Plan;
use crate::record::{About, Keeping, Puts, Record, RunEnd};

/// What has come of it.
pub(super) struct Compared {
    /// Where the run leaves its journal, and which calls it does not make any more.
    pub(super) calls: Vec<String>,
    pub(super) differences: Vec<Difference>,
    /// What its calls gave.
    pub(super) results: Vec<CallResult>,
}

/// Which step: of the beginning or of a task, and its number there.
type Which = (Option<Name>, usize);

/// Finished steps, in their order.
struct Steps(Vec<(Which, Vec<Write>, Vec<Sent>)>);

impl Steps {
    fn of(beginning: Beginning, entries: Vec<Entry>) -> Self {
        let mut steps = vec![((None, 0), beginning.writes, beginning.queue)];
        let mut counts: BTreeMap<Name, usize> = BTreeMap::new();
        for entry in entries {
            if let Entry::Step { task, writes, sent, .. } = entry {
                let count = counts.entry(task).or_default();
                steps.push(((Some(task), *count), writes, sent));
                *count += 1;
            }
        }
        Steps(steps)
    }

    fn which(&self) -> BTreeSet<Which> {
        self.0.iter().map(|(which, ..)| *which).collect()
    }

    /// What they have made of the places that they wrote, but for those that live for one run.
    fn written<I, O>(&self, plan: &Plan<I, O>) -> BTreeMap<What, Option<Vec<u8>>> {
        let sensory = |id| plan.0.program.slots.iter().any(|slot| slot.sensory && slot_id(&slot.name) == id);
        let writes = self.0.iter().flat_map(|(_, writes, _)| writes);
        let lasting = writes.filter_map(|(place, value)| {
            let what = match place {
                Place::Slot(id) if !sensory(*id) => What::Slot(*id),
                Place::Path { sensory: false, path } => What::Path(path.clone()),
                Place::Slot(_) | Place::Path { .. } => return None,
            };
            Some((what, value.clone()))
        });
        lasting.collect()
    }

    /// What they have sent.
    fn sent(self, formats: &Formats) -> Vec<Value> {
        let sent = self.0.into_iter().flat_map(|(.., sent)| sent).filter(|sent| !matches!(sent.event, Packed::Input));
        sent.map(|sent| {
            let (name, value) = unpacked(formats, sent.event);
            json!({ name: value })
        })
        .collect()
    }
}

/// Nothing where the run has taken no turn yet; `found` is what its key remembered when it began.
pub(super) fn compare<T: EpochTime, K: Key, I: Input, O: 'static>(
    agent: &Agent<'_, I, O>,
    (bytes, shown): (&[u8], &Value),
    sequence: u64,
    facts: &Facts,
    found: &Memory,
) -> Result<Option<Compared>, Failure> {
    let wrong = |error: postcard::Error| Failure::data(format!("key {shown}, run {sequence}: {error}"));
    let Some((_, run)) = facts.get(&What::Run) else { return Ok(None) };
    let ((time, beginning), _): ((T, Vec<u8>), _) = postcard::take_from_bytes(run).map_err(wrong)?;
    let beginning: Beginning = postcard::from_bytes(&beginning).map_err(wrong)?;
    let entries = facts.iter().filter(|(what, _)| matches!(what, What::Entry(_)));
    let entries: Vec<Entry> =
        entries.map(|(_, (_, bytes))| postcard::from_bytes(bytes)).collect::<Result<_, _>>().map_err(wrong)?;
    let entries = holding(entries.into_iter());
    let script: Vec<Note> = entries.iter().filter_map(Entry::turn).collect();
    let first = script.iter().find_map(|note| match note {
        Note::Turn { now, .. } => Some(*now),
        _ => None,
    });
    let kept = Keeping::of_entries(&entries);
    let about = match &kept {
        Some(kept) => Some(kept.about.clone()),
        None => about(&beginning),
    };
    let (Some(first), Some(about)) = (first, about) else { return Ok(None) };
    let began = kept.as_ref().map_or(first, |kept| kept.began);
    let again = Again {
        sequence,
        time: &time,
        about: &about,
        began,
        until: last_clock(began, script.iter()),
        ended: kept.as_ref().is_some_and(|kept| kept.ended),
        found,
        journal: again::journal(Some(beginning.journal.unwrap_or_default()), began, script.clone()),
    };
    let mut harness = again.harness::<K, I, O>(agent, bytes, shown)?;
    harness.halt_behind_journals();
    let mut halted = None;
    while halted.is_none() && !harness.has_record() && harness.failure().is_none() && harness.step() {
        halted = harness.halted();
    }
    let (left, over) = (harness.left(), harness.record());
    let left_out = over.as_ref().map(|over| calls_left_out(&script, over)).unwrap_or_default();
    let told = left.clone().filter(|left| left != WITHOUT_A_WAIT || left_out.is_empty());
    let calls = told.into_iter().chain(left_out).collect();
    let mut differences = Vec::new();
    // Without a record of the run its outputs are not kept.
    if kept.is_some() {
        let mut recorded = Puts::default();
        for entry in &entries {
            if let Entry::Put(puts) = entry {
                recorded.append(puts.clone());
            }
        }
        let far = match &over {
            Some(_) => Far::AsRecorded,
            None if left.is_some() || halted.is_none() => Far::AsItGoes,
            None => Far::ToTheEnd,
        };
        let puts = over.as_ref().map_or_else(|| harness.puts(), |over| over.puts.clone());
        puts::compare(&recorded, &puts, far, &mut differences);
    }
    let mut then = Steps::of(beginning, entries);
    if let Some(halted) = halted {
        let beginning = postcard::from_bytes(&halted.beginning).map_err(wrong)?;
        let entries = halted.entries.iter().map(|entry| postcard::from_bytes(entry));
        let mut now = Steps::of(beginning, entries.collect::<Result<_, _>>().map_err(wrong)?);
        if left.is_some() {
            // Of what comes behind that nothing is known.
            let both: BTreeSet<Which> = then.which().intersection(&now.which()).copied().collect();
            then.0.retain(|(which, ..)| both.contains(which));
            now.0.retain(|(which, ..)| both.contains(which));
        }
        let (written, writes) = (then.written(agent.plan), now.written(agent.plan));
        let places = written.keys().chain(writes.keys()).collect();
        memory(&agent.formats, places, found, (&written, &writes), &mut differences);
        let formats = Formats::of(&agent.plan.component::<T, K>());
        events(&then.sent(&agent.formats), &now.sent(&formats), &mut differences);
    } else if let Some(Record { changes, end, .. }) = over {
        let written = then.written(agent.plan);
        let changes = changes.into_iter().map(|change| (change.what, change.after)).collect();
        memory(&agent.formats, written.keys().collect(), found, (&written, &changes), &mut differences);
        if end != RunEnd::Done {
            let recorded = over::GOES_ON.to_owned();
            differences.push(Difference::End { recorded, replayed: over::end(&end) });
        }
    } else if let Some(failure) = harness.failure() {
        let replayed = format!("fails the job: {}", failure.message);
        differences.push(Difference::End { recorded: over::GOES_ON.to_owned(), replayed });
    }
    let results = harness.results().into_iter().map(CallResult::of).collect();
    Ok(Some(Compared { calls, differences, results }))
}

/// What a run is about that is not recorded.
fn about(beginning: &Beginning) -> Option<About> {
    if let Some(input) = &beginning.input {
        return Some(About::Input(input.clone()));
    }
    let scheduled = || beginning.queue.iter().find(|sent| (sent.path, sent.next) == (ROOT, 0));
    match beginning.notifying {
        Some(epoch) => Some(About::Notification(epoch)),
        None => scheduled().map(|sent| About::Scheduled(encode(&sent.event))),
    }
}

/// What places were made to hold, where they were written.
type Written = BTreeMap<What, Option<Vec<u8>>>;

fn memory(
    formats: &Formats,
    places: BTreeSet<&What>,
    found: &Memory,
    (then, now): (&Written, &Written),
    differences: &mut Vec<Difference>,
) {
    for what in places {
        let of = |written: &Written| written.get(what).cloned().unwrap_or_else(|| found.get(what).cloned());
        let (place, recorded) = formats.place(what, of(then).as_deref());
        let (_, replayed) = formats.place(what, of(now).as_deref());
        // Bytes of one value may differ, as those of an unordered map do.
        if recorded != replayed {
            differences.push(Difference::Memory { place, recorded, replayed });
        }
    }
}

fn events(then: &[Value], now: &[Value], differences: &mut Vec<Difference>) {
    for at in 0..then.len().max(now.len()) {
        let (recorded, replayed) = (then.get(at).cloned(), now.get(at).cloned());
        if recorded != replayed {
            differences.push(Difference::Event { number: at + 1, recorded, replayed });
        }
    }
}
