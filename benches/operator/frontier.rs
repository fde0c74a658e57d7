//! What progress costs: an epoch's round trip, and completions while many times are open.
//!
//! # Workload
//! `round_trip`: an epoch of one input, then steps until the probe has passed it, 100,000 times. The agent has its data
//! and its facts port in use, both probed; it counts, and a fact goes out for each epoch.
//! `in_flight`: 50,000 runs wait at 50,000 distinct times. The oldest is let go, a new one sent, and steps are made until
//! the probe has passed the oldest: 20,000 times. The wait is a future of the program's own, woken by its waker.
//!
//! # Back-of-the-envelope limit
//! A step over an input, an operator and a probe costs about 0.5 µs of scheduling and progress each; an output port more
//! costs 0.4 µs, a fact 0.3 µs. With one capability at the least open time a completion costs one epoch's progress
//! however many times are open; with one capability per time, it would cost a scan of all of them.
//!
//! # Baseline
//! `round_trip`: `unary_frontier` with one output port, which counts and outputs. `in_flight`: a timely operator with one
//! capability and a queue, woken through a `SyncActivator`.

use std::cell::Cell;
use std::collections::VecDeque;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Waker};

use timely::container::CapacityContainerBuilder;
use timely::dataflow::channels::pact::Exchange;
use timely::dataflow::operators::Probe;
use timely::dataflow::operators::generic::Operator;
use timely::dataflow::{InputHandle, ProbeHandle, StreamVec};
use timely::worker::Worker;
use timely_agents::prelude::*;
use timely_agents_operators::limits::Limits;

use crate::baseline::{self, FastMap};
use crate::counter;
use crate::replies::Replies;
use crate::report::Row;
use crate::support::{Error, Scale, TURNS, median, mix, now};

/// Counts like the agent, and waits for the frontier's sake only.
fn count_by_epoch(stream: StreamVec<'_, u64, u64>) -> StreamVec<'_, u64, (u64, u64)> {
    let mut counts = FastMap::<u64, u64>::default();
    stream.unary_frontier(Exchange::new(|value: &u64| mix(*value)), "CountByEpoch", move |_, _| {
        let mut closed = None;
        move |(input, frontier), output| {
            input.for_each_time(|time, batches| {
                let mut session = output.session(&time);
                for value in batches.flat_map(|batch| batch.drain(..)) {
                    let count = counts.entry(value).or_default();
                    *count += 1;
                    session.give((value, *count));
                }
            });
            closed = frontier.frontier().first().copied().max(closed);
        }
    })
}

fn round_trip_turn(agent: bool, epochs: u64) -> f64 {
    timely::execute_directly(move |worker| {
        let mut input = InputHandle::<u64, CapacityContainerBuilder<Vec<u64>>>::new_with_builder();
        let probe = ProbeHandle::new();
        worker.dataflow(|scope| {
            let stream = input.to_stream(scope);
            if agent {
                let (output, facts) = timely_agents::agent_with_facts(stream, |value: &u64| value, &counter::plan());
                output.probe_with(&probe);
                facts.probe_with(&probe);
            } else {
                count_by_epoch(stream).probe_with(&probe);
            }
        });
        let mut round = |worker: &mut Worker, epochs: std::ops::Range<u64>| {
            for epoch in epochs {
                input.send(mix(epoch) % 1000);
                input.advance_to(epoch + 1);
                worker.step_while(|| probe.less_than(&(epoch + 1)));
            }
        };
        round(worker, 0..epochs / 10);
        let start = now();
        round(worker, epochs / 10..epochs / 10 + epochs);
        start.elapsed().as_secs_f64() / epochs as f64
    })
}

/// Lets futures go in the order in which they were first polled.
#[derive(Default)]
struct Gate {
    entered: AtomicU64,
    released: AtomicU64,
    waiting: Mutex<VecDeque<Waker>>,
}

impl Gate {
    fn release(&self) {
        self.released.fetch_add(1, Relaxed);
        let first = self.waiting.lock().expect("nobody panics with it").pop_front();
        if let Some(waker) = first {
            waker.wake();
        }
    }

    fn pass(self: &Arc<Self>) -> Pass {
        Pass { gate: Arc::clone(self), ticket: None }
    }
}

struct Pass {
    gate: Arc<Gate>,
    ticket: Option<u64>,
}

impl Future for Pass {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        if let Some(ticket) = self.ticket {
            return if ticket < self.gate.released.load(Relaxed) { Poll::Ready(()) } else { Poll::Pending };
        }
        self.ticket = Some(self.gate.entered.fetch_add(1, Relaxed));
        let mut waiting = self.gate.waiting.lock().expect("nobody panics with it");
        waiting.push_back(context.waker().clone());
        Poll::Pending
    }
}

