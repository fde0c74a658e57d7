//! Runs that are not over, replayed across processes against the program that made them, and against others: some of their
//! actions are over, and one waits for a call that does not end.
//!
//! The program is this binary, as that of `rules`.

use std::env;
use std::future::pending;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use timely_agents::cluster::Failure;
use timely_agents::prelude::*;
use timely_agents::{Arguments, Plan, Program};
use timely_agents_operators::checkpoint::{Catalogue, DirStore, notes};
use timely_agents_operators::journal::{Note, RUNS, RunRecord};

use crate::rules::{Jobs, as_program, assert_differs, lines};
use crate::support::{Outcome, checkpoint, eventually, files, run};

type Order = (String, u32);

#[derive(Serialize, Deserialize)]
struct Over {
    total: u32,
}

impl Event for Over {
    const NAME: &'static str = "over";
}

#[derive(Serialize, Deserialize)]
struct Answered {
    text: String,
}

impl Event for Answered {
    const NAME: &'static str = "answered";
}

struct Rules {
    carry: bool,
    /// From what sum on somebody is asked.
    limit: u32,
    question: String,
    /// How an answer is put out, and how it is handed on.
    form: String,
    tone: String,
    /// What is added to what goes to the side output, whether its values are kept, and how many there are of each.
    audit: u32,
    keeps: bool,
    audits: u32,
    /// Whether the archive never answers.
    stalls: bool,
}

impl Rules {
    fn read(arguments: &Arguments) -> Result<Self, Failure> {
        let text = |name: &str, default: &str| arguments.value(name).unwrap_or_else(|| default.to_owned());
        Ok(Rules {
            carry: arguments.value("form-of-work").as_deref() == Some("carry"),
            limit: arguments.parsed("limit")?.unwrap_or(50),
            question: text("question", "may it go on?"),
            form: text("form", "answer"),
            tone: text("tone", "plain"),
            audit: arguments.parsed("audit")?.unwrap_or(0),
            keeps: arguments.value("keeps").is_none(),
            audits: arguments.parsed("audits")?.unwrap_or(1),
            stalls: arguments.value("stalls").is_some(),
        })
    }

    fn plan(self) -> Plan<Order, String> {
        let Rules { carry, limit, question, form, tone, audit: more, keeps, audits, stalls } = self;
        let mut agent = Agent::<Order, String>::new("orders");
        if carry {
            agent.carry();
        }
        agent.retain_outputs();
        let spent = agent.memory::<u32>("spent");
        let audit = agent.side::<u32>("audit");
        if keeps {
            agent.retain_side(audit);
        }
        agent.on_input("count", move |(_, amount): &Order, ctx| {
            let total = ctx.update(spent, |spent| {
                *spent += amount;
                *spent
            });
            (0..audits).for_each(|_| ctx.side(audit, total + more));
            if total > limit {
                ctx.send(Over { total });
            }
            Ok(())
        });
        agent.on_async("ask", async move |over: &Over, ctx| {
            let asked = (question.clone(), over.total);
            let ask = async |(_, total): (String, u32)| format!("yes to {total}");
            let text = ctx.durable("clerk", asked, ask).keep_arguments().await?;
            ctx.memory().set("last.answer", format!("{text}, {tone}"))?;
            ctx.output(format!("{} {form}: {text} at {:?}", ctx.uuid(), ctx.now()));
            ctx.send(Answered { text: format!("{tone} {text}") });
            Ok(())
        });
        agent.on_async("rate", async move |answered: &Answered, ctx| {
            let points = ctx.durable("rating", answered.text.len(), async |length| length % 7).await?;
            ctx.memory().set("last.points", points)?;
            ctx.flush().await;
            Ok(())
        });
        agent.on_async("file", async move |over: &Over, ctx| {
            ctx.memory().set("last.filed", over.total)?;
            let archive = async move |_| {
                if stalls {
                    pending::<()>().await;
                }
            };
            ctx.durable("archive", over.total, archive).timeout(Duration::from_hours(1)).await?;
            ctx.output("filed".to_owned());
            Ok(())
        });
        agent.build().expect("a valid agent")
    }
}

