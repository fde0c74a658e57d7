//! Signals: what reaches the runs of a key from beside its inputs, and what is kept of it.
//!
//! # Invariants
//! - A signal is taken in the turn of the task that waits for it, and the turn is what the journal has of it: both are
//!   facts of one epoch.
//! - Of several of one name the first that came is the first that is taken. One that was given to a wait that nobody
//!   looks at any more, or to an attempt that is made again, is the first again.

use std::any::{TypeId, type_name};
use std::collections::VecDeque;
use std::fmt::Debug;
use std::rc::Rc;
use std::time::Duration;

use foldhash::fast::FixedState;
use hashbrown::HashMap;
use serde::de::{DeserializeOwned, Error as _};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::Value;
use timely_agents_operators::fact::{KeyWriter, What};
use timely_agents_operators::keys::KeyId;
use timely_agents_operators::signal::{self, Told};

use crate::agent::{Agent, Input};
use crate::event::Event;

/// A record of an agent's signal input: an event for the runs of a key that wait for it, or the end of them.
///
/// Its JSON is `{"key": .., "signal": "approval", "value": ..}`, or `{"key": .., "cancel": "run", "reason": ".."}`, or the
/// same with `"key"` in the place of `"run"`.
///
/// ```
/// use serde::{Deserialize, Serialize};
/// use timely_agents::{Event, Signal};
///
/// #[derive(Serialize, Deserialize)]
/// struct Approval { by: String }
///
/// impl Event for Approval {
///     const NAME: &'static str = "approval";
/// }
///
/// let signal = Signal::new(7u64, "approval", &Approval { by: "Ada".into() });
/// let json = serde_json::to_string(&signal)?;
/// assert_eq!(json, r#"{"key":7,"signal":"approval","value":{"by":"Ada"}}"#);
/// assert_eq!(serde_json::from_str::<Signal<u64>>(&json)?, signal);
/// # Ok::<(), serde_json::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Signal<K> {
    key: K,
    says: Says,
}

/// What a signal says, as it travels.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
enum Says {
    /// A name, and a value as JSON.
    Given(String, String),
    /// Whether waiting inputs are cancelled as well, and why.
    Cancel(bool, String),
}

impl<K> Signal<K> {
    /// What a run of `key` gets from `ctx.wait_for(name)`.
    ///
    /// # Panics
    /// When the event has no JSON form, as a map whose keys are not text.
    pub fn new<E: Event>(key: K, name: impl Into<String>, event: &E) -> Self {
        let value = serde_json::to_string(event);
        let value = value.unwrap_or_else(|error| panic!("event {:?} has no JSON form: {error}", E::NAME));
        Signal { key, says: Says::Given(name.into(), value) }
    }

    /// The same for an event that is JSON already.
    pub fn json(key: K, name: impl Into<String>, value: &Value) -> Self {
        Signal { key, says: Says::Given(name.into(), value.to_string()) }
    }

    /// Ends the run of `key` that is in flight, if one is: its calls are aborted where they can be, its writes taken back,
    /// its input is dead-lettered.
    pub fn cancel(key: K) -> Self {
        Signal { key, says: Says::Cancel(false, "cancelled".into()) }
    }

    /// The same, and the inputs that wait behind that run are dead-lettered as well.
    pub fn cancel_key(key: K) -> Self {
        Signal { key, says: Says::Cancel(true, "cancelled".into()) }
    }

    /// Why a cancellation was asked for: the error of its dead letters.
    #[must_use]
    pub fn because(mut self, why: impl Into<String>) -> Self {
        if let Says::Cancel(_, reason) = &mut self.says {
            *reason = why.into();
        }
        self
    }

    /// The key.
    pub fn key(&self) -> &K {
        &self.key
    }
}

impl<K> From<Signal<K>> for signal::Signal<K> {
    fn from(signal: Signal<K>) -> Self {
        let told = match signal.says {
            Says::Given(name, value) => Told::Given { name, payload: value.into_bytes() },
            Says::Cancel(waiting, reason) => Told::Cancel { waiting, reason },
        };
        signal::Signal { key: signal.key, told }
    }
}

