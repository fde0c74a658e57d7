//! Feeding and timing: two dataflows in one computation, the agent's and the baseline's, that take turns on one input.
//!
//! Data is made before the clock starts. A turn sends it in containers of 8 KiB, an epoch at a time, a few epochs ahead
//! of the probe, and ends when the probe has passed all of it on every worker. Outputs are summed behind both, and the
//! sums must agree.

use std::cell::Cell;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::time::Duration;

use timely::container::CapacityContainerBuilder;
use timely::dataflow::channels::pact::Pipeline;
use timely::dataflow::operators::Probe;
use timely::dataflow::operators::generic::{Operator, OutputBuilderSession};
use timely::dataflow::{InputHandle, ProbeHandle, StreamVec};
use timely::worker::Worker;

pub(crate) use crate::measure::{Error, Scale, median, mix, now};

/// Bytes of a container, as timely makes them by default.
const CONTAINER_BYTES: usize = 8 << 10;

/// Turns that count.
pub(crate) const TURNS: usize = 5;

/// How inputs are cut into epochs.
#[derive(Clone, Copy)]
pub(crate) struct Pace {
    /// Inputs of a worker per epoch.
    pub(crate) epoch: usize,
    /// Epochs ahead of the probe.
    pub(crate) ahead: u64,
    /// How often the data is sent in a turn.
    pub(crate) rounds: usize,
}

/// Outputs seen: how many, and the sum of their values.
pub(crate) type Sum = (u64, u64);

/// A dataflow from one input through an operator to a sum.
pub(crate) struct Lane<D: Clone + 'static> {
    pub(crate) input: InputHandle<u64, CapacityContainerBuilder<Vec<D>>>,
    pub(crate) probe: ProbeHandle<u64>,
    pub(crate) sum: Rc<Cell<Sum>>,
    buffer: Vec<D>,
}

impl<D: Clone + 'static> Lane<D> {
    pub(crate) fn new<O: 'static>(
        worker: &mut Worker,
        operator: impl for<'s> FnOnce(StreamVec<'s, u64, D>) -> StreamVec<'s, u64, O>,
        value: impl Fn(&O) -> u64 + 'static,
    ) -> Self {
        let mut input = InputHandle::new_with_builder();
        let sum = Rc::new(Cell::new((0, 0)));
        let summed = Rc::clone(&sum);
        let probe = worker.dataflow(|scope| {
            operator(input.to_stream(scope))
                .unary(Pipeline, "Sum", move |_, _| {
                    move |input, _: &mut OutputBuilderSession<'_, u64, CapacityContainerBuilder<Vec<()>>>| {
                        input.for_each(|_, data| {
                            let (count, values): Sum = summed.get();
                            let more: u64 = data.iter().fold(0, |sum, output| sum.wrapping_add(value(output)));
                            summed.set((count + data.len() as u64, values.wrapping_add(more)));
                            data.clear();
                        });
                    }
                })
                .probe()
                .0
        });
        Lane { input, probe, sum, buffer: Vec::new() }
    }

    /// Sends `data` as an epoch of its own.
    #[inline]
    pub(crate) fn send_epoch(&mut self, data: &[D]) {
        let records = (CONTAINER_BYTES / size_of::<D>()).max(1);
        for chunk in data.chunks(records) {
            self.buffer.reserve(records);
            self.buffer.extend_from_slice(chunk);
            self.input.send_batch(&mut self.buffer);
            self.buffer.clear();
        }
        let next = self.input.time() + 1;
        self.input.advance_to(next);
    }

    /// Sends `data` and waits until all workers are done with theirs.
    pub(crate) fn turn(&mut self, worker: &mut Worker, data: &[D], pace: Pace) -> Duration {
        let start = now();
        for epoch in (0..pace.rounds).flat_map(|_| data.chunks(pace.epoch)) {
            self.send_epoch(epoch);
            worker.step();
            let behind = self.input.time().saturating_sub(pace.ahead);
            worker.step_or_park_while(None, || self.probe.less_than(&behind));
        }
        worker.step_or_park_while(None, || self.probe.less_than(self.input.time()));
        start.elapsed()
    }
}

/// Seconds of the turns.
pub(crate) struct Turns {
    pub(crate) agent: Vec<f64>,
    pub(crate) baseline: Vec<f64>,
}

impl Turns {
    /// Medians as rates of `inputs` per turn: agent, baseline.
    pub(crate) fn rates(&self, inputs: usize) -> (f64, f64) {
        let rate = |turns: &Vec<f64>| inputs as f64 / median(turns.clone());
        (rate(&self.agent), rate(&self.baseline))
    }

    /// The same of the fastest turns.
    pub(crate) fn best(&self, inputs: usize) -> (f64, f64) {
        let rate = |turns: &Vec<f64>| inputs as f64 / turns.iter().copied().fold(f64::INFINITY, f64::min);
        (rate(&self.agent), rate(&self.baseline))
    }
}

/// Lets agent and baseline take turns on `workers` workers, after a turn each that does not count.
///
/// `data` makes a worker's share; `lanes` builds the agent's dataflow and the baseline's.
pub(crate) fn compare<D: Clone + 'static>(
    workers: usize,
    turns: usize,
    pace: Pace,
    data: impl Fn(usize) -> Vec<D> + Send + Sync + 'static,
    lanes: impl Fn(&mut Worker) -> [Lane<D>; 2] + Send + Sync + 'static,
) -> Result<Turns, Error> {
    let arrived = Arc::new(AtomicUsize::new(0));
    let config = if workers == 1 { timely::Config::thread() } else { timely::Config::process(workers) };
    let guards = timely::execute(config, move |worker| {
        let data = data(worker.index());
        let mut lanes = lanes(worker);
        let mut seconds = [Vec::new(), Vec::new()];
        let mut meetings = 0;
        for turn in 0..=turns {
            for (lane, seconds) in lanes.iter_mut().zip(&mut seconds) {
                // All begin together. A worker that waits here goes on with its part of the others' work.
                meetings += workers;
                arrived.fetch_add(1, SeqCst);
                while arrived.load(SeqCst) < meetings {
                    worker.step_or_park(Some(Duration::from_micros(50)));
                }
                let elapsed = lane.turn(worker, &data, pace);
                if turn > 0 {
                    seconds.push(elapsed.as_secs_f64());
                }
            }
        }
        (seconds, lanes.map(|lane| lane.sum.get()))
    })?;
    let mut first = None;
    let mut sums = [(0, 0); 2];
    for result in guards.join() {
        let (seconds, more) = result?;
        for (sum, more) in sums.iter_mut().zip(more) {
            *sum = (sum.0 + more.0, u64::wrapping_add(sum.1, more.1));
        }
        first.get_or_insert(seconds);
    }
    if sums[0] != sums[1] || sums[0].0 == 0 {
        return Err(format!("agent and baseline gave other outputs: {sums:?} (count, sum)").into());
    }
    let [agent, baseline] = first.ok_or("no worker ran")?;
    Ok(Turns { agent, baseline })
}
