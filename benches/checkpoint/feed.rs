//! A job of one worker with an input that the bench makes up, and what is seen of it while it runs.

use std::cell::{Cell, RefCell};
use std::path::Path;
use std::rc::Rc;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use hdrhistogram::Histogram;
use timely::container::CapacityContainerBuilder;
use timely::dataflow::StreamVec;
use timely::dataflow::channels::pact::Pipeline;
use timely::dataflow::operators::generic::{Operator, source};
use timely::logging::{StartStop, TimelyEvent, TimelyEventBuilder};
use timely::scheduling::Activator;
use timely::worker::Worker;
use timely_agents::cluster::{ClusterConfig, FailureKind};
use timely_agents::prelude::*;
use timely_agents::{Input, Plan, execute_with};
use timely_agents_operators::checkpoint::{Checkpoints, Compaction};
use timely_agents_operators::commit::Committed;

use crate::measure::{Error, now};

/// What a script does next, after what it has put into its buffer is sent.
pub(crate) enum Turn {
    /// Goes on.
    More,
    /// Closes the epoch.
    Close,
    /// Waits for an output, or for the next commit.
    Wait,
    /// Ends the input: the job is complete when all is committed.
    End,
    /// Stops the job: it can go on later.
    Stop,
}

/// What a script is told.
#[derive(Clone, Copy)]
pub(crate) struct Seen {
    /// The epoch that is open.
    pub(crate) epoch: u64,
    /// Epochs below are committed; `None` where nothing is, and at the end.
    pub(crate) committed: Option<u64>,
    /// Outputs so far.
    pub(crate) outputs: u64,
    /// The sum of their values.
    pub(crate) sum: u64,
}

/// How long an operator was active each time, in nanoseconds.
pub(crate) type Activations = Arc<Mutex<Histogram<u64>>>;

pub(crate) fn activations() -> Activations {
    Arc::new(Mutex::new(nanoseconds()))
}

/// A histogram of up to a minute.
pub(crate) fn nanoseconds() -> Histogram<u64> {
    Histogram::new_with_bounds(1, 60_000_000_000, 3).expect("the bounds are possible")
}

/// Checkpoints in `folder` that are never compacted: that goes on beside the run and would be measured with it. A job that
/// was stopped in this process holds its lock until the process ends, so that has to be taken over.
pub(crate) fn checkpoints(folder: &Path) -> Result<Checkpoints, Error> {
    let never = Compaction { minimum_bytes: u64::MAX, ..Compaction::default() };
    Ok(Checkpoints::dir(folder)?.compaction(never).take_over(true))
}

/// Runs `script` as the input of an agent until it says that it is over. `ready` is called when the agent is there, with
/// what it took up.
pub(crate) fn run<I: Input + timely::ExchangeData, O: 'static>(
    checkpoints: Option<Checkpoints>,
    plan: Plan<I, O>,
    key: impl Fn(&I) -> &u64 + Copy + Send + Sync + 'static,
    value: impl Fn(&O) -> u64 + Copy + Send + Sync + 'static,
    seen: Option<Activations>,
    ready: impl Fn() + Send + Sync + 'static,
    script: impl FnMut(Seen, &mut Vec<I>) -> Turn + Send + 'static,
) -> Result<(), Error> {
    drive(checkpoints, move |inputs| inputs.agent(key, &plan), value, seen, ready, script)
}

