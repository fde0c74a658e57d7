//! Jobs of real processes over loopback, real signals and real exits.
//!
//! A test starts this binary again with [`child`] as the only test and its part in the environment; the child exits by
//! itself, as a program would. Nothing here waits for a fixed time: every wait is for a line or an exit, with a limit.

use std::fmt::{Debug, Write as _};
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::{ChildStdin, Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, channel};
use std::time::Duration;

use timely::container::CapacityContainerBuilder;
use timely::dataflow::channels::pact::Exchange;
use timely::dataflow::operators::generic::operator::Operator;
use timely::dataflow::operators::{Inspect, Probe};
use timely::dataflow::{InputHandle, ProbeHandle};
use timely::worker::Worker;
use timely_agents_operators::cluster::{ClusterConfig, Control, Failure, FailureKind, Secret, execute, usage_failure};

const PART: &str = "TIMELY_AGENTS_TEST_PART";
const ARGUMENTS: &str = "TIMELY_AGENTS_TEST_ARGUMENTS";
pub(crate) const FILE: &str = "TIMELY_AGENTS_TEST_FILE";

/// Longer than anything may take on a busy machine.
const LONG: Duration = Duration::from_mins(2);
/// The longest that a job may take to end after a failure, on a busy machine too: without word of it it would never end.
const PROMPT: Duration = Duration::from_secs(30);

// ---- The child's side ----

/// Not a test: the program that the tests start.
#[test]
fn child() {
    let Ok(part) = std::env::var(PART) else { return };
    tracing::subscriber::set_global_default(Warnings).unwrap();
    let code = match play(&part) {
        Ok(lines) => {
            for line in lines {
                say(&line);
            }
            0
        }
        Err(failure) => {
            eprintln!("{failure}");
            failure.exit_code()
        }
    };
    std::process::exit(code.into());
}

/// One line to the parent, written at once and whole.
fn say(line: &str) {
    let mut out = std::io::stdout().lock();
    writeln!(out, "CHILD {line}").unwrap();
    out.flush().unwrap();
}

/// Sends warnings to the parent, as `warn` and the fields.
struct Warnings;

impl tracing::Subscriber for Warnings {
    fn enabled(&self, metadata: &tracing::Metadata<'_>) -> bool {
        *metadata.level() <= tracing::Level::WARN
    }

    fn event(&self, event: &tracing::Event<'_>) {
        let mut text = String::from("warn");
        event.record(&mut |field: &tracing::field::Field, value: &dyn Debug| {
            write!(text, " {field}={value:?}").unwrap();
        });
        say(&text);
    }

