//! Sinks that take rows in transactions: databases.
//!
//! # Invariants
//! - A row is in the sink once its epoch is published, and once only, whatever crashed in between.
//! - Who writes last has no say: the mark decides, and it is read in the transaction that moves it. A process of an
//!   older generation that wakes up late changes nothing.
//!
//! All files of an epoch, whatever process staged them, are applied in one transaction. So the mark is one number for a
//! sink, and means the same after a start with other processes; a mark for each process would have to be forgotten with
//! it. It can be so because an epoch is committed only when all its files are.
//!
//! Not here: how rows are staged (`rows`), and the sinks.

use std::collections::BTreeMap;
use std::fmt;
use std::io;
use std::path::Path;
use std::sync::Arc;

use serde::de::DeserializeOwned;

use super::publish::publish_on;
use super::reason;
use super::rows::RowsFile;
use super::step::step;
use crate::checkpoint::Publication;
use crate::cluster::Failure;
use crate::files::{self, Files};

/// A sink that keeps rows together with a mark of how far it has come.
///
/// # Contract
/// 1. The mark is a frontier: rows of all epochs below are in. A sink that has taken nothing has none.
/// 2. [`TransactionalSink::apply`] puts the rows of an epoch in and moves the mark behind the epoch in *one* transaction.
///    When it returns, both are durable. After an error or a crash, either both are there or neither.
/// 3. It takes all rows or none: if a row is an error, it gives the error back and nothing has changed.
/// 4. For an epoch below the mark nothing changes, and that is no error. The mark is looked at within the transaction:
///    two handles of one sink may be in use at once.
/// 5. An epoch without rows moves the mark.
/// 6. Mark and rows outlive the handle: another one that is opened later finds them.
/// 7. Marks of sinks with different names do not touch each other, though they may be in one database.
///
/// [`conformance::check`](super::conformance::check) tests an implementation for it.
pub trait TransactionalSink: Send + 'static {
    /// One row.
    type Row: DeserializeOwned + 'static;

    /// The mark.
    ///
    /// # Errors
    /// What cannot be read.
    fn progress(&mut self) -> Result<Option<u64>, Failure>;

    /// Takes the rows of `epoch`, unless it has them. Epochs ascend, except for those that are repeated.
    ///
    /// # Errors
    /// Why nothing was taken.
    fn apply(&mut self, epoch: u64, rows: &mut dyn Iterator<Item = Result<Self::Row, Failure>>) -> Result<(), Failure>;
}

/// Does publications of all kinds, on a thread that may wait: in worker 0's process, after the commit.
pub struct Publisher {
    files: Arc<dyn Files>,
    sinks: BTreeMap<String, Box<dyn Apply>>,
}

impl Default for Publisher {
    fn default() -> Self {
        Publisher::on(files::system())
    }
}

impl Publisher {
    /// One without transactional sinks.
    pub fn new() -> Self {
        Publisher::default()
    }

    /// As [`Publisher::new`], on other files than the system's.
    pub(super) fn on(files: Arc<dyn Files>) -> Self {
        Publisher { files, sinks: BTreeMap::new() }
    }

    /// Adds the transactional sink called `name` in publications.
    pub fn add<S: TransactionalSink>(&mut self, name: impl Into<String>, sink: S) {
        self.sinks.insert(name.into(), Box::new(Applier { sink }));
    }

    /// Does what is to be published of some epochs, among it everything of each epoch. Renames come in the order in which
    /// they are given, rows by their epochs. Doing it again does no harm.
    ///
    /// # Errors
    /// What could not be done; what comes after it was not tried.
    pub fn publish(&mut self, publications: &[Publication]) -> Result<(), Failure> {
        let mut rows = BTreeMap::<(u64, &str), Vec<&str>>::new();
        for publication in publications {
            match publication {
                Publication::Rename { .. } => {
                    publish_on(&*self.files, publication).map_err(|error| Failure::data(error.to_string()))?;
                }
                Publication::Apply { sink, epoch, from } => rows.entry((*epoch, sink)).or_default().push(from),
            }
        }
        for ((epoch, name), mut staged) in rows {
            let Some(sink) = self.sinks.get_mut(name) else {
                return Err(Failure::data(format!(
                    "sink {name}: rows of epoch {epoch} are committed for it, but the job has no transactional sink of \
                     that name; name it in the job until they are published"
                )));
            };
            // The same order whenever it is done.
            staged.sort_unstable();
            let files = &*self.files;
            step("sink.publish.apply", || sink.apply(files, epoch, &staged).map_err(io::Error::other)).map_err(
                |error| Failure::data(format!("sink {name}: cannot apply the rows of epoch {epoch}: {error}")),
            )?;
            for file in staged {
                match step("sink.publish.unlink", || files.remove(Path::new(file))) {
                    Err(error) if error.kind() != io::ErrorKind::NotFound => {
                        let why = reason(&error);
                        return Err(Failure::data(format!(
                            "sink {name}: cannot remove {file}, which is applied: {why}"
                        )));
                    }
                    _ => {}
                }
            }
        }
        Ok(())
    }
}

impl fmt::Debug for Publisher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Publisher").field("sinks", &self.sinks.keys()).finish_non_exhaustive()
    }
}

/// A sink whose rows have no type.
trait Apply: Send {
    fn apply(&mut self, files: &dyn Files, epoch: u64, staged: &[&str]) -> Result<(), Failure>;
}

struct Applier<S> {
    sink: S,
}

impl<S: TransactionalSink> Applier<S> {
    fn has(&mut self, epoch: u64) -> Result<bool, Failure> {
        Ok(self.sink.progress()?.is_some_and(|mark| mark > epoch))
    }
}

impl<S: TransactionalSink> Apply for Applier<S> {
    fn apply(&mut self, files: &dyn Files, epoch: u64, staged: &[&str]) -> Result<(), Failure> {
        // Rows that are in may have lost their files; so this comes before the files are opened.
        if self.has(epoch)? {
            return Ok(());
        }
        let opened: Result<Vec<RowsFile<S::Row>>, _> =
            staged.iter().map(|file| RowsFile::open(files, Path::new(file))).collect();
        match opened {
            Ok(opened) => self.sink.apply(epoch, &mut opened.into_iter().flatten()),
            // A process of an older generation may have been about to apply them, and was faster.
            Err(failure) => {
                if self.has(epoch)? {
                    Ok(())
                } else {
                    Err(failure)
                }
            }
        }
    }
}
