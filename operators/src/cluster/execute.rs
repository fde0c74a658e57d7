//! Starts the workers of this process, watches over them and over the other processes, and ends all of them together.
//!
//! ```text
//! worker threads ── done, failed, panicked ─┐
//! network threads ── connection broken ─────┤
//! control connections ── goodbye, report ───┼─▶ supervisor (calling thread) ─▶ results or failure
//! Control::fail, any thread ────────────────┘
//! ```
//!
//! # Invariants
//! - A worker that fails keeps its dataflows, and with them its capabilities, and parks for ever: letting them go would
//!   tell the other workers that its work is done.
//! - After a failure nobody waits for workers. They stay parked or running until the caller ends the process.
//! - Nothing is written to the standard streams.

use std::any::Any;
use std::net::{Shutdown, TcpStream};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;

use crossbeam::channel::{Receiver, Sender, unbounded};
use timely::communication::allocator::thread::ThreadBuilder;
use timely::communication::allocator::zero_copy::initialize::initialize_networking_from_sockets;
use timely::communication::allocator::{AllocatorBuilder, ProcessBuilder};
use timely::communication::{Hooks, WorkerGuards};
use timely::worker::Worker;

use super::config::ClusterConfig;
use super::control::Control;
use super::deadline::Deadline;
use super::failure::Failure;
use super::formation::{Link, form};
use super::link::{self, Frame};
use super::supervisor::{Event, GRACE, Report, Step, Supervisor};
use crate::quiet::{self, Panic};

/// Runs `f` on every worker thread of this process, and each worker until its dataflows are complete.
///
/// Returns the results of this process's workers in order once all processes are done. With several processes, all call
/// this with the same `f`; it first waits until all of them are connected.
///
/// Workers may use the [`Control`] they are given, or return an error, to end the job in all processes; a panic does
/// the same. Then the cleanups of [`Control::on_failure`] run, and this function returns while other workers may still
/// be at work: the caller should return from `main` with [`Failure::exit_code`], which ends the process.
///
/// # Errors
/// - usage: the configuration is wrong; nothing was started;
/// - cluster: the processes could not be connected;
/// - the first failure of any worker of any process, or the loss of a process. Its kind is the same in all processes.
///
/// ```
/// use timely::dataflow::operators::{Inspect, ToStream};
/// use timely_agents_operators::cluster::{ClusterConfig, execute};
///
/// let indexes = execute(&ClusterConfig::single(2), |worker, _control| {
///     worker.dataflow::<u64, _, _>(|scope| {
///         (0..10).to_stream(scope).container::<Vec<_>>().inspect(|x| assert!(*x < 10));
///     });
///     Ok(worker.index())
/// })?;
/// assert_eq!(indexes, [0, 1]);
/// # Ok::<(), timely_agents_operators::cluster::Failure>(())
/// ```
pub fn execute<R, F>(config: &ClusterConfig, f: F) -> Result<Vec<R>, Failure>
where
    R: Send + 'static,
    F: Fn(&mut Worker, &Control) -> Result<R, Failure> + Send + Sync + 'static,
{
    quiet::install();
    config.validate()?;
    let links = if config.processes > 1 { form(config)? } else { vec![None] };
    let (events, inbox) = unbounded();
    let control = Control::new(config.process, config.processes, config.generation, events.clone());
    let names = (0..config.processes).map(|i| config.name_of(i)).collect();
    let supervisor = Supervisor::new(config.process, names, config.threads);

    let mut controls = Vec::new();
    let mut sockets = Vec::new();
    for (peer, link) in links.into_iter().enumerate() {
        let Some(Link { data, control }) = link else {
            sockets.push(None);
            continue;
        };
        sockets.push(Some(data));
        listen(peer, &control, &events)?;
        controls.push(control);
    }

    let slots: Arc<Mutex<Vec<Option<R>>>> = Arc::new(Mutex::new((0..config.threads).map(|_| None).collect()));
    let guards = start(config, sockets, events, &control, &slots, f);
    let outcome = match &guards {
        Ok(_) => supervise(supervisor, &inbox, &controls),
        Err(failure) => Err((failure.clone(), Report::new(config.process, failure))),
    };
    match (outcome, guards) {
        (Ok(()), Ok(guards)) => {
            // Every process is done. Network threads that find their peer gone now are no loss.
            if let Err(panic) = quiet::catch(|| guards.join()) {
                tracing::debug!(%panic, "a network thread ended badly after the job was done");
            }
            for control in &controls {
                let _ = control.shutdown(Shutdown::Both);
            }
            let mut slots = slots.lock().unwrap_or_else(PoisonError::into_inner);
            Ok(slots.drain(..).map(|result| result.expect("a worker leaves its result before it is done")).collect())
        }
        (Err((failure, report)), guards) => {
            // Joining would wait for parked threads.
            std::mem::forget(guards);
            Frame::Report(report).tell(&controls);
            control.clean(&failure);
            Err(failure)
        }
        (Ok(()), Err(_)) => unreachable!("what did not start is not supervised"),
    }
}

