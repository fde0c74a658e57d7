//! Sources of jobs with checkpoints: what they tell, where they go on, and what stops them.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::time::Duration;

use timely::dataflow::ProbeHandle;
use timely::dataflow::operators::{Inspect, Probe};
use timely::worker::Worker;
use timely_agents_operators::checkpoint::Ack;
use timely_agents_operators::clock::Clock;
use timely_agents_operators::cluster::{ClusterConfig, Control, Failure, execute};
use timely_agents_operators::source::{
    Next, Reader, Resume, SourceOptions, SourceState, Sources, source, source_with_acks,
};

/// Rows from memory; a position is the row's number in one byte.
pub(crate) struct Replayed {
    rows: Vec<(u64, u64)>,
    next: usize,
    given: bool,
}

pub(crate) fn replayed(rows: &[(u64, u64)]) -> Replayed {
    Replayed { rows: rows.to_vec(), next: 0, given: false }
}

impl Reader for Replayed {
    type Item = u64;

    fn next(&mut self) -> Result<Option<(u64, u64)>, Failure> {
        let row = self.rows.get(self.next).copied();
        self.given = row.is_some();
        self.next += usize::from(self.given);
        Ok(row)
    }

    fn position(&self) -> Option<Vec<u8>> {
        Some(vec![(self.next - usize::from(self.given)) as u8])
    }

    fn seek(&mut self, position: &[u8]) -> Result<(), Failure> {
        self.next = usize::from(*position.first().ok_or_else(|| Failure::data("no position"))?);
        Ok(())
    }
}

/// What was seen of a source: rows and acks with their epochs, and the frontiers of both after each step.
#[derive(Debug, Default, PartialEq)]
struct Seen {
    rows: Vec<(u64, u64)>,
    acks: Vec<(u64, u64, Option<u8>)>,
}

struct Watched {
    seen: Rc<RefCell<Seen>>,
    rows: ProbeHandle<u64>,
    acks: ProbeHandle<u64>,
}

impl Watched {
    fn build<R: Reader<Item = u64>>(worker: &mut Worker, reader: R, options: SourceOptions, resume: Resume) -> Self {
        let seen = Rc::new(RefCell::new(Seen::default()));
        let (row, ack) = (Rc::clone(&seen), Rc::clone(&seen));
        worker.dataflow::<u64, _, _>(|scope| {
            let (rows, acks) = source_with_acks(scope, Some(reader), options, resume);
            let (rows, _) = rows.inspect_time(move |at, n| row.borrow_mut().rows.push((*at, *n))).probe();
            let (acks, _) = acks
                .inspect_time(move |at, told| {
                    let Ack::Source { source, epoch, position } = told else { panic!("{told:?}") };
                    assert_eq!(source, "rows");
                    ack.borrow_mut().acks.push((*at, *epoch, position.as_ref().map(|position| position[0])));
                })
                .probe();
            Watched { seen, rows, acks }
        })
    }

    fn frontier(&self) -> [Option<u64>; 2] {
        [&self.rows, &self.acks].map(|probe| probe.with_frontier(|frontier| frontier.first().copied()))
    }

    fn done(&self) -> bool {
        self.frontier() == [None; 2]
    }
}

/// Steps until nothing changes any more.
fn settle(worker: &mut Worker) {
    for _ in 0..20 {
        worker.step();
    }
}

fn forget(worker: &mut Worker) {
    // A source that failed or was stopped would keep its dataflow for ever.
    for dataflow in worker.installed_dataflows() {
        worker.drop_dataflow(dataflow);
    }
}

fn alone<R: Send + 'static>(f: impl Fn(&mut Worker) -> R + Send + Sync + 'static) -> R {
    execute(&ClusterConfig::single(1), move |worker, _| Ok(f(worker))).unwrap().pop().unwrap()
}

fn options() -> SourceOptions {
    SourceOptions::new("rows", Control::detached())
}

const ROWS: [(u64, u64); 5] = [(3, 30), (3, 31), (7, 70), (9, 90), (9, 91)];

#[test]
fn the_close_of_an_epoch_tells_where_the_source_would_go_on() {
    alone(|worker| {
        let mut options = options();
        options.batch = 1;
        let watched = Watched::build(worker, replayed(&ROWS), options, Resume::default());
        // Whoever sees an epoch closed has the word of it.
        while !watched.done() {
            worker.step();
            let seen = watched.seen.borrow();
            for (epoch, acks) in [(0, 1), (3, 2), (7, 3)] {
                if !watched.acks.less_equal(&epoch) {
                    assert!(seen.acks.len() >= acks, "{seen:?} at {:?}", watched.frontier());
                }
            }
        }
        let seen = watched.seen.take();
        assert_eq!(seen.rows, ROWS);
        assert_eq!(seen.acks, [(0, 3, Some(0)), (3, 7, Some(2)), (7, 9, Some(3)), (9, 10, None)]);
    });
}

