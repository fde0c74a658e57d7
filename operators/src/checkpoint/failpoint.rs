//! Named places where a test can kill the process, let a step fail, or leave it out.
//!
//! A step named `log.sync` has three points: `log.sync.before`, `log.sync` itself and `log.sync.after`. What a point
//! does is configured by the environment variable `FAILPOINTS`, or for a test's own threads by a [`Scope`]:
//!
//! ```text
//! FAILPOINTS = point=action{->action};…      action = [times*]kill|fail|skip|pause<ms>|off      the last one holds for ever
//!
//! log.sync.before=kill            the process is killed before its first sync
//! create.link.after=3*off->kill   … after the fourth link of its life
//! log.sync=fail                   no sync takes place and each returns an error
//! create.sync_dir=skip            the step is silently left out
//! commit.manifest.before=pause20  each commit begins 20 ms late, as on a slow disk
//! ```
//!
//! `kill` is SIGKILL: nothing is cleaned up. `fail` is an [`std::io::Error`]; behind a step it is an error of a step that
//! did take place. `skip` at `.before` and `.after` does nothing.
//!
//! # Invariants
//! - Every step is listed in [`NAMES`], so that a crash matrix can go through all of them.
//! - In a release build without the feature `failpoints` a step is its action and nothing else.

/// All steps, in the order in which a job meets them.
pub const NAMES: &[&str] = &[
    "create.write",
    "create.sync",
    "create.link",
    "create.sync_dir",
    "create.unlink",
    "log.open",
    "log.write",
    "log.sync",
    "append.sync_dir",
    "log.done",
    "commit.manifest",
    "commit.publish",
    "commit.done",
    "snapshot.write",
    "snapshot.sync",
    "remove.unlink",
    "remove.sync_dir",
    "sink.stage.create",
    "sink.stage.open",
    "sink.stage.write",
    "sink.stage.sync",
    "sink.stage.sync_folder",
    "sink.publish.rename",
    "sink.publish.apply",
    "sink.publish.unlink",
    "sink.publish.sync",
    "sink.sweep.unlink",
];

/// All points: three for each step.
pub fn points() -> impl Iterator<Item = String> {
    NAMES.iter().flat_map(|name| [format!("{name}.before"), (*name).to_owned(), format!("{name}.after")])
}

/// Does `action`, unless the points of the step `name` say otherwise.
///
/// # Errors
/// Those of `action`, and those that a point is configured to return.
#[cfg(not(any(debug_assertions, feature = "failpoints")))]
#[inline]
pub fn step<T: Default>(_name: &'static str, action: impl FnOnce() -> std::io::Result<T>) -> std::io::Result<T> {
    action()
}

#[cfg(any(debug_assertions, feature = "failpoints"))]
pub use self::active::{Scope, step};

/// A function for a new thread that sees the points of this one.
pub(crate) fn inherited<T>(body: impl FnOnce() -> T) -> impl FnOnce() -> T {
    #[cfg(any(debug_assertions, feature = "failpoints"))]
    let scope = Scope::current();
    move || {
        #[cfg(any(debug_assertions, feature = "failpoints"))]
        let _entered = scope.map(Scope::enter);
        body()
    }
}

#[cfg(any(debug_assertions, feature = "failpoints"))]
mod active {
    use std::cell::RefCell;
    use std::collections::{BTreeMap, VecDeque};
    use std::io;
    use std::sync::{Arc, Mutex, OnceLock, PoisonError};
    use std::time::Duration;

    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    enum Action {
        Off,
        Kill,
        Fail,
        Skip,
        Pause(Duration),
    }

    type Points = BTreeMap<String, VecDeque<(Option<u32>, Action)>>;

    /// A configuration of points, shared by the threads that entered it.
    #[derive(Clone, Debug)]
    pub struct Scope(Arc<Mutex<Points>>);

    /// The thread is in a scope while this lives.
    #[derive(Debug)]
    pub struct Entered {
        outer: Option<Scope>,
    }

    thread_local! {
        static CURRENT: RefCell<Option<Scope>> = const { RefCell::new(None) };
    }

    impl Scope {
        /// The points as in `FAILPOINTS`.
        ///
        /// # Errors
        /// What cannot be understood.
        pub fn new(text: &str) -> Result<Self, String> {
            Ok(Scope(Arc::new(Mutex::new(parse(text)?))))
        }

        /// The scope of this thread; threads that checkpoints start take it over.
        pub fn current() -> Option<Self> {
            CURRENT.with_borrow(Clone::clone)
        }

        /// The thread is in this scope until what is returned is dropped.
        #[must_use]
        pub fn enter(self) -> Entered {
            Entered { outer: CURRENT.replace(Some(self)) }
        }

        fn next(&self, point: &str) -> Action {
            let mut points = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            let Some(actions) = points.get_mut(point) else {
                return Action::Off;
            };
            match actions.front_mut() {
                None => Action::Off,
                Some((None, action)) => *action,
                Some((Some(times), action)) => {
                    *times -= 1;
                    let (last, action) = (*times == 0, *action);
                    if last {
                        actions.pop_front();
                    }
                    action
                }
            }
        }
    }

