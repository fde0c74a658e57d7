//! Checkpoints of released versions, in `tests/fixtures`: each loads for ever, and those of the newest version are what is
//! written today, byte for byte (rule D10).
//!
//! Who changes a byte that is written raises the version, adds a fixture beside the others, and has it written by
//! `BLESS_FIXTURES=1 cargo test -p timely-agents-operators fixture`.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::channel;

use super::chain::{Chain, Link};
use super::commit::{Command, Commit, Event};
use super::history::History;
use super::manifest::tests::shape;
use super::record::tests::block;
use super::scenario::{Run, expected, inputs, loaded};
use super::*;
use crate::cluster::Control;

/// The number of epochs in a fixture.
const EPOCHS: u64 = 9;

fn place(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures").join(name)
}

/// All files with their bytes, but for what a checkpoint does not consist of.
fn files(dir: &Path) -> BTreeMap<String, Vec<u8>> {
    let store = DirStore::existing(dir).unwrap();
    let names = ["base", "chain", "log"].iter().flat_map(|folder| store.list(folder).unwrap());
    names.map(|(name, _)| (name.clone(), store.read(&name).unwrap())).collect()
}

fn copy(from: &Path, to: &Path) {
    for (name, bytes) in files(from) {
        let path = to.join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, bytes).unwrap();
    }
}

/// A small job: a generation with several segments, and one that goes on from a snapshot.
fn write(dir: &Path, compression: Compression) {
    let never = Compaction { minimum_bytes: u64::MAX, ..Compaction::default() };
    let checkpoints = Checkpoints::dir(dir).unwrap().segment_bytes(300).compression(compression).compaction(never);
    let mut run = Run::start(&checkpoints).unwrap();
    assert!((0..EPOCHS - 2).all(|_| run.epoch()));
    run.stop();

    let opened = checkpoints.claim("job").unwrap();
    let start = opened.resume(&shape()).unwrap();
    let store = checkpoints.store();
    let compacted = compact::compact(store, &start, EPOCHS - 2, (opened.generation(), 0), 100, compression).unwrap();
    let log = opened.log(Control::detached()).unwrap();
    let next = History::read(&**store, Some("job")).unwrap().next();
    let mut chain = Chain::new(Arc::clone(store), opened.generation(), next);
    let mut commit = Commit::new(start);
    commit.step(Event::Compacted(compacted));
    for epoch in EPOCHS - 2..EPOCHS {
        let facts = inputs(epoch);
        let facts: Vec<_> = facts.iter().map(|(group, key, value)| (*group, key.as_str(), value.as_deref())).collect();
        let block = block(epoch, &facts);
        let digests = digest(0, epoch, &block.bytes()).unwrap();
        let (tell, told) = channel();
        log.append(Record::Facts { component: 0, block }, Box::new(move |position| tell.send(position).unwrap()));
        let position = told.recv().unwrap();
        commit.step(Event::Ack { epoch, ack: Ack::Facts { component: 0, position, digests } });
        let position = Some((epoch + 1).to_le_bytes().to_vec());
        let source = Ack::Source { source: "rows".into(), epoch: epoch + 1, position };
        commit.step(Event::Ack { epoch, ack: source });
        let apply = Publication::Apply { sink: "report".into(), epoch, from: format!("staged {epoch}") };
        commit.step(Event::Ack { epoch, ack: Ack::Staged { sink: "report".into(), epoch, publication: apply } });
        let commands = commit.step(Event::Frontier(Some(epoch + 1)));
        let [Command::Write(manifest)] = &commands[..] else { panic!("{commands:?}") };
        chain.add(&Link::Manifest(Manifest::clone(manifest))).unwrap();
        commit.step(Event::Written);
    }
}

/// Loads a fixture, and goes on from it.
fn check(name: &str) {
    let dir = tempfile::tempdir().unwrap();
    copy(&place(name), dir.path());
    let checkpoints = Checkpoints::dir(dir.path()).unwrap();
    assert_eq!(verify(&**checkpoints.store()).unwrap().findings, []);
    let opened = checkpoints.claim("job").unwrap();
    assert_eq!((opened.generation(), opened.frontier()), (3, Some(EPOCHS)));
    assert_eq!(loaded(&opened, 0..4).unwrap(), expected(EPOCHS));
    let manifest = opened.manifest().unwrap();
    let apply = Publication::Apply { sink: "report".into(), epoch: 8, from: "staged 8".into() };
    assert_eq!(manifest.publications, [apply]);
    assert!(manifest.base.is_some());
    drop(opened);
    let mut run = Run::start(&checkpoints).unwrap();
    assert!(run.epoch());
    run.stop();
}

fn bless(name: &str, compression: Compression) {
    if std::env::var_os("BLESS_FIXTURES").is_some() {
        let dir = tempfile::tempdir().unwrap();
        write(dir.path(), compression);
        copy(dir.path(), &place(name));
    }
}

#[test]
fn the_fixture_of_version_1_loads_and_is_what_is_written_today() {
    bless("checkpoint-v1", Compression::None);
    check("checkpoint-v1");
    let dir = tempfile::tempdir().unwrap();
    write(dir.path(), Compression::None);
    let (now, stored) = (files(dir.path()), files(&place("checkpoint-v1")));
    assert_eq!(now.keys().collect::<Vec<_>>(), stored.keys().collect::<Vec<_>>());
    for (name, bytes) in now {
        assert!(bytes == stored[&name], "{name} is written in another way: this is a new version of the format");
    }
}

#[test]
fn the_compressed_fixture_of_version_1_loads() {
    // How a compressor finds its matches may change; what it has written is read.
    bless("checkpoint-v1-lz4", Compression::Lz4);
    check("checkpoint-v1-lz4");
    let length = |name| files(&place(name)).values().map(Vec::len).sum::<usize>();
    assert!(length("checkpoint-v1-lz4") < length("checkpoint-v1"));
}
