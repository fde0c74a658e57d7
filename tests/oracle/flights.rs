//! January.
