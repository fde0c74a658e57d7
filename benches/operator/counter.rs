//! Counting per key: `counter_u64`, `counter_record`, and how `counter_u64` scales over workers.
//!
//! # Workload
//! `counter_u64`: 10 million numbers, uniform over 1,000 or 1,000,000 keys, are their own keys. One sync action increments
//! a slot and outputs the number with the count. `counter_record`: 2 million records of about 100 bytes, a string key of
//! 12 among them, 1,000 keys; the output is a field of the record with the count. They are clones of 10,000 records.
//! Epochs of 10,000 inputs per worker, three of them under way.
//!
//! # Back-of-the-envelope limit
//! One worker moves a number through exchange, operator and sum, 16 bytes out, in 4 ns; hashing the key and counting in
//! caches adds 4 ns: 120 million inputs per second. With a million keys the table (16 bytes a key at 7/8 load, 32 MB) and
//! each column of memory lie beyond the second-level cache: a miss of 20–80 ns for each that is touched, many of them
//! under way at once where keys of a batch are looked up together. An agent touches the key index, the key's state and
//! the slot: three misses for the baseline's one. A record is cloned and dropped: two visits of the allocator and four
//! copies of 88 bytes on its way, about 40 ns; its key is hashed and compared, 10 ns: 15 to 20 million per second.
//!
//! # Baseline
//! A timely operator with a hash map from key to count and a hash function of one multiplication, behind an exchange on
//! a good hash of the key.

use serde::{Deserialize, Serialize};
use timely::worker::Worker;
use timely_agents::prelude::*;

use crate::baseline::{self, FastMap, WordHasher};
use crate::report::Row;
use crate::support::{Error, Lane, Pace, Scale, TURNS, Turns, compare, mix};

const PACE: Pace = Pace { epoch: 10_000, ahead: 3, rounds: 1 };

/// The agent of `counter_u64`.
pub(crate) fn plan() -> timely_agents::Plan<u64, (u64, u64)> {
    let mut agent = Agent::<u64, (u64, u64)>::new("counter");
    let seen = agent.memory::<u64>("seen");
    agent.on_input("count", move |value, ctx| {
        let n = ctx.update(seen, |n| {
            *n += 1;
            *n
        });
        ctx.output((*value, n));
        Ok(())
    });
    agent.build().expect("the agent is sound")
}

/// The agent's dataflow and the baseline's.
pub(crate) fn lanes(worker: &mut Worker) -> [Lane<u64>; 2] {
    let plan = plan();
    let value = |output: &(u64, u64)| mix(output.0) ^ output.1;
    [
        Lane::new(worker, |stream| stream.agent(|value: &u64| value, &plan), value),
        Lane::new(worker, baseline::count_values, value),
    ]
}

/// Uniform numbers below `keys`.
pub(crate) fn numbers(inputs: usize, worker: usize, keys: u64) -> Vec<u64> {
    let first = (inputs * worker) as u64;
    (first..first + inputs as u64).map(|n| ((u128::from(mix(n)) * u128::from(keys)) >> 64) as u64).collect()
}

fn count_u64(scale: Scale, workers: usize, keys: u64) -> Result<(Turns, usize), Error> {
    let inputs = scale.of(10_000_000, 20_000) / workers * workers;
    let data = move |worker| numbers(inputs / workers, worker, keys);
    Ok((compare(workers, TURNS, PACE, data, lanes)?, inputs))
}

pub(crate) fn counter_u64(scale: Scale) -> Result<Vec<Row>, Error> {
    let mut rows = Vec::new();
    let targets = [("1k_keys", 1000, 25e6, 0.25), ("1m_keys", 1_000_000, 6e6, 0.0)];
    for (name, keys, rate, ratio) in targets {
        for workers in [1, 2] {
            let (turns, inputs) = count_u64(scale, workers, keys)?;
            let (agent, bare) = turns.rates(inputs);
            let row = Row::new(format!("counter_u64/{name}"), workers, agent, bare);
            rows.push(if workers == 1 { row.at_least(rate, ratio) } else { row });
        }
    }
    Ok(rows)
}

/// From one worker to two, the fastest of five turns each: others use these cores as well.
pub(crate) fn scaling(scale: Scale) -> Result<Vec<Row>, Error> {
    let mut best = Vec::new();
    for workers in [1, 2] {
        let (turns, inputs) = count_u64(scale, workers, 1_000_000)?;
        best.push(turns.best(inputs));
    }
    let [one, two] = best[..] else {
        return Err("two measurements".into());
    };
    let (scaling, bare) = (two.0 / one.0, two.1 / one.1);
    Ok(vec![
        Row::new("exchange/scaling_1m_keys", 2, two.0, two.1)
            .ratio(scaling / bare)
            .also("scaling", scaling)
            .also("baseline_scaling", bare)
            .also("one_worker", one.0)
            .also("baseline_one_worker", one.1),
    ])
}

/// Records that are made and sent again and again, so that they come from a cache, as a source's do.
const POOL: usize = 10_000;

/// 12 bytes of key, 64 of numbers, and the string that holds the key.
#[derive(Clone, Serialize, Deserialize)]
struct Record {
    key: String,
    fields: [u64; 8],
}

fn records(inputs: usize, worker: usize) -> Vec<Record> {
    numbers(inputs, worker, 1000).into_iter().map(|n| Record { key: format!("key-{n:08}"), fields: [n; 8] }).collect()
}

fn hash(key: &str) -> u64 {
    use std::hash::Hasher;
    let mut hasher = WordHasher::default();
    hasher.write(key.as_bytes());
    mix(hasher.finish())
}

fn record_lanes(worker: &mut Worker) -> [Lane<Record>; 2] {
    let mut agent = Agent::<Record, (u64, u64)>::new("records");
    let seen = agent.memory::<u64>("seen");
    agent.on_input("count", move |record, ctx| {
        let n = ctx.update(seen, |n| {
            *n += 1;
            *n
        });
        ctx.output((record.fields[7], n));
        Ok(())
    });
    let plan = agent.build().expect("the agent is sound");
    let value = |output: &(u64, u64)| mix(output.0) ^ output.1;
    let mut counts = FastMap::<String, u64>::default();
    [
        Lane::new(worker, |stream| stream.agent(|record: &Record| &record.key, &plan), value),
        Lane::new(
            worker,
            move |stream| {
                baseline::keyed(
                    stream,
                    |record: &Record| hash(&record.key),
                    move |record: Record| {
                        let count = counts.entry_ref(record.key.as_str()).or_default();
                        *count += 1;
                        (record.fields[7], *count)
                    },
                )
            },
            value,
        ),
    ]
}

pub(crate) fn counter_record(scale: Scale) -> Result<Vec<Row>, Error> {
    let mut rows = Vec::new();
    for workers in [1, 2] {
        let data = move |worker| records(POOL / workers, worker);
        let rounds = scale.of(200, 1);
        let turns = compare(workers, TURNS, Pace { rounds, ..PACE }, data, record_lanes)?;
        let (agent, bare) = turns.rates(POOL * rounds);
        rows.push(Row::new("counter_record", workers, agent, bare).at_least(0.0, 0.5));
    }
    Ok(rows)
}
