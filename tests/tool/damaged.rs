//! Copies with a byte that is not as it was written.

use std::fs;
use std::path::Path;

use crate::support::{Job, checkpoint, copy, files};

/// Turns a byte of a file around; where it is.
fn flip(dir: &Path, name: &str, at: impl Fn(usize) -> usize) -> usize {
    let path = dir.join(name);
    let mut bytes = fs::read(&path).expect("a file");
    let at = at(bytes.len());
    bytes[at] ^= 0x10;
    fs::write(&path, bytes).expect("a file");
    at
}

/// The offset in a line of `verify`.
fn offset(line: &str) -> usize {
    let (_, rest) = line.split_once("offset ").expect("an offset");
    rest.split(':').next().and_then(|n| n.parse().ok()).expect("a number")
}

#[test]
fn a_changed_byte_is_found_with_its_file_and_place() {
    let fixture = Path::new(env!("CARGO_MANIFEST_DIR")).join("operators/tests/fixtures/checkpoint-v1");
    let all = files(&fixture).into_iter().filter(|(_, bytes)| !bytes.is_empty());
    let names: Vec<String> =
        all.map(|(path, _)| path.strip_prefix(&fixture).expect("below").to_str().expect("UTF-8").to_owned()).collect();
    assert!(names.len() > 10);
    for name in names {
        for part in 1..4 {
            let place = tempfile::tempdir().expect("a directory");
            copy(&fixture, place.path());
            let at = flip(place.path(), &name, |length| length * part / 4);
            let outcome = checkpoint("verify", place.path(), &[]);
            assert_eq!((outcome.code, &*outcome.stderr), (Some(1), ""), "{outcome:#?}");
            let path = place.path().join(&name);
            let line = outcome.stdout.lines().find(|line| line.contains(path.to_str().expect("UTF-8")));
            let line = line.unwrap_or_else(|| panic!("{name} is not named: {outcome:#?}"));
            assert!(offset(line) <= at, "byte {at}: {line}");
        }
    }
}

#[test]
fn a_damaged_newest_checkpoint_is_not_shown_and_an_older_one_is() {
    let job = Job::finished();
    let dir = job.checkpoints();
    let listed = checkpoint("list", &dir, &[]);
    let lines = listed.lines();
    let word = |line: &str, name: &str| {
        let mut words = line.split_whitespace().skip_while(|word| *word != name);
        words.nth(1).expect("a value").to_owned()
    };
    let newest = format!("chain/{:0>20}", word(lines[lines.len() - 1], "link"));
    let older = word(lines[lines.len() - 2], "epoch");
    flip(&dir, &newest, |length| length - 1);
    checkpoint("show", &dir, &[]).assert_refused(1, &[&newest, "offset"]);
    assert_eq!(checkpoint("show", &dir, &[&older]).code, Some(0));
    let listed = checkpoint("list", &dir, &[]);
    assert_eq!((listed.code, listed.stdout.lines().count()), (Some(1), lines.len() - 1), "{listed:#?}");
    assert!(listed.stderr.contains(&newest), "{listed:#?}");
    checkpoint("gc", &dir, &[]).assert_refused(1, &[&newest]);
    checkpoint("compact", &dir, &[]).assert_refused(1, &[&newest]);
}

#[test]
fn a_missing_file_is_named() {
    let fixture = Path::new(env!("CARGO_MANIFEST_DIR")).join("operators/tests/fixtures/checkpoint-v1");
    let place = tempfile::tempdir().expect("a directory");
    copy(&fixture, place.path());
    fs::remove_file(place.path().join("base/0000000002-00000000")).expect("the snapshot");
    let listed = checkpoint("list", place.path(), &[]);
    assert!(listed.lines()[3].ends_with("1 missing files"), "{listed:#?}");
    checkpoint("show", place.path(), &[]).assert_refused(1, &["base/0000000002-00000000", "missing"]);
    assert_eq!(checkpoint("verify", place.path(), &[]).code, Some(1));
}
