//! An agent without a cluster, for tests of agents.
//!
//! A [`Harness`] drives the very driver and behavior that run inside a dataflow, in one thread, with a clock
//! that a test sets and calls that a test completes. Several of them, as the workers of a job, make a simulation. A
//! harness differs from a worker only at the rim: nothing is
//! exchanged, and what the agent puts out is kept for the test to look at.
//!
//! # Invariants
//! - Nothing happens but by a method of the harness; the same calls of them give the same results.
//!
//! Not here: placement, capabilities and other operators; tests of those use `timely::execute`.

mod harness;
mod rim;

pub use self::harness::{Harness, TakeFact};
pub use self::rim::{CallId, PendingCall};
