//! Connects the processes of a job, each pair by a data and a control connection.
//!
//! Process `i` listens at its own address and connects to all lower ones, again and again until they are there. The
//! calling thread alone decides who belongs to the cluster; one thread per lower process connects (`connector`), and
//! one short-lived thread per incoming connection runs the handshake (`handshake`).
//!
//! # Invariants
//! - Strangers (other protocol, token, job or generation; silent ones) cost a thread each, at most [`PENDING`] at a
//!   time and [`PATIENCE`] long. They are logged and change nothing else.
//! - Of two connections with the same index and purpose the first stays for as long as its control connection lives. A
//!   process that was restarted while the cluster forms thus takes its place again.
//! - A mismatch with a proven peer ends formation at both ends, without waiting for the deadline. The other processes
//!   are told, those that were about to connect during [`FAREWELL`] too.
//! - Formation ends at the deadline.
//!
//! Without a token anybody who speaks the protocol counts as proven: bind to a trusted network, or give a token.

use std::io::ErrorKind;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::thread;
use std::time::Duration;

use crossbeam::channel::{Receiver, RecvTimeoutError, Sender, unbounded};

use super::config::ClusterConfig;
use super::connector::Connector;
use super::deadline::Deadline;
use super::failure::Failure;
use super::handshake::{Hello, Identity, Problem, Purpose, Refusal, admit, refuse};
use super::link::Frame;
use super::supervisor::Report;

/// How long the handshake with a client may take.
const PATIENCE: Duration = Duration::from_secs(5);

/// How many clients may be in their handshake at a time.
const PENDING: usize = 128;

/// How often the listener is looked at.
const TICK: Duration = Duration::from_millis(5);

/// How long a process whose cluster cannot form waits for others to tell them why.
const FAREWELL: Duration = Duration::from_secs(1);

/// The two connections to a peer.
#[derive(Debug)]
pub(super) struct Link {
    pub(super) data: TcpStream,
    pub(super) control: TcpStream,
}

/// What the helper threads find.
pub(super) enum Found {
    Connected {
        peer: usize,
        link: Link,
    },
    Accepted {
        stream: TcpStream,
        hello: Hello,
        from: SocketAddr,
    },
    /// An incoming connection came to nothing.
    Rejected {
        claims: Option<usize>,
        from: SocketAddr,
        why: String,
    },
    /// An outgoing connection came to nothing and is tried again.
    Unreached {
        peer: usize,
        hint: Hint,
    },
    Mismatch {
        peer: usize,
        why: String,
    },
    /// A peer says why the job ends.
    Told {
        peer: usize,
        report: Report,
    },
}

/// Why a peer is not there, as far as is known. Refusals tell more than broken connections do.
pub(super) enum Hint {
    Broken(String),
    Rejected(String),
}

/// The connections to a peer so far.
#[derive(Default)]
struct Slot {
    incarnation: Option<[u8; 16]>,
    data: Option<TcpStream>,
    control: Option<TcpStream>,
    hint: Option<Hint>,
}

impl Slot {
    fn is_complete(&self) -> bool {
        self.data.is_some() && self.control.is_some()
    }

    fn hint(&mut self, hint: Hint) {
        if !matches!((&self.hint, &hint), (Some(Hint::Rejected(_)), Hint::Broken(_))) {
            self.hint = Some(hint);
        }
    }
}

/// Connects this process with all others; the entry of this process is `None`.
pub(super) fn form(config: &ClusterConfig) -> Result<Vec<Option<Link>>, Failure> {
    let mut formation = Formation::start(config)?;
    match formation.run() {
        Ok(()) => Ok(formation.links()),
        Err(End { failure, report, knows }) => {
            formation.farewell(&Frame::Report(report), knows);
            Err(failure)
        }
    }
}

/// Why formation ended, for this process and for the others.
struct End {
    failure: Failure,
    report: Report,
    /// The peer that need not be told.
    knows: Option<usize>,
}

