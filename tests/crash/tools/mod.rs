//! A job that pays for its calls: 1,000 runs with three calls each to a tool server, at most eight at once in a process.
//!
//! # What is checked
//! - Under random kills, in changing shapes: only calls that are in doubt are made again, with the idempotency key and
//!   the question that they had; who was given a result is given it again; outputs are those of a job without a crash.
//! - With a reconciler no call is made twice.
//! - A result that is durable is used after a kill, though its epoch was not committed, and no action had it.
//! - Two sources on different workers feed each key, in another order after each kill: inputs keep their runs and keys.
//!
//! # What is not
//! - Who asked and was killed before the server read it has asked: the server's ledger decides, and it may come late.

pub(crate) mod ledger;
pub(crate) mod server;

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File, OpenOptions};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use futures::future::try_join;
use serde::{Deserialize, Serialize};
use timely_agents::cluster::Failure;
use timely_agents::prelude::*;
use timely_agents::{CallError, Error, Plan, Reconciled, execute_with};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use self::ledger::{Account, Taken, Tool};
use self::server::{Answer, Asked, KIND, Manners, Tools, answer_to};
use crate::flights::{Committed, committed};
use crate::process::{
    Cluster, Job, Launch, ONE, Random, SHAPES, Shape, TWO_PROCESSES, TWO_WORKERS, number, pass, wait_for,
};
use crate::programs;

const KEYS: u64 = 40;
const RUNS: u64 = 1_000;
/// Calls at once in a process: from the question to the action that has the answer.
const AT_ONCE: usize = 8;

#[derive(Clone, Debug, Serialize, Deserialize)]
struct Task {
    key: u64,
    /// The place among the tasks of the key, from 0.
    n: u64,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Line {
    key: u64,
    n: u64,
    /// Which run of the key this was.
    run: u64,
    value: u64,
    /// The acts of the server that its calls led to.
    acts: [u64; 3],
}

fn runs() -> u64 {
    number("CRASH_RUNS", RUNS)
}

/// All tasks in their order, each at its epoch, where `keys` take turns.
fn tasks(runs: u64, keys: u64, per_epoch: u64) -> impl Iterator<Item = (u64, Task)> {
    (0..runs).map(move |i| (i / per_epoch, Task { key: i % keys, n: i / keys }))
}

/// What the tasks of one source are, and when.
fn source(part: u64, parts: u64) -> impl Iterator<Item = (u64, Task)> {
    let mut random = Random(number("CRASH_SHUFFLE", 0) ^ part << 32);
    let (keys, per_epoch) = if parts == 1 { (KEYS, (runs() / 2).clamp(1, KEYS / 2)) } else { (KEYS / 4, KEYS) };
    let mut epochs = BTreeMap::<u64, Vec<Task>>::new();
    for (epoch, task) in tasks(runs(), keys.min(runs()), per_epoch).filter(|(_, task)| task.n % parts == part) {
        epochs.entry(epoch).or_default().push(task);
    }
    if parts > 1 {
        for tasks in epochs.values_mut() {
            for last in (1..tasks.len()).rev() {
                tasks.swap(last, random.below(last as u64 + 1) as usize);
            }
        }
    }
    epochs.into_iter().flat_map(|(epoch, tasks)| tasks.into_iter().map(move |task| (epoch, task)))
}

/// What the calls of a run ask: it depends on the order of the key's runs, which must not change once a call has left.
fn question(task: &Task, run: u64) -> u64 {
    task.key << 40 | task.n << 20 | run
}

/// What the three calls of a run come to.
fn value(first: u64, left: u64, right: u64) -> u64 {
    first ^ left << 20 ^ right << 40
}

/// What a run puts out, but for the acts.
fn expected(task: &Task, run: u64) -> u64 {
    let first = answer_to(question(task, run));
    value(first, answer_to(first ^ 1 << 60), answer_to(first ^ 2 << 60))
}

/// Where a call of this process waits for its turn.
fn slots() -> Arc<Semaphore> {
    static SLOTS: OnceLock<Arc<Semaphore>> = OnceLock::new();
    Arc::clone(SLOTS.get_or_init(|| Arc::new(Semaphore::new(AT_ONCE))))
}

/// Calls that were begun in this process, and whose actions have not gone on.
static BEGUN: Mutex<BTreeMap<Tool, OwnedSemaphorePermit>> = Mutex::new(BTreeMap::new());

fn begun() -> MutexGuard<'static, BTreeMap<Tool, OwnedSemaphorePermit>> {
    BEGUN.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What blocks, off the runtime.
async fn off<R: Send + 'static>(f: impl FnOnce(&str) -> Result<R, String> + Send + 'static) -> Result<R, String> {
    let port = programs::variant("CRASH_PORT").ok_or("there is no server")?;
    tokio::task::spawn_blocking(move || f(&port)).await.map_err(|error| error.to_string())?
}

