//! What happened, as a tree: tasks, their attempts, and what those waited for.

use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;

use serde::Serialize;
use serde_json::{Value, json};
use timely_agents_operators::hash::mix;

use super::super::formats::Formats;
use super::super::unfinished;
use super::happened::{Happened, Happenings};
use crate::behavior::ROOT;
use crate::call::place_of;
use crate::format::hex;
use crate::journal::{self, Asked, End};
use crate::wait::Gave;

/// Events that a task has sent, at most, among which tasks of its own are looked for.
const SENDS: u64 = 1024;
/// Numbers of actions that are tried where their names are not known.
const UNNAMED: u64 = 64;

/// An action that has taken a turn.
#[derive(Clone, Debug, Serialize)]
pub struct ActionVersion {
    /// Its name.
    pub name: String,
    /// The version of its code.
    pub version: u32,
}

/// An action that ran for an event.
#[derive(Clone, Debug, Serialize)]
pub struct Task {
    /// Its place in the run, by which the journal knows it.
    pub path: String,
    /// The action, if it can be told.
    pub action: Option<String>,
    /// The event's name, where the checkpoint has it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub event: Option<String>,
    /// How often it was tried.
    pub attempts: Vec<Attempt>,
    /// Tasks for events that it has sent.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub tasks: Vec<Task>,
}

/// One attempt of a task.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Attempt {
    /// Its number, from 1.
    pub attempt: u32,
    /// What has become of it: `over`, `tried again`, `failed`, `in progress`.
    pub state: &'static str,
    /// The clock of its first turn that is known.
    pub began: Option<u64>,
    /// From its first turn to its last, in microseconds.
    pub took: Option<u64>,
    /// How many turns it took.
    pub turns: u64,
    /// When the next attempt starts.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub next_attempt: Option<u64>,
    /// What it waited for, in the order of their places.
    pub waits: Vec<Wait>,
    /// What its finished steps did; of runs in a checkpoint.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub steps: Vec<Step>,
}

/// A call, a wait for a signal, or a sleep.
#[derive(Clone, Debug, Serialize)]
pub struct Wait {
    /// Its place among the waits of its task.
    pub wait: u32,
    /// `call`, `signal`, `sleep`; nothing where neither its start nor its end is known.
    pub kind: Option<&'static str>,
    /// The name of the call or signal.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// The digest of the call's arguments.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub digest: Option<String>,
    /// The arguments, where the call keeps them.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub arguments: Option<Value>,
    /// Its attempts, and the pauses between them.
    pub tries: Vec<Try>,
}

/// An attempt of a call, or the pause before the next.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Try {
    /// The number of the attempt, from 1.
    pub attempt: u32,
    /// Whether it is the pause after that attempt.
    pub pause: bool,
    /// Whether its start was noted before it left.
    pub left: bool,
    /// The clock of the turn that asked.
    pub asked: Option<u64>,
    /// The clock of the turn that was given the end; nothing if that has not been, or is not known.
    pub given: Option<u64>,
    /// The clock when its end was noted, if that was before the turn.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ended: Option<u64>,
    /// From being asked to its end being given, or noted if no turn is known that was given it, in microseconds.
    pub took: Option<u64>,
    /// What it came to; nothing if that is not known.
    pub result: Option<Value>,
}

/// A finished step.
#[derive(Clone, Debug, Serialize)]
pub struct Step {
    /// What it wrote.
    pub writes: Value,
    /// What it sent.
    pub sent: Vec<Event>,
}

/// An event.
#[derive(Clone, Debug, Serialize)]
pub struct Event {
    /// Its name.
    pub event: String,
    /// What it says.
    pub value: Value,
}

/// What was dropped when the program left the journal.
#[derive(Clone, Debug, Serialize)]
pub struct Dropped {
    /// How many entries went on to hold.
    pub kept: u64,
    /// Those that did not.
    pub dropped: Vec<Value>,
}

/// See the module.
pub(super) struct Grown {
    pub(super) tasks: Vec<Task>,
    pub(super) actions: Vec<ActionVersion>,
    pub(super) dropped: Vec<Dropped>,
}

/// What is put together of a task.
#[derive(Default)]
struct Growing {
    attempts: BTreeMap<u32, OfAttempt>,
}

/// What is shown of a try; what it asked for and its end, if these are known.
#[derive(Default)]
struct Tried {
    made: Try,
    asked: Option<Rc<Asked>>,
    end: Option<Rc<End>>,
}

impl Tried {
    fn ends(&mut self, end: Rc<End>) {
        self.asked = Some(Rc::clone(&end.asked));
        self.end = Some(end);
    }
}

