//! Records as lines of comma-separated values.

use std::path::PathBuf;

use serde::Serialize;

use super::output::{Output, Sink};

/// Bytes that a line mostly fits into.
const LINE: usize = 512;

/// Writes each record, a struct, as a line of comma-separated values; the first line of an output names the columns.
/// Each process writes the records of its own workers.
#[derive(Clone, Debug)]
pub struct CsvLines(Output);

impl CsvLines {
    /// To standard output.
    pub fn stdout() -> Self {
        CsvLines(Output::Stdout)
    }

    /// To a file, which appears when the job has succeeded. `{process}` in its name becomes the index of the process;
    /// a job of several processes needs it there.
    pub fn file(path: impl Into<PathBuf>) -> Self {
        CsvLines(Output::File(path.into()))
    }

    /// To a folder, of a job with checkpoints: a file for each epoch and process, which appears at the commit. Each has
    /// the names of the columns.
    pub fn parts(dir: impl Into<PathBuf>) -> Self {
        CsvLines(Output::Parts(dir.into()))
    }

    /// To any output.
    pub fn to(output: Output) -> Self {
        CsvLines(output)
    }
}

fn lines<D: Serialize>(record: &D, names: bool) -> Result<Vec<u8>, String> {
    let mut writer =
        csv::WriterBuilder::new().has_headers(names).buffer_capacity(LINE).from_writer(Vec::with_capacity(LINE));
    writer.serialize(record).map_err(|error| error.to_string())?;
    writer.into_inner().map_err(|error| error.to_string())
}

impl<D: Serialize> Sink<D> for CsvLines {
    fn output(&self) -> &Output {
        &self.0
    }

    fn extension(&self) -> &'static str {
        "csv"
    }

    fn header(&self, first: &D, bytes: &mut Vec<u8>) -> Result<(), String> {
        let (named, line) = (lines(first, true)?, lines(first, false)?);
        let names = named.strip_suffix(line.as_slice()).filter(|names| !names.is_empty());
        bytes.extend_from_slice(names.ok_or("its columns have no names: only structs with named fields do")?);
        Ok(())
    }

    fn encode(&self, record: &D, bytes: &mut Vec<u8>) -> Result<(), String> {
        bytes.append(&mut lines(record, false)?);
        Ok(())
    }
}
