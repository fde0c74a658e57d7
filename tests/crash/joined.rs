//! Failures that stop the job, of actions that ask side by side, across processes (rules S8, D7): an error that was recorded
//! before another call ended is asked for again at each start, and what was paid for is kept.
//!
//! Each of some keys has one input, whose action pays for something, and then asks for `a` and `b` side by side. `b` ends
//! when its action has met `a`. A call gives the number of the life in which it was made, and a ledger that outlives the
//! processes has all that are made.

use std::collections::BTreeSet;
use std::fs::OpenOptions;
use std::time::Duration;

use futures::future::{Either, join, select};
use serde::{Deserialize, Serialize};
use timely_agents::cluster::Failure;
use timely_agents::prelude::*;
use timely_agents::{Durability, Error, Plan, execute_with};

use crate::flights::{Committed, committed};
use crate::process::{Cluster, Job, Launch, ONE, TWO_WORKERS, number, wait_for};
use crate::programs;
use crate::tools::ledger;

const KEYS: u64 = 3;
/// What comes behind the inputs of the keys, so that epochs close.
const TICKS: u64 = 1_000;
const TICK: u64 = 99;

/// A line of the ledger: what is made, or met.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Entry {
    life: u64,
    key: u64,
    what: String,
}

fn enter(key: u64, what: &str) -> u64 {
    let life = number("CRASH_LIFE", 0);
    let path = programs::variant("CRASH_LEDGER").unwrap_or_default();
    let file = OpenOptions::new().create(true).append(true).open(path);
    let written = file.and_then(|mut file| ledger::append(&mut file, &Entry { life, key, what: what.to_owned() }));
    written.unwrap_or_else(|error| panic!("the ledger: {error}"));
    life
}

/// Whether calls of this key give an error in this life.
fn fails(key: u64) -> bool {
    let of_it = key == 0 || programs::variant("CRASH_ALL").is_some();
    of_it && number("CRASH_LIFE", 0) <= number("CRASH_FAILS", 0)
}

/// Gives its life, or an error.
async fn a(key: u64) -> Result<u64, String> {
    let life = enter(key, "a");
    if key == 0 && programs::variant("CRASH_HANGS").is_some() {
        std::future::pending::<()>().await;
    }
    if fails(key) { Err(format!("busy since {life}")) } else { Ok(life) }
}