    fn new_span(&self, _: &tracing::span::Attributes<'_>) -> tracing::span::Id {
        tracing::span::Id::from_u64(1)
    }
    fn record(&self, _: &tracing::span::Id, _: &tracing::span::Record<'_>) {}
    fn record_follows_from(&self, _: &tracing::span::Id, _: &tracing::span::Id) {}
    fn enter(&self, _: &tracing::span::Id) {}
    fn exit(&self, _: &tracing::span::Id) {}
}

fn play(part: &str) -> Result<Vec<String>, Failure> {
    let arguments = std::env::var(ARGUMENTS).unwrap();
    let mut opts = getopts::Options::new();
    ClusterConfig::install_options(&mut opts);
    let matches = opts.parse(arguments.split_whitespace()).map_err(|e| usage_failure("child", &e))?;
    let mut config = ClusterConfig::from_matches(&matches)?;
    "test".clone_into(&mut config.job);
    let results = match part {
        "exchange" => execute(&config, |worker, _| Ok(exchange(worker))),
        "stay" => execute(&config, |worker, control| stay(worker, control, |_, _| Ok(()))),
        "gate" => execute(&config, |worker, _| Ok(gate(worker))),
        "panic" => execute(&config, |worker, control| {
            let last = worker.peers() - 1;
            stay(worker, control, move |index, _| {
                assert!(index != last, "an operator on worker {index} has\nhad enough");
                Ok(())
            })
        }),
        "data" => execute(&config, |worker, control| {
            let last = worker.peers() - 1;
            stay(
                worker,
                control,
                move |index, _| {
                    if index == last { Err(Failure::data("line 7: no key")) } else { Ok(()) }
                },
            )
        }),
        "helper" => execute(&config, |worker, control| {
            stay(worker, control, move |index, control| {
                if index == 0 {
                    let control = control.clone();
                    std::thread::spawn(move || control.fail(Failure::data("the sink is full")));
                }
                Ok(())
            })
        }),
        _ => crate::flow::play(part, &config),
    }?;
    Ok(results.into_iter().flatten().collect())
}

/// Every worker sends the same numbers; each number's sum ends up on the one worker that owns its key.
fn exchange(worker: &mut Worker) -> Vec<String> {
    let (tell, told) = channel();
    let index = worker.index();
    let mut input = InputHandle::<u64, CapacityContainerBuilder<Vec<(u64, u64)>>>::new();
    let probe = ProbeHandle::new();
    worker.dataflow::<u64, _, _>(|scope| {
        input
            .to_stream(scope)
            .unary::<CapacityContainerBuilder<Vec<(u64, u64)>>, _, _, _>(
                Exchange::new(|(key, _): &(u64, u64)| *key),
                "Sum",
                |_, _| {
                    move |input, output| {
                        input.for_each_time(|cap, batches| {
                            let mut session = output.session(&cap);
                            batches.for_each(|batch| batch.drain(..).for_each(|row| session.give(row)));
                        });
                    }
                },
            )
            .inspect(move |row| tell.send(*row).unwrap())
            .probe_with(&probe);
    });
    for x in 0..1000 {
        input.send((x % 7, x));
    }
    input.advance_to(1);
    while probe.less_than(&1) {
        worker.step_or_park(None);
    }
    let mut sums = [(0, 0); 7];
    for (key, x) in told.try_iter() {
        sums[key as usize].0 += 1;
        sums[key as usize].1 += x;
    }
    let sums = sums.iter().enumerate().filter(|(_, (n, _))| *n > 0);
    sums.map(|(key, (n, sum))| format!("{key} {n} {sum} @{index}")).collect()
}

/// Exchanges one round with everybody, does `then`, and works on without end.
fn stay(
    worker: &mut Worker,
    control: &Control,
    then: impl Fn(usize, &Control) -> Result<(), Failure>,
) -> Result<Vec<String>, Failure> {
    let index = worker.index();
    if let Some(file) = std::env::var_os(FILE) {
        control.on_failure(move || std::fs::remove_file(file).unwrap_or_default());
    }
    let mut input = InputHandle::<u64, CapacityContainerBuilder<Vec<u64>>>::new();
    let probe = ProbeHandle::new();
    worker.dataflow::<u64, _, _>(|scope| {
        input
            .to_stream(scope)
            .unary::<CapacityContainerBuilder<Vec<u64>>, _, _, _>(Exchange::new(|x: &u64| *x), "All", |_, _| {
                move |input, output| {
                    input.for_each_time(|cap, batches| {
                        let mut session = output.session(&cap);
                        batches.for_each(|batch| batch.drain(..).for_each(|row| session.give(row)));
                    });
                }
            })
            .probe_with(&probe);
    });
    (0..100).for_each(|x| input.send(x));
    input.advance_to(1);
    while probe.less_than(&1) {
        worker.step_or_park(None);
    }
    say(&format!("ready {index}"));
    then(index, control)?;
    loop {
        worker.step_or_park(Some(Duration::from_millis(50)));
    }
}

/// Holds the dataflow open on worker 0 until a line comes in on standard input.
fn gate(worker: &mut Worker) -> Vec<String> {
    let index = worker.index();
    let mut input = InputHandle::<u64, CapacityContainerBuilder<Vec<u64>>>::new();
    worker.dataflow::<u64, _, _>(|scope| {
        input.to_stream(scope).inspect(move |_| say(&format!("row {index}")));
    });
    input.send(1);
    input.flush();
    worker.step();
    if index == 0 {
        std::io::stdin().lock().read_line(&mut String::new()).unwrap();
    }
    vec![format!("done {index}")]
}

// ---- The parent's side ----

/// How a child ended.
#[derive(Debug)]
pub(crate) struct Exit {
    pub(crate) code: Option<i32>,
    pub(crate) stderr: String,
}

pub(crate) struct Child {
    pid: u32,
    stdin: ChildStdin,
    pub(crate) lines: Receiver<String>,
    exit: Receiver<Exit>,
    ended: bool,
}

impl Child {
    fn start(part: &str, arguments: &str) -> Self {
        Self::start_with(part, arguments, None)
    }

