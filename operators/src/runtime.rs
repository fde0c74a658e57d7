//! The runtime beside the workers: asynchronous calls are polled and blocking calls run here.
//!
//! One per process, shared by all operators and workers, made when first used. What a call gives comes
//! back through its operator's completion queue. A panic in a call is the failure of that call.

use std::future::{Future, poll_fn};
use std::io;
use std::pin::pin;
use std::sync::OnceLock;
use std::task::Poll;

use tokio::runtime::{Builder, Handle, Runtime};
use tokio::task::AbortHandle;

use crate::behavior::CallJob;
use crate::completion::{CallFailure, CallRef, CallResult, Completion, CompletionQueue};
use crate::quiet;

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

/// Starts calls for one operator.
#[derive(Clone)]
pub struct Caller {
    handle: Handle,
    queue: CompletionQueue,
}

impl Caller {
    /// Calls whose ends go to `queue`.
    pub fn new(handle: Handle, queue: CompletionQueue) -> Self {
        Caller { handle, queue }
    }

    /// Starts a call.
    pub fn spawn(&self, call: CallRef, job: CallJob) -> AbortHandle {
        match job {
            CallJob::Async(job) => job.spawn(self, call),
            CallJob::Blocking(body) => {
                let queue = self.queue.clone();
                let run = move || {
                    let result =
                        quiet::catch(body).unwrap_or_else(|panic| Err(CallFailure::Panicked(panic.to_string())));
                    queue.push(Completion::Call { call, result });
                };
                self.handle.spawn_blocking(run).abort_handle()
            }
        }
    }

    /// Starts a call that is a future. A panic in it is its failure.
    pub(crate) fn spawn_future(
        &self,
        call: CallRef,
        future: impl Future<Output = CallResult> + Send + 'static,
    ) -> AbortHandle {
        let queue = self.queue.clone();
        let task = async move {
            let mut future = pin!(future);
            let result = poll_fn(|cx| match quiet::catch(|| future.as_mut().poll(cx)) {
                Ok(poll) => poll,
                Err(panic) => Poll::Ready(Err(CallFailure::Panicked(panic.to_string()))),
            })
            .await;
            queue.push(Completion::Call { call, result });
        };
        self.handle.spawn(task).abort_handle()
    }
}
