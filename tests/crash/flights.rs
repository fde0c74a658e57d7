//! The example `turnaround` as the job that is crashed: its options, and what it must put out.

use std::collections::BTreeMap;
use std::fmt::Write;

use timely_agents_operators::checkpoint::{DirStore, verify};

use crate::process::{Job, Launch};
use crate::reference::{Reference, interpret};

pub(crate) const JANUARY: &str = include_str!("../../examples/data/flights-2013-01.csv");

/// All that a job puts out for one input.
#[derive(Clone)]
pub(crate) struct Expected {
    alerts: String,
    report: String,
    running: String,
}

impl Expected {
    pub(crate) fn of(text: &str) -> Self {
        let reference: Reference = interpret(text);
        let mut totals: BTreeMap<&str, u64> = BTreeMap::new();
        for line in reference.report.lines().skip(1) {
            let mut fields = line.split(',').skip(1);
            let (carrier, alerts) = (fields.next().expect("a carrier"), fields.next().expect("a count"));
            *totals.entry(carrier).or_default() += alerts.parse::<u64>().expect("a number");
        }
        let mut running = String::from("carrier,alerts\n");
        for (carrier, alerts) in totals {
            writeln!(running, "{carrier},{alerts}").expect("a string takes all");
        }
        Expected { alerts: reference.sorted_lines(), report: reference.report, running }
    }
}

/// The example in a directory of its own, over `text`.
pub(crate) fn job(text: &str) -> Job {
    let mut job = Job::new(Launch::example("turnaround"));
    let input = job.path("flights.csv");
    std::fs::write(&input, text).expect("the input is written");
    job.option("--input", &input);
    job.option("--output", &job.path("out/alerts"));
    job.option("--report", &job.path("out/report.csv"));
    job.option("--running", &job.path("out/running.csv"));
    job
}

/// The job is complete: everything it put out is there, once, and nothing else.
pub(crate) fn assert_complete(job: &Job, expected: &Expected, what: &str) {
    let mut lines: Vec<String> = job.parts("out/alerts").into_iter().map(|(_, line)| line).collect();
    lines.sort_unstable();
    let alerts: String = lines.iter().flat_map(|line| [line, "\n"]).collect();
    assert_same(&alerts, &expected.alerts, &format!("{what}: alerts"));
    assert_same(&job.read("out/report.csv"), &expected.report, &format!("{what}: report"));
    assert_same(&job.read("out/running.csv"), &expected.running, &format!("{what}: running totals"));
    assert_eq!(job.staged("out/alerts"), [], "{what}: nothing stays staged");
    assert_eq!(committed(job), Committed::All, "{what}");
}

/// What the newest checkpoint covers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Committed {
    Nothing,
    /// All epochs before this one.
    Before(u64),
    All,
}

impl Committed {
    /// The first epoch that is not committed.
    pub(crate) fn frontier(self) -> Option<u64> {
        match self {
            Committed::Nothing => Some(0),
            Committed::Before(epoch) => Some(epoch),
            Committed::All => None,
        }
    }
}

/// What is committed; all that is stored is whole.
pub(crate) fn committed(job: &Job) -> Committed {
    let Ok(store) = DirStore::existing(job.path("checkpoints")) else { return Committed::Nothing };
    let report = verify(&store).unwrap_or_else(|error| panic!("the checkpoints cannot be read: {error}"));
    assert_eq!(report.findings, [], "what is stored is not what was written");
    match report.checkpoints.last() {
        None => Committed::Nothing,
        Some(None) => Committed::All,
        Some(Some(epoch)) => Committed::Before(*epoch),
    }
}

/// Equal, and if not, with a message that fits a screen.
pub(crate) fn assert_same(found: &str, expected: &str, what: &str) {
    if found != expected {
        let differ = found.lines().zip(expected.lines()).enumerate().find(|(_, (found, expected))| found != expected);
        let counts = (found.lines().count(), expected.lines().count());
        panic!("{what}: lines found and expected {counts:?}; first that differ {differ:#?}");
    }
}