    fn start_with(part: &str, arguments: &str, file: Option<&Path>) -> Self {
        let mut command = Command::new(std::env::current_exe().unwrap());
        command
            .args(["cluster::child", "--exact", "--nocapture", "--test-threads=2"])
            .env(PART, part)
            .env(ARGUMENTS, arguments)
            .env_remove(FILE)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        if let Some(file) = file {
            command.env(FILE, file);
        }
        let mut child = command.spawn().unwrap();
        let pid = child.id();
        let stdin = child.stdin.take().unwrap();
        let stdout = BufReader::new(child.stdout.take().unwrap());
        let mut stderr = child.stderr.take().unwrap();
        let (tell_line, lines) = channel();
        let (tell_exit, exit) = channel();
        std::thread::spawn(move || {
            for line in stdout.lines().map_while(Result::ok) {
                let line = match line.strip_prefix("CHILD ") {
                    Some(line) => line.to_owned(),
                    // The test harness's own.
                    None if line.is_empty() || line == "running 1 test" => continue,
                    None => format!("unexpected on stdout: {line}"),
                };
                let _ = tell_line.send(line);
            }
        });
        std::thread::spawn(move || {
            let mut text = String::new();
            stderr.read_to_string(&mut text).unwrap();
            let code = child.wait().unwrap().code();
            let _ = tell_exit.send(Exit { code, stderr: text });
        });
        Self { pid, stdin, lines, exit, ended: false }
    }

    #[track_caller]
    fn line(&self) -> String {
        self.lines.recv_timeout(LONG).expect("the child says something")
    }

    #[track_caller]
    fn exit_within(&mut self, limit: Duration) -> Exit {
        let exit = self.exit.recv_timeout(limit).expect("the child ends in time");
        self.ended = true;
        exit
    }

    pub(crate) fn exit(&mut self) -> Exit {
        self.exit_within(LONG)
    }

    /// The child fails with exactly one line on standard error, and nothing unexpected on standard output.
    #[track_caller]
    fn fails_within(&mut self, limit: Duration) -> String {
        let exit = self.exit_within(limit);
        assert_eq!(exit.code, Some(1), "{exit:?}");
        assert_eq!(exit.stderr.lines().count(), 1, "{exit:?}");
        for line in &self.lines {
            assert!(!line.starts_with("unexpected"), "{line}");
        }
        exit.stderr.trim_end().to_owned()
    }

    fn signal(&self, signal: &str) {
        let status = Command::new("kill").args([signal, &self.pid.to_string()]).status().unwrap();
        assert!(status.success());
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        if !self.ended {
            let _ = Command::new("kill").args(["-9", &self.pid.to_string()]).status();
        }
    }
}

/// A hostfile with ports that are free, and not given to another test of this process.
pub(crate) struct Hosts {
    dir: tempfile::TempDir,
    ports: Vec<u16>,
}

impl Hosts {
    /// Below the range from which the system takes ports for outgoing connections.
    pub(crate) fn new(processes: usize) -> Self {
        static NEXT: AtomicUsize = AtomicUsize::new(0);
        let base = std::process::id() as usize * 131;
        let mut ports = Vec::new();
        while ports.len() < processes {
            let port = 10_000 + (base + NEXT.fetch_add(1, Ordering::Relaxed)) % 20_000;
            let port = u16::try_from(port).unwrap();
            if TcpListener::bind(("127.0.0.1", port)).is_ok() {
                ports.push(port);
            }
        }
        let dir = tempfile::tempdir().unwrap();
        let lines: Vec<_> = ports.iter().map(|port| format!("127.0.0.1:{port}\n")).collect();
        std::fs::write(dir.path().join("hosts"), lines.concat()).unwrap();
        Self { dir, ports }
    }

    fn arguments(&self, process: usize, threads: usize) -> String {
        let file = self.dir.path().join("hosts");
        let processes = self.ports.len();
        format!("-n {processes} -p {process} -w {threads} -h {}", file.display())
    }

    fn name(&self, process: usize) -> String {
        format!("process {process} (127.0.0.1:{})", self.ports[process])
    }

    /// All processes of a job with the same part.
    pub(crate) fn start(&self, part: &str, threads: usize) -> Vec<Child> {
        self.start_with(part, threads, None)
    }

