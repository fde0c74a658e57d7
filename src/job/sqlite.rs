//! Rows into an SQLite database, in once and with their mark.
//!
//! # Invariants
//! - The mark is of a sink, not of a worker or a process: it means the same after a start with others of them.
//! - The mark is read and moved in the transaction that takes the rows, which excludes all other writers from its start.
//!
//! Not here: the rows' way here (`operators::sink`), and the schema; it is the user's.

use std::fmt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rusqlite::types::Value;
use rusqlite::{Connection, OptionalExtension, TransactionBehavior, params, params_from_iter};
use serde::de::DeserializeOwned;
use timely_agents_operators::cluster::Failure;
use timely_agents_operators::sink::TransactionalSink;

/// Where the marks are, one for each sink.
const MARKS: &str =
    "CREATE TABLE IF NOT EXISTS timely_agents_progress (sink TEXT PRIMARY KEY, frontier INTEGER NOT NULL)";

/// How long to wait for another writer of the database.
const BUSY: Duration = Duration::from_secs(30);

type Bind<R> = Box<dyn Fn(&R) -> Vec<Value> + Send>;

/// A [`TransactionalSink`] that inserts each row into a table of an SQLite database.
///
/// ```
/// use timely_agents::SqliteSink;
///
/// #[derive(serde::Serialize, serde::Deserialize)]
/// struct Alert { tail: String, minutes: i64 }
///
/// # let folder = tempfile::tempdir()?;
/// # let path = folder.path().join("alerts.db");
/// let sink = SqliteSink::open(path, "alerts")?
///     .table("CREATE TABLE IF NOT EXISTS alerts (tail TEXT, minutes INTEGER)")?
///     .insert("INSERT INTO alerts VALUES (?1, ?2)", |alert: &Alert| {
///         vec![alert.tail.clone().into(), alert.minutes.into()]
///     })?;
/// # let _ = sink;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub struct SqliteSink<R> {
    database: SqliteDatabase,
    insert: String,
    bind: Bind<R>,
}

/// An open database in which a sink has its mark; say next into which table rows go.
pub struct SqliteDatabase {
    path: PathBuf,
    sink: String,
    connection: Connection,
}

impl SqliteSink<()> {
    /// Opens the database at `path`, or creates it, for the sink called `sink`. The name is what its mark is found by:
    /// it stays the same for the life of the job.
    ///
    /// # Errors
    /// It is no database, or cannot be written.
    pub fn open(path: impl Into<PathBuf>, sink: impl Into<String>) -> Result<SqliteDatabase, Failure> {
        let path = path.into();
        let opened = Connection::open(&path).and_then(|connection| {
            connection.busy_timeout(BUSY)?;
            // What is committed survives a loss of power.
            connection.pragma_update(None, "synchronous", "FULL")?;
            connection.execute_batch(MARKS)?;
            Ok(connection)
        });
        let connection = opened.map_err(|error| failure(&path, "cannot be opened for output", &error))?;
        Ok(SqliteDatabase { path, sink: sink.into(), connection })
    }
}

impl SqliteDatabase {
    /// Executes statements that prepare the schema, such as `CREATE TABLE IF NOT EXISTS`. They are executed at every
    /// start.
    ///
    /// # Errors
    /// A statement fails.
    pub fn table(self, sql: &str) -> Result<Self, Failure> {
        self.connection.execute_batch(sql).map_err(|error| failure(&self.path, "its tables", &error))?;
        Ok(self)
    }

    /// Every row executes `sql`, an insertion, with the parameters that `bind` gives.
    ///
    /// # Errors
    /// `sql` is no valid statement, or of a table that does not exist.
    pub fn insert<R: DeserializeOwned + 'static>(
        self,
        sql: impl Into<String>,
        bind: impl Fn(&R) -> Vec<Value> + Send + 'static,
    ) -> Result<SqliteSink<R>, Failure> {
        let insert = sql.into();
        self.connection.prepare_cached(&insert).map_err(|error| failure(&self.path, "the insertion", &error))?;
        Ok(SqliteSink { database: self, insert, bind: Box::new(bind) })
    }
}

impl<R: DeserializeOwned + 'static> TransactionalSink for SqliteSink<R> {
    type Row = R;

    fn progress(&mut self) -> Result<Option<u64>, Failure> {
        let SqliteDatabase { path, sink, connection } = &self.database;
        mark(connection, sink).map_err(|error| failure(path, "its mark", &error))
    }

    fn apply(&mut self, epoch: u64, rows: &mut dyn Iterator<Item = Result<R, Failure>>) -> Result<(), Failure> {
        let SqliteDatabase { path, sink, connection } = &mut self.database;
        let sink = sink.as_str();
        let failed = |what: &str| {
            let (path, what) = (path.clone(), what.to_owned());
            move |error: rusqlite::Error| failure(&path, &what, &error)
        };
        let end = epoch.checked_add(1).and_then(|end| i64::try_from(end).ok());
        let end = end.ok_or_else(|| {
            Failure::data(format!("{}: epoch {epoch} is beyond what a database can hold", path.display()))
        })?;
        // Dropped without a commit it takes back everything.
        let transaction =
            connection.transaction_with_behavior(TransactionBehavior::Immediate).map_err(failed("a transaction"))?;
        if mark(&transaction, sink).map_err(failed("its mark"))?.is_some_and(|mark| mark > epoch) {
            return Ok(());
        }
        let mut insert = transaction.prepare_cached(&self.insert).map_err(failed("the insertion"))?;
        for row in rows {
            insert.execute(params_from_iter((self.bind)(&row?))).map_err(failed("a row"))?;
        }
        drop(insert);
        let moved = "INSERT INTO timely_agents_progress VALUES (?1, ?2) \
                     ON CONFLICT (sink) DO UPDATE SET frontier = excluded.frontier";
        transaction.execute(moved, params![sink, end]).map_err(failed("its mark"))?;
        transaction.commit().map_err(failed("the commit"))
    }
}

fn mark(connection: &Connection, sink: &str) -> rusqlite::Result<Option<u64>> {
    let sql = "SELECT frontier FROM timely_agents_progress WHERE sink = ?1";
    let mark = connection.query_row(sql, [sink], |row| row.get::<_, i64>(0)).optional()?;
    Ok(mark.and_then(|mark| u64::try_from(mark).ok()))
}

fn failure(path: &Path, what: &str, error: &rusqlite::Error) -> Failure {
    Failure::data(format!("{}: {what}: {error}", path.display()))
}

impl<R> fmt::Debug for SqliteSink<R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SqliteSink")
            .field("database", &self.database)
            .field("insert", &self.insert)
            .finish_non_exhaustive()
    }
}

impl fmt::Debug for SqliteDatabase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SqliteDatabase").field("path", &self.path).field("sink", &self.sink).finish_non_exhaustive()
    }
}
