//! Event-driven agents as operators of timely dataflows.
#![forbid(unsafe_code)]
