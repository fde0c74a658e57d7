//! What the main job must put out, worked out the plain way: one thread, one loop, one map.
//!
//! It shares no code with the project, so agreement means something. Two functions:
//! - [`interpret`] reads a CSV text and gives the alerts, the report and the counts of its rows;
//! - [`generate`] makes such a text from a seed, with all that the January file does not have: quoted fields, columns
//!   in another order, columns that nobody asked for, aircraft without a name, a leap day, days without a flight.
//!
//! # Invariants
//! - `rows == skipped + cancelled + flown`; `alerts ≤ flown`; the report's counts add up to `alerts`.
//! - Same seed, same text.
//!
//! Not here: bad input. A text that is not as the job asks for makes the interpreter panic, since only tests call it.

use std::collections::BTreeMap;
use std::fmt::Write as _;

/// A flight is late enough to matter from this many minutes on.
const LATE: i64 = 15;

/// The columns that the job reads.
const COLUMNS: [&str; 11] =
    ["year", "month", "day", "dep_time", "dep_delay", "arr_delay", "carrier", "flight", "tailnum", "origin", "dest"];

/// All that the job puts out for one file.
#[derive(Debug)]
pub(crate) struct Reference {
    /// JSON lines in the order of the file, without line ends.
    pub(crate) alerts: Vec<String>,
    /// The CSV of alerts per day and carrier, header included.
    pub(crate) report: String,
    pub(crate) rows: usize,
    /// Rows without an aircraft.
    pub(crate) skipped: usize,
    /// Rows of an aircraft that did not depart.
    pub(crate) cancelled: usize,
    pub(crate) flown: usize,
    /// The most reactionary delays that one aircraft had in a row.
    pub(crate) longest_streak: u64,
    /// Alerts by their advice.
    pub(crate) by_advice: BTreeMap<&'static str, usize>,
}

impl Reference {
    /// The alerts as a text: sorted by bytes, each line ended by LF.
    pub(crate) fn sorted_lines(&self) -> String {
        let mut lines: Vec<&str> = self.alerts.iter().map(String::as_str).collect();
        lines.sort_unstable();
        lines.iter().flat_map(|line| [line, "\n"]).collect()
    }
}

/// Per aircraft: how late its last flown leg arrived, where known, and its reactionary delays in a row.
#[derive(Default)]
struct Aircraft {
    arr_delay: Option<i64>,
    streak: u64,
}

/// Runs the job over a file's text.
pub(crate) fn interpret(csv_text: &str) -> Reference {
    let mut reader = csv::Reader::from_reader(csv_text.as_bytes());
    let headers = reader.headers().expect("a header line").clone();
    let place = COLUMNS.map(|name| headers.iter().position(|header| header == name).expect(name));

    let mut reference = Reference {
        alerts: Vec::new(),
        report: String::from("date,carrier,alerts\n"),
        rows: 0,
        skipped: 0,
        cancelled: 0,
        flown: 0,
        longest_streak: 0,
        by_advice: BTreeMap::new(),
    };
    let mut fleet: BTreeMap<String, Aircraft> = BTreeMap::new();
    let mut counts: BTreeMap<(String, String), usize> = BTreeMap::new();

    for row in reader.records() {
        let row = row.expect("a row");
        let [year, month, day, dep_time, dep_delay, arr_delay, carrier, flight, tailnum, origin, dest] =
            place.map(|index| &row[index]);
        reference.rows += 1;
        if tailnum.is_empty() || tailnum == "NA" {
            reference.skipped += 1;
            continue;
        }
        if dep_time == "NA" {
            reference.cancelled += 1;
            continue;
        }
        reference.flown += 1;

        let dep_delay = number(dep_delay);
        let aircraft = fleet.entry(tailnum.to_owned()).or_default();
        let previous = aircraft.arr_delay;
        aircraft.arr_delay = if arr_delay == "NA" { None } else { Some(number(arr_delay)) };
        let Some(previous) = previous.filter(|minutes| *minutes >= LATE && dep_delay >= LATE) else {
            aircraft.streak = 0;
            continue;
        };
        aircraft.streak += 1;
        reference.longest_streak = reference.longest_streak.max(aircraft.streak);

        let advice = if aircraft.streak >= 3 {
            "swap aircraft"
        } else if dep_delay >= 60 {
            "rebook connections"
        } else {
            "shorten turnaround"
        };
        let date = format!("{:04}-{:02}-{:02}", number(year), number(month), number(day));
        *reference.by_advice.entry(advice).or_default() += 1;
        *counts.entry((date.clone(), carrier.to_owned())).or_default() += 1;
        reference.alerts.push(format!(
            r#"{{"date":{},"tailnum":{},"carrier":{},"flight":{},"origin":{},"dest":{},"dep_delay":{dep_delay},"prev_arr_delay":{previous},"streak":{},"advice":{}}}"#,
            quoted(&date),
            quoted(tailnum),
            quoted(carrier),
            number(flight),
            quoted(origin),
            quoted(dest),
            aircraft.streak,
            quoted(advice),
        ));
    }

    for ((date, carrier), alerts) in counts {
        writeln!(reference.report, "{date},{carrier},{alerts}").expect("a string takes all");
    }
    reference
}

