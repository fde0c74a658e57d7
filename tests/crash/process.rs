//! Processes of a job: started in any shape, watched, signalled, and waited for.
//!
//! # Invariants
//! - Nothing waits without a deadline, and no process outlives its test.

use std::env;
use std::ffi::OsString;
use std::fmt::Display;
use std::fs;
use std::io::Read;
use std::net::TcpListener;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicU16, Ordering};
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;
use timely_agents::clock::Clock;

/// A job that takes longer hangs, also on a machine that does much else.
pub(crate) const DEADLINE: Duration = Duration::from_mins(2);

/// Workers in each of some processes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Shape {
    pub(crate) processes: usize,
    pub(crate) workers: usize,
}

pub(crate) const ONE: Shape = Shape { processes: 1, workers: 1 };
pub(crate) const TWO_WORKERS: Shape = Shape { processes: 1, workers: 2 };
pub(crate) const TWO_PROCESSES: Shape = Shape { processes: 2, workers: 1 };
pub(crate) const SHAPES: [Shape; 3] = [ONE, TWO_WORKERS, TWO_PROCESSES];

pub(crate) fn workers(workers: usize) -> Shape {
    Shape { processes: 1, workers }
}

/// How a process ended.
#[derive(Debug)]
pub(crate) struct Outcome {
    pub(crate) status: ExitStatus,
    pub(crate) stderr: String,
}

impl Outcome {
    pub(crate) fn killed(&self) -> bool {
        self.status.signal() == Some(9)
    }

    pub(crate) fn code(&self) -> Option<i32> {
        self.status.code()
    }

    pub(crate) fn assert_success(&self, what: &str) {
        assert_eq!(self.code(), Some(0), "{what}: {self:#?}");
        assert!(!self.stderr.contains("panicked"), "{what}: {self:#?}");
    }

    /// Exit code 1 and a line that has all of `parts`.
    pub(crate) fn assert_failed(&self, parts: &[&str]) {
        self.assert_code(1, parts);
    }

    pub(crate) fn assert_code(&self, code: i32, parts: &[&str]) {
        assert_eq!(self.code(), Some(code), "{self:#?}");
        assert!(!self.stderr.contains("panicked"), "{self:#?}");
        for part in parts {
            assert!(self.stderr.contains(part), "no {part:?}: {self:#?}");
        }
    }
}

/// A process of a job, killed if the test gives up on it.
pub(crate) struct Process {
    child: Child,
    stderr: mpsc::Receiver<String>,
    /// What was heard of its end.
    ended: Option<String>,
}

impl Process {
    pub(crate) fn start(mut command: Command) -> Self {
        let mut child = command
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap_or_else(|error| panic!("{command:?}: {error}"));
        let stderr = collect(child.stderr.take().expect("piped"));
        Self { child, stderr, ended: None }
    }

    pub(crate) fn signal(&self, signal: Signal) {
        let id = Pid::from_child(&self.child);
        // It may have ended meanwhile; until it is waited for its id is nobody else's.
        let _ = kill_process(id, signal);
    }

    /// Whether it has ended, within `wait`.
    pub(crate) fn has_ended(&mut self, wait: Duration) -> bool {
        if self.ended.is_none() {
            self.ended = self.stderr.recv_timeout(wait).ok();
        }
        self.ended.is_some()
    }

