//! Rows in an SQLite database: once, and all of an epoch or none.

use std::path::Path;

use rusqlite::Connection;
use serde::{Deserialize, Serialize};
use timely_agents::SqliteSink;
use timely_agents::cluster::Failure;
use timely_agents::sink::{TransactionalSink, conformance};

#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
struct Row {
    n: u32,
    text: Option<String>,
}

fn row(n: u64) -> Row {
    Row { n: u32::try_from(n).expect("small"), text: (!n.is_multiple_of(2)).then(|| format!("'{n}")) }
}

fn open(path: &Path, name: &str) -> SqliteSink<Row> {
    SqliteSink::open(path, name)
        .and_then(|database| database.table(&format!("CREATE TABLE IF NOT EXISTS {name} (n INTEGER, t TEXT)")))
        .and_then(|database| {
            database.insert(format!("INSERT INTO {name} VALUES (?1, ?2)"), |row: &Row| {
                vec![row.n.into(), row.text.clone().into()]
            })
        })
        .expect("a database")
}

fn read(path: &Path, name: &str) -> Vec<Row> {
    let connection = Connection::open(path).expect("a database");
    let mut select = connection.prepare(&format!("SELECT n, t FROM {name} ORDER BY rowid")).expect("a table");
    let rows = select.query_map([], |row| Ok(Row { n: row.get(0)?, text: row.get(1)? })).expect("rows");
    rows.map(|row| row.expect("a row")).collect()
}

#[test]
fn it_keeps_the_contract() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("rows.db");
    conformance::check(|name| open(&path, name), row, |name| read(&path, name));
}

#[test]
fn a_transaction_that_never_commits_leaves_nothing() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("rows.db");
    let mut sink = open(&path, "a");
    // The process dies in the midst of the rows: what was written is still in the journal.
    let mut rows = (0..10_000).map(|n| {
        if n == 9_999 {
            std::panic::resume_unwind(Box::new("killed"));
        }
        Ok(row(n))
    });
    let killed = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| sink.apply(1, &mut rows)));
    assert!(killed.is_err());
    drop(sink);
    let mut sink = open(&path, "a");
    assert_eq!((sink.progress(), read(&path, "a")), (Ok(None), vec![]));
    sink.apply(1, &mut [Ok(row(1))].into_iter()).expect("applied");
    assert_eq!((sink.progress(), read(&path, "a")), (Ok(Some(2)), vec![row(1)]));
}

#[test]
fn a_row_that_the_table_refuses_takes_back_its_epoch() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("rows.db");
    let mut sink = SqliteSink::open(&path, "a")
        .and_then(|database| database.table("CREATE TABLE a (n INTEGER UNIQUE, t TEXT)"))
        .and_then(|database| database.insert("INSERT INTO a (n) VALUES (?1)", |row: &Row| vec![row.n.into()]))
        .expect("a database");
    let failure = sink.apply(1, &mut [Ok(row(1)), Ok(row(2)), Ok(row(1))].into_iter()).expect_err("not unique");
    assert!(failure.message().contains("rows.db: a row: UNIQUE constraint failed: a.n"), "{failure}");
    assert_eq!((sink.progress(), read(&path, "a")), (Ok(None), vec![]));
}

#[test]
fn what_is_no_database_or_no_statement_is_named() {
    let folder = tempfile::tempdir().expect("a folder");
    let message = |result: Result<SqliteSink<Row>, Failure>| result.expect_err("it is wrong").message().to_owned();
    let text = folder.path().join("text");
    std::fs::write(&text, "this is not a database, but a text that is long enough").expect("a file");
    let opened = SqliteSink::open(&text, "a").and_then(|database| database.insert("x", |_: &Row| vec![]));
    assert!(message(opened).ends_with("text: cannot be opened for output: file is not a database"));
    let database = || SqliteSink::open(folder.path().join("rows.db"), "a").expect("a database");
    let opened = database().insert("INSERT INTO a VALUES (1)", |_: &Row| vec![]);
    assert!(message(opened).contains("rows.db: the insertion: no such table: a"));
    assert!(database().table("CREATE TABEL").expect_err("no statement").message().contains("rows.db: its tables: "));
}
