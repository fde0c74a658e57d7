//! The simulation: whole jobs with checkpoints in one thread, by a dice.
//!
//! What a job consists of is the real thing: driver and behavior (in a [`Harness`](timely_agents::testing::Harness) per
//! worker), logs, committer, chain, compaction, recovery. What surrounds it is not: the store is in memory and loses at
//! a crash what was not synced, links are queues, time is a number, calls end when the dice says so. From a seed follow
//! the agent's options, the records, the number of workers of each start, and the order of everything: which source
//! reads or closes its epoch, which message arrives, which worker hears of the frontier or runs a task, which call ends,
//! which facts become durable, which ack arrives, when is committed, which step of the store fails, and when the job
//! crashes.
//!
//! - `dice`: random numbers and the trace. `agent`: the agent, and a model of it. `job`: the job and its crashes.
//!
//! # Checked
//! - D6, S2: what is visible in the end is, key by key, what the model makes of the records, each once, in an order that
//!   sources and epochs allow (or that of `sequenced_by`); nothing is visible before its commit.
//! - D1, D4, D5: memory in the end, of the workers and of the last checkpoint, is the model's; restarts take other numbers
//!   of workers. `verify` finds nothing.
//! - S5: outputs and facts are never behind a frontier that was told, frontiers never go back; under Carry a commit
//!   waits for no run.
//! - S6, D1: each signal is taken once, in the order of its source, or is kept; each scheduled event comes once, or is in
//!   the last checkpoint; of a run that is cancelled there is what it flushed.
//! - D7: what calls gave that were noted comes to be seen, once, whatever crashes, with any number of workers and in any
//!   order of inputs from sources that do not know of each other.
//! - D3: a restart goes on at a frontier that was told, or was about to be.
//! - That bugs that are put in on purpose are found, and that a seed repeats itself to the byte.
//!
//! # Not checked
//! - timely: its exchange and its progress protocol (`tests/oracle` does), and the operators PERSIST, GATHER and
//!   COMMITTED, which are replaced; that journals are pruned, which goes on beside. Real files and processes that die (`tests/job` does).
//! - Schedules of threads: log and committer are given one thing at a time. Two generations at work at once.
//! - Dead letters, side outputs and limits, and agents behind agents.
//!
//! # Seeds
//! `AGENTS_SIMULATION_SEEDS=100000 cargo test --test simulation` runs more of them, `AGENTS_SIMULATION_SEED=17 cargo test
//! --test simulation seeds -- --nocapture` that one alone, and prints its trace.

mod agent;
mod dice;
mod job;

use std::collections::{BTreeMap, BTreeSet};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Duration;

use timely_agents_operators::checkpoint::failpoint;
use timely_agents_operators::time::Stamp;

use crate::agent::{CANCEL, Emit, KINDS, MARK, Memory, Record, SIGNAL, TOKEN, WAITS, What, flushed};
use crate::dice::{Dice, Trace};
use crate::job::{Bug, Case, Job, Seen, SimTime, ensure};

fn variable(name: &str) -> Option<u64> {
    let value = std::env::var(name).ok()?;
    Some(value.parse().unwrap_or_else(|_| panic!("{name} is a number, not {value:?}")))
}

/// What a simulation has come to: a hash over its trace, and how often it has crashed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Ran {
    hash: u64,
    crashes: u64,
}

