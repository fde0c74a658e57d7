//! What a row costs to exchange between two processes: timely's `Vec` with bincode, columnar, abomonation.
//!
//! # Workload
//! Two processes on loopback, one worker each; this program starts itself again as the second one. Both workers send
//! rows `{key: u64, value: u64, text: 100 bytes}` with 20,000 keys to the worker that the key's hash names, which
//! counts per key. A row is made from borrowed text, as a source makes it from its buffer. Epochs of 10,000 rows per
//! worker, at most three of them under way. The containers take turns within one cluster, after a first turn that is
//! not counted; a number is the median over the turns. At the end the counts of each container are checked.
//!
//! # Back-of-the-envelope limit
//! Half of the rows cross. Core time per row, from caches: make its text 30 ns and free it 15 ns, exchange and count 10
//! ns; for the half that crosses, encode 10 ns, copy 124 bytes into the kernel, out of it and between timely's buffers
//! 50 ns, decode 45 ns. That is about 110 ns per input, 55 ns on two cores (18 million inputs per second). Columns save
//! the making and freeing of texts and the decoding: about 25 ns. The wire carries at least 116 bytes per input.
//!
//! Measurements lie two to five times above. A profile puts the excess into the allocator, memory moves and page
//! faults: the rows under way, some 10 MB over both workers, are presumably out of the caches by the time they are
//! read.
//!
//! # Baseline
//! Timely's default: `Vec` and bincode. The ratio is its time over the container's.
//!
//! # More
//! Bytes are those of the containers that cross, without timely's frame around each. Abomonation is there with `--features
//! abomonation`.

use std::cell::RefCell;
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::process::{Child, Command, ExitCode, Stdio};
use std::rc::Rc;
use std::time::Duration;
use std::{env, io};

use columnar::{Columnar, Index};
use serde::{Deserialize, Serialize};
use timely::communication::Hooks;
use timely::communication::allocator::zero_copy::initialize::initialize_networking_from_sockets;
use timely::communication::allocator::{AllocatorBuilder, ProcessBuilder};
use timely::container::{
    CapacityContainerBuilder, ContainerBuilder, DrainContainer, LengthPreservingContainerBuilder, PushInto,
};
use timely::dataflow::channels::ContainerBytes;
use timely::dataflow::channels::pact::ExchangeCore;
use timely::dataflow::operators::{Operator, Probe};
use timely::dataflow::{InputHandle, ProbeHandle};
use timely::worker::Worker;
use timely::{Accountable, Container, WorkerConfig};

use crate::columns::{Column, ColumnBuilder};
use crate::measure::{Error, Scale, mix, now};
use crate::report::Row as Figures;

/// Processes, and workers: one each.
const PEERS: usize = 2;
/// Keys, dense from zero, so that a count is an array access.
const KEYS: u64 = 20_000;
/// Bytes of a row's text.
const TEXT_BYTES: usize = 100;
/// Epochs that a worker sends ahead of the slowest.
const EPOCHS_AHEAD: u64 = 3;
/// How long the second process may take to connect.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// Where the second process finds the first.
const PEER: &str = "BENCH_PEER";
/// Tells the second process what the first was told.
const QUICK: &str = "BENCH_QUICK";

#[derive(Clone, Debug, Columnar, Serialize, Deserialize)]
struct Row {
    key: u64,
    value: u64,
    text: String,
}

#[cfg(feature = "abomonation")]
timely_agents::abomonation::flat_row!(Row { key, value, text });

/// How much is sent.
#[derive(Clone, Copy)]
struct Size {
    /// Turns per container that count.
    turns: usize,
    /// Epochs per turn.
    epochs: u64,
    /// Rows per epoch and worker.
    rows: u64,
}

impl Size {
    const FULL: Self = Self { turns: 11, epochs: 100, rows: 10_000 };
    const QUICK: Self = Self { turns: 5, epochs: 4, rows: 500 };

    /// Rows of all workers in a turn.
    fn inputs(self) -> u64 {
        PEERS as u64 * self.epochs * self.rows
    }
}

/// A container under test.
trait Wire: 'static {
    const NAME: &'static str;
    type Builder: ContainerBuilder<Container = Self::Rows>
        + LengthPreservingContainerBuilder
        + for<'a> PushInto<<Self::Rows as DrainContainer>::Item<'a>>
        + 'static;
    type Rows: Container + Clone + ContainerBytes + DrainContainer + Send;

    fn send(input: &mut InputHandle<u64, Self::Builder>, key: u64, value: u64, text: &str);
    fn push(builder: &mut Self::Builder, key: u64, value: u64, text: &str);
    fn key(item: &<Self::Rows as DrainContainer>::Item<'_>) -> u64;
    /// Calls `see` with each row's key and text.
    fn read(rows: &mut Self::Rows, see: impl FnMut(u64, &[u8]));
}