    /// The same with a file that they share.
    pub(crate) fn start_with(&self, part: &str, threads: usize, file: Option<&Path>) -> Vec<Child> {
        let start = |process| Child::start_with(part, &self.arguments(process, threads), file);
        (0..self.ports.len()).map(start).collect()
    }

    /// A connection to a process as soon as it listens.
    fn connect(&self, process: usize) -> TcpStream {
        loop {
            if let Ok(stream) = TcpStream::connect(("127.0.0.1", self.ports[process])) {
                return stream;
            }
            std::thread::yield_now();
        }
    }
}

/// All children end well and have exchanged; returns what they warned of.
#[track_caller]
fn assert_exchanged(children: &mut [Child], threads: u64) -> Vec<String> {
    let workers = threads * children.len() as u64;
    let mut lines = Vec::new();
    for child in children {
        let exit = child.exit();
        assert_eq!((exit.code, exit.stderr.as_str()), (Some(0), ""));
        lines.extend(child.lines.iter());
    }
    let (warnings, mut lines): (Vec<_>, Vec<_>) = lines.into_iter().partition(|line| line.starts_with("warn "));
    lines.sort();
    let expected: Vec<_> = (0..7)
        .map(|key| {
            let numbers = (0..1000_u64).filter(|x| x % 7 == key);
            let (n, sum) = numbers.fold((0, 0), |(n, sum), x| (n + 1, sum + x));
            format!("{key} {} {} @{}", n * workers, sum * workers, key % workers)
        })
        .collect();
    assert_eq!(lines, expected);
    warnings
}

// ---- Jobs that succeed ----

#[test]
fn processes_exchange_by_key_and_agree() {
    for extra in ["", " -z", " --progress-mode eager"] {
        let hosts = Hosts::new(2);
        let mut children: Vec<_> = (0..2).map(|p| Child::start("exchange", &(hosts.arguments(p, 2) + extra))).collect();
        assert!(assert_exchanged(&mut children, 2).is_empty());
    }
}

#[test]
fn one_process_needs_no_sockets() {
    for (threads, arguments) in [(1, "-w 1"), (3, "-w 3"), (2, "-w 2 -z")] {
        assert_exchanged(&mut [Child::start("exchange", arguments)], threads);
    }
}

#[test]
fn three_processes_start_in_any_order() {
    let hosts = Hosts::new(3);
    let mut children: Vec<_> = [2, 0, 1].map(|p| Child::start("exchange", &hosts.arguments(p, 1))).into();
    assert_exchanged(&mut children, 1);
}

#[test]
fn silent_and_junk_clients_do_not_prevent_formation() {
    let hosts = Hosts::new(2);
    let first = Child::start("exchange", &hosts.arguments(0, 1));
    let silent = hosts.connect(0);
    let mut junk = hosts.connect(0);
    junk.write_all(b"GET / HTTP/1.1\r\nHost: example\r\n\r\n").unwrap();
    let mut index = hosts.connect(0);
    // What timely's own handshake would take for a process.
    index.write_all(&u64::MAX.to_be_bytes()).unwrap();
    // The junk is rejected before the other process is there; on a slow machine the time of a silent one may be over first.
    let mut warning = first.line();
    while warning.contains("no answer") {
        warning = first.line();
    }
    assert!(warning.contains("it does not speak this protocol"), "{warning}");
    let second = Child::start("exchange", &hosts.arguments(1, 1));
    // The silent ones are not waited for; on a slow machine their time may run out meanwhile.
    for warning in assert_exchanged(&mut [first, second], 1) {
        assert!(warning.contains("no answer"), "{warning}");
    }
    drop((silent, junk, index));
}

#[test]
fn a_stopped_peer_is_waited_for() {
    let hosts = Hosts::new(2);
    let mut children = hosts.start("gate", 1);
    assert_eq!(children[0].line(), "row 0");
    assert_eq!(children[1].line(), "row 1");
    children[1].signal("-STOP");
    // Longer than any patience of a running job.
    let quiet = children[0].exit.recv_timeout(Duration::from_millis(2500));
    assert!(quiet.is_err(), "{quiet:?}");
    children[1].signal("-CONT");
    children[0].stdin.write_all(b"\n").unwrap();
    for (index, child) in children.iter_mut().enumerate() {
        let exit = child.exit();
        assert_eq!((exit.code, exit.stderr.as_str()), (Some(0), ""));
        assert_eq!(child.line(), format!("done {index}"));
    }
}

#[test]
fn a_process_that_restarts_while_the_cluster_forms_takes_its_place() {
    let hosts = Hosts::new(3);
    let first = Child::start("exchange", &hosts.arguments(0, 1));
    let mut second = Child::start("exchange", &hosts.arguments(1, 1));
    // It listens before it connects, and connects within a few milliseconds of that.
    drop(hosts.connect(1));
    second.signal("-9");
    assert_eq!(second.exit().code, None);
    let second = Child::start("exchange", &hosts.arguments(1, 1));
    let third = Child::start("exchange", &hosts.arguments(2, 1));
    assert_exchanged(&mut [first, second, third], 1);
}

// ---- Jobs that fail while they run ----

#[test]
fn a_killed_process_is_named_by_the_other() {
    for killed in [0, 1] {
        let hosts = Hosts::new(2);
        let mut children = hosts.start("stay", 2);
        for child in &children {
            assert!(child.line().starts_with("ready "));
        }
        children[killed].signal("-9");
        let message = children[1 - killed].fails_within(PROMPT);
        assert_eq!(message, format!("{} was lost: connection closed", hosts.name(killed)));
        assert_eq!(children[killed].exit().code, None);
    }
}

#[test]
fn a_cut_data_connection_alone_ends_the_job() {
    let hosts = Hosts::new(2);
    // Process 1 reaches process 0 through a proxy. Its first connection is the control one, its second for data.
    let proxy = TcpListener::bind("127.0.0.1:0").unwrap();
    let detour = hosts.dir.path().join("detour");
    let lines = format!("{}\n127.0.0.1:{}\n", proxy.local_addr().unwrap(), hosts.ports[1]);
    std::fs::write(&detour, lines).unwrap();
    let mut children = [
        Child::start("stay", &hosts.arguments(0, 1)),
        Child::start("stay", &format!("-n 2 -p 1 -h {}", detour.display())),
    ];
    let mut pairs = Vec::new();
    for _ in 0..2 {
        let (near, _) = proxy.accept().unwrap();
        let far = hosts.connect(0);
        for (from, to) in [(&near, &far), (&far, &near)] {
            let (mut from, mut to) = (from.try_clone().unwrap(), to.try_clone().unwrap());
            std::thread::spawn(move || std::io::copy(&mut from, &mut to));
        }
        pairs.push([near, far]);
    }
    for child in &children {
        assert!(child.line().starts_with("ready "));
    }
    for stream in &pairs[1] {
        stream.shutdown(std::net::Shutdown::Both).unwrap();
    }
    for child in &mut children {
        let message = child.fails_within(PROMPT);
        assert!(message.contains(" was lost: "), "{message}");
        assert!(message.contains("timely communication error"), "{message}");
    }
}

#[test]
fn a_panic_ends_all_threads_of_a_process() {
    for arguments in ["-w 1", "-w 4", "-w 3 -z"] {
        let message = Child::start("panic", arguments).fails_within(LONG);
        assert!(message.starts_with("worker "), "{message}");
        assert!(message.contains(" of process 0 panicked at "), "{message}");
        assert!(message.contains("cluster.rs:"), "{message}");
        assert!(message.ends_with("has had enough"), "{message}");
    }
}

#[test]
fn a_panic_ends_all_processes_and_all_say_why() {
    let hosts = Hosts::new(3);
    let mut children = hosts.start("panic", 2);
    let own = children[2].fails_within(LONG);
    assert!(own.starts_with("worker 5 of process 2 panicked at "), "{own}");
    for child in &mut children[..2] {
        assert_eq!(child.fails_within(PROMPT), format!("process 2 failed: {own}"));
    }
}

#[test]
fn a_failure_ends_all_processes_and_all_say_why() {
    let hosts = Hosts::new(2);
    let mut children = hosts.start("data", 2);
    assert_eq!(children[1].fails_within(LONG), "line 7: no key");
    assert_eq!(children[0].fails_within(PROMPT), "process 1 failed: line 7: no key");
}

#[test]
fn any_thread_may_end_the_job() {
    let message = Child::start("helper", "-w 2").fails_within(LONG);
    assert_eq!(message, "the sink is full");
}

#[test]
fn cleanups_run_before_the_process_ends() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("half-written");
    std::fs::write(&file, "").unwrap();
    let mut child = Child::start_with("panic", "-w 2", Some(&file));
    child.fails_within(LONG);
    assert!(!file.exists());
}

