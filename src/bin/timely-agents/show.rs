//! `show`: what a checkpoint holds, as JSON.

use std::io::{self, Write};
use std::process::ExitCode;

use getopts::Matches;
use timely_agents::cluster::Failure;
use timely_agents::inspect::{Inspection, Selection};
use timely_agents_operators::checkpoint::{Catalogue, CheckpointStore, Stored};

use crate::command::Command;
use crate::directory;
use crate::ending::{Ending, Fault};
use crate::list;
use crate::output;

pub(crate) const COMMAND: Command = Command {
    name: "show",
    of: "checkpoint",
    operands: "DIR [EPOCH] [--agent NAME] [--key KEY]",
    most: 2,
    brief: "Prints what a checkpoint holds, as JSON",
    about: "The newest checkpoint, or the one that has EPOCH. Of each agent and key: the number of its runs, its memory by slot\n\
            and path, notifications that it waits for, waiting inputs, and the run that is not finished. Of collections: rows\n\
            with their multiplicities. Values of unknown types are in hexadecimal.",
    options: |options| {
        options.optopt("", "agent", "only this agent, or collection", "NAME");
        options.optopt("", "key", "only this key, or row: as it shows, text without quotes too", "KEY");
    },
    run,
};

/// Checkpoints that may be removed, one after the other, while they are read.
const TRIES: usize = 10;

fn run(matches: &Matches) -> Ending {
    let epoch = match matches.free.get(1) {
        None => None,
        Some(text) => Some(text.parse::<u64>().map_err(|_| {
            Failure::usage(format!(
                "timely-agents checkpoint show: {text:?} is no epoch; it is a number, as `list` has it"
            ))
        })?),
    };
    let asked = Selection { component: matches.opt_str("agent"), key: matches.opt_str("key") };
    let mut tries = 0;
    let inspection = loop {
        let (store, catalogue) = directory::catalogue(matches)?;
        let stored = chosen(&catalogue, epoch, &matches.free[0])?;
        tries += 1;
        match Inspection::read(&*store, stored, &asked) {
            Ok(inspection) => break inspection,
            // The job has gone on and removed it: there are newer ones.
            Err(_) if tries < TRIES && removed(stored, &*store)? => {}
            Err(failure) => return Err(failure.into()),
        }
    };
    let mut output = output::output();
    serde_json::to_writer_pretty(&mut output, &inspection).map_err(|error| {
        if error.is_io() {
            Fault::Output(io::Error::from(error))
        } else {
            Fault::Failure(Failure::data(format!("the checkpoint cannot be shown: {error}")))
        }
    })?;
    writeln!(output)?;
    output.flush()?;
    Ok(ExitCode::SUCCESS)
}

fn removed(stored: &Stored, store: &dyn CheckpointStore) -> Ending<bool> {
    Ok(!stored.is_there(store)?)
}

fn chosen<'a>(catalogue: &'a Catalogue, epoch: Option<u64>, dir: &str) -> Ending<&'a Stored> {
    let Some(epoch) = epoch else {
        let newest = catalogue.newest()?;
        return newest.ok_or_else(|| Failure::data(format!("{dir} has no checkpoint yet")).into());
    };
    catalogue.covering(epoch).ok_or_else(|| {
        let kept: Vec<String> = catalogue.checkpoints.iter().map(list::epoch).collect();
        let kept = if kept.is_empty() { "none".to_owned() } else { kept.join(", ") };
        Failure::data(format!("{dir} has no checkpoint of epoch {epoch}; those that are kept end with epoch: {kept}"))
            .into()
    })
}
