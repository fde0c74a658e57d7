//! Jobs that are killed, stopped, taken over and started again: as processes, on real files.
//!
//! Cargo builds examples for a plain `cargo test`, not for `cargo test --test crash`: build `turnaround` first then.
//!
//! # What is checked
//! - After a kill at any failpoint, or at any moment, the job goes on in another shape and comes to the very output of a
//!   run without a crash (rules D4, D5, D6).
//! - SIGTERM stops in order; of two runs only the later one has any effect (D9).
//!
//! # What is not
//! - A machine that loses power: SIGKILL keeps what the system has been given. The stores' own tests lose it.
#![forbid(unsafe_code)]

mod carry;
mod fences;
mod flights;
mod kills;
mod matrix;
mod process;
mod programs;
#[path = "../turnaround/reference.rs"]
mod reference;
mod stops;
mod sums;
