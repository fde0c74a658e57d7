//! How long an input takes to its output, and a completed call to its resumed action.
//!
//! # Workload
//! `input`: `counter_u64` with 1,000 keys on one worker that spins. First both sides run closed-loop in batches of 128, an
//! epoch each; half of the lower of the two rates is then offered to both on a fixed schedule, whatever they do: each
//! step sends what has come due, at most 128, as an epoch. An input's latency counts from the moment it was due; all
//! outputs seen after a step count as late as the oldest of them.
//! `resume`: a worker is parked; every 200 µs a thread lets a task of the runtime take the time and end, which resumes
//! one waiting action; its latency ends in the action.
//!
//! # Back-of-the-envelope limit
//! A batch waits for the batch before it and then goes through: an epoch's round of 3 µs and 128 inputs at 30 ns,
//! about 6 µs. A parked thread takes 5 µs from `unpark` to running; draining the queue and polling the action, 0.3 µs.
//!
//! # Baseline
//! `input`: the hand-written counter. `resume`: a timely operator that spawns the same task and is woken by it through a
//! `SyncActivator`, with nothing else to do.

use std::cell::RefCell;
use std::rc::Rc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;
use timely::container::CapacityContainerBuilder;
use timely::dataflow::channels::pact::Pipeline;
use timely::dataflow::operators::generic::{Operator, OutputBuilderSession};
use timely::dataflow::operators::{Capability, Probe};
use timely::dataflow::{InputHandle, StreamVec};
use timely::worker::Worker;
use timely_agents::prelude::*;
use tokio::sync::Notify;

use crate::counter;
use crate::replies::Replies;
use crate::report::Row;
use crate::support::{Error, Lane, Pace, Scale, TURNS, median, now};

/// Inputs in an epoch, at most.
const BATCH: usize = 128;
const GAP: Duration = Duration::from_micros(200);

/// The median and the 99th percentile of a turn, in nanoseconds.
#[derive(Clone, Copy)]
struct Quantiles {
    half: f64,
    p99: f64,
}

impl Quantiles {
    fn of(histogram: &Histogram<u64>) -> Self {
        Quantiles { half: histogram.value_at_quantile(0.5) as f64, p99: histogram.value_at_quantile(0.99) as f64 }
    }
}

/// Medians over the turns.
fn medians(turns: &[Quantiles]) -> Quantiles {
    Quantiles {
        half: median(turns.iter().map(|turn| turn.half).collect()),
        p99: median(turns.iter().map(|turn| turn.p99).collect()),
    }
}

fn histogram() -> Histogram<u64> {
    // From 1 ns to 10 minutes.
    Histogram::new_with_bounds(1, 600_000_000_000, 3).expect("the bounds are fine")
}

/// Offers `data` at `rate` inputs per second.
fn open_loop(worker: &mut Worker, lane: &mut Lane<u64>, data: &[u64], rate: f64) -> Quantiles {
    let mut latencies = histogram();
    let seen_before = lane.sum.get().0;
    let (mut sent, mut seen) = (0, 0);
    let start = now();
    while seen < data.len() {
        let due = ((start.elapsed().as_secs_f64() * rate) as usize).min(data.len());
        if due > sent {
            let end = due.min(sent + BATCH);
            lane.send_epoch(&data[sent..end]);
            sent = end;
        }
        worker.step();
        let out = (lane.sum.get().0 - seen_before) as usize;
        if out > seen {
            let oldest = start.elapsed().as_secs_f64() - (seen + 1) as f64 / rate;
            latencies.saturating_record_n((oldest * 1e9).max(0.0) as u64, (out - seen) as u64);
            seen = out;
        }
    }
    Quantiles::of(&latencies)
}

fn input(scale: Scale) -> Row {
    let data = counter::numbers(scale.of(2_000_000, 20_000), 0, 1000);
    let (rate, turns) = timely::execute_directly(move |worker| {
        let mut lanes = counter::lanes(worker);
        let pace = Pace { epoch: BATCH, ahead: 1, rounds: 1 };
        let mut rate = f64::INFINITY;
        for lane in &mut lanes {
            lane.turn(worker, &data, pace);
            let seconds = (0..TURNS).map(|_| lane.turn(worker, &data, pace).as_secs_f64());
            rate = rate.min(data.len() as f64 / median(seconds.collect()) / 2.0);
        }
        let mut turns = [Vec::new(), Vec::new()];
        for _ in 0..TURNS {
            for (lane, turns) in lanes.iter_mut().zip(&mut turns) {
                turns.push(open_loop(worker, lane, &data, rate));
            }
        }
        (rate, turns)
    });
    let [agent, bare] = turns.map(|turns| medians(&turns));
    latency_row("latency/input", rate, agent, bare).target("p50 under 20 µs", agent.half < 20e3)
}

/// Latencies of resumed waits, as they come.
type Latencies = Arc<Mutex<Histogram<u64>>>;

