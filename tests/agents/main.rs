//! What holds for agents, rule by rule: behaviors as a user meets them.
//!
//! Most tests drive an agent in a `Harness`; what needs exchange, capabilities or several workers runs in real
//! timely workers. Modules go by theme, and each cites the rules of `docs/rules.md` that it holds to account.
#![allow(clippy::unwrap_used, reason = "a test that unwraps in vain has failed")]

mod bounds;
mod build_errors;
mod calls;
mod cancel;
mod carried_notes;
mod carry;
mod collections;
mod decision_table;
mod defects;
mod determinism;
mod divergence;
mod dynamic_events;
mod ends;
mod failure;
mod frontier;
mod in_doubt;
mod lifecycle;
mod limits;
mod memory;
mod notes;
mod notify;
mod ordering;
mod placement;
mod plans;
mod retries;
mod signals;
mod steps;
mod stops;
mod streams;
mod support;
mod timers;
mod versions;
