//! Records: what is kept of a run that is over, and of the beginning of one that is not, where somebody wants to look at it
//! later (`Checkpoints::retain_journals`).
//!
//! From a record a run can be done again outside its job, against another program and without a call: it says what the run was
//! about, which turns its tasks took, by which clock and with which ends of waits (as notes do, `notes`), what it put out, and
//! what of its key's memory it changed, before and after. The memory that it found is not in it: that is what the key
//! remembers now, with the changes of its runs taken back from the last to this one.
//!
//! # Invariants
//! - Every run that ends has a record, however it ends; there is none of a run that fails its job.
//! - A run that is noted has one of its beginning, before its first note: notes know an input by its digest only.
//! - What is kept of a run that outlives its process is among the entries of its journal.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use timely_agents_operators::behavior::Work;
use timely_agents_operators::fact::What;
use timely_agents_operators::keys::KeyId;

use crate::agent::Input;
use crate::core::Core;
use crate::journal::{self, Entry};
use crate::notes::Note;
use crate::plan::Program;
use crate::run::Run;
use crate::tagged::Tagged;

/// What a run is about, encoded.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) enum About {
    Input(Vec<u8>),
    /// The end of an epoch.
    Notification(u64),
    /// A scheduled event.
    Scheduled(Vec<u8>),
}

impl About {
    pub(crate) fn of<I: Input>(work: &Work<I>) -> Self {
        match work {
            Work::Input(input) => About::Input(journal::encode(input)),
            Work::Notify { epoch } => About::Notification(*epoch),
            Work::Scheduled { event } => About::Scheduled(event.clone()),
        }
    }
}

/// What a run has put out, in order.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Puts {
    /// As JSON, where the agent keeps that (`Agent::retain_outputs`).
    pub(crate) outputs: Vec<Option<String>>,
    /// The values of side outputs by their names, as JSON where the agent keeps them (`Agent::retain_side`).
    pub(crate) sides: BTreeMap<String, Vec<Option<String>>>,
}

impl Puts {
    fn is_empty(&self) -> bool {
        self.outputs.is_empty() && self.sides.is_empty()
    }

    /// Adds the values of side outputs that are among `items`.
    pub(crate) fn add_sides<'a, O>(&mut self, program: &Program<O>, items: impl Iterator<Item = &'a Tagged>) {
        for item in items {
            if let Tagged::Side { tag, value } = item {
                let side = &program.sides[*tag as usize];
                let shown = side.show.map(|show| show(&**value));
                self.sides.entry(side.name.clone()).or_default().push(shown);
            }
        }
    }

    pub(crate) fn append(&mut self, more: Puts) {
        self.outputs.extend(more.outputs);
        for (name, values) in more.sides {
            self.sides.entry(name).or_default().extend(values);
        }
    }
}

/// How a run has ended.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum RunEnd {
    /// Nothing was left to do.
    #[default]
    Done,
    /// An action of it has failed, and its input went to the dead letters.
    Dead(String),
    /// It was cut short from outside: cancelled, or it took too long.
    Cut(String),
    /// It was cancelled before it began.
    NotBegun(String),
    /// It has not: this is the record of its beginning, which says what it is about and what its journal is known by.
    Begun,
}

/// A place in memory that a run has changed.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Change {
    pub(crate) what: What,
    pub(crate) before: Option<Vec<u8>>,
    pub(crate) after: Option<Vec<u8>>,
}

/// See the module.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Record {
    pub(crate) about: About,
    /// The clock when it began, and when it ended.
    pub(crate) began: u64,
    pub(crate) until: u64,
    /// Whether the input had ended when it began.
    pub(crate) ended: bool,
    /// What its notes are known by, if it has waited.
    pub(crate) journal: Option<u64>,
    /// Its turns, from where it first waited.
    pub(crate) script: Vec<Note>,
    pub(crate) puts: Puts,
    pub(crate) changes: Vec<Change>,
    pub(crate) end: RunEnd,
}

/// What is kept of a run that is not over.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Keeping {
    pub(crate) about: About,
    pub(crate) began: u64,
    pub(crate) ended: bool,
    /// What its key remembered when it began.
    pub(crate) found: BTreeMap<What, Vec<u8>>,
    /// What it did before the process started.
    script: Vec<Note>,
    puts: Puts,
    end: RunEnd,
}

impl Keeping {
    /// What is recorded of the run when it is noted for the first time.
    fn beginning(&self, journal: u64) -> Record {
        Record {
            about: self.about.clone(),
            began: self.began,
            until: self.began,
            ended: self.ended,
            journal: Some(journal),
            script: Vec::new(),
            puts: Puts::default(),
            changes: Vec::new(),
            end: RunEnd::Begun,
        }
    }

    /// What was kept of a run by the entries of its journal that hold; nothing if nothing was when it began.
    pub(crate) fn of_entries(entries: &[Entry]) -> Option<Box<Self>> {
        let kept = entries.iter().find_map(|entry| match entry {
            Entry::Kept(keeping) => Some(keeping.clone()),
            _ => None,
        });
        let mut keeping = kept?;
        keeping.rewind(entries);
        Some(keeping)
    }

    /// The run has come as far as these entries say, and no further.
    pub(crate) fn rewind(&mut self, entries: &[Entry]) {
        (self.script, self.puts) = (Vec::new(), Puts::default());
        for entry in entries {
            self.script.extend(entry.note());
            if let Entry::Put(puts) = entry {
                self.puts.append(puts.clone());
            }
        }
    }
}

