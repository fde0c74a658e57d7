//! Cases that were wrong once, small and fixed.

use crate::plan::{ActionPlan, Case, Feed, Op, Record, Then, Trigger};
use crate::verdict;

fn action(trigger: Trigger, waits: bool, attempts: u32, ops: Vec<Op>) -> ActionPlan {
    ActionPlan { name: format!("{trigger:?}"), trigger, waits, attempts, then: Then::DeadLetter, ops }
}

fn record(key: u64, x: i64, event: u64) -> Feed {
    Feed::Send(Record { key, n: 1, x, line: 0, event, dump: false })
}

fn case(actions: Vec<ActionPlan>, feed: Vec<Feed>) -> Case {
    Case {
        seed: 0,
        actions,
        feeds: vec![feed],
        sequenced: false,
        stamped: false,
        identified: false,
        observed: false,
        keyed: false,
        fuel: 65_536,
        runs_in_flight: 1_000,
        concurrent_calls: 1_000,
    }
}

fn holds(case: &Case) {
    if let Err(fault) = verdict(case, 0) {
        panic!("{fault}\n{case:#?}");
    }
}

/// S6: the flag that asks for control was reset by a look at the outputs; calls never started.
#[test]
fn agents_on_keyed_streams_get_what_they_ask_for() {
    let actions = vec![
        action(Trigger::Input, true, 1, vec![Op::Notify(1), Op::Call, Op::Output]),
        action(Trigger::Notification, false, 1, vec![Op::Output]),
    ];
    let feed = vec![record(1, 1, 0), Feed::Advance(3), record(1, 2, 0)];
    holds(&Case { keyed: true, ..case(actions, feed) });
}

/// S2: what a step had asked for before its task waited came back without the flag.
#[test]
fn notifications_asked_for_before_a_wait_come() {
    let actions = vec![
        action(Trigger::Input, true, 1, vec![Op::Notify(0), Op::Call]),
        action(Trigger::Notification, false, 1, vec![Op::Output]),
    ];
    holds(&case(actions, vec![record(1, 1, 0), record(2, 1, 0), Feed::Advance(3)]));
}

/// S2: what one activation found was sorted by time.
#[test]
fn inputs_of_one_sender_run_as_sent_whatever_their_event_times() {
    let actions = vec![action(Trigger::Input, false, 1, vec![Op::Output, Op::Side])];
    let feed = (0..200).map(|x| record(1, x, (x as u64 * 7) % 5)).collect();
    holds(&Case { stamped: true, ..case(actions, feed) });
}

/// S8: the action after the last one was looked up, and the worker panicked.
#[test]
fn the_last_action_of_an_input_is_retried() {
    let actions = vec![action(Trigger::Input, false, 2, vec![Op::FailAlways(1), Op::Output])];
    holds(&case(actions, vec![record(1, 1, 0)]));
}
