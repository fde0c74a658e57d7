//! The journal of a run in progress: what it takes to have it again after a crash (rules S5, D1).
//!
//! A journal tells in which order a run's tasks took turns, what they were given then, and what each finished step did.
//! From it and the run's beginning a replay (`replay`) makes the run as it was: tasks that are over are not run again,
//! what they wrote and sent is in the journal; the others are run again up to where they waited, with the results that
//! they had, and go on from there.
//!
//! # Invariants
//! - Entries stand in the order in which things happened.
//! - An entry is encoded when it is made, for values change later; it is handed over once.
//! - Only runs that have waited have a journal, and only where unfinished runs outlive the process.

use std::fmt::{self, Display, Formatter};
use std::rc::Rc;

use serde::{Deserialize, Serialize};
use timely_agents_operators::completion::{CallFailure, CallResult, CallValue};
use timely_agents_operators::encoded::encoded;

use crate::call::{Digests, digest, place_of};
use crate::core::{Core, Queued, TaskCell};
use crate::event::{DynamicEvent, Payload};
use crate::left::LeftCall;
use crate::memory::Write;
use crate::plan::INPUT;
use crate::record::{Keeping, Puts};

/// A task, and its attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub(crate) struct Name {
    /// Where the event was sent, and to which action it goes.
    pub(crate) path: u64,
    pub(crate) attempt: u32,
}

impl Name {
    pub(crate) fn of(task: &TaskCell) -> Self {
        Name { path: task.path.get(), attempt: task.attempt.get() }
    }
}

/// The end of a wait: `None` for a value that has no bytes.
pub(crate) type Given = Result<Option<Vec<u8>>, CallFailure>;

/// Before the name of a signal that is waited for.
const SIGNAL: &str = "signal ";

/// What a task waited for: a call, by its name and the digest of its arguments; a signal; a sleep, without either.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(crate) struct Asked {
    pub(crate) name: String,
    /// 0 where a call's arguments are not known.
    pub(crate) digest: u64,
    /// The digests of single arguments, where there are several.
    pub(crate) parts: Vec<u32>,
    /// The arguments as JSON, where the call keeps them.
    pub(crate) kept: Option<String>,
    /// What single arguments are called.
    #[serde(skip)]
    pub(crate) fields: Vec<&'static str>,
}

impl Asked {
    /// A call of whose arguments nothing is known.
    pub(crate) fn of_call(name: &str) -> Self {
        Asked { name: name.to_owned(), ..Asked::default() }
    }

    /// A durable call.
    pub(crate) fn of_durable<A: Serialize>(name: &str, args: &A) -> Self {
        let Digests { whole, parts, fields } = digest(args);
        Asked { name: name.to_owned(), digest: whole, parts, kept: None, fields }
    }

    pub(crate) fn is_durable(&self) -> bool {
        self.digest != 0
    }

    /// Whether the same was asked for.
    pub(crate) fn is_same(&self, other: &Asked) -> bool {
        self.digest == other.digest && self.name == other.name
    }

    /// Where what is asked `now` differs, of the arguments of one call.
    pub(crate) fn difference(&self, now: &Asked) -> Option<String> {
        if self.name != now.name || self.parts.is_empty() || now.parts.is_empty() {
            return None;
        }
        if self.parts.len() != now.parts.len() {
            return Some(format!("there were {} arguments, and are {}", self.parts.len(), now.parts.len()));
        }
        let first = self.parts.iter().zip(&now.parts).position(|(then, now)| then != now)?;
        match now.fields.get(first) {
            Some(field) => Some(format!("the first argument that differs is {field:?}")),
            None => Some(format!("the first argument that differs is number {first}, counted from 0")),
        }
    }
}

