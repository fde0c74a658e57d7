//! Sources: epochs, frontiers, the count of records, and failures.

use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use timely::dataflow::operators::{Inspect, Probe};
use timely::progress::timestamp::Refines;
use timely::worker::Worker;
use timely_agents_operators::cluster::{ClusterConfig, Control, Failure, execute};
use timely_agents_operators::source::{Reader, SourceOptions, source};
use timely_agents_operators::time::{EpochTime, Stamp};

type Row = Result<(u64, u64), Failure>;

/// Rows from memory.
pub(crate) struct Rows(pub(crate) std::vec::IntoIter<Row>);

impl Rows {
    pub(crate) fn new(rows: impl IntoIterator<Item = (u64, u64)>) -> Self {
        Rows(rows.into_iter().map(Ok).collect::<Vec<_>>().into_iter())
    }
}

impl Reader for Rows {
    type Item = u64;

    fn next(&mut self) -> Result<Option<(u64, u64)>, Failure> {
        self.0.next().transpose()
    }
}

/// What was seen: a record with its epoch, or the frontier's epoch after a step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Seen {
    Row(u64, u64),
    Open(Option<u64>),
}

/// Steps a source over `rows` on a worker, as often as it takes, and notes all that is seen behind it.
fn watch<T: EpochTime + Refines<()>>(worker: &mut Worker, reader: Option<Rows>, options: SourceOptions) -> Vec<Seen> {
    let seen = Rc::new(RefCell::new(Vec::new()));
    let rows = Rc::clone(&seen);
    let probe = worker.dataflow::<T, _, _>(|scope| {
        let (probe, _) = source(scope, reader, options)
            .inspect_time(move |time, row| rows.borrow_mut().push(Seen::Row(time.epoch(), *row)))
            .probe();
        probe
    });
    let mut idle = 0;
    while idle < 20 && !probe.done() {
        let before = seen.borrow().len();
        worker.step();
        let open = Seen::Open(probe.with_frontier(|f| f.iter().map(EpochTime::epoch).min()));
        let mut seen = seen.borrow_mut();
        if seen.iter().rev().find(|s| matches!(s, Seen::Open(_))) != Some(&open) {
            seen.push(open);
        }
        idle = if seen.len() == before { idle + 1 } else { 0 };
    }
    // A source that failed would keep it for ever.
    for dataflow in worker.installed_dataflows() {
        worker.drop_dataflow(dataflow);
    }
    seen.take()
}

fn alone<R: Send + 'static>(f: impl Fn(&mut Worker) -> R + Send + Sync + 'static) -> R {
    let mut results = execute(&ClusterConfig::single(1), move |worker, _| Ok(f(worker))).unwrap();
    results.pop().unwrap()
}

#[test]
fn epochs_close_when_a_later_record_is_read() {
    use Seen::{Open, Row};

    let rows = [(3, 30), (3, 31), (7, 70)];
    let seen = alone(move |worker| {
        let mut options = SourceOptions::new("rows", Control::detached());
        options.batch = 1;
        watch::<u64>(worker, Some(Rows::new(rows)), options)
    });
    let expected = [Row(3, 30), Open(Some(0)), Row(3, 31), Open(Some(3)), Row(7, 70), Open(Some(7)), Open(None)];
    assert_eq!(seen, expected);
}

#[test]
fn times_with_more_than_an_epoch_start_at_their_least() {
    let seen = alone(|worker| {
        let options = SourceOptions::new("rows", Control::detached());
        watch::<Stamp>(worker, Some(Rows::new([(3, 30), (7, 70)])), options)
    });
    assert_eq!(seen, [Seen::Row(3, 30), Seen::Row(7, 70), Seen::Open(Some(0)), Seen::Open(None)]);
}

#[test]
fn records_are_counted_and_all_are_sent() {
    let read = Arc::new(AtomicU64::new(0));
    let counter = Arc::clone(&read);
    let seen = alone(move |worker| {
        let mut options = SourceOptions::new("rows", Control::detached());
        options.read = Some(Arc::clone(&counter));
        let rows = (0..10_000).map(|i| (i / 1000, i));
        watch::<u64>(worker, Some(Rows::new(rows)), options)
    });
    let rows: Vec<_> = seen
        .into_iter()
        .filter_map(|s| match s {
            Seen::Row(epoch, row) => Some((epoch, row)),
            Seen::Open(_) => None,
        })
        .collect();
    assert_eq!(rows, (0..10_000).map(|i| (i / 1000, i)).collect::<Vec<_>>());
    assert_eq!(read.load(Ordering::Relaxed), 10_000);
}

#[test]
fn workers_without_a_reader_hold_nothing() {
    let seen = execute(&ClusterConfig::single(3), |worker, control| {
        let reader = (worker.index() == 1).then(|| Rows::new([(0, 1), (5, 2)]));
        let probe = worker.dataflow::<u64, _, _>(|scope| {
            let (probe, _) = source(scope, reader, SourceOptions::new("rows", control.clone())).probe();
            probe
        });
        worker.step_or_park_while(None, || !probe.done());
        Ok(probe.done())
    });
    assert_eq!(seen, Ok(vec![true; 3]));
}

#[test]
fn an_epoch_that_goes_back_ends_the_job() {
    let (failure, seen) = alone(|worker| {
        let control = Control::detached();
        let options = SourceOptions::new("flights", control.clone());
        let seen = watch::<u64>(worker, Some(Rows::new([(3, 30), (7, 70), (6, 60), (8, 80)])), options);
        (control.failure(), seen)
    });
    let failure = failure.unwrap();
    assert_eq!(failure.message(), "flights: epoch 6 comes after epoch 7: epochs must not go back");
    // Nobody is told that epoch 7 is over.
    assert_eq!(seen.last(), Some(&Seen::Open(Some(7))));
}

#[test]
fn a_reader_that_fails_ends_the_job_and_keeps_its_epoch_open() {
    let (failure, seen) = alone(|worker| {
        let control = Control::detached();
        let options = SourceOptions::new("flights", control.clone());
        let rows = vec![Ok((3, 30)), Err(Failure::data("line 2: no date")), Ok((4, 40))];
        let seen = watch::<u64>(worker, Some(Rows(rows.into_iter())), options);
        (control.failure(), seen)
    });
    assert_eq!(failure, Some(Failure::data("line 2: no date")));
    assert_eq!(seen, [Seen::Row(3, 30), Seen::Open(Some(0)), Seen::Open(Some(3))]);
}

#[test]
fn a_job_ends_with_the_failure_of_its_source() {
    let result = execute(&ClusterConfig::single(2), |worker, control| {
        let rows = vec![Ok((3, 30)), Err(Failure::data("line 2: no date"))];
        let reader = (worker.index() == 0).then(|| Rows(rows.into_iter()));
        worker.dataflow::<u64, _, _>(|scope| {
            source(scope, reader, SourceOptions::new("flights", control.clone()));
        });
        Ok(())
    });
    assert_eq!(result, Err(Failure::data("line 2: no date")));
}
