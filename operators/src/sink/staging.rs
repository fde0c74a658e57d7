//! The thread of a stager: its files.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crossbeam::channel::Receiver;

use super::backlog::Backlog;
use super::naming::Naming;
use super::stager::{Inbox, Message, Staged, failed};
use super::step::step;
use crate::cluster::{Control, Failure};
use crate::files::{Files, GrowingFile};

/// Bytes of an open epoch that are kept in memory.
const SPILL: usize = 1 << 20;

/// The state of the thread.
pub(super) struct Staging {
    files: Arc<dyn Files>,
    naming: Naming,
    parts: BTreeMap<u64, Part>,
    seats: Vec<Arc<Inbox>>,
    /// By worker, where it is.
    frontiers: Vec<Option<u64>>,
    backlog: Backlog,
    control: Control,
}

/// The output of an open epoch.
struct Part {
    path: PathBuf,
    file: Option<Box<dyn GrowingFile>>,
    /// What is not in the file yet.
    bytes: Vec<u8>,
    /// Who has a part in it.
    workers: BTreeSet<usize>,
}

impl Staging {
    pub(super) fn new(
        files: Arc<dyn Files>,
        naming: Naming,
        workers: usize,
        backlog: Backlog,
        control: Control,
    ) -> Self {
        let frontiers = vec![Some(0); workers];
        Staging { files, naming, parts: BTreeMap::new(), seats: Vec::new(), frontiers, backlog, control }
    }

    pub(super) fn run(&mut self, messages: &Receiver<Message>) {
        for message in messages {
            let done = match message {
                Message::Seat(inbox) => {
                    self.seats.push(inbox);
                    Ok(())
                }
                Message::Bytes { worker, epoch, header, bytes } => {
                    let taken = self.take(worker, epoch, header, &bytes);
                    self.backlog.remove(bytes.len());
                    taken
                }
                Message::Closed { worker, frontier } => {
                    self.frontiers[worker] = frontier;
                    self.stage()
                }
            };
            if let Err(failure) = done {
                // What was not staged is never acknowledged.
                self.control.fail(failure);
                return;
            }
        }
    }

    fn take(&mut self, worker: usize, epoch: u64, header: Vec<u8>, bytes: &[u8]) -> Result<(), Failure> {
        let naming = &self.naming;
        let part = self.parts.entry(epoch).or_insert_with(|| Part {
            path: naming.staged(epoch).into(),
            file: None,
            bytes: header,
            workers: BTreeSet::new(),
        });
        part.workers.insert(worker);
        part.bytes.extend_from_slice(bytes);
        if part.bytes.len() >= SPILL {
            part.spill(&*self.files).map_err(|error| failed(&naming.sink, "write", &part.path, &error))?;
        }
        Ok(())
    }

    /// Stages what is closed at all workers.
    fn stage(&mut self) -> Result<(), Failure> {
        // An ended worker is beyond every epoch.
        let open = match self.frontiers.iter().filter_map(|frontier| *frontier).min() {
            Some(least) => self.parts.split_off(&least),
            None => BTreeMap::new(),
        };
        let closed = std::mem::replace(&mut self.parts, open);
        if closed.is_empty() {
            return Ok(());
        }
        let sink = &self.naming.sink;
        let mut staged = Vec::new();
        for (epoch, mut part) in closed {
            part.finish(&*self.files).map_err(|error| failed(sink, "write", &part.path, &error))?;
            staged.push((epoch, part.workers));
        }
        // One sync makes the names of all of them durable.
        let folder = Path::new(&self.naming.stage);
        step("sink.stage.sync_folder", || self.files.sync_folder(folder))
            .map_err(|error| failed(sink, "sync", folder, &error))?;
        let mut told = BTreeSet::new();
        for (epoch, workers) in staged {
            for (i, worker) in workers.into_iter().enumerate() {
                let publication = (i == 0).then(|| self.naming.publication(epoch));
                self.seats[worker].put(Staged { epoch, publication });
                told.insert(worker);
            }
        }
        for worker in told {
            self.seats[worker].wake();
        }
        Ok(())
    }
}

impl Part {
    fn spill(&mut self, files: &dyn Files) -> io::Result<()> {
        if self.file.is_none() {
            step("sink.stage.open", || {
                self.file = Some(files.create(&self.path)?);
                Ok(())
            })?;
        }
        if let Some(file) = &mut self.file {
            step("sink.stage.write", || file.write_all(&self.bytes))?;
            self.bytes.clear();
        }
        Ok(())
    }

    fn finish(&mut self, files: &dyn Files) -> io::Result<()> {
        self.spill(files)?;
        match &mut self.file {
            Some(file) => step("sink.stage.sync", || file.sync()),
            None => Ok(()),
        }
    }
}
