//! A run that is brought to begin again, in a harness of its own.

use std::collections::BTreeMap;

use serde_json::Value;
use timely_agents_operators::behavior::notification_digest;
use timely_agents_operators::cluster::Failure;
use timely_agents_operators::fact::{FactRef, What};
use timely_agents_operators::hash::stable_hash;
use timely_agents_operators::journal::{Note as StoredNote, Written};
use timely_agents_operators::keys::Key;
use timely_agents_operators::time::EpochTime;

use super::Agent;
use crate::agent::Input;
use crate::journal::encode;
use crate::notes::{Body, Note};
use crate::record::About;
use crate::testing::Harness;

/// What a key remembers.
pub(super) type Memory = BTreeMap<What, Vec<u8>>;

/// What there has to be.
pub(super) struct Again<'a, T> {
    pub(super) sequence: u64,
    /// Of what it is about.
    pub(super) time: &'a T,
    pub(super) about: &'a About,
    /// The clock when it began, and to where it is set.
    pub(super) began: u64,
    pub(super) until: u64,
    /// Whether the input had ended when it began.
    pub(super) ended: bool,
    /// What its key remembered then.
    pub(super) found: &'a Memory,
    /// What its journal is known by, and the notes in it.
    pub(super) journal: Option<(u64, Vec<Vec<u8>>)>,
}

impl<T: EpochTime> Again<'_, T> {
    /// The harness in which the run begins with the next step.
    pub(super) fn harness<K: Key, I: Input, O: 'static>(
        self,
        agent: &Agent<'_, I, O>,
        bytes: &[u8],
        shown: &Value,
    ) -> Result<Harness<K, I, O, T>, Failure> {
        let Again { sequence, time, about, began, until, ended, found, journal } = self;
        let plan = agent.plan;
        let wrong = |error: postcard::Error| Failure::data(format!("key {shown}, run {sequence}: {error}"));
        let key: K = postcard::from_bytes(bytes).map_err(wrong)?;
        let epoch = time.epoch();
        let mut facts = found.clone();
        facts.insert(What::Sequence, encode(&(sequence - 1)));
        let (input, digest) = match about {
            About::Input(input) => {
                let input = postcard::from_bytes::<I>(input).map_err(wrong)?;
                let digest = plan.0.digest(&input);
                (Some(input), digest)
            }
            About::Notification(epoch) => {
                facts.insert(What::Notification(*epoch), encode(time));
                (None, notification_digest(*epoch))
            }
            About::Scheduled(event) => {
                let due = encode(&(began, event));
                facts.insert(What::Timer(0), encode(&(time, due)));
                (None, stable_hash(event))
            }
        };
        let notes = journal.into_iter().flat_map(|(journal, bodies)| {
            let note = move |body| Written { sequence, digest, journal, begun: Vec::new(), body };
            bodies.into_iter().map(note)
        });
        let notes = notes.map(|written| StoredNote {
            component: 0,
            group: 0,
            epoch,
            key: bytes.to_vec(),
            bytes: encode(&written),
        });
        let harness = Harness::<K, I, O, T>::over_time(plan, move |_: &I| key.clone())
            .map_err(|failure| Failure::data(format!("agent {}: {}", failure.agent, failure.message)))?;
        let harness = harness.in_job(agent.job).outside(notes.collect()).restored_by(epoch, |take| {
            let mut facts = facts.iter();
            facts.try_for_each(|(what, value)| {
                take(&FactRef { group: 0, key: bytes, what: what.clone(), value: Some(value) })
            })
        });
        let mut harness = harness.map_err(|failure| Failure::data(failure.message))?;
        harness.show_results();
        harness.stand_at(until);
        match (about, input) {
            (_, Some(input)) => {
                harness.push_at(time.clone(), input);
                harness.close_if_sequenced(plan, epoch);
            }
            (About::Notification(_), None) => harness.advance(epoch.saturating_add(1)),
            (_, None) => {}
        }
        if ended {
            harness.let_input_seem_over();
        }
        Ok(harness)
    }
}

/// A journal of one note.
pub(super) fn journal(id: Option<u64>, began: u64, script: Vec<Note>) -> Option<(u64, Vec<Vec<u8>>)> {
    let id = id.filter(|_| !script.is_empty())?;
    Some((id, vec![encode(&Body { start: 0, began, from: 0, notes: script })]))
}

/// The clock of the last of these notes, from `least` on.
pub(super) fn last_clock<'n>(least: u64, notes: impl Iterator<Item = &'n Note>) -> u64 {
    let clocks = notes.filter_map(|note| match note {
        Note::Turn { now, .. } => Some(*now),
        Note::Given { at, .. } => Some(*at),
        Note::LeftFrom { .. }
        | Note::Left { .. }
        | Note::Failed { .. }
        | Note::Stopped { .. }
        | Note::Action { .. } => None,
    });
    clocks.fold(least, u64::max)
}
