//! An agent that remembers whom it has met: `cargo run --example hello`.
use std::process::ExitCode;
use timely_agents::prelude::*;

fn main() -> ExitCode {
    let mut greeter = Agent::<String, String>::new("greeter");
    let met = greeter.memory::<u32>("met");

    // One agent per name: `ctx` has its memory, and nobody else's.
    greeter.on_input("greet", move |name, ctx| {
        let times = ctx.update(met, |times| {
            *times += 1;
            *times
        });
        ctx.output(format!("epoch {}: hello {name}, time {times}", ctx.epoch()));
        ctx.notify_at(ctx.epoch())?;
        Ok(())
    });
    // Runs when the epoch is over: no more inputs of it can come, from anywhere.
    greeter.on_notify("bye", move |over, ctx| {
        let times = ctx.get(met).unwrap_or(0);
        let name: String = ctx.key()?;
        ctx.output(format!("epoch {}: over, {name} was here {times} times", over.epoch));
        Ok(())
    });

    let visits = [(1, "Ann"), (1, "Bob"), (1, "Ann"), (2, "Bob"), (4, "Ann")];
    timely_agents::run(greeter, move |job, scope, greeter| {
        let visits = visits.map(|(epoch, name)| (epoch, name.to_string()));
        job.source(scope, "visits", Records::from(visits))?.agent(|name| name, greeter).sink(
            job,
            "greetings",
            JsonLines::stdout(),
        )?;
        Ok(())
    })
}
