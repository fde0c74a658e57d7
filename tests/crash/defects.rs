//! Defects of durable execution elsewhere that this one must not have (`docs/parity.md`), across processes.
//!
//! Each of some keys has two inputs of one epoch, and two actions on each, which ask side by side; events that are sent
//! before an await start more. A call gives the number of the life in which it was made, and what calls and actions do is
//! in a ledger that outlives the kills. The first run of each key hangs in its last call until it is killed.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::OpenOptions;

use serde::{Deserialize, Serialize};
use timely_agents::cluster::Failure;
use timely_agents::prelude::*;
use timely_agents::{Divergence, Error, Plan, Reconciled, execute_with};

use crate::flights::{Committed, committed};
use crate::process::{Cluster, Job, Launch, ONE, Shape, TWO_WORKERS, number, wait_for};
use crate::programs;
use crate::tools::ledger;

const KEYS: u64 = 6;
/// What comes behind the inputs of the keys, so that epochs close.
const TICKS: u64 = 1_000;
const TICK: u64 = 99;

#[derive(Clone, Debug, Serialize, Deserialize)]
struct Ask {
    key: u64,
    /// The place among the inputs of the key, from 0.
    n: u64,
}

/// Sent before an await.
#[derive(Clone, Serialize, Deserialize)]
struct Told {
    ask: Ask,
    what: String,
}

impl Event for Told {
    const NAME: &'static str = "told";
}

/// An error with a type.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error, Serialize, Deserialize)]
enum Refused {
    #[error("busy since {since}")]
    Busy { since: u64 },
    #[error("never")]
    Never,
}

/// A line of the ledger: a call is made, or something else has come to pass.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
struct Entry {
    life: u64,
    key: u64,
    n: u64,
    made: bool,
    what: String,
}

fn enter(ask: &Ask, made: bool, what: &str) -> Result<u64, Error> {
    let life = number("CRASH_LIFE", 0);
    let path = programs::variant("CRASH_LEDGER").ok_or_else(|| Error::new("there is no ledger"))?;
    let mut file = OpenOptions::new().create(true).append(true).open(path)?;
    ledger::append(&mut file, &Entry { life, key: ask.key, n: ask.n, made, what: what.to_owned() })?;
    Ok(life)
}

/// Makes a call, which gives its life.
fn make(ask: &Ask, what: &str) -> u64 {
    enter(ask, true, what).unwrap_or_else(|error| panic!("{error}"))
}