    pub(crate) fn finish(mut self) -> Outcome {
        assert!(self.has_ended(DEADLINE), "the process is still running after {DEADLINE:?}");
        let stderr = self.ended.take().expect("just asked");
        let status = self.child.wait().expect("the process ends");
        Outcome { status, stderr }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // An error means that it has ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Reads a pipe to its end on a thread of its own, so that a full pipe stops nobody.
fn collect(mut pipe: impl Read + Send + 'static) -> mpsc::Receiver<String> {
    let (sender, receiver) = mpsc::channel();
    thread::spawn(move || {
        let mut bytes = Vec::new();
        let read = pipe.read_to_end(&mut bytes);
        // The receiver is gone once its test has failed.
        let _ = sender.send(read.map_or_else(|error| error.to_string(), |_| String::from_utf8_lossy(&bytes).into()));
    });
    receiver
}

/// All processes of a job.
pub(crate) struct Cluster(pub(crate) Vec<Process>);

impl Cluster {
    pub(crate) fn signal(&self, signal: Signal) {
        self.0.iter().for_each(|process| process.signal(signal));
    }

    /// Whether any process has ended.
    pub(crate) fn has_ended(&mut self) -> bool {
        self.0.iter_mut().any(|process| process.has_ended(Duration::ZERO))
    }

    pub(crate) fn finish(self) -> Vec<Outcome> {
        self.0.into_iter().map(Process::finish).collect()
    }

    pub(crate) fn kill(self) -> Vec<Outcome> {
        self.signal(Signal::KILL);
        self.finish()
    }

    pub(crate) fn assert_success(self, what: &str) {
        self.finish().iter().for_each(|outcome| outcome.assert_success(what));
    }
}

/// Waits until `condition` holds.
pub(crate) fn wait_for(what: &str, mut condition: impl FnMut() -> bool) {
    let (clock, mut pause) = (Clock::system(), Duration::from_micros(100));
    let deadline = clock.now() + DEADLINE.as_micros() as u64;
    while !condition() {
        assert!(clock.now() < deadline, "still waiting for {what} after {DEADLINE:?}");
        thread::park_timeout(pause);
        pause = (pause * 2).min(Duration::from_millis(2));
    }
}

/// Lets time pass, where the time of an event is what is varied.
pub(crate) fn pass(time: Duration) {
    let clock = Clock::system();
    let until = clock.now() + time.as_micros() as u64;
    while let Some(left) = until.checked_sub(clock.now()).filter(|left| *left > 0) {
        thread::park_timeout(Duration::from_micros(left));
    }
}

/// Ports below the range that systems give to outgoing connections, none twice in this process.
fn free_port() -> u16 {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    let first = 12_000 + (std::process::id() % 150) as u16 * 100;
    loop {
        let port = first + NEXT.fetch_add(1, Ordering::Relaxed) % 5_000;
        if TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return port;
        }
    }
}

/// How to start a program.
#[derive(Clone, Debug)]
pub(crate) struct Launch {
    program: PathBuf,
    /// Before the options of the job; none where these go into the environment.
    arguments: Option<Vec<OsString>>,
    pub(crate) env: Vec<(String, String)>,
}

impl Launch {
    /// An example, beside the directory of this test's binary.
    pub(crate) fn example(name: &str) -> Self {
        let test = env::current_exe().expect("the path of the test");
        let profile = test.parent().and_then(Path::parent).expect("target/<profile>/deps");
        let program = profile.join("examples").join(format!("{name}{}", env::consts::EXE_SUFFIX));
        assert!(program.is_file(), "no example at {}: run `cargo build --example {name}`", program.display());
        Launch { program, arguments: Some(Vec::new()), env: Vec::new() }
    }

    /// A program of this binary, see `programs`.
    pub(crate) fn own(name: &str) -> Self {
        let env = vec![("CRASH_PROGRAM".to_owned(), name.to_owned())];
        Launch { program: env::current_exe().expect("the path of the test"), arguments: None, env }
    }

    pub(crate) fn with(mut self, name: &str, value: impl Into<String>) -> Self {
        self.env.push((name.to_owned(), value.into()));
        self
    }

    /// Starts the program by itself.
    pub(crate) fn start(&self, options: &[String]) -> Process {
        Process::start(self.command(options))
    }

    fn command(&self, options: &[String]) -> Command {
        let mut command = Command::new(&self.program);
        command.current_dir(env!("CARGO_MANIFEST_DIR")).env_remove("FAILPOINTS");
        match &self.arguments {
            Some(first) => command.args(first).args(options),
            None => command
                .args(["--exact", "programs::program", "--ignored", "--nocapture", "--test-threads=1"])
                .env("CRASH_ARGUMENTS", options.join("\n")),
        };
        command.envs(self.env.iter().map(|(name, value)| (name, value)));
        command
    }
}

/// A job with a directory of its own: `checkpoints`, `out` for what it publishes.
pub(crate) struct Job {
    dir: TempDir,
    pub(crate) launch: Launch,
    pub(crate) options: Vec<String>,
}

impl Job {
    pub(crate) fn new(launch: Launch) -> Self {
        let dir = TempDir::new().expect("a temporary directory");
        fs::create_dir(dir.path().join("out")).expect("a new directory");
        let mut job = Job { dir, launch, options: Vec::new() };
        job.option("--checkpoints", &job.path("checkpoints"));
        job
    }

    pub(crate) fn option(&mut self, name: &str, value: &dyn Display) {
        self.options.extend([name.to_owned(), value.to_string()]);
    }

    pub(crate) fn path(&self, name: &str) -> String {
        self.dir.path().join(name).to_str().expect("a path in UTF-8").to_owned()
    }