struct Formation<'a> {
    config: &'a ClusterConfig,
    identity: Identity,
    listener: TcpListener,
    deadline: Deadline,
    slots: Vec<Slot>,
    pending: usize,
    found: Sender<Found>,
    inbox: Receiver<Found>,
    /// Connectors end when this is dropped.
    _stop: Sender<()>,
    stopped: Receiver<()>,
}

impl<'a> Formation<'a> {
    fn start(config: &'a ClusterConfig) -> Result<Self, Failure> {
        let own = &config.addresses[config.process];
        let listener = TcpListener::bind(own)
            .and_then(|listener| listener.set_nonblocking(true).map(|()| listener))
            .map_err(|e| Failure::cluster(format!("process {} cannot listen on {own}: {e}", config.process)))?;
        let (found, inbox) = unbounded();
        let (stop, stopped) = unbounded();
        let formation = Self {
            config,
            identity: Identity::new(config)?,
            listener,
            deadline: Deadline::after(config.connect_timeout),
            slots: (0..config.processes).map(|_| Slot::default()).collect(),
            pending: 0,
            found,
            inbox,
            _stop: stop,
            stopped,
        };
        for peer in 0..config.process {
            formation.spawn_connector(peer)?;
        }
        Ok(formation)
    }

    fn run(&mut self) -> Result<(), End> {
        while self.missing().next().is_some() {
            if self.deadline.left().is_none() {
                return Err(self.end(self.timeout()));
            }
            self.accept();
            match self.inbox.recv_timeout(TICK) {
                Ok(found) => self.on(found)?,
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => unreachable!("this end holds a sender"),
            }
            self.check_peers()?;
        }
        Ok(())
    }

    fn links(self) -> Vec<Option<Link>> {
        let link = |slot: Slot| Some(Link { data: slot.data?, control: slot.control? });
        self.slots.into_iter().map(link).collect()
    }

    fn missing(&self) -> impl Iterator<Item = usize> {
        (0..self.slots.len()).filter(|&peer| peer != self.config.process && !self.slots[peer].is_complete())
    }

    fn end(&self, failure: Failure) -> End {
        let report = Report::new(self.config.process, &failure);
        let knows = None;
        End { failure, report, knows }
    }

    /// The end because of a mismatch with `peer`, which sees it too.
    fn mismatch(&self, peer: usize, why: String) -> End {
        End { knows: Some(peer), ..self.end(Failure::cluster(why)) }
    }

    fn timeout(&self) -> Failure {
        let names: Vec<_> = self.missing().map(|peer| self.config.name_of(peer)).collect();
        let hint = self.missing().find_map(|peer| self.slots[peer].hint.as_ref()).map_or(
            "it never connected; is it started, with the same hostfile?",
            |hint| match hint {
                Hint::Broken(why) | Hint::Rejected(why) => why,
            },
        );
        Failure::cluster(format!(
            "{} did not come within {} s; {hint}",
            names.join(", "),
            self.config.connect_timeout.as_secs_f64()
        ))
    }

    /// Tells the peers why the job ends: those that are connected, and until the deadline also those that are about to.
    fn farewell(&mut self, report: &Frame, knows: Option<usize>) {
        let deadline = self.deadline.at_most(FAREWELL);
        let mut told: Vec<_> = self.slots.iter().map(|slot| slot.control.is_some()).collect();
        told[self.config.process] = true;
        if let Some(known) = knows.and_then(|peer| told.get_mut(peer)) {
            *known = true;
        }
        report.tell(self.slots.iter().filter_map(|slot| slot.control.as_ref()));
        while told.contains(&false) && deadline.left().is_some() {
            self.accept();
            match self.inbox.recv_timeout(TICK) {
                Ok(Found::Accepted { stream, hello, .. }) => {
                    self.pending -= 1;
                    if let Err((refusal, problem)) = self.identity.judge(&hello) {
                        let _ = refuse(&stream, refusal);
                        // It knows by itself.
                        if matches!(problem, Problem::Mismatch(_))
                            && let Some(told) = told.get_mut(hello.process)
                        {
                            *told = true;
                        }
                    } else if hello.purpose == Purpose::Control && admit(&stream).is_ok() {
                        report.tell([&stream]);
                        told[hello.process] = true;
                        // Held until the end: a connection that closes at once might lose the report.
                        self.slots[hello.process].control = Some(stream);
                    } else {
                        let _ = refuse(&stream, Refusal::Mismatch);
                    }
                }
                Ok(Found::Connected { peer, link }) => {
                    report.tell([&link.control]);
                    told[peer] = true;
                    self.slots[peer].control = Some(link.control);
                }
                Ok(Found::Mismatch { peer, .. } | Found::Told { peer, .. }) => told[peer] = true,
                Ok(Found::Rejected { .. }) => self.pending -= 1,
                Ok(Found::Unreached { .. }) | Err(_) => {}
            }
        }
    }

