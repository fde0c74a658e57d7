//! The agent: one for each aircraft.
//!
//! Action `track` compares a flight with the one before it and sends an event for a reactionary delay; action `advise`
//! asks the advisor, away from the worker, and puts out an alert.

use serde::{Deserialize, Serialize};
use timely_agents::prelude::*;
use timely_agents::{BuildErrors, Plan};

use crate::advisor::Advisor;
use crate::flight::Flight;

/// A flight is late from this many minutes on.
const LATE: i32 = 15;

/// A late departure after a late arrival of the same aircraft.
#[derive(Clone, Serialize, Deserialize)]
struct Reactionary {
    flight: Flight,
    prev_arr_delay: i32,
    /// Reactionary delays in a row, this one included.
    streak: u32,
}

impl Event for Reactionary {
    const NAME: &'static str = "reactionary";
}

/// One line of the output.
#[derive(Clone, Serialize, Deserialize)]
pub(crate) struct Alert {
    pub(crate) date: String,
    tailnum: String,
    pub(crate) carrier: String,
    flight: u32,
    origin: String,
    dest: String,
    dep_delay: i32,
    prev_arr_delay: i32,
    streak: u32,
    advice: String,
}

impl Alert {
    fn new(event: &Reactionary, advice: String) -> Self {
        let flight = &event.flight;
        Alert {
            date: flight.date.to_string(),
            tailnum: flight.tailnum.clone(),
            carrier: flight.carrier.clone(),
            flight: flight.flight,
            origin: flight.origin.clone(),
            dest: flight.dest.clone(),
            dep_delay: flight.dep_delay,
            prev_arr_delay: event.prev_arr_delay,
            streak: event.streak,
            advice,
        }
    }
}

/// The agent's plan.
pub(crate) fn plan(advisor: &Advisor) -> Result<Plan<Flight, Alert>, BuildErrors> {
    let mut agent = Agent::<Flight, Alert>::new("turnaround");
    agent.retain_outputs();
    let arr_delay = agent.memory::<i32>("arr_delay");
    let streak = agent.memory::<u32>("streak");

    agent.on_input("track", move |flight, ctx| {
        let previous = ctx.get(arr_delay).filter(|minutes| *minutes >= LATE);
        match previous.filter(|_| flight.dep_delay >= LATE) {
            Some(prev_arr_delay) => {
                let streak = ctx.update(streak, |streak| {
                    *streak += 1;
                    *streak
                });
                ctx.send(Reactionary { flight: flight.clone(), prev_arr_delay, streak });
            }
            None => ctx.put(streak, 0),
        }
        // A delay that is not known is forgotten.
        ctx.put(arr_delay, flight.arr_delay);
        Ok(())
    });

    let advisor = advisor.clone();
    agent.on_async("advise", async move |event: &Reactionary, ctx| {
        let Flight { tailnum, date, flight, dep_delay, .. } = &event.flight;
        let (id, asked) = (format!("{tailnum} {date} {flight}"), advisor.clone());
        let advice = ctx.durable("advisor", (event.streak, *dep_delay), move |question| asked.advise(question, id));
        let advice = advice.await?.map_err(timely_agents::Error::new)?;
        advisor.taken();
        ctx.output(Alert::new(event, advice));
        Ok(())
    });
    agent.build()
}