#[derive(Default)]
struct OfAttempt {
    shown: Attempt,
    tries: BTreeMap<(u32, u32), Tried>,
    over: bool,
    failed: bool,
}

/// The tree of a run; `ended` if the run is over.
pub(super) fn grow(happenings: Happenings, formats: &Formats, ended: bool) -> Grown {
    let mut tasks: BTreeMap<u64, Growing> = BTreeMap::new();
    let mut order: Vec<u64> = Vec::new();
    let mut actions: Vec<ActionVersion> = Vec::new();
    let mut events: BTreeMap<u64, String> = BTreeMap::new();
    for happened in happenings.all {
        let name = match &happened {
            Happened::Action { name, version } => {
                actions.retain(|known| known.name != *name);
                actions.push(ActionVersion { name: name.clone(), version: *version });
                continue;
            }
            Happened::Turn { task, .. }
            | Happened::Step { task, .. }
            | Happened::Again { task, .. }
            | Happened::Left { task, .. }
            | Happened::Ended { task, .. }
            | Happened::Failed { task } => *task,
        };
        let task = tasks.entry(name.path).or_insert_with(|| {
            order.push(name.path);
            Growing::default()
        });
        let attempt = task.attempts.entry(name.attempt).or_default();
        if let Happened::Step { sent, .. } = &happened {
            events.extend(sent.iter().map(|sent| (sent.path, unfinished::event_name(&sent.event))));
        }
        attempt.take(happened, formats);
    }
    let origins = origins(&order.iter().copied().collect(), formats);
    let mut grown: BTreeMap<u64, Task> = BTreeMap::new();
    for (path, task) in tasks {
        let last = task.attempts.keys().next_back().copied();
        let attempts = task.attempts.into_iter().map(|(n, attempt)| attempt.close(n, Some(n) == last, ended));
        let origin = origins.get(&path);
        grown.insert(
            path,
            Task {
                path: format!("{path:016x}"),
                action: origin.map(|origin| origin.action.clone()),
                event: origin.and_then(|origin| events.get(&origin.event).cloned()),
                attempts: attempts.collect(),
                tasks: Vec::new(),
            },
        );
    }
    // Who caused whom: children are there before their parents take them, for they started later.
    for path in order.iter().rev() {
        let parent = origins.get(path).and_then(|origin| origin.parent).filter(|parent| grown.contains_key(parent));
        if let Some(parent) = parent
            && let Some(task) = grown.remove(path)
            && let Some(parent) = grown.get_mut(&parent)
        {
            parent.tasks.insert(0, task);
        }
    }
    let tasks = order.iter().filter_map(|path| grown.remove(path)).collect();
    let dropped = happenings.dropped.into_iter().map(|(kept, entries)| Dropped {
        kept,
        dropped: entries.into_iter().map(|entry| unfinished::entry(formats, &journal::encode(&entry))).collect(),
    });
    Grown { tasks, actions, dropped: dropped.collect() }
}

impl OfAttempt {
    fn take(&mut self, happened: Happened, formats: &Formats) {
        let shown = &mut self.shown;
        match happened {
            Happened::Turn { now, given, .. } => {
                shown.turns += 1;
                let began = *shown.began.get_or_insert(now);
                shown.took = Some(now.saturating_sub(began));
                for end in given {
                    let ordinal = match &end {
                        Ok(end) => end.ordinal,
                        Err(ordinal) => *ordinal,
                    };
                    let tried = self.tries.entry(place_of(ordinal)).or_default();
                    tried.made.given = Some(now);
                    if let Ok(end) = end {
                        tried.ends(end);
                    }
                }
            }
            Happened::Step { writes, sent, over, .. } => {
                self.over |= over;
                let sent = sent.into_iter().map(|sent| {
                    let (event, value) = unfinished::unpacked(formats, sent.event);
                    Event { event, value }
                });
                let sent: Vec<Event> = sent.collect();
                let writes = unfinished::writes(formats, writes);
                if !sent.is_empty() || writes.as_object().is_some_and(|writes| !writes.is_empty()) {
                    shown.steps.push(Step { writes, sent });
                }
            }
            Happened::Again { deadline, .. } => shown.next_attempt = Some(deadline),
            Happened::Left { call: (ordinal, asked), .. } => {
                let tried = self.tries.entry(place_of(ordinal)).or_default();
                tried.made.left = true;
                // It left in the turn before.
                tried.made.asked = tried.made.asked.or_else(|| Some(shown.began?.saturating_add(shown.took?)));
                tried.asked = tried.asked.take().or(asked);
            }
            Happened::Ended { end, at, .. } => {
                let tried = self.tries.entry(place_of(end.ordinal)).or_default();
                tried.made.ended = Some(at);
                tried.ends(end);
            }
            Happened::Failed { .. } => self.failed = true,
            Happened::Action { .. } => {}
        }
    }

