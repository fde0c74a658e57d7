//! `replay`: runs against a program, which does it itself.

use std::process::{Command as Process, ExitCode};

use getopts::Matches;
use timely_agents::cluster::Failure;

use crate::command::Command;
use crate::directory;
use crate::ending::Ending;

pub(crate) const COMMAND: Command = Command {
    name: "replay",
    of: "",
    operands: "DIR --program PATH [--agent NAME] [--key KEY] [--sequence NUM] [--json] [-- OPTIONS]",
    most: usize::MAX,
    brief: "Replays runs against a program, makes no call, and prints what differs",
    about: "This tool does not know your program: it starts it with --replay DIR and with what follows --, which programs have\n\
            that say so (see `Arguments::replay`). Each run goes the way of its journal, with the results that its calls\n\
            had, up to its first call without one. It has the runs that are unfinished in the newest checkpoint, of agents\n\
            that carry; those that have begun behind it, as all in progress of agents that hold, where their inputs are\n\
            recorded; and those that are over and were recorded, with --retain-journals. What differs is said: calls by\n\
            name and arguments, outputs, events, memory, how the run ends. Runs that have a journal and cannot be\n\
            replayed are counted.\n\
            The exit code is 0 if no run differs, 1 if one does or runs cannot be replayed, and 2 for a wrong command line.",
    options: |options| {
        options.optopt("", "program", "the program, as it would be started", "PATH");
        options.optopt("", "agent", "only runs of this agent", "NAME");
        options.optopt("", "key", "only runs of this key, as it shows", "KEY");
        options.optflag("", "json", "as JSON, a line for each run");
        options.optopt("", "sequence", "only the run of this number among those of its key, from 1", "NUM");
    },
    run,
};

fn run(matches: &Matches) -> Ending {
    let Some(program) = matches.opt_str("program") else {
        return Err(Failure::usage("timely-agents replay: name the program with --program; see --help").into());
    };
    directory::catalogue(matches)?;
    let mut process = Process::new(&program);
    process.arg("--replay").arg(&matches.free[0]);
    process.args(&matches.free[1..]);
    for (name, option) in [("agent", "--replay-agent"), ("key", "--replay-key"), ("sequence", "--replay-run")] {
        if let Some(value) = matches.opt_str(name) {
            process.arg(option).arg(value);
        }
    }
    if matches.opt_present("json") {
        process.arg("--replay-json");
    }
    let status = process.status().map_err(|error| Failure::data(format!("{program} cannot be started: {error}")))?;
    Ok(status.code().and_then(|code| u8::try_from(code).ok()).map_or(ExitCode::FAILURE, ExitCode::from))
}
