//! An agent that carries: its runs take longer than epochs, and outlive the process in the middle.
//!
//! Each run has a first task that puts out, flushes, sleeps and asks, then two tasks that go on side by side, of which one
//! fails at first; every fifth run asks for a notification. Runs wait behind each other.
//!
//! # What is checked
//! - Every output of every input, once; what was flushed before a kill is not put out again after it.
//! - Draws, clock and memory are those of a run without a crash; outputs of a key do not go back in epochs.
//! - Commits do not wait for a slow run.

use std::collections::BTreeMap;
use std::time::{Duration, UNIX_EPOCH};

use serde::{Deserialize, Serialize};
use timely_agents::cluster::Failure;
use timely_agents::prelude::*;
use timely_agents::{Plan, execute_with};

use crate::flights::{Committed, committed};
use crate::matrix::{Subject, every_point, some_points};
use crate::process::{Job, Launch, ONE, Random, SHAPES, TWO_WORKERS, list, number, pass, wait_for, workers};
use crate::programs;

const KEYS: u64 = 12;
const EPOCHS: u64 = 40;

#[derive(Clone, Debug, Serialize, Deserialize)]
struct Ask {
    key: u64,
    /// The place among the inputs of the key, from 1.
    n: u64,
}

#[derive(Clone, Serialize, Deserialize)]
struct Work {
    ask: Ask,
}

impl Event for Work {
    const NAME: &'static str = "work";
}

#[derive(Clone, Debug, Serialize, Deserialize)]
struct Line {
    key: u64,
    n: u64,
    what: String,
    value: u64,
}

/// What every run puts out, in order; the two last may change places, and the end comes with the later one.
const STAGES: [&str; 4] = ["begin", "draw", "woken", "answer"];
const SIDES: [&str; 3] = ["left", "right", "end"];

/// A number that depends on nothing else.
fn scrambled(key: u64, n: u64, salt: u64) -> u64 {
    Random(key << 40 | n << 8 | salt).next() % 1_000
}

/// Half of the keys in each epoch, some twice.
fn asks() -> Vec<(u64, Ask)> {
    let mut counts = BTreeMap::<u64, u64>::new();
    let mut asks = Vec::new();
    for epoch in 0..EPOCHS {
        for i in 0..=KEYS / 2 {
            let key = (epoch * 5 + i * 7) % KEYS;
            let n = counts.entry(key).or_default();
            *n += 1;
            asks.push((epoch, Ask { key, n: *n }));
        }
    }
    asks
}

fn line(ask: &Ask, what: &str, value: u64) -> Line {
    Line { key: ask.key, n: ask.n, what: what.to_owned(), value }
}

