//! What follows when an action fails (rule S8).

use std::fmt::{self, Display, Formatter};
use std::time::Duration;

use serde::{Deserialize, Serialize};

/// What follows when an action fails.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Policy {
    /// The job stops with the error. The default.
    #[default]
    Fail,
    /// The step is undone and the action runs again, after a pause that blocks nobody. Durable calls that had a result keep
    /// it.
    Retry(Retry),
    /// The run ends: its writes are dropped, and its input goes to the dead letters with the error.
    DeadLetter,
    /// The step is undone and the action counts as finished.
    Ignore,
}

/// How often and when an action is tried again.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Retry {
    /// Attempts in all, the first one included.
    pub attempts: u32,
    /// The pause before the second attempt; it doubles with each further one.
    pub backoff: Duration,
    /// The longest pause.
    pub max_backoff: Duration,
    /// What follows when the last attempt has failed.
    pub then: Exhausted,
}

/// What follows when the last attempt has failed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Exhausted {
    /// The job stops with the error. The default.
    #[default]
    Fail,
    /// The run ends as a dead letter.
    DeadLetter,
    /// The action counts as finished.
    Ignore,
}

/// What follows when a run does not go the way of its journal after a restart: the program is another one, or does not
/// depend on `ctx` alone (rule S10).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Divergence {
    /// The job stops and shows both sides. The default.
    #[default]
    Strict,
    /// The rest of the journal is dropped and the run goes on from there, counted in
    /// [`AgentStats::diverged`](crate::AgentStats::diverged). Calls of the rest are made again, even where the new way asks
    /// for them too, and what its steps had put out comes again.
    Lenient,
}

impl Retry {
    /// `attempts` attempts, the first pause 100 ms, the longest 30 s; then the job stops.
    pub fn new(attempts: u32) -> Self {
        Retry {
            attempts,
            backoff: Duration::from_millis(100),
            max_backoff: Duration::from_secs(30),
            then: Exhausted::Fail,
        }
    }

    /// Sets the first pause.
    pub fn backoff(mut self, backoff: Duration) -> Self {
        self.backoff = backoff;
        self
    }

    /// Sets the longest pause.
    pub fn max_backoff(mut self, max: Duration) -> Self {
        self.max_backoff = max;
        self
    }

    /// Sets what follows when the last attempt has failed.
    pub fn then(mut self, then: Exhausted) -> Self {
        self.then = then;
        self
    }

    /// The pause after the failed attempt number `attempt`, counted from 1.
    pub(crate) fn pause(&self, attempt: u32) -> Duration {
        let factor = 1u32.checked_shl(attempt.saturating_sub(1)).unwrap_or(u32::MAX);
        self.backoff.saturating_mul(factor).min(self.max_backoff)
    }
}

impl From<Retry> for Policy {
    fn from(retry: Retry) -> Self {
        Policy::Retry(retry)
    }
}

impl Display for Policy {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match self {
            Policy::Fail => f.write_str("fail"),
            Policy::DeadLetter => f.write_str("dead letter"),
            Policy::Ignore => f.write_str("ignore"),
            Policy::Retry(retry) => {
                let then = match retry.then {
                    Exhausted::Fail => "fail",
                    Exhausted::DeadLetter => "dead letter",
                    Exhausted::Ignore => "ignore",
                };
                write!(f, "{} attempts, then {then}", retry.attempts)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_double_up_to_the_longest() {
        let retry = Retry::new(50).backoff(Duration::from_millis(10)).max_backoff(Duration::from_millis(35));
        let pauses: Vec<u128> = (1..5).map(|n| retry.pause(n).as_millis()).collect();
        assert_eq!(pauses, [10, 20, 35, 35]);
        assert_eq!(retry.pause(49), Duration::from_millis(35));
    }
}
