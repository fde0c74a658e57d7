//! S5: the frontier tells the truth, for times in a line, in an order of two coordinates, and in loops.

use std::cell::RefCell;
use std::rc::Rc;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use timely::dataflow::operators::capture::Extract;
use timely::dataflow::operators::vec::{Branch, Input as _, ToStream, UnorderedInput as _};
use timely::dataflow::operators::{Capture, Concat, ConnectLoop, Enter, Inspect, Leave, LoopVariable, Probe};
use timely::order::{PartialOrder, TotalOrder};
use timely::progress::Timestamp;
use timely::progress::timestamp::{PathSummary, Refines};
use timely_agents::testing::Harness;
use timely_agents::{Agent, AgentStream};
use timely_agents_operators::time::{EpochTime, Stamp, TimeOrder};

use crate::support::{Pair, call, finish, start, values};

/// Asks `call {value}` about each input, then outputs its value.
fn asking() -> Agent<Pair, i64> {
    let mut agent = Agent::new("asking");
    agent.on_input_async("ask", async |(_, value), ctx| {
        ctx.durable(format!("{value}"), (), async |()| ()).await?;
        ctx.output(*value);
        Ok(())
    });
    agent
}

#[test]
fn waiting_input_holds_the_frontier() {
    let mut test = start(asking());
    test.push(0, (1, 1));
    test.push(0, (1, 2));
    test.advance(9);
    assert_eq!(test.frontier(), [0], "also before its first step");
    test.run();
    for value in ["1", "2"] {
        assert_eq!(test.frontier(), [0], "the input that waits for {value} holds it");
        let id = call(&test, value);
        test.complete_with(id, &());
        test.run();
    }
    assert_eq!(test.frontier(), [9]);
}

#[test]
fn frontier_waits_for_each_time_by_itself() {
    let mut test = start(asking());
    for (epoch, pair) in [(0, (1, 1)), (2, (2, 2)), (5, (3, 3))] {
        test.push(epoch, pair);
    }
    test.advance(7);
    test.run();
    for (value, least) in [("3", 0), ("1", 2), ("2", 7)] {
        let id = call(&test, value);
        test.complete_with(id, &());
        test.run();
        assert_eq!(test.frontier(), [least], "after {value}");
    }
}

#[test]
fn frontier_passes_a_time_when_its_last_input_is_done() {
    let mut test = start(asking());
    for value in 1..4 {
        test.push(0, (value as u64, value));
    }
    test.push(4, (9, 9)); // It came early, and holds back nothing earlier.
    test.run();
    assert_eq!(test.frontier(), [0]);
    for value in ["2", "3", "1"] {
        let id = call(&test, value);
        test.complete_with(id, &());
        test.run();
    }
    assert_eq!(test.frontier(), [0], "more may come");
    test.advance(3);
    assert_eq!(test.frontier(), [3]);
    test.advance(6);
    assert_eq!(test.frontier(), [4]);
}

#[test]
fn finished_input_releases_its_own_time() {
    let mut test = start(asking());
    test.push(0, (1, 1));
    test.push(1, (1, 2));
    test.push(1, (2, 3));
    test.advance(2);
    test.run();
    assert_eq!(test.load().open_times, 2);
    let later = call(&test, "3");
    test.complete_with(later, &());
    test.run();
    assert_eq!((test.frontier(), test.load().open_times), (vec![0], 2));
    for value in ["1", "2"] {
        let id = call(&test, value);
        test.complete_with(id, &());
        test.run();
    }
    assert_eq!((test.frontier(), test.load().open_times), (vec![2], 0));
}

#[test]
fn output_leaves_at_the_time_of_its_input() {
    let mut test = start(asking());
    test.push(0, (1, 1));
    test.push(3, (2, 2));
    test.advance(8);
    test.run();
    for value in ["2", "1"] {
        let id = call(&test, value);
        test.complete_with(id, &());
        test.run();
    }
    assert_eq!(test.outputs(), [(3, 2, 2), (0, 1, 1)]);
}