async fn answer((key, n, salt, latency): (u64, u64, u64, u64)) -> u64 {
    tokio::time::sleep(Duration::from_millis(latency)).await;
    if let Some(folder) = programs::variant("CRASH_SLOW").filter(|_| (key, n, salt) == (0, 1, 2)) {
        // The last epochs stay open while this waits.
        let until = (published(&folder) + SLOW_EPOCHS).min(EPOCHS - 8);
        while published(&folder) < until {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    }
    match (programs::variant("CRASH_HANGS").as_deref(), key, n, salt) {
        (Some("ask"), 0, 1, 2) | (Some("left"), _, 7, 3) => std::future::pending().await,
        _ => scrambled(key, n, salt),
    }
}

/// Epochs that are published while the slow run waits for its answer.
const SLOW_EPOCHS: u64 = 12;

/// The last epoch that has a part in a folder.
fn published(folder: &str) -> u64 {
    let epoch = |name: String| name.split('-').nth(1)?.parse().ok();
    list(folder).into_iter().filter(|name| !name.starts_with('.')).filter_map(epoch).max().unwrap_or(0)
}

fn plan() -> Result<Plan<Ask, Line>, Failure> {
    let mut agent = Agent::<Ask, Line>::new("carrier");
    agent.carry();
    let (seen, total, asked) =
        (agent.memory::<u64>("seen"), agent.memory::<u64>("total"), agent.memory::<u64>("asked"));
    let done = agent.sensory::<u32>("done");
    agent.on_input_async("begin", async move |ask: &Ask, ctx| {
        let count = ctx.update(seen, |seen| {
            *seen += 1;
            *seen
        });
        let now = ctx.now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_micros() as u64);
        let draw = ctx.random() ^ now;
        ctx.output(line(ask, "begin", count));
        ctx.output(line(ask, "draw", draw));
        ctx.flush().await;
        ctx.sleep(Duration::from_millis(1 + scrambled(ask.key, ask.n, 1) % 6)).await;
        ctx.output(line(ask, "woken", draw));
        // One run that is far slower than all others.
        let latency = if (ask.key, ask.n) == (0, 1) { 150 } else { scrambled(ask.key, ask.n, 9) % 8 };
        let found = ctx.durable("ask", (ask.key, ask.n, 2, latency), answer).await?;
        ctx.send(Work { ask: ask.clone() });
        ctx.output(line(ask, "answer", found));
        if ask.n.is_multiple_of(5) {
            ctx.update(asked, |asked| *asked += 1);
            ctx.notify_at(ctx.epoch()).map_err(|error| timely_agents::Error::new(error.to_string()))?;
        }
        Ok(())
    });
    let ends = move |ask: &Ask, ctx: &Ctx<Line>| {
        let both = ctx.update(done, |done| {
            *done += 1;
            *done == 2
        });
        if both {
            ctx.output(line(ask, "end", ctx.get(total).unwrap_or(0)));
        }
    };
    agent.on_async("left", async move |work: &Work, ctx| {
        let ask = &work.ask;
        let found = ctx.durable("left", (ask.key, ask.n, 3, scrambled(ask.key, ask.n, 5) % 10), answer).await?;
        ctx.update(total, |total| *total += found);
        ctx.output(line(ask, "left", found));
        ends(ask, ctx);
        Ok(())
    });
    let again = Retry::new(3).backoff(Duration::from_millis(3));
    agent
        .on_async("right", async move |work: &Work, ctx| {
            let ask = &work.ask;
            let question = (ask.key, ask.n, 4, scrambled(ask.key, ask.n, 6) % 10);
            let found = ctx.call("right", move || answer(question)).await?;
            if ask.n.is_multiple_of(7) && ctx.attempt() == 1 {
                return Err(timely_agents::Error::new("not at first"));
            }
            ctx.update(total, |total| *total += found);
            ctx.output(line(ask, "right", found));
            ctx.flush().await;
            ctx.sleep(Duration::from_millis(scrambled(ask.key, ask.n, 7) % 5)).await;
            ends(ask, ctx);
            Ok(())
        })
        .on_failure(again);
    agent.on_notify("settle", move |_, ctx| {
        let count = ctx.take(asked).unwrap_or(0);
        let key = ctx.key::<u64>()?;
        ctx.output(Line { key, n: 0, what: "settled".to_owned(), value: count });
        Ok(())
    });
    agent.build().map_err(|errors| Failure::usage(errors.to_string()))
}

pub(crate) fn program() -> Result<(), Failure> {
    let arguments = programs::arguments("carry")?;
    let (out, checkpoints) = programs::opened(&arguments)?;
    let plan = plan()?;
    let rate = programs::variant("CRASH_RATE").map_or(Some(700.0), |rate| rate.parse().ok());
    execute_with(arguments.config(), checkpoints, move |worker, job| {
        worker.dataflow::<u64, _, _>(|scope| {
            let asks = timely_agents::Records::from(asks());
            let asks = job.source_with(scope, "asks", asks, |source| {
                source.rate = rate;
                // Commits come one after the other on a slow disk, too.
                source.open_epochs = Some(4);
            })?;
            asks.agent(|ask| &ask.key, &plan).sink(job, "lines", JsonLines::parts(format!("{out}/lines")))?;
            Ok(())
        })
    })
    .map(drop)
}

fn job() -> Job {
    let mut job = Job::new(Launch::own("carry"));
    job.option("--out", &job.path("out"));
    job
}