#[test]
fn a_source_goes_on_after_each_of_its_acks_as_if_nothing_had_happened() {
    alone(|worker| {
        let whole = Watched::build(worker, replayed(&ROWS), options(), Resume::default());
        settle(worker);
        let whole = whole.seen.take();
        for (i, (_, epoch, position)) in whole.acks.iter().enumerate() {
            let resume = Resume { epoch: *epoch, position: Some(position.map(|position| vec![position])) };
            let again = Watched::build(worker, replayed(&ROWS), options(), resume);
            settle(worker);
            assert!(again.done());
            let seen = again.seen.take();
            let rest: Vec<_> = whole.rows.iter().copied().filter(|(at, _)| at >= epoch).collect();
            assert_eq!(seen, Seen { rows: rest, acks: whole.acks[i + 1..].to_vec() }, "from {epoch}");
        }
    });
}

#[test]
fn a_resumed_source_holds_the_frontier_of_the_checkpoint() {
    alone(|worker| {
        let sources = Sources::default();
        let mut options = options();
        options.sources = Some(sources.clone());
        sources.stop();
        let watched = Watched::build(worker, replayed(&ROWS), options, Resume { epoch: 5, position: None });
        settle(worker);
        assert_eq!(watched.frontier(), [Some(5); 2]);
        forget(worker);
    });
}

/// The failure of a source that is set up so.
fn failure_of<R: Reader<Item = u64>>(reader: impl Fn() -> R + Send + Sync + 'static, resume: Resume) -> String {
    alone(move |worker| {
        let options = options();
        let control = options.control.clone();
        let epoch = resume.epoch;
        let watched = Watched::build(worker, reader(), options, resume.clone());
        settle(worker);
        // What could not be read is not taken for read.
        assert!(watched.frontier().iter().all(|frontier| frontier.is_some_and(|frontier| frontier >= epoch)));
        forget(worker);
        control.failure().unwrap().message().to_owned()
    })
}

#[test]
fn records_of_epochs_that_are_over_end_the_job() {
    let message = failure_of(|| replayed(&ROWS), Resume { epoch: 5, position: None });
    assert_eq!(
        message,
        "rows: a record of epoch 3 comes after the checkpoint, which covers all epochs before 5: records that are new \
         need later epochs"
    );
}

#[test]
fn a_reader_without_positions_is_refused() {
    let message = failure_of(|| super::source::Rows::new(ROWS), Resume::default());
    assert!(message.starts_with("source rows: a job with checkpoints cannot use it: "), "{message}");
    let resume = Resume { epoch: 3, position: Some(Some(vec![0])) };
    let message = failure_of(|| super::source::Rows::new(ROWS), resume);
    assert!(message.starts_with("source rows: it cannot go on after a checkpoint: "), "{message}");
}

#[test]
fn a_position_that_is_none_ends_the_job() {
    let resume = Resume { epoch: 3, position: Some(Some(vec![])) };
    assert_eq!(failure_of(|| replayed(&ROWS), resume), "source rows: no position");
}

/// Gives what a test says.
struct Said(Rc<RefCell<Vec<Next<u64>>>>);

impl Reader for Said {
    type Item = u64;

    fn next(&mut self) -> Result<Option<(u64, u64)>, Failure> {
        Ok(None)
    }
    fn poll(&mut self) -> Result<Next<u64>, Failure> {
        Ok(if self.0.borrow().is_empty() { Next::Idle(None) } else { self.0.borrow_mut().remove(0) })
    }
    fn position(&self) -> Option<Vec<u8>> {
        Some(vec![0])
    }
}

#[test]
fn an_idle_source_keeps_its_epoch_and_epochs_close_without_records() {
    alone(|worker| {
        let said: Rc<RefCell<Vec<Next<u64>>>> = Rc::default();
        let sources = Sources::default();
        let mut options = options();
        options.sources = Some(sources.clone());
        let watched = Watched::build(worker, Said(Rc::clone(&said)), options, Resume::default());
        for (next, frontier) in [
            (Next::Record(2, 20), Some(2)),
            (Next::Epoch(5), Some(5)),
            (Next::Epoch(5), Some(5)),
            (Next::Record(5, 50), Some(5)),
            (Next::End, None),
        ] {
            said.borrow_mut().push(next);
            sources.wake();
            settle(worker);
            assert_eq!(watched.frontier(), [frontier; 2]);
        }
        let seen = watched.seen.take();
        assert_eq!(seen.rows, [(2, 20), (5, 50)]);
        assert_eq!(seen.acks, [(0, 2, Some(0)), (2, 5, Some(0)), (5, 6, None)]);
    });
}

