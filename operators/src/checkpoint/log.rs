//! The log of one process in one generation (rule D2).
//!
//! ```text
//! workers ── append ──▶ queue ──▶ thread: gather all that waits ── write ── sync once ──▶ done, done, done
//! ```
//!
//! # Invariants
//! - `done` is called in the order of `append`, after the sync that made the record durable, and on the log's thread.
//! - After the first error nothing is written, no `done` is called, and the job has been told to fail.
//! - A batch lies in one segment. A segment is begun by the batch that no longer fits, so an idle log writes nothing.
//!
//! Not here: a bound of what waits. Whoever appends has to count what is not done.

use std::fmt;
use std::sync::Arc;
use std::thread;

use crossbeam::channel::{Receiver, Sender, unbounded};

use super::ack::LogPosition;
use super::error::Error;
use super::failpoint::{self, step};
use super::record::{self, Compression, Head, LOG, Record, VERSION, digest};
use super::segment;
use super::store::{CheckpointStore, StoreFile};
use crate::cluster::{Control, Failure};
use crate::fact::Block;
use crate::journal::Note;
use crate::quiet;

/// Bytes that one sync makes durable, more or less; what waits beyond them is left for the next.
const BATCH: usize = 16 << 20;
/// A note that is as long as this gets a file of its own.
const BLOB: usize = 256 << 10;

/// How a log is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LogOptions {
    /// A segment that is this long is followed by another.
    pub segment_bytes: u64,
    /// Whether blocks are compressed.
    pub compression: Compression,
}

impl Default for LogOptions {
    fn default() -> Self {
        LogOptions { segment_bytes: 64 << 20, compression: Compression::None }
    }
}

/// Called when a record is durable, with its place.
pub type Done = Box<dyn FnOnce(LogPosition) + Send>;

/// The same for facts, with what they add to the digests of their groups.
pub type DoneFacts = Box<dyn FnOnce(LogPosition, Vec<(u32, u64)>) + Send>;

/// What waits to be written: a record and who is told.
enum Queued {
    Record(Record, Done),
    Facts(u32, Block<u64>, DoneFacts),
}

/// A handle of the log; clones are handles of the same. The log ends, when all is written, with the last of them.
#[derive(Clone)]
pub struct Log {
    to_writer: Sender<Queued>,
}

impl fmt::Debug for Log {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Log").field("waiting", &self.to_writer.len()).finish_non_exhaustive()
    }
}

impl Log {
    /// The log of `process` in `generation`, which has none yet.
    ///
    /// # Errors
    /// Its thread cannot be started.
    pub fn open(
        store: Arc<dyn CheckpointStore>,
        job: &str,
        generation: u64,
        process: u32,
        options: LogOptions,
        control: Control,
    ) -> Result<Self, Error> {
        let head = Head { magic: LOG, version: VERSION, generation, process, number: 0, job: job.to_owned() };
        let writer = Writer { store, head, options, file: None, length: 0, blobs: 0 };
        let (to_writer, records) = unbounded();
        thread::Builder::new()
            .name("checkpoint-log".to_owned())
            .spawn(failpoint::inherited(move || {
                if let Err(panic) = quiet::catch(|| writer.run(&records, &control)) {
                    control.fail(Failure::panic(format!("the log {panic}")));
                }
            }))
            .map_err(|error| Error::Thread { name: "checkpoint-log", error })?;
        Ok(Log { to_writer })
    }

    /// Hands a record over; returns at once. `done` is told when it is durable, and never if the log has failed.
    pub fn append(&self, record: Record, done: Done) {
        // A log that failed has ended the job; what comes after is of no use to anybody.
        let _ = self.to_writer.send(Queued::Record(record, done));
    }

    /// Hands over facts of the component of that number. They are put in order on the log's thread, and their
    /// digests are made there.
    pub fn append_facts(&self, component: u32, block: Block<u64>, done: DoneFacts) {
        let _ = self.to_writer.send(Queued::Facts(component, block, done));
    }
}

/// The log's thread.
struct Writer {
    store: Arc<dyn CheckpointStore>,
    /// Of the segment that comes next.
    head: Head,
    options: LogOptions,
    file: Option<Box<dyn StoreFile>>,
    length: u64,
    /// How many files are beside the log.
    blobs: u32,
}

