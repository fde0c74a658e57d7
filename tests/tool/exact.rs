//! Runs of all kinds, of jobs that stop on the way, replayed against the very program that made them: nothing differs.
//!
//! The agent is that of the simulation: calls, sleeps, flushes, dead letters, retries, signals that are waited for and that
//! cancel, notifications, scheduled events.

#[path = "../simulation/agent.rs"]
#[expect(dead_code, reason = "the model of the agent is for the simulation")]
mod agent;
#[path = "../simulation/dice.rs"]
#[expect(dead_code, reason = "there is no trace here")]
mod dice;

use std::path::Path;
use std::sync::Mutex;
use std::sync::mpsc::{Sender, channel};
use std::thread;
use std::time::Duration;

use timely::progress::timestamp::Refines;
use timely_agents::cluster::{ClusterConfig, Failure};
use timely_agents::execute_with;
use timely_agents::inspect::{self, NotReplayed, Replay, State, Unknown};
use timely_agents::prelude::*;
use timely_agents_operators::checkpoint::{Catalogue, Checkpoints, DirStore};
use timely_agents_operators::cluster::Control;
use timely_agents_operators::time::{EpochTime, Stamp};

use self::agent::{CANCEL, KINDS, Record, SIGNAL, WAITS, signal};
use self::dice::Dice;
use crate::runs::still;
use crate::support::shown;

/// Each key has a few inputs.
const KEYS: u64 = 48;
const RECORDS: u64 = 160;
const EPOCHS: u64 = 5;

fn records(dice: &mut Dice, carry: bool) -> Vec<(u64, Record)> {
    let kinds = if carry { KINDS } else { WAITS.into() };
    let record = |n: u64| {
        let (key, kind, value) = (dice.roll(KEYS), dice.roll(kinds) as u8, dice.roll(3) as i64);
        let epoch = n * EPOCHS / RECORDS;
        // Nothing waits in the first epoch of an agent that holds, so that there is a checkpoint when the job is stopped.
        let kind = if carry || epoch > 0 { kind } else { 0 };
        (epoch, Record { key, kind, value })
    };
    (0..RECORDS).map(record).collect()
}

fn signals(dice: &mut Dice) -> Vec<(u64, Record)> {
    let record = |n: u64| {
        let kind = if dice.roll(8) == 0 { CANCEL } else { SIGNAL };
        (n * EPOCHS / RECORDS, Record { key: dice.roll(KEYS), kind, value: dice.roll(4) as i64 })
    };
    (0..RECORDS).map(record).collect()
}

/// Runs the job to its end, unless it is stopped.
fn job<T: EpochTime + Refines<()>>(
    dir: &Path,
    (carry, sequenced, retain): (bool, bool, u64),
    workers: usize,
    tell: Sender<Control>,
) -> Result<(), Failure> {
    let (plan, _) = agent::agent(carry, sequenced);
    let checkpoints = Checkpoints::dir(dir)?.retain_journals(retain);
    let tell = Mutex::new(tell);
    execute_with(&ClusterConfig::single(workers), Some(checkpoints), move |worker, job| {
        if worker.index() == 0 {
            tell.lock().expect("a lock").send(job.control().clone()).expect("the test waits");
        }
        let dice = &mut Dice::new(7);
        let (records, signals) = (records(dice, carry), signals(dice));
        worker.dataflow::<T, _, _>(|scope| {
            let records = job.source(scope, "records", Records::from(records))?;
            if carry {
                let signals = signals.into_iter().filter_map(|(epoch, record)| Some((epoch, signal(record)?)));
                let signals = job.source(scope, "signals", Records::from(signals))?;
                records.agent_with_signals(|record| &record.key, signals, &plan);
            } else {
                records.agent(|record| &record.key, &plan);
            }
            Ok(())
        })
    })
    .map(drop)
}