/// Calls hang, and inputs come slowly: what runs do until then, they do before the last epochs, which stay open.
fn hanging(launch: Launch, calls: &str) -> Launch {
    launch.with("CRASH_HANGS", calls).with("CRASH_RATE", "50")
}

/// Every call is answered again.
fn answering(mut launch: Launch) -> Launch {
    launch.env.retain(|(name, _)| name != "CRASH_HANGS" && name != "CRASH_RATE");
    launch
}

fn lines(job: &Job) -> Vec<(u64, Line)> {
    let parse = |text: &str| serde_json::from_str(text).unwrap_or_else(|error| panic!("{text}: {error}"));
    job.parts("out/lines").iter().map(|(epoch, text)| (*epoch, parse(text))).collect()
}

fn assert_complete(job: &Job, what: &str) {
    let lines = lines(job);
    let mut settled = BTreeMap::<u64, u64>::new();
    let mut runs = BTreeMap::<(u64, u64), BTreeMap<String, (u64, u64)>>::new();
    for (epoch, line) in &lines {
        if line.what == "settled" {
            *settled.entry(line.key).or_default() += line.value;
            continue;
        }
        let twice = runs.entry((line.key, line.n)).or_default().insert(line.what.clone(), (*epoch, line.value));
        if twice.is_some() {
            let of_run = |(_, other): &&(u64, Line)| (other.key, other.n) == (line.key, line.n);
            let all: Vec<_> = lines.iter().filter(of_run).collect();
            panic!("{what}: twice: {line:?}, of {all:#?}");
        }
    }
    let (mut totals, mut last) = (BTreeMap::<u64, u64>::new(), BTreeMap::<u64, u64>::new());
    let asks = asks();
    for (arrived, ask) in &asks {
        let run = runs.get(&(ask.key, ask.n)).unwrap_or_else(|| panic!("{what}: nothing came of {ask:?}"));
        let names: Vec<&str> = run.keys().map(String::as_str).collect();
        let mut expected = [&STAGES[..], &SIDES].concat();
        expected.sort_unstable();
        assert_eq!(names, expected, "{what}: {ask:?}");
        let value = |name: &str| run[name].1;
        assert_eq!(value("begin"), ask.n, "{what}: memory, {ask:?}");
        assert_eq!(value("woken"), value("draw"), "{what}: random numbers and clock, {ask:?}");
        let total = totals.entry(ask.key).or_default();
        for (name, salt) in [("answer", 2), ("left", 3), ("right", 4)] {
            assert_eq!(value(name), scrambled(ask.key, ask.n, salt), "{what}: {name} of {ask:?}");
        }
        *total += value("left") + value("right");
        assert_eq!(value("end"), *total, "{what}: memory at the end of {ask:?}");
        // In order, within the run and from run to run.
        let mut at = last.get(&ask.key).copied().unwrap_or(0).max(*arrived);
        for name in STAGES.iter().chain(&["end"]) {
            assert!(run[*name].0 >= at, "{what}: {name} of {ask:?} is at {}, after {at}", run[*name].0);
            at = run[*name].0;
        }
        last.insert(ask.key, at);
    }
    assert_eq!(runs.len(), asks.len(), "{what}: of some inputs that never were");
    for (key, n) in totals.keys().map(|key| (key, asks.iter().filter(|(_, ask)| ask.key == *key).count() as u64)) {
        assert_eq!(settled.get(key).copied().unwrap_or(0), n / 5, "{what}: notifications of {key}");
    }
    assert_eq!(committed(job), Committed::All, "{what}");
}

fn subject() -> Subject {
    Subject {
        name: "carry",
        job: Box::new(job),
        assert_complete: Box::new(assert_complete),
        without: &["sink.publish.apply", "sink.publish.unlink"],
    }
}

#[test]
fn carried_runs_put_out_once_on_any_number_of_workers() {
    for shape in SHAPES {
        let mut job = job();
        let folder = job.path("out/lines");
        job.launch = job.launch.with("CRASH_SLOW", folder).with("CRASH_RATE", "100");
        job.start(shape).assert_success("without a crash");
        assert_complete(&job, "without a crash");
        let lines = lines(&job);
        let epoch = |what: &str| lines.iter().find(|(_, line)| (line.key, line.n, &*line.what) == (0, 1, what));
        let (begin, end) = (epoch("begin").map_or(0, |(epoch, _)| *epoch), epoch("end").map_or(0, |(epoch, _)| *epoch));
        assert!(end >= begin + 5, "the slow run went from epoch {begin} to {end}");
    }
}