#[test]
fn an_idle_source_that_asks_again_is_asked_again() {
    alone(|worker| {
        let again = Some(Duration::from_millis(1));
        let said = Rc::new(RefCell::new(vec![Next::Idle(again), Next::Idle(again), Next::Record(1, 10), Next::End]));
        let watched = Watched::build(worker, Said(said), options(), Resume::default());
        worker.step_or_park_while(None, || !watched.done());
        assert_eq!(watched.seen.take().rows, [(1, 10)]);
    });
}

#[test]
fn a_stopped_source_reads_no_more_and_keeps_its_epoch_open() {
    alone(|worker| {
        let sources = Sources::default();
        let mut options = options();
        options.batch = 1;
        options.sources = Some(sources.clone());
        let watched = Watched::build(worker, replayed(&ROWS), options, Resume::default());
        let state = |epoch, stopped| SourceState { name: "rows".to_owned(), epoch, stopped };
        assert_eq!(sources.states(), [state(Some(0), false)]);
        while watched.seen.borrow().rows.len() < 3 {
            worker.step();
        }
        sources.stop();
        settle(worker);
        assert_eq!(sources.states(), [state(Some(7), true)]);
        assert_eq!(watched.frontier(), [Some(7); 2]);
        assert_eq!(watched.seen.take().rows, ROWS[..3]);
        forget(worker);
    });
}

#[test]
fn no_more_epochs_are_begun_than_may_wait_for_their_commit() {
    alone(|worker| {
        let sources = Sources::default();
        let mut options = options();
        options.open_epochs = Some(2);
        options.sources = Some(sources.clone());
        let watched = Watched::build(worker, replayed(&ROWS), options, Resume::default());
        let rows = || watched.seen.borrow().rows.len();
        settle(worker);
        // Both epochs are closed, so they can be committed; the third has no record out.
        assert_eq!((rows(), watched.frontier()), (3, [Some(9); 2]));
        sources.committed(Some(3));
        settle(worker);
        assert_eq!(rows(), 3);
        sources.committed(Some(4));
        settle(worker);
        assert_eq!(rows(), 5);
        assert!(watched.done());
    });
}

#[test]
fn an_epoch_that_began_without_a_record_is_asked_for_too() {
    alone(|worker| {
        let sources = Sources::default();
        let mut options = options();
        options.open_epochs = Some(1);
        options.sources = Some(sources.clone());
        let said = vec![Next::Record(1, 10), Next::Epoch(2), Next::Record(2, 20), Next::End];
        let watched = Watched::build(worker, Said(Rc::new(RefCell::new(said))), options, Resume::default());
        settle(worker);
        assert_eq!((watched.seen.borrow().rows.len(), watched.frontier()), (1, [Some(2); 2]));
        sources.committed(Some(2));
        settle(worker);
        assert_eq!(watched.seen.borrow().rows.len(), 2);
        assert!(watched.done());
    });
}

#[test]
fn a_source_with_a_rate_sends_no_faster() {
    alone(|worker| {
        let now = Rc::new(Cell::new(0));
        let sources = Sources::default();
        let mut options = options();
        options.rate = Some(2.0);
        options.clock = Clock::Manual(Rc::clone(&now));
        options.sources = Some(sources.clone());
        let watched = Watched::build(worker, replayed(&ROWS), options, Resume::default());
        for (at, rows) in [(0, 1), (499_999, 1), (500_000, 2), (600_000, 2), (9_000_000, 3), (9_500_000, 4)] {
            now.set(at);
            sources.wake();
            settle(worker);
            assert_eq!(watched.seen.borrow().rows.len(), rows, "at {at}");
        }
        forget(worker);
    });
}

#[test]
fn a_source_that_waits_for_its_rate_is_woken_by_a_timer() {
    alone(|worker| {
        let mut options = options();
        options.rate = Some(200.0);
        let watched = Watched::build(worker, replayed(&ROWS), options, Resume::default());
        worker.step_or_park_while(None, || !watched.done());
        assert_eq!(watched.seen.take().rows, ROWS);
    });
}

#[test]
fn a_rate_that_is_none_ends_the_job() {
    let failure = alone(|worker| {
        let mut options = options();
        options.rate = Some(0.0);
        let control = options.control.clone();
        worker.dataflow::<u64, _, _>(|scope| {
            source(scope, Some(replayed(&ROWS)), options);
        });
        forget(worker);
        control.failure().unwrap()
    });
    assert_eq!(failure, Failure::usage("source rows: a rate of 0 records per second is not above zero"));
}

#[test]
fn listeners_hear_of_every_commit_once_and_in_order() {
    let sources = Sources::default();
    let heard = std::sync::Arc::new(std::sync::Mutex::new(Vec::new()));
    let note = std::sync::Arc::clone(&heard);
    sources.on_committed(move |frontier| note.lock().unwrap().push(frontier));
    for frontier in [Some(0), Some(3), Some(3), Some(2), Some(5), None, Some(9), None] {
        sources.committed(frontier);
    }
    assert_eq!(*heard.lock().unwrap(), [Some(3), Some(5), None]);
}
