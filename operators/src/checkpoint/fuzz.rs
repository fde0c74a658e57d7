//! Decoders against bytes that somebody has changed: whatever they are given, they return.
//!
//! Checksums are made right again after each change, so that it reaches what is behind them. `FUZZ_SECONDS` says for how
//! long; a failure names the seed of its round, which `FUZZ_SEED` begins with.

use std::env;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::{Duration, Instant};

use super::chain::Link;
use super::history::History;
use super::memory_store::MemoryStore;
use super::opening::Opening;
use super::record::{self, FRAME, RecordRef};
use super::store::CheckpointStore;
use super::{DirStore, digest, verify};
use crate::fact::{facts, sections};

/// Numbers that look random (`SplitMix64`).
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    fn below(&mut self, n: usize) -> usize {
        if n == 0 { 0 } else { (self.next() % n as u64) as usize }
    }

    /// Changes bytes in one to four places.
    fn mutate(&mut self, bytes: &mut Vec<u8>) {
        for _ in 0..=self.below(4) {
            let at = self.below(bytes.len());
            let end = (at + 1 + self.below(12)).min(bytes.len());
            match self.below(7) {
                0 if at < bytes.len() => bytes[at] ^= 1 << self.below(8),
                1 if at < bytes.len() => bytes[at] = [0, 1, 0x7F, 0x80, 0xFE, 0xFF][self.below(6)],
                2 => bytes.truncate(at),
                3 => drop(bytes.drain(at.min(end)..end)),
                4 => {
                    let copy = bytes[at.min(end)..end].to_vec();
                    bytes.splice(at..at, copy);
                }
                // The longest number, and what is behind the end of everything.
                5 => drop(bytes.splice(at..at, [0xFF; 9].into_iter().chain([1]))),
                _ => {
                    let noise: Vec<u8> = (0..self.below(9)).map(|_| self.next() as u8).collect();
                    bytes.splice(at..at, noise);
                }
            }
        }
    }
}

/// What is changed.
struct Samples {
    store: MemoryStore,
    /// Links, without their checksums.
    links: Vec<Vec<u8>>,
    /// Kinds and payloads of records.
    records: Vec<Vec<u8>>,
    blocks: Vec<Vec<u8>>,
    /// The names and records of logs and snapshots.
    files: Vec<(String, Vec<Vec<u8>>)>,
}

impl Samples {
    /// Those of the fixtures.
    fn read() -> Self {
        let mut samples = Samples {
            store: MemoryStore::new(),
            links: Vec::new(),
            records: Vec::new(),
            blocks: Vec::new(),
            files: Vec::new(),
        };
        for fixture in ["checkpoint-v1", "checkpoint-v1-lz4"] {
            let dir = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures").join(fixture);
            let store = DirStore::existing(dir).unwrap();
            for folder in ["chain", "log", "base"] {
                for (name, _) in store.list(folder).unwrap() {
                    let bytes = store.read(&name).unwrap();
                    if folder == "chain" {
                        samples.links.push(bytes[..bytes.len() - 4].to_vec());
                    } else {
                        samples.split(&name, &bytes);
                    }
                    if fixture == "checkpoint-v1" {
                        samples.store.create(&name, &bytes).unwrap();
                    }
                }
            }
        }
        assert!(samples.links.len() > 8 && samples.records.len() > 20 && samples.blocks.len() > 10);
        samples
    }

    fn split(&mut self, name: &str, bytes: &[u8]) {
        let (mut rest, mut records) = (bytes, Vec::new());
        while let Ok((record, length)) = record::read(rest) {
            if let RecordRef::Facts(facts) = &record {
                self.blocks.push(facts.block().unwrap().to_vec());
            }
            records.push(rest[FRAME..length].to_vec());
            rest = &rest[length..];
        }
        self.records.extend_from_slice(&records);
        self.files.push((name.to_owned(), records));
    }
}

/// A record around kind and payload.
fn frame(record: &[u8]) -> Vec<u8> {
    let length = (record.len() as u32).to_le_bytes();
    let sum = crc32c::crc32c_append(crc32c::crc32c(&length), record).to_le_bytes();
    [&length[..], &sum, record].concat()
}

/// A link with its checksum.
fn seal(mut link: Vec<u8>) -> Vec<u8> {
    let sum = crc32c::crc32c(&link).to_le_bytes();
    link.extend_from_slice(&sum);
    link
}

fn look_at_block(block: &[u8]) {
    let _ = sections(block);
    let _ = facts(block, 0..u32::MAX, &mut |fact| drop(fact.what.to_string()));
    let _ = digest(1, 2, block);
}