fn case(dice: &mut Dice, bug: Option<Bug>) -> Case {
    let keys = 1 + dice.roll(4);
    let carries = dice.roll(2) == 0;
    let cancels = carries && dice.roll(3) == 0;
    let kinds = (0..KINDS).filter(|_| dice.roll(3) > 0).map(|kind| kind as u8).chain([1]).collect::<Vec<_>>();
    let waits = carries && kinds.iter().any(|kind| *kind >= WAITS);
    // What a run of kind 5 leaves that is cancelled depends on how far each of its tasks was.
    let kinds: Vec<u8> =
        kinds.into_iter().filter(|kind| (carries || *kind < WAITS) && !(cancels && *kind == 5)).collect();
    let mut signals = 0;
    let journaled = dice.roll(3) > 0;
    let sources = (0..=dice.index(3))
        .map(|source| {
            let mut records: Vec<Record> = Vec::new();
            for _ in 0..2 + dice.roll(14) {
                let record = match records.last() {
                    Some(before) if dice.roll(4) == 0 => *before,
                    _ if waits && dice.roll(4) == 0 => {
                        signals += 1;
                        Record { key: dice.roll(keys), kind: SIGNAL, value: 100 + signals }
                    }
                    _ if cancels && dice.roll(6) == 0 => {
                        Record { key: dice.roll(keys), kind: CANCEL, value: i64::from(dice.roll(4) == 0) }
                    }
                    _ => {
                        let kind = kinds[dice.index(kinds.len())];
                        // Notes know equal records of two sources apart by nothing.
                        let value = dice.roll(4) as i64 + if journaled { 12 * source as i64 } else { 0 };
                        Record { key: dice.roll(keys), kind, value }
                    }
                };
                records.push(record);
            }
            records
        })
        .collect();
    let (sequenced, crashes) = (dice.roll(4) == 0, dice.roll(8) > 0);
    Case { carries, sequenced, journaled, sources, crashes, bug }
}

fn run(seed: u64, bug: Option<Bug>, prints: bool) -> Result<Ran, String> {
    let mut dice = Dice::new(seed);
    let case = case(&mut dice, bug);
    if dice.roll(3) == 0 {
        simulate::<Stamp>(case, dice, Trace::new(prints))
    } else {
        simulate::<u64>(case, dice, Trace::new(prints))
    }
}

/// What a start's steps of the store are to do: mostly what they should, else one of them fails.
fn failpoints(dice: &mut Dice, case: &Case, calm: bool) -> String {
    // Sinks are not simulated.
    let points: Vec<String> = failpoint::points().filter(|point| !point.starts_with("sink.")).collect();
    let point = &points[dice.index(points.len())];
    let after = 1 + dice.roll(8);
    if case.bug == Some(Bug::SyncLeftOut) {
        "log.sync=skip".to_owned()
    } else if !case.crashes || calm || dice.roll(3) > 0 {
        String::new()
    } else {
        format!("{point}={after}*off->1*fail->off")
    }
}

/// Has steps do so as long as what is returned lives.
#[cfg(any(debug_assertions, feature = "failpoints"))]
fn entered(points: &str) -> impl Sized + use<> {
    failpoint::Scope::new(points).expect("it names points that there are").enter()
}

/// A release build has no failpoints.
#[cfg(not(any(debug_assertions, feature = "failpoints")))]
fn entered(_: &str) {}

fn simulate<T: SimTime>(case: Case, dice: Dice, trace: Trace) -> Result<Ran, String> {
    let mut job = Job::<T>::new(case, dice, trace);
    for start in 0.. {
        ensure!(start < 60, "S6: it never comes to its end");
        // In the end it is left alone.
        let calm = start > 12;
        let points = failpoints(&mut job.dice, &job.case, calm);
        let _entered = entered(&points);
        let open = job.start()?;
        if !open {
            break;
        }
        let crashes = job.case.crashes && !calm;
        let steps = if crashes { job.dice.roll(250) } else { 400 };
        let mut failed = job.failed()?;
        for _ in 0..steps {
            if failed || job.is_complete() {
                break;
            }
            act(&mut job)?;
            failed = job.failed()?;
        }
        if !failed && !crashes {
            failed = !finish(&mut job)?;
        }
        if !failed && job.is_complete() {
            judge_workers(&mut job)?;
            if job.dice.roll(2) == 0 {
                break;
            }
        }
        job.crash()?;
    }
    judge(&mut job)?;
    Ok(Ran { hash: job.trace.hash, crashes: job.crashes })
}

