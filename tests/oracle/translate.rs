//! Builds a real agent from a plan description.
//!
//! Besides doing its operations each task leaves [`Mark`]s: where it starts, where it goes on after a wait, and what it
//! was told that may differ from execution to execution. They are the schedule that the oracle replays and judges.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures::channel::oneshot;
use futures::future::{Either, join, select};
use serde_json::Value;
use timely_agents::prelude::*;
use timely_agents::{CallError, NotifyError, PathError, Paths, Plan, Tag, names};
use timely_agents_operators::limits::Limits;

use crate::plan::{
    Case, Emit, Kind, Loose, NOTHING, Op, PATHS, Ping, Place, Pong, Random, Record, Then, Trigger, answer, mix, number,
    reading, sum,
};

/// What a task tells of the schedule.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Mark {
    /// A task starts, or starts again. The label is its first draw: the same in each attempt.
    Start {
        label: u64,
        action: usize,
        attempt: u32,
        name: String,
        attributes: Value,
        sequence: u64,
        epoch: u64,
        time: u64,
        /// The least epoch that some worker may still feed.
        floor: u64,
    },
    /// A task goes on after a wait.
    Resume { label: u64 },
    /// What `notify_at` said: `Some(floor)` when it said that the input has ended.
    Ended(Option<u64>),
    /// Which of two calls ended first.
    First(bool),
    /// A further draw.
    Draw(u64),
}

/// What the tasks of all workers share with the test.
pub(crate) struct Shared {
    /// By key: worker and mark, in order.
    pub(crate) marks: Mutex<BTreeMap<u64, Vec<(usize, Mark)>>>,
    pub(crate) faults: Mutex<Vec<String>>,
    /// By worker: the least epoch that it may still feed, told before its input advances.
    pub(crate) epochs: Vec<AtomicU64>,
    gate: Mutex<Vec<oneshot::Sender<()>>>,
}

impl Shared {
    pub(crate) fn new(workers: usize) -> Self {
        Shared {
            marks: Mutex::default(),
            faults: Mutex::default(),
            epochs: (0..workers).map(|_| AtomicU64::new(0)).collect(),
            gate: Mutex::default(),
        }
    }

    pub(crate) fn floor(&self) -> u64 {
        let epochs = self.epochs.iter().map(|epoch| epoch.load(Ordering::SeqCst));
        epochs.min().unwrap_or(0)
    }

    pub(crate) fn fault(&self, text: String) {
        lock(&self.faults).push(text);
    }

    /// Ends up to `count` of the calls that wait, any of them.
    pub(crate) fn release(&self, count: usize, random: &mut Random) {
        let mut gate = lock(&self.gate);
        for _ in 0..count.min(gate.len()) {
            let at = random.index(gate.len());
            // Nobody may wait any more.
            let _ = gate.swap_remove(at).send(());
        }
    }

    async fn pass(&self) {
        let (sender, receiver) = oneshot::channel();
        lock(&self.gate).push(sender);
        let _ = receiver.await;
    }
}

pub(crate) fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Whether the output's frontier has passed an epoch and event time.
type Passed = Box<dyn Fn(u64, u64) -> bool>;

thread_local! {
    /// This worker, and its view of the output's frontier.
    static WORKER: RefCell<Option<(usize, Passed)>> = const { RefCell::new(None) };
}

pub(crate) fn on_worker(index: usize, passed: Passed) {
    WORKER.set(Some((index, passed)));
}

/// Where things are in the agent.
#[derive(Clone, Copy)]
struct Handles {
    a: Slot<i64>,
    b: Slot<i64>,
    text: Slot<String>,
    sense: Slot<i64>,
    tag: Tag<Emit>,
}

#[derive(Clone)]
struct Actor {
    case: Arc<Case>,
    shared: Arc<Shared>,
    handles: Handles,
    index: usize,
}

struct State {
    key: u64,
    label: u64,
    acc: i64,
    n: i64,
}

type Outcome = Result<(), timely_agents::Error>;

impl Actor {
    fn mark(&self, key: u64, ctx: &Ctx<Emit>, mark: Mark) {
        WORKER.with_borrow(|worker| {
            let (index, passed) = worker.as_ref().expect("set before inputs are fed");
            if passed(ctx.epoch(), ctx.time()) {
                self.shared.fault(format!(
                    "S5: key {key}: the frontier has passed ({}, {}) before {mark:?}",
                    ctx.epoch(),
                    ctx.time()
                ));
            }
            lock(&self.shared.marks).entry(key).or_default().push((*index, mark));
        });
    }

