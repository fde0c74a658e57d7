//! `build` refuses what cannot work, and tells all of it at once.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use timely_agents::{Agent, BuildError, Event, Exhausted, Retry};
use timely_agents_operators::limits::Limits;

use crate::support::{Pair, Ping};

#[derive(Serialize, Deserialize)]
struct Impostor(String);

impl Event for Impostor {
    const NAME: &'static str = "ping";
}

#[derive(Serialize, Deserialize)]
struct Reserved;

impl Event for Reserved {
    const NAME: &'static str = "output";
}

#[derive(Serialize, Deserialize)]
struct Nameless;

impl Event for Nameless {
    const NAME: &'static str = "";
}

fn errors(agent: Agent<Pair, i64>) -> Vec<BuildError> {
    agent.build().unwrap_err().errors
}

#[test]
fn names_are_given_once_and_not_empty() {
    let mut agent = Agent::<Pair, i64>::new("  ");
    for _ in 0..2 {
        agent.on_input("twice", |_, _| Ok(()));
        agent.memory::<u8>("slot");
        agent.side::<u8>("side");
        agent.counter("counter");
        agent.resource("resource", || Ok(1u8));
    }
    agent.on_input("", |_, _| Ok(()));
    agent.sensory::<u8>(" ");
    let twice = |what| match what {
        "action" => BuildError::DuplicateName { what, name: "twice".into() },
        "memory slot" => BuildError::DuplicateName { what, name: "slot".into() },
        "side output" => BuildError::DuplicateName { what, name: "side".into() },
        other => BuildError::DuplicateName { what: other, name: other.into() },
    };
    let expected = [
        BuildError::EmptyName { what: "agent", number: 1 },
        twice("action"),
        BuildError::EmptyName { what: "action", number: 3 },
        twice("memory slot"),
        BuildError::EmptyName { what: "memory slot", number: 3 },
        twice("side output"),
        twice("counter"),
        twice("resource"),
    ];
    assert_eq!(errors(agent), expected);
}

#[test]
fn event_names_belong_to_one_type_and_reserved_ones_to_none() {
    let mut agent = Agent::<Pair, i64>::new("a");
    agent.on::<Ping>("ping", |_, _| Ok(()));
    agent.on::<Impostor>("impostor", |_, _| Ok(()));
    agent.event::<Reserved>();
    agent.event::<Nameless>();
    let expected = [
        BuildError::EventTypes {
            name: "ping".into(),
            first: std::any::type_name::<Ping>(),
            second: std::any::type_name::<Impostor>(),
        },
        BuildError::ReservedName { name: "output".into(), type_name: std::any::type_name::<Reserved>() },
        BuildError::EmptyName { what: "event", number: 4 },
    ];
    assert_eq!(errors(agent), expected);
}

#[test]
fn actions_need_triggers_resources_attempts_and_configs() {
    let mut agent = Agent::<Pair, i64>::new("a");
    agent.on_any("never", &[], |_, _| Ok(()));
    agent.on_dynamic("blank", " ", |_, _| Ok(()));
    agent.on_any("outputs", &["output"], |_, _| Ok(()));
    agent.on_input("uses", |_, _| Ok(())).uses("model").on_failure(Retry::new(0));
    agent.on_input("config", |_, _| Ok(())).config(BTreeMap::from([((1, 2), 3)]));
    let action = |name: &str| name.to_string();
    let expected = [
        BuildError::NoTrigger { action: action("never") },
        BuildError::NoTrigger { action: action("blank") },
        BuildError::OutputTrigger { action: action("outputs"), event: "output".into() },
        BuildError::UnknownResource { action: action("uses"), resource: "model".into() },
        BuildError::NoAttempts { action: action("uses") },
        BuildError::Config { action: action("config"), error: "key must be a string".into() },
    ];
    assert_eq!(errors(agent), expected);
}

#[test]
fn limits_of_zero_and_unbounded_waits_are_refused() {
    let mut agent = Agent::<Pair, i64>::new("a");
    agent.limits(Limits { runs_in_flight: 0, inbox_bytes: 0, open_epochs: 0, concurrent_calls: 0, fuel: 0 });
    agent.call_timeout(Duration::ZERO);
    agent.run_timeout(Duration::ZERO, Exhausted::Fail);
    let limits =
        ["runs_in_flight", "inbox_bytes", "open_epochs", "concurrent_calls", "fuel", "call_timeout", "run_timeout"];
    let expected = limits.map(|limit| BuildError::BadLimit { limit: limit.into() });
    assert_eq!(errors(agent), expected);

    let mut agent = Agent::<Pair, i64>::new("a");
    agent.call_timeout(None);
    assert_eq!(errors(agent), [BuildError::UnboundedWait]);
}

#[test]
fn all_errors_are_told_at_once_with_what_and_where() {
    let mut agent = Agent::<Pair, i64>::new("sick");
    agent.on_any("never", &[], |_, _| Ok(()));
    agent.on_input("uses", |_, _| Ok(())).uses("model");
    agent.limits(Limits { fuel: 0, ..Limits::default() });
    assert_eq!(
        agent.build().unwrap_err().to_string(),
        "agent \"sick\" cannot be built: action \"never\" has no trigger: name at least one event; \
         action \"uses\" uses resource \"model\", which is not declared; \
         limit fuel is 0: nothing could ever run"
    );
}
