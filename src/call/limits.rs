//! Limits that calls share by name, over the process: how many are under way at once, and how many begin in a second.
//!
//! A call waits for its turn on the runtime, in the order in which calls asked. What it holds goes back when it is over or
//! is given up; a blocking call that was given up holds it until it returns, for its thread is at work until then.
//!
//! # Invariants
//! - A call takes what it holds in an order that is the same for all: two calls never wait for each other.
//! - A name stands for one limit in the process.

use std::any::Any;
use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt::Display;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use timely_agents_operators::behavior::{CallJob, Pass};
use timely_agents_operators::completion::CallFailure;
use tokio::sync::{Mutex as Turn, Semaphore};
use tokio::time::{Instant, sleep_until};

/// A timer is late by about so much: what begins is spaced evenly all the same, and the rate is kept.
const LATE: Duration = Duration::from_millis(10);

/// A limit that a call shares with others of its name.
#[derive(Clone, Debug)]
pub(crate) struct Shared {
    name: Cow<'static, str>,
    bound: Bound,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Bound {
    AtOnce(usize),
    PerSecond(f64),
}

impl Shared {
    pub(crate) fn concurrency(name: Cow<'static, str>, n: usize) -> Self {
        Shared { name, bound: Bound::AtOnce(n) }
    }

    pub(crate) fn rate(name: Cow<'static, str>, per_second: f64) -> Self {
        Shared { name, bound: Bound::PerSecond(per_second) }
    }
}

/// Limits of one kind: the number that was given first, and what calls wait for.
type Limits<N, W> = Mutex<BTreeMap<String, (N, Arc<W>)>>;

static AT_ONCE: Limits<usize, Semaphore> = Mutex::new(BTreeMap::new());
/// With the time before which no call begins.
static RATES: Limits<f64, Turn<Option<Instant>>> = Mutex::new(BTreeMap::new());

fn limit<N, W>(limits: &Limits<N, W>, name: &str, n: N, unit: &str, make: impl FnOnce() -> W) -> Result<Arc<W>, String>
where
    N: Copy + PartialEq + Display,
{
    let mut limits = limits.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some((first, shared)) = limits.get(name) {
        if *first != n {
            return Err(format!("limit {name:?} is {n} {unit} here, and {first} elsewhere in the process"));
        }
        return Ok(Arc::clone(shared));
    }
    let shared = Arc::new(make());
    limits.insert(name.to_owned(), (n, Arc::clone(&shared)));
    Ok(shared)
}

/// What a call waits for.
enum Wait {
    Permit(Arc<Semaphore>),
    Slot(Arc<Turn<Option<Instant>>>, Duration),
}

impl Wait {
    fn of(shared: &Shared) -> Result<Self, String> {
        let name = &shared.name;
        match shared.bound {
            Bound::AtOnce(0) => Err(format!("limit {name:?} is 0 calls at once")),
            Bound::AtOnce(n) => {
                let make = || Semaphore::new(n.min(Semaphore::MAX_PERMITS));
                Ok(Wait::Permit(limit(&AT_ONCE, name, n, "calls at once", make)?))
            }
            Bound::PerSecond(n) => {
                let spacing = Duration::try_from_secs_f64(n.recip()).ok().filter(|_| n > 0.0);
                let spacing = spacing.ok_or_else(|| format!("limit {name:?} is {n} calls a second"))?;
                Ok(Wait::Slot(limit(&RATES, name, n, "calls a second", Turn::default)?, spacing))
            }
        }
    }

    /// Waits; what it gives is held until the call is over.
    async fn pass(self) -> Option<Pass> {
        match self {
            // It is never closed.
            Wait::Permit(permits) => permits.acquire_owned().await.ok().map(|permit| Box::new(permit) as Pass),
            Wait::Slot(turn, spacing) => {
                // Who is given up while it waits here has taken nothing.
                let mut next = turn.lock().await;
                let now = Instant::now();
                let at = next.unwrap_or(now);
                if at > now {
                    sleep_until(at).await;
                }
                let least = now.checked_sub(LATE).unwrap_or(now);
                *next = at.max(least).checked_add(spacing);
                None
            }
        }
    }
}

/// The job of a call that shares these limits.
#[inline]
pub(crate) fn gated(shared: &[Shared], job: CallJob) -> CallJob {
    if shared.is_empty() { job } else { behind_gate(shared, job) }
}

#[cold]
fn behind_gate(shared: &[Shared], job: CallJob) -> CallJob {
    let mut shared: Vec<&Shared> = shared.iter().collect();
    shared.sort_by_key(|shared| (matches!(shared.bound, Bound::PerSecond(_)), &shared.name));
    shared.dedup_by(|a, b| a.name == b.name && a.bound == b.bound);
    let waits: Result<Vec<Wait>, String> = shared.into_iter().map(Wait::of).collect();
    let gate = async move {
        let mut held: Vec<Pass> = Vec::new();
        for wait in waits.map_err(CallFailure::Refused)? {
            held.extend(wait.pass().await);
        }
        Ok(Box::new(held) as Box<dyn Any + Send>)
    };
    CallJob::Gated(Box::pin(gate), Box::new(job))
}
