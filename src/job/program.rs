//! The command line of a job: timely's options, those of the cluster and the runtime, and the program's own.
//!
//! # Invariants
//! - One parser for all of them: an option that nobody declared is refused.
//! - What is wrong is said in one line that names the option, with nothing started.

use std::collections::BTreeMap;
use std::env;
use std::fmt::Display;
use std::path::Path;
use std::process::ExitCode;
use std::str::FromStr;
use std::sync::{Mutex, PoisonError};

use timely::worker::Worker;
use timely_agents_operators::checkpoint::{Checkpoints, DirStore};
use timely_agents_operators::cluster::{ClusterConfig, Failure, FailureKind, usage_failure};
use timely_agents_operators::keys::Key;
use timely_agents_operators::runtime::{self, RuntimeOptions};
use timely_agents_operators::time::EpochTime;

use super::{Job, execute_with};
use crate::agent::Input;
use crate::inspect::{self, Replay, Unknown};
use crate::plan::Plan;

/// The options of the runtime for calls.
const ASYNC: &str = "async-threads";
const BLOCKING: &str = "blocking-threads";

/// The options of checkpoints.
const CHECKPOINTS: &str = "checkpoints";
const TAKE_OVER: &str = "take-over";
const RETAIN: &str = "retain-journals";
/// The options of a replay.
const REPLAY: &str = "replay";
const REPLAY_AGENT: &str = "replay-agent";
const REPLAY_KEY: &str = "replay-key";
const REPLAY_RUN: &str = "replay-run";
const REPLAY_JSON: &str = "replay-json";

/// A program with options of its own.
///
/// ```
/// use timely_agents::Program;
///
/// let program = Program::new("flights").option("input", "FILE", "what to read");
/// let arguments = program.parse(["--input", "a.csv", "-w", "2"])?.expect("no --help");
/// assert_eq!(arguments.value("input").as_deref(), Some("a.csv"));
/// assert_eq!(arguments.config().threads, 2);
/// # Ok::<(), timely_agents::cluster::Failure>(())
/// ```
pub struct Program {
    name: String,
    about: String,
    own: Vec<Own>,
}

/// An option of the program's own.
struct Own {
    name: String,
    value: String,
    about: String,
}

impl Program {
    /// A program with the options that all jobs have. Its name is that of the job: processes of another are turned
    /// away.
    pub fn new(name: impl Into<String>) -> Self {
        Program { name: name.into(), about: String::new(), own: Vec::new() }
    }

    /// What the program does, for `--help`.
    pub fn about(mut self, about: impl Into<String>) -> Self {
        self.about = about.into();
        self
    }

    /// Adds the option `--name VALUE`. The names of other options are taken, but for `report`: timely's flag is then
    /// `-r` only.
    pub fn option(mut self, name: &str, value: &str, about: &str) -> Self {
        self.own.push(Own { name: name.to_owned(), value: value.to_owned(), about: about.to_owned() });
        self
    }

    /// The one parser.
    fn options(&self) -> getopts::Options {
        let mut options = getopts::Options::new();
        for own in &self.own {
            options.optopt("", &own.name, &own.about, &own.value);
        }
        let names: Vec<&str> = self.own.iter().map(|own| &*own.name).collect();
        ClusterConfig::install_options_beside(&mut options, &names);
        let defaults = RuntimeOptions::default();
        for (name, what, default) in [
            (ASYNC, "threads that poll asynchronous calls", defaults.async_threads),
            (BLOCKING, "threads, at most, for blocking calls", defaults.blocking_threads),
        ] {
            assert!(!names.contains(&name), "the option --{name} is the runtime's");
            options.optopt("", name, &format!("{what} (default {default})"), "NUM");
        }
        for name in [CHECKPOINTS, TAKE_OVER, RETAIN, REPLAY, REPLAY_AGENT, REPLAY_KEY, REPLAY_RUN, REPLAY_JSON] {
            assert!(!names.contains(&name), "the option --{name} is the job's");
        }
        options.optopt(
            "",
            CHECKPOINTS,
            "where the job keeps its checkpoints, to go on from after a stop or a crash",
            "DIR",
        );
        options.optflag("", TAKE_OVER, "shut out a run that still holds the checkpoints");
        options.optopt(
            "",
            RETAIN,
            "record runs, and keep journals for NUM epochs beyond their commit (default 0)",
            "NUM",
        );
        let what = "replay the runs of these checkpoints that are unfinished, or over and recorded, against this program, \
                    make no call, and print what differs";
        options.optopt("", REPLAY, what, "DIR");
        options.optopt("", REPLAY_AGENT, "only those of this agent", "NAME");
        options.optopt("", REPLAY_KEY, "only those of this key, as it shows", "KEY");
        options.optopt("", REPLAY_RUN, "only the run of this number among those of its key, from 1", "NUM");
        options.optflag("", REPLAY_JSON, "print what comes of it as JSON, a line for each run");
        options.optflag("", "help", "print this");
        options
    }

