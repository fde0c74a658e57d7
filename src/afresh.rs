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

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test that unwraps in vain has failed")]
mod tests {
    use futures::future::join;
    use timely_agents_operators::journal::{Note as StoredNote, Written};

    use crate::error::Error;
    use crate::journal::encode;
    use crate::notes::{Body, Note};
    use crate::prelude::*;
    use crate::testing::Harness;

    /// A note as it was before attempts asked for errors again.
    fn of_an_older_version(note: &StoredNote) -> StoredNote {
        let mut written: Written = postcard::from_bytes(&note.bytes).unwrap();
        let mut body: Body = postcard::from_bytes(&written.body).unwrap();
        for note in &mut body.notes {
            if let Note::Stopped { task } = note {
                *note = Note::Failed { task: *task };
            }
        }
        written.body = encode(&body);
        StoredNote { bytes: encode(&written), ..note.clone() }
    }

    #[test]
    fn attempt_after_a_failure_that_an_older_version_noted_goes_its_way() {
        let mut agent = Agent::<u64, u64>::new("asking");
        agent.on_input_async("ask", async |n, ctx| {
            let ask = |name| ctx.durable(name, *n, async |n| Ok::<u64, String>(n));
            let (a, b) = join(ask("a"), ask("b")).await;
            ctx.output(a?.map_err(Error::new)? + b?.map_err(Error::new)?);
            Ok(())
        });
        let plan = agent.build().unwrap();
        let start = |generation: u64, notes: &[StoredNote]| {
            let harness = Harness::<u64, u64, u64>::new(&plan, |n| *n).unwrap().journaled(generation, notes).unwrap();
            let mut harness = harness.restored_by(0, |_| Ok(())).unwrap();
            harness.push(0, 7);
            harness.run();
            harness
        };
        let mut first = start(1, &[]);
        for (call, end) in [(0, Err("busy".to_owned())), (0, Ok(7u64))] {
            first.complete_with(first.calls()[call].id, &end);
            first.run();
        }
        assert_eq!(first.failure().unwrap().message, "busy");
        let older: Vec<StoredNote> = first.notes().iter().map(of_an_older_version).collect();
        for (notes, asked) in [(first.notes(), "a"), (&older[..], "b")] {
            let second = start(2, notes);
            let calls: Vec<_> = second.calls().into_iter().map(|call| call.name).collect();
            assert_eq!(calls, [asked]);
        }
    }
}
