//! Tags: which of the epochs that are not sealed a key has changes of, in four bits by key.
//!
//! They are looked at once an input. So they are small: those of a million keys stay in a core's own cache.

use crate::keys::KeyId;

/// Names an epoch while it is not sealed.
pub(super) type Tag = u8;
/// Of a key without changes.
pub(super) const CLEAN: Tag = 0;
/// Of a key with changes of an epoch that has no tag to itself: the tags below are taken.
pub(super) const BEYOND: Tag = 15;

/// Bits of a tag.
const BITS: usize = 4;
/// Keys of one word.
const WORD: usize = 64 / BITS;
/// The low bit of each tag of a word.
const LOW: u64 = 0x1111_1111_1111_1111;

/// A tag for each key, [`CLEAN`] at first.
#[derive(Debug, Default)]
pub(super) struct Tags(Vec<u64>);

impl Tags {
    /// Makes room for keys of ids below `keys`.
    pub(super) fn admit(&mut self, keys: usize) {
        if self.room() < keys {
            self.0.resize(keys.div_ceil(WORD), 0);
        }
    }

    /// All ids below this have room.
    #[inline]
    pub(super) fn room(&self) -> usize {
        self.0.len() * WORD
    }

    #[inline]
    pub(super) fn get(&self, key: KeyId) -> Tag {
        let word = self.0.get(key.index() / WORD).copied().unwrap_or(0);
        (word >> (key.index() % WORD * BITS)) as Tag & BEYOND
    }

    /// Sets the tag of a key that has room; what it was.
    #[inline]
    pub(super) fn replace(&mut self, key: KeyId, tag: Tag) -> Tag {
        let (word, shift) = (&mut self.0[key.index() / WORD], key.index() % WORD * BITS);
        let before = (*word >> shift) as Tag & BEYOND;
        *word ^= u64::from(before ^ tag) << shift;
        before
    }

    /// Puts ids, not before `from`, that have this tag into `ids`, in order, until less than a word of room is left. How many.
    pub(super) fn find(&self, from: usize, tag: Tag, ids: &mut [KeyId]) -> usize {
        let mut found = 0;
        let mut skipped = from % WORD * BITS;
        for (n, word) in self.0.iter().enumerate().skip(from / WORD) {
            if found + WORD > ids.len() {
                break;
            }
            // All bits of a tag are as they should be.
            let differs = word ^ (u64::from(tag) * LOW);
            let differs = differs | differs >> 2;
            let mut same = !(differs | differs >> 1) & LOW & (u64::MAX << std::mem::take(&mut skipped));
            while same != 0 {
                ids[found] = KeyId((n * WORD + same.trailing_zeros() as usize / BITS) as u32);
                found += 1;
                same &= same - 1;
            }
        }
        found
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_found_by_their_tags() {
        let mut tags = Tags::default();
        assert_eq!((tags.get(KeyId(7)), tags.find(0, 1, &mut [KeyId(0); 64])), (CLEAN, 0));
        tags.admit(1000);
        for key in 0..1000 {
            assert_eq!(tags.replace(KeyId(key), (key % 16) as Tag), CLEAN);
        }
        assert_eq!(tags.replace(KeyId(5), 2), 5);
        assert_eq!((4..8).map(|key| tags.get(KeyId(key))).collect::<Vec<_>>(), [4, 2, 6, 7]);
        for (tag, from) in [(1, 0), (2, 3), (BEYOND, 41), (5, 1), (6, 998), (1, 2000)] {
            let (mut found, mut at) = (Vec::new(), from);
            loop {
                let mut ids = [KeyId(0); 64];
                let n = tags.find(at, tag, &mut ids);
                let Some(last) = ids[..n].last() else { break };
                at = last.index() + 1;
                found.extend_from_slice(&ids[..n]);
            }
            let all: Vec<_> = (from as u32..1000).map(KeyId).filter(|key| tags.get(*key) == tag).collect();
            assert_eq!(found, all, "{tag} from {from}");
        }
    }
}
