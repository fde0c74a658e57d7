//! Sources and sinks together (rule D6): a job that goes on from any commit puts out what it would have put out anyway.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;
use std::sync::{Arc, Mutex};

use timely::dataflow::channels::pact::Exchange;
use timely::dataflow::operators::{Concatenate, Inspect, Operator};
use timely_agents_operators::checkpoint::{Ack, Publication};
use timely_agents_operators::cluster::{ClusterConfig, execute};
use timely_agents_operators::sink::{Place, Publisher, Stager, StagerOptions, stage_lines, sweep};
use timely_agents_operators::source::{Resume, SourceOptions, source_with_acks};

use super::source_acks::replayed;

/// The rows of each source.
const SOURCES: [&[(u64, u64)]; 3] = [
    &[(1, 10), (1, 11), (2, 12), (5, 13), (5, 14), (6, 15)],
    &[(2, 20), (4, 21), (4, 22), (4, 23)],
    &[(0, 30), (7, 31), (8, 32), (8, 33)],
];

/// What a commit records.
#[derive(Clone, Default)]
struct Manifest {
    frontier: u64,
    positions: BTreeMap<String, Option<Vec<u8>>>,
}

/// Runs the job from `manifest` on; all acks with their times.
fn run(dir: &Path, manifest: &Manifest, generation: u64, workers: usize) -> Vec<(u64, Ack)> {
    sweep(dir, "rows", generation).unwrap();
    let acks = Arc::new(Mutex::new(Vec::new()));
    let (noted, manifest) = (Arc::clone(&acks), manifest.clone());
    let options = StagerOptions {
        sink: "rows".to_owned(),
        place: Place::Parts { dir: dir.to_owned(), extension: "txt".to_owned() },
        generation,
        process: 0,
        workers,
        resume: manifest.frontier,
    };
    let slot = Mutex::new(None);
    execute(&ClusterConfig::single(workers), move |worker, control| {
        let stager = {
            let mut slot = slot.lock().unwrap();
            if slot.is_none() {
                *slot = Some(Stager::new(options.clone(), control)?);
            }
            slot.clone().unwrap()
        };
        let (index, peers) = (worker.index(), worker.peers());
        worker.dataflow::<u64, _, _>(|scope| {
            let (mut streams, mut told) = (Vec::new(), Vec::new());
            for (i, rows) in SOURCES.iter().enumerate() {
                let name = format!("rows/{i}");
                let resume = Resume { epoch: manifest.frontier, position: manifest.positions.get(&name).cloned() };
                let reader = (i % peers == index).then(|| replayed(rows));
                let mut options = SourceOptions::new(name, control.clone());
                options.batch = 2;
                let (rows, acks) = source_with_acks(scope, reader, options, resume);
                streams.push(rows);
                told.push(acks);
            }
            // Rows are staged where their number says.
            let rows = scope.concatenate(streams).unary(Exchange::new(|n: &u64| *n), "Move", |_, _| {
                |input, output| {
                    input.for_each(|time, rows: &mut Vec<u64>| output.session(&time).give_container(rows));
                }
            });
            let encode = |n: &u64, bytes: &mut Vec<u8>| {
                bytes.extend_from_slice(format!("{n}\n").as_bytes());
                Ok(())
            };
            told.push(stage_lines(rows, &stager, encode, None, control.clone()));
            let noted = Arc::clone(&noted);
            scope.concatenate(told).inspect_time(move |time, ack| noted.lock().unwrap().push((*time, ack.clone())));
        });
        Ok(())
    })
    .unwrap();
    std::mem::take(&mut *acks.lock().unwrap())
}

/// Commits what is below `frontier`.
fn commit(acks: &[(u64, Ack)], manifest: &mut Manifest, frontier: u64) {
    let mut publications = Vec::<(u64, Publication)>::new();
    let mut latest = BTreeMap::new();
    for (time, ack) in acks.iter().filter(|(time, _)| *time < frontier) {
        match ack {
            Ack::Source { source, epoch, position } => {
                let last = latest.entry(source.clone()).or_insert((*epoch, position.clone()));
                if *epoch > last.0 {
                    *last = (*epoch, position.clone());
                }
            }
            Ack::Staged { epoch, publication, .. } => {
                assert_eq!(time, epoch);
                publications.push((*epoch, publication.clone()));
            }
            Ack::Facts { .. } => panic!("{ack:?}"),
        }
    }
    publications.sort();
    let publications: Vec<_> = publications.into_iter().map(|(_, publication)| publication).collect();
    Publisher::new().publish(&publications).unwrap();
    manifest.frontier = frontier;
    manifest.positions.extend(latest.into_iter().map(|(source, (_, position))| (source, position)));
}

/// Every row that is visible; a row that is there twice is an error.
fn visible(dir: &Path) -> BTreeSet<u64> {
    let mut rows = BTreeSet::new();
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_file() {
            for line in fs::read_to_string(path).unwrap().lines() {
                assert!(rows.insert(line.parse().unwrap()), "{line} is there twice");
            }
        }
    }
    rows
}

fn below(frontier: u64) -> BTreeSet<u64> {
    SOURCES.concat().into_iter().filter(|(epoch, _)| *epoch < frontier).map(|(_, n)| n).collect()
}

#[test]
fn a_job_that_goes_on_from_any_two_commits_puts_out_every_row_once() {
    let end = 10;
    for first in 0..end {
        for second in first..end {
            let folder = tempfile::tempdir().unwrap();
            let mut manifest = Manifest::default();
            // Each start has other workers; the last one ends.
            for (i, frontier) in [first, second, end].into_iter().enumerate() {
                let acks = run(folder.path(), &manifest, i as u64, 3 - i);
                commit(&acks, &mut manifest, frontier);
                assert_eq!(visible(folder.path()), below(frontier), "commits at {first}, {second}; now {frontier}");
            }
            assert!(manifest.positions.values().all(Option::is_none), "all sources have ended");
        }
    }
}
