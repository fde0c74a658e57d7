//! What runs ask for while they are in flight: calls, deadlines, notifications; and how it comes back.
//!
//! # Invariants
//! - A call is on its run's list from when it is asked for until it has ended, is cancelled, or its run ends; what
//!   comes back for one that is not on a list is counted and dropped (S6).
//! - `calls_running` counts the calls that were given to the sink and have not ended or been aborted (S9).
//! - A notification is open work at its time from its registration on.

use std::collections::BTreeSet;

use super::{ActiveCall, Deadline, Driver, Emission, Mailbox, Phase, Registered, Requests, Sink};
use crate::behavior::{Behavior, CallJob, CallStart};
use crate::completion::{CallFailure, CallRef, CallResult, CallValue, Completion};
use crate::keys::KeyId;
use crate::quiet;
use crate::slab::RunToken;
use crate::time::EpochTime;

impl<T: EpochTime, B: Behavior, E: Emission<B::Key, B::Output>> Driver<T, B, E> {
    /// Does what the steps of a run in flight have asked for.
    pub(super) fn control<K>(&mut self, token: RunToken, sink: &mut K)
    where
        K: Sink<T, E::Item, B::Tagged>,
    {
        // The lists keep their capacity: they are lent for the time of this call.
        let Requests { mut cancelled, mut calls, mut timers, mut notifications, mut scheduled } =
            std::mem::take(&mut self.requests);
        self.behavior.effects(|effects| {
            std::mem::swap(&mut effects.cancelled, &mut cancelled);
            std::mem::swap(&mut effects.calls, &mut calls);
            std::mem::swap(&mut effects.timers, &mut timers);
            std::mem::swap(&mut effects.notifications, &mut notifications);
            std::mem::swap(&mut effects.scheduled, &mut scheduled);
        });
        for CallStart { task, call, name: called, timeout, noted, job } in calls.drain(..) {
            let name = CallRef { run: token, task, call };
            let (timeout, limit) = if let CallJob::Gated(..) = job { (None, timeout) } else { (timeout, None) };
            let timer = timeout.map(|limit| {
                let deadline = self.now.saturating_add(limit.as_micros() as u64);
                self.timers.add(deadline, Deadline::Call(name, limit))
            });
            let run = self.runs.get_mut(token).expect("in flight");
            run.calls.push(ActiveCall { task, call, timer, limit, running: false, abort: None });
            if noted {
                self.leave_noted(name, called, job, sink);
            } else {
                self.calls_waiting.push_back((name, called, job));
            }
        }
        for timer in timers.drain(..) {
            let name = CallRef { run: token, task: timer.task, call: timer.call };
            let key = self.timers.add(timer.deadline, Deadline::Timer(name));
            let run = self.runs.get_mut(token).expect("in flight");
            run.calls.push(ActiveCall {
                task: timer.task,
                call: timer.call,
                timer: Some(key),
                limit: None,
                running: false,
                abort: None,
            });
        }
        for (task, call) in cancelled.drain(..) {
            self.forget_call(CallRef { run: token, task, call }, true);
        }
        self.start_calls(sink);
        if !notifications.is_empty() {
            let run = self.runs.get_mut(token).expect("in flight");
            let (key, time) = (run.head.key, run.time.clone());
            for epoch in notifications.drain(..) {
                self.register(key, &time, epoch);
            }
        }
        if !scheduled.is_empty() {
            let run = self.runs.get_mut(token).expect("in flight");
            let (key, time) = (run.head.key, run.time.clone());
            for (deadline, event) in scheduled.drain(..) {
                self.schedule(key, &time, deadline, event);
            }
        }
        self.requests = Requests { cancelled, calls, timers, notifications, scheduled };
    }

    /// Does what a run that has ended asked for: of its calls nobody waits any more.
    #[cold]
    pub(super) fn control_of_ended(&mut self, key: KeyId, time: &T) {
        let (notifications, scheduled) = self.behavior.effects(|effects| {
            effects.calls.clear();
            effects.timers.clear();
            effects.cancelled.clear();
            (std::mem::take(&mut effects.notifications), std::mem::take(&mut effects.scheduled))
        });
        for (deadline, event) in scheduled {
            self.schedule(key, time, deadline, event);
        }
        for epoch in notifications {
            self.register(key, time, epoch);
        }
    }

    /// Starts calls that wait, as far as the limit allows.
    pub(super) fn start_calls<K>(&mut self, sink: &mut K)
    where
        K: Sink<T, E::Item, B::Tagged>,
    {
        while self.calls_running < self.limits.concurrent_calls {
            let Some((name, called, job)) = self.calls_waiting.pop_front() else {
                break;
            };
            let Some(call) = self.active_call(name) else {
                continue;
            };
            call.running = true;
            call.abort = sink.spawn(name, called, job);
            self.calls_running += 1;
            self.stats.calls += 1;
        }
    }

    /// Takes a call off the books; false when it was not on them.
    pub(super) fn forget_call(&mut self, name: CallRef, abort: bool) -> bool {
        let Some(run) = self.runs.get_mut(name.run) else {
            return false;
        };
        let Some(at) = run.calls.iter().position(|c| c.task == name.task && c.call == name.call) else {
            return false;
        };
        let call = run.calls.swap_remove(at);
        self.release_call(call, abort);
        true
    }

