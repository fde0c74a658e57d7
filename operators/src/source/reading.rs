//! A source on the worker that reads.

use std::collections::VecDeque;
use std::sync::atomic::Ordering;

use timely::container::CapacityContainerBuilder;
use timely::dataflow::operators::Capability;
use timely::dataflow::operators::generic::OutputBuilderSession;
use timely::scheduling::{Activator, SyncActivator};

use super::alarm::Alarm;
use super::options::{Resume, SourceOptions};
use super::pace::Pace;
use super::reader::{Next, Opening, Reader};
use super::sources::Seat;
use crate::checkpoint::Ack;
use crate::cluster::Failure;
use crate::flow::{Attached, Flow};
use crate::time::EpochTime;

pub(super) type Session<'a, T, D> = OutputBuilderSession<'a, T, CapacityContainerBuilder<Vec<D>>>;

/// How an activation ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Outcome {
    /// The batch is full.
    More,
    /// Somebody activates the source again.
    Paused,
    /// Nothing is left to read.
    Ended,
}

/// The state of a source.
pub(super) struct Reading<T: EpochTime, R: Reader> {
    reader: R,
    /// Read, but not to be sent yet; its epoch is the capabilities'.
    next: Option<R::Item>,
    epoch: u64,
    /// Epochs below are over.
    resumed_at: u64,
    /// Whether records of this epoch have been sent.
    opened: bool,
    /// Where records were sent and that were not committed when last looked.
    uncommitted: VecDeque<u64>,
    /// Records of the capabilities' epoch on their way out.
    buffer: Vec<R::Item>,
    /// For records, and for acks if there are any.
    capabilities: Vec<Capability<T>>,
    activator: Activator,
    alarm: Alarm,
    pace: Option<Pace>,
    seat: Option<Seat>,
    flow: Option<Attached>,
    failed: bool,
    options: SourceOptions,
}

impl<T: EpochTime, R: Reader> Reading<T, R> {
    /// Failures end the job and leave a source that does nothing.
    pub(super) fn new(
        reader: R,
        mut capabilities: Vec<Capability<T>>,
        mut options: SourceOptions,
        resume: Option<&Resume>,
        activator: Activator,
        waker: SyncActivator,
    ) -> Self {
        let epoch = resume.map_or(0, |resume| resume.epoch);
        for capability in &mut capabilities {
            capability.downgrade(&T::minimum().with_epoch(epoch));
        }
        let mut reading = Reading {
            reader,
            next: None,
            epoch,
            resumed_at: epoch,
            opened: false,
            uncommitted: VecDeque::new(),
            buffer: Vec::new(),
            capabilities,
            alarm: Alarm::new(activator.clone()),
            activator,
            pace: None,
            seat: options.sources.as_ref().map(|sources| sources.attach(&options.name, epoch, waker.clone())),
            flow: options.flow.take().as_ref().map(Flow::attach),
            failed: false,
            options,
        };
        if let Err(failure) = reading.open(resume, waker) {
            let message = format!("source {}: {failure}", reading.options.name);
            reading.fail(Failure::new(failure.kind(), message));
        }
        reading
    }

    fn open(&mut self, resume: Option<&Resume>, waker: SyncActivator) -> Result<(), Failure> {
        if let Some(rate) = self.options.rate {
            self.pace = Pace::new(rate, self.options.clock.clone());
            if self.pace.is_none() {
                return Err(Failure::usage(format!("a rate of {rate} records per second is not above zero")));
            }
        }
        if let Some(resume) = resume {
            if let Some(Some(position)) = &resume.position {
                self.reader.seek(position)?;
            }
            if self.reader.position().is_none() {
                return Err(Failure::usage(
                    "a job with checkpoints cannot use it: its reader has no positions, so its records cannot be read \
                     again after a crash",
                ));
            }
        }
        let sources = self.options.sources.clone();
        self.reader.open(Opening { epoch: self.epoch, waker, sources, control: self.options.control.clone() })
    }

    fn fail(&mut self, failure: Failure) {
        self.failed = true;
        self.options.control.fail(failure);
    }

    pub(super) fn activation(
        &mut self,
        output: &mut Session<'_, T, R::Item>,
        mut acks: Option<&mut Session<'_, T, Ack>>,
    ) -> Outcome {
        if self.failed || self.seat.as_ref().is_some_and(Seat::is_stopped) {
            return Outcome::Paused;
        }
        let outcome = self.read(output, &mut acks);
        // Also what was read before an error: it is good.
        self.ship(output);
        match outcome {
            Ok(outcome) => {
                match outcome {
                    Outcome::More => self.activator.activate(),
                    Outcome::Ended => {
                        self.tell(self.epoch.saturating_add(1), None, &mut acks);
                        if let Some(seat) = &self.seat {
                            seat.enter(None);
                        }
                    }
                    Outcome::Paused => {}
                }
                outcome
            }
            Err(failure) => {
                self.fail(failure);
                Outcome::Paused
            }
        }
    }

