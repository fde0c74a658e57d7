//! The keyed mailbox operator: a [`Driver`] inside a timely dataflow.
//!
//! This is the rim: it exchanges, reads the frontier and the clock, holds capabilities, starts calls and
//! ships what the driver gives. Ports beyond the first exist only where somebody uses them, for each costs
//! every epoch about a microsecond.
//!
//! # Each activation
//! Advance to the frontier that inputs and signals have both passed; drain them, retaining a capability first
//! where none is held at or before their time; drain completions; work within fuel; lower capabilities to the
//! least open times; ask to be activated again at once if fuel ran out, and at the next deadline.

use std::borrow::Cow;
use std::num::NonZeroU64;
use std::ops::Range;
use std::rc::Rc;
use std::sync::Arc;

use timely::container::CapacityContainerBuilder;
use timely::dataflow::channels::pact::{ParallelizationContract, Pipeline};
use timely::dataflow::operators::generic::OutputBuilder;
use timely::dataflow::operators::generic::builder_rc::OperatorBuilder;
use timely::dataflow::{Stream, StreamVec};
use timely::progress::frontier::MutableAntichain;
use tokio::task::AbortHandle;

use crate::behavior::{Behavior, CallJob, Failure};
use crate::capabilities::Held;
use crate::clock::Clock;
use crate::completion::{CallRef, Completion, CompletionQueue};
use crate::driver::{Driver, Emission, Intake, Load, Sink};
use crate::fact::{Block, FactRef};
use crate::group::KeyGroups;
use crate::journal::{ActionStateStore, Marker, Note, RUNS};
use crate::limits::Limits;
use crate::runtime::{self, Caller};
use crate::signal::Signal;
use crate::stats::RunStats;
use crate::stop::Stop;
use crate::time::EpochTime;

/// How an operator is set up.
pub struct Options {
    /// Its name in timely's logs.
    pub name: String,
    /// Bounds of what it holds.
    pub limits: Limits,
    /// The job's key groups.
    pub groups: KeyGroups,
    /// Whether the tagged port exists.
    pub tagged: bool,
    /// Whether the facts port exists.
    pub facts: bool,
    /// Whether somebody keeps what is left of scheduled events when the input has ended.
    pub outlived: bool,
    /// Its clock.
    pub clock: Clock,
    /// Told, once, when the operator fails; it is inert from then on and keeps its capabilities.
    pub on_failure: Rc<dyn Fn(&Failure)>,
    /// Told, once, what it has done when it ends.
    #[expect(clippy::type_complexity, reason = "an optional closure is told best in place")]
    pub on_end: Option<Box<dyn Fn(&RunStats)>>,
    /// Told, after each activation, what it holds.
    pub on_load: Option<Box<dyn Fn(Load)>>,
    /// Gives the operator up when its job has failed elsewhere.
    pub stop: Stop,
    /// The epoch to resume at, and what gives the facts of all before it.
    pub restore: Option<(u64, Restore)>,
    /// Where calls are noted, if they are.
    pub journal: Option<Journal>,
}

/// Where the calls of an operator are noted.
pub struct Journal {
    /// The store.
    pub store: Arc<dyn ActionStateStore>,
    /// Up to where it is read.
    pub marker: Marker,
    /// The operator's number among the job's components.
    pub component: u32,
    /// This start of the job.
    pub generation: u64,
    /// The groups of this worker.
    pub groups: Range<u32>,
    /// The epoch at which the job goes on.
    pub resume: u64,
    /// Whether runs are recorded when they are over.
    pub records: bool,
    /// All epochs before this one are committed.
    pub committed: Box<dyn Fn() -> u64>,
}

/// Hands the facts of a checkpoint that are a worker's, in order, to the closure that it is given.
pub type Restore = Box<dyn FnOnce(&mut dyn FnMut(FactRef<'_>) -> Result<(), String>) -> Result<(), String>>;

impl Options {
    /// The defaults for an operator called `name`.
    pub fn new(name: impl Into<String>, on_failure: Rc<dyn Fn(&Failure)>) -> Self {
        Options {
            name: name.into(),
            limits: Limits::default(),
            groups: KeyGroups::default(),
            tagged: false,
            facts: false,
            outlived: false,
            clock: Clock::system(),
            on_failure,
            on_end: None,
            on_load: None,
            stop: Stop::default(),
            restore: None,
            journal: None,
        }
    }
}

/// The streams of a keyed mailbox operator.
pub struct Streams<'scope, T: EpochTime, O: 'static, S: 'static> {
    /// What runs output.
    pub output: StreamVec<'scope, T, O>,
    /// The tagged port, if asked for.
    pub tagged: Option<StreamVec<'scope, T, S>>,
    /// The facts port, if asked for.
    pub facts: Option<StreamVec<'scope, T, Block<T>>>,
}

type Port<T, D> = OutputBuilder<T, CapacityContainerBuilder<Vec<D>>>;

/// A stream of signals, if there is one, and what brings them to their keys' workers.
pub type SignalInput<'scope, T, S, Q> = Option<(StreamVec<'scope, T, S>, Q)>;

