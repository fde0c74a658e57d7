//! A server of tools, and what calls it: HTTP, in a process of its own, which outlives those that are killed.
//!
//! # Invariants
//! - A request is in the ledger before anything comes of it, also one that was made before.
//! - A key is acted on once; whoever asks with it again is given the same answer.
//! - Some connections are closed without an answer, after the server has acted; some answers come late.

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::path::Path;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::thread;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use timely_agents::cluster::Failure;
use tiny_http::{Method, Request, Response, Server};

use super::ledger::{Entry, Tool};
use crate::process::{Launch, Process, Random, number, pass, wait_for};
use crate::programs;

/// Requests that are answered at once; an answer that is late takes one of them.
const THREADS: usize = 32;

/// What a tool is asked.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Asked {
    /// How often the job had been started when it was asked.
    pub(crate) life: u64,
    pub(crate) tool: Tool,
    /// The idempotency key.
    pub(crate) key: String,
    pub(crate) question: u64,
    /// How long the answer takes, beside what all take.
    pub(crate) slow_ms: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Answer {
    /// It follows from the question.
    pub(crate) value: u64,
    /// Which act of the server this was, from 1.
    pub(crate) act: u64,
}

/// What tools answer.
pub(crate) fn answer_to(question: u64) -> u64 {
    Random(question).next() % 1_000_000
}

struct State {
    ledger: Mutex<(File, BTreeMap<String, Answer>)>,
    random: Mutex<Random>,
    /// Milliseconds that an answer takes at most, and how many of a hundred connections are closed instead.
    delay_ms: u64,
    dropped: u64,
}

impl State {
    fn draw(&self, below: u64) -> u64 {
        self.random.lock().unwrap_or_else(PoisonError::into_inner).below(below)
    }

    fn act(&self, asked: &Asked) -> std::io::Result<Answer> {
        let mut ledger = self.ledger.lock().unwrap_or_else(PoisonError::into_inner);
        let (file, acts) = &mut *ledger;
        Entry::Asked(asked.clone()).append(file)?;
        let next = acts.len() as u64 + 1;
        let act = || Answer { value: answer_to(asked.question), act: next };
        Ok(*acts.entry(asked.key.clone()).or_insert_with(act))
    }

    /// What became of a key, if anything.
    fn status(&self, key: &str, life: u64) -> std::io::Result<Option<Answer>> {
        let mut ledger = self.ledger.lock().unwrap_or_else(PoisonError::into_inner);
        let (file, acts) = &mut *ledger;
        let found = acts.get(key).copied();
        Entry::Status { life, key: key.to_owned(), found: found.is_some() }.append(file)?;
        Ok(found)
    }

    fn handle(&self, mut request: Request) -> Result<(), Box<dyn std::error::Error>> {
        let url = request.url().to_owned();
        if *request.method() == Method::Post {
            let asked: Asked = serde_json::from_reader(request.as_reader())?;
            let answer = self.act(&asked)?;
            pass(Duration::from_millis(asked.slow_ms) + Duration::from_micros(self.draw(self.delay_ms * 1_000 + 1)));
            if self.draw(100) < self.dropped {
                // The client said that it sends no more, so nothing else keeps the connection.
                drop(request.into_writer());
                return Ok(());
            }
            request.respond(Response::from_string(serde_json::to_string(&answer)?))?;
            return Ok(());
        }
        let status = url.strip_prefix("/status?life=").and_then(|rest| rest.split_once("&key="));
        let (life, key) = status.ok_or_else(|| format!("{url} is nothing to ask for"))?;
        let found = self.status(key, life.parse()?)?;
        request.respond(Response::from_string(serde_json::to_string(&found)?))?;
        Ok(())
    }
}

/// Serves until it is killed; tells its port in a file.
pub(crate) fn program() -> Result<(), Failure> {
    let arguments = programs::arguments("server")?;
    let (out, _) = programs::opened(&arguments)?;
    let failed = |error: &dyn std::fmt::Display| Failure::data(format!("the server: {error}"));
    let server = Server::http("127.0.0.1:0").map_err(|error| failed(&error))?;
    let port = server.server_addr().to_ip().map(|address| address.port()).ok_or_else(|| failed(&"no port"))?;
    let ledger = OpenOptions::new().create(true).append(true).open(format!("{out}/ledger"));
    let state = State {
        ledger: Mutex::new((ledger.map_err(|error| failed(&error))?, BTreeMap::new())),
        random: Mutex::new(Random(number("CRASH_SEED", 0))),
        delay_ms: number("CRASH_DELAY", 0),
        dropped: number("CRASH_DROPPED", 0),
    };
    let aside = format!("{out}/port.aside");
    fs::write(&aside, port.to_string()).map_err(|error| failed(&error))?;
    fs::rename(aside, format!("{out}/port")).map_err(|error| failed(&error))?;
    let (server, state) = (Arc::new(server), Arc::new(state));
    let threads = [(); THREADS].map(|()| {
        let (server, state) = (Arc::clone(&server), Arc::clone(&state));
        thread::spawn(move || {
            while let Ok(request) = server.recv() {
                // Whoever asked may be dead by now.
                if let Err(error) = state.handle(request) {
                    eprintln!("{error}");
                }
            }
        })
    });
    for thread in threads {
        let _ = thread.join();
    }
    Err(failed(&"it serves no more"))
}

