//! The checkpoints of a job, as the operators of one worker see them.

use std::cell::RefCell;
use std::rc::Rc;

use timely_agents_operators::commit::{Append, Board, Committed};
use timely_agents_operators::fact::slot_id;
use timely_agents_operators::keys::Key;
use timely_agents_operators::operator::Restore;

use crate::agent::Input;
use crate::behavior::AgentBehavior;
use crate::format::Format;
use crate::plan::Plan;

/// What an operator whose state is durable needs.
pub(crate) struct Registered {
    /// Hands facts to the log.
    pub(crate) append: Append,
    /// Gives the facts of the checkpoint.
    pub(crate) restore: Option<Restore>,
}

/// See the module.
pub(crate) struct Durable {
    resume: u64,
    board: Board,
    committed: Committed,
}

impl Durable {
    /// Epochs before this one are over.
    pub(crate) fn resume(&self) -> u64 {
        self.resume
    }

    pub(crate) fn board(&self) -> &Board {
        &self.board
    }

    pub(crate) fn agent<K: Key, I: Input, O: 'static>(&self, plan: &Plan<I, O>) -> Registered {
        todo!()
    }

    pub(crate) fn restore(&self, component: &str) -> Option<Restore> {
        todo!()
    }
}