/// Builds the operator. `pact` must bring every key to one worker; `intake` finds keys; `E` says whether
/// outputs carry them on.
pub fn keyed_mailbox<'scope, T, V, P, N, B, E>(
    stream: StreamVec<'scope, T, V>,
    pact: P,
    intake: N,
    behavior: B,
    options: Options,
) -> Streams<'scope, T, E::Item, B::Tagged>
where
    T: EpochTime,
    V: 'static,
    P: ParallelizationContract<T, Vec<V>>,
    N: Intake<V, Key = B::Key, Input = B::Input> + 'static,
    B: Behavior,
    E: Emission<B::Key, B::Output>,
{
    let none: SignalInput<'scope, T, Signal<B::Key>, Pipeline> = None;
    keyed_mailbox_with_signals::<T, V, P, N, B, E, _, _>(stream, pact, none, intake, behavior, options)
}

/// The same with a second input, of signals for keys.
pub fn keyed_mailbox_with_signals<'scope, T, V, P, N, B, E, S, Q>(
    stream: StreamVec<'scope, T, V>,
    pact: P,
    signals: SignalInput<'scope, T, S, Q>,
    intake: N,
    behavior: B,
    options: Options,
) -> Streams<'scope, T, E::Item, B::Tagged>
where
    T: EpochTime,
    V: 'static,
    P: ParallelizationContract<T, Vec<V>>,
    N: Intake<V, Key = B::Key, Input = B::Input> + 'static,
    B: Behavior,
    E: Emission<B::Key, B::Output>,
    S: Into<Signal<B::Key>> + 'static,
    Q: ParallelizationContract<T, Vec<S>>,
{
    let Options {
        name,
        limits,
        groups,
        tagged,
        facts,
        outlived,
        clock,
        on_failure,
        on_end,
        on_load,
        stop,
        restore,
        journal,
    } = options;
    let scope = stream.scope();
    let worker = scope.worker();
    let (index, peers) = (worker.index(), worker.peers());
    let mut builder = OperatorBuilder::new(name.clone(), scope);
    let address = builder.operator_info().address;
    let activator = worker.activator_for(Rc::clone(&address));
    stop.register(worker.activator_for(Rc::clone(&address)));
    let queue = CompletionQueue::new(Some(worker.sync_activator_for(address.to_vec())));

    let mut input = builder.new_input(stream, pact);
    let mut signals = signals.map(|(signals, pact)| builder.new_input(signals, pact));
    let (port, output) = builder.new_output();
    let mut output_port: Port<T, E::Item> = OutputBuilder::from(port);
    let (mut tagged_port, tagged_stream) = optional_port::<T, B::Tagged>(&mut builder, tagged);
    let (mut facts_port, facts_stream) = optional_port::<T, Block<T>>(&mut builder, facts);
    let facts_index = 1 + usize::from(tagged);

    builder.build(move |initial| {
        let opened = Driver::<T, B, E>::new(behavior, limits, groups, queue.clone(), index, peers, facts)
            .and_then(|driver| restored(driver, &name, restore, journal.as_ref()))
            .and_then(|driver| Ok((driver, caller(&queue)?)));
        // Data and tagged items wait for unfinished work, facts also for changes that are not sealed.
        let mut held = Held::new(if tagged { 0..2 } else { 0..1 });
        let mut held_facts = Held::new(facts.then_some(facts_index));
        let mut minimal = Vec::new();
        let (mut driver, caller, mut kept) = match opened {
            Ok((mut driver, caller)) => {
                if signals.is_none() {
                    driver.end_signals();
                }
                if outlived {
                    driver.let_scheduled_outlive();
                }
                if driver.minimal(&mut minimal) {
                    held.adopt(&initial, &minimal);
                    held_facts.adopt(&initial, &minimal);
                }
                (Some(driver), Some(caller), Vec::new())
            }
            Err(failure) => {
                on_failure(&failure);
                // Inert: the initial capabilities stay, for nothing of this operator will ever be done.
                (None, None, initial)
            }
        };
        let mut armed: Option<u64> = None;
        let mut reported = false;

        move |frontiers| {
            if stop.is_asked()
                && let Some(driver) = driver.take()
            {
                // Closed by its drop. What it held stays held, so that nobody takes its work for done.
                if let Some(on_end) = &on_end
                    && !reported
                {
                    on_end(driver.stats());
                }
            }
            let (Some(driver), Some(caller)) = (&mut driver, &caller) else {
                input.for_each(|capability, data| {
                    data.clear();
                    kept.push(capability.retain(0));
                });
                if let Some(signals) = &mut signals {
                    signals.for_each(|capability, data| {
                        data.clear();
                        kept.push(capability.retain(0));
                    });
                }
                return;
            };
            let before = clock.now_ns();
            let now = before / 1000;
            let inline_before = driver.stats().inline;
            driver.tick(now);
            if let Some(journal) = &journal {
                driver.committed((journal.committed)());
            }
            // The least of all: an epoch is over when no input has more of it.
            let least = |input: &MutableAntichain<T>| input.frontier().iter().map(EpochTime::epoch).min();
            let open = frontiers.iter().filter_map(least).min();
            if signals.is_some() && frontiers[1].is_empty() {
                driver.end_signals();
            }

            let mut fuel = driver.limits().fuel;
            let more;
            {
                let mut ports = Ports {
                    held: &mut held,
                    held_facts: &mut held_facts,
                    facts_index,
                    output: &mut output_port,
                    tagged: tagged_port.as_mut(),
                    facts: facts_port.as_mut(),
                    caller,
                    journal: journal.as_ref(),
                    queue: &queue,
                };
                driver.advance_to(open, &mut ports);
                // Not `for_each_time`: it sorts by time, unstably, and a sender's order is to be kept (S2).
                input.for_each(|capability, batch| {
                    ports.retain(&capability);
                    driver.input(&intake, capability.time(), batch, &mut fuel, &mut ports);
                });
                if let Some(signals) = &mut signals {
                    signals.for_each(|capability, batch| {
                        ports.retain(&capability);
                        driver.signals(capability.time(), batch.drain(..), &mut ports);
                    });
                }
                queue.drain(|completion| driver.complete(completion, &mut ports));
                more = driver.work(&mut fuel, &mut ports);
            }
            caller.tell();
            if let Some(inline) = NonZeroU64::new(driver.stats().inline - inline_before) {
                driver.record_inline((clock.now_ns() - before) / inline, inline.get());
            }
            if driver.minimal(&mut minimal) {
                held.settle(&minimal);
            }
            if driver.minimal_facts(&mut minimal) {
                held_facts.settle(&minimal);
            }
            if more {
                activator.activate();
            }
            armed = armed.filter(|at| *at > now);
            if let Some(deadline) = driver.next_deadline()
                && armed.is_none_or(|at| deadline < at)
            {
                activator.activate_after(clock.until(deadline));
                armed = Some(deadline);
            }
            if let Some(on_load) = &on_load {
                on_load(driver.load());
            }
            if !reported && (driver.failure().is_some() || driver.is_closed()) {
                reported = true;
                if let Some(on_end) = &on_end {
                    on_end(driver.stats());
                }
                if let Some(failure) = driver.failure() {
                    on_failure(failure);
                }
            }
        }
    });
    Streams { output, tagged: tagged_stream, facts: facts_stream }
}