/// Does what the dice says.
fn act<T: SimTime>(job: &mut Job<T>) -> Result<(), String> {
    let (sources, workers) = job.width();
    let source = job.dice.index(sources);
    let worker = job.dice.index(workers);
    match job.dice.roll(26) {
        0..=2 => {
            let count = 1 + job.dice.index(2);
            job.read(source, count);
            Ok(())
        }
        3 | 4 => {
            job.close(source);
            Ok(())
        }
        5..=7 => job.deliver(source, worker),
        8 | 9 => job.advance(worker),
        10..=12 => {
            let tasks = 1 + job.dice.index(3);
            job.step(worker, tasks)
        }
        13..=15 => {
            let calls = job.calls(worker);
            if calls > 0 {
                let call = job.dice.index(calls);
                job.complete(worker, call)?;
            }
            Ok(())
        }
        16 => {
            job.tick();
            Ok(())
        }
        17 | 18 => job.persist(worker),
        19 => {
            job.stage(worker);
            Ok(())
        }
        20 | 21 => {
            let acks = job.acks();
            if acks > 0 {
                let ack = job.dice.index(acks);
                job.acknowledge(ack)?;
            }
            Ok(())
        }
        22 => job.commit(),
        23 | 24 => {
            let most = 1 + job.dice.index(4);
            job.note(worker, most);
            Ok(())
        }
        _ => {
            if job.dice.roll(3) == 0 {
                job.calm()?;
            }
            Ok(())
        }
    }
}

/// Lets everything come to its end; false if the store fails meanwhile.
fn finish<T: SimTime>(job: &mut Job<T>) -> Result<bool, String> {
    let (sources, workers) = job.width();
    for _ in 0..2_000 {
        if job.failed()? {
            return Ok(false);
        }
        if job.is_complete() {
            return Ok(true);
        }
        for source in 0..sources {
            job.read(source, 2);
            if job.dice.roll(2) == 0 {
                job.close(source);
            }
        }
        job.calm()?;
        if job.failed()? {
            return Ok(false);
        }
        for worker in 0..workers {
            while job.calls(worker) > 0 {
                job.complete(worker, 0)?;
            }
        }
        job.tick();
    }
    Err("S6: it does not come to its end".to_owned())
}

/// Holds the memory of the workers against what can be seen, when all is committed.
fn judge_workers<T: SimTime>(job: &mut Job<T>) -> Result<(), String> {
    for (key, Expected { memory, told, .. }) in expected(job)? {
        let found = job.memory(key);
        ensure!(found == (memory.clone(), told), "D1: key {key} remembers {found:?}, not {memory:?} and {told}");
    }
    Ok(())
}

/// Holds what can be seen, and the last checkpoint, against the model.
fn judge<T: SimTime>(job: &mut Job<T>) -> Result<(), String> {
    let (mut restored, places) = job.restored()?;
    let expected = expected(job)?;
    judge_receipts(job)?;
    for (key, Expected { memory, told, .. }) in &expected {
        let found = Memory {
            count: restored.memory(key, places.count).unwrap_or(0),
            sum: restored.memory(key, places.sum),
            mark: restored.memory_at(key, MARK).map_err(|error| error.to_string())?,
        };
        let times = restored.memory(key, places.told).unwrap_or(0);
        ensure!(
            (&found, &times) == (memory, told),
            "D4: of key {key} the checkpoint has {found:?} and {times}, not {memory:?} and {told}"
        );
        ensure!(restored.mailbox(key) == (false, 0), "D1: the checkpoint has unfinished work of key {key}");
    }
    // Events that were not due at the end are in it, and come when somebody goes on from there.
    restored.tick(job.clock);
    restored.pass(Duration::from_secs(10));
    let mut left = BTreeMap::<u64, Vec<i64>>::new();
    while let Some(call) = restored.calls().first().map(|call| call.id) {
        restored.complete(call);
        restored.run();
    }
    for (_, key, emit) in restored.outputs() {
        left.entry(key).or_default().push(emit.value);
    }
    for (key, Expected { taken, scheduled, mut due, lost, .. }) in expected {
        due.extend(left.remove(&key).unwrap_or_default());
        let once: BTreeSet<i64> = due.iter().copied().collect();
        let missing = scheduled.iter().filter(|number| !once.contains(number)).count();
        ensure!(
            once.len() == due.len() && once.len() + missing == scheduled.len() && missing <= lost,
            "S6: key {key} has scheduled {scheduled:?}, and {due:?} came; {lost} may be lost"
        );
        let sent: Vec<i64> = signals(job, key, SIGNAL).map(|record| record.value).collect();
        let mut rest = sent.clone();
        for id in taken {
            let at = rest.iter().position(|sent| *sent == id);
            rest.remove(at.ok_or_else(|| format!("D1: key {key}: signal {id} of {sent:?} is taken again"))?);
        }
        let kept = restored.signals(&key, TOKEN);
        let missing = rest.len().checked_sub(kept);
        ensure!(
            missing.is_some_and(|n| n <= lost),
            "D1: key {key}: {kept} signals are kept of {rest:?}; {lost} may be lost"
        );
    }
    Ok(())
}

