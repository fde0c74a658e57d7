//! Batches of inputs: the hot path.
//!
//! The keys of a batch are looked up together; then runs start one after the other, inside one call of the behavior
//! where no run needs to be looked at by itself.
//!
//! # Invariants
//! - Every input of a batch is counted as open work before any of its runs starts.
//! - An input waits for its epoch in `later`, for its turn in `backlog`, for its key's run in the key's mailbox.

use super::{Arrived, CACHED_KEYS, Driver, Emission, Intake, KeyState, Phase, Sink};
use crate::behavior::{Behavior, RunHead, Work};
use crate::keys::KeyId;
use crate::time::EpochTime;

/// So many inputs are looked up, and then run, at a time: what they need stays in a core's own cache meanwhile.
const PART: usize = 512;

/// The items of a part whose keys have no run in flight, as they are asked for; the others are put behind those runs.
struct Free<'d, N, T, I, B: Behavior> {
    intake: &'d N,
    time: &'d T,
    items: &'d mut I,
    states: &'d mut [KeyState<T, B::Input>],
    waiting_bytes: &'d mut usize,
}

impl<N, T, I, V, B> Iterator for Free<'_, N, T, I, B>
where
    B: Behavior,
    N: Intake<V, Key = B::Key, Input = B::Input>,
    T: EpochTime,
    I: Iterator<Item = (V, KeyId)>,
{
    type Item = (KeyId, u64, B::Input);

    #[expect(clippy::inline_always, reason = "once an input, and the loop of the behavior is built around it")]
    #[inline(always)]
    fn next(&mut self) -> Option<Self::Item> {
        loop {
            let (item, key) = self.items.next()?;
            let input = self.intake.input(item);
            let state = &mut self.states[key.index()];
            match &mut state.mailbox {
                None => {
                    state.sequence += 1;
                    return Some((key, state.sequence, input));
                }
                Some(mailbox) => {
                    let bytes = B::input_bytes(&input);
                    *self.waiting_bytes += mailbox.push_input(self.time.clone(), bytes, input);
                }
            }
        }
    }
}

impl<T: EpochTime, B: Behavior, E: Emission<B::Key, B::Output>> Driver<T, B, E> {
    /// Takes a batch of inputs of one time; runs those whose turn it is.
    #[inline]
    pub fn input<V, N, K>(&mut self, intake: &N, time: &T, batch: &mut Vec<V>, fuel: &mut u32, sink: &mut K)
    where
        N: Intake<V, Key = B::Key, Input = B::Input>,
        K: Sink<T, E::Item, B::Tagged>,
    {
        // Also after a failure: what was not processed stays open for ever.
        self.open.add(time, batch.len() as u64);
        if self.phase != Phase::Open {
            batch.clear();
            return;
        }
        let mut ids = std::mem::take(&mut self.ids);
        let mut items = batch.drain(..);
        while !items.as_slice().is_empty() {
            // The keys of a part are looked up together, so that their cache misses overlap.
            let part = &items.as_slice()[..PART.min(items.len())];
            ids.clear();
            let index = &mut self.index;
            ids.extend(part.iter().map(|item| index.id(intake.key(item))));
            if self.states.len() < self.index.len() {
                self.admit();
            }
            self.part(intake, time, &ids, &mut items, fuel, sink);
        }
        drop(items);
        self.ids = ids;
    }

    /// Takes as many items as there are ids of their keys.
    #[inline]
    fn part<V, N, K>(
        &mut self,
        intake: &N,
        time: &T,
        ids: &[KeyId],
        items: &mut impl Iterator<Item = V>,
        fuel: &mut u32,
        sink: &mut K,
    ) where
        N: Intake<V, Key = B::Key, Input = B::Input>,
        K: Sink<T, E::Item, B::Tagged>,
    {
        let epoch = time.epoch();
        // In this order: it is the ids that end.
        let mut items = ids.iter().copied().zip(items).map(|(key, item)| (item, key));
        if self.behavior.sequence().is_some() || self.epoch.is_some_and(|current| epoch > current) {
            let later = self.later.entry(epoch).or_default();
            for (item, key) in items {
                let input = intake.input(item);
                let bytes = B::input_bytes(&input);
                self.ahead_bytes += bytes;
                later.push(Arrived { time: time.clone(), key, bytes, input });
            }
            return;
        }
        if self.backlog.is_empty() && self.notes.as_ref().is_none_or(|notes| !notes.has_past()) {
            self.stage(time, sink);
            if self.index.len() > CACHED_KEYS {
                self.touch(ids);
            }
            if self.notes_in_batches() {
                self.note_part(ids, time, sink);
            }
            let ended = self.start_inputs(intake, time, &mut items, fuel, sink);
            self.stats.inline += ended;
            self.stats.runs += ended;
            self.open.remove(time, ended);
        }
        for (item, key) in items {
            let input = intake.input(item);
            let bytes = B::input_bytes(&input);
            self.waiting_bytes += bytes;
            self.arrive(Arrived { time: time.clone(), key, bytes, input });
        }
    }

