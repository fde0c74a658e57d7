//! The bytes of one container.
//!
//! ```text
//!   0  u64  fingerprint of build and row
//!   8  u64  rows
//!  16  u64  bytes of text
//!  24  rows × size_of::<R>()   the rows as they lie in memory, their pointers stale
//!   …  the text of the first row, of the second, …
//!   …  zeros up to a multiple of 8
//!  -8  u32  CRC32C of everything before it
//!  -4  u32  its complement
//! ```
//!
//! Numbers are little-endian. Not a format to keep: see [`fingerprint`].

use std::slice::from_raw_parts;

use crate::fingerprint::fingerprint;
use crate::row::AbomRow;
use crate::slab::Slab;

/// Fingerprint, rows, bytes of text.
const HEADER: usize = 24;
/// The checksum and its complement.
const SEAL: usize = 8;

/// Why a received container was refused.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum WireError {
    /// The container is shorter than the shortest.
    #[error("it has {bytes} bytes, fewer than the shortest container")]
    Short { bytes: usize },
    /// The bytes are not those that were sent.
    #[error("its bytes changed on the way (CRC32C is {found:08x}, {sealed:08x} was sent, over {bytes} bytes)")]
    Changed { found: u32, sealed: u32, bytes: usize },
    /// The peer is another build, or sent another row.
    #[error("it comes from another build or has other rows (fingerprint {found:016x}, here {expected:016x})")]
    Foreign { found: u64, expected: u64 },
    /// Rows and text do not add up to the container; a defect of the sender.
    #[error("{rows} rows and {text} bytes of text do not make its {bytes} bytes")]
    Lengths { rows: u64, text: u64, bytes: usize },
}

/// How many bytes [`encode`] writes; a multiple of 8.
pub(crate) fn length<R: AbomRow>(rows: &[R]) -> usize {
    sealed_length(size_of_val(rows) + text_length(rows))
}

fn text_length<R: AbomRow>(rows: &[R]) -> usize {
    rows.iter().map(R::extent).sum()
}

fn sealed_length(payload: usize) -> usize {
    HEADER + payload.next_multiple_of(8) + SEAL
}

/// The container of `rows`.
pub(crate) fn encode<R: AbomRow>(rows: &[R]) -> Vec<u8> {
    let text = text_length(rows);
    let length = sealed_length(size_of_val(rows) + text);
    // Gathered first, because a checksum of many small pieces is slower than a copy.
    let mut bytes = Vec::with_capacity(length);
    bytes.extend_from_slice(&fingerprint::<R>().to_le_bytes());
    bytes.extend_from_slice(&(rows.len() as u64).to_le_bytes());
    bytes.extend_from_slice(&(text as u64).to_le_bytes());
    // SAFETY: the slice is valid for its size, and each byte of it is initialised: an `AbomRow` has no padding.
    bytes.extend_from_slice(unsafe { from_raw_parts(rows.as_ptr().cast::<u8>(), size_of_val(rows)) });
    for row in rows {
        // SAFETY: writes the text of a valid row.
        let written = unsafe { row.entomb(&mut bytes) };
        written.unwrap_or_else(|error| unreachable!("memory refused the text of a row: {error}"));
    }
    assert_eq!(bytes.len(), HEADER + size_of_val(rows) + text, "a row wrote other text than it announced");
    bytes.resize(length - SEAL, 0);
    let seal = crc32c::crc32c(&bytes);
    bytes.extend_from_slice(&seal.to_le_bytes());
    bytes.extend_from_slice(&(!seal).to_le_bytes());
    debug_assert_eq!(bytes.len(), length);
    bytes
}

/// The rows of a container, copied out of `bytes` at whatever alignment these have.
///
/// # Safety
/// If the checksum and the fingerprint of `bytes` are right, then [`encode`] wrote them for rows `R` in a process of
/// this build: peers are trusted not to forge either.
pub(crate) unsafe fn decode<R: AbomRow>(bytes: &[u8]) -> Result<Slab<R>, WireError> {
    let body = check_seal(bytes)?;
    let [found, rows, text] = [0, 8, 16].map(|at| number(body, at));
    let expected = fingerprint::<R>();
    if found != expected {
        return Err(WireError::Foreign { found, expected });
    }
    let lengths = WireError::Lengths { rows, text, bytes: bytes.len() };
    let payload = payload_length::<R>(rows, text).filter(|payload| sealed_length(*payload) == bytes.len());
    let Some(payload) = payload else {
        return Err(lengths);
    };
    // SAFETY: checksum and fingerprint are right, so by this function's contract `encode` wrote the payload.
    unsafe { Slab::copy_from(&body[HEADER..HEADER + payload], rows as usize) }.ok_or(lengths)
}

/// The container without its seal, if the seal is right.
fn check_seal(bytes: &[u8]) -> Result<&[u8], WireError> {
    if bytes.len() < HEADER + SEAL {
        return Err(WireError::Short { bytes: bytes.len() });
    }
    let (body, seal) = bytes.split_at(bytes.len() - SEAL);
    let seal = number(seal, 0);
    let (sealed, complement) = (seal as u32, (seal >> 32) as u32);
    let found = crc32c::crc32c(body);
    if found != sealed || found != !complement {
        return Err(WireError::Changed { found, sealed, bytes: bytes.len() });
    }
    Ok(body)
}

/// Rows and text together; `None` if no memory could hold them.
fn payload_length<R>(rows: u64, text: u64) -> Option<usize> {
    let rows = usize::try_from(rows).ok()?.checked_mul(size_of::<R>())?;
    let payload = rows.checked_add(usize::try_from(text).ok()?)?;
    (payload <= isize::MAX as usize - HEADER - SEAL - 8).then_some(payload)
}

fn number(bytes: &[u8], at: usize) -> u64 {
    let mut number = [0; 8];
    number.copy_from_slice(&bytes[at..at + 8]);
    u64::from_le_bytes(number)
}

#[cfg(test)]
mod tests;
