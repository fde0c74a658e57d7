//! Flow control (rule S9): no deadlock at the tightest limits, and bounded memory beside a slow worker.

use std::cmp::Ordering;
use std::path::PathBuf;
use std::rc::Rc;
use std::sync::atomic::AtomicU64;
use std::sync::mpsc::channel;
use std::sync::{Arc, Mutex, atomic};
use std::time::Duration;

use timely::dataflow::StreamVec;
use timely::dataflow::channels::pact::Exchange;
use timely::dataflow::operators::Inspect;
use timely::worker::Worker;
use timely_agents_operators::behavior::{self, Behavior, Effects, Opening, Progress, RunHead, Work};
use timely_agents_operators::cluster::{ClusterConfig, Control, Failure, execute};
use timely_agents_operators::completion::{CallRef, CallResult};
use timely_agents_operators::driver::{Bare, ByRef, Load};
use timely_agents_operators::fact::{KeyWriter, What};
use timely_agents_operators::flow::Flow;
use timely_agents_operators::keys::KeyId;
use timely_agents_operators::limits::Limits;
use timely_agents_operators::operator::{Options, keyed_mailbox};
use timely_agents_operators::source::{Reader, SourceOptions, source};

use crate::cluster::{FILE, Hosts};

/// Longer than anything may take on a busy machine.
const LONG: Duration = Duration::from_mins(2);

/// Key and text.
type Row = (u64, String);

/// Outputs its inputs, after giving way some times, or after slow work.
#[derive(Default)]
struct Forward {
    effects: Effects<Row, ()>,
    sequenced: bool,
    /// How often a run gives way.
    rounds: u32,
    /// How often the first run does so beyond that.
    first: u32,
    /// How long a run takes.
    work: Duration,
    /// The first run takes until this file is there.
    until: Option<PathBuf>,
}

impl Behavior for Forward {
    type Key = u64;
    type Input = Row;
    type Output = Row;
    type Tagged = ();
    type Run = (Row, u32);

    fn open(&mut self, _: Opening<u64>) -> Result<(), behavior::Failure> {
        Ok(())
    }
    fn admit(&mut self, _: usize) {}
    fn touch(&mut self, _: &[KeyId]) {}
    #[expect(clippy::disallowed_methods, reason = "slow work")]
    fn start(&mut self, _: &RunHead, work: Work<Row>, _: &mut u32) -> Progress<(Row, u32)> {
        let Work::Input(row) = work else { return Progress::Done };
        if let Some(file) = self.until.take() {
            while !file.exists() {
                std::thread::sleep(Duration::from_millis(1));
            }
        }
        if !self.work.is_zero() {
            std::thread::sleep(self.work);
        }
        let rounds = self.rounds + std::mem::take(&mut self.first);
        if rounds > 0 {
            return Progress::Yielded((row, rounds));
        }
        self.effects.outputs.push(row);
        Progress::Done
    }
    fn resume(&mut self, _: &RunHead, (row, rounds): &mut (Row, u32), fuel: &mut u32) -> Progress<()> {
        // One resumption an activation: runs pile up.
        *fuel = 0;
        *rounds -= 1;
        if *rounds > 0 {
            return Progress::Yielded(());
        }
        self.effects.outputs.push(std::mem::take(row));
        Progress::Done
    }
    fn complete(&mut self, _: &mut (Row, u32), _: CallRef, _: CallResult) -> bool {
        false
    }
    fn wake(&mut self, _: &mut (Row, u32), _: u32) -> bool {
        false
    }
    fn run_timeout(&self) -> Option<Duration> {
        None
    }
    fn expire(&mut self, _: &mut (Row, u32)) -> bool {
        false
    }
    fn effects<R>(&mut self, look: impl FnOnce(&mut Effects<Row, ()>) -> R) -> R {
        look(&mut self.effects)
    }
    fn wants_control(&self) -> bool {
        false
    }
    fn advance(&mut self, _: Option<u64>) {}
    fn facts(&mut self, _: KeyId, _: Option<&Self::Run>, _: &mut KeyWriter) {}

