//! Transactional sinks: the contract, and rows that are in once whatever happens between two steps.

use std::collections::BTreeMap;
use std::fs;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Mutex};

use timely::dataflow::operators::Inspect;
use timely_agents_operators::checkpoint::{Ack, Publication};
use timely_agents_operators::cluster::{ClusterConfig, Failure, execute};
use timely_agents_operators::sink::{
    Place, Publisher, Stager, StagerOptions, TransactionalSink, conformance, publish, stage_rows,
};
use timely_agents_operators::source::{SourceOptions, source};

use super::source::Rows;

/// By sink: mark and rows.
type Tables = Arc<Mutex<BTreeMap<String, (Option<u64>, Vec<u64>)>>>;

/// What a sink does wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fault {
    None,
    TakesRowsTwice,
    KeepsHalf,
    ForgetsTheMark,
    MarksTheEpoch,
    SkipsEmptyEpochs,
    SharesTheMark,
}

/// A sink in memory.
struct Table {
    tables: Tables,
    name: String,
    fault: Fault,
}

impl TransactionalSink for Table {
    type Row = u64;

    fn progress(&mut self) -> Result<Option<u64>, Failure> {
        Ok(self.tables.lock().unwrap().get(&self.name).and_then(|(mark, _)| *mark))
    }

    fn apply(&mut self, epoch: u64, rows: &mut dyn Iterator<Item = Result<u64, Failure>>) -> Result<(), Failure> {
        let mut tables = self.tables.lock().unwrap();
        let (mark, table) = tables.entry(self.name.clone()).or_default();
        if mark.is_some_and(|mark| mark > epoch) && self.fault != Fault::TakesRowsTwice {
            return Ok(());
        }
        let whole = table.len();
        for row in rows {
            match row {
                Ok(row) => table.push(row),
                Err(failure) => {
                    if self.fault != Fault::KeepsHalf {
                        table.truncate(whole);
                    }
                    return Err(failure);
                }
            }
        }
        if table.len() == whole && self.fault == Fault::SkipsEmptyEpochs {
            return Ok(());
        }
        let end = if self.fault == Fault::MarksTheEpoch { epoch } else { epoch + 1 };
        *mark = Some(mark.map_or(end, |mark| mark.max(end)));
        if self.fault == Fault::ForgetsTheMark {
            *mark = None;
        }
        if self.fault == Fault::SharesTheMark {
            let mark = *mark;
            for name in ["a", "b"] {
                tables.entry(name.to_owned()).or_default().0 = mark;
            }
        }
        Ok(())
    }
}

fn check(fault: Fault) {
    let tables = Tables::default();
    conformance::check(
        |name| Table { tables: Arc::clone(&tables), name: name.to_owned(), fault },
        |n| n,
        |name| tables.lock().unwrap().get(name).map_or(Vec::new(), |(_, rows)| rows.clone()),
    );
}

#[test]
fn a_sink_that_keeps_the_contract_passes() {
    check(Fault::None);
}

#[test]
fn a_sink_that_breaks_a_point_is_told_which() {
    for (fault, point) in [
        (Fault::TakesRowsTwice, "4:"),
        (Fault::KeepsHalf, "3:"),
        (Fault::ForgetsTheMark, "2:"),
        (Fault::MarksTheEpoch, "2:"),
        (Fault::SkipsEmptyEpochs, "5:"),
        (Fault::SharesTheMark, "7:"),
    ] {
        let panic = catch_unwind(AssertUnwindSafe(|| check(fault))).unwrap_err();
        let message = panic.downcast_ref::<String>().unwrap();
        assert!(message.contains(point), "{fault:?}: {message}");
    }
}

/// Stages rows of two workers in each of two processes; the publications of both.
fn stage(dir: &std::path::Path) -> Vec<Publication> {
    let acks = Arc::new(Mutex::new(Vec::new()));
    for process in 0..2 {
        let noted = Arc::clone(&acks);
        let place = Place::Rows { dir: dir.to_owned() };
        let options = StagerOptions { sink: "table".to_owned(), place, generation: 1, process, workers: 2, resume: 0 };
        let slot = Mutex::new(None);
        execute(&ClusterConfig::single(2), move |worker, control| {
            let stager = {
                let mut slot = slot.lock().unwrap();
                if slot.is_none() {
                    *slot = Some(Stager::new(options.clone(), control)?);
                }
                slot.clone().unwrap()
            };
            let first = 10 * (2 * process + worker.index()) as u64;
            let rows = [(1, first), (1, first + 1), (3, first + 3)];
            let noted = Arc::clone(&noted);
            worker.dataflow::<u64, _, _>(|scope| {
                let rows = source(scope, Some(Rows::new(rows)), SourceOptions::new("rows", control.clone()));
                stage_rows(rows, &stager, control.clone()).inspect(move |ack| {
                    let Ack::Staged { publication, .. } = ack else { panic!("{ack:?}") };
                    noted.lock().unwrap().push(publication.clone());
                });
            });
            Ok(())
        })
        .unwrap();
    }
    std::mem::take(&mut *acks.lock().unwrap())
}

