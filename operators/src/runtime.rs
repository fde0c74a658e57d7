//! The runtime beside the workers: asynchronous calls are polled and blocking calls run here.
//!
//! One per process, shared by all operators and workers, made when first used. What a call gives comes
//! back through its operator's completion queue. A panic in a call is the failure of that call.

use std::cell::Cell;
use std::future::{Future, poll_fn};
use std::io;
use std::pin::Pin;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll, Waker};

use crossbeam::queue::SegQueue;
use tokio::runtime::{Builder, Handle, Runtime};
use tokio::task::AbortHandle;

use crate::behavior::{CallFuture, CallJob, Gate};
use crate::completion::{CallFailure, CallRef, CallResult, Completion, CompletionQueue, Spent};
use crate::quiet::{self, Panic};

/// Sizes of the runtime of a process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RuntimeOptions {
    /// Threads that poll asynchronous calls. Default 2.
    pub async_threads: usize,
    /// Threads, at most, for blocking calls. Default 64.
    pub blocking_threads: usize,
}

impl Default for RuntimeOptions {
    fn default() -> Self {
        RuntimeOptions { async_threads: 2, blocking_threads: 64 }
    }
}

static RUNTIME: OnceLock<Runtime> = OnceLock::new();

/// Makes the process's runtime with sizes of its own. Comes before the first operator is built.
///
/// # Errors
/// When the threads cannot be made, a size is zero, or there is a runtime already.
pub fn configure(options: RuntimeOptions) -> io::Result<()> {
    if options.async_threads == 0 || options.blocking_threads == 0 {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "a runtime needs at least one thread of each kind"));
    }
    let runtime = build(options)?;
    RUNTIME
        .set(runtime)
        .map_err(|_| io::Error::new(io::ErrorKind::AlreadyExists, "the runtime is in use; configure it before"))
}

fn build(options: RuntimeOptions) -> io::Result<Runtime> {
    Builder::new_multi_thread()
        .worker_threads(options.async_threads)
        .max_blocking_threads(options.blocking_threads)
        .thread_name("agent-calls")
        .enable_all()
        .build()
}

/// A handle of the process's runtime.
///
/// # Errors
/// When its threads cannot be made.
pub fn handle() -> io::Result<Handle> {
    if RUNTIME.get().is_none() {
        let runtime = build(RuntimeOptions::default())?;
        // Another thread may have been first; its runtime serves as well.
        let _ = RUNTIME.set(runtime);
    }
    RUNTIME.get().map(|runtime| runtime.handle().clone()).ok_or_else(|| io::Error::other("the runtime is gone"))
}

/// How many calls are handed over before the runtime is told, if the operator does not tell it earlier.
const TELL_AT: usize = 32;

/// How many calls are polled before other tasks of the runtime have a turn.
const POLLED_IN_A_ROW: usize = 64;

/// Starts calls for one operator.
pub struct Caller {
    shared: Arc<Shared>,
    /// Calls handed over that the runtime has not been told of.
    untold: Cell<usize>,
}

/// Calls that nobody has polled yet, and who polls them.
///
/// A call is polled once by a poller, which goes from call to call; only one that then waits becomes a task of the
/// runtime. So a call that is over at once costs no task, and many calls few wake-ups.
///
/// A call that blocks holds up its thread, not the calls behind it: there may be a poller for each thread, and they
/// are spawned by the worker. What a thread of the runtime spawns itself stays on it until the thread is done with its
/// present task; so a poller makes way for a call that it has made a task of before it polls another.
struct Shared {
    handle: Handle,
    queue: CompletionQueue,
    calls: SegQueue<(CallRef, CallFuture)>,
    pollers: AtomicUsize,
    most_pollers: usize,
}

impl Caller {
    /// Calls whose ends go to `queue`.
    pub fn new(handle: Handle, queue: CompletionQueue) -> Self {
        let most_pollers = handle.metrics().num_workers();
        let (calls, pollers) = (SegQueue::new(), AtomicUsize::new(0));
        Caller { shared: Arc::new(Shared { handle, queue, calls, pollers, most_pollers }), untold: Cell::new(0) }
    }

