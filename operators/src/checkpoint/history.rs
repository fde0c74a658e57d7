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
    /// Reads the chain of `job`.
    pub(crate) fn read(store: &dyn CheckpointStore, job: &str) -> Result<Self, Error> {
        let mut links = Vec::new();
        for (number, link) in chain::read_all(store)? {
            match link {
                Err(error @ Error::Damaged { .. }) => links.push((number, Err(error))),
                Err(error) => return Err(error),
                Ok(link) if link.job() != job => {
                    let (file, found) = (store.describe(&chain::name(number)), link.job().to_owned());
                    return Err(Error::OtherJob { file, found, job: job.to_owned() });
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

    /// Whether no link is damaged.
    pub(crate) fn is_whole(&self) -> bool {
        self.links.iter().all(|(_, link)| link.is_ok())
    }

    /// All links, ascending.
    pub(crate) fn links(&self) -> &[Read] {
        &self.links
    }

    /// All whole manifests, ascending.
    pub(crate) fn manifests(&self) -> impl Iterator<Item = (u64, &Manifest)> {
        self.links.iter().filter_map(|(number, link)| match link {
            Ok(Link::Manifest(manifest)) => Some((*number, manifest)),
            _ => None,
        })
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
                Err(Error::Damaged { file, offset, why }) => {
                    damage.get_or_insert(Error::damaged(file, *offset, why));
                }
                Err(_) => unreachable!("other errors end the reading"),
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
