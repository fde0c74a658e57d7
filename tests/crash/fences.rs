//! Fencing: of two runs of a job only the later one changes anything (rule D9).

use rustix::process::Signal;

use crate::flights::{self, Committed, Expected, JANUARY, committed};
use crate::process::{Cluster, Job, ONE, Shape, TWO_PROCESSES, TWO_WORKERS, wait_for};

fn flights() -> Job {
    let mut job = flights::job(JANUARY);
    job.option("--advisor-latency", &3);
    job.option("--open-epochs", &6);
    job
}

/// Starts a run that is slow enough to be met in the middle.
fn slow(job: &Job, shape: Shape, more: &[&str]) -> Cluster {
    job.start_more(shape, &[&["--rate", "3000"], more].concat(), &mut |_, _| {})
}

#[test]
fn a_second_run_is_refused_at_once() {
    let job = flights();
    let mut first = slow(&job, TWO_WORKERS, &[]);
    wait_for("a commit", || first.has_ended() || job.published("out/alerts") > 2);
    for shape in [ONE, TWO_PROCESSES] {
        // Its second process finds that nobody answers.
        let second = job.start_more(shape, &["--connect-timeout", "1"], &mut |_, _| {}).finish();
        second[0].assert_failed(&["checkpoints is in use by another run of the job; wait for its end, or take over"]);
        // What is left of the second run ends as well.
        assert!(second.iter().all(|outcome| outcome.code() == Some(1)), "{second:#?}");
    }
    // The first one is still at work, stops in order, and what it began is finished.
    first.signal(Signal::TERM);
    first.finish()[0].assert_code(0, &["stopped; all epochs before "]);
    job.start(ONE).assert_success("the rest");
    flights::assert_complete(&job, &Expected::of(JANUARY), "the first run");
}

/// Stops the first run with SIGSTOP, lets `successors` take over one after the other, and wakes the first.
fn taken_over(shape: Shape, successors: &[Shape]) {
    let (job, what, expected) = (flights(), format!("{shape:?}, then {successors:?}"), Expected::of(JANUARY));
    let mut first = slow(&job, shape, &[]);
    wait_for("a commit", || first.has_ended() || job.published("out/alerts") > 2);
    first.signal(Signal::STOP);
    let (last, before) = successors.split_last().expect("at least one");
    let mut asleep = Vec::new();
    for shape in before {
        let parts = job.published("out/alerts");
        let mut next = slow(&job, *shape, &["--take-over"]);
        wait_for("another commit", || next.has_ended() || job.published("out/alerts") > parts + 1);
        next.signal(Signal::STOP);
        asleep.push(next);
    }
    job.start_more(*last, &["--take-over"], &mut |_, _| {}).assert_success(&what);
    flights::assert_complete(&job, &expected, &what);
    let (published, frontier) = (job.parts("out/alerts"), committed(&job));
    let by = format!("by generation {}, which was started later", successors.len() + 1);
    for (n, old) in std::iter::once(first).chain(asleep).enumerate() {
        let own = format!("generation {} of the job has been shut out {by}", n + 1);
        old.signal(Signal::CONT);
        let outcomes = old.finish();
        assert!(outcomes.iter().all(|outcome| outcome.code() == Some(1)), "{what}: {outcomes:#?}");
        assert!(outcomes.iter().all(|outcome| outcome.stderr.contains(&own)), "{what}: {outcomes:#?}");
    }
    assert!(job.parts("out/alerts") == published && committed(&job) == frontier, "{what}: the old run has published");
    // What it staged is in folders of its own, which nobody publishes.
    let report = job.read("out/report.csv");
    job.start(ONE).assert_success(&what);
    assert_eq!(job.read("out/report.csv"), report, "{what}");
}

#[test]
fn a_run_that_was_taken_over_ends_and_has_published_nothing_more() {
    taken_over(TWO_WORKERS, &[ONE]);
}

#[test]
fn two_processes_are_shut_out_alike() {
    taken_over(TWO_PROCESSES, &[TWO_WORKERS]);
}

#[test]
fn two_generations_on_the_first_is_still_shut_out() {
    taken_over(ONE, &[TWO_WORKERS, ONE]);
}

#[test]
fn what_an_old_generation_appends_late_is_never_read() {
    let (job, expected) = (flights(), Expected::of(JANUARY));
    let mut first = slow(&job, ONE, &[]);
    wait_for("a commit", || first.has_ended() || job.published("out/alerts") > 2);
    first.signal(Signal::STOP);
    let mut second = slow(&job, TWO_WORKERS, &["--take-over"]);
    let parts = job.published("out/alerts");
    wait_for("a commit of the second", || second.has_ended() || job.published("out/alerts") > parts + 1);
    // The first one wakes up, writes what it had, and learns that it is shut out, all beside the second.
    first.signal(Signal::CONT);
    let outcomes = first.finish();
    outcomes[0].assert_failed(&["generation 1 of the job has been shut out by generation 2"]);
    second.kill();
    assert!(matches!(committed(&job), Committed::Before(_)));
    job.start(TWO_WORKERS).assert_success("the third");
    flights::assert_complete(&job, &expected, "the third");
}
