//! A job over threads and processes: start, supervision, and one common end.
//!
//! [`execute`] connects the processes, runs a function on every worker thread, and returns the workers' results, or
//! one [`Failure`] that is the same in kind in every process. What timely alone leaves open is settled here:
//!
//! - a peer that never comes, or is not the expected one, is a clear error within `connect_timeout`;
//! - a panicking worker, or one that returns an error, ends all threads of all processes instead of leaving the others
//!   parked, and every process says why;
//! - a killed process is named by the others at once.
//!
//! Each pair of processes has two connections: timely's own, and a control connection for goodbyes and reasons.
//!
//! # Words
//! *Goodbye*: a process has no work left. *Report*: why the job ends, and where that happened. *Generation*: a run of
//! the job; a restart has a new one. *Fingerprint*: what the programs of all processes must equal in.
//!
//! # Not here
//! - Recovery: a lost process ends the job; it restarts from its last checkpoint.
//! - Encryption, and protection of the data connections after the handshake: use a tunnel on untrusted networks.
//! - Heartbeats: a stopped process is waited for. A link that was cut without a word, or a host that lost its power,
//!   is noticed when the system gives up on data that was sent to it.
//! - A process that ends after it has seen every goodbye is not told of failures after that.

mod config;
mod connector;
mod control;
mod deadline;
mod execute;
mod failure;
mod formation;
mod handshake;
mod link;
mod secret;
mod supervisor;

pub use config::{ClusterConfig, usage_failure};
pub use control::Control;
pub use execute::execute;
pub use failure::{Failure, FailureKind};
pub use secret::Secret;
