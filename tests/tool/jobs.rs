//! Checkpoints of a job that is over, and those of older versions.

use std::io::{BufRead, BufReader, Read};
use std::path::Path;
use std::process::Stdio;

use serde_json::{Value, json};

use crate::support::{Job, checkpoint, copy, files, shown, tool};

/// Flights of January that were flown: each is a run.
const FLOWN: u64 = 26_483;

fn fixture(name: &str) -> std::path::PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("operators/tests/fixtures").join(name)
}

#[test]
fn a_finished_job_is_listed_shown_and_found_whole() {
    let job = Job::finished();
    let dir = job.checkpoints();
    let before = files(&dir);

    let listed = checkpoint("list", &dir, &[]);
    let listed = listed.lines();
    assert!(listed.len() >= 2, "{listed:#?}");
    let last = listed.last().expect("a line");
    for part in ["epoch end", "generation 1", "agents 1", "collections 1", "complete"] {
        assert!(last.contains(part), "no {part:?}: {last}");
    }
    let verified = checkpoint("verify", &dir, &[]);
    assert_eq!(verified.lines().len(), listed.len());
    assert!(verified.lines().iter().all(|line| line.ends_with(": ok")));

    let all = shown(&dir, &[]);
    assert_eq!((&all["job"], &all["complete"]), (&json!("turnaround"), &json!(true)));
    assert_eq!(all["sources"]["flights"], json!("ended"));
    let keys = all["agents"]["turnaround"].as_array().expect("keys");
    let runs: u64 = keys.iter().map(|key| key["sequence"].as_u64().expect("a number")).sum();
    assert_eq!(runs, FLOWN);
    assert!(keys.is_sorted_by_key(|key| key["key"].as_str()));

    let one = shown(&dir, &["--agent", "turnaround", "--key", "N14228"]);
    let aircraft = keys.iter().find(|key| key["key"] == "N14228").expect("an aircraft of January");
    assert_eq!(one["agents"], json!({"turnaround": [aircraft]}));
    assert_eq!(one["collections"], json!({}));
    assert_eq!(shown(&dir, &["--key", "\"N14228\""]), one, "a key can be JSON, too");
    assert!(aircraft["memory"]["streak"].is_u64(), "{aircraft}");

    let name = all["collections"].as_object().and_then(|all| all.keys().next()).expect("a collection").clone();
    let rows = all["collections"][&name].as_array().expect("rows");
    assert!(!rows.is_empty() && rows.iter().all(|row| row["count"].as_i64() != Some(0)));
    let collection = shown(&dir, &["--agent", &name]);
    assert_eq!((&collection["agents"], &collection["collections"][&name]), (&json!({}), &Value::from(rows.clone())));

    checkpoint("show", &dir, &["--agent", "nobody"]).assert_refused(1, &["nobody", "turnaround"]);
    checkpoint("show", &dir, &["--key", "N0"]).assert_refused(1, &["N0"]);
    assert_eq!(checkpoint("compact", &dir, &[]).lines(), ["nothing to compact"]);
    assert!(files(&dir) == before, "nothing is changed");
}

#[test]
fn an_epoch_names_the_checkpoint_that_has_it() {
    let job = Job::finished();
    let listed = checkpoint("list", &job.checkpoints(), &[]);
    let epochs: Vec<u64> = listed
        .lines()
        .iter()
        .filter_map(|line| line.split_whitespace().nth(1).expect("an epoch").parse().ok())
        .collect();
    for epoch in &epochs {
        assert_eq!(shown(&job.checkpoints(), &[&epoch.to_string(), "--key", "N14228"])["epoch"], json!(epoch));
    }
    let kept: Vec<String> = epochs.iter().map(u64::to_string).collect();
    let kept: Vec<&str> = kept.iter().map(String::as_str).collect();
    checkpoint("show", &job.checkpoints(), &["3"]).assert_refused(1, &kept);
}

#[test]
fn a_reader_that_goes_away_ends_it_quietly() {
    let job = Job::finished();
    let dir = job.checkpoints();
    let mut child = tool(&["checkpoint", "show", dir.to_str().expect("UTF-8")])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the tool starts");
    let mut line = String::new();
    BufReader::with_capacity(8, child.stdout.take().expect("piped")).read_line(&mut line).expect("a line");
    let mut errors = String::new();
    child.stderr.take().expect("piped").read_to_string(&mut errors).expect("UTF-8");
    assert!(child.wait().expect("it ends").success());
    assert_eq!((&*line, &*errors), ("{\n", ""));
}

#[test]
fn checkpoints_of_older_versions_are_read_and_left_alone() {
    for name in ["checkpoint-v1", "checkpoint-v1-lz4"] {
        let dir = fixture(name);
        let before = files(&dir);
        let listed = checkpoint("list", &dir, &[]);
        assert_eq!(listed.lines().len(), 4, "{listed:#?}");
        assert_eq!(checkpoint("verify", &dir, &[]).lines().len(), 4);
        // Formats and times are not known: what is there shows as bytes.
        let keys = shown(&dir, &["8"])["agents"]["patient"].clone();
        assert!(keys[0]["key"].as_str().is_some_and(|key| key.starts_with("0x")), "{keys:#}");
        assert!(files(&dir) == before, "{name} is changed");
    }
}

#[test]
fn offline_compaction_and_removal_leave_what_is_needed() {
    let place = tempfile::tempdir().expect("a directory");
    copy(&fixture("checkpoint-v1"), place.path());
    let before = shown(place.path(), &[])["agents"].clone();
    let compacted = checkpoint("compact", place.path(), &["--lz4"]);
    assert!(compacted.lines()[0].contains("base/0000000003-00000000"), "{compacted:#?}");
    assert_eq!(checkpoint("compact", place.path(), &[]).lines(), ["nothing to compact"]);
    let removed = checkpoint("gc", place.path(), &["--keep", "2"]);
    assert!(removed.lines().iter().any(|line| line.ends_with("log/0000000001-00000-00000000")), "{removed:#?}");
    assert_eq!(checkpoint("gc", place.path(), &[]).lines(), [""; 0], "nothing is left to remove");
    assert_eq!(checkpoint("verify", place.path(), &[]).lines().len(), 2);
    assert_eq!(shown(place.path(), &[])["agents"], before);
}
