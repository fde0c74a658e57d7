//! SIGTERM: the sources stop, what they have closed is committed, and the job ends with success.
//!
//! # Invariants
//! - What was sent of an epoch that is not closed is not committed: it is read again when the job goes on.
//! - A second signal ends the process at once.

use std::rc::Rc;
use std::thread;

use signal_hook::consts::SIGTERM;
use signal_hook::iterator::Signals;
use timely_agents_operators::cluster::{Control, Failure};
use timely_agents_operators::commit::Stopper;

use crate::durable::Durable;

/// Watches for the signal, once per process, and for the end of the stop, on worker 0.
pub(super) fn on_signal(
    durable: &Rc<Durable>,
    worker: usize,
    stopper: Stopper,
    control: &Control,
) -> Result<(), Failure> {
    if worker == 0 {
        let stopped = Rc::downgrade(durable);
        let committed = stopped.clone();
        durable.stopping().watch(move || stopped.upgrade().into_iter().for_each(|durable| durable.end_if_stopped()));
        durable
            .committed()
            .watch(move |_| committed.upgrade().into_iter().for_each(|durable| durable.end_if_stopped()));
    }
    if !durable.sees_to_signals() {
        return Ok(());
    }
    let failed = |error: std::io::Error| Failure::data(format!("cannot watch for SIGTERM: {error}"));
    let mut signals = Signals::new([SIGTERM]).map_err(failed)?;
    durable.keep_signals(signals.handle());
    let control = control.clone();
    let watch = move || {
        for (heard, _) in signals.forever().enumerate() {
            if heard == 0 {
                tracing::info!("asked to stop: what is closed will be committed");
                stopper.ask();
            } else {
                control.fail(Failure::data("stopped at once by a second SIGTERM"));
            }
        }
    };
    thread::Builder::new().name("signals".to_owned()).spawn(watch).map_err(failed)?;
    Ok(())
}
