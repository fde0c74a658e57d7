//! Plan descriptions: what the system and the oracle share, made from a seed.
//!
//! A [`Case`] is an agent (actions with their triggers, policies and programs of [`Op`]s), the inputs that each worker
//! feeds, and the shape of the job: workers, limits, order, kind of time. [`Case::from_seed`] gives the same case for
//! the same seed everywhere.
//!
//! # Invariants
//! - Every event carries `n`, and what is sent carries `n - 1`; nothing is sent at 0. So runs end.
//! - Some action takes inputs, so that each run is seen.
//! - No action has the policy `Fail`, alone or after a retry: it would end the process.

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use timely_agents::{Event, names};

/// A place in memory. The order of `Path` follows that of [`PATHS`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Place {
    A,
    B,
    Text,
    Sense,
    Path(usize),
    SensePath(usize),
}

/// Dotted paths, sorted; some lie below others.
pub(crate) const PATHS: [&str; 5] = ["a", "a.b", "a.c", "d.e", "d.e.f"];

impl Place {
    pub(crate) fn lasts(self) -> bool {
        !matches!(self, Place::Sense | Place::SensePath(_))
    }

    fn any(random: &mut Random) -> Place {
        match random.below(10) {
            0..=2 => Place::A,
            3 => Place::B,
            4 => Place::Text,
            5 => Place::Sense,
            6..=8 => Place::Path(random.index(PATHS.len())),
            _ => Place::SensePath(random.index(PATHS.len())),
        }
    }
}

/// What a task sends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Ping,
    Pong,
    /// Typed, but declared nowhere: it goes by its name.
    Loose,
    /// A dynamic event with the name of a typed one.
    DynamicPing,
    /// The same, but it does not fit the type.
    BadPing,
    Tick,
    Tock,
}

impl Kind {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Kind::Ping | Kind::DynamicPing | Kind::BadPing => Ping::NAME,
            Kind::Pong => Pong::NAME,
            Kind::Loose => Loose::NAME,
            Kind::Tick => "tick",
            Kind::Tock => "tock",
        }
    }

    pub(crate) fn attributes(self, n: i64, x: i64) -> Value {
        match self {
            Kind::BadPing => json!({"bad": true}),
            _ => json!({"n": n, "x": x}),
        }
    }
}

/// One operation of a task. Each task has an accumulator, `acc`, that begins with what its event says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Op {
    /// Mixes what is there into `acc`.
    Load(Place),
    /// Writes `acc`.
    Store(Place),
    /// Adds `acc` in place.
    Add(Place),
    /// Forgets the place, or what is at and below the path; mixes how much that was into `acc`.
    Forget(Place),
    /// Takes the value out.
    Take(Place),
    /// Mixes the names of all paths into `acc`.
    List,
    Output,
    /// Outputs all of memory.
    Dump,
    Side,
    Send(Kind),
    /// Asks to be told of the run's epoch plus this.
    Notify(i64),
    /// Fails in attempts up to this one when `acc` is even.
    Fail(u32),
    /// Panics likewise.
    Panic(u32),
    /// Fails in attempts up to this one, whatever `acc` is.
    FailAlways(u32),
    Random,
    Flush,
    /// A durable call.
    Call,
    /// A durable call that panics.
    PanickingCall,
    /// A call that does not end in time.
    SlowCall,
    /// Two calls at once, both awaited.
    Join,
    /// Two calls at once, of which the first to end counts.
    Select,
    Sleep,
}

impl Op {
    pub(crate) fn waits(&self) -> bool {
        matches!(self, Op::Call | Op::PanickingCall | Op::SlowCall | Op::Join | Op::Select | Op::Sleep)
    }

    fn any(random: &mut Random, waits: bool) -> Op {
        if waits && random.below(3) == 0 {
            return match random.below(16) {
                0..=3 => Op::Flush,
                4..=9 => Op::Call,
                10 => Op::PanickingCall,
                11 => Op::SlowCall,
                12 | 13 => Op::Join,
                14 => Op::Select,
                _ => Op::Sleep,
            };
        }
        match random.below(26) {
            0..=2 => Op::Load(Place::any(random)),
            3..=5 => Op::Store(Place::any(random)),
            6 | 7 => Op::Add(Place::any(random)),
            8 => Op::Forget(Place::any(random)),
            9 => Op::Take([Place::A, Place::B, Place::Text][random.index(3)]),
            10 => Op::List,
            13 => Op::Dump,
            14 => Op::Side,
            15..=20 => Op::Send(match random.below(13) {
                0..=2 => Kind::Ping,
                3 | 4 => Kind::Pong,
                5 => Kind::Loose,
                6 | 7 => Kind::DynamicPing,
                8 => Kind::BadPing,
                9 | 10 => Kind::Tick,
                _ => Kind::Tock,
            }),
            21 | 22 => Op::Notify(random.below(5) as i64 - 1),
            23 => match random.below(3) {
                0 => Op::Fail(random.below(4) as u32 + 1),
                1 => Op::Panic(random.below(3) as u32 + 1),
                _ => Op::FailAlways(random.below(3) as u32 + 1),
            },
            24 => Op::Random,
            _ => Op::Output,
        }
    }
}