async fn asked(tool: Tool, question: u64, key: String) -> Result<Answer, String> {
    // A later attempt has its turn already.
    let turn = begun().remove(&tool);
    let turn = match turn {
        Some(turn) => turn,
        None => slots().acquire_owned().await.map_err(|error| error.to_string())?,
    };
    begun().insert(tool, turn);
    let slow_ms = if tool.call == number("CRASH_SLOW_CALL", 9) as u32 { 600_000 } else { 0 };
    let asked = Asked { life: number("CRASH_LIFE", 0), tool, key, question, slow_ms };
    off(move |port| server::ask(port, &asked)).await
}

/// Whether a call was made that was under way in a crash.
async fn reconciled(key: String) -> Reconciled<Result<Answer, String>> {
    let life = number("CRASH_LIFE", 0);
    match off(move |port| server::status(port, &key, life)).await {
        Ok(None) => Reconciled::NotDone,
        Ok(Some(answer)) => Reconciled::Done(Ok(answer)),
        Err(error) => Reconciled::Done(Err(error)),
    }
}

/// Notes that an action goes on with an answer.
fn taken(tool: Tool, answer: Answer) -> Result<(), Error> {
    static FILE: OnceLock<Mutex<Option<File>>> = OnceLock::new();
    let open = || {
        let path = programs::variant("CRASH_TAKEN")?;
        OpenOptions::new().create(true).append(true).open(path).ok()
    };
    let file = FILE.get_or_init(|| Mutex::new(open())).lock();
    let mut file = file.unwrap_or_else(PoisonError::into_inner);
    let file = file.as_mut().ok_or_else(|| Error::new("no file for what was taken"))?;
    let line = Taken { life: number("CRASH_LIFE", 0), tool, act: answer.act };
    ledger::append(file, &line).map_err(|error| Error::new(error.to_string()))?;
    begun().remove(&tool);
    Ok(())
}

async fn call(ctx: &Ctx<Line>, task: &Task, call: u32, question: u64) -> Result<Answer, Error> {
    let tool = Tool { key: task.key, n: task.n, call };
    let made = ctx.durable_with("tool", (call, question), move |(_, question), call: CallInfo| {
        asked(tool, question, call.idempotency_key())
    });
    let answer = if programs::variant("CRASH_RECONCILE").is_some() {
        made.reconcile(|_, call| reconciled(call.idempotency_key())).await?
    } else {
        let again = |answer: &Result<_, CallError>| match answer {
            Ok(Ok(_)) => Outcome::Terminal,
            _ => Outcome::Retryable,
        };
        made.retry(Retry::new(20).backoff(Duration::from_millis(2))).classify(again).await?
    };
    let answer: Answer = answer.map_err(Error::new)?;
    taken(tool, answer)?;
    Ok(answer)
}

