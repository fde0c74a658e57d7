//! What happened in a run, in order: entries of a checkpoint, and notes behind them.

use std::collections::BTreeMap;
use std::rc::Rc;

use crate::journal::{self, End, Entry, Name, Sent};
use crate::left::LeftCall;
use crate::memory::Write;
use crate::notes::{Body, Note};

/// One thing.
#[derive(Clone, Debug)]
pub(super) enum Happened {
    /// A task took a turn, and was given these ends; an end that is not known any more has its ordinal only.
    Turn { task: Name, now: u64, given: Vec<Result<Rc<End>, u64>> },
    /// A step was finished.
    Step { task: Name, writes: Vec<Write>, sent: Vec<Sent>, over: bool },
    /// A task failed and starts again.
    Again { task: Name, deadline: u64 },
    /// A call was about to leave.
    Left { task: Name, call: LeftCall },
    /// A call ended, by this clock.
    Ended { task: Name, end: Rc<End>, at: u64 },
    /// A task failed, and the job with it.
    Failed { task: Name },
    /// An action took its first turn.
    Action { name: String, version: u32 },
}

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Happenings {
    pub(super) all: Vec<Happened>,
    /// How many turns are among them, and missing ones before.
    turns: u64,
    pub(super) missing: u64,
    /// What was dropped, with the number of entries that went on to hold.
    pub(super) dropped: Vec<(u64, Vec<Entry>)>,
}

impl Happenings {
    pub(super) fn first_turn(&self) -> Option<u64> {
        self.all.iter().find_map(|happened| match happened {
            Happened::Turn { now, .. } => Some(*now),
            _ => None,
        })
    }
}

/// What the entries of a checkpoint say.
pub(super) fn of_entries(entries: &[&[u8]], into: &mut Happenings) -> Result<(), String> {
    let mut holding: Vec<Entry> = Vec::new();
    for bytes in entries {
        let entry = postcard::from_bytes(bytes).map_err(|error| format!("an entry of a journal: {error}"))?;
        if let Entry::Dropped { kept } = entry {
            let rest = holding.split_off(holding.len().min(kept as usize));
            into.dropped.push((kept, rest));
        } else {
            holding.push(entry);
        }
    }
    for entry in journal::holding(holding.into_iter()) {
        into.all.push(match entry {
            Entry::Turn { task, now, given } => {
                into.turns += 1;
                Happened::Turn { task, now, given: given.into_iter().map(Ok).collect() }
            }
            Entry::Step { task, writes, sent, over } => Happened::Step { task, writes, sent, over },
            Entry::Again { task, deadline, .. } | Entry::Afresh { task, deadline, .. } => {
                Happened::Again { task, deadline }
            }
            Entry::Given { task, end, at } => Happened::Ended { task, end, at },
            Entry::LeftFrom { task, ordinal } => Happened::Left { task, call: (ordinal, None) },
            Entry::Left { task, ordinal, asked } => Happened::Left { task, call: (ordinal, Some(asked)) },
            Entry::Action { name, version } => Happened::Action { name, version },
            Entry::Dropped { .. } | Entry::Returned { .. } | Entry::Kept(_) | Entry::Put(_) => continue,
        });
    }
    Ok(())
}

/// What notes say beyond what is there.
pub(super) fn of_notes(bodies: Vec<Body>, into: &mut Happenings) {
    let of_facts = into.turns;
    let mut given: BTreeMap<(Name, u64), Rc<End>> = BTreeMap::new();
    for happened in &into.all {
        if let Happened::Ended { task, end, .. } = happened {
            given.insert((*task, end.ordinal), Rc::clone(end));
        }
    }
    for body in &bodies {
        for note in &body.notes {
            if let Note::Given { task, end, .. } = note {
                given.insert((*task, end.ordinal), Rc::clone(end));
            }
        }
    }
    // The turns that are there, and the number of the next.
    let base = into.all.len();
    let mut at = of_facts;
    let mut last = None;
    for Body { start, from, notes, .. } in bodies {
        if last.replace(start).is_some_and(|last| last != start) && from < at {
            // A later start says again what was not committed.
            at = into.truncate(base, of_facts, from);
        }
        if from > at {
            into.missing += from - at;
            at = from;
        }
        let mut turn = from;
        for note in notes {
            let happened = match note {
                Note::Turn { task, now, noted, given: its } => {
                    turn += 1;
                    if turn <= at {
                        continue;
                    }
                    at = turn;
                    let noted = noted.into_iter().map(|ordinal| given.get(&(task, ordinal)).cloned().ok_or(ordinal));
                    Happened::Turn { task, now, given: noted.chain(its.into_iter().map(Ok)).collect() }
                }
                Note::Given { task, end, at } => Happened::Ended { task, end, at },
                Note::LeftFrom { task, ordinal } => Happened::Left { task, call: (ordinal, None) },
                Note::Left { task, ordinal, asked } => Happened::Left { task, call: (ordinal, Some(asked)) },
                Note::Failed { task } | Note::Stopped { task } => Happened::Failed { task },
                Note::Action { name, version } => {
                    let known =
                        |happened: &Happened| matches!(happened, Happened::Action { name: of, .. } if *of == name);
                    if into.all.iter().any(known) {
                        continue;
                    }
                    Happened::Action { name, version }
                }
            };
            into.all.push(happened);
        }
    }
    into.turns = at;
}

impl Happenings {
    /// Leaves, of what came from notes, so many turns in all; how many there are then.
    fn truncate(&mut self, base: usize, of_facts: u64, turns: u64) -> u64 {
        let mut count = of_facts + self.missing;
        let mut at = base;
        while at < self.all.len() {
            let is_turn = matches!(self.all[at], Happened::Turn { .. });
            if is_turn && count >= turns {
                self.all.remove(at);
            } else {
                count += u64::from(is_turn);
                at += 1;
            }
        }
        count
    }
}