impl Entry {
    /// The same as notes say it, if a task took a turn, or has failed and may have failed the job.
    pub(crate) fn turn(&self) -> Option<Note> {
        match self {
            Entry::Turn { .. } | Entry::Action { .. } => self.note(),
            Entry::Again { task, .. } => Some(Note::Failed { task: *task }),
            _ => None,
        }
    }

    /// The same as notes say it.
    fn note(&self) -> Option<Note> {
        Some(match self.clone() {
            Entry::Turn { task, now, given } => Note::Turn { task, now, noted: Vec::new(), given },
            Entry::Given { task, end, at } => Note::Given { task, end, at },
            Entry::LeftFrom { task, ordinal } => Note::LeftFrom { task, ordinal },
            Entry::Left { task, ordinal, asked } => Note::Left { task, ordinal, asked },
            Entry::Action { name, version } => Note::Action { name, version },
            Entry::Afresh { task, .. } => Note::Stopped { task },
            _ => return None,
        })
    }
}

impl<O> Core<O> {
    /// A run begins.
    pub(crate) fn begin_keeping(&self, about: About) {
        // Its end is then looked at.
        self.common.attention.set(true);
        self.mark_puts();
        let keeping = Keeping {
            about,
            began: self.common.head.now.get(),
            ended: self.ended.get(),
            found: self.memory.borrow().all(self.key()),
            script: Vec::new(),
            puts: Puts::default(),
            end: RunEnd::Done,
        };
        *self.keeping.borrow_mut() = Some(Box::new(keeping));
    }

    /// The record of the active run's beginning.
    pub(crate) fn keep_beginning(&self, journal: u64) -> Option<Box<Record>> {
        self.keeping.borrow().as_ref().map(|keeping| Box::new(keeping.beginning(journal)))
    }

    /// The active run is driven: what is there was put out by others, or is kept.
    pub(crate) fn mark_puts(&self) {
        let effects = &self.staged.borrow().effects;
        self.put_from.set((effects.outputs.len(), effects.tagged.len()));
    }

    /// What the active run has put out since then.
    fn puts(&self) -> Puts {
        let (outputs, tagged) = self.put_from.get();
        let effects = &self.staged.borrow().effects;
        let mut puts = Puts::default();
        let show = |output: &O| self.program.show_output.map(|show| show(output));
        puts.outputs.extend(effects.outputs[outputs..].iter().map(show));
        puts.add_sides(&self.program, effects.tagged[tagged..].iter());
        puts
    }

    /// The active run is put away.
    pub(crate) fn keep_puts(&self) {
        let mut keeping = self.keeping.borrow_mut();
        let Some(keeping) = &mut *keeping else { return };
        let puts = self.puts();
        if puts.is_empty() {
            return;
        }
        if let Some(recorded) = &mut *self.recorded.borrow_mut() {
            recorded.push(&Entry::Put(puts.clone()));
        }
        keeping.puts.append(puts);
    }

    /// How the active run ends, if not as runs do.
    pub(crate) fn keep_end(&self, end: RunEnd) {
        if let Some(keeping) = &mut *self.keeping.borrow_mut() {
            keeping.end = end;
        }
    }

    /// The active run has ended.
    pub(crate) fn keep_run(&self, key: KeyId) {
        let Some(keeping) = self.keeping.take() else { return };
        let Keeping { about, began, ended, mut found, script, mut puts, end } = *keeping;
        puts.append(self.puts());
        let mut changes = Vec::new();
        for (what, after) in self.memory.borrow().all(key) {
            let before = found.remove(&what);
            if before.as_ref() != Some(&after) {
                changes.push(Change { what, before, after: Some(after) });
            }
        }
        let gone = found.into_iter().map(|(what, before)| Change { what, before: Some(before), after: None });
        changes.extend(gone);
        let until = self.common.head.now.get();
        let record = Record { about, began, until, ended, journal: None, script, puts, changes, end };
        *self.kept.borrow_mut() = Some(Box::new(record));
    }

    /// The run that has just ended had waited: its turns are among its notes.
    pub(crate) fn keep_notes(&self, run: &mut Run<O>) {
        if let (Some(record), Some(noting)) = (&mut *self.kept.borrow_mut(), &mut run.noting) {
            record.journal = Some(noting.journal());
            record.script.append(&mut noting.take_kept());
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test that unwraps in vain has failed")]
mod tests {
    use crate::prelude::*;
    use crate::testing::Harness;

    #[test]
    fn no_epoch_is_over_for_facts_before_the_records_of_its_runs_are_durable() {
        for carry in [false, true] {
            let mut agent = Agent::<u64, u64>::new("plain");
            if carry {
                agent.carry();
            }
            agent.on_input("take", |n, ctx| {
                ctx.output(*n);
                Ok(())
            });
            let plan = agent.build().unwrap();
            let mut harness = Harness::<u64, u64, u64>::new(&plan, |n| *n).unwrap().outside(Vec::new());
            harness = harness.restored_by(0, |_| Ok(())).unwrap();
            harness.hold_notes();
            harness.push(0, 7);
            harness.run();
            harness.advance(1);
            harness.run();
            assert_eq!((harness.frontier(), harness.facts_frontier()), (vec![1], vec![0]), "carry {carry}");
            harness.sync();
            harness.run();
            assert_eq!(harness.facts_frontier(), [1], "carry {carry}");
            harness.push(1, 8);
            harness.end();
            harness.run();
            assert!(!harness.is_closed(), "a record is not durable");
            harness.sync();
            harness.run();
            assert!(harness.is_closed() && harness.facts_frontier().is_empty());
        }
    }
}
