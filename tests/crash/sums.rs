//! 42 keys with 1,500 inputs each, many of them equal: per key, every input counts once, in whatever shapes the job runs.
//!
//! Two sources feed each key. The order within an epoch is another one at each start (`CRASH_SHUFFLE`), and the agent
//! sorts it away (`sequenced_by`). Every output goes to parts, some to a transactional sink, and counts by a collection
//! that outlives the process.

use std::collections::BTreeMap;
use std::fs;
use std::io::{ErrorKind, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

use differential_dataflow::{AsCollection, VecCollection};
use rustix::process::Signal;
use serde::{Deserialize, Serialize};
use timely::container::CapacityContainerBuilder;
use timely::dataflow::StreamVec;
use timely::dataflow::channels::pact::Pipeline;
use timely::dataflow::operators::generic::operator::Operator;
use timely::dataflow::operators::vec::{Delay, Filter, Map};
use timely_agents::cluster::Failure;
use timely_agents::prelude::*;
use timely_agents::sink::{TransactionalSink, conformance};
use timely_agents::{Plan, Records, execute_with};

use crate::flights::{Committed, committed};
use crate::matrix::{Case, Subject, every_point, some_points};
use crate::process::{Job, Launch, ONE, Random, Shape, TWO_PROCESSES, TWO_WORKERS, number, pass, wait_for, workers};
use crate::programs;

const KEYS: u64 = 42;

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Add {
    key: u64,
    /// The place in the key's order; two inputs in a row have the same, and are equal.
    rank: u64,
    value: u64,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Sum {
    key: u64,
    count: u64,
    value: u64,
    total: u64,
    /// A digest of all values in their order.
    digest: u64,
}

fn inputs() -> u64 {
    programs::variant("CRASH_INPUTS").and_then(|n| n.parse().ok()).unwrap_or(1_500)
}

/// The inputs of a key in their order.
fn adds(key: u64, inputs: u64) -> impl Iterator<Item = Add> {
    (0..inputs).map(move |n| Add { key, rank: n / 2, value: Random(key << 32 | (n / 2)).next() % 10 })
}

fn digest(digest: u64, value: u64) -> u64 {
    Random(digest ^ value).next()
}

/// Half of the inputs, epoch by epoch; those of an epoch are shuffled.
fn source(half: u64) -> impl Iterator<Item = (u64, Add)> {
    let shuffle = programs::variant("CRASH_SHUFFLE").and_then(|seed| seed.parse().ok()).unwrap_or(0);
    let inputs = inputs();
    let (mut random, epochs) = (Random(shuffle ^ half << 32), 60);
    let mut all: BTreeMap<u64, Vec<Add>> = BTreeMap::new();
    for add in (0..KEYS).flat_map(|key| adds(key, inputs).skip(half as usize).step_by(2)) {
        all.entry(add.rank * 2 * epochs / inputs).or_default().push(add);
    }
    for adds in all.values_mut() {
        for last in (1..adds.len()).rev() {
            adds.swap(last, random.below(last as u64 + 1) as usize);
        }
    }
    all.into_iter().flat_map(|(epoch, adds)| adds.into_iter().map(move |add| (epoch, add)))
}

fn plan() -> Result<Plan<Add, Sum>, Failure> {
    let mut agent = Agent::<Add, Sum>::new("adder");
    let memory = agent.memory::<(u64, u64, u64)>("memory");
    agent.sequenced_by(|add| add.rank);
    agent.on_input("add", move |add, ctx| {
        let (count, total, digest) = ctx.update(memory, |(count, total, so_far)| {
            *count += 1;
            *total += add.value;
            *so_far = digest(*so_far, add.value);
            (*count, *total, *so_far)
        });
        ctx.output(Sum { key: add.key, count, value: add.value, total, digest });
        Ok(())
    });
    agent.build().map_err(|errors| Failure::usage(errors.to_string()))
}

/// Each row as an update at its time.
fn updates<'scope>(rows: StreamVec<'scope, u64, Sum>) -> VecCollection<'scope, u64, u64, isize> {
    let updates = rows.unary::<CapacityContainerBuilder<Vec<_>>, _, _, _>(Pipeline, "Updates", |_, _| {
        |input, output| {
            input.for_each_time(|time, batches| {
                let rows = batches.flat_map(|batch| batch.drain(..));
                output.session(&time).give_iterator(rows.map(|row| (row.key, *time.time(), 1)));
            });
        }
    });
    updates.as_collection()
}

