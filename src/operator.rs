//! Agents in dataflows: `stream.agent(key, &plan)`.

use std::cell::Cell;
use std::rc::Rc;
use std::sync::Arc;

use differential_dataflow::{AsCollection, VecCollection};
use timely::ExchangeData;
use timely::dataflow::StreamVec;
use timely::dataflow::channels::pact::{Exchange, ParallelizationContract, Pipeline};
use timely::dataflow::operators::generic::Operator;
use timely_agents_operators::behavior::Failure;
use timely_agents_operators::cluster;
use timely_agents_operators::commit::{MemoryUpdates, gather, memory, persist};
use timely_agents_operators::driver::{Bare, ByRef, Emission, Intake, Paired, WithKey};
use timely_agents_operators::fact::{Block, What};
use timely_agents_operators::group::KeyGroups;
use timely_agents_operators::keys::Key;
use timely_agents_operators::operator::{Options, SignalInput, Streams, keyed_mailbox_with_signals};
use timely_agents_operators::time::{EpochTime, TimeOrder};

use crate::agent::Input;
use crate::behavior::AgentBehavior;
use crate::environment::Environment;
use crate::memory::{Remembered, Slot};
use crate::plan::{Plan, Program};
use crate::side::Tag;
use crate::signal::Signal;
use crate::tagged::{DeadLetter, EventRecord, Tagged};

/// Agents on streams.
///
/// ```
/// use timely::dataflow::operators::{Capture, ToStream, capture::Extract};
/// use timely_agents::prelude::*;
///
/// let mut agent = Agent::<u64, (u64, u64)>::new("counter");
/// let seen = agent.memory::<u64>("seen");
/// agent.on_input("count", move |value, ctx| {
///     let n = ctx.update(seen, |n| { *n += 1; *n });
///     ctx.output((*value, n));
///     Ok(())
/// });
/// let plan = agent.build()?;
///
/// let captured = timely::execute_directly(move |worker| {
///     worker.dataflow::<u64, _, _>(|scope| {
///         vec![7, 8, 7].to_stream(scope).agent(|value| value, &plan).capture()
///     })
/// });
/// assert_eq!(captured.extract()[0].1, [(7, 1), (7, 2), (8, 1)]);
/// # Ok::<(), timely_agents::BuildErrors>(())
/// ```
pub trait AgentStream<'scope, T: EpochTime, I: Input> {
    /// Runs an agent for each key, which `key` finds in the values. Values are exchanged to their key's owner.
    fn agent<K: Key, O: 'static>(self, key: impl Fn(&I) -> &K + 'static, plan: &Plan<I, O>) -> StreamVec<'scope, T, O>;

    /// The same, with side outputs, dead letters, observed events and facts.
    fn agent_streams<K: Key, O: 'static>(
        self,
        key: impl Fn(&I) -> &K + 'static,
        plan: &Plan<I, O>,
    ) -> AgentStreams<'scope, T, I, O>;

    /// The same, with what keys remember as collections.
    fn agent_with_memory<K: Key, O: 'static>(
        self,
        key: impl Fn(&I) -> &K + 'static,
        plan: &Plan<I, O>,
    ) -> (AgentStreams<'scope, T, I, O>, AgentMemory<'scope, T, K>);

    /// The same with a second input, of signals: what runs wait for by `ctx.wait_for`, and what cancels them. An epoch is
    /// over when both inputs have passed it, so the epochs of signals must go on also while none come: see
    /// [`DurableInput::ticking`](crate::durable_input::DurableInput::ticking).
    ///
    /// Where there are checkpoints the agent must carry its runs ([`Agent::carry`](crate::Agent::carry)).
    fn agent_with_signals<K: Key + ExchangeData, O: 'static>(
        self,
        key: impl Fn(&I) -> &K + 'static,
        signals: StreamVec<'scope, T, Signal<K>>,
        plan: &Plan<I, O>,
    ) -> AgentStreams<'scope, T, I, O>;

    /// Puts a computed key beside each value, for agents that share it.
    fn key_by<K: Key>(self, key: impl Fn(&I) -> K + 'static) -> KeyedStream<'scope, T, K, I>;

    /// Makes each value its own key.
    fn key_by_value(self) -> KeyedStream<'scope, T, I, I>
    where
        I: Key;
}

