//! A small job over the whole of the checkpoints, for tests: one agent, one source, one sink, two processes.
//!
//! Epoch e writes what [`inputs`] says, so the state as of any frontier is known without having been run.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};

use super::manifest::tests::shape;
use super::record::tests::block;
use super::*;
use crate::cluster::Control;

/// Keys of groups 0 to 3 and their values.
pub(crate) type State = BTreeMap<(u32, String), String>;

/// What an epoch writes in a generation: each key changes in some epochs and is retired in others.
pub(crate) fn inputs(epoch: u64) -> Vec<(u32, String, Option<String>)> {
    let keys = (0..4u32).flat_map(|group| (0..3).map(move |n| (group, format!("key {group}.{n}"))));
    let changes = keys.enumerate().filter_map(|(n, (group, key))| match (epoch + n as u64) % 5 {
        0 => Some((group, key, None)),
        1 | 3 => Some((group, key, Some(format!("{epoch}")))),
        _ => None,
    });
    changes.collect()
}

/// The state of which all epochs below the frontier are a part.
pub(crate) fn expected(frontier: u64) -> State {
    let mut state = State::new();
    for (group, key, value) in (0..frontier).flat_map(inputs) {
        match value {
            Some(value) => state.insert((group, key), value),
            None => state.remove(&(group, key)),
        };
    }
    state
}

/// What a checkpoint holds for some groups.
pub(crate) fn loaded(opened: &Opened, groups: std::ops::Range<u32>) -> Result<State, Error> {
    let mut state = State::new();
    opened.facts(0, groups, &mut |_, fact| {
        let key = (fact.group, String::from_utf8(fact.key.to_vec()).unwrap());
        match fact.value {
            Some(value) => state.insert(key, String::from_utf8(value.to_vec()).unwrap()),
            None => state.remove(&key),
        };
    })?;
    Ok(state)
}

/// So that there is a compaction every few epochs, in several passes.
const SMALL: Compaction = Compaction { ratio: 1, minimum_bytes: 700, memory_bytes: 100 };

pub(crate) struct Run {
    pub control: Control,
    /// The epochs whose output was published, in order.
    pub published: Vec<u64>,
    publications: Receiver<u64>,
    pub next: u64,
    logs: [Log; 2],
    committer: Committer,
    told: Receiver<Option<u64>>,
    generation: u64,
}

impl Run {
    /// Starts a generation; checks that what it finds is the state of some frontier.
    pub(crate) fn start(checkpoints: &Checkpoints) -> Result<Self, Error> {
        let mut first = checkpoints.claim("job")?;
        let opening = Opening::decode(&first.opening().encode())?;
        let second = checkpoints.join(opening, 1)?;
        let next = first.frontier().expect("the job never completes");
        assert_eq!(loaded(&first, 0..4)?, expected(next), "the state at {next}");
        let manifest = first.resume(&shape())?;
        assert_eq!(second.resume(&shape())?, manifest);
        let position = if next == 0 { SourcePosition::Start } else { SourcePosition::At(next.to_le_bytes().to_vec()) };
        assert_eq!(manifest.sources["rows"], position);
        let control = Control::detached();
        let logs = [first.log(control.clone())?, second.log(control.clone())?];
        let (publish, publications): (Sender<u64>, _) = channel();
        let (tell, told) = channel();
        let generation = first.generation();
        let committer = first.committer(
            manifest,
            Box::new(move |publications| {
                for publication in publications {
                    let epoch = match publication {
                        Publication::Rename { from, to } if *from == format!("staged {to}") => to.parse().unwrap(),
                        Publication::Apply { epoch, .. } => *epoch,
                        Publication::Rename { from, to } => panic!("{from} to {to}"),
                    };
                    // A test that does not look at them is fine.
                    let _ = publish.send(epoch);
                }
                Ok(())
            }),
            Box::new(move |frontier| {
                let _ = tell.send(frontier);
            }),
            control.clone(),
        )?;
        let committer = committer.unwrap();
        let mut run = Run { control, published: vec![], publications, next, logs, committer, told, generation };
        if first.manifest().is_some() {
            // Told of what is resumed, unless that fails.
            let _ = run.told.recv();
            run.published.extend(run.publications.try_iter());
        }
        Ok(run)
    }

