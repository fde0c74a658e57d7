//! Journals of runs: of one that is not over, of those that are and are retained, and of those that are not; runs that are
//! not over against other programs.

use std::collections::BTreeMap;
use std::fs;
use std::future::pending;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::mpsc::{Sender, channel};
use std::thread;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tempfile::TempDir;
use timely_agents::cluster::{ClusterConfig, Failure, FailureKind};
use timely_agents::inspect::{self, Difference, State};
use timely_agents::prelude::*;
use timely_agents::{Plan, Program, execute_with};
use timely_agents_operators::checkpoint::{Checkpoints, DirStore};
use timely_agents_operators::cluster::Control;

use crate::support::{self, checkpoint, eventually, files, run};

type Order = (String, u32);

#[derive(Serialize, Deserialize)]
struct Priced {
    price: u32,
}

impl Event for Priced {
    const NAME: &'static str = "priced";
}

#[derive(Clone, Serialize, Deserialize)]
struct Approval {
    by: String,
}

impl Event for Approval {
    const NAME: &'static str = "approval";
}

/// Asks for a price twice, hands it on, and asks a person, or, where it does not carry, an oracle that is `slow` to answer;
/// orders of nothing ask for nothing.
fn plan(carry: bool, slow: bool) -> Plan<Order, u32> {
    plan_of(carry, slow, "an order", "approval")
}

/// The same with other words for what is to be described; it asks a clerk before the person, if that is who decides.
fn plan_of(carry: bool, slow: bool, what: &'static str, decides: &'static str) -> Plan<Order, u32> {
    let mut agent = Agent::<Order, u32>::new("orders");
    if carry {
        agent.carry();
        agent.waits_for::<Approval>("approval");
    }
    agent.on_input_async("take", async move |(_, amount): &Order, ctx| {
        if *amount == 0 {
            return Ok(());
        }
        let price =
            ctx.durable_with("price", *amount, async |amount: u32, call: CallInfo| {
                if call.attempt() == 1 { Err("busy".to_owned()) } else { Ok(amount * 2) }
            })
            .retry(Retry::new(3).backoff(Duration::from_millis(20)))
            .classify(|given| match given {
                Ok(Ok(_)) => Outcome::Terminal,
                _ => Outcome::Retryable,
            })
            .await?;
        ctx.send(Priced { price: price.map_err(timely_agents::Error::new)? });
        ctx.flush().await;
        let text = ctx.durable("describe", (what, *amount), async |(text, _)| format!("{text} of shop")).await?;
        if decides == "clerk" {
            ctx.durable("clerk", (), async |()| ()).await?;
        }
        if carry {
            ctx.wait_for::<Approval>("approval").await?;
        } else {
            let answer = async move |()| {
                if slow {
                    pending::<()>().await;
                }
            };
            ctx.durable("oracle", (), answer).timeout(Duration::from_hours(1)).await?;
        }
        ctx.output(text.len() as u32);
        Ok(())
    });
    agent.on_async("ship", async |priced: &Priced, ctx| {
        ctx.sleep(Duration::from_millis(5)).await;
        ctx.durable("carrier", priced.price, async |_| ()).await?;
        Ok(())
    });
    agent.build().expect("a valid agent")
}

/// Runs orders of shop `a`, one for each amount, and then an endless number of others, until it is stopped.
fn job(dir: &Path, (carry, slow): (bool, bool), retain: u64, amounts: &[u32], tell: Sender<Control>) {
    let plan = plan(carry, slow);
    let checkpoints = Checkpoints::dir(dir).expect("a directory").retain_journals(retain);
    let amounts = amounts.to_vec();
    let tell = Mutex::new(tell);
    let outcome = execute_with(&ClusterConfig::single(1), Some(checkpoints), move |worker, job| {
        tell.lock().expect("a lock").send(job.control().clone()).expect("the test waits");
        let amounts = amounts.clone();
        worker.dataflow::<u64, _, _>(|scope| {
            let orders = amounts.into_iter().enumerate().map(|(n, amount)| (n as u64, ("a".to_owned(), amount)));
            let more = (1000u64..).map(|n| (n / 2, ("z".to_owned(), 0)));
            let orders = job.source_with(scope, "orders", Records::from(orders.chain(more)), |source| {
                source.open_epochs = Some(2);
            })?;
            let approval = |key: &str| Signal::new(key.to_owned(), "approval", &Approval { by: "Ada".to_owned() });
            let more = (6u64..).map(move |n| (n / 2, approval("y")));
            let signals = (0..3).take_while(move |_| !slow).map(move |n| (n, approval("a"))).chain(more);
            let signals = job.source(scope, "approvals", Records::from(signals))?;
            if carry {
                orders.agent_with_signals(|(shop, _)| shop, signals, &plan);
            } else {
                orders.agent(|(shop, _)| shop, &plan);
            }
            Ok(())
        })
    })
    .map(drop);
    let failure = outcome.expect_err("it is stopped");
    assert_eq!(failure.kind(), FailureKind::Stopped, "{failure}");
}