    fn progress(&self, text: &str) {
        if self.config.report {
            tracing::info!(process = self.config.process, "{text}");
        } else {
            tracing::debug!(process = self.config.process, "{text}");
        }
    }

    /// Starts the handshake with those who wait at the door; with no more at a time than can be served.
    fn accept(&mut self) {
        for _ in 0..PENDING {
            match self.listener.accept() {
                Ok((stream, from)) => {
                    if self.pending == PENDING {
                        tracing::warn!(%from, "connection rejected: too many are in their handshake");
                        continue;
                    }
                    match self.spawn_acceptor(stream, from) {
                        Ok(()) => self.pending += 1,
                        Err(error) => tracing::warn!(%from, %error, "connection rejected"),
                    }
                }
                Err(error) => {
                    if error.kind() != ErrorKind::WouldBlock {
                        tracing::debug!(%error, "a connection could not be accepted");
                    }
                    return;
                }
            }
        }
    }

    fn on(&mut self, found: Found) -> Result<(), End> {
        match found {
            Found::Connected { peer, link } => {
                self.progress(&format!("connected to {}", self.config.name_of(peer)));
                let slot = &mut self.slots[peer];
                slot.data = Some(link.data);
                slot.control = Some(link.control);
                Ok(())
            }
            Found::Accepted { stream, hello, from } => {
                self.pending -= 1;
                self.admit(stream, &hello, from)
            }
            Found::Rejected { claims, from, why } => {
                self.pending -= 1;
                self.rejected(claims, from, &why);
                Ok(())
            }
            Found::Unreached { peer, hint } => {
                self.slots[peer].hint(hint);
                Ok(())
            }
            Found::Mismatch { peer, why } => Err(self.mismatch(peer, why)),
            Found::Told { peer, report } => Err(End { failure: report.failure(), report, knows: Some(peer) }),
        }
    }

    fn rejected(&mut self, claims: Option<usize>, from: SocketAddr, why: &str) {
        tracing::warn!(%from, why, "connection rejected");
        if let Some(peer) = claims
            && peer > self.config.process
            && let Some(slot) = self.slots.get_mut(peer)
        {
            let why = format!("one that says it is process {peer} was rejected: {why}");
            slot.hint(Hint::Rejected(why));
        }
    }

    /// Takes in a connector that has proved that it knows the token, if it belongs here.
    fn admit(&mut self, stream: TcpStream, hello: &Hello, from: SocketAddr) -> Result<(), End> {
        let peer = hello.process;
        if let Err((refusal, problem)) = self.identity.judge(hello) {
            let _ = refuse(&stream, refusal);
            return match problem {
                Problem::Mismatch(why) => Err(self.mismatch(peer, why)),
                Problem::Rejected(why) | Problem::Broken(why) => {
                    self.rejected(Some(peer), from, &why);
                    Ok(())
                }
            };
        }
        self.check_peer(peer)?;
        let slot = &mut self.slots[peer];
        if slot.control.is_some() && slot.incarnation != Some(hello.incarnation) {
            let _ = refuse(&stream, Refusal::Twice);
            tracing::warn!(%from, "connection rejected: process {peer} is connected already");
            return Ok(());
        }
        // The connector opens the control connection first, and anew if any of the two fails.
        let wanted = match hello.purpose {
            Purpose::Control => slot.control.is_none(),
            Purpose::Data => slot.control.is_some() && slot.data.is_none(),
        };
        if !wanted {
            let _ = refuse(&stream, Refusal::Twice);
            tracing::warn!(%from, "connection rejected: process {peer} connects twice or out of order");
            return Ok(());
        }
        if let Err(error) = admit(&stream) {
            self.rejected(Some(peer), from, &error.to_string());
            return Ok(());
        }
        slot.incarnation = Some(hello.incarnation);
        match hello.purpose {
            Purpose::Control => slot.control = Some(stream),
            Purpose::Data => {
                slot.data = Some(stream);
                self.progress(&format!("{} has connected", self.config.name_of(peer)));
            }
        }
        Ok(())
    }

