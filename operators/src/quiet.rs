//! Panics as values: caught, described, and not printed.
//!
//! [`catch`] runs one closure, typically one event of user code, and turns a panic into a [`Panic`] with its text and
//! place. The panic hook that [`install`] puts in front of the existing one stays silent for such panics, because
//! whoever catches one also reports it, and passes every other panic on.
//!
//! # Invariants
//! - Without a panic, [`catch`] costs one thread-local write before and one after, and allocates nothing.
//! - Calls nest: after the inner one returns, the outer one is in force again.
//! - The hook never ends the process, takes no lock, and runs on any thread.
//!
//! Not here: what becomes of a failed event or worker (`cluster`, and the operators that call user code).

use std::any::Any;
use std::cell::{Cell, RefCell};
use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind, set_hook, take_hook};
use std::sync::Once;

/// A caught panic.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Panic {
    /// The text that was given to `panic!`, or a note that the payload was no text.
    pub message: String,
    /// `file:line:column`; absent when the hook of [`install`] did not see the panic.
    pub location: Option<String>,
}

impl fmt::Display for Panic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.location {
            Some(location) => write!(f, "panicked at {location}: {}", self.message),
            None => write!(f, "panicked: {}", self.message),
        }
    }
}

/// Told of the panics of one thread.
type Listener = Box<dyn Fn(Panic)>;

thread_local! {
    /// Whether a `catch` is on this thread's stack.
    static QUIET: Cell<bool> = const { Cell::new(false) };
    /// Where the last quiet panic of this thread began.
    static LOCATION: RefCell<Option<String>> = const { RefCell::new(None) };
    /// Hears the panics of a thread that nobody catches.
    static LISTENER: RefCell<Option<Listener>> = const { RefCell::new(None) };
}

/// Runs `f`; a panic in it becomes an error and is not printed, provided that [`install`] was called before.
///
/// The caller answers for the state that `f` touched: what it left half done stays so.
///
/// # Errors
/// The panic's text and place.
///
/// ```
/// use timely_agents_operators::quiet;
///
/// quiet::install();
/// assert_eq!(quiet::catch(|| 7), Ok(7));
/// let panic = quiet::catch(|| panic!("no such key")).unwrap_err();
/// assert_eq!(panic.message, "no such key");
/// assert!(panic.location.is_some());
/// ```
#[inline]
pub fn catch<R>(f: impl FnOnce() -> R) -> Result<R, Panic> {
    let outer = QUIET.replace(true);
    let result = catch_unwind(AssertUnwindSafe(f));
    QUIET.set(outer);
    result.map_err(|payload| Panic { message: text(&*payload).to_owned(), location: LOCATION.take() })
}

/// Puts the quiet hook in front of the present one, once per process.
pub fn install() {
    static INSTALLED: Once = Once::new();
    INSTALLED.call_once(|| {
        let previous = take_hook();
        set_hook(Box::new(move |info| {
            let location = || info.location().map(ToString::to_string);
            // A thread that is being torn down has no flags left; its panics are anybody's.
            if QUIET.try_with(Cell::get) == Ok(true) {
                let _ = LOCATION.try_with(|slot| slot.replace(location()));
                return;
            }
            let heard = LISTENER.try_with(|slot| {
                // Borrowed already: the listener itself panicked, which is worth printing.
                let Ok(slot) = slot.try_borrow() else {
                    return false;
                };
                slot.as_ref()
                    .map(|listener| {
                        listener(Panic { message: text(info.payload()).to_owned(), location: location() });
                    })
                    .is_some()
            });
            if heard != Ok(true) {
                previous(info);
            }
        }));
    });
}

/// From now on this thread's uncaught panics go to `listener` rather than to the previous hook.
pub(crate) fn listen(listener: impl Fn(Panic) + 'static) {
    LISTENER.set(Some(Box::new(listener)));
}

fn text(payload: &(dyn Any + Send)) -> &str {
    if let Some(text) = payload.downcast_ref::<&'static str>() {
        text
    } else if let Some(text) = payload.downcast_ref::<String>() {
        text
    } else {
        "the payload is no text"
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_and_place_are_kept() {
        install();
        let literal = catch(|| panic!("literal")).unwrap_err();
        assert_eq!(literal.message, "literal");
        assert!(literal.location.unwrap().contains("quiet.rs:"));
        let formatted = catch(|| panic!("key {}", 3)).unwrap_err();
        assert_eq!(formatted.message, "key 3");
        let other = catch(|| std::panic::panic_any(7_u8)).unwrap_err();
        assert_eq!(other.message, "the payload is no text");
    }

    #[test]
    fn calls_nest() {
        install();
        let outer = catch(|| {
            assert_eq!(catch(|| panic!("inner")).unwrap_err().message, "inner");
            assert!(QUIET.get(), "the outer call is still in force");
            panic!("outer");
        });
        assert_eq!(outer.unwrap_err().message, "outer");
        assert!(!QUIET.get());
        assert_eq!(catch(|| 1), Ok(1));
    }

    #[test]
    fn a_threads_listener_hears_what_nobody_catches() {
        install();
        let (tell, told) = std::sync::mpsc::channel();
        let thread = std::thread::spawn(move || {
            listen(move |panic| tell.send(panic.message).unwrap());
            let _ = catch(|| panic!("caught"));
            panic!("uncaught");
        });
        assert!(thread.join().is_err());
        assert_eq!(told.into_iter().collect::<Vec<_>>(), ["uncaught"]);
    }
}
