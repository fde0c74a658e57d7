//! STOPPING: a request to stop reaches all workers, and worker 0 knows when all sources of the job have heard it.
//!
//! A dataflow of its own. Each worker holds a capability until the sources that it reads have stopped.
//!
//! # Invariants
//! - When the frontier of this dataflow is empty after a request, no source sends any more.
//! - Without a request the dataflow ends when everything is committed.

use std::cell::{Cell, RefCell};
use std::fmt;
use std::rc::Rc;

use timely::container::CapacityContainerBuilder;
use timely::dataflow::ProbeHandle;
use timely::dataflow::channels::pact::Exchange;
use timely::dataflow::operators::generic::OutputBuilder;
use timely::dataflow::operators::generic::builder_rc::OperatorBuilder;
use timely::dataflow::operators::generic::operator::Operator;
use timely::dataflow::operators::probe::Probe;
use timely::scheduling::Activator;
use timely::worker::Worker;

use super::replies::Replies;
use crate::source::Sources;

type Watcher = Box<dyn Fn()>;

/// What a worker sees of a request to stop. Clones are handles of it.
#[derive(Clone)]
pub struct Stopping {
    probe: ProbeHandle<u64>,
    asked: Rc<Cell<bool>>,
    released: Rc<Cell<bool>>,
    operator: Activator,
    watchers: Rc<RefCell<Vec<Watcher>>>,
}

/// Asks the job to stop, from any thread of the process.
#[derive(Clone)]
pub struct Stopper(Replies<()>);

impl Stopper {
    /// Asks. Once is enough, in one process.
    pub fn ask(&self) {
        self.0.push(());
    }
}

impl fmt::Debug for Stopper {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Stopper").finish_non_exhaustive()
    }
}

impl Stopping {
    /// Builds the dataflow, on every worker alike; `sources` are those of the process.
    pub fn build(worker: &mut Worker, sources: &Sources) -> (Stopping, Stopper) {
        let peers = worker.peers();
        let asked = Rc::new(Cell::new(false));
        let released = Rc::new(Cell::new(false));
        let watchers: Rc<RefCell<Vec<Watcher>>> = Rc::default();
        let (hears, over, wake, sources) =
            (Rc::clone(&asked), Rc::clone(&released), Rc::clone(&watchers), sources.clone());
        let (probe, stopper, operator) = worker.dataflow_named::<u64, _, _>("Stopping", move |scope| {
            let mut builder = OperatorBuilder::new("Stops".to_owned(), scope);
            let address = builder.operator_info().address;
            let operator = scope.worker().activator_for(Rc::clone(&address));
            let replies = Replies::new(scope.worker().sync_activator_for(address.to_vec()));
            let stopper = Stopper(replies.clone());
            let (port, stream) = builder.new_output();
            let mut port: OutputBuilder<u64, CapacityContainerBuilder<Vec<u64>>> = OutputBuilder::from(port);
            let (heard, states, again) = (Rc::clone(&hears), sources.clone(), operator.clone());
            builder.build(move |mut capabilities| {
                let mut capability = capabilities.pop();
                move |_| {
                    let mut asked = false;
                    replies.drain(|()| asked = true);
                    if asked && let Some(held) = &capability {
                        port.activate().session(held).give_iterator(0..peers as u64);
                    }
                    let stopped = || states.states().iter().all(|source| source.stopped || source.epoch.is_none());
                    if over.get() || heard.get() && stopped() {
                        capability = None;
                    } else if heard.get() {
                        // Sources answer within a step or two.
                        again.activate();
                    }
                }
            });
            let (probe, stream) = stream.probe();
            let (operator_of_stops, heard_all) = (operator.clone(), Rc::clone(&hears));
            stream.sink(Exchange::new(|to: &u64| *to), "Stopping", move |(input, frontier)| {
                input.for_each(|_, words| {
                    words.clear();
                    hears.set(true);
                    sources.stop();
                    operator_of_stops.activate();
                });
                if frontier.is_empty() && heard_all.get() {
                    for watcher in wake.borrow().iter() {
                        watcher();
                    }
                }
            });
            (probe, stopper, operator)
        });
        (Stopping { probe, asked, released, operator, watchers }, stopper)
    }

    /// Whether all sources of the job have stopped on request.
    pub fn all_stopped(&self) -> bool {
        self.asked.get() && self.probe.done()
    }

    /// Everything is committed: nobody will ask any more.
    pub fn release(&self) {
        self.released.set(true);
        self.operator.activate();
    }

    /// Calls `watcher`, on this worker, when all sources of the job have stopped on request.
    pub fn watch(&self, watcher: impl Fn() + 'static) {
        self.watchers.borrow_mut().push(Box::new(watcher));
    }
}

impl fmt::Debug for Stopping {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Stopping").field("asked", &self.asked.get()).finish_non_exhaustive()
    }
}
