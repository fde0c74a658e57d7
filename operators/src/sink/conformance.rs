//! Tests a transactional sink for its contract.

use std::fmt::Debug;

use super::transactional::TransactionalSink;
use crate::cluster::Failure;

/// Puts a sink to the test, which starts empty. The points of the contract are those of [`TransactionalSink`].
///
/// `open` opens the sink of the name that it is given; every call is for the same database. `row` makes rows, no two of
/// them equal; `read` gives the rows that the sink of that name has.
///
/// # Panics
/// When the sink breaks a point, which the message names.
pub fn check<S: TransactionalSink>(
    mut open: impl FnMut(&str) -> S,
    row: impl Fn(u64) -> S::Row,
    mut read: impl FnMut(&str) -> Vec<S::Row>,
) where
    S::Row: PartialEq + Debug,
{
    let mut sink = open("a");
    assert_eq!(sink.progress(), Ok(None), "1: a sink that has taken nothing has no mark");

    assert_eq!(apply(&mut sink, 3, [Ok(row(30)), Ok(row(31))]), Ok(()), "2: rows are taken");
    assert_eq!(sink.progress(), Ok(Some(4)), "2: the mark is behind the epoch");
    same(read("a"), vec![row(30), row(31)], "2: the rows are in");

    let wrong = || Failure::data("a row that cannot be read");
    assert_eq!(apply(&mut sink, 5, [Ok(row(50)), Err(wrong())]), Err(wrong()), "3: the error of a row comes back");
    assert_eq!(sink.progress(), Ok(Some(4)), "3: after an error the mark has not moved");
    same(read("a"), vec![row(30), row(31)], "3: after an error no row is in");
    assert_eq!(apply(&mut sink, 5, [Ok(row(50)), Ok(row(51))]), Ok(()), "3: after an error the sink can go on");

    for epoch in [5, 3, 0] {
        assert_eq!(apply(&mut sink, epoch, [Ok(row(90))]), Ok(()), "4: an epoch below the mark is no error");
        assert_eq!(sink.progress(), Ok(Some(6)), "4: an epoch below the mark does not move it");
    }
    same(read("a"), vec![row(30), row(31), row(50), row(51)], "4: rows below the mark are not taken");

    let mut other = open("a");
    assert_eq!(other.progress(), Ok(Some(6)), "6: another handle finds the mark");
    assert_eq!(apply(&mut other, 7, [Ok(row(70))]), Ok(()), "4: two handles may be in use");
    assert_eq!(apply(&mut sink, 7, [Ok(row(70))]), Ok(()), "4: the slower of two handles does no harm");
    same(read("a"), vec![row(30), row(31), row(50), row(51), row(70)], "4: rows of two handles are in once");

    assert_eq!(apply(&mut sink, 9, []), Ok(()), "5: an epoch may have no rows");
    assert_eq!(sink.progress(), Ok(Some(10)), "5: an epoch without rows moves the mark");

    let mut second = open("b");
    assert_eq!(second.progress(), Ok(None), "7: a sink of another name has a mark of its own");
    assert_eq!(apply(&mut second, 1, []), Ok(()), "7: sinks of two names may be in use");
    assert_eq!((second.progress(), sink.progress()), (Ok(Some(2)), Ok(Some(10))), "7: marks do not touch each other");

    drop((sink, other, second));
    let mut again = open("a");
    assert_eq!(again.progress(), Ok(Some(10)), "6: the mark outlives its handles");
    same(read("a"), vec![row(30), row(31), row(50), row(51), row(70)], "6: the rows outlive their handles");
    assert_eq!(apply(&mut again, u64::from(u32::MAX), [Ok(row(99))]), Ok(()), "2: epochs may be far apart");
    assert_eq!(again.progress(), Ok(Some(u64::from(u32::MAX) + 1)), "2: the mark is behind the epoch");
}

fn apply<S: TransactionalSink, const N: usize>(
    sink: &mut S,
    epoch: u64,
    rows: [Result<S::Row, Failure>; N],
) -> Result<(), Failure> {
    sink.apply(epoch, &mut rows.into_iter())
}

/// The same rows, each as often; a sink need not keep an order.
fn same<R: PartialEq + Debug>(mut found: Vec<R>, expected: Vec<R>, point: &str) {
    for row in expected {
        match found.iter().position(|other| *other == row) {
            Some(place) => drop(found.swap_remove(place)),
            None => panic!("{point}: {row:?} is not among {found:?}"),
        }
    }
    assert!(found.is_empty(), "{point}: {found:?} should not be there");
}
