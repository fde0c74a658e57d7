//! Checkpoints: facts, offsets and outputs made durable together, by epochs (rules D1 to D6, D9, D10).

mod ack;

pub use self::ack::{Ack, LogPosition, Publication};
