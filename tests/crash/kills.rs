//! Kills at random moments between the first commit and the last, and again while the job recovers.
//!
//! `CRASH_KILLS` is how many, `CRASH_SEED` where the random numbers begin. For each kill a line tells what was committed
//! and what was not; kills that find nothing uncommitted test little, so as many as make up most must find something.

use std::collections::BTreeSet;
use std::time::Duration;

use timely_agents::clock::Clock;

use crate::flights::{self, Committed, Expected, JANUARY, committed};
use crate::process::{Job, ONE, Random, Shape, TWO_PROCESSES, TWO_WORKERS, number, pass, wait_for, workers};

const SHAPES: [Shape; 4] = [ONE, TWO_WORKERS, TWO_PROCESSES, Shape { processes: 1, workers: 3 }];

fn job() -> Job {
    let mut job = flights::job(JANUARY);
    job.option("--open-epochs", &4);
    job.option("--advisor-latency", &5);
    // A slow disk: otherwise an epoch is committed almost as soon as it is staged.
    job.launch = job.launch.with("FAILPOINTS", "commit.manifest.before=pause50");
    job
}

/// What a kill found.
struct Found {
    committed: Committed,
    /// Epochs that are staged and not committed, and their lines.
    open: usize,
    staged: usize,
}

impl Found {
    fn text(&self) -> String {
        let Found { committed, open, staged } = self;
        format!("committed: {committed:?}, {open} epochs open with {staged} lines staged")
    }
}

fn look(job: &Job) -> Found {
    let committed = committed(job);
    let frontier = committed.frontier().unwrap_or(u64::MAX);
    let staged = job.staged("out/alerts");
    let open = staged.iter().filter(|(epoch, lines)| *lines > 0 && *epoch >= frontier);
    let epochs: BTreeSet<u64> = open.clone().map(|(epoch, _)| *epoch).collect();
    Found { committed, open: epochs.len(), staged: open.map(|(_, lines)| lines).sum() }
}

/// From the first commit to the end, without a crash.
fn span(expected: &Expected, shape: Shape) -> Duration {
    let clock = Clock::system();
    let job = job();
    let mut cluster = job.start(shape);
    wait_for("the first commit", || cluster.has_ended() || job.published("out/alerts") > 0);
    let first = clock.now();
    cluster.assert_success("without a crash");
    flights::assert_complete(&job, expected, "without a crash");
    Duration::from_micros(clock.now() - first)
}

fn random_kills(kills: u64, seed: u64) {
    let expected = Expected::of(JANUARY);
    let mut random = Random(seed);
    let mut spans = SHAPES.map(|shape| span(&expected, shape));
    let (mut killed, mut in_flight, mut recovering, mut late) = (0, 0, 0, 0);
    // Of those that are not in recovery; of a few kills most are not.
    let enough = (kills / 2).max(8);
    while killed < kills || in_flight < enough {
        assert!(killed < 10 * kills.max(10), "{in_flight} of {killed} kills, {recovering} in recovery, found work");
        let job = job();
        let n = random.below(SHAPES.len() as u64) as usize;
        let what = format!("seed {seed}, after {killed} kills, {:?}", SHAPES[n]);
        let mut cluster = job.start(SHAPES[n]);
        wait_for("the first commit", || cluster.has_ended() || job.published("out/alerts") > 0);
        pass(Duration::from_micros(random.below(spans[n].as_micros() as u64 * 9 / 10)));
        if cluster.has_ended() {
            cluster.assert_success(&what);
            late += 1;
            // The machine has become faster, or was slower for the measurement.
            spans[n] = spans[n] * 3 / 4;
            assert!(late <= 20 + kills / 2, "{late} of {killed} kills came when all was done");
            continue;
        }
        cluster.kill();
        killed += 1;
        let found = look(&job);
        in_flight += u64::from(found.staged > 0);
        println!("kill {killed} {:?}: {}", SHAPES[n], found.text());
        // Again, shortly after a start.
        while random.below(3) == 0 {
            let n = random.below(SHAPES.len() as u64) as usize;
            let mut cluster = job.start(SHAPES[n]);
            pass(Duration::from_micros(random.below(150_000)));
            if cluster.has_ended() {
                break;
            }
            cluster.kill();
            killed += 1;
            recovering += 1;
            println!("kill {killed} in recovery {:?}: {}", SHAPES[n], look(&job).text());
        }
        job.start(workers(1 + random.below(3) as usize)).assert_success(&what);
        flights::assert_complete(&job, &expected, &what);
    }
    println!(
        "kills: {killed}, of them {recovering} in recovery; of the others {in_flight} with lines staged and not \
         committed; {late} came too late and do not count"
    );
}

#[test]
fn random_kills_change_nothing_in_the_end() {
    random_kills(number("CRASH_KILLS", 10), number("CRASH_SEED", 1));
}