    pub(super) fn release_call(&mut self, call: ActiveCall, abort: bool) {
        if let Some(timer) = call.timer {
            self.timers.cancel(timer);
        }
        if call.running {
            self.calls_running -= 1;
        }
        if abort && let Some(handle) = call.abort {
            handle.abort();
        }
    }

    /// Registers that `key`, whose run is at `time`, is told of the end of `epoch`, or of its run's own when that is later.
    pub(super) fn register(&mut self, key: KeyId, time: &T, epoch: u64) {
        let time = &self.at(time);
        let at = time.with_epoch(epoch);
        let epoch = at.epoch();
        let over = self.epoch.is_none_or(|open| epoch < open);
        let new = over || self.notify(key, &at);
        if let Some(seal) = &mut self.seal
            && new
        {
            // Also one that is due at once: what asked for it may be committed before it comes.
            seal.notification(key, time, epoch, Some(at.clone()));
        }
        if over {
            self.open.add(&at, 1);
            self.deliver_notification(key, &at);
        }
    }

    /// Keeps a notification for when its epoch is over; false when there is one of this key and epoch already.
    pub(super) fn notify(&mut self, key: KeyId, at: &T) -> bool {
        let registered = self.notifications.entry(at.epoch());
        let registered = registered.or_insert_with(|| Registered { order: Vec::new(), keys: BTreeSet::new() });
        let new = registered.keys.insert(key);
        if new {
            self.open.add(at, 1);
            registered.order.push((key, at.clone()));
        }
        new
    }

    /// Puts a notification, which is open work already, into its key's mailbox.
    pub(super) fn deliver_notification(&mut self, key: KeyId, time: &T) {
        let mailbox = self.states[key.index()].mailbox.get_or_insert_with(|| Box::new(Mailbox::new(None)));
        if mailbox.push_notify(time.clone()) {
            if mailbox.run.is_none() {
                self.ready_keys.push_back(key);
            }
        } else {
            let at = self.at(time);
            self.open.remove(&at, 1);
        }
    }

    /// Delivers something that came back.
    pub fn complete<K>(&mut self, completion: Completion, sink: &mut K)
    where
        K: Sink<T, E::Item, B::Tagged>,
    {
        match completion {
            Completion::Wake { run, task } => {
                if let Some(active) = self.runs.get_mut(run) {
                    if self.behavior.wake(&mut active.run, task) && !std::mem::replace(&mut active.ready, true) {
                        self.ready_runs.push_back(run);
                    }
                } else {
                    self.stats.late += 1;
                }
            }
            Completion::Call { call, result, spent } => {
                // Dropping it is user code.
                if let Err(panic) = quiet::catch(|| drop(spent.0)) {
                    tracing::error!(%panic, "a call failed to be dropped");
                }
                self.settle(call, result, false, sink);
                self.start_calls(sink);
            }
            Completion::Durable { call, result } => self.end_call(call, result, false),
            Completion::Leave { call } => {
                self.left(call);
                self.start_calls(sink);
            }
            Completion::Recorded { number } => self.recorded(number),
            Completion::Begins { call } => {
                if let Some(limit) = self.active_call(call).and_then(|active| active.limit.take()) {
                    let deadline = self.now.saturating_add(limit.as_micros() as u64);
                    let timer = self.timers.add(deadline, Deadline::Call(call, limit));
                    let active = self.active_call(call).expect("found just before");
                    active.timer = Some(timer);
                }
            }
            Completion::Waits { call, abort } => match self.active_call(call) {
                Some(active) => active.abort = Some(abort),
                // It has ended, or nobody waits for it any more.
                None => abort.abort(),
            },
        }
    }

    pub(super) fn active_call(&mut self, name: CallRef) -> Option<&mut ActiveCall> {
        let run = self.runs.get_mut(name.run)?;
        run.calls.iter_mut().find(|c| c.task == name.task && c.call == name.call)
    }

    pub(super) fn end_call(&mut self, call: CallRef, result: CallResult, abort: bool) {
        if self.phase != Phase::Open || !self.forget_call(call, abort) {
            self.stats.late += 1;
            return;
        }
        let active = self.runs.get_mut(call.run).expect("in flight");
        if self.behavior.complete(&mut active.run, call, result) && !std::mem::replace(&mut active.ready, true) {
            self.ready_runs.push_back(call.run);
        }
    }

    pub(super) fn fire_timers<K>(&mut self, sink: &mut K)
    where
        K: Sink<T, E::Item, B::Tagged>,
    {
        while let Some(deadline) = self.timers.pop_due(self.now) {
            match deadline {
                Deadline::Timer(call) => self.end_call(call, Ok(CallValue::Unit), false),
                Deadline::Call(call, limit) => self.settle(call, Err(CallFailure::Timeout(limit)), true, sink),
                Deadline::Scheduled(key, number) => self.fire_scheduled(key, number),
                Deadline::Run(token) => {
                    if let Some(active) = self.runs.get_mut(token) {
                        active.deadline = None;
                        if self.behavior.expire(&mut active.run) && !std::mem::replace(&mut active.ready, true) {
                            self.ready_runs.push_back(token);
                        }
                    }
                }
            }
        }
        self.start_calls(sink);
    }
}
