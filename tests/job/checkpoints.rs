//! Jobs with checkpoints, within one process: what goes on after a failure, and what is refused.
//!
//! A failure of an agent stands for a crash: what was not committed is lost. Processes that die are for `tests/crash`.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use differential_dataflow::AsCollection;
use timely::dataflow::operators::Inspect;
use timely::dataflow::operators::vec::Map;
use timely_agents::Checkpoints;
use timely_agents::cluster::{ClusterConfig, Failure};
use timely_agents::durable_input::DurableInput;
use timely_agents::prelude::*;
use timely_agents::source::SourceOptions;
use timely_agents::{Checkpointed, Plan, execute_with};

type Summing = Plan<(u64, u64), (u64, u64)>;

/// Sums up values by key; value 13 is refused while `poisoned`.
fn summing(poisoned: &Arc<AtomicBool>) -> (Summing, Slot<u64>) {
    let mut agent = Agent::<(u64, u64), (u64, u64)>::new("summing");
    let sum = agent.memory::<u64>("sum");
    let poisoned = Arc::clone(poisoned);
    agent.on_input("sum", move |(key, value), ctx| {
        if *value == 13 && poisoned.load(Ordering::SeqCst) {
            return Err(timely_agents::Error::new("thirteen"));
        }
        let sum = ctx.update(sum, |sum| {
            *sum += value;
            *sum
        });
        ctx.output((*key, sum));
        Ok(())
    });
    (agent.build().unwrap(), sum)
}

/// A failed job keeps its lock until its process ends, and here that goes on.
fn checkpoints(places: &Places) -> Result<Checkpoints, Failure> {
    Ok(Checkpoints::dir(&places.checkpoints)?.take_over(true))
}

fn config(workers: usize) -> ClusterConfig {
    ClusterConfig { job: "sums".to_owned(), ..ClusterConfig::single(workers) }
}

/// The lines of all parts, sorted.
fn lines(dir: &Path) -> Vec<String> {
    let mut lines = Vec::new();
    for part in fs::read_dir(dir).into_iter().flatten() {
        let part = part.unwrap().path();
        if part.is_file() {
            lines.extend(fs::read_to_string(part).unwrap().lines().map(str::to_owned));
        }
    }
    lines.sort_unstable();
    lines
}

struct Places {
    _folder: tempfile::TempDir,
    checkpoints: PathBuf,
    sums: PathBuf,
    totals: PathBuf,
}

fn places() -> Places {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    Places { checkpoints: at("checkpoints"), sums: at("sums"), totals: at("totals.csv"), _folder: folder }
}

/// Epochs 0 to 4 with ten rows each; key 3 gets 13 in epoch 3.
fn rows() -> Vec<(u64, (u64, u64))> {
    (0..50u64).map(|i| (i / 10, (i % 4, if i == 35 { 13 } else { 1 }))).collect()
}

/// Sums to parts, and a count of each sum's parity, of all epochs, to a file.
fn run(places: &Places, workers: usize, poisoned: bool) -> Result<usize, Failure> {
    let (plan, _) = summing(&Arc::new(AtomicBool::new(poisoned)));
    let (sums, totals) = (places.sums.clone(), places.totals.clone());
    let checkpoints = checkpoints(places)?;
    let results = execute_with(&config(workers), Some(checkpoints), move |worker, job| {
        worker.dataflow::<u64, _, _>(|scope| {
            // No epoch begins before the one before it is committed: there is a commit before the failure.
            let one = |source: &mut SourceOptions| source.open_epochs = Some(1);
            let rows = job.source_with(scope, "rows", Records::from(rows()), one)?;
            let outputs = rows.agent(|(key, _): &(u64, u64)| key, &plan);
            let parities = outputs.clone().unary_updates();
            let counts = parities.checkpointed("parities").count().inner;
            let mut known = BTreeMap::new();
            job.whole_file(counts, "totals", &totals, move |_, mut changes| {
                changes.sort_unstable_by_key(|(_, _, change)| *change);
                for ((parity, n), _, change) in changes {
                    if change > 0 {
                        known.insert(parity, n);
                    } else {
                        known.remove(&parity);
                    }
                }
                let lines: Vec<String> = known.iter().map(|(parity, n)| format!("{parity},{n}")).collect();
                Ok(lines.join("\n").into_bytes())
            })?;
            outputs.sink(job, "sums", JsonLines::parts(&sums))?;
            Ok(())
        })
    })?;
    Ok(results.len())
}