    fn close(mut self, number: u32, last: bool, ended: bool) -> Attempt {
        self.shown.attempt = number;
        self.shown.state = match () {
            () if self.shown.next_attempt.is_some() || !last => "tried again",
            () if self.failed => "failed, and the job with it",
            () if self.over || ended => "over",
            () => "in progress",
        };
        for ((place, number), Tried { mut made, asked, end }) in self.tries {
            made.attempt = number / 2 + 1;
            made.pause = number % 2 == 1;
            if let Some(end) = &end {
                made.asked = Some(end.began);
                made.result = Some(result(end));
            }
            made.took = made.asked.zip(made.given.or(made.ended)).map(|(asked, end)| end.saturating_sub(asked));
            let waits = &mut self.shown.waits;
            if waits.last().is_none_or(|wait| wait.wait != place) {
                let (kind, name, digest, arguments) = (None, None, None, None);
                waits.push(Wait { wait: place, kind, name, digest, arguments, tries: Vec::new() });
            }
            if let Some(wait) = waits.last_mut() {
                if let Some(asked) = asked.filter(|_| !made.pause) {
                    wait.name(&asked);
                }
                wait.tries.push(made);
            }
        }
        self.shown
    }
}

impl Wait {
    fn name(&mut self, asked: &Asked) {
        if let Some(signal) = asked.is_signal() {
            (self.kind, self.name) = (Some("signal"), Some(signal.to_owned()));
        } else if asked.name.is_empty() && !asked.is_durable() {
            self.kind = Some("sleep");
        } else {
            (self.kind, self.name) = (Some("call"), Some(asked.name.clone()));
            self.digest = asked.is_durable().then(|| format!("{:016x}", asked.digest));
            let parsed = |args: &String| serde_json::from_str(args).unwrap_or_else(|_| Value::String(args.clone()));
            self.arguments = asked.kept.as_ref().map(parsed);
        }
    }
}

/// What a wait came to.
fn result(end: &End) -> Value {
    if end.asked.is_signal().is_some() {
        return match Gave::of(journal::result(end.given.clone())) {
            Gave::Signal(payload) => {
                json!({"signal": serde_json::from_slice(&payload).unwrap_or_else(|_| Value::String(hex(&payload)))})
            }
            Gave::Ended => json!({"none": "no more signals come"}),
            Gave::Timeout => json!({"none": "timed out"}),
        };
    }
    match &end.given {
        Err(failure) => json!({"failure": failure.to_string()}),
        Ok(None) => json!({"over": true}),
        Ok(Some(bytes)) => {
            let mut shown = json!({"length": bytes.len(), "bytes": hex(bytes)});
            if let Some(text) = text(bytes) {
                shown["text"] = text.into();
            }
            shown
        }
    }
}

/// The text that bytes look like: by itself, or in one of the first two variants of an enum, as in a `Result`.
fn text(bytes: &[u8]) -> Option<String> {
    let of = |bytes| postcard::take_from_bytes::<String>(bytes).ok().filter(|(_, rest)| rest.is_empty());
    let own = of(bytes);
    let (text, _) = own.or_else(|| of(bytes.strip_prefix(&[0]).or_else(|| bytes.strip_prefix(&[1]))?))?;
    (text.len() >= 4 && !text.contains(|c: char| c.is_control() && !c.is_whitespace())).then_some(text)
}

/// What started a task.
struct Origin {
    action: String,
    /// Where the event was sent.
    event: u64,
    parent: Option<u64>,
}

/// Looks for the tasks of a run among those that its events may have started.
fn origins(paths: &BTreeSet<u64>, formats: &Formats) -> BTreeMap<u64, Origin> {
    let count = if formats.actions.is_empty() { UNNAMED } else { formats.actions.len() as u64 };
    let name = |index: u64| match formats.actions.get(index as usize) {
        Some(name) => name.clone(),
        None => format!("number {index}"),
    };
    let mut found: BTreeMap<u64, Origin> = BTreeMap::new();
    let mut parents = vec![None];
    while let Some(parent) = parents.pop() {
        let events: Box<dyn Iterator<Item = u64>> = match parent {
            None => Box::new(std::iter::once(ROOT)),
            Some(parent) => Box::new((1..=SENDS).map(move |n| mix(parent, n))),
        };
        for event in events {
            if found.len() == paths.len() {
                return found;
            }
            for index in 0..count {
                let path = mix(event, index);
                if paths.contains(&path) && !found.contains_key(&path) {
                    found.insert(path, Origin { action: name(index), event, parent });
                    parents.push(Some(path));
                }
            }
        }
    }
    found
}
