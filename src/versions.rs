//! Versions of actions: a run of a checkpoint goes on only with the code that it began with.
//!
//! The journal of a run names each action that has taken a turn, with its version. Where the program has another, what the
//! journal says of the action is not to be replayed, and the agent's choice decides.

use timely_agents_operators::behavior::{PastRun, RunHead};
use timely_agents_operators::keys::Key;

use crate::agent::{Agent, Input};
use crate::behavior::{AgentBehavior, ROOT};
use crate::event::{Notification, names};
use crate::journal::{self, Beginning, Entry, Name, Packed, Recorded, Sent};
use crate::notes::Noting;
use crate::plan::Program;
use crate::record::Keeping;
use crate::run::Run;

/// What becomes of an unfinished run of a checkpoint if an action that it has started is of another version now.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum VersionChange {
    /// The job does not start.
    #[default]
    Refuse,
    /// The run begins again from its input. What it has output, flushed and scheduled stays; its calls are made again, and
    /// the signals that it has taken are there for it again.
    Restart,
    /// The run is undone, and its input dead-lettered.
    DeadLetter,
}

impl<I: Input, O: 'static> Agent<I, O> {
    /// What becomes of a run that a checkpoint has in progress, if an action that it has started is of another
    /// [version](crate::ActionOptions::version) now, or is gone. Default: the job does not start.
    pub fn on_version_change(&mut self, then: VersionChange) -> &mut Self {
        self.version_change = then;
        self
    }
}