fn number(field: &str) -> i64 {
    field.parse().unwrap_or_else(|error| panic!("not a number: {field:?}: {error}"))
}

fn quoted(text: &str) -> String {
    serde_json::to_string(text).expect("a string is JSON")
}

/// Makes a valid file of `rows` rows from a seed.
///
/// Few aircraft fly much and late, so that streaks build up; dates ascend from 29 February 2012, some days are left out.
pub(crate) fn generate(seed: u64, rows: usize) -> String {
    let mut random = Random(seed);
    let mut columns: Vec<&str> = COLUMNS.iter().copied().chain(["time_hour", "remark", "air_time"]).collect();
    for last in (1..columns.len()).rev() {
        columns.swap(last, random.below(last as u64 + 1) as usize);
    }
    // A reader that finds its columns by place rather than by name must not get away with it.
    if columns[0] == "year" {
        columns.reverse();
    }

    let mut text = columns.join(",") + "\n";
    let (mut year, mut month, mut day) = (2012, 2, 29);
    let rows_per_day = (rows as u64 / 12).max(1);
    for row in 0..rows {
        if row > 0 && random.below(rows_per_day) == 0 {
            for _ in 0..=random.below(3) {
                (year, month, day) = next_day(year, month, day);
            }
        }
        let cancelled = random.below(12) == 0;
        let dep_delay = random.minutes();
        let tailnum = match random.below(30) {
            0 => String::new(),
            1 => "NA".to_owned(),
            // Keys that a careless encoding takes for each other.
            2 => "N1".to_owned(),
            3 => "N1_2".to_owned(),
            4 => "N \"quoted\", Ü".to_owned(),
            other => format!("N{}", other % 7 + 1),
        };
        let fields = columns.iter().map(|column| match *column {
            "year" => year.to_string(),
            "month" => month.to_string(),
            "day" => day.to_string(),
            "dep_time" | "dep_delay" | "arr_delay" if cancelled => "NA".to_owned(),
            "dep_time" => (random.below(24) * 100 + random.below(60)).to_string(),
            "dep_delay" => dep_delay.to_string(),
            "arr_delay" if random.below(15) == 0 => "NA".to_owned(),
            "arr_delay" => (dep_delay + random.below(21) as i64 - 10).to_string(),
            "carrier" => random.pick(&["AA", "B6", "UA", "9E"]).to_owned(),
            "flight" => (random.below(9_000) + 1).to_string(),
            "tailnum" => tailnum.clone(),
            "origin" => random.pick(&["EWR", "JFK", "LGA"]).to_owned(),
            "dest" => random.pick(&["BOS", "ORD", "SFO", "Paris, \"CDG\""]).to_owned(),
            "remark" => random.pick(&["", "NA", "on time", "gate \"A\", then B", "first line\nsecond line"]).to_owned(),
            "time_hour" => format!("{year:04}-{month:02}-{day:02}T10:00:00Z"),
            _ => random.below(400).to_string(),
        });
        let fields: Vec<String> = fields.collect();
        let line: Vec<String> = fields.into_iter().map(|field| random.field(field)).collect();
        text += &line.join(",");
        text.push('\n');
    }
    text
}

fn next_day(year: i64, month: i64, day: i64) -> (i64, i64, i64) {
    let leap = year % 4 == 0 && (year % 100 != 0 || year % 400 == 0);
    let days = match month {
        2 => 28 + i64::from(leap),
        4 | 6 | 9 | 11 => 30,
        _ => 31,
    };
    if day < days {
        (year, month, day + 1)
    } else if month < 12 {
        (year, month + 1, 1)
    } else {
        (year + 1, 1, 1)
    }
}

/// `SplitMix64` (Steele, Lea and Flood 2014): a few lines, and the same numbers everywhere.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut bits = self.0;
        bits = (bits ^ (bits >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        bits = (bits ^ (bits >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        bits ^ (bits >> 31)
    }

    fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound
    }

    fn pick<'a>(&mut self, choices: &[&'a str]) -> &'a str {
        choices[self.below(choices.len() as u64) as usize]
    }

    /// Minutes late: mostly late, often near the threshold, sometimes early.
    fn minutes(&mut self) -> i64 {
        match self.below(10) {
            0 | 1 => self.below(30) as i64 - 20,
            2 | 3 => self.below(5) as i64 + 13,
            _ => self.below(120) as i64,
        }
    }

    /// A field as CSV: quoted where it must be, and now and then where it need not be.
    fn field(&mut self, field: String) -> String {
        if field.contains([',', '"', '\n']) || self.below(10) == 0 {
            format!("\"{}\"", field.replace('"', "\"\""))
        } else {
            field
        }
    }
}