/// Replays all runs of the newest checkpoint, if there is one, and of behind it; none may differ.
fn same<T: EpochTime>(what: &str, dir: &Path, (carry, sequenced): (bool, bool)) -> Option<Replay> {
    let (plan, _) = agent::agent(carry, sequenced);
    let store = DirStore::existing(dir).expect("a directory");
    Catalogue::read(&store).expect("it can be read").newest().expect("it can be read")?;
    let replay = inspect::replay::<T, u64, _, _>(&plan, &store, None, None).expect("it can be replayed");
    let differ: Vec<String> = replay.runs.iter().filter(|run| !run.is_same()).map(ToString::to_string).collect();
    assert!(differ.is_empty(), "{what}: {} of {} differ\n{}", differ.len(), replay.runs.len(), differ.join("\n"));
    Some(replay)
}

/// Runs a job that is stopped twice, and replays what it has left each time: without records that is what is in checkpoints. How
/// many runs were not over then.
fn check<T: EpochTime + Refines<()>>(carry: bool, sequenced: bool, retain: u64) -> usize {
    let name = std::any::type_name::<T>();
    let what = format!("carry {carry}, sequenced {sequenced}, retain {retain}, {name}");
    let mut place = tempfile::tempdir().expect("a directory");
    let mut cut = 0;
    for (workers, time) in [(1, 1_500), (2, 2_500)] {
        thread::scope(|threads| {
            let (tell, told) = channel();
            let dir = place.path();
            let running = threads.spawn(move || job::<T>(dir, (carry, sequenced, retain), workers, tell));
            let control = told.recv().expect("the job starts");
            thread::park_timeout(Duration::from_millis(time));
            control.fail(Failure::stopped("enough"));
            running.join().expect("it ends").expect_err("it is stopped");
        });
        place = still(place.path());
        // Those that are not over, too, and those that began behind the last checkpoint.
        let Some(Replay { runs, not_replayed }) = same::<T>(&what, place.path(), (carry, sequenced)) else { continue };
        cut += runs.iter().filter(|run| run.state != State::Over).count();
        // What a start has begun and the next has not come to, found a memory that is gone.
        let gone = |run: &NotReplayed| workers == 2 && run.not_replayed == Unknown::Memory;
        assert!(retain == 0 || not_replayed.iter().all(gone), "{what}: {not_replayed:?}");
    }
    if retain == 0 {
        return cut;
    }
    let (tell, _told) = channel();
    job::<T>(place.path(), (carry, sequenced, retain), 2, tell).unwrap_or_else(|failure| panic!("{what}: {failure}"));

    let keys = shown(place.path(), &[])["agents"]["simulated"].clone();
    let runs = |key: &serde_json::Value| key["sequence"].as_u64().expect("a number");
    let runs: u64 = keys.as_array().expect("keys").iter().map(runs).sum();
    let Replay { runs: replayed, not_replayed } =
        same::<T>(&what, place.path(), (carry, sequenced)).expect("a checkpoint of the end");
    assert_eq!(not_replayed, [], "{what}");
    assert_eq!(replayed.len() as u64, runs, "{what}: each run is replayed");
    assert!(runs > RECORDS / 2, "{what}: {runs} runs");
    let short = replayed.iter().filter(|run| !run.over).count();
    assert!(if carry { short < replayed.len() / 4 } else { short == 0 }, "{what}: {short} were cut short");
    cut
}

/// Checks jobs of both orders and types of times, some of which leave runs that are not over.
fn check_all(carry: bool, retain: u64) {
    let cut: usize = thread::scope(|threads| {
        let jobs = [false, true].map(|sequenced| {
            [
                threads.spawn(move || check::<u64>(carry, sequenced, retain)),
                threads.spawn(move || check::<Stamp>(carry, sequenced, retain)),
            ]
        });
        jobs.into_iter().flatten().map(|job| job.join().expect("no run differs")).sum()
    });
    assert!(cut > 0, "carry {carry}, retain {retain}: no run was cut in two");
}

#[test]
fn no_run_differs_from_itself() {
    thread::scope(|threads| {
        for carry in [false, true] {
            threads.spawn(move || check_all(carry, 1_000));
        }
    });
}

#[test]
fn no_unfinished_run_differs_from_itself_where_nothing_is_recorded() {
    check_all(true, 0);
}