fn plan() -> Result<Plan<Task, Line>, Failure> {
    let mut agent = Agent::<Task, Line>::new("caller");
    let is = |name: &str| programs::variant(name).is_some();
    if is("CRASH_CARRY") {
        agent.carry();
    }
    if is("CRASH_IDENTIFIED") {
        agent.identified_by(|task| (task.key, task.n));
    }
    let seen = agent.memory::<u64>("seen");
    agent.on_input_async("work", async move |task: &Task, ctx| {
        let run = ctx.update(seen, |seen| {
            *seen += 1;
            *seen
        });
        let first = call(ctx, task, 0, question(task, run)).await?;
        let [left, right] = [1, 2].map(|n| call(ctx, task, n, first.value ^ u64::from(n) << 60));
        let (left, right) = try_join(left, right).await?;
        let acts = [first, left, right].map(|answer| answer.act);
        ctx.output(Line { key: task.key, n: task.n, run, value: value(first.value, left.value, right.value), acts });
        Ok(())
    });
    agent.build().map_err(|errors| Failure::usage(errors.to_string()))
}

pub(crate) fn program() -> Result<(), Failure> {
    let arguments = programs::arguments("tools")?;
    let (out, checkpoints) = programs::opened(&arguments)?;
    let plan = plan()?;
    let parts = number("CRASH_SOURCES", 1);
    execute_with(arguments.config(), checkpoints, move |worker, job| {
        worker.dataflow::<u64, _, _>(|scope| {
            let readers = (0..parts).map(|part| Records::from(source(part, parts)));
            let tasks = job.sources(scope, "tasks", readers)?;
            tasks.agent(|task| &task.key, &plan).sink(job, "lines", JsonLines::parts(format!("{out}/lines")))?;
            Ok(())
        })
    })
    .map(drop)
}

/// The job with its server.
struct Paid {
    job: Job,
    _tools: Tools,
    dir: String,
    runs: u64,
    life: u64,
    shapes: BTreeMap<u64, Shape>,
}

impl Paid {
    fn new(manners: Manners, runs: u64, variants: &[(&str, &str)]) -> Self {
        let mut launch = Launch::own("tools").with("CRASH_RUNS", runs.to_string());
        for (name, value) in variants {
            launch = launch.with(name, *value);
        }
        let mut job = Job::new(launch);
        job.option("--out", &job.path("out"));
        let dir = job.path("tools");
        let tools = Tools::start(&dir, manners);
        job.launch = job.launch.with("CRASH_PORT", tools.port.clone()).with("CRASH_TAKEN", format!("{dir}/taken"));
        Paid { job, _tools: tools, dir, runs, life: 0, shapes: BTreeMap::new() }
    }

    /// The next life, with more in the environment.
    fn start(&mut self, shape: Shape, more: &[(&str, String)]) -> Cluster {
        self.life += 1;
        self.shapes.insert(self.life, shape);
        let life = self.life.to_string();
        self.job.start_with(shape, |_, command| {
            command.env("CRASH_LIFE", &life).envs(more.iter().map(|(name, value)| (name, value)));
        })
    }

    /// How much stands in the server's ledger, and in the file of what was taken.
    fn bytes(&self) -> u64 {
        ["ledger", "taken"]
            .map(|name| fs::metadata(format!("{}/{name}", self.dir)).map_or(0, |file| file.len()))
            .iter()
            .sum()
    }

    fn taken(&self) -> Vec<Taken> {
        ledger::read(&format!("{}/taken", self.dir))
    }

    fn account(&self, what: &str) -> Account {
        Account::read(&self.dir, what)
    }

