//! The shape of a job and how its processes find and know each other.
//!
//! The command line is timely's own (`-w -n -p -h -r -z --progress-mode`) plus `--connect-timeout` and `--token-file`.
//! Unlike timely's parser this one refuses what cannot work before anything starts, in one line that names the option.
//!
//! # Invariants
//! - A configuration that passed [`ClusterConfig::validate`] has `threads ≥ 1`, `process < processes`, and, with
//!   several processes, exactly one distinct `host:port` for each.
//!
//! Not here: names are resolved while connecting (`formation`), as hosts may come up late.

use std::collections::BTreeSet;
use std::fmt::Display;
use std::path::Path;
use std::str::FromStr;
use std::time::Duration;

use getopts::Fail;

use super::failure::Failure;
use super::handshake::NAME_LIMIT;
use super::secret::Secret;

/// The port of process 0 when no hostfile is given; process `i` has this port plus `i`.
const FIRST_PORT: usize = 2101;

/// How long processes wait for each other unless told otherwise, in seconds.
const CONNECT_TIMEOUT_S: u64 = 30;

/// What [`super::execute`] runs on.
#[derive(Clone, Debug)]
pub struct ClusterConfig {
    /// Worker threads in each process.
    pub threads: usize,
    /// Processes of the job.
    pub processes: usize,
    /// Which of them this one is, from 0.
    pub process: usize,
    /// `host:port` of every process, in order. May be empty for a single process.
    pub addresses: Vec<String>,
    /// Log the progress of connecting at level `info` rather than `debug`.
    pub report: bool,
    /// Exchange serialised bytes between the threads of a process too.
    pub zerocopy: bool,
    /// Passed on to timely's workers.
    pub worker: timely::WorkerConfig,
    /// How long processes wait for each other.
    pub connect_timeout: Duration,
    /// Peers must prove that they know it; without one the empty token is proved.
    pub token: Option<Secret>,
    /// Peers of another job are turned away.
    pub job: String,
    /// Peers of another run of the job are turned away, for instance leftovers from before a restart.
    pub generation: u64,
    /// What peers must equal in, such as a hash of the program, when the data exchanged depends on it.
    pub fingerprint: Option<String>,
}

impl ClusterConfig {
    /// One process with the given number of worker threads.
    pub fn single(threads: usize) -> Self {
        Self {
            threads,
            processes: 1,
            process: 0,
            addresses: Vec::new(),
            report: false,
            zerocopy: false,
            worker: timely::WorkerConfig::default(),
            connect_timeout: Duration::from_secs(CONNECT_TIMEOUT_S),
            token: None,
            job: String::new(),
            generation: 0,
            fingerprint: None,
        }
    }

    /// Adds timely's options, `--connect-timeout` and `--token-file`.
    pub fn install_options(opts: &mut getopts::Options) {
        Self::install_options_beside(opts, &[]);
    }

    /// The same for a program with the long options `own`, of which it may have `report`: what timely calls so is then
    /// `-r` only.
    ///
    /// # Panics
    /// When the program wants any other name that is taken.
    pub fn install_options_beside(opts: &mut getopts::Options, own: &[&str]) {
        let report = if own.contains(&"report") { "" } else { "report" };
        // As timely's own `install_options`, but for that name.
        opts.optopt("w", "threads", "number of per-process worker threads", "NUM");
        opts.optopt("p", "process", "identity of this process", "IDX");
        opts.optopt("n", "processes", "number of processes", "NUM");
        opts.optopt("h", "hostfile", "text file whose lines are process addresses", "FILE");
        opts.optflag("r", report, "reports connection progress");
        opts.optflag("z", "zerocopy", "enable zero-copy for intra-process communication");
        timely::WorkerConfig::install_options(opts);
        opts.optopt("", "connect-timeout", "how long processes wait for each other (default 30)", "SECONDS");
        opts.optopt("", "token-file", "file with a token that all processes must share", "FILE");
        for name in own.iter().filter(|name| **name != "report") {
            let taken = [
                "threads",
                "process",
                "processes",
                "hostfile",
                "zerocopy",
                "progress-mode",
                "connect-timeout",
                "token-file",
            ];
            assert!(!taken.contains(name), "the option --{name} is the cluster's");
        }
    }

