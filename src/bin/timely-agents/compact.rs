//! `compact`: logs become a snapshot, without the job.

use std::sync::Arc;

use getopts::Matches;
use timely_agents::cluster::Failure;
use timely_agents_operators::checkpoint::{CheckpointStore, Compression, DirStore, Error, compact_offline};

use crate::command::Command;
use crate::directory;
use crate::ending::Ending;
use crate::output;

pub(crate) const COMMAND: Command = Command {
    name: "compact",
    of: "checkpoint",
    operands: "DIR [--lz4]",
    most: 1,
    brief: "Turns the logs of the newest checkpoint into a snapshot, while no job is at work",
    about: "The checkpoint that it came from is kept with its logs; the job removes both when it has gone on and committed.",
    options: |options| {
        options.optflag("", "lz4", "compress the snapshot");
    },
    run,
};

fn run(matches: &Matches) -> Ending {
    directory::catalogue(matches)?;
    let dir = &matches.free[0];
    // Unlike a reader's, this store has all its folders.
    let store = DirStore::open(dir).map_err(|error| Error::Io { action: "open", file: dir.clone(), error })?;
    let store: Arc<dyn CheckpointStore> = Arc::new(store);
    let compression = if matches.opt_present("lz4") { Compression::Lz4 } else { Compression::None };
    let compacted = compact_offline(&store, compression)?;
    let Some(manifest) = compacted else {
        return output::print("nothing to compact\n");
    };
    let base = manifest.base.as_ref().ok_or_else(|| Failure::data(format!("{dir}: the snapshot is not named")))?;
    output::print(&format!(
        "epochs before {} are in {}, {} bytes\n",
        base.frontier,
        store.describe(&base.name()),
        base.length
    ))
}