async fn b(key: u64) -> u64 {
    let life = enter(key, "b");
    let path = programs::variant("CRASH_LEDGER").unwrap_or_default();
    while !ledger::read::<Entry>(&path).iter().any(|entry| entry.key == key && entry.what == "met") {
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    life
}

async fn c(key: u64) -> Result<u64, String> {
    let life = enter(key, "c");
    if fails(key) { Err(format!("busy since {life}")) } else { Ok(life) }
}

async fn ask(key: u64, ctx: &Ctx<String>) -> Result<(), Error> {
    let durability = match programs::variant("CRASH_EPOCH") {
        Some(_) => Durability::WithEpoch,
        None => Durability::Eager,
    };
    let way = programs::variant("CRASH_WAY").unwrap_or_default();
    let paid = ctx.durable("paid", key, async |key| enter(key, "paid")).await?;
    let a = async {
        let a = ctx.durable("a", key, a).durability(durability).await;
        enter(key, "met");
        a
    };
    let b = ctx.durable("b", key, b).durability(durability);
    let (a, b) = if way == "selected" {
        match select(Box::pin(a), b).await {
            Either::Left((a, b)) => (a?, b.await?),
            Either::Right((b, a)) => (a.await?, b?),
        }
    } else {
        let (a, b) = join(a, b).await;
        (a?, b?)
    };
    let (a, c) = if way == "handled" {
        (a.unwrap_or(0), ctx.durable("c", key, c).durability(durability).await?.map_err(Error::new)?)
    } else {
        (a.map_err(Error::new)?, 0)
    };
    ctx.output(format!("{key} {paid} {a} {b} {c}"));
    Ok(())
}

fn plan() -> Result<Plan<u64, String>, Failure> {
    let mut agent = Agent::<u64, String>::new("asking");
    if programs::variant("CRASH_CARRY").is_some() {
        agent.carry();
    }
    agent.on_input_async("ask", async move |key: &u64, ctx| if *key == TICK { Ok(()) } else { ask(*key, ctx).await });
    agent.build().map_err(|errors| Failure::usage(errors.to_string()))
}

pub(crate) fn program() -> Result<(), Failure> {
    let arguments = programs::arguments("joined")?;
    let (out, checkpoints) = programs::opened(&arguments)?;
    let plan = plan()?;
    // Only where something hangs later there has to be something to commit then.
    let rate = programs::variant("CRASH_PACED").map(|_| 200.0);
    execute_with(arguments.config(), checkpoints, move |worker, job| {
        worker.dataflow::<u64, _, _>(|scope| {
            let asks = (0..KEYS).map(|key| (0, key)).chain((1..=TICKS).map(|epoch| (epoch, TICK)));
            let asks = job.source_with(scope, "asks", Records::from(asks), |source| source.rate = rate)?;
            asks.agent(|key| key, &plan).sink(job, "lines", JsonLines::parts(format!("{out}/lines")))?;
            Ok(())
        })
    })
    .map(drop)
}

/// The job and its ledger.
struct Joined {
    job: Job,
    ledger: String,
    life: u64,
    what: String,
}

impl Joined {
    fn new(way: &str, variants: &[&str]) -> Self {
        let launch = Launch::own("joined").with("CRASH_WAY", way);
        let mut job = Job::new(variants.iter().fold(launch, |launch, name| launch.with(name, "1")));
        job.option("--out", &job.path("out"));
        let ledger = job.path("ledger");
        job.launch = job.launch.with("CRASH_LEDGER", ledger.clone());
        Joined { job, ledger, life: 0, what: format!("{way} {variants:?}") }
    }

    /// The next life; calls fail up to one.
    fn start(&mut self, fails: u64, variants: &[&str]) -> Cluster {
        self.life += 1;
        let (life, fails) = (self.life.to_string(), fails.to_string());
        self.job.start_with(if self.life.is_multiple_of(2) { TWO_WORKERS } else { ONE }, |_, command| {
            command.env("CRASH_LIFE", &life).env("CRASH_FAILS", &fails).envs(variants.iter().map(|name| (name, "1")));
        })
    }

    /// What this life has made for a key, each call once.
    fn made(&self, key: u64) -> Vec<String> {
        let entries = ledger::read::<Entry>(&self.ledger).into_iter();
        let made = entries.filter(|entry| (entry.life, entry.key) == (self.life, key) && entry.what != "met");
        let mut made: Vec<String> = made.map(|entry| entry.what).collect();
        made.sort_unstable();
        made
    }

    fn assert_lines(&self, key: u64, line: &str) {
        let lines: Vec<String> = self.job.parts("out/lines").into_iter().map(|(_, line)| line).collect();
        let keys: BTreeSet<&str> = lines.iter().filter_map(|line| line.trim_matches('"').split(' ').next()).collect();
        assert_eq!((lines.len(), keys.len()), (KEYS as usize, KEYS as usize), "{}: each once: {lines:?}", self.what);
        assert!(lines.iter().any(|of| of.trim_matches('"') == format!("{key} {line}")), "{}: {lines:?}", self.what);
        assert_eq!(committed(&self.job), Committed::All, "{}", self.what);
    }
}

const FORMS: [&[&str]; 4] = [&[], &["CRASH_EPOCH"], &["CRASH_CARRY"], &["CRASH_EPOCH", "CRASH_CARRY"]];

/// W13.
#[test]
fn recorded_error_of_joined_calls_is_asked_for_again_at_each_start_and_what_was_paid_for_is_not() {
    let ways = [("joined", "a", "1 4 1 0"), ("selected", "a", "1 4 1 0"), ("handled", "c", "1 0 1 4")];
    for (way, again, line) in ways {
        for variants in FORMS {
            let mut job = Joined::new(way, variants);
            for life in 1..=3 {
                job.start(3, &[]).finish().remove(0).assert_failed(&[&format!("busy since {life}")]);
                let made = job.made(0);
                if life == 1 {
                    let all = ["a", "b", "c", "paid"].iter().filter(|call| way == "handled" || **call != "c");
                    assert_eq!(made, all.copied().collect::<Vec<_>>(), "{}", job.what);
                } else {
                    assert_eq!(made, [again], "{}, life {life}", job.what);
                }
            }
            job.start(3, &[]).assert_success("when it does not fail any more");
            assert_eq!(job.made(0), [again], "{}", job.what);
            job.assert_lines(0, line);
        }
    }
}

/// W13, with a kill: what is asked for again hangs, and is asked for again after that.
#[test]
fn attempt_after_a_recorded_error_of_joined_calls_outlives_a_kill() {
    for variants in FORMS {
        let mut job = Joined::new("joined", variants);
        job.start(1, &["CRASH_PACED"]).finish().remove(0).assert_failed(&["busy since 1"]);
        let mut cluster = job.start(1, &["CRASH_PACED", "CRASH_HANGS"]);
        wait_for("what is asked for again to hang", || {
            assert!(!cluster.has_ended());
            !job.made(0).is_empty()
        });
        if variants.contains(&"CRASH_CARRY") {
            let before = committed(&job.job).frontier();
            wait_for("commits", || {
                assert!(!cluster.has_ended());
                committed(&job.job).frontier() > before.map(|epoch| epoch + 2)
            });
        }
        cluster.kill();
        assert_eq!(job.made(0), ["a"], "{}", job.what);
        job.start(1, &[]).assert_success("after the kill");
        assert_eq!(job.made(0), ["a"], "{}", job.what);
        job.assert_lines(0, "1 3 1 0");
    }
}

#[test]
fn one_start_frees_the_runs_of_all_keys_of_their_recorded_errors() {
    for variants in [&[][..], &["CRASH_CARRY"]] {
        let mut job = Joined::new("joined", &[variants, &["CRASH_ALL"]].concat());
        job.start(1, &[]).finish().remove(0).assert_failed(&["busy since 1"]);
        job.start(1, &[]).assert_success("all that has failed is asked for again");
        for key in 0..KEYS {
            assert!(job.made(key).contains(&"a".to_owned()), "{}, key {key}", job.what);
        }
        job.assert_lines(0, "1 2 1 0");
    }
}