impl<K: Key, I: Input, O: 'static> AgentBehavior<K, I, O> {
    /// Puts back a run of a checkpoint; whether it begins anew.
    pub(crate) fn take_over(
        &mut self,
        head: &RunHead,
        beginning: &[u8],
        entries: &[Vec<u8>],
    ) -> Result<(Box<Run<O>>, bool), String> {
        let mut run = Self::begin_replay(beginning, entries)?;
        if self.opened().1.core.retains.get()
            && let Some(recorded) = &run.recorded
        {
            run.keeping = Keeping::of_entries(&recorded.replay);
            run.noting.iter_mut().for_each(|noting| noting.keep());
        }
        let named = run.recorded.iter().flat_map(|recorded| &recorded.replay).filter_map(|entry| match entry {
            Entry::Action { name, version } => Some((name.as_str(), *version)),
            _ => None,
        });
        let message = match self.changed(named) {
            Ok(started) => {
                if let Some(recorded) = &mut run.recorded {
                    recorded.started = started;
                }
                return Ok((run, false));
            }
            Err(message) => message,
        };
        match self.version_changed(head, &message)? {
            VersionChange::DeadLetter => {
                run.cancelled = Some(message);
                run.replays = false;
                Ok((run, false))
            }
            _ => {
                self.give_back(head, run.recorded.as_mut().map(|recorded| std::mem::take(&mut recorded.replay)));
                Self::anew(run, beginning).map(|run| (run, true))
            }
        }
    }

    /// Gives a run of a checkpoint what was noted of it beyond.
    pub(crate) fn take_notes_over(&mut self, run: &mut Run<O>, head: &RunHead, past: &PastRun) -> Result<(), String> {
        if run.cancelled.is_some() || run.noting.as_ref().is_some_and(|noting| noting.is_anew()) {
            return Ok(());
        }
        let mut noting = Noting::of_past(past)?;
        if let Err(message) = self.changed(noting.actions()) {
            match self.version_changed(head, &message)? {
                VersionChange::DeadLetter => {
                    run.cancelled = Some(message);
                    run.replays = false;
                }
                // It goes on from the checkpoint, as it would without notes.
                _ => noting.drop_past(),
            }
        }
        if self.opened().1.core.retains.get() {
            noting.keep();
        }
        run.noting = Some(Box::new(noting));
        Ok(())
    }

    /// The actions of a journal, in this program, or which of them is another now.
    pub(crate) fn changed<'a>(&self, named: impl Iterator<Item = (&'a str, u32)>) -> Result<Vec<u32>, String> {
        let program = &self.plan.program;
        let mut started = Vec::new();
        for (name, then) in named {
            let now = program.actions.iter().position(|action| action.name == name);
            let version = now.map(|index| program.actions[index].options.version);
            match (now, version) {
                (Some(index), Some(now)) if now == then => started.push(index as u32),
                (_, now) => {
                    let now = now.map_or_else(|| "is gone".to_owned(), |now| format!("has version {now} now"));
                    return Err(format!("action {name:?} was of version {then} when the run started it, and {now}"));
                }
            }
        }
        Ok(started)
    }

    /// What becomes of a run that has started another version of an action, if the agent has a choice for it.
    pub(crate) fn version_changed(&mut self, head: &RunHead, message: &str) -> Result<VersionChange, String> {
        let key = self.opened().1.core.keys.text(head.key);
        let Program { name: agent, version_change: then, .. } = &*self.plan.program;
        match then {
            VersionChange::Refuse => Err(format!(
                "agent {agent}, key {key}: {message}: its journal is not replayed on other code; choose with \
                 `on_version_change`: `Restart` begins such runs again from their input, `DeadLetter` gives them up"
            )),
            VersionChange::Restart | VersionChange::DeadLetter => {
                tracing::warn!(agent, key, message, ?then, "a run does not go on");
                Ok(*then)
            }
        }
    }

    /// The signals that a run has taken by its journal are there to be taken again, as the first.
    fn give_back(&mut self, head: &RunHead, entries: Option<Vec<Entry>>) {
        let mut taken: Vec<(Name, u64, String, Vec<u8>)> = Vec::new();
        for entry in entries.into_iter().flatten() {
            match entry {
                Entry::Turn { task, given, .. } => {
                    for end in given {
                        if let (Some(name), Ok(Some(bytes))) = (end.asked.is_signal(), &end.given)
                            && let Ok(Some(payload)) = postcard::from_bytes(bytes)
                        {
                            taken.push((task, end.ordinal, name.to_owned(), payload));
                        }
                    }
                }
                Entry::Returned { task, ordinal } => taken.retain(|(of, at, ..)| (*of, *at) != (task, ordinal)),
                Entry::Again { task, .. } | Entry::Afresh { task, .. } => taken.retain(|(of, ..)| *of != task),
                _ => {}
            }
        }
        let mut signals = self.opened().1.core.common.signals.borrow_mut();
        for (_, _, name, payload) in taken.into_iter().rev() {
            signals.put_back(head.key, name, payload);
        }
    }

    /// A run as it was before its first action.
    fn anew(mut run: Box<Run<O>>, beginning: &[u8]) -> Result<Box<Run<O>>, String> {
        let mut begun: Beginning = postcard::from_bytes(beginning).map_err(|error| error.to_string())?;
        let first = if run.input.is_some() {
            Some(Packed::Input)
        } else {
            let notification =
                |epoch| Packed::Typed(names::NOTIFICATION.to_owned(), journal::encode(&Notification { epoch }));
            run.notifying.map(notification)
        };
        if let Some(event) = first {
            begun.queue = vec![Sent { path: ROOT, next: 0, event }];
        }
        // The run of a scheduled event had not done anything when it was put down: its queue is what it was.
        begun.writes.clear();
        let beginning = journal::encode(&begun);
        run.noting = begun.journal.map(|journal| Box::new(Noting::anew(journal)));
        let mut recorded = Recorded { beginning, ..Recorded::default() };
        if let Some(keeping) = &mut run.keeping {
            run.noting.iter_mut().for_each(|noting| noting.keep());
            keeping.rewind(&[]);
            recorded.push(&Entry::Kept(keeping.clone()));
        }
        run.recorded = Some(Box::new(recorded));
        Ok(run)
    }
}