/// Three orders of shop `a`, the last of which is too much, and as many others as it takes.
fn orders(others: u32) -> impl Iterator<Item = (u64, Order)> {
    let of_a = [(0, 10), (1, 30), (1, 20)].map(|(epoch, amount)| (epoch, ("a".to_owned(), amount)));
    of_a.into_iter().chain((4..others).map(|n| (u64::from(n / 2), ("z".to_owned(), 0))))
}

fn job() -> Result<(), Failure> {
    let text = env::var("TOOL_ARGUMENTS").unwrap_or_default();
    let program = Program::new("midway");
    let names = ["form-of-work", "limit", "question", "form", "tone", "audit", "keeps", "audits", "stalls", "out"];
    let program = names.into_iter().fold(program, |program, name| program.option(name, "VALUE", "see the rules"));
    let arguments = program.parse(text.lines())?.ok_or_else(|| Failure::usage("it helps nobody"))?;
    let rules = Rules::read(&arguments)?;
    let others = if rules.stalls { u32::MAX } else { 40 };
    let plan = rules.plan();
    arguments.replay::<u64, String, _, _>(&plan)?;
    let out = arguments.value("out").unwrap_or_default();
    arguments.execute(move |worker, job| {
        worker.dataflow::<u64, _, _>(|scope| {
            let orders = job.source_with(scope, "orders", Records::from(orders(others)), |source| {
                source.open_epochs = Some(2);
            })?;
            orders.agent(|(shop, _)| shop, &plan).sink(job, "said", JsonLines::parts(&out))?;
            Ok(())
        })
    })?;
    Ok(())
}

#[test]
#[ignore = "it is started by other tests, in processes of their own"]
fn program() {
    as_program(job);
}

/// How often the beginning of the run that waits was recorded.
fn beginnings(store: &DirStore) -> usize {
    let key = postcard::to_allocvec("a").expect("a key");
    let mut count = 0;
    let mut count_note = |note: Note| {
        if note.component >= RUNS && note.key == key {
            let record: RunRecord = postcard::from_bytes(&note.bytes).expect("a record");
            count += usize::from(record.sequence == 3);
        }
    };
    notes(store, &mut count_note).expect("the journals can be read");
    count
}

/// The start of the job that made the newest checkpoint.
fn start_of_newest(store: &DirStore) -> Option<u64> {
    Some(Catalogue::read(store).ok()?.newest().ok()??.manifest.generation)
}

/// Starts the program again and again, with another number of workers, and kills it when the rating has been noted and the run
/// that waits has begun in this start: where it is recorded, if it is, and in a checkpoint under Carry.
fn killed(carry: bool, starts: usize, retain: &[&str]) -> Jobs {
    let mut jobs = Jobs::of("midway::program", carry, 2);
    for start in 1..=starts {
        let mut child = jobs.start(&[retain, &["--stalls", "yes"]].concat());
        eventually("notes of the run that waits", || {
            let store = DirStore::existing(jobs.checkpoints()).ok()?;
            let noted = journal(&jobs, &["--sequence", "3"]).stdout.contains("\"rating\"");
            let stored = || checkpoint("show", &jobs.checkpoints(), &["--key", "a"]).stdout.contains("last.points");
            let begun = if carry {
                start_of_newest(&store) == Some(start as u64) && stored()
            } else {
                retain.is_empty() || beginnings(&store) >= start
            };
            (noted && begun).then_some(())
        });
        child.kill().expect("it is killed");
        child.wait().expect("it ends");
        jobs.workers = 3 - jobs.workers;
    }
    jobs
}

fn journal(jobs: &Jobs, more: &[&str]) -> Outcome {
    let dir = jobs.checkpoints();
    let dir = dir.to_str().expect("UTF-8");
    run(&[&["run", dir, "--agent", "orders", "--key", "a"], more].concat())
}

