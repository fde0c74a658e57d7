//! Notes of a run: what it has to know after a crash that comes before its epoch is committed (rule D7).
//!
//! A note says who took which turn since the one before, with the ends of waits that were given then; and, before a run
//! hears of it, the end of a call. From the notes of a run that starts again, or that goes on from a checkpoint, its actions
//! run as they did (`follow`), and make no call whose end was noted.
//!
//! # Invariants
//! - The end of a call is in a note once, with its value; the turn that it is given at names it by its ordinal.
//! - Turns are counted from where the run first waited: so notes go on where a checkpoint ends.
//! - The first note of a start of the job has all that the run went through before, beyond its checkpoint: what earlier
//!   starts noted of it no longer counts then.
//! - What is noted and was not given yet is in the run's facts too: a note is let go of when its epoch is committed.

use std::collections::{BTreeMap, VecDeque};
use std::rc::Rc;

use serde::{Deserialize, Serialize};
use timely_agents_operators::behavior::{PastRun, RunNote};
use timely_agents_operators::completion::{CallFailure, CallRef, CallResult};

use crate::core::TaskCell;
use crate::ends::Ends;
use crate::journal::{self, Asked, End, Name};
use crate::left::{LeftCall, LeftCalls};
use crate::record::Record;
use crate::run::Run;

/// One thing that happened.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) enum Note {
    /// A call has ended. Its action may not know yet.
    Given {
        /// The task that made it.
        task: Name,
        /// The call and its end.
        end: Rc<End>,
        /// The clock.
        at: u64,
    },
    /// A call is about to leave, as older versions noted it.
    LeftFrom {
        /// The task that makes it.
        task: Name,
        /// Its place among the waits of its task.
        ordinal: u64,
    },
    /// A task started or went on.
    Turn {
        /// The task.
        task: Name,
        /// The clock.
        now: u64,
        /// Ends that it was given, which are noted by themselves.
        noted: Vec<u64>,
        /// Other waits that were over by then.
        given: Vec<Rc<End>>,
    },
    /// A task has failed, and the job with it, as older versions noted it: the next attempt is not given what the last turn
    /// was.
    Failed {
        /// The task.
        task: Name,
    },
    /// An action takes its first turn in this run.
    Action {
        /// Its name.
        name: String,
        /// The version of its code.
        version: u32,
    },
    /// A call is about to leave.
    Left {
        /// The task that makes it.
        task: Name,
        /// Its place among the waits of its task.
        ordinal: u64,
        /// What it asks for.
        asked: Rc<Asked>,
    },
    /// A task has failed, and the job with it: the next attempt asks again for what it may have failed of.
    Stopped {
        /// The task.
        task: Name,
    },
}

/// A task has failed, and the job with it, before this start.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stopped {
    /// In an older version.
    Formerly,
    Now,
}

impl Note {
    /// The call that is about to leave, if this says so.
    pub(crate) fn left(&self) -> Option<(Name, LeftCall)> {
        match self {
            Note::LeftFrom { task, ordinal } => Some((*task, (*ordinal, None))),
            Note::Left { task, ordinal, asked } => Some((*task, (*ordinal, Some(Rc::clone(asked))))),
            _ => None,
        }
    }
}

/// A note as bytes.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Body {
    /// The start of the job that made it.
    pub(crate) start: u64,
    /// The clock when the run started.
    pub(crate) began: u64,
    /// How many turns the run took before.
    pub(crate) from: u64,
    pub(crate) notes: Vec<Note>,
}