    fn restore(&mut self, _: KeyId, _: &What, _: Option<&[u8]>) -> Result<(), String> {
        Ok(())
    }
    fn sequence(&self) -> Option<fn(&Self, &Row, &Row) -> Ordering> {
        self.sequenced.then_some(|_, a, b| a.cmp(b))
    }
    fn input_bytes((_, text): &Row) -> usize {
        8 + text.len()
    }
    fn drained(&mut self) {}
    fn close(&mut self) {}
}

/// The keyed operator. Keys are placed by their remainder.
fn operator<'s>(
    stream: StreamVec<'s, u64, Row>,
    control: &Control,
    limits: Limits,
    on_load: Option<Box<dyn Fn(Load)>>,
    behavior: Forward,
) -> StreamVec<'s, u64, Row> {
    let control = control.clone();
    let on_failure = Rc::new(move |failure: &behavior::Failure| control.fail(Failure::data(failure.to_string())));
    let mut options = Options::new("forward", on_failure);
    options.limits = limits;
    options.on_load = on_load;
    let pact = Exchange::new(|(key, _): &Row| *key);
    let key = ByRef::new(Rc::new(key_of as fn(&Row) -> &u64));
    keyed_mailbox::<_, _, _, _, _, Bare>(stream, pact, key, behavior, options).output
}

fn key_of((key, _): &Row) -> &u64 {
    key
}

/// Rows that are made as they are read.
struct Made {
    rows: Box<dyn Iterator<Item = (u64, Row)>>,
}

impl Reader for Made {
    type Item = Row;

    fn next(&mut self) -> Result<Option<(u64, Row)>, Failure> {
        Ok(self.rows.next())
    }

    fn bytes(&self, (_, text): &Row) -> usize {
        size_of::<Row>() + text.len()
    }
}

/// Epochs of each source under [`tight`], and rows of each epoch.
const EPOCHS: u64 = 12;
const ROWS: u64 = 60;

/// Two keyed operators in a row with all limits at 1, fed by a source on each worker; counts what comes out.
fn tight(worker: &mut Worker, control: &Control, sequenced: bool, count: &Arc<AtomicU64>) {
    let flow = Flow::build(worker);
    let index = worker.index() as u64;
    // Sources whose epochs are not the same, and of which one is far ahead of the others.
    let rows = (0..EPOCHS * ROWS).map(move |i| (i / ROWS * (1 + index) + index, (i * 7 % 13, format!("{i}"))));
    let mut options = SourceOptions::new("rows", control.clone());
    options.batch = 5;
    options.flow = Some(flow.clone());
    let count = Arc::clone(count);
    worker.dataflow(|scope| {
        let behavior = |rounds| Forward { sequenced, rounds, ..Forward::default() };
        let mut stream = source(scope, Some(Made { rows: Box::new(rows) }), options);
        for rounds in [2, 1] {
            let limits = Limits::tight();
            stream = operator(stream, control, limits, Some(flow.meter(limits)), behavior(rounds));
        }
        stream.inspect(move |_| {
            count.fetch_add(1, atomic::Ordering::Relaxed);
        });
    });
    flow.close();
}

/// Runs `job` on threads; a deadlock is a failure.
fn tight_on(config: ClusterConfig, sequenced: bool) -> Result<u64, Failure> {
    let (tell, told) = channel();
    std::thread::spawn(move || {
        let count = Arc::new(AtomicU64::new(0));
        let counter = Arc::clone(&count);
        let result = execute(&config, move |worker, control| {
            tight(worker, control, sequenced, &counter);
            Ok(())
        });
        let _ = tell.send(result.map(|_| count.load(atomic::Ordering::Relaxed)));
    });
    told.recv_timeout(LONG).expect("no deadlock")
}

#[test]
fn the_tightest_limits_do_not_stop_one_worker() {
    for sequenced in [false, true] {
        assert_eq!(tight_on(ClusterConfig::single(1), sequenced), Ok(EPOCHS * ROWS));
    }
}