impl<'scope, T: EpochTime, I: Input + ExchangeData> AgentStream<'scope, T, I> for StreamVec<'scope, T, I> {
    fn agent<K: Key, O: 'static>(self, key: impl Fn(&I) -> &K + 'static, plan: &Plan<I, O>) -> StreamVec<'scope, T, O> {
        let key = Rc::new(key);
        let pact = exchange_by(&self, Rc::clone(&key));
        build::<_, _, _, _, _, Bare, K>(self, pact, ByRef::new(key), plan, false).output
    }

    fn agent_streams<K: Key, O: 'static>(
        self,
        key: impl Fn(&I) -> &K + 'static,
        plan: &Plan<I, O>,
    ) -> AgentStreams<'scope, T, I, O> {
        let key = Rc::new(key);
        let pact = exchange_by(&self, Rc::clone(&key));
        build::<_, _, _, _, _, Bare, K>(self, pact, ByRef::new(key), plan, true)
    }

    fn agent_with_memory<K: Key, O: 'static>(
        self,
        key: impl Fn(&I) -> &K + 'static,
        plan: &Plan<I, O>,
    ) -> (AgentStreams<'scope, T, I, O>, AgentMemory<'scope, T, K>) {
        let key = Rc::new(key);
        let pact = exchange_by(&self, Rc::clone(&key));
        let intake = ByRef::new(key);
        let (streams, observed) =
            build_with_facts::<T, I, I, O, _, Bare, K, _>(self, pact, no_signals(), intake, plan, true, true);
        let facts = streams.facts.clone().expect("asked for");
        let memory = AgentMemory { facts, program: plan.0.program.clone(), key: std::marker::PhantomData };
        (AgentStreams::new(streams, observed, plan.0.program.id), memory)
    }

    fn agent_with_signals<K: Key + ExchangeData, O: 'static>(
        self,
        key: impl Fn(&I) -> &K + 'static,
        signals: StreamVec<'scope, T, Signal<K>>,
        plan: &Plan<I, O>,
    ) -> AgentStreams<'scope, T, I, O> {
        let key = Rc::new(key);
        let (pact, signals) = (exchange_by(&self, Rc::clone(&key)), Some(exchanged(signals)));
        let intake = ByRef::new(key);
        let (streams, observed) =
            build_with_facts::<T, I, I, O, _, Bare, K, _>(self, pact, signals, intake, plan, true, false);
        AgentStreams::new(streams, observed, plan.0.program.id)
    }

    fn key_by<K: Key>(self, key: impl Fn(&I) -> K + 'static) -> KeyedStream<'scope, T, K, I> {
        KeyedStream { stream: map_in_order(self, move |value| (key(&value), value)), partitioned: false }
    }

    fn key_by_value(self) -> KeyedStream<'scope, T, I, I>
    where
        I: Key,
    {
        self.key_by(Clone::clone)
    }
}

/// Changes items and keeps their order over all times; timely's own `map` sorts what is there by time.
fn map_in_order<'scope, T: EpochTime, A: 'static, B: 'static>(
    stream: StreamVec<'scope, T, A>,
    change: impl Fn(A) -> B + 'static,
) -> StreamVec<'scope, T, B> {
    stream.unary(Pipeline, "Map", move |_, _| {
        move |input, output| {
            input.for_each(|time, batch| output.session(&time).give_iterator(batch.drain(..).map(&change)));
        }
    })
}

