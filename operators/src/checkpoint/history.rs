//! The chain as a start finds it: which checkpoint counts, and what comes next.
//!
//! # Invariants
//! - A damaged link is never passed over unless the caller allows falling back: what it committed may have been seen by
//!   others, and would be done again.
//! - A job whose links are all damaged does not start over by itself.

use super::chain::{self, Link, Read};
use super::error::Error;
use super::manifest::Manifest;
use super::segment;
use super::store::CheckpointStore;

/// What is wrong with a checkpoint's files, if anything is.
pub(crate) type Usable<'a> = &'a dyn Fn(&Manifest) -> Result<(), Error>;

/// All links, ascending; those that are damaged with what is wrong.
pub(crate) struct History {
    links: Vec<Read>,
}

impl History {
    /// Reads the chain; of no other job than `job`, if it is named.
    pub(crate) fn read(store: &dyn CheckpointStore, job: Option<&str>) -> Result<Self, Error> {
        let mut links = Vec::new();
        for (number, link) in chain::read_all(store)? {
            match link {
                Err(error @ Error::Damaged { .. }) => links.push((number, Err(error))),
                Err(error) => return Err(error),
                Ok(link) if job.is_some_and(|job| link.job() != job) => {
                    let (file, found) = (store.describe(&chain::name(number)), link.job().to_owned());
                    return Err(Error::OtherJob { file, found, job: job.unwrap_or_default().to_owned() });
                }
                Ok(link) => links.push((number, Ok(link))),
            }
        }
        if links.is_empty() {
            let logs =
                store.list("log").map_err(|error| Error::Io { action: "list", file: store.describe("log"), error })?;
            if logs.iter().any(|(name, _)| segment::parse(name).is_some()) {
                return Err(Error::damaged(store.describe("chain"), 0, "it is empty, though there are logs"));
            }
        }
        Ok(History { links })
    }

    /// The number of the next link.
    pub(crate) fn next(&self) -> u64 {
        self.links.last().map_or(1, |(number, _)| number + 1)
    }

    /// The greatest generation that is known of.
    pub(crate) fn generation(&self) -> u64 {
        self.links.iter().filter_map(|(_, link)| link.as_ref().ok()).map(Link::generation).max().unwrap_or(0)
    }

    /// The first link that is damaged, as an error.
    pub(crate) fn whole(&self) -> Result<(), Error> {
        self.links.iter().find_map(|(_, link)| link.as_ref().err()).map_or(Ok(()), |error| Err(error.copy()))
    }

    /// All links, ascending.
    pub(crate) fn links(&self) -> &[Read] {
        &self.links
    }

    /// The numbers of all links, ascending.
    pub(crate) fn numbers(&self) -> impl Iterator<Item = u64> {
        self.links.iter().map(|(number, _)| *number)
    }

    /// The checkpoint of link `from`, or else the newest, and all that it came from, newest first. What a claim has
    /// passed over is not among them, nor what is damaged.
    pub(crate) fn path(&self, from: Option<u64>) -> Vec<(u64, &Manifest)> {
        let mut path = Vec::new();
        let upto = |links: &[Read], last: u64| links.partition_point(|(number, _)| *number <= last);
        let mut rest = &self.links[..from.map_or(self.links.len(), |from| upto(&self.links, from))];
        while let Some(((number, link), before)) = rest.split_last() {
            rest = match link {
                Ok(Link::Claim(claim)) => &before[..claim.base.map_or(0, |base| upto(before, base))],
                _ => before,
            };
            if let Ok(Link::Manifest(manifest)) = link {
                path.push((*number, manifest));
            }
        }
        path
    }

    /// The newest checkpoint; nothing if the job has none. With `usable` falling back is allowed: it says of a checkpoint
    /// what is wrong with its files.
    pub(crate) fn checkpoint(&self, usable: Option<Usable<'_>>) -> Result<Option<(u64, &Manifest)>, Error> {
        let mut damage: Option<Error> = None;
        let mut rest = &self.links[..];
        let mut found = None;
        while let Some(((number, link), before)) = rest.split_last() {
            rest = before;
            match link {
                Ok(Link::Manifest(manifest)) => match usable.map_or(Ok(()), |usable| usable(manifest)) {
                    Ok(()) => {
                        found = Some((*number, manifest));
                        break;
                    }
                    Err(error) => {
                        tracing::warn!(%error, "a damaged checkpoint is passed over");
                        damage.get_or_insert(error);
                    }
                },
                Ok(Link::Claim(claim)) => match claim.base {
                    None => break,
                    Some(base) => {
                        let end = before.partition_point(|(number, _)| *number <= base);
                        rest = &before[..end];
                        if rest.last().is_none_or(|(number, _)| *number != base) {
                            let why =
                                format!("link {base} is missing, from which generation {} went on", claim.generation);
                            damage.get_or_insert(Error::damaged("the chain", 0, why));
                        }
                    }
                },
                Err(error) => {
                    damage.get_or_insert(error.copy());
                }
            }
        }
        match (damage, found) {
            (Some(damage), None) => Err(damage),
            (Some(damage), Some((_, manifest))) if usable.is_none() => {
                let frontier = manifest.frontier.map_or_else(|| "the end".to_owned(), |frontier| frontier.to_string());
                Err(Error::NewestDamaged { damage: damage.to_string(), frontier })
            }
            (_, found) => Ok(found),
        }
    }
}
