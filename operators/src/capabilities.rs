//! Capabilities for unfinished work: one per output port and minimal open time (rule S5).
//!
//! # Invariants
//! - For each open time there is, on each port, a held capability at or before it.
//! - Capabilities are made from an input's or another held one, and given up only when
//!   [`OpenWork`](crate::open_work::OpenWork) says that their time is over; no error path drops one.
//!
//! Capabilities are `Rc`: they never leave the worker and enter no future.

use std::borrow::Cow;

use timely::dataflow::operators::{Capability, InputCapability};

use crate::time::EpochTime;

/// What one operator holds.
pub struct Held<T: EpochTime> {
    /// By port, then one per minimal open time.
    ports: Vec<(usize, Vec<Capability<T>>)>,
}

impl<T: EpochTime> Held<T> {
    /// Nothing held yet, on the output ports `ports`.
    pub fn new(ports: impl IntoIterator<Item = usize>) -> Self {
        Held { ports: ports.into_iter().map(|port| (port, Vec::new())).collect() }
    }

    /// Makes sure that work may be done at the time of `input`.
    #[inline]
    pub fn retain(&mut self, input: &InputCapability<T>) {
        for (port, held) in &mut self.ports {
            if !held.iter().any(|h| h.time().less_equal(input.time())) {
                held.push(input.retain(*port));
            }
        }
    }

    /// Takes on work at `minimal` times that was there from the start, by the capabilities that an operator begins with.
    pub fn adopt(&mut self, initial: &[Capability<T>], minimal: &[T]) {
        for (port, held) in &mut self.ports {
            held.extend(minimal.iter().map(|time| initial[*port].delayed(time)));
        }
    }

    /// A capability of `port` for output at `time`, which is an open time.
    pub fn at(&self, port: usize, time: &T) -> Cow<'_, Capability<T>> {
        let held = self
            .ports
            .iter()
            .filter(|(p, _)| *p == port)
            .find_map(|(_, held)| held.iter().find(|h| h.time().less_equal(time)))
            .expect("a capability is held for every open time");
        // Another one would have to be counted up and down again.
        if held.time() == time { Cow::Borrowed(held) } else { Cow::Owned(held.delayed(time)) }
    }

    /// Lowers what is held to `minimal`, the least open times; none when nothing is open.
    pub fn settle(&mut self, minimal: &[T]) {
        for (_, held) in &mut self.ports {
            if let ([one], [time]) = (&mut held[..], minimal) {
                if one.time() != time {
                    one.downgrade(time);
                }
                continue;
            }
            if minimal.is_empty() {
                held.clear();
                continue;
            }
            let next = minimal
                .iter()
                .map(|time| {
                    held.iter()
                        .find(|h| h.time().less_equal(time))
                        .expect("a capability is held for every open time")
                        .delayed(time)
                })
                .collect();
            *held = next;
        }
    }
}