    /// Writes facts and waits until they are durable; whether they are.
    pub(crate) fn write(&self, epoch: u64, facts: &[(u32, String, Option<String>)]) -> bool {
        // As with workers: the first process has the lower groups.
        let waiting = [0..2, 2..4].into_iter().zip(&self.logs).filter_map(|(groups, log)| {
            let facts: Vec<_> = facts
                .iter()
                .filter(|(group, ..)| groups.contains(group))
                .map(|(group, key, value)| (*group, key.as_str(), value.as_deref()))
                .collect();
            if facts.is_empty() {
                return None;
            }
            let block = block(epoch, &facts);
            let committer = self.committer.clone();
            let (tell, told) = channel();
            let done = Box::new(move |position, digests| {
                committer.ack(epoch, Ack::Facts { component: 0, position, digests });
                let _ = tell.send(());
            });
            log.append_facts(0, block, done);
            Some(told)
        });
        waiting.collect::<Vec<_>>().into_iter().all(|told| told.recv().is_ok())
    }

    /// Does the next epoch; whether it was committed.
    pub(crate) fn epoch(&mut self) -> bool {
        let epoch = self.next;
        let ended = epoch + 1;
        let publication = Publication::Rename { from: format!("staged {epoch}"), to: format!("{epoch}") };
        if !self.write(epoch, &inputs(epoch)) {
            return false;
        }
        self.committer.ack(epoch, Ack::Staged { sink: "report".into(), epoch, publication });
        let position = Some(ended.to_le_bytes().to_vec());
        self.committer.ack(epoch, Ack::Source { source: "rows".into(), epoch: ended, position });
        self.committer.advance(Some(ended));
        self.next = ended;
        let told = self.told.recv().is_ok_and(|told| told == Some(ended));
        self.published.extend(self.publications.try_iter());
        assert!(!told || self.published.last() == Some(&epoch), "nothing is told before all is published");
        told
    }

    pub(crate) fn generation(&self) -> u64 {
        self.generation
    }

    /// Ends as a killed process does, except that its threads have to be over.
    pub(crate) fn stop(self) -> Vec<u64> {
        let Run { logs, committer, told, publications, mut published, .. } = self;
        drop((logs, committer));
        // The thread of the committer is over when it lets go of this.
        while told.recv().is_ok() {}
        published.extend(publications.try_iter());
        published
    }
}

pub(crate) fn checkpoints(store: &MemoryStore) -> Checkpoints {
    Checkpoints::new(Arc::new(store.clone())).segment_bytes(400).compaction(SMALL)
}

mod tests {
    #[cfg(any(debug_assertions, feature = "failpoints"))]
    use super::super::failpoint::Scope;
    use super::*;

    /// A store with some history.
    fn history(epochs: u64) -> MemoryStore {
        let store = MemoryStore::new();
        let mut run = Run::start(&checkpoints(&store)).unwrap();
        assert!((0..epochs).all(|_| run.epoch()));
        run.stop();
        store
    }

    #[test]
    fn a_restart_goes_on_after_the_last_commit() {
        let store = MemoryStore::new();
        for generation in 1..6 {
            let mut run = Run::start(&checkpoints(&store)).unwrap();
            assert_eq!((run.generation(), run.next), (generation, (generation - 1) * 7));
            assert!((0..6).all(|_| run.epoch()));
            // Facts that are durable and not committed, before others in the log that are, and behind them.
            let lost = [(0, "lost".to_owned(), Some("lost".to_owned()))];
            assert!(run.write(run.next + 1, &lost) && run.epoch() && run.write(run.next, &lost));
            run.stop();
            store.crash();
        }
    }

