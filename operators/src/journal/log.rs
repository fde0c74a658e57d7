//! The journal in the process's own log: segments of their own beside those of facts, synced in groups.
//!
//! ```text
//! put ──▶ queue ──▶ thread: gather all that waits ── write ── sync once ──▶ done, done, done
//! ```
//! Segments of journals have the name of a log's, of a process number from [`JOURNAL`] on. Each remembers the greatest epoch
//! of its notes; when that is committed, for as many epochs as journals are retained, it is removed, unless it is the one
//! being written.
//!
//! # Invariants
//! - A segment of an older generation is read up to the length that it had at the claim (rule D4).
//! - Notes of committed epochs that are still there are given to nobody who starts.
//! - The first record that is torn or damaged ends a segment: what comes behind it was never durable, or is lost.

use std::collections::BTreeMap;
use std::fmt;
use std::ops::Range;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use super::{ActionStateStore, Marker, Note, Noted, RUNS};
use crate::checkpoint::LogPosition;
use crate::checkpoint::{
    Bound, CheckpointStore, Error, JOURNAL, Log, Record, read_notes, retained, segment_blobs, segment_name,
};
use crate::runtime;

/// A journal beside the log of facts.
pub struct LogJournal {
    store: Arc<dyn CheckpointStore>,
    job: String,
    generation: u64,
    process: u32,
    /// The first epoch that is not committed.
    from: u64,
    /// For how many epochs beyond their commit notes are kept.
    retain: u64,
    log: Mutex<Option<Log>>,
    waiting: Arc<Waiting>,
    own: Arc<Mutex<Own>>,
    past: Mutex<Past>,
}

/// Segments of this generation and process: by number, the greatest epoch of its notes, and how much of it is durable.
#[derive(Debug, Default)]
struct Own {
    segments: BTreeMap<u32, (u64, u64)>,
}

/// What older generations have left.
#[derive(Debug, Default)]
struct Past {
    /// Whether it has been read.
    read: bool,
    /// Notes that no worker has asked for yet.
    notes: BTreeMap<u32, BTreeMap<u32, Vec<Note>>>,
    /// The greatest epoch in each segment.
    segments: Vec<(Bound, u64)>,
}

impl LogJournal {
    pub(crate) fn new(store: Arc<dyn CheckpointStore>, job: &str, generation: u64, process: u32, log: Log) -> Self {
        LogJournal {
            store,
            job: job.to_owned(),
            generation,
            process,
            from: 0,
            retain: 0,
            log: Mutex::new(Some(log)),
            waiting: Arc::default(),
            own: Arc::default(),
            past: Mutex::default(),
        }
    }

    /// Nobody asks for notes of epochs before `from`, and all are kept for `retain` epochs beyond their commit.
    pub(crate) fn of_epochs(mut self, from: u64, retain: u64) -> Self {
        (self.from, self.retain) = (from, retain);
        self
    }

    fn past(&self) -> MutexGuard<'_, Past> {
        self.past.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn own(&self) -> MutexGuard<'_, Own> {
        self.own.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Reads what older generations have left, once.
    fn read_past(&self, bounds: &[Bound]) -> Result<(), Error> {
        let mut past = self.past();
        if past.read {
            return Ok(());
        }
        let mut bounds = bounds.to_vec();
        bounds.sort_unstable_by_key(|bound| (bound.generation, bound.process, bound.segment));
        for bound in bounds {
            let mut last = 0;
            let notes = &mut past.notes;
            read_notes(&*self.store, &self.job, &bound, &mut |note| {
                last = last.max(note.epoch);
                if note.epoch < self.from || note.component >= RUNS {
                    return;
                }
                notes.entry(note.component).or_default().entry(note.group).or_default().push(note);
            })?;
            past.segments.push((bound, last));
        }
        past.read = true;
        Ok(())
    }
}

fn decode(marker: &Marker) -> Result<Vec<Bound>, Error> {
    if marker.0.is_empty() {
        return Ok(Vec::new());
    }
    postcard::from_bytes(&marker.0).map_err(|error| Error::damaged("the marker of a journal", 0, error.to_string()))
}

impl ActionStateStore for LogJournal {
    fn put(&self, note: Note, done: Noted) {
        let log = self.log.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(log) = &*log else { return };
        let (own, epoch) = (Arc::clone(&self.own), note.epoch);
        let turn = Turn::new(&self.waiting);
        let noted = move |position: LogPosition| {
            let mut own = own.lock().unwrap_or_else(PoisonError::into_inner);
            let (last, length) = own.segments.entry(position.segment).or_default();
            (*last, *length) = ((*last).max(epoch), position.end);
            drop(own);
            done();
            drop(turn);
        };
        log.append(Record::Note(note), Box::new(noted));
    }

    fn get(&self, component: u32, group: u32, key: &[u8]) -> Result<Vec<Note>, Error> {
        let mut notes = Vec::new();
        for bound in decode(&self.marker()?)? {
            read_notes(&*self.store, &self.job, &bound, &mut |note| {
                if note.component == component && note.group == group && note.key == key {
                    notes.push(note);
                }
            })?;
        }
        Ok(notes)
    }

