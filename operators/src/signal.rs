//! Signals: what reaches the runs of a key from beside its inputs.

/// Something told to one key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Signal<K> {
    /// The key.
    pub key: K,
    /// What it is told.
    pub told: Told,
}

/// What a key is told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Told {
    /// Something that a run waits for, or will: it is kept until one takes it.
    Given {
        /// What it is known by.
        name: String,
        /// What it says.
        payload: Vec<u8>,
    },
    /// The run in flight is to end, undone.
    Cancel {
        /// Whether what waits behind the run is given up as well.
        waiting: bool,
        /// Why, for people.
        reason: String,
    },
}
