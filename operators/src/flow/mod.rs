//! What keeps sources from sending more than operators hold (rule S9).

use timely::worker::Worker;

use crate::driver::Load;
use crate::limits::Limits;

/// Flow control as one worker sees it.
#[derive(Clone, Debug)]
pub struct Flow {}

impl Flow {
    /// Builds the dataflow that load travels by; to be called on every worker alike, before the dataflows it serves.
    pub fn build(_worker: &mut Worker) -> Flow {
        Flow {}
    }

    /// A listener to the load of one operator of these limits.
    pub fn meter(&self, _limits: Limits) -> Box<dyn Fn(Load)> {
        Box::new(|_| {})
    }
}
