//! What a run does, apart from when: the contract between the driver and a behavior.
//!
//! The driver owns time: epochs, capabilities, mailboxes, fuel, deadlines, completions. A [`Behavior`] owns
//! meaning: what a key remembers and what a run does to it. No clock, no I/O and no timely type enters a
//! behavior, so it is tested as data, without a worker. It is monomorphised into the driver: the split
//! costs nothing.
//!
//! # Contract
//! 1. Runs of one key do not overlap; `start` is called for a key only when its last run has ended
//!    *(kept by the driver, asserted in debug builds)*.
//! 2. `admit` is called before the first run of a new key *(kept by the driver)*.
//! 3. `resume` is called only for runs that reported [`Progress::Yielded`], or for which `complete`, `wake`
//!    or `expire` returned true since *(kept by the driver)*.
//! 4. What a run sends, outputs and asks for appears in [`Effects`] only as part of a finished step
//!    *(the implementor's duty)*.
//! 5. A behavior uses at most the fuel that it is given, one unit a task, and yields when it is used up
//!    *(the implementor's duty)*.
//! 6. After [`Progress::Failed`] nothing is called but `close` *(kept by the driver)*.
//! 7. `open` comes first, then runs, then `drained`, then `close`; `close` comes once, also after a failure
//!    and when construction fails half-way *(kept by the driver)*.

use std::any::Any;
use std::borrow::Cow;
use std::cmp::Ordering;
use std::future::Future;
use std::pin::Pin;
use std::time::Duration;

use crate::completion::{CallFailure, CallRef, CallResult, CompletionQueue};
use crate::fact::{FactColumns, KeyWriter, What};
use crate::hash::mix;
use crate::keys::{Key, KeyId, SharedKeys};
use crate::slab::RunToken;

/// What a run is told of itself.
#[derive(Clone, Copy, Debug)]
pub struct RunHead {
    /// The key.
    pub key: KeyId,
    /// The run's name while it is in flight.
    pub token: RunToken,
    /// The key's runs counted from 1, for people.
    pub sequence: u64,
    /// The epoch of the run's time.
    pub epoch: u64,
    /// The event time of the run's time.
    pub event_time: u64,
    /// The operator's clock when the activation began, in microseconds since 1970.
    pub now: u64,
}

/// What a run is about.
#[derive(Debug)]
pub enum Work<I> {
    /// An input of the key.
    Input(I),
    /// The epoch that the key asked to be told of is over.
    Notify {
        /// That epoch.
        epoch: u64,
    },
    /// An event that was scheduled is due.
    Scheduled {
        /// The event, as it was scheduled.
        event: Vec<u8>,
    },
}

/// How a call to a behavior has left the run.
#[derive(Debug)]
pub enum Progress<R> {
    /// The run has ended.
    Done,
    /// The run waits for completions.
    Suspended(R),
    /// The run can go on, but its fuel is used up.
    Yielded(R),
    /// The job must stop.
    Failed(Box<Failure>),
}

/// Why an agent stops its job.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("agent {agent}{}, key {key}, epoch {epoch}: {message}", of_action(action))]
pub struct Failure {
    /// The agent.
    pub agent: String,
    /// The action that failed; empty where it is none.
    pub action: String,
    /// The key, as text.
    pub key: String,
    /// The epoch of the run.
    pub epoch: u64,
    /// What happened.
    pub message: String,
}

fn of_action(action: &str) -> String {
    if action.is_empty() { String::new() } else { format!(", action {action}") }
}

/// A call's future, of a type that only its maker knows.
pub type CallFuture = Pin<Box<dyn Future<Output = CallResult> + Send>>;

/// What a call holds until it is over.
pub type Pass = Box<dyn Any + Send>;

/// Waits until a call may begin, or fails it.
pub type Gate = Pin<Box<dyn Future<Output = Result<Pass, CallFailure>> + Send>>;

/// Work for the runtime: it may wait or block, on threads that are not workers.
pub enum CallJob {
    /// Polled on the asynchronous runtime.
    Async(CallFuture),
    /// Run on the pool for blocking calls.
    Blocking(Box<dyn FnOnce() -> CallResult + Send>),
    /// Begins when its turn has come; only then its time is counted.
    Gated(Gate, Box<CallJob>),
}

impl CallJob {
    /// A call that is a future. What it holds when it is over is dropped on the worker.
    pub fn future(future: impl Future<Output = CallResult> + Send + 'static) -> Self {
        CallJob::Async(Box::pin(future))
    }
}

