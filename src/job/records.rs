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
#[derive(Clone, Debug)]
pub struct Records<J>(J);

impl<I, C: IntoIterator<Item = (u64, I)>> From<C> for Records<C::IntoIter> {
    fn from(records: C) -> Self {
        Records(records.into_iter())
    }
}

impl<I: 'static, J: Iterator<Item = (u64, I)> + 'static> Reader for Records<J> {
    type Item = I;

    fn next(&mut self) -> Result<Option<(u64, I)>, Failure> {
        Ok(self.0.next())
    }
}

impl<I: 'static, J: Iterator<Item = (u64, I)> + 'static> IntoReader for Records<J> {
    type Reader = Self;

    fn into_reader(self) -> Result<Self, Failure> {
        Ok(self)
    }
}
