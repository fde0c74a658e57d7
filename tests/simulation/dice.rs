//! Numbers that look random, and the trace of what was done with them.

use std::fmt::{self, Write};

/// `SplitMix64` (Steele, Lea and Flood 2014): the same numbers everywhere.
#[derive(Clone)]
pub(crate) struct Dice(u64);

impl Dice {
    pub(crate) fn new(seed: u64) -> Self {
        Dice(seed ^ 0x0005_deec_e66d)
    }

    /// A number below `sides`.
    pub(crate) fn roll(&mut self, sides: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut bits = self.0;
        bits = (bits ^ (bits >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        bits = (bits ^ (bits >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (bits ^ (bits >> 31)) % sides
    }

    /// An index into what has so many.
    pub(crate) fn index(&mut self, length: usize) -> usize {
        self.roll(length as u64) as usize
    }
}

/// A hash over all that has happened, in order. It prints it as well if it is told to.
pub(crate) struct Trace {
    pub(crate) hash: u64,
    pub(crate) prints: bool,
}

impl Trace {
    pub(crate) fn new(prints: bool) -> Self {
        Trace { hash: 0xcbf2_9ce4_8422_2325, prints }
    }

    pub(crate) fn note(&mut self, what: fmt::Arguments<'_>) {
        // Hashing cannot fail.
        let _ = self.write_fmt(what);
        self.hash = self.hash.wrapping_mul(0x0100_0000_01b3);
        if self.prints {
            eprintln!("{what}");
        }
    }
}

impl Write for Trace {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        for byte in text.bytes() {
            self.hash = (self.hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
        }
        Ok(())
    }
}