pub(crate) fn program() -> Result<(), Failure> {
    let arguments = programs::arguments("sums")?;
    let (out, checkpoints) = programs::opened(&arguments)?;
    let plan = plan()?;
    let rate = programs::variant("CRASH_RATE").and_then(|rate| rate.parse().ok());
    let open = programs::variant("CRASH_OPEN_EPOCHS").and_then(|open| open.parse().ok());
    execute_with(arguments.config(), checkpoints, move |worker, job| {
        worker.dataflow::<u64, _, _>(|scope| {
            let readers = [0, 1].map(|half| Records::from(source(half)));
            let adds = job.sources_with(scope, "adds", readers, |source| {
                source.rate = rate;
                source.open_epochs = open.or(source.open_epochs);
            })?;
            let sums = adds.agent(|add| &add.key, &plan);
            let rows = sums.clone().filter(|sum| sum.count % 25 == 0);
            let counts = updates(rows.clone()).checkpointed("counts").count().inner;
            let table = format!("{out}/table");
            job.transactional_sink(rows, "rows", Path::new(&format!("{out}/rows")), move || Ok(Table::new(table)))?;
            let mut totals = BTreeMap::<u64, isize>::new();
            let changes = counts.delay(|(_, at, _), _| *at).map(|((key, n), _, change)| (key, n, change));
            job.whole_file(changes, "totals", Path::new(&format!("{out}/totals")), move |_, changes| {
                totals.extend(changes.into_iter().filter(|(_, _, change)| *change > 0).map(|(key, n, _)| (key, n)));
                serde_json::to_vec(&totals).map_err(|error| error.to_string())
            })?;
            SinkStream::sink(sums, job, "sums", JsonLines::parts(format!("{out}/sums")))?;
            Ok(())
        })
    })
    .map(drop)
}

/// A table in a file that is replaced as a whole: the mark, and the rows.
struct Table(PathBuf);

impl Table {
    fn new(path: impl Into<PathBuf>) -> Self {
        Table(path.into())
    }

    fn read(&self) -> Result<(Option<u64>, Vec<Sum>), Failure> {
        match fs::read(&self.0) {
            Ok(bytes) => serde_json::from_slice(&bytes).map_err(|error| Failure::data(error.to_string())),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok((None, Vec::new())),
            Err(error) => Err(Failure::data(error.to_string())),
        }
    }

    fn write(&self, table: &(Option<u64>, Vec<Sum>)) -> std::io::Result<()> {
        let aside = self.0.with_extension("new");
        let mut file = fs::File::create(&aside)?;
        file.write_all(&serde_json::to_vec(table)?)?;
        file.sync_all()?;
        fs::rename(aside, &self.0)
    }
}

impl TransactionalSink for Table {
    type Row = Sum;

    fn progress(&mut self) -> Result<Option<u64>, Failure> {
        Ok(self.read()?.0)
    }

    fn apply(&mut self, epoch: u64, rows: &mut dyn Iterator<Item = Result<Sum, Failure>>) -> Result<(), Failure> {
        let (mark, mut table) = self.read()?;
        if mark.is_some_and(|mark| mark > epoch) {
            return Ok(());
        }
        for row in rows {
            table.push(row?);
        }
        self.write(&(Some(epoch + 1), table)).map_err(|error| Failure::data(error.to_string()))
    }
}

