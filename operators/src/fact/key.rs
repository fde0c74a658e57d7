//! The facts of one key as bytes, one behind the other.

use postcard::ser_flavors::Flavor;
use serde::Serialize;

use super::What;
use super::block::{ENTRY, NOTES, NOTIFICATION, PATH, ROW, RUN, SEQUENCE, SIGNAL, SLOT, TIMER, WAITING};

/// Writes the facts of one key after the other.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct KeyWriter {
    /// Facts, one behind the other.
    pub(super) arena: Vec<u8>,
    /// How many there are.
    pub(super) count: u32,
}

impl KeyWriter {
    /// The key's `what` is `value` from now on.
    ///
    /// # Errors
    /// The value cannot be encoded; nothing that was written before is of use then.
    #[inline]
    pub fn put<V: Serialize + ?Sized>(&mut self, what: &What, value: &V) -> Result<(), postcard::Error> {
        let at = self.open_fact(what);
        append(&mut self.arena, value)?;
        self.end_value(at);
        Ok(())
    }

    /// The key's `what` is a number.
    #[inline]
    pub fn put_number(&mut self, what: &What, n: u64) {
        let at = self.open_fact(what);
        varint(&mut self.arena, n);
        self.end_value(at);
    }

    /// The key's `what` has these bytes for its value.
    pub fn put_bytes(&mut self, what: &What, value: &[u8]) {
        let at = self.open_fact(what);
        self.arena.extend_from_slice(value);
        self.end_value(at);
    }

    /// The key's `what` is gone.
    pub fn retire(&mut self, what: &What) {
        self.open_fact(what);
        self.count += 1;
    }

    /// Writes all that comes before a value, and the place of its length; where that is.
    #[inline]
    fn open_fact(&mut self, what: &What) -> usize {
        let bytes = &mut self.arena;
        match what {
            What::Slot(id) => {
                let [a, b, c, d] = id.to_le_bytes();
                bytes.extend_from_slice(&[SLOT, a, b, c, d, 0]);
            }
            what => open_other(bytes, what),
        }
        bytes.len() - 1
    }

    /// Puts the length of the value that was written behind `at` in its place.
    #[inline]
    fn end_value(&mut self, at: usize) {
        put_length(&mut self.arena, at, 1);
        self.count += 1;
    }
}

fn open_other(bytes: &mut Vec<u8>, what: &What) {
    match what {
        What::Sequence => bytes.push(SEQUENCE),
        What::Slot(id) => {
            bytes.push(SLOT);
            bytes.extend_from_slice(&id.to_le_bytes());
        }
        What::Path(path) => {
            bytes.push(PATH);
            varint(bytes, path.len() as u64);
            bytes.extend_from_slice(path.as_bytes());
        }
        What::Notification(n) => tagged(bytes, NOTIFICATION, *n),
        What::Waiting(n) => tagged(bytes, WAITING, *n),
        What::Run => bytes.push(RUN),
        What::Entry(n) => tagged(bytes, ENTRY, *n),
        What::Row => bytes.push(ROW),
        What::Signal(n) => tagged(bytes, SIGNAL, *n),
        What::Timer(n) => tagged(bytes, TIMER, *n),
        What::Notes => bytes.push(NOTES),
    }
    bytes.push(0);
}

/// Puts the length of what was written behind `at`, and `more`, in its place.
#[inline]
pub(super) fn put_length(bytes: &mut Vec<u8>, at: usize, more: u64) {
    let length = (bytes.len() - at - 1) as u64 + more;
    if length < 0x80 {
        bytes[at] = length as u8;
    } else {
        put_long(bytes, at, length);
    }
}

fn put_long(bytes: &mut Vec<u8>, at: usize, length: u64) {
    let mut prefix = Vec::with_capacity(5);
    varint(&mut prefix, length);
    bytes.splice(at..=at, prefix);
}

/// Writes a value behind what is there.
///
/// # Errors
/// It cannot be encoded; a part of it may have been written.
#[inline]
pub(crate) fn append<V: Serialize + ?Sized>(bytes: &mut Vec<u8>, value: &V) -> Result<(), postcard::Error> {
    postcard::serialize_with_flavor(value, Appended(bytes))
}

/// A buffer that postcard writes to where it is.
struct Appended<'a>(&'a mut Vec<u8>);

impl Flavor for Appended<'_> {
    type Output = ();

    #[inline]
    fn try_push(&mut self, byte: u8) -> postcard::Result<()> {
        self.0.push(byte);
        Ok(())
    }

    #[inline]
    fn try_extend(&mut self, bytes: &[u8]) -> postcard::Result<()> {
        // Most are numbers. A copy of a known length needs no call.
        match *bytes {
            [a] => self.0.push(a),
            [a, b] => self.0.extend_from_slice(&[a, b]),
            [a, b, c] => self.0.extend_from_slice(&[a, b, c]),
            [a, b, c, d] => self.0.extend_from_slice(&[a, b, c, d]),
            _ => self.0.extend_from_slice(bytes),
        }
        Ok(())
    }

    fn finalize(self) -> postcard::Result<()> {
        Ok(())
    }
}

fn tagged(bytes: &mut Vec<u8>, tag: u8, n: u64) {
    bytes.push(tag);
    varint(bytes, n);
}

#[inline]
pub(super) fn varint(bytes: &mut Vec<u8>, mut n: u64) {
    while n >= 0x80 {
        bytes.push(n as u8 | 0x80);
        n >>= 7;
    }
    bytes.push(n as u8);
}
