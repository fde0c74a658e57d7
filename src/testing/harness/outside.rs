//! A harness in which single runs are done again, outside a job: see `inspect::replay`.

use timely_agents_operators::journal::{Note, RunRecord};
use timely_agents_operators::keys::Key;
use timely_agents_operators::time::EpochTime;

use super::Harness;
use crate::agent::Input;
use crate::call::ToldResult;
use crate::follow::Halted;
use crate::plan::Plan;
use crate::record::{Puts, Record};

impl<K: Key, I: Input, O: 'static, T: EpochTime> Harness<K, I, O, T> {
    /// From here on runs are recorded when they are over, and one that leaves its journal says so and goes on, whatever the
    /// agent allows. `past` is the journal of a run that is to come. Comes before [`Harness::restored_by`].
    pub(crate) fn outside(mut self, past: Vec<Note>) -> Self {
        self.driver.take_notes(u64::MAX, true);
        self.past.extend(past);
        if let Some(core) = self.driver.behavior().core() {
            core.outside.set(true);
        }
        self
    }

    /// From here on results of calls that tasks take are kept as JSON.
    pub(crate) fn show_results(&mut self) {
        if let Some(core) = self.driver.behavior().core() {
            core.common.shows_results.set(true);
        }
    }

    /// What tasks have taken.
    pub(crate) fn results(&mut self) -> Vec<ToldResult> {
        self.driver.behavior().core().map(|core| core.common.results.take()).unwrap_or_default()
    }

    /// From here on runs stop where their journals end.
    pub(crate) fn halt_behind_journals(&mut self) {
        if let Some(core) = self.driver.behavior().core() {
            core.halts.set(true);
        }
    }

    /// What a run has done that has stopped.
    pub(crate) fn halted(&mut self) -> Option<Halted> {
        self.driver.behavior().core().and_then(|core| core.halted.take())
    }

    /// What has been put out.
    pub(crate) fn puts(&mut self) -> Puts {
        let mut puts = Puts::default();
        if let Some(core) = self.driver.behavior().core() {
            let show = core.program.show_output;
            puts.outputs.extend(self.rim.outputs.iter().map(|(.., output)| show.map(|show| show(output))));
            puts.add_sides(&core.program, self.rim.tagged.iter().map(|(_, item)| item));
        }
        puts
    }

    /// Moves the clock; what comes due runs at the next step.
    pub(crate) fn stand_at(&mut self, now: u64) {
        self.now.set(self.now.get().max(now));
    }

    /// Lets runs see that the input has ended.
    pub(crate) fn let_input_seem_over(&mut self) {
        if let Some(core) = self.driver.behavior().core() {
            core.ended.set(true);
        }
    }

    /// Closes the epoch of an input that waits for that, by the order in which the agent takes inputs.
    pub(crate) fn close_if_sequenced(&mut self, plan: &Plan<I, O>, epoch: u64) {
        if plan.0.order.is_some() {
            self.advance(epoch.saturating_add(1));
        }
    }

    pub(crate) fn next_deadline(&self) -> Option<u64> {
        self.driver.next_deadline()
    }

    /// Where the run has left its journal.
    pub(crate) fn left(&mut self) -> Option<String> {
        self.driver.behavior().core().and_then(|core| core.left.borrow().clone())
    }

    /// Whether a run is over.
    pub(crate) fn has_record(&self) -> bool {
        !self.rim.records.is_empty()
    }

    /// The record of the first run that is over.
    pub(crate) fn record(&self) -> Option<Record> {
        let record: RunRecord = postcard::from_bytes(&self.rim.records.first()?.bytes).ok()?;
        postcard::from_bytes(&record.body).ok()
    }
}
