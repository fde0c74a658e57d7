//! Who is at the other end of a fresh connection.
//!
//! The connector is the process with the higher index.
//!
//! ```text
//! connector                                acceptor
//!   hello ─────────────────────────────────▶
//!   ◀───────────────────────────────── hello
//!   HMAC(token, "connector", both hellos) ─▶  wrong: ◀─ Refusal::Token
//!   ◀─ 0, HMAC(token, "acceptor ", both hellos)
//!   ◀─ 0: admitted, or the code of a refusal
//!
//! hello = magic [8] | version u16 | length u16 | postcard of the fields   (big endian)
//! ```
//!
//! # Invariants
//! - Nothing but the two hellos is believed before the proofs were verified; a refusal code is a hint for people only.
//! - Both ends compare the same two hellos by the same rules, so a mismatch is seen by both.
//! - A connection costs at most [`LIMIT`] bytes and the time to its deadline, however slowly it sends.
//!
//! Not here: which connections are wanted, and when to give up (`formation`).

use std::io::{Error, ErrorKind, Read, Result, Write};
use std::net::TcpStream;

use serde::{Deserialize, Serialize};

use super::config::ClusterConfig;
use super::deadline::Deadline;
use super::failure::Failure;
use super::secret::{End, PROOF, Secret};

const MAGIC: [u8; 8] = *b"tagents\n";
const VERSION: u16 = 1;

/// The longest hello after its fixed part, in bytes.
const LIMIT: usize = 4 << 10;

/// The longest job name and the longest fingerprint, in bytes, so that a hello fits.
pub(super) const NAME_LIMIT: usize = 1 << 10;

/// What a connection is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Purpose {
    Control,
    Data,
}

/// What an end says about itself.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Hello {
    pub(super) process: usize,
    /// Whom it takes the other end for.
    pub(super) expects: usize,
    pub(super) purpose: Purpose,
    pub(super) threads: usize,
    pub(super) processes: usize,
    pub(super) generation: u64,
    pub(super) job: String,
    pub(super) fingerprint: Option<String>,
    /// Differs between two starts of the same process.
    pub(super) incarnation: [u8; 16],
    /// Differs between two connections.
    nonce: [u8; 32],
}

/// Why an acceptor turns a connection away, as it goes over the wire.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum Refusal {
    Token = 1,
    Job = 2,
    Generation = 3,
    Mismatch = 4,
    Twice = 5,
}

/// Why there is no connection.
#[derive(Debug)]
pub(super) enum Problem {
    /// The connection did not work. Another attempt may do better.
    Broken(String),
    /// Not a peer, or not now. Another attempt may do better.
    Rejected(String),
    /// A peer of this job that cannot work with this process. Another attempt cannot do better.
    Mismatch(String),
}

impl From<Error> for Problem {
    fn from(error: Error) -> Self {
        Self::Broken(match error.kind() {
            ErrorKind::UnexpectedEof => "the connection was closed during the handshake".to_owned(),
            ErrorKind::TimedOut | ErrorKind::WouldBlock => "no answer during the handshake".to_owned(),
            _ => error.to_string(),
        })
    }
}

/// This process, as it presents itself on every connection.
#[derive(Clone, Debug)]
pub(super) struct Identity {
    hello: Hello,
    secret: Secret,
}

impl Identity {
    pub(super) fn new(config: &ClusterConfig) -> std::result::Result<Self, Failure> {
        Ok(Self {
            hello: Hello {
                process: config.process,
                expects: 0,
                purpose: Purpose::Control,
                threads: config.threads,
                processes: config.processes,
                generation: config.generation,
                job: config.job.clone(),
                fingerprint: config.fingerprint.clone(),
                incarnation: random().map_err(|e| Failure::cluster(e.to_string()))?,
                nonce: [0; 32],
            },
            secret: config.token.clone().unwrap_or_default(),
        })
    }

    fn hello(&self, expects: usize, purpose: Purpose) -> Result<Hello> {
        Ok(Hello { expects, purpose, nonce: random()?, ..self.hello.clone() })
    }

