//! Signals (S5, S6, D1): a run waits for an event from outside; the event waits for a run.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use timely::dataflow::operators::capture::Extract;
use timely::dataflow::operators::vec::Input as _;
use timely::dataflow::operators::{Capture, Probe};
use timely_agents::limits::Limits;
use timely_agents::testing::Harness;
use timely_agents::{Agent, AgentStream, Event, Exhausted, Plan, Retry, Signal, WaitError};
use timely_agents_operators::fact::{Fact, What};
use timely_agents_operators::group::KeyGroups;

use crate::support::{Pair, Test, finish, start, values};

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Approval(String);

impl Event for Approval {
    const NAME: &'static str = "approval";
}

fn approval(key: u64, by: &str) -> Signal<u64> {
    Signal::new(key, "approval", &Approval(by.to_owned()))
}

/// Waits for an approval of each input; a call before and one after it.
fn asking() -> Plan<Pair, String> {
    let mut agent = Agent::<Pair, String>::new("asking");
    agent.carry();
    agent.waits_for::<Approval>("approval");
    agent.on_input_async("ask", async |(_, i), ctx| {
        let before = ctx.durable("before", *i, async |i| i * 2).await?;
        ctx.output(format!("asks for {i}"));
        ctx.flush().await;
        match ctx.wait_for::<Approval>("approval").await {
            Ok(Approval(by)) => {
                let after = ctx.durable("after", before, async |i| i + 1).await?;
                ctx.output(format!("{i} by {by}: {after}"));
            }
            Err(error) => ctx.output(format!("{i}: {error}")),
        }
        Ok(())
    });
    agent.build().unwrap()
}

fn open<O: 'static>(plan: &Plan<Pair, O>) -> Test<O> {
    Harness::new(plan, |pair: &Pair| pair.0).unwrap()
}

fn restore<O: 'static>(plan: &Plan<Pair, O>, resume: u64, facts: &[Fact<u64>]) -> Test<O> {
    let facts: Vec<_> = facts.iter().filter(|fact| fact.time < resume).collect();
    Harness::restored(plan, |pair: &Pair| pair.0, resume, facts).unwrap()
}

/// Runs, and answers every call.
fn settle<O: 'static>(test: &mut Test<O>) {
    test.run();
    while let Some(call) = test.calls().first().map(|call| call.id) {
        test.complete(call);
        test.run();
    }
}

#[test]
fn run_waits_for_its_signal_and_other_keys_go_on() {
    let mut test = open(&asking());
    test.push(0, (1, 10));
    test.push(0, (2, 20));
    settle(&mut test);
    assert_eq!(values(&mut test), ["asks for 10", "asks for 20"]);
    test.signal(0, approval(2, "Ada"));
    settle(&mut test);
    assert_eq!(values(&mut test), ["20 by Ada: 41"]);
    test.signal(0, approval(1, "Bob"));
    settle(&mut test);
    assert_eq!(values(&mut test), ["10 by Bob: 21"]);
    finish(&mut test);
}

#[test]
fn signals_that_come_before_their_waits_are_kept_in_order() {
    let mut test = open(&asking());
    for by in ["Ada", "Bob", "Cyd"] {
        test.signal(0, approval(1, by));
    }
    test.run();
    assert_eq!(test.signals(&1, "approval"), 3);
    for i in 1..3 {
        test.push(0, (1, i));
    }
    settle(&mut test);
    let outputs = values(&mut test);
    assert_eq!(outputs, ["asks for 1", "1 by Ada: 3", "asks for 2", "2 by Bob: 5"]);
    assert_eq!(test.signals(&1, "approval"), 1);
}