    fn check_peers(&mut self) -> Result<(), End> {
        (0..self.slots.len()).try_for_each(|peer| self.check_peer(peer))
    }

    /// Whether a peer that came has left since, or has said why the job ends.
    fn check_peer(&mut self, peer: usize) -> Result<(), End> {
        let Some(control) = &mut self.slots[peer].control else {
            return Ok(());
        };
        match first_byte(control) {
            Waiting::Frame if Frame::is_report(control) => match Frame::read_by(control, self.deadline) {
                Ok(Frame::Report(report)) => {
                    let (failure, knows) = (report.failure(), Some(peer));
                    Err(End { failure, report, knows })
                }
                // Whatever it is, the supervisor hears of it.
                Ok(Frame::Goodbye) | Err(_) => Ok(()),
            },
            Waiting::Frame | Waiting::Nothing => Ok(()),
            Waiting::Closed => {
                self.slots[peer] =
                    Slot { hint: Some(Hint::Broken("it came, and left again".to_owned())), ..Slot::default() };
                if peer < self.config.process {
                    self.spawn_connector(peer).map_err(|failure| self.end(failure))?;
                }
                Ok(())
            }
        }
    }

    fn spawn_acceptor(&self, stream: TcpStream, from: SocketAddr) -> std::io::Result<()> {
        stream.set_nonblocking(false)?;
        stream.set_nodelay(true)?;
        let identity = self.identity.clone();
        let deadline = self.deadline.at_most(PATIENCE);
        let found = self.found.clone();
        thread::Builder::new().name("cluster:accept".to_owned()).spawn(move || {
            let result = match identity.accept(&stream, deadline) {
                Ok(hello) => Found::Accepted { stream, hello, from },
                Err((claims, Problem::Rejected(why) | Problem::Broken(why) | Problem::Mismatch(why))) => {
                    Found::Rejected { claims, from, why }
                }
            };
            // Nobody listens any more once the cluster has formed.
            let _ = found.send(result);
        })?;
        Ok(())
    }

    fn spawn_connector(&self, peer: usize) -> Result<(), Failure> {
        let connector = Connector {
            identity: self.identity.clone(),
            peer,
            address: self.config.addresses[peer].clone(),
            deadline: self.deadline,
            found: self.found.clone(),
            stopped: self.stopped.clone(),
        };
        thread::Builder::new()
            .name(format!("cluster:connect-{peer}"))
            .spawn(move || connector.run())
            .map_err(|e| Failure::cluster(format!("cannot start a thread: {e}")))?;
        Ok(())
    }
}

/// What can be read from a control connection right now.
enum Waiting {
    Nothing,
    Frame,
    Closed,
}