/// Changes one thing and has it decoded; what was decoded at all.
fn round(samples: &Samples, random: &mut Random) -> bool {
    match random.below(5) {
        0 => {
            let mut link = samples.links[random.below(samples.links.len())].clone();
            random.mutate(&mut link);
            let _ = Opening::decode(&link);
            Link::decode(&seal(link), || "a link".to_owned()).is_ok()
        }
        1 => {
            let mut record = samples.records[random.below(samples.records.len())].clone();
            random.mutate(&mut record);
            let mut framed = frame(&record);
            let _ = record::read(&record);
            match record::read(&framed) {
                Ok((RecordRef::Facts(facts), _)) => {
                    if let Ok(block) = facts.block() {
                        look_at_block(&block);
                    }
                    true
                }
                Ok(_) => true,
                Err(_) => {
                    random.mutate(&mut framed);
                    record::read(&framed).is_ok()
                }
            }
        }
        2 => {
            let mut block = samples.blocks[random.below(samples.blocks.len())].clone();
            random.mutate(&mut block);
            look_at_block(&block);
            sections(&block).is_ok()
        }
        3 => store(samples, random, |name| name.starts_with("base/")),
        _ => store(samples, random, |_| true),
    }
}

/// A store in which a file, or a link, is another: as a whole it is read as a job would, and verified.
fn store(samples: &Samples, random: &mut Random, of: impl Fn(&str) -> bool) -> bool {
    let store = samples.store.duplicate();
    let files: Vec<_> = samples.files.iter().filter(|(name, _)| of(name)).collect();
    let (name, records) = files[random.below(files.len())];
    let mut records = records.clone();
    let at = random.below(records.len());
    random.mutate(&mut records[at]);
    let snapshot = name.starts_with("base/");
    let framed: Vec<Vec<u8>> = records.iter().map(|record| frame(record)).collect();
    let mut bytes = framed.concat();
    if snapshot {
        let at = bytes.len() - framed.last().map_or(0, Vec::len);
        let mut at = (at as u64).to_le_bytes().to_vec();
        if random.below(8) == 0 {
            random.mutate(&mut at);
            at.resize(8, 0);
        }
        let sum = crc32c::crc32c(&at).to_le_bytes();
        bytes.extend(at.into_iter().chain(sum));
    }
    store.remove(std::slice::from_ref(name)).unwrap();
    let length = bytes.len() as u64;
    store.create(name, &bytes).unwrap();
    // Manifests count on the length that it has now.
    for (link, _) in store.list("chain").unwrap() {
        let Ok(Link::Manifest(mut manifest)) = Link::decode(&store.read(&link).unwrap(), String::new) else { continue };
        if let Some(base) = manifest.base.as_mut().filter(|base| base.name() == *name) {
            base.length = length;
        }
        for segment in &mut manifest.segments {
            if super::segment::name(segment.generation, segment.process, segment.segment) == *name {
                segment.length = length;
            }
        }
        store.remove(std::slice::from_ref(&link)).unwrap();
        store.create(&link, &Link::Manifest(manifest).encode()).unwrap();
    }
    let whole = verify(&store).is_ok_and(|report| report.findings.is_empty());
    if let Ok(history) = History::read(&store, None)
        && let Ok(Some((_, manifest))) = history.checkpoint(None)
    {
        let _ = super::restore::facts(&store, manifest, 0, 0..u32::MAX, &mut |_, _| {});
    }
    whole
}

fn number(variable: &str) -> Option<u64> {
    env::var(variable).ok().map(|text| text.parse().unwrap())
}

#[test]
fn decoders_never_panic() {
    let samples = Samples::read();
    let time = Duration::from_secs(number("FUZZ_SECONDS").unwrap_or(3));
    let mut seed = number("FUZZ_SEED").unwrap_or(0);
    #[expect(clippy::disallowed_methods, reason = "it says how long a test runs, and nothing of what it finds")]
    let begun = Instant::now();
    let (mut rounds, mut decoded) = (0u64, 0u64);
    // On a slow machine as well there are enough to tell how many are decoded.
    let least = if time.is_zero() { 1 } else { 200 };
    while rounds < least || begun.elapsed() < time {
        let fine = catch_unwind(AssertUnwindSafe(|| round(&samples, &mut Random(seed))));
        decoded += u64::from(fine.unwrap_or_else(|_| panic!("a decoder panics: FUZZ_SEED={seed} FUZZ_SECONDS=0")));
        seed += 1;
        rounds += 1;
    }
    // Else nothing but the first check of each decoder would have been looked at.
    assert!(time.is_zero() || decoded > rounds / 50, "{decoded} of {rounds} were decoded");
}