fn holding_agent(gate: Arc<Gate>, open: u64) -> timely_agents::Plan<u64, u64> {
    let mut agent = Agent::<u64, u64>::new("holder");
    agent.on_input_async("hold", async move |value, ctx| {
        gate.pass().await;
        ctx.output(*value);
        Ok(())
    });
    agent.limits(Limits { open_epochs: open as usize * 2, ..Limits::default() });
    agent.build().expect("the agent is sound")
}

/// Seconds per completion with `open` times open.
fn in_flight_turn(agent: bool, open: u64, completions: u64) -> f64 {
    timely::execute_directly(move |worker| {
        let mut input = InputHandle::<u64, CapacityContainerBuilder<Vec<u64>>>::new_with_builder();
        let gate = Arc::new(Gate::default());
        let replies: Rc<Cell<Option<Arc<Replies<()>>>>> = Rc::default();
        let given = Rc::clone(&replies);
        let gate_of_agent = Arc::clone(&gate);
        let probe = worker.dataflow(|scope| {
            let stream = input.to_stream(scope);
            let stream = if agent {
                stream.agent(|value: &u64| value, &holding_agent(gate_of_agent, open))
            } else {
                baseline::hold_each(stream, move |replies| given.set(Some(replies)))
            };
            stream.probe().0
        });
        let replies = replies.take();
        let release = || match &replies {
            Some(replies) => replies.push(()),
            None => gate.release(),
        };
        for epoch in 0..open {
            input.send(epoch);
            input.advance_to(epoch + 1);
            worker.step();
        }
        for _ in 0..3 {
            worker.step();
        }
        let start = now();
        for epoch in 0..completions {
            release();
            input.send(open + epoch);
            input.advance_to(open + epoch + 1);
            worker.step_while(|| probe.less_equal(&epoch));
        }
        let seconds = start.elapsed().as_secs_f64() / completions as f64;
        // The rest may end as it likes.
        (0..open).for_each(|_| release());
        seconds
    })
}

fn row(name: &str, turn: impl Fn(bool) -> f64) -> (Row, f64, f64) {
    let (mut agent, mut bare) = (Vec::new(), Vec::new());
    for _ in 0..TURNS {
        agent.push(turn(true));
        bare.push(turn(false));
    }
    let (agent, bare) = (median(agent), median(bare));
    let row = Row::new(name, 1, 1.0 / agent, 1.0 / bare).also("us", agent * 1e6).also("baseline_us", bare * 1e6);
    (row, agent, bare)
}

#[expect(clippy::unnecessary_wraps, reason = "as all cases")]
pub(crate) fn frontier(scale: Scale) -> Result<Vec<Row>, Error> {
    let epochs = scale.of(100_000, 500);
    let (round_trip, agent, bare) = row("frontier/round_trip", |agent| round_trip_turn(agent, epochs));
    let round_trip = round_trip.target("within 2x of the baseline", agent <= 2.0 * bare);
    let (open, completions) = (scale.of(50_000, 500), scale.of(20_000, 200));
    let (in_flight, agent, _) = row("frontier/in_flight", |agent| in_flight_turn(agent, open, completions));
    let in_flight = in_flight.also("open_times", open as f64).target("under 5 µs a completion", agent < 5e-6);
    Ok(vec![round_trip, in_flight])
}
