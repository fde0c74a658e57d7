//! Places for runs in flight, named by tokens that are never reused.
//!
//! A completion may come long after its run has ended; its token then names nothing.

/// Names a run in flight on its worker: the place in the low half, its generation in the high one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RunToken(u64);

impl RunToken {
    #[inline]
    fn new(index: u32, generation: u32) -> Self {
        RunToken(u64::from(generation) << 32 | u64::from(index))
    }

    #[inline]
    fn index(self) -> u32 {
        self.0 as u32
    }

    #[inline]
    fn generation(self) -> u32 {
        (self.0 >> 32) as u32
    }
}

#[derive(Debug)]
struct Place<V> {
    generation: u32,
    value: Option<V>,
}

/// Values by token.
#[derive(Debug)]
pub struct Slab<V> {
    places: Vec<Place<V>>,
    free: Vec<u32>,
}

impl<V> Default for Slab<V> {
    fn default() -> Self {
        Slab { places: Vec::new(), free: Vec::new() }
    }
}

impl<V> Slab<V> {
    /// The token that the next [`Slab::insert`] will use.
    #[inline]
    pub fn vacant(&self) -> RunToken {
        match self.free.last() {
            Some(&index) => RunToken::new(index, self.places[index as usize].generation),
            None => RunToken::new(self.places.len() as u32, 0),
        }
    }

    /// Places a value.
    ///
    /// # Panics
    /// Beyond `u32::MAX` values at once.
    pub fn insert(&mut self, value: V) -> RunToken {
        let token = self.vacant();
        match self.free.pop() {
            Some(index) => self.places[index as usize].value = Some(value),
            None => {
                assert!(self.places.len() < u32::MAX as usize, "fewer than 2^32 runs in flight");
                self.places.push(Place { generation: 0, value: Some(value) });
            }
        }
        token
    }

    /// The value of a token, unless it was removed.
    #[inline]
    pub fn get(&self, token: RunToken) -> Option<&V> {
        let place = self.places.get(token.index() as usize)?;
        if place.generation == token.generation() { place.value.as_ref() } else { None }
    }

    /// The value of a token, to be changed, unless it was removed.
    #[inline]
    pub fn get_mut(&mut self, token: RunToken) -> Option<&mut V> {
        let place = self.places.get_mut(token.index() as usize)?;
        if place.generation == token.generation() { place.value.as_mut() } else { None }
    }

    /// Removes a value; its token names nothing from then on.
    pub fn remove(&mut self, token: RunToken) -> Option<V> {
        let place = self.places.get_mut(token.index() as usize)?;
        if place.generation != token.generation() {
            return None;
        }
        let value = place.value.take()?;
        // A place whose generations are used up is left empty for ever.
        if let Some(generation) = place.generation.checked_add(1) {
            place.generation = generation;
            self.free.push(token.index());
        }
        Some(value)
    }

    /// The number of values.
    pub fn len(&self) -> usize {
        self.places.len() - self.free.len()
    }

    /// Whether there is no value.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The values with their tokens, in order of place.
    pub fn iter(&self) -> impl Iterator<Item = (RunToken, &V)> {
        self.places.iter().enumerate().filter_map(|(index, place)| {
            let token = RunToken::new(index as u32, place.generation);
            place.value.as_ref().map(|value| (token, value))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_outlives_its_value_and_names_nothing() {
        let mut slab = Slab::default();
        let first = slab.insert('a');
        assert_eq!(slab.remove(first), Some('a'));
        let second = slab.insert('b');
        assert_ne!(first, second);
        assert!(slab.get_mut(first).is_none());
        assert_eq!(slab.get_mut(second), Some(&mut 'b'));
        assert_eq!(slab.len(), 1);
    }
}