/// Timely's default.
struct Bincode;

impl Wire for Bincode {
    const NAME: &'static str = "vec_bincode";
    type Builder = CapacityContainerBuilder<Vec<Row>>;
    type Rows = Vec<Row>;

    #[inline]
    fn send(input: &mut InputHandle<u64, Self::Builder>, key: u64, value: u64, text: &str) {
        input.send(Row { key, value, text: text.to_owned() });
    }

    fn push(builder: &mut Self::Builder, key: u64, value: u64, text: &str) {
        builder.push_into(Row { key, value, text: text.to_owned() });
    }

    #[inline]
    fn key(row: &Row) -> u64 {
        row.key
    }

    #[inline]
    fn read(rows: &mut Vec<Row>, mut see: impl FnMut(u64, &[u8])) {
        for row in rows.drain(..) {
            see(row.key, row.text.as_bytes());
        }
    }
}

/// One array per field.
struct Columnwise;

type RowColumns = <Row as Columnar>::Container;

impl Wire for Columnwise {
    const NAME: &'static str = "columnar";
    type Builder = ColumnBuilder<RowColumns>;
    type Rows = Column<RowColumns>;

    #[inline]
    fn send(input: &mut InputHandle<u64, Self::Builder>, key: u64, value: u64, text: &str) {
        input.send(RowReference { key, value, text });
    }

    fn push(builder: &mut Self::Builder, key: u64, value: u64, text: &str) {
        builder.push_into(RowReference { key, value, text });
    }

    #[inline]
    fn key(row: &columnar::Ref<'_, Row>) -> u64 {
        *row.key
    }

    #[inline]
    fn read(rows: &mut Self::Rows, mut see: impl FnMut(u64, &[u8])) {
        for row in rows.borrow().into_index_iter() {
            see(*row.key, row.text);
        }
    }
}

/// Rows as memory.
#[cfg(feature = "abomonation")]
struct Abomonation;

#[cfg(feature = "abomonation")]
impl Wire for Abomonation {
    const NAME: &'static str = "abomonation";
    type Builder = CapacityContainerBuilder<Self::Rows>;
    type Rows = timely_agents::abomonation::AbomVec<Row>;

    #[inline]
    fn send(input: &mut InputHandle<u64, Self::Builder>, key: u64, value: u64, text: &str) {
        input.send(Row { key, value, text: text.to_owned() });
    }

    fn push(builder: &mut Self::Builder, key: u64, value: u64, text: &str) {
        builder.push_into(Row { key, value, text: text.to_owned() });
    }

    #[inline]
    fn key(row: &std::borrow::Cow<'_, Row>) -> u64 {
        row.key
    }

    #[inline]
    fn read(rows: &mut Self::Rows, mut see: impl FnMut(u64, &[u8])) {
        for row in rows.drain() {
            see(row.key, row.text.as_bytes());
        }
    }
}

/// The rows of a turn, the same in every turn: a function of worker and position.
struct Source {
    texts: Vec<String>,
}

impl Source {
    fn new() -> Self {
        let letter = |text: usize, at: usize| char::from(b'a' + ((text * 7 + at * 3) % 26) as u8);
        Self { texts: (0..64).map(|text| (0..TEXT_BYTES).map(|at| letter(text, at)).collect()).collect() }
    }

    /// Key, value and text of row `index` of `worker`.
    #[inline]
    fn row(&self, worker: usize, index: u64) -> (u64, u64, &str) {
        let value = mix(index * PEERS as u64 + worker as u64);
        (value % KEYS, value, &self.texts[(value >> 32) as usize % self.texts.len()])
    }
}

/// What a worker has counted: rows per key, and bytes of text in all.
#[derive(Clone, PartialEq)]
struct Counts {
    rows: Vec<u64>,
    text_bytes: u64,
}

impl Counts {
    fn new() -> Self {
        Self { rows: vec![0; KEYS as usize], text_bytes: 0 }
    }

    #[inline]
    fn see(&mut self, key: u64, text: &[u8]) {
        self.rows[key as usize] += 1;
        self.text_bytes += text.len() as u64;
    }

