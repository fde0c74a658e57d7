//! Files of rows: what is staged for a transactional sink.
//!
//! ```text
//! "ta-rows" 1 │ length u32 │ crc32c u32 │ row, in postcard │ length …      (little-endian; the sum is the row's)
//! ```
//!
//! # Invariants
//! - A row that is cut short or altered is an error, and never taken for a row.

use std::io::{self, BufReader, Read};
use std::marker::PhantomData;
use std::path::{Path, PathBuf};

use serde::Serialize;
use serde::de::DeserializeOwned;
use timely::dataflow::StreamVec;

use super::encode::Encode;
use super::reason;
use super::stage::stage_lines;
use super::stager::Stager;
use crate::checkpoint::Ack;
use crate::cluster::{Control, Failure};
use crate::files::Files;
use crate::time::EpochTime;

/// The first bytes of a file, with the version of its format.
const MAGIC: &[u8; 8] = b"ta-rows\x01";

/// Bytes that one row may take.
const LIMIT: u32 = 1 << 30;

/// Stages the records of `stream` as rows for a [`TransactionalSink`](super::TransactionalSink). The stager's place is
/// [`Place::Rows`](super::Place::Rows). On every worker alike.
pub fn stage_rows<'scope, T: EpochTime, D: Serialize + 'static>(
    stream: StreamVec<'scope, T, D>,
    stager: &Stager,
    control: Control,
) -> StreamVec<'scope, T, Ack> {
    stage_lines(stream, stager, RowEncoder, None, control)
}

/// Writes rows in their file's format.
pub(super) struct RowEncoder;

impl<D: Serialize> Encode<D> for RowEncoder {
    fn header(&mut self, _: &D, bytes: &mut Vec<u8>) -> Result<(), String> {
        bytes.extend_from_slice(MAGIC);
        Ok(())
    }

    fn encode(&mut self, row: &D, bytes: &mut Vec<u8>) -> Result<(), String> {
        let start = bytes.len();
        bytes.extend_from_slice(&[0; 8]);
        let mut whole = postcard::to_extend(row, std::mem::take(bytes)).map_err(|error| error.to_string())?;
        let (head, row) = whole[start..].split_at_mut(8);
        let length = u32::try_from(row.len()).ok().filter(|length| *length <= LIMIT);
        let length = length.ok_or_else(|| format!("a row of {} bytes; at most {LIMIT} are possible", row.len()))?;
        head[..4].copy_from_slice(&length.to_le_bytes());
        head[4..].copy_from_slice(&crc32c::crc32c(row).to_le_bytes());
        *bytes = whole;
        Ok(())
    }
}

/// Reads the rows of a file, up to its end or the first error.
pub(super) struct RowsFile<R> {
    path: PathBuf,
    file: BufReader<Box<dyn Read + Send>>,
    /// How many rows have been read.
    rows: u64,
    over: bool,
    buffer: Vec<u8>,
    row: PhantomData<fn() -> R>,
}

impl<R: DeserializeOwned> RowsFile<R> {
    pub(super) fn open(files: &dyn Files, path: &Path) -> Result<Self, Failure> {
        let failed = |why: &str| Failure::data(format!("staged rows {}: {why}", path.display()));
        let file = files.open(path).map_err(|error| match error.kind() {
            io::ErrorKind::NotFound => {
                failed("the file is gone, and the sink does not have them: committed rows are lost")
            }
            _ => failed(&reason(&error)),
        })?;
        let mut file = BufReader::new(file);
        let mut magic = [0; MAGIC.len()];
        file.read_exact(&mut magic).map_err(|error| failed(&reason(&error)))?;
        if magic != *MAGIC {
            return Err(failed("it is no file of rows, or one of another version"));
        }
        Ok(RowsFile { path: path.to_owned(), file, rows: 0, over: false, buffer: Vec::new(), row: PhantomData })
    }

    fn read(&mut self) -> Result<Option<R>, String> {
        if self.file.by_ref().take(8).read_to_end(&mut self.buffer).map_err(|error| reason(&error))? == 0 {
            return Ok(None);
        }
        let number = |bytes: Option<&[u8]>| bytes.and_then(|bytes| bytes.try_into().ok()).map(u32::from_le_bytes);
        let (Some(length), Some(sum)) = (number(self.buffer.get(..4)), number(self.buffer.get(4..))) else {
            return Err("it is cut short".to_owned());
        };
        if length > LIMIT {
            return Err(format!("its length cannot be {length}"));
        }
        self.buffer.clear();
        let read = self.file.by_ref().take(u64::from(length)).read_to_end(&mut self.buffer);
        if read.map_err(|error| reason(&error))? < length as usize {
            return Err("it is cut short".to_owned());
        }
        if crc32c::crc32c(&self.buffer) != sum {
            return Err("its checksum does not fit".to_owned());
        }
        postcard::from_bytes(&self.buffer).map(Some).map_err(|error| format!("it is no row of this sink: {error}"))
    }
}

impl<R: DeserializeOwned> Iterator for RowsFile<R> {
    type Item = Result<R, Failure>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.over {
            return None;
        }
        self.buffer.clear();
        let row = self.read().transpose();
        self.over = !matches!(row, Some(Ok(_)));
        self.rows += 1;
        let named =
            |why: String| Failure::data(format!("staged rows {}: row {}: {why}", self.path.display(), self.rows));
        Some(row?.map_err(named))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(rows: &[&str]) -> Vec<u8> {
        let mut bytes = MAGIC.to_vec();
        for row in rows {
            RowEncoder.encode(row, &mut bytes).unwrap();
        }
        bytes
    }

    fn read(bytes: &[u8]) -> Result<Vec<String>, Failure> {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), bytes).unwrap();
        RowsFile::open(&*crate::files::system(), file.path())?.collect()
    }

    #[test]
    fn rows_come_back() {
        assert_eq!(read(&file(&["a", "", "long enough"])).unwrap(), ["a", "", "long enough"]);
        assert_eq!(read(&file(&[])).unwrap(), [""; 0]);
    }

    /// A change of this is a change of the version.
    #[test]
    fn the_format_is_this() {
        assert_eq!(file(&["ab"]), b"ta-rows\x01\x03\0\0\0\x93\xaf\xc8\x3c\x02ab");
    }

    #[test]
    fn no_byte_can_be_lost_or_altered() {
        let whole = file(&["a", "bc"]);
        for end in 0..whole.len() {
            // Between two rows nothing shows; the file is synced before anybody hears of it.
            if end != file(&[]).len() && end != file(&["a"]).len() {
                assert!(read(&whole[..end]).is_err(), "cut at {end}");
            }
        }
        for at in 0..whole.len() {
            let mut altered = whole.clone();
            altered[at] ^= 1;
            assert!(read(&altered).is_err(), "altered at {at}");
        }
    }
}
