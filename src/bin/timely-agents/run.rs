//! `run`: the journal of a run, as a tree.

use std::io::{self, Write};
use std::process::{Command as Process, ExitCode};

use getopts::Matches;
use serde::Deserialize;
use timely_agents::cluster::Failure;
use timely_agents::inspect::{CallResult, RunJournal, StoredNotes};

use crate::command::Command;
use crate::directory;
use crate::ending::{Ending, Fault};
use crate::output;

pub(crate) const COMMAND: Command = Command {
    name: "run",
    of: "",
    operands: "DIR --agent NAME --key KEY [--sequence NUM] [--json] [--program PATH [-- OPTIONS]]",
    most: usize::MAX,
    brief: "Prints the journal of a run: tasks, calls, attempts, how long they took, and what they gave",
    about: "The run that the key has not finished, or else the newest that has a journal. It comes from the newest checkpoint,\n\
            for runs that the agent carries, and from notes of calls. Those go with the commit of their epochs, unless the job\n\
            was started with --retain-journals; then each run is recorded, with what it put out and changed. Times are by the\n\
            clock of turns: a call is asked for in one, and its end is given in another. Results of calls are in hexadecimal,\n\
            or as the text that they look like. With --program they are what the program says they are: it does the run\n\
            again, as for `replay`, and makes no call.",
    options: |options| {
        options.optopt("", "agent", "the agent", "NAME");
        options.optopt("", "key", "the key: as `checkpoint show` has it, text without quotes too", "KEY");
        options.optopt("", "sequence", "the run's number among those of its key, from 1", "NUM");
        options.optflag("", "json", "as JSON, with all values whole");
        options.optopt("", "program", "the program, as it would be started; what follows -- are options of it", "PATH");
    },
    run,
};

/// Checkpoints that may be removed, one after the other, while they are read.
const TRIES: usize = 10;

fn run(matches: &Matches) -> Ending {
    let usage = |why: String| Failure::usage(format!("timely-agents run: {why}; see --help"));
    let needed =
        |name: &str, what: &str| matches.opt_str(name).ok_or_else(|| usage(format!("name the {what} with --{name}")));
    let (agent, key) = (needed("agent", "agent")?, needed("key", "key")?);
    let sequence = match matches.opt_str("sequence") {
        None => None,
        Some(text) => {
            let number = text.parse::<u64>().ok().filter(|number| *number > 0);
            Some(number.ok_or_else(|| usage(format!("--sequence {text}: runs have numbers from 1")))?)
        }
    };
    let program = matches.opt_str("program");
    if let Some(surplus) = matches.free.get(1).filter(|_| program.is_none()) {
        return Err(usage(format!("{surplus:?} is one operand too many")).into());
    }
    let mut tries = 0;
    let mut journal = loop {
        let store = directory::open(matches)?;
        let notes = StoredNotes::read(&*store)?;
        let (store, catalogue) = directory::catalogue(matches)?;
        let stored = catalogue.newest()?.ok_or_else(|| {
            Failure::data(format!("{} has no checkpoint yet, and says of no journal whose it is", matches.free[0]))
        })?;
        tries += 1;
        match RunJournal::read(&*store, &notes, stored, (&agent, &key), sequence) {
            Ok(journal) => break journal,
            // The job has gone on and removed it: there are newer ones.
            Err(_) if tries < TRIES && !stored.is_there(&*store)? => {}
            Err(failure) => return Err(failure.into()),
        }
    };
    if let Some(program) = program {
        journal.show_results(&results(matches, &program, &journal)?);
    }
    let mut output = output::output();
    if matches.opt_present("json") {
        serde_json::to_writer_pretty(&mut output, &journal).map_err(|error| {
            if error.is_io() {
                Fault::Output(io::Error::from(error))
            } else {
                Fault::Failure(Failure::data(format!("the journal cannot be shown: {error}")))
            }
        })?;
        writeln!(output)?;
    } else {
        write!(output, "{journal}")?;
    }
    output.flush()?;
    Ok(ExitCode::SUCCESS)
}

/// What the calls of the run gave, as its program says.
fn results(matches: &Matches, program: &str, journal: &RunJournal) -> Ending<Vec<CallResult>> {
    let key = journal.key.as_str().map_or_else(|| journal.key.to_string(), str::to_owned);
    let output = Process::new(program)
        .arg("--replay")
        .args(&matches.free)
        .args(["--replay-json", "--replay-agent", &journal.agent, "--replay-key", &key])
        .args(["--replay-run", &journal.sequence.to_string()])
        .output()
        .map_err(|error| Failure::data(format!("{program} cannot be started: {error}")))?;
    for line in String::from_utf8_lossy(&output.stdout).lines() {
        if let Ok(Told { agent, sequence, results }) = serde_json::from_str(line)
            && (agent, sequence) == (journal.agent.clone(), journal.sequence)
        {
            return Ok(results);
        }
    }
    let errors = String::from_utf8_lossy(&output.stderr);
    let why = errors.lines().last().unwrap_or("it says nothing of the run");
    Err(Failure::data(format!("{program} does not do the run again: {why}")).into())
}

/// What a program says of a run that it has done again, as far as it is needed here.
#[derive(Deserialize)]
struct Told {
    agent: String,
    sequence: u64,
    results: Vec<CallResult>,
}