    fn start(&self, name: &str, attributes: &Value, ctx: &Ctx<Emit>) -> State {
        let key: u64 = ctx.key().expect("keys are numbers");
        let label = ctx.random();
        let (n, x) = reading(attributes);
        let mark = Mark::Start {
            label,
            action: self.index,
            attempt: ctx.attempt(),
            name: name.into(),
            attributes: attributes.clone(),
            sequence: ctx.sequence(),
            epoch: ctx.epoch(),
            time: ctx.time(),
            floor: self.shared.floor(),
        };
        self.mark(key, ctx, mark);
        State { key, label, acc: mix(n, x), n }
    }

    fn run(&self, name: &str, attributes: &Value, ctx: &Ctx<Emit>) -> Outcome {
        let mut state = self.start(name, attributes, ctx);
        for op in self.case.program(self.index, attributes) {
            self.plain(op, &mut state, ctx)?;
        }
        Ok(())
    }

    async fn run_async(&self, name: &str, attributes: &Value, ctx: &Ctx<Emit>) -> Outcome {
        let mut state = self.start(name, attributes, ctx);
        for op in self.case.program(self.index, attributes) {
            match op {
                Op::Flush => ctx.flush().await,
                op if op.waits() => {
                    self.wait(op, &mut state, ctx).await;
                    self.mark(state.key, ctx, Mark::Resume { label: state.label });
                }
                op => self.plain(op, &mut state, ctx)?,
            }
        }
        Ok(())
    }

    async fn call(&self, ctx: &Ctx<Emit>, argument: i64) -> i64 {
        let shared = Arc::clone(&self.shared);
        let call = ctx.durable("ask", argument, move |argument| async move {
            if argument % 3 != 0 {
                shared.pass().await;
            }
            answer(argument)
        });
        told(call.await)
    }

    async fn wait(&self, op: &Op, state: &mut State, ctx: &Ctx<Emit>) {
        let acc = state.acc;
        match op {
            Op::Call => state.acc = mix(acc, self.call(ctx, acc).await),
            Op::PanickingCall => {
                let call = ctx.durable("break", acc, |acc: i64| async move {
                    assert!(acc < 0, "a call breaks");
                    acc
                });
                state.acc = mix(acc, told(call.await));
            }
            Op::SlowCall => {
                let call = ctx.durable("sleep", acc, |_| std::future::pending::<i64>());
                state.acc = mix(acc, told(call.timeout(Duration::from_micros(300)).await));
            }
            Op::Join => {
                let (one, two) = join(self.call(ctx, acc + 1), self.call(ctx, acc + 2)).await;
                state.acc = mix(mix(acc, one), two);
            }
            Op::Select => {
                let one = std::pin::pin!(self.call(ctx, acc + 1));
                let two = std::pin::pin!(self.call(ctx, acc + 2));
                let (first, value) = match select(one, two).await {
                    Either::Left((value, _)) => (true, value),
                    Either::Right((value, _)) => (false, value),
                };
                self.mark(state.key, ctx, Mark::First(first));
                state.acc = mix(acc, value);
            }
            Op::Sleep => ctx.sleep(Duration::ZERO).await,
            op => unreachable!("{op:?} does not wait"),
        }
    }

