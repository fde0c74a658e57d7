//! A manifest: all that a checkpoint consists of, by name (rule D3).
//!
//! # Invariants
//! - It is whole: who has it and the files that it names needs nothing else to go on.
//! - A fact counts if it lies within its segment's length and its epoch is at or above the base's frontier, below the
//!   manifest's, and below the segment's own.
//! - A group's digest is the sum over the facts that count and are not in the base.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::ack::Publication;

/// All that a checkpoint consists of, by name.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Manifest {
    /// The job.
    pub job: String,
    /// The generation that wrote it.
    pub generation: u64,
    /// All epochs below are in it, and none from it on; `None` when the job is complete.
    pub frontier: Option<u64>,
    /// The number of key groups.
    pub groups: u32,
    /// What has facts.
    pub components: Vec<Component>,
    /// The sources, and where each would go on.
    pub sources: BTreeMap<String, SourcePosition>,
    /// The sinks.
    pub sinks: Vec<String>,
    /// What has to be done, now or after a restart, for its outputs to be visible.
    pub publications: Vec<Publication>,
    /// What the logs add to.
    pub base: Option<SnapshotRef>,
    /// The logs, in the order in which they are read.
    pub segments: Vec<SegmentRef>,
    /// By component and group.
    pub digests: BTreeMap<u32, BTreeMap<u32, u64>>,
}

/// What has facts: an agent or a collection.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Component {
    /// What records call it; fixed when it is first seen.
    pub number: u32,
    /// Its name, unique in the job.
    pub name: String,
    /// What it is.
    pub kind: ComponentKind,
    /// The format of its keys.
    pub key: String,
    /// What its facts can be of, such as slots and inputs.
    pub parts: Vec<Part>,
    /// Anything else that belongs to it; not compared.
    pub description: Vec<u8>,
}

/// What a [`Component`] is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum ComponentKind {
    /// An agent.
    Agent,
    /// A collection.
    Collection,
}

impl ComponentKind {
    fn name(self) -> &'static str {
        match self {
            ComponentKind::Agent => "agent",
            ComponentKind::Collection => "collection",
        }
    }
}

/// A slot, or another thing whose values have one format.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Part {
    /// Its name, unique in the component.
    pub name: String,
    /// What facts call it.
    pub id: u32,
    /// The format of its values.
    pub format: String,
}

/// Where a source goes on.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum SourcePosition {
    /// At its start: it has not told of any other place.
    #[default]
    Start,
    /// At this place, in the reader's own terms.
    At(Vec<u8>),
    /// It has nothing left, and never will.
    Ended,
}

/// The snapshot that a checkpoint starts from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SnapshotRef {
    /// The generation that wrote it.
    pub generation: u64,
    /// Its number in that generation.
    pub number: u32,
    /// Its length.
    pub length: u64,
    /// The facts of all epochs below are in it.
    pub frontier: u64,
}

/// A part of a log.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SegmentRef {
    /// The generation that wrote it.
    pub generation: u64,
    /// The process that wrote it.
    pub process: u32,
    /// Its number.
    pub segment: u32,
    /// The length up to which it counts.
    pub length: u64,
    /// Its facts of epochs from here on do not count: a later generation did them again.
    pub below: Option<u64>,
}

impl SegmentRef {
    pub(crate) fn id(&self) -> (u64, u32, u32) {
        (self.generation, self.process, self.segment)
    }
}

/// What a program consists of, to be held against a checkpoint.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Shape {
    /// The number of key groups.
    pub groups: u32,
    /// Agents and collections; their numbers do not matter.
    pub components: Vec<Component>,
    /// The names of sources.
    pub sources: Vec<String>,
    /// The names of sinks.
    pub sinks: Vec<String>,
}

impl Manifest {
    /// Where a job begins that has no checkpoint.
    pub(crate) fn empty(job: &str, groups: u32) -> Self {
        Manifest {
            job: job.to_owned(),
            generation: 0,
            frontier: Some(0),
            groups,
            components: Vec::new(),
            sources: BTreeMap::new(),
            sinks: Vec::new(),
            publications: Vec::new(),
            base: None,
            segments: Vec::new(),
            digests: BTreeMap::new(),
        }
    }

    /// The component of that name.
    pub fn component(&self, name: &str) -> Option<&Component> {
        self.components.iter().find(|component| component.name == name)
    }

    /// Whether a fact of `epoch` in `segment` counts and is not in the base.
    pub(crate) fn counts(&self, segment: &SegmentRef, epoch: u64) -> bool {
        self.base.as_ref().is_none_or(|base| base.frontier <= epoch)
            && self.frontier.is_none_or(|frontier| epoch < frontier)
            && segment.below.is_none_or(|below| epoch < below)
    }

