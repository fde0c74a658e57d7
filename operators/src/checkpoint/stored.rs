//! Checkpoints as they lie there, for who looks at them without being their job.
//!
//! # Invariants
//! - Nothing is changed, locked or claimed; a job may be at work meanwhile.
//! - What that job removes while it is looked at shows as missing: [`Stored::is_there`] tells it from damage.

use std::io::ErrorKind;

use super::chain;
use super::error::Error;
use super::gc;
use super::history::History;
use super::manifest::Manifest;
use super::opening;
use super::restore;
use super::segment::{self, JOURNAL};
use super::store::CheckpointStore;
use crate::fact::FactRef;
use crate::journal::Note;

/// A checkpoint that is kept.
#[derive(Clone, Debug)]
pub struct Stored {
    /// Its place in the chain.
    pub link: u64,
    /// What it consists of.
    pub manifest: Manifest,
}

/// All checkpoints that are kept.
#[derive(Debug)]
pub struct Catalogue {
    /// Oldest first, without those that are damaged or were passed over.
    pub checkpoints: Vec<Stored>,
    /// Links that cannot be read.
    pub damage: Vec<Error>,
    /// The job, if the chain has a link that can be read.
    pub job: Option<String>,
    /// Whether nothing has been removed yet at the old end.
    whole: bool,
    newest: Result<Option<u64>, Error>,
}

impl Catalogue {
    /// Looks at the chain.
    ///
    /// # Errors
    /// The store cannot be read, or a link is of a version that is not known.
    pub fn read(store: &dyn CheckpointStore) -> Result<Self, Error> {
        let history = History::read(store, None)?;
        let newest = history.checkpoint(None).map(|found| found.map(|(link, _)| link));
        let path = history.path(None).into_iter().rev();
        Ok(Catalogue {
            checkpoints: path.map(|(link, manifest)| Stored { link, manifest: manifest.clone() }).collect(),
            damage: history.links().iter().filter_map(|(_, link)| link.as_ref().err()).map(Error::copy).collect(),
            job: history.links().iter().find_map(|(_, link)| Some(link.as_ref().ok()?.job().to_owned())),
            whole: history.numbers().next() == Some(1),
            newest,
        })
    }

    /// The checkpoint from which the job would go on, if there is one.
    ///
    /// # Errors
    /// It is damaged.
    pub fn newest(&self) -> Result<Option<&Stored>, Error> {
        match &self.newest {
            Ok(Some(link)) => Ok(self.checkpoints.iter().find(|stored| stored.link == *link)),
            Ok(None) => Ok(None),
            Err(Error::NewestDamaged { damage, frontier }) => {
                Err(Error::NewestDamaged { damage: damage.clone(), frontier: frontier.clone() })
            }
            Err(error) => Err(error.copy()),
        }
    }

    /// The first checkpoint that has an epoch. Of the oldest one only the last epoch is known to be its own, if older
    /// ones have been removed.
    pub fn covering(&self, epoch: u64) -> Option<&Stored> {
        let has = |stored: &Stored| stored.manifest.frontier.is_none_or(|frontier| epoch < frontier);
        let at = self.checkpoints.iter().position(has)?;
        let stored = &self.checkpoints[at];
        (at > 0 || self.whole || stored.last_epoch() == Some(epoch)).then_some(stored)
    }
}

/// Hands out the notes of calls that are there, those of one key in the order in which they were made. What a job at work
/// removes or writes meanwhile is there or not.
///
/// # Errors
/// The chain or a journal cannot be read, or is of a version that is not known.
pub fn notes(store: &dyn CheckpointStore, each: &mut dyn FnMut(Note)) -> Result<(), Error> {
    let history = History::read(store, None)?;
    let Some(job) = history.links().iter().find_map(|(_, link)| Some(link.as_ref().ok()?.job().to_owned())) else {
        return Ok(());
    };
    let mut bounds = opening::bounds(store, &history)?;
    bounds.retain(|bound| bound.process >= JOURNAL);
    bounds.sort_unstable_by_key(|bound| (bound.generation, bound.process, bound.segment));
    bounds.iter().try_for_each(|bound| match segment::read_notes(store, &job, bound, each) {
        // The job has gone on and let it go.
        Err(Error::Io { error, .. }) if error.kind() == ErrorKind::NotFound => Ok(()),
        read => read,
    })
}

impl Stored {
    /// The last epoch that is in it; `None` if that is all of them, or none.
    pub fn last_epoch(&self) -> Option<u64> {
        self.manifest.frontier.and_then(|frontier| frontier.checked_sub(1))
    }

    /// Bytes of the logs that belong to it.
    pub fn log_bytes(&self) -> u64 {
        self.manifest.segments.iter().map(|segment| segment.length).sum()
    }

    /// Bytes of its snapshot.
    pub fn snapshot_bytes(&self) -> u64 {
        self.manifest.base.as_ref().map_or(0, |base| base.length)
    }

    /// The files that it names and that are not there.
    ///
    /// # Errors
    /// The store cannot be listed.
    pub fn missing(&self, store: &dyn CheckpointStore) -> Result<Vec<String>, Error> {
        let mut missing = gc::files(&self.manifest);
        for folder in ["base", "log"] {
            let files = store.list(folder).map_err(|error| Error::Io {
                action: "list",
                file: store.describe(folder),
                error,
            })?;
            for (name, _) in files {
                missing.remove(&name);
            }
        }
        Ok(missing.into_iter().map(|name| store.describe(&name)).collect())
    }

    /// Whether it has not been removed meanwhile.
    ///
    /// # Errors
    /// The store cannot be listed.
    pub fn is_there(&self, store: &dyn CheckpointStore) -> Result<bool, Error> {
        Ok(chain::numbers(store)?.contains(&self.link))
    }

    /// Hands out the facts of a component, by its number, earlier before later: of several about one thing the last holds.
    ///
    /// # Errors
    /// The checkpoint is damaged, or removed meanwhile.
    pub fn facts(
        &self,
        store: &dyn CheckpointStore,
        component: u32,
        each: &mut dyn FnMut(FactRef<'_>),
    ) -> Result<(), Error> {
        restore::facts(store, &self.manifest, component, 0..u32::MAX, &mut |_, fact| each(fact))
    }
}