pub(crate) fn job(inputs: u64, rate: Option<u64>) -> Job {
    let mut launch = Launch::own("sums").with("CRASH_INPUTS", inputs.to_string());
    if let Some(rate) = rate {
        launch = launch.with("CRASH_RATE", rate.to_string());
    }
    let mut job = Job::new(launch);
    job.option("--out", &job.path("out"));
    job
}

/// Slow enough for commits one after the other, and on a slow disk its sources wait for them.
pub(crate) fn one_after_the_other(inputs: u64, rate: u64) -> Job {
    let mut job = job(inputs, Some(rate));
    job.launch = job.launch.with("CRASH_OPEN_EPOCHS", "4");
    job
}

pub(crate) fn assert_complete(job: &Job, inputs: u64, what: &str) {
    let expected = |key: u64| {
        adds(key, inputs).scan((0, 0, 0), |(count, total, so_far), add| {
            *count += 1;
            *total += add.value;
            *so_far = digest(*so_far, add.value);
            Some(Sum { key: add.key, count: *count, value: add.value, total: *total, digest: *so_far })
        })
    };
    let mut found = BTreeMap::<u64, Vec<Sum>>::new();
    for (_, text) in job.parts("out/sums") {
        let sum: Sum = serde_json::from_str(&text).unwrap_or_else(|error| panic!("{what}: {text}: {error}"));
        found.entry(sum.key).or_default().push(sum);
    }
    assert_eq!(found.keys().copied().collect::<Vec<_>>(), (0..KEYS).collect::<Vec<_>>(), "{what}");
    for (key, mut sums) in found {
        sums.sort_unstable_by_key(|sum| sum.count);
        let expected: Vec<Sum> = expected(key).collect();
        let differ = sums.iter().zip(&expected).find(|(found, expected)| found != expected);
        assert!(sums == expected, "{what}: key {key}, {} of {}: {differ:?}", sums.len(), expected.len());
    }
    let mut rows: Vec<Sum> = Table::new(job.path("out/table")).read().expect("the table").1;
    rows.sort_unstable_by_key(|row| (row.key, row.count));
    let expected: Vec<Sum> = (0..KEYS).flat_map(|key| expected(key).filter(|sum| sum.count % 25 == 0)).collect();
    assert!(rows == expected, "{what}: rows of the table: {} of {}", rows.len(), expected.len());
    let totals: BTreeMap<u64, u64> = serde_json::from_str(&job.read("out/totals")).expect("totals");
    assert_eq!(totals, (0..KEYS).map(|key| (key, inputs / 25)).collect(), "{what}: totals");
    assert_eq!(committed(job), Committed::All, "{what}");
}

const INPUTS: u64 = 1_500;

/// Starts the job in each of the shapes; between them it is killed or asked to stop.
fn rescaled(shapes: &[Shape], seed: u64, rate: u64) {
    let (mut random, mut kinds) = (Random(seed), (0, 0));
    let mut job = job(INPUTS, Some(rate));
    for (n, shape) in shapes.iter().enumerate() {
        let what = format!("seed {seed}, start {n}, {shape:?}");
        job.launch.env.retain(|(name, _)| name != "CRASH_SHUFFLE");
        job.launch = job.launch.with("CRASH_SHUFFLE", (n + 1).to_string());
        if n + 1 == shapes.len() {
            job.launch.env.retain(|(name, _)| name != "CRASH_RATE");
            job.start(*shape).assert_success(&what);
            break;
        }
        let parts = job.published("out/sums");
        let mut cluster = job.start(*shape);
        let enough = parts + shape.processes * (1 + random.below(4) as usize);
        wait_for("commits", || cluster.has_ended() || job.published("out/sums") > enough);
        if cluster.has_ended() {
            // It was faster; then it is complete.
            cluster.assert_success(&what);
            break;
        }
        if random.below(2) == 0 {
            kinds.0 += 1;
            cluster.kill();
        } else {
            kinds.1 += 1;
            cluster.signal(Signal::TERM);
            let outcomes = cluster.finish();
            for outcome in &outcomes {
                outcome.assert_success(&what);
            }
            if outcomes.iter().all(|outcome| outcome.stderr.is_empty()) {
                // The signal came when all was done.
                break;
            }
            for outcome in &outcomes {
                outcome.assert_code(0, &["stopped; all epochs before "]);
            }
        }
    }
    println!("seed {seed}: {} kills and {} stops between {shapes:?}", kinds.0, kinds.1);
    assert!((kinds.0 + kinds.1) * 2 + 1 >= shapes.len(), "seed {seed}: it was complete too early to test much");
    assert_complete(&job, INPUTS, &format!("seed {seed}"));
}

