//! Programs of tests: this binary starts itself again with `CRASH_PROGRAM` in the environment.
//!
//! Their checkpoints have small segments and are compacted all the time, so that a crash meets snapshots too.

use std::env;

use timely_agents::cluster::Failure;
use timely_agents::{Arguments, Program};
use timely_agents_operators::checkpoint::{Checkpoints, Compaction};

use crate::{carry, defects, joined, small, sums, tools};

/// Compacts whenever there is something to compact.
const SMALL: Compaction = Compaction { ratio: 1, minimum_bytes: 8_000, memory_bytes: 4_000 };

/// The command line of a program called `name`, with the option `--out`.
pub(crate) fn arguments(name: &str) -> Result<Arguments, Failure> {
    let text = env::var("CRASH_ARGUMENTS").unwrap_or_default();
    let program = Program::new(name).option("out", "DIR", "where outputs go");
    program.parse(text.lines())?.ok_or_else(|| Failure::usage("it helps nobody"))
}

/// Where its outputs go, and its checkpoints.
pub(crate) fn opened(arguments: &Arguments) -> Result<(String, Option<Checkpoints>), Failure> {
    let out = arguments.value("out").ok_or_else(|| Failure::usage("--out is missing"))?;
    let checkpoints = arguments.checkpoints()?;
    Ok((out, checkpoints.map(|checkpoints| checkpoints.segment_bytes(4_000).compaction(SMALL))))
}

/// A word out of the environment, by which a program is varied.
pub(crate) fn variant(name: &str) -> Option<String> {
    env::var(name).ok()
}

#[test]
#[ignore = "it is started by other tests, in processes of their own"]
fn program() {
    let Some(name) = variant("CRASH_PROGRAM") else { return };
    let outcome = match &*name {
        "carry" => carry::program(),
        "defects" => defects::program(),
        "joined" => joined::program(),
        "small" => small::program(),
        "sums" => sums::program(),
        "server" => tools::server::program(),
        "tools" => tools::program(),
        _ => Err(Failure::usage(format!("there is no program {name}"))),
    };
    std::process::exit(match outcome {
        Ok(()) => 0,
        Err(failure) => {
            eprintln!("{failure}");
            failure.exit_code().into()
        }
    });
}
