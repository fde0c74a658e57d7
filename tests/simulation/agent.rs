//! The agent that is simulated, and a model of it in plain words: what a run makes, given the record and what came
//! before it.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use timely_agents::{Agent, Error, Event, Plan, Policy, Retry, Signal, Slot, WaitError};

/// An input. Equal ones are frequent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub(crate) struct Record {
    pub(crate) key: u64,
    /// What the run is to do: 0 to 8, or a kind of signal.
    pub(crate) kind: u8,
    pub(crate) value: i64,
}

/// Kinds of inputs; from `WAITS` on only where runs are carried.
pub(crate) const KINDS: u64 = 9;
pub(crate) const WAITS: u8 = 7;

/// Kinds that are signals: one that is waited for, and one that cancels the run in flight, or for an odd value all of
/// the key.
pub(crate) const SIGNAL: u8 = 20;
pub(crate) const CANCEL: u8 = 21;

/// A call whose result the simulation makes up.
pub(crate) const RECEIPT: &str = "receipt";

/// The signal that runs wait for.
pub(crate) const TOKEN: &str = "token";

/// What a record is on the signal input, if it belongs there.
pub(crate) fn signal(record: Record) -> Option<Signal<u64>> {
    match (record.kind, record.value % 2) {
        (SIGNAL, _) => Some(Signal::new(record.key, TOKEN, &Token(record.value))),
        (CANCEL, 0) => Some(Signal::cancel(record.key)),
        (CANCEL, _) => Some(Signal::cancel_key(record.key)),
        _ => None,
    }
}

