#![allow(clippy::unwrap_used, reason = "a test that unwraps in vain has failed")]

use serde::Deserialize;

use super::*;

#[derive(Debug, Deserialize, PartialEq)]
struct Line {
    day: u64,
    name: String,
    delay: Option<i32>,
}

fn read(text: &str) -> Result<Vec<(u64, String, Option<i32>)>, String> {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), text).unwrap();
    let named = |failure: Failure| failure.to_string().replace(file.path().to_str().unwrap(), "f.csv");
    let rows = Csv::file(file.path()).none("NA").epoch(|line: &Line| line.day);
    let mut reader = rows.into_reader().map_err(named)?;
    let mut lines = Vec::new();
    while let Some((_, line)) = reader.next().map_err(named)? {
        lines.push((line.day, line.name, line.delay));
    }
    Ok(lines)
}

#[test]
fn columns_are_found_by_name() {
    let lines = read("delay,other,name,day\nNA,x,a,1\n-3,,\"b,\"\"c\"\"\",2\n").unwrap();
    assert_eq!(lines, [(1, "a".into(), None), (2, "b,\"c\"".into(), Some(-3))]);
    assert_eq!(read("day,name,delay\r\n1,a,2\r\n").unwrap(), [(1, "a".into(), Some(2))]);
    assert_eq!(read("\u{feff}day,name,delay\n").unwrap(), []);
}

#[test]
fn what_is_wrong_is_named() {
    for (text, expected) in [
        ("", "f.csv: it is empty; its first line must name the columns"),
        ("day,nam,delays\n1,a,2\n", "f.csv: line 1: columns name, delay are missing"),
        ("day,name,day,delay\n", "f.csv: line 1: two columns are called day"),
        (
            "day,name,delay\n1,a,soon\n",
            "f.csv: line 2: column delay: \"soon\": not a whole number: invalid digit found in string",
        ),
        (
            "day,name,delay\n1,a,\n",
            "f.csv: line 2: column delay: \"\": not a whole number: cannot parse integer from empty string",
        ),
        ("day,name,delay\n1,a\n1,a,2\n", "f.csv: line 2: it has 2 fields, the header has 3"),
        ("day,name,delay\n2,a,2\n1,a,2\n", "f.csv: line 3: its epoch 1 is before epoch 2 of a line above"),
    ] {
        assert_eq!(read(text).unwrap_err(), expected, "{text:?}");
    }
}

#[test]
fn a_file_cut_short_is_never_taken_for_a_whole_one() {
    let text = "day,name,delay\n1,a,2\n1,\"b\nc\",3\n";
    for end in 0..text.len() {
        let cut = read(&text[..end]);
        let whole_lines =
            text[..end].ends_with('\n') && end != text.len() - 4 && end > 0 && !text[..end].ends_with("\"b\n");
        assert_eq!(cut.is_ok(), whole_lines, "{:?}: {cut:?}", &text[..end]);
    }
    let last = read("day,name,delay\n1,a,2\n1,b,\"3\n").unwrap_err();
    assert!(last.starts_with("f.csv: line 3: the last line is truncated"), "{last}");
    let header = read("day,name,delay").unwrap_err();
    assert!(header.starts_with("f.csv: line 1: the last line is truncated"), "{header}");
}

#[test]
fn lines_are_counted_as_an_editor_counts_them() {
    for end in ["\n", "\r\n"] {
        for (before, line) in [("1,a,2\n", 3), ("1,\"a\nb\nc\",2\n", 5), ("\n\n1,a,2\n\n", 6)] {
            let text = format!("day,name,delay\n{before}1,a,soon\n").replace('\n', end);
            let error = read(&text).unwrap_err();
            assert!(error.contains(&format!("line {line}:")), "{text:?}: {error}");
        }
    }
}