/// The supervisor's driver: events in, steps out, until the last.
fn supervise(
    mut supervisor: Supervisor,
    inbox: &Receiver<Event>,
    controls: &[TcpStream],
) -> Result<(), (Failure, Report)> {
    let mut grace: Option<Deadline> = None;
    loop {
        let event = match grace {
            // The calling thread's `Control` holds a sender: this waits for as long as it takes.
            None => inbox.recv().expect("the job's own handle holds a sender"),
            Some(deadline) => inbox.recv_deadline(deadline.instant()).unwrap_or_else(|_| {
                grace = None;
                Event::GraceOver
            }),
        };
        let mut step = supervisor.on(event);
        if step == Step::SayGoodbye {
            Frame::Goodbye.tell(controls);
            step = supervisor.finished();
        }
        match step {
            Step::Continue | Step::SayGoodbye => {}
            Step::StartGrace => grace = Some(Deadline::after(GRACE)),
            Step::Finished => return Ok(()),
            Step::Fail(failure, report) => return Err((failure, report)),
        }
    }
}

/// Starts the thread that listens to a peer's control connection.
fn listen(peer: usize, control: &TcpStream, events: &Sender<Event>) -> Result<(), Failure> {
    let events = events.clone();
    control
        .try_clone()
        .and_then(|stream| {
            thread::Builder::new()
                .name(format!("cluster:control-{peer}"))
                .spawn(move || link::listen(peer, stream, &events))
        })
        .map(|_| ())
        .map_err(|e| Failure::cluster(format!("cannot listen to process {peer}: {e}")))
}

/// Starts timely's threads.
fn start<R, F>(
    config: &ClusterConfig,
    sockets: Vec<Option<TcpStream>>,
    events: Sender<Event>,
    control: &Control,
    slots: &Arc<Mutex<Vec<Option<R>>>>,
    f: F,
) -> Result<WorkerGuards<()>, Failure>
where
    R: Send + 'static,
    F: Fn(&mut Worker, &Control) -> Result<R, Failure> + Send + Sync + 'static,
{
    let failed = |e: String| Failure::cluster(format!("cannot start the workers: {e}"));
    let (builders, others) = builders(config, sockets, &events).map_err(|e| failed(e.to_string()))?;
    let (control, slots) = (control.clone(), Arc::clone(slots));
    let (process, threads, alone) = (config.process, config.threads, config.processes == 1);
    let work = move |worker: &mut Worker| {
        // What a worker's destruction has to say after its work is done interests nobody.
        quiet::listen(|panic| tracing::debug!(%panic, "a worker thread ended badly"));
        let index = worker.index();
        let outcome = quiet::catch(|| {
            let result = f(worker, &control)?;
            while worker.has_dataflows() {
                worker.step_or_park(None);
            }
            Ok(result)
        });
        match outcome {
            Ok(Ok(result)) => {
                slots.lock().unwrap_or_else(PoisonError::into_inner)[index % threads] = Some(result);
                // Without a receiver the job has failed already.
                let _ = events.send(Event::Done);
                return;
            }
            Ok(Err(failure)) => control.fail(failure),
            Err(panic) if !alone && is_broken_connection(&panic) => {
                let why = panic.message;
                let _ = events.send(Event::Broken { peer: None, why });
            }
            Err(panic) => control.fail(Failure::panic(format!("worker {index} of process {process} {panic}"))),
        }
        loop {
            thread::park();
        }
    };
    timely::execute::execute_from(builders, others, config.worker.clone(), work).map_err(failed)
}

/// Timely's allocators as its own configuration would build them, but from connected sockets.
fn builders(
    config: &ClusterConfig,
    sockets: Vec<Option<TcpStream>>,
    events: &Sender<Event>,
) -> std::io::Result<(Vec<AllocatorBuilder>, Box<dyn Any + Send>)> {
    let mut hooks = Hooks::default();
    if config.processes == 1 && config.threads == 1 {
        return Ok((vec![AllocatorBuilder::Thread(ThreadBuilder)], Box::new(())));
    }
    let inner = if config.zerocopy { ProcessBuilder::new_bytes_vector } else { ProcessBuilder::new_typed_vector };
    let inner = inner(config.threads, hooks.refill.clone(), hooks.spill.clone());
    if config.processes == 1 {
        let builders = inner.into_iter().map(AllocatorBuilder::Process).collect();
        return Ok((builders, Box::new(())));
    }
    // Timely calls this on each network thread as it starts, which is the chance to hear how that thread ends.
    let events = events.clone();
    hooks.log_fn = Arc::new(move |setup| {
        let (events, peer) = (events.clone(), setup.remote);
        quiet::listen(move |panic| {
            let why = panic.message;
            let _ = events.send(Event::Broken { peer, why });
        });
        None
    });
    let (builders, comms) = initialize_networking_from_sockets(inner, sockets, config.process, config.threads, hooks)?;
    let builders = builders.into_iter().map(AllocatorBuilder::Tcp).collect();
    Ok((builders, Box::new(comms)))
}

/// Whether a worker's panic only passes on that a network thread ended: timely's queues poison each other.
fn is_broken_connection(panic: &Panic) -> bool {
    panic.message.starts_with("MergeQueue poisoned") || panic.message.starts_with("timely communication error:")
}
