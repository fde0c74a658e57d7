//! `timely-agents`: looks after the checkpoints of jobs and into their runs, without the jobs.
//!
//! # Exit codes
//! 0: done. 1: the directory, or what is in it, is wrong, or a run that is replayed differs. 2: the command line is wrong.
//!
//! # Invariants
//! - What is wrong is said in one line on standard error.
//! - `run`, `list`, `show` and `verify` change nothing and take no lock.
//! - A reader of the output that goes away ends the program quietly.
#![forbid(unsafe_code)]

mod command;
mod compact;
mod directory;
mod ending;
mod gc;
mod list;
mod output;
mod replay;
mod run;
mod show;
mod verify;

use std::env;
use std::ffi::OsString;
use std::process::ExitCode;

use timely_agents::cluster::Failure;
use timely_agents_operators::quiet;

use crate::command::Command;
use crate::ending::{Ending, Report};

/// What can be done with the checkpoints of a job.
const COMMANDS: [Command; 5] = [list::COMMAND, show::COMMAND, verify::COMMAND, compact::COMMAND, gc::COMMAND];
/// What can be done with its runs.
const RUNS: [Command; 2] = [run::COMMAND, replay::COMMAND];

fn main() -> ExitCode {
    quiet::install();
    let arguments: Vec<OsString> = env::args_os().skip(1).collect();
    let ending = quiet::catch(|| run(&arguments));
    ending.unwrap_or_else(|panic| Err(Failure::panic(format!("a defect of this program: it {panic}")).into())).report()
}

fn run(arguments: &[OsString]) -> Ending {
    let words: Vec<String> = arguments.iter().take(2).map(|word| word.to_string_lossy().into_owned()).collect();
    match words.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        [] => Err(Failure::usage("timely-agents: say what to do; --help lists it").into()),
        ["--help" | "-h" | "help", ..] | ["checkpoint", "--help" | "-h" | "help"] => output::print(&help()),
        ["--version" | "-V", ..] => output::print(concat!("timely-agents ", env!("CARGO_PKG_VERSION"), "\n")),
        ["checkpoint", name] => match COMMANDS.iter().find(|command| command.name == name) {
            Some(command) => command.run(&arguments[2..]),
            None => Err(Failure::usage(format!("timely-agents checkpoint: no command {name:?}; {}", names())).into()),
        },
        ["checkpoint"] => Err(Failure::usage(format!("timely-agents checkpoint: say what to do; {}", names())).into()),
        [name, ..] => match RUNS.iter().find(|command| command.name == name) {
            Some(command) => command.run(&arguments[1..]),
            None => {
                let own: Vec<&str> = RUNS.iter().map(|command| command.name).collect();
                let there = own.join(", ");
                Err(Failure::usage(format!("timely-agents: no command {name:?}; there are: checkpoint, {there}"))
                    .into())
            }
        },
    }
}

fn names() -> String {
    let names: Vec<&str> = COMMANDS.iter().map(|command| command.name).collect();
    format!("there are: {}", names.join(", "))
}

fn help() -> String {
    let line = |command: &Command| {
        let usage = format!("{} {}", command.words(), command.operands);
        format!("    {usage}\n        {}\n", command.brief)
    };
    let lines: String = COMMANDS.iter().chain(&RUNS).map(line).collect();
    format!(
        "Looks after the checkpoints of jobs and into their runs.\n\nUsage:\n{lines}\nEach has a --help of its own.\n"
    )
}
