//! A program that counts, and can be varied (`CRASH_VARIANT`): agents, slots, sources and sinks of other names and types;
//! `slow`, it takes some seconds.

use timely_agents::cluster::Failure;
use timely_agents::prelude::*;
use timely_agents::{Records, execute_with};

use crate::programs;

pub(crate) fn program() -> Result<(), Failure> {
    let variants = programs::variant("CRASH_VARIANT").unwrap_or_default();
    let is = |variant: &str| variants.split(',').any(|one| one == variant);
    let arguments = programs::arguments(if is("other-job") { "other" } else { "small" })?;
    let (out, checkpoints) = programs::opened(&arguments)?;
    let wrong = |errors: timely_agents::BuildErrors| Failure::usage(errors.to_string());

    let mut agent = Agent::<(String, u64), String>::new(if is("agent-renamed") { "renamed" } else { "counter" });
    let narrow = (!is("memory-type")).then(|| agent.memory::<u64>("seen"));
    let wide = is("memory-type").then(|| agent.memory::<String>("seen"));
    if is("new-slot") {
        agent.memory::<bool>("new");
    }
    agent.on_input("count", move |(key, _), ctx| {
        let add = |seen: &mut u64| {
            *seen += 1;
            *seen
        };
        let n = match (narrow, wide) {
            (Some(slot), _) => ctx.update(slot, add),
            (_, Some(slot)) => ctx.update(slot, |text: &mut String| text.len() as u64),
            _ => 0,
        };
        ctx.output(format!("{key} {n}"));
        Ok(())
    });
    let plan = agent.build().map_err(wrong)?;
    let mut other = Agent::<String, String>::new("new");
    other.on_input("pass", |text, ctx| {
        ctx.output(text.clone());
        Ok(())
    });
    let other = other.build().map_err(wrong)?;

    let (key_type, new_agent) = (is("key-type"), is("new-agent"));
    let rate = is("slow").then_some(10.0);
    let source = if is("source-renamed") { "renamed" } else { "numbers" };
    let sink = if is("sink-renamed") { "renamed" } else { "lines" };
    execute_with(arguments.config(), checkpoints, move |worker, job| {
        worker.dataflow::<u64, _, _>(|scope| {
            let numbers = Records::from((0..40).map(|n: u64| (n, ((n % 4).to_string(), n))));
            let numbers = job.source_with(scope, source, numbers, |source| source.rate = rate)?;
            let lines = if key_type { numbers.agent(|(_, n)| n, &plan) } else { numbers.agent(|(key, _)| key, &plan) };
            let lines = if new_agent { lines.agent(|text| text, &other) } else { lines };
            lines.sink(job, sink, JsonLines::parts(format!("{out}/lines")))?;
            Ok(())
        })
    })
    .map(drop)
}