/// The notes of a run.
#[derive(Debug, Default)]
pub(crate) struct Noting {
    /// What they are known by, in all starts of the job.
    journal: u64,
    began: u64,
    /// Whether there are notes of it, of this start or an earlier one.
    is_noted: bool,
    /// How many turns the run has taken, and how many before `notes`.
    turns: u64,
    from: u64,
    /// Since the last note.
    notes: Vec<Note>,
    /// All before it, where the run is recorded when it is over.
    kept: Option<Vec<Note>>,
    /// What is recorded of its beginning, until the first note of this start.
    beginning: Option<Box<Record>>,
    /// Waits that are over since their task, named by its index, last took a turn; without their end where it is noted.
    arrived: Vec<(u32, u64, Option<Rc<End>>)>,
    /// Noted ends that were not given yet, and whether they are in the run's facts.
    pending: Vec<(Name, Rc<End>, u64, bool)>,
    /// Calls that have left and not ended, and are not in the run's facts.
    left: Vec<(Name, u64, Rc<Asked>)>,
    /// What the task is called that has failed for good.
    failed: Option<Name>,
    /// The actions that are noted.
    started: Vec<u32>,
    /// Whether the run began again, and what is noted of it does not count.
    anew: bool,
    /// Why the run is given up, if it is.
    gives_up: Option<String>,
    past: Past,
    /// The clock after what it goes through first.
    now: Option<u64>,
}

/// What the run went through before a crash.
#[derive(Debug, Default)]
pub(crate) struct Past {
    /// What it has to go through, and how many turns were before.
    pub(crate) script: VecDeque<Note>,
    from: u64,
    /// Noted ends.
    pub(crate) given: Ends,
    left: LeftCalls,
    /// Tasks that failed, and the job with them.
    failed: BTreeMap<Name, Stopped>,
}

impl Noting {
    /// Of a run that starts at `began`.
    pub(crate) fn new(journal: u64, began: u64) -> Self {
        Noting { journal, began, ..Noting::default() }
    }

    /// Of a run that had notes before a crash.
    pub(crate) fn of_past(past: &PastRun) -> Result<Self, String> {
        let mut noting = Noting { journal: past.journal, is_noted: true, ..Noting::default() };
        let mut start = None;
        let mut bodies = &past.bodies[..];
        while !bodies.is_empty() {
            let (body, rest) =
                postcard::take_from_bytes::<Body>(bodies).map_err(|error| format!("a note of a run: {error}"))?;
            bodies = rest;
            // A later start has gone through all before, as far as its checkpoint did not have it. Its first note may be gone,
            // with the epoch that it is of, and those of an earlier start still be there.
            if start.replace(body.start) != Some(body.start) {
                noting.past = Past { from: body.from, ..Past::default() };
                noting.began = body.began;
            }
            noting.past.script.extend(body.notes);
        }
        let Past { script, given, left, failed, .. } = &mut noting.past;
        for note in script {
            if let Some((task, call)) = note.left() {
                left.insert(task, call);
            }
            match note {
                Note::Given { task, end, at } => given.push(*task, Rc::clone(end), *at),
                Note::Failed { task } => drop(failed.insert(*task, Stopped::Formerly)),
                Note::Stopped { task } => drop(failed.insert(*task, Stopped::Now)),
                Note::LeftFrom { .. } | Note::Left { .. } | Note::Turn { .. } | Note::Action { .. } => {}
            }
        }
        given.sort();
        Ok(noting)
    }

    /// Of a run that begins again, whatever was noted of it.
    pub(crate) fn anew(journal: u64) -> Self {
        Noting { anew: true, ..Noting::new(journal, 0) }
    }

    pub(crate) fn is_anew(&self) -> bool {
        self.anew
    }

    /// The run is given up when it starts, and does not go through its past.
    pub(crate) fn give_up(&mut self, why: String) {
        self.drop_past();
        self.gives_up = Some(why);
    }

    pub(crate) fn given_up(&mut self) -> Option<String> {
        self.gives_up.take()
    }

    /// The actions that its past names, with their versions.
    pub(crate) fn actions(&self) -> impl Iterator<Item = (&str, u32)> {
        self.past.script.iter().filter_map(|note| match note {
            Note::Action { name, version } => Some((name.as_str(), *version)),
            _ => None,
        })
    }

    /// An action takes a turn.
    pub(crate) fn names(&mut self, action: u32, name: &str, version: u32) {
        if !self.started.contains(&action) {
            self.started.push(action);
            self.notes.push(Note::Action { name: name.to_owned(), version });
        }
    }

    /// From here on all notes are kept, for the run's record.
    pub(crate) fn keep(&mut self) {
        self.kept.get_or_insert_default();
    }

    /// What is recorded with its first note.
    pub(crate) fn begins_as(&mut self, beginning: Option<Box<Record>>) {
        self.beginning = beginning;
    }