/// What is said of the run that waits.
fn of_run(outcome: &Outcome) -> Vec<&str> {
    let lines = lines(outcome);
    let at = lines.iter().position(|line| line.starts_with("agent orders, key \"a\", run 3: "));
    let at = at.unwrap_or_else(|| panic!("nothing of run 3: {outcome:#?}"));
    let own = 1 + lines[at + 1..].iter().take_while(|line| line.starts_with("    ")).count();
    lines[at..at + own].to_vec()
}

#[track_caller]
fn assert_same(outcome: &Outcome, what: &str) {
    assert_eq!(outcome.code, Some(0), "{what}: {outcome:#?}");
    let [own] = of_run(outcome)[..] else { panic!("{what}: {outcome:#?}") };
    let same = own.strip_prefix("agent orders, key \"a\", run 3: same, goes on with call \"archive\"");
    // All that a run in no checkpoint puts out is to come.
    assert!(same.is_some_and(|rest| ["", ", puts out 1"].contains(&rest)), "{what}: {outcome:#?}");
    assert!(!outcome.stdout.contains("not replayed"), "{what}: {outcome:#?}");
}

/// The differences of the run that waits, with a program of those rules: each has one of `parts`, in their order.
#[track_caller]
fn assert_only(jobs: &Jobs, rules: &[&str], parts: &[&str]) {
    let outcome = jobs.replay(&["--key", "a", "--sequence", "3"], rules);
    assert_differs(&outcome, &["run 3: DIFFERS"]);
    let own = of_run(&outcome);
    assert_eq!(own.len() - 1, parts.len(), "{rules:?}: {own:#?}");
    for (line, part) in own[1..].iter().zip(parts) {
        assert!(line.contains(part), "{rules:?}, no {part:?}: {own:#?}");
    }
}

/// What calls gave, with a program and without.
fn check_results(jobs: &Jobs, form: &str) {
    let script = jobs.script();
    let script = script.to_str().expect("UTF-8");
    let shown = journal(jobs, &["--sequence", "3", "--program", script, "--", "--form-of-work", form]);
    let text = shown.lines().join("\n");
    for part in ["input [\"a\",20]", "call \"clerk\"", "gave \"yes to 60\"", "call \"rating\"", "gave 1"] {
        assert!(text.contains(part), "no {part:?}: {text}");
    }
}

#[test]
fn runs_in_progress_of_an_agent_that_holds_are_replayed_where_their_inputs_are_recorded() {
    for starts in [1, 2] {
        let jobs = killed(false, starts, &["--retain-journals", "1000"]);
        let before = files(&jobs.checkpoints());
        let what = format!("{starts} starts");
        assert_same(&jobs.replay(&[], &[]), &what);
        // Nothing but calls is durable of it.
        let form = jobs.replay(&["--key", "a"], &["--form", "reply"]);
        assert_same(&form, &what);
        assert_only(&jobs, &["--question", "what now?"], &["call: action \"ask\", wait 0: it was call \"clerk\""]);
        assert_only(&jobs, &["--tone", "rather stern"], &["call: action \"rate\", wait 0: it was call \"rating\""]);
        assert_only(
            &jobs,
            &["--limit", "1000"],
            &["it does not make call \"clerk\" now", "it does not make call \"rating\" now"],
        );
        let line = jobs.replay(&["--key", "a", "--sequence", "3", "--json"], &[]);
        let line = line.stdout.lines().find(|line| line.starts_with('{')).expect("a run");
        let line: Value = serde_json::from_str(line).expect("JSON");
        assert_eq!((&line["state"], &line["calls"]), (&json!("not_committed"), &json!(["archive"])), "{line}");
        check_results(&jobs, "hold");
        assert!(files(&jobs.checkpoints()) == before, "{what}: nothing is changed");
    }
}

