//! Time, keys and durability: timely operators that know nothing of agents.
#![forbid(unsafe_code)]
