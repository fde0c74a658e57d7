//! A command: its name, its options, and what it does.

use std::ffi::OsString;

use getopts::{Matches, Options};
use timely_agents::cluster::Failure;

use crate::ending::Ending;
use crate::output;

/// See the module.
pub(crate) struct Command {
    pub(crate) name: &'static str,
    /// The word before its name, if it has one.
    pub(crate) of: &'static str,
    /// Operands and options, in brief.
    pub(crate) operands: &'static str,
    /// How many operands there may be.
    pub(crate) most: usize,
    /// One line.
    pub(crate) brief: &'static str,
    /// What else is to be known.
    pub(crate) about: &'static str,
    pub(crate) options: fn(&mut Options),
    /// Is given the options, and at least one operand.
    pub(crate) run: fn(&Matches) -> Ending,
}

impl Command {
    pub(crate) fn run(&self, arguments: &[OsString]) -> Ending {
        let mut options = Options::new();
        (self.options)(&mut options);
        options.optflag("h", "help", "print this");
        let usage = |why: String| Failure::usage(format!("{}: {why}; see --help", self.words()));
        let matches = options.parse(arguments).map_err(|error| usage(one_line(&error.to_string())))?;
        if matches.opt_present("help") {
            let head = format!("{}.\n\nUsage: {} {}", self.brief, self.words(), self.operands);
            let about = if self.about.is_empty() { String::new() } else { format!("\n\n{}", self.about) };
            return output::print(&(options.usage(&format!("{head}{about}")) + "\n"));
        }
        if matches.free.is_empty() {
            return Err(usage("name the directory of the checkpoints".to_owned()).into());
        }
        if let Some(surplus) = matches.free.get(self.most) {
            return Err(usage(format!("{surplus:?} is one operand too many")).into());
        }
        (self.run)(&matches)
    }

    /// As it is called.
    pub(crate) fn words(&self) -> String {
        ["timely-agents", self.of, self.name]
            .iter()
            .filter(|word| !word.is_empty())
            .copied()
            .collect::<Vec<_>>()
            .join(" ")
    }
}

/// The parser's sentence as a part of ours.
fn one_line(text: &str) -> String {
    text.trim_end_matches('.').to_owned()
}
