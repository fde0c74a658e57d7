//! Files of JSON lines as sources: one row a line.
//!
//! # Invariants
//! - Every error names the file, and if it concerns a line, that line as an editor counts it.
//! - A file must end with a line end, or it is taken for one that was cut short; one that is followed is waited for.
//!
//! Empty lines are passed over.

use std::fs::File;
use std::io::{BufRead, BufReader, Seek, SeekFrom};
use std::marker::PhantomData;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use serde::de::DeserializeOwned;
use timely_agents_operators::cluster::Failure;
use timely_agents_operators::source::{Next, Reader};

use super::super::IntoReader;
use super::super::place::{LOOK, Place};
use super::super::wrong::Wrong;

/// A file of JSON lines that is to be read.
#[derive(Clone, Debug)]
pub struct JsonLinesFile {
    path: PathBuf,
    progress: Option<Arc<AtomicU64>>,
    follow: bool,
}

impl JsonLinesFile {
    pub(super) fn new(path: PathBuf) -> Self {
        JsonLinesFile { path, progress: None, follow: false }
    }

    /// Counts the bytes that have been read, for progress bars.
    pub fn progress(mut self, bytes: Arc<AtomicU64>) -> Self {
        self.progress = Some(bytes);
        self
    }

    /// The file may grow while it is read: its end is not the source's, and a last line without its end waits for it.
    pub fn follow(mut self) -> Self {
        self.follow = true;
        self
    }

    /// Every row becomes a record, at the epoch that `epoch` gives; epochs must ascend.
    #[expect(clippy::type_complexity, reason = "the closure has no name")]
    pub fn epoch<R: DeserializeOwned + 'static>(
        self,
        epoch: impl Fn(&R) -> u64 + 'static,
    ) -> JsonLinesRows<R, impl FnMut(R) -> Result<Option<(u64, R)>, Wrong> + 'static> {
        self.rows(move |row| Ok(Some((epoch(&row), row))))
    }

    /// `f` checks each row and says what record it makes, if any.
    pub fn rows<R, I, F>(self, f: F) -> JsonLinesRows<R, F>
    where
        R: DeserializeOwned + 'static,
        I: 'static,
        F: FnMut(R) -> Result<Option<(u64, I)>, Wrong> + 'static,
    {
        JsonLinesRows { file: self, f, row: PhantomData }
    }
}

/// A file of JSON lines whose rows have their epochs: a source.
pub struct JsonLinesRows<R, F> {
    file: JsonLinesFile,
    f: F,
    row: PhantomData<fn() -> R>,
}

impl<R, I, F> IntoReader for JsonLinesRows<R, F>
where
    R: DeserializeOwned + 'static,
    I: 'static,
    F: FnMut(R) -> Result<Option<(u64, I)>, Wrong> + 'static,
{
    type Reader = JsonLinesReader<R, F>;

    fn into_reader(self) -> Result<Self::Reader, Failure> {
        let JsonLinesFile { path, progress, follow } = self.file;
        let file =
            File::open(&path).map_err(|error| Failure::data(format!("cannot open {}: {error}", path.display())))?;
        Ok(JsonLinesReader {
            path,
            progress,
            follow,
            file: BufReader::new(file),
            line: Vec::new(),
            start: Place::START,
            next: Place::START,
            epoch: 0,
            f: self.f,
            row: PhantomData,
        })
    }
}

/// Reads the rows of a file of JSON lines.
pub struct JsonLinesReader<R, F> {
    path: PathBuf,
    progress: Option<Arc<AtomicU64>>,
    follow: bool,
    file: BufReader<File>,
    /// The current line, as far as it is there.
    line: Vec<u8>,
    /// Where it begins.
    start: Place,
    /// Where the line after the last whole one begins.
    next: Place,
    epoch: u64,
    f: F,
    row: PhantomData<fn() -> R>,
}

impl<R, F> JsonLinesReader<R, F> {
    /// Reads the next line that is not empty; false at the end of the file.
    fn advance(&mut self) -> Result<bool, Failure> {
        loop {
            if self.start != self.next {
                self.line.clear();
                self.start = self.next;
            }
            // A line that was not whole goes on where it ended.
            let read = self.file.read_until(b'\n', &mut self.line).map_err(|error| self.failure(&error.to_string()))?;
            if self.line.last() != Some(&b'\n') {
                if self.follow && read == 0 {
                    let length =
                        self.file.get_ref().metadata().map_err(|error| self.failure(&error.to_string()))?.len();
                    self.start.check(length, &self.path.display().to_string())?;
                }
                if self.follow || self.line.is_empty() {
                    return Ok(false);
                }
                return Err(self.wrong("the last line is truncated: it has no line end"));
            }
            self.next = Place { byte: self.start.byte + self.line.len() as u64, line: self.start.line + 1 };
            if let Some(progress) = &self.progress {
                progress.store(self.next.byte, Ordering::Relaxed);
            }
            if !self.line.trim_ascii().is_empty() {
                return Ok(true);
            }
        }
    }

    fn failure(&self, why: &str) -> Failure {
        Failure::data(format!("{}: {why}", self.path.display()))
    }

    fn wrong(&self, why: &str) -> Failure {
        self.failure(&format!("line {}: {why}", self.start.line))
    }
}