    impl Drop for Entered {
        fn drop(&mut self) {
            CURRENT.set(self.outer.take());
        }
    }

    fn parse(text: &str) -> Result<Points, String> {
        let mut points = Points::new();
        for entry in text.split(';').map(str::trim).filter(|entry| !entry.is_empty()) {
            let (point, actions) = entry.split_once('=').ok_or_else(|| format!("`{entry}` is no `point=action`"))?;
            if !super::points().any(|known| known == point) {
                return Err(format!("there is no failpoint `{point}`"));
            }
            let mut chain = VecDeque::new();
            for part in actions.split("->") {
                let (times, kind) = match part.split_once('*') {
                    Some((times, kind)) => (Some(times), kind),
                    None => (None, part),
                };
                let times = times.map(|n| n.parse().map_err(|_| format!("`{n}` is no count"))).transpose()?;
                let action = match kind {
                    "off" => Action::Off,
                    "kill" => Action::Kill,
                    "fail" => Action::Fail,
                    "skip" => Action::Skip,
                    _ => match kind.strip_prefix("pause").and_then(|ms| ms.parse().ok()) {
                        Some(ms) => Action::Pause(Duration::from_millis(ms)),
                        None => return Err(format!("`{kind}` is none of kill, fail, skip, pause and off")),
                    },
                };
                if times != Some(0) {
                    chain.push_back((times, action));
                }
            }
            points.insert(point.to_owned(), chain);
        }
        Ok(points)
    }

    /// What the environment asks for; read once.
    fn environment() -> Option<&'static Scope> {
        static SCOPE: OnceLock<Option<Scope>> = OnceLock::new();
        SCOPE
            .get_or_init(|| {
                let text = std::env::var("FAILPOINTS").ok()?;
                match Scope::new(&text) {
                    Ok(scope) => Some(scope),
                    Err(why) => {
                        tracing::error!(%why, "FAILPOINTS is not understood");
                        None
                    }
                }
            })
            .as_ref()
    }

    /// Does `action`, unless the points of the step `name` say otherwise.
    ///
    /// # Errors
    /// Those of `action`, and those that a point is configured to return.
    pub fn step<T: Default>(name: &'static str, action: impl FnOnce() -> io::Result<T>) -> io::Result<T> {
        debug_assert!(super::NAMES.contains(&name), "`{name}` is not listed");
        let Some(scope) = Scope::current().or_else(|| environment().cloned()) else {
            return action();
        };
        perform(&scope, &format!("{name}.before"))?;
        let done = if perform(&scope, name)? { T::default() } else { action()? };
        perform(&scope, &format!("{name}.after"))?;
        Ok(done)
    }

    /// Whether to skip what comes.
    fn perform(scope: &Scope, point: &str) -> io::Result<bool> {
        match scope.next(point) {
            Action::Off => Ok(false),
            Action::Skip => Ok(true),
            Action::Pause(time) => {
                // Earlier is as good as late: no test relies on how long it is.
                std::thread::park_timeout(time);
                Ok(false)
            }
            Action::Fail => Err(io::Error::other(format!("failpoint {point}"))),
            Action::Kill => {
                // Killing oneself cannot fail; should it, an abort leaves as little behind.
                let _ = rustix::process::kill_process(rustix::process::getpid(), rustix::process::Signal::KILL);
                std::process::abort()
            }
        }
    }

    #[cfg(test)]
    mod tests {
        use super::*;

        #[test]
        fn points_act_in_turn_and_in_their_scope_only() {
            let scope = Scope::new("log.sync=1*off->1*skip->fail; log.write.after=fail").unwrap();
            let entered = scope.enter();
            let mut done = 0;
            let mut sync = || {
                step("log.sync", || {
                    done += 1;
                    Ok(())
                })
            };
            assert!(sync().is_ok() && sync().is_ok() && sync().is_err() && sync().is_err());
            assert_eq!(done, 1);
            assert_eq!(step("log.write", || Ok(1)).unwrap_err().to_string(), "failpoint log.write.after");
            std::thread::spawn(|| assert!(step("log.sync", || Ok(())).is_ok())).join().unwrap();
            std::thread::spawn(super::super::inherited(|| assert!(step("log.sync", || Ok(())).is_err())))
                .join()
                .unwrap();
            drop(entered);
            assert!(step("log.sync", || Ok(())).is_ok());
        }

        #[test]
        fn what_cannot_be_understood_is_named() {
            for (text, why) in [
                ("log.sync", "`log.sync` is no `point=action`"),
                ("log.sink=kill", "there is no failpoint `log.sink`"),
                ("log.sync=die", "`die` is none of kill, fail, skip, pause and off"),
                ("log.sync=pause", "`pause` is none of kill, fail, skip, pause and off"),
                ("log.sync=x*kill", "`x` is no count"),
            ] {
                assert_eq!(Scope::new(text).unwrap_err(), why);
            }
        }
    }
}