    /// Reads a command line, without the program's name. `None` after `--help`, which prints the options.
    ///
    /// # Errors
    /// A usage failure: an unknown option, a missing or wrong value, an argument that is no option.
    pub fn parse<S: AsRef<std::ffi::OsStr>>(
        &self,
        args: impl IntoIterator<Item = S>,
    ) -> Result<Option<Arguments>, Failure> {
        let matches = self.options().parse(args).map_err(|error| usage_failure(&self.name, &error))?;
        if matches.opt_present("help") {
            print!("{}", self.help());
            return Ok(None);
        }
        if let Some(argument) = matches.free.first() {
            return Err(Failure::usage(format!("{}: {argument:?} is no option", self.name)));
        }
        let mut config = ClusterConfig::from_matches(&matches)?;
        config.job.clone_from(&self.name);
        let arguments = Arguments { matches, config, replayed: Mutex::default() };
        arguments.runtime()?;
        Ok(Some(arguments))
    }

    /// The text of `--help`.
    pub fn help(&self) -> String {
        let about = if self.about.is_empty() { String::new() } else { format!("{}\n\n", self.about) };
        self.options().usage(&format!("{about}Usage: {} [options]", self.name))
    }

    /// Runs `body` with this process's command line. A failure becomes one line on standard error and its exit code.
    pub fn main(self, body: impl FnOnce(Arguments) -> Result<(), Failure>) -> ExitCode {
        let args: Vec<_> = env::args_os().skip(1).collect();
        let outcome = match self.parse(args) {
            Ok(Some(arguments)) => body(arguments),
            Ok(None) => Ok(()),
            Err(failure) => Err(failure),
        };
        match outcome {
            Ok(()) => ExitCode::SUCCESS,
            Err(failure) => {
                let error = if failure.kind() == FailureKind::Stopped { "" } else { "error: " };
                eprintln!("{error}{failure}");
                ExitCode::from(failure.exit_code())
            }
        }
    }
}

/// A command line that was read.
pub struct Arguments {
    matches: getopts::Matches,
    config: ClusterConfig,
    replayed: Mutex<Replays>,
}

/// Which agents were replayed.
#[derive(Default)]
struct Replays {
    agents: usize,
    runs: usize,
    differ: usize,
}

impl Arguments {
    /// The value of an option of the program.
    pub fn value(&self, name: &str) -> Option<String> {
        self.matches.opt_str(name)
    }

    /// The value of an option, parsed.
    ///
    /// # Errors
    /// A usage failure that names the option and the value.
    pub fn parsed<V: FromStr<Err: Display>>(&self, name: &str) -> Result<Option<V>, Failure> {
        self.matches
            .opt_str(name)
            .map(|text| text.parse().map_err(|error| Failure::usage(format!("--{name} {text}: {error}"))))
            .transpose()
    }

    /// The job's shape.
    pub fn config(&self) -> &ClusterConfig {
        &self.config
    }

    fn runtime(&self) -> Result<RuntimeOptions, Failure> {
        let defaults = RuntimeOptions::default();
        let threads = |name: &str, default: usize| match self.parsed(name)? {
            Some(0) => Err(Failure::usage(format!("--{name} 0: at least one thread is needed"))),
            Some(threads) => Ok(threads),
            None => Ok(default),
        };
        Ok(RuntimeOptions {
            async_threads: threads(ASYNC, defaults.async_threads)?,
            blocking_threads: threads(BLOCKING, defaults.blocking_threads)?,
        })
    }