    /// Starts a call, at the latest with [`Caller::tell`]. Where it can be aborted and no handle is given, one comes
    /// through the queue, as [`Completion::Waits`].
    pub fn start(&self, call: CallRef, job: CallJob) -> Option<AbortHandle> {
        match job {
            CallJob::Async(future) => {
                self.shared.calls.push((call, future));
                self.untold.set(self.untold.get() + 1);
                if self.untold.get() >= TELL_AT {
                    self.tell();
                }
                None
            }
            CallJob::Blocking(body) => {
                let queue = self.shared.queue.clone();
                let run = move || {
                    let result = quiet::catch(body).unwrap_or_else(|panic| panicked(&panic));
                    queue.push(Completion::Call { call, result, spent: Spent::default() });
                };
                Some(self.shared.handle.spawn_blocking(run).abort_handle())
            }
            CallJob::Gated(gate, job) => {
                let shared = Arc::clone(&self.shared);
                Some(self.shared.handle.spawn(shared.wait_and_call(call, gate, *job)).abort_handle())
            }
        }
    }

    /// Tells the runtime of the calls handed over.
    pub fn tell(&self) {
        if self.untold.replace(0) == 0 {
            return;
        }
        let shared = &self.shared;
        for _ in 0..shared.calls.len().min(shared.most_pollers) {
            if !shared.enlist() {
                break;
            }
            shared.handle.spawn(Arc::clone(shared).poll_calls());
        }
    }
}

impl Shared {
    /// Counts one more poller, if there may be one.
    fn enlist(&self) -> bool {
        let more = |pollers| (pollers < self.most_pollers).then_some(pollers + 1);
        self.pollers.load(SeqCst) < self.most_pollers && self.pollers.fetch_update(SeqCst, SeqCst, more).is_ok()
    }

    /// What a poller does.
    async fn poll_calls(self: Arc<Self>) {
        loop {
            let mut polled = 0;
            while let Some((call, future)) = self.calls.pop() {
                polled += 1;
                if self.poll(call, future).is_pending() || polled == POLLED_IN_A_ROW {
                    polled = 0;
                    make_way().await;
                }
            }
            self.pollers.fetch_sub(1, SeqCst);
            // Who pushed a call after the last look may have counted on this poller.
            if self.calls.is_empty() || !self.enlist() {
                return;
            }
        }
    }

    /// Makes a call when its turn has come.
    async fn wait_and_call(self: Arc<Self>, call: CallRef, gate: Gate, mut job: CallJob) {
        let mut passes = Vec::new();
        let mut gate = Some(gate);
        while let Some(waiting) = gate.take() {
            match waiting.await {
                Ok(pass) => passes.push(pass),
                Err(failure) => {
                    self.queue.push(Completion::Call { call, result: Err(failure), spent: Spent::default() });
                    return;
                }
            }
            if let CallJob::Gated(next, inner) = job {
                (gate, job) = (Some(next), *inner);
            }
        }
        if self.queue.is_closed() {
            let _: Result<(), Panic> = quiet::catch(|| drop(job));
            return;
        }
        self.queue.push(Completion::Begins { call });
        match job {
            CallJob::Async(future) => {
                Waits { call, future: Some(future), queue: self.queue.clone() }.await;
                drop(passes);
            }
            CallJob::Blocking(body) => {
                let queue = self.queue.clone();
                let run = move || {
                    let result = quiet::catch(body).unwrap_or_else(|panic| panicked(&panic));
                    drop(passes);
                    queue.push(Completion::Call { call, result, spent: Spent::default() });
                };
                let abort = self.handle.spawn_blocking(run).abort_handle();
                self.queue.push(Completion::Waits { call, abort });
            }
            CallJob::Gated(..) => unreachable!("all its gates are passed"),
        }
    }

