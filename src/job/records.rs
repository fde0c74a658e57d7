//! Records that a program makes itself, each with its epoch.

use timely_agents_operators::cluster::Failure;
use timely_agents_operators::source::Reader;

use super::IntoReader;

/// A source of records that an iterator gives, with their epochs in ascending order.
///
/// ```
/// use timely_agents::Records;
///
/// let words = Records::from([(1, "one"), (1, "two"), (2, "three")]);
/// ```
///
/// To go on after a checkpoint it passes over what was given before: the iterator must give the same again.
#[derive(Clone, Debug)]
pub struct Records<J> {
    rest: J,
    /// How many records have been taken from the iterator.
    taken: u64,
    /// Whether one of them is the record that was given last.
    given: bool,
}

impl<I, C: IntoIterator<Item = (u64, I)>> From<C> for Records<C::IntoIter> {
    fn from(records: C) -> Self {
        Records { rest: records.into_iter(), taken: 0, given: false }
    }
}

impl<I: 'static, J: Iterator<Item = (u64, I)> + 'static> Reader for Records<J> {
    type Item = I;

    fn next(&mut self) -> Result<Option<(u64, I)>, Failure> {
        let next = self.rest.next();
        self.given = next.is_some();
        self.taken += u64::from(self.given);
        Ok(next)
    }

    fn position(&self) -> Option<Vec<u8>> {
        let place = self.taken - u64::from(self.given);
        Some(place.to_le_bytes().to_vec())
    }

    fn seek(&mut self, position: &[u8]) -> Result<(), Failure> {
        let place = position.try_into().map(u64::from_le_bytes).map_err(|_| {
            Failure::data(
                "the checkpoint's position is of another kind of source; give a source that is new a new name",
            )
        })?;
        while self.taken < place {
            if self.rest.next().is_none() {
                return Err(Failure::data(format!(
                    "{place} records were given before the checkpoint, but there are {} now",
                    self.taken
                )));
            }
            self.taken += 1;
        }
        Ok(())
    }
}

impl<I: 'static, J: Iterator<Item = (u64, I)> + 'static> IntoReader for Records<J> {
    type Reader = Self;

    fn into_reader(self) -> Result<Self, Failure> {
        Ok(self)
    }
}