fn exchange_by<T: EpochTime, I: ExchangeData, K: Key>(
    stream: &StreamVec<'_, T, I>,
    key: Rc<impl Fn(&I) -> &K + 'static>,
) -> Exchange<I, impl FnMut(&I) -> u64 + 'static> {
    let (groups, peers) = (Environment::current().groups, stream.scope().peers());
    Exchange::new(move |item: &I| groups.owner_of(key(item), peers) as u64)
}

/// Signals, on their way to the owners of their keys.
fn exchanged<'scope, T: EpochTime, K: Key + ExchangeData>(
    signals: StreamVec<'scope, T, Signal<K>>,
) -> (StreamVec<'scope, T, Signal<K>>, impl ParallelizationContract<T, Vec<Signal<K>>>) {
    let (groups, peers) = (Environment::current().groups, signals.scope().peers());
    let pact = Exchange::new(move |signal: &Signal<K>| groups.owner_of(signal.key(), peers) as u64);
    (signals, pact)
}

fn no_signals<'scope, T: EpochTime, K: Key>() -> SignalInput<'scope, T, Signal<K>, Pipeline> {
    None
}

/// The streams of an agent. Beside `output` they exist when they are asked for.
pub struct AgentStreams<'scope, T: EpochTime, I: 'static, O: 'static> {
    /// What actions output.
    pub output: StreamVec<'scope, T, O>,
    tagged: Option<StreamVec<'scope, T, Tagged>>,
    observed: Rc<Cell<bool>>,
    agent: u32,
    input: std::marker::PhantomData<fn() -> I>,
}

impl<'scope, T: EpochTime, I: 'static, O: 'static> AgentStreams<'scope, T, I, O> {
    fn new(streams: Streams<'scope, T, O, Tagged>, observed: Rc<Cell<bool>>, agent: u32) -> Self {
        let Streams { output, tagged, .. } = streams;
        AgentStreams { output, tagged, observed, agent, input: std::marker::PhantomData }
    }
}

impl<'scope, T: EpochTime, I: Clone + 'static, O: 'static> AgentStreams<'scope, T, I, O> {
    fn pick<V: 'static>(&self, name: &str, pick: impl Fn(Tagged) -> Option<V> + 'static) -> StreamVec<'scope, T, V> {
        let tagged = self.tagged.clone().expect("these streams were made with a tagged port");
        tagged.unary(Pipeline, name, move |_, _| {
            move |input, output| {
                input.for_each(|time, batch| {
                    output.session(&time).give_iterator(batch.drain(..).filter_map(&pick));
                });
            }
        })
    }

    /// The values of a side output.
    ///
    /// # Panics
    /// When the side output is another agent's.
    pub fn side<V: Clone + 'static>(&self, tag: Tag<V>) -> StreamVec<'scope, T, V> {
        assert_eq!(tag.agent, self.agent, "a side output belongs to the agent that declared it");
        self.pick("Side", move |item| match item {
            Tagged::Side { tag: index, value } if index == tag.index => {
                value.downcast::<V>().ok().map(Rc::unwrap_or_clone)
            }
            _ => None,
        })
    }

    /// The remains of runs that failed.
    pub fn dead_letters(&self) -> StreamVec<'scope, T, DeadLetter<I>> {
        self.pick("DeadLetters", |item| match item {
            Tagged::Dead(letter) => Some(letter.typed()),
            _ => None,
        })
    }

    /// Every event of the agent, once the step that sent it has finished. Observing costs each event its JSON form.
    pub fn events(&self) -> StreamVec<'scope, T, EventRecord> {
        self.observed.set(true);
        self.pick("Events", |item| match item {
            Tagged::Event(record) => Some(Rc::unwrap_or_clone(record)),
            _ => None,
        })
    }
}

