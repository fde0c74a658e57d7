//! What is known of the calls of a job over all its lives: from the server's ledger, and from what actions were given.
//!
//! # Words
//! - A *life* is one start of the job up to its end or its kill.
//! - A call is *begun* in a life in which the server was asked, *taken* in one in which its action went on with the result.
//! - It is *in doubt* after a life in which it was begun and not taken: the result may be journaled, or not.
//! - It is *repeated* in a life in which it is begun, having been begun in an earlier one.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::Write;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::server::Asked;

/// A call by its place in the job.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub(crate) struct Tool {
    pub(crate) key: u64,
    /// The place among the inputs of the key.
    pub(crate) n: u64,
    pub(crate) call: u32,
}

/// A line of the server's ledger.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) enum Entry {
    Asked(Asked),
    Status { life: u64, key: String, found: bool },
}

/// What an action was given.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub(crate) struct Taken {
    pub(crate) life: u64,
    pub(crate) tool: Tool,
    pub(crate) act: u64,
}

impl Entry {
    pub(crate) fn append(&self, file: &mut impl Write) -> std::io::Result<()> {
        append(file, self)
    }
}

/// Appends a line by one write, which a kill does not cut.
pub(crate) fn append(file: &mut impl Write, line: &impl Serialize) -> std::io::Result<()> {
    let mut text = serde_json::to_string(line)?;
    text.push('\n');
    file.write_all(text.as_bytes())
}

/// All lines of a file that are whole; none if it is not there.
pub(crate) fn read<L: DeserializeOwned>(path: &str) -> Vec<L> {
    let text = fs::read_to_string(path).unwrap_or_default();
    let parse = |line: &str| serde_json::from_str(line).unwrap_or_else(|error| panic!("{path}: {line}: {error}"));
    text.split_inclusive('\n').filter(|line| line.ends_with('\n')).map(parse).collect()
}

/// One life of the job.
#[derive(Debug, Default)]
pub(crate) struct Life {
    pub(crate) begun: BTreeSet<Tool>,
    pub(crate) taken: BTreeSet<Tool>,
    pub(crate) in_doubt: BTreeSet<Tool>,
    pub(crate) repeated: BTreeSet<Tool>,
    /// Given a result, and not asked for in this life.
    pub(crate) replayed: BTreeSet<Tool>,
    /// How often a reconciler asked.
    pub(crate) reconciled: u64,
}

/// All lives of a job, from the first.
#[derive(Debug)]
pub(crate) struct Account {
    pub(crate) lives: BTreeMap<u64, Life>,
    /// The server's act for each call.
    pub(crate) acts: BTreeMap<Tool, u64>,
}

impl Account {
    /// Reads the ledger and what was taken, and makes sure of what must hold in any job:
    /// - a call has one key and one question, in all its lives, and a key is no other call's;
    /// - a call that was taken is not begun in a later life;
    /// - whoever is given a result is given that of the first act.
    pub(crate) fn read(dir: &str, what: &str) -> Self {
        // In this order: what is taken was asked for before.
        let (taken, ledger) = (read::<Taken>(&format!("{dir}/taken")), read::<Entry>(&format!("{dir}/ledger")));
        let mut lives = BTreeMap::<u64, Life>::new();
        let mut first = BTreeMap::<Tool, Asked>::new();
        let mut keys = BTreeMap::<String, (Tool, u64)>::new();
        for entry in ledger {
            let asked = match entry {
                Entry::Asked(asked) => asked,
                Entry::Status { life, .. } => {
                    lives.entry(life).or_default().reconciled += 1;
                    continue;
                }
            };
            let act = keys.len() as u64 + 1;
            let (tool, _) = *keys.entry(asked.key.clone()).or_insert((asked.tool, act));
            assert_eq!(tool, asked.tool, "{what}: a key goes to another call: {asked:?}");
            let before = first.entry(tool).or_insert_with(|| asked.clone());
            assert_eq!((&before.key, before.question), (&asked.key, asked.question), "{what}: changed: {asked:?}");
            lives.entry(asked.life).or_default().begun.insert(tool);
        }
        let acts: BTreeMap<Tool, u64> = keys.into_values().collect();
        for Taken { life, tool, act } in taken {
            assert_eq!(Some(&act), acts.get(&tool), "{what}: life {life}: {tool:?} was given another result");
            lives.entry(life).or_default().taken.insert(tool);
        }
        let (mut begun, mut taken) = (BTreeSet::new(), BTreeSet::new());
        for (number, life) in &mut lives {
            life.in_doubt = &life.begun - &life.taken;
            life.repeated = &life.begun & &begun;
            life.replayed = &life.taken - &life.begun;
            let twice: Vec<_> = life.repeated.intersection(&taken).collect();
            assert!(twice.is_empty(), "{what}: life {number} repeats what was over: {} {twice:?}", twice.len());
            begun.extend(&life.begun);
            taken.extend(&life.taken);
        }
        Account { lives, acts }
    }

    fn sum(&self, of: impl Fn(&Life) -> usize) -> usize {
        self.lives.values().map(of).sum()
    }

    pub(crate) fn in_doubt(&self) -> usize {
        self.sum(|life| life.in_doubt.len())
    }

    pub(crate) fn repeated(&self) -> usize {
        self.sum(|life| life.repeated.len())
    }

    pub(crate) fn replayed(&self) -> usize {
        self.sum(|life| life.replayed.len())
    }

    pub(crate) fn reconciled(&self) -> usize {
        self.sum(|life| life.reconciled as usize)
    }
}
