//! SIGTERM: an orderly stop, and a second one that waits for nothing.

use std::fmt::Write;
use std::time::Duration;

use rustix::process::Signal;

use crate::flights::{self, Committed, Expected, JANUARY, committed};
use crate::process::{Job, Shape, TWO_PROCESSES, TWO_WORKERS, wait_for, workers};

fn flights() -> Job {
    let mut job = flights::job(JANUARY);
    job.option("--advisor-latency", &3);
    job
}

fn stopped_and_resumed(shape: Shape, to: usize) {
    let (job, what) = (flights(), format!("{shape:?}, process {to}"));
    // Slow enough to be met in the middle.
    let mut cluster = job.start_more(shape, &["--rate", "3000"], &mut |_, _| {});
    wait_for("a commit", || cluster.has_ended() || job.published("out/alerts") > 3);
    cluster.0[to].signal(Signal::TERM);
    let outcomes = cluster.finish();
    for outcome in &outcomes {
        outcome.assert_code(0, &["stopped; all epochs before ", " are committed"]);
        assert_eq!(outcome.stderr.lines().count(), 1, "{what}: {outcome:#?}");
    }
    let Committed::Before(frontier) = committed(&job) else { panic!("{what}: it is not complete, and has commits") };
    let told = format!("before {frontier} ");
    assert!(outcomes.iter().all(|outcome| outcome.stderr.contains(&told)), "{what}: {frontier} {outcomes:#?}");
    // What was published is just what is committed.
    assert!(job.parts("out/alerts").iter().all(|(epoch, _)| *epoch < frontier), "{what}");
    let staged = job.staged("out/alerts");
    assert!(staged.iter().all(|(epoch, _)| *epoch >= frontier), "{what}: before {frontier}, and staged: {staged:?}");
    job.start(workers(3)).assert_success(&what);
    flights::assert_complete(&job, &Expected::of(JANUARY), &what);
}

#[test]
fn a_stop_commits_what_is_closed_and_the_job_goes_on() {
    stopped_and_resumed(TWO_WORKERS, 0);
}

#[test]
fn a_stop_may_be_asked_of_any_process() {
    for to in [0, 1] {
        stopped_and_resumed(TWO_PROCESSES, to);
    }
}

#[test]
fn a_second_signal_stops_at_once() {
    // Three days without an alert, a day with one, and one more: the day with an alert is closed, and not over.
    let mut text = "year,month,day,dep_time,dep_delay,arr_delay,carrier,flight,tailnum,origin,dest\n".to_owned();
    for (day, delay) in [(1, 0), (2, 0), (3, 0), (4, 30), (4, 30), (5, 0), (6, 0)] {
        writeln!(text, "2013,1,{day},600,{delay},{delay},UA,7,N1,EWR,BOS").expect("a string takes all");
    }
    let mut job = flights::job(&text);
    let quick = job.options.clone();
    job.option("--advisor-latency", &50_000);
    let mut cluster = job.start(TWO_WORKERS);
    wait_for("a commit", || cluster.has_ended() || committed(&job) != Committed::Nothing);
    cluster.signal(Signal::TERM);
    assert!(!cluster.0[0].has_ended(Duration::from_millis(300)), "it waits for what is closed");
    // Two signals at once are one to a process that has not yet heard of the first.
    wait_for("the end", || {
        cluster.signal(Signal::TERM);
        cluster.0[0].has_ended(Duration::from_millis(20))
    });
    for outcome in cluster.finish() {
        outcome.assert_failed(&["stopped at once by a second SIGTERM"]);
    }
    job.options = quick;
    job.start(TWO_WORKERS).assert_success("after the second signal");
    let expected = Expected::of(&text);
    flights::assert_complete(&job, &expected, "after the second signal");
}