async fn hang((ask, _): (Ask, &'static str)) -> u64 {
    let life = make(&ask, "hang");
    if programs::variant("CRASH_HANGS").is_some() && ask.n == 0 {
        std::future::pending::<()>().await;
    }
    life
}

/// Finds the call in the ledger.
fn find(ask: &Ask) -> Reconciled<u64> {
    let path = programs::variant("CRASH_LEDGER").unwrap_or_default();
    let entries = ledger::read::<Entry>(&path);
    let of_it = |entry: &&Entry| entry.made && entry.what == "hang" && (entry.key, entry.n) == (ask.key, ask.n);
    entries.iter().find(of_it).map_or(Reconciled::NotDone, |entry| Reconciled::Done(entry.life))
}

/// Fails in the first lives.
async fn stumble(ask: Ask) -> Result<u64, Refused> {
    let life = make(&ask, "stumble");
    if ask.key == 0 && life <= number("CRASH_FAILS", 0) { Err(Refused::Busy { since: life }) } else { Ok(life) }
}

fn plan() -> Result<Plan<Ask, String>, Failure> {
    let is = |name: &str| programs::variant(name).is_some();
    let (reconciled, changed, doubted) = (is("CRASH_RECONCILE"), is("CRASH_CHANGED"), is("CRASH_DOUBTED"));
    let mut agent = Agent::<Ask, String>::new("asking");
    if is("CRASH_LENIENT") {
        agent.divergence(Divergence::Lenient);
    }
    if is("CRASH_CARRY") {
        agent.carry();
    }
    let (seen, told) = (agent.memory::<u64>("seen"), agent.memory::<u64>("told"));
    agent.on_input_async("ask", async move |ask: &Ask, ctx| {
        if ask.key == TICK {
            return Ok(());
        }
        enter(ask, false, "begins")?;
        ctx.update(seen, |seen| *seen += 1);
        ctx.send(Told { ask: ask.clone(), what: "early".into() });
        let args = (ask.key, ask.n, if changed { "other" } else { "same" });
        let asked = ask.clone();
        let value = ctx.durable("value", args, async move |_| make(&asked, "value")).keep_arguments().await?;
        ctx.flush().await;
        let unit: () = ctx.durable("unit", ask.clone(), async |ask| assert_ne!(make(&ask, "unit"), 0)).await?;
        let nothing = async |ask| Some(make(&ask, "none")).filter(|life| *life == 0);
        let none = ctx.durable("none", ask.clone(), nothing).await?;
        let refuse = async |ask| Err::<u64, _>(Refused::Busy { since: make(&ask, "refuse") });
        let refused = match ctx.durable("refuse", ask.clone(), refuse).await? {
            Err(Refused::Busy { since }) => format!("busy since {since}"),
            other => format!("{other:?}"),
        };
        ctx.send(Told { ask: ask.clone(), what: "late".into() });
        let stumbled = ctx.durable("stumble", ask.clone(), stumble).await??;
        let last = ctx.durable("hang", (ask.clone(), if doubted { "other" } else { "same" }), hang);
        let find = |(ask, _), _| async move { find(&ask) };
        let last = if reconciled { last.reconcile(find).await? } else { last.await? };
        // Another attempt has counted what the first one flushed.
        let run = ctx.get(seen).unwrap_or(0);
        ctx.output(format!("{} {} ask {run} {value} {unit:?} {none:?} {refused} {stumbled} {last}", ask.key, ask.n));
        Ok(())
    });
    agent.on_input_async("tell", async move |ask: &Ask, ctx| {
        if ask.key == TICK {
            return Ok(());
        }
        let value = ctx.durable("tell", ask.clone(), async |ask| make(&ask, "tell")).await?;
        enter(ask, false, "told")?;
        ctx.output(format!("{} {} tell {value}", ask.key, ask.n));
        Ok(())
    });
    agent.on_async("hear", async move |Told { ask, what }: &Told, ctx| {
        let args = (ask.clone(), what.clone());
        let value = ctx.durable("hear", args, async |(ask, what)| make(&ask, &what)).await?;
        let count = ctx.update(told, |told| {
            *told += 1;
            *told
        });
        enter(ask, false, &format!("heard {what}"))?;
        ctx.output(format!("{} {} hear {what} {count} {value}", ask.key, ask.n));
        Ok(())
    });
    agent.build().map_err(|errors| Failure::usage(errors.to_string()))
}

fn asks() -> impl Iterator<Item = (u64, Ask)> {
    let asks = (0..2 * KEYS).map(|i| (0, Ask { key: i % KEYS, n: i / KEYS }));
    let mut asks: Vec<_> = asks.chain((1..=TICKS).map(|epoch| (epoch, Ask { key: TICK, n: epoch }))).collect();
    if programs::variant("CRASH_REVERSED").is_some() {
        asks[..2 * KEYS as usize].reverse();
    }
    asks.into_iter()
}

pub(crate) fn program() -> Result<(), Failure> {
    let arguments = programs::arguments("defects")?;
    let (out, checkpoints) = programs::opened(&arguments)?;
    let plan = plan()?;
    // Only where something hangs time has to pass, and inputs must not be over before it is looked at.
    let rate = programs::variant("CRASH_HANGS").map(|_| 50.0);
    execute_with(arguments.config(), checkpoints, move |worker, job| {
        worker.dataflow::<u64, _, _>(|scope| {
            let asks = job.source_with(scope, "asks", Records::from(asks()), |source| source.rate = rate)?;
            asks.agent(|ask| &ask.key, &plan).sink(job, "lines", JsonLines::parts(format!("{out}/lines")))?;
            Ok(())
        })
    })
    .map(drop)
}

/// The job and its ledger.
struct Asking {
    job: Job,
    ledger: String,
    life: u64,
}

/// What a run asks for, besides what it hangs in.
const BEFORE: [&str; 7] = ["value", "unit", "none", "refuse", "stumble", "tell", "early"];

impl Asking {
    fn new(variants: &[&str]) -> Self {
        let mut job = Job::new(variants.iter().fold(Launch::own("defects"), |launch, name| launch.with(name, "1")));
        job.option("--out", &job.path("out"));
        let ledger = job.path("ledger");
        job.launch = job.launch.with("CRASH_LEDGER", ledger.clone());
        Asking { job, ledger, life: 0 }
    }

    /// The next life, varied.
    fn start(&mut self, shape: Shape, variants: &[(&str, &str)]) -> Cluster {
        self.life += 1;
        let life = self.life.to_string();
        self.job.start_with(shape, |_, command| {
            command.env("CRASH_LIFE", &life).envs(variants.iter().copied());
        })
    }

    fn entries(&self) -> Vec<Entry> {
        ledger::read(&self.ledger)
    }

    /// The calls that a life has made, in the order of the alphabet.
    fn made(&self, life: u64) -> Vec<(u64, u64, String)> {
        let of_it = self.entries().into_iter().filter(|entry| entry.made && entry.life == life);
        let mut made: Vec<_> = of_it.map(|entry| (entry.key, entry.n, entry.what)).collect();
        made.sort_unstable();
        made
    }

    /// How often something other than a call came to pass in a life.
    fn passed(&self, life: u64, n: u64, what: &str) -> usize {
        let of_it = |entry: &&Entry| !entry.made && (entry.life, entry.n, &*entry.what) == (life, n, what);
        self.entries().iter().filter(of_it).count()
    }

    /// A life that is killed when the first run of each key hangs, and all else that can be done is done.
    fn hangs(&mut self) -> Cluster {
        let mut cluster = self.start(TWO_WORKERS, &[("CRASH_HANGS", "1")]);
        wait_for("the first runs to hang", || {
            assert!(!cluster.has_ended());
            let hanging = self.entries().iter().filter(|entry| entry.what == "hang").count() as u64;
            let done = ["told", "heard early"].map(|what| self.passed(self.life, 0, what) as u64);
            hanging == KEYS && done == [KEYS; 2]
        });
        let all = expected(0..1, &[&BEFORE[..], &["hang"]].concat());
        assert_eq!(self.made(self.life), all, "each call once");
        cluster
    }

    /// All lines that were published, each once.
    fn lines(&self) -> BTreeSet<String> {
        let lines: Vec<String> = self.job.parts("out/lines").into_iter().map(|(_, line)| line).collect();
        let set: BTreeSet<String> = lines.iter().map(|line| line.trim_matches('"').to_owned()).collect();
        assert_eq!(set.len(), lines.len(), "once: {lines:#?}");
        set
    }

    /// All has come out that must: what calls gave is of the life in which they were made for the last time, which a
    /// reconciler does not make them.
    fn assert_complete(&self) {
        assert_eq!(committed(&self.job), Committed::All);
        let mut last = BTreeMap::<(u64, u64, String), u64>::new();
        for entry in self.entries().into_iter().filter(|entry| entry.made) {
            last.insert((entry.key, entry.n, entry.what), entry.life);
        }
        let mut lines = BTreeSet::new();
        for (key, n) in (0..KEYS).flat_map(|key| [(key, 0), (key, 1)]) {
            let of = |what: &str| last[&(key, n, what.to_owned())];
            let (value, refused, stumbled, hung) = (of("value"), of("refuse"), of("stumble"), of("hang"));
            let run = n + 1;
            lines.insert(format!("{key} {n} ask {run} {value} () None busy since {refused} {stumbled} {hung}"));
            lines.insert(format!("{key} {n} tell {}", of("tell")));
            lines.insert(format!("{key} {n} hear early {} {}", 2 * n + 1, of("early")));
            lines.insert(format!("{key} {n} hear late {} {}", 2 * n + 2, of("late")));
        }
        assert_eq!(self.lines(), lines);
    }
}

/// These calls of the runs of all keys, in the order of the alphabet.
fn expected(runs: std::ops::Range<u64>, names: &[&str]) -> Vec<(u64, u64, String)> {
    let runs = (0..KEYS).flat_map(|key| runs.clone().map(move |n| (key, n)));
    let of_run = |(key, n)| names.iter().map(move |name| (key, n, (*name).to_owned()));
    let mut all: Vec<_> = runs.flat_map(of_run).collect();
    all.sort_unstable();
    all
}

/// What the life after a kill has to ask for: the rest of the first runs, and all of the second ones.
fn rest(first: &[&str]) -> Vec<(u64, u64, String)> {
    let mut all = expected(0..1, first);
    all.extend(expected(1..2, &[&BEFORE[..], &["hang", "late"]].concat()));
    all.sort_unstable();
    all
}

/// W3, W5, W10, W11, W14.
#[test]
fn results_of_all_kinds_keys_and_actions_are_found_by_the_next_process() {
    let mut job = Asking::new(&[]);
    job.hangs().kill();
    assert_eq!((committed(&job.job), job.job.published("out/lines")), (Committed::Nothing, 0), "nothing is out");
    job.start(ONE, &[]).assert_success("after the kill");
    assert_eq!(job.made(2), rest(&["hang", "late"]), "what was in doubt, and what comes after it");
    // Actions start from their beginning, and go through what they did.
    for what in ["begins", "told", "heard early", "heard late"] {
        assert_eq!(job.passed(2, 0, what) as u64, KEYS, "{what}");
    }
    job.assert_complete();
}

/// Invariants 23 and 26: what a commit has of an action that is over is not done again.
#[test]
fn action_that_was_over_at_a_commit_is_not_run_again() {
    let mut job = Asking::new(&["CRASH_CARRY"]);
    let mut cluster = job.hangs();
    let before = committed(&job.job).frontier();
    wait_for("a commit of all that is done", || {
        assert!(!cluster.has_ended());
        // A commit is there before its outputs are, and on a busy machine the first one before all is done.
        committed(&job.job).frontier() > before.map(|epoch| epoch + 2) && job.lines().len() as u64 >= 2 * KEYS
    });
    cluster.kill();
    job.start(ONE, &[]).assert_success("after the kill");
    assert_eq!(job.made(2), rest(&["hang", "late"]));
    for (what, times) in [("begins", KEYS), ("told", 0), ("heard early", 0), ("heard late", KEYS)] {
        assert_eq!(job.passed(2, 0, what) as u64, times, "{what}");
    }
    job.assert_complete();
}

/// Invariant 25.
#[test]
fn call_in_flight_is_made_again_unless_a_reconciler_finds_it() {
    for carry in [&["CRASH_RECONCILE"][..], &["CRASH_RECONCILE", "CRASH_CARRY"]] {
        let mut job = Asking::new(carry);
        job.hangs().kill();
        job.start(ONE, &[]).assert_success("after the kill");
        assert_eq!(job.made(2), rest(&["late"]), "{carry:?}");
        job.assert_complete();
    }
}

/// Invariant 28.
#[test]
fn runs_keep_their_inputs_when_these_come_in_another_order() {
    let mut job = Asking::new(&[]);
    job.hangs().kill();
    job.start(TWO_WORKERS, &[("CRASH_REVERSED", "1")]).assert_success("after the kill");
    assert_eq!(job.made(2), rest(&["hang", "late"]));
    job.assert_complete();
}

/// W13.
#[test]
fn recorded_failure_that_nobody_handles_is_asked_for_again_at_each_start() {
    for variants in [&[][..], &["CRASH_CARRY"]] {
        let mut job = Asking::new(variants);
        let fails = [("CRASH_FAILS", "3")];
        for life in 1..=3 {
            let outcome = job.start(ONE, &fails).finish().remove(0);
            outcome.assert_failed(&[&format!("busy since {life}")]);
            let made = job.made(life);
            let of_it = |what: &str| made.iter().filter(|(key, n, of)| (*key, *n, &**of) == (0, 0, what)).count();
            assert_eq!(of_it("stumble"), 1, "{variants:?}, life {life}");
            assert_eq!(of_it("value"), usize::from(life == 1), "{variants:?}, life {life}: what had a result keeps it");
        }
        job.start(ONE, &fails).assert_success("when it does not fail any more");
        job.assert_complete();
    }
}

/// W13 under Carry: the next attempt is committed, and does not go back to the failure.
#[test]
fn attempt_after_a_recorded_failure_is_carried() {
    let mut job = Asking::new(&["CRASH_CARRY"]);
    let fails = ("CRASH_FAILS", "1");
    let hangs = [("CRASH_HANGS", "1"), fails];
    job.start(ONE, &hangs).finish().remove(0).assert_failed(&["busy since 1"]);
    let mut cluster = job.start(ONE, &hangs);
    wait_for("the first runs to hang", || {
        assert!(!cluster.has_ended());
        job.entries().iter().filter(|entry| entry.life == 2 && entry.what == "hang").count() as u64 == KEYS
    });
    let before = committed(&job.job).frontier();
    wait_for("commits", || {
        assert!(!cluster.has_ended());
        committed(&job.job).frontier() > before.map(|epoch| epoch + 2)
    });
    cluster.kill();
    job.start(TWO_WORKERS, &[fails]).assert_success("after the kill");
    assert_eq!(job.made(3), rest(&["hang", "late"]));
    job.assert_complete();
}

/// W15.
#[test]
fn call_with_other_arguments_is_found_out_by_the_next_process() {
    for variants in [&[][..], &["CRASH_CARRY"]] {
        let mut job = Asking::new(variants);
        job.hangs().kill();
        let outcome = job.start(ONE, &[("CRASH_CHANGED", "1")]).finish().remove(0);
        outcome.assert_failed(&["it was call \"value\" with arguments", "same", "other", "number 2"]);
        assert_eq!(outcome.stderr.matches("arguments of digest").count(), 2, "both: {}", outcome.stderr);
        assert_eq!(job.made(2), [], "{variants:?}: nothing is called");
        job.start(ONE, &[]).assert_success("with the arguments that it had");
        job.assert_complete();
    }
}

/// W15, of a call that was under way: where its start is noted, as for a reconciler.
#[test]
fn other_arguments_of_a_call_in_doubt_are_found_out_by_the_next_process() {
    let doubted = ("CRASH_DOUBTED", "1");
    for variants in [&["CRASH_RECONCILE"][..], &["CRASH_RECONCILE", "CRASH_CARRY"]] {
        let mut job = Asking::new(variants);
        job.hangs().kill();
        let outcome = job.start(ONE, &[doubted]).finish().remove(0);
        outcome.assert_failed(&["action \"ask\", wait 5: it was call \"hang\" with arguments", "number 1"]);
        assert_eq!(outcome.stderr.matches("arguments of digest").count(), 2, "both: {}", outcome.stderr);
        let hung = job.made(2).into_iter().filter(|(_, n, what)| (*n, &**what) == (0, "hang")).count();
        assert_eq!(hung, 0, "{variants:?}: it is not made, and its ledger is not asked");
        job.start(ONE, &[]).assert_success("with the arguments that it had");
        assert!(!job.made(3).iter().any(|(_, n, what)| (*n, &**what) == (0, "hang")), "{variants:?}: it is found");
        job.assert_complete();
    }
    // A lenient run makes it anew, and does not ask what has become of it; without a reconciler nothing is noted that differs.
    for variants in [&["CRASH_RECONCILE", "CRASH_LENIENT"][..], &[]] {
        let mut job = Asking::new(variants);
        job.hangs().kill();
        job.start(ONE, &[doubted]).assert_success("with other arguments");
        let hung: Vec<_> = job.made(2).into_iter().filter(|(_, _, what)| what == "hang").collect();
        assert_eq!(hung, expected(0..2, &["hang"]), "{variants:?}");
        job.assert_complete();
    }
}