    /// What in a program does not match what is stored. New agents, collections, slots, sources and sinks are fine.
    pub fn differences(&self, program: &Shape) -> Vec<String> {
        let mut found = Vec::new();
        if self.groups != program.groups {
            found.push(format!(
                "it has {} key groups and the checkpoint {}, which are fixed for the life of a job",
                program.groups, self.groups
            ));
        }
        for stored in &self.components {
            let what = format!("{} `{}`", stored.kind.name(), stored.name);
            let Some(now) = program.components.iter().find(|now| now.name == stored.name) else {
                found.push(format!("the checkpoint has facts of {what}, which is missing or has another name now"));
                continue;
            };
            if now.kind != stored.kind {
                found.push(format!("{what} is a different thing now, namely a {}", now.kind.name()));
            }
            if now.key != stored.key {
                found.push(format!("the keys of {what} are now `{}`, and were `{}`", now.key, stored.key));
            }
            for part in &stored.parts {
                match now.parts.iter().find(|other| other.name == part.name) {
                    None => found.push(format!("{what} has no `{}` any more", part.name)),
                    Some(other) if other.format != part.format => found.push(format!(
                        "`{}` of {what} is now `{}`, and was `{}`",
                        part.name, other.format, part.format
                    )),
                    Some(other) if other.id != part.id => {
                        found.push(format!("`{}` of {what} has another id now", part.name));
                    }
                    Some(_) => {}
                }
            }
        }
        let lost = |kind, stored: &str, now: &[String]| {
            (!now.iter().any(|name| name == stored))
                .then(|| format!("the {kind} `{stored}` of the checkpoint is missing or has another name now"))
        };
        found.extend(self.sources.keys().filter_map(|source| lost("source", source, &program.sources)));
        found.extend(self.sinks.iter().filter_map(|sink| lost("sink", sink, &program.sinks)));
        found
    }

    /// The manifest from which `generation` of a program goes on after this one.
    pub(crate) fn resumed(mut self, generation: u64, program: &Shape) -> Self {
        self.generation = generation;
        for segment in &mut self.segments {
            // What lies above the frontier is about to be done again.
            segment.below = match (segment.below, self.frontier) {
                (Some(below), Some(frontier)) => Some(below.min(frontier)),
                (below, frontier) => below.or(frontier),
            };
        }
        for now in &program.components {
            let next = self.components.iter().map(|component| component.number + 1).max().unwrap_or(0);
            match self.components.iter_mut().find(|stored| stored.name == now.name) {
                Some(stored) => *stored = Component { number: stored.number, ..now.clone() },
                None => self.components.push(Component { number: next, ..now.clone() }),
            }
        }
        for source in &program.sources {
            self.sources.entry(source.clone()).or_default();
        }
        for sink in &program.sinks {
            if !self.sinks.contains(sink) {
                self.sinks.push(sink.clone());
            }
        }
        self
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    pub(crate) fn shape() -> Shape {
        let part = |name: &str, id, format: &str| Part { name: name.into(), id, format: format.into() };
        Shape {
            groups: 4,
            components: vec![Component {
                number: 0,
                name: "patient".into(),
                kind: ComponentKind::Agent,
                key: "u64".into(),
                parts: vec![part("state", 7, "State"), part("input", 0, "Row")],
                description: Vec::new(),
            }],
            sources: vec!["rows".into()],
            sinks: vec!["report".into()],
        }
    }

    #[test]
    fn what_no_longer_fits_is_named_all_at_once() {
        let stored = Manifest::empty("job", 4).resumed(1, &shape());
        assert_eq!(stored.differences(&shape()), [""; 0]);
        let mut wrong = Shape { groups: 8, sources: vec![], sinks: vec!["other".into()], ..shape() };
        wrong.components[0].key = "String".into();
        wrong.components[0].parts[0].format = "OldState".into();
        wrong.components[0].parts.pop();
        assert_eq!(
            stored.differences(&wrong),
            [
                "it has 8 key groups and the checkpoint 4, which are fixed for the life of a job",
                "the keys of agent `patient` are now `String`, and were `u64`",
                "`state` of agent `patient` is now `OldState`, and was `State`",
                "agent `patient` has no `input` any more",
                "the source `rows` of the checkpoint is missing or has another name now",
                "the sink `report` of the checkpoint is missing or has another name now",
            ]
        );
        wrong = shape();
        wrong.components[0].name = "person".into();
        let renamed = "the checkpoint has facts of agent `patient`, which is missing or has another name now";
        assert_eq!(stored.differences(&wrong), [renamed]);
    }

    #[test]
    fn what_is_new_is_added_and_keeps_its_number() {
        let stored = Manifest::empty("job", 4).resumed(1, &shape());
        let mut more = shape();
        let first = more.components[0].clone();
        more.components.insert(0, Component { name: "before".into(), ..first });
        more.components[1].parts.push(Part { name: "new".into(), id: 9, format: "u8".into() });
        more.sources.push("more".into());
        assert_eq!(stored.differences(&more), [""; 0]);
        let resumed = stored.resumed(2, &more);
        let numbers: Vec<_> = resumed.components.iter().map(|c| (c.name.as_str(), c.number, c.parts.len())).collect();
        assert_eq!(numbers, [("patient", 0, 3), ("before", 1, 2)]);
        assert_eq!(resumed.sources.len(), 2);
    }
}
