//! Programs that do not fit their checkpoints, checkpoints that are damaged, and disks that fail: what is refused, with
//! what is said, and that nothing is lost by it.

use std::fs;

use rustix::process::Signal;

use crate::flights::{self, Committed, Expected, JANUARY, committed};
use crate::process::{Job, Launch, ONE, TWO_WORKERS, list, wait_for};
use crate::reference::generate;

/// A small program, stopped after some commits.
fn stopped() -> Job {
    let mut job = Job::new(Launch::own("small"));
    job.option("--out", &job.path("out"));
    // Slow enough to be met in the middle.
    let mut cluster = job.start_with(ONE, |_, command| {
        command.env("CRASH_VARIANT", "slow");
    });
    wait_for("commits", || cluster.has_ended() || job.published("out/lines") > 2);
    cluster.signal(Signal::TERM);
    cluster.finish()[0].assert_code(0, &["stopped; all epochs before "]);
    assert!(matches!(committed(&job), Committed::Before(_)));
    job
}

fn started_as(job: &mut Job, variants: &[&str]) -> crate::process::Outcome {
    job.launch.env.retain(|(name, _)| name != "CRASH_VARIANT");
    job.launch.env.push(("CRASH_VARIANT".to_owned(), variants.join(",")));
    job.start(ONE).finish().remove(0)
}

/// The old program goes on afterwards, and its output is what it is without any of this.
fn assert_goes_on(job: &mut Job) {
    assert_eq!(started_as(job, &[]).code(), Some(0));
    assert_small(job);
}

fn assert_small(job: &Job) {
    let mut lines: Vec<String> = job.parts("out/lines").into_iter().map(|(_, line)| line).collect();
    lines.sort_unstable();
    let mut expected: Vec<String> = (0..40).map(|n| format!("\"{} {}\"", n % 4, n / 4 + 1)).collect();
    expected.sort_unstable();
    assert_eq!(lines, expected);
    assert_eq!(committed(job), Committed::All);
}

#[test]
fn a_program_that_does_not_fit_is_refused_with_what_differs_and_nothing_is_lost() {
    let mut job = stopped();
    let before = committed(&job);
    for (variant, parts) in [
        ("agent-renamed", &["does not fit its checkpoint", "counter"][..]),
        ("key-type", &["does not fit its checkpoint", "counter", "key"]),
        ("memory-type", &["does not fit its checkpoint", "counter", "seen"]),
        ("sink-renamed", &["does not fit its checkpoint", "lines"]),
        ("source-renamed", &["does not fit its checkpoint", "numbers"]),
        ("other-job", &["holds checkpoints of the job `small`"]),
    ] {
        let outcome = started_as(&mut job, &[variant]);
        println!("{variant}: {}", outcome.stderr.trim());
        outcome.assert_failed(parts);
        assert_eq!(committed(&job), before, "{variant}");
    }
    assert_goes_on(&mut job);
}

#[test]
fn new_slots_and_new_agents_are_taken() {
    let mut job = stopped();
    assert_eq!(started_as(&mut job, &["new-slot", "new-agent"]).code(), Some(0));
    assert_small(&job);
}

#[test]
fn a_job_that_is_complete_says_so_and_does_nothing() {
    let text = generate(3, 500);
    let job = flights::job(&text);
    job.start(TWO_WORKERS).assert_success("the first time");
    let published = job.parts("out/alerts");
    let outcome = job.start(ONE).finish().remove(0);
    outcome.assert_code(0, &["turnaround: the job is complete; nothing is left to do"]);
    flights::assert_complete(&job, &Expected::of(&text), "the second time");
    assert!(job.parts("out/alerts") == published);
}

#[test]
fn checkpoints_with_standard_output_are_a_usage_error() {
    let mut job = flights::job(JANUARY);
    let at = job.options.iter().position(|option| option == "--output").expect("it is there");
    job.options[at + 1] = "-".to_owned();
    job.start(ONE).finish()[0].assert_code(2, &["--output: with --checkpoints it must name a folder"]);
    assert!(list(&job.path("checkpoints")).is_empty());
}

/// Changes a byte in the middle of the newest file of a folder; its name.
fn damage(job: &Job, folder: &str) -> (String, Vec<u8>) {
    let folder = job.path(&format!("checkpoints/{folder}"));
    let newest = list(&folder).into_iter().max().expect("a file");
    let path = format!("{folder}/{newest}");
    let whole = fs::read(&path).expect("a file");
    let mut bytes = whole.clone();
    // In the first record behind the head: what lies at the end of a log may not count.
    let at = if folder.ends_with("log") { 100 } else { bytes.len() / 2 };
    bytes[at] ^= 0x40;
    fs::write(&path, bytes).expect("it can be written");
    (path, whole)
}

#[test]
fn damage_is_refused_with_its_place_and_what_is_mended_goes_on() {
    let mut job = stopped();
    for folder in ["chain", "log"] {
        let (path, whole) = damage(&job, folder);
        let outcome = started_as(&mut job, &[]);
        println!("{folder}: {}", outcome.stderr.trim());
        outcome.assert_failed(&[path.as_str(), "damaged at offset"]);
        fs::write(&path, whole).expect("it can be written");
    }
    assert_goes_on(&mut job);
}

#[test]
fn a_step_that_fails_ends_the_job_with_the_cause_and_it_goes_on_when_it_succeeds_again() {
    let text = generate(5, 900);
    let expected = Expected::of(&text);
    for point in [
        "create.write",
        "create.sync",
        "create.link",
        "create.sync_dir",
        "log.open",
        "log.write",
        "log.sync",
        "append.sync_dir",
        "commit.publish",
        "sink.stage.open",
        "sink.stage.write",
        "sink.stage.sync",
        "sink.publish.rename",
        "sink.publish.sync",
    ] {
        for after in [0, 2] {
            let job = flights::job(&text);
            let mut cluster = job.start_failing(TWO_WORKERS, 0, &format!("{point}={after}*off->fail"));
            let what = format!("{point} after {after}");
            wait_for(&what, || cluster.has_ended());
            let outcome = cluster.finish().remove(0);
            if outcome.code() == Some(0) && after > 0 {
                // It is not done so often.
                flights::assert_complete(&job, &expected, &what);
                continue;
            }
            assert!(outcome.stderr.contains(&format!("failpoint {point}")), "{what}: {outcome:#?}");
            outcome.assert_failed(&[]);
            // What is stored is whole, and the job goes on from it.
            committed(&job);
            job.start(ONE).assert_success(&what);
            flights::assert_complete(&job, &expected, &what);
        }
    }
}

#[test]
fn a_directory_that_cannot_be_written_is_named() {
    let mut job = flights::job(&generate(5, 300));
    // A file where a folder has to be: also root cannot write into it.
    let place = job.path("file");
    fs::write(&place, "").expect("a file");
    let at = job.options.iter().position(|option| option == "--output").expect("it is there");
    let good = std::mem::replace(&mut job.options[at + 1], format!("{place}/alerts"));
    job.start(ONE).finish()[0].assert_failed(&[place.as_str()]);
    job.options[at + 1] = good;
    job.start(ONE).assert_success("with a folder");
}