    /// Complete and right, whichever order the runs of a key have where two sources feed it.
    fn assert_complete(&self, parts: u64, what: &str) -> Account {
        let account = self.account(what);
        let mut lines: Vec<Line> = Vec::new();
        for (_, text) in self.job.parts("out/lines") {
            lines.push(serde_json::from_str(&text).unwrap_or_else(|error| panic!("{what}: {text}: {error}")));
        }
        lines.sort_unstable_by_key(|line| (line.key, line.n));
        let keys = if parts == 1 { KEYS } else { KEYS / 4 };
        let mut tasks: Vec<Task> = tasks(self.runs, keys.min(self.runs), 1).map(|(_, task)| task).collect();
        tasks.sort_unstable_by_key(|task| (task.key, task.n));
        let mut runs = BTreeSet::new();
        for (line, task) in lines.iter().zip(&tasks) {
            let run = if parts == 1 { task.n + 1 } else { line.run };
            let acts = [0, 1, 2].map(|call| account.acts[&Tool { key: task.key, n: task.n, call }]);
            let expected = Line { key: task.key, n: task.n, run, value: expected(task, run), acts };
            assert_eq!(line, &expected, "{what}");
            assert!(run <= self.runs.div_ceil(keys) && runs.insert((line.key, run)), "{what}: {line:?}");
        }
        assert_eq!(lines.len(), tasks.len(), "{what}");
        assert_eq!(committed(&self.job), Committed::All, "{what}");
        account
    }

    /// At most so many calls may be in doubt after each life.
    fn assert_few_in_doubt(&self, account: &Account, what: &str) {
        for (life, found) in &account.lives {
            let (most, in_doubt) = (AT_ONCE * self.shapes[life].processes, found.in_doubt.len());
            assert!(in_doubt <= most, "{what}: life {life}: {in_doubt} in doubt, at most {most} were begun at once");
        }
    }
}

/// What some jobs have come to.
#[derive(Default)]
struct Sums {
    kills: u64,
    in_doubt: usize,
    repeated: usize,
    replayed: usize,
    reconciled: usize,
}

const ALL_SHAPES: [Shape; 4] = [ONE, TWO_WORKERS, TWO_PROCESSES, Shape { processes: 2, workers: 2 }];

/// One job after the other, killed at random until it is complete, until there were enough kills, and calls were replayed
/// and, where they can be, reconciled.
fn random_kills(kills: u64, seed: u64, parts: u64, variants: &[(&str, &str)]) -> Sums {
    let (mut random, mut sums) = (Random(seed), Sums::default());
    let reconciles = variants.iter().any(|(name, _)| *name == "CRASH_RECONCILE");
    let mut jobs = 0;
    while sums.kills < kills || sums.replayed == 0 || reconciles && sums.reconciled == 0 {
        jobs += 1;
        // Kills say something where they meet a call; by chance some rows of them do not.
        let last = if sums.kills < kills { kills } else { sums.kills + 6 };
        assert!(last <= 10 * kills.max(6), "{last} kills and no call replayed, or none reconciled: {variants:?}");
        let what = format!("seed {seed}, job {jobs}");
        // A few kills do not need a long job.
        let runs = if kills < 50 { RUNS / 3 } else { RUNS };
        // Who was cut off asks again, which is not what a reconciler is about.
        let dropped = if reconciles { 0 } else { 3 };
        let mut paid = Paid::new(Manners { seed: random.next(), delay_ms: 20, dropped }, runs, variants);
        let completed = loop {
            let shape = ALL_SHAPES[random.below(4) as usize];
            let before = paid.bytes();
            let mut cluster = paid.start(shape, &[("CRASH_SHUFFLE", random.next().to_string())]);
            // Some are killed while they go on from where they were, or before.
            if random.below(4) > 0 {
                wait_for("a call", || cluster.has_ended() || paid.bytes() > before);
            }
            // Longer and longer, so that each job comes to its end.
            pass(Duration::from_micros(random.below(300_000 + 10_000 * paid.life)));
            if sums.kills == last || cluster.has_ended() {
                cluster.assert_success(&what);
                break paid.life;
            }
            sums.kills += 1;
            if random.below(3) == 0 {
                // The other process, if there is one, finds out.
                cluster.0[0].signal(rustix::process::Signal::KILL);
                cluster.finish();
            } else {
                cluster.kill();
            }
        };
        let account = paid.assert_complete(parts, &what);
        paid.assert_few_in_doubt(&account, &what);
        for (life, found) in account.lives.iter().filter(|(life, _)| **life != completed) {
            println!(
                "job {jobs} kill {life} {:?}: begun {}, journaled {}, in doubt {}, repeated {}; replayed {}, reconciled {}",
                paid.shapes[life],
                found.begun.len(),
                found.taken.len(),
                found.in_doubt.len(),
                found.repeated.len(),
                found.replayed.len(),
                found.reconciled
            );
        }
        sums.in_doubt += account.in_doubt();
        sums.repeated += account.repeated();
        sums.replayed += account.replayed();
        sums.reconciled += account.reconciled();
        assert!(account.repeated() <= account.in_doubt(), "{what}");
    }
    let Sums { kills, in_doubt, repeated, replayed, reconciled } = sums;
    println!(
        "kills: {kills} of {jobs} jobs {variants:?}; calls: {in_doubt} in doubt, {repeated} repeated, {replayed} replayed, \
         {reconciled} times reconciled"
    );
    sums
}