    fn plain(&self, op: &Op, state: &mut State, ctx: &Ctx<Emit>) -> Outcome {
        let Handles { a, b, text, sense, tag } = self.handles;
        let acc = state.acc;
        match op {
            Op::Load(place) => state.acc = mix(acc, self.load(*place, ctx)),
            Op::Store(place) => match place {
                Place::A => ctx.put(a, acc),
                Place::B => ctx.put(b, acc),
                Place::Text => ctx.put(text, acc.to_string()),
                Place::Sense => ctx.put(sense, acc),
                Place::Path(_) | Place::SensePath(_) => {
                    let (paths, path) = path_of(*place, ctx);
                    if let Err(error) = paths.set(path, acc) {
                        state.acc = mix(acc, refusal(&error));
                    }
                }
            },
            Op::Add(place) => {
                let add = |value: &mut i64| {
                    *value = sum(*value, acc);
                    *value
                };
                state.acc = match place {
                    Place::A => ctx.update(a, add),
                    Place::B => ctx.update(b, add),
                    Place::Sense => ctx.update(sense, add),
                    Place::Text => ctx.update(text, |value| {
                        let sum = sum(value.parse().unwrap_or(0), acc);
                        *value = sum.to_string();
                        sum
                    }),
                    Place::Path(_) | Place::SensePath(_) => {
                        let (paths, path) = path_of(*place, ctx);
                        paths.update(path, add).unwrap_or_else(|error| mix(acc, refusal(&error)))
                    }
                };
            }
            Op::Forget(place) => match place {
                Place::A => ctx.put(a, None),
                Place::B => ctx.put(b, None),
                Place::Text => ctx.put(text, None),
                Place::Sense => ctx.put(sense, None),
                Place::Path(_) | Place::SensePath(_) => {
                    let (paths, path) = path_of(*place, ctx);
                    state.acc = mix(acc, paths.remove(path) as i64);
                }
            },
            Op::Take(place) => {
                let value = match place {
                    Place::A => ctx.take(a),
                    Place::B => ctx.take(b),
                    Place::Text => ctx.take(text).and_then(|text| text.parse().ok()),
                    place => unreachable!("{place:?} is no lasting slot"),
                };
                state.acc = mix(acc, value.unwrap_or(NOTHING));
            }
            Op::List => state.acc = mix(acc, listing(ctx)),
            Op::Output => ctx.output(self.emit(state, vec![acc])),
            Op::Dump => {
                let places = [Place::A, Place::B, Place::Text, Place::Sense].into_iter();
                let places =
                    places.chain((0..PATHS.len()).map(Place::Path)).chain((0..PATHS.len()).map(Place::SensePath));
                let mut values: Vec<i64> = places.map(|place| self.load(place, ctx)).collect();
                values.push(listing(ctx));
                ctx.output(self.emit(state, values));
            }
            Op::Side => ctx.side(tag, self.emit(state, vec![acc])),
            Op::Send(_) if state.n <= 0 => {}
            Op::Send(kind) => {
                let (n, x) = (state.n - 1, acc);
                match kind {
                    Kind::Ping => ctx.send(Ping { n, x }),
                    Kind::Pong => ctx.send(Pong { n, x }),
                    Kind::Loose => ctx.send(Loose { n, x }),
                    kind => ctx.send_dynamic(DynamicEvent::new(kind.name(), kind.attributes(n, x))),
                }
            }
            Op::Notify(delta) => {
                let result = ctx.notify_at(ctx.epoch().saturating_add_signed(*delta));
                let ended = match result {
                    Ok(()) => None,
                    Err(NotifyError::SameEpoch(_)) => {
                        state.acc = mix(acc, 1);
                        None
                    }
                    Err(NotifyError::Ended(_)) => {
                        state.acc = mix(acc, 2);
                        Some(self.shared.floor())
                    }
                };
                self.mark(state.key, ctx, Mark::Ended(ended));
            }
            Op::Fail(attempts) if ctx.attempt() <= *attempts && acc % 2 == 0 => {
                return Err(timely_agents::Error::new(format!("refuses {acc}")));
            }
            Op::FailAlways(attempts) if ctx.attempt() <= *attempts => {
                return Err(timely_agents::Error::new(format!("refuses {acc}")));
            }
            Op::Panic(attempts) => {
                assert!(ctx.attempt() > *attempts || acc % 2 != 0, "breaks on {acc}");
            }
            Op::Fail(_) | Op::FailAlways(_) => {}
            Op::Random => {
                let drawn = ctx.random();
                self.mark(state.key, ctx, Mark::Draw(drawn));
                self.mark(state.key, ctx, Mark::Draw(number(&ctx.uuid()) as u64));
            }
            op => unreachable!("{op:?} waits"),
        }
        Ok(())
    }

    fn emit(&self, state: &State, values: Vec<i64>) -> Emit {
        Emit { key: state.key, action: self.index, values }
    }

    #[expect(clippy::redundant_closure_for_method_calls, reason = "the method is not general in its lifetime")]
    fn load(&self, place: Place, ctx: &Ctx<Emit>) -> i64 {
        let Handles { a, b, text, sense, .. } = self.handles;
        let value = match place {
            Place::A => ctx.get(a),
            Place::B => ctx.read(b, |value| value.copied()),
            Place::Text => ctx.get(text).and_then(|text| text.parse().ok()),
            Place::Sense => ctx.get(sense),
            Place::Path(_) | Place::SensePath(_) => {
                let (paths, path) = path_of(place, ctx);
                paths.get(path).expect("all values are numbers")
            }
        };
        value.unwrap_or(NOTHING)
    }
}

fn path_of(place: Place, ctx: &Ctx<Emit>) -> (Paths<'_, Emit>, &'static str) {
    match place {
        Place::Path(path) => (ctx.memory(), PATHS[path]),
        Place::SensePath(path) => (ctx.sensory(), PATHS[path]),
        place => unreachable!("{place:?} is a slot"),
    }
}

fn listing(ctx: &Ctx<Emit>) -> i64 {
    let mut sum = 0;
    for paths in [ctx.memory(), ctx.sensory()] {
        sum = paths.iter("").fold(sum, |sum, path| mix(sum, number(&path)));
        sum = paths.iter("a").fold(sum, |sum, path| mix(sum, number(&path)));
        sum = mix(sum, i64::from(paths.contains("d")));
    }
    sum
}