fn publisher(tables: &Tables) -> Publisher {
    let mut publisher = Publisher::new();
    let table = Table { tables: Arc::clone(tables), name: "table".to_owned(), fault: Fault::None };
    publisher.add("table", table);
    publisher
}

fn table(tables: &Tables) -> (Option<u64>, Vec<u64>) {
    let (mark, mut rows) = tables.lock().unwrap().get("table").cloned().unwrap_or_default();
    rows.sort_unstable();
    (mark, rows)
}

const ALL: [u64; 12] = [0, 1, 3, 10, 11, 13, 20, 21, 23, 30, 31, 33];

#[test]
fn rows_of_all_processes_are_in_once_however_often_they_are_published() {
    let folder = tempfile::tempdir().unwrap();
    let publications = stage(folder.path());
    // An epoch of each process is one file.
    assert_eq!(publications.len(), 4);
    let tables = Tables::default();
    assert_eq!(table(&tables), (None, vec![]));
    publisher(&tables).publish(&publications).unwrap();
    assert_eq!(table(&tables), (Some(4), ALL.to_vec()));
    for publication in &publications {
        let Publication::Apply { from, .. } = publication else { panic!("{publication:?}") };
        assert!(!fs::exists(from).unwrap());
        assert!(publish(publication).is_err(), "it needs its sink");
    }
    publisher(&tables).publish(&publications).unwrap();
    assert_eq!(table(&tables), (Some(4), ALL.to_vec()));
}

#[test]
fn rows_that_are_in_when_a_process_dies_before_it_removes_their_files_are_not_taken_again() {
    let folder = tempfile::tempdir().unwrap();
    let publications = stage(folder.path());
    let contents: Vec<_> = publications
        .iter()
        .map(|publication| {
            let Publication::Apply { from, .. } = publication else { panic!("{publication:?}") };
            (from, fs::read(from).unwrap())
        })
        .collect();
    let tables = Tables::default();
    publisher(&tables).publish(&publications).unwrap();
    // As if some had stayed.
    for (from, content) in &contents[1..3] {
        fs::write(from, content).unwrap();
    }
    publisher(&tables).publish(&publications).unwrap();
    assert_eq!(table(&tables), (Some(4), ALL.to_vec()));
    assert!(contents.iter().all(|(from, _)| !fs::exists(from).unwrap()));
}

#[test]
fn rows_that_cannot_be_applied_whole_are_not_applied() {
    let folder = tempfile::tempdir().unwrap();
    let mut publications = stage(folder.path());
    publications.sort();
    let Publication::Apply { from, epoch: 1, .. } = &publications[1] else { panic!("{publications:?}") };
    let content = fs::read(from).unwrap();
    let tables = Tables::default();
    for (half, expected) in [
        (Some(&content[..content.len() - 1]), "row 4: it is cut short"),
        (Some(&b"ta-rows\x02"[..]), "it is no file of rows, or one of another version"),
        (None, "committed rows are lost"),
    ] {
        match half {
            Some(half) => fs::write(from, half).unwrap(),
            None => fs::remove_file(from).unwrap(),
        }
        let failure = publisher(&tables).publish(&publications).unwrap_err();
        assert!(failure.message().starts_with("sink table: cannot apply the rows of epoch 1: "), "{failure}");
        assert!(failure.message().ends_with(expected), "{failure}");
        assert_eq!(table(&tables), (None, vec![]));
    }
    fs::write(from, content).unwrap();
    publisher(&tables).publish(&publications).unwrap();
    assert_eq!(table(&tables), (Some(4), ALL.to_vec()));
}

#[test]
fn rows_of_a_sink_that_the_job_no_longer_has_are_not_dropped() {
    let publication = Publication::Apply { sink: "gone".to_owned(), epoch: 3, from: "x".to_owned() };
    let failure = Publisher::new().publish(&[publication]).unwrap_err();
    assert!(failure.message().starts_with("sink gone: rows of epoch 3 are committed for it, but"), "{failure}");
}
