//! One thread per lower process that calls until it is there.
//!
//! # Invariants
//! - The control connection comes first; without both there is none.
//! - The pause between attempts doubles from [`FIRST_PAUSE`] to [`LONGEST_PAUSE`], and ends at once when formation does.
//! - A peer that answers the call is waited for until the deadline, as it may be stopped.

use std::net::{TcpStream, ToSocketAddrs};
use std::time::Duration;

use crossbeam::channel::{Receiver, RecvTimeoutError, Sender};

use super::deadline::Deadline;
use super::formation::{Found, Hint, Link};
use super::handshake::{Identity, Problem, Purpose};
use super::link::Frame;
use super::supervisor::Report;

/// The longest wait for one address to answer, and the first and longest pause between attempts.
const CONNECT: Duration = Duration::from_secs(3);
const FIRST_PAUSE: Duration = Duration::from_millis(10);
const LONGEST_PAUSE: Duration = Duration::from_millis(200);

/// How long a report that explains a refused connection may take to arrive.
const EXPLANATION: Duration = Duration::from_millis(200);

/// What came of an attempt that reached a peer.
pub(super) enum Attempt {
    Linked(Link),
    Told(Report),
}

/// Connects to one lower process until it works or formation ends.
pub(super) struct Connector {
    pub(super) identity: Identity,
    pub(super) peer: usize,
    pub(super) address: String,
    pub(super) deadline: Deadline,
    pub(super) found: Sender<Found>,
    pub(super) stopped: Receiver<()>,
}

impl Connector {
    pub(super) fn run(&self) {
        let mut pause = FIRST_PAUSE;
        while self.deadline.left().is_some() {
            let peer = self.peer;
            let (result, last) = match self.attempt() {
                Ok(Attempt::Linked(link)) => (Found::Connected { peer, link }, true),
                Ok(Attempt::Told(report)) => (Found::Told { peer, report }, true),
                Err(Problem::Mismatch(why)) => (Found::Mismatch { peer, why }, true),
                Err(Problem::Rejected(why)) => {
                    let hint = Hint::Rejected(format!("it was reached, but {why}"));
                    (Found::Unreached { peer, hint }, false)
                }
                Err(Problem::Broken(why)) => {
                    let hint = Hint::Broken(format!("the last attempt to connect: {why}"));
                    (Found::Unreached { peer, hint }, false)
                }
            };
            if self.found.send(result).is_err() || last {
                return;
            }
            if self.stopped.recv_timeout(pause) != Err(RecvTimeoutError::Timeout) {
                return;
            }
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
    }

    pub(super) fn attempt(&self) -> Result<Attempt, Problem> {
        let mut control = self.connect(Purpose::Control)?;
        match self.connect(Purpose::Data) {
            Ok(data) => Ok(Attempt::Linked(Link { data, control })),
            // A peer that lets in the one connection but not the other may have said why.
            Err(problem) => match Frame::read_by(&mut control, self.deadline.at_most(EXPLANATION)) {
                Ok(Frame::Report(report)) => Ok(Attempt::Told(report)),
                Ok(Frame::Goodbye) | Err(_) => Err(problem),
            },
        }
    }

    fn connect(&self, purpose: Purpose) -> Result<TcpStream, Problem> {
        let mut why = Problem::Broken("its host has no address".to_owned());
        for address in self.address.to_socket_addrs()? {
            let Some(left) = self.deadline.left() else { break };
            match TcpStream::connect_timeout(&address, left.min(CONNECT)) {
                // On loopback the system may pick the port that is called as the caller's own.
                Ok(stream) if stream.local_addr().ok() == stream.peer_addr().ok() => {
                    why = Problem::Broken("nobody listens".to_owned());
                }
                Ok(stream) => {
                    stream.set_nodelay(true)?;
                    // A stopped peer answers when it continues: wait rather than call again.
                    self.identity.connect(&stream, self.peer, purpose, self.deadline)?;
                    return Ok(stream);
                }
                Err(error) => why = error.into(),
            }
        }
        Err(why)
    }
}