/// The number of a refused write.
fn refusal(error: &PathError) -> i64 {
    match error {
        PathError::IsObject { .. } => 1_001,
        PathError::BelowValue { .. } => 1_002,
        error => unreachable!("{error}"),
    }
}

/// The number of what a call gave: an answer is at least 0.
fn told(result: Result<i64, CallError>) -> i64 {
    use timely_agents_operators::completion::CallFailure;
    match result {
        Ok(value) => value,
        Err(CallError { failure, .. }) => match failure {
            CallFailure::Panicked(_) => -2,
            CallFailure::Timeout(_) => -3,
            failure => unreachable!("{failure}"),
        },
    }
}

fn value_of(event: &impl serde::Serialize) -> Value {
    serde_json::to_value(event).expect("an event has a JSON form")
}

/// The agent that a case describes, and its side output.
pub(crate) fn agent(case: &Arc<Case>, shared: &Arc<Shared>) -> (Plan<Record, Emit>, Tag<Emit>) {
    let mut agent = Agent::<Record, Emit>::new("described");
    let handles = Handles {
        a: agent.memory("a"),
        b: agent.memory("b"),
        text: agent.memory("text"),
        sense: agent.sensory("sense"),
        tag: agent.side("side"),
    };
    for (index, action) in case.actions.iter().enumerate() {
        let actor = Actor { case: Arc::clone(case), shared: Arc::clone(shared), handles, index };
        let name = action.name.as_str();
        let options = match (&action.trigger, action.waits) {
            (Trigger::Input, false) => {
                agent.on_input(name, move |event, ctx| actor.run(names::INPUT, &value_of(event), ctx))
            }
            (Trigger::Input, true) => agent.on_input_async(name, async move |event, ctx| {
                actor.run_async(names::INPUT, &value_of(event), ctx).await
            }),
            (Trigger::Ping, false) => {
                agent.on(name, move |event: &Ping, ctx| actor.run(Ping::NAME, &value_of(event), ctx))
            }
            (Trigger::Ping, true) => agent.on_async(name, async move |event: &Ping, ctx| {
                actor.run_async(Ping::NAME, &value_of(event), ctx).await
            }),
            (Trigger::Pong, false) => {
                agent.on(name, move |event: &Pong, ctx| actor.run(Pong::NAME, &value_of(event), ctx))
            }
            (Trigger::Pong, true) => agent.on_async(name, async move |event: &Pong, ctx| {
                actor.run_async(Pong::NAME, &value_of(event), ctx).await
            }),
            (Trigger::Notification, false) => {
                agent.on_notify(name, move |event, ctx| actor.run(names::NOTIFICATION, &value_of(event), ctx))
            }
            (Trigger::Notification, true) => agent.on_notify_async(name, async move |event, ctx| {
                actor.run_async(names::NOTIFICATION, &value_of(event), ctx).await
            }),
            (Trigger::Dynamic(of), false) => {
                agent.on_dynamic(name, of, move |event, ctx| actor.run(&event.name, &event.attributes, ctx))
            }
            (Trigger::Dynamic(of), true) => agent.on_dynamic_async(name, of, async move |event, ctx| {
                actor.run_async(&event.name, &event.attributes, ctx).await
            }),
            (Trigger::Any(of), false) => {
                agent.on_any(name, of, move |event, ctx| actor.run(event.name(), &event.attributes()?, ctx))
            }
            (Trigger::Any(of), true) => agent.on_any_async(name, of, async move |event, ctx| {
                actor.run_async(event.name(), &event.attributes()?, ctx).await
            }),
        };
        let then = match action.then {
            Then::DeadLetter => Exhausted::DeadLetter,
            Then::Ignore => Exhausted::Ignore,
        };
        let retry = Retry::new(action.attempts).backoff(Duration::from_micros(50)).then(then);
        options.on_failure(match (action.attempts, action.then) {
            (1, Then::DeadLetter) => Policy::DeadLetter,
            (1, Then::Ignore) => Policy::Ignore,
            _ => Policy::Retry(retry),
        });
    }
    if case.sequenced {
        agent.sequenced_by(|record| record.line);
    }
    if case.identified {
        agent.identified_by(|record| record.x);
    }
    agent.limits(Limits {
        fuel: case.fuel,
        runs_in_flight: case.runs_in_flight,
        concurrent_calls: case.concurrent_calls,
        ..Limits::default()
    });
    (agent.build().expect("descriptions are valid"), handles.tag)
}
