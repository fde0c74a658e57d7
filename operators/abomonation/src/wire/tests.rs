use super::*;
use crate::flat_row;

#[derive(Clone, Debug, PartialEq)]
struct Order {
    item: String,
    lot: i32,
    customer: u64,
    price: f64,
    note: String,
    flags: u32,
}
flat_row!(Order { item, lot, customer, price, note, flags });

fn order(index: u64) -> Order {
    let items = ["", "tea", "čaj", "茶", "🫖🍵", "a longer line that no small string could hold"];
    Order {
        item: items[index as usize % items.len()].to_owned(),
        lot: -(index as i32),
        customer: index.wrapping_mul(0x9E37_79B9_7F4A_7C15),
        price: index as f64 / 7.0,
        note: items[(index / 3) as usize % items.len()].repeat(index as usize % 4),
        flags: u32::MAX - index as u32,
    }
}

/// Decodes what this process encoded, or damaged since.
fn decode_own<R: AbomRow>(bytes: &[u8]) -> Result<Vec<R>, WireError> {
    // SAFETY: each test passes bytes of `encode`, whole or damaged; none forges a checksum over rows.
    unsafe { decode(bytes) }.map(|slab: Slab<R>| {
        assert_eq!(slab.rows().as_ptr().addr() % align_of::<R>(), 0, "rows lie at their alignment");
        slab.rows().to_vec()
    })
}

/// Sends `rows` through a buffer at each offset from an aligned address.
fn assert_round_trip<R: AbomRow + PartialEq + std::fmt::Debug>(rows: &[R]) {
    let bytes = encode(rows);
    assert_eq!(bytes.len(), length(rows));
    assert_eq!(bytes.len() % 8, 0);
    for offset in 0..16 {
        let mut buffer = vec![0xA5; offset];
        buffer.extend_from_slice(&bytes);
        assert_eq!(decode_own::<R>(&buffer[offset..]).as_deref(), Ok(rows), "at offset {offset}");
    }
}

#[test]
fn rows_survive_the_trip_at_any_alignment_of_the_buffer() {
    for count in [0, 1, 2, 5, 40] {
        let rows: Vec<Order> = (0..count).map(order).collect();
        assert_round_trip(&rows);
    }
}

#[test]
fn every_kind_of_row_is_read_at_its_alignment() {
    assert_round_trip::<u8>(&[1, 2, 3]);
    assert_round_trip::<u64>(&[u64::MAX, 0, 7]);
    assert_round_trip::<u128>(&[u128::MAX, 0, 7]);
    assert_round_trip::<f64>(&[-0.5, f64::INFINITY]);
    assert_round_trip::<String>(&[String::new(), "żółw".to_owned()]);
    assert_round_trip::<(u8, u8, u16, u32)>(&[(1, 2, 3, 4); 3]);
    assert_round_trip::<(u64, u64, String)>(&[(1, 2, "x".to_owned()), (3, 4, "🦀".repeat(9))]);
    assert_round_trip::<(String, u64, String)>(&[
        ("odd".to_owned(), 1, "lengths".to_owned()),
        (String::new(), 2, "é".to_owned()),
    ]);
    assert_round_trip::<(u128, String, u64)>(&[(1, "seven b".to_owned(), 2), (3, "x".to_owned(), 4)]);
}

#[test]
fn each_changed_bit_is_detected() {
    let rows: Vec<Order> = (0..3).map(order).collect();
    let mut bytes = encode(&rows);
    for at in 0..bytes.len() {
        for bit in 0..8 {
            bytes[at] ^= 1 << bit;
            assert!(matches!(decode_own::<Order>(&bytes), Err(WireError::Changed { .. })), "bit {bit} of byte {at}");
            bytes[at] ^= 1 << bit;
        }
        bytes[at] = !bytes[at];
        assert!(matches!(decode_own::<Order>(&bytes), Err(WireError::Changed { .. })), "byte {at}");
        bytes[at] = !bytes[at];
    }
    assert_eq!(decode_own::<Order>(&bytes).as_deref(), Ok(&rows[..]));
}

#[test]
fn a_cut_or_a_lengthened_container_is_refused() {
    let mut bytes = encode(&[order(1), order(2)]);
    for cut in 0..bytes.len() {
        assert!(decode_own::<Order>(&bytes[..cut]).is_err(), "the first {cut} bytes");
    }
    bytes.extend_from_slice(&[0; 8]);
    assert!(decode_own::<Order>(&bytes).is_err());
}

#[test]
fn other_rows_and_other_builds_are_refused() {
    let found = fingerprint::<i64>();
    let expected = fingerprint::<u64>();
    assert_eq!(decode_own::<u64>(&encode(&[1_i64])), Err(WireError::Foreign { found, expected }));
}

#[test]
fn a_header_that_does_not_add_up_is_refused_before_a_row_is_read() {
    for (at, claim) in [(8, u64::MAX), (8, 3), (8, 1 << 61), (16, 64), (16, u64::MAX)] {
        let mut bytes = encode(&[1_u64, 2]);
        bytes[at..at + 8].copy_from_slice(&claim.to_le_bytes());
        let body = bytes.len() - SEAL;
        let seal = crc32c::crc32c(&bytes[..body]);
        bytes[body..body + 4].copy_from_slice(&seal.to_le_bytes());
        bytes[body + 4..].copy_from_slice(&(!seal).to_le_bytes());
        assert!(matches!(decode_own::<u64>(&bytes), Err(WireError::Lengths { .. })), "{claim} at {at}");
    }
}
