//! Expenses that a policy allows, or a person:
//! `cargo run --example approval -- --checkpoints /tmp/approval/checkpoints --output /tmp/approval/outcomes`.
//!
//! ```text
//! expense ─▶ ask the policy ─┬─ allowed or forbidden ─▶ outcome
//!            (durable call)  └─ above the limit ─▶ wait for a decision ─▶ outcome, or a dead letter
//!                                                   (signal)
//! ```
//!
//! Decisions come line by line on standard input, for example
//! `{"key": 2, "signal": "decision", "value": {"by": "Ada", "approves": true}}`. An expense waits as long as it can: then it
//! is left to a person, as a dead letter.
//!
//! The program may be killed at any time and started again, days later. Who waits goes on waiting, for what is left of its
//! time; a decision that was taken stands; and the policy, which is slow and may be paid for, is not asked again what it
//! has answered.

use std::fs::{File, OpenOptions};
use std::io::{BufRead, Write};
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use timely::dataflow::operators::Concatenate;
use timely::dataflow::operators::vec::Map;
use timely_agents::cluster::Failure;
use timely_agents::durable_input::{DurableInput, Refused};
use timely_agents::prelude::*;
use timely_agents::{Error, Plan, Program};

/// What somebody has spent.
#[derive(Clone, Serialize, Deserialize)]
struct Expense {
    id: u64,
    what: String,
    amount: u32,
    /// How long it can wait for a decision.
    patience_ms: u64,
}

/// What a person says to an expense.
#[derive(Serialize, Deserialize)]
struct Decision {
    by: String,
    approves: bool,
}

impl Event for Decision {
    const NAME: &'static str = "decision";
}

/// What has become of an expense.
#[derive(Clone, Serialize, Deserialize)]
struct Outcome {
    expense: u64,
    outcome: String,
}

/// What the policy says to an expense.
#[derive(Serialize, Deserialize)]
enum Verdict {
    Allowed,
    Forbidden,
    /// A person has to decide about so much.
    Above(u32),
}

/// The policy: a service somewhere else, which may keep a ledger of what it is asked.
struct Rules {
    latency: Duration,
    ledger: Option<File>,
}

impl Rules {
    fn new(latency: Duration, ledger: Option<&Path>) -> Result<Self, Failure> {
        let open = |path: &Path| {
            let file = OpenOptions::new().create(true).append(true).open(path);
            file.map_err(|error| Failure::data(format!("{}: {error}", path.display())))
        };
        Ok(Rules { latency, ledger: ledger.map(open).transpose()? })
    }

    async fn ask(&self, expense: Expense) -> Result<Verdict, String> {
        if let Some(mut ledger) = self.ledger.as_ref() {
            let line = format!("{}\n", expense.id);
            ledger.write_all(line.as_bytes()).map_err(|error| format!("the policy's ledger: {error}"))?;
        }
        tokio::time::sleep(self.latency).await;
        Ok(match expense.amount {
            _ if expense.what == "champagne" => Verdict::Forbidden,
            0..=100 => Verdict::Allowed,
            _ => Verdict::Above(100),
        })
    }
}

fn plan(policy: Rules) -> Result<Plan<Expense, Outcome>, Failure> {
    let mut agent = Agent::<Expense, Outcome>::new("approval");
    let policy = Arc::new(policy);
    // Commits do not wait for who waits.
    agent.carry();
    agent.waits_for::<Decision>("decision");
    // With --retain-journals: what is decided can be compared with what other rules would decide.
    agent.retain_outputs();
    agent
        .on_input_async("decide", async move |expense: &Expense, ctx| {
            let say = |outcome: String| ctx.output(Outcome { expense: expense.id, outcome });
            let policy = Arc::clone(&policy);
            let asked = ctx.durable("policy", expense.clone(), move |expense| async move { policy.ask(expense).await });
            match asked.await?.map_err(Error::new)? {
                Verdict::Allowed => say("allowed by the policy".to_owned()),
                Verdict::Forbidden => say("forbidden by the policy".to_owned()),
                Verdict::Above(limit) => {
                    say(format!("waits: {} is above {limit}", expense.amount));
                    // This much is known from here on, whatever becomes of the rest.
                    ctx.flush().await;
                    let patience = Duration::from_millis(expense.patience_ms);
                    let Decision { by, approves } = ctx.wait_for("decision").timeout(patience).await?;
                    say(format!("{} by {by}", if approves { "approved" } else { "refused" }));
                }
            }
            Ok(())
        })
        .on_failure(Policy::DeadLetter);
    agent.build().map_err(|errors| Failure::usage(errors.to_string()))
}

