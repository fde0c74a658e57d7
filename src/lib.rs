//! Event-driven agents as operators of timely dataflows.
#![forbid(unsafe_code)]

/// An opt-in exchange container for clusters of one trusted binary; read its header before use.
#[cfg(feature = "abomonation")]
pub use timely_agents_abomonation as abomonation;