/// Each receipt is seen once, and so is each that was noted: its call was not made again.
fn judge_receipts<T: SimTime>(job: &Job<T>) -> Result<(), String> {
    let records = || job.case.sources.iter().flatten();
    let keys: BTreeSet<u64> = records().map(|record| record.key).collect();
    let all = keys.into_iter().flat_map(|key| job.seen(key)).filter(|seen| seen.emit.what == What::Receipt);
    let mut seen = BTreeSet::new();
    for Seen { emit, .. } in all {
        ensure!(seen.insert(emit.value), "D7: receipt {:x} is given twice: {emit:?}", emit.value);
    }
    // Runs that are cancelled keep theirs.
    let again = job.kept.difference(&seen).next().filter(|_| records().all(|record| record.kind != CANCEL));
    ensure!(again.is_none(), "D7: receipt {again:?} was noted, and its call is made again");
    Ok(())
}

/// The records of a key that are signals of a kind, source by source.
fn signals<T: SimTime>(job: &Job<T>, key: u64, kind: u8) -> impl Iterator<Item = Record> + '_ {
    job.case.sources.iter().flatten().copied().filter(move |record| record.key == key && record.kind == kind)
}

/// What is to be of a key, by what can be seen.
struct Expected {
    memory: Memory,
    /// How often it was told of the end of an epoch.
    told: u64,
    /// The signals that its runs have taken.
    taken: Vec<i64>,
    /// The events that it has scheduled, and those that came.
    scheduled: Vec<i64>,
    due: Vec<i64>,
    /// How many signals may have gone with runs that were cancelled.
    lost: usize,
}

/// What each key has to be by what can be seen, which is judged on the way.
fn expected<T: SimTime>(job: &Job<T>) -> Result<BTreeMap<u64, Expected>, String> {
    let keys: BTreeSet<u64> = job.case.sources.iter().flatten().map(|record| record.key).collect();
    keys.into_iter().map(|key| Ok((key, expected_of(job, key)?))).collect()
}

