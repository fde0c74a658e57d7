//! A run's journal as text.

use std::fmt::{self, Display, Formatter};

use serde_json::Value;

use super::tree::{Attempt, Task, Try, Wait};
use super::{Changed, RunJournal, State};

/// Longer texts and bytes are cut; JSON has them whole.
const LONGEST: usize = 96;

impl Display for RunJournal {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let state = match self.state {
            State::Unfinished => "unfinished",
            State::NotCommitted => "not committed",
            State::Over => "over",
        };
        writeln!(f, "agent {}, key {}, run {}: {state}", self.agent, self.key, self.sequence)?;
        if let Some(input) = &self.input {
            writeln!(f, "input {}", cut(&input.to_string()))?;
        }
        let mut facts = Vec::new();
        facts.extend(self.epoch.map(|epoch| format!("epoch {epoch}")));
        facts.extend(self.time.as_ref().map(|time| format!("time {time}")));
        facts.extend(self.identity.map(|identity| format!("identity {identity}")));
        facts.extend(self.notifying.map(|epoch| format!("about the end of epoch {epoch}")));
        facts.extend(self.digest.as_ref().map(|digest| format!("input of digest {digest}")));
        facts.extend(self.journal.as_ref().map(|journal| format!("journal {journal}, {} notes", self.notes)));
        facts.extend(self.began.map(|began| format!("began {}", instant(began))));
        writeln!(f, "{}", facts.join(", "))?;
        if self.missing_turns > 0 {
            writeln!(f, "nothing is known any more of {} turns", self.missing_turns)?;
        }
        if let Some(writes) = &self.writes {
            writeln!(f, "wrote at first {}", cut(&writes.to_string()))?;
        }
        let mut lines = Vec::new();
        for (n, task) in self.tasks.iter().enumerate() {
            self.task(task, "", n + 1 == self.tasks.len(), &mut lines);
        }
        lines.iter().try_for_each(|line| writeln!(f, "{line}"))?;
        self.outputs.iter().try_for_each(|output| writeln!(f, "put out {}", cut(&output.to_string())))?;
        for (name, values) in &self.sides {
            values.iter().try_for_each(|value| writeln!(f, "put out to {name} {}", cut(&value.to_string())))?;
        }
        for Changed { place, before, after } in &self.changes {
            writeln!(f, "memory {place}: was {}, is {}", cut(&before.to_string()), cut(&after.to_string()))?;
        }
        self.end.iter().try_for_each(|end| writeln!(f, "{end}"))?;
        for divergence in &self.divergences {
            writeln!(
                f,
                "the program left the journal behind entry {}: {} entries were dropped",
                divergence.kept,
                divergence.dropped.len()
            )?;
            divergence.dropped.iter().try_for_each(|entry| writeln!(f, "    {}", cut(&entry.to_string())))?;
        }
        if !self.others.is_empty() {
            let others: Vec<String> = self.others.iter().map(u64::to_string).collect();
            writeln!(f, "other runs of the key with journals: {}", others.join(", "))?;
        }
        Ok(())
    }
}

impl RunJournal {
    fn task(&self, task: &Task, before: &str, last: bool, lines: &mut Vec<String>) {
        let action = task.action.clone().unwrap_or_else(|| "an action".to_owned());
        let version = self.actions.iter().find(|known| Some(&known.name) == task.action.as_ref());
        let version = version.map_or_else(String::new, |known| format!(", version {}", known.version));
        let event = task.event.as_ref().map_or_else(String::new, |event| format!(" for {event}"));
        let (own, below) = branch(before, last);
        lines.push(format!("{own}{action}{event}{version}  [{}]", task.path));
        for (n, attempt) in task.attempts.iter().enumerate() {
            let last = n + 1 == task.attempts.len() && task.tasks.is_empty();
            attempt.lines(&below, last, lines);
        }
        for (n, child) in task.tasks.iter().enumerate() {
            self.task(child, &below, n + 1 == task.tasks.len(), lines);
        }
    }
}

impl Attempt {
    fn lines(&self, before: &str, last: bool, lines: &mut Vec<String>) {
        let (own, below) = branch(before, last);
        let took = self.took.map_or_else(String::new, |took| format!(" in {}", duration(took)));
        let turns = if self.turns == 1 { "1 turn".to_owned() } else { format!("{} turns", self.turns) };
        let next = self.next_attempt.map_or_else(String::new, |at| format!(", the next at {}", instant(at)));
        lines.push(format!("{own}attempt {}: {}, {turns}{took}{next}", self.attempt, self.state));
        let parts = self.waits.len() + self.steps.len();
        for (n, wait) in self.waits.iter().enumerate() {
            wait.lines(&below, n + 1 == parts, lines);
        }
        for (n, step) in self.steps.iter().enumerate() {
            let (own, _) = branch(&below, self.waits.len() + n + 1 == parts);
            let mut did = Vec::new();
            if step.writes.as_object().is_some_and(|writes| !writes.is_empty()) {
                did.push(format!("wrote {}", cut(&step.writes.to_string())));
            }
            did.extend(step.sent.iter().map(|sent| format!("sent {} {}", sent.event, cut(&sent.value.to_string()))));
            lines.push(format!("{own}{}", did.join(", ")));
        }
    }
}