/// A driver with the state that `restore` gives, if any.
fn restored<T: EpochTime, B: Behavior, E: Emission<B::Key, B::Output>>(
    mut driver: Driver<T, B, E>,
    name: &str,
    restore: Option<(u64, Restore)>,
    journal: Option<&Journal>,
) -> Result<Driver<T, B, E>, Failure> {
    let Some(resume) = restore.as_ref().map(|(resume, _)| *resume).or(journal.map(|journal| journal.resume)) else {
        return Ok(driver);
    };
    let failed = |message| Failure {
        agent: name.to_owned(),
        action: "restore".into(),
        key: String::new(),
        epoch: resume,
        message,
    };
    if let Some((_, restore)) = restore {
        restore(&mut |fact| driver.restore(&fact)).map_err(failed)?;
    }
    if let Some(journal) = journal
        && driver.take_notes(journal.generation, journal.records)
    {
        restored_notes(&mut driver, journal).map_err(failed)?;
    }
    driver.restored(resume).map_err(failed)?;
    Ok(driver)
}

/// Hands over the notes that are not over.
fn restored_notes<T: EpochTime, B: Behavior, E: Emission<B::Key, B::Output>>(
    driver: &mut Driver<T, B, E>,
    journal: &Journal,
) -> Result<(), String> {
    let mut taken = Ok(());
    let read = journal.store.rebuild(&journal.marker, journal.component, journal.groups.clone(), &mut |note| {
        if taken.is_ok() && note.epoch >= journal.resume {
            taken = driver.restore_note(note.epoch, &note.key, &note.bytes);
        }
    });
    read.map_err(|error| error.to_string())?;
    taken
}