#[test]
fn signal_of_a_later_epoch_waits_for_it() {
    let mut test = open(&asking());
    test.push(0, (1, 1));
    test.signal(2, approval(1, "Ada"));
    settle(&mut test);
    assert_eq!(values(&mut test), ["asks for 1"]);
    assert_eq!(test.signals(&1, "approval"), 0, "it is ahead");
    test.advance(1);
    settle(&mut test);
    assert_eq!(values(&mut test), [] as [&str; 0]);
    test.advance(5);
    settle(&mut test);
    assert_eq!(test.outputs(), [(5, 1, "1 by Ada: 3".to_owned())]);
}

#[test]
fn wait_ends_after_its_timeout_and_the_signal_stays_for_another() {
    let mut agent = Agent::<Pair, String>::new("impatient");
    agent.carry();
    agent.waits_for::<Approval>("approval").within(Duration::from_mins(1));
    agent.on_input_async("ask", async |(_, i), ctx| {
        let wait = ctx.wait_for::<Approval>("approval");
        let wait = if *i > 100 { wait.timeout(Duration::from_secs(*i as u64)) } else { wait };
        ctx.output(match wait.await {
            Ok(Approval(by)) => format!("{i} by {by}"),
            Err(error @ WaitError::Timeout { .. }) => format!("{i}: {error}"),
            Err(error) => return Err(error.into()),
        });
        Ok(())
    });
    let mut test = start(agent);
    test.push(0, (1, 1));
    test.push(0, (1, 2));
    test.push(0, (2, 300));
    test.pass(Duration::from_mins(1));
    assert_eq!(values(&mut test), ["1: signal \"approval\": none within 60s"]);
    test.signal(0, approval(1, "Ada"));
    test.run();
    assert_eq!(values(&mut test), ["2 by Ada"]);
    test.pass(Duration::from_secs(239));
    assert_eq!(values(&mut test), [] as [&str; 0]);
    test.pass(Duration::from_secs(1));
    assert_eq!(values(&mut test), ["300: signal \"approval\": none within 300s"]);
    finish(&mut test);
    assert_eq!(test.late(), 0);
}

#[test]
fn waits_end_with_the_signal_input_and_kept_signals_are_still_taken() {
    let mut test = open(&asking());
    test.signal(0, approval(2, "Ada"));
    test.push(0, (1, 1));
    settle(&mut test);
    test.end_signals();
    test.push(0, (2, 2));
    test.push(0, (2, 3));
    settle(&mut test);
    let ended = "signal \"approval\": the signal input has ended";
    let mut outputs = values(&mut test);
    outputs.retain(|output| !output.starts_with("asks"));
    assert_eq!(outputs, [format!("1: {ended}"), "2 by Ada: 5".to_owned(), format!("3: {ended}")]);
    finish(&mut test);
}

#[test]
fn end_of_all_inputs_ends_waits_that_are_under_way() {
    let mut test = open(&asking());
    test.push(0, (1, 1));
    test.push(0, (1, 2));
    test.end();
    settle(&mut test);
    assert_eq!(values(&mut test).len(), 4);
    assert!(test.is_closed());
}

