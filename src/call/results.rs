//! Results of calls as what they are, for who looks at runs: only the program knows their types.

use crate::core::{Common, TaskCell};
use crate::journal::Name;

/// What a call has given to its task.
#[derive(Clone, Debug)]
pub(crate) struct ToldResult {
    pub(crate) task: Name,
    /// The call's place among the waits of its task, and its number there.
    pub(crate) ordinal: u64,
    /// As JSON.
    pub(crate) value: String,
}

impl Common {
    /// A task has taken the result of a call.
    #[inline]
    pub(crate) fn tell_result(&self, task: &TaskCell, ordinal: u64, show: impl FnOnce() -> String) {
        if self.shows_results.get() {
            let told = ToldResult { task: Name::of(task), ordinal, value: show() };
            self.results.borrow_mut().push(told);
        }
    }
}
