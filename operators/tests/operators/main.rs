//! The operators crate from outside: one binary, a module for each subject.
#![allow(clippy::unwrap_used, reason = "a test that unwraps in vain has failed")]

mod cluster;
mod durable_input;
mod flow;
mod resume;
mod sink;
mod source;
mod source_acks;
mod stage;
mod transactional;