fn first_byte(stream: &TcpStream) -> Waiting {
    let peek = || {
        stream.set_nonblocking(true)?;
        let peeked = stream.peek(&mut [0]);
        stream.set_nonblocking(false)?;
        peeked
    };
    match peek() {
        Ok(0) => Waiting::Closed,
        Ok(_) => Waiting::Frame,
        Err(error) if error.kind() == ErrorKind::WouldBlock => Waiting::Nothing,
        Err(_) => Waiting::Closed,
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU16, Ordering};

    use super::super::connector::Attempt;
    use super::*;

    /// Process `process` of three, as a connector to process 0 at `addresses[0]`.
    fn connector(process: usize, addresses: &[String]) -> Connector {
        let config = config(process, addresses);
        let (found, _) = unbounded();
        let (_, stopped) = unbounded();
        Connector {
            identity: Identity::new(&config).unwrap(),
            peer: 0,
            address: addresses[0].clone(),
            deadline: Deadline::after(config.connect_timeout),
            found,
            stopped,
        }
    }

    fn config(process: usize, addresses: &[String]) -> ClusterConfig {
        ClusterConfig {
            processes: 3,
            process,
            addresses: addresses.to_vec(),
            connect_timeout: Duration::from_mins(2),
            ..ClusterConfig::single(1)
        }
    }

    /// An address that nobody listens at: below the range from which the system takes ports for others.
    fn free() -> String {
        static NEXT: AtomicU16 = AtomicU16::new(0);
        let first = 10_000 + (std::process::id() % 200) as u16 * 100;
        loop {
            let address = format!("127.0.0.1:{}", first + NEXT.fetch_add(1, Ordering::Relaxed) % 100);
            if TcpListener::bind(&address).is_ok() {
                return address;
            }
        }
    }

    /// Attempts until it works, or fails in a way that `last` accepts.
    fn persist(connector: &Connector, last: impl Fn(&str) -> bool) -> Result<Link, String> {
        loop {
            match connector.attempt() {
                Ok(Attempt::Linked(link)) => return Ok(link),
                Ok(Attempt::Told(report)) => return Err(report.message),
                Err(Problem::Rejected(why) | Problem::Broken(why)) if !last(&why) => thread::yield_now(),
                Err(Problem::Rejected(why) | Problem::Broken(why) | Problem::Mismatch(why)) => return Err(why),
            }
            assert!(connector.deadline.left().is_some());
        }
    }

    #[test]
    fn an_index_is_taken_once_until_its_holder_leaves() {
        let addresses = [free(), "h:1".to_owned(), "h:2".to_owned()];
        let forming = thread::spawn({
            let config = config(0, &addresses);
            move || form(&config)
        });
        let held = persist(&connector(1, &addresses), |_| false).unwrap();
        let second = connector(1, &addresses);
        let why = persist(&second, |why| why.contains("another process with this index")).unwrap_err();
        assert_eq!(why, "it is connected to another process with this index");
        drop(held);
        let held = persist(&second, |_| false).unwrap();
        let last = persist(&connector(2, &addresses), |_| false).unwrap();
        let links = forming.join().unwrap().unwrap();
        let present: Vec<_> = links.iter().map(Option::is_some).collect();
        assert_eq!(present, [false, true, true]);
        drop((held, last));
    }

    #[test]
    fn a_report_of_a_peer_ends_formation_and_is_passed_on() {
        let addresses = [free(), "h:1".to_owned(), "h:2".to_owned()];
        let forming = thread::spawn({
            let config = config(0, &addresses);
            move || form(&config)
        });
        let link = persist(&connector(1, &addresses), |_| false).unwrap();
        let report = Report::new(1, &Failure::cluster("process 2 did not come"));
        Frame::Report(report.clone()).tell([&link.control]);
        let failure = forming.join().unwrap().unwrap_err();
        assert_eq!(failure, report.failure());
        let mut control = link.control;
        assert_eq!(Frame::read(&mut control).unwrap(), Frame::Report(report));
    }

    #[test]
    fn a_process_that_comes_after_the_end_is_told_why() {
        let addresses = [free(), "h:1".to_owned(), "h:2".to_owned()];
        let forming = thread::spawn({
            let config = config(0, &addresses);
            move || form(&config)
        });
        let mut other = connector(2, &addresses);
        other.identity = Identity::new(&ClusterConfig { threads: 2, ..config(2, &addresses) }).unwrap();
        let mismatch = persist(&other, |_| false).unwrap_err();
        assert!(mismatch.contains("-w 1 -n 3") && mismatch.contains("-w 2 -n 3"), "{mismatch}");
        let told = persist(&connector(1, &addresses), |_| false).unwrap_err();
        assert!(told.contains("-w 1 -n 3") && told.contains("-w 2 -n 3"), "{told}");
        assert_eq!(forming.join().unwrap().unwrap_err(), Failure::cluster(told));
    }
}
