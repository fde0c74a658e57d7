//! Records to files and standard output, without a worker ever waiting for them.
//!
//! ```text
//! job without checkpoints:  write_lines ──▶ FileSink (a thread) ──▶ a file, at success
//! job with checkpoints:     stage_lines ─┐
//!                           stage_whole ─┼▶ Stager (a thread) ──▶ a staged file per epoch ──▶ Publisher, at the commit:
//!                           stage_rows ──┘            file in place, or rows and mark in one transaction of the sink
//!                                └──Ack::Staged, at its epoch──▶ the committer
//! ```
//!
//! # Invariants
//! - Nothing that is staged can be seen at its place before [`publish`], which happens once its epoch is committed.
//! - All that happens to a file goes through one function, `step`, under a name: what a crash can fall between.
//!
//! Not here: who commits and calls [`publish`], what the lines are, and files themselves (`files`), of which the scenario has
//! simulated ones.

mod backlog;
pub mod conformance;
mod encode;
mod file;
mod naming;
mod publish;
mod rows;
#[cfg(test)]
mod scenario;
mod stage;
mod stager;
mod staging;
mod step;
mod transactional;

use std::io;

pub(crate) use self::backlog::Backlog;
pub use self::backlog::SinkLoad;
pub use self::encode::Encode;
pub use self::file::{FileSink, write_lines};
pub use self::naming::Place;
pub use self::publish::{publish, sweep};
pub use self::rows::stage_rows;
pub use self::stage::{stage_lines, stage_whole};
pub use self::stager::{Stager, StagerOptions};
pub use self::transactional::{Publisher, TransactionalSink};

/// An error of the system without the number at its end.
fn reason(error: &io::Error) -> String {
    let text = error.to_string();
    match text.find(" (os error ") {
        Some(end) => text[..end].to_owned(),
        None => text,
    }
}