trait Updates<'scope> {
    /// The parity of each sum, as an update.
    fn unary_updates(self) -> differential_dataflow::VecCollection<'scope, u64, u64, isize>;
}

impl<'scope> Updates<'scope> for timely::dataflow::StreamVec<'scope, u64, (u64, u64)> {
    fn unary_updates(self) -> differential_dataflow::VecCollection<'scope, u64, u64, isize> {
        use timely::dataflow::channels::pact::Pipeline;
        use timely::dataflow::operators::generic::operator::Operator;
        let updates =
            self.unary::<timely::container::CapacityContainerBuilder<Vec<_>>, _, _, _>(Pipeline, "Parities", |_, _| {
                |input, output| {
                    input.for_each(|time, batch| {
                        let at = *time.time();
                        output.session(&time).give_iterator(batch.drain(..).map(|(_, sum)| (sum % 2, at, 1)));
                    });
                }
            });
        updates.as_collection()
    }
}

#[test]
fn a_job_that_failed_goes_on_from_its_last_commit_on_other_workers() {
    let right = places();
    assert_eq!(run(&right, 1, false), Ok(1));
    for (first, second) in [(1, 1), (1, 3), (3, 2)] {
        let places = places();
        let failure = run(&places, first, true).unwrap_err();
        assert!(failure.message().contains("thirteen"), "{failure}");
        let before = lines(&places.sums);
        assert!((20..=30).contains(&before.len()), "epoch 3 has failed: {before:?}");
        assert_eq!(run(&places, second, false), Ok(second));
        assert_eq!(lines(&places.sums), lines(&right.sums), "{first} workers, then {second}");
        let totals = |places: &Places| fs::read_to_string(&places.totals).unwrap();
        assert_eq!(totals(&places), totals(&right), "{first} workers, then {second}");
        assert_eq!(run(&places, 2, true), Ok(0), "it is complete: nothing runs");
        assert_eq!(lines(&places.sums), lines(&right.sums));
    }
}

#[test]
fn live_memory_begins_with_what_was_committed() {
    let places = places();
    let seen = |poisoned: bool| -> Vec<((u64, u64), u64, isize)> {
        let (plan, sum) = summing(&Arc::new(AtomicBool::new(poisoned)));
        let (tell, told) = std::sync::mpsc::channel();
        let checkpoints = checkpoints(&places).unwrap();
        let tell = std::sync::Mutex::new(tell);
        let outcome = execute_with(&config(1), Some(checkpoints), move |worker, job| {
            let tell = tell.lock().unwrap().clone();
            worker.dataflow::<u64, _, _>(|scope| {
                let rows = job.source(scope, "rows", Records::from(rows()))?;
                let (_, memory) = rows.agent_with_memory(|(key, _): &(u64, u64)| key, &plan);
                memory.slot(sum).inner.inspect(move |update| tell.send(*update).unwrap());
                Ok(())
            })
        });
        assert_eq!(outcome.is_err(), poisoned);
        told.try_iter().collect()
    };
    let consolidated = |updates: &[((u64, u64), u64, isize)]| {
        let mut sums = BTreeMap::new();
        for (row, _, change) in updates {
            *sums.entry(*row).or_insert(0) += change;
        }
        sums.retain(|_, n| *n != 0);
        sums
    };
    seen(true);
    let after = seen(false);
    let resumed = after.iter().map(|(_, time, _)| *time).min().unwrap();
    let restored: Vec<_> = after.iter().filter(|(_, time, _)| *time == resumed).copied().collect();
    assert!(restored.iter().all(|(_, _, change)| *change == 1), "it begins consolidated: {restored:?}");
    assert_eq!(restored.len(), 4, "every key is there: {restored:?}");
    let last = consolidated(&after);
    let expected = BTreeMap::from([((0, 13), 1), ((1, 13), 1), ((2, 12), 1), ((3, 24), 1)]);
    assert_eq!(last, expected);
}