impl Asked {
    /// How a wait at that place, which had asked for this, differs from what is asked for `now`, if anything is.
    pub(crate) fn differs(&self, ordinal: u64, now: Option<&Asked>) -> String {
        let place = match place_of(ordinal) {
            (place, 0) => format!("wait {place}"),
            (place, number) if number % 2 == 0 => format!("wait {place}, attempt {}", number / 2 + 1),
            (place, number) => format!("wait {place}, the pause after attempt {}", number / 2 + 1),
        };
        let Some(now) = now else { return format!("{place}: it was {self}, and is not made now") };
        let difference = self.difference(now).map(|difference| format!("; {difference}")).unwrap_or_default();
        format!("{place}: it was {self}, and is {now} now{difference}")
    }

    /// A signal of that name.
    pub(crate) fn signal(name: &str) -> Self {
        Asked { name: format!("{SIGNAL}{name}"), ..Asked::default() }
    }

    /// The name of the signal, if it is one.
    pub(crate) fn is_signal(&self) -> Option<&str> {
        self.name.strip_prefix(SIGNAL).filter(|_| self.digest == 0)
    }
}

impl Display for Asked {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match (self.name.as_str(), self.digest) {
            ("", 0) => f.write_str("a sleep"),
            (name, 0) => match self.is_signal() {
                Some(signal) => write!(f, "a wait for signal {signal:?}"),
                None => write!(f, "call {name:?}"),
            },
            (name, digest) => {
                write!(f, "call {name:?} with arguments of digest {digest:016x}")?;
                self.kept.as_ref().map_or(Ok(()), |args| write!(f, ", {args}"))
            }
        }
    }
}

/// A wait that is over.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct End {
    /// Its place among the waits of its task, and its number there.
    pub(crate) ordinal: u64,
    /// The clock of the turn that asked.
    pub(crate) began: u64,
    pub(crate) asked: Rc<Asked>,
    pub(crate) given: Given,
}

/// An event on its way.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Sent {
    pub(crate) path: u64,
    /// Which of its triggers is next.
    pub(crate) next: u32,
    pub(crate) event: Packed,
}

/// An event as bytes.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) enum Packed {
    /// The run's input.
    Input,
    /// A typed event, by its name.
    Typed(String, Vec<u8>),
    /// A dynamic event: its name, and its attributes as JSON.
    Dynamic(String, String),
}

/// How a run begins, as far as it went before it first waited.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Beginning {
    pub(crate) identity: Option<u64>,
    pub(crate) notifying: Option<u64>,
    pub(crate) input: Option<Vec<u8>>,
    pub(crate) writes: Vec<Write>,
    pub(crate) queue: Vec<Sent>,
    /// What its notes are known by.
    pub(crate) journal: Option<u64>,
}

/// One thing that happened.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) enum Entry {
    /// A task started or went on.
    Turn {
        /// The task.
        task: Name,
        /// The clock.
        now: u64,
        /// The waits that were over by then.
        given: Vec<Rc<End>>,
    },
    /// A step is finished.
    Step {
        /// The task.
        task: Name,
        /// What it wrote.
        writes: Vec<Write>,
        /// What it sent.
        sent: Vec<Sent>,
        /// Whether its task is over.
        over: bool,
    },
    /// A task has failed and starts again.
    Again {
        /// The task.
        task: Name,
        /// How many of its steps are finished.
        flushed: u32,
        /// When.
        deadline: u64,
    },
    /// The end of a call that was noted, and which its task was not given yet.
    Given {
        /// The task.
        task: Name,
        /// The call and its end.
        end: Rc<End>,
        /// The clock.
        at: u64,
    },
    /// The run has left its journal: of the entries that hold, those from here on do so no more.
    Dropped {
        /// How many go on to hold.
        kept: u64,
    },
    /// An action takes its first turn in this run.
    Action {
        /// Its name.
        name: String,
        /// The version of its code.
        version: u32,
    },
    /// A call was about to leave, and has not ended, as older versions wrote it.
    LeftFrom {
        /// The task.
        task: Name,
        /// Its place among the waits of its task, and its number there.
        ordinal: u64,
    },
    /// A signal is given back that a wait was given and nobody has looked at.
    Returned {
        /// The task.
        task: Name,
        /// The wait's place among those of its task, and its number there.
        ordinal: u64,
    },
    /// What is kept of the run for when it is over, as it was when the run first waited.
    Kept(Box<Keeping>),
    /// The run has put out more.
    Put(Puts),
    /// A call was about to leave, and has not ended.
    Left {
        /// The task.
        task: Name,
        /// Its place among the waits of its task, and its number there.
        ordinal: u64,
        /// What it asks for.
        asked: Rc<Asked>,
    },
    /// A task has failed and stopped the job, and starts again.
    Afresh {
        /// The task.
        task: Name,
        /// How many of its steps are finished.
        flushed: u32,
        /// When.
        deadline: u64,
        /// The places of the calls whose results it is not given again.
        asks: Vec<u32>,
    },
}

