//! Counters of the user's own, summed over workers.

/// A counter, made by `Agent::counter`. It is `Copy`: actions capture it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Counter(pub(crate) u32);