#[test]
fn the_tightest_limits_do_not_stop_threads() {
    for (threads, sequenced) in [(2, false), (2, true), (3, false)] {
        assert_eq!(tight_on(ClusterConfig::single(threads), sequenced), Ok(threads as u64 * EPOCHS * ROWS));
    }
}

#[test]
fn the_tightest_limits_do_not_stop_processes() {
    for part in ["flow tight arrival", "flow tight sequence"] {
        let hosts = Hosts::new(2);
        let mut children = hosts.start(part, 2);
        let mut sum = 0;
        for child in &mut children {
            let exit = child.exit();
            assert_eq!((exit.code, exit.stderr.as_str()), (Some(0), ""));
            sum += child.lines.iter().map(|line| line.parse::<u64>().unwrap()).sum::<u64>();
        }
        assert_eq!(sum, 4 * EPOCHS * ROWS);
    }
}

/// The most that one operator held at any time.
#[derive(Default)]
struct Most(Mutex<Load>);

impl Most {
    fn note(&self, load: Load) {
        let mut most = self.0.lock().unwrap();
        most.runs = most.runs.max(load.runs);
        most.waiting_bytes = most.waiting_bytes.max(load.waiting_bytes);
        most.ahead_bytes = most.ahead_bytes.max(load.ahead_bytes);
        most.open_times = most.open_times.max(load.open_times);
    }
}

/// Two keyed operators in a row on one worker; what each of them held at most.
fn held(
    rows: impl Iterator<Item = (u64, Row)> + Clone + Send + Sync + 'static,
    limits: Limits,
    rounds: u32,
    first: u32,
) -> [Load; 2] {
    let most: Arc<[Most; 2]> = Arc::default();
    let notes = Arc::clone(&most);
    execute(&ClusterConfig::single(1), move |worker, control| {
        let flow = Flow::build(worker);
        let mut options = SourceOptions::new("rows", control.clone());
        options.batch = 10;
        options.flow = Some(flow.clone());
        worker.dataflow(|scope| {
            let reader = Made { rows: Box::new(rows.clone()) };
            let mut stream = source(scope, Some(reader), options);
            for place in 0..2 {
                let (meter, notes) = (flow.meter(limits), Arc::clone(&notes));
                let on_load = move |load| {
                    notes[place].note(load);
                    meter(load);
                };
                let behavior = Forward {
                    rounds: if place == 0 { rounds } else { 0 },
                    first: if place == 0 { first } else { 0 },
                    ..Forward::default()
                };
                stream = operator(stream, control, limits, Some(Box::new(on_load)), behavior);
            }
        });
        Ok(())
    })
    .unwrap();
    [0, 1].map(|place| *most[place].0.lock().unwrap())
}

/// Rows of 108 bytes each.
fn rows(count: u64, per_epoch: u64, keys: u64) -> impl Iterator<Item = (u64, Row)> + Clone + Send + Sync {
    (0..count).map(move |i| (i / per_epoch, (i % keys, "x".repeat(100))))
}

/// What a source of 10 rows an activation may bring beyond a limit.
const BATCH: usize = 10 * 108;

#[test]
fn a_source_stops_while_too_many_bytes_wait() {
    let limits = Limits { inbox_bytes: 5000, ..Limits::default() };
    let [load, _] = held(rows(5000, 5000, 50), limits, 3, 0);
    assert!((5000..5000 + BATCH).contains(&load.waiting_bytes), "{load:?}");
}

#[test]
fn a_source_stops_while_too_many_runs_are_in_flight() {
    let limits = Limits { runs_in_flight: 40, inbox_bytes: 5000, ..Limits::default() };
    let [load, _] = held(rows(5000, 5000, 5000), limits, 3, 0);
    assert_eq!(load.runs, 40);
    // While one run ends and the next begins there is room, which the source uses.
    assert!(load.waiting_bytes < 5000 + BATCH, "{load:?}");
}

#[test]
fn a_source_stops_while_too_many_epochs_are_open() {
    let limits = Limits { open_epochs: 25, ..Limits::default() };
    let [load, _] = held(rows(5000, 1, 5000), limits, 40, 0);
    assert!((25..25 + 10).contains(&load.open_times), "{load:?}");
}