fn expected_of<T: SimTime>(job: &Job<T>, key: u64) -> Result<Expected, String> {
    let stamped = T::minimum().with_epoch(7).event_time() != 7;
    let (alone, says): (Vec<Seen>, Vec<Seen>) =
        job.seen(key).into_iter().partition(|seen| [What::Over, What::Due].contains(&seen.emit.what));
    let of = |emits: &[Seen], what: What| -> Vec<i64> {
        emits.iter().filter(|seen| seen.emit.what == what).map(|seen| seen.emit.value).collect()
    };
    let cancels = signals(job, key, CANCEL).count();
    let whole = signals(job, key, CANCEL).any(|record| record.value % 2 == 1);
    let lost = if whole { usize::MAX } else { cancels };
    let mut order = Order::new(job, key, lost);
    let mut memory = Memory::default();
    let runs: Vec<&[Seen]> = says.chunk_by(|a, b| a.emit.run == b.emit.run).collect();
    for run in runs {
        let What::Took(record) = run[0].emit.what else {
            return Err(format!("S2: key {key}: a run that goes on after another or begins twice: {run:?}"));
        };
        let (first, last) = (run[0].epoch, run[run.len() - 1].epoch);
        let held = !job.case.carries;
        ensure!(!held || first == last, "S5: key {key}: a run under Hold puts out in several epochs: {run:?}");
        order.take(record, first, held)?;
        let event = record.value as u64;
        ensure!(!stamped || run.iter().all(|seen| seen.event == event), "S5: not at its event time: {run:?}");
        let mut emits: Vec<Emit> = run.iter().map(|seen| seen.emit).collect();
        emits.sort_unstable();
        // Their values are held against others.
        let apart = [What::Asked, What::Signalled, What::Scheduled, What::Receipt];
        emits.retain(|emit| !apart.contains(&emit.what));
        let mut cancelled = memory.clone();
        if cancels > 0 && emits == flushed(&mut cancelled, record) {
            memory = cancelled;
            continue;
        }
        let model = memory.run(record);
        ensure!(emits == model, "D6: key {key}: expected\n  {model:?}\nfound\n  {emits:?}");
    }
    order.end()?;
    let (asked, told) = (of(&says, What::Asked), of(&alone, What::Over));
    // A run that was carried asks for what is over by then: it is told of the end of a later epoch.
    let once: BTreeSet<i64> = told.iter().copied().collect();
    ensure!(once.len() == told.len(), "S2: key {key} is told twice: {told:?}");
    let missed = asked.iter().find(|epoch| once.range(**epoch..).next().is_none());
    ensure!(missed.is_none(), "S2: key {key} asked for {asked:?} and was told of {told:?}");
    if !job.case.carries {
        let asked: BTreeSet<i64> = asked.into_iter().collect();
        ensure!(asked == once, "S2: key {key} asked for {asked:?} and was told of {once:?}");
    }
    let mut taken = of(&says, What::Signalled);
    taken.retain(|id| *id >= 0);
    let from = |records: &&Vec<Record>| records.iter().any(|record| record.key == key && record.kind == SIGNAL);
    if lost == 0 && job.case.sources.iter().filter(from).count() == 1 {
        let sent = signals(job, key, SIGNAL).map(|record| record.value);
        ensure!(sent.take(taken.len()).eq(taken.iter().copied()), "S2: key {key} takes {taken:?} out of order");
    }
    let (scheduled, due) = (of(&says, What::Scheduled), of(&alone, What::Due));
    Ok(Expected { memory, told: told.len() as u64, taken, scheduled, due, lost })
}

/// The orders in which a key's records can have been taken, by how many of each source.
struct Order {
    key: u64,
    /// By source: epochs and records. One list in the order of `sequenced_by`.
    records: Vec<Vec<(u64, Record)>>,
    /// With how many of them were cancelled without a trace.
    taken: BTreeSet<(Vec<usize>, usize)>,
    /// How many may be.
    lost: usize,
}

impl Order {
    fn new<T: SimTime>(job: &Job<T>, key: u64, lost: usize) -> Self {
        let sources = job.case.sources.iter().zip(&job.epochs);
        let mut records: Vec<Vec<(u64, Record)>> = sources
            .map(|(records, epochs)| {
                let both = epochs.iter().copied().zip(records.iter().copied());
                both.filter(|(_, record)| record.key == key && record.kind < SIGNAL).collect()
            })
            .collect();
        if job.case.sequenced {
            let mut all: Vec<_> = records.into_iter().flatten().collect();
            all.sort_by_key(|(epoch, record)| (*epoch, record.value, record.kind));
            records = vec![all];
        }
        let taken = BTreeSet::from([(vec![0; records.len()], 0)]);
        Order { key, records, taken, lost }
    }

    /// What comes next of each source, if its epoch is the least.
    fn heads(&self, taken: &[usize]) -> Vec<(usize, u64, Record)> {
        let heads = self.records.iter().zip(taken).map(|(records, at)| records.get(*at).copied());
        let least = heads.clone().flatten().map(|(epoch, _)| epoch).min();
        let heads = heads.enumerate().filter_map(|(source, head)| head.map(|(epoch, record)| (source, epoch, record)));
        heads.filter(|(_, epoch, _)| least == Some(*epoch)).collect()
    }