#[test]
fn every_signal_is_taken_once_whenever_the_job_crashes() {
    // The job is lost at the end of one epoch, or of all from there on.
    let plan = asking();
    let inputs = [(0, (1, 1)), (0, (1, 2)), (1, (2, 3)), (3, (1, 4))];
    let signals = [
        (0, approval(1, "a")),
        (1, approval(2, "b")),
        (2, approval(1, "c")),
        (2, approval(1, "d")),
        (3, approval(3, "e")),
    ];
    let mut right = vec!["1 by a: 3", "2 by c: 5", "3 by b: 7", "4 by d: 9"];
    right.extend(["asks for 1", "asks for 2", "asks for 3", "asks for 4"]);
    for crash in 0..6 {
        for (tasks, again) in [(0, false), (1, false), (1, true), (3, false), (3, true), (50, false)] {
            let (mut test, mut facts, mut published) = (open(&plan), Vec::new(), Vec::new());
            let mut staged = Vec::new();
            let mut epoch = 0;
            while epoch < 6 {
                inputs.iter().filter(|(at, _)| *at == epoch).for_each(|(at, pair)| test.push(*at, *pair));
                for (_, signal) in signals.iter().filter(|(at, _)| *at == epoch) {
                    test.signal(epoch, signal.clone());
                }
                for _ in 0..tasks {
                    test.step();
                    if let Some(call) = test.calls().first() {
                        test.complete(call.id);
                    }
                }
                test.advance(epoch + 1);
                test.step();
                facts.extend(test.facts());
                staged.extend(test.outputs());
                let (over, open): (Vec<_>, Vec<_>) = staged.into_iter().partition(|(at, ..)| *at <= epoch);
                published.extend(over);
                staged = open;
                if epoch == crash || again && epoch > crash {
                    staged.clear();
                    test = restore(&plan, epoch + 1, &facts);
                }
                epoch += 1;
            }
            test.end();
            settle(&mut test);
            assert!(test.is_closed(), "crash {crash}, {tasks} tasks: {:?}", test.load());
            published.extend(staged.into_iter().chain(test.outputs()));
            let mut values: Vec<_> = published.iter().map(|(_, _, value)| value.as_str()).collect();
            values.sort_unstable();
            assert_eq!(values, right, "crash {crash}, {tasks} tasks");
            assert_eq!(test.signals(&3, "approval"), 1);
        }
    }
}

#[test]
fn kept_signals_are_facts_until_they_are_taken() {
    let mut test = open(&asking());
    test.signal(0, approval(1, "Ada"));
    test.signal(0, approval(1, "Bob"));
    test.advance(1);
    test.step();
    let kept = |facts: &[Fact<u64>]| -> Vec<(u64, bool)> {
        let signals = facts.iter().filter(|fact| matches!(fact.what, What::Signal(_)));
        signals.map(|fact| (fact.time, fact.value.is_some())).collect()
    };
    let facts = test.facts();
    assert_eq!(kept(&facts), [(0, true), (0, true)]);
    let mut test = restore(&asking(), 1, &facts);
    test.push(1, (1, 5));
    settle(&mut test);
    assert_eq!(values(&mut test), ["asks for 5", "5 by Ada: 11"]);
    test.advance(2);
    test.step();
    assert_eq!(kept(&test.facts()), [(1, false)]);
    test.signal(2, approval(3, "Cyd"));
    test.push(2, (3, 1));
    settle(&mut test);
    test.advance(3);
    test.step();
    assert_eq!(kept(&test.facts()), [], "what is taken in its epoch leaves nothing");
}

#[test]
fn waits_and_kept_signals_move_to_the_owners_of_their_keys() {
    let plan = asking();
    let mut test = open(&plan);
    for key in 0..20 {
        if key % 2 == 0 {
            test.push(0, (key, key as i64));
        } else {
            test.signal(0, approval(key, "before"));
        }
    }
    settle(&mut test);
    test.advance(1);
    test.step();
    let facts = test.facts();
    let groups = KeyGroups::default();
    let mut outputs = Vec::new();
    for worker in 0..3 {
        let test = Harness::<u64, Pair, String>::of_worker(&plan, |pair: &Pair| pair.0, worker, 3).unwrap();
        let own = groups.of_worker(worker, 3);
        let mut test = test
            .restored_by(1, |take| {
                for Fact { group, key, what, value, .. } in facts.iter().filter(|fact| own.contains(&fact.group)) {
                    let value = value.as_deref();
                    take(&timely_agents_operators::fact::FactRef { group: *group, key, what: what.clone(), value })?;
                }
                Ok(())
            })
            .unwrap();
        for key in (0..20).filter(|key| groups.owner_of(key, 3) == worker) {
            if key % 2 == 0 {
                test.signal(1, approval(key, "after"));
            } else {
                test.push(1, (key, key as i64));
            }
        }
        settle(&mut test);
        outputs.extend(values(&mut test).into_iter().filter(|output| output.contains("by")));
        finish(&mut test);
    }
    outputs.sort_unstable();
    let mut right: Vec<String> = (0..20)
        .map(|key| format!("{key} by {}: {}", if key % 2 == 0 { "after" } else { "before" }, key * 2 + 1))
        .collect();
    right.sort_unstable();
    assert_eq!(outputs, right);
}