    #[test]
    fn publications_are_done_once_in_order_and_the_last_ones_again_after_a_restart() {
        let store = history(0);
        let mut run = Run::start(&checkpoints(&store)).unwrap();
        assert!((0..3).all(|_| run.epoch()));
        assert_eq!(run.stop(), [0, 1, 2]);
        let run = Run::start(&checkpoints(&store)).unwrap();
        assert_eq!(run.published, [2]);
    }

    #[test]
    fn disjoint_ranges_of_groups_together_give_all() {
        let store = history(9);
        let opened = checkpoints(&store).claim("job").unwrap();
        let mut together = loaded(&opened, 0..1).unwrap();
        assert!(together.keys().all(|(group, _)| *group == 0));
        together.extend(loaded(&opened, 1..3).unwrap());
        together.extend(loaded(&opened, 3..4).unwrap());
        assert_eq!(together, expected(9));
    }

    #[test]
    fn an_old_generation_cannot_commit_and_its_late_facts_are_never_seen() {
        let store = history(3);
        let mut old = Run::start(&checkpoints(&store)).unwrap();
        assert!(old.epoch());
        let locked = Run::start(&checkpoints(&store)).err().unwrap().to_string();
        assert_eq!(locked, "memory is in use by another run of the job; wait for its end, or take over if it is lost");
        let mut new = Run::start(&checkpoints(&store).take_over(true)).unwrap();
        assert_eq!((old.generation(), new.generation()), (2, 3));
        assert!(old.write(old.next, &[(0, "key 0.0".into(), Some("late".into()))]));
        assert!(!old.epoch());
        assert_eq!(
            old.control.failure().unwrap().message(),
            "generation 2 of the job has been shut out by generation 3, which was started later; nothing of it counts \
             any more"
        );
        assert!(new.epoch());
        assert!(old.write(4, &[(0, "key 0.0".into(), Some("too late".into()))]));
        new.stop();
        old.stop();
        for _ in 0..2 {
            let mut run = Run::start(&checkpoints(&store)).unwrap();
            assert!(run.epoch());
            run.stop();
        }
        // And so it is when old links are removed and an old generation finds its place free.
        let mut old = Run::start(&checkpoints(&store)).unwrap();
        let mut new = Run::start(&checkpoints(&store).take_over(true)).unwrap();
        assert!((0..30).all(|_| new.epoch()) && store.list("chain").unwrap().len() < 20);
        assert!(!old.epoch());
        assert!(old.control.failure().unwrap().message().contains("shut out"));
        assert!(new.epoch());
    }

    #[cfg(any(debug_assertions, feature = "failpoints"))]
    #[test]
    fn a_failure_at_any_point_leaves_the_last_checkpoint() {
        for point in failpoint::points() {
            for time in [0, 1, 2, 5, 20, 47] {
                let store = MemoryStore::new();
                let chain = if time == 0 { "1*fail->off".to_owned() } else { format!("{time}*off->1*fail->off") };
                let entered = Scope::new(&format!("{point}={chain}")).unwrap().enter();
                let (mut committed, mut published) = (0, vec![]);
                if let Ok(mut run) = Run::start(&checkpoints(&store)) {
                    for _ in 0..12 {
                        if !run.epoch() {
                            assert!(run.control.failure().is_some(), "{point} after {time}");
                            break;
                        }
                        committed = run.next;
                    }
                    published = run.stop();
                }
                drop(entered);
                store.crash_torn(|_, unsynced| unsynced / 2);
                let mut run = Run::start(&checkpoints(&store)).unwrap_or_else(|e| panic!("{point} after {time}: {e}"));
                assert!(published.iter().all(|epoch| *epoch < run.next), "{point} after {time}: published too early");
                assert!(
                    (committed..=committed + 1).contains(&run.next),
                    "{point} after {time}: {} {committed}",
                    run.next
                );
                assert!((0..3).all(|_| run.epoch()));
                run.stop();
            }
        }
    }

