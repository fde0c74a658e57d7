//! What a key has not finished: a run and its journal, inputs and notifications that wait; over several types of times.

use std::path::Path;
use std::sync::mpsc::{Sender, channel};
use std::thread;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use timely::progress::timestamp::Refines;
use timely_agents::cluster::{ClusterConfig, Failure};
use timely_agents::prelude::*;
use timely_agents::{Plan, execute_with};
use timely_agents_operators::checkpoint::Checkpoints;
use timely_agents_operators::cluster::Control;
use timely_agents_operators::time::{EpochTime, Stamp};

use crate::support::{checkpoint, eventually, shown};

#[derive(Clone, Serialize, Deserialize)]
struct Order {
    shop: String,
    amount: u32,
}

/// What an order is handed on as.
#[derive(Serialize, Deserialize)]
struct Taken {
    amount: u32,
    express: Option<bool>,
}

impl Event for Taken {
    const NAME: &'static str = "taken";
}

/// Asks for a price, and then waits for longer than the job lives; shop `b` is quick.
fn plan() -> Plan<Order, u32> {
    let mut agent = Agent::<Order, u32>::new("orders");
    agent.carry();
    let total = agent.memory::<u64>("total");
    let asked = agent.memory::<Option<String>>("asked");
    agent.on_input_async("take", async move |order: &Order, ctx| {
        ctx.put(total, u64::from(order.amount));
        ctx.memory().set("last.amount", order.amount)?;
        if order.shop == "a" {
            ctx.notify_at(1 << 40)?;
            ctx.send(Taken { amount: order.amount, express: Some(true) });
            ctx.flush().await;
            let amount = order.amount;
            let price = ctx.call("price", move || async move { amount * 2 }).await?;
            ctx.put(asked, Some(Some(price.to_string())));
            ctx.flush().await;
            ctx.sleep(Duration::from_hours(1)).await;
        }
        Ok(())
    });
    agent.on("see", |_: &Taken, _| Ok(()));
    agent.build().expect("a valid agent")
}

/// Runs until it is stopped: two orders of shop `a`, and an endless number of others.
fn job<T: EpochTime + Refines<()>>(dir: &Path, tell: Sender<Control>) {
    let plan = plan();
    let checkpoints = Checkpoints::dir(dir).expect("a directory");
    let tell = std::sync::Mutex::new(tell);
    let outcome = execute_with(&ClusterConfig::single(1), Some(checkpoints), move |worker, job| {
        tell.lock().expect("a lock").send(job.control().clone()).expect("the test waits");
        worker.dataflow::<T, _, _>(|scope| {
            let order = |n: u64| Order { shop: if n < 2 { "a" } else { "b" }.to_owned(), amount: 7 + n as u32 };
            let orders = Records::from((0u64..).map(move |n| (n / 2, order(n))));
            let orders = job.source_with(scope, "orders", orders, |source| source.open_epochs = Some(2))?;
            orders.agent(|order| &order.shop, &plan);
            Ok(())
        })
    });
    outcome.expect_err("it is stopped");
}

/// What is shown of shop `a` once the price is in a checkpoint.
fn with_the_price<T: EpochTime + Refines<()>>() -> Value {
    let place = tempfile::tempdir().expect("a directory");
    thread::scope(|threads| {
        let (tell, told) = channel();
        threads.spawn(|| job::<T>(place.path(), tell));
        // The job goes on if the test gives up, and its end is waited for: so it is stopped first.
        let _stop = Stop(told.recv().expect("the job starts"));
        eventually("a checkpoint with the price", || {
            let outcome = checkpoint("show", place.path(), &["--key", "a"]);
            outcome.stdout.contains("0x0e").then(|| shown(place.path(), &["--key", "a"]))
        })
    })
}

/// Ends a job when it is dropped.
struct Stop(Control);

impl Drop for Stop {
    fn drop(&mut self) {
        self.0.fail(Failure::stopped("enough"));
    }
}

fn check(shown: &Value, time: &Value) {
    let key = &shown["agents"]["orders"][0];
    assert_eq!(key["key"], "a");
    assert_eq!(key["memory"], json!({}), "memory shows what finished runs wrote");
    assert_eq!(key["waiting"], json!([{"number": 0, "time": time, "input": {"shop": "a", "amount": 8}}]));
    assert_eq!(key["notifications"][0]["epoch"], json!(1u64 << 40));
    let run = &key["run"];
    assert_eq!((&run["time"], &run["input"]), (time, &json!({"shop": "a", "amount": 7})), "{key:#}");
    let steps: Vec<&Value> = run["journal"].as_array().expect("entries").iter().collect();
    let results: Vec<&Value> = steps.iter().filter_map(|entry| entry["turn"]["results"].as_array()).flatten().collect();
    assert_eq!(results, [&json!({"wait": 0, "call": "price", "value": "0x0e"})], "{key:#}");
    let written = steps.iter().find_map(|entry| entry["step"]["writes"]["asked"].as_str());
    assert_eq!(written, Some("14"), "{key:#}");
    let text = run.to_string();
    assert!(text.contains(r#""event":"taken""#) && text.contains(r#"{"amount":7,"express":true}"#), "{key:#}");
    let first = [&run["writes"]].into_iter().chain(steps.iter().map(|entry| &entry["step"]["writes"]));
    assert!(first.into_iter().any(|writes| *writes == json!({"total": 7, "last.amount": 7})), "{key:#}");
}

#[test]
fn an_unfinished_run_shows_with_its_journal_and_what_waits_behind_it() {
    check(&with_the_price::<u64>(), &json!(0));
}

#[test]
fn times_of_other_types_show_as_what_they_are() {
    check(&with_the_price::<Stamp>(), &json!({"epoch": 0, "event": 0}));
}
