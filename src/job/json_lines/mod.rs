//! Records as JSON, one a line: written by a sink, and read as a source (`read`).

mod read;

use std::path::PathBuf;

use serde::Serialize;

pub use self::read::{JsonLinesFile, JsonLinesReader, JsonLinesRows};

use super::output::{Output, Sink};

/// Writes each record as one line of compact JSON. Each process writes the records of its own workers.
#[derive(Clone, Debug)]
pub struct JsonLines(Output);

impl JsonLines {
    /// To standard output.
    pub fn stdout() -> Self {
        JsonLines(Output::Stdout)
    }

    /// To a file, which appears when the job has succeeded. `{process}` in its name becomes the index of the process;
    /// a job of several processes needs it there.
    pub fn file(path: impl Into<PathBuf>) -> Self {
        JsonLines(Output::File(path.into()))
    }

    /// To a folder, of a job with checkpoints: a file for each epoch and process, which appears at the commit.
    pub fn parts(dir: impl Into<PathBuf>) -> Self {
        JsonLines(Output::Parts(dir.into()))
    }

    /// The file at `path` as a source. Say next how a row gets its epoch, by [`JsonLinesFile::epoch`] or
    /// [`JsonLinesFile::rows`].
    pub fn read(path: impl Into<PathBuf>) -> JsonLinesFile {
        JsonLinesFile::new(path.into())
    }

    /// To any output.
    pub fn to(output: Output) -> Self {
        JsonLines(output)
    }
}

impl<D: Serialize> Sink<D> for JsonLines {
    fn output(&self) -> &Output {
        &self.0
    }

    fn extension(&self) -> &'static str {
        "jsonl"
    }

    fn encode(&self, record: &D, line: &mut Vec<u8>) -> Result<(), String> {
        serde_json::to_writer(&mut *line, record).map_err(|error| error.to_string())?;
        line.push(b'\n');
        Ok(())
    }
}
