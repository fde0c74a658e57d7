//! Two agents in a row, with a side output and dead letters: `cargo run --example pipeline`.
//!
//! ```text
//! readings ─▶ [exchange by sensor] ─▶ clean ─▶ (same key: no exchange) ─▶ alarm ─▶ alarms
//!                                      ├─▶ side output: readings out of range
//!                                      └─▶ dead letters: readings that are no numbers
//! ```
//!
//! # Who waits for whom
//! Under *Hold*, the rule that holds today, a run's outputs carry the time of its input, so the frontier behind an agent
//! waits for its slowest run at that time. Here `alarm` asks to be told when an epoch is over. It is told once `clean`
//! has finished *every* sensor's readings of that epoch, the slow sensor's too:
//!
//! - what waits: the notification of each key of `alarm` for epoch 1, and all that follows from frontiers;
//! - what does not: other keys' readings, in `clean` and in `alarm`. `fast` passes while `slow` is still calibrated,
//!   and inputs of `slow` wait for its own run and for nothing else.
//!
//! *Carry*, which is to come, will change the first point: the close of an epoch will hand its unfinished runs over to
//! the next one, so that `fast` is told at once, and the outputs of `slow` will belong to the epoch in which they come.

use std::process::ExitCode;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use timely::dataflow::operators::Concatenate;
use timely::dataflow::operators::vec::Map;
use timely_agents::prelude::*;

/// What a sensor sends.
#[derive(Clone, Serialize, Deserialize)]
struct Reading {
    sensor: String,
    text: String,
}

/// A line of the output.
#[derive(Clone, Serialize, Deserialize)]
struct Line {
    from: &'static str,
    text: String,
}

fn line(from: &'static str, text: String) -> Line {
    Line { from, text }
}

fn main() -> ExitCode {
    let mut clean = Agent::<Reading, i32>::new("clean");
    let odd = clean.side::<String>("out_of_range");
    clean
        .on_input_async("parse", async move |reading: &Reading, ctx| {
            if reading.sensor == "slow" {
                // Suspends this run only; the worker and all other keys go on.
                ctx.sleep(Duration::from_millis(50)).await;
            }
            let degrees: i32 = reading.text.parse()?;
            if degrees.abs() > 60 {
                ctx.side(odd, format!("epoch {}: {} reads {degrees}", ctx.epoch(), reading.sensor));
            } else {
                ctx.output(degrees);
            }
            Ok(())
        })
        .on_failure(Policy::DeadLetter);

    let mut alarm = Agent::<i32, String>::new("alarm");
    let highest = alarm.memory::<i32>("highest");
    alarm.on_input("remember", move |degrees, ctx| {
        ctx.output(format!("epoch {}: {} reads {degrees}", ctx.epoch(), ctx.key::<String>()?));
        if ctx.get(highest).is_none_or(|most| *degrees > most) {
            ctx.put(highest, *degrees);
        }
        ctx.notify_at(ctx.epoch())?;
        Ok(())
    });
    alarm.on_notify("summarize", move |over, ctx| {
        let highest = ctx.get(highest).unwrap_or_default();
        ctx.output(format!("epoch {} over: {} had at most {highest}", over.epoch, ctx.key::<String>()?));
        Ok(())
    });

    let readings = [
        (1, "slow", "20"),
        (1, "fast", "21"),
        (1, "fast", "warm"),
        (1, "fast", "22"),
        (2, "fast", "99"),
        (2, "slow", "19"),
    ];
    timely_agents::run((clean, alarm), move |job, scope, (clean, alarm)| {
        let readings = readings.map(|(epoch, sensor, text)| {
            let (sensor, text) = (sensor.to_string(), text.to_string());
            (epoch, Reading { sensor, text })
        });
        let (cleaned, streams) = job
            .source(scope, "readings", Records::from(readings))?
            .key_by(|reading| reading.sensor.clone())
            .agent_streams(clean);
        let odd = streams.side(odd).map(|text| line("out of range", text));
        let dead = streams.dead_letters().map(|letter| {
            let (sensor, text) = letter.input.map_or_else(Default::default, |reading| (reading.sensor, reading.text));
            let error = format!("epoch {}: {sensor} sent {text:?}: {}", letter.epoch, letter.error);
            line("dead letter", error)
        });
        // The same key: values are with their owner already, and no exchange is made.
        let alarms = cleaned.agent(alarm).values().map(|text| line("alarm", text));
        scope.concatenate([odd, dead, alarms]).sink(job, "lines", JsonLines::stdout())?;
        Ok(())
    })
}
