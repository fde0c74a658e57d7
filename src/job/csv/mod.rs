//! Files of comma-separated values as sources: typed rows, found by the names of columns.
//!
//! # Invariants
//! - Every error names the file, and if it concerns a line, that line as an editor counts it; a field that is wrong is
//!   named by its column and shown.
//! - No part of a file that was cut short is taken for a whole one: a file must end with a line end, and not inside
//!   quotes. The file is read with a mark after its end; only when the mark comes alone was the last line whole.
//!
//! Not here: the reading itself (`reader`), and how a row becomes a Rust value (`row`).

mod reader;
mod row;

use std::marker::PhantomData;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use serde::de::DeserializeOwned;
use timely_agents_operators::cluster::Failure;

pub use self::reader::CsvReader;

use super::IntoReader;
use super::wrong::Wrong;

/// A CSV file that is to be read. Its first line names the columns; their order does not matter.
#[derive(Clone, Debug)]
pub struct CsvFile {
    path: PathBuf,
    none: String,
    progress: Option<Arc<AtomicU64>>,
    follow: bool,
}

/// Makes a CSV source of a file.
#[derive(Debug)]
pub struct Csv;

impl Csv {
    /// The file at `path`. Say next how a row gets its epoch, by [`CsvFile::epoch`] or [`CsvFile::rows`].
    pub fn file(path: impl Into<PathBuf>) -> CsvFile {
        CsvFile { path: path.into(), none: String::new(), progress: None, follow: false }
    }
}

impl CsvFile {
    /// The text that stands for a missing value: a field of type `Option` that is equal to it is `None`. The empty
    /// text, unless told otherwise.
    pub fn none(mut self, text: impl Into<String>) -> Self {
        self.none = text.into();
        self
    }

    /// Counts the bytes that have been read, for progress bars.
    pub fn progress(mut self, bytes: Arc<AtomicU64>) -> Self {
        self.progress = Some(bytes);
        self
    }

    /// The file may grow while it is read: its end is not the source's, and a last line without its end waits for it.
    /// The line of names must be there.
    pub fn follow(mut self) -> Self {
        self.follow = true;
        self
    }

    /// Every row becomes a record, at the epoch that `epoch` gives; epochs must ascend.
    ///
    /// `R` is a struct: each of its fields is a column, by its name in serde; other columns are passed over.
    #[expect(clippy::type_complexity, reason = "the closure has no name")]
    pub fn epoch<R: DeserializeOwned + 'static>(
        self,
        epoch: impl Fn(&R) -> u64 + 'static,
    ) -> CsvRows<R, impl FnMut(R) -> Result<Option<(u64, R)>, Wrong> + 'static> {
        self.rows(move |row| Ok(Some((epoch(&row), row))))
    }

    /// `f` checks each row and says what record it makes, if any.
    pub fn rows<R, I, F>(self, f: F) -> CsvRows<R, F>
    where
        R: DeserializeOwned + 'static,
        I: 'static,
        F: FnMut(R) -> Result<Option<(u64, I)>, Wrong> + 'static,
    {
        CsvRows { file: self, f, row: PhantomData }
    }
}

/// A CSV file whose rows have their epochs: a source.
pub struct CsvRows<R, F> {
    file: CsvFile,
    f: F,
    row: PhantomData<fn() -> R>,
}

impl<R, I, F> IntoReader for CsvRows<R, F>
where
    R: DeserializeOwned + 'static,
    I: 'static,
    F: FnMut(R) -> Result<Option<(u64, I)>, Wrong> + 'static,
{
    type Reader = CsvReader<R, F>;

    fn into_reader(self) -> Result<Self::Reader, Failure> {
        CsvReader::new(self.file, self.f)
    }
}

#[cfg(test)]
mod tests;
