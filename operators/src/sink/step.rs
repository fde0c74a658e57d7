//! Where what is durable changes.

use std::io;

/// Does one step that a crash can fall before or after; `name` says which.
pub(super) fn step<R>(name: &'static str, io: impl FnOnce() -> io::Result<R>) -> io::Result<R> {
    let _ = name;
    io()
}
