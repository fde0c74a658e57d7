//! Runs a case on real timely workers and keeps what comes out.

use std::io::Write as _;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::rc::Rc;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use timely::dataflow::channels::pact::Pipeline;
use timely::dataflow::operators::generic::Operator;
use timely::dataflow::operators::vec::UnorderedInput;
use timely::dataflow::operators::{ActivateCapability, Probe};
use timely::dataflow::{ProbeHandle, StreamVec};
use timely::worker::Worker;
use timely_agents::{AgentStream, DeadLetter, EventRecord};
use timely_agents_operators::clock::Clock;
use timely_agents_operators::time::{EpochTime, Stamp};

use crate::plan::{Case, Emit, Feed, Random, Record};
use crate::translate::{Shared, agent, lock, on_worker};

/// Epoch and event time.
pub(crate) type When = (u64, u64);

/// All that came out, of each stream in order of arrival at its end.
#[derive(Default)]
pub(crate) struct Captured {
    pub(crate) outputs: Vec<(When, Emit)>,
    pub(crate) sides: Vec<(When, Emit)>,
    pub(crate) letters: Vec<(When, DeadLetter<Record>)>,
    pub(crate) events: Vec<(When, EventRecord)>,
}

/// Times that cases run over.
pub(crate) trait CaseTime: EpochTime + timely::progress::timestamp::Refines<()> {
    fn at(epoch: u64, event: u64) -> Self;
}

impl CaseTime for u64 {
    fn at(epoch: u64, _: u64) -> u64 {
        epoch
    }
}

impl CaseTime for Stamp {
    fn at(epoch: u64, event: u64) -> Stamp {
        Stamp::new(epoch, event)
    }
}

/// How long a case may take before it counts as hanging.
const PATIENCE: Duration = Duration::from_mins(2);

/// Runs a case; what its tasks marked, and what came out.
pub(crate) fn run(case: &Arc<Case>, salt: u64) -> (Arc<Shared>, Captured) {
    if case.stamped { run_over::<Stamp>(case, salt) } else { run_over::<u64>(case, salt) }
}

fn run_over<T: CaseTime>(case: &Arc<Case>, salt: u64) -> (Arc<Shared>, Captured) {
    let shared = Arc::new(Shared::new(case.feeds.len()));
    let captured = Arc::new(Mutex::new(Captured::default()));
    let config = timely::Config::process(case.feeds.len());
    let guards = {
        let (case, shared, captured) = (Arc::clone(case), Arc::clone(&shared), Arc::clone(&captured));
        timely::execute(config, move |worker| {
            let fed = catch_unwind(AssertUnwindSafe(|| feed::<T>(worker, &case, &shared, &captured, salt)));
            if let Err(panic) = fed {
                let text = panic.downcast_ref::<String>().map(String::as_str);
                let text = text.or(panic.downcast_ref::<&str>().copied()).unwrap_or("?");
                give_up(case.seed, worker.index(), &format!("panics: {text}"));
            }
        })
        .expect("workers start")
    };
    for result in guards.join() {
        result.unwrap_or_else(|panic| panic!("seed {}: a worker has panicked: {panic}", case.seed));
    }
    let captured = std::mem::take(&mut *lock(&captured));
    (shared, captured)
}

