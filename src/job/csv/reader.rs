//! Reads a file of comma-separated values, from its start, from a position, and on as it grows.
//!
//! # Invariants
//! - A place is between two rows, in bytes and lines of the whole file, wherever reading began.
//! - Of a file that is followed nothing is given before it is whole; what was not is read again from its start.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::{self, BufReader, Chain, Cursor, Read, Seek, SeekFrom};
use std::marker::PhantomData;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use csv::StringRecord;
use serde::de::DeserializeOwned;
use timely_agents_operators::cluster::Failure;
use timely_agents_operators::source::{Next, Reader};

use super::super::place::{LOOK, Place};
use super::super::wrong::Wrong;
use super::{CsvFile, row};

/// Stands behind the end of a file; no text has it.
const END: &str = "\u{0}end of file\u{0}\n";

type Marked = Chain<Counted, Cursor<&'static [u8]>>;

/// A file that knows how much of it has been read.
struct Counted {
    file: File,
    end: u64,
}

impl Read for Counted {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let length = self.file.read(buffer)?;
        self.end += length as u64;
        Ok(length)
    }
}

/// Reads the rows of a file.
pub struct CsvReader<R, F> {
    path: PathBuf,
    none: String,
    progress: Option<Arc<AtomicU64>>,
    follow: bool,
    rows: csv::Reader<Marked>,
    /// Where `rows` began to read.
    base: Place,
    /// Where the current row begins, or empty lines before it.
    start: Place,
    /// The end of the file, when there was nothing whole left up to it.
    waiting_at: Option<u64>,
    record: StringRecord,
    /// How many columns the header has.
    width: usize,
    /// The names of the columns in use, in the order of `R`'s fields, and where they are.
    names: Vec<String>,
    places: Vec<usize>,
    epoch: u64,
    f: F,
    row: PhantomData<fn() -> R>,
}

impl<R: DeserializeOwned + 'static, F> CsvReader<R, F> {
    pub(super) fn new(file: CsvFile, f: F) -> Result<Self, Failure> {
        let CsvFile { path, none, progress, follow } = file;
        let mut reader = CsvReader {
            rows: rows_from(&path, Place::START)?,
            path,
            none,
            progress,
            follow: false,
            base: Place::START,
            start: Place::START,
            waiting_at: None,
            record: StringRecord::new(),
            width: 0,
            names: Vec::new(),
            places: Vec::new(),
            epoch: 0,
            f,
            row: PhantomData,
        };
        // The header must be whole, even in a file that grows.
        if !reader.advance()? {
            return Err(reader.failure("it is empty; its first line must name the columns"));
        }
        reader.read_header()?;
        reader.start = reader.here();
        reader.follow = follow;
        Ok(reader)
    }

    /// Where the next read begins.
    fn here(&self) -> Place {
        let position = self.rows.position();
        Place { byte: self.base.byte + position.byte(), line: self.base.line + position.line() - 1 }
    }

    /// Goes on at `place`.
    fn move_to(&mut self, place: Place) -> Result<(), Failure> {
        self.rows = rows_from(&self.path, place)?;
        self.base = place;
        self.start = place;
        self.waiting_at = None;
        Ok(())
    }

    /// Whether all has been read that is there now; a file that grew is read on.
    fn is_waiting(&mut self) -> Result<bool, Failure> {
        let Some(end) = self.waiting_at else {
            return Ok(false);
        };
        let length = std::fs::metadata(&self.path).map_err(|error| self.failure(&error.to_string()))?.len();
        if length == end {
            return Ok(true);
        }
        self.move_to(self.start)?;
        Ok(false)
    }

    /// Finds the columns that `R` needs.
    fn read_header(&mut self) -> Result<(), Failure> {
        self.width = self.record.len();
        // A mark of UTF-8 at the start is no part of the first name.
        let header: Vec<&str> = self.record.iter().map(|name| name.trim_start_matches('\u{feff}')).collect();
        let names = row::fields_of::<R>()
            .map_err(|error| self.failure(&format!("its rows cannot be read into {}: {error}", row::name_of::<R>())))?;
        let mut seen = BTreeSet::new();
        for name in header.iter().filter(|name| names.contains(name)) {
            if !seen.insert(*name) {
                return Err(self.failure(&format!("line 1: two columns are called {name}")));
            }
        }
        let mut places = Vec::new();
        let mut missing = Vec::new();
        for name in names {
            match header.iter().position(|column| column == name) {
                Some(place) => places.push(place),
                None => missing.push(*name),
            }
        }
        if !missing.is_empty() {
            let columns = if missing.len() == 1 { "column" } else { "columns" };
            return Err(self.failure(&format!("line 1: {columns} {} missing", list(&missing))));
        }
        self.names = names.iter().map(ToString::to_string).collect();
        self.places = places;
        Ok(())
    }

    /// Reads the next line; false at the end of the file.
    fn advance(&mut self) -> Result<bool, Failure> {
        self.start = self.here();
        let read = self.rows.read_record(&mut self.record);
        if let Some(progress) = &self.progress {
            progress.store(self.here().byte, Ordering::Relaxed);
        }
        let end = END.trim_end();
        let alone = |record: &StringRecord| record.len() == 1 && record.get(0) == Some(end);
        let file_end = self.rows.get_ref().get_ref().0.end;
        if self.follow && self.here().byte > file_end {
            // The mark was read, alone or as part of a line that is not whole yet.
            self.waiting_at = Some(file_end);
            return Ok(false);
        }
        let more = read.map_err(|error| match error.kind() {
            csv::ErrorKind::Utf8 { .. } => self.wrong("it is not in UTF-8"),
            _ => self.failure(&error.to_string()),
        })?;
        if more && alone(&self.record) {
            return Ok(false);
        }
        if !more || self.record.iter().next_back().is_some_and(|field| field.contains(end)) {
            return Err(self.wrong("the last line is truncated: it has no line end, or its quotes are not closed"));
        }
        Ok(true)
    }

    /// The line on which the current row begins.
    fn line(&self) -> u64 {
        // Empty lines are passed over before it.
        self.start.line + blank_lines(&self.path, self.start.byte).unwrap_or(0)
    }

    fn failure(&self, why: &str) -> Failure {
        Failure::data(format!("{}: {why}", self.path.display()))
    }

    fn wrong(&self, why: &str) -> Failure {
        self.failure(&format!("line {}: {why}", self.line()))
    }

    fn wrong_field(&self, index: usize, why: &str) -> Failure {
        let value = self.record.get(self.places[index]).unwrap_or_default();
        self.wrong(&format!("column {}: {value:?}: {why}", self.names[index]))
    }
}

