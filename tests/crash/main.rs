//! Jobs that are killed, stopped, taken over and started again: as processes, on real files.
//!
//! Cargo builds examples for a plain `cargo test`, not for `cargo test --test crash`: build `turnaround` first then.
//!
//! # What is checked
//! - After a kill at any failpoint, or at any moment, also while recovering, the job goes on in another shape and comes to
//!   the very output of a run without a crash (rules D4, D5, D6); so it does under Carry (S5, `carry`), with transactional
//!   sinks, collections and snapshots (`sums`).
//! - A call whose result is known is not made again (D7, D8, `tools`), whatever it is and whoever asked (`defects`), unless
//!   its action fails of it (S8, `joined`).
//! - SIGTERM stops in order (`stops`); of two runs only the later one has any effect (D9, `fences`).
//! - What does not fit or cannot be read is refused, and nothing is lost by it; failing disks end the job (`fits`), and so do
//!   full ones (`full`).
//!
//! # What is not
//! - A machine that loses power: SIGKILL keeps what the system has been given. The tests of the store and of sinks lose it.
//! - Carry over `Stamp` times.
//! - Several machines.
//!
//! The long sets are ignored; `scripts/soak` runs them.
#![forbid(unsafe_code)]

mod carry;
mod defects;
mod faults;
mod fences;
mod fits;
mod flights;
mod full;
mod joined;
mod kills;
mod matrix;
mod process;
mod programs;
#[path = "../turnaround/reference.rs"]
mod reference;
mod small;
mod stops;
mod sums;
mod tools;
