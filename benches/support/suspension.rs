//! Many runs that wait at once: the workload of the bench of suspended runs and of its test.
//!
//! Keys are 16 bytes, events 100. Of every two keys one waits in a call, which is a task of the runtime, and one in
//! `ctx.sleep`, which is a timer of the operator.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};
use timely::dataflow::operators::Probe;
use timely::dataflow::{InputHandle, ProbeHandle};
use timely_agents::prelude::*;
use tokio::sync::Notify;

use super::process::{processor_time, resident_bytes};

type Error = Box<dyn std::error::Error + Send + Sync>;

/// 16 bytes of key and 84 of text.
#[derive(Clone, Serialize, Deserialize)]
struct Event {
    key: [u8; 16],
    text: ([u8; 32], [u8; 32], [u8; 20]),
}

impl Event {
    fn new(number: u64) -> Self {
        let mut key = [0; 16];
        key[..8].copy_from_slice(&number.wrapping_mul(0x9E37_79B9_7F4A_7C15).to_le_bytes());
        key[8..].copy_from_slice(&number.to_le_bytes());
        Event { key, text: ([b'a'; 32], [b'b'; 32], [b'c'; 20]) }
    }

    /// Whether its run waits in a call.
    fn calls(&self) -> bool {
        self.key[8].is_multiple_of(2)
    }
}

/// What runs that wait cost.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Waiting {
    /// Processor time by time passed: 0.01 is a hundredth of a core.
    pub(crate) share_of_core: f64,
    /// Resident bytes per run.
    pub(crate) bytes_per_run: f64,
    /// How long it took until all runs waited.
    pub(crate) admission: Duration,
}

/// Suspends `runs` runs and looks at the process for the time `watched`. Memory means something only where the process
/// has not used and freed much before.
pub(crate) fn waiting(runs: u64, watched: Duration) -> Result<Waiting, Error> {
    // The runtime's threads are not part of any run.
    drop(timely_agents_operators::runtime::handle()?);
    let end = Arc::new(Notify::new());
    let begun = Arc::new(AtomicU64::new(0));
    let in_calls = Arc::new(AtomicU64::new(0));
    let mut agent = Agent::<Event, u64>::new("waiter");
    let (end_of_calls, begun_by, called_by) = (Arc::clone(&end), Arc::clone(&begun), Arc::clone(&in_calls));
    agent.on_input_async("wait", async move |event, ctx| {
        begun_by.fetch_add(1, Relaxed);
        if event.calls() {
            let (end, called) = (Arc::clone(&end_of_calls), Arc::clone(&called_by));
            ctx.call("pending", move || async move {
                called.fetch_add(1, Relaxed);
                end.notified().await;
            })
            .await?;
        } else {
            ctx.sleep(Duration::from_hours(1)).await;
        }
        Ok(())
    });
    let plan = agent.build()?;
    timely::execute_directly(move |worker| {
        let mut input = InputHandle::<u64, _>::new();
        let dataflow = worker.next_dataflow_index();
        let probe = worker.dataflow(|scope| input.to_stream(scope).agent(|event: &Event| &event.key, &plan).probe().0);
        let probe: ProbeHandle<u64> = probe;
        worker.step();
        let before = resident_bytes()?;
        let start = now();
        for number in 0..runs {
            input.send(Event::new(number));
            if number % 1024 == 0 {
                input.flush();
                worker.step();
            }
        }
        input.advance_to(1);
        while begun.load(Relaxed) < runs || in_calls.load(Relaxed) < runs / 2 {
            worker.step_or_park(Some(Duration::from_millis(1)));
        }
        let admission = start.elapsed();
        let grown = resident_bytes()?.saturating_sub(before);
        let (used, start) = (processor_time()?, now());
        while let Some(left) = watched.checked_sub(start.elapsed()) {
            worker.step_or_park(Some(left));
        }
        let used = processor_time()?.saturating_sub(used);
        let share_of_core = used.as_secs_f64() / start.elapsed().as_secs_f64();
        assert!(probe.less_equal(&0), "all runs are still waiting");
        // The timers have an hour to go.
        worker.drop_dataflow(dataflow);
        end.notify_waiters();
        Ok(Waiting { share_of_core, bytes_per_run: grown as f64 / runs as f64, admission })
    })
}

/// How long `keys` keys take on one worker when each has one run that waits for `pause`.
pub(crate) fn pauses(keys: u64, pause: Duration) -> Result<Duration, Error> {
    let mut agent = Agent::<Event, u64>::new("pausing");
    agent.on_input_async("pause", async move |event, ctx| {
        if event.calls() {
            ctx.call("pause", move || tokio::time::sleep(pause)).await?;
        } else {
            ctx.sleep(pause).await;
        }
        ctx.output(1);
        Ok(())
    });
    let plan = agent.build()?;
    Ok(timely::execute_directly(move |worker| {
        let mut input = InputHandle::<u64, _>::new();
        let probe = worker.dataflow(|scope| input.to_stream(scope).agent(|event: &Event| &event.key, &plan).probe().0);
        let start = now();
        for number in 0..keys {
            input.send(Event::new(number));
        }
        input.advance_to(1);
        worker.step_or_park_while(None, || probe.less_than(&1));
        start.elapsed()
    }))
}

#[expect(clippy::disallowed_methods, reason = "it measures the machine's time")]
fn now() -> Instant {
    Instant::now()
}
