//! The example as a user runs it: real processes, real files, real sockets.
//!
//! Cargo builds examples for a plain `cargo test`, not for `cargo test --test turnaround`: build it first then
//! (`cargo build --example turnaround`).
//!
//! # What is checked
//! - The lines, as a set, and the report equal the interpreter's, for one worker, two, and two processes of two.
//! - A job that fails says why in one line on standard error, exits with 2 for usage and 1 for data, and leaves no file.
//!
//! # What is not
//! - Speed, and the wording of errors beyond what they must name.

use std::env;
use std::fs;
use std::io::Read;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU16, Ordering};
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use tempfile::TempDir;

use crate::JANUARY;
use crate::reference::{Reference, generate, interpret};

/// A job that takes longer hangs, also on a machine that does much else.
const DEADLINE: Duration = Duration::from_mins(2);

const USAGE: i32 = 2;
const DATA: i32 = 1;

const HEADER: &str = "year,month,day,dep_time,dep_delay,arr_delay,carrier,flight,tailnum,origin,dest";
const ROW: &str = "2013,1,2,600,20,30,UA,7,N1,EWR,BOS";

/// The example's binary: beside the directory of this test's own.
fn program() -> PathBuf {
    let test = env::current_exe().expect("the path of the test");
    let profile = test.parent().and_then(Path::parent).expect("target/<profile>/deps");
    let program = profile.join("examples").join(format!("turnaround{}", env::consts::EXE_SUFFIX));
    assert!(program.is_file(), "no example at {}: run `cargo build --example turnaround`", program.display());
    program
}

/// How a process ended.
#[derive(Debug)]
pub(crate) struct Outcome {
    code: Option<i32>,
    stdout: String,
    pub(crate) stderr: String,
}

impl Outcome {
    pub(crate) fn assert_success(&self) -> &Self {
        assert_eq!(self.code, Some(0), "{self:#?}");
        assert!(!self.stderr.contains("panicked"), "{self:#?}");
        self
    }

    /// One line on standard error that has all of `parts`, and nothing on standard output.
    fn assert_refused(&self, code: i32, parts: &[&str]) {
        assert_eq!(self.code, Some(code), "{self:#?}");
        self.assert_one_line(parts);
    }

    fn assert_one_line(&self, parts: &[&str]) {
        assert!(self.stderr.ends_with('\n') && self.stderr.trim().lines().count() == 1, "not one line: {self:#?}");
        assert!(!self.stderr.contains("panicked") && !self.stderr.contains("backtrace"), "{self:#?}");
        assert_eq!(self.stdout, "", "{self:#?}");
        for part in parts {
            assert!(has_word(&self.stderr, part), "no {part:?}: {self:#?}");
        }
    }
}

/// Whether `text` has `word` with no letter or digit right before or after it: line 3 is not line 30.
fn has_word(text: &str, word: &str) -> bool {
    text.match_indices(word).any(|(start, _)| {
        let before = text[..start].chars().next_back();
        let after = text[start + word.len()..].chars().next();
        !before.is_some_and(char::is_alphanumeric) && !after.is_some_and(char::is_alphanumeric)
    })
}

/// A process of a job, killed if the test gives up on it.
pub(crate) struct Process {
    child: Child,
    stdout: mpsc::Receiver<String>,
    stderr: mpsc::Receiver<String>,
}

impl Process {
    fn start(arguments: &[&str]) -> Self {
        Self::start_with(arguments, &[])
    }

    /// With more in its environment.
    pub(crate) fn start_with(arguments: &[&str], env: &[(&str, &str)]) -> Self {
        let mut child = Command::new(program())
            .args(arguments)
            .envs(env.iter().copied())
            .current_dir(env!("CARGO_MANIFEST_DIR"))
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("the example starts");
        let stdout = collect(child.stdout.take().expect("piped"));
        let stderr = collect(child.stderr.take().expect("piped"));
        Self { child, stdout, stderr }
    }

