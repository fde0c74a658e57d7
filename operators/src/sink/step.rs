//! Where what is durable changes.

use std::io;

use crate::checkpoint::failpoint;

/// Does one step that a crash can fall before or after; `name` says which.
pub(super) fn step(name: &'static str, io: impl FnOnce() -> io::Result<()>) -> io::Result<()> {
    failpoint::step(name, io)
}