impl<R, I, F> Reader for CsvReader<R, F>
where
    R: DeserializeOwned + 'static,
    I: 'static,
    F: FnMut(R) -> Result<Option<(u64, I)>, Wrong> + 'static,
{
    type Item = I;

    fn next(&mut self) -> Result<Option<(u64, I)>, Failure> {
        if self.is_waiting()? {
            return Ok(None);
        }
        while self.advance()? {
            if self.record.len() != self.width {
                return Err(self.wrong(&format!("it has {} fields, the header has {}", self.record.len(), self.width)));
            }
            let row = row::read(&self.record, &self.places, &self.none).map_err(|error| match error.field {
                Some(field) => self.wrong_field(field, &error.why),
                None => self.wrong(&error.why),
            })?;
            let made = (self.f)(row).map_err(|wrong| {
                match wrong.column.and_then(|column| self.names.iter().position(|name| name == column)) {
                    Some(field) => self.wrong_field(field, &wrong.why),
                    None => self.wrong(&wrong.why),
                }
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
        self.move_to(Place::decode(position, &self.path.display().to_string())?)
    }
}

/// The rows of the file from `place` on, with the mark behind them.
fn rows_from(path: &Path, place: Place) -> Result<csv::Reader<Marked>, Failure> {
    let name = path.display().to_string();
    let opened = File::open(path).and_then(|mut file| {
        let length = file.metadata()?.len();
        file.seek(SeekFrom::Start(place.byte))?;
        Ok((file, length))
    });
    let (file, length) = opened.map_err(|error| Failure::data(format!("cannot open {name}: {error}")))?;
    place.check(length, &name)?;
    let file = Counted { file, end: place.byte };
    Ok(csv::ReaderBuilder::new().has_headers(false).flexible(true).from_reader(file.chain(Cursor::new(END.as_bytes()))))
}

/// How many lines end in `path` from the byte `start` on before anything else comes.
fn blank_lines(path: &Path, start: u64) -> io::Result<u64> {
    let mut file = File::open(path)?;
    file.seek(SeekFrom::Start(start))?;
    let mut lines = 0;
    for byte in BufReader::new(file).bytes() {
        match byte? {
            b'\n' => lines += 1,
            b'\r' => {}
            _ => break,
        }
    }
    Ok(lines)
}

fn list(names: &[&str]) -> String {
    let verb = if names.len() == 1 { "is" } else { "are" };
    format!("{} {verb}", names.join(", "))
}
