//! Time, keys and durability: timely operators that know nothing of agents.
#![forbid(unsafe_code)]
#![cfg_attr(test, allow(clippy::unwrap_used, reason = "a test that unwraps in vain has failed"))]

pub mod behavior;
pub mod capabilities;
pub mod checkpoint;
pub mod clock;
pub mod cluster;
pub mod commit;
pub mod completion;
pub mod driver;
pub mod durable_input;
pub mod encoded;
pub mod fact;
mod files;
pub mod flow;
pub mod group;
pub mod hash;
pub mod journal;
pub mod keys;
pub mod limits;
pub mod open_work;
pub mod operator;
pub mod quiet;
pub mod runtime;
pub mod signal;
pub mod sink;
pub mod slab;
pub mod source;
pub mod stats;
pub mod stop;
pub mod time;
pub mod timers;