/// Runs a job until something is found while it is at work.
fn at_work<R>(dir: &Path, form: (bool, bool), retain: u64, amounts: &[u32], found: impl FnMut() -> Option<R>) -> R {
    thread::scope(|threads| {
        let (tell, told) = channel();
        threads.spawn(|| job(dir, form, retain, amounts, tell));
        let _stop = Stop(told.recv().expect("the job starts"));
        eventually("what a job at work is to show", found)
    })
}

/// Runs orders until all kept checkpoints have them and, where journals are retained, the ends of their runs; what was
/// there then.
fn finished(dir: &Path, carry: bool, retain: u64, amounts: &[u32]) -> TempDir {
    let before = oldest(dir).unwrap_or(0);
    let is_over = || {
        let oldest = oldest(dir).filter(|epoch| *epoch > before + 510)?;
        if retain > 0 {
            let outcome = journal(dir, &["--json"]);
            let newest: Value = serde_json::from_str(&outcome.stdout).ok()?;
            let ended = newest["epoch"].as_u64().filter(|_| newest["state"] == "over")?;
            return (newest["sequence"] == amounts.len() && ended < oldest).then_some(());
        }
        Some(())
    };
    at_work(dir, (carry, false), retain, amounts, is_over);
    still(dir)
}

/// The last epoch of the oldest checkpoint.
fn oldest(dir: &Path) -> Option<u64> {
    let listed = dir.join("chain").exists().then(|| checkpoint("list", dir, &[]).stdout)?;
    listed.lines().next()?.split_whitespace().nth(1)?.parse().ok()
}

/// A copy that nobody holds: of a job that was stopped in this process something goes on for a while. What is copied is
/// whole once nothing has changed meanwhile.
pub(crate) fn still(dir: &Path) -> TempDir {
    eventually("a directory in which nothing goes on", || {
        let before = names(dir);
        let place = copied(dir);
        (names(dir) == before).then_some(place)
    })
}

/// All files in a directory of checkpoints, and how long they are.
fn names(dir: &Path) -> BTreeMap<PathBuf, u64> {
    let folders = fs::read_dir(dir).into_iter().flatten().map(|folder| folder.expect("an entry").path());
    let files = folders.flat_map(|folder| fs::read_dir(folder).into_iter().flatten());
    // What is being removed may be gone.
    let files = files.filter_map(|file| file.and_then(|file| Ok((file.path(), file.metadata()?.len()))).ok());
    files.collect()
}

fn copied(dir: &Path) -> TempDir {
    let place = tempfile::tempdir().expect("a directory");
    for folder in ["aside", "base", "chain", "log"] {
        fs::create_dir_all(place.path().join(folder)).expect("a folder");
        for entry in fs::read_dir(dir.join(folder)).into_iter().flatten() {
            let path = entry.expect("an entry").path();
            // What it has begun to remove may be gone.
            if let Ok(bytes) = fs::read(&path) {
                let name = path.file_name().expect("a name");
                fs::write(place.path().join(folder).join(name), bytes).expect("a file");
            }
        }
    }
    place
}

struct Stop(Control);

impl Drop for Stop {
    fn drop(&mut self) {
        self.0.fail(Failure::stopped("enough"));
    }
}

fn journal(dir: &Path, more: &[&str]) -> support::Outcome {
    let dir = dir.to_str().expect("UTF-8");
    run(&[&["run", dir, "--agent", "orders", "--key", "a"], more].concat())
}

fn parsed(dir: &Path, more: &[&str]) -> Value {
    let outcome = journal(dir, &[&["--json"], more].concat());
    outcome.lines();
    serde_json::from_str(&outcome.stdout).expect("JSON")
}

/// The calls of a task by name, of its last attempt.
fn call<'a>(task: &'a Value, name: &str) -> &'a Value {
    let waits = task["attempts"][0]["waits"].as_array().expect("waits");
    waits.iter().find(|wait| wait["name"] == name).unwrap_or_else(|| panic!("no {name}: {task:#}"))
}