impl<R, I, F> Reader for JsonLinesReader<R, F>
where
    R: DeserializeOwned + 'static,
    I: 'static,
    F: FnMut(R) -> Result<Option<(u64, I)>, Wrong> + 'static,
{
    type Item = I;

    fn next(&mut self) -> Result<Option<(u64, I)>, Failure> {
        while self.advance()? {
            let row = serde_json::from_slice(self.line.trim_ascii_end()).map_err(|error| {
                let text = error.to_string();
                // Its line is always the first: the file's counts.
                let why = text.rsplit_once(" at line ").map_or(text.as_str(), |(why, _)| why);
                self.wrong(&format!("column {}: {why}", error.column()))
            })?;
            let made = (self.f)(row).map_err(|wrong| match wrong.column {
                Some(field) => self.wrong(&format!("field {field}: {}", wrong.why)),
                None => self.wrong(&wrong.why),
            })?;
            if let Some((epoch, item)) = made {
                if epoch < self.epoch {
                    let last = self.epoch;
                    return Err(self.wrong(&format!("its epoch {epoch} is before epoch {last} of a line above")));
                }
                self.epoch = epoch;
                return Ok(Some((epoch, item)));
            }
        }
        Ok(None)
    }

    fn poll(&mut self) -> Result<Next<I>, Failure> {
        Ok(match self.next()? {
            Some((epoch, item)) => Next::Record(epoch, item),
            None if self.follow => Next::Idle(Some(LOOK)),
            None => Next::End,
        })
    }

    fn position(&self) -> Option<Vec<u8>> {
        self.start.encode()
    }

    fn seek(&mut self, position: &[u8]) -> Result<(), Failure> {
        let name = self.path.display().to_string();
        let place = Place::decode(position, &name)?;
        let length = self.file.get_ref().metadata().map_err(|error| self.failure(&error.to_string()))?.len();
        place.check(length, &name)?;
        self.file.seek(SeekFrom::Start(place.byte)).map_err(|error| self.failure(&error.to_string()))?;
        self.line.clear();
        (self.start, self.next) = (place, place);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test that unwraps in vain has failed")]

    use std::io::Write;
    use std::path::Path;

    use serde::Deserialize;

    use super::super::JsonLines;
    use super::*;

    #[derive(Debug, Deserialize, PartialEq)]
    struct Line {
        day: u64,
        name: String,
    }

    fn file(text: &str) -> tempfile::NamedTempFile {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), text).unwrap();
        file
    }

    fn reader(path: &Path, follow: bool) -> impl Reader<Item = Line> + use<> {
        let source = JsonLines::read(path);
        let source = if follow { source.follow() } else { source };
        source.epoch(|line: &Line| line.day).into_reader().unwrap()
    }

    fn names(reader: &mut impl Reader<Item = Line>) -> Result<Vec<String>, String> {
        let mut names = Vec::new();
        while let Some((_, line)) = reader.next().map_err(|failure| failure.to_string())? {
            names.push(line.name);
        }
        Ok(names)
    }

    const TEXT: &str = "{\"day\":1,\"name\":\"a\"}\n\n{\"name\":\"b\",\"day\":2}\r\n{\"day\":2,\"name\":\"c\"}\n";

    #[test]
    fn every_position_goes_on_at_its_record() {
        let file = file(TEXT);
        let mut first = reader(file.path(), false);
        let mut positions = vec![first.position().unwrap()];
        while first.next().unwrap().is_some() {
            positions.push(first.position().unwrap());
        }
        positions.push(first.position().unwrap());
        let rests: Vec<String> = positions
            .iter()
            .map(|position| {
                let mut again = reader(file.path(), false);
                again.seek(position).unwrap();
                names(&mut again).unwrap().concat()
            })
            .collect();
        assert_eq!(rests, ["abc", "abc", "bc", "c", ""]);
    }

    #[test]
    fn what_is_wrong_is_named() {
        for (text, expected) in [
            ("{\"day\":1,\"name\":\"a\"}\n{\"day\":1}\n", "line 2: column 9: missing field `name`"),
            ("\n{\"day\":1,\n", "line 2: column 9: EOF while parsing"),
            (
                "{\"day\":2,\"name\":\"a\"}\n{\"day\":1,\"name\":\"a\"}\n",
                "line 2: its epoch 1 is before epoch 2 of a line",
            ),
            ("{\"day\":2,\"name\":\"a\"}", "line 1: the last line is truncated: it has no line end"),
        ] {
            let file = file(text);
            let error = names(&mut reader(file.path(), false)).unwrap_err();
            assert!(error.contains(&format!("{}: {expected}", file.path().display())), "{error}");
        }
        let file = file(TEXT);
        let mut rows = JsonLines::read(file.path())
            .rows(|line: Line| -> Result<Option<(u64, Line)>, _> {
                Err(Wrong::field("day", format!("not {}", line.day)))
            })
            .into_reader()
            .unwrap();
        assert!(rows.next().unwrap_err().message().ends_with("line 1: field day: not 1"));
    }

    #[test]
    fn a_file_that_grows_is_read_on_and_half_a_line_waits() {
        let mut file = file("{\"day\":1,\"name\":\"a\"}\n{\"day\":2,");
        let mut reader = reader(file.path(), true);
        assert_eq!(names(&mut reader).unwrap(), ["a"]);
        assert!(matches!(reader.poll().unwrap(), Next::Idle(Some(_))));
        file.as_file_mut().seek(SeekFrom::End(0)).unwrap();
        writeln!(file, "\"name\":\"b\"}}").unwrap();
        assert!(matches!(reader.poll().unwrap(), Next::Record(2, Line { .. })));
        file.as_file().set_len(3).unwrap();
        let error = reader.poll().unwrap_err();
        assert!(error.message().contains("it was cut or replaced"), "{error}");
    }
}
