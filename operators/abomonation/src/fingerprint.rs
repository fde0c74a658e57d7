//! One number for "the same build and the same row", which peers compare before they exchange rows.

use crate::row::AbomRow;

/// What every row of this build shares: versions of the format and of the crates, compiler, target, flags.
const BUILD: Fingerprint = Fingerprint::new()
    .text("timely-agents-abomonation")
    .text(env!("CARGO_PKG_VERSION"))
    .text("abomonation 0.7.3")
    .text(env!("TIMELY_AGENTS_BUILD"))
    .number(size_of::<usize>() as u64)
    .text(if cfg!(target_endian = "little") { "little" } else { "big" })
    .text(if cfg!(debug_assertions) { "debug" } else { "release" });

/// The fingerprint of this build's containers of rows `R`.
///
/// Two processes may exchange [`AbomVec<R>`](crate::AbomVec) only if theirs are equal; the handshake of a cluster
/// compares them, and each container carries it. It covers this crate's version, abomonation's, the compiler, the
/// target, the flags, pointer width, byte order, and the row: its size, its alignment, each field's type and place.
///
/// ```
/// use timely_agents_abomonation::fingerprint;
///
/// assert_eq!(fingerprint::<(u64, String)>(), fingerprint::<(u64, String)>());
/// assert_ne!(fingerprint::<(u64, String)>(), fingerprint::<(i64, String)>());
/// ```
pub const fn fingerprint<R: AbomRow>() -> u64 {
    BUILD.number(R::SHAPE).finish()
}

/// FNV-1a over 64 bits, usable in constants. Against accidents, not against an adversary.
#[derive(Clone, Copy)]
pub(crate) struct Fingerprint(u64);

impl Fingerprint {
    pub(crate) const fn new() -> Self {
        Self(0xcbf2_9ce4_8422_2325)
    }

    const fn byte(self, byte: u8) -> Self {
        Self((self.0 ^ byte as u64).wrapping_mul(0x0000_0100_0000_01b3))
    }

    /// Adds a number, at the same width on every target.
    pub(crate) const fn number(mut self, number: u64) -> Self {
        let bytes = number.to_le_bytes();
        let mut index = 0;
        while index < bytes.len() {
            self = self.byte(bytes[index]);
            index += 1;
        }
        self
    }

    /// Adds a text and its length, so that neighbours cannot trade characters.
    pub(crate) const fn text(mut self, text: &str) -> Self {
        let bytes = text.as_bytes();
        self = self.number(bytes.len() as u64);
        let mut index = 0;
        while index < bytes.len() {
            self = self.byte(bytes[index]);
            index += 1;
        }
        self
    }

    pub(crate) const fn finish(self) -> u64 {
        self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::flat_row;

    #[derive(Clone)]
    struct Narrow {
        left: u32,
        right: u32,
    }
    flat_row!(Narrow { left, right });

    #[derive(Clone)]
    struct Wide {
        both: u64,
    }
    flat_row!(Wide { both });

    #[test]
    fn rows_of_equal_size_and_other_fields_differ() {
        assert_ne!(fingerprint::<Narrow>(), fingerprint::<Wide>());
        assert_ne!(fingerprint::<(u64, i64)>(), fingerprint::<(i64, i64)>());
        assert_ne!(fingerprint::<(u64, String)>(), fingerprint::<(u64, u64, u64, u64)>());
    }

    #[test]
    fn texts_do_not_run_into_each_other() {
        let split = |left, right| Fingerprint::new().text(left).text(right).finish();
        assert_ne!(split("ab", "c"), split("a", "bc"));
    }

    #[test]
    fn the_build_names_its_compiler_and_target() {
        let build = env!("TIMELY_AGENTS_BUILD");
        assert!(build.contains("rustc ") && build.contains(std::env::consts::ARCH), "{build}");
    }
}
