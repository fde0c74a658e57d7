//! What the cases found: a table, and JSON for programs.

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::{Map, Value, json};

use crate::measure::Error;

/// One measurement of an agent beside its baseline.
pub(crate) struct Row {
    name: String,
    workers: usize,
    events_per_second: f64,
    baseline: f64,
    ratio: f64,
    target: Option<(String, bool)>,
    more: Map<String, Value>,
}

impl Row {
    /// Rates in events per second; the ratio is the agent's by the baseline's.
    pub(crate) fn new(name: impl Into<String>, workers: usize, events_per_second: f64, baseline: f64) -> Self {
        Row {
            name: name.into(),
            workers,
            events_per_second,
            baseline,
            ratio: events_per_second / baseline,
            target: None,
            more: Map::new(),
        }
    }

    /// A ratio of something other than the rates; above 1 the agent is better.
    pub(crate) fn ratio(mut self, ratio: f64) -> Self {
        self.ratio = ratio;
        self
    }

    /// Another thing that the case measures.
    pub(crate) fn also(mut self, what: &str, value: f64) -> Self {
        let rounded = (value * 1e4).round() / 1e4;
        self.more.insert(what.into(), json!(rounded));
        self
    }

    /// What is aimed at, and whether it is reached.
    pub(crate) fn target(mut self, target: impl Into<String>, reached: bool) -> Self {
        self.target = Some((target.into(), reached));
        self
    }

    /// Aims at nothing, as tiny sizes do.
    pub(crate) fn forget_target(&mut self) {
        self.target = None;
    }

    /// The agent's rate and the ratio, to aim at.
    pub(crate) fn at_least(self, rate: f64, ratio: f64) -> Self {
        let reached = self.events_per_second >= rate && self.ratio >= ratio;
        let target = match (rate > 0.0, ratio > 0.0) {
            (true, true) => format!("at least {}/s and {ratio} of the baseline", scaled(rate)),
            (true, false) => format!("at least {}/s", scaled(rate)),
            _ => format!("at least {ratio} of the baseline"),
        };
        self.target(target, reached)
    }

    fn json(&self) -> Value {
        let mut row = Map::new();
        row.insert("name".into(), json!(self.name));
        row.insert("workers".into(), json!(self.workers));
        row.insert("events_per_second".into(), json!(self.events_per_second.round()));
        row.insert("baseline_events_per_second".into(), json!(self.baseline.round()));
        row.insert("ratio".into(), json!((self.ratio * 1e4).round() / 1e4));
        row.extend(self.more.clone());
        if let Some((target, reached)) = &self.target {
            row.insert("target".into(), json!(target));
            row.insert("target_reached".into(), json!(reached));
        }
        Value::Object(row)
    }
}

/// Heads the table.
pub(crate) fn print_head() {
    println!("{:<26}{:>8}{:>12}{:>12}{:>8}  target; more", "case", "workers", "agent/s", "baseline/s", "ratio");
}

/// Prints a line of the table.
pub(crate) fn print(row: &Row) {
    let target = row.target.as_ref().map_or(String::new(), |(target, reached)| {
        format!("{} {target}; ", if *reached { "reached:" } else { "MISSED:" })
    });
    let more: Vec<String> = row.more.iter().map(|(what, value)| format!("{what} {value}")).collect();
    println!(
        "{:<26}{:>8}{:>12}{:>12}{:>8.2}  {target}{}",
        row.name,
        row.workers,
        scaled(row.events_per_second),
        scaled(row.baseline),
        row.ratio,
        more.join(", ")
    );
}

fn scaled(rate: f64) -> String {
    if rate >= 1e6 { format!("{:.2} M", rate / 1e6) } else { format!("{:.1} k", rate / 1e3) }
}

/// Writes the rows to `target/bench/<bench>.json`.
pub(crate) fn write_json(bench: &str, rows: &[Row]) -> Result<PathBuf, Error> {
    let rows: Vec<Value> = rows.iter().map(Row::json).collect();
    // Cargo's folder for a bench's files lies in the target folder, wherever that is.
    let target = Path::new(env!("CARGO_TARGET_TMPDIR"));
    let folder = target.parent().unwrap_or(target).join("bench");
    fs::create_dir_all(&folder)?;
    let path = folder.join(format!("{bench}.json"));
    fs::write(&path, serde_json::to_string_pretty(&rows)? + "\n")?;
    Ok(path)
}
