//! What the next manifest is: word of what is durable comes in, manifests come out (rule D3).
//!
//! ```text
//! Ack at 3, Ack at 4, Frontier 4 ──▶ Write(frontier 4: all acks below 4) ── Written ──▶ Committed(4)
//! ```
//! While one manifest is being written, all that becomes committable is gathered for the next.
//!
//! # Invariants
//! - A manifest holds all acks of epochs below its frontier, and none of others.
//! - A publication stands in exactly one manifest, and the next one is asked for when it is done.
//! - Epochs about which there is no word are committed without a manifest; the end of the job always has one.
//! - The manifest of the end has nothing to publish: who finds it finds a job with nothing left to do.
//!
//! No files and no threads: the `committer` has those.

use std::collections::BTreeMap;

use super::ack::{Ack, Publication};
use super::manifest::{Manifest, SegmentRef, SnapshotRef, SourcePosition};

/// What has happened.
#[derive(Clone, Debug)]
pub(crate) enum Event {
    /// Word that came at `epoch`.
    Ack { epoch: u64, ack: Ack },
    /// No more word of epochs below will come; `None`: none at all.
    Frontier(Option<u64>),
    /// The manifest that was asked for is durable and its publications are done.
    Written,
    /// A snapshot is durable.
    Compacted(Compacted),
}

/// A snapshot that can take the place of base and logs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Compacted {
    pub base: SnapshotRef,
    /// The digests of the manifest that was compacted: what the base now stands for.
    pub digests: BTreeMap<u32, BTreeMap<u32, u64>>,
    /// Segments, as long as they were, of which every fact is in the base.
    pub covered: Vec<SegmentRef>,
}

/// What is to be done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Command {
    /// This manifest is to be made durable, then its publications.
    Write(Box<Manifest>),
    /// All epochs below are committed.
    Committed(Option<u64>),
}

/// See the [module](self).
#[derive(Debug)]
pub(crate) struct Commit {
    /// The newest manifest, durable or asked for.
    last: Manifest,
    /// Whether it is still being written.
    writing: bool,
    /// Up to where all is committed.
    committed: Option<u64>,
    /// Up to where it may be.
    frontier: Option<u64>,
    /// By the epoch at which it came.
    acks: BTreeMap<u64, Vec<Ack>>,
    compacted: Option<Compacted>,
}

/// Whether one frontier is beyond another.
fn beyond(frontier: Option<u64>, other: Option<u64>) -> bool {
    other.is_some_and(|other| frontier.is_none_or(|frontier| frontier > other))
}

impl Commit {
    /// Goes on after `last`, whose publications are done.
    pub(crate) fn new(last: Manifest) -> Self {
        let frontier = last.frontier;
        Commit { last, writing: false, committed: frontier, frontier, acks: BTreeMap::new(), compacted: None }
    }

    /// The newest manifest, durable or asked for.
    pub(crate) fn last(&self) -> &Manifest {
        &self.last
    }

    /// Takes note of an event; what follows from it, in order.
    pub(crate) fn step(&mut self, event: Event) -> Vec<Command> {
        let mut commands = Vec::new();
        match event {
            Event::Ack { epoch, ack } => self.acks.entry(epoch).or_default().push(ack),
            Event::Frontier(frontier) => {
                if beyond(frontier, self.frontier) {
                    self.frontier = frontier;
                }
            }
            Event::Written => {
                debug_assert!(self.writing, "only what was asked for can be written");
                self.writing = false;
                self.committed = self.last.frontier;
                commands.push(Command::Committed(self.committed));
            }
            Event::Compacted(compacted) => self.compacted = Some(compacted),
        }
        if !self.writing && beyond(self.frontier, self.committed) {
            commands.push(self.advance());
        }
        commands
    }

    fn advance(&mut self) -> Command {
        let frontier = self.frontier.or_else(|| self.end_of_publications());
        let below = |first: Option<&u64>| first.is_some_and(|epoch| frontier.is_none_or(|frontier| *epoch < frontier));
        if frontier.is_some() && !below(self.acks.keys().next()) {
            self.committed = frontier;
            return Command::Committed(frontier);
        }
        self.last.frontier = frontier;
        self.last.publications.clear();
        while below(self.acks.keys().next()) {
            if let Some((_, acks)) = self.acks.pop_first() {
                let mut publications = Vec::new();
                for ack in acks {
                    self.apply(ack, &mut publications);
                }
                // Which worker's word came first must not be seen.
                publications.sort();
                self.last.publications.extend(publications.into_iter().map(|(_, publication)| publication));
            }
        }
        if let Some(compacted) = self.compacted.take() {
            compacted.rebase(&mut self.last);
        }
        self.writing = true;
        Command::Write(Box::new(self.last.clone()))
    }

    /// Where the job stands when all that is staged is published, if anything is.
    fn end_of_publications(&self) -> Option<u64> {
        let staged = self.acks.values().flatten().any(|ack| matches!(ack, Ack::Staged { .. }));
        self.acks.keys().next_back().filter(|_| staged)?.checked_add(1)
    }

