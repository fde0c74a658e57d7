//! How records become bytes.

/// Writes records as bytes, a line each for instance. A closure of a record and the bytes to append to is one.
pub trait Encode<D> {
    /// What stands once at the start of a file whose first record is `first`. Nothing, unless told otherwise.
    ///
    /// # Errors
    /// Why there is no such thing; the job ends with it.
    fn header(&mut self, first: &D, bytes: &mut Vec<u8>) -> Result<(), String> {
        let _ = (first, bytes);
        Ok(())
    }

    /// Appends a record with its end.
    ///
    /// # Errors
    /// Why the record has no such form; the job ends with it.
    fn encode(&mut self, record: &D, bytes: &mut Vec<u8>) -> Result<(), String>;
}

impl<D, F: FnMut(&D, &mut Vec<u8>) -> Result<(), String>> Encode<D> for F {
    fn encode(&mut self, record: &D, bytes: &mut Vec<u8>) -> Result<(), String> {
        self(record, bytes)
    }
}