    fn read(
        &mut self,
        output: &mut Session<'_, T, R::Item>,
        acks: &mut Option<&mut Session<'_, T, Ack>>,
    ) -> Result<Outcome, Failure> {
        let mut bytes = 0;
        let mut records = 0;
        let mut turns = 0;
        // Within an epoch one question in an activation answers for all.
        let mut asked = false;
        let outcome = loop {
            if turns >= self.options.batch.max(1) || bytes >= Attached::CHUNK_BYTES {
                break Ok(Outcome::More);
            }
            turns += 1;
            let item = match self.next.take() {
                Some(item) => item,
                None => {
                    let (epoch, item) = match self.reader.poll() {
                        Ok(Next::Record(epoch, item)) => (epoch, Some(item)),
                        Ok(Next::Epoch(epoch)) => (epoch, None),
                        Ok(Next::Idle(again)) => {
                            if let Some(again) = again {
                                self.alarm.ring_after(again);
                            }
                            break Ok(Outcome::Paused);
                        }
                        Ok(Next::End) => break Ok(Outcome::Ended),
                        Err(failure) => break Err(failure),
                    };
                    match self.enter(epoch, output, acks) {
                        Ok(entered) => asked &= !entered,
                        Err(failure) => break Err(failure),
                    }
                    let Some(item) = item else { continue };
                    item
                }
            };
            asked = asked || self.admitted();
            if !asked || !self.in_time() {
                self.next = Some(item);
                break Ok(Outcome::Paused);
            }
            bytes += self.reader.bytes(&item);
            records += 1;
            if !self.opened {
                self.opened = true;
                if self.options.open_epochs.is_some() {
                    self.uncommitted.push_back(self.epoch);
                }
            }
            self.buffer.push(item);
        };
        if records > 0
            && let Some(flow) = &self.flow
        {
            flow.sent(records, bytes);
        }
        outcome
    }

    /// Whether a record of the present epoch may be sent; if not, the source is activated when that may have changed.
    fn admitted(&mut self) -> bool {
        // The epoch before is closed by now, so it can be committed while this one waits.
        if let (false, Some(limit), Some(seat)) = (self.opened, self.options.open_epochs, &self.seat) {
            let committed = seat.committed();
            while self.uncommitted.front().is_some_and(|epoch| committed.covers(*epoch)) {
                self.uncommitted.pop_front();
            }
            if self.uncommitted.len() as u64 >= limit.max(1) {
                return false;
            }
        }
        self.flow.as_ref().is_none_or(|flow| flow.admits(self.epoch, self.opened, &self.activator))
    }

    /// Whether the rate lets one more record through; if not, the source is activated when it does.
    fn in_time(&mut self) -> bool {
        match self.pace.as_mut().map(Pace::take) {
            Some(Err(wait)) => {
                self.alarm.ring_after(wait);
                false
            }
            _ => true,
        }
    }

    /// Closes the epochs before `epoch`; whether there were any.
    fn enter(
        &mut self,
        epoch: u64,
        output: &mut Session<'_, T, R::Item>,
        acks: &mut Option<&mut Session<'_, T, Ack>>,
    ) -> Result<bool, Failure> {
        if epoch < self.resumed_at {
            return Err(Failure::data(format!(
                "{}: a record of epoch {epoch} comes after the checkpoint, which covers all epochs before {}: records \
                 that are new need later epochs",
                self.options.name, self.resumed_at
            )));
        }
        if epoch < self.epoch {
            return Err(Failure::data(format!(
                "{}: epoch {epoch} comes after epoch {}: epochs must not go back",
                self.options.name, self.epoch
            )));
        }
        let later = epoch > self.epoch;
        if later {
            self.ship(output);
            if acks.is_some() {
                let position = self
                    .reader
                    .position()
                    .ok_or_else(|| Failure::data(format!("{}: its reader has lost its position", self.options.name)))?;
                self.tell(epoch, Some(position), acks);
            }
            for capability in &mut self.capabilities {
                capability.downgrade(&T::minimum().with_epoch(epoch));
            }
            if let Some(seat) = &self.seat {
                seat.enter(Some(epoch));
            }
            self.epoch = epoch;
            self.opened = false;
        }
        Ok(later)
    }

    /// Says at the present epoch where the source would go on.
    fn tell(&self, epoch: u64, position: Option<Vec<u8>>, acks: &mut Option<&mut Session<'_, T, Ack>>) {
        if let Some(acks) = acks {
            let source = self.options.name.clone();
            acks.session(&self.capabilities[1]).give(Ack::Source { source, epoch, position });
        }
    }

    fn ship(&mut self, output: &mut Session<'_, T, R::Item>) {
        if self.buffer.is_empty() {
            return;
        }
        if let Some(read) = &self.options.read {
            read.fetch_add(self.buffer.len() as u64, Ordering::Relaxed);
        }
        output.session(&self.capabilities[0]).give_container(&mut self.buffer);
        self.buffer.clear();
    }
}