    /// Adds what may have been cancelled.
    fn skip(&mut self) {
        let mut more: Vec<_> = self.taken.iter().cloned().collect();
        while let Some((taken, lost)) = more.pop().filter(|_| self.lost > 0) {
            if lost == self.lost {
                continue;
            }
            for (source, ..) in self.heads(&taken) {
                let mut taken = taken.clone();
                taken[source] += 1;
                // Beyond all limits there is nothing to count.
                let next = (taken, if self.lost == usize::MAX { 0 } else { lost + 1 });
                if self.taken.insert(next.clone()) {
                    more.push(next);
                }
            }
        }
    }

    /// The next run has taken `record`, and puts out in `epoch` or, unless it was held, after the record's.
    fn take(&mut self, record: Record, epoch: u64, held: bool) -> Result<(), String> {
        self.skip();
        let mut next = BTreeSet::new();
        for (taken, lost) in &self.taken {
            for (source, of, head) in self.heads(taken) {
                if head == record && if held { of == epoch } else { of <= epoch } {
                    let mut taken = taken.clone();
                    taken[source] += 1;
                    next.insert((taken, *lost));
                }
            }
        }
        let Order { key, records, taken, .. } = self;
        ensure!(!next.is_empty(), "S2, D6: key {key}: {record:?} in {epoch} after {taken:?} of {records:?}");
        self.taken = next;
        Ok(())
    }

    fn end(&mut self) -> Result<(), String> {
        self.skip();
        let all: Vec<usize> = self.records.iter().map(Vec::len).collect();
        let Order { key, records, taken, .. } = self;
        ensure!(taken.iter().any(|(taken, _)| *taken == all), "D6: key {key}: only {taken:?} of {records:?}");
        Ok(())
    }
}

/// As [`run`]; a panic is a fault like others.
fn verdict(seed: u64, bug: Option<Bug>, prints: bool) -> Result<Ran, String> {
    catch_unwind(AssertUnwindSafe(|| run(seed, bug, prints))).unwrap_or_else(|panic| {
        let text = panic.downcast_ref::<String>().map(String::as_str);
        Err(format!("it panics: {}", text.or(panic.downcast_ref::<&str>().copied()).unwrap_or("?")))
    })
}

fn check(seed: u64, prints: bool) -> Ran {
    verdict(seed, None, prints).unwrap_or_else(|fault| {
        panic!(
            "seed {seed}: {fault}\n`AGENTS_SIMULATION_SEED={seed} cargo test --test simulation seeds -- --nocapture` \
             repeats it"
        )
    })
}

#[test]
fn jobs_by_seeds_do_what_the_rules_say() {
    if let Some(seed) = variable("AGENTS_SIMULATION_SEED") {
        check(seed, true);
        return;
    }
    let seeds = variable("AGENTS_SIMULATION_SEEDS").unwrap_or(400);
    let crashes: u64 = (0..seeds).map(|seed| check(seed, false).crashes).sum();
    assert!(crashes > seeds, "{crashes} crashes in {seeds} jobs");
}

#[test]
fn seed_repeats_itself() {
    for seed in 0..20 {
        assert_eq!(check(seed, false), check(seed, false), "seed {seed}");
    }
}

/// How many of some seeds find a bug; all that find nothing pass.
fn found(bug: Bug) -> usize {
    (0..100).filter(|seed| verdict(*seed, Some(bug), false).is_err()).count()
}

#[test]
fn block_that_is_lost_is_found() {
    assert!(found(Bug::BlockLost) > 10);
}

#[cfg(any(debug_assertions, feature = "failpoints"))]
#[test]
fn sync_that_is_left_out_is_found() {
    assert!(found(Bug::SyncLeftOut) > 5);
}

#[test]
fn source_that_goes_on_elsewhere_is_found() {
    assert!(found(Bug::RecordLost) > 10);
    assert!(found(Bug::RecordTwice) > 10);
}

#[test]
fn frontier_ahead_of_outputs_is_found() {
    assert!(found(Bug::FrontierAhead) > 10);
}

#[test]
fn output_before_its_commit_is_found() {
    assert!(found(Bug::VisibleEarly) > 10);
}
