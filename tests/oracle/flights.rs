//! January's flights, fed by two workers: under `Sequence` the alerts are those of a single reader.
//!
//! One worker feeds the even lines of each day, the other the odd ones, so a key's inputs meet in any order. Sorted by
//! their line (`sequenced_by`) they are again in the order of the file, and the alerts are the 1,584 of the reference.
//! Under `Arrival` they start as they meet: legs of an aircraft change places, a delay is compared with the wrong leg,
//! and as a rule there are fewer alerts. Which ones differs from execution to execution, so nothing is demanded there.

use std::sync::{Arc, Mutex};

use serde::{Deserialize, Serialize};
use timely::dataflow::operators::{Input, Inspect, Probe};
use timely_agents::prelude::*;

use crate::translate::lock;

#[expect(dead_code, reason = "another test makes files")]
#[path = "../turnaround/reference.rs"]
mod reference;

const JANUARY: &str = include_str!("../../examples/data/flights-2013-01.csv");

#[derive(Clone, Debug, Serialize, Deserialize)]
#[expect(clippy::struct_field_names, reason = "the columns of the data; `flight` is its number")]
struct Flight {
    line: u64,
    day: u64,
    date: String,
    tailnum: String,
    carrier: String,
    flight: i64,
    origin: String,
    dest: String,
    dep_delay: i64,
    arr_delay: Option<i64>,
}

#[derive(Clone, Serialize, Deserialize)]
struct Reactionary {
    flight: Flight,
    prev_arr_delay: i64,
    streak: u64,
}

impl Event for Reactionary {
    const NAME: &'static str = "reactionary";
}

/// A line of the job's output; fields in its order.
#[derive(Serialize)]
struct Alert<'a> {
    date: &'a str,
    tailnum: &'a str,
    carrier: &'a str,
    flight: i64,
    origin: &'a str,
    dest: &'a str,
    dep_delay: i64,
    prev_arr_delay: i64,
    streak: u64,
    advice: &'a str,
}

fn flown() -> Vec<Flight> {
    let mut reader = csv::Reader::from_reader(JANUARY.as_bytes());
    let headers = reader.headers().expect("a header line").clone();
    let mut flights = Vec::new();
    for (line, row) in reader.records().enumerate() {
        let row = row.expect("a row");
        let field = |name: &str| &row[headers.iter().position(|header| header == name).expect(name)];
        let number = |name: &str| field(name).parse::<i64>().expect(name);
        if ["", "NA"].contains(&field("tailnum")) || field("dep_time") == "NA" {
            continue;
        }
        let day = number("day");
        flights.push(Flight {
            line: line as u64,
            day: day as u64,
            date: format!("{:04}-{:02}-{day:02}", number("year"), number("month")),
            tailnum: field("tailnum").into(),
            carrier: field("carrier").into(),
            flight: number("flight"),
            origin: field("origin").into(),
            dest: field("dest").into(),
            dep_delay: number("dep_delay"),
            arr_delay: (field("arr_delay") != "NA").then(|| number("arr_delay")),
        });
    }
    flights
}

fn turnaround() -> Agent<Flight, String> {
    let mut agent = Agent::new("turnaround");
    let last = agent.memory::<i64>("arr_delay");
    let streaks = agent.memory::<u64>("streak");
    agent.on_input("track", move |flight: &Flight, ctx| {
        let late = ctx.get(last).filter(|delay| *delay >= 15 && flight.dep_delay >= 15);
        ctx.put(last, flight.arr_delay);
        let streak = late.map_or(0, |_| ctx.get(streaks).unwrap_or(0) + 1);
        ctx.put(streaks, streak);
        if let Some(prev_arr_delay) = late {
            let flight = flight.clone();
            ctx.send(Reactionary { flight, prev_arr_delay, streak });
        }
        Ok(())
    });
    agent.on_async("advise", async |event: &Reactionary, ctx| {
        let Reactionary { flight, streak, .. } = event;
        let asked = (*streak, flight.dep_delay);
        let call = ctx.durable("advisor", asked, |(streak, dep_delay)| async move {
            let advice = match (streak, dep_delay) {
                (3.., _) => "swap aircraft",
                (_, 60..) => "rebook connections",
                _ => "shorten turnaround",
            };
            advice.to_owned()
        });
        let advice = call.await?;
        ctx.output(serde_json::to_string(&Alert {
            date: &flight.date,
            tailnum: &flight.tailnum,
            carrier: &flight.carrier,
            flight: flight.flight,
            origin: &flight.origin,
            dest: &flight.dest,
            dep_delay: flight.dep_delay,
            prev_arr_delay: event.prev_arr_delay,
            streak: *streak,
            advice: &advice,
        })?);
        Ok(())
    });
    agent
}

/// The alerts when two workers share the lines.
fn alerts(sequenced: bool) -> Vec<String> {
    let alerts = Arc::new(Mutex::new(Vec::new()));
    let kept = Arc::clone(&alerts);
    let flights = Arc::new(flown());
    let guards = timely::execute(timely::Config::process(2), move |worker| {
        let mut agent = turnaround();
        if sequenced {
            agent.sequenced_by(|flight| flight.line);
        }
        let plan = agent.build().expect("a valid agent");
        let kept = Arc::clone(&kept);
        let (mut input, probe) = worker.dataflow::<u64, _, _>(|scope| {
            let (input, flights) = scope.new_input::<Vec<Flight>>();
            let (probe, _) = flights
                .agent(|flight| &flight.tailnum, &plan)
                .inspect(move |alert: &String| lock(&kept).push(alert.clone()))
                .probe();
            (input, probe)
        });
        let index = worker.index() as u64;
        let mine = flights.iter().filter(|flight| flight.line % 2 == index);
        for (count, flight) in mine.enumerate() {
            if *input.time() < flight.day {
                input.advance_to(flight.day);
            }
            input.send(flight.clone());
            if count % 256 == 0 {
                worker.step();
            }
        }
        input.close();
        worker.step_or_park_while(None, || !probe.done());
    });
    for result in guards.expect("workers start").join() {
        result.expect("a worker ends");
    }
    std::mem::take(&mut *lock(&alerts))
}

#[test]
fn lines_of_two_readers_give_the_alerts_of_one_under_sequence() {
    let reference = reference::interpret(JANUARY);
    let mut found = alerts(true);
    found.sort_unstable();
    assert_eq!(found.len(), 1_584);
    let found: String = found.iter().flat_map(|line| [line, "\n"]).collect();
    assert!(found == reference.sorted_lines(), "the same alerts, not only as many");
}

#[test]
fn lines_of_two_readers_under_arrival_all_run() {
    let known: usize = reference::interpret(JANUARY).flown;
    let found = alerts(false).len();
    assert!(found > 0 && found < known, "{found} alerts of {known} flights");
}
