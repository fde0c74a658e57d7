//! Numbers as bytes, as postcard writes them: most keys and values that are sealed by the million are numbers.
//!
//! # Invariants
//! - What is written here for an integer is what postcard writes.

use std::any::{Any, TypeId};

/// Bytes of the longest number.
const LONGEST: usize = 10;

/// Whether values of this type are integers that are written as varints. It is known where this is compiled.
#[inline]
pub fn is_number<V: Any>() -> bool {
    [
        TypeId::of::<u64>(),
        TypeId::of::<u32>(),
        TypeId::of::<u16>(),
        TypeId::of::<usize>(),
        TypeId::of::<i64>(),
        TypeId::of::<i32>(),
    ]
    .contains(&TypeId::of::<V>())
}

/// What is written as a varint for `value`; 0 where that is no number.
#[inline]
pub fn number_of<V: Any>(value: &V) -> u64 {
    let value: &dyn Any = value;
    if let Some(n) = value.downcast_ref::<u64>() {
        *n
    } else if let Some(n) = value.downcast_ref::<u32>() {
        u64::from(*n)
    } else if let Some(n) = value.downcast_ref::<u16>() {
        u64::from(*n)
    } else if let Some(n) = value.downcast_ref::<usize>() {
        *n as u64
    } else if let Some(n) = value.downcast_ref::<i64>() {
        zigzag(*n)
    } else {
        value.downcast_ref::<i32>().map_or(0, |n| zigzag(i64::from(*n)))
    }
}

/// Small for what is near zero.
#[inline]
fn zigzag(n: i64) -> u64 {
    ((n << 1) ^ (n >> 63)) as u64
}

/// A number behind a head of up to six bytes.
pub(super) const WITH_HEAD: usize = 16;

/// The bytes of a number behind `head`, which are `HEAD` bytes, least first, the last of them 0: there is put how many bytes
/// the number has, and `more`. How many bytes that is in all, and then what does not count.
#[inline]
pub(super) fn with_head<const HEAD: usize>(head: u64, more: u64, n: u64) -> (usize, [u8; WITH_HEAD]) {
    const { assert!(HEAD > 0 && HEAD + LONGEST <= WITH_HEAD) };
    if n >= 1 << 28 {
        return long::<HEAD>(head, more, n);
    }
    let (number, length) = short(n as u32);
    let low = head | (length as u64 + more) << (8 * (HEAD - 1)) | u64::from(number) << (8 * HEAD);
    let high = u64::from(number) >> (64 - 8 * HEAD);
    (HEAD + length, in_two(low, high))
}

/// Two stores.
#[inline]
fn in_two(low: u64, high: u64) -> [u8; WITH_HEAD] {
    let mut bytes = [0; WITH_HEAD];
    bytes[..8].copy_from_slice(&low.to_le_bytes());
    bytes[8..].copy_from_slice(&high.to_le_bytes());
    bytes
}

/// The bytes of a number below 2^28, least first, and how many these are: without a branch for each.
#[inline]
fn short(n: u32) -> (u32, usize) {
    let spread = (n & 0x7F) | (n << 1 & 0x7F00) | (n << 2 & 0x7F_0000) | (n << 3 & 0x7F00_0000);
    let length = 1 + usize::from(n >= 1 << 7) + usize::from(n >= 1 << 14) + usize::from(n >= 1 << 21);
    // All but the last one say that another one follows.
    let more = 0x80_8080 & ((1 << (8 * (length - 1))) - 1);
    (spread | more, length)
}

#[inline(never)]
fn long<const HEAD: usize>(head: u64, more: u64, mut n: u64) -> (usize, [u8; WITH_HEAD]) {
    let mut bytes = in_two(head, 0);
    let mut at = HEAD;
    while n >= 0x80 {
        bytes[at] = n as u8 | 0x80;
        n >>= 7;
        at += 1;
    }
    bytes[at] = n as u8;
    bytes[HEAD - 1] = (at + 1 - HEAD) as u8 + more as u8;
    (at + 1, bytes)
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test that unwraps in vain has failed")]
mod tests {
    use serde::Serialize;

    use super::*;

    fn check<V: Any + Serialize>(value: V) {
        assert!(is_number::<V>());
        let encoded = postcard::to_allocvec(&value).unwrap();
        let (length, bytes) = with_head::<2>(9, 1, number_of(&value));
        assert_eq!(bytes[..length], [&[9, encoded.len() as u8 + 1], &encoded[..]].concat());
        let (length, bytes) = with_head::<6>(0x04_03_02_01_09, 0, number_of(&value));
        assert_eq!(bytes[..length], [&[9, 1, 2, 3, 4, encoded.len() as u8], &encoded[..]].concat());
    }

    #[test]
    fn numbers_are_what_postcard_writes() {
        for n in (0..64).flat_map(|bit| [1u64 << bit, (1 << bit) - 1, !(1 << bit)]) {
            check(n);
            check(n as usize);
            check(n as u32);
            check(n as u16);
            check(n as i64);
            check(n as i32);
        }
        assert!(!is_number::<u8>() && !is_number::<bool>() && !is_number::<&str>());
    }
}