#[test]
fn runs_in_progress_whose_inputs_are_not_recorded_are_counted() {
    let jobs = killed(false, 1, &[]);
    let outcome = jobs.replay(&[], &["--question", "what now?"]);
    assert_eq!(outcome.code, Some(0), "{outcome:#?}");
    let said = "agent orders: 1 run that is not committed is not replayed: the input is not recorded";
    assert!(outcome.stdout.contains(said) && outcome.stdout.contains("--retain-journals"), "{outcome:#?}");
    let json = jobs.replay(&["--json"], &[]);
    let line = json.stdout.lines().find(|line| line.starts_with('{')).expect("a run");
    let line: Value = serde_json::from_str(line).expect("JSON");
    assert_eq!(line, json!({"agent": "orders", "key": "a", "sequence": 3, "not_replayed": "input"}));
    let one = jobs.replay(&["--key", "a", "--sequence", "3"], &[]);
    assert_eq!(one.code, Some(1), "{one:#?}");
    assert!(one.stderr.contains("run 3: the input is not recorded"), "{one:#?}");

    // A start that records finds what notes are about: its runs begin again.
    let mut child = jobs.start(&["--retain-journals", "1000", "--stalls", "yes"]);
    eventually("the run that waits, with its input", || {
        let outcome = journal(&jobs, &["--sequence", "3"]);
        (outcome.stdout.contains("input [\"a\",20]") && outcome.stdout.contains("\"rating\"")).then_some(())
    });
    child.kill().expect("it is killed");
    child.wait().expect("it ends");
    assert_same(&jobs.replay(&["--key", "a"], &[]), "recorded since");
}

#[test]
fn what_finished_actions_of_unfinished_runs_did_is_compared() {
    for (retain, starts) in [(true, 1), (true, 2), (false, 1), (false, 2)] {
        let setting: &[&str] = if retain { &["--retain-journals", "1000"] } else { &[] };
        let jobs = killed(true, starts, setting);
        let before = files(&jobs.checkpoints());
        let what = format!("retain {retain}, {starts} starts");
        assert_same(&jobs.replay(&[], &[]), &what);
        let (form, audit) = (["--form", "reply"], ["--audit", "5"]);
        if retain {
            assert_only(&jobs, &form, &["output 1: recorded \""]);
            assert_only(&jobs, &audit, &["side output \"audit\", value 1: recorded 60, replayed 65"]);
            let kept = ["--keeps", "no", "--audits", "2"];
            assert_only(
                &jobs,
                &kept,
                &["side output \"audit\": recorded 1 values, replayed 2; what they are is not kept"],
            );
        } else {
            // What it put out is recorded nowhere.
            assert_same(&jobs.replay(&["--key", "a"], &form), &what);
            assert_same(&jobs.replay(&["--key", "a"], &audit), &what);
        }
        // Of the same length, so that no call differs.
        let answer = "memory last.answer: recorded \"yes to 60, plain\", replayed \"yes to 60, stern\"";
        let event =
            "recorded {\"answered\":{\"text\":\"plain yes to 60\"}}, replayed {\"answered\":{\"text\":\"stern yes";
        assert_only(&jobs, &["--tone", "stern"], &[answer, event]);
        let rating = "call: action \"rate\", wait 0: it was call \"rating\"";
        assert_only(&jobs, &["--tone", "rather stern"], &[rating, "memory last.answer", "{\"answered\":"]);
        assert_only(&jobs, &["--question", "what now?"], &["call: action \"ask\", wait 0: it was call \"clerk\""]);
        check_results(&jobs, "carry");
        assert!(files(&jobs.checkpoints()) == before, "{what}: nothing is changed");
        let calls = ["it does not make call \"clerk\" now", "it does not make call \"rating\" now"];
        let memory =
            ["memory last.answer: recorded \"yes to 60, plain\", replayed null", "memory last.points: recorded 1"];
        let outputs: &[&str] = if retain { &["output 1: recorded \""] } else { &[] };
        assert_only(&jobs, &["--limit", "1000"], &[&calls, outputs, &memory].concat());
        if retain {
            jobs.finish(setting);
            let over = jobs.replay(&[], &[]);
            assert_eq!((over.code, over.stdout.contains("and none differs")), (Some(0), true), "{over:#?}");
            assert_only(&jobs, &audit, &["side output \"audit\", value 1: recorded 60, replayed 65"]);
        }
    }
}
