//! The command-line tool as a user runs it, against checkpoints of real jobs.
//!
//! Cargo builds examples for a plain `cargo test`, not for `cargo test --test tool`: build the main job first then
//! (`cargo build --example turnaround`).
//!
//! # Not checked
//! - The wording of errors beyond what they must name.

mod damaged;
mod exact;
mod jobs;
mod left;
mod live;
mod midway;
mod rules;
mod runs;
mod support;
mod unfinished;
mod usage;
mod waiting;