    fn apply(&mut self, ack: Ack, publications: &mut Vec<(String, Publication)>) {
        match ack {
            Ack::Facts { component, position, digests } => {
                debug_assert_eq!(position.generation, self.last.generation, "only this generation's facts are new");
                let id = (position.generation, position.process, position.segment);
                let segments = &mut self.last.segments;
                match segments.binary_search_by_key(&id, SegmentRef::id) {
                    Ok(at) => segments[at].length = segments[at].length.max(position.end),
                    Err(at) => {
                        let (generation, process, segment) = id;
                        let new = SegmentRef { generation, process, segment, length: position.end, below: None };
                        segments.insert(at, new);
                    }
                }
                let groups = self.last.digests.entry(component).or_default();
                for (group, digest) in digests {
                    let sum = groups.entry(group).or_default();
                    *sum = sum.wrapping_add(digest);
                }
            }
            Ack::Staged { sink, publication, .. } => publications.push((sink, publication)),
            // Told when the source closed the epoch at which it came, and true until its next: also of a frontier in
            // between, where other sources or slow work may stand.
            Ack::Source { source, position, .. } => {
                let position = position.map_or(SourcePosition::Ended, SourcePosition::At);
                self.last.sources.insert(source, position);
            }
        }
    }
}

impl Compacted {
    /// The snapshot takes the place of all that it covers.
    pub(crate) fn rebase(self, manifest: &mut Manifest) {
        for (component, covered) in &self.digests {
            let groups = manifest.digests.entry(*component).or_default();
            for (group, digest) in covered {
                let sum = groups.entry(*group).or_default();
                *sum = sum.wrapping_sub(*digest);
            }
        }
        for groups in manifest.digests.values_mut() {
            groups.retain(|_, sum| *sum != 0);
        }
        manifest.digests.retain(|_, groups| !groups.is_empty());
        manifest.segments.retain(|segment| !self.covered.contains(segment));
        manifest.base = Some(self.base);
    }
}

#[cfg(test)]
mod tests {
    use super::super::ack::LogPosition;
    use super::super::manifest::tests::shape;
    use super::*;

    fn start() -> Commit {
        Commit::new(Manifest::empty("job", 4).resumed(1, &shape()))
    }

    fn facts(epoch: u64, segment: u32, end: u64, digests: &[(u32, u64)]) -> Event {
        let position = LogPosition { generation: 1, process: 0, segment, end };
        Event::Ack { epoch, ack: Ack::Facts { component: 0, position, digests: digests.to_vec() } }
    }

    fn source(epoch: u64, position: Option<&str>) -> Event {
        let position = position.map(|text| text.as_bytes().to_vec());
        Event::Ack { epoch: epoch - 1, ack: Ack::Source { source: "rows".into(), epoch, position } }
    }

    fn staged(epoch: u64, from: &str) -> Event {
        let publication = Publication::Rename { from: from.into(), to: format!("{from}.csv") };
        Event::Ack { epoch, ack: Ack::Staged { sink: "report".into(), epoch, publication } }
    }

    /// The events, each with what follows from it, in short.
    fn check(commit: &mut Commit, vector: &[(Event, &[&str])]) {
        for (n, (event, expected)) in vector.iter().enumerate() {
            let commands: Vec<_> = commit.step(event.clone()).iter().map(brief).collect();
            assert_eq!(commands, *expected, "event {n}: {event:?}");
        }
    }

    fn brief(command: &Command) -> String {
        match command {
            Command::Committed(frontier) => format!("committed {frontier:?}"),
            Command::Write(m) => {
                let segments: Vec<_> = m.segments.iter().map(|s| format!("{}:{}", s.segment, s.length)).collect();
                let files: Vec<_> = m
                    .publications
                    .iter()
                    .map(|publication| match publication {
                        Publication::Rename { from, .. } | Publication::Apply { from, .. } => from.as_str(),
                    })
                    .collect();
                let rows = match &m.sources["rows"] {
                    SourcePosition::At(at) => String::from_utf8(at.clone()).unwrap(),
                    other => format!("{other:?}"),
                };
                format!("write {:?} {} rows={rows} [{}]", m.frontier, segments.join(" "), files.join(" "))
            }
        }
    }

    #[test]
    fn a_manifest_holds_what_is_below_its_frontier_and_nothing_else() {
        check(
            &mut start(),
            &[
                (facts(1, 0, 100, &[(2, 5)]), &[]),
                (facts(3, 0, 200, &[(2, 7)]), &[]),
                (source(2, Some("line 2")), &[]),
                (source(3, Some("line 3")), &[]),
                (staged(1, "b"), &[]),
                (staged(1, "a"), &[]),
                (staged(2, "c"), &[]),
                (Event::Frontier(Some(2)), &["write Some(2) 0:100 rows=line 2 [a b]"]),
                (Event::Written, &["committed Some(2)"]),
                (Event::Frontier(Some(2)), &[]),
                (Event::Frontier(Some(4)), &["write Some(4) 0:200 rows=line 3 [c]"]),
                (Event::Written, &["committed Some(4)"]),
            ],
        );
    }

