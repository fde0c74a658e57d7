//! A journal in memory, for tests and jobs whose process does not end.

use std::ops::Range;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::{ActionStateStore, Marker, Note, Noted};
use crate::checkpoint::Error;

/// Notes in memory. Clones are of one store; [`MemoryJournal::next_generation`] stands for a restart.
#[derive(Clone, Debug, Default)]
pub struct MemoryJournal {
    notes: Arc<Mutex<Vec<(u64, Note)>>>,
    generation: u64,
    closed: Arc<AtomicBool>,
}

impl MemoryJournal {
    /// The store as a later generation opens it.
    pub fn next_generation(&self) -> Self {
        MemoryJournal { notes: Arc::clone(&self.notes), generation: self.generation + 1, closed: Arc::default() }
    }

    fn notes(&self) -> MutexGuard<'_, Vec<(u64, Note)>> {
        self.notes.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl ActionStateStore for MemoryJournal {
    fn put(&self, note: Note, done: Noted) {
        if !self.closed.load(Ordering::SeqCst) {
            self.notes().push((self.generation, note));
            done();
        }
    }

    fn get(&self, component: u32, group: u32, key: &[u8]) -> Result<Vec<Note>, Error> {
        let notes = self.notes();
        let wanted = notes.iter().map(|(_, note)| note);
        let wanted = wanted.filter(|note| note.component == component && note.group == group && note.key == key);
        Ok(wanted.cloned().collect())
    }

    fn marker(&self) -> Result<Marker, Error> {
        let mut counts: Vec<(u64, u64)> = Vec::new();
        for (generation, _) in &*self.notes() {
            match counts.iter_mut().find(|(of, _)| of == generation) {
                Some((_, count)) => *count += 1,
                None => counts.push((*generation, 1)),
            }
        }
        Ok(Marker(postcard::to_allocvec(&counts).expect("numbers can be encoded")))
    }

    fn rebuild(
        &self,
        marker: &Marker,
        component: u32,
        groups: Range<u32>,
        each: &mut dyn FnMut(Note),
    ) -> Result<(), Error> {
        let damaged = |error: postcard::Error| Error::damaged("the marker of a journal", 0, error.to_string());
        let mut counts: Vec<(u64, u64)> = postcard::from_bytes(&marker.0).map_err(damaged)?;
        counts.sort_unstable();
        let notes = self.notes();
        for (generation, count) in counts {
            let of_it = notes.iter().filter(|(of, _)| *of == generation).take(count as usize).map(|(_, note)| note);
            let wanted = of_it.filter(|note| note.component == component && groups.contains(&note.group));
            wanted.cloned().for_each(&mut *each);
        }
        Ok(())
    }

    fn prune(&self, frontier: Option<u64>) {
        // A marker counts notes, so what is pruned keeps its place.
        for (_, note) in &mut *self.notes() {
            if frontier.is_none_or(|frontier| note.epoch < frontier) {
                note.component = u32::MAX;
                note.bytes = Vec::new();
            }
        }
    }

    fn close(&self) {
        self.closed.store(true, Ordering::SeqCst);
    }
}

#[cfg(test)]
mod tests {
    use super::super::conformance;
    use super::*;

    #[test]
    fn keeps_the_contract() {
        let first = MemoryJournal::default();
        let mut last = first.clone();
        conformance::check(&mut |_| {
            let opened = last.clone();
            last = last.next_generation();
            (Arc::new(opened.clone()) as Arc<dyn ActionStateStore>, opened.marker().unwrap())
        });
    }
}