/// Builds an agent operator whose keys and values come as `N` says and go as `E` says.
fn build<'scope, T, V, I, O, N, E, K>(
    stream: StreamVec<'scope, T, V>,
    pact: impl ParallelizationContract<T, Vec<V>>,
    intake: N,
    plan: &Plan<I, O>,
    tagged: bool,
) -> AgentStreams<'scope, T, I, E::Item>
where
    T: EpochTime,
    V: 'static,
    I: Input,
    O: 'static,
    N: Intake<V, Key = K, Input = I> + 'static,
    E: Emission<K, O>,
    K: Key,
{
    let (streams, observed) =
        build_with_facts::<T, V, I, O, N, E, K, _>(stream, pact, no_signals(), intake, plan, tagged, false);
    AgentStreams::new(streams, observed, plan.0.program.id)
}

fn build_with_facts<'scope, T, V, I, O, N, E, K, Q>(
    stream: StreamVec<'scope, T, V>,
    pact: impl ParallelizationContract<T, Vec<V>>,
    signals: SignalInput<'scope, T, Signal<K>, Q>,
    intake: N,
    plan: &Plan<I, O>,
    tagged: bool,
    facts: bool,
) -> (Streams<'scope, T, E::Item, Tagged>, Rc<Cell<bool>>)
where
    T: EpochTime,
    V: 'static,
    I: Input,
    O: 'static,
    N: Intake<V, Key = K, Input = I> + 'static,
    E: Emission<K, O>,
    K: Key,
    Q: ParallelizationContract<T, Vec<Signal<K>>>,
{
    let environment = Environment::current();
    if signals.is_some() && environment.durable.is_some() && !plan.0.program.carry {
        environment.fail(cluster::Failure::usage(format!(
            "agent {}: with checkpoints an agent that has signals carries its runs, since a signal may come in a later \
             epoch than the input whose run waits for it: let it `carry`",
            plan.name()
        )));
    }
    if plan.0.program.carry && T::ORDER == TimeOrder::Partial {
        environment.fail(cluster::Failure::usage(format!(
            "agent {}: it carries its runs to later epochs, which times in a nested scope do not allow: use Hold there",
            plan.name()
        )));
    }
    let log_load = environment.durable.as_ref().and_then(|_| environment.log_load());
    let durable = environment.durable.clone();
    let registered = durable.as_ref().and_then(|durable| match durable.agent::<T, K, I, O>(plan) {
        Ok(registered) => Some(registered),
        Err(failure) => {
            environment.fail(failure);
            None
        }
    });
    let limits = plan.limits();
    let mut options = Options::new(plan.name(), environment.on_failure);
    options.limits = limits;
    options.groups = environment.groups;
    options.clock = environment.clock;
    options.tagged = tagged;
    options.facts = facts || durable.is_some();
    options.outlived = durable.is_some() && plan.0.program.carry;
    options.on_load = environment.on_load.map(|make| make(limits));
    options.on_end = Some(plan.run_stats());
    options.stop = environment.stop;
    let observed = Rc::new(Cell::new(false));
    let behavior = AgentBehavior::<K, I, O>::new(plan, environment.job, Rc::clone(&observed));
    let (log, restore, journal) =
        registered.map_or((None, None, None), |(r, journal)| (Some((r.number, r.log)), r.restore, Some(journal)));
    let resume = durable.as_ref().map_or(0, |durable| durable.resume());
    options.restore = restore.map(|restore| (resume, restore));
    options.journal = journal;
    let streams =
        keyed_mailbox_with_signals::<T, V, _, N, _, E, _, _>(stream, pact, signals, intake, behavior, options);
    if let (Some(durable), Some((number, log)), Some(facts)) = (durable, log, streams.facts.clone()) {
        gather(persist(facts, plan.name(), number, resume, log, log_load), durable.board());
    }
    (streams, observed)
}

/// The outputs of an agent and the facts of its memory. The facts port exists only in this form.
pub fn agent_with_facts<'scope, T: EpochTime, I: Input + ExchangeData, K: Key, O: 'static>(
    stream: StreamVec<'scope, T, I>,
    key: impl Fn(&I) -> &K + 'static,
    plan: &Plan<I, O>,
) -> (StreamVec<'scope, T, O>, StreamVec<'scope, T, Block<T>>) {
    let key = Rc::new(key);
    let pact = exchange_by(&stream, Rc::clone(&key));
    let intake = ByRef::new(key);
    let (streams, _) =
        build_with_facts::<T, I, I, O, _, Bare, K, _>(stream, pact, no_signals(), intake, plan, false, true);
    (streams.output, streams.facts.expect("asked for"))
}

/// What the keys of an agent remember, as differential collections.
pub struct AgentMemory<'scope, T: EpochTime, K> {
    facts: StreamVec<'scope, T, Block<T>>,
    program: Arc<dyn Places>,
    key: std::marker::PhantomData<fn() -> K>,
}

