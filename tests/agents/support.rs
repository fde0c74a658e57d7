//! What the tests share: a keyed input, a few events, and short ways to a harness.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use timely_agents::testing::{CallId, Harness};
use timely_agents::{Agent, Event, Plan};
use timely_agents_operators::completion::CallFailure;
use timely_agents_operators::fact::Fact;

/// A key and a value.
pub(crate) type Pair = (u64, i64);
pub(crate) type Test<O> = Harness<u64, Pair, O>;

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Ping(pub(crate) i64);

impl Event for Ping {
    const NAME: &'static str = "ping";
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Pong(pub(crate) i64);

impl Event for Pong {
    const NAME: &'static str = "pong";
}

/// Builds an agent and opens it in a harness.
pub(crate) fn start<O: 'static>(agent: Agent<Pair, O>) -> Test<O> {
    Harness::new(&agent.build().unwrap(), |pair| pair.0).unwrap()
}

/// Pushes inputs at epoch 0 and runs all that can run.
pub(crate) fn feed<O: 'static>(test: &mut Test<O>, pairs: &[Pair]) {
    for pair in pairs {
        test.push(0, *pair);
    }
    test.run();
}

/// Ends the input and runs to the end.
pub(crate) fn finish<O: 'static>(test: &mut Test<O>) {
    test.end();
    test.run();
    assert!(test.is_closed(), "work is left: {:?}", test.load());
}

/// What came out, without times and keys.
pub(crate) fn values<O: 'static>(test: &mut Test<O>) -> Vec<O> {
    test.outputs().into_iter().map(|(_, _, value)| value).collect()
}

/// The names of the calls that run.
pub(crate) fn names<O: 'static>(test: &Test<O>) -> Vec<String> {
    test.calls().into_iter().map(|call| call.name).collect()
}

/// The call of that name.
pub(crate) fn call<O: 'static>(test: &Test<O>, name: &str) -> CallId {
    let calls = test.calls();
    calls.iter().find(|call| call.name == name).unwrap().id
}

/// Text that hooks and actions write from wherever they are.
#[derive(Clone, Default)]
pub(crate) struct Notes(Arc<Mutex<Vec<String>>>);

impl Notes {
    pub(crate) fn add(&self, note: impl Into<String>) {
        self.0.lock().unwrap().push(note.into());
    }

    pub(crate) fn take(&self) -> Vec<String> {
        std::mem::take(&mut self.0.lock().unwrap())
    }
}

/// Notes when it is dropped.
pub(crate) struct NoteOnDrop(pub(crate) Notes, pub(crate) &'static str);

impl Drop for NoteOnDrop {
    fn drop(&mut self) {
        self.0.add(self.1);
    }
}

/// Numbers that look random, the same for a seed.
pub(crate) struct Dice(pub(crate) u64);

impl Dice {
    pub(crate) fn roll(&mut self, sides: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % sides
    }
}

/// An agent that carries its runs, in a process that crashes: what remains are the facts of epochs that are over.
pub(crate) struct Carried<O: 'static> {
    plan: Plan<Pair, O>,
    pub(crate) test: Test<O>,
    facts: Vec<Fact<u64>>,
    epoch: u64,
    told: Vec<O>,
}

impl<O: 'static> Carried<O> {
    pub(crate) fn start(plan: &Plan<Pair, O>, pairs: &[Pair]) -> Self {
        let mut test = Harness::new(plan, |pair: &Pair| pair.0).unwrap();
        feed(&mut test, pairs);
        Carried { plan: plan.clone(), test, facts: Vec::new(), epoch: 0, told: Vec::new() }
    }

    /// Closes the epoch.
    pub(crate) fn commit(&mut self) {
        self.epoch += 1;
        self.test.advance(self.epoch);
        self.test.run();
        self.facts.extend(self.test.facts().into_iter().filter(|fact| fact.time < self.epoch));
        self.told.extend(values(&mut self.test));
    }

    /// Goes on with `plan` from what is committed, after `down`.
    pub(crate) fn restart(&mut self, plan: &Plan<Pair, O>, down: Duration) {
        let now = Duration::from_micros(self.test.clock().now());
        self.plan = plan.clone();
        self.test = Harness::restored(plan, |pair: &Pair| pair.0, self.epoch, &self.facts).unwrap();
        self.test.tick(now + down);
        self.test.run();
    }

    /// Crashes and goes on where the epochs before `epoch` are sealed; what came out since is lost.
    pub(crate) fn restart_at_once(&mut self, epoch: u64) {
        self.epoch = epoch;
        self.facts.extend(self.test.facts().into_iter().filter(|fact| fact.time < epoch));
        self.restart(&self.plan.clone(), Duration::ZERO);
    }

    /// Crashes and goes on from what is committed; what came out since is lost.
    pub(crate) fn lose(&mut self) {
        self.test.outputs();
        self.restart(&self.plan.clone(), Duration::ZERO);
    }

    /// Closes the epoch, crashes and goes on.
    pub(crate) fn crash(&mut self) {
        self.commit();
        self.restart(&self.plan.clone(), Duration::ZERO);
    }

    /// Does what the call of that name is to do.
    pub(crate) fn complete(&mut self, name: &str) {
        let id = call(&self.test, name);
        self.test.complete(id);
        self.test.run();
    }

    /// Fails the call of that name.
    pub(crate) fn fail(&mut self, name: &str) {
        let id = call(&self.test, name);
        self.test.fail(id, CallFailure::Panicked("no".into()));
        self.test.run();
    }

    pub(crate) fn pass(&mut self, secs: u64) {
        self.test.pass(Duration::from_secs(secs));
    }

    /// The names of the calls that run, sorted.
    pub(crate) fn names(&self) -> Vec<String> {
        let mut names = names(&self.test);
        names.sort_unstable();
        names
    }

    /// What came out so far.
    pub(crate) fn told(&mut self) -> Vec<O> {
        self.told.extend(values(&mut self.test));
        std::mem::take(&mut self.told)
    }
}
