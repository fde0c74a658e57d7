//! The example `approval`, which is killed while some wait for the policy, then while some wait for a person.

use std::collections::BTreeSet;
use std::fs;
use std::io::Write;
use std::path::Path;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::thread;
use std::time::Duration;

use tempfile::TempDir;
use timely_agents::clock::Clock;
use timely_agents_operators::checkpoint::{DirStore, notes};

use crate::program;

/// The example at work; killed when it is dropped.
struct Job {
    child: Child,
    decisions: Option<ChildStdin>,
}

impl Job {
    fn start(place: &Path, workers: &str, failpoints: &str) -> Self {
        let path = |name: &str| place.join(name);
        let mut child = Command::new(program("approval"))
            .args(["-w", workers, "--policy-latency", "20"])
            .args(["--checkpoints".as_ref(), path("checkpoints").as_os_str()])
            .args(["--output".as_ref(), path("outcomes").as_os_str()])
            .args(["--policy-ledger".as_ref(), path("ledger").as_os_str()])
            .env("FAILPOINTS", failpoints)
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(fs::File::create(path("errors")).expect("a new file"))
            .spawn()
            .expect("the example starts");
        let decisions = child.stdin.take();
        Job { child, decisions }
    }

    fn decide(&mut self, expense: u64, by: &str, approves: bool) {
        let decision =
            format!(r#"{{"key": {expense}, "signal": "decision", "value": {{"by": "{by}", "approves": {approves}}}}}"#);
        let decisions = self.decisions.as_mut().expect("it is open");
        writeln!(decisions, "{decision}").expect("the example reads");
    }

    fn wait_for(&mut self, what: &str, condition: impl Fn() -> bool) {
        wait_for(what, || {
            assert!(self.child.try_wait().expect("a child").is_none(), "it has ended before {what}");
            condition()
        });
    }
}

impl Drop for Job {
    fn drop(&mut self) {
        // SIGKILL; an error means that it has ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn wait_for(what: &str, mut condition: impl FnMut() -> bool) {
    let clock = Clock::system();
    let deadline = clock.now() + 120_000_000;
    while !condition() {
        assert!(clock.now() < deadline, "still waiting for {what}");
        thread::park_timeout(Duration::from_millis(2));
    }
}

/// The lines that are published, sorted.
fn outcomes(place: &Path) -> Vec<String> {
    let parts = fs::read_dir(place.join("outcomes")).into_iter().flatten().map(|part| part.expect("an entry").path());
    // A part may go while it is looked at: it takes its place under a new name.
    let texts = parts.filter(|part| part.is_file()).map(|part| fs::read_to_string(part).unwrap_or_default());
    let mut lines: Vec<String> = texts.flat_map(|text| text.lines().map(str::to_owned).collect::<Vec<_>>()).collect();
    lines.sort_unstable();
    lines
}

fn asked(place: &Path) -> Vec<u64> {
    let text = fs::read_to_string(place.join("ledger")).unwrap_or_default();
    let mut asked: Vec<u64> = text.lines().map(|line| line.parse().expect("a number")).collect();
    asked.sort_unstable();
    asked
}

/// Expenses with a note in the journals: the policy has answered.
fn answered(place: &Path) -> usize {
    let store = DirStore::existing(place.join("checkpoints")).expect("a directory");
    let mut keys = BTreeSet::new();
    notes(&store, &mut |note| {
        keys.insert(note.key);
    })
    .expect("journals");
    keys.len()
}

fn outcome(expense: u64, outcome: &str) -> String {
    format!(r#"{{"expense":{expense},"outcome":"{outcome}"}}"#)
}

#[test]
fn approval_survives_kills_and_asks_the_policy_once() {
    let place = TempDir::new().expect("a directory");
    let place = place.path();

    // Nothing is committed before the first kill.
    let mut job = Job::start(place, "2", "commit.manifest.before=pause600000");
    job.wait_for("the policy", || asked(place).len() == 7);
    job.wait_for("the disk to have its answers", || answered(place) == 7);
    drop(job);
    assert_eq!(outcomes(place), Vec::<String>::new());

    // Who waits goes on waiting, and the one without patience has waited in vain.
    let mut job = Job::start(place, "1", "");
    let waits = |expense, amount| outcome(expense, &format!("waits: {amount} is above 100"));
    let mut expected = vec![
        outcome(1, "allowed by the policy"),
        waits(2, 240),
        outcome(3, "forbidden by the policy"),
        waits(4, 310),
        waits(5, 120),
        outcome(5, r#"left to a person: signal \"decision\": none within 300ms"#),
        outcome(6, "allowed by the policy"),
        waits(7, 2900),
    ];
    expected.sort_unstable();
    job.wait_for("all that needs no decision", || outcomes(place).len() == expected.len());
    assert_eq!(outcomes(place), expected);
    job.decide(2, "Ada", true);
    expected.push(outcome(2, "approved by Ada"));
    job.wait_for("the first decision", || outcomes(place).len() == expected.len());
    drop(job);

    let mut job = Job::start(place, "2", "");
    job.decide(4, "Ben", false);
    expected.push(outcome(4, "refused by Ben"));
    job.wait_for("the second decision", || outcomes(place).len() == expected.len());
    // Nobody will decide about the last one.
    drop(job.decisions.take());
    wait_for("the end", || job.child.try_wait().expect("a child").is_some());
    let status = job.child.wait().expect("a child");
    assert!(status.success(), "{status}: {}", fs::read_to_string(place.join("errors")).unwrap_or_default());
    expected.push(outcome(7, r#"left to a person: signal \"decision\": the signal input has ended"#));
    expected.sort_unstable();
    assert_eq!(outcomes(place), expected);
    assert_eq!(asked(place), (1..=7).collect::<Vec<u64>>(), "the policy is asked once about each");
}
