//! `list`: a line for each checkpoint.

use std::io::Write;
use std::process::ExitCode;

use getopts::Matches;
use timely_agents_operators::checkpoint::{ComponentKind, Stored};

use crate::command::Command;
use crate::directory;
use crate::ending::{self, Ending};
use crate::output;

pub(crate) const COMMAND: Command = Command {
    name: "list",
    of: "checkpoint",
    operands: "DIR",
    most: 1,
    brief: "Prints a line for each checkpoint that is kept, oldest first",
    about: "`epoch` is the last epoch in it; `end` stands for that of a job that is complete. Bytes of logs are those that\n\
            belong to the checkpoint. The last word is `complete`, `resumable`, or the number of files that are missing.\n\
            The exit code is 1 if links are damaged, which are named on standard error.",
    options: |_| {},
    run,
};

fn run(matches: &Matches) -> Ending {
    let (store, catalogue) = directory::catalogue(matches)?;
    let mut output = output::output();
    for stored in &catalogue.checkpoints {
        let missing = stored.missing(&*store)?.len();
        // Of a job at work some may have been removed meanwhile.
        if missing == 0 || stored.is_there(&*store)? {
            writeln!(output, "{}", line(stored, missing))?;
        }
    }
    output.flush()?;
    for error in &catalogue.damage {
        ending::complain(&error.copy().into());
    }
    Ok(if catalogue.damage.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn line(stored: &Stored, missing: usize) -> String {
    let manifest = &stored.manifest;
    let count = |kind| manifest.components.iter().filter(|component| component.kind == kind).count();
    let state = match (missing, manifest.frontier) {
        (0, None) => "complete".to_owned(),
        (0, Some(_)) => "resumable".to_owned(),
        (n, _) => format!("{n} missing files"),
    };
    format!(
        "epoch {:<8} generation {:<4} link {:<6} snapshot {:>10} B  logs {:>10} B  agents {}  collections {}  {state}",
        epoch(stored),
        manifest.generation,
        stored.link,
        stored.snapshot_bytes(),
        stored.log_bytes(),
        count(ComponentKind::Agent),
        count(ComponentKind::Collection),
    )
}

/// The last epoch of a checkpoint, as it is called.
pub(crate) fn epoch(stored: &Stored) -> String {
    match (stored.manifest.frontier, stored.last_epoch()) {
        (None, _) => "end".to_owned(),
        (_, Some(epoch)) => epoch.to_string(),
        (_, None) => "none".to_owned(),
    }
}
