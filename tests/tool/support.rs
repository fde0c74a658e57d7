//! Runs the tool and the main job.

use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::Value;
use tempfile::TempDir;

/// What takes longer hangs, also on a machine that does much else.
const DEADLINE: Duration = Duration::from_mins(2);

/// How a process ended.
#[derive(Debug)]
pub(crate) struct Outcome {
    pub(crate) code: Option<i32>,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

impl Outcome {
    /// The lines of a process that has nothing to complain of.
    pub(crate) fn lines(&self) -> Vec<&str> {
        assert_eq!((self.code, &*self.stderr), (Some(0), ""), "{self:#?}");
        self.stdout.lines().collect()
    }

    /// One line on standard error that has all of `parts`, and nothing on standard output.
    pub(crate) fn assert_refused(&self, code: i32, parts: &[&str]) {
        assert_eq!((self.code, &*self.stdout), (Some(code), ""), "{self:#?}");
        assert_eq!(self.stderr.lines().count(), 1, "{self:#?}");
        assert!(self.stderr.starts_with("error: ") && !self.stderr.contains("panicked"), "{self:#?}");
        for part in parts {
            assert!(self.stderr.contains(part), "no {part:?}: {self:#?}");
        }
    }
}

pub(crate) fn run(arguments: &[&str]) -> Outcome {
    let output = tool(arguments).output().expect("the tool starts");
    let text = |bytes| String::from_utf8(bytes).expect("UTF-8");
    Outcome { code: output.status.code(), stdout: text(output.stdout), stderr: text(output.stderr) }
}

pub(crate) fn tool(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_timely-agents"));
    command.args(arguments).stdin(Stdio::null());
    command
}

/// `timely-agents checkpoint COMMAND DIR …`.
pub(crate) fn checkpoint(command: &str, dir: &Path, more: &[&str]) -> Outcome {
    run(&[&["checkpoint", command, dir.to_str().expect("UTF-8")], more].concat())
}

/// What `show` shows.
pub(crate) fn shown(dir: &Path, more: &[&str]) -> Value {
    let outcome = checkpoint("show", dir, more);
    outcome.lines();
    serde_json::from_str(&outcome.stdout).expect("JSON")
}

/// The main job with its files: checkpoints, alerts and reports.
pub(crate) struct Job(TempDir);

impl Job {
    pub(crate) fn new() -> Self {
        Job(TempDir::new().expect("a temporary directory"))
    }

    pub(crate) fn checkpoints(&self) -> PathBuf {
        self.0.path().join("checkpoints")
    }

    /// Starts it, with more arguments.
    pub(crate) fn start(&self, more: &[&str]) -> Running {
        let test = env::current_exe().expect("the path of the test");
        let profile = test.parent().and_then(Path::parent).expect("target/<profile>/deps");
        let program = profile.join("examples").join(format!("turnaround{}", env::consts::EXE_SUFFIX));
        assert!(program.is_file(), "no example at {}: run `cargo build --example turnaround`", program.display());
        let path = |name| self.0.path().join(name);
        let child = Command::new(program)
            .args(["-w", "2", "--open-epochs", "1"])
            .args(more)
            .arg("--checkpoints")
            .arg(path("checkpoints"))
            .arg("--output")
            .arg(path("alerts"))
            .arg("--running")
            .arg(path("running"))
            .current_dir(env!("CARGO_MANIFEST_DIR"))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("the example starts");
        Running(child)
    }

    pub(crate) fn finished() -> Self {
        let job = Job::new();
        job.start(&[]).finish();
        job
    }

    /// All alerts that are published, sorted.
    pub(crate) fn alerts(&self) -> Vec<String> {
        let parts = fs::read_dir(self.0.path().join("alerts")).expect("the alerts");
        let parts = parts.map(|part| part.expect("a part").path()).filter(|part| part.is_file());
        let text: String = parts.map(|part| fs::read_to_string(part).expect("a part")).collect();
        let mut lines: Vec<String> = text.lines().map(str::to_owned).collect();
        lines.sort_unstable();
        lines
    }
}

/// A process of the main job, killed if the test gives up on it.
pub(crate) struct Running(Child);

impl Running {
    pub(crate) fn finish(mut self) {
        assert!(self.0.wait().expect("the job ends").success());
    }

    pub(crate) fn kill(mut self) {
        self.0.kill().expect("the job is killed");
        self.0.wait().expect("the job ends");
    }

    pub(crate) fn is_over(&mut self) -> bool {
        self.0.try_wait().expect("the state of the job").is_some()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // An error means that it has ended already.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Tries until there is something.
pub(crate) fn eventually<R>(what: &str, mut attempt: impl FnMut() -> Option<R>) -> R {
    #[expect(clippy::disallowed_methods, reason = "the deadline of a test, not of anything that it tests")]
    let begun = Instant::now();
    loop {
        if let Some(found) = attempt() {
            return found;
        }
        assert!(begun.elapsed() < DEADLINE, "{what}: not within {DEADLINE:?}");
        // What is waited for needs the processor, too.
        thread::park_timeout(Duration::from_millis(2));
    }
}

/// All files below a folder, with their bytes.
pub(crate) fn files(dir: &Path) -> Vec<(PathBuf, Vec<u8>)> {
    let mut found = Vec::new();
    for entry in fs::read_dir(dir).expect("a folder") {
        let path = entry.expect("an entry").path();
        if path.is_dir() {
            found.push((path.clone(), Vec::new()));
            found.extend(files(&path));
        } else {
            let bytes = fs::read(&path).expect("a file");
            found.push((path, bytes));
        }
    }
    found.sort_unstable();
    found
}

/// Copies a folder.
pub(crate) fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).expect("a folder");
    for entry in fs::read_dir(from).expect("a folder") {
        let path = entry.expect("an entry").path();
        let target = to.join(path.file_name().expect("a name"));
        if path.is_dir() {
            copy(&path, &target);
        } else {
            fs::copy(&path, &target).expect("a copy");
        }
    }
}