#[test]
fn a_source_stops_while_too_many_bytes_wait_for_their_epoch() {
    let limits = Limits { inbox_bytes: 5000, ..Limits::default() };
    // The first run of the first operator keeps epoch 0 open: what comes after it is ahead at the second.
    let [_, load] = held(rows(5000, 1, 5000), limits, 0, 2000);
    // What waits at the first operator by then, up to the same limit, still comes.
    assert!((5000..2 * (5000 + BATCH)).contains(&load.ahead_bytes), "{load:?}");
}

/// Rows under [`slow`], each of 8 KiB: together 96 MiB.
const LARGE: u64 = 12 << 10;

/// Worker 0 reads rows of one epoch for worker 1, whose runs are slow; without flow control the first of them is over when
/// all rows are read.
fn slow(worker: &mut Worker, control: &Control, controlled: bool, count: &Arc<AtomicU64>) {
    let flow = controlled.then(|| Flow::build(worker));
    let read = std::env::var_os(FILE).map(PathBuf::from);
    let until = read.clone().filter(|_| !controlled);
    let reader = (worker.index() == 0).then(|| {
        let rows = (0..LARGE).map(|i| (7, (2 * i + 1, "x".repeat(8 << 10))));
        let end = std::iter::from_fn(move || {
            if let Some(file) = &read {
                std::fs::write(file, "").unwrap();
            }
            None
        });
        Made { rows: Box::new(rows.chain(end)) }
    });
    let mut options = SourceOptions::new("rows", control.clone());
    options.flow.clone_from(&flow);
    let count = Arc::clone(count);
    worker.dataflow(|scope| {
        let behavior = Forward { work: Duration::from_micros(100), until, ..Forward::default() };
        let rows = source(scope, reader, options);
        let limits = Limits::default();
        let meter = flow.as_ref().map(|flow| flow.meter(limits));
        operator(rows, control, limits, meter, behavior).inspect(move |_| {
            count.fetch_add(1, atomic::Ordering::Relaxed);
        });
    });
}

/// The most memory that this process has had, in MiB.
fn peak() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with("VmHWM:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() >> 10
}

/// The rows that came out and the largest peak of the processes in MiB.
fn peak_of(part: &str) -> (u64, u64) {
    let (hosts, place) = (Hosts::new(2), tempfile::tempdir().unwrap());
    let mut children = hosts.start_with(part, 1, Some(&place.path().join("all is read")));
    let (mut rows, mut most) = (0, 0);
    for child in &mut children {
        let exit = child.exit();
        assert_eq!((exit.code, exit.stderr.as_str()), (Some(0), ""));
        let lines: Vec<u64> = child.lines.iter().map(|line| line.parse().unwrap()).collect();
        rows += lines[0];
        most = most.max(lines[1]);
    }
    (rows, most)
}

#[test]
fn a_slow_worker_of_another_process_bounds_its_source() {
    let (rows, most) = peak_of("flow slow");
    assert_eq!(rows, LARGE);
    assert!(most < 48, "{most} MiB with flow control");
    let (rows, without) = peak_of("flow slow free");
    assert_eq!(rows, LARGE);
    assert!(without > 96, "{without} MiB without: the worker is not slow enough");
}

/// The parts of the processes that the tests start.
pub(crate) fn play(part: &str, config: &ClusterConfig) -> Result<Vec<Vec<String>>, Failure> {
    let count = Arc::new(AtomicU64::new(0));
    let counter = Arc::clone(&count);
    let part = part.to_owned();
    let measured = part.starts_with("flow slow");
    execute(config, move |worker, control| {
        match part.as_str() {
            "flow tight arrival" => tight(worker, control, false, &counter),
            "flow tight sequence" => tight(worker, control, true, &counter),
            "flow slow" => slow(worker, control, true, &counter),
            "flow slow free" => slow(worker, control, false, &counter),
            part => panic!("no such part: {part}"),
        }
        Ok(())
    })?;
    let mut lines = vec![count.load(atomic::Ordering::Relaxed).to_string()];
    if measured {
        lines.push(peak().to_string());
    }
    Ok(vec![lines])
}