// ---- Jobs that do not come together ----

#[test]
fn a_peer_that_never_comes_is_named() {
    let hosts = Hosts::new(2);
    for (present, missing) in [(0, 1), (1, 0)] {
        let arguments = hosts.arguments(present, 1) + " --connect-timeout 1";
        let message = Child::start("exchange", &arguments).fails_within(LONG);
        let expected = format!("{} did not come within 1 s; ", hosts.name(missing));
        assert!(message.starts_with(&expected), "{message}");
    }
}

#[test]
fn a_taken_port_is_named_at_once() {
    let hosts = Hosts::new(2);
    let address = format!("127.0.0.1:{}", hosts.ports[0]);
    let _taken = TcpListener::bind(&address).unwrap();
    let message = Child::start("exchange", &hosts.arguments(0, 1)).fails_within(LONG);
    let expected = format!("process 0 cannot listen on {address}: ");
    assert!(message.starts_with(&expected), "{message}");
}

#[test]
fn processes_with_different_tokens_do_not_meet() {
    let hosts = Hosts::new(2);
    let mut children: Vec<_> = (0..2)
        .map(|p| {
            let file = hosts.dir.path().join(format!("token-{p}"));
            std::fs::write(&file, format!("secret {p}")).unwrap();
            let options = format!(" --connect-timeout 6 --token-file {}", file.display());
            Child::start("exchange", &(hosts.arguments(p, 1) + &options))
        })
        .collect();
    let acceptor = children[0].fails_within(LONG);
    assert!(acceptor.starts_with(&format!("{} did not come within 6 s; ", hosts.name(1))), "{acceptor}");
    assert!(acceptor.ends_with("its token differs from this process's"), "{acceptor}");
    let connector = children[1].fails_within(LONG);
    assert!(connector.starts_with(&format!("{} did not come within 6 s; ", hosts.name(0))), "{connector}");
    // Whichever ended first, the other has either been refused or finds nobody.
    assert!(connector.contains("token") || connector.contains("refused"), "{connector}");
}