fn caller(queue: &CompletionQueue) -> Result<Caller, Failure> {
    let handle = runtime::handle().map_err(|error| Failure {
        agent: String::new(),
        action: "open".into(),
        key: String::new(),
        epoch: 0,
        message: format!("the runtime for calls cannot start: {error}"),
    })?;
    Ok(Caller::new(handle, queue.clone()))
}

#[expect(clippy::type_complexity, reason = "a port and its stream, both or neither")]
fn optional_port<'scope, T: EpochTime, D: 'static>(
    builder: &mut OperatorBuilder<'scope, T>,
    wanted: bool,
) -> (Option<Port<T, D>>, Option<Stream<'scope, T, Vec<D>>>) {
    if wanted {
        let (port, stream) = builder.new_output();
        (Some(OutputBuilder::from(port)), Some(stream))
    } else {
        (None, None)
    }
}

/// The ports of one activation, as the driver's sink. A port is made ready only when something leaves by it.
struct Ports<'h, T: EpochTime, O: 'static, S: 'static> {
    held: &'h mut Held<T>,
    held_facts: &'h mut Held<T>,
    facts_index: usize,
    output: &'h mut Port<T, O>,
    tagged: Option<&'h mut Port<T, S>>,
    facts: Option<&'h mut Port<T, Block<T>>>,
    caller: &'h Caller,
    journal: Option<&'h Journal>,
    queue: &'h CompletionQueue,
}

impl<T: EpochTime, O: 'static, S: 'static> Ports<'_, T, O, S> {
    fn retain(&mut self, capability: &timely::dataflow::operators::InputCapability<T>) {
        self.held.retain(capability);
        self.held_facts.retain(capability);
    }

    fn put(&self, journal: &Journal, note: Note, then: Option<Completion>) {
        let queue = self.queue.clone();
        let done = move || then.into_iter().for_each(|then| queue.push(then));
        journal.store.put(note, Box::new(done));
    }
}

impl<T: EpochTime, O: 'static, S: 'static> Sink<T, O, S> for Ports<'_, T, O, S> {
    fn outputs(&mut self, time: &T, items: &mut Vec<O>) {
        let capability = self.held.at(0, time);
        self.output.activate().session(&*capability).give_container(items);
        items.clear();
    }

    fn tagged(&mut self, time: &T, items: &mut Vec<S>) {
        if let Some(tagged) = &mut self.tagged {
            let capability = self.held.at(1, time);
            tagged.activate().session(&*capability).give_container(items);
        }
        items.clear();
    }

    fn facts(&mut self, block: Block<T>) {
        if let Some(port) = &mut self.facts {
            let capability = self.held_facts.at(self.facts_index, &block.time);
            port.activate().session(&*capability).give(block);
        }
    }

    fn note(&mut self, group: u32, epoch: u64, key: Vec<u8>, bytes: Vec<u8>, then: Option<Completion>) {
        if let Some(journal) = self.journal {
            self.put(journal, Note { component: journal.component, group, epoch, key, bytes }, then);
        }
    }

    fn record(&mut self, group: u32, epoch: u64, key: Vec<u8>, bytes: Vec<u8>, then: Option<Completion>) {
        if let Some(journal) = self.journal {
            self.put(journal, Note { component: RUNS + journal.component, group, epoch, key, bytes }, then);
        }
    }

    fn spawn(&mut self, call: CallRef, _: Cow<'static, str>, job: CallJob) -> Option<AbortHandle> {
        self.caller.start(call, job)
    }
}