/// The server, for as long as this is held.
pub(crate) struct Tools {
    _process: Process,
    pub(crate) port: String,
}

/// How a server treats those who ask.
#[derive(Clone, Copy)]
pub(crate) struct Manners {
    pub(crate) seed: u64,
    pub(crate) delay_ms: u64,
    /// Of a hundred.
    pub(crate) dropped: u64,
}

/// At once, and always.
pub(crate) const KIND: Manners = Manners { seed: 0, delay_ms: 0, dropped: 0 };

impl Tools {
    /// Starts a server that has its ledger in `dir`.
    pub(crate) fn start(dir: &str, manners: Manners) -> Self {
        let launch = Launch::own("server")
            .with("CRASH_SEED", manners.seed.to_string())
            .with("CRASH_DELAY", manners.delay_ms.to_string())
            .with("CRASH_DROPPED", manners.dropped.to_string());
        fs::create_dir_all(dir).expect("a new directory");
        let mut process = launch.start(&["--out".to_owned(), dir.to_owned()]);
        let file = Path::new(dir).join("port");
        wait_for("the server's port", || {
            assert!(!process.has_ended(Duration::ZERO), "the server has ended");
            file.is_file()
        });
        let port = fs::read_to_string(file).expect("the port");
        Tools { _process: process, port }
    }
}

/// One client for this process; connections are not kept, for the server may close them.
fn client() -> &'static ureq::Agent {
    static CLIENT: OnceLock<ureq::Agent> = OnceLock::new();
    CLIENT.get_or_init(|| {
        let timeout = Some(Duration::from_mins(3));
        ureq::Agent::config_builder().timeout_global(timeout).proxy(None).build().into()
    })
}

/// Asks a tool once.
pub(crate) fn ask(port: &str, asked: &Asked) -> Result<Answer, String> {
    let body = serde_json::to_string(asked).map_err(|error| error.to_string())?;
    let sent = client().post(format!("http://127.0.0.1:{port}/ask")).header("connection", "close").send(body);
    let text = sent.and_then(|mut answer| answer.body_mut().read_to_string());
    serde_json::from_str(&text.map_err(|error| error.to_string())?).map_err(|error| error.to_string())
}

/// Asks what became of a key.
pub(crate) fn status(port: &str, key: &str, life: u64) -> Result<Option<Answer>, String> {
    let url = format!("http://127.0.0.1:{port}/status?life={life}&key={key}");
    let text = client().get(url).header("connection", "close").call();
    let text = text.and_then(|mut answer| answer.body_mut().read_to_string());
    serde_json::from_str(&text.map_err(|error| error.to_string())?).map_err(|error| error.to_string())
}

#[test]
fn a_key_is_acted_on_once_and_every_request_is_in_the_ledger() {
    let place = tempfile::tempdir().expect("a directory");
    let dir = place.path().to_str().expect("a path in UTF-8");
    let tools = Tools::start(dir, Manners { seed: 1, delay_ms: 1, dropped: 50 });
    let asked = |n: u64| Asked {
        life: 1,
        tool: Tool { key: n, n: 0, call: 0 },
        key: format!("key-{n}"),
        question: n,
        slow_ms: 0,
    };
    let (mut answered, mut dropped) = (0, 0);
    for n in (0..40).map(|n| n % 20) {
        match ask(&tools.port, &asked(n)) {
            Ok(answer) => {
                assert_eq!(answer, Answer { value: answer_to(n), act: n + 1 });
                answered += 1;
            }
            Err(_) => dropped += 1,
        }
    }
    assert!(answered > 5 && dropped > 5, "{answered} answered, {dropped} dropped");
    assert_eq!(status(&tools.port, "key-3", 2).expect("a status").map(|answer| answer.act), Some(4));
    assert_eq!(status(&tools.port, "key-20", 2).expect("a status"), None);
    let entries = super::ledger::read(&format!("{dir}/ledger"));
    let requests = entries.iter().filter(|entry| matches!(entry, Entry::Asked(_))).count();
    assert_eq!((requests, entries.len()), (40, 42), "a request that is repeated stands there again");
}