    #[test]
    fn source_that_skips_epochs_goes_on_behind_what_is_committed() {
        let ack = Ack::Source { source: "rows".into(), epoch: 7, position: Some(b"line 7".to_vec()) };
        check(
            &mut start(),
            &[
                (facts(1, 0, 100, &[]), &[]),
                (Event::Ack { epoch: 1, ack }, &[]),
                // Another source stands at 3.
                (Event::Frontier(Some(1)), &["committed Some(1)"]),
                (Event::Frontier(Some(3)), &["write Some(3) 0:100 rows=line 7 []"]),
                (Event::Written, &["committed Some(3)"]),
                (Event::Frontier(Some(7)), &["committed Some(7)"]),
            ],
        );
    }

    #[test]
    fn what_comes_while_a_manifest_is_written_goes_into_one_next() {
        check(
            &mut start(),
            &[
                (facts(0, 0, 10, &[]), &[]),
                (Event::Frontier(Some(1)), &["write Some(1) 0:10 rows=Start []"]),
                (facts(1, 0, 20, &[]), &[]),
                (Event::Frontier(Some(2)), &[]),
                (staged(2, "a"), &[]),
                (Event::Frontier(Some(3)), &[]),
                (facts(3, 1, 30, &[]), &[]),
                (Event::Written, &["committed Some(1)", "write Some(3) 0:20 rows=Start [a]"]),
                (Event::Frontier(Some(4)), &[]),
                (Event::Written, &["committed Some(3)", "write Some(4) 0:20 1:30 rows=Start []"]),
            ],
        );
    }

    #[test]
    fn idle_epochs_need_no_manifest_and_the_end_always_has_one() {
        check(
            &mut start(),
            &[
                (facts(7, 0, 10, &[]), &[]),
                (Event::Frontier(Some(5)), &["committed Some(5)"]),
                (Event::Frontier(Some(7)), &["committed Some(7)"]),
                (Event::Frontier(Some(8)), &["write Some(8) 0:10 rows=Start []"]),
                (Event::Written, &["committed Some(8)"]),
                (source(9, None), &[]),
                (Event::Frontier(None), &["write None 0:10 rows=Ended []"]),
                (Event::Written, &["committed None"]),
                (Event::Frontier(None), &[]),
            ],
        );
        check(
            &mut start(),
            &[(Event::Frontier(None), &["write None  rows=Start []"]), (Event::Written, &["committed None"])],
        );
    }

    #[test]
    fn which_word_comes_first_is_not_seen() {
        let mut words: Vec<Event> = ["b", "c", "a"].map(|from| staged(0, from)).to_vec();
        words.extend([facts(0, 0, 10, &[(1, 5)]), facts(0, 1, 7, &[(1, 6), (2, 1)])]);
        let manifest = |words: &[Event]| {
            let mut commit = start();
            for word in words {
                commit.step(word.clone());
            }
            commit.step(Event::Frontier(Some(1)))
        };
        let first = manifest(&words);
        for n in 0..words.len() {
            words.rotate_left(1);
            assert_eq!(manifest(&words), first);
            words.swap(n, 0);
            assert_eq!(manifest(&words), first);
        }
    }

    #[test]
    fn the_end_has_nothing_to_publish() {
        check(
            &mut start(),
            &[
                (facts(3, 0, 10, &[]), &[]),
                (staged(3, "a"), &[]),
                (source(6, None), &[]),
                (Event::Frontier(None), &["write Some(6) 0:10 rows=Ended [a]"]),
                (Event::Written, &["committed Some(6)", "write None 0:10 rows=Ended []"]),
                (Event::Written, &["committed None"]),
            ],
        );
    }

    #[test]
    fn a_snapshot_takes_the_place_of_what_it_covers() {
        let mut commit = start();
        for event in [facts(1, 0, 10, &[(1, 5)]), facts(2, 1, 20, &[(1, 6), (2, 7)]), Event::Frontier(Some(3))] {
            commit.step(event);
        }
        let manifest = commit.last().clone();
        commit.step(Event::Written);
        let base = SnapshotRef { generation: 1, number: 0, length: 99, frontier: 3 };
        // Segment 1 has grown meanwhile, so it is still needed.
        commit.step(facts(3, 1, 30, &[(1, 100)]));
        commit.step(Event::Compacted(Compacted {
            base: base.clone(),
            digests: manifest.digests.clone(),
            covered: manifest.segments.clone(),
        }));
        let commands = commit.step(Event::Frontier(Some(4)));
        let [Command::Write(next)] = &commands[..] else { panic!("{commands:?}") };
        assert_eq!(next.base, Some(base));
        assert_eq!(next.segments.iter().map(|s| (s.segment, s.length)).collect::<Vec<_>>(), [(1, 30)]);
        assert_eq!(next.digests, BTreeMap::from([(0, BTreeMap::from([(1, 100)]))]));
    }
}
