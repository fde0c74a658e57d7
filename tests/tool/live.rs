//! A directory whose job is at work.

use std::fs;

use serde_json::json;

use crate::support::{Job, checkpoint, eventually, files, shown};

#[test]
fn a_live_job_is_looked_at_but_not_changed_and_goes_on_after_an_offline_compaction() {
    let job = Job::new();
    let dir = job.checkpoints();
    // Half a minute at least, of which this takes a few seconds.
    let mut running = job.start(&["--rate", "900"]);
    // Its checkpoints come and go meanwhile.
    eventually("two checkpoints", || {
        assert!(!running.is_over(), "the job was to be at work");
        let there = dir.join("chain").exists() && checkpoint("list", &dir, &[]).stdout.lines().count() >= 2;
        there.then_some(())
    });
    for _ in 0..10 {
        let live = shown(&dir, &["--agent", "turnaround"]);
        assert_eq!(live["complete"], json!(false));
        assert!(live["sources"].is_null() && live["agents"]["turnaround"].is_array());
        assert!(checkpoint("verify", &dir, &[]).lines().iter().all(|line| line.ends_with(": ok")));
    }
    checkpoint("compact", &dir, &[]).assert_refused(1, &["in use"]);
    checkpoint("gc", &dir, &[]).assert_refused(1, &["in use"]);
    checkpoint("gc", &dir, &["--live"]).lines();
    assert!(!running.is_over(), "the job was to be at work");
    running.kill();

    // As it was when it was killed: nothing but a new start, or this, changes it.
    let before = files(&dir);
    let epoch = shown(&dir, &[])["epoch"].clone();
    assert!(files(&dir) == before);
    let state = shown(&dir, &[])["agents"].clone();
    checkpoint("compact", &dir, &[]).lines();
    let compacted = shown(&dir, &[]);
    assert_eq!((&compacted["epoch"], &compacted["generation"], &compacted["agents"]), (&epoch, &json!(2), &state));
    checkpoint("verify", &dir, &[]).lines();
    fs::write(dir.join("log/0000000001-00009-00000000"), "left behind").expect("a file");
    let removed = checkpoint("gc", &dir, &[]);
    assert!(removed.lines().iter().any(|line| line.contains("0000000001-00009-00000000")), "{removed:#?}");

    job.start(&[]).finish();
    assert_eq!(shown(&dir, &["--key", "N14228"])["generation"], json!(3));
    assert_eq!(job.alerts(), Job::finished().alerts());
}