    pub(crate) fn finish(mut self) -> Outcome {
        let stdout = self.stdout.recv_timeout(DEADLINE);
        let stderr = self.stderr.recv_timeout(DEADLINE);
        let (Ok(stdout), Ok(stderr)) = (stdout, stderr) else {
            panic!("the process is still running after {DEADLINE:?}");
        };
        let status = self.child.wait().expect("the process ends");
        Outcome { code: status.code(), stdout, stderr }
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

fn run(arguments: &[&str]) -> Outcome {
    Process::start(arguments).finish()
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

/// A directory for a job's files: `in/` for what it reads, `out/` for what it writes.
pub(crate) struct Place(TempDir);

impl Place {
    pub(crate) fn new() -> Self {
        let place = Self(TempDir::new().expect("a temporary directory"));
        for name in ["in", "out"] {
            fs::create_dir(place.0.path().join(name)).expect("a new directory");
        }
        place
    }

    pub(crate) fn path(&self, name: &str) -> String {
        self.0.path().join(name).to_str().expect("a path in UTF-8").to_owned()
    }

    fn input(&self, text: &str) -> String {
        let path = self.path("in/flights.csv");
        fs::write(&path, text).expect("the input is written");
        path
    }

    /// A hostfile of `processes` free ports.
    fn hostfile(&self, processes: usize) -> String {
        let hosts: Vec<String> = (0..processes).map(|_| format!("127.0.0.1:{}", free_port())).collect();
        let path = self.path("in/hosts");
        fs::write(&path, hosts.join("\n") + "\n").expect("the hostfile is written");
        path
    }

    fn read(&self, name: &str) -> String {
        let path = self.path(name);
        fs::read_to_string(&path).unwrap_or_else(|error| panic!("{path}: {error}"))
    }

    /// Asserts that `out/` holds exactly these files: nothing partial, nothing temporary.
    fn assert_written(&self, names: &[&str]) {
        let mut found: Vec<String> = fs::read_dir(self.path("out"))
            .expect("the directory")
            .map(|entry| entry.expect("an entry").file_name().into_string().expect("UTF-8"))
            .collect();
        found.sort_unstable();
        assert_eq!(found, names);
    }
}

/// A text's lines sorted by bytes, each ended by LF.
pub(crate) fn sorted(text: &str) -> String {
    assert!(text.is_empty() || text.ends_with('\n'), "the last line has no end");
    let mut lines: Vec<&str> = text.lines().collect();
    lines.sort_unstable();
    lines.iter().flat_map(|line| [line, "\n"]).collect()
}

/// Equal, and if not, with a message that fits a screen.
pub(crate) fn assert_same(found: &str, expected: &str, what: &str) {
    if found != expected {
        let differ = found.lines().zip(expected.lines()).enumerate().find(|(_, (found, expected))| found != expected);
        let counts = (found.lines().count(), expected.lines().count());
        panic!("{what}: lines found and expected {counts:?}; first that differ {differ:#?}");
    }
}

/// Runs one process over `text` and compares all that it writes.
fn assert_one_process_agrees(text: &str, workers: &str) {
    let place = Place::new();
    let (input, output, report) = (place.input(text), place.path("out/alerts.jsonl"), place.path("out/report.csv"));
    let outcome = run(&["-w", workers, "--input", &input, "--output", &output, "--report", &report]);
    outcome.assert_success();
    assert_eq!(outcome.stdout, "", "alerts go to the file alone");
    let expected = interpret(text);
    assert_same(&sorted(&place.read("out/alerts.jsonl")), &expected.sorted_lines(), "alerts");
    assert_same(&place.read("out/report.csv"), &expected.report, "report");
    place.assert_written(&["alerts.jsonl", "report.csv"]);
}

/// Runs two processes of `workers` over `text` and compares the union of what they write.
fn assert_two_processes_agree(text: &str, workers: &str) {
    let place = Place::new();
    let (input, hosts, output) = (place.input(text), place.hostfile(2), place.path("out/alerts-{process}.jsonl"));
    let processes = ["0", "1"].map(|process| {
        let report = place.path(&format!("out/report-{process}.csv"));
        Process::start(&[
            "-n", "2", "-p", process, "-w", workers, "-h", &hosts, "--input", &input, "--output", &output, "--report",
            &report,
        ])
    });
    for process in processes {
        process.finish().assert_success();
    }
    // Only the process of worker 0 writes the report.
    place.assert_written(&["alerts-0.jsonl", "alerts-1.jsonl", "report-0.csv"]);
    let alerts = ["out/alerts-0.jsonl", "out/alerts-1.jsonl"].map(|name| place.read(name));
    assert!(alerts.iter().all(|part| !part.is_empty()), "each process owns some aircraft");
    let expected = interpret(text);
    assert_same(&sorted(&alerts.concat()), &expected.sorted_lines(), "alerts");
    assert_same(&place.read("out/report-0.csv"), &expected.report, "report");
}

#[test]
fn without_arguments_january_goes_to_standard_output() {
    let outcome = run(&[]);
    outcome.assert_success();
    let Reference { skipped, cancelled, .. } = interpret(JANUARY);
    assert_same(&sorted(&outcome.stdout), &interpret(JANUARY).sorted_lines(), "alerts");
    for count in [skipped, cancelled] {
        assert!(has_word(&outcome.stderr, &count.to_string()), "the summary names {count}: {}", outcome.stderr);
    }
}

#[test]
fn dash_names_standard_output() {
    let place = Place::new();
    let input = place.input(&generate(3, 500));
    let outcome = run(&["--input", &input, "--output", "-"]);
    outcome.assert_success();
    assert_same(&sorted(&outcome.stdout), &interpret(&generate(3, 500)).sorted_lines(), "alerts");
}

#[test]
fn january_is_the_same_on_one_worker() {
    assert_one_process_agrees(JANUARY, "1");
}

#[test]
fn january_is_the_same_on_two_workers() {
    assert_one_process_agrees(JANUARY, "2");
}

#[test]
fn january_is_the_same_on_two_processes_of_two_workers() {
    assert_two_processes_agree(JANUARY, "2");
}

#[test]
fn january_is_the_same_with_a_slow_advisor() {
    let place = Place::new();
    let output = place.path("out/alerts.jsonl");
    run(&["-w", "2", "--advisor-latency", "2", "--output", &output]).assert_success();
    assert_same(&sorted(&place.read("out/alerts.jsonl")), &interpret(JANUARY).sorted_lines(), "alerts");
}

#[test]
fn generated_files_are_the_same_on_any_number_of_workers() {
    for (seed, workers) in [(1, "1"), (2, "2"), (3, "3"), (4, "4")] {
        assert_one_process_agrees(&generate(seed, 2_000), workers);
    }
}

#[test]
fn generated_file_is_the_same_on_two_processes() {
    assert_two_processes_agree(&generate(5, 2_000), "1");
}

#[test]
fn process_index_is_filled_in_for_one_process_too() {
    let place = Place::new();
    let input = place.input(&generate(6, 500));
    run(&["--input", &input, "--output", &place.path("out/alerts-{process}.jsonl")]).assert_success();
    place.assert_written(&["alerts-0.jsonl"]);
}

#[test]
fn help_names_every_option() {
    let outcome = run(&["--help"]);
    outcome.assert_success();
    for option in
        ["--input", "--output", "--report", "--advisor-latency", "--threads", "--process", "--processes", "--hostfile"]
    {
        assert!(outcome.stdout.contains(option), "no {option}: {outcome:#?}");
    }
}

/// Runs the job over `text`, which it must refuse with a line that has all of `parts`, and leave nothing.
fn assert_text_refused(text: &str, parts: &[&str]) {
    for workers in ["1", "2"] {
        let place = Place::new();
        let (input, output, report) = (place.input(text), place.path("out/alerts.jsonl"), place.path("out/report.csv"));
        let outcome = run(&["-w", workers, "--input", &input, "--output", &output, "--report", &report]);
        outcome.assert_refused(DATA, parts);
        assert!(outcome.stderr.contains(&input), "the file is not named: {outcome:#?}");
        place.assert_written(&[]);
    }
}

#[test]
fn missing_file_is_refused() {
    let place = Place::new();
    let (input, output) = (place.path("in/none.csv"), place.path("out/alerts.jsonl"));
    run(&["--input", &input, "--output", &output]).assert_refused(DATA, &[&input]);
    place.assert_written(&[]);
}

#[test]
fn empty_file_is_refused() {
    assert_text_refused("", &[]);
}

#[test]
fn missing_column_is_refused() {
    for column in HEADER.split(',') {
        let header = HEADER.replacen(column, "other", 1);
        // The first place where a name occurs in the header is its own: none is part of one before it.
        assert_text_refused(&format!("{header}\n{ROW}\n"), &[column]);
    }
}

#[test]
fn truncated_last_line_is_refused() {
    assert_text_refused(&format!("{HEADER}\n{ROW}\n{ROW}\n2013,1,2,600,20,3"), &["4"]);
    assert_text_refused(&format!("{HEADER}\n{ROW}\n{ROW}\n2013,1,2,600,20,30,\"UA,7,N1,EWR"), &["4"]);
}

#[test]
fn malformed_field_is_named_with_file_line_column_and_value() {
    for (row, column, value) in [
        ("2013,1,2,600,soon,30,UA,7,N1,EWR,BOS", "dep_delay", "soon"),
        ("2013,1,2,600,20,3O,UA,7,N1,EWR,BOS", "arr_delay", "3O"),
        ("2013,1,2,600,NA,30,UA,7,N1,EWR,BOS", "dep_delay", "NA"),
        ("2013,1,2,600,99999999999999999999,30,UA,7,N1,EWR,BOS", "dep_delay", "99999999999999999999"),
        ("2013,1,2,600,20,30,UA,seven,N1,EWR,BOS", "flight", "seven"),
        ("MMXIII,1,2,600,20,30,UA,7,N1,EWR,BOS", "year", "MMXIII"),
        ("2013,13,2,600,20,30,UA,7,N1,EWR,BOS", "month", "13"),
        ("2013,1,32,600,20,30,UA,7,N1,EWR,BOS", "day", "32"),
        ("2013,2,29,600,20,30,UA,7,N1,EWR,BOS", "day", "29"),
    ] {
        assert_text_refused(&format!("{HEADER}\n{ROW}\n{ROW}\n{row}\n{ROW}\n"), &["4", column, value]);
    }
}

#[test]
fn lines_are_counted_as_an_editor_counts_them() {
    let remark = "\"one\ntwo\nthree\"";
    let text = format!("{HEADER},remark\n{ROW},{remark}\n2013,1,2,600,soon,30,UA,7,N1,EWR,BOS,\n");
    assert_text_refused(&text, &["5", "dep_delay", "soon"]);
}

#[test]
fn date_before_the_line_above_is_refused() {
    let earlier = "2012,12,31,600,20,30,UA,7,N1,EWR,BOS";
    assert_text_refused(&format!("{HEADER}\n{ROW}\n{ROW}\n{earlier}\n"), &["4"]);
    // Also in rows that the job would skip, or count as cancelled.
    assert_text_refused(&format!("{HEADER}\n{ROW}\n2013,1,1,600,20,30,UA,7,NA,EWR,BOS\n"), &["3"]);
    assert_text_refused(&format!("{HEADER}\n{ROW}\n2013,1,1,NA,NA,NA,UA,7,N1,EWR,BOS\n"), &["3"]);
}

#[test]
fn data_error_ends_every_process_of_the_job() {
    let place = Place::new();
    let (input, hosts) = (place.input(&format!("{HEADER}\n{ROW}\n2013,1,2,soon\n")), place.hostfile(2));
    let output = place.path("out/alerts-{process}.jsonl");
    let processes = ["0", "1"].map(|process| {
        Process::start(&["-n", "2", "-p", process, "-w", "2", "-h", &hosts, "--input", &input, "--output", &output])
    });
    let [first, second] = processes.map(Process::finish);
    first.assert_refused(DATA, &[&input, "3"]);
    second.assert_refused(DATA, &[]);
    place.assert_written(&[]);
}

#[test]
fn unknown_flag_is_refused() {
    run(&["--outptu", "alerts.jsonl"]).assert_refused(USAGE, &["outptu"]);
}

#[test]
fn malformed_flag_is_refused() {
    run(&["-w", "many"]).assert_refused(USAGE, &[]);
    run(&["-w", "0"]).assert_refused(USAGE, &[]);
    run(&["--advisor-latency", "slow"]).assert_refused(USAGE, &["slow"]);
    run(&["--input"]).assert_refused(USAGE, &["input"]);
}

#[test]
fn unreadable_hostfile_is_refused() {
    let place = Place::new();
    let hosts = place.path("in/none");
    let output = place.path("out/alerts-{process}.jsonl");
    run(&["-n", "2", "-p", "0", "-h", &hosts, "--output", &output]).assert_refused(USAGE, &[&hosts]);
    place.assert_written(&[]);
}

#[test]
fn short_hostfile_is_refused() {
    let place = Place::new();
    let hosts = place.hostfile(1);
    let output = place.path("out/alerts-{process}.jsonl");
    run(&["-n", "2", "-p", "0", "-h", &hosts, "--output", &output]).assert_refused(USAGE, &[&hosts]);
    place.assert_written(&[]);
}

#[test]
fn process_out_of_range_is_refused() {
    let place = Place::new();
    let (hosts, output) = (place.hostfile(2), place.path("out/alerts-{process}.jsonl"));
    run(&["-n", "2", "-p", "2", "-h", &hosts, "--output", &output]).assert_refused(USAGE, &["2"]);
    run(&["-p", "1", "--output", &output]).assert_refused(USAGE, &["1"]);
    place.assert_written(&[]);
}

#[test]
fn one_output_for_two_processes_is_refused() {
    let place = Place::new();
    let (hosts, output) = (place.hostfile(2), place.path("out/alerts.jsonl"));
    for process in ["0", "1"] {
        run(&["-n", "2", "-p", process, "-h", &hosts, "--output", &output]).assert_refused(USAGE, &["{process}"]);
    }
    place.assert_written(&[]);
}

#[test]
fn taken_port_is_named() {
    let place = Place::new();
    let holder = TcpListener::bind("127.0.0.1:0").expect("a port");
    let taken = holder.local_addr().expect("its address").to_string();
    let hosts = place.path("in/hosts");
    fs::write(&hosts, format!("{}\n127.0.0.1:{}\n", taken, free_port())).expect("the hostfile is written");
    let output = place.path("out/alerts-{process}.jsonl");
    let outcome = run(&["-n", "2", "-p", "0", "-h", &hosts, "--output", &output]);
    // Neither the command line nor the data is wrong, so either code will do.
    assert!(matches!(outcome.code, Some(USAGE | DATA)), "{outcome:#?}");
    outcome.assert_one_line(&[&taken]);
    place.assert_written(&[]);
}

#[test]
fn failed_job_leaves_an_older_output_alone() {
    let place = Place::new();
    let (input, output) = (place.input("year\n2013\n"), place.path("out/alerts.jsonl"));
    fs::write(&output, "older\n").expect("the file is written");
    run(&["--input", &input, "--output", &output]).assert_refused(DATA, &[]);
    assert_eq!(place.read("out/alerts.jsonl"), "older\n");
    place.assert_written(&["alerts.jsonl"]);
}
