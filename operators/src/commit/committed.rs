//! COMMITTED: a dataflow of its own whose frontier is what is committed, seen by every worker.
//!
//! It also carries what the first worker must tell the others before anything else is built: with which checkpoint the
//! job goes on.
//!
//! # Invariants
//! - Worker 0 holds the only capability, and lowers it as far as the [`Teller`] has said.
//! - The dataflow ends when all is committed: until then every process of the job lives.

use std::cell::RefCell;
use std::fmt;
use std::rc::Rc;

use timely::container::CapacityContainerBuilder;
use timely::dataflow::ProbeHandle;
use timely::dataflow::channels::pact::Exchange;
use timely::dataflow::operators::generic::OutputBuilder;
use timely::dataflow::operators::generic::builder_rc::OperatorBuilder;
use timely::dataflow::operators::generic::operator::Operator;
use timely::dataflow::operators::probe::Probe;
use timely::worker::Worker;

use super::replies::Replies;

/// What a worker sees of commits. Clones are handles of it.
#[derive(Clone)]
pub struct Committed {
    probe: ProbeHandle<u64>,
    watchers: Rc<RefCell<Vec<Watcher>>>,
    opening: Rc<RefCell<Option<Vec<u8>>>>,
}

/// Told of the committed frontier.
type Watcher = Box<dyn Fn(Option<u64>)>;

/// A worker, and what it is told.
type Told = CapacityContainerBuilder<Vec<(u64, Vec<u8>)>>;

/// Tells the workers what is committed, from any thread.
#[derive(Clone)]
pub struct Teller(Replies<Option<u64>>);

impl Teller {
    /// All epochs before `frontier` are committed; all there will ever be, if it is `None`.
    pub fn tell(&self, frontier: Option<u64>) {
        self.0.push(frontier);
    }
}

impl fmt::Debug for Teller {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Teller").finish_non_exhaustive()
    }
}

impl Committed {
    /// Builds the dataflow, on every worker alike. `opening`, given on worker 0, is told to all workers.
    ///
    /// The teller is of use on worker 0 only.
    pub fn build(worker: &mut Worker, opening: Option<Vec<u8>>) -> (Committed, Teller) {
        let (index, peers) = (worker.index(), worker.peers());
        let watchers: Rc<RefCell<Vec<Watcher>>> = Rc::default();
        let heard: Rc<RefCell<Option<Vec<u8>>>> = Rc::default();
        let (wake, hear) = (Rc::clone(&watchers), Rc::clone(&heard));
        let (probe, teller) = worker.dataflow_named::<u64, _, _>("Committed", move |scope| {
            let mut builder = OperatorBuilder::new("Commits".to_owned(), scope);
            let replies = Replies::new(scope.worker().sync_activator_for(builder.operator_info().address.to_vec()));
            let teller = Teller(replies.clone());
            let (port, stream) = builder.new_output();
            let mut port: OutputBuilder<u64, Told> = OutputBuilder::from(port);
            builder.build(move |mut capabilities| {
                let mut capability = capabilities.pop().filter(|_| index == 0);
                let mut opening = opening;
                move |_| {
                    if let (Some(held), Some(bytes)) = (&capability, opening.take()) {
                        let mut output = port.activate();
                        output.session(held).give_iterator((0..peers as u64).map(|to| (to, bytes.clone())));
                    }
                    replies.drain(|frontier| match (frontier, &mut capability) {
                        (Some(epoch), Some(held)) if epoch > *held.time() => held.downgrade(&epoch),
                        (None, _) => capability = None,
                        _ => {}
                    });
                }
            });
            let (probe, stream) = stream.probe();
            stream.sink(Exchange::new(|(to, _): &(u64, Vec<u8>)| *to), "Committed", move |(input, frontier)| {
                input.for_each(|_, items| {
                    for (_, bytes) in items.drain(..) {
                        *hear.borrow_mut() = Some(bytes);
                    }
                });
                let committed = frontier.frontier().first().copied();
                for watcher in wake.borrow().iter() {
                    watcher(committed);
                }
            });
            (probe, teller)
        });
        (Committed { probe, watchers, opening: heard }, teller)
    }

    /// Steps `worker` until it has heard what worker 0 tells first.
    pub fn opening(&self, worker: &mut Worker) -> Vec<u8> {
        loop {
            if let Some(bytes) = self.opening.borrow_mut().take() {
                return bytes;
            }
            worker.step_or_park(None);
        }
    }

    /// What is committed: the frontier of this probe.
    pub fn probe(&self) -> &ProbeHandle<u64> {
        &self.probe
    }

    /// The first epoch that is not committed; `None` when all are.
    pub fn frontier(&self) -> Option<u64> {
        self.probe.with_frontier(|frontier| frontier.first().copied())
    }

    /// Calls `watcher` with the committed frontier whenever it may have moved, on this worker.
    pub fn watch(&self, watcher: impl Fn(Option<u64>) + 'static) {
        self.watchers.borrow_mut().push(Box::new(watcher));
    }
}

impl fmt::Debug for Committed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Committed").field("frontier", &self.frontier()).finish_non_exhaustive()
    }
}
