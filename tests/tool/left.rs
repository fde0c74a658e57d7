//! A call that is under way and whose start is noted: what the tool shows of it, and a replay against a program that asks
//! something else.

use std::future::pending;
use std::path::Path;
use std::sync::Mutex;
use std::sync::mpsc::{Sender, channel};
use std::thread;

use serde_json::{Value, json};
use timely_agents::cluster::{ClusterConfig, Failure, FailureKind};
use timely_agents::inspect::{self, Difference};
use timely_agents::prelude::*;
use timely_agents::{Plan, Reconciled, execute_with};
use timely_agents_operators::checkpoint::{Checkpoints, DirStore};
use timely_agents_operators::cluster::Control;

use crate::runs::still;
use crate::support::{checkpoint, eventually, run};

/// Pays for what is on offer, in a call that does not end, and of which a reconciler could tell.
fn plan(amount: u32) -> Plan<(String, u32), u32> {
    let mut agent = Agent::<(String, u32), u32>::new("orders");
    agent.carry();
    agent.on_input_async("take", async move |(_, item), ctx| {
        if *item > 0 {
            let pay = ctx.durable("pay", (*item, amount), async |_| pending::<()>().await);
            pay.reconcile(async |_, _| Reconciled::NotDone).keep_arguments().await?;
        }
        Ok(())
    });
    agent.build().expect("a valid agent")
}

/// Runs one order, and then an endless number of others, until it is stopped.
fn job(dir: &Path, tell: Sender<Control>) {
    let plan = plan(5);
    let checkpoints = Checkpoints::dir(dir).expect("a directory");
    let tell = Mutex::new(tell);
    let outcome = execute_with(&ClusterConfig::single(1), Some(checkpoints), move |worker, job| {
        tell.lock().expect("a lock").send(job.control().clone()).expect("the test waits");
        worker.dataflow::<u64, _, _>(|scope| {
            let more = (1u64..).map(|n| (n, ("z".to_owned(), 0)));
            let orders = std::iter::once((0, ("a".to_owned(), 7))).chain(more);
            let orders =
                job.source_with(scope, "orders", Records::from(orders), |source| source.open_epochs = Some(2))?;
            orders.agent(|(shop, _)| shop, &plan);
            Ok(())
        })
    });
    let failure = outcome.map(drop).expect_err("it is stopped");
    assert_eq!(failure.kind(), FailureKind::Stopped, "{failure}");
}

struct Stop(Control);

impl Drop for Stop {
    fn drop(&mut self) {
        self.0.fail(Failure::stopped("enough"));
    }
}

#[test]
fn call_that_has_left_is_shown_and_compared() {
    let place = tempfile::tempdir().expect("a directory");
    let dir = place.path();
    thread::scope(|threads| {
        let (tell, told) = channel();
        threads.spawn(|| job(dir, tell));
        let _stop = Stop(told.recv().expect("the job starts"));
        eventually("a checkpoint with the call", || {
            dir.join("chain").exists().then_some(())?;
            checkpoint("show", dir, &[]).stdout.contains("\"left\"").then_some(())
        });
    });
    let place = still(dir);
    let dir = place.path().to_str().expect("UTF-8");

    let outcome = run(&["run", dir, "--agent", "orders", "--key", "a", "--json"]);
    let shown: Value = serde_json::from_str(&outcome.stdout).expect("JSON");
    let wait = &shown["tasks"][0]["attempts"][0]["waits"][0];
    assert_eq!(
        (&wait["kind"], &wait["name"], &wait["arguments"]),
        (&json!("call"), &json!("pay"), &json!([7, 5])),
        "{shown:#}"
    );
    assert_eq!((&wait["tries"][0]["left"], &wait["tries"][0]["result"]), (&json!(true), &Value::Null), "{shown:#}");
    let text = run(&["run", dir, "--agent", "orders", "--key", "a"]).lines().join("\n");
    for part in ["call \"pay\" of [7,5]", "it has left, and its end is not known"] {
        assert!(text.contains(part), "no {part:?}:\n{text}");
    }

    let store = DirStore::existing(place.path()).expect("a directory");
    for (amount, differs) in [(5, false), (6, true)] {
        let replay =
            inspect::replay::<u64, String, _, _>(&plan(amount), &store, Some("a"), None).expect("it can be replayed");
        let [replayed] = &replay.runs[..] else { panic!("{replay:?}") };
        assert_eq!(replayed.is_same(), !differs, "{replayed}");
        if differs {
            let [Difference::Call(why)] = &replayed.differences[..] else { panic!("{replayed}") };
            for part in ["\"take\"", "wait 0: it was call \"pay\"", "[7,5]", "[7,6]", "number 1"] {
                assert!(why.contains(part), "no {part:?}: {why}");
            }
        }
    }
}