    /// With `--replay DIR`, replays the runs of an agent that are unfinished, or over and recorded, against `plan` and prints
    /// what differs, see
    /// [`inspect::replay`](crate::inspect::replay); without, it does nothing. Comes before [`Arguments::execute`], for each
    /// agent whose runs can be replayed.
    ///
    /// ```
    /// use timely_agents::Program;
    /// use timely_agents::prelude::*;
    ///
    /// let mut agent = Agent::<(String, u32), u32>::new("orders");
    /// agent.on_input("take", |(_, n): &(String, u32), ctx| {
    ///     ctx.output(*n);
    ///     Ok(())
    /// });
    /// let plan = agent.build()?;
    /// let arguments = Program::new("shop").parse(["-w", "2"])?.expect("no --help");
    /// // Times of type `u64`, keys of type `String`.
    /// arguments.replay::<u64, String, _, _>(&plan)?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// As `inspect::replay`.
    pub fn replay<T: EpochTime, K: Key, I: Input, O: 'static>(&self, plan: &Plan<I, O>) -> Result<(), Failure> {
        let Some(dir) = self.matches.opt_str(REPLAY) else { return Ok(()) };
        if self.matches.opt_str(REPLAY_AGENT).is_some_and(|name| name != plan.name()) {
            return Ok(());
        }
        let store = DirStore::existing(&dir)
            .map_err(|error| Failure::data(format!("--{REPLAY} {dir}: no checkpoints can be read there: {error}")))?;
        let (key, sequence) = (self.matches.opt_str(REPLAY_KEY), self.parsed(REPLAY_RUN)?);
        let Replay { runs, not_replayed } = inspect::replay::<T, K, I, O>(plan, &store, key.as_deref(), sequence)?;
        if self.matches.opt_present(REPLAY_JSON) {
            let lines = runs.iter().map(serde_json::to_string).chain(not_replayed.iter().map(serde_json::to_string));
            for line in lines {
                println!("{}", line.map_err(|error| Failure::data(format!("a run cannot be shown: {error}")))?);
            }
        } else {
            for run in &runs {
                println!("{run}");
            }
            let mut counts: BTreeMap<Unknown, usize> = BTreeMap::new();
            for run in &not_replayed {
                *counts.entry(run.not_replayed).or_default() += 1;
            }
            for (why, count) in counts {
                let runs = if count == 1 { "run that is not committed is" } else { "runs that are not committed are" };
                println!("agent {}: {count} {runs} not replayed: {why}", plan.name());
            }
        }
        let mut replayed = self.replayed.lock().unwrap_or_else(PoisonError::into_inner);
        replayed.agents += 1;
        replayed.runs += runs.len();
        replayed.differ += runs.iter().filter(|run| !run.is_same()).count();
        Ok(())
    }

    /// Whether the command line asks for a replay: the job is not run then.
    pub fn replays(&self) -> bool {
        self.matches.opt_present(REPLAY)
    }

    /// What a replay has come to; nothing if none was asked for.
    fn end_of_replay(&self) -> Option<Result<(), Failure>> {
        self.matches.opt_str(REPLAY)?;
        let Replays { agents, runs, differ } = *self.replayed.lock().unwrap_or_else(PoisonError::into_inner);
        Some(match (agents, differ) {
            (0, _) => {
                let of = self.matches.opt_str(REPLAY_AGENT).map_or_else(String::new, |name| format!(" {name:?}"));
                Err(Failure::usage(format!("--{REPLAY}: this program replays no agent{of}: it says which by `replay`")))
            }
            (_, 0) if self.matches.opt_present(REPLAY_JSON) => Ok(()),
            (_, 0) => {
                println!("{runs} runs, and none differs");
                Ok(())
            }
            (_, differ) => Err(Failure::data(format!("{differ} of {runs} runs differ with this program"))),
        })
    }

    /// Runs the job, see [`execute`](crate::execute). After a replay ([`Arguments::replay`]) nothing is run.
    ///
    /// # Errors
    /// As [`execute`](crate::execute).
    pub fn execute<R, F>(&self, build: F) -> Result<Vec<R>, Failure>
    where
        R: Send + 'static,
        F: Fn(&mut Worker, &Job) -> Result<R, Failure> + Send + Sync + 'static,
    {
        if let Some(replayed) = self.end_of_replay() {
            return replayed.map(|()| Vec::new());
        }
        let options = self.runtime()?;
        if options != RuntimeOptions::default() {
            runtime::configure(options).map_err(|error| Failure::usage(format!("the threads for calls: {error}")))?;
        }
        execute_with(&self.config, self.checkpoints()?, build)
    }

    /// The checkpoints that the command line names.
    ///
    /// # Errors
    /// They cannot be opened.
    pub fn checkpoints(&self) -> Result<Option<Checkpoints>, Failure> {
        let Some(dir) = self.matches.opt_str(CHECKPOINTS) else { return Ok(None) };
        let retain = self.parsed(RETAIN)?.unwrap_or(0);
        let checkpoints = Checkpoints::dir(dir)?.take_over(self.matches.opt_present(TAKE_OVER));
        Ok(Some(checkpoints.retain_journals(retain)))
    }

    /// Whether the command line names checkpoints.
    pub fn has_checkpoints(&self) -> bool {
        self.matches.opt_present(CHECKPOINTS)
    }
}

/// The last part of a path, as programs are named.
pub(super) fn file_name(path: &str) -> String {
    Path::new(path).file_stem().map_or_else(|| path.to_owned(), |name| name.to_string_lossy().into_owned())
}