impl Wait {
    fn lines(&self, before: &str, last: bool, lines: &mut Vec<String>) {
        let (own, below) = branch(before, last);
        let what = match (self.kind, &self.name) {
            (Some(kind), Some(name)) => format!("{kind} {name:?}"),
            (Some(kind), None) => kind.to_owned(),
            (None, _) => "a wait of which no end is known".to_owned(),
        };
        let arguments = self.arguments.as_ref().map(|arguments| format!(" of {}", cut(&arguments.to_string())));
        let digest = self.digest.as_ref().map(|digest| format!(", arguments {digest}"));
        let head = format!("{own}{}: {what}{}{}", self.wait, arguments.unwrap_or_default(), digest.unwrap_or_default());
        if let [only] = &self.tries[..] {
            lines.push(format!("{head}: {}", only.line()));
            return;
        }
        lines.push(head);
        for (n, made) in self.tries.iter().enumerate() {
            let (own, _) = branch(&below, n + 1 == self.tries.len());
            let what = if made.pause { "pause after attempt" } else { "attempt" };
            lines.push(format!("{own}{what} {}: {}", made.attempt, made.line()));
        }
    }
}

impl Try {
    fn line(&self) -> String {
        let took = self.took.map_or_else(String::new, |took| format!("{} ", duration(took)));
        match &self.result {
            None if self.left => "it has left, and its end is not known".to_owned(),
            None => format!("{took}its end is not known any more"),
            Some(result) => {
                let given = if self.given.is_some() { "" } else { "; no turn is known that was given it" };
                format!("{took}{}{given}", shown(result))
            }
        }
    }
}

fn shown(result: &Value) -> String {
    if let Some(failure) = result["failure"].as_str() {
        return format!("failed: {failure}");
    }
    if let Some(none) = result["none"].as_str() {
        return none.to_owned();
    }
    if let Some(value) = result.get("value") {
        return format!("gave {}", cut(&value.to_string()));
    }
    if let Some(text) = result["text"].as_str() {
        return format!("gave {}", cut(&format!("{text:?}")));
    }
    match (result.get("signal"), result["bytes"].as_str()) {
        (Some(signal), _) => format!("gave {}", cut(&signal.to_string())),
        (None, Some(bytes)) => format!("gave {} ({} bytes)", cut(bytes), result["length"]),
        (None, None) => "over".to_owned(),
    }
}

/// What stands before a node, and before what is below it.
fn branch(before: &str, last: bool) -> (String, String) {
    let (own, below) = if last { ("└─ ", "   ") } else { ("├─ ", "│  ") };
    (format!("{before}{own}"), format!("{before}{below}"))
}

fn cut(text: &str) -> String {
    match text.char_indices().nth(LONGEST) {
        Some((at, _)) => format!("{}…", &text[..at]),
        None => text.to_owned(),
    }
}

/// Microseconds as people say them.
fn duration(micros: u64) -> String {
    match micros {
        0 => "0 s".to_owned(),
        1..1_000 => format!("{micros} µs"),
        1_000..1_000_000 => format!("{:.1} ms", micros as f64 / 1e3),
        1_000_000..60_000_000 => format!("{:.2} s", micros as f64 / 1e6),
        _ => {
            let seconds = micros / 1_000_000;
            let (hours, minutes, seconds) = (seconds / 3600, seconds / 60 % 60, seconds % 60);
            if hours > 0 { format!("{hours} h {minutes} min") } else { format!("{minutes} min {seconds} s") }
        }
    }
}

/// Microseconds since 1970 as a date and a time of day, in UTC.
fn instant(micros: u64) -> String {
    let (seconds, millis) = (micros / 1_000_000, micros / 1_000 % 1_000);
    let (days, second) = ((seconds / 86_400) as i64, seconds % 86_400);
    // Years begin in March here, so that a leap day is the last of its year.
    let days = days + 719_468;
    let (era, of_era) = (days / 146_097, days % 146_097);
    let year_of_era = (of_era - of_era / 1_460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month = (5 * of_year + 2) / 153;
    let day = of_year - (153 * month + 2) / 5 + 1;
    let month = if month < 10 { month + 3 } else { month - 9 };
    let year = era * 400 + year_of_era + i64::from(month <= 2);
    let (hour, minute, second) = (second / 3600, second / 60 % 60, second % 60);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{millis:03}Z")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn instants_and_durations_are_as_people_write_them() {
        assert_eq!(instant(0), "1970-01-01T00:00:00.000Z");
        assert_eq!(instant(951_782_400_123_000), "2000-02-29T00:00:00.123Z");
        assert_eq!(instant(1_735_689_599_999_999), "2024-12-31T23:59:59.999Z");
        let told = [0, 999, 1_500, 2_500_000, 61_000_000, 7_380_000_000].map(duration);
        assert_eq!(told, ["0 s", "999 µs", "1.5 ms", "2.50 s", "1 min 1 s", "2 h 3 min"]);
    }
}