fn record(latencies: &Latencies, stamp: Instant) {
    let nanoseconds = stamp.elapsed().as_nanos() as u64;
    latencies.lock().expect("nobody panics with it").saturating_record(nanoseconds);
}

/// An operator that waits `waits` times, one after the other, for a task that ends with `gate`.
fn wait_bare(
    stream: StreamVec<'_, u64, u64>,
    gate: Arc<Notify>,
    waits: u64,
    latencies: Latencies,
) -> StreamVec<'_, u64, ()> {
    let scope = stream.scope();
    let runtime = timely_agents_operators::runtime::handle().expect("the runtime starts");
    stream.unary(Pipeline, "Wait", move |_, info| {
        let replies = Replies::new(scope.worker().sync_activator_for(info.address.to_vec()));
        let mut held: Option<Capability<u64>> = None;
        let mut left = waits;
        move |input, _: &mut OutputBuilderSession<'_, u64, CapacityContainerBuilder<Vec<()>>>| {
            let wait = || {
                let (replies, gate) = (Arc::clone(&replies), Arc::clone(&gate));
                runtime.spawn(async move {
                    gate.notified().await;
                    replies.push(now());
                });
            };
            input.for_each(|capability, data| {
                held = Some(capability.retain(0));
                data.clear();
                wait();
            });
            replies.drain(|stamp| {
                record(&latencies, stamp);
                left -= 1;
                if left == 0 {
                    held = None;
                } else {
                    wait();
                }
            });
        }
    })
}

fn waiting_agent(gate: Arc<Notify>, waits: u64, latencies: Latencies) -> timely_agents::Plan<u64, ()> {
    let mut agent = Agent::<u64, ()>::new("waiter");
    agent.on_input_async("wait", async move |_, ctx| {
        for _ in 0..waits {
            let (gate, start) = (Arc::clone(&gate), now());
            // An instant cannot be a result: it is told as what has passed since the call was made.
            let passed = ctx
                .call("gate", move || async move {
                    gate.notified().await;
                    start.elapsed()
                })
                .await?;
            record(&latencies, start + passed);
        }
        Ok(())
    });
    agent.build().expect("the agent is sound")
}

/// One turn of `resume`: an agent's, or a bare operator's.
fn resume_turn(agent: bool, waits: u64) -> Quantiles {
    let gate = Arc::new(Notify::new());
    let latencies: Latencies = Arc::new(Mutex::new(histogram()));
    let over = Arc::new(AtomicBool::new(false));
    let (pacer_gate, pacer_over) = (Arc::clone(&gate), Arc::clone(&over));
    let pacer = thread::spawn(move || {
        while !pacer_over.load(Relaxed) {
            thread::park_timeout(GAP);
            pacer_gate.notify_one();
        }
    });
    let recorded = Arc::clone(&latencies);
    timely::execute_directly(move |worker| {
        let mut input = InputHandle::<u64, CapacityContainerBuilder<Vec<u64>>>::new_with_builder();
        let probe = worker.dataflow(|scope| {
            let stream = input.to_stream(scope);
            let stream = if agent {
                stream.agent(|value: &u64| value, &waiting_agent(gate, waits, recorded))
            } else {
                wait_bare(stream, gate, waits, recorded)
            };
            stream.probe().0
        });
        input.send(0);
        input.advance_to(1);
        worker.step_or_park_while(None, || probe.less_than(&1));
    });
    over.store(true, Relaxed);
    pacer.join().expect("the pacer does not panic");
    let latencies = latencies.lock().expect("nobody panics with it");
    Quantiles::of(&latencies)
}

fn resume(scale: Scale) -> Row {
    let waits = scale.of(5_000, 100);
    let turns = Rc::new(RefCell::new([Vec::new(), Vec::new()]));
    for _ in 0..TURNS {
        for (at, agent) in [true, false].into_iter().enumerate() {
            let turn = resume_turn(agent, waits);
            turns.borrow_mut()[at].push(turn);
        }
    }
    let [agent, bare] = [0, 1].map(|at| medians(&turns.borrow()[at]));
    latency_row("latency/resume", 1.0 / GAP.as_secs_f64(), agent, bare)
        .target("p50 within 2x of the baseline", agent.half <= 2.0 * bare.half)
}

/// Both sides get the same rate; the ratio is that of the medians.
fn latency_row(name: &str, rate: f64, agent: Quantiles, bare: Quantiles) -> Row {
    Row::new(name, 1, rate, rate)
        .ratio(bare.half / agent.half)
        .also("p50_us", agent.half / 1e3)
        .also("p99_us", agent.p99 / 1e3)
        .also("baseline_p50_us", bare.half / 1e3)
        .also("baseline_p99_us", bare.p99 / 1e3)
}

#[expect(clippy::unnecessary_wraps, reason = "as all cases")]
pub(crate) fn latency(scale: Scale) -> Result<Vec<Row>, Error> {
    Ok(vec![input(scale), resume(scale)])
}
