//! The small examples as a user runs them, on one worker and on two.
//!
//! Cargo builds examples for a plain `cargo test`, not for `cargo test --test examples`: build them first then
//! (`cargo build --examples`). The main job has tests of its own, `turnaround`.
//!
//! # Not checked
//! - The order of lines of different keys: it is nobody's promise.

mod approval;

use std::env;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// An example's binary: beside the directory of this test's own.
fn program(example: &str) -> PathBuf {
    let test = env::current_exe().expect("the path of the test");
    let profile = test.parent().and_then(Path::parent).expect("target/<profile>/deps");
    profile.join("examples").join(example)
}

/// Runs an example and gives its lines, sorted. On success it has nothing to say on standard error.
fn run(example: &str, workers: &str) -> Vec<String> {
    let output = Command::new(program(example))
        .args(["-w", workers])
        .stdin(Stdio::null())
        .output()
        .unwrap_or_else(|error| panic!("no example {example}: {error}; run `cargo build --examples`"));
    assert!(output.status.success(), "{output:?}");
    assert!(output.stderr.is_empty(), "{output:?}");
    let text = String::from_utf8(output.stdout).expect("UTF-8");
    let mut lines: Vec<String> = text.lines().map(str::to_owned).collect();
    lines.sort_unstable();
    lines
}

fn assert_prints(example: &str, expected: &[&str]) {
    let mut expected = expected.to_vec();
    expected.sort_unstable();
    for workers in ["1", "2"] {
        assert_eq!(run(example, workers), expected, "{example} on {workers} workers");
    }
}

#[test]
fn hello_greets_and_says_goodbye_when_an_epoch_is_over() {
    assert_prints(
        "hello",
        &[
            r#""epoch 1: hello Ann, time 1""#,
            r#""epoch 1: hello Bob, time 1""#,
            r#""epoch 1: hello Ann, time 2""#,
            r#""epoch 1: over, Ann was here 2 times""#,
            r#""epoch 1: over, Bob was here 1 times""#,
            r#""epoch 2: hello Bob, time 2""#,
            r#""epoch 2: over, Bob was here 2 times""#,
            r#""epoch 4: hello Ann, time 3""#,
            r#""epoch 4: over, Ann was here 3 times""#,
        ],
    );
}

#[test]
fn hello_is_short() {
    let source = include_str!("../../examples/hello.rs");
    assert!(source.lines().count() < 40);
}

#[test]
fn pipeline_holds_an_epoch_open_for_the_slow_sensor() {
    assert_prints(
        "pipeline",
        &[
            r#"{"from":"dead letter","text":"epoch 1: fast sent \"warm\": invalid digit found in string"}"#,
            r#"{"from":"alarm","text":"epoch 1: fast reads 21"}"#,
            r#"{"from":"alarm","text":"epoch 1: fast reads 22"}"#,
            r#"{"from":"alarm","text":"epoch 1: slow reads 20"}"#,
            r#"{"from":"alarm","text":"epoch 1 over: fast had at most 22"}"#,
            r#"{"from":"alarm","text":"epoch 1 over: slow had at most 20"}"#,
            r#"{"from":"out of range","text":"epoch 2: fast reads 99"}"#,
            r#"{"from":"alarm","text":"epoch 2: slow reads 19"}"#,
            r#"{"from":"alarm","text":"epoch 2 over: slow had at most 20"}"#,
        ],
    );
}

#[test]
fn orders_handle_a_failure_of_each_step() {
    assert_prints(
        "orders",
        &[
            r#"{"order":1,"outcome":"accepted"}"#,
            r#"{"order":1,"outcome":"customer notified"}"#,
            r#"{"order":2,"outcome":"left to a person: validate failed","error":"validate refuses order 2"}"#,
            r#"{"order":3,"outcome":"accepted"}"#,
            r#"{"order":3,"outcome":"customer notified"}"#,
            r#"{"order":4,"outcome":"cancelled: card refused"}"#,
            r#"{"order":5,"outcome":"left to a person: status failed","error":"status refuses order 5"}"#,
            r#"{"order":6,"outcome":"accepted"}"#,
        ],
    );
}

#[test]
fn memory_counts_visitors_by_what_agents_remember_of_them() {
    assert_prints(
        "memory",
        &[
            r#"{"epoch":1,"level":"silver","visitors":1,"holds":true}"#,
            r#"{"epoch":2,"level":"gold","visitors":1,"holds":true}"#,
            r#"{"epoch":3,"level":"silver","visitors":1,"holds":false}"#,
            r#"{"epoch":3,"level":"gold","visitors":1,"holds":false}"#,
            r#"{"epoch":3,"level":"gold","visitors":2,"holds":true}"#,
            r#"{"epoch":4,"level":"silver","visitors":1,"holds":true}"#,
            r#"{"epoch":5,"level":"gold","visitors":2,"holds":false}"#,
            r#"{"epoch":5,"level":"gold","visitors":1,"holds":true}"#,
        ],
    );
}