    pub(crate) fn read(&self, name: &str) -> String {
        let path = self.path(name);
        fs::read_to_string(&path).unwrap_or_else(|error| panic!("{path}: {error}"))
    }

    /// Starts the job; `adjust` may change the command of each process.
    pub(crate) fn start_with(&self, shape: Shape, mut adjust: impl FnMut(usize, &mut Command)) -> Cluster {
        self.start_more(shape, &[], &mut adjust)
    }

    pub(crate) fn start(&self, shape: Shape) -> Cluster {
        self.start_with(shape, |_, _| {})
    }

    /// With more options.
    pub(crate) fn start_more(
        &self,
        shape: Shape,
        more: &[&str],
        adjust: &mut dyn FnMut(usize, &mut Command),
    ) -> Cluster {
        let mut options = self.options.clone();
        options.extend(more.iter().map(ToString::to_string));
        options.extend(["-w".to_owned(), shape.workers.to_string()]);
        if shape.processes > 1 {
            let hosts: Vec<String> = (0..shape.processes).map(|_| format!("127.0.0.1:{}\n", free_port())).collect();
            let path = self.path(&format!("hosts-{}", free_port()));
            fs::write(&path, hosts.concat()).expect("the hostfile is written");
            options.extend(["-n".to_owned(), shape.processes.to_string(), "-h".to_owned(), path]);
        }
        let start = |process: usize| {
            let mut options = options.clone();
            if shape.processes > 1 {
                options.extend(["-p".to_owned(), process.to_string()]);
            }
            let mut command = self.launch.command(&options);
            adjust(process, &mut command);
            Process::start(command)
        };
        Cluster((0..shape.processes).map(start).collect())
    }

    /// With `points` in process `victim`.
    pub(crate) fn start_failing(&self, shape: Shape, victim: usize, points: &str) -> Cluster {
        self.start_with(shape, |process, command| {
            if process == victim {
                command.env("FAILPOINTS", points);
            }
        })
    }

    /// The lines of all parts in a folder, by their epochs in ascending order.
    pub(crate) fn parts(&self, folder: &str) -> Vec<(u64, String)> {
        let mut names: Vec<_> = list(&self.path(folder));
        names.retain(|name| !name.starts_with('.'));
        names.sort_unstable();
        let lines = |name: String| {
            let epoch = name.split('-').nth(1).and_then(|epoch| epoch.parse().ok());
            let epoch: u64 = epoch.unwrap_or_else(|| panic!("{name} is no part"));
            let text = self.read(&format!("{folder}/{name}"));
            assert!(text.is_empty() || text.ends_with('\n'), "{name}: the last line has no end");
            text.lines().map(|line| (epoch, line.to_owned())).collect::<Vec<_>>()
        };
        names.into_iter().flat_map(lines).collect()
    }

    /// How many parts have been published.
    pub(crate) fn published(&self, folder: &str) -> usize {
        list(&self.path(folder)).iter().filter(|name| !name.starts_with('.')).count()
    }

    /// What is staged under a folder: epochs, and the lines of each.
    pub(crate) fn staged(&self, folder: &str) -> Vec<(u64, usize)> {
        let stage = format!("{}/.staged", self.path(folder));
        let generations = list(&stage);
        let files = generations.iter().flat_map(|generation| {
            let folder = format!("{stage}/{generation}");
            list(&folder).into_iter().map(move |name| format!("{folder}/{name}"))
        });
        let count = |path: String| {
            let name = Path::new(&path).file_name()?.to_str()?;
            let epoch = name.split('-').next()?.parse().ok()?;
            Some((epoch, fs::read_to_string(&path).ok()?.lines().count()))
        };
        files.filter_map(count).collect()
    }
}

/// The names in a folder; none if it is not there.
pub(crate) fn list(folder: &str) -> Vec<String> {
    let Ok(entries) = fs::read_dir(folder) else { return Vec::new() };
    entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok()).collect()
}

/// `SplitMix64`: the same numbers everywhere.
pub(crate) struct Random(pub(crate) u64);

impl Random {
    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut bits = self.0;
        bits = (bits ^ (bits >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        bits = (bits ^ (bits >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        bits ^ (bits >> 31)
    }

    pub(crate) fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound
    }
}

/// A number out of the environment.
pub(crate) fn number(name: &str, default: u64) -> u64 {
    env::var(name).map_or(default, |text| text.parse().unwrap_or_else(|_| panic!("{name}={text} is no number")))
}
