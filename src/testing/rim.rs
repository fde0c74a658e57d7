//! What stands around a driver in a harness: outputs are kept, calls wait for the test.

use std::borrow::Cow;
use std::fmt::{self, Display, Formatter};
use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Poll, Wake, Waker};
use std::thread::{self, Thread};

use timely_agents_operators::behavior::{CallJob, Gate, Pass};
use timely_agents_operators::completion::{CallFailure, CallRef, CallResult, Completion, Spent};
use timely_agents_operators::driver::Sink;
use timely_agents_operators::fact::Block;
use timely_agents_operators::journal::{Note, RUNS};
use timely_agents_operators::{quiet, runtime};
use tokio::task::AbortHandle;

use crate::tagged::Tagged;

/// Names a call of a harness: calls are counted from 0 in the order in which they started.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct CallId(pub usize);

impl Display for CallId {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        write!(f, "call {}", self.0)
    }
}

/// A call that has started and that its action waits for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PendingCall {
    /// Its name in the harness.
    pub id: CallId,
    /// What the action called it.
    pub name: String,
}

/// A call that was started, whether or not it has ended since.
pub(super) struct Started {
    pub(super) call: CallRef,
    pub(super) name: Cow<'static, str>,
    pub(super) job: Option<CallJob>,
}

/// Keeps what a driver gives.
pub(super) struct Rim<T, K, O> {
    pub(super) outputs: Vec<(T, K, O)>,
    pub(super) tagged: Vec<(T, Tagged)>,
    pub(super) facts: Vec<Block<T>>,
    pub(super) started: Vec<Started>,
    pub(super) notes: Vec<Note>,
    /// Records of runs that are over.
    pub(super) records: Vec<Note>,
    /// What is told when notes are durable.
    pub(super) noted: Vec<Completion>,
    /// Of calls that share limits with others: where they are, by their place among the calls that have started.
    turns: Vec<(usize, Turn)>,
}

enum Turn {
    Waits(Gate),
    /// Held until the call is over.
    Has {
        _pass: Pass,
    },
}

impl<T, K, O> Default for Rim<T, K, O> {
    fn default() -> Self {
        Rim {
            outputs: Vec::new(),
            tagged: Vec::new(),
            facts: Vec::new(),
            started: Vec::new(),
            notes: Vec::new(),
            records: Vec::new(),
            noted: Vec::new(),
            turns: Vec::new(),
        }
    }
}

impl<T: Clone, K, O> Sink<T, (K, O), Tagged> for Rim<T, K, O> {
    fn outputs(&mut self, time: &T, items: &mut Vec<(K, O)>) {
        let items = items.drain(..).map(|(key, output)| (time.clone(), key, output));
        self.outputs.extend(items);
    }

    fn tagged(&mut self, time: &T, items: &mut Vec<Tagged>) {
        self.tagged.extend(items.drain(..).map(|item| (time.clone(), item)));
    }

    fn facts(&mut self, block: Block<T>) {
        self.facts.push(block);
    }

    fn note(&mut self, group: u32, epoch: u64, key: Vec<u8>, bytes: Vec<u8>, then: Option<Completion>) {
        self.notes.push(Note { component: 0, group, epoch, key, bytes });
        self.noted.extend(then);
    }

    fn record(&mut self, group: u32, epoch: u64, key: Vec<u8>, bytes: Vec<u8>, then: Option<Completion>) {
        // Nobody waits for that of a beginning.
        if let Some(then) = then {
            self.records.push(Note { component: RUNS, group, epoch, key, bytes });
            self.noted.push(then);
        }
    }

    fn spawn(&mut self, call: CallRef, name: Cow<'static, str>, job: CallJob) -> Option<AbortHandle> {
        let job = match job {
            CallJob::Gated(gate, job) => {
                self.turns.push((self.started.len(), Turn::Waits(gate)));
                *job
            }
            job => job,
        };
        self.started.push(Started { call, name, job: Some(job) });
        None
    }
}

impl<T, K, O> Rim<T, K, O> {
    /// Whether a call waits for its turn.
    pub(super) fn waits(&self, id: usize) -> bool {
        self.turns.iter().any(|(of, turn)| *of == id && matches!(turn, Turn::Waits(_)))
    }

    /// Lets calls begin whose turn has come; those that nobody `awaits` give back what they hold.
    pub(super) fn take_turns(&mut self, awaits: impl Fn(CallRef) -> bool, mut each: impl FnMut(Completion)) {
        if self.turns.is_empty() {
            return;
        }
        let runtime = runtime::handle().ok();
        let _inside = runtime.as_ref().map(tokio::runtime::Handle::enter);
        let started = &self.started;
        self.turns.retain(|(id, _)| awaits(started[*id].call));
        self.turns.retain_mut(|(id, turn)| {
            let call = started[*id].call;
            let Turn::Waits(gate) = turn else { return true };
            match gate.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
                Poll::Pending => true,
                Poll::Ready(Ok(pass)) => {
                    *turn = Turn::Has { _pass: pass };
                    each(Completion::Begins { call });
                    true
                }
                Poll::Ready(Err(failure)) => {
                    each(Completion::Call { call, result: Err(failure), spent: Spent::default() });
                    false
                }
            }
        });
    }
}

/// Does the work of a call on this thread, to its end.
pub(super) fn execute(job: CallJob) -> CallResult {
    let done = match job {
        CallJob::Blocking(body) => quiet::catch(body),
        CallJob::Gated(gate, job) => match block_on(gate) {
            Ok(_pass) => Ok(execute(*job)),
            Err(failure) => Ok(Err(failure)),
        },
        CallJob::Async(job) => {
            // Within the runtime, so that a future which uses its timers or sockets finds them.
            let runtime = runtime::handle().ok();
            let _inside = runtime.as_ref().map(tokio::runtime::Handle::enter);
            quiet::catch(|| block_on(job.into_future()))
        }
    };
    done.unwrap_or_else(|panic| Err(CallFailure::Panicked(panic.to_string())))
}

/// Polls a future on this thread until it is ready.
fn block_on<F: Future>(future: F) -> F::Output {
    let mut future = pin!(future);
    let waker = Waker::from(Arc::new(Unpark(thread::current())));
    let mut context = Context::from_waker(&waker);
    loop {
        match future.as_mut().poll(&mut context) {
            Poll::Ready(output) => return output,
            Poll::Pending => thread::park(),
        }
    }
}

struct Unpark(Thread);

impl Wake for Unpark {
    fn wake(self: Arc<Self>) {
        self.0.unpark();
    }
}