#[test]
fn wait_that_is_given_up_gives_its_signal_back() {
    let mut agent = Agent::<Pair, String>::new("choosing");
    agent.carry();
    agent.waits_for::<Approval>("approval");
    agent.waits_for::<Approval>("veto");
    agent.on_input_async("choose", async |(_, i), ctx| {
        let first = futures::future::select(ctx.wait_for::<Approval>("veto"), ctx.wait_for::<Approval>("approval"));
        ctx.output(match first.await {
            futures::future::Either::Left((veto, _)) => format!("{i}: no, says {}", veto?.0),
            futures::future::Either::Right((approval, _)) => format!("{i}: yes, says {}", approval?.0),
        });
        ctx.flush().await;
        ctx.durable("call", *i, async |i| i).await?;
        Ok(())
    });
    let plan = agent.build().unwrap();
    let mut test = open(&plan);
    test.push(0, (1, 1));
    test.run();
    // Both come at once: the wait that is looked at first is over, and the other has not been looked at.
    test.signal(0, approval(1, "Ada"));
    test.signal(0, Signal::new(1, "veto", &Approval("Bob".into())));
    test.run();
    assert_eq!(values(&mut test), ["1: no, says Bob"]);
    assert_eq!(test.signals(&1, "approval"), 1);
    test.advance(1);
    test.step();
    // The run goes on, and does not give the signal back once more.
    let mut test = restore(&plan, 1, &test.facts());
    test.push(1, (1, 2));
    test.run();
    assert_eq!(test.signals(&1, "approval"), 1);
    settle(&mut test);
    assert_eq!(values(&mut test), ["2: yes, says Ada"]);
    assert_eq!(test.signals(&1, "approval"), 0);
}

#[test]
fn attempt_that_is_made_again_finds_its_signal_again() {
    let mut agent = Agent::<Pair, String>::new("stumbling");
    agent.carry();
    agent.waits_for::<Approval>("approval");
    agent
        .on_input_async("ask", async |(_, i), ctx| {
            let Approval(by) = ctx.wait_for("approval").await?;
            ctx.durable("call", *i, async |i| i).await?;
            if ctx.attempt() < 3 {
                return Err(timely_agents::Error::new("not yet"));
            }
            ctx.output(format!("{i} by {by}, attempt {}", ctx.attempt()));
            Ok(())
        })
        .on_failure(Retry::new(3).backoff(Duration::from_secs(1)));
    let plan = agent.build().unwrap();
    let mut test = open(&plan);
    test.push(0, (1, 1));
    test.push(0, (1, 2));
    test.signal(0, approval(1, "Ada"));
    test.signal(0, approval(1, "Bob"));
    settle(&mut test);
    test.advance(1);
    test.step();
    // In the pause after the first attempt.
    let mut facts = test.facts();
    let mut test = restore(&plan, 1, &facts);
    test.pass(Duration::from_secs(10));
    settle(&mut test);
    test.advance(2);
    test.step();
    facts.extend(test.facts());
    let mut put_out = values(&mut test);
    let mut test = restore(&plan, 2, &facts);
    test.tick(Duration::from_secs(10));
    for _ in 0..4 {
        test.pass(Duration::from_secs(10));
        settle(&mut test);
    }
    put_out.extend(values(&mut test));
    assert_eq!(put_out, ["1 by Ada, attempt 3", "2 by Bob, attempt 3"]);
    assert_eq!(test.signals(&1, "approval"), 0);
}