fn check_calls(take: &Value) {
    let price = call(take, "price");
    assert_eq!((&price["kind"], &price["wait"]), (&json!("call"), &json!(0)), "{take:#}");
    assert!(price["digest"].as_str().is_some_and(|digest| digest.len() == 16), "{take:#}");
    let tries = price["tries"].as_array().expect("tries");
    assert_eq!(tries.len(), 3, "an attempt, a pause, an attempt: {take:#}");
    assert_eq!((&tries[0]["result"]["text"], &tries[1]["pause"]), (&json!("busy"), &json!(true)), "{take:#}");
    assert!(tries[1]["took"].as_u64().is_some_and(|took| took >= 20_000), "{take:#}");
    assert_eq!(tries[2]["attempt"], 2);
    assert_eq!(tries[2]["result"]["bytes"], json!("0x000e"), "{take:#}");
    assert_eq!(call(take, "describe")["tries"][0]["result"]["text"], json!("an order of shop"), "{take:#}");
    let ship = &take["tasks"][0];
    assert_eq!(ship["action"], "ship", "{take:#}");
    assert_eq!(call(ship, "carrier")["tries"][0]["result"]["length"], 0, "{take:#}");
    let waits = ship["attempts"][0]["waits"].as_array().expect("waits");
    assert_eq!(waits[0]["kind"], "sleep", "{take:#}");
    assert!(waits[0]["tries"][0]["took"].as_u64().is_some_and(|took| took >= 5_000), "{take:#}");
}

#[test]
fn a_run_that_waits_shows_what_it_did_while_the_job_is_at_work_and_after_it_was_killed() {
    for carry in [true, false] {
        let place = tempfile::tempdir().expect("a directory");
        let dir = place.path();
        at_work(dir, (carry, true), 0, &[0, 0, 7], || {
            let outcome = journal(dir, &["--json"]);
            let has = |part: &str| outcome.stdout.contains(part);
            let known = has("an order of shop") && has("\"carrier\"") && (!carry || has("\"event\": \"priced\""));
            known.then_some(())
        });
        let place = still(dir);
        let dir = place.path();
        let before = files(dir);
        let shown = parsed(dir, &[]);
        let take = &shown["tasks"][0];
        assert_eq!((&shown["sequence"], &take["action"]), (&json!(3), &json!("take")), "{shown:#}");
        check_calls(take);
        if carry {
            assert_eq!((&shown["state"], &shown["input"]), (&json!("unfinished"), &json!(["a", 7])), "{shown:#}");
            assert_eq!(take["attempts"][0]["state"], "in progress", "{shown:#}");
            assert_eq!(shown["actions"][0], json!({"name": "take", "version": 1}), "{shown:#}");
            assert_eq!(take["tasks"][0]["event"], "priced", "{shown:#}");
        } else {
            assert_eq!(shown["state"], "not_committed", "{shown:#}");
            assert!(shown["input"].is_null() && shown["digest"].is_string(), "{shown:#}");
        }
        let outcome = journal(dir, &["--sequence", "3"]);
        let text = outcome.lines().join("\n");
        for part in
            ["key \"a\", run 3", "take", "call \"price\"", "attempt 2", "\"an order of shop\"", "ship", "sleep", " ms "]
        {
            assert!(text.contains(part), "no {part:?}:\n{text}");
        }
        assert!(files(dir) == before, "nothing is changed");
    }
}

#[test]
fn journals_that_are_retained_show_runs_that_are_over() {
    for carry in [true, false] {
        let place = tempfile::tempdir().expect("a directory");
        let place = finished(place.path(), carry, u64::MAX, &[7, 0, 9]);
        let dir = place.path();
        let check = || {
            let first = parsed(dir, &["--sequence", "1"]);
            assert_eq!(
                (&first["state"], &first["runs"], &first["others"]),
                (&json!("over"), &json!(3), &json!([2, 3]))
            );
            let take = &first["tasks"][0];
            assert_eq!(take["attempts"][0]["state"], "over", "{first:#}");
            check_calls(take);
            assert_eq!(first["input"], json!(["a", 7]), "{first:#}");
            assert_eq!(parsed(dir, &[])["sequence"], 3, "the newest");
            let second = parsed(dir, &["--sequence", "2"]);
            assert_eq!((&second["input"], &second["tasks"][0]["attempts"][0]["waits"]), (&json!(["a", 0]), &json!([])));
        };
        check();
        journal(dir, &["--sequence", "4"]).assert_refused(1, &["no run 4", "3 runs"]);
        let wrong =
            |agent: &str, key: &str| run(&["run", dir.to_str().expect("UTF-8"), "--agent", agent, "--key", key]);
        wrong("nobody", "a").assert_refused(1, &["nobody", "orders"]);
        wrong("orders", "b").assert_refused(1, &["key b"]);

        // Neither a start nor a removal takes them, with the same setting.
        let place = finished(dir, carry, u64::MAX, &[7, 0, 9]);
        let dir = place.path();
        checkpoint("gc", dir, &["--retain", "100000000"]).lines();
        checkpoint("compact", dir, &[]).lines();
        let check = || assert_eq!(parsed(dir, &["--sequence", "1"])["state"], "over");
        check();
        let removed = checkpoint("gc", dir, &[]);
        assert!(removed.lines().iter().any(|line| line.contains("log/") && line.contains("-65536-")), "{removed:#?}");
        journal(dir, &[]).assert_refused(1, &["no run", "--retain-journals"]);
    }
}