impl Entry {
    /// The call that was about to leave, if this says so.
    pub(crate) fn left(&self) -> Option<(Name, LeftCall)> {
        match self {
            Entry::LeftFrom { task, ordinal } => Some((*task, (*ordinal, None))),
            Entry::Left { task, ordinal, asked } => Some((*task, (*ordinal, Some(Rc::clone(asked))))),
            _ => None,
        }
    }
}

/// The entries that hold.
pub(crate) fn holding(entries: impl Iterator<Item = Entry>) -> Vec<Entry> {
    let mut holding = Vec::new();
    for entry in entries {
        match entry {
            Entry::Dropped { kept } => holding.truncate(kept as usize),
            entry => holding.push(entry),
        }
    }
    holding
}

/// The journal of a run, as far as it has not been handed over.
#[derive(Debug, Default)]
pub(crate) struct Recorded {
    /// How the run begins, encoded.
    pub(crate) beginning: Vec<u8>,
    pub(crate) entries: Vec<Vec<u8>>,
    /// Waits that are over since their task, named by its index, last took a turn.
    pub(crate) arrived: Vec<(u32, Rc<End>)>,
    /// Entries that the run has to go through first.
    pub(crate) replay: Vec<Entry>,
    /// Actions that have taken a turn.
    pub(crate) started: Vec<u32>,
}

impl Recorded {
    pub(crate) fn push(&mut self, entry: &Entry) {
        self.entries.push(encode(entry));
    }

    /// An action takes a turn.
    pub(crate) fn names(&mut self, index: u32, action: &str, version: u32) {
        if !self.started.contains(&index) {
            self.started.push(index);
            self.push(&Entry::Action { name: action.to_owned(), version });
        }
    }

    /// A task takes a turn.
    pub(crate) fn turn(&mut self, task: &TaskCell, now: u64) {
        let index = task.index.get();
        let given = self.arrived.extract_if(.., |(to, _)| *to == index).map(|(_, end)| end).collect();
        self.push(&Entry::Turn { task: Name::of(task), now, given });
    }
}

/// A value of the journal, encoded.
pub(crate) fn encode<V: Serialize>(value: &V) -> Vec<u8> {
    encoded(value).unwrap_or_else(|error| panic!("an entry of a journal cannot be encoded: {error}"))
}

/// The end of a wait, for the journal.
pub(crate) fn copy(result: &CallResult) -> Given {
    match result {
        Ok(CallValue::Bytes(bytes)) => Ok(Some(bytes.clone())),
        Ok(CallValue::Unit | CallValue::Any(_)) => Ok(None),
        Err(failure) => Err(failure.clone()),
    }
}

/// The end of a wait, from the journal.
pub(crate) fn result(given: Given) -> CallResult {
    given.map(|bytes| bytes.map_or(CallValue::Unit, CallValue::Bytes))
}