    /// The same, if the run is noted.
    pub(crate) fn take_noted_beginning(&mut self) -> Option<Vec<u8>> {
        self.beginning.take_if(|_| self.is_noted).map(|beginning| journal::encode(&beginning))
    }

    /// All that was noted since.
    pub(crate) fn take_kept(&mut self) -> Vec<Note> {
        let mut kept = self.kept.take().unwrap_or_default();
        kept.append(&mut self.notes);
        kept
    }

    /// What its calls are known by.
    pub(crate) fn journal(&self) -> u64 {
        self.journal
    }

    pub(crate) fn began(&self) -> u64 {
        self.began
    }

    pub(crate) fn past(&mut self) -> &mut Past {
        &mut self.past
    }

    /// What it went through before a crash does not count.
    pub(crate) fn drop_past(&mut self) {
        self.past = Past::default();
    }

    /// When the run goes on, after what it goes through first.
    pub(crate) fn goes_on_at(&mut self, now: u64) {
        self.now = Some(now);
    }

    pub(crate) fn now(&self) -> Option<u64> {
        self.now
    }

    /// Whether the run has to go through something first.
    pub(crate) fn has_past(&self) -> bool {
        !self.past.script.is_empty() || !self.past.given.is_empty()
    }

    /// The checkpoint has the run's first `turns` turns, and `noted` ends that none of them was given.
    pub(crate) fn follow_checkpoint(&mut self, turns: u64, noted: Ends) -> Result<(), String> {
        let Past { script, from, given, .. } = &mut self.past;
        given.append(noted);
        if *from > turns && !script.is_empty() {
            return Err(format!("its notes begin at turn {from}, and the checkpoint ends at turn {turns}"));
        }
        let mut turn = *from;
        let notes = &mut self.notes;
        script.retain(|note| {
            let is_turn = matches!(note, Note::Turn { .. });
            turn += u64::from(is_turn);
            // What left before the last of these turns may have been given up by then.
            let is_before = turn < turns && note.left().is_some();
            if is_before {
                notes.push(note.clone());
            }
            !is_before && (!is_turn || turn > turns)
        });
        (self.turns, self.from) = (turns, turns);
        Ok(())
    }

    /// What is noted again, for the next note of this start.
    pub(crate) fn again(&mut self, note: Note) {
        self.notes.push(note);
    }

    /// The waits of a task that are not begun again: their ends are known.
    pub(crate) fn known(&self) -> BTreeMap<Name, Vec<u64>> {
        let mut known: BTreeMap<Name, Vec<u64>> = BTreeMap::new();
        for (task, end, _) in self.past.given.iter() {
            known.entry(task).or_default().push(end.ordinal);
        }
        for note in &self.past.script {
            if let Note::Turn { task, given, .. } = note {
                known.entry(*task).or_default().extend(given.iter().map(|end| end.ordinal));
            }
        }
        known
    }

    /// The calls of a task that had left.
    pub(crate) fn left(&self, task: Name) -> Vec<LeftCall> {
        self.past.left.of(task)
    }

    /// Whether the task has failed, and the job with it, before this start.
    pub(crate) fn has_failed(&self, task: Name) -> Option<Stopped> {
        self.past.failed.get(&task).copied()
    }

    /// Whether the task has more turns to follow.
    pub(crate) fn goes_on(&self, task: Name) -> bool {
        self.past.script.iter().any(|note| matches!(note, Note::Turn { task: of, .. } if *of == task))
    }

    /// The task fails the job.
    pub(crate) fn fails(&mut self, task: Name) {
        self.failed = Some(task);
    }

    /// A wait is over; with its end unless that is noted.
    pub(crate) fn arrives(&mut self, task: u32, ordinal: u64, end: Option<Rc<End>>) {
        self.arrived.push((task, ordinal, end));
    }

