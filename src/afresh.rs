//! Attempts after one that stopped the job: the next start tries again, and asks for what the failure may be due to (rules
//! S8, D7).
//!
//! # Invariants
//! - An error that was recorded is asked for again at the latest when four starts have failed.
//! - Each start goes the same way: what an attempt asks for again follows from the journal before it.

use crate::call::Memo;
use crate::core::Core;
use crate::journal::Name;
use crate::notes::{Note, Stopped};
use crate::run::Run;

/// What another attempt is given.
pub(crate) enum Again {
    /// All that was given before: the policy says so. So does the journal where an older version has noted the failure.
    Plain,
    /// The same but for calls at these places, which it makes again.
    Afresh(Vec<u32>),
}

impl<O> Core<O> {
    /// What the next attempt of a task that fails is given, if there is one since it has failed so in an earlier start.
    pub(crate) fn tries_afresh(&self, run: &mut Run<O>, task: Name, memo: &mut Memo, message: &str) -> Option<Again> {
        let noting = run.noting.as_mut()?;
        match noting.has_failed(task) {
            Some(Stopped::Formerly) => {
                memo.forget_last_turn();
                return Some(Again::Plain);
            }
            Some(Stopped::Now) => {}
            // It has not come to that: another run has stopped the job before it could, or the process was gone. It fails of a
            // recorded error all the same, and would stop this start.
            None if !self.outside.get() && !noting.goes_on(task) && memo.has_recorded_errors() => {
                let (key, agent) = (self.keys.text(self.key()), &self.program.name);
                tracing::warn!(agent, key, message, "a recorded error is asked for again");
                noting.again(Note::Stopped { task });
            }
            None => return None,
        }
        let asks = memo.suspects();
        memo.forget(&asks);
        Some(Again::Afresh(asks))
    }
}