#[test]
fn outputs_precede_the_close_of_their_time() {
    // Real capabilities: sleeps of real time, and a downstream that checks each frontier change.
    let mut seen = timely::execute_directly(move |worker| {
        let told = Rc::new(RefCell::new(Vec::new()));
        let mut agent = Agent::<Pair, i64>::new("a");
        agent.on_input_async("sleep", async |(key, value), ctx| {
            // Earlier epochs sleep longer.
            ctx.sleep(Duration::from_millis(4 - key)).await;
            ctx.output(*value);
            Ok(())
        });
        let plan = agent.build().unwrap();
        let (mut input, probe) = worker.dataflow::<u64, _, _>(|scope| {
            let (input, stream) = scope.new_input::<Pair>();
            let output = stream.agent(|pair| &pair.0, &plan);
            let told = Rc::clone(&told);
            let (probe, _) = output.inspect_time(move |t, v| told.borrow_mut().push((*t, *v))).probe();
            (input, probe)
        });
        for epoch in 0..4u64 {
            input.advance_to(epoch);
            input.send((epoch, epoch as i64 * 10));
        }
        input.close();
        let mut passed = 0;
        while !probe.done() {
            worker.step_or_park(None);
            while passed < 4 && !probe.less_equal(&passed) {
                passed += 1;
                let seen = told.borrow();
                let of_passed = seen.iter().filter(|(t, _)| *t < passed).count() as u64;
                assert_eq!(of_passed, passed, "times before {passed} are complete: {seen:?}");
            }
        }
        assert_eq!(passed, 4);
        told.take()
    });
    seen.sort_unstable();
    assert_eq!(seen, [(0, 0), (1, 10), (2, 20), (3, 30)]);
}

#[test]
fn frontier_of_stamps_is_an_antichain_of_epochs_and_event_times() {
    let plan = asking().build().unwrap();
    let mut test = Harness::<u64, Pair, i64, Stamp>::over_time(&plan, |pair| pair.0).unwrap();
    for (key, epoch, event) in [(1, 0, 7), (2, 0, 5), (3, 1, 4), (4, 1, 9)] {
        test.push_at(Stamp::new(epoch, event), (key, key as i64));
    }
    test.advance(3);
    test.run();
    let at = |pairs: &[(u64, u64)]| -> Vec<Stamp> { pairs.iter().map(|(e, v)| Stamp::new(*e, *v)).collect() };
    assert_eq!(test.frontier(), at(&[(0, 5), (1, 4), (3, 0)]));
    for (value, left) in
        [("2", &[(0, 7), (1, 4), (3, 0)][..]), ("3", &[(0, 7), (3, 0)]), ("1", &[(1, 9), (3, 0)]), ("4", &[(3, 0)])]
    {
        let id = test.calls().into_iter().find(|call| call.name == value).unwrap().id;
        test.complete_with(id, &());
        test.run();
        assert_eq!(test.frontier(), at(left), "after {value}");
    }
    let outputs: Vec<(Stamp, i64)> = test.outputs().into_iter().map(|(t, _, v)| (t, v)).collect();
    assert_eq!(outputs[0], (Stamp::new(0, 5), 2));
    assert_eq!(outputs[3], (Stamp::new(1, 9), 4));
}

#[test]
fn agent_runs_over_stamps_in_a_dataflow() {
    let captured = timely::execute_directly(move |worker| {
        let mut agent = Agent::<Pair, (u64, u64, i64)>::new("a");
        agent.on_input_async("tell", async |(_, value), ctx| {
            ctx.notify_at(0)?;
            ctx.call("pause", || async {}).await?;
            ctx.output((ctx.epoch(), ctx.time(), *value));
            Ok(())
        });
        agent.on_notify("end", |end, ctx| {
            ctx.output((end.epoch, ctx.time(), -1));
            Ok(())
        });
        let plan = agent.build().unwrap();
        let ((mut input, capability), captured) = worker.dataflow::<Stamp, _, _>(|scope| {
            let (input, stream) = scope.new_unordered_input::<Pair>();
            (input, stream.agent(|pair| &pair.0, &plan).capture())
        });
        for (epoch, event) in [(0, 5), (0, 3), (2, 5)] {
            let at = capability.delayed(&Stamp::new(epoch, event));
            // A key of its own each: nothing orders arrivals at times of one epoch.
            input.activate().session(&at).give((epoch * 10 + event, event as i64));
        }
        captured
    });
    let mut outputs: Vec<(Stamp, (u64, u64, i64))> = captured
        .extract()
        .into_iter()
        .flat_map(|(time, batch)| batch.into_iter().map(move |item| (time, item)))
        .collect();
    outputs.sort();
    let expected = [
        (Stamp::new(0, 3), (0, 3, -1)),
        (Stamp::new(0, 3), (0, 3, 3)),
        (Stamp::new(0, 5), (0, 5, -1)),
        (Stamp::new(0, 5), (0, 5, 5)),
        (Stamp::new(2, 5), (2, 5, -1)),
        (Stamp::new(2, 5), (2, 5, 5)),
    ];
    assert_eq!(outputs, expected, "a notification puts out at its asker's event time");
}

/// A timestamp of the user's own: whole decades, whose epochs are years.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
struct Decade(u16);

impl PartialOrder for Decade {
    fn less_equal(&self, other: &Self) -> bool {
        self.0 <= other.0
    }
}