/// The same for what `build` makes of the inputs.
pub(crate) fn drive<I: timely::ExchangeData, O: 'static>(
    checkpoints: Option<Checkpoints>,
    build: impl for<'scope> Fn(StreamVec<'scope, u64, I>) -> StreamVec<'scope, u64, O> + Send + Sync + 'static,
    value: impl Fn(&O) -> u64 + Copy + Send + Sync + 'static,
    seen: Option<Activations>,
    ready: impl Fn() + Send + Sync + 'static,
    script: impl FnMut(Seen, &mut Vec<I>) -> Turn + Send + 'static,
) -> Result<(), Error> {
    let script = Mutex::new(Some(script));
    let result = execute_with(&ClusterConfig::single(1), checkpoints, move |worker, job| {
        let script = script.lock().unwrap_or_else(PoisonError::into_inner).take();
        let mut script = script.expect("a job of one worker is built once");
        if let Some(seen) = &seen {
            watch(worker, "agent", seen);
        }
        let commits = job.committed().cloned();
        let (control, resume) = (job.control().clone(), job.resume_epoch());
        let outputs = Rc::new(Cell::new((0u64, 0u64)));
        let summed = Rc::clone(&outputs);
        let resting = Rc::new(RefCell::new(None::<Activator>));
        let rested = Rc::clone(&resting);
        worker.dataflow::<u64, _, _>(|scope| {
            let inputs = source::<_, CapacityContainerBuilder<Vec<I>>, _, _>(scope, "Feed", |capability, info| {
                let activator = scope.worker().activator_for(info.address.clone());
                let woken = scope.worker().activator_for(info.address);
                if let Some(commits) = &commits {
                    commits.watch(move |_| woken.activate());
                }
                let mut held = Some(capability);
                if let Some(held) = &mut held {
                    held.downgrade(&resume);
                }
                let mut buffer = Vec::new();
                move |output| {
                    let Some(capability) = &mut held else { return };
                    let (outputs, sum) = outputs.get();
                    let committed = commits.as_ref().and_then(Committed::frontier);
                    let turn = script(Seen { epoch: *capability.time(), committed, outputs, sum }, &mut buffer);
                    if !buffer.is_empty() {
                        output.session(&*capability).give_container(&mut buffer);
                        buffer.clear();
                    }
                    match turn {
                        Turn::More => activator.activate(),
                        Turn::Close => {
                            let next = capability.time() + 1;
                            capability.downgrade(&next);
                            activator.activate();
                        }
                        Turn::Wait => *resting.borrow_mut() = Some(activator.clone()),
                        Turn::End => held = None,
                        Turn::Stop => {
                            control.fail(timely_agents::cluster::Failure::stopped("the bench has seen enough"));
                        }
                    }
                }
            });
            let outputs = build(inputs);
            // Streams have a `sink` of the prelude's too.
            Operator::sink(outputs, Pipeline, "Sum", move |(input, _)| {
                input.for_each(|_, data| {
                    let (count, sum) = summed.get();
                    let more = data.iter().fold(0, |sum: u64, output| sum.wrapping_add(value(output)));
                    summed.set((count + data.len() as u64, sum.wrapping_add(more)));
                    data.clear();
                });
                if let Some(feed) = rested.borrow_mut().take() {
                    feed.activate();
                }
            });
        });
        ready();
        Ok(())
    });
    if let Err(failure) = result
        && failure.kind() != FailureKind::Stopped
    {
        return Err(failure.into());
    }
    Ok(())
}

/// Records how long the operators called `name` are active each time.
fn watch(worker: &Worker, name: &'static str, seen: &Activations) {
    let Some(mut register) = worker.log_register() else { return };
    let seen = Arc::clone(seen);
    let watched: RefCell<Vec<(usize, Duration)>> = RefCell::default();
    register.insert::<TimelyEventBuilder, _>("timely", move |_, events| {
        let mut watched = watched.borrow_mut();
        let mut seen = seen.lock().unwrap_or_else(PoisonError::into_inner);
        for (at, event) in events.iter().flatten() {
            match event {
                TimelyEvent::Operates(operates) if operates.name == name => {
                    watched.push((operates.id, *at));
                }
                TimelyEvent::Schedule(schedule) => {
                    let Some((_, began)) = watched.iter_mut().find(|(id, _)| *id == schedule.id) else { continue };
                    match schedule.start_stop {
                        StartStop::Start => *began = *at,
                        StartStop::Stop => seen.saturating_record(at.saturating_sub(*began).as_nanos() as u64),
                    }
                }
                _ => {}
            }
        }
    });
}

/// Milliseconds since a moment.
pub(crate) fn milliseconds(since: std::time::Instant) -> f64 {
    now().duration_since(since).as_secs_f64() * 1e3
}
