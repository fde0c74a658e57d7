//! How keys come with inputs and go with outputs, resolved at compile time.

use std::marker::PhantomData;
use std::rc::Rc;

/// How an item of a stream gives its key and its input.
pub trait Intake<V> {
    /// The key.
    type Key;
    /// What a run is given.
    type Input;
    /// The key of an item.
    fn key<'a>(&'a self, item: &'a V) -> &'a Self::Key;
    /// The input of an item.
    fn input(&self, item: V) -> Self::Input;
}

/// The key lies in the value: selected by reference, never cloned.
pub struct ByRef<F, K> {
    select: Rc<F>,
    key: PhantomData<fn() -> K>,
}

impl<F, K> ByRef<F, K> {
    /// Keys that `select` finds in values.
    pub fn new(select: Rc<F>) -> Self {
        ByRef { select, key: PhantomData }
    }
}

impl<V, K, F: Fn(&V) -> &K> Intake<V> for ByRef<F, K> {
    type Key = K;
    type Input = V;

    #[inline]
    fn key<'a>(&'a self, item: &'a V) -> &'a K {
        (self.select)(item)
    }

    #[inline]
    fn input(&self, item: V) -> V {
        item
    }
}

/// The key stands beside the value.
pub struct Paired;

impl<K, V> Intake<(K, V)> for Paired {
    type Key = K;
    type Input = V;

    #[inline]
    fn key<'a>(&'a self, item: &'a (K, V)) -> &'a K {
        &item.0
    }

    #[inline]
    fn input(&self, item: (K, V)) -> V {
        item.1
    }
}

/// What an output becomes on the output port.
pub trait Emission<K, O>: 'static {
    /// Items of the port.
    type Item: 'static;
    /// Whether items need the key of their run.
    const KEYED: bool;
    /// Makes an item of one output.
    fn item(key: &K, output: O) -> Self::Item;
    /// Takes outputs that are items already. Called only where `KEYED` is false.
    fn swap(outputs: &mut Vec<O>, items: &mut Vec<Self::Item>);
}

/// Outputs go as they are.
pub struct Bare;

impl<K, O: 'static> Emission<K, O> for Bare {
    type Item = O;
    const KEYED: bool = false;

    fn item(_: &K, output: O) -> O {
        output
    }

    #[inline]
    fn swap(outputs: &mut Vec<O>, items: &mut Vec<O>) {
        std::mem::swap(outputs, items);
    }
}

/// Outputs go with the key of their run.
pub struct WithKey;

impl<K: Clone + 'static, O: 'static> Emission<K, O> for WithKey {
    type Item = (K, O);
    const KEYED: bool = true;

    fn item(key: &K, output: O) -> (K, O) {
        (key.clone(), output)
    }

    fn swap(_: &mut Vec<O>, _: &mut Vec<(K, O)>) {
        unreachable!("keyed outputs are taken run by run")
    }
}