/// A call that a finished or suspended step asks for.
pub struct CallStart {
    /// The task that waits.
    pub task: u32,
    /// The call within the task.
    pub call: u32,
    /// What it is called, for people.
    pub name: Cow<'static, str>,
    /// How long it may take.
    pub timeout: Option<Duration>,
    /// Whether its start is noted before it leaves.
    pub noted: bool,
    /// What to do.
    pub job: CallJob,
}

/// A wake-up at a deadline that a step asks for; delivered as the call `call` of `task`.
#[derive(Clone, Copy, Debug)]
pub struct TimerStart {
    /// The task that waits.
    pub task: u32,
    /// The call within the task.
    pub call: u32,
    /// When, in microseconds of the operator's clock.
    pub deadline: u64,
}

/// What runs have brought about since the driver last looked.
pub struct Effects<O, S> {
    /// Data for the output port.
    pub outputs: Vec<O>,
    /// Items for the tagged port.
    pub tagged: Vec<S>,
    /// Calls to start.
    pub calls: Vec<CallStart>,
    /// Deadlines to watch.
    pub timers: Vec<TimerStart>,
    /// Calls and timers that nobody waits for any more, as (task, call).
    pub cancelled: Vec<(u32, u32)>,
    /// Epochs that the run's key wants to be told of.
    pub notifications: Vec<u64>,
    /// Events that are to come to the run's key: when, in microseconds of the operator's clock, and what.
    pub scheduled: Vec<(u64, Vec<u8>)>,
}

impl<O, S> Default for Effects<O, S> {
    fn default() -> Self {
        Effects {
            outputs: Vec::new(),
            tagged: Vec::new(),
            calls: Vec::new(),
            timers: Vec::new(),
            cancelled: Vec::new(),
            notifications: Vec::new(),
            scheduled: Vec::new(),
        }
    }
}

/// What a behavior is given before its first run.
pub struct Opening<K> {
    /// The keys by id.
    pub keys: SharedKeys<K>,
    /// Where wakers of suspended tasks report.
    pub queue: CompletionQueue,
    /// This worker.
    pub worker: usize,
    /// The number of workers.
    pub peers: usize,
    /// Whether facts will be asked for.
    pub facts: bool,
}

/// The journal of a run, of before a crash.
#[derive(Debug)]
pub struct PastRun {
    /// What it is known by.
    pub journal: u64,
    /// What [`RunNote::body`] was, note by note, one behind the other.
    pub bodies: Vec<u8>,
}

/// What a run has to know after a crash.
#[derive(Debug)]
pub struct RunNote {
    /// What the run's journal is known by, in all generations.
    pub journal: u64,
    /// The journal since the run's last note. It tells where it ends.
    pub body: Vec<u8>,
    /// What is recorded of the run's beginning, with its first note; only where runs are recorded.
    pub record: Option<Vec<u8>>,
}

/// What stands for a notification where inputs are known by digests.
pub fn notification_digest(epoch: u64) -> u64 {
    mix(0x6E6F_7469_6679, epoch)
}

/// Is told of runs as they begin: what a note closes over (rule D7).
pub trait Begins<I> {
    /// A run of `key` begins, with this number, about an input with that digest.
    fn begins(&mut self, key: KeyId, sequence: u64, digest: impl FnOnce() -> u64);

    /// A run of `key` has begun and ended, and did nothing that is noted. The input is of no further use to it.
    fn is_over(&mut self, key: KeyId, sequence: u64, input: I, digest: impl FnOnce(&I) -> u64);
}

/// Where there are no notes.
impl<I> Begins<I> for () {
    #[inline]
    fn begins(&mut self, _: KeyId, _: u64, _: impl FnOnce() -> u64) {}

    #[inline]
    fn is_over(&mut self, _: KeyId, _: u64, _: I, _: impl FnOnce(&I) -> u64) {}
}

/// How a behavior compares two inputs of one key and epoch.
pub type Sequence<B> = fn(&B, &<B as Behavior>::Input, &<B as Behavior>::Input) -> Ordering;