/// What an agent's memory has, without the agent's types.
trait Places {
    fn agent(&self) -> (&str, u32);
    /// The name of a slot that lasts.
    fn lasting(&self, column: u32) -> Option<&str>;
}

impl<O> Places for Program<O> {
    fn agent(&self) -> (&str, u32) {
        (&self.name, self.id)
    }

    fn lasting(&self, column: u32) -> Option<&str> {
        let slot = self.slots.get((column as usize).checked_sub(2)?)?;
        if slot.sensory { None } else { Some(&slot.name) }
    }
}

impl<'scope, T: EpochTime, K: Key + ExchangeData> AgentMemory<'scope, T, K> {
    /// Keys and what they remember in `slot`, as of the close of each epoch: a new value comes with the retraction of the
    /// old one. After a restart it begins with what was committed.
    ///
    /// The collection is where the keys are: on the worker that owns them, by this project's hash.
    ///
    /// # Panics
    /// When the slot is another agent's, or one for the length of a run.
    pub fn slot<V: Remembered + ExchangeData>(&self, slot: Slot<V>) -> VecCollection<'scope, T, (K, V), isize> {
        let (agent, id) = self.program.agent();
        assert_eq!(slot.agent, id, "a slot belongs to the agent that declared it");
        let name =
            self.program.lasting(slot.column).expect("sensory memory does not outlive a run: it is no collection");
        let environment = Environment::current();
        let durable = environment.durable;
        let resume = durable.as_ref().map_or(0, |durable| durable.resume());
        let restore = durable.and_then(|durable| durable.restore(agent));
        let (agent, on_failure) = (agent.to_owned(), environment.on_failure);
        let failed = move |message: String| {
            on_failure(&Failure {
                agent: agent.clone(),
                action: "memory".into(),
                key: String::new(),
                epoch: resume,
                message,
            });
        };
        let (facts, what) = (self.facts.clone(), What::slot(name));
        let updates: MemoryUpdates<'scope, T, K, V> = memory(facts, name, what, resume, restore, failed);
        updates.as_collection()
    }
}

/// A stream that carries a key beside each value, and knows whether values are with their key's owner.
///
/// An agent after an agent of the same key is chained: its values are neither exchanged nor hashed again.
pub struct KeyedStream<'scope, T: EpochTime, K: Key, V: 'static> {
    stream: StreamVec<'scope, T, (K, V)>,
    partitioned: bool,
}

impl<'scope, T: EpochTime, K: Key + ExchangeData, V: Input + ExchangeData> KeyedStream<'scope, T, K, V> {
    /// Runs an agent for each key.
    pub fn agent<O: 'static>(self, plan: &Plan<V, O>) -> KeyedStream<'scope, T, K, O> {
        KeyedStream { stream: self.build(plan, false).output, partitioned: true }
    }

