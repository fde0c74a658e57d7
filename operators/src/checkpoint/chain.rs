//! The chain: one order of all claims and all manifests (rules D3, D9).
//!
//! ```text
//! chain/…1 claim 1 ◀── …2 manifest ◀── …3 manifest ◀── …4 claim 2, base 3 ◀── …5 manifest
//! link := magic[8] version:u32le kind:u8 payload(postcard) crc32c:u32le          kind 1 claim, 2 manifest
//! ```
//! A link is created exclusively at the number behind the newest. So a commit that did not see a claim finds its place
//! taken, and a claim that did not see a commit does too.
//!
//! # Invariants
//! - Whoever adds link n has read the newest link before it. Old links are removed, so a late writer might find a place
//!   free that was taken once: after creating its link it looks whether there are newer ones, and is fenced if so.
//!   Whatever took the place was there with all that follows it before it was removed, so this look cannot miss it.
//! - The newest link that is a manifest, or the one that the newest claim names, is the checkpoint.

use std::io;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::error::Error;
use super::manifest::Manifest;
use super::store::CheckpointStore;

/// The version of links that this program writes; it reads all up to it.
const VERSION: u32 = 1;
const MAGIC: [u8; 8] = *b"TA\x00link\n";
const CLAIM: u8 = 1;
const MANIFEST: u8 = 2;
/// Magic, version and kind.
const HEAD: usize = 13;

/// A start of the job, by which all earlier ones are shut out.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Claim {
    pub job: String,
    pub generation: u64,
    /// The link of the checkpoint from which it goes on.
    pub base: Option<u64>,
    /// Up to where each log of an earlier generation will ever be read.
    pub bounds: Vec<Bound>,
}

/// How long a segment is, for ever.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Bound {
    pub generation: u64,
    pub process: u32,
    pub segment: u32,
    pub length: u64,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Link {
    Claim(Claim),
    Manifest(Manifest),
}

impl Link {
    pub(crate) fn generation(&self) -> u64 {
        match self {
            Link::Claim(claim) => claim.generation,
            Link::Manifest(manifest) => manifest.generation,
        }
    }

    pub(crate) fn job(&self) -> &str {
        match self {
            Link::Claim(claim) => &claim.job,
            Link::Manifest(manifest) => &manifest.job,
        }
    }

    pub(crate) fn encode(&self) -> Vec<u8> {
        let kind = match self {
            Link::Claim(_) => CLAIM,
            Link::Manifest(_) => MANIFEST,
        };
        let bytes = [&MAGIC[..], &VERSION.to_le_bytes(), &[kind]].concat();
        let encoded = match self {
            Link::Claim(claim) => postcard::to_extend(claim, bytes),
            Link::Manifest(manifest) => postcard::to_extend(manifest, bytes),
        };
        let mut bytes = encoded.expect("numbers, text and bytes can always be encoded");
        bytes.extend_from_slice(&crc32c::crc32c(&bytes).to_le_bytes());
        bytes
    }

    pub(crate) fn decode(bytes: &[u8], file: impl Fn() -> String) -> Result<Self, Error> {
        let damaged = |at: usize, why: &str| Error::damaged(file(), at as u64, why);
        if bytes.len() < HEAD + 4 {
            return Err(damaged(bytes.len(), "it ends too early"));
        }
        let (body, sum) = bytes.split_at(bytes.len() - 4);
        if crc32c::crc32c(body).to_le_bytes() != *sum {
            return Err(damaged(0, "its checksum is wrong"));
        }
        if body[..8] != MAGIC {
            return Err(damaged(0, "it is a file of another kind"));
        }
        let version = u32::from_le_bytes([body[8], body[9], body[10], body[11]]);
        if version == 0 || version > VERSION {
            return Err(Error::Version { file: file(), found: version, known: VERSION });
        }
        let payload = &body[HEAD..];
        let decoded = match body[HEAD - 1] {
            CLAIM => postcard::take_from_bytes(payload).map(|(claim, rest)| (Link::Claim(claim), rest)),
            MANIFEST => postcard::take_from_bytes(payload).map(|(manifest, rest)| (Link::Manifest(manifest), rest)),
            _ => return Err(damaged(HEAD - 1, "it is a link of an unknown kind")),
        };
        match decoded {
            Ok((link, [])) => Ok(link),
            Ok((_, rest)) => Err(damaged(body.len() - rest.len(), "it goes on beyond its end")),
            Err(error) => Err(damaged(HEAD, &format!("it cannot be decoded: {error}"))),
        }
    }
}

/// The name of a link.
pub(crate) fn name(number: u64) -> String {
    format!("chain/{number:020}")
}

/// The number of a link, if the name is one.
pub(crate) fn parse(name: &str) -> Option<u64> {
    let number = name.strip_prefix("chain/")?.parse().ok()?;
    (self::name(number) == name).then_some(number)
}

/// The numbers of all links, ascending.
pub(crate) fn numbers(store: &dyn CheckpointStore) -> Result<Vec<u64>, Error> {
    let names =
        store.list("chain").map_err(|error| Error::Io { action: "list", file: store.describe("chain"), error })?;
    Ok(names.iter().filter_map(|(name, _)| parse(name)).collect())
}