/// As people write it.
#[derive(Serialize, Deserialize)]
struct Readable<K> {
    key: K,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    signal: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    value: Option<Value>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    cancel: Option<Cancel>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    reason: Option<String>,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Cancel {
    Run,
    Key,
}

impl<K: Serialize> Serialize for Signal<K> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        use serde::ser::Error as _;
        if !serializer.is_human_readable() {
            return (&self.key, &self.says).serialize(serializer);
        }
        let mut readable = Readable { key: &self.key, signal: None, value: None, cancel: None, reason: None };
        match &self.says {
            Says::Given(name, value) => {
                readable.signal = Some(name.clone());
                readable.value = Some(serde_json::from_str(value).map_err(S::Error::custom)?);
            }
            Says::Cancel(waiting, reason) => {
                readable.cancel = Some(if *waiting { Cancel::Key } else { Cancel::Run });
                readable.reason = Some(reason.clone());
            }
        }
        readable.serialize(serializer)
    }
}

impl<'de, K: Deserialize<'de>> Deserialize<'de> for Signal<K> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        if !deserializer.is_human_readable() {
            let (key, says) = Deserialize::deserialize(deserializer)?;
            return Ok(Signal { key, says });
        }
        let Readable { key, signal, value, cancel, reason } = Readable::deserialize(deserializer)?;
        let says = match (signal, cancel) {
            (Some(name), None) => Says::Given(name, value.unwrap_or_default().to_string()),
            (None, Some(cancel)) => {
                Says::Cancel(matches!(cancel, Cancel::Key), reason.unwrap_or_else(|| "cancelled".into()))
            }
            _ => return Err(D::Error::custom("a signal has a `signal`, its name, or a `cancel`, and not both")),
        };
        Ok(Signal { key, says })
    }
}

/// A declared signal.
#[derive(Clone, Debug)]
pub(crate) struct SignalPlan {
    pub(crate) name: String,
    pub(crate) type_id: TypeId,
    pub(crate) type_name: &'static str,
    /// How long a wait for it may take, unless the wait says otherwise.
    pub(crate) bound: Option<Duration>,
}

/// Says more of a signal just declared.
pub struct SignalOptions<'a>(&'a mut SignalPlan);

impl SignalOptions<'_> {
    /// How long a wait for the signal may take, unless it says otherwise. Default: for ever, which an agent that holds its
    /// epoch open while it waits cannot have.
    pub fn within(self, timeout: Duration) -> Self {
        self.0.bound = Some(timeout);
        self
    }
}

impl<I: Input, O: 'static> Agent<I, O> {
    /// Declares a signal that actions wait for, by `ctx.wait_for::<E>(name)`.
    ///
    /// Runs that wait for signals, and the inputs behind them, count for no [limit](Agent::limits).
    pub fn waits_for<E: Event>(&mut self, name: impl Into<String>) -> SignalOptions<'_> {
        let (type_id, type_name) = (TypeId::of::<E>(), type_name::<E>());
        self.signals.push(SignalPlan { name: name.into(), type_id, type_name, bound: None });
        let last = self.signals.len() - 1;
        SignalOptions(&mut self.signals[last])
    }
}

/// The number of a key's first signal: those that are given back go before it.
const FIRST: u64 = 1 << 32;

/// The signals that no run has taken.
#[derive(Debug, Default)]
pub(crate) struct Signals {
    keys: HashMap<KeyId, Kept, FixedState>,
    /// Whether they are facts.
    stored: bool,
    /// Whether no more come.
    pub(crate) ended: bool,
    /// What the attempt had taken that has just failed.
    pub(crate) failing: Vec<Taken>,
}

/// A signal that a task has taken: its name and what it says.
pub(crate) type Taken = (Rc<str>, Vec<u8>);

/// Those of one key.
#[derive(Debug, Default)]
struct Kept {
    /// Ascending numbers.
    signals: VecDeque<OneKept>,
    /// Facts of signals that are taken.
    taken: Vec<u64>,
}

