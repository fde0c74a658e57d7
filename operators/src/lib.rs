//! Time, keys and durability: timely operators that know nothing of agents.
#![forbid(unsafe_code)]
#![cfg_attr(test, allow(clippy::unwrap_used, reason = "a test that unwraps in vain has failed"))]

pub mod cluster;
pub mod quiet;