impl Writer {
    fn run(mut self, records: &Receiver<Queued>, control: &Control) {
        let mut bytes = Vec::new();
        let mut waiting: Vec<(u64, Done)> = Vec::new();
        while let Ok(mut next) = records.recv() {
            if self.length >= self.options.segment_bytes {
                self.file = None;
            }
            if self.file.is_none() {
                self.length = 0;
                record::write_head(&mut bytes, &self.head);
            }
            loop {
                let done = match next {
                    Queued::Record(record, done) => {
                        let record = match self.aside(record) {
                            Ok(record) => record,
                            Err(error) => return control.fail(error.into()),
                        };
                        record::write(&mut bytes, &record, self.options.compression);
                        done
                    }
                    Queued::Facts(component, mut block, done) => {
                        block.arrange();
                        record::write_facts(&mut bytes, component, &block, self.options.compression);
                        let digests = digest(component, block.time, &block.bytes())
                            .unwrap_or_else(|error| panic!("a sealed block: {error}"));
                        Box::new(move |position| done(position, digests))
                    }
                };
                waiting.push((self.length + bytes.len() as u64, done));
                if bytes.len() >= BATCH {
                    break;
                }
                match records.try_recv() {
                    Ok(another) => next = another,
                    Err(_) => break,
                }
            }
            let at = match self.write(&bytes) {
                Ok(at) => at,
                Err(error) => return control.fail(error.into()),
            };
            bytes.clear();
            bytes.shrink_to(BATCH);
            for (end, done) in waiting.drain(..) {
                done(LogPosition { end, ..at });
            }
        }
    }

    /// Puts what is too long for a log into a file of its own, which is durable before the record that names it.
    fn aside(&mut self, record: Record) -> Result<Record, Error> {
        let note = match record {
            Record::Note(note) if note.bytes.len() >= BLOB => note,
            record => return Ok(record),
        };
        let Head { generation, process, number, .. } = self.head;
        let segment = if self.file.is_none() { number } else { number - 1 };
        let (blob, length) = (self.blobs, note.bytes.len() as u64);
        self.blobs += 1;
        let name = segment::blob_name(generation, process, segment, blob);
        let created = self.store.create(&name, &note.bytes);
        created.map_err(|error| Error::Io { action: "create", file: self.store.describe(&name), error })?;
        Ok(Record::Blob { note: Note { bytes: Vec::new(), ..note }, blob, length })
    }

    /// Makes a batch durable; says in which segment.
    fn write(&mut self, bytes: &[u8]) -> Result<LogPosition, Error> {
        let Head { generation, process, .. } = self.head;
        let opens = self.file.is_none();
        let number = if opens { self.head.number } else { self.head.number - 1 };
        let name = segment::name(generation, process, number);
        let failed = |action, error| Error::Io { action, file: self.store.describe(&name), error };
        let mut file = match self.file.take() {
            Some(file) => file,
            None => {
                self.head.number += 1;
                let mut opened = None;
                step("log.open", || {
                    opened = Some(self.store.append_new(&name)?);
                    Ok(())
                })
                .map_err(|error| failed("create", error))?;
                opened.ok_or_else(|| failed("create", std::io::Error::other("it was left out")))?
            }
        };
        step("log.write", || file.append(bytes)).map_err(|error| failed("write", error))?;
        step("log.sync", || file.sync()).map_err(|error| failed("sync", error))?;
        step("log.done", || Ok(())).map_err(|error| failed("acknowledge", error))?;
        tracing::trace!(file = name, bytes = bytes.len(), "facts are durable");
        self.file = Some(file);
        self.length += bytes.len() as u64;
        Ok(LogPosition { generation, process, segment: number, end: self.length })
    }
}

#[cfg(test)]
mod tests {
    #[cfg(any(debug_assertions, feature = "failpoints"))]
    use super::super::failpoint::Scope;
    use super::super::memory_store::MemoryStore;
    use super::super::record::tests::block;
    use super::*;
    use std::sync::mpsc;

    fn facts(epoch: u64, value: &str) -> Record {
        Record::Facts { component: 1, block: block(epoch, &[(epoch as u32, "key", Some(value))]) }
    }

    fn read(store: &MemoryStore, segment: u32, length: u64) -> Result<Vec<u64>, Error> {
        let mut epochs = Vec::new();
        segment::read_facts(store, "job", (1, 0, segment), length, &mut |_, facts| {
            epochs.push(facts.epoch);
            Ok(())
        })?;
        Ok(epochs)
    }