#[test]
fn two_waits_of_a_run_take_two_signals() {
    // Beyond 30 futures `join_all` polls only what was woken.
    for n in [2i64, 40] {
        let mut agent = Agent::<Pair, String>::new("two");
        agent.carry();
        agent.waits_for::<Approval>("approval");
        agent.on_input_async("ask", async |(_, i), ctx| {
            let waits = (0..*i).map(|_| ctx.wait_for::<Approval>("approval"));
            let approvals = futures::future::join_all(waits).await;
            let by: Result<Vec<_>, _> = approvals.into_iter().map(|one| one.map(|Approval(by)| by)).collect();
            ctx.output(by?.join(" "));
            Ok(())
        });
        let mut test = start(agent);
        test.signal(0, approval(1, "0"));
        test.push(0, (1, n));
        test.run();
        for by in 1..n {
            test.signal(0, approval(1, &by.to_string()));
            if by % 3 == 0 {
                test.run();
            }
        }
        test.run();
        let right: Vec<String> = (0..n).map(|n| n.to_string()).collect();
        assert_eq!(values(&mut test), [right.join(" ")]);
    }
}

#[test]
fn signals_that_are_none_are_errors() {
    let mut agent = Agent::<Pair, String>::new("wrong");
    agent.carry();
    agent.waits_for::<Approval>("approval");
    agent.on_input_async("ask", async |(_, i), ctx| {
        let error = match i {
            1 => ctx.wait_for::<Approval>("another").await.unwrap_err(),
            2 => ctx.wait_for::<crate::support::Ping>("approval").await.unwrap_err(),
            _ => ctx.wait_for::<Approval>("approval").await.unwrap_err(),
        };
        ctx.output(error.to_string());
        Ok(())
    });
    let mut test = start(agent);
    test.signal(0, Signal::json(3, "approval", &serde_json::json!({"by": 7})));
    for i in 1..4 {
        test.push(0, (i as u64, i));
    }
    test.run();
    let errors = values(&mut test);
    assert!(errors[0].contains("no signal \"another\" of event \"approval\""), "{errors:?}");
    assert!(errors[1].contains("no signal \"approval\" of event \"ping\""), "{errors:?}");
    assert!(errors[2].contains("is not what is waited for"), "{errors:?}");
}

#[test]
fn run_that_takes_too_long_gives_up_its_wait() {
    let mut agent = Agent::<Pair, String>::new("limited");
    agent.carry();
    agent.waits_for::<Approval>("approval");
    agent.run_timeout(Duration::from_secs(5), Exhausted::DeadLetter);
    agent.on_input_async("ask", async |_, ctx| {
        let Approval(by) = ctx.wait_for("approval").await?;
        ctx.output(by);
        Ok(())
    });
    let mut test = start(agent);
    test.push(0, (1, 1));
    test.push(0, (1, 2));
    test.pass(Duration::from_secs(5));
    assert_eq!(test.dead_letters().len(), 1);
    test.signal(0, approval(1, "Ada"));
    test.run();
    assert_eq!(values(&mut test), ["Ada"]);
}

/// Feeds inputs and signals from all workers, epochs of both advancing by themselves.
fn in_a_cluster(communication: timely::CommunicationConfig) -> Vec<String> {
    let plan = asking();
    let config = timely::Config { communication, worker: timely::WorkerConfig::default() };
    let guards = timely::execute(config, move |worker| {
        let plan = plan.clone();
        let index = worker.index() as u64;
        let (mut inputs, mut signals, captured) = worker.dataflow::<u64, _, _>(|scope| {
            let (inputs, pairs) = scope.new_input::<Pair>();
            let (signals, told) = scope.new_input::<Signal<u64>>();
            let streams = pairs.agent_with_signals(|pair| &pair.0, told, &plan);
            let output = streams.output;
            (inputs, signals, output.capture())
        });
        for epoch in 0..10u64 {
            for key in 0..30 {
                if key % worker.peers() as u64 == index && (key + epoch).is_multiple_of(3) {
                    inputs.send((key, epoch as i64));
                }
                if (key + 1) % worker.peers() as u64 == index && (key + epoch) % 3 == 1 {
                    signals.send(approval(key, &epoch.to_string()));
                }
            }
            inputs.advance_to(epoch + 1);
            if epoch % 2 == 1 {
                signals.advance_to(epoch + 1);
            }
            worker.step();
        }
        drop((inputs, signals));
        while worker.step() {}
        captured
    })
    .unwrap();
    let captured = guards.join().into_iter().flat_map(|captured| captured.unwrap().extract());
    let mut outputs: Vec<String> = captured.flat_map(|(_, batch)| batch).collect();
    outputs.sort_unstable();
    outputs
}

