//! A plan tells what it is, as text and as JSON.

use std::time::Duration;

use serde_json::json;
use timely_agents::{Agent, Exhausted, Policy, Retry};

use crate::support::{Pair, Ping};

fn agent() -> Agent<Pair, i64> {
    let mut agent = Agent::new("shop");
    agent.memory::<u64>("orders");
    agent.sensory::<bool>("seen");
    agent.side::<String>("audit");
    agent.counter("refused");
    agent.resource("model", || Ok(1u8));
    agent.run_timeout(Duration::from_secs(2), Exhausted::Fail);
    agent.on_input("check", |_, _| Ok(())).version(2).config(json!({"limit": 3}));
    agent
        .on_any_async("pay", &["input", "ping"], async |_, _| Ok(()))
        .on_failure(Retry::new(3).then(Exhausted::DeadLetter))
        .uses("model");
    agent.on_dynamic("tell", "shipped", |_, _| Ok(())).on_failure(Policy::Ignore);
    agent.on::<Ping>("ping", |_, _| Ok(())).on_failure(Policy::DeadLetter);
    agent
}

#[test]
fn plan_prints_its_triggers_memory_and_resources() {
    let plan = agent().build().unwrap();
    let text = "\
agent shop
  input -> check v2 (fail)
  input -> async pay v1 (3 attempts, then dead letter)
  ping -> async pay v1 (3 attempts, then dead letter)
  ping -> ping v1 (dead letter)
  shipped -> tell v1 (ignore)
  memory orders: u64
  sensory seen: bool
  side audit: alloc::string::String
  resource model
";
    assert_eq!(plan.to_string(), text);
}

#[test]
fn plan_has_a_json_form() {
    let plan = serde_json::to_value(agent().build().unwrap()).unwrap();
    assert_eq!(plan["name"], "shop");
    assert_eq!(plan["call_timeout_ms"], 300_000);
    assert_eq!(plan["run_timeout_ms"], 2000);
    assert_eq!(plan["limits"]["fuel"], 262_144);
    assert_eq!(plan["counters"], json!(["refused"]));
    assert_eq!(plan["resources"], json!(["model"]));
    assert_eq!(plan["memory"][1], json!({"name": "seen", "sensory": true, "type": "bool"}));
    assert_eq!(plan["sides"], json!([{"name": "audit", "type_name": "alloc::string::String"}]));
    assert_eq!(
        plan["actions"][0],
        json!({
            "name": "check", "triggers": ["input"], "kind": "sync", "version": 2,
            "policy": "Fail", "config": {"limit": 3}, "resources": []
        })
    );
    assert_eq!(plan["actions"][1]["kind"], "async");
    assert_eq!(plan["actions"][1]["triggers"], json!(["input", "ping"]));
    assert_eq!(plan["actions"][1]["policy"]["Retry"]["then"], "DeadLetter");
}

#[test]
fn slots_resources_and_configs_reach_their_actions() {
    let mut agent = Agent::<Pair, String>::new("a");
    let refused = agent.counter("refused");
    agent.resource("model", || Ok(String::from("model x")));
    agent.resource("broken", || -> Result<u8, _> { Err(timely_agents::Error::new("no network")) });
    agent
        .on_input("use", move |_, ctx| {
            let limit: u64 = ctx.config()?;
            ctx.count(refused, limit);
            ctx.output(format!("{limit} {}", ctx.resource::<String>("model")?));
            for name in ["model", "broken", "none"] {
                ctx.output(ctx.resource::<u8>(name).unwrap_err().to_string());
            }
            ctx.output(ctx.config::<String>().unwrap_err().to_string());
            ctx.output(ctx.key::<String>().unwrap_err().to_string());
            Ok(())
        })
        .config(3);
    let plan = agent.build().unwrap();
    let mut test = timely_agents::testing::Harness::<u64, Pair, String>::new(&plan, |pair| pair.0).unwrap();
    test.push(0, (1, 0));
    test.end();
    test.run();
    let said: Vec<String> = test.outputs().into_iter().map(|o| o.2).collect();
    assert_eq!(
        said,
        [
            "3 model x",
            "resource \"model\" is not a u8",
            "resource \"broken\" cannot be made: no network",
            "resource \"none\" is not declared in this agent",
            "the config of action \"use\": invalid type: integer `3`, expected a string",
            "the key is a u64, not a alloc::string::String",
        ]
    );
    assert_eq!(plan.stats().counters["refused"], 3);
}