    #[test]
    fn records_are_done_in_order_when_a_crash_can_no_longer_take_them() {
        let store = MemoryStore::new();
        let options = LogOptions { segment_bytes: 300, ..LogOptions::default() };
        let log = Log::open(Arc::new(store.clone()), "job", 1, 0, options, Control::detached()).unwrap();
        let (tell, told) = mpsc::channel();
        for epoch in 0..20 {
            let (tell, store) = (tell.clone(), store.clone());
            let done = move |position: LogPosition| {
                let crashed = store.duplicate();
                crashed.crash();
                let left = read(&crashed, position.segment, position.end).unwrap_or_default();
                tell.send((epoch, position, left.last() == Some(&epoch))).unwrap();
            };
            log.append(facts(epoch, "value"), Box::new(done));
        }
        let done: Vec<_> = told.iter().take(20).collect();
        assert!(done.iter().all(|(.., left)| *left), "a crash at that moment leaves it: {done:?}");
        let done: Vec<(u64, LogPosition)> = done.into_iter().map(|(epoch, position, _)| (epoch, position)).collect();
        store.crash();
        assert!(done.iter().map(|(epoch, _)| *epoch).eq(0..20) && done.is_sorted_by_key(|(_, position)| *position));
        let mut epochs = Vec::new();
        for (number, length) in store.list("log").unwrap().iter().map(|(_, length)| *length).enumerate() {
            epochs.extend(read(&store, number as u32, length).unwrap());
        }
        assert!(epochs.into_iter().eq(0..20));
        let (_, last) = done[19];
        assert!(read(&store, last.segment, last.end).unwrap().ends_with(&[19]));
    }

    #[test]
    fn segments_roll_by_size() {
        let store = MemoryStore::new();
        let options = LogOptions { segment_bytes: 1, ..LogOptions::default() };
        let log = Log::open(Arc::new(store.clone()), "job", 1, 0, options, Control::detached()).unwrap();
        let (tell, told) = mpsc::channel();
        for epoch in 0..3 {
            let tell = tell.clone();
            log.append(facts(epoch, "value"), Box::new(move |position| tell.send(position.segment).unwrap()));
            assert_eq!(told.recv().unwrap(), epoch as u32);
        }
        assert_eq!(read(&store, 2, store.list("log").unwrap()[2].1).unwrap(), [2]);
    }

    #[cfg(any(debug_assertions, feature = "failpoints"))]
    #[test]
    fn after_a_failure_nothing_is_done_and_the_job_is_told_which_file_failed() {
        for (points, text) in [
            ("log.sync=1*off->fail", "cannot sync log/0000000001-00000-00000000: failpoint log.sync"),
            ("log.sync.after=1*off->fail", "cannot sync log/0000000001-00000-00000000: failpoint log.sync.after"),
            ("log.write=1*off->fail", "cannot write log/0000000001-00000-00000000: failpoint log.write"),
        ] {
            let scope = Scope::new(points).unwrap().enter();
            let (store, control) = (MemoryStore::new(), Control::detached());
            let log = Log::open(Arc::new(store.clone()), "job", 1, 0, LogOptions::default(), control.clone()).unwrap();
            let (tell, told) = mpsc::channel();
            for epoch in 0..4 {
                let teller = tell.clone();
                log.append(facts(epoch, "value"), Box::new(move |position| teller.send(position).unwrap()));
                if epoch == 0 {
                    told.recv().unwrap();
                }
            }
            drop(tell);
            // The channel closes when the log's thread is gone with what it was never told.
            drop(log);
            assert_eq!(told.iter().count(), 0);
            assert_eq!(control.failure().unwrap().message(), text);
            drop(scope);
        }
    }

    #[test]
    fn a_segment_cut_or_changed_anywhere_is_reported_with_its_place() {
        let store = MemoryStore::new();
        let log = Log::open(Arc::new(store.clone()), "job", 1, 0, LogOptions::default(), Control::detached()).unwrap();
        let (tell, told) = mpsc::channel();
        for epoch in 0..3 {
            let tell = tell.clone();
            log.append(facts(epoch, "value"), Box::new(move |position| tell.send(position).unwrap()));
        }
        let length = told.iter().take(3).last().unwrap().end;
        let name = segment::name(1, 0, 0);
        let whole = store.read(&name).unwrap();
        for at in 0..whole.len() {
            for change in [true, false] {
                store.tamper(&name, |bytes| {
                    bytes.clone_from(&whole);
                    if change {
                        bytes[at] ^= 0x10;
                    } else {
                        bytes.truncate(at);
                    }
                });
                let Err(Error::Damaged { file, offset, .. }) = read(&store, 0, length) else {
                    panic!("byte {at} may be anything")
                };
                assert!(file == name && offset <= at as u64);
            }
        }
        store.tamper(&name, |bytes| *bytes = [&whole[..], b"a torn tail"].concat());
        assert_eq!(read(&store, 0, length).unwrap(), [0, 1, 2]);
    }
}