#[test]
fn runs_of_a_job_at_work_are_replayed() {
    for carry in [true, false] {
        let place = tempfile::tempdir().expect("a directory");
        let store = || DirStore::existing(place.path()).ok();
        let mut last = 0;
        let mut looks = 0;
        at_work(place.path(), (carry, false), 40, &[7, 0, 9], || {
            let newest = oldest(place.path())?;
            if newest <= last {
                return None;
            }
            last = newest;
            // While there is no agent, or no checkpoint yet, there is nothing to look at.
            let plan = plan(carry, false);
            let replayed = inspect::replay::<u64, String, _, _>(&plan, &store()?, Some("z"), None).ok()?.runs;
            assert!(replayed.iter().all(inspect::Replayed::is_same), "carry {carry}: {replayed:?}");
            looks += u32::from(!replayed.is_empty());
            (looks >= 5).then_some(())
        });
    }
}

#[test]
fn a_start_without_the_setting_lets_journals_go() {
    let place = tempfile::tempdir().expect("a directory");
    let place = finished(place.path(), false, u64::MAX, &[7]);
    assert_eq!(parsed(place.path(), &[])["sequence"], 1);
    let place = finished(place.path(), false, 0, &[7]);
    journal(place.path(), &["--sequence", "1"]).assert_refused(1, &["run 1", "--retain-journals"]);
}

#[test]
fn unfinished_runs_are_replayed_against_the_program_at_hand() {
    let place = tempfile::tempdir().expect("a directory");
    at_work(place.path(), (true, true), 0, &[0, 0, 7], || {
        let outcome = journal(place.path(), &["--json"]);
        let has = |part: &str| outcome.stdout.contains(part);
        (has("an order of shop") && has("\"carrier\"") && has("\"unfinished\"")).then_some(())
    });
    let place = still(place.path());
    let before = files(place.path());
    let store = DirStore::existing(place.path()).expect("a directory");
    let replayed = |plan: &Plan<Order, u32>, key: Option<&str>| {
        let mut runs = inspect::replay::<u64, String, _, _>(plan, &store, key, None).expect("it can be replayed").runs;
        assert_eq!(runs.len(), 1, "{runs:?}");
        runs.remove(0)
    };
    let same = replayed(&plan(true, true), None);
    assert_eq!((&same.key, same.sequence, same.state), (&json!("a"), 3, State::Unfinished), "{same}");
    assert!(same.is_same(), "{same}");
    assert_eq!((same.calls.len(), same.outputs, same.over), (0, 0, false), "{same}");

    let prompt = replayed(&plan_of(true, true, "the order", "approval"), Some("a"));
    let [Difference::Call(why)] = &prompt.differences[..] else { panic!("{prompt}") };
    for part in ["run 3", "\"take\"", "wait 1", "\"describe\"", "number 0"] {
        assert!(why.contains(part), "no {part:?}: {why}");
    }
    let rule = replayed(&plan_of(true, true, "an order", "clerk"), None);
    assert_eq!((rule.is_same(), &rule.calls[..]), (true, &["clerk".to_owned()][..]), "a new call: {rule}");

    let unknown =
        inspect::replay::<u64, String, _, _>(&plan(true, true), &store, Some("b"), None).expect_err("no key b");
    assert!(unknown.to_string().contains("no key b"), "{unknown}");
    let other = inspect::replay::<u64, u32, _, _>(&plan(true, true), &store, None, None).expect_err("other keys");
    assert!(other.to_string().contains("keys"), "{other}");
    assert!(files(place.path()) == before, "nothing is changed");

    let dir = place.path().to_str().expect("UTF-8");
    let arguments = Program::new("orders").parse(["--replay", dir]).expect("options").expect("no help");
    let nothing = arguments.execute(|_, _| Ok(())).expect_err("no agent is replayed");
    assert!(nothing.to_string().contains("replays no agent"), "{nothing}");
    arguments.replay::<u64, String, _, _>(&plan(true, true)).expect("it can be replayed");
    assert_eq!(arguments.execute(|_, _| Ok(())), Ok(Vec::new()), "the job is not run");
    arguments.replay::<u64, String, _, _>(&plan_of(true, true, "the order", "approval")).expect("it can be replayed");
    let differs = arguments.execute(|_, _| Ok(())).expect_err("it differs");
    assert!(differs.to_string().contains("1 of 2"), "{differs}");

    run(&["replay", dir]).assert_refused(2, &["--program"]);
    run(&["replay", dir, "--program", "no-such-program"]).assert_refused(1, &["no-such-program"]);
    let told = run(&["replay", dir, "--program", "echo", "--agent", "orders", "--key", "a"]);
    assert_eq!(told.lines(), [format!("--replay {dir} --replay-agent orders --replay-key a")]);
}
