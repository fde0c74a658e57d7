//! What comes of runs that are done again, and what is said of it.

use std::fmt::{self, Display, Formatter};

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{Agent, Difference};
use crate::call::{ToldResult, place_of};
use crate::inspect::run::State;

/// What a call has given, as its program knows it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct CallResult {
    /// The task's place in the run, as a [`Task`](crate::inspect::Task) has it.
    pub task: String,
    /// The attempt of the task, from 1.
    pub task_attempt: u32,
    /// The call's place among the waits of its task.
    pub wait: u32,
    /// The attempt of the call, from 1.
    pub attempt: u32,
    /// What it gave.
    pub value: Value,
}

impl CallResult {
    /// Whether it is of the same call.
    pub(super) fn is_of(&self, other: &CallResult) -> bool {
        let place = |of: &CallResult| (of.task_attempt, of.wait, of.attempt);
        self.task == other.task && place(self) == place(other)
    }

    pub(super) fn of(told: ToldResult) -> Self {
        let ToldResult { task, ordinal, value } = told;
        let (wait, number) = place_of(ordinal);
        CallResult {
            task: format!("{:016x}", task.path),
            task_attempt: task.attempt,
            wait,
            attempt: number / 2 + 1,
            value: serde_json::from_str(&value).unwrap_or(Value::Null),
        }
    }
}

/// A run, done again.
#[derive(Clone, Debug, Serialize)]
pub struct Replayed {
    /// The agent.
    pub agent: String,
    /// The key, as it shows.
    pub key: Value,
    /// The run's number among those of its key.
    pub sequence: u64,
    /// What had become of it: in the checkpoint and unfinished, begun behind it, or committed.
    pub state: State,
    /// Where it is not what it was.
    pub differences: Vec<Difference>,
    /// Calls that it asks for where its journal ends: a job would make them, or wait for them.
    pub calls: Vec<String>,
    /// How many outputs it makes before such calls; of one that is unfinished in the checkpoint, behind its journal.
    pub outputs: usize,
    /// Whether it is over then.
    pub over: bool,
    /// What its calls gave, as far as it has asked for it.
    pub results: Vec<CallResult>,
    /// Whether it was over.
    #[serde(skip)]
    pub(super) was_over: bool,
}

impl Replayed {
    pub(super) fn new<I, O>(agent: &Agent<'_, I, O>, shown: &Value, sequence: u64, state: State) -> Self {
        Replayed {
            agent: agent.plan.name().to_owned(),
            key: shown.clone(),
            sequence,
            state,
            differences: Vec::new(),
            calls: Vec::new(),
            outputs: 0,
            over: false,
            results: Vec::new(),
            was_over: false,
        }
    }

    /// Whether it is what it was.
    pub fn is_same(&self) -> bool {
        self.differences.is_empty()
    }
}

impl Display for Replayed {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let Replayed { agent, key, sequence, state, differences, calls, outputs, over, .. } = self;
        write!(f, "agent {agent}, key {key}, run {sequence}: ")?;
        f.write_str(if differences.is_empty() { "same" } else { "DIFFERS" })?;
        let goes_on = !self.was_over;
        if !calls.is_empty() {
            let calls: Vec<String> = calls.iter().map(|name| format!("{name:?}")).collect();
            write!(f, ", goes on with call {}", calls.join(", "))?;
        } else if !over && differences.is_empty() {
            f.write_str(if goes_on { ", waits" } else { ", and was cut short there" })?;
        } else if goes_on && differences.is_empty() {
            f.write_str(", ends without another call")?;
        }
        if goes_on && *outputs > 0 {
            let more = if *state == State::Unfinished { " more" } else { "" };
            write!(f, ", puts out {outputs}{more}")?;
        }
        differences.iter().try_for_each(|difference| write!(f, "\n    {difference}"))
    }
}

/// A run that has begun behind the newest checkpoint and cannot be done again.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct NotReplayed {
    /// The agent.
    pub agent: String,
    /// The key, as it shows.
    pub key: Value,
    /// The run's number among those of its key.
    pub sequence: u64,
    /// Why it cannot be.
    pub not_replayed: Unknown,
}

/// What is not known of a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Unknown {
    /// What it is about: notes have the digest of an input only.
    Input,
    /// What its key remembered when it began.
    Memory,
}

impl Display for Unknown {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Unknown::Input => "the input is not recorded, which it is where journals are retained (--retain-journals)",
            Unknown::Memory => {
                "what the key remembered at the beginning is not known: runs before it, behind the checkpoint, are not \
                 recorded, or have begun again since"
            }
        })
    }
}

/// What has come of the runs of an agent.
#[derive(Clone, Debug, Default)]
pub struct Replay {
    /// Those that were done again, by key and number.
    pub runs: Vec<Replayed>,
    /// Those that have journals and cannot be done again.
    pub not_replayed: Vec<NotReplayed>,
}
