//! `verify`: whether what is stored is what was written.

use std::io::Write;
use std::process::ExitCode;

use getopts::Matches;
use timely_agents_operators::checkpoint;

use crate::command::Command;
use crate::directory;
use crate::ending::Ending;
use crate::output;

pub(crate) const COMMAND: Command = Command {
    name: "verify",
    of: "checkpoint",
    operands: "DIR",
    most: 1,
    brief: "Reads all that is kept, and names what is not as it was written",
    about: "Of each damaged checkpoint the first finding is printed, with its file and the offset in it, and the exit code is 1.\n\
            Else there is a line for each checkpoint, by its last epoch.",
    options: |_| {},
    run,
};

fn run(matches: &Matches) -> Ending {
    let (store, _) = directory::catalogue(matches)?;
    let report = checkpoint::verify(&*store)?;
    let mut output = output::output();
    for finding in &report.findings {
        writeln!(output, "{}, offset {}: {}", finding.file, finding.offset, finding.what)?;
    }
    if report.findings.is_empty() {
        for frontier in &report.checkpoints {
            let epoch = match frontier {
                None => "end".to_owned(),
                Some(frontier) => frontier.checked_sub(1).map_or_else(|| "none".to_owned(), |epoch| epoch.to_string()),
            };
            writeln!(output, "epoch {epoch}: ok")?;
        }
    }
    output.flush()?;
    Ok(if report.findings.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