    /// Reads the options that [`Self::install_options`] added. `job`, `generation` and `fingerprint` are the
    /// program's to set.
    ///
    /// # Errors
    /// A usage failure that names the option, or the line of the hostfile, that is wrong.
    ///
    /// ```
    /// use timely_agents_operators::cluster::ClusterConfig;
    ///
    /// let mut opts = getopts::Options::new();
    /// ClusterConfig::install_options(&mut opts);
    /// let matches = opts.parse(["-n", "2", "-p", "2"]).unwrap();
    /// let failure = ClusterConfig::from_matches(&matches).unwrap_err();
    /// assert_eq!(failure.message(), "-p 2 is out of range: with -n 2 it is at most 1");
    /// assert_eq!(failure.exit_code(), 2);
    /// ```
    pub fn from_matches(matches: &getopts::Matches) -> Result<Self, Failure> {
        let threads = number(matches, "w", 1)?;
        let processes = number(matches, "n", 1)?;
        let process = number(matches, "p", 0)?;
        check_shape(threads, processes, process)?;
        let addresses = match matches.opt_str("h") {
            Some(path) => read_hostfile(Path::new(&path), processes)?,
            None if processes == 1 => Vec::new(),
            None => default_addresses(processes)?,
        };
        let config = Self {
            threads,
            processes,
            process,
            addresses,
            report: matches.opt_present("r"),
            zerocopy: matches.opt_present("zerocopy"),
            worker: timely::WorkerConfig::from_matches(matches)
                .map_err(|e| Failure::usage(format!("--progress-mode: {e}")))?,
            connect_timeout: match matches.opt_str("connect-timeout") {
                Some(text) => seconds(&text)?,
                None => Duration::from_secs(CONNECT_TIMEOUT_S),
            },
            token: matches.opt_str("token-file").map(|path| Secret::read(Path::new(&path))).transpose()?,
            ..Self::single(threads)
        };
        config.validate()?;
        Ok(config)
    }

    /// Whether the parts agree, for configurations that were put together by hand; `execute` asks too.
    ///
    /// # Errors
    /// A usage failure that names what is wrong.
    pub fn validate(&self) -> Result<(), Failure> {
        check_shape(self.threads, self.processes, self.process)?;
        if self.processes == 1 {
            return Ok(());
        }
        if self.job.len().max(self.fingerprint.as_deref().map_or(0, str::len)) > NAME_LIMIT {
            return Err(Failure::usage(format!("the job's name or fingerprint is longer than {NAME_LIMIT} bytes")));
        }
        if self.addresses.len() != self.processes {
            return Err(Failure::usage(format!(
                "{} addresses are given for {} processes",
                self.addresses.len(),
                self.processes
            )));
        }
        let mut seen = BTreeSet::new();
        for (process, address) in self.addresses.iter().enumerate() {
            check_address(address).map_err(|why| Failure::usage(format!("address of process {process}: {why}")))?;
            if !seen.insert(address) {
                return Err(Failure::usage(format!(
                    "address of process {process}: {address} belongs to another process already"
                )));
            }
        }
        Ok(())
    }

    /// How messages name a process.
    pub(super) fn name_of(&self, process: usize) -> String {
        match self.addresses.get(process) {
            Some(address) => format!("process {process} ({address})"),
            None => format!("process {process}"),
        }
    }
}

/// One line for what getopts found wrong with `program`'s command line.
///
/// ```
/// use timely_agents_operators::cluster::usage_failure;
///
/// let error = getopts::Options::new().parse(["--colour"]).unwrap_err();
/// assert_eq!(usage_failure("agents", &error).message(), "agents: unknown option --colour");
/// ```
pub fn usage_failure(program: &str, error: &Fail) -> Failure {
    let dashed = |name: &String| {
        if name.chars().count() == 1 { format!("-{name}") } else { format!("--{name}") }
    };
    let what = match error {
        Fail::ArgumentMissing(name) => format!("option {} needs a value", dashed(name)),
        Fail::UnrecognizedOption(name) => format!("unknown option {}", dashed(name)),
        Fail::OptionMissing(name) => format!("option {} is required", dashed(name)),
        Fail::OptionDuplicated(name) => format!("option {} is given more than once", dashed(name)),
        Fail::UnexpectedArgument(name) => format!("option {} takes no value", dashed(name)),
    };
    Failure::usage(format!("{program}: {what}"))
}