#[test]
fn signals_reach_the_owners_of_their_keys_from_every_worker() {
    use timely::CommunicationConfig::{Process, ProcessBinary, Thread};
    let alone = in_a_cluster(Thread);
    let approved = alone.iter().filter(|output| output.contains(" by ")).count();
    assert!(approved > 80, "{approved}");
    assert_eq!(in_a_cluster(Process(2)), alone);
    // As bytes, as between processes.
    assert_eq!(in_a_cluster(ProcessBinary(3)), alone);
}

#[test]
fn agent_without_a_signal_input_has_none_to_wait_for() {
    let plan = asking();
    let captured = timely::execute_directly(move |worker| {
        worker.dataflow::<u64, _, _>(|scope| {
            use timely::dataflow::operators::vec::ToStream;
            vec![(1, 1)].to_stream(scope).agent(|pair: &Pair| &pair.0, &plan).capture()
        })
    });
    let outputs: Vec<_> = captured.extract().into_iter().flat_map(|(_, batch)| batch).collect();
    assert_eq!(outputs, ["1: signal \"approval\": the signal input has ended", "asks for 1"]);
}

#[test]
fn waits_without_bound_need_carry() {
    let mut agent = Agent::<Pair, String>::new("holding");
    agent.waits_for::<Approval>("approval");
    agent.waits_for::<Approval>("bounded").within(Duration::from_secs(1));
    agent.waits_for::<Approval>("never").within(Duration::ZERO);
    agent.schedules::<crate::support::Ping>();
    let errors = agent.build().unwrap_err().to_string();
    for part in ["signal \"approval\" is waited for without bound", "event \"ping\" is scheduled", "limit within is 0"]
    {
        assert!(errors.contains(part), "{part}: {errors}");
    }
    assert!(!errors.contains("bounded"), "{errors}");
}

#[test]
fn bounded_waits_work_while_their_epoch_is_held() {
    let mut agent = Agent::<Pair, String>::new("holding");
    agent.waits_for::<Approval>("approval").within(Duration::from_secs(9));
    agent.on_input_async("ask", async |(_, i), ctx| {
        let by = ctx.wait_for::<Approval>("approval").await.map_or_else(|error| error.to_string(), |by| by.0);
        ctx.output(format!("{i}: {by}"));
        Ok(())
    });
    let mut test = start(agent);
    test.push(0, (1, 1));
    test.push(1, (1, 2));
    test.advance(1);
    test.run();
    assert_eq!(test.frontier(), [0]);
    test.signal(1, approval(1, "Ada"));
    test.run();
    assert_eq!(test.outputs(), [(0, 1, "1: Ada".to_owned())]);
    test.pass(Duration::from_secs(9));
    assert_eq!(test.outputs(), [(1, 1, "2: signal \"approval\": none within 9s".to_owned())]);
    finish(&mut test);
}