    fn marker(&self) -> Result<Marker, Error> {
        let own = self.own();
        let of_own = |(segment, (_, length)): (&u32, &(u64, u64))| Bound {
            generation: self.generation,
            process: JOURNAL + self.process,
            segment: *segment,
            length: *length,
        };
        let past = self.past();
        let old = past.segments.iter().map(|(bound, _)| *bound);
        let bounds: Vec<Bound> = old.chain(own.segments.iter().map(of_own)).collect();
        Ok(Marker(postcard::to_allocvec(&bounds).expect("numbers can be encoded")))
    }

    fn rebuild(
        &self,
        marker: &Marker,
        component: u32,
        groups: Range<u32>,
        each: &mut dyn FnMut(Note),
    ) -> Result<(), Error> {
        self.read_past(&decode(marker)?)?;
        let mut past = self.past();
        let Some(by_group) = past.notes.get_mut(&component) else { return Ok(()) };
        let mut wanted = by_group.split_off(&groups.start);
        by_group.append(&mut wanted.split_off(&groups.end));
        drop(past);
        wanted.into_values().flatten().for_each(each);
        Ok(())
    }

    fn prune(&self, frontier: Option<u64>) {
        let last = {
            let (own, past) = (self.own(), self.past());
            let own = own.segments.values().map(|(last, _)| *last);
            own.chain(past.segments.iter().map(|(_, last)| *last)).max()
        };
        let over = retained(frontier, last, self.retain);
        let over = |last: u64| over.is_none_or(|over| last < over);
        let mut names = Vec::new();
        {
            let mut own = self.own();
            let newest = own.segments.last_key_value().map(|(number, _)| *number);
            own.segments.retain(|number, (last, _)| {
                let gone = over(*last) && Some(*number) != newest;
                if gone {
                    names.push(segment_name(self.generation, JOURNAL + self.process, *number));
                }
                !gone
            });
        }
        // One process sees to what is older.
        if self.process == 0 {
            self.past().segments.retain(|(bound, last)| {
                let gone = over(*last);
                if gone {
                    names.push(segment_name(bound.generation, bound.process, bound.segment));
                }
                !gone
            });
        }
        if names.is_empty() {
            return;
        }
        let store = Arc::clone(&self.store);
        let remove = move || {
            let mut all = names.clone();
            for name in &names {
                all.extend(segment_blobs(&*store, name).unwrap_or_default());
            }
            if let Err(error) = store.remove(&all) {
                tracing::warn!(%error, "segments of the journal that are over cannot be removed");
            }
        };
        // A removal is synced, for which no worker waits.
        match runtime::handle() {
            Ok(handle) => drop(handle.spawn_blocking(remove)),
            Err(_) => remove(),
        }
    }

    fn close(&self) {
        let log = self.log.lock().unwrap_or_else(PoisonError::into_inner).take();
        drop(log);
        self.waiting.wait();
    }
}

/// Notes that are put and not durable yet.
#[derive(Debug, Default)]
struct Waiting {
    count: Mutex<usize>,
    none: Condvar,
}

impl Waiting {
    fn wait(&self) {
        let mut count = self.count.lock().unwrap_or_else(PoisonError::into_inner);
        while *count > 0 {
            count = self.none.wait(count).unwrap_or_else(PoisonError::into_inner);
        }
    }
}

/// One of them; a log that fails drops it.
struct Turn(Arc<Waiting>);

impl Turn {
    fn new(waiting: &Arc<Waiting>) -> Self {
        *waiting.count.lock().unwrap_or_else(PoisonError::into_inner) += 1;
        Turn(Arc::clone(waiting))
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        let mut count = self.0.count.lock().unwrap_or_else(PoisonError::into_inner);
        *count -= 1;
        if *count == 0 {
            self.0.none.notify_all();
        }
    }
}