fn number(matches: &getopts::Matches, name: &str, default: usize) -> Result<usize, Failure> {
    match matches.opt_str(name) {
        Some(text) => parse(&text).map_err(|why| Failure::usage(format!("-{name} {text}: {why}"))),
        None => Ok(default),
    }
}

fn parse<T: FromStr<Err: Display>>(text: &str) -> Result<T, String> {
    text.parse().map_err(|e: T::Err| e.to_string())
}

fn seconds(text: &str) -> Result<Duration, Failure> {
    let wrong = |why: &str| Failure::usage(format!("--connect-timeout {text}: {why}"));
    let number: f64 = parse(text).map_err(|why| wrong(&why))?;
    match Duration::try_from_secs_f64(number) {
        Ok(time) if !time.is_zero() => Ok(time),
        _ => Err(wrong("not a positive number of seconds")),
    }
}

fn check_shape(threads: usize, processes: usize, process: usize) -> Result<(), Failure> {
    if threads == 0 {
        return Err(Failure::usage("-w 0: at least one worker thread is needed"));
    }
    if processes == 0 {
        return Err(Failure::usage("-n 0: at least one process is needed"));
    }
    if threads.checked_mul(processes).is_none_or(|n| n > u32::MAX as usize) {
        return Err(Failure::usage(format!("-w {threads} -n {processes}: too many workers")));
    }
    if process >= processes {
        return Err(Failure::usage(format!(
            "-p {process} is out of range: with -n {processes} it is at most {}",
            processes - 1
        )));
    }
    Ok(())
}

fn default_addresses(processes: usize) -> Result<Vec<String>, Failure> {
    if FIRST_PORT + processes - 1 > usize::from(u16::MAX) {
        return Err(Failure::usage(format!("-n {processes}: too many processes for one host")));
    }
    Ok((0..processes).map(|i| format!("localhost:{}", FIRST_PORT + i)).collect())
}

/// The first `processes` lines; timely, too, lets a longer file serve smaller jobs.
fn read_hostfile(path: &Path, processes: usize) -> Result<Vec<String>, Failure> {
    let wrong = |why: String| Failure::usage(format!("hostfile {}: {why}", path.display()));
    let text = std::fs::read_to_string(path).map_err(|e| wrong(format!("cannot be read: {e}")))?;
    let mut addresses = Vec::new();
    for (index, line) in text.lines().take(processes).enumerate() {
        let line = line.trim();
        check_address(line).map_err(|why| wrong(format!("line {}: {why}", index + 1)))?;
        if let Some(other) = addresses.iter().position(|a| a == line) {
            return Err(wrong(format!("line {}: {line} is on line {} already", index + 1, other + 1)));
        }
        addresses.push(line.to_owned());
    }
    if addresses.len() < processes {
        return Err(wrong(format!("it has {} lines, the job has {processes} processes", addresses.len())));
    }
    Ok(addresses)
}

/// `host:port` with a port that can be connected to. Whether the host exists shows later.
fn check_address(address: &str) -> Result<(), String> {
    if address.is_empty() {
        return Err("it is blank where host:port is expected".to_owned());
    }
    let (host, port) = address.rsplit_once(':').ok_or_else(|| format!("{address} is not host:port"))?;
    let bare_v6 = host.contains(':') && !(host.starts_with('[') && host.ends_with(']'));
    if host.is_empty() || bare_v6 || address.contains(char::is_whitespace) {
        return Err(format!("{address} is not host:port"));
    }
    match port.parse::<u16>() {
        Ok(0) | Err(_) => Err(format!("{address} has no port from 1 to 65535")),
        Ok(_) => Ok(()),
    }
}
