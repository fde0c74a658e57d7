//! The directory of a job's checkpoints, as the command line names it.

use std::io;
use std::sync::Arc;

use getopts::Matches;
use timely_agents::cluster::Failure;
use timely_agents_operators::checkpoint::{Catalogue, CheckpointStore, DirStore};

use crate::ending::Ending;

/// The store in the directory that is named first; it is there.
pub(crate) fn open(matches: &Matches) -> Ending<Arc<dyn CheckpointStore>> {
    let dir = &matches.free[0];
    let store = DirStore::existing(dir).map_err(|error| Failure::data(format!("{dir} {}", why(dir, &error))))?;
    Ok(Arc::new(store))
}

/// The same, and what is in it: links of a job.
pub(crate) fn catalogue(matches: &Matches) -> Ending<(Arc<dyn CheckpointStore>, Catalogue)> {
    let store = open(matches)?;
    let catalogue = Catalogue::read(&*store)?;
    if catalogue.job.is_none() && catalogue.damage.is_empty() {
        return Err(Failure::data(format!("{} has no checkpoints, and never had any", matches.free[0])).into());
    }
    Ok((store, catalogue))
}

fn why(dir: &str, error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::NotFound if !std::path::Path::new(dir).exists() => "does not exist".to_owned(),
        io::ErrorKind::NotFound | io::ErrorKind::NotADirectory => {
            "is no directory of checkpoints: there is no folder `chain` in it".to_owned()
        }
        _ => format!("cannot be read: {error}"),
    }
}
