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
    operands: "DIR [--keep NUM] [--live]",
    most: 1,
    brief: "Removes files that no kept checkpoint needs, and prints their names",
    about: "All checkpoints are kept unless --keep says how many. Nothing is removed if a link is damaged, for then it is not\n\
            known what is needed; or while a job is at work, unless --live is given: the files of its generation stay then.",
    options: |options| {
        options.optopt("", "keep", "keep the newest NUM checkpoints only, at least 2", "NUM");
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
    let (store, catalogue) = directory::catalogue(matches)?;
    let removed = match &catalogue.job {
        Some(job) => checkpoint::gc(&*store, job, keep, matches.opt_present("live"))?,
        None => Vec::new(),
    };
    let mut output = output::output();
    for name in removed {
        writeln!(output, "removed {}", store.describe(&name))?;
    }
    output.flush()?;
    Ok(ExitCode::SUCCESS)
}