    /// The same, with side outputs, dead letters and observed events.
    #[expect(clippy::type_complexity, reason = "the stream, and what stands beside it")]
    pub fn agent_streams<O: Clone + 'static>(
        self,
        plan: &Plan<V, O>,
    ) -> (KeyedStream<'scope, T, K, O>, AgentStreams<'scope, T, V, (K, O)>) {
        let streams = self.build(plan, true);
        (KeyedStream { stream: streams.output.clone(), partitioned: true }, streams)
    }

    /// The same with a second input, of signals; see [`AgentStream::agent_with_signals`].
    #[expect(clippy::type_complexity, reason = "the stream, and what stands beside it")]
    pub fn agent_with_signals<O: Clone + 'static>(
        self,
        signals: StreamVec<'scope, T, Signal<K>>,
        plan: &Plan<V, O>,
    ) -> (KeyedStream<'scope, T, K, O>, AgentStreams<'scope, T, V, (K, O)>) {
        let (groups, peers) = (Environment::current().groups, self.stream.scope().peers());
        // Also where values are with their owner: the exchange leaves them there.
        let pact = Exchange::new(move |item: &(K, V)| groups.owner_of(&item.0, peers) as u64);
        let signals = Some(exchanged(signals));
        let (streams, observed) = build_with_facts::<T, _, V, O, Paired, WithKey, K, _>(
            self.stream,
            pact,
            signals,
            Paired,
            plan,
            true,
            false,
        );
        let streams = AgentStreams::new(streams, observed, plan.0.program.id);
        (KeyedStream { stream: streams.output.clone(), partitioned: true }, streams)
    }

    fn build<O: 'static>(self, plan: &Plan<V, O>, tagged: bool) -> AgentStreams<'scope, T, V, (K, O)> {
        let (groups, scope) = (Environment::current().groups, self.stream.scope());
        let (index, peers) = (scope.index(), scope.peers());
        if self.partitioned {
            let intake = AtOwner { groups, index, peers };
            build::<_, _, _, _, _, WithKey, K>(self.stream, Pipeline, intake, plan, tagged)
        } else {
            let pact = Exchange::new(move |item: &(K, V)| groups.owner_of(&item.0, peers) as u64);
            build::<_, _, _, _, _, WithKey, K>(self.stream, pact, Paired, plan, tagged)
        }
    }
}

impl<'scope, T: EpochTime, K: Key, V: 'static> KeyedStream<'scope, T, K, V> {
    /// Changes values; keys and partitioning stay.
    pub fn map_values<W: 'static>(self, change: impl Fn(V) -> W + 'static) -> KeyedStream<'scope, T, K, W> {
        let stream = map_in_order(self.stream, move |(key, value)| (key, change(value)));
        KeyedStream { stream, partitioned: self.partitioned }
    }

    /// Computes other keys; values are exchanged before the next agent.
    pub fn key_by<L: Key>(self, key: impl Fn(&K, &V) -> L + 'static) -> KeyedStream<'scope, T, L, V> {
        let stream = map_in_order(self.stream, move |(k, value)| (key(&k, &value), value));
        KeyedStream { stream, partitioned: false }
    }

    /// The values without their keys.
    pub fn values(self) -> StreamVec<'scope, T, V> {
        map_in_order(self.stream, |(_, value)| value)
    }

    /// Keys and values.
    pub fn pairs(self) -> StreamVec<'scope, T, (K, V)> {
        self.stream
    }

    /// Whether values are with their key's owner: then an agent is chained without an exchange.
    pub fn is_partitioned(&self) -> bool {
        self.partitioned
    }
}

/// Values that are with their key's owner already; debug builds check it.
struct AtOwner {
    groups: KeyGroups,
    index: usize,
    peers: usize,
}

impl<K: Key, V> Intake<(K, V)> for AtOwner {
    type Key = K;
    type Input = V;

    #[inline]
    fn key<'a>(&'a self, item: &'a (K, V)) -> &'a K {
        debug_assert_eq!(self.groups.owner_of(&item.0, self.peers), self.index, "a chained value is with its owner");
        &item.0
    }

    #[inline]
    fn input(&self, item: (K, V)) -> V {
        item.1
    }
}
