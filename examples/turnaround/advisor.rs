//! The advisor: a service somewhere else, that takes its time and may want to be paid.
//!
//! It can keep a ledger: a line when it is asked, and one when it has answered.

use std::fs::{File, OpenOptions};
use std::io::Write;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use timely_agents::cluster::Failure;

/// Clones are one advisor.
#[derive(Clone)]
pub(crate) struct Advisor(Arc<Inner>);

struct Inner {
    latency: Duration,
    ledger: Option<File>,
    asked: AtomicU64,
    taken: AtomicU64,
}

impl Advisor {
    /// An advisor who takes `latency` to answer, with a ledger if a file is named.
    pub(crate) fn new(latency: Duration, ledger: Option<&Path>) -> Result<Self, Failure> {
        let open = |path: &Path| {
            let file = OpenOptions::new().create(true).append(true).open(path);
            file.map_err(|error| Failure::data(format!("{}: {error}", path.display())))
        };
        let ledger = ledger.map(open).transpose()?;
        Ok(Advisor(Arc::new(Inner { latency, ledger, asked: AtomicU64::new(0), taken: AtomicU64::new(0) })))
    }

    /// Asks about a delay that is `id` in the ledger.
    pub(crate) async fn advise(self, (streak, dep_delay): (u32, i32), id: String) -> Result<String, String> {
        self.0.asked.fetch_add(1, Ordering::Relaxed);
        self.note("asked", &id)?;
        if !self.0.latency.is_zero() {
            tokio::time::sleep(self.0.latency).await;
        }
        let advice = if streak >= 3 {
            "swap aircraft"
        } else if dep_delay >= 60 {
            "rebook connections"
        } else {
            "shorten turnaround"
        };
        self.note("answered", &id)?;
        Ok(advice.to_owned())
    }

    fn note(&self, what: &str, id: &str) -> Result<(), String> {
        let Some(mut ledger) = self.0.ledger.as_ref() else { return Ok(()) };
        ledger.write_all(format!("{what} {id}\n").as_bytes()).map_err(|error| format!("the advisor's ledger: {error}"))
    }

    /// Counts an answer that an action goes on with.
    pub(crate) fn taken(&self) {
        self.0.taken.fetch_add(1, Ordering::Relaxed);
    }

    /// Calls that this process made, and answers that its actions were given without a call.
    pub(crate) fn calls(&self) -> (u64, u64) {
        let (asked, taken) = (self.0.asked.load(Ordering::Relaxed), self.0.taken.load(Ordering::Relaxed));
        (asked, taken.saturating_sub(asked))
    }
}
