//! Event-driven agents as operators of timely dataflows.
#![forbid(unsafe_code)]

mod action;
mod afresh;
mod agent;
mod behavior;
mod call;
mod collection;
mod core;
mod counter;
mod ctx;
mod direct;
mod durable;
mod ends;
mod environment;
mod error;
mod event;
mod follow;
pub mod format;
pub mod inspect;
mod job;
mod journal;
mod kept;
mod left;
mod memory;
mod notes;
mod operator;
mod plan;
mod policy;
mod record;
mod replay;
mod resource;
mod run;
mod side;
mod signal;
mod stats;
mod tagged;
pub mod testing;
mod versions;
mod wait;

pub use crate::action::ActionOptions;
pub use crate::agent::{Agent, Input, Place};
pub use crate::call::{Call, CallInfo, Durability, Durable, Outcome, Reconciled, Sleep};
pub use crate::collection::Checkpointed;
pub use crate::counter::Counter;
pub use crate::ctx::{Ctx, Paths};
pub use crate::error::{CallError, Error, NotifyError, WaitError};
pub use crate::event::{AnyEvent, DynamicEvent, Event, Notification, names};
pub use crate::job::{
    Arguments, Csv, CsvFile, CsvLines, CsvReader, CsvRows, IntoReader, Job, JsonLines, JsonLinesFile, JsonLinesReader,
    JsonLinesRows, Output, Plans, Program, Records, Sink, SinkStream, Wrong, execute, execute_from_args, execute_with,
    run,
};
#[cfg(feature = "sqlite")]
pub use crate::job::{SqliteDatabase, SqliteSink};
pub use crate::memory::{PathError, Remembered, Slot};
pub use crate::operator::{AgentMemory, AgentStream, AgentStreams, KeyedStream, agent_with_facts};
pub use crate::plan::{BuildError, BuildErrors, Plan};
pub use crate::policy::{Divergence, Exhausted, Policy, Retry};
pub use crate::side::Tag;
pub use crate::signal::{Signal, SignalOptions};
pub use crate::stats::{ActionStats, AgentStats};
pub use crate::tagged::{DeadLetter, EventRecord, SentEvent};
pub use crate::versions::VersionChange;
pub use crate::wait::WaitFor;

pub use timely_agents_operators::checkpoint::Checkpoints;
pub use timely_agents_operators::completion::CallFailure;
pub use timely_agents_operators::{checkpoint, clock, cluster, durable_input, flow, limits, sink, source};

/// What programs with agents use.
pub mod prelude {
    pub use crate::{
        Agent, AgentStream, CallInfo, Checkpointed, Csv, Ctx, DynamicEvent, Event, Exhausted, Job, JsonLines,
        Notification, Outcome, Policy, Reconciled, Records, Retry, Signal, SinkStream, Slot, WaitError,
    };
}
/// An opt-in exchange container for clusters of one trusted binary; read its header before use.
#[cfg(feature = "abomonation")]
pub use timely_agents_abomonation as abomonation;
