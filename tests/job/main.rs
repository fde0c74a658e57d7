//! Jobs: how they end, and what they leave behind.
#![allow(clippy::unwrap_used, reason = "a test that unwraps in vain has failed")]

mod checkpoints;
mod signals;

use std::fs;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use timely::dataflow::operators::vec::Map;
use timely::dataflow::operators::{Enter, Leave};
use timely_agents::cluster::{ClusterConfig, Failure, FailureKind};
use timely_agents::prelude::*;
use timely_agents::{Arguments, Plan, Program, execute, execute_from_args};

/// An agent that fails at 13, and counts the workers that open and close it.
fn superstitious(opened: &Arc<AtomicUsize>, closed: &Arc<AtomicUsize>) -> Plan<u64, u64> {
    let (opened, closed) = (Arc::clone(opened), Arc::clone(closed));
    let mut agent = Agent::<u64, u64>::new("superstitious");
    agent.on_open(move |_| {
        opened.fetch_add(1, Ordering::SeqCst);
        Ok(())
    });
    agent.on_close(move |_| {
        closed.fetch_add(1, Ordering::SeqCst);
    });
    agent.on_input("pass", |n, ctx| {
        if *n == 13 {
            return Err(timely_agents::Error::new("thirteen"));
        }
        ctx.output(*n);
        Ok(())
    });
    agent.build().expect("a valid agent")
}

fn run(workers: usize, last: u64, path: &std::path::Path) -> (Result<Vec<()>, Failure>, usize, usize) {
    let (opened, closed) = (Arc::default(), Arc::default());
    let plan = superstitious(&opened, &closed);
    let path = path.to_owned();
    let outcome = execute(&ClusterConfig::single(workers), move |worker, job| {
        worker.dataflow::<u64, _, _>(|scope| {
            job.source(scope, "numbers", Records::from((0..last).map(|n| (n / 10, n))))?.agent(|n| n, &plan).sink(
                job,
                "passed",
                JsonLines::file(&path),
            )?;
            Ok(())
        })
    });
    (outcome, opened.load(Ordering::SeqCst), closed.load(Ordering::SeqCst))
}

#[test]
fn a_source_is_read_once_and_outputs_appear_at_success() {
    let place = tempfile::tempdir().expect("a directory");
    let path = place.path().join("{process}.json");
    let (outcome, opened, closed) = run(3, 12, &path);
    outcome.expect("no failure");
    assert_eq!((opened, closed), (3, 3));
    let text = fs::read_to_string(place.path().join("0.json")).expect("the output");
    let mut numbers: Vec<u64> = text.lines().map(|line| line.parse().expect("a number")).collect();
    numbers.sort_unstable();
    assert_eq!(numbers, (0..12).collect::<Vec<u64>>());
}

#[test]
fn a_failed_job_closes_the_agents_of_all_workers_and_leaves_no_file() {
    let place = tempfile::tempdir().expect("a directory");
    let (outcome, opened, closed) = run(3, 10_000, &place.path().join("out.json"));
    let failure = outcome.expect_err("13 is refused");
    assert_eq!(failure.kind(), FailureKind::Data);
    assert!(failure.message().contains("superstitious") && failure.message().contains("thirteen"), "{failure}");
    assert_eq!((opened, closed), (3, 3));
    assert_eq!(fs::read_dir(place.path()).expect("the directory").count(), 0);
}

#[test]
fn a_job_whose_construction_fails_closes_what_was_opened() {
    let (opened, closed) = (Arc::default(), Arc::default());
    let plan = superstitious(&opened, &closed);
    let outcome = execute(&ClusterConfig::single(2), move |worker, job| {
        worker.dataflow::<u64, _, _>(|scope| {
            job.source(scope, "numbers", Records::from([(0, 1)]))?.agent(|n| n, &plan);
            job.source(scope, "missing", Csv::file("/no/such/file").epoch(|row: &Row| row.n))?;
            Ok(())
        })
    });
    let failure = outcome.expect_err("no such file");
    assert!(failure.message().contains("/no/such/file"), "{failure}");
    assert_eq!((opened.load(Ordering::SeqCst), closed.load(Ordering::SeqCst)), (2, 2));
}

#[derive(serde::Deserialize)]
struct Row {
    n: u64,
}

#[test]
fn a_wrong_command_line_is_a_usage_failure() {
    let start = |args: &[&str]| {
        let args: Vec<String> = args.iter().map(ToString::to_string).collect();
        execute_from_args(args, |worker, _| Ok(worker.index()))
    };
    for (args, named) in [
        (&["job", "-w", "0"][..], "-w 0"),
        (&["job", "--blocking-threads", "0"], "--blocking-threads 0"),
        (&["job", "--async-threads", "many"], "--async-threads many"),
        (&["job", "--input", "x"], "--input"),
        (&["job", "stray"], "stray"),
    ] {
        let failure = start(args).expect_err(named);
        assert_eq!(failure.exit_code(), 2);
        assert!(failure.message().contains(named), "{failure}");
    }
    assert_eq!(start(&["job", "-w", "2"]), Ok(vec![0, 1]));
}

