//! Rows of the file, checked and turned into flights.
//!
//! # Invariants
//! - `rows = skipped + cancelled + flown`; only flown flights leave.
//! - Dates do not go back from one line to the next, whatever becomes of the lines.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use serde::{Deserialize, Serialize};
use timely_agents::source::Reader;
use timely_agents::{Csv, IntoReader, Wrong};

use crate::progress::Progress;

/// A row, by the names of the columns.
#[derive(Deserialize)]
struct Row {
    year: u16,
    month: u8,
    day: u8,
    dep_time: Option<u16>,
    dep_delay: Option<i32>,
    arr_delay: Option<i32>,
    carrier: String,
    flight: u32,
    tailnum: Option<String>,
    origin: String,
    dest: String,
}

/// A flight that took place.
#[derive(Clone, Serialize, Deserialize)]
#[expect(clippy::struct_field_names, reason = "the columns of the data; `flight` is its number")]
pub(crate) struct Flight {
    pub(crate) date: Date,
    pub(crate) tailnum: String,
    pub(crate) carrier: String,
    pub(crate) flight: u32,
    pub(crate) origin: String,
    pub(crate) dest: String,
    pub(crate) dep_delay: i32,
    /// `None` where it is not known.
    pub(crate) arr_delay: Option<i32>,
}

/// A day of the calendar. Dates sort by time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub(crate) struct Date {
    year: u16,
    month: u8,
    day: u8,
}

impl Date {
    fn new(year: u16, month: u8, day: u8) -> Result<Self, Wrong> {
        let leap = year.is_multiple_of(4) && (!year.is_multiple_of(100) || year.is_multiple_of(400));
        let days = match month {
            4 | 6 | 9 | 11 => 30,
            2 => 28 + u8::from(leap),
            1..=12 => 31,
            _ => return Err(Wrong::field("month", "not a month from 1 to 12")),
        };
        if !(1970..=9999).contains(&year) {
            return Err(Wrong::field("year", "not a year from 1970 to 9999"));
        }
        if !(1..=days).contains(&day) {
            return Err(Wrong::field("day", format!("not a day of that month, from 1 to {days}")));
        }
        Ok(Date { year, month, day })
    }

    /// Days since 1970-01-01.
    pub(crate) fn epoch(self) -> u64 {
        // Counted in years from March, so that the leap day is the last (Hinnant, "chrono-compatible date algorithms").
        let (year, month, day) = (u64::from(self.year), u64::from(self.month), u64::from(self.day));
        let year = if month <= 2 { year - 1 } else { year };
        let day_of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
        year * 365 + year / 4 - year / 100 + year / 400 + day_of_year - 719_468
    }
}

impl std::fmt::Display for Date {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:04}-{:02}-{:02}", self.year, self.month, self.day)
    }
}

/// What became of the rows of the file, and how many alerts this process has written.
#[derive(Default)]
pub(crate) struct Counts {
    rows: AtomicU64,
    skipped: AtomicU64,
    cancelled: AtomicU64,
    alerts: AtomicU64,
}

impl Counts {
    /// Counts an alert.
    pub(crate) fn alert(&self) {
        self.alerts.fetch_add(1, Ordering::Relaxed);
    }

    /// Rows, and of them skipped and cancelled ones; and alerts.
    pub(crate) fn get(&self) -> [u64; 4] {
        [&self.rows, &self.skipped, &self.cancelled, &self.alerts].map(|count| count.load(Ordering::Relaxed))
    }
}

/// The flown flights of a file, each at its day.
pub(crate) fn flights(
    path: &Path,
    counts: &Arc<Counts>,
    progress: &Progress,
) -> impl IntoReader<Reader: Reader<Item = Flight>> + use<> {
    let counts = Arc::clone(counts);
    let progress = progress.clone();
    let mut last: Option<Date> = None;
    Csv::file(path).none("NA").progress(progress.bytes()).rows(move |row: Row| {
        let date = Date::new(row.year, row.month, row.day)?;
        if let Some(last) = last.filter(|last| date < *last) {
            return Err(Wrong::row(format!("date {date} is before {last} of the line above")));
        }
        last = Some(date);
        if counts.rows.fetch_add(1, Ordering::Relaxed).is_multiple_of(1024) {
            progress.show();
        }
        let Some(tailnum) = row.tailnum.filter(|tailnum| !tailnum.is_empty()) else {
            counts.skipped.fetch_add(1, Ordering::Relaxed);
            return Ok(None);
        };
        if row.dep_time.is_none() {
            counts.cancelled.fetch_add(1, Ordering::Relaxed);
            return Ok(None);
        }
        let flight = Flight {
            date,
            tailnum,
            carrier: row.carrier,
            flight: row.flight,
            origin: row.origin,
            dest: row.dest,
            dep_delay: row.dep_delay.ok_or_else(|| Wrong::field("dep_delay", "a flight that departed has a delay"))?,
            arr_delay: row.arr_delay,
        };
        Ok(Some((date.epoch(), flight)))
    })
}