#[test]
fn only_calls_in_doubt_are_made_again() {
    let (kills, seed) = (number("CRASH_KILLS", 6), number("CRASH_SEED", 1));
    let sums = random_kills(kills, seed, 1, &[]);
    assert!(kills < 300 || sums.in_doubt >= 200, "{} in doubt are too few to say anything", sums.in_doubt);
}

#[test]
fn only_calls_in_doubt_of_carried_runs_are_made_again() {
    random_kills(number("CRASH_KILLS", 6), number("CRASH_SEED", 2), 1, &[("CRASH_CARRY", "1")]);
}

#[test]
fn no_call_with_a_reconciler_is_made_twice() {
    let (kills, seed) = (number("CRASH_KILLS", 6), number("CRASH_SEED", 3));
    for variants in [&[("CRASH_RECONCILE", "1")][..], &[("CRASH_RECONCILE", "1"), ("CRASH_CARRY", "1")]] {
        let sums = random_kills(kills, seed, 1, variants);
        assert_eq!(sums.repeated, 0, "{variants:?}");
        assert!(sums.reconciled as u64 >= if kills < 300 { 1 } else { 200 }, "reconciled {} times", sums.reconciled);
    }
}

#[test]
fn inputs_in_another_order_keep_their_runs_and_their_keys() {
    let (kills, seed) = (number("CRASH_KILLS", 6), number("CRASH_SEED", 4));
    random_kills(kills, seed, 2, &[("CRASH_SOURCES", "2"), ("CRASH_IDENTIFIED", "1")]);
    random_kills(kills, seed + 1, 2, &[("CRASH_SOURCES", "2"), ("CRASH_IDENTIFIED", "1"), ("CRASH_CARRY", "1")]);
    // Then an input is known by its bytes.
    random_kills(kills, seed + 2, 2, &[("CRASH_SOURCES", "2")]);
}

#[test]
fn a_job_that_is_not_killed_asks_once() {
    for shape in SHAPES {
        for (parts, variants) in [(1, vec![]), (1, vec![("CRASH_CARRY", "1")]), (2, vec![("CRASH_SOURCES", "2")])] {
            let what = format!("{shape:?} {variants:?}");
            let mut paid = Paid::new(Manners { seed: 1, delay_ms: 1, dropped: 3 }, 200, &variants);
            paid.start(shape, &[]).assert_success(&what);
            let account = paid.assert_complete(parts, &what);
            assert_eq!((account.in_doubt(), account.repeated(), account.replayed()), (0, 0, 0), "{what}");
            assert_eq!(account.lives[&1].begun.len(), 600, "{what}");
        }
    }
}