#[test]
fn commits_do_not_wait_for_a_run_that_is_carried() {
    let mut job = job();
    job.launch = hanging(job.launch, "ask");
    let mut cluster = job.start(TWO_WORKERS);
    // Of a commit of several epochs there is one part.
    wait_for("commits", || cluster.has_ended() || committed(&job).frontier() > Some(20));
    let lines = lines(&job);
    assert!(lines.iter().any(|(_, line)| (line.key, line.n) == (0, 1)), "the slow run has begun");
    assert!(!lines.iter().any(|(_, line)| (line.key, line.n, &*line.what) == (0, 1, "answer")), "and is not over");
    // Its call is made again after a restart, and this time it is answered.
    cluster.kill();
    job.launch = answering(job.launch);
    job.start(ONE).assert_success("with an answer");
    assert_complete(&job, "with an answer");
}

#[test]
fn an_attempt_that_is_over_is_not_made_again() {
    let mut job = job();
    // The seventh run of a key has a task that fails at first; the other one keeps the run from its end.
    job.launch = hanging(job.launch, "left");
    let mut cluster = job.start(ONE);
    let seventh = |what: &str| lines(&job).iter().filter(|(_, line)| line.n == 7 && line.what == what).count();
    wait_for("second attempts", || cluster.has_ended() || seventh("right") >= 3);
    // The last epoch stays open: all keys come to hang.
    let enough = committed(&job).frontier().map(|epoch| (epoch + 4).min(EPOCHS - 1));
    wait_for("commits", || cluster.has_ended() || committed(&job).frontier() >= enough);
    assert_eq!(seventh("end"), 0);
    cluster.kill();
    job.launch = answering(job.launch);
    job.start(TWO_WORKERS).assert_success("after the kill");
    assert_complete(&job, "after the kill");
}

#[test]
fn carried_runs_survive_random_kills() {
    random_kills(number("CRASH_KILLS", 10), number("CRASH_SEED", 1));
}

fn random_kills(kills: u64, seed: u64) {
    let mut random = Random(seed);
    let (mut killed, mut unfinished) = (0, 0);
    // Those that find nothing begun test little: so many must find something.
    let enough = kills / 2 + 1;
    while killed < kills || unfinished < enough {
        assert!(killed < 10 * kills, "{unfinished} of {killed} kills met a run that was committed and not over");
        let job = job();
        let what = format!("seed {seed}, after {killed} kills");
        loop {
            let shape = SHAPES[random.below(3) as usize];
            let mut cluster = job.start(shape);
            let before = job.published("out/lines");
            if random.below(4) > 0 {
                wait_for("a commit", || cluster.has_ended() || job.published("out/lines") > before);
            }
            pass(Duration::from_micros(random.below(250_000)));
            if cluster.has_ended() {
                cluster.assert_success(&what);
                break;
            }
            cluster.kill();
            killed += 1;
            let lines = lines(&job);
            let count = |what: &str| lines.iter().filter(|(_, line)| line.what == what).count();
            unfinished += u64::from(count("begin") > count("end"));
            println!(
                "kill {killed} {shape:?}: committed: {:?}, {} runs begun and not over",
                committed(&job),
                count("begin") - count("end")
            );
            if random.below(4) == 0 {
                job.start(workers(1 + random.below(3) as usize)).assert_success(&what);
                break;
            }
        }
        assert_complete(&job, &what);
    }
    println!("kills: {killed}, of them {unfinished} with runs committed and not over");
}

#[test]
fn a_kill_at_any_step_changes_nothing_for_carried_runs() {
    some_points(&subject(), 7);
}

#[test]
#[ignore = "some minutes; scripts/soak"]
fn every_kill_in_every_shape_changes_nothing_for_carried_runs() {
    every_point(&subject());
}
