//! Signals in jobs with checkpoints: what waits when a job is stopped goes on in the next one, on other workers.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::mpsc::channel;

use serde::{Deserialize, Serialize};
use timely_agents::cluster::{ClusterConfig, Failure, FailureKind};
use timely_agents::durable_input::DurableInput;
use timely_agents::prelude::*;
use timely_agents::{Checkpoints, Plan, execute_with};

#[derive(Clone, Serialize, Deserialize)]
struct Approval(String);

impl Event for Approval {
    const NAME: &'static str = "approval";
}

type Order = (u64, u64);

/// Waits for an approval of each order.
fn plan() -> Plan<Order, (u64, String)> {
    let mut agent = Agent::<Order, (u64, String)>::new("orders");
    agent.carry();
    agent.waits_for::<Approval>("approval");
    agent.on_input_async("take", async |(_, order), ctx| {
        let Approval(by) = ctx.wait_for("approval").await?;
        ctx.output((*order, by));
        Ok(())
    });
    agent.build().unwrap()
}

/// Three orders for each of 20 keys.
fn orders() -> Vec<(u64, Order)> {
    (0..60).map(|order| (order / 12, (order % 20, order))).collect()
}

fn approval(key: u64, n: u64) -> Signal<u64> {
    // As it would come from outside.
    let json = format!(r#"{{"key": {key}, "signal": "approval", "value": "{key}.{n}"}}"#);
    serde_json::from_str(&json).unwrap()
}

/// Runs a job that is told of approvals, and stops it if it is `to_stop` once all that it was told is committed, and all
/// orders are.
fn run(place: &Path, workers: usize, approvals: &[Signal<u64>], to_stop: bool) -> Result<(), Failure> {
    let plan = plan();
    let checkpoints = Checkpoints::dir(place.join("checkpoints"))?.take_over(true);
    let input = DurableInput::new(1000);
    let (tell, told) = channel();
    let tell = Mutex::new(tell);
    let (reader, parts) = (input.clone(), place.join("approved"));
    std::thread::scope(|threads| {
        threads.spawn(move || {
            let control: timely_agents_operators::cluster::Control = told.recv().unwrap();
            let tickets: Vec<_> = approvals.iter().map(|signal| input.push(signal.clone()).unwrap()).collect();
            input.tick();
            if to_stop {
                assert!(tickets.iter().all(|ticket| ticket.wait().is_ok()));
                while input.push(Signal::cancel(1000)).unwrap().wait_ticked(&input) < 6 {}
                control.fail(Failure::stopped("enough"));
            }
            input.close();
        });
        let config = ClusterConfig { job: "orders".to_owned(), ..ClusterConfig::single(workers) };
        execute_with(&config, Some(checkpoints), move |worker, job| {
            // The test takes the first.
            let _ = tell.lock().unwrap().send(job.control().clone());
            worker.dataflow::<u64, _, _>(|scope| {
                let orders = job.source(scope, "orders", Records::from(orders()))?;
                let approvals = job.source(scope, "approvals", reader.clone())?;
                let streams = orders.agent_with_signals(|(key, _)| key, approvals, &plan);
                streams.output.sink(job, "approved", JsonLines::parts(&parts))?;
                Ok(())
            })
        })
        .map(|_| ())
    })
}

trait Ticked {
    fn wait_ticked(&self, input: &DurableInput<Signal<u64>>) -> u64;
}

impl Ticked for timely_agents::durable_input::Ticket {
    /// The epoch in which it was committed, which is ended for it.
    fn wait_ticked(&self, input: &DurableInput<Signal<u64>>) -> u64 {
        input.tick();
        self.wait().unwrap()
    }
}

fn approved(place: &Path) -> Vec<(u64, String)> {
    let parts = fs::read_dir(place.join("approved")).into_iter().flatten();
    let parts: Vec<PathBuf> = parts.map(|part| part.unwrap().path()).filter(|part| part.is_file()).collect();
    let text: String = parts.iter().map(|part| fs::read_to_string(part).unwrap()).collect();
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

#[test]
fn runs_and_signals_that_wait_outlive_their_job() {
    let place = tempfile::tempdir().unwrap();
    let place = place.path();
    // Of even keys two approvals come, more than there are orders yet of none; then the others, and one too many.
    let first: Vec<_> =
        (0..20).filter(|key| key % 2 == 0).flat_map(|key| (0..2).map(move |n| approval(key, n))).collect();
    let failure = run(place, 3, &first, true).unwrap_err();
    assert_eq!(failure.kind(), FailureKind::Stopped, "{failure}");
    assert_eq!(approved(place).len(), 20);
    let second: Vec<_> =
        (0..20u64).flat_map(|key| (2 - 2 * u64::from(key % 2 == 1)..4).map(move |n| approval(key, n))).collect();
    run(place, 2, &second, false).unwrap();
    let mut by_key = BTreeMap::<u64, Vec<(u64, String)>>::new();
    for (order, by) in approved(place) {
        by_key.entry(order % 20).or_default().push((order, by));
    }
    assert_eq!(by_key.len(), 20);
    for (key, mut found) in by_key {
        found.sort_unstable();
        let right: Vec<_> = (0..3).map(|n| (key + 20 * n, format!("{key}.{n}"))).collect();
        assert_eq!(found, right);
    }
}

#[test]
fn agent_with_signals_and_checkpoints_carries() {
    let place = tempfile::tempdir().unwrap();
    let mut agent = Agent::<Order, u64>::new("holding");
    agent.on_input("take", |_, _| Ok(()));
    let plan = agent.build().unwrap();
    let checkpoints = Checkpoints::dir(place.path()).unwrap();
    let failure = execute_with(&ClusterConfig::single(1), Some(checkpoints), move |worker, job| {
        worker.dataflow::<u64, _, _>(|scope| {
            let orders = job.source(scope, "orders", Records::from(orders()))?;
            let approvals = job.source(scope, "approvals", Records::from([(0, approval(1, 1))]))?;
            orders.agent_with_signals(|(key, _)| key, approvals, &plan);
            Ok(())
        })
    });
    let failure = failure.unwrap_err();
    assert!(failure.message().contains("holding") && failure.message().contains("`carry`"), "{failure}");
}