/// What triggers an action, and in which form it takes that.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Trigger {
    Input,
    Ping,
    Pong,
    Notification,
    /// Events of this name in dynamic form.
    Dynamic(&'static str),
    /// Events of these names in any form.
    Any(Vec<&'static str>),
}

impl Trigger {
    pub(crate) fn takes(&self, name: &str) -> bool {
        match self {
            Trigger::Input => name == names::INPUT,
            Trigger::Ping => name == Ping::NAME,
            Trigger::Pong => name == Pong::NAME,
            Trigger::Notification => name == names::NOTIFICATION,
            Trigger::Dynamic(taken) => name == *taken,
            Trigger::Any(taken) => taken.contains(&name),
        }
    }

    /// Whether the action wants its event as a Rust type.
    pub(crate) fn is_typed(&self) -> bool {
        !matches!(self, Trigger::Dynamic(_) | Trigger::Any(_))
    }

    fn any(random: &mut Random) -> Trigger {
        const NAMES: [&str; 7] = ["input", "notification", "ping", "pong", "tick", "tock", "loose"];
        match random.below(12) {
            0 | 1 => Trigger::Input,
            2 | 3 => Trigger::Ping,
            4 => Trigger::Pong,
            5 | 6 => Trigger::Notification,
            7 => Trigger::Dynamic("tick"),
            8 => Trigger::Dynamic(NAMES[random.index(NAMES.len())]),
            9 => Trigger::Any(vec!["tock", "tock"]),
            _ => Trigger::Any(NAMES.into_iter().filter(|_| random.below(3) == 0).chain(["tick"]).collect()),
        }
    }
}

/// What follows a failure in the end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Then {
    DeadLetter,
    Ignore,
}

#[derive(Clone, Debug)]
pub(crate) struct ActionPlan {
    pub(crate) name: String,
    pub(crate) trigger: Trigger,
    pub(crate) waits: bool,
    /// Attempts in all; 1 means that there is no retry.
    pub(crate) attempts: u32,
    pub(crate) then: Then,
    pub(crate) ops: Vec<Op>,
}

/// An input. Equal ones are frequent.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Record {
    pub(crate) key: u64,
    pub(crate) n: i64,
    pub(crate) x: i64,
    pub(crate) line: u64,
    /// The event time, where times have one.
    pub(crate) event: u64,
    /// Asks for all of memory and nothing else.
    pub(crate) dump: bool,
}

/// What a worker does in turn.
#[derive(Clone, Debug)]
pub(crate) enum Feed {
    Send(Record),
    Flush,
    Advance(u64),
    Step(u32),
    /// Ends some of the calls that wait.
    Release(usize),
    /// Steps until the output's frontier has passed all that is closed at the input.
    Settle,
}

#[derive(Clone, Debug)]
#[expect(clippy::struct_excessive_bools, reason = "each is a choice of its own")]
pub(crate) struct Case {
    pub(crate) seed: u64,
    pub(crate) actions: Vec<ActionPlan>,
    /// By worker.
    pub(crate) feeds: Vec<Vec<Feed>>,
    pub(crate) sequenced: bool,
    pub(crate) stamped: bool,
    pub(crate) identified: bool,
    pub(crate) observed: bool,
    /// Whether the key stands beside the value.
    pub(crate) keyed: bool,
    pub(crate) fuel: u32,
    pub(crate) runs_in_flight: usize,
    pub(crate) concurrent_calls: usize,
}

