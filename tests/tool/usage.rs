//! Command lines that are wrong, and directories that are something else.

use std::fs;

use crate::support::{checkpoint, run};

const COMMANDS: [&str; 5] = ["list", "show", "verify", "compact", "gc"];

#[test]
fn wrong_command_lines_are_refused_in_one_line() {
    run(&[]).assert_refused(2, &["--help"]);
    run(&["checkpoints"]).assert_refused(2, &["checkpoints", "checkpoint"]);
    run(&["checkpoint"]).assert_refused(2, &["list", "verify"]);
    run(&["checkpoint", "remove"]).assert_refused(2, &["remove", "gc"]);
    for command in COMMANDS {
        run(&["checkpoint", command]).assert_refused(2, &[command, "directory"]);
        run(&["checkpoint", command, "dir", "--other"]).assert_refused(2, &[command, "other"]);
        run(&["checkpoint", command, "dir", "1", "2"]).assert_refused(2, &[command]);
    }
    run(&["checkpoint", "show", "dir", "yesterday"]).assert_refused(2, &["yesterday", "epoch"]);
    run(&["checkpoint", "gc", "dir", "--retain", "some"]).assert_refused(2, &["--retain some"]);
    run(&["run"]).assert_refused(2, &["directory"]);
    run(&["run", "dir", "--key", "k"]).assert_refused(2, &["--agent"]);
    run(&["run", "dir", "--agent", "a"]).assert_refused(2, &["--key"]);
    run(&["run", "dir", "--agent", "a", "--key", "k", "--sequence", "0"]).assert_refused(2, &["--sequence 0"]);
    run(&["checkpoint", "gc", "dir", "--keep", "1"]).assert_refused(2, &["--keep 1", "2"]);
}

#[test]
fn help_names_commands_and_options() {
    let help = run(&["--help"]);
    for command in COMMANDS {
        assert!(help.lines().iter().any(|line| line.contains(command)), "{help:#?}");
        let own = run(&["checkpoint", command, "--help"]);
        assert!(own.lines().iter().any(|line| line.contains(&format!("Usage: timely-agents checkpoint {command}"))));
        assert!(own.stdout.ends_with('\n') && own.stdout.lines().all(|line| line.len() <= 120), "{own:#?}");
    }
    let own = run(&["run", "--help"]);
    assert!(help.stdout.contains("timely-agents run DIR") && own.stdout.contains("Usage: timely-agents run DIR"));
    assert!(own.stdout.lines().all(|line| line.len() <= 120), "{own:#?}");
    assert!(run(&["checkpoint", "show", "--help"]).stdout.contains("--key KEY"));
}

#[test]
fn directories_without_checkpoints_are_named() {
    let place = tempfile::tempdir().expect("a directory");
    let missing = place.path().join("missing");
    let file = place.path().join("file");
    let empty = place.path().join("empty");
    fs::write(&file, "").expect("a file");
    fs::create_dir_all(empty.join("chain")).expect("a folder");
    for command in COMMANDS {
        for dir in [&missing, place.path(), &file, &empty].map(|dir: &std::path::Path| dir) {
            checkpoint(command, dir, &[]).assert_refused(1, &[dir.to_str().expect("UTF-8")]);
        }
    }
    for dir in [&missing, place.path(), &file, &empty].map(|dir: &std::path::Path| dir.to_str().expect("UTF-8")) {
        run(&["run", dir, "--agent", "a", "--key", "k"]).assert_refused(1, &[dir]);
    }
    assert!(!missing.exists());
    assert_eq!(fs::read_dir(&empty).expect("the folder").count(), 1, "nothing is made in it");
}
