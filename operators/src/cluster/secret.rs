//! The job's token, and proofs that a peer knows it.
//!
//! # Invariants
//! - The token is never written to a socket, a log or a `Debug` text; only HMAC-SHA256 values over fresh nonces are.
//! - Proofs are compared in constant time.
//! - The two ends prove under different labels, so that neither can send the other's proof back.
//!
//! Not here: encryption. After the handshake the data travels as it is; on untrusted networks use a tunnel.

use std::fmt;
use std::path::Path;

use hmac::{Hmac, Mac};
use sha2::Sha256;

use super::failure::Failure;

/// Length of a proof in bytes.
pub(super) const PROOF: usize = 32;

/// A token that all processes of a job share.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Secret(Vec<u8>);

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(..)")
    }
}

/// Which end of a connection proves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum End {
    Connector,
    Acceptor,
}

impl Secret {
    /// A token from its bytes.
    pub fn new(bytes: impl Into<Vec<u8>>) -> Self {
        Self(bytes.into())
    }

    /// A token from a file; white space at its end does not count.
    ///
    /// # Errors
    /// A usage failure when the file cannot be read or holds no token.
    pub fn read(path: &Path) -> Result<Self, Failure> {
        let bytes = std::fs::read(path)
            .map_err(|e| Failure::usage(format!("cannot read the token file {}: {e}", path.display())))?;
        let token = bytes.trim_ascii_end();
        if token.is_empty() {
            return Err(Failure::usage(format!("the token file {} is empty", path.display())));
        }
        Ok(Self(token.to_vec()))
    }

    /// What `end` sends to prove that it knows the token, for one exchange of hellos.
    pub(super) fn proof(&self, end: End, hellos: [&[u8]; 2]) -> [u8; PROOF] {
        self.mac(end, hellos).finalize().into_bytes().into()
    }

    /// Whether `proof` is what `end` would send.
    pub(super) fn verify(&self, end: End, hellos: [&[u8]; 2], proof: &[u8; PROOF]) -> bool {
        self.mac(end, hellos).verify_slice(proof).is_ok()
    }

    fn mac(&self, end: End, hellos: [&[u8]; 2]) -> Hmac<Sha256> {
        let mut mac = Hmac::<Sha256>::new_from_slice(&self.0).expect("HMAC takes keys of any length");
        mac.update(match end {
            End::Connector => b"connector",
            End::Acceptor => b"acceptor ",
        });
        for hello in hellos {
            // Lengths make the pair of hellos unambiguous.
            mac.update(&(hello.len() as u64).to_be_bytes());
            mac.update(hello);
        }
        mac
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_proof_holds_for_its_token_end_and_hellos_only() {
        let secret = Secret::new("token");
        let proof = secret.proof(End::Connector, [b"a", b"b"]);
        assert!(secret.verify(End::Connector, [b"a", b"b"], &proof));
        assert!(!secret.verify(End::Acceptor, [b"a", b"b"], &proof));
        assert!(!secret.verify(End::Connector, [b"ab", b""], &proof));
        assert!(!Secret::new("other").verify(End::Connector, [b"a", b"b"], &proof));
    }

    #[test]
    fn the_token_is_not_shown() {
        assert_eq!(format!("{:?}", Secret::new("token")), "Secret(..)");
    }

    #[test]
    fn a_token_file_is_trimmed_and_must_hold_something() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("token");
        std::fs::write(&path, "s3cret\r\n").unwrap();
        assert_eq!(Secret::read(&path), Ok(Secret::new("s3cret")));
        std::fs::write(&path, "\n").unwrap();
        assert!(Secret::read(&path).unwrap_err().message().ends_with("is empty"));
        assert!(Secret::read(&dir.path().join("none")).is_err());
    }
}
