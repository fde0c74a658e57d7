#![allow(clippy::unwrap_used, reason = "a test that unwraps in vain has failed")]

use std::io;
use std::path::Path;

use serde::Deserialize;
use timely_agents_operators::source::{Next, Reader};

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

fn reader(path: &Path, follow: bool) -> impl Reader<Item = Line> + use<> {
    let file = Csv::file(path).none("NA");
    let file = if follow { file.follow() } else { file };
    file.epoch(|line: &Line| line.day).into_reader().unwrap()
}

fn names(reader: &mut impl Reader<Item = Line>) -> Result<Vec<String>, Failure> {
    let mut names = Vec::new();
    while let Some((_, line)) = reader.next()? {
        names.push(line.name);
    }
    Ok(names)
}

#[test]
fn every_position_goes_on_at_its_row() {
    for end in ["\n", "\r\n"] {
        let text = "day,name,delay\n\n1,a,1\n1,\"b\nb\",2\n\n\n2,c,3\n".replace('\n', end);
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), &text).unwrap();
        let mut first = reader(file.path(), false);
        let mut positions = vec![first.position().unwrap()];
        while first.next().unwrap().is_some() {
            positions.push(first.position().unwrap());
        }
        positions.push(first.position().unwrap());
        let b = format!("b{end}b");
        let all = ["a", &b, "c"];
        for (position, from) in positions.iter().zip([0, 0, 1, 2, 3]) {
            let mut again = reader(file.path(), false);
            again.seek(position).unwrap();
            assert_eq!(again.position().as_ref(), Some(position));
            assert_eq!(names(&mut again).unwrap(), all[from..]);
            // A wrong line that comes later has its number in the whole file.
            std::fs::write(file.path(), format!("{text}3,d,soon{end}")).unwrap();
            let mut again = reader(file.path(), false);
            again.seek(position).unwrap();
            let error = names(&mut again).unwrap_err();
            assert!(error.message().contains("line 9: column delay"), "{error}");
            std::fs::write(file.path(), &text).unwrap();
        }
    }
}

#[test]
fn positions_that_are_not_of_this_file_are_refused() {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), "day,name,delay\n1,a,1\n").unwrap();
    let end = {
        let mut reader = reader(file.path(), false);
        names(&mut reader).unwrap();
        reader.position().unwrap()
    };
    std::fs::write(file.path(), "day,name,delay\n").unwrap();
    let cut = reader(file.path(), false).seek(&end).unwrap_err();
    assert!(cut.message().contains("it has 15 bytes, but 21 of it have been read"), "{cut}");
    let strange = reader(file.path(), false).seek(&[]).unwrap_err();
    assert!(strange.message().contains("of another kind of source"), "{strange}");
}

#[test]
fn a_file_that_grows_is_read_on_and_half_a_row_waits() {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), "day,name,delay\n").unwrap();
    let mut reader = reader(file.path(), true);
    let text = "1,a,2\n1,\"é\nc\",3\r\n\n2,d,NA\n";
    let mut given = Vec::new();
    for byte in text.as_bytes() {
        let mut end = std::fs::OpenOptions::new().append(true).open(file.path()).unwrap();
        io::Write::write_all(&mut end, &[*byte]).unwrap();
        loop {
            match reader.poll().unwrap() {
                Next::Record(_, line) => given.push(line.name),
                Next::Idle(Some(_)) => break,
                other => panic!("{other:?}"),
            }
        }
    }
    assert_eq!(given, ["a", "é\nc", "d"]);
    std::fs::write(file.path(), "day").unwrap();
    let error = reader.poll().unwrap_err();
    assert!(error.message().contains("it was cut or replaced"), "{error}");
}