impl PathSummary<Decade> for Decade {
    fn results_in(&self, time: &Decade) -> Option<Decade> {
        time.0.checked_add(self.0).map(Decade)
    }

    fn followed_by(&self, other: &Self) -> Option<Self> {
        other.results_in(self)
    }
}

impl TotalOrder for Decade {}

impl Timestamp for Decade {
    type Summary = Decade;

    fn minimum() -> Self {
        Decade(0)
    }
}

impl Refines<()> for Decade {
    fn to_inner((): ()) -> Self {
        Decade(0)
    }

    fn to_outer(self) {}

    fn summarize(_: Self::Summary) {}
}

impl EpochTime for Decade {
    const ORDER: TimeOrder = TimeOrder::Total;

    fn epoch(&self) -> u64 {
        u64::from(self.0) * 10
    }

    fn with_epoch(&self, epoch: u64) -> Self {
        Decade(u16::try_from(epoch.div_ceil(10)).unwrap_or(u16::MAX).max(self.0))
    }
}

#[test]
fn agent_runs_over_a_time_of_the_users_own() {
    let captured = timely::execute_directly(move |worker| {
        let mut agent = Agent::<Pair, (u64, i64)>::new("a");
        agent.on_input("tell", |(_, value), ctx| {
            ctx.output((ctx.epoch(), *value));
            Ok(ctx.notify_at(25)?)
        });
        agent.on_notify("end", |end, ctx| {
            ctx.output((end.epoch, -1));
            Ok(())
        });
        let plan = agent.build().unwrap();
        let (mut input, captured) = worker.dataflow::<Decade, _, _>(|scope| {
            let (input, stream) = scope.new_input::<Pair>();
            (input, stream.agent(|pair| &pair.0, &plan).capture())
        });
        input.send((1, 5));
        input.advance_to(Decade(2));
        input.send((1, 6));
        input.advance_to(Decade(4));
        captured
    });
    let outputs = captured.extract();
    let expected = [(Decade(0), vec![(0, 5)]), (Decade(2), vec![(20, 6)]), (Decade(3), vec![(30, -1)])];
    assert_eq!(outputs, expected);
}

#[test]
fn agent_runs_over_u32() {
    let plan = asking().build().unwrap();
    let mut test = Harness::<u64, Pair, i64, u32>::over_time(&plan, |pair| pair.0).unwrap();
    test.push(7, (1, 1));
    test.advance(8);
    test.run();
    assert_eq!(test.frontier(), [7u32]);
}

#[test]
fn agent_in_a_loop_holds_the_rounds_of_its_runs() {
    let captured = timely::execute_directly(move |worker| {
        let mut agent = Agent::<Pair, Pair>::new("halve");
        let rounds = agent.memory::<i64>("rounds");
        agent.on_input_async("halve", async move |(key, value), ctx| {
            let half = ctx
                .call_blocking("halve", {
                    let value = *value;
                    move || value / 2
                })
                .await?;
            ctx.update(rounds, |rounds| *rounds += 1);
            ctx.output(if half > 0 { (*key, half) } else { (*key, -ctx.get(rounds).unwrap_or(0)) });
            Ok(())
        });
        let plan = agent.build().unwrap();
        worker.dataflow::<u64, _, _>(|scope| {
            let start = vec![(1u64, 8i64), (2, 1), (3, 100)].to_stream(scope);
            let done = scope.iterative::<u32, _, _>(|inner| {
                let (handle, again) = inner.loop_variable(1);
                let halved = start.enter(inner).concat(again).agent(|pair| &pair.0, &plan);
                let (again, done) = halved.branch(|_, (_, value)| *value <= 0);
                again.connect_loop(handle);
                done.leave(scope)
            });
            done.capture()
        })
    });
    let mut outputs: Vec<Pair> = captured.extract().into_iter().flat_map(|(_, batch)| batch).collect();
    outputs.sort_unstable();
    assert_eq!(outputs, [(1, -4), (2, -1), (3, -7)], "and the dataflow has ended");
}

#[test]
fn notification_holds_its_epoch_until_it_has_run() {
    let mut agent = Agent::<Pair, i64>::new("a");
    agent.on_input("ask", |(_, value), ctx| Ok(ctx.notify_at(*value as u64)?));
    agent.on_notify_async("slow", async |_, ctx| {
        ctx.sleep(Duration::from_secs(1)).await;
        ctx.output(1);
        Ok(())
    });
    let mut test = start(agent);
    test.push(0, (1, 4));
    test.advance(9);
    test.run();
    assert_eq!(test.frontier(), [4]);
    test.pass(Duration::from_secs(1));
    assert_eq!(test.frontier(), [9]);
    assert_eq!(values(&mut test), [1]);
    finish(&mut test);
}