    /// A task takes a turn.
    pub(crate) fn turn(&mut self, task: &TaskCell, now: u64) {
        let (index, name) = (task.index.get(), Name::of(task));
        let (mut noted, mut given) = (Vec::new(), Vec::new());
        self.arrived.retain_mut(|(to, ordinal, end)| {
            if *to != index {
                return true;
            }
            match end.take() {
                Some(end) => given.push(end),
                None => noted.push(*ordinal),
            }
            false
        });
        if !noted.is_empty() {
            self.pending.retain(|(task, end, ..)| *task != name || !noted.contains(&end.ordinal));
        }
        self.turns += 1;
        self.notes.push(Note::Turn { task: name, now, noted, given });
    }

    /// Noted ends that were not given yet and are not in the run's facts; they are from here on.
    pub(crate) fn take_pending(&mut self) -> impl Iterator<Item = (Name, &Rc<End>, u64)> {
        let new = self.pending.iter_mut().filter(|(.., stored)| !*stored);
        new.map(|(task, end, at, stored)| {
            *stored = true;
            (*task, &*end, *at)
        })
    }

    /// Calls that have left and not ended, and are not in the run's facts; they are from here on.
    pub(crate) fn take_left(&mut self) -> impl Iterator<Item = (Name, u64, Rc<Asked>)> {
        self.left.drain(..)
    }

    /// A call had left before the checkpoint that the run goes on from.
    pub(crate) fn has_left(&mut self, task: Name, call: LeftCall) {
        self.past.left.insert(task, call);
    }

    /// A call had left, and its task waits for it again: it is noted again.
    pub(crate) fn leaves_again(&mut self, note: Note) {
        if let Some((task, (ordinal, Some(asked)))) = note.left() {
            self.left.push((task, ordinal, asked));
        }
        self.notes.push(note);
    }

    /// A wait has ended.
    pub(crate) fn ends(&mut self, task: Name, ordinal: u64) {
        self.left.retain(|(of, at, _)| (*of, *at) != (task, ordinal));
    }

    /// All since the last note, as a note.
    fn write(&mut self, start: u64) -> RunNote {
        let notes = std::mem::take(&mut self.notes);
        if let Some(kept) = &mut self.kept {
            kept.extend(notes.iter().cloned());
        }
        let from = std::mem::replace(&mut self.from, self.turns);
        self.is_noted = true;
        let body = journal::encode(&Body { start, began: self.began, from, notes });
        let record = self.take_noted_beginning();
        RunNote { journal: self.journal, body, record }
    }
}

impl<O> Run<O> {
    /// A call has ended so: the note of it, if there has to be one.
    pub(crate) fn note_end(&mut self, (start, at): (u64, u64), call: CallRef, result: &CallResult) -> Option<RunNote> {
        if matches!(result, Err(CallFailure::Aborted)) {
            return None;
        }
        let noting = self.noting.as_mut()?;
        let task = self.tasks.get(call.task as usize)?.as_ref()?;
        let mut calls = task.cell.calls.borrow_mut();
        let wait = calls.iter_mut().find(|wait| wait.call == call.call && wait.eager)?;
        wait.noted = true;
        let end = wait.end(journal::copy(result));
        let task = Name::of(&task.cell);
        noting.ends(task, end.ordinal);
        noting.pending.push((task, Rc::clone(&end), at, false));
        noting.notes.push(Note::Given { task, end, at });
        Some(noting.write(start))
    }

    /// A call is about to leave.
    pub(crate) fn note_start(&mut self, start: u64, call: CallRef) -> Option<RunNote> {
        let noting = self.noting.as_mut()?;
        let task = self.tasks.get(call.task as usize)?.as_ref()?;
        let calls = task.cell.calls.borrow();
        let wait = calls.iter().find(|wait| wait.call == call.call)?;
        let (ordinal, asked) = (wait.ordinal, wait.asked.clone().unwrap_or_default());
        let task = Name::of(&task.cell);
        noting.left.push((task, ordinal, Rc::clone(&asked)));
        noting.notes.push(Note::Left { task, ordinal, asked });
        Some(noting.write(start))
    }

    /// The run has failed for good.
    pub(crate) fn note_failure(&mut self, start: u64) -> Option<RunNote> {
        let noting = self.noting.as_mut()?;
        let task = noting.failed.take()?;
        // Without a note it starts from nothing anyway.
        if !noting.is_noted {
            return None;
        }
        noting.notes.push(Note::Stopped { task });
        Some(noting.write(start))
    }
}