#[test]
fn a_program_may_take_the_name_report() {
    let program = Program::new("p").option("report", "FILE", "a report");
    let arguments: Arguments = program.parse(["--report", "a.csv", "-r"]).expect("both are known").expect("no help");
    assert_eq!(arguments.value("report").as_deref(), Some("a.csv"));
    assert!(arguments.config().report);
    assert!(program.help().contains("--report FILE"));
}

#[test]
fn several_files_are_shared_out_over_the_workers() {
    let place = tempfile::tempdir().expect("a directory");
    let path = place.path().join("out.json");
    let files: Vec<_> = (0..5).map(|i| place.path().join(format!("{i}.json"))).collect();
    for (i, file) in files.iter().enumerate() {
        fs::write(file, format!("{{\"n\":{i}}}\n{{\"n\":{}}}\n", i + 10)).expect("a file");
    }
    let out = path.clone();
    execute(&ClusterConfig::single(2), move |worker, job| {
        worker.dataflow::<u64, _, _>(|scope| {
            let readers = files.iter().map(|file| JsonLines::read(file).epoch(|row: &Row| row.n));
            let rows = job.sources(scope, "files", readers)?;
            rows.map(|row| row.n).sink(job, "rows", JsonLines::file(&out))?;
            Ok(())
        })
    })
    .expect("no failure");
    let text = fs::read_to_string(path).expect("the output");
    let mut numbers: Vec<u64> = text.lines().map(|line| line.parse().expect("a number")).collect();
    numbers.sort_unstable();
    assert_eq!(numbers, (0..5).chain(10..15).collect::<Vec<u64>>());
}

#[test]
fn records_go_on_at_their_place() {
    use timely_agents::source::Reader;

    let rows = [(1, 'a'), (1, 'b'), (2, 'c')];
    let mut first = Records::from(rows);
    first.next().expect("a record");
    first.next().expect("a record");
    let position = first.position().expect("a position");
    let mut again = Records::from(rows);
    again.seek(&position).expect("it is there");
    assert_eq!(again.next(), Ok(Some((1, 'b'))));
    assert!(Records::from([(0, 'x')]).seek(&7_u64.to_le_bytes()).is_err());
    assert!(Records::from(rows).seek(&[1]).is_err());
}

#[test]
fn comma_separated_lines_have_one_header_and_can_be_read_again() {
    #[derive(Clone, Debug, serde::Deserialize, serde::Serialize, PartialEq)]
    struct Flight {
        day: u64,
        tail: String,
        delay: Option<i32>,
    }
    let flight = |day, tail: &str, delay| Flight { day, tail: tail.to_owned(), delay };
    let flights = [flight(1, "N1", Some(-3)), flight(2, "a,\"b\"\n", None), flight(2, "", Some(0))];
    let place = tempfile::tempdir().expect("a directory");
    let (first, second) = (place.path().join("first.csv"), place.path().join("second.csv"));
    for input in [None, Some(first.clone())] {
        let (rows, path) = (flights.clone(), if input.is_none() { first.clone() } else { second.clone() });
        execute(&ClusterConfig::single(2), move |worker, job| {
            worker.dataflow::<u64, _, _>(|scope| {
                let rows = match &input {
                    None => job.source(scope, "rows", Records::from(rows.clone().map(|row| (row.day, row))))?,
                    Some(input) => job.source(scope, "rows", Csv::file(input).epoch(|row: &Flight| row.day))?,
                };
                rows.sink(job, "flights", timely_agents::CsvLines::file(&path))?;
                Ok(())
            })
        })
        .expect("no failure");
    }
    let text = fs::read_to_string(first).expect("the output");
    assert_eq!(text, "day,tail,delay\n1,N1,-3\n2,\"a,\"\"b\"\"\n\",\n2,,0\n");
    assert_eq!(fs::read_to_string(second).expect("the output"), text);
}

#[test]
fn parts_are_refused_without_checkpoints() {
    let outcome = execute(&ClusterConfig::single(1), |worker, job| {
        worker.dataflow::<u64, _, _>(|scope| {
            job.source(scope, "numbers", Records::from([(0, 1)]))?.sink(job, "parts", JsonLines::parts("/tmp/x"))?;
            Ok(())
        })
    });
    let failure = outcome.expect_err("no commits");
    assert_eq!(failure.kind(), FailureKind::Usage);
    assert!(failure.message().starts_with("parts: output /tmp/x: parts appear with commits"), "{failure}");
}

#[test]
fn an_agent_that_carries_is_refused_in_a_nested_scope() {
    let mut agent = Agent::<u64, u64>::new("carrying");
    agent.carry();
    agent.on_input("pass", |n, ctx| {
        ctx.output(*n);
        Ok(())
    });
    let plan = agent.build().expect("a valid agent");
    let outcome = execute(&ClusterConfig::single(1), move |worker, job| {
        worker.dataflow::<u64, _, _>(|scope| {
            let numbers = job.source(scope, "numbers", Records::from([(0, 1u64)]))?;
            scope.iterative::<u32, _, _>(|inner| numbers.enter(inner).agent(|n| n, &plan).leave(scope));
            Ok(())
        })
    });
    let failure = outcome.expect_err("a loop cannot be carried");
    assert!(failure.message().contains("carrying") && failure.message().contains("nested"), "{failure}");
    assert_eq!(failure.exit_code(), 2);
}