#[derive(Debug)]
struct OneKept {
    number: u64,
    name: String,
    payload: Vec<u8>,
    /// Whether it is a fact.
    stored: bool,
}

/// What stands for signals that a run has taken before they came again.
fn owed(name: &str) -> String {
    format!("\u{0}{name}")
}

impl Signals {
    pub(crate) fn new(stored: bool) -> Self {
        Signals { stored, ..Signals::default() }
    }

    /// Keeps one that has come, unless it was given before a crash and comes again; whether it is kept.
    pub(crate) fn arrive(&mut self, key: KeyId, name: String, payload: Vec<u8>) -> bool {
        if self.remove(key, &owed(&name), &payload) {
            return false;
        }
        self.put(key, name, payload);
        true
    }

    /// A run takes one that it was given before a crash: it is here, or comes again.
    pub(crate) fn owe(&mut self, key: KeyId, name: &str, payload: Vec<u8>) {
        if !self.remove(key, name, &payload) {
            self.put(key, owed(name), payload);
        }
    }

    /// Takes one that says this.
    fn remove(&mut self, key: KeyId, name: &str, payload: &[u8]) -> bool {
        let Some(kept) = self.keys.get_mut(&key) else { return false };
        let at = kept.signals.iter().position(|signal| signal.name == name && signal.payload == payload);
        let Some(signal) = at.and_then(|at| kept.signals.remove(at)) else { return false };
        if signal.stored {
            kept.taken.push(signal.number);
        }
        self.drop_if_empty(key);
        true
    }

    /// Keeps one behind the others.
    pub(crate) fn put(&mut self, key: KeyId, name: String, payload: Vec<u8>) {
        let signals = &mut self.keys.entry(key).or_default().signals;
        let number = signals.back().map_or(FIRST, |last| last.number + 1);
        signals.push_back(OneKept { number, name, payload, stored: false });
    }

    /// Keeps one before the others.
    pub(crate) fn put_back(&mut self, key: KeyId, name: String, payload: Vec<u8>) {
        let signals = &mut self.keys.entry(key).or_default().signals;
        let number = signals.front().map_or(FIRST, |first| first.number - 1);
        signals.push_front(OneKept { number, name, payload, stored: false });
    }

    /// What the failed attempt had taken is there for the next one.
    pub(crate) fn give_back_failing(&mut self, key: KeyId) {
        for (name, payload) in std::mem::take(&mut self.failing).into_iter().rev() {
            self.put_back(key, name.to_string(), payload);
        }
    }

    /// Whether a wait for this would be over at once.
    pub(crate) fn answers(&self, key: KeyId, name: &str) -> bool {
        self.ended || self.keys.get(&key).is_some_and(|kept| kept.signals.iter().any(|signal| signal.name == name))
    }

    /// Takes the first of that name.
    pub(crate) fn take(&mut self, key: KeyId, name: &str) -> Option<Vec<u8>> {
        let kept = self.keys.get_mut(&key)?;
        let at = kept.signals.iter().position(|signal| signal.name == name)?;
        let signal = kept.signals.remove(at)?;
        if signal.stored {
            kept.taken.push(signal.number);
        }
        self.drop_if_empty(key);
        Some(signal.payload)
    }

    fn drop_if_empty(&mut self, key: KeyId) {
        if self.keys.get(&key).is_some_and(|kept| kept.signals.is_empty() && kept.taken.is_empty()) {
            self.keys.remove(&key);
        }
    }

    /// Whether there may be any that have changed, of whatever key.
    pub(crate) fn has_facts(&self) -> bool {
        self.stored && !self.keys.is_empty()
    }

    /// Writes what has changed of a key's.
    pub(crate) fn facts(&mut self, key: KeyId, facts: &mut KeyWriter) {
        if !self.has_facts() {
            return;
        }
        let Some(kept) = self.keys.get_mut(&key) else { return };
        for number in kept.taken.drain(..) {
            facts.retire(&What::Signal(number));
        }
        for signal in kept.signals.iter_mut().filter(|signal| !signal.stored) {
            signal.stored = true;
            let written = facts.put(&What::Signal(signal.number), &(&signal.name, &signal.payload));
            written.unwrap_or_else(|error| panic!("a signal cannot be encoded: {error}"));
        }
        self.drop_if_empty(key);
    }

