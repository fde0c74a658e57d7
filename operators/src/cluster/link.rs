//! The control connection of a pair of processes: a goodbye, or the reason why the job ends.
//!
//! ```text
//! frame = tag u8 | length u32 (big endian) | payload
//! tag 1 = goodbye, no payload      tag 2 = report, postcard
//! ```
//!
//! # Invariants
//! - A frame is at most [`LIMIT`] bytes: a wrong length costs no memory.
//! - Writing never blocks for more than [`WRITE_TIMEOUT`], so a stopped peer cannot hold up an ending process.
//!
//! There are no heartbeats: a stopped peer is waited for. TCP keepalive is left to the system, as the standard library
//! cannot set it; a link that was cut without a word is noticed when something is sent over it.

use std::io::{Error, ErrorKind, Read, Result, Write};
use std::net::TcpStream;
use std::time::Duration;

use crossbeam::channel::Sender;

use super::deadline::Deadline;
use super::supervisor::{Event, Report};

const GOODBYE: u8 = 1;
const REPORT: u8 = 2;

/// The longest payload in bytes: messages of failures are shorter.
const LIMIT: usize = 64 << 10;

/// The longest wait to hand a frame to the system.
pub(super) const WRITE_TIMEOUT: Duration = Duration::from_millis(500);

/// What is said on a control connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Frame {
    Goodbye,
    Report(Report),
}

impl Frame {
    pub(super) fn write(&self, stream: &mut impl Write) -> Result<()> {
        let (tag, payload) = match self {
            Self::Goodbye => (GOODBYE, Vec::new()),
            Self::Report(report) => (REPORT, postcard::to_stdvec(report).map_err(Error::other)?),
        };
        let mut bytes = vec![tag];
        bytes.extend_from_slice(&(payload.len() as u32).to_be_bytes());
        bytes.extend_from_slice(&payload);
        stream.write_all(&bytes)
    }

    pub(super) fn read(stream: &mut impl Read) -> Result<Self> {
        let mut head = [0; 5];
        stream.read_exact(&mut head)?;
        let length = u32::from_be_bytes([head[1], head[2], head[3], head[4]]) as usize;
        let junk = || Error::new(ErrorKind::InvalidData, "not a frame of the control connection");
        match head[0] {
            GOODBYE if length == 0 => Ok(Self::Goodbye),
            REPORT if length <= LIMIT => {
                let mut payload = vec![0; length];
                stream.read_exact(&mut payload)?;
                postcard::from_bytes(&payload).map(Self::Report).map_err(|_| junk())
            }
            _ => Err(junk()),
        }
    }

    /// Whether the next frame on `stream`, of which the first byte is there, is a report.
    pub(super) fn is_report(stream: &TcpStream) -> bool {
        let mut tag = [0];
        matches!(stream.peek(&mut tag), Ok(1)) && tag[0] == REPORT
    }

    /// Reads a frame that has begun to arrive.
    pub(super) fn read_by(stream: &mut TcpStream, deadline: Deadline) -> Result<Self> {
        stream.set_read_timeout(Some(deadline.left().ok_or(ErrorKind::TimedOut)?))?;
        let frame = Self::read(stream);
        stream.set_read_timeout(None)?;
        frame
    }

    /// Writes to each stream that takes it; the others' peers are gone or stuck and find out otherwise.
    pub(super) fn tell<'a>(&self, streams: impl IntoIterator<Item = &'a TcpStream>) {
        for mut stream in streams {
            let sent = stream.set_write_timeout(Some(WRITE_TIMEOUT)).and_then(|()| self.write(&mut stream));
            if let Err(error) = sent {
                tracing::debug!(%error, "a peer could not be told");
            }
        }
    }
}

/// Turns what `peer` says into events until its connection ends.
pub(super) fn listen(peer: usize, mut stream: TcpStream, events: &Sender<Event>) {
    loop {
        let (event, last) = match Frame::read(&mut stream) {
            Ok(Frame::Goodbye) => (Event::Goodbye { peer }, false),
            Ok(Frame::Report(report)) => (Event::Told { report }, true),
            Err(error) => {
                let why = match error.kind() {
                    ErrorKind::UnexpectedEof | ErrorKind::ConnectionReset => "connection closed".to_owned(),
                    _ => error.to_string(),
                };
                (Event::Lost { peer, why }, true)
            }
        };
        if events.send(event).is_err() || last {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::failure::Failure;
    use super::*;

    #[test]
    fn frames_survive_the_way() {
        let report = Report::new(3, &Failure::data("line 7: no key"));
        for frame in [Frame::Goodbye, Frame::Report(report)] {
            let mut bytes = Vec::new();
            frame.write(&mut bytes).unwrap();
            assert_eq!(Frame::read(&mut bytes.as_slice()).unwrap(), frame);
            bytes.pop();
            assert!(Frame::read(&mut bytes.as_slice()).is_err());
        }
    }

    #[test]
    fn junk_is_an_error_and_costs_no_memory() {
        for junk in [&[2, 255, 255, 255, 255][..], &[9, 0, 0, 0, 0], &[1, 0, 0, 0, 1], &[2, 0, 0, 0, 1, 255]] {
            assert!(Frame::read(&mut &junk[..]).is_err());
        }
    }
}