impl<O> Core<O> {
    /// Events as the journal has them.
    pub(crate) fn pack<'a>(&self, events: impl Iterator<Item = &'a Queued>) -> Vec<Sent> {
        let pack = |queued: &Queued| Sent { path: queued.path, next: queued.next, event: self.pack_event(queued) };
        events.map(pack).collect()
    }

    fn pack_event(&self, queued: &Queued) -> Packed {
        match &queued.payload {
            Payload::Dynamic(event) => {
                let attributes = serde_json::to_string(&event.attributes);
                let attributes =
                    attributes.unwrap_or_else(|error| panic!("event {:?} is no JSON: {error}", event.name));
                Packed::Dynamic(event.name.clone(), attributes)
            }
            Payload::Typed(_) if queued.event == INPUT => Packed::Input,
            Payload::Typed(value) => {
                let plan = &self.program.events[queued.event as usize];
                let codec = plan.codec.expect("a typed event has a codec");
                let bytes = (codec.pack)(&**value);
                let bytes = bytes.unwrap_or_else(|error| panic!("event {:?} cannot be encoded: {error}", plan.name));
                Packed::Typed(plan.name.clone(), bytes)
            }
        }
    }

    /// An event from the journal of a run with this input.
    pub(crate) fn unpack(&self, sent: Sent, input: Option<&Payload>) -> Result<Queued, String> {
        let Sent { path, next, event } = sent;
        let (event, payload) = match event {
            Packed::Input => (INPUT, input.cloned().ok_or("a run without an input has one in its journal")?),
            Packed::Typed(name, bytes) => {
                let event = self.program.event_of_name(&name);
                let event = event.ok_or_else(|| format!("the agent has no event {name:?}"))?;
                let codec = self.program.events[event as usize].codec;
                let codec = codec.ok_or_else(|| format!("event {name:?} has no type any more"))?;
                let value = (codec.unpack)(&bytes).map_err(|error| format!("event {name:?}: {error}"))?;
                (event, Payload::Typed(value))
            }
            Packed::Dynamic(name, attributes) => {
                let event = self.program.event_of_name(&name).unwrap_or(crate::ctx::UNKNOWN);
                let attributes =
                    serde_json::from_str(&attributes).map_err(|error| format!("event {name:?}: {error}"))?;
                (event, Payload::Dynamic(DynamicEvent { name, attributes }.into()))
            }
        };
        Ok(Queued { event, payload, next, path })
    }

    /// The active step is finished: lets it be seen and makes its writes part of the run's. `over` if its task is.
    pub(crate) fn finish_step(&self, task: &TaskCell, over: bool) {
        let sent = if self.recording() {
            self.pack(self.staged.borrow().queue.range(self.marks.get().queued..))
        } else {
            Vec::new()
        };
        self.publish_step(task);
        let mut undo = self.undo.borrow_mut();
        let from = undo.len();
        let mut memory = self.memory.borrow_mut();
        if over {
            memory.take_log(&mut undo);
        } else {
            memory.finalize(&mut undo);
        }
        if self.recording()
            && let Some(recorded) = &mut *self.recorded.borrow_mut()
        {
            let writes = memory.written(&undo[from..], self.key());
            recorded.push(&Entry::Step { task: Name::of(task), writes, sent, over });
        }
    }

    fn recording(&self) -> bool {
        self.records && !self.replaying.get()
    }

    /// Ends a step of a task that goes on.
    pub(crate) fn flush_step(&self, task: &TaskCell) {
        self.finish_step(task, false);
        if self.replaying.get() {
            // What it put out, and what observers were told, was told before the crash.
            let marks = self.marks.get();
            let mut staged = self.staged.borrow_mut();
            staged.effects.outputs.truncate(marks.outputs);
            staged.effects.tagged.truncate(marks.tagged);
            staged.effects.notifications.truncate(marks.notifications);
            staged.effects.scheduled.clear();
            self.scheduled.set(0);
        }
        self.begin_step();
    }
}