    /// Takes one back from a checkpoint, where facts come in the order in which they were written.
    pub(crate) fn load(&mut self, key: KeyId, number: u64, value: Option<&[u8]>) -> Result<(), String> {
        let signals = &mut self.keys.entry(key).or_default().signals;
        let at = signals.partition_point(|signal| signal.number < number);
        if signals.get(at).is_some_and(|signal| signal.number == number) {
            signals.remove(at);
        }
        if let Some(bytes) = value {
            let (name, payload) = postcard::from_bytes(bytes).map_err(|error| format!("a signal: {error}"))?;
            signals.insert(at, OneKept { number, name, payload, stored: true });
        }
        self.drop_if_empty(key);
        Ok(())
    }

    /// How many of a name are kept.
    pub(crate) fn count(&self, key: KeyId, name: &str) -> usize {
        self.keys.get(&key).map_or(0, |kept| kept.signals.iter().filter(|signal| signal.name == name).count())
    }
}

/// What a signal says, as an `E`.
pub(crate) fn read<E: DeserializeOwned>(payload: &[u8]) -> Result<E, String> {
    serde_json::from_slice(payload).map_err(|error| error.to_string())
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test that unwraps in vain has failed")]
mod tests {
    use timely_agents_operators::fact::BlockWriter;

    use super::*;

    /// The facts of a key, as numbers with the payloads of those that hold.
    fn facts(signals: &mut Signals) -> Vec<(What, bool)> {
        let mut writer = BlockWriter::<u64>::default();
        writer.key(0, &0, |_| {}, |facts| signals.facts(KeyId(3), facts));
        let mut all = Vec::new();
        writer.finish(true, &mut |block| {
            all.extend(block.facts().unwrap().into_iter().map(|fact| (fact.what, fact.value.is_some())));
        });
        all
    }

    #[test]
    fn signals_are_taken_in_the_order_in_which_they_came_and_given_back_to_the_front() {
        let key = KeyId(3);
        let mut signals = Signals::new(true);
        for payload in [b"1", b"2", b"3"] {
            signals.put(key, "a".into(), payload.to_vec());
        }
        assert_eq!(facts(&mut signals).len(), 3);
        assert_eq!(signals.take(key, "a").unwrap(), b"1");
        signals.put_back(key, "a".into(), b"1".to_vec());
        assert_eq!(
            facts(&mut signals),
            [(What::Signal(FIRST), false), (What::Signal(FIRST), true)],
            "the later of the two holds"
        );
        assert_eq!(signals.take(key, "b"), None);
        let taken: Vec<_> = std::iter::from_fn(|| signals.take(key, "a")).collect();
        assert_eq!(taken, [b"1", b"2", b"3"]);
        assert!(facts(&mut signals).iter().all(|(_, holds)| !holds));
        assert!(signals.keys.is_empty());
    }

    #[test]
    fn what_was_never_stored_leaves_nothing() {
        let mut signals = Signals::new(true);
        signals.put(KeyId(3), "a".into(), Vec::new());
        signals.take(KeyId(3), "a").unwrap();
        assert_eq!(facts(&mut signals), []);
        assert!(!signals.answers(KeyId(3), "a"));
    }

    #[test]
    fn a_signal_is_the_same_in_either_form() {
        for signal in [
            Signal::json(7u64, "a", &serde_json::json!({"b": [1, 2]})),
            Signal::cancel(7),
            Signal::cancel_key(7).because("a mistake"),
        ] {
            let json = serde_json::to_string(&signal).unwrap();
            assert_eq!(serde_json::from_str::<Signal<u64>>(&json).unwrap(), signal, "{json}");
            let bytes = postcard::to_allocvec(&signal).unwrap();
            assert_eq!(postcard::from_bytes::<Signal<u64>>(&bytes).unwrap(), signal);
        }
        assert!(serde_json::from_str::<Signal<u64>>(r#"{"key": 7}"#).is_err());
    }
}