/// What a run does. See the module's contract.
pub trait Behavior: 'static {
    /// Keys.
    type Key: Key;
    /// Inputs.
    type Input: 'static;
    /// Items of the output port.
    type Output: 'static;
    /// Items of the tagged port.
    type Tagged: Clone + 'static;
    /// A run in flight.
    type Run: 'static;

    /// Begins; resources that every run needs are made here.
    ///
    /// # Errors
    /// What could not be made; the job stops.
    fn open(&mut self, opening: Opening<Self::Key>) -> Result<(), Failure>;

    /// Ids below `keys` are in use from now on.
    fn admit(&mut self, keys: usize);

    /// Runs of `keys` are about to start: what they remember may be brought into the cache together.
    fn touch(&mut self, keys: &[KeyId]);

    /// Starts a run and drives it as far as `fuel` and its waits allow.
    fn start(&mut self, head: &RunHead, work: Work<Self::Input>, fuel: &mut u32) -> Progress<Self::Run>;

    /// Starts runs of `inputs`, each the key, the number of its run and the input, until one has not simply ended
    /// or there is nothing more to start. Tells how many have ended, and what the last one came to if it has not;
    /// `head` then names it. `head` has all but the key and the number. `begun` is told of each run, in their order.
    ///
    /// This is `start` for many: only it is worth overriding, for speed.
    #[inline]
    fn start_batch(
        &mut self,
        head: &mut RunHead,
        inputs: &mut impl Iterator<Item = (KeyId, u64, Self::Input)>,
        fuel: &mut u32,
        begun: &mut impl Begins<Self::Input>,
    ) -> (u64, Option<Progress<Self::Run>>) {
        let Some((key, sequence, input)) = inputs.next() else { return (0, None) };
        head.key = key;
        head.sequence = sequence;
        begun.begins(key, sequence, || self.digest(&input));
        (0, Some(self.start(head, Work::Input(input), fuel)))
    }

    /// Drives a run on.
    fn resume(&mut self, head: &RunHead, run: &mut Self::Run, fuel: &mut u32) -> Progress<()>;

    /// Hands over the end of a call or timer; whether the run can go on.
    fn complete(&mut self, run: &mut Self::Run, call: CallRef, result: CallResult) -> bool;

    /// Marks a task as woken; whether the run can go on.
    fn wake(&mut self, run: &mut Self::Run, task: u32) -> bool;

    /// How long a run may take, if there is a limit.
    fn run_timeout(&self) -> Option<Duration>;

    /// The run has taken too long; whether it can go on, to its end.
    fn expire(&mut self, run: &mut Self::Run) -> bool;

    /// Keeps a signal of `key` until a run takes it; whether the key's `run` in flight can go on with it.
    fn signal(&mut self, key: KeyId, run: Option<&mut Self::Run>, name: String, payload: Vec<u8>) -> bool {
        let _ = (key, run, name, payload);
        false
    }

    /// Whether a run that is suspended waits for a signal: it may do so for any time, and counts for no limit.
    fn awaits_signal(&self, run: &Self::Run) -> bool {
        let _ = run;
        false
    }

    /// No more signals come, beside those that are kept.
    fn end_signals(&mut self) {}

    /// Signals have ended; whether the run, which may wait for one, can go on.
    fn signals_ended(&mut self, run: &mut Self::Run) -> bool {
        let _ = run;
        false
    }

    /// The run is to end when it is resumed, as one that failed for this reason.
    fn cancel(&mut self, run: &mut Self::Run, reason: &str) {
        let _ = (run, reason);
    }

    /// Gives up an input whose run has not begun.
    fn discard(&mut self, head: &RunHead, input: Self::Input, reason: &str) {
        let _ = (head, input, reason);
    }

    /// Looks at, and takes from, what runs have brought about.
    fn effects<R>(&mut self, look: impl FnOnce(&mut Effects<Self::Output, Self::Tagged>) -> R) -> R;

    /// Whether anything in [`Effects`] asks for control; kept cheap, for it is asked once a run.
    fn wants_control(&self) -> bool;

    /// The epoch that is now open at the input; `None` when the input has ended.
    fn advance(&mut self, epoch: Option<u64>);

    /// Writes what has changed of `key`'s memory since this was last asked; asked when facts are in use. What the key's
    /// `run` in progress has written is left out.
    fn facts(&mut self, key: KeyId, run: Option<&Self::Run>, facts: &mut KeyWriter);

    /// This is `facts`, of no run, for many: only it is worth overriding, for speed. Each column is given a piece for each of
    /// `keys`, which differ; together a key's pieces are what `facts` would write.
    fn facts_of(&mut self, keys: &[KeyId], columns: &mut FactColumns) {
        let column = columns.another();
        for key in keys {
            column.key(|facts| self.facts(*key, None, facts));
        }
    }

    /// Whether the close of an epoch moves unfinished runs to the next one (rule S5). What follows is then needed.
    fn carries(&self) -> bool {
        false
    }

    /// What it takes to begin a run again that is in progress: its beginning, encoded.
    fn beginning(&self, run: &Self::Run) -> Vec<u8> {
        let _ = run;
        Vec::new()
    }

    /// Hands over the journal of a run in progress since this was last asked, entry by entry.
    fn journal(&mut self, run: &mut Self::Run, each: &mut dyn FnMut(&[u8])) {
        let _ = (run, each);
    }

    /// Puts a run back that was in progress, from what [`Behavior::beginning`] and [`Behavior::journal`] gave. When it is
    /// resumed it goes through its journal and on from there. With `true` it begins anew instead: what was stored of it
    /// is no longer of use.
    ///
    /// # Errors
    /// Why it cannot be.
    fn restore_run(
        &mut self,
        head: &RunHead,
        beginning: &[u8],
        journal: Vec<Vec<u8>>,
    ) -> Result<(Self::Run, bool), String> {
        let _ = (head, beginning, journal);
        Err("runs of this kind do not outlive their epoch".to_owned())
    }

    /// Whether ends of calls will be noted (rule D7), in the job's start of that number. What follows is then needed. With
    /// `records` runs that are over are to be given by [`Behavior::take_record`], and the order of all inputs is noted.
    fn takes_notes(&mut self, generation: u64, records: bool) -> bool {
        let _ = (generation, records);
        false
    }

    /// What is to be kept of the run that has just ended, where runs are recorded.
    fn take_record(&mut self) -> Option<Vec<u8>> {
        None
    }

    /// What is recorded of the beginning of a run that had notes before a crash, where runs are recorded; once.
    fn take_beginning(&mut self, run: &mut Self::Run) -> Option<Vec<u8>> {
        let _ = run;
        None
    }

    /// What an input is known by among those of its key: its identity, or else a digest.
    fn digest(&self, input: &Self::Input) -> u64 {
        let _ = input;
        0
    }

    /// The same of what a run is about, if that is known.
    fn run_digest(&self, run: &Self::Run) -> Option<u64> {
        let _ = run;
        None
    }

    /// Starts a run that had begun before a crash, and brings it to where its journal ends.
    fn start_again(
        &mut self,
        head: &RunHead,
        work: Work<Self::Input>,
        past: PastRun,
        fuel: &mut u32,
    ) -> Progress<Self::Run> {
        let _ = past;
        self.start(head, work, fuel)
    }

    /// Gives a run that was put back the part of its journal that is beyond the checkpoint.
    ///
    /// # Errors
    /// It is none.
    fn restore_notes(&mut self, head: &RunHead, run: &mut Self::Run, past: &PastRun) -> Result<(), String> {
        let _ = (head, run, past);
        Err("runs of this kind have no notes".to_owned())
    }

    /// A call has ended so, `now` by the clock: what has to be durable before the run hears of it; nothing if it may hear at once.
    fn note_end(&mut self, now: u64, run: &mut Self::Run, call: CallRef, result: &CallResult) -> Option<RunNote> {
        let _ = (now, run, call, result);
        None
    }

    /// A call is about to leave: what has to be durable before that; nothing if it may leave at once.
    fn note_start(&mut self, run: &mut Self::Run, call: CallRef) -> Option<RunNote> {
        let _ = (run, call);
        None
    }

    /// A run has failed for good: what the next start of the job should know.
    fn note_failure(&mut self, run: &mut Self::Run) -> Option<RunNote> {
        let _ = run;
        None
    }

    /// An input, encoded.
    ///
    /// # Errors
    /// It cannot be.
    fn encode_input(input: &Self::Input) -> Result<Vec<u8>, String> {
        let _ = input;
        Err("inputs of this kind do not outlive their epoch".to_owned())
    }

    /// An input that was encoded.
    ///
    /// # Errors
    /// The bytes are none.
    fn decode_input(bytes: &[u8]) -> Result<Self::Input, String> {
        let _ = bytes;
        Err("inputs of this kind do not outlive their epoch".to_owned())
    }

    /// Puts back a fact of `key`'s memory, before the key's first run; of several about one thing the last counts.
    ///
    /// # Errors
    /// Why it cannot be: the behavior has no such place, or it holds another type.
    fn restore(&mut self, key: KeyId, what: &What, value: Option<&[u8]>) -> Result<(), String>;

    /// How a key's inputs of one epoch are sorted, if they are; then they start when the epoch closes.
    fn sequence(&self) -> Option<Sequence<Self>>
    where
        Self: Sized;

    /// The bytes that a waiting input takes, for the limit on them.
    fn input_bytes(input: &Self::Input) -> usize;

    /// The input has ended and all work is done.
    fn drained(&mut self);

    /// Gives everything up; comes once.
    fn close(&mut self);
}