/// Hands over the decisions of standard input, until it ends.
fn read_decisions(decisions: &DurableInput<Signal<u64>>) {
    for line in std::io::stdin().lock().lines().map_while(Result::ok).filter(|line| !line.trim().is_empty()) {
        match serde_json::from_str(&line).map(|decision| decisions.push(decision)) {
            Ok(Ok(_)) => {}
            Ok(Err(Refused::Full(_))) => eprintln!("too many decisions are on their way; say it again: {line}"),
            Ok(Err(Refused::Closed(_))) => return,
            Err(error) => eprintln!("this is no decision: {line}: {error}"),
        }
    }
    decisions.close();
}

fn expenses() -> impl Iterator<Item = (u64, Expense)> {
    const HOUR: u64 = 3_600_000;
    let expenses = [
        (1, "train", 80, HOUR),
        (2, "hotel", 240, HOUR),
        (3, "champagne", 60, HOUR),
        (4, "desk", 310, HOUR),
        (5, "taxi", 120, 300),
        (6, "books", 45, HOUR),
        (7, "server", 2_900, HOUR),
    ];
    expenses
        .into_iter()
        .map(|(id, what, amount, patience_ms)| (id, Expense { id, what: what.to_owned(), amount, patience_ms }))
}

fn main() -> ExitCode {
    let program = Program::new("approval")
        .about("Decides about expenses; reads decisions of persons on standard input, a JSON line each.")
        .option("output", "DIR", "where outcomes go, a part for each commit")
        .option("policy-latency", "MS", "how long the policy takes (default 2)")
        .option("policy-ledger", "FILE", "where the policy notes what it is asked");
    program.main(|arguments| {
        let output = arguments.value("output");
        if !arguments.replays() && (!arguments.has_checkpoints() || output.is_none()) {
            return Err(Failure::usage(
                "give --checkpoints and --output: decisions are kept where they cannot be lost",
            ));
        }
        let output = output.unwrap_or_default();
        let latency = Duration::from_millis(arguments.parsed("policy-latency")?.unwrap_or(2));
        let ledger = arguments.value("policy-ledger");
        let plan = plan(Rules::new(latency, ledger.as_deref().map(Path::new))?)?;
        // With --replay: what becomes of expenses with the rules as they are now.
        arguments.replay::<u64, u64, _, _>(&plan)?;
        let decisions = DurableInput::ticking(1000, Duration::from_millis(50));
        if arguments.config().process == 0 && !arguments.replays() {
            let decisions = decisions.clone();
            thread::spawn(move || read_decisions(&decisions));
        }
        let outcomes = arguments.execute(move |worker, job| {
            worker.dataflow::<u64, _, _>(|scope| {
                let expenses = job.source(scope, "expenses", Records::from(expenses()))?;
                let decisions = job.source(scope, "decisions", decisions.clone())?;
                let streams = expenses.agent_with_signals(|expense| &expense.id, decisions, &plan);
                let dead = streams.dead_letters().map(|letter| Outcome {
                    expense: letter.input.map_or(0, |expense| expense.id),
                    outcome: format!("left to a person: {}", letter.error),
                });
                let outcomes = scope.concatenate([streams.output, dead]);
                outcomes.sink(job, "outcomes", JsonLines::parts(&output))?;
                Ok(())
            })
        });
        outcomes.map(drop)
    })
}