#[test]
fn processes_with_one_token_meet() {
    let hosts = Hosts::new(2);
    let file = hosts.dir.path().join("token");
    std::fs::write(&file, "secret\n").unwrap();
    let options = format!(" --token-file {}", file.display());
    let mut children: Vec<_> = (0..2).map(|p| Child::start("exchange", &(hosts.arguments(p, 1) + &options))).collect();
    assert_exchanged(&mut children, 1);
}

#[test]
fn processes_of_different_shape_end_at_once() {
    let hosts = Hosts::new(2);
    let arguments = |p| hosts.arguments(p, p + 1) + " --connect-timeout 600";
    let mut children: Vec<_> = (0..2).map(|p| Child::start("exchange", &arguments(p))).collect();
    for child in &mut children {
        let message = child.fails_within(LONG);
        assert!(message.contains("-w 1 -n 2"), "{message}");
        assert!(message.contains("-w 2 -n 2"), "{message}");
    }
}

#[test]
fn a_mismatch_of_two_processes_ends_the_third() {
    let hosts = Hosts::new(3);
    let mut children: Vec<_> = [1, 1, 2]
        .iter()
        .enumerate()
        .map(|(p, threads)| Child::start("exchange", &(hosts.arguments(p, *threads) + " --connect-timeout 600")))
        .collect();
    for child in &mut children {
        let message = child.fails_within(LONG);
        assert!(message.contains("-w 2 -n 3"), "{message}");
    }
}

// ---- Command lines ----

fn configure(arguments: &str) -> Result<ClusterConfig, Failure> {
    let mut opts = getopts::Options::new();
    ClusterConfig::install_options(&mut opts);
    let matches = opts.parse(arguments.split_whitespace()).map_err(|e| usage_failure("agents", &e))?;
    ClusterConfig::from_matches(&matches)
}