/// 1 → 2 → 4 → 3 → 1 workers.
fn more_and_fewer_workers() -> Vec<Shape> {
    [1, 2, 4, 3, 1].map(workers).to_vec()
}

#[test]
fn sums_are_exact_when_workers_come_and_go() {
    rescaled(&more_and_fewer_workers(), number("CRASH_SEED", 1), 9_000);
}

#[test]
fn sums_are_exact_when_processes_come_and_go() {
    let two = Shape { processes: 2, workers: 2 };
    rescaled(&[ONE, TWO_PROCESSES, TWO_WORKERS, two, ONE], number("CRASH_SEED", 2), 9_000);
}

#[test]
#[ignore = "some minutes; scripts/soak"]
fn sums_are_exact_in_any_row_of_shapes() {
    let mut random = Random(number("CRASH_SEED", 1));
    for round in 0..number("CRASH_ROUNDS", 10) {
        let shapes: Vec<Shape> = (0..6)
            .map(|_| Shape { processes: 1 + random.below(2) as usize, workers: 1 + random.below(4) as usize })
            .collect();
        rescaled(&shapes, round, 8_000);
    }
}

#[test]
fn another_order_of_inputs_after_a_restart_changes_nothing_for_a_sequence() {
    // What was read before the kill and not committed comes back in another order.
    for seed in 0..number("CRASH_SHUFFLES", 4) {
        // Slow until it is killed.
        let mut job = job(200, Some(2_000));
        job.launch = job.launch.with("CRASH_SHUFFLE", "100");
        let mut cluster = job.start(TWO_WORKERS);
        wait_for("commits", || cluster.has_ended() || job.published("out/sums") > 5 + seed as usize);
        pass(Duration::from_millis(seed * 7));
        assert!(!cluster.has_ended());
        cluster.kill();
        job.launch.env.retain(|(name, _)| name != "CRASH_SHUFFLE" && name != "CRASH_RATE");
        job.launch = job.launch.with("CRASH_SHUFFLE", seed.to_string());
        job.start(TWO_WORKERS).assert_success("in another order");
        assert_complete(&job, 200, &format!("seed {seed}"));
    }
}

#[test]
fn the_table_keeps_the_contract_of_a_transactional_sink() {
    let place = tempfile::tempdir().expect("a directory");
    let path = |name: &str| place.path().join(name);
    conformance::check(
        |name| Table::new(path(name)),
        |n| Sum { key: n, count: 1, value: n, total: n, digest: 0 },
        |name| Table::new(path(name)).read().expect("the table").1,
    );
}

pub(crate) fn subject() -> Subject {
    Subject {
        name: "sums",
        job: Box::new(|| one_after_the_other(100, 4_000)),
        assert_complete: Box::new(|job, what| assert_complete(job, 100, what)),
        without: &[],
    }
}

#[test]
fn a_kill_at_any_step_changes_no_sum() {
    some_points(&subject(), 5);
}

#[test]
#[ignore = "some minutes; scripts/soak"]
fn every_kill_in_every_shape_changes_no_sum() {
    every_point(&subject());
}

#[test]
fn a_kill_between_the_last_commit_and_its_publication_loses_nothing() {
    // Without a slow disk the last commit may be the only one, or any.
    for after in 0..4 {
        let point = "commit.publish.before".to_owned();
        let _reached = Case { point, after, shape: TWO_PROCESSES, victim: 0, then: ONE }.run(&subject());
    }
}