    /// The connector's side, until the acceptor, which must be `peer`, has admitted it.
    pub(super) fn connect(
        &self,
        stream: &TcpStream,
        peer: usize,
        purpose: Purpose,
        deadline: Deadline,
    ) -> std::result::Result<Hello, Problem> {
        let mut wire = Wire { stream, deadline };
        let own = self.hello(peer, purpose)?;
        let own_bytes = encode(&own)?;
        wire.write(&own_bytes)?;
        let (other, other_bytes) = wire.read_hello()?;
        let hellos = [&own_bytes[..], &other_bytes];
        wire.write(&self.secret.proof(End::Connector, hellos))?;
        wire.admitted()?;
        let proof = wire.read_array::<PROOF>()?;
        if !self.secret.verify(End::Acceptor, hellos, &proof) {
            return Err(Problem::Rejected("its token differs from this process's".to_owned()));
        }
        judge(&own, &other).map_err(|(_, problem)| problem)?;
        wire.admitted()?;
        wire.finish()?;
        Ok(other)
    }

    /// The acceptor's side up to the proof that the connector knows the token. The caller says [`admit`] or [`refuse`].
    /// With the error comes whom the connector claimed to be.
    pub(super) fn accept(
        &self,
        stream: &TcpStream,
        deadline: Deadline,
    ) -> std::result::Result<Hello, (Option<usize>, Problem)> {
        let mut wire = Wire { stream, deadline };
        let (other, other_bytes) = wire.read_hello().map_err(|p| (None, p))?;
        let claims = Some(other.process);
        let mut prove = || {
            let own_bytes = encode(&self.hello(other.process, other.purpose)?)?;
            wire.write(&own_bytes)?;
            let hellos = [&other_bytes[..], &own_bytes];
            let proof = wire.read_array::<PROOF>()?;
            if !self.secret.verify(End::Connector, hellos, &proof) {
                let _ = refuse(stream, Refusal::Token);
                return Err(Problem::Rejected("its token differs from this process's".to_owned()));
            }
            let mut answer = vec![0];
            answer.extend_from_slice(&self.secret.proof(End::Acceptor, hellos));
            wire.write(&answer)?;
            wire.finish()?;
            Ok(())
        };
        prove().map_err(|p| (claims, p))?;
        Ok(other)
    }

    /// The acceptor's judgement of a connector that has proved itself.
    pub(super) fn judge(&self, other: &Hello) -> std::result::Result<(), (Refusal, Problem)> {
        let own = Hello { expects: other.process, ..self.hello.clone() };
        judge(&own, other)?;
        if other.process <= own.process || other.process >= own.processes {
            let why = format!("it connects as process {}, which it must not to this one", other.process);
            return Err((Refusal::Mismatch, Problem::Rejected(why)));
        }
        Ok(())
    }
}

pub(super) fn admit(mut stream: &TcpStream) -> Result<()> {
    stream.write_all(&[0])
}

pub(super) fn refuse(mut stream: &TcpStream, refusal: Refusal) -> Result<()> {
    stream.write_all(&[refusal as u8])
}

/// Whether two ends with these hellos belong together.
fn judge(own: &Hello, other: &Hello) -> std::result::Result<(), (Refusal, Problem)> {
    let stranger = |refusal, why| Err((refusal, Problem::Rejected(why)));
    let mismatch = |why| Err((Refusal::Mismatch, Problem::Mismatch(why)));
    if own.job != other.job {
        return stranger(Refusal::Job, format!("it belongs to job {:?}, this process to {:?}", other.job, own.job));
    }
    if own.generation != other.generation {
        return stranger(
            Refusal::Generation,
            format!("it is of generation {}, this process of {}", other.generation, own.generation),
        );
    }
    if (own.threads, own.processes) != (other.threads, other.processes) {
        return mismatch(format!(
            "process {} runs with -w {} -n {}, process {} with -w {} -n {}: all need the same",
            other.process, other.threads, other.processes, own.process, own.threads, own.processes
        ));
    }
    if own.fingerprint != other.fingerprint
        && let (Some(ours), Some(theirs)) = (&own.fingerprint, &other.fingerprint)
    {
        return mismatch(format!(
            "process {} has fingerprint {theirs}, process {} has {ours}: all need the same build",
            other.process, own.process
        ));
    }
    if own.fingerprint.is_some() != other.fingerprint.is_some() {
        return mismatch(format!(
            "of process {} and process {} only one has a fingerprint: all need the same build",
            other.process, own.process
        ));
    }
    if other.expects != own.process || own.expects != other.process {
        return mismatch(format!(
            "process {} was reached as process {}: all need the same hostfile and their own -p",
            if other.expects == own.process { other.process } else { own.process },
            if other.expects == own.process { own.expects } else { other.expects },
        ));
    }
    Ok(())
}