impl fmt::Debug for LogJournal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LogJournal").field("generation", &self.generation).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::super::conformance;
    use super::*;
    use crate::checkpoint::{Checkpoints, DirStore, LogOptions, MemoryStore};
    use crate::cluster::Control;

    fn check(store: &Arc<dyn CheckpointStore>) {
        conformance::check(&mut |_| {
            let opened = Checkpoints::new(Arc::clone(store)).take_over(true).claim("job").unwrap();
            let journal = opened.journal(Control::detached()).unwrap();
            (Arc::new(journal) as Arc<dyn ActionStateStore>, opened.opening().marker())
        });
    }

    #[test]
    fn keeps_the_contract() {
        check(&(Arc::new(MemoryStore::new()) as _));
        let dir = tempfile::tempdir().unwrap();
        check(&(Arc::new(DirStore::open(dir.path().join("store")).unwrap()) as _));
    }

    #[test]
    fn long_notes_are_files_beside_the_log_and_go_with_their_segment() {
        let store = MemoryStore::new();
        let checkpoints = Checkpoints::new(Arc::new(store.clone())).take_over(true);
        let journal = checkpoints.claim("job").unwrap().journal(Control::detached()).unwrap();
        for n in 0..3u8 {
            let bytes = vec![n; if n == 1 { 1 << 20 } else { 10 }];
            journal.put(Note { component: 0, group: 0, epoch: 1, key: vec![1], bytes }, Box::new(|| {}));
        }
        journal.close();
        let lengths = |name: &str| store.list(name).unwrap().iter().map(|(_, length)| *length).collect::<Vec<_>>();
        assert_eq!(lengths("blob"), [1 << 20]);
        assert!(lengths("log")[0] < 1 << 10);
        let opened = checkpoints.claim("job").unwrap();
        let next = opened.journal(Control::detached()).unwrap();
        let mut seen = Vec::new();
        next.rebuild(&opened.opening().marker(), 0, 0..8, &mut |note| seen.push(note.bytes.len())).unwrap();
        assert_eq!(seen, [10, 1 << 20, 10]);
        next.prune(Some(2));
        for _ in 0..12_000 {
            if lengths("blob").is_empty() {
                break;
            }
            std::thread::park_timeout(std::time::Duration::from_millis(10));
        }
        assert!(lengths("blob").is_empty());
    }

    #[test]
    fn what_an_old_generation_notes_after_a_claim_is_never_read() {
        let store = MemoryStore::new();
        let checkpoints = Checkpoints::new(Arc::new(store)).take_over(true);
        let old = checkpoints.claim("job").unwrap().journal(Control::detached()).unwrap();
        let put = |n: u8| {
            let (tell, told) = std::sync::mpsc::channel();
            let note = Note { component: 0, group: 0, epoch: 1, key: vec![1], bytes: vec![n] };
            old.put(note, Box::new(move || tell.send(()).unwrap()));
            told.recv().unwrap();
        };
        put(0);
        let second = checkpoints.claim("job").unwrap();
        put(1);
        for opened in [second, checkpoints.claim("job").unwrap()] {
            let journal = opened.journal(Control::detached()).unwrap();
            let mut seen = Vec::new();
            journal.rebuild(&opened.opening().marker(), 0, 0..8, &mut |note| seen.extend(note.bytes)).unwrap();
            assert_eq!(seen, [0]);
        }
    }

    #[test]
    fn torn_tail_ends_a_journal_and_loses_nothing_before_it() {
        let store = MemoryStore::new();
        let checkpoints = Checkpoints::new(Arc::new(store.clone())).take_over(true);
        let journal = checkpoints.claim("job").unwrap().journal(Control::detached()).unwrap();
        for n in 0..3u8 {
            let note = Note { component: 0, group: 0, epoch: 1, key: vec![1], bytes: vec![n; 20] };
            journal.put(note, Box::new(|| {}));
        }
        journal.close();
        let name = segment_name(1, JOURNAL, 0);
        let whole = store.read(&name).unwrap();
        let notes = |length: usize| {
            let mut seen = Vec::new();
            let bound = Bound { generation: 1, process: JOURNAL, segment: 0, length: length as u64 };
            read_notes(&store, "job", &bound, &mut |note| seen.push(note.bytes[0])).unwrap();
            seen
        };
        assert_eq!(notes(whole.len()), [0, 1, 2]);
        for cut in 0..whole.len() {
            let seen = notes(cut);
            assert!(seen.len() < 3 && seen.iter().enumerate().all(|(n, seen)| n == usize::from(*seen)));
        }
        for at in 60..whole.len() {
            store.tamper(&name, |bytes| {
                bytes.clone_from(&whole);
                bytes[at] ^= 0x40;
            });
            let seen = notes(whole.len());
            assert!(seen.iter().enumerate().all(|(n, seen)| n == usize::from(*seen)), "a changed byte is never read");
        }
    }

    #[test]
    fn journals_are_kept_for_as_long_as_is_asked() {
        let kept = |retain: u64, frontier: Option<u64>| {
            let store = MemoryStore::new();
            let all: Arc<dyn CheckpointStore> = Arc::new(store.clone());
            let options = LogOptions { segment_bytes: 1, ..LogOptions::default() };
            let log = Log::open(Arc::clone(&all), "job", 1, JOURNAL, options, Control::detached()).unwrap();
            let journal = LogJournal::new(all, "job", 1, 0, log).of_epochs(0, retain);
            for epoch in 0..10 {
                let (tell, told) = std::sync::mpsc::channel();
                let note = Note { component: 0, group: 0, epoch, key: vec![1], bytes: vec![0; 20] };
                journal.put(note, Box::new(move || tell.send(()).unwrap()));
                told.recv().unwrap();
            }
            let last = journal.own().segments.len();
            assert!(last >= 10, "a segment for each");
            journal.prune(frontier);
            journal.own().segments.values().map(|(last, _)| *last).min()
        };
        assert_eq!(kept(0, Some(4)), Some(4));
        assert_eq!(kept(3, Some(4)), Some(1));
        assert_eq!(kept(9, Some(4)), Some(0));
        assert_eq!(kept(0, None), Some(9), "the one being written");
        assert_eq!(kept(3, None), Some(7));
        assert_eq!(kept(u64::MAX, None), Some(0));
    }
}
