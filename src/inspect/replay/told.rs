//! What notes and records tell of the runs of an agent, by key.
//!
//! # Invariants
//! - Of several records of one run the last counts: those before it were not committed, or say only how it begins.
//! - In one start of a job the numbers of a key's runs that begin ascend. So where a record of a smaller number follows, that
//!   start has gone back: what was known to begin beyond it found another memory, or none that is known.

use std::collections::BTreeMap;

use timely_agents_operators::cluster::Failure;
use timely_agents_operators::journal::{RUNS, RunRecord, Written};

use crate::inspect::run::StoredNotes;
use crate::record::{Record, RunEnd};

/// What is told of a key.
#[derive(Default)]
pub(super) struct OfKey {
    pub(super) records: BTreeMap<u64, Told>,
    /// Journals, as they were first seen.
    pub(super) journals: Vec<Journal>,
}

/// A record.
pub(super) struct Told {
    pub(super) record: RunRecord,
    /// What the run's journal is known by, if it has one.
    pub(super) journal: Option<u64>,
    /// Whether the run has begun, and whether that is all that it says.
    began: bool,
    pub(super) begun: bool,
    /// Whether its start has gone back since.
    pub(super) gone_back: bool,
}

/// The notes of a run.
pub(super) struct Journal {
    pub(super) id: u64,
    pub(super) sequence: u64,
    digest: u64,
    pub(super) bodies: Vec<Vec<u8>>,
}

/// By key, of those that are `wanted`: records, and journals of epochs from `frontier` on.
pub(super) fn told(
    notes: &StoredNotes,
    component: u32,
    frontier: Option<u64>,
    wanted: impl Fn(&[u8]) -> bool,
) -> Result<BTreeMap<Vec<u8>, OfKey>, Failure> {
    let mut keys: BTreeMap<Vec<u8>, OfKey> = BTreeMap::new();
    for note in notes.all().filter(|note| wanted(&note.key)) {
        if note.component == RUNS + component {
            let record: RunRecord = postcard::from_bytes(&note.bytes).map_err(unreadable)?;
            keys.entry(note.key.clone()).or_default().record(record)?;
        } else if note.component == component && frontier.is_some_and(|frontier| note.epoch >= frontier) {
            let written = postcard::from_bytes(&note.bytes)
                .map_err(|error| Failure::data(format!("a note of a run cannot be read: {error}")))?;
            keys.entry(note.key.clone()).or_default().note(written);
        }
    }
    Ok(keys)
}

#[expect(clippy::needless_pass_by_value, reason = "it is what errors are made from")]
fn unreadable(error: postcard::Error) -> Failure {
    Failure::data(format!("a record of a run cannot be read: {error}"))
}

impl Told {
    /// Whether that journal is of another run.
    pub(super) fn is_of_another(&self, journal: u64) -> bool {
        self.journal.is_some_and(|own| own != journal)
    }
}

impl OfKey {
    fn record(&mut self, record: RunRecord) -> Result<(), Failure> {
        let body: Record = postcard::from_bytes(&record.body).map_err(unreadable)?;
        for told in self.records.range_mut(record.sequence + 1..).map(|(_, told)| told) {
            told.gone_back = told.began;
        }
        let (journal, begun) = (body.journal, body.end == RunEnd::Begun);
        let began = !matches!(body.end, RunEnd::NotBegun(_));
        self.records.insert(record.sequence, Told { record, journal, began, begun, gone_back: false });
        Ok(())
    }

    fn note(&mut self, written: Written) {
        let Written { sequence, digest, journal: id, body, .. } = written;
        if let Some(known) = self.journals.iter_mut().find(|known| known.id == id) {
            known.sequence = sequence;
            known.bodies.push(body);
            return;
        }
        // Of a run that began again, what it was before does not count.
        self.journals.retain(|known| (known.sequence, known.digest) != (sequence, digest));
        self.journals.push(Journal { id, sequence, digest, bodies: vec![body] });
    }
}