impl Case {
    pub(crate) fn from_seed(seed: u64) -> Case {
        let random = &mut Random(seed);
        let workers = [1, 1, 2, 2, 3, 4][random.index(6)];
        // Plans without a wait take other ways through the system than plans with one.
        let waits = random.below(3);
        let actions: Vec<ActionPlan> = (0..random.index(5) + 2)
            .map(|index| {
                let waits = waits > 0 && random.below(2) == 0 && (waits == 2 || index > 0);
                let trigger = if index == 0 { Trigger::Input } else { Trigger::any(random) };
                let mut ops: Vec<Op> = (0..=random.index(7)).map(|_| Op::any(random, waits)).collect();
                if waits && random.below(4) == 0 {
                    // A failure behind a flush is rare otherwise.
                    let write = Op::Add(Place::any(random));
                    ops.extend([write, Op::Output, Op::Flush, Op::FailAlways(random.below(2) as u32 + 1)]);
                }
                ActionPlan {
                    name: format!("action{index}"),
                    trigger,
                    waits,
                    attempts: if random.below(3) == 0 { random.below(3) as u32 + 1 } else { 1 },
                    then: if random.below(2) == 0 { Then::Ignore } else { Then::DeadLetter },
                    ops,
                }
            })
            .collect();
        let keys = random.below(4) + 1;
        let last = random.below(5) + 1;
        let end = last + 5;
        let mut feeds: Vec<Vec<Feed>> = (0..workers)
            .map(|_| {
                let mut feed = Vec::new();
                let mut epoch = 0;
                let mut before: Option<Record> = None;
                while epoch <= last {
                    for _ in 0..random.index(8) {
                        let record = match &before {
                            Some(record) if random.below(4) == 0 => record.clone(),
                            _ => Record {
                                key: random.below(keys),
                                n: random.below(3) as i64,
                                x: random.below(6) as i64,
                                line: random.below(4),
                                event: random.below(4),
                                dump: false,
                            },
                        };
                        before = Some(record.clone());
                        feed.push(Feed::Send(record));
                        match random.below(12) {
                            0 => feed.push(Feed::Flush),
                            1..=3 => feed.push(Feed::Step(random.below(4) as u32 + 1)),
                            4 => feed.push(Feed::Release(random.index(3) + 1)),
                            _ => {}
                        }
                    }
                    epoch += random.below(3) + 1;
                    feed.push(Feed::Advance(epoch.min(end)));
                    match random.below(6) {
                        0 => feed.push(Feed::Settle),
                        1 | 2 => feed.push(Feed::Step(random.below(6) as u32 + 1)),
                        _ => {}
                    }
                }
                feed.push(Feed::Advance(end));
                feed
            })
            .collect();
        for key in 0..keys {
            let to = random.index(workers);
            feeds[to].push(Feed::Send(Record { key, n: 0, x: 0, line: 0, event: 0, dump: true }));
        }
        let takes_notifications = actions.iter().any(|action| action.trigger.takes(names::NOTIFICATION));
        Case {
            seed,
            actions,
            feeds,
            sequenced: random.below(3) == 0,
            stamped: random.below(3) == 0,
            identified: random.below(3) == 0,
            // Runs of notifications that no action takes leave no mark, only a record.
            observed: random.below(3) == 0 && takes_notifications,
            keyed: random.below(3) == 0,
            fuel: [1, 2, 3, 7, 65_536, 65_536][random.index(6)],
            runs_in_flight: [1, 2, 1_000, 1_000][random.index(4)],
            concurrent_calls: [1, 2, 1_000, 1_000][random.index(4)],
        }
    }

    /// What a task of `action` does for an event.
    pub(crate) fn program(&self, action: usize, attributes: &Value) -> &[Op] {
        if attributes["dump"] == json!(true) {
            return if action == 0 { &[Op::Dump] } else { &[] };
        }
        &self.actions[action].ops
    }
}

/// What an event says: `n` and `x`.
pub(crate) fn reading(attributes: &Value) -> (i64, i64) {
    let number = |name: &str| attributes[name].as_i64();
    match number("epoch") {
        Some(epoch) => (1, epoch),
        None => (number("n").unwrap_or(0), number("x").unwrap_or(0)),
    }
}

/// The next value of an accumulator.
pub(crate) fn mix(acc: i64, value: i64) -> i64 {
    (acc * 31 + value).rem_euclid(1_000_003)
}

/// What `Op::Add` makes of a value; sums stay small.
pub(crate) fn sum(value: i64, acc: i64) -> i64 {
    (value + acc).rem_euclid(1_000_003)
}

/// A path's name as a number.
pub(crate) fn number(text: &str) -> i64 {
    text.bytes().fold(7, |acc, byte| mix(acc, i64::from(byte)))
}

/// What a call gives for its argument.
pub(crate) fn answer(argument: i64) -> i64 {
    mix(argument, 17)
}

/// An output, or a value of the side output.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Emit {
    pub(crate) key: u64,
    pub(crate) action: usize,
    pub(crate) values: Vec<i64>,
}

/// How a dump says that a place is empty.
pub(crate) const NOTHING: i64 = -1;

macro_rules! event {
    ($name:ident, $text:literal) => {
        #[derive(Clone, Debug, Serialize, Deserialize)]
        pub(crate) struct $name {
            pub(crate) n: i64,
            pub(crate) x: i64,
        }

        impl Event for $name {
            const NAME: &'static str = $text;
        }
    };
}

event!(Ping, "ping");
event!(Pong, "pong");
event!(Loose, "loose");

/// `SplitMix64` (Steele, Lea and Flood 2014): the same numbers everywhere.
pub(crate) struct Random(pub(crate) u64);

impl Random {
    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut bits = self.0;
        bits = (bits ^ (bits >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        bits = (bits ^ (bits >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        bits ^ (bits >> 31)
    }

    pub(crate) fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound
    }

    pub(crate) fn index(&mut self, bound: usize) -> usize {
        self.below(bound as u64) as usize
    }
}