    /// Starts runs of a batch as far as there is room; how many have ended.
    #[inline]
    pub(super) fn start_inputs<V, N, K>(
        &mut self,
        intake: &N,
        time: &T,
        items: &mut impl Iterator<Item = (V, KeyId)>,
        fuel: &mut u32,
        sink: &mut K,
    ) -> u64
    where
        N: Intake<V, Key = B::Key, Input = B::Input>,
        K: Sink<T, E::Item, B::Tagged>,
    {
        let mut ended = 0;
        let mut head = self.head(time);
        // Where each run is looked at by itself.
        let singly = E::KEYED || (self.seal.is_some() && !self.notes_in_batches());
        while self.has_room(*fuel) {
            if singly {
                let Some((item, key)) = items.next() else { break };
                let input = intake.input(item);
                if self.states[key.index()].mailbox.is_none() {
                    self.before_run(key, time, sink);
                    ended += u64::from(self.begin(&mut head, time, key, Work::Input(input), fuel, sink));
                } else {
                    self.wait(time.clone(), key, input);
                }
                continue;
            }
            head.token = self.runs.vacant();
            let (states, waiting_bytes) = (&mut self.states, &mut self.waiting_bytes);
            let mut free = Free::<_, _, _, B> { intake, time, items: &mut *items, states, waiting_bytes };
            let (ended_at_once, last) = match &mut self.notes {
                None => self.behavior.start_batch(&mut head, &mut free, fuel, &mut ()),
                Some(notes) => {
                    notes.beginning = None;
                    self.behavior.start_batch(&mut head, &mut free, fuel, notes.begun.of(time.epoch()))
                }
            };
            ended += ended_at_once;
            match last {
                Some(progress) => ended += u64::from(self.started(&head, time, progress, sink)),
                None => break,
            }
        }
        ended
    }

    /// Notes that runs of `ids` change their keys, many at a time so that the misses overlap: before they start, as they are
    /// open work of this epoch until then.
    fn note_part<K>(&mut self, ids: &[KeyId], time: &T, sink: &mut K)
    where
        K: Sink<T, E::Item, B::Tagged>,
    {
        let Some(seal) = &self.seal else { return };
        let mut fresh = std::mem::take(&mut self.fresh);
        fresh.resize(ids.len(), KeyId(0));
        let n = seal.not_noted(ids, time, &mut fresh);
        fresh.truncate(n);
        // A key without a mailbox has no run in flight, and its next one is of this epoch.
        fresh.retain(|id| self.states[id.index()].mailbox.is_none());
        if let Some((seal, mut durable)) = self.sealing() {
            if seal.has_older(time) {
                seal.encode_older(&fresh, time, &mut durable, &mut |block| sink.facts(block));
            }
            seal.changed_all(&fresh, time);
        }
        self.fresh = fresh;
    }

    /// Whether changes are noted when runs of a batch start: not where runs in progress are facts, which change more often
    /// than at their ends, nor where runs are recorded one by one.
    #[inline]
    fn notes_in_batches(&self) -> bool {
        self.seal.is_some() && self.carried.is_none() && self.records.is_none() && !E::KEYED
    }

    /// Whether another run may start now.
    #[inline]
    pub(super) fn has_room(&self, fuel: u32) -> bool {
        fuel > 0 && self.runs.len() - self.parked < self.limits.runs_in_flight && matches!(self.phase, Phase::Open)
    }

    /// Brings what runs of `ids` will look at into the cache: the misses of a batch overlap.
    pub(super) fn touch(&mut self, ids: &[KeyId]) {
        let busy = ids.iter().filter(|id| self.states[id.index()].mailbox.is_some()).count();
        std::hint::black_box(busy);
        self.behavior.touch(ids);
    }

    /// What runs at `time` are told of themselves, but for their key.
    pub(super) fn head(&self, time: &T) -> RunHead {
        RunHead {
            key: KeyId(0),
            token: self.runs.vacant(),
            sequence: 0,
            epoch: time.epoch(),
            event_time: time.event_time(),
            now: self.now,
        }
    }

    /// Puts an input behind the work of its key.
    pub(super) fn wait(&mut self, time: T, key: KeyId, input: B::Input) {
        let bytes = B::input_bytes(&input);
        let at = self.carried.is_some().then(|| self.at(&time));
        if let Some(at) = &at {
            self.before_change(key, at);
        }
        let mailbox = self.states[key.index()].mailbox.as_mut().expect("a busy key has a mailbox");
        self.waiting_bytes += mailbox.push_input(time, bytes, input);
        if let Some(at) = &at {
            self.changed(key, at);
        }
    }
}