fn random<const N: usize>() -> Result<[u8; N]> {
    let mut bytes = [0; N];
    getrandom::fill(&mut bytes).map_err(|e| Error::other(format!("the system gives no random numbers: {e}")))?;
    Ok(bytes)
}

fn encode(hello: &Hello) -> Result<Vec<u8>> {
    let fields = postcard::to_stdvec(hello).map_err(Error::other)?;
    assert!(fields.len() <= LIMIT, "names are limited so that hellos fit");
    let mut bytes = MAGIC.to_vec();
    bytes.extend_from_slice(&VERSION.to_be_bytes());
    bytes.extend_from_slice(&(fields.len() as u16).to_be_bytes());
    bytes.extend_from_slice(&fields);
    Ok(bytes)
}

/// A stream on which everything has to happen before a deadline.
struct Wire<'a> {
    stream: &'a TcpStream,
    deadline: Deadline,
}

impl Wire<'_> {
    fn read(&mut self, mut buffer: &mut [u8]) -> Result<()> {
        while !buffer.is_empty() {
            let left = self.deadline.left().ok_or(ErrorKind::TimedOut)?;
            self.stream.set_read_timeout(Some(left))?;
            match self.stream.read(buffer) {
                Ok(0) => return Err(ErrorKind::UnexpectedEof.into()),
                Ok(n) => buffer = &mut buffer[n..],
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    fn read_array<const N: usize>(&mut self) -> Result<[u8; N]> {
        let mut bytes = [0; N];
        self.read(&mut bytes)?;
        Ok(bytes)
    }

    fn read_hello(&mut self) -> std::result::Result<(Hello, Vec<u8>), Problem> {
        let junk = || Problem::Rejected("it does not speak this protocol".to_owned());
        let head = self.read_array::<12>()?;
        if head[..8] != MAGIC {
            return Err(junk());
        }
        let version = u16::from_be_bytes([head[8], head[9]]);
        if version != VERSION {
            let why = format!("it speaks version {version} of the protocol, this process {VERSION}");
            return Err(Problem::Rejected(why));
        }
        let length = usize::from(u16::from_be_bytes([head[10], head[11]]));
        if length > LIMIT {
            return Err(junk());
        }
        let mut bytes = head.to_vec();
        bytes.resize(head.len() + length, 0);
        self.read(&mut bytes[head.len()..])?;
        let hello = postcard::from_bytes(&bytes[head.len()..]).map_err(|_| junk())?;
        Ok((hello, bytes))
    }

    /// Reads a zero, or the reason why the acceptor says no.
    fn admitted(&mut self) -> std::result::Result<(), Problem> {
        let why = match self.read_array::<1>()?[0] {
            0 => return Ok(()),
            x if x == Refusal::Token as u8 => "it refuses this process's token",
            x if x == Refusal::Job as u8 => "it belongs to another job",
            x if x == Refusal::Generation as u8 => "it is of another generation of the job",
            x if x == Refusal::Mismatch as u8 => "it was started with other options",
            x if x == Refusal::Twice as u8 => "it is connected to another process with this index",
            _ => "it does not speak this protocol",
        };
        Err(Problem::Rejected(why.to_owned()))
    }

    fn write(&mut self, bytes: &[u8]) -> Result<()> {
        let left = self.deadline.left().ok_or(ErrorKind::TimedOut)?;
        self.stream.set_write_timeout(Some(left))?;
        let mut stream = self.stream;
        stream.write_all(bytes)
    }

    /// From here on the stream waits for as long as it takes.
    fn finish(&mut self) -> Result<()> {
        self.stream.set_read_timeout(None)?;
        self.stream.set_write_timeout(None)
    }
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;
    use std::time::Duration;

    use super::*;

    fn config(process: usize) -> ClusterConfig {
        ClusterConfig {
            processes: 2,
            process,
            addresses: vec!["h:1".to_owned(), "h:2".to_owned()],
            ..ClusterConfig::single(1)
        }
    }

    fn soon() -> Deadline {
        Deadline::after(Duration::from_mins(2))
    }

    /// Process 1 with `connector`'s configuration connects to process 0 with `acceptor`'s.
    fn meet(
        acceptor: &ClusterConfig,
        connector: &ClusterConfig,
    ) -> (std::result::Result<Hello, Problem>, std::result::Result<Hello, Problem>) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let connector = Identity::new(connector).unwrap();
        let thread = std::thread::spawn(move || {
            let stream = TcpStream::connect(address).unwrap();
            connector.connect(&stream, 0, Purpose::Data, soon())
        });
        let acceptor = Identity::new(acceptor).unwrap();
        let (stream, _) = listener.accept().unwrap();
        let accepted = acceptor.accept(&stream, soon()).map_err(|(_, p)| p).and_then(|hello| {
            match acceptor.judge(&hello) {
                Ok(()) => admit(&stream).unwrap(),
                Err((refusal, problem)) => {
                    let _ = refuse(&stream, refusal);
                    return Err(problem);
                }
            }
            Ok(hello)
        });
        (accepted, thread.join().unwrap())
    }

    #[test]
    fn peers_of_one_job_meet() {
        let (accepted, connected) = meet(&config(0), &config(1));
        let (accepted, connected) = (accepted.unwrap(), connected.unwrap());
        assert_eq!((accepted.process, accepted.purpose), (1, Purpose::Data));
        assert_eq!((connected.process, connected.expects), (0, 1));
        assert_ne!(accepted.nonce, connected.nonce);
    }

    #[test]
    fn strangers_are_rejected_on_both_ends() {
        let with = |change: fn(&mut ClusterConfig)| {
            let mut config = config(1);
            change(&mut config);
            config
        };
        for other in [
            with(|c| c.token = Some(Secret::new("x"))),
            with(|c| c.job = "other".to_owned()),
            with(|c| c.generation = 1),
        ] {
            let (accepted, connected) = meet(&config(0), &other);
            assert!(matches!(accepted, Err(Problem::Rejected(_))), "{accepted:?}");
            assert!(matches!(connected, Err(Problem::Rejected(_))), "{connected:?}");
        }
    }

    #[test]
    fn a_mismatch_is_seen_on_both_ends() {
        let with = |change: fn(&mut ClusterConfig)| {
            let mut config = config(1);
            change(&mut config);
            config
        };
        for other in
            [with(|c| c.threads = 2), with(|c| c.processes = 3), with(|c| c.fingerprint = Some("f".to_owned()))]
        {
            let (accepted, connected) = meet(&config(0), &other);
            assert!(matches!(accepted, Err(Problem::Mismatch(_))), "{accepted:?}");
            assert!(matches!(connected, Err(Problem::Mismatch(_))), "{connected:?}");
        }
    }

    #[test]
    fn a_process_reached_under_the_wrong_index_is_a_mismatch() {
        let mut elsewhere = config(1);
        elsewhere.processes = 3;
        elsewhere.process = 2;
        let mut acceptor = config(1);
        acceptor.processes = 3;
        let (accepted, connected) = meet(&acceptor, &elsewhere);
        for end in [accepted, connected] {
            let Err(Problem::Mismatch(why)) = end else { panic!("{end:?}") };
            assert!(why.starts_with("process 1 was reached as process 0"), "{why}");
        }
    }

    #[test]
    fn an_oversized_or_foreign_hello_is_junk() {
        let identity = Identity::new(&config(0)).unwrap();
        let mut large = MAGIC.to_vec();
        large.extend_from_slice(&[0, 1, 255, 255]);
        for junk in [b"GET / HTTP/1.1\r\n".to_vec(), large] {
            let listener = TcpListener::bind("127.0.0.1:0").unwrap();
            let mut client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
            client.write_all(&junk).unwrap();
            let (stream, _) = listener.accept().unwrap();
            let (claims, problem) = identity.accept(&stream, soon()).unwrap_err();
            assert_eq!(claims, None);
            assert!(matches!(problem, Problem::Rejected(why) if why == "it does not speak this protocol"));
        }
    }
}
