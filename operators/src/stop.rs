//! Gives up the operators of a worker when their job has failed somewhere else.
//!
//! A failed job leaves its workers where they are until the process ends. What operators must still do before that,
//! such as closing what they opened, they do when a worker that is told of the failure calls [`Stop::ask`] and steps
//! once more.
//!
//! # Invariants
//! - An operator that has stopped keeps its capabilities and is inert: its unfinished work is not taken for done.
//!
//! Not here: who tells a worker (`Control::on_failure`).

use std::cell::{Cell, RefCell};
use std::fmt;
use std::rc::Rc;

use timely::scheduling::Activator;

/// Asks the operators of one worker to stop. Clones are handles of the same request.
#[derive(Clone, Default)]
pub struct Stop {
    shared: Rc<Shared>,
}

#[derive(Default)]
struct Shared {
    asked: Cell<bool>,
    operators: RefCell<Vec<Activator>>,
}

impl Stop {
    /// Stops every operator that was registered; they do so in the next step of their worker.
    pub fn ask(&self) {
        self.shared.asked.set(true);
        for operator in self.shared.operators.borrow().iter() {
            operator.activate();
        }
    }

    /// Whether operators are to stop.
    pub fn is_asked(&self) -> bool {
        self.shared.asked.get()
    }

    /// Adds an operator, to be activated when it is asked to stop.
    pub fn register(&self, operator: Activator) {
        self.shared.operators.borrow_mut().push(operator);
    }
}

impl fmt::Debug for Stop {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Stop")
            .field("asked", &self.is_asked())
            .field("operators", &self.shared.operators.borrow().len())
            .finish()
    }
}
