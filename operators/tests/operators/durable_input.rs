//! Durable inputs: records from any thread, acknowledged at their commit.

use std::cell::RefCell;
use std::rc::Rc;
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use timely::dataflow::ProbeHandle;
use timely::dataflow::operators::{Inspect, Probe};
use timely::worker::Worker;
use timely_agents_operators::checkpoint::Ack;
use timely_agents_operators::cluster::{ClusterConfig, Control, Failure, execute};
use timely_agents_operators::durable_input::{DurableInput, Refused, Ticket, Unacknowledged};
use timely_agents_operators::source::{Resume, SourceOptions, Sources, source, source_with_acks};

type Seen = Rc<RefCell<Vec<(u64, u64)>>>;

/// A source over `input`; what comes of it, and the frontier of its acks.
fn build(worker: &mut Worker, input: &DurableInput<u64>, sources: &Sources, epoch: u64) -> (Seen, ProbeHandle<u64>) {
    let seen = Seen::default();
    let row = Rc::clone(&seen);
    let mut options = SourceOptions::new("orders", Control::detached());
    options.sources = Some(sources.clone());
    let probe = worker.dataflow::<u64, _, _>(|scope| {
        let resume = Resume { epoch, position: Some(Some(Vec::new())) };
        let (rows, acks) = source_with_acks(scope, Some(input.reader().unwrap()), options, resume);
        rows.inspect_time(move |at, n| row.borrow_mut().push((*at, *n)));
        let (probe, _) = acks.inspect(|ack| assert!(matches!(ack, Ack::Source { .. }))).probe();
        probe
    });
    (seen, probe)
}

fn alone(f: impl Fn(&mut Worker) + Send + Sync + 'static) {
    execute(&ClusterConfig::single(1), move |worker, _| {
        f(worker);
        Ok(())
    })
    .unwrap();
}

fn settle(worker: &mut Worker) {
    for _ in 0..10 {
        worker.step();
    }
}

#[test]
fn records_are_acknowledged_when_their_epoch_is_committed_and_not_before() {
    alone(|worker| {
        let (input, sources) = (DurableInput::new(10), Sources::default());
        let early = input.push(1).unwrap();
        let (seen, probe) = build(worker, &input, &sources, 40);
        settle(worker);
        let second = input.push(2).unwrap();
        input.tick();
        let third = input.push(3).unwrap();
        settle(worker);
        assert_eq!(*seen.borrow(), [(40, 1), (40, 2), (41, 3)]);
        assert_eq!(probe.with_frontier(|frontier| frontier.to_vec()), [41]);
        assert_eq!([&early, &second, &third].map(Ticket::outcome), [None; 3]);
        sources.committed(Some(40));
        assert_eq!(early.outcome(), None);
        sources.committed(Some(41));
        assert_eq!([&early, &second, &third].map(Ticket::outcome), [Some(Ok(40)), Some(Ok(40)), None]);
        input.close();
        settle(worker);
        assert!(probe.done());
        // What was sent before the end is still to be committed.
        assert_eq!(third.outcome(), None);
        sources.committed(None);
        assert_eq!(third.wait(), Ok(41));
        assert_eq!(input.push(4).unwrap_err(), Refused::Closed(4));
    });
}

#[test]
fn epochs_tick_by_their_period_without_records() {
    alone(|worker| {
        let (input, sources) = (DurableInput::<u64>::ticking(10, Duration::from_millis(1)), Sources::default());
        let (_, probe) = build(worker, &input, &sources, 0);
        worker.step_or_park_while(None, || probe.less_than(&3));
        input.close();
        worker.step_or_park_while(None, || !probe.done());
    });
}

#[test]
fn a_record_from_another_thread_wakes_the_worker() {
    let input = DurableInput::new(10);
    let slot = Arc::new(Mutex::new(None));
    let (pushing, told) = (input.clone(), Arc::clone(&slot));
    let (tell, started) = std::sync::mpsc::channel();
    let client = thread::spawn(move || {
        started.recv().unwrap();
        let ticket = pushing.push(7).unwrap();
        *told.lock().unwrap() = Some(ticket.clone());
        pushing.close();
        ticket.wait()
    });
    let tell = Mutex::new(tell);
    alone(move |worker| {
        let sources = Sources::default();
        let (seen, probe) = build(worker, &input, &sources, 0);
        settle(worker);
        tell.lock().unwrap().send(()).unwrap();
        worker.step_or_park_while(None, || !probe.done());
        assert_eq!(*seen.borrow(), [(0, 7)]);
        sources.committed(None);
    });
    assert_eq!(client.join().unwrap(), Ok(0));
}

#[test]
fn a_full_input_refuses_until_records_are_acknowledged() {
    alone(|worker| {
        let (input, sources) = (DurableInput::new(2), Sources::default());
        let _tickets = [input.push(1).unwrap(), input.push(2).unwrap()];
        input.tick();
        assert_eq!(input.push(3).unwrap_err(), Refused::Full(3));
        let (_, probe) = build(worker, &input, &sources, 0);
        settle(worker);
        assert_eq!(input.push(3).unwrap_err(), Refused::Full(3));
        sources.committed(Some(1));
        assert!(input.push(3).is_ok());
        input.close();
        settle(worker);
        assert!(probe.done());
    });
}

#[test]
fn no_ticket_waits_for_ever() {
    // The job fails.
    let input = DurableInput::new(2);
    let (taken, pushed) = (input.push(1).unwrap(), input.clone());
    let result = execute(&ClusterConfig::single(1), move |worker, control| {
        let mut options = SourceOptions::new("orders", control.clone());
        options.sources = Some(Sources::default());
        let (mut rows, reader) = (Vec::new(), pushed.reader()?);
        worker.dataflow::<u64, _, _>(|scope| {
            let control = control.clone();
            source(scope, Some(reader), options).inspect(move |row| {
                rows.push(*row);
                control.fail(Failure::data("it fails"));
            });
        });
        Ok(())
    });
    assert_eq!(result, Err(Failure::data("it fails")));
    assert_eq!(taken.wait(), Err(Unacknowledged));

    // Its source is gone before it took the record.
    let input = DurableInput::new(2);
    let waiting = input.push(1).unwrap();
    drop(input.reader().unwrap());
    assert_eq!(waiting.wait(), Err(Unacknowledged));
}

#[test]
fn it_feeds_one_source_of_a_job_with_checkpoints() {
    let input = DurableInput::<u64>::new(2);
    let result = execute(&ClusterConfig::single(1), move |worker, control| {
        let reader = Some(input.reader()?);
        assert!(input.reader().unwrap_err().message().contains("feeds one source"));
        worker.dataflow::<u64, _, _>(|scope| {
            source(scope, reader, SourceOptions::new("orders", control.clone()));
        });
        Ok(())
    });
    let message =
        "source orders: a durable input needs a job with checkpoints: without commits nothing is acknowledged";
    assert_eq!(result, Err(Failure::usage(message)));
}
