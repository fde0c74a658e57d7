//! What can be built into plans: an agent, a plan, a few of them.

use crate::agent::{Agent, Input};
use crate::plan::{BuildErrors, Plan};

/// An agent, a plan, or a tuple of them, as [`run`](crate::run) takes it.
pub trait Plans {
    /// The plans: a [`Plan`] for an agent, a tuple for a tuple.
    type Built: Send + Sync + 'static;

    /// Validates the agents.
    ///
    /// # Errors
    /// What is wrong with the first agent that cannot be built.
    fn plans(self) -> Result<Self::Built, BuildErrors>;
}

impl<I: Input, O: 'static> Plans for Agent<I, O> {
    type Built = Plan<I, O>;

    fn plans(self) -> Result<Plan<I, O>, BuildErrors> {
        self.build()
    }
}

impl<I: Input, O: 'static> Plans for Plan<I, O> {
    type Built = Plan<I, O>;

    fn plans(self) -> Result<Plan<I, O>, BuildErrors> {
        Ok(self)
    }
}

impl<A: Plans, B: Plans> Plans for (A, B) {
    type Built = (A::Built, B::Built);

    fn plans(self) -> Result<Self::Built, BuildErrors> {
        Ok((self.0.plans()?, self.1.plans()?))
    }
}

impl<A: Plans, B: Plans, C: Plans> Plans for (A, B, C) {
    type Built = (A::Built, B::Built, C::Built);

    fn plans(self) -> Result<Self::Built, BuildErrors> {
        Ok((self.0.plans()?, self.1.plans()?, self.2.plans()?))
    }
}