#[test]
fn a_durable_input_is_acknowledged_when_its_epoch_is_committed() {
    let places = places();
    let (plan, _) = summing(&Arc::default());
    let input = DurableInput::new(100);
    let (reader, sums) = (input.clone(), places.sums.clone());
    let pushing = std::thread::spawn(move || {
        let tickets: Vec<_> = (0..10u64).map(|i| input.push((i % 2, 1)).unwrap()).collect();
        assert!(
            tickets.iter().all(|ticket| ticket.outcome().is_none()),
            "nothing is committed before its epoch closes"
        );
        input.tick();
        let epochs: Vec<u64> = tickets.iter().map(|ticket| ticket.wait().unwrap()).collect();
        input.close();
        epochs
    });
    let checkpoints = checkpoints(&places).unwrap();
    execute_with(&config(2), Some(checkpoints), move |worker, job| {
        worker.dataflow::<u64, _, _>(|scope| {
            let rows = job.source(scope, "requests", reader.clone())?;
            rows.agent(|(key, _): &(u64, u64)| key, &plan).sink(job, "sums", JsonLines::parts(&sums))?;
            Ok(())
        })
    })
    .unwrap();
    let epochs = pushing.join().unwrap();
    assert!(epochs.windows(2).all(|pair| pair[0] == pair[1]), "one epoch: {epochs:?}");
    assert_eq!(lines(&places.sums).len(), 10);
}

#[test]
fn a_program_that_does_not_fit_is_refused_and_changes_nothing() {
    let places = places();
    run(&places, 1, true).unwrap_err();
    let before = lines(&places.sums);
    let refused = |plan: Summing, sink: &'static str| {
        let checkpoints = checkpoints(&places).unwrap();
        let sums = places.sums.clone();
        let outcome = execute_with(&config(1), Some(checkpoints), move |worker, job| {
            worker.dataflow::<u64, _, _>(|scope| {
                let rows = job.source(scope, "rows", Records::from(rows()))?;
                let outputs = rows.agent(|(key, _): &(u64, u64)| key, &plan);
                outputs.clone().unary_updates().checkpointed("parities");
                outputs.map(|pair| pair).sink(job, sink, JsonLines::parts(&sums))?;
                Ok(())
            })
        });
        outcome.unwrap_err().message().to_owned()
    };
    let mut renamed = Agent::<(u64, u64), (u64, u64)>::new("adding");
    renamed.memory::<u64>("sum");
    renamed.on_input("sum", |_, _| Ok(()));
    assert!(refused(renamed.build().unwrap(), "sums").contains("`summing`"));
    let mut other = Agent::<(u64, u64), (u64, u64)>::new("summing");
    other.memory::<String>("sum");
    other.on_input("sum", |_, _| Ok(()));
    assert!(refused(other.build().unwrap(), "sums").contains("`sum`"));
    let (same, _) = summing(&Arc::default());
    assert!(refused(same, "others").contains("sums"));
    assert_eq!(lines(&places.sums), before);
    assert_eq!(run(&places, 1, false), Ok(1), "the program that fits goes on");
}

#[test]
fn the_committed_frontier_is_seen_and_never_ahead_of_what_is_durable() {
    let places = places();
    let (plan, _) = summing(&Arc::default());
    let sums = places.sums.clone();
    let greatest = Arc::new(AtomicU64::new(0));
    let seen = Arc::clone(&greatest);
    let checkpoints = checkpoints(&places).unwrap();
    execute_with(&config(1), Some(checkpoints), move |worker, job| {
        let (seen, parts) = (Arc::clone(&seen), sums.clone());
        assert_eq!(job.resume_epoch(), 0);
        let committed = job.committed().expect("a job with checkpoints").clone();
        committed.watch(move |frontier| {
            // Epochs 0 to 4 have ten lines each.
            let below = frontier.unwrap_or(5).min(5);
            assert!(lines(&parts).len() as u64 >= below * 10, "all of epochs before {below} is published");
            seen.fetch_max(below, Ordering::SeqCst);
        });
        worker.dataflow::<u64, _, _>(|scope| {
            let rows = job.source(scope, "rows", Records::from(rows()))?;
            rows.agent(|(key, _): &(u64, u64)| key, &plan).sink(job, "sums", JsonLines::parts(&sums))?;
            Ok(())
        })
    })
    .unwrap();
    assert_eq!(greatest.load(Ordering::SeqCst), 5);
}