/// What a run says, or a notification (of which `run` is 0).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub(crate) struct Emit {
    pub(crate) key: u64,
    pub(crate) run: u64,
    pub(crate) what: What,
    pub(crate) value: i64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub(crate) enum What {
    /// The first of a run: it has taken this record, and has found this sum.
    Took(Record),
    /// What a call has given that never gives the same again.
    Receipt,
    Doubled,
    Slept,
    /// It has taken this signal, or none: -1 at the end of signals, -2 after a timeout.
    Signalled,
    /// It has scheduled an event of this number.
    Scheduled,
    /// It has asked to be told of this epoch.
    Asked,
    Followed,
    Marked,
    Stumbled,
    Recovered,
    /// The new sum.
    Ended,
    /// The epoch of a notification.
    Over,
    /// The number of a scheduled event.
    Due,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
struct Ping(u64, i64);

impl Event for Ping {
    const NAME: &'static str = "ping";
}

#[derive(Clone, Debug, Serialize, Deserialize)]
struct Pong(u64, i64);

impl Event for Pong {
    const NAME: &'static str = "pong";
}

#[derive(Clone, Debug, Serialize, Deserialize)]
struct Token(i64);

impl Event for Token {
    const NAME: &'static str = "token";
}

#[derive(Clone, Debug, Serialize, Deserialize)]
struct Due(i64);

impl Event for Due {
    const NAME: &'static str = "due";
}

/// Where its memory is.
#[derive(Clone, Copy)]
pub(crate) struct Places {
    pub(crate) count: Slot<u64>,
    pub(crate) sum: Slot<i64>,
    pub(crate) told: Slot<u64>,
}

/// Its dotted path.
pub(crate) const MARK: &str = "last.mark";

fn next(sum: i64, value: i64) -> i64 {
    (sum * 31 + value + 1).rem_euclid(1_000_003)
}

pub(crate) fn agent(carries: bool, sequenced: bool) -> (Plan<Record, Emit>, Places) {
    let mut agent = Agent::<Record, Emit>::new("simulated");
    agent.retain_outputs();
    let count = agent.memory::<u64>("count");
    let sum = agent.memory::<i64>("sum");
    let told = agent.memory::<u64>("told");
    let found = agent.sensory::<i64>("found");
    if carries {
        agent.carry();
        agent.waits_for::<Token>(TOKEN);
        agent.schedules::<Due>();
    }
    if sequenced {
        agent.sequenced_by(|record| record.value);
    }
    agent
        .on_input_async("take", async move |record, ctx| {
            let Record { key, kind, value } = *record;
            let run = ctx.update(count, |count| {
                *count += 1;
                *count
            });
            let emit = |what, value| ctx.output(Emit { key, run, what, value });
            let before = ctx.get(sum).unwrap_or(0);
            ctx.put(found, before);
            emit(What::Took(*record), before);
            let mut extra = 0;
            match kind {
                1 => {
                    emit(What::Receipt, ctx.durable(RECEIPT, (), async |()| 0).await?);
                    let doubled = ctx.durable("double", value, async |value| value * 2).await?;
                    emit(What::Doubled, doubled);
                    ctx.flush().await;
                    extra = ctx.durable("increment", doubled, async |value| value + 1).await?;
                }
                2 => {
                    ctx.sleep(Duration::from_secs(3)).await;
                    emit(What::Slept, ctx.get(found).unwrap_or(-1));
                }
                3 => {
                    ctx.put(sum, None);
                    ctx.memory().remove("last");
                    return Ok(());
                }
                4 => {
                    let epoch = ctx.epoch() + 1 + value as u64 % 3;
                    ctx.notify_at(epoch)?;
                    emit(What::Asked, epoch as i64);
                }
                5 => ctx.send(Ping(run, value)),
                7 => {
                    let wait = ctx.wait_for::<Token>(TOKEN);
                    let wait = if value == 1 { wait.timeout(Duration::from_secs(2)) } else { wait };
                    let taken = match wait.await {
                        Ok(Token(id)) => id,
                        Err(WaitError::Ended { .. }) => -1,
                        Err(WaitError::Timeout { .. }) => -2,
                        Err(error) => panic!("{error}"),
                    };
                    if value == 2 {
                        ctx.sleep(Duration::from_secs(1)).await;
                    }
                    emit(What::Signalled, taken);
                }
                8 => {
                    ctx.schedule(&Due(run as i64), ctx.now() + Duration::from_secs(1 + 2 * (value as u64 % 4)));
                    emit(What::Scheduled, run as i64);
                }
                6 => {
                    ctx.flush().await;
                    ctx.put(sum, 77);
                    ctx.call("wait", move || async move { value }).await?;
                    return Err(Error::new("this kind becomes a dead letter"));
                }
                _ => {}
            }
            let now = next(before, value + extra);
            ctx.put(sum, now);
            emit(What::Ended, now);
            Ok(())
        })
        .on_failure(Policy::DeadLetter);
    agent.on_async::<Ping>("follow", async move |Ping(run, value), ctx| {
        ctx.sleep(Duration::from_secs(1)).await;
        let found = ctx.get(found).unwrap_or(-1);
        let value = *value;
        let followed = ctx.call("times ten", move || async move { value * 10 + found }).await?;
        ctx.output(Emit { key: ctx.key()?, run: *run, what: What::Followed, value: followed });
        Ok(())
    });
    agent.on::<Ping>("mark", |Ping(run, value), ctx| {
        ctx.memory().set(MARK, *value)?;
        ctx.output(Emit { key: ctx.key()?, run: *run, what: What::Marked, value: *value });
        ctx.send(Pong(*run, *value));
        Ok(())
    });
    agent
        .on_async::<Pong>("stumble", async |Pong(run, value), ctx| {
            let (key, run, value) = (ctx.key()?, *run, *value);
            ctx.output(Emit { key, run, what: What::Stumbled, value });
            ctx.flush().await;
            ctx.durable("steady", value, async |value| value).await?;
            let receipt = ctx.durable(RECEIPT, value, async |_| 0).await?;
            if ctx.attempt() == 1 && value % 2 == 0 {
                return Err(Error::new("the first attempt fails"));
            }
            ctx.output(Emit { key, run, what: What::Receipt, value: receipt });
            ctx.output(Emit { key, run, what: What::Recovered, value });
            Ok(())
        })
        .on_failure(Retry::new(3).backoff(Duration::from_secs(2)));
    agent.on_notify("over", move |over, ctx| {
        ctx.update(told, |told| *told += 1);
        ctx.output(Emit { key: ctx.key()?, run: 0, what: What::Over, value: over.epoch as i64 });
        Ok(())
    });
    agent.on_async::<Due>("due", async |Due(number), ctx| {
        let number = ctx.durable("due", *number, async |number| number).await?;
        ctx.output(Emit { key: ctx.key()?, run: 0, what: What::Due, value: number });
        Ok(())
    });
    (agent.build().expect("the agent is whole"), Places { count, sum, told })
}

/// What a run that was cancelled has said, and remembers, if that is anything: what it flushed.
pub(crate) fn flushed(memory: &mut Memory, record: Record) -> Vec<Emit> {
    let Record { key, kind, value } = record;
    if kind != 1 {
        return Vec::new();
    }
    memory.count += 1;
    let (run, before) = (memory.count, memory.sum.unwrap_or(0));
    let says = [(What::Took(record), before), (What::Doubled, value * 2)];
    says.map(|(what, value)| Emit { key, run, what, value }).to_vec()
}

/// What a key remembers.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Memory {
    pub(crate) count: u64,
    pub(crate) sum: Option<i64>,
    pub(crate) mark: Option<i64>,
}

impl Memory {
    /// What the next run of the key says but for the epoch that it asks for, in the order of [`Emit`]; memory is what it
    /// leaves.
    pub(crate) fn run(&mut self, record: Record) -> Vec<Emit> {
        let Record { key, kind, value } = record;
        self.count += 1;
        let (run, before) = (self.count, self.sum.unwrap_or(0));
        let mut says = vec![(What::Took(record), before)];
        let mut extra = 0;
        match kind {
            1 => {
                says.push((What::Doubled, value * 2));
                extra = value * 2 + 1;
            }
            2 => says.push((What::Slept, before)),
            3 => (self.sum, self.mark) = (None, None),
            5 => {
                self.mark = Some(value);
                says.extend([
                    (What::Followed, value * 10 + before),
                    (What::Marked, value),
                    (What::Stumbled, value),
                    (What::Recovered, value),
                ]);
            }
            _ => {}
        }
        if ![3, 6].contains(&kind) {
            let now = next(before, value + extra);
            self.sum = Some(now);
            says.push((What::Ended, now));
        }
        let mut says: Vec<Emit> = says.into_iter().map(|(what, value)| Emit { key, run, what, value }).collect();
        says.sort_unstable();
        says
    }
}
