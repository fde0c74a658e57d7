//! Calls that had left when the process went away, and what they had asked for (rule D7).
//!
//! Where nobody knows the end of such a call, it may have taken effect. Its reconciler finds that out; so it is asked about
//! what had left, and about nothing else.
//!
//! # Invariants
//! - A call at the place of one that had left has the same name and digest, or the run goes another way than its journal.
//! - Of a call of which an older version noted the place only, the place is compared.

use std::collections::BTreeMap;
use std::rc::Rc;

use crate::core::TaskCell;
use crate::journal::{Asked, Name};

/// A call that had left: its place among the waits of its task with its number there, and what it had asked for, unless an
/// older version noted it.
pub(crate) type LeftCall = (u64, Option<Rc<Asked>>);

/// See the [module](self).
#[derive(Debug, Default)]
pub(crate) struct LeftCalls(BTreeMap<Name, Vec<LeftCall>>);

impl LeftCalls {
    pub(crate) fn insert(&mut self, task: Name, call: LeftCall) {
        self.0.entry(task).or_default().push(call);
    }

    /// Those of a task.
    pub(crate) fn of(&self, task: Name) -> Vec<LeftCall> {
        self.0.get(&task).cloned().unwrap_or_default()
    }
}

impl TaskCell {
    /// Whether a call that asks for this had left from that place; `None` if none had.
    pub(crate) fn had_left(&self, ordinal: u64, asked: Option<&Asked>) -> Option<bool> {
        let left = self.left.borrow();
        let mut there = left.iter().filter(|(of, _)| *of == ordinal).peekable();
        there.peek()?;
        Some(there.any(|(_, then)| then.as_ref().is_none_or(|then| asked.is_some_and(|now| now.is_same(then)))))
    }

    /// Whether the task asks now for what the call that had left did; `None` if it waits for nothing at that place.
    pub(crate) fn asks_for_left(&self, (ordinal, then): &LeftCall) -> Option<Result<(), String>> {
        let Some(then) = then else { return Some(Ok(())) };
        let calls = self.calls.borrow();
        let wait = calls.iter().find(|call| call.ordinal == *ordinal)?;
        let now = wait.asked.clone().unwrap_or_default();
        Some(if now.is_same(then) { Ok(()) } else { Err(then.differs(*ordinal, Some(&now))) })
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test that unwraps in vain has failed")]
mod tests {
    use timely_agents_operators::journal::{Note as StoredNote, Written};

    use crate::journal::encode;
    use crate::notes::{Body, Note};
    use crate::prelude::*;
    use crate::testing::Harness;
    use crate::{Plan, Reconciled};

    fn asking(name: &'static str) -> Plan<u64, u64> {
        let mut agent = Agent::<u64, u64>::new("asking");
        agent.on_input_async("ask", async move |n, ctx| {
            let call = ctx.durable(name, *n, async |n| n).reconcile(async |n, _| Reconciled::Done(n + 1));
            ctx.output(call.await?);
            Ok(())
        });
        agent.build().unwrap()
    }

    /// A note as it was before it said what a call asks for.
    fn of_an_older_version(note: &StoredNote) -> StoredNote {
        let mut written: Written = postcard::from_bytes(&note.bytes).unwrap();
        let mut body: Body = postcard::from_bytes(&written.body).unwrap();
        for note in &mut body.notes {
            if let Note::Left { task, ordinal, .. } = note {
                *note = Note::LeftFrom { task: *task, ordinal: *ordinal };
            }
        }
        written.body = encode(&body);
        StoredNote { bytes: encode(&written), ..note.clone() }
    }

    #[test]
    fn call_that_an_older_version_noted_is_compared_by_its_place() {
        let start = |plan: &Plan<u64, u64>, generation: u64, notes: &[StoredNote]| {
            let harness = Harness::<u64, u64, u64>::new(plan, |n| *n).unwrap().journaled(generation, notes).unwrap();
            let mut harness = harness.restored_by(0, |_| Ok(())).unwrap();
            harness.push(0, 7);
            harness.run();
            harness
        };
        let first = start(&asking("call"), 1, &[]);
        let notes: Vec<StoredNote> = first.notes().iter().map(of_an_older_version).collect();
        assert_ne!(notes, first.notes());
        for (name, now) in [("call", &notes[..]), ("other", &notes), ("call", first.notes())] {
            let mut second = start(&asking(name), 2, now);
            assert_eq!(second.failure(), None, "{name}");
            second.complete(second.calls()[0].id);
            second.run();
            assert_eq!(second.outputs().into_iter().map(|(_, _, n)| n).collect::<Vec<_>>(), [8], "{name}: found");
        }
        let third = start(&asking("other"), 2, first.notes());
        assert!(third.failure().is_some_and(|failure| failure.message.contains("it was call \"call\"")));
    }
}