    /// Polls a call for the first time.
    fn poll(&self, call: CallRef, mut future: CallFuture) -> Poll<()> {
        if self.queue.is_closed() {
            let _: Result<(), Panic> = quiet::catch(|| drop(future));
            return Poll::Ready(());
        }
        // The task that a waiting call becomes polls it again, with a waker of its own.
        let mut nobody = Context::from_waker(Waker::noop());
        let result = match quiet::catch(|| future.as_mut().poll(&mut nobody)) {
            Ok(Poll::Pending) => {
                let abort =
                    self.handle.spawn(Waits { call, future: Some(future), queue: self.queue.clone() }).abort_handle();
                self.queue.push(Completion::Waits { call, abort });
                return Poll::Pending;
            }
            Ok(Poll::Ready(result)) => result,
            Err(panic) => panicked(&panic),
        };
        self.queue.push(Completion::Call { call, result, spent: Spent(Some(future)) });
        Poll::Ready(())
    }
}

/// Lets the other tasks of this thread have a turn. Unlike tokio's `yield_now` it leaves the poller where other threads
/// find it.
async fn make_way() {
    let mut made = false;
    poll_fn(|cx| {
        if std::mem::replace(&mut made, true) {
            return Poll::Ready(());
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    })
    .await;
}

/// The task of a call that was not over at once. A panic in it is its failure.
struct Waits {
    call: CallRef,
    future: Option<CallFuture>,
    queue: CompletionQueue,
}

impl Future for Waits {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let this = &mut *self;
        let Some(future) = &mut this.future else { return Poll::Ready(()) };
        let result = match quiet::catch(|| future.as_mut().poll(cx)) {
            Ok(Poll::Pending) => return Poll::Pending,
            Ok(Poll::Ready(result)) => result,
            Err(panic) => panicked(&panic),
        };
        this.queue.push(Completion::Call { call: this.call, result, spent: Spent(this.future.take()) });
        Poll::Ready(())
    }
}

fn panicked(panic: &Panic) -> CallResult {
    Err(CallFailure::Panicked(panic.to_string()))
}

#[cfg(test)]
mod tests {
    use std::future::pending;
    use std::sync::mpsc::channel;

    use super::*;
    use crate::completion::CallValue;
    use crate::slab::Slab;

    fn call(number: u32) -> CallRef {
        CallRef { run: Slab::<()>::default().vacant(), task: 0, call: number }
    }

    fn wait_for(queue: &CompletionQueue, mut each: impl FnMut(Completion) -> bool) {
        let mut found = false;
        while !found {
            queue.drain(|completion| found |= each(completion));
            std::thread::yield_now();
        }
    }

    #[test]
    fn a_call_that_blocks_holds_up_no_other() {
        let runtime = build(RuntimeOptions { async_threads: 2, blocking_threads: 1 }).unwrap();
        let queue = CompletionQueue::new(None);
        let caller = Caller::new(runtime.handle().clone(), queue.clone());
        let (release, released) = channel::<()>();
        let blocking = CallJob::future(async move {
            released.recv().ok();
            Ok(CallValue::Unit)
        });
        assert!(caller.start(call(0), blocking).is_none());
        // So few that one word to the runtime is for all of them.
        let others = 1..10;
        for number in others.clone() {
            let waits = number % 2 == 0;
            let job = CallJob::future(async move {
                if waits {
                    make_way().await;
                }
                Ok(CallValue::Unit)
            });
            caller.start(call(number), job);
        }
        caller.tell();
        let mut ended = Vec::new();
        wait_for(&queue, |completion| {
            if let Completion::Call { call, .. } = completion {
                ended.push(call.call);
            }
            ended.len() == others.len()
        });
        assert!(!ended.contains(&0));
        release.send(()).unwrap();
        wait_for(&queue, |completion| matches!(completion, Completion::Call { call, .. } if call.call == 0));
    }

    #[test]
    fn a_call_that_waits_can_be_aborted() {
        let runtime = build(RuntimeOptions { async_threads: 1, blocking_threads: 1 }).unwrap();
        let queue = CompletionQueue::new(None);
        let caller = Caller::new(runtime.handle().clone(), queue.clone());
        let (held, dropped) = channel::<()>();
        let waiting = CallJob::future(async move {
            let _held = held;
            pending().await
        });
        caller.start(call(0), waiting);
        caller.tell();
        wait_for(&queue, |completion| {
            let Completion::Waits { abort, .. } = completion else { return false };
            abort.abort();
            true
        });
        assert!(dropped.recv().is_err(), "what the call held is dropped");
    }