/// A job of some runs that hang in their second call: the first one's result is durable, and nothing is committed.
#[test]
fn a_result_that_is_durable_before_its_epoch_is_used() {
    for variants in [vec![], vec![("CRASH_CARRY", "1")]] {
        let mut paid = Paid::new(KIND, 5, &variants);
        // Under Carry an epoch does not wait for its runs.
        let slow =
            [("CRASH_SLOW_CALL", "1".to_owned()), ("FAILPOINTS", "commit.manifest.before=pause600000".to_owned())];
        let mut cluster = paid.start(TWO_WORKERS, &slow);
        wait_for("three calls of each run", || {
            assert!(!cluster.has_ended());
            paid.taken().len() == 10 && paid.account("at work").lives[&1].begun.len() == 15
        });
        cluster.kill();
        assert_eq!(committed(&paid.job), Committed::Nothing);
        paid.start(ONE, &[]).assert_success("after the kill");
        let account = paid.assert_complete(1, &format!("{variants:?}"));
        assert_eq!((account.in_doubt(), account.repeated(), account.replayed()), (5, 5, 10), "{variants:?}");
    }
}

/// Runs that hang in their first call when an epoch is committed, then in the second one.
fn carried(first: Shape, then: Shape, variants: &[(&str, &str)]) -> Account {
    // Two epochs: after the end of the inputs the last one stays open.
    let mut paid = Paid::new(KIND, 6, &[&[("CRASH_CARRY", "1")], variants].concat());
    for (call, shape, taken) in [(0, first, 0), (1, then, 12)] {
        let mut cluster = paid.start(shape, &[("CRASH_SLOW_CALL", call.to_string())]);
        let life = paid.life;
        wait_for("calls", || {
            assert!(!cluster.has_ended());
            // In this life: a call that hangs may be begun after those beside it are over.
            let account = paid.account("at work");
            let begun = account.lives.get(&life).into_iter().flat_map(|life| &life.begun);
            begun.filter(|tool| tool.call == call).count() == 6
                && paid.taken().len() == taken
                && committed(&paid.job) == Committed::Before(1)
        });
        cluster.kill();
    }
    paid.start(first, &[]).assert_success("after the kills");
    paid.assert_complete(1, "after the kills")
}

#[test]
fn a_result_of_a_run_that_was_carried_is_used() {
    for (first, then) in [(TWO_WORKERS, ONE), (TWO_PROCESSES, TWO_PROCESSES)] {
        let account = carried(first, then, &[]);
        assert_eq!((account.lives[&3].replayed.len(), account.repeated()), (12, 12));
    }
}

#[test]
fn a_call_of_a_run_that_was_carried_is_reconciled() {
    for (first, then) in [(TWO_WORKERS, ONE), (TWO_PROCESSES, TWO_PROCESSES)] {
        let account = carried(first, then, &[("CRASH_RECONCILE", "1")]);
        assert_eq!((account.repeated(), account.reconciled()), (0, 12));
    }
}

/// Killed after each sync of the log in turn: what is synced is used, though nobody has heard of it.
#[test]
fn a_result_that_is_durable_and_that_no_action_has_is_used() {
    let mut unheard = 0;
    for after in 0..12 {
        let what = format!("killed after sync {after}");
        let mut paid = Paid::new(KIND, 1, &[]);
        let point = format!("log.sync.after={after}*off->kill");
        let outcomes = paid.start(ONE, &[("FAILPOINTS", point)]).finish();
        if !outcomes[0].killed() {
            outcomes[0].assert_success(&what);
            break;
        }
        paid.start(ONE, &[]).assert_success(&what);
        let account = paid.assert_complete(1, &what);
        // Asked for and not taken, and then taken and not asked for; before the first question there is nothing to tell.
        let Some(first) = account.lives.get(&1) else { continue };
        unheard += first.in_doubt.difference(&account.lives[&2].begun).count();
    }
    assert!(unheard >= 1, "no kill came between the sync of a result and the action that waits for it");
}