fn feed<T: CaseTime>(
    worker: &mut Worker,
    case: &Arc<Case>,
    shared: &Arc<Shared>,
    captured: &Arc<Mutex<Captured>>,
    salt: u64,
) {
    let index = worker.index();
    // Without a clock of its own a test cannot tell a hang from a slow machine.
    let clock = Clock::system();
    let begun = clock.now();
    let seed = case.seed;
    let patience = move || {
        if clock.now() - begun > PATIENCE.as_micros() as u64 {
            give_up(seed, index, "hangs");
        }
    };
    let mut random = Random(case.seed ^ (salt << 8) ^ index as u64);
    let probes = Rc::new([ProbeHandle::<T>::new(), ProbeHandle::new()]);
    let (mut input, mut capability) = worker.dataflow::<T, _, _>(|scope| {
        let (plan, tag) = agent(case, shared);
        let (input, records) = scope.new_unordered_input::<Record>();
        let keep = |what: fn(&mut Captured, When, &Emit)| {
            let captured = Arc::clone(captured);
            move |when: When, item: &Emit| what(&mut lock(&captured), when, item)
        };
        let keep_output = keep(|captured, when, item| captured.outputs.push((when, item.clone())));
        let keep_side = keep(|captured, when, item| captured.sides.push((when, item.clone())));
        let letters = Arc::clone(captured);
        let keep_letter = move |when, item: &DeadLetter<Record>| lock(&letters).letters.push((when, item.clone()));
        let events = Arc::clone(captured);
        let keep_event = move |when, item: &EventRecord| lock(&events).events.push((when, item.clone()));
        let passed = Rc::clone(&probes);
        let late = Late(Arc::clone(shared));
        if case.keyed {
            let (output, streams) = records.key_by(|record| record.key).agent_streams(&plan);
            let output = output.pairs();
            watch(output, late.clone(), 0, &passed, move |when, (key, item): &(u64, Emit)| {
                assert_eq!(*key, item.key, "an output goes with the key of its run");
                keep_output(when, item);
            });
            watch(streams.side(tag), late.clone(), 1, &passed, keep_side);
            watch(streams.dead_letters(), late.clone(), 1, &passed, keep_letter);
            if case.observed {
                watch(streams.events(), late, 1, &passed, keep_event);
            }
        } else {
            let streams = records.agent_streams(|record| &record.key, &plan);
            watch(streams.output.clone(), late.clone(), 0, &passed, keep_output);
            watch(streams.side(tag), late.clone(), 1, &passed, keep_side);
            watch(streams.dead_letters(), late.clone(), 1, &passed, keep_letter);
            if case.observed {
                watch(streams.events(), late, 1, &passed, keep_event);
            }
        }
        input
    });
    let passed = Rc::clone(&probes);
    on_worker(index, Box::new(move |epoch, event| passed.iter().any(|probe| !probe.less_equal(&T::at(epoch, event)))));
    let announce = |epoch| shared.epochs[index].store(epoch, Ordering::SeqCst);
    // Records of one time that follow each other go as one batch.
    let mut batch: Vec<Record> = Vec::new();
    let mut send = |batch: &mut Vec<Record>, capability: &ActivateCapability<T>| {
        if let Some(first) = batch.first() {
            let own = capability.delayed(&T::at(capability.time().epoch(), first.event));
            input.activate().session(&own).give_iterator(batch.drain(..));
        }
    };
    for step in &case.feeds[index] {
        match step {
            Feed::Send(record) => {
                let together = batch.first().is_none_or(|first| !case.stamped || first.event == record.event);
                if !together {
                    send(&mut batch, &capability);
                }
                batch.push(record.clone());
                continue;
            }
            _ => send(&mut batch, &capability),
        }
        match step {
            Feed::Send(_) | Feed::Flush => {}
            Feed::Advance(epoch) => {
                if *epoch > capability.time().epoch() {
                    announce(*epoch);
                    capability.downgrade(&T::at(*epoch, 0));
                }
            }
            Feed::Step(times) => {
                for _ in 0..*times {
                    worker.step();
                }
            }
            Feed::Release(count) => shared.release(*count, &mut random),
            Feed::Settle => {
                // What every worker has left behind gets done without any of them going on.
                let floor = T::at(shared.floor(), 0);
                while probes.iter().any(|probe| probe.less_than(&floor)) {
                    patience();
                    shared.release(1, &mut random);
                    worker.step_or_park(Some(Duration::from_micros(100)));
                }
            }
        }
    }
    send(&mut batch, &capability);
    announce(u64::MAX);
    drop(capability);
    drop(input);
    while worker.step_or_park(Some(Duration::from_micros(100))) {
        patience();
        if random.below(2) == 0 {
            shared.release(2, &mut random);
        }
    }
}

/// Ends the process: other workers would wait for this one for ever.
fn give_up(seed: u64, worker: usize, why: &str) -> ! {
    // Past the capture of tests, which an abort would drop.
    let text = format!("seed {seed} (AGENTS_ORACLE_SEED={seed} repeats it): worker {worker} {why}\n");
    let _ = std::io::stderr().write_all(text.as_bytes());
    std::process::abort()
}

/// Reports items behind the frontier.
#[derive(Clone)]
struct Late(Arc<Shared>);

/// Hands each item to `keep` in the order of arrival (timely's own `inspect` sorts by time), and probes what follows.
fn watch<'scope, T: CaseTime, D: Clone + 'static>(
    stream: StreamVec<'scope, T, D>,
    late: Late,
    probe: usize,
    probes: &Rc<[ProbeHandle<T>; 2]>,
    keep: impl Fn(When, &D) + 'static,
) {
    let seen = Rc::clone(probes);
    let stream: StreamVec<'scope, T, D> = stream.unary(Pipeline, "Watch", |_, _| {
        move |input, output| {
            input.for_each(|capability, items| {
                let time = capability.time();
                if seen.iter().enumerate().any(|(i, p)| i == probe && !p.less_equal(time)) {
                    late.0.fault(format!("S5: an item at {time:?} behind the frontier"));
                }
                for item in items.iter() {
                    keep((time.epoch(), time.event_time()), item);
                }
                output.session(&capability).give_container(items);
            });
        }
    });
    stream.probe_with(&probes[probe]);
}
