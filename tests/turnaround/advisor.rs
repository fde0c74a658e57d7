//! The advisor is not asked again what it has answered, though the job is killed.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;
use std::thread;
use std::time::Duration;

use timely_agents::clock::Clock;
use timely_agents_operators::checkpoint::{DirStore, notes};
use timely_agents_operators::journal::Note;

use crate::JANUARY;
use crate::cli::{Place, Process, assert_same, sorted};
use crate::reference::interpret;

/// The ids that stand in whole lines that begin with `what`, and how often.
fn noted(ledger: &str, what: &str) -> BTreeMap<String, usize> {
    let mut noted = BTreeMap::new();
    let text = fs::read_to_string(ledger).unwrap_or_default();
    for line in text.split_inclusive('\n').filter_map(|line| line.strip_suffix('\n')) {
        if let Some((_, id)) = line.split_once(' ').filter(|(first, _)| *first == what) {
            *noted.entry(id.to_owned()).or_default() += 1;
        }
    }
    noted
}

fn wait_for(what: &str, condition: impl Fn() -> bool) {
    let clock = Clock::system();
    let deadline = clock.now() + 120_000_000;
    while !condition() {
        assert!(clock.now() < deadline, "still waiting for {what}");
        thread::park_timeout(Duration::from_millis(5));
    }
}

/// How many results of calls the journals have, by aircraft.
fn journaled(checkpoints: &str) -> BTreeMap<String, usize> {
    let store = DirStore::existing(checkpoints).expect("a directory");
    let mut journaled = BTreeMap::new();
    let count = &mut |note: Note| {
        let aircraft: String = postcard::from_bytes(&note.key).expect("a key");
        *journaled.entry(aircraft).or_default() += 1;
    };
    notes(&store, count).expect("journals");
    journaled
}

/// Whether the journals have as many results for each aircraft as are known: its calls are made one after the other, so
/// those that are known are the first.
fn has_all(journaled: &BTreeMap<String, usize>, known: &BTreeSet<String>) -> bool {
    let mut of = BTreeMap::<&str, usize>::new();
    for id in known {
        *of.entry(id.split(' ').next().expect("an aircraft")).or_default() += 1;
    }
    of.iter().all(|(aircraft, count)| journaled.get(*aircraft).is_some_and(|journaled| journaled >= count))
}

#[test]
fn a_killed_job_asks_the_advisor_only_what_was_not_answered() {
    let place = Place::new();
    let (ledger, checkpoints, output) = (place.path("in/ledger"), place.path("in/checkpoints"), place.path("out"));
    let arguments =
        ["--checkpoints", &checkpoints, "--output", &output, "--advisor-latency", "20", "--advisor-ledger", &ledger];
    // Nothing is committed before the kill, so that what is known then is known from the journal alone; and the last days
    // are not begun.
    let paused = [("FAILPOINTS", "commit.manifest.before=pause600000")];
    let job = Process::start_with(&[&arguments[..], &["--rate", "9000", "--open-epochs", "28"]].concat(), &paused);
    let alerts = interpret(JANUARY).alerts.len();
    wait_for("half of the answers", || noted(&ledger, "answered").len() >= alerts / 2);
    let known: BTreeSet<String> = noted(&ledger, "answered").into_keys().collect();
    wait_for("the disk", || has_all(&journaled(&checkpoints), &known));
    drop(job);
    let before = noted(&ledger, "asked");
    assert!(before.len() < alerts, "it was killed half-way");
    assert!(
        !Path::new(&output)
            .read_dir()
            .expect("a folder")
            .any(|part| { part.expect("an entry").file_name().to_str().is_some_and(|name| !name.starts_with('.')) })
    );

    let outcome = Process::start_with(&[&arguments[..], &["-w", "2"]].concat(), &[]).finish();
    outcome.assert_success();
    let parts = fs::read_dir(&output).expect("a folder").map(|part| part.expect("an entry").path());
    let lines: String =
        parts.filter(|part| part.is_file()).map(|part| fs::read_to_string(part).expect("a part")).collect();
    assert_same(&sorted(&lines), &interpret(JANUARY).sorted_lines(), "alerts");

    let asked = noted(&ledger, "asked");
    assert_eq!(asked.len(), alerts);
    let again: BTreeSet<&String> = asked.iter().filter(|(_, times)| **times > 1).map(|(id, _)| id).collect();
    let needless: Vec<_> = again.iter().filter(|id| known.contains(**id)).collect();
    assert!(needless.is_empty(), "asked again, though answered: {} of {} {needless:?}", needless.len(), known.len());
    assert!(again.len() <= before.len() - known.len(), "{} asked again", again.len());
    let made = asked.values().sum::<usize>() - before.values().sum::<usize>();
    let summary = format!("advisor: {made} calls made, {} replayed", alerts - made);
    assert!(outcome.stderr.contains(&summary), "no {summary:?}: {outcome:#?}");
}

#[test]
fn the_summary_tells_of_calls() {
    let place = Place::new();
    let ledger = place.path("in/ledger");
    let outcome = Process::start_with(&["-w", "2", "--advisor-ledger", &ledger], &[]).finish();
    outcome.assert_success();
    let alerts = interpret(JANUARY).alerts.len();
    assert!(outcome.stderr.contains(&format!("advisor: {alerts} calls made, 0 replayed")), "{outcome:#?}");
    for what in ["asked", "answered"] {
        let noted = noted(&ledger, what);
        assert_eq!((noted.len(), noted.values().sum::<usize>()), (alerts, alerts), "{what}");
    }
}
