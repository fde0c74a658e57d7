//! What the operators of one worker find out about the job that they are part of.
//!
//! A job started by [`run`](crate::run) or [`execute`](crate::execute) sets it on each of its worker threads
//! before any dataflow is built. In a plain timely program the defaults hold: a failed agent then ends the
//! process, because timely has no other way to end a dataflow whose work cannot be done.

use std::cell::RefCell;
use std::rc::Rc;

use timely_agents_operators::behavior::Failure;
use timely_agents_operators::clock::Clock;
use timely_agents_operators::cluster;
use timely_agents_operators::driver::Load;
use timely_agents_operators::group::KeyGroups;
use timely_agents_operators::limits::Limits;
use timely_agents_operators::sink::SinkLoad;
use timely_agents_operators::stop::Stop;

use crate::durable::Durable;

/// Bytes of facts that a component may have to write on one worker before the job's sources wait for the log.
const LOG_BYTES: usize = 256 << 20;

/// Hears of the load of one operator.
pub(crate) type LoadListener = Box<dyn Fn(Load)>;

#[derive(Clone)]
pub(crate) struct Environment {
    /// The name of the job; empty outside of one.
    pub(crate) job: Rc<str>,
    pub(crate) groups: KeyGroups,
    pub(crate) clock: Clock,
    pub(crate) on_failure: Rc<dyn Fn(&Failure)>,
    /// Makes a listener for an operator of these limits.
    pub(crate) on_load: Option<Rc<dyn Fn(Limits) -> LoadListener>>,
    /// Gives agents up when the job has failed elsewhere.
    pub(crate) stop: Stop,
    /// Told when a dataflow cannot be put together.
    pub(crate) on_broken: Rc<dyn Fn(cluster::Failure)>,
    /// The job's checkpoints, if it has some.
    pub(crate) durable: Option<Rc<Durable>>,
}

thread_local! {
    static CURRENT: RefCell<Option<Environment>> = const { RefCell::new(None) };
}

impl Environment {
    /// The environment of this thread.
    pub(crate) fn current() -> Environment {
        CURRENT.with_borrow(|current| {
            current.clone().unwrap_or_else(|| Environment {
                job: Rc::from(""),
                groups: KeyGroups::default(),
                clock: Clock::system(),
                on_failure: Rc::new(|failure| {
                    eprintln!("error: {failure}");
                    std::process::exit(1);
                }),
                on_load: None,
                on_broken: Rc::new(|failure| {
                    eprintln!("error: {failure}");
                    std::process::exit(i32::from(failure.exit_code()));
                }),
                stop: Stop::default(),
                durable: None,
            })
        })
    }

    /// What holds the job's sources back while its log has too much to write.
    pub(crate) fn log_load(&self) -> Option<SinkLoad> {
        let limits = Limits { inbox_bytes: LOG_BYTES, ..Limits::default() };
        self.on_load.as_ref().map(|meter| SinkLoad::new(limits, meter(limits)))
    }

    /// Ends the job for a reason that lies in how it was put together.
    pub(crate) fn fail(&self, failure: cluster::Failure) {
        (self.on_broken)(failure);
    }

    /// Sets it.
    pub(crate) fn set(self) {
        CURRENT.set(Some(self));
    }
}