#[test]
fn good_options_are_read() {
    let hosts = Hosts::new(3);
    let token = hosts.dir.path().join("token");
    std::fs::write(&token, "secret\n").unwrap();
    let arguments = format!("{} -r -z --connect-timeout 0.5 --token-file {}", hosts.arguments(2, 4), token.display());
    let config = configure(&arguments).unwrap();
    assert_eq!((config.threads, config.processes, config.process), (4, 3, 2));
    assert_eq!(config.addresses[1], format!("127.0.0.1:{}", hosts.ports[1]));
    assert!(config.report && config.zerocopy);
    assert_eq!(config.connect_timeout, Duration::from_millis(500));
    assert_eq!(config.token, Some(Secret::new("secret")));

    let config = configure("").unwrap();
    assert_eq!((config.threads, config.processes, config.process), (1, 1, 0));
    assert_eq!(config.connect_timeout, Duration::from_secs(30));
    assert_eq!(configure("-n 2").unwrap().addresses, ["localhost:2101", "localhost:2102"]);
}

#[test]
fn bad_options_are_named_in_one_line() {
    let dir = tempfile::tempdir().unwrap();
    let file = |name: &str, text: &str| {
        let path = dir.path().join(name);
        std::fs::write(&path, text).unwrap();
        path.display().to_string()
    };
    let short = file("short", "a:1\nb:2\n");
    let blank = file("blank", "a:1\n\nb:2\n");
    let no_port = file("no-port", "a:1\nb\n");
    let bad_port = file("bad-port", "a:1\nb:0\n");
    let twice = file("twice", "a:1\na:1\n");
    let empty = file("empty", "");
    let none = dir.path().join("none").display().to_string();
    for (arguments, expected) in [
        ("-w 0".to_owned(), "-w 0: "),
        ("-w two".to_owned(), "-w two: invalid digit"),
        ("-w -1".to_owned(), "-w -1: invalid digit"),
        ("-n 0".to_owned(), "-n 0: "),
        ("-n 2 -p 2".to_owned(), "-p 2 is out of range: with -n 2 it is at most 1"),
        ("-p 1".to_owned(), "-p 1 is out of range"),
        ("-w 9999999999 -n 9999999999".to_owned(), "too many"),
        (format!("-n 2 -h {none}"), "cannot be read: "),
        (format!("-n 3 -h {short}"), "it has 2 lines, the job has 3 processes"),
        (format!("-n 3 -h {blank}"), "line 2: it is blank"),
        (format!("-n 2 -h {no_port}"), "line 2: b is not host:port"),
        (format!("-n 2 -h {bad_port}"), "line 2: b:0 has no port"),
        (format!("-n 2 -h {twice}"), "line 2: a:1 is on line 1 already"),
        ("--progress-mode slow".to_owned(), "--progress-mode"),
        ("--connect-timeout 0".to_owned(), "--connect-timeout 0: "),
        ("--connect-timeout -1".to_owned(), "--connect-timeout -1: "),
        ("--connect-timeout nan".to_owned(), "--connect-timeout nan: "),
        ("--connect-timeout soon".to_owned(), "--connect-timeout soon: "),
        (format!("--token-file {none}"), "cannot read the token file"),
        (format!("--token-file {empty}"), "is empty"),
        ("--colour".to_owned(), "agents: unknown option --colour"),
        ("-x".to_owned(), "agents: unknown option -x"),
        ("-w".to_owned(), "agents: option -w needs a value"),
        ("-w 1 -w 2".to_owned(), "agents: option --threads is given more than once"),
    ] {
        let failure = configure(&arguments).expect_err(&arguments);
        assert_eq!((failure.kind(), failure.exit_code()), (FailureKind::Usage, 2), "{arguments}");
        assert!(failure.message().contains(expected), "{arguments}: {failure}");
        assert!(!failure.message().contains('\n'));
    }
}

#[test]
fn a_configuration_by_hand_is_checked_too() {
    let config = ClusterConfig { processes: 2, ..ClusterConfig::single(1) };
    let failure = execute(&config, |_, _| Ok(())).unwrap_err();
    assert_eq!(failure, Failure::usage("0 addresses are given for 2 processes"));
}

#[test]
fn usage_failures_exit_with_2() {
    let exit = Child::start("exchange", "-n 2 -p 2").exit();
    assert_eq!(exit.code, Some(2));
    assert_eq!(exit.stderr, "-p 2 is out of range: with -n 2 it is at most 1\n");
}
