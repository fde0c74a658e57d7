//! What waits for a key beside inputs: signals that nobody has taken, and scheduled events.

use std::time::{Duration, UNIX_EPOCH};

use serde::{Deserialize, Serialize};
use serde_json::json;
use timely_agents::cluster::ClusterConfig;
use timely_agents::execute_with;
use timely_agents::prelude::*;
use timely_agents_operators::checkpoint::Checkpoints;

use crate::support::{checkpoint, shown};

#[derive(Clone, Serialize, Deserialize)]
struct Approval {
    by: String,
}

impl Event for Approval {
    const NAME: &'static str = "approval";
}

#[derive(Serialize, Deserialize)]
struct Reminder {
    order: u32,
}

impl Event for Reminder {
    const NAME: &'static str = "reminder";
}

#[test]
fn kept_signals_and_scheduled_events_show_as_what_they_say() {
    let place = tempfile::tempdir().expect("a directory");
    let mut agent = Agent::<(String, u32), u32>::new("orders");
    agent.carry();
    agent.waits_for::<Approval>("approval");
    agent.schedules::<Reminder>();
    agent.on_input_async("take", async |(_, order), ctx| {
        ctx.schedule(&Reminder { order: *order }, UNIX_EPOCH + Duration::from_hours(1_000_000));
        ctx.wait_for::<Approval>("approval").await?;
        Ok(())
    });
    agent.on("remind", |_: &Reminder, _| Ok(()));
    let plan = agent.build().expect("a valid agent");
    let checkpoints = Checkpoints::dir(place.path()).expect("a directory");
    execute_with(&ClusterConfig::single(2), Some(checkpoints), move |worker, job| {
        worker.dataflow::<u64, _, _>(|scope| {
            let approval = |by: &str| Signal::new("a".to_owned(), "approval", &Approval { by: by.to_owned() });
            let signals = ["Ada", "Bob", "Cyd"].map(|by| (0, approval(by)));
            let orders = job.source(scope, "orders", Records::from([(0, ("a".to_owned(), 7))]))?;
            let signals = job.source(scope, "approvals", Records::from(signals))?;
            orders.agent_with_signals(|(shop, _)| shop, signals, &plan);
            Ok(())
        })
    })
    .expect("it runs to its end");
    let key = &shown(place.path(), &["--key", "a"])["agents"]["orders"][0];
    let signals = key["signals"].as_array().expect("a list");
    let says: Vec<_> = signals.iter().map(|signal| (&signal["signal"], &signal["value"])).collect();
    let (name, bob, cyd) = (json!("approval"), json!({"by": "Bob"}), json!({"by": "Cyd"}));
    assert_eq!(says, [(&name, &bob), (&name, &cyd)], "{key:#}");
    let reminder =
        json!({"number": 0, "time": 0, "due": 3_600_000_000_000_000u64, "event": "reminder", "value": {"order": 7}});
    assert_eq!(key["scheduled"], json!([reminder]), "{key:#}");
    checkpoint("verify", place.path(), &[]).lines();
}
