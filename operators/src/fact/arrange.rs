//! Puts keys together from their pieces, in order of their groups: wherever there is time for it, which is seldom where they
//! are written.

use super::block::END_OF_KEY;
use super::column::{FactColumns, Row};
use super::key::varint;

/// Pieces of at most so many bytes are copied faster.
const SHORT: usize = 16;

/// The sections of a block whose keys, of these groups, lie in `columns` as they were written. Of several entries of a key the
/// last one counts, so those of a group stay in order.
pub(super) fn by_group(columns: &FactColumns, groups: &[u32]) -> Vec<u8> {
    let (mut least, mut greatest) = (u32::MAX, 0);
    for group in groups {
        least = least.min(*group);
        greatest = greatest.max(*group);
    }
    let span = (greatest.saturating_sub(least)) as usize + 1;
    let mut order: Vec<u32> = (0..groups.len() as u32).collect();
    if span / 4 > groups.len() {
        order.sort_by_key(|n| groups[*n as usize]);
        return in_order(columns, groups, &order);
    }
    // By counting: a few nanoseconds a key however many there are.
    let mut places = vec![0u32; span + 1];
    for group in groups {
        places[(group - least) as usize + 1] += 1;
    }
    let mut before = 0;
    for place in &mut places {
        before += *place;
        *place = before;
    }
    for (n, group) in groups.iter().enumerate() {
        let place = &mut places[(group - least) as usize];
        order[*place as usize] = n as u32;
        *place += 1;
    }
    in_order(columns, groups, &order)
}

/// The sections of the keys of these places, of which those of a group stand together. Keys without facts are left out.
pub(super) fn in_order(columns: &FactColumns, groups: &[u32], order: &[u32]) -> Vec<u8> {
    let rows = columns.rows();
    let mut bytes = Vec::with_capacity(columns.len() + order.len() + 8 * order.len().min(1024) + SHORT);
    let mut section: Option<(u32, usize)> = None;
    for n in order {
        let (group, row) = (groups[*n as usize], rows[*n as usize]);
        if columns.count_of(row) == 0 {
            continue;
        }
        if section.is_none_or(|(of, _)| of != group) {
            end_section(&mut bytes, section);
            varint(&mut bytes, u64::from(group));
            section = Some((group, bytes.len()));
            bytes.extend_from_slice(&[0; 4]);
        }
        put_key(columns, row, &mut bytes);
    }
    end_section(&mut bytes, section);
    bytes
}

fn put_key(columns: &FactColumns, row: Row, bytes: &mut Vec<u8>) {
    for (rest, length) in columns.pieces(row) {
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
    bytes.push(END_OF_KEY);
}

fn end_section(bytes: &mut [u8], section: Option<(u32, usize)>) {
    if let Some((_, at)) = section {
        let length = u32::try_from(bytes.len() - at - 4).expect("a block is far below 4 GiB");
        bytes[at..at + 4].copy_from_slice(&length.to_le_bytes());
    }
}