/// One link.
pub(crate) fn read(store: &dyn CheckpointStore, number: u64) -> Result<Link, Error> {
    let name = name(number);
    let file = || store.describe(&name);
    match store.read(&name) {
        Ok(bytes) => Link::decode(&bytes, file),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Err(Error::damaged(file(), 0, "it is missing")),
        Err(error) => Err(Error::Io { action: "read", file: file(), error }),
    }
}

/// A link by its number, or what is wrong with it.
pub(crate) type Read = (u64, Result<Link, Error>);

/// All links that are there, ascending; those that were removed while they were read are left out.
pub(crate) fn read_all(store: &dyn CheckpointStore) -> Result<Vec<Read>, Error> {
    let numbers = numbers(store)?;
    let links: Vec<_> = numbers.iter().map(|number| (*number, read(store, *number))).collect();
    let still = self::numbers(store)?;
    Ok(links.into_iter().filter(|(number, link)| link.is_ok() || still.contains(number)).collect())
}

/// Where a generation adds its links.
#[derive(Debug)]
pub(crate) struct Chain {
    store: Arc<dyn CheckpointStore>,
    generation: u64,
    next: u64,
}

impl Chain {
    /// For `generation`, which has read the link before `next` and all others.
    pub(crate) fn new(store: Arc<dyn CheckpointStore>, generation: u64, next: u64) -> Self {
        Chain { store, generation, next }
    }

    pub(crate) fn store(&self) -> &Arc<dyn CheckpointStore> {
        &self.store
    }

    /// Adds the next link; says its number.
    ///
    /// # Errors
    /// [`Error::Fenced`] if another generation has added one, and the link does not count then. After any other error
    /// the link may be there and count.
    pub(crate) fn add(&mut self, link: &Link) -> Result<u64, Error> {
        debug_assert_eq!(link.generation(), self.generation, "a generation adds links of its own");
        let number = self.next;
        match self.store.create(&name(number), &link.encode()) {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => return Err(self.fenced()?),
            Err(error) => return Err(Error::Io { action: "create", file: self.store.describe(&name(number)), error }),
        }
        if numbers(&*self.store)?.last().is_some_and(|newest| *newest > number) {
            return Err(self.fenced()?);
        }
        self.next += 1;
        Ok(number)
    }

    fn fenced(&self) -> Result<Error, Error> {
        let links = read_all(&*self.store)?;
        let newest = links.iter().rev().find_map(|(_, link)| link.as_ref().ok());
        Ok(Error::Fenced { own: self.generation, by: newest.map_or(self.generation, Link::generation) })
    }
}

#[cfg(test)]
mod tests {
    use super::super::memory_store::MemoryStore;
    use super::*;

    fn claim(generation: u64) -> Link {
        Link::Claim(Claim { job: "job".into(), generation, base: None, bounds: vec![] })
    }

    fn manifest(generation: u64) -> Link {
        Link::Manifest(Manifest { generation, ..Manifest::empty("job", 4) })
    }

    #[test]
    fn of_a_late_commit_and_a_claim_only_the_first_succeeds() {
        let store = MemoryStore::new();
        let shared: Arc<dyn CheckpointStore> = Arc::new(store.clone());
        let mut old = Chain::new(Arc::clone(&shared), 1, 1);
        assert_eq!(old.add(&claim(1)).unwrap(), 1);
        assert_eq!(old.add(&manifest(1)).unwrap(), 2);
        // The commit comes first: who claims has to look again.
        let mut new = Chain::new(Arc::clone(&shared), 2, 3);
        old.add(&manifest(1)).unwrap();
        assert!(matches!(new.add(&claim(2)), Err(Error::Fenced { own: 2, by: 1 })));
        let mut new = Chain::new(Arc::clone(&shared), 2, 4);
        new.add(&claim(2)).unwrap();
        assert!(matches!(old.add(&manifest(1)), Err(Error::Fenced { own: 1, by: 2 })));
        // And so it is if the place is free again because what took it is old.
        new.add(&manifest(2)).unwrap();
        shared.remove(&[name(4)]).unwrap();
        assert!(matches!(old.add(&manifest(1)), Err(Error::Fenced { own: 1, by: 2 })));
        assert_eq!(numbers(&store).unwrap().last(), Some(&5));
    }

    #[test]
    fn a_link_cut_or_changed_anywhere_is_reported() {
        for link in [claim(3), manifest(3)] {
            let whole = link.encode();
            let decode = |bytes: &[u8]| Link::decode(bytes, || "link".into());
            assert_eq!(decode(&whole).unwrap(), link);
            for at in 0..whole.len() {
                assert!(matches!(decode(&whole[..at]), Err(Error::Damaged { .. })));
                for bit in 0..8 {
                    let mut changed = whole.clone();
                    changed[at] ^= 1 << bit;
                    assert!(matches!(decode(&changed), Err(Error::Damaged { .. })));
                }
            }
        }
    }

    #[test]
    fn a_link_of_a_later_version_says_so() {
        let mut bytes = claim(1).encode();
        bytes[8] = 9;
        let body = bytes.len() - 4;
        let sum = crc32c::crc32c(&bytes[..body]).to_le_bytes();
        bytes[body..].copy_from_slice(&sum);
        let error = Link::decode(&bytes, || "link".into()).unwrap_err();
        assert_eq!(
            error.to_string(),
            "link has format version 9, and this program knows only 1; a newer program reads it"
        );
    }
}
