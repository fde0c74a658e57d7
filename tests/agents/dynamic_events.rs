//! Events without a Rust type, beside typed ones, in one plan (S3).

use serde_json::json;
use timely_agents::{Agent, DynamicEvent, Policy};

use crate::support::{Pair, Ping, Pong, call, feed, finish, start, values};

#[test]
fn typed_and_dynamic_events_of_one_name_trigger_the_actions_of_both_forms() {
    let mut agent = Agent::<Pair, String>::new("a");
    agent.on_input("in", |(_, value), ctx| {
        if *value > 0 {
            ctx.send(Ping(*value));
        } else {
            ctx.send_dynamic(DynamicEvent::new("ping", json!(value)));
        }
        Ok(())
    });
    agent.on::<Ping>("typed", |ping, ctx| {
        ctx.output(format!("typed {}", ping.0));
        Ok(())
    });
    agent.on_dynamic("dynamic", "ping", |event, ctx| {
        ctx.output(format!("dynamic {} {}", event.name, event.attributes));
        Ok(())
    });
    agent.on_any("any", &["ping"], |event, ctx| {
        ctx.output(format!("any {} {:?}", event.attributes()?, event.get::<Ping>()));
        Ok(())
    });
    let mut test = start(agent);
    feed(&mut test, &[(1, 7)]);
    assert_eq!(values(&mut test), ["typed 7", "dynamic ping 7", "any 7 Some(Ping(7))"]);
    feed(&mut test, &[(1, -7)]);
    assert_eq!(values(&mut test), ["typed -7", "dynamic ping -7", "any -7 None"]);
}

#[test]
fn dynamic_events_of_names_nobody_declared_trigger_by_name() {
    let mut agent = Agent::<Pair, String>::new("a");
    agent.on_input("in", |(_, value), ctx| {
        ctx.send_dynamic(DynamicEvent::new("order.placed", json!({"id": value, "lines": [1, 2]})));
        ctx.send_dynamic(DynamicEvent::new("nobody.cares", json!(null)));
        ctx.send(Pong(3)); // Nobody declared it as a type, somebody takes it by name.
        Ok(())
    });
    agent.on_dynamic_async("placed", "order.placed", async |order, ctx| {
        ctx.durable("ask", order.clone(), async |_| ()).await?;
        ctx.output(format!("{} {:?}", order.get("id").unwrap(), order.get("none")));
        Ok(())
    });
    agent.on_any("watch", &["order.placed", "pong"], |event, ctx| {
        ctx.output(format!("{} {}", event.name(), event.attributes()?));
        Ok(())
    });
    let mut test = start(agent);
    feed(&mut test, &[(1, 7)]);
    let ask = call(&test, "ask");
    test.complete_with(ask, &());
    test.run();
    assert_eq!(values(&mut test), ["order.placed {\"id\":7,\"lines\":[1,2]}", "pong 3", "7 None"]);
}

#[test]
fn dynamic_event_of_another_form_than_its_type_is_a_failure() {
    let mut agent = Agent::<Pair, i64>::new("a");
    agent.on_input("in", |_, ctx| {
        ctx.send_dynamic(DynamicEvent::new("ping", json!("text")));
        Ok(())
    });
    agent
        .on::<Ping>("typed", |ping, ctx| {
            ctx.output(ping.0);
            Ok(())
        })
        .on_failure(Policy::DeadLetter);
    let mut test = start(agent);
    feed(&mut test, &[(1, 7)]);
    let letters = test.dead_letters();
    assert_eq!(
        letters[0].error,
        "event \"ping\" is not of its declared type: invalid type: string \"text\", expected i64"
    );
    finish(&mut test);
}