    #[cfg(any(debug_assertions, feature = "failpoints"))]
    #[test]
    fn failures_and_crashes_one_after_the_other_lose_nothing_that_was_committed() {
        let points: Vec<_> = failpoint::points().collect();
        // More of them: CHECKPOINT_SEEDS=10000.
        let seeds = std::env::var("CHECKPOINT_SEEDS").map_or(150, |seeds| seeds.parse().unwrap());
        for seed in 1..=seeds {
            let seed: u64 = seed;
            let mut random = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15);
            let mut below = |n: u64| {
                random ^= random << 13;
                random ^= random >> 7;
                random ^= random << 17;
                random % n
            };
            let store = MemoryStore::new();
            let (mut committed, mut attempted) = (0, 0);
            for start in 0..10 {
                let point = &points[below(points.len() as u64) as usize];
                let scope = Scope::new(&format!("{point}={}*off->1*fail->off", below(40) + 1)).unwrap();
                let entered = scope.enter();
                if let Ok(mut run) = Run::start(&checkpoints(&store)) {
                    let known = (committed..=attempted).contains(&run.next);
                    assert!(known, "seed {seed}, start {start}: {} of {committed} to {attempted}", run.next);
                    for _ in 0..below(12) {
                        attempted = attempted.max(run.next + 1);
                        if !run.epoch() {
                            break;
                        }
                        committed = run.next;
                    }
                    run.stop();
                }
                drop(entered);
                match below(3) {
                    0 => {}
                    1 => store.crash(),
                    _ => store.crash_torn(|_, unsynced| below(unsynced as u64 + 1) as usize),
                }
            }
            let run = Run::start(&checkpoints(&store)).unwrap_or_else(|error| panic!("seed {seed}: {error}"));
            assert!((committed..=attempted).contains(&run.next), "seed {seed}");
            run.stop();
            assert_eq!(verify(&store).unwrap().findings, [], "seed {seed}");
        }
    }

    #[test]
    fn damage_anywhere_is_refused_with_its_place_or_fallen_back_from() {
        let whole = history(6);
        let files: Vec<_> = ["base", "chain", "log"].iter().flat_map(|folder| whole.list(folder).unwrap()).collect();
        let (mut refused, mut fallen) = (0, 0);
        for (name, length) in &files {
            for at in 0..*length as usize {
                for cut in [false, true] {
                    let store = whole.duplicate();
                    store.tamper(name, |bytes| if cut { bytes.truncate(at) } else { bytes[at] ^= 0x20 });
                    let sound = verify(&store).is_ok_and(|report| report.findings.is_empty());
                    match Run::start(&checkpoints(&store)) {
                        // What is damaged is no longer of use to anybody.
                        Ok(run) => assert_eq!(run.next, 6, "{name} at {at}"),
                        Err(error) => {
                            refused += 1;
                            assert!(!sound, "{name} at {at}: {error}");
                            let text = error.to_string();
                            assert!(text.contains(name.as_str()) && text.contains("offset"), "{text}");
                        }
                    }
                    if let Ok(run) = Run::start(&checkpoints(&store).take_over(true).fall_back(true)) {
                        fallen += usize::from(run.next < 6);
                    }
                }
            }
        }
        assert!(refused > 1000 && fallen > 100, "{refused} {fallen}");
    }

    #[test]
    fn compaction_keeps_the_state_and_lets_old_files_go() {
        let store = MemoryStore::new();
        let mut run = Run::start(&checkpoints(&store)).unwrap();
        let bases = || store.list("base").unwrap();
        let newest = || bases().last().map(|(name, _)| name.clone());
        // Compactions run beside the commits: go on until several have taken place.
        let mut seen = std::collections::BTreeSet::new();
        for _ in 0..10_000 {
            assert!(run.epoch());
            seen.extend(newest());
            if seen.len() > 5 {
                break;
            }
        }
        assert!(seen.len() > 5, "{seen:?}");
        assert!(bases().len() <= 4, "{:?}", bases());
        let next = run.next;
        run.stop();
        store.crash();
        let report = verify(&store).unwrap();
        assert_eq!((report.findings, report.checkpoints.last()), (vec![], Some(&Some(next))));
        assert!((2..20).contains(&report.checkpoints.len()), "{:?}", report.checkpoints);
        let opened = checkpoints(&store).claim("job").unwrap();
        let manifest = opened.manifest().unwrap().clone();
        assert!(manifest.base.is_some() && manifest.segments.iter().all(|segment| segment.segment > 0));
        assert_eq!(loaded(&opened, 0..4).unwrap(), expected(next));
        let mut parts = loaded(&opened, 0..1).unwrap();
        parts.extend(loaded(&opened, 1..2).unwrap());
        parts.extend(loaded(&opened, 2..4).unwrap());
        assert_eq!(parts, expected(next));
    }

    #[test]
    fn a_log_that_is_idle_for_long_is_not_taken_for_done() {
        let store = MemoryStore::new();
        let mut run = Run::start(&checkpoints(&store)).unwrap();
        let mut bases = 0;
        for epoch in 0..4000 {
            // The second process writes once in a long while, into a segment that is far from full.
            let facts = [
                (0, "busy".to_owned(), Some(format!("{epoch:0100}"))),
                (3, "idle".to_owned(), Some(format!("{epoch}"))),
            ];
            assert!(run.write(epoch, &facts[..=usize::from(epoch % 400 == 0)]));
            run.committer.advance(Some(epoch + 1));
            assert_eq!(run.told.recv().unwrap(), Some(epoch + 1));
            run.next = epoch + 1;
            bases = bases.max(store.list("base").unwrap().len());
        }
        assert!(bases > 0);
        run.stop();
        let opened = checkpoints(&store).claim("job").unwrap();
        let state = loaded(&opened, 0..4).unwrap();
        assert_eq!(state[&(0, "busy".to_owned())], format!("{:0100}", 3999));
        assert_eq!(state[&(3, "idle".to_owned())], "3600");
    }

    #[test]
    fn what_a_crash_leaves_behind_is_removed_and_nothing_else() {
        // Without compactions, which may still be at work behind a run that is over.
        let store = MemoryStore::new();
        let never = Compaction { minimum_bytes: u64::MAX, ..SMALL };
        let mut run = Run::start(&checkpoints(&store).compaction(never)).unwrap();
        assert!((0..9).all(|_| run.epoch()));
        run.stop();
        let listed = |store: &MemoryStore| {
            ["aside", "base", "chain", "log"].iter().flat_map(|folder| store.list(folder).unwrap()).collect::<Vec<_>>()
        };
        gc(&store, "job", (2, 0), false).unwrap();
        let needed = listed(&store);
        for stray in ["aside/17-0", "log/0000000001-00007-00000000", "base/0000000001-00000099"] {
            store.create(stray, b"stray").unwrap();
        }
        let held = store.lock().unwrap();
        assert!(matches!(checkpoints(&store).claim("job"), Err(Error::Locked { .. })));
        assert!(matches!(gc(&store, "job", (2, 0), false), Err(Error::Locked { .. })));
        // What a running generation has written may be needed yet.
        assert_eq!(gc(&store, "job", (2, 0), true).unwrap(), [""; 0]);
        drop(held);
        assert_eq!(gc(&store, "job", (2, 0), false).unwrap().len(), 3);
        assert_eq!(listed(&store), needed);
        store.create("log/0000000001-00007-00000000", b"stray").unwrap();
        store.create("aside/17-0", b"stray").unwrap();
        Run::start(&checkpoints(&store)).unwrap().stop();
        assert_eq!(listed(&store).len(), needed.len() + 1, "the claim");
        assert_eq!(verify(&store).unwrap().findings, []);
    }

    /// The other side of [`a_process_that_is_killed_at_any_point_loses_nothing_that_was_committed`].
    #[cfg(any(debug_assertions, feature = "failpoints"))]
    #[test]
    #[ignore = "it is started by another test, in a process of its own"]
    fn a_process_that_is_killed() {
        let dir = std::path::PathBuf::from(std::env::var_os("CHECKPOINT_DIR").unwrap());
        let checkpoints = Checkpoints::dir(dir.join("store")).unwrap().segment_bytes(400).compaction(SMALL);
        let mut run = Run::start(&checkpoints).unwrap();
        while run.next < 16 && run.epoch() {
            std::fs::write(dir.join("committing"), run.next.to_string()).unwrap();
            std::fs::rename(dir.join("committing"), dir.join("committed")).unwrap();
        }
        assert_eq!(run.control.failure(), None);
    }

    #[cfg(any(debug_assertions, feature = "failpoints"))]
    #[test]
    fn a_process_that_is_killed_at_any_point_loses_nothing_that_was_committed() {
        let mut killed = 0;
        for point in failpoint::NAMES.iter().flat_map(|name| [format!("{name}.before"), format!("{name}.after")]) {
            for time in [1, 9] {
                let dir = tempfile::tempdir().unwrap();
                let status = std::process::Command::new(std::env::current_exe().unwrap())
                    .args(["--exact", "checkpoint::scenario::tests::a_process_that_is_killed", "--ignored"])
                    .env("FAILPOINTS", format!("{point}={time}*off->kill"))
                    .env("CHECKPOINT_DIR", dir.path())
                    .stdout(std::process::Stdio::null())
                    .status()
                    .unwrap();
                killed += usize::from(!status.success());
                let committed = std::fs::read_to_string(dir.path().join("committed")).unwrap_or_else(|_| "0".into());
                let committed: u64 = committed.parse().unwrap();
                let checkpoints = Checkpoints::dir(dir.path().join("store")).unwrap();
                let mut run = Run::start(&checkpoints).unwrap_or_else(|error| panic!("{point} after {time}: {error}"));
                assert!((committed..=committed + 1).contains(&run.next), "{point} after {time}");
                assert!(run.epoch());
                run.stop();
                assert_eq!(verify(&**checkpoints.store()).unwrap().findings, [], "{point} after {time}");
                assert_eq!(checkpoints.store().list("aside").unwrap(), [], "{point} after {time}");
            }
        }
        assert!(killed > failpoint::NAMES.len() * 2, "{killed}");
    }

    #[cfg(any(debug_assertions, feature = "failpoints"))]
    #[test]
    fn a_step_that_is_left_out_shows_after_a_crash() {
        // The crash tests would notice: without the step, what was said to be committed is lost, and never replaced by
        // something else without a word.
        for points in [
            "log.write=2*off->skip",
            "log.sync=2*off->skip",
            "append.sync_dir=2*off->skip",
            "create.write=2*off->skip",
            "create.sync=2*off->skip",
            "create.link=2*off->skip",
            "create.sync_dir=2*off->skip",
            "commit.manifest=2*off->skip",
            "snapshot.write=skip",
            "snapshot.sync=skip",
        ] {
            let store = MemoryStore::new();
            let entered = Scope::new(points).unwrap().enter();
            let mut committed = 0;
            // A removal syncs its folder too, and with it what was left out.
            let snapshots = points.starts_with("snapshot");
            let compaction = if snapshots { SMALL } else { Compaction { minimum_bytes: u64::MAX, ..SMALL } };
            if let Ok(mut run) = Run::start(&checkpoints(&store).compaction(compaction)) {
                let based = |store: &MemoryStore| {
                    history::History::read(store, None).is_ok_and(|history| {
                        history.path(None).first().is_some_and(|(_, newest)| newest.base.is_some())
                    })
                };
                while run.epoch() {
                    committed = run.next;
                    if committed >= 8 && (!snapshots || committed > 300 || based(&store)) {
                        break;
                    }
                }
                run.stop();
            }
            drop(entered);
            store.crash();
            let lost = Run::start(&checkpoints(&store)).map_or(true, |run| run.next < committed);
            assert!(lost, "{points}");
        }
    }

    #[test]
    fn checkpoints_of_another_job_are_refused() {
        let error = checkpoints(&history(1)).claim("other").unwrap_err().to_string();
        assert_eq!(
            error,
            "chain/00000000000000000001 holds checkpoints of the job `job`, and this is `other`; give each job a \
             directory of its own"
        );
    }
}