#[test]
fn signal_that_was_given_in_time_is_not_lost_to_the_timeout() {
    let mut agent = Agent::<Pair, String>::new("busy");
    agent.carry();
    agent.waits_for::<Approval>("approval");
    agent.on_input_async("ask", async |(_, i), ctx| {
        let mut wait = ctx.wait_for::<Approval>("approval").timeout(Duration::from_secs(2));
        assert!(futures::poll!(&mut wait).is_pending());
        ctx.sleep(Duration::from_secs(5)).await;
        if *i == 1 {
            ctx.output(wait.await?.0);
        }
        Ok(())
    });
    let plan = agent.build().unwrap();
    let mut test = open(&plan);
    for key in 1..4 {
        test.push(0, (key, key as i64 - 1));
    }
    test.run();
    for key in 1..4 {
        test.signal(0, approval(key, "Ada"));
    }
    test.run();
    assert_eq!(test.signals(&2, "approval"), 0, "it is given, and not looked at");
    test.advance(1);
    test.step();
    let facts = test.facts();
    for crash in [false, true] {
        if crash {
            test = restore(&plan, 1, &facts);
        }
        test.pass(Duration::from_secs(6));
        assert_eq!(values(&mut test), ["Ada"], "crash: {crash}");
        let kept = |test: &mut Test<String>| (1..4).map(|key| test.signals(&key, "approval")).collect::<Vec<_>>();
        assert_eq!(kept(&mut test), [1, 0, 1], "who has not looked gives it back");
        test.advance(5);
        test.step();
        let mut test = restore(&plan, 5, &[facts.clone(), test.facts()].concat());
        assert_eq!(kept(&mut test), [1, 0, 1]);
    }
}

#[test]
fn signal_that_is_kept_holds_no_frontier() {
    let plan = asking();
    timely::execute_directly(move |worker| {
        let (mut inputs, mut signals, probe) = worker.dataflow::<u64, _, _>(|scope| {
            let (inputs, pairs) = scope.new_input::<Pair>();
            let (signals, told) = scope.new_input::<Signal<u64>>();
            let (keyed, streams) = pairs.key_by(|pair| pair.0).agent_with_signals(told, &plan);
            assert!(keyed.is_partitioned());
            let probe = streams.dead_letters().probe().0;
            (inputs, signals, probe)
        });
        for epoch in 0..3u64 {
            signals.send(approval(1, "Ada"));
            signals.advance_to(epoch + 1);
            inputs.advance_to(epoch + 1);
            for _ in 0..10 {
                worker.step();
            }
            assert!(!probe.less_than(&(epoch + 1)), "{epoch}");
        }
        // A signal that is ahead holds its own epoch.
        signals.advance_to(7);
        signals.send(Signal::cancel(1));
        signals.advance_to(9);
        for _ in 0..10 {
            worker.step();
        }
        assert!(probe.less_equal(&3) && !probe.less_than(&3));
        inputs.send((1, 1));
        inputs.advance_to(9);
        for _ in 0..10 {
            worker.step();
        }
        assert!(!probe.less_than(&9));
    });
}

#[test]
fn runs_that_wait_for_signals_hold_up_no_source() {
    let mut agent = Agent::<Pair, String>::new("limited");
    agent.carry();
    agent.limits(Limits::tight());
    agent.waits_for::<Approval>("approval");
    agent.on_input_async("ask", async |(_, i), ctx| {
        let Approval(by) = ctx.wait_for("approval").await?;
        ctx.durable("call", *i, async |i| i).await?;
        ctx.output(format!("{i} by {by}"));
        Ok(())
    });
    let mut test = start(agent);
    for i in 0..6 {
        test.push(0, (i % 3, i as i64));
    }
    test.run();
    let load = test.load();
    assert_eq!((load.runs, load.waiting_bytes), (0, 0), "what does not end by itself does not count");
    test.advance(1);
    for key in 0..3 {
        test.push(1, (key, 6 + key as i64));
        test.signal(1, approval(key, "Ada"));
    }
    test.run();
    let load = test.load();
    assert!(load.runs == 3 && load.waiting_bytes > 0, "they wait for calls: {load:?}");
    for _ in 0..3 {
        settle(&mut test);
        (0..3).for_each(|key| test.signal(1, approval(key, "Bob")));
    }
    settle(&mut test);
    assert_eq!(values(&mut test).len(), 9);
    assert_eq!(test.load().waiting_bytes, 0);
    finish(&mut test);
}
