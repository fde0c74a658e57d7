//! Puts the keys of a block in order of their groups: wherever there is time for it, which is seldom where they are written.

use super::key::varint;

/// Keys with facts of at most so many bytes are copied faster.
const SHORT: usize = 32;

/// A key with its facts, in the order in which they were written; it begins where the one before it ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Entry {
    pub(super) group: u32,
    /// How many facts there are.
    pub(super) count: u32,
    pub(super) end: u32,
}

/// The sections of a block whose keys lie in `arena` as they were written. Of several entries of a key the last one counts, so
/// those of a group stay in order.
pub(super) fn by_group(arena: &[u8], entries: &[Entry]) -> Vec<u8> {
    let (mut least, mut greatest) = (u32::MAX, 0);
    for entry in entries {
        least = least.min(entry.group);
        greatest = greatest.max(entry.group);
    }
    let span = (greatest.saturating_sub(least)) as usize + 1;
    let mut order: Vec<u32> = (0..entries.len() as u32).collect();
    if span / 4 > entries.len() {
        order.sort_by_key(|n| entries[*n as usize].group);
        return in_order(arena, entries, &order);
    }
    // By counting: a few nanoseconds an entry however many there are.
    let mut places = vec![0u32; span + 1];
    for entry in entries {
        places[(entry.group - least) as usize + 1] += 1;
    }
    let mut before = 0;
    for place in &mut places {
        before += *place;
        *place = before;
    }
    for (n, entry) in entries.iter().enumerate() {
        let place = &mut places[(entry.group - least) as usize];
        order[*place as usize] = n as u32;
        *place += 1;
    }
    in_order(arena, entries, &order)
}

/// The sections of the entries of these places, of which those of a group stand together.
pub(super) fn in_order(arena: &[u8], entries: &[Entry], order: &[u32]) -> Vec<u8> {
    let start = |n: usize| n.checked_sub(1).map_or(0, |before| entries[before].end as usize);
    let length = if order.len() == entries.len() {
        arena.len()
    } else {
        order.iter().map(|n| entries[*n as usize].end as usize - start(*n as usize)).sum()
    };
    let mut bytes = Vec::with_capacity(length + 8 * order.len().min(1024) + SHORT);
    let mut section: Option<(u32, usize)> = None;
    for n in order {
        let n = *n as usize;
        let entry = entries[n];
        if section.is_none_or(|(group, _)| group != entry.group) {
            end_section(&mut bytes, section);
            varint(&mut bytes, u64::from(entry.group));
            section = Some((entry.group, bytes.len()));
            bytes.extend_from_slice(&[0; 4]);
        }
        let rest = &arena[start(n)..];
        let length = entry.end as usize - start(n);
        match rest.first_chunk::<SHORT>() {
            // A copy of a known length, and then of some bytes too many, is several times as fast.
            Some(more) if length <= SHORT => {
                let end = bytes.len() + length;
                bytes.extend_from_slice(more);
                bytes.truncate(end);
            }
            _ => bytes.extend_from_slice(&rest[..length]),
        }
    }
    end_section(&mut bytes, section);
    bytes
}

fn end_section(bytes: &mut [u8], section: Option<(u32, usize)>) {
    if let Some((_, at)) = section {
        let length = u32::try_from(bytes.len() - at - 4).expect("a block is far below 4 GiB");
        bytes[at..at + 4].copy_from_slice(&length.to_le_bytes());
    }
}
