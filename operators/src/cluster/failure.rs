//! Why a job ended early: one kind, one line of text, the same in all its processes.
//!
//! # Invariants
//! - The message is one line without control characters, at most [`LIMIT`] bytes: it may come from a peer or a panic and
//!   ends up on a terminal.
//! - Equal kinds give equal exit codes, so that all processes of a job end with the same code.

use std::fmt;

use serde::{Deserialize, Serialize};

/// The longest message, in bytes; longer ones are cut.
const LIMIT: usize = 8 << 10;

/// Who has to act on a [`Failure`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum FailureKind {
    /// The command line or a file that it names is wrong; nothing ran.
    Usage,
    /// The job's input or stored state is wrong.
    Data,
    /// Another process of the job was lost.
    Peer,
    /// Code panicked.
    Panic,
    /// The processes could not form a cluster.
    Cluster,
    /// Nothing failed: the job was asked to stop before its end, and all that it had begun to commit is committed.
    Stopped,
}

/// Why a job ended early.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    kind: FailureKind,
    message: String,
}

impl Failure {
    /// A failure of the given kind; line breaks and other control characters in the message become spaces.
    pub fn new(kind: FailureKind, message: impl Into<String>) -> Self {
        let message = message.into();
        let clean = !message.contains(char::is_control) && message.len() <= LIMIT;
        let message = if clean { message } else { one_line(&message) };
        Self { kind, message }
    }

    /// The command line, or a file that it names, is wrong.
    pub fn usage(message: impl Into<String>) -> Self {
        Self::new(FailureKind::Usage, message)
    }

    /// Input or stored state is wrong.
    pub fn data(message: impl Into<String>) -> Self {
        Self::new(FailureKind::Data, message)
    }

    /// Another process was lost.
    pub fn peer(message: impl Into<String>) -> Self {
        Self::new(FailureKind::Peer, message)
    }

    /// Code panicked.
    pub fn panic(message: impl Into<String>) -> Self {
        Self::new(FailureKind::Panic, message)
    }

    /// The processes could not form a cluster.
    pub fn cluster(message: impl Into<String>) -> Self {
        Self::new(FailureKind::Cluster, message)
    }

    /// The job was asked to stop.
    pub fn stopped(message: impl Into<String>) -> Self {
        Self::new(FailureKind::Stopped, message)
    }

    /// Who has to act.
    pub fn kind(&self) -> FailureKind {
        self.kind
    }

    /// What failed, on what, and what helps, in one line.
    pub fn message(&self) -> &str {
        &self.message
    }

    /// The code that the process exits with: 2 for a usage error, 0 for a stop on request, else 1.
    pub fn exit_code(&self) -> u8 {
        match self.kind {
            FailureKind::Stopped => 0,
            FailureKind::Usage => 2,
            FailureKind::Data | FailureKind::Peer | FailureKind::Panic | FailureKind::Cluster => 1,
        }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Failure {}

/// Words and single spaces only, cut at the limit.
fn one_line(message: &str) -> String {
    let mut line = String::with_capacity(message.len().min(LIMIT));
    for word in message.split(|c: char| c.is_whitespace() || c.is_control()) {
        if word.is_empty() {
            continue;
        }
        let space = usize::from(!line.is_empty());
        if line.len() + space + word.len() > LIMIT {
            let mut end = LIMIT.saturating_sub(line.len() + space);
            while !word.is_char_boundary(end) {
                end -= 1;
            }
            if space == 1 {
                line.push(' ');
            }
            line.push_str(&word[..end]);
            return line;
        }
        if space == 1 {
            line.push(' ');
        }
        line.push_str(word);
    }
    line
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_are_one_short_line() {
        let panic = Failure::panic("assertion `left == right` failed\n  left: 1\n right: \u{1b}[31m2");
        assert_eq!(panic.to_string(), "assertion `left == right` failed left: 1 right: [31m2");
        assert_eq!(Failure::data("two  spaces stay").message(), "two  spaces stay");
        let long = Failure::data("é".repeat(LIMIT));
        assert!(long.message().len() <= LIMIT && long.message().len() > LIMIT - 2);
    }

    #[test]
    fn only_usage_exits_with_2() {
        assert_eq!(Failure::usage("").exit_code(), 2);
        for failure in [Failure::data(""), Failure::peer(""), Failure::panic(""), Failure::cluster("")] {
            assert_eq!(failure.exit_code(), 1);
        }
    }
}
