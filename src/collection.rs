//! Collections that outlive the process.

use std::rc::Rc;

use differential_dataflow::{AsCollection, VecCollection};
use timely_agents_operators::behavior::Failure;
use timely_agents_operators::commit::{Rows, checkpointed, gather, persist};
use timely_agents_operators::time::EpochTime;

use crate::environment::Environment;

/// Makes a collection durable.
pub trait Checkpointed: Sized {
    /// The same collection, whose rows a job with checkpoints keeps under `name`.
    ///
    /// After a restart it begins with its rows as of the last committed epoch, at that epoch; so what differential
    /// operators derive from it is what it was. Without checkpoints nothing changes.
    fn checkpointed(self, name: &str) -> Self;
}

impl<T: EpochTime, D: Rows> Checkpointed for VecCollection<'_, T, D, isize> {
    fn checkpointed(self, name: &str) -> Self {
        let environment = Environment::current();
        let Some(durable) = environment.durable.clone() else { return self };
        let registered = match durable.collection::<T, D>(name) {
            Ok(registered) => registered,
            Err(failure) => {
                environment.fail(failure);
                return self;
            }
        };
        let (resume, groups, on_failure) = (durable.resume(), durable.groups(), Rc::clone(&environment.on_failure));
        let component = name.to_owned();
        let failed = move |message: String| {
            on_failure(&Failure {
                agent: component.clone(),
                action: "restore".into(),
                key: String::new(),
                epoch: resume,
                message,
            });
        };
        let (rows, facts) = checkpointed(self.inner, name, groups, resume, registered.restore, failed);
        let load = environment.log_load();
        gather(persist(facts, name, registered.number, resume, registered.log, load), durable.board());
        rows.as_collection()
    }
}