    #[test]
    fn calls_that_panic_fail_alone() {
        quiet::install();
        let runtime = build(RuntimeOptions { async_threads: 1, blocking_threads: 1 }).unwrap();
        let queue = CompletionQueue::new(None);
        let caller = Caller::new(runtime.handle().clone(), queue.clone());
        caller.start(call(0), CallJob::future(async { panic!("at once") }));
        let later = async {
            make_way().await;
            panic!("later")
        };
        caller.start(call(1), CallJob::future(later));
        caller.start(call(2), CallJob::future(async { Ok(CallValue::Unit) }));
        caller.tell();
        let mut failed = Vec::new();
        let mut ended = 0;
        wait_for(&queue, |completion| {
            if let Completion::Call { call, result, .. } = completion {
                ended += 1;
                failed.extend(result.is_err().then_some(call.call));
            }
            ended == 3
        });
        failed.sort_unstable();
        assert_eq!(failed, [0, 1]);
    }

    /// A call behind a gate that lets one through at a time.
    fn gated(permits: &Arc<tokio::sync::Semaphore>, job: CallJob) -> CallJob {
        let permits = Arc::clone(permits);
        let gate = async move { Ok(Box::new(permits.acquire_owned().await.ok()) as crate::behavior::Pass) };
        CallJob::Gated(Box::pin(gate), Box::new(job))
    }

    #[test]
    fn gated_calls_begin_one_after_the_other_whatever_becomes_of_them() {
        quiet::install();
        let runtime = build(RuntimeOptions { async_threads: 2, blocking_threads: 2 }).unwrap();
        let queue = CompletionQueue::new(None);
        let caller = Caller::new(runtime.handle().clone(), queue.clone());
        let permits = Arc::new(tokio::sync::Semaphore::new(1));
        let (held, dropped) = channel::<()>();
        let waiting = CallJob::future(async move {
            let _held = held;
            pending().await
        });
        let abort = caller.start(call(0), gated(&permits, waiting)).unwrap();
        wait_for(&queue, |completion| matches!(completion, Completion::Begins { call } if call.call == 0));
        let given_up =
            caller.start(call(1), gated(&permits, CallJob::Blocking(Box::new(|| panic!("it never begins")))));
        given_up.unwrap().abort();
        caller.start(call(2), gated(&permits, CallJob::Blocking(Box::new(|| panic!("at work")))));
        caller.start(call(3), gated(&permits, CallJob::future(async { panic!("at work") })));
        let other = Arc::new(tokio::sync::Semaphore::new(1));
        caller.start(call(4), gated(&other, gated(&permits, CallJob::future(async { Ok(CallValue::Unit) }))));
        let refused = Box::pin(async { Err(CallFailure::Refused("no".into())) });
        caller.start(call(5), CallJob::Gated(refused, Box::new(CallJob::future(async { Ok(CallValue::Unit) }))));
        abort.abort();
        assert!(dropped.recv().is_err(), "what the call held is dropped");
        let mut seen = Vec::new();
        wait_for(&queue, |completion| {
            match completion {
                Completion::Begins { call } => seen.push((call.call, "begins")),
                Completion::Call { call, result: Ok(_), .. } => seen.push((call.call, "ends")),
                Completion::Call { call, result: Err(CallFailure::Refused(_)), .. } => {
                    seen.push((call.call, "refused"));
                }
                Completion::Call { call, result: Err(_), .. } => seen.push((call.call, "fails")),
                other => assert!(matches!(other, Completion::Waits { .. } | Completion::Wake { .. }), "{other:?}"),
            }
            seen.len() == 7
        });
        seen.sort_unstable();
        let each = [2, 3, 4].map(|call| [(call, "begins"), (call, if call == 4 { "ends" } else { "fails" })]);
        assert_eq!(seen, [each.concat(), vec![(5, "refused")]].concat());
    }
}
