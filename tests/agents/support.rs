//! What the tests share: a keyed input, a few events, and short ways to a harness.

use std::sync::{Arc, Mutex};

use serde::{Deserialize, Serialize};
use timely_agents::testing::{CallId, Harness};
use timely_agents::{Agent, Event};

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