    /// The counts of `worker` after `turns` turns.
    fn expected(size: Size, worker: usize, turns: u64) -> Self {
        let source = Source::new();
        let mut counts = Self::new();
        for (from, index) in (0..PEERS).flat_map(|from| (0..size.epochs * size.rows).map(move |index| (from, index))) {
            let (key, _, text) = source.row(from, index);
            if mix(key) % PEERS as u64 == worker as u64 {
                counts.see(key, text.as_bytes());
            }
        }
        counts.rows.iter_mut().for_each(|rows| *rows *= turns);
        counts.text_bytes *= turns;
        counts
    }
}

/// A dataflow that exchanges by one container, and its ends.
struct Lane<W: Wire> {
    input: InputHandle<u64, W::Builder>,
    probe: ProbeHandle<u64>,
    counts: Rc<RefCell<Counts>>,
    source: Source,
}

/// A lane of any container.
trait Turns {
    fn name(&self) -> &'static str;
    /// Sends the rows of a turn and waits until all workers have counted theirs.
    fn turn(&mut self, worker: &mut Worker, size: Size) -> Duration;
    fn counts(&self) -> Counts;
    /// Bytes per row of the containers that an epoch of `rows` rows sends to one worker.
    fn bytes_per_input(&self, rows: u64) -> f64;
}

impl<W: Wire> Lane<W> {
    fn build(worker: &mut Worker) -> Box<dyn Turns> {
        let mut input = InputHandle::<u64, W::Builder>::new_with_builder();
        let counts = Rc::new(RefCell::new(Counts::new()));
        let counted = Rc::clone(&counts);
        let probe = worker.dataflow(|scope| {
            let by_key = ExchangeCore::<W::Builder, _>::new_core(|item: &<W::Rows as DrainContainer>::Item<'_>| {
                mix(W::key(item))
            });
            input
                .to_stream(scope)
                .unary::<CapacityContainerBuilder<Vec<()>>, _, _, _>(by_key, "Count", move |_, _| {
                    move |input, _| {
                        input.for_each_time(|_, data| {
                            let mut counts = counted.borrow_mut();
                            data.for_each(|rows| W::read(rows, |key, text| counts.see(key, text)));
                        });
                    }
                })
                .probe()
                .0
        });
        Box::new(Self { input, probe, counts, source: Source::new() })
    }
}

impl<W: Wire> Turns for Lane<W> {
    fn name(&self) -> &'static str {
        W::NAME
    }

    fn turn(&mut self, worker: &mut Worker, size: Size) -> Duration {
        let index = worker.index();
        let first = *self.input.time();
        let start = now();
        for epoch in 0..size.epochs {
            for row in epoch * size.rows..(epoch + 1) * size.rows {
                let (key, value, text) = self.source.row(index, row);
                W::send(&mut self.input, key, value, text);
            }
            let next = first + epoch + 1;
            self.input.advance_to(next);
            worker.step();
            worker.step_or_park_while(None, || self.probe.less_than(&next.saturating_sub(EPOCHS_AHEAD)));
        }
        worker.step_or_park_while(None, || self.probe.less_than(self.input.time()));
        start.elapsed()
    }

    fn counts(&self) -> Counts {
        self.counts.borrow().clone()
    }

    fn bytes_per_input(&self, rows: u64) -> f64 {
        let mut builder = W::Builder::default();
        let (mut bytes, mut sent) = (0, 0);
        let mut measure = |rows: &mut W::Rows| {
            bytes += rows.length_in_bytes();
            sent += rows.record_count();
        };
        for index in 0..rows / PEERS as u64 {
            let (key, value, text) = self.source.row(0, index);
            W::push(&mut builder, key, value, text);
            while let Some(rows) = builder.extract() {
                measure(rows);
            }
        }
        while let Some(rows) = builder.finish() {
            measure(rows);
        }
        bytes as f64 / sent as f64
    }
}

/// A container's turns.
struct Measured {
    name: &'static str,
    bytes_per_input: f64,
    turns: Vec<Duration>,
}

impl Measured {
    /// By the median of its turns.
    fn ns_per_input(&self, size: Size) -> f64 {
        let mut turns = self.turns.clone();
        turns.sort();
        turns[turns.len() / 2].as_nanos() as f64 / size.inputs() as f64
    }
}

