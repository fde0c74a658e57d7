//! `gc`: removes what no checkpoint needs.

use std::io::Write;
use std::process::ExitCode;

use getopts::Matches;
use timely_agents::cluster::Failure;
use timely_agents_operators::checkpoint;

use crate::command::Command;
use crate::directory;
use crate::ending::Ending;
use crate::output;

pub(crate) const COMMAND: Command = Command {
    name: "gc",
    of: "checkpoint",
    operands: "DIR [--keep NUM] [--retain NUM] [--live]",
    most: 1,
    brief: "Removes files that no kept checkpoint needs, and prints their names",
    about: "All checkpoints are kept unless --keep says how many. Nothing is removed if a link is damaged, for then it is not\n\
            known what is needed; or while a job is at work, unless --live is given: the files of its generation stay then.",
    options: |options| {
        options.optopt("", "keep", "keep the newest NUM checkpoints only, at least 2", "NUM");
        options.optopt(
            "",
            "retain",
            "keep journals of calls for NUM epochs beyond their commit, as the job did",
            "NUM",
        );
        options.optflag("", "live", "though a job may be at work");
    },
    run,
};

fn run(matches: &Matches) -> Ending {
    let keep = match matches.opt_str("keep") {
        None => usize::MAX,
        Some(text) => text.parse().ok().filter(|keep| *keep >= 2).ok_or_else(|| {
            Failure::usage(format!("timely-agents checkpoint gc: --keep {text}: at least 2 checkpoints are kept"))
        })?,
    };
    let retain = match matches.opt_str("retain") {
        None => 0,
        Some(text) => text.parse().map_err(|_| {
            Failure::usage(format!("timely-agents checkpoint gc: --retain {text}: that is no number of epochs"))
        })?,
    };
    let (store, catalogue) = directory::catalogue(matches)?;
    let removed = match &catalogue.job {
        Some(job) => checkpoint::gc(&*store, job, (keep, retain), matches.opt_present("live"))?,
        None => Vec::new(),
    };
    let mut output = output::output();
    for name in removed {
        writeln!(output, "removed {}", store.describe(&name))?;
    }
    output.flush()?;
    Ok(ExitCode::SUCCESS)
}
