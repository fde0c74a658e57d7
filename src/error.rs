//! What an action returns when it cannot do its work.

use std::error::Error as StdError;
use std::fmt::{self, Debug, Display, Formatter};
use std::time::Duration;

use timely_agents_operators::completion::CallFailure;

/// The failure of an action: any error, by `?`. What follows from it is the action's [`Policy`](crate::Policy).
///
/// Like `anyhow::Error` it is no `std::error::Error` itself, so that every one of those converts.
pub struct Error(Box<Inner>);

/// Boxed, so that what actions return is one word.
struct Inner {
    message: String,
    source: Option<Box<dyn StdError>>,
}

impl Error {
    /// A failure with a message of its own.
    pub fn new(message: impl Into<String>) -> Self {
        Error(Box::new(Inner { message: message.into(), source: None }))
    }

    /// The error that this one was made from, as an `E`.
    pub fn downcast_ref<E: StdError + 'static>(&self) -> Option<&E> {
        self.0.source.as_deref().and_then(<dyn StdError>::downcast_ref)
    }
}

impl<E: StdError + 'static> From<E> for Error {
    fn from(error: E) -> Self {
        Error(Box::new(Inner { message: error.to_string(), source: Some(Box::new(error)) }))
    }
}

impl Display for Error {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.message)?;
        let mut cause = self.0.source.as_ref().and_then(|source| source.source());
        while let Some(error) = cause {
            write!(f, ": {error}")?;
            cause = error.source();
        }
        Ok(())
    }
}

impl Debug for Error {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        Display::fmt(self, f)
    }
}

/// A call gave no result.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("call {name:?}: {failure}")]
pub struct CallError {
    /// The call's name.
    pub name: String,
    /// Why.
    pub failure: CallFailure,
}

/// A signal did not come.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum WaitError {
    /// The signal input has ended, and no such signal is kept.
    #[error("signal {name:?}: the signal input has ended")]
    Ended {
        /// The signal.
        name: String,
    },
    /// It did not come in time.
    #[error("signal {name:?}: none within {after:?}")]
    Timeout {
        /// The signal.
        name: String,
        /// How long the wait was.
        after: Duration,
    },
    /// One came that is no event of the type that is waited for. It is gone.
    #[error("signal {name:?} is not what is waited for: {error}")]
    Malformed {
        /// The signal.
        name: String,
        /// What is wrong with it.
        error: String,
    },
    /// The agent has not declared a signal of this name and type.
    #[error("the agent waits for no signal {name:?} of event {event:?}: declare it with `waits_for`")]
    Undeclared {
        /// The signal.
        name: String,
        /// The name of the event.
        event: &'static str,
    },
}

/// A notification cannot be had.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NotifyError {
    /// The input has ended: no later epoch will close.
    #[error("the input has ended: epoch {0} will not close")]
    Ended(u64),
    /// The notification of an epoch asked for that same epoch again.
    #[error("epoch {0} is the one that is being notified; ask for a later one")]
    SameEpoch(u64),
}