/// Both workers run this: all containers take turns, and their counts are checked.
fn measure(worker: &mut Worker, size: Size) -> Result<Vec<Measured>, String> {
    let mut lanes = [
        Lane::<Bincode>::build(worker),
        Lane::<Columnwise>::build(worker),
        #[cfg(feature = "abomonation")]
        Lane::<Abomonation>::build(worker),
    ];
    let mut measured: Vec<Measured> = lanes
        .iter()
        .map(|lane| Measured { name: lane.name(), bytes_per_input: lane.bytes_per_input(size.rows), turns: Vec::new() })
        .collect();
    for turn in 0..=size.turns {
        for (lane, measured) in lanes.iter_mut().zip(&mut measured) {
            let elapsed = lane.turn(worker, size);
            if turn > 0 {
                measured.turns.push(elapsed);
            }
        }
    }
    let expected = Counts::expected(size, worker.index(), size.turns as u64 + 1);
    match lanes.iter().find(|lane| lane.counts() != expected) {
        Some(lane) => Err(format!("worker {} counted other rows by {} than were sent", worker.index(), lane.name())),
        None => Ok(measured),
    }
}

/// Runs this process's worker in a cluster of two over `socket`.
fn run_process(index: usize, socket: TcpStream, size: Size) -> Result<Vec<Measured>, Error> {
    socket.set_nodelay(true)?;
    let mut sockets = vec![Some(socket)];
    sockets.insert(index, None);
    let hooks = Hooks::default();
    let threads = ProcessBuilder::new_typed_vector(1, hooks.refill.clone(), hooks.spill.clone());
    let (builders, network) = initialize_networking_from_sockets(threads, sockets, index, 1, hooks)?;
    let builders = builders.into_iter().map(AllocatorBuilder::Tcp).collect();
    let guards = timely::execute::execute_from(builders, Box::new(network), WorkerConfig::default(), move |worker| {
        measure(worker, size)
    })?;
    // Joining panics where the peer died; the threads have reported their panics by then.
    let results = catch_unwind(AssertUnwindSafe(|| guards.join())).map_err(|_| "the other process died")?;
    let result = results.into_iter().next().ok_or("no worker ran")?;
    Ok(result??)
}

/// Waits for the second process, but not for one that has died.
fn accept(listener: &TcpListener, peer: &mut Child) -> Result<TcpStream, Error> {
    listener.set_nonblocking(true)?;
    let start = now();
    while start.elapsed() < CONNECT_TIMEOUT {
        match listener.accept() {
            Ok((socket, _)) => return Ok(socket),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(error) => return Err(error.into()),
        }
        if let Some(status) = peer.try_wait()? {
            return Err(format!("the second process ended before it connected: {status}").into());
        }
        std::thread::park_timeout(Duration::from_millis(1));
    }
    Err(format!("the second process did not connect within {CONNECT_TIMEOUT:?}").into())
}

/// The first process: starts the second, and measures.
pub(crate) fn containers(scale: Scale) -> Result<Vec<Figures>, Error> {
    let size = if scale.quick { Size::QUICK } else { Size::FULL };
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
    let mut command = Command::new(env::current_exe()?);
    command.env(PEER, listener.local_addr()?.to_string()).stdout(Stdio::null());
    command.env(QUICK, if scale.quick { "1" } else { "0" });
    let mut peer = command.spawn()?;
    let measured = accept(&listener, &mut peer).and_then(|socket| run_process(0, socket, size));
    if measured.is_err() {
        // It may be waiting for this process; if it has ended already, that is as well.
        let _ = peer.kill();
    }
    let status = peer.wait()?;
    let measured = measured?;
    if !status.success() {
        return Err(format!("the second process failed: {status}").into());
    }
    let rate = |container: &Measured| 1e9 / container.ns_per_input(size);
    let baseline = rate(&measured[0]);
    let row = |container: &Measured| {
        Figures::new(format!("exchange/{}", container.name), PEERS, rate(container), baseline)
            .also("bytes_per_input", container.bytes_per_input)
            .also("ns_per_input", container.ns_per_input(size))
    };
    Ok(measured.iter().map(row).collect())
}

/// What the second process comes to; nothing in the first.
pub(crate) fn second_process() -> Option<ExitCode> {
    let first = env::var(PEER).ok()?;
    let size = if env::var(QUICK).is_ok_and(|quick| quick == "1") { Size::QUICK } else { Size::FULL };
    let ran = TcpStream::connect(&first).map_err(Error::from).and_then(|socket| run_process(1, socket, size));
    Some(match ran {
        Ok(_) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("the second process, with the first at {first}: {error}");
            ExitCode::FAILURE
        }
    })
}
