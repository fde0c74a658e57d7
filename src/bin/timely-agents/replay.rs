//! `replay`: unfinished runs against a program, which does it itself.

use std::process::{Command as Process, ExitCode};

use getopts::Matches;
use timely_agents::cluster::Failure;

use crate::command::Command;
use crate::directory;
use crate::ending::Ending;

pub(crate) const COMMAND: Command = Command {
    name: "replay",
    of: "",
    operands: "DIR --program PATH [--agent NAME] [--key KEY]",
    most: 1,
    brief: "Replays unfinished runs against a program, makes no call, and prints what differs",
    about: "This tool does not know your program: it starts it with --replay DIR, which programs have that say so (see\n\
            `Arguments::replay`). Each run goes the way of its journal, with the results that its calls had, up to its first\n\
            call without one; where name or arguments of a call are others, that is said. Runs that are over, or not in\n\
            a checkpoint, are not replayed.\n\
            The exit code is 1 if a run differs.",
    options: |options| {
        options.optopt("", "program", "the program, as it would be started", "PATH");
        options.optopt("", "agent", "only runs of this agent", "NAME");
        options.optopt("", "key", "only the run of this key, as it shows", "KEY");
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
    for (name, option) in [("agent", "--replay-agent"), ("key", "--replay-key")] {
        if let Some(value) = matches.opt_str(name) {
            process.arg(option).arg(value);
        }
    }
    let status = process.status().map_err(|error| Failure::data(format!("{program} cannot be started: {error}")))?;
    Ok(status.code().and_then(|code| u8::try_from(code).ok()).map_or(ExitCode::FAILURE, ExitCode::from))
}
