//! Steps that are left out: the tests must notice. `docs/faults.md` has the table.
//!
//! What only a loss of power shows, such as a sync, is left out in the tests of the store (`checkpoint::scenario`).

use std::panic::{AssertUnwindSafe, catch_unwind};

use crate::matrix::{Subject, flights};
use crate::process::{ONE, TWO_WORKERS};
use crate::sums;

/// Whether a job with a fault ends wrong, fails, or cannot go on after a kill at `kill`.
fn noticed(subject: &Subject, fault: &str, kill: Option<&str>) -> bool {
    let job = (subject.job)();
    if let Some(kill) = kill {
        let outcomes = job.start_failing(TWO_WORKERS, 0, &format!("{fault};{kill}")).finish();
        if !outcomes[0].killed() {
            return outcomes[0].code() != Some(0);
        }
    }
    let ended = job.start_failing(ONE, 0, if kill.is_none() || fault.contains("sweep") { fault } else { "" }).finish();
    ended[0].code() != Some(0) || catch_unwind(AssertUnwindSafe(|| (subject.assert_complete)(&job, fault))).is_err()
}

#[test]
fn a_step_that_is_left_out_is_noticed() {
    let (sums, flights) = (sums::subject(), flights());
    // Otherwise everything would be noticed.
    assert!(!noticed(&sums, "", None) && !noticed(&sums, "", Some("commit.done.after=3*off->kill")));
    for (subject, fault, kill) in [
        (&sums, "commit.publish=skip", None),
        (&sums, "sink.publish.rename=skip", None),
        (&sums, "sink.publish.apply=skip", None),
        (&sums, "sink.stage.write=skip", None),
        (&sums, "create.write=skip", None),
        (&sums, "create.link=skip", None),
        (&sums, "commit.manifest=skip", None),
        (&sums, "log.write=skip", Some("commit.done.after=3*off->kill")),
        // Commits are slow, so that one of them has the snapshot.
        (&sums, "snapshot.write=skip", Some("commit.manifest.before=pause50;commit.done.after=12*off->kill")),
        (&flights, "sink.sweep.unlink=skip", Some("commit.manifest.before=4*off->kill")),
    ] {
        assert!(noticed(subject, fault, kill), "{fault}");
    }
}
