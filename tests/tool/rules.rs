//! Runs that are over, replayed across processes against the program that made them, and against others.
//!
//! The program is this binary, started by a script as the tool starts programs. Its rules are options: what it asks, when,
//! how it puts the answer, what it remembers.

use std::env;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::json;
use tempfile::TempDir;
use timely_agents::cluster::Failure;
use timely_agents::prelude::*;
use timely_agents::{Arguments, Plan, Program};

use crate::support::{Outcome, checkpoint, eventually, files, run, shown};

type Order = (String, u32);

/// A key has spent more than it may.
#[derive(Serialize, Deserialize)]
struct Over {
    total: u32,
}

impl Event for Over {
    const NAME: &'static str = "over";
}

/// Somebody looks at a key later.
#[derive(Serialize, Deserialize)]
struct Look {
    total: u32,
}

impl Event for Look {
    const NAME: &'static str = "look";
}

struct Rules {
    carry: bool,
    /// From what sum on somebody is asked.
    limit: u32,
    question: String,
    /// How an answer is put out.
    form: String,
    /// What is remembered on top of what is spent.
    bonus: u32,
    /// What is told to the audit on top of that, how often, and whether the values are kept.
    audit: u32,
    audits: u32,
    keeps: bool,
    /// How long an answer takes, in milliseconds.
    takes: u64,
}

impl Rules {
    fn read(arguments: &Arguments) -> Result<Self, Failure> {
        Ok(Rules {
            carry: arguments.value("form-of-work").as_deref() == Some("carry"),
            limit: arguments.parsed("limit")?.unwrap_or(50),
            question: arguments.value("question").unwrap_or_else(|| "may it go on?".to_owned()),
            form: arguments.value("form").unwrap_or_else(|| "answer".to_owned()),
            bonus: arguments.parsed("bonus")?.unwrap_or(0),
            audit: arguments.parsed("audit")?.unwrap_or(0),
            audits: arguments.parsed("audits")?.unwrap_or(1),
            keeps: arguments.value("keeps").is_none(),
            takes: arguments.parsed("takes")?.unwrap_or(1),
        })
    }

    fn plan(self) -> Plan<Order, String> {
        let Rules { carry, limit, question, form, bonus, audit: more, audits, keeps, takes } = self;
        let mut agent = Agent::<Order, String>::new("spending");
        if carry {
            agent.carry();
            agent.schedules::<Look>();
        }
        agent.retain_outputs();
        let spent = agent.memory::<u32>("spent");
        let audit = agent.side::<u32>("audit");
        if keeps {
            agent.retain_side(audit);
        }
        agent.on_input("count", move |(_, amount): &Order, ctx| {
            let total = ctx.update(spent, |spent| {
                *spent += amount + bonus;
                *spent
            });
            (0..audits).for_each(|_| ctx.side(audit, total + more));
            if *amount % 5 == 0 {
                // In another start it is another.
                ctx.output(format!("counted at {:?}", ctx.now()));
            }
            if total > limit {
                ctx.put(spent, 0);
                ctx.send(Over { total });
            }
            if *amount == 7 {
                ctx.notify_at(ctx.epoch())?;
            }
            if carry && *amount == 13 {
                ctx.schedule(&Look { total }, ctx.now());
            }
            Ok(())
        });
        agent.on_async("ask", async move |over: &Over, ctx| {
            let answer = ctx
                .durable("clerk", (question.clone(), over.total), async move |(_, total): (String, u32)| {
                    tokio::time::sleep(Duration::from_millis(takes)).await;
                    if total % 2 == 0 { Ok(format!("yes to {total}")) } else { Err(total) }
                })
                .keep_arguments()
                .await?;
            let text = match answer {
                Ok(text) => text,
                Err(total) => format!("no to {total}"),
            };
            ctx.memory().set("last.answer", text.clone())?;
            ctx.flush().await;
            ctx.output(format!("{} {form}: {text}", ctx.uuid()));
            ctx.sleep(Duration::from_millis(1)).await;
            ctx.call("note", async move || over_note(takes)).await?;
            ctx.output(format!("noted at {:?}", ctx.now()));
            Ok(())
        });
        agent.on_notify("sum", move |notification, ctx| {
            let spent = ctx.get(spent).unwrap_or(0);
            ctx.output(format!("epoch {}: {spent}", notification.epoch));
            Ok(())
        });
        agent.on("look", |look: &Look, ctx| {
            ctx.output(format!("looked at {}", look.total));
            Ok(())
        });
        agent.build().expect("a valid agent")
    }
}

fn over_note(takes: u64) -> u64 {
    takes
}

/// Orders of five shops.
fn orders() -> impl Iterator<Item = (u64, Order)> {
    (0..60u32).map(|n| (u64::from(n / 6), (["a", "b", "c", "d", "e"][n as usize % 5].to_owned(), n % 20)))
}

fn job() -> Result<(), Failure> {
    let text = env::var("TOOL_ARGUMENTS").unwrap_or_default();
    let program = Program::new("spending")
        .option("form-of-work", "FORM", "carry or hold")
        .option("limit", "NUM", "from what sum on somebody is asked")
        .option("question", "TEXT", "what")
        .option("form", "TEXT", "how an answer is put out")
        .option("bonus", "NUM", "what is remembered on top")
        .option("audit", "NUM", "what is told to the audit on top")
        .option("audits", "NUM", "how often")
        .option("keeps", "NO", "the audit is not kept")
        .option("out", "DIR", "where outputs go")
        .option("takes", "MS", "how long an answer takes");
    let arguments = program.parse(text.lines())?.ok_or_else(|| Failure::usage("it helps nobody"))?;
    let plan = Rules::read(&arguments)?.plan();
    arguments.replay::<u64, String, _, _>(&plan)?;
    let out = arguments.value("out").unwrap_or_default();
    arguments.execute(move |worker, job| {
        worker.dataflow::<u64, _, _>(|scope| {
            let orders = job.source_with(scope, "orders", Records::from(orders()), |source| {
                source.open_epochs = Some(2);
            })?;
            let said = orders.agent(|(shop, _)| shop, &plan);
            said.sink(job, "said", JsonLines::parts(&out))?;
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

/// Makes the test that calls this a program, if it was started as one.
pub(crate) fn as_program(job: fn() -> Result<(), Failure>) {
    if env::var("TOOL_PROGRAM").is_err() {
        return;
    }
    // The harness of tests has begun a line.
    println!();
    std::process::exit(match job() {
        Ok(()) => 0,
        Err(failure) => {
            eprintln!("error: {failure}");
            failure.exit_code().into()
        }
    });
}

/// The program, its checkpoints, and how its work is done.
pub(crate) struct Jobs {
    place: TempDir,
    pub(crate) carry: bool,
    pub(crate) workers: usize,
    /// The test that is the program.
    test: &'static str,
}

impl Jobs {
    fn new(carry: bool, workers: usize) -> Self {
        Jobs::of("rules::program", carry, workers)
    }

    pub(crate) fn of(test: &'static str, carry: bool, workers: usize) -> Self {
        Jobs { place: TempDir::new().expect("a temporary directory"), carry, workers, test }
    }

    pub(crate) fn checkpoints(&self) -> PathBuf {
        self.place.path().join("checkpoints")
    }

    /// A script that starts the program with its arguments.
    pub(crate) fn script(&self) -> PathBuf {
        let script = self.place.path().join("program");
        let test = env::current_exe().expect("the path of the test");
        let text = format!(
            "#!/bin/sh\nTOOL_ARGUMENTS=$(printf '%s\\n' \"$@\") TOOL_PROGRAM=1 exec '{}' --exact {} --ignored \
             --nocapture --test-threads 1\n",
            test.display(),
            self.test
        );
        fs::write(&script, text).expect("a script");
        fs::set_permissions(&script, fs::Permissions::from_mode(0o755)).expect("it can be run");
        script
    }

    pub(crate) fn start(&self, more: &[&str]) -> Child {
        let (workers, form) = (self.workers.to_string(), if self.carry { "carry" } else { "hold" });
        Command::new(self.script())
            .args(["-w", &workers, "--form-of-work", form, "--checkpoints"])
            .arg(self.checkpoints())
            .arg("--out")
            .arg(self.place.path().join("out"))
            .args(more)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .expect("the program starts")
    }

    pub(crate) fn finish(&self, more: &[&str]) {
        let output = self.start(more).wait_with_output().expect("the program ends");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    }

    /// What was published, as text, sorted.
    fn published(&self) -> Vec<String> {
        let parts = fs::read_dir(self.place.path().join("out")).expect("the outputs");
        let parts = parts.map(|part| part.expect("a part").path()).filter(|part| part.is_file());
        let text: String = parts.map(|part| fs::read_to_string(part).expect("a part")).collect();
        let mut lines: Vec<String> = text.lines().map(str::to_owned).collect();
        lines.sort_unstable();
        lines
    }

    /// What runs have put out by their records, sorted.
    fn recorded(&self) -> Vec<String> {
        let dir = self.checkpoints();
        let dir = dir.to_str().expect("UTF-8");
        let mut outputs = Vec::new();
        for key in shown(&self.checkpoints(), &[])["agents"]["spending"].as_array().expect("keys") {
            let name = key["key"].as_str().expect("a name");
            for number in 1..=key["sequence"].as_u64().expect("a number") {
                let journal = run(&[
                    "run",
                    dir,
                    "--agent",
                    "spending",
                    "--key",
                    name,
                    "--sequence",
                    &number.to_string(),
                    "--json",
                ]);
                journal.lines();
                let journal: serde_json::Value = serde_json::from_str(&journal.stdout).expect("JSON");
                let said = journal["outputs"].as_array().into_iter().flatten();
                outputs.extend(said.map(ToString::to_string));
            }
        }
        outputs.sort_unstable();
        outputs
    }

    /// What the tool says of a replay against the program with these rules.
    pub(crate) fn replay(&self, own: &[&str], rules: &[&str]) -> Outcome {
        let (dir, script) = (self.checkpoints(), self.script());
        let form = if self.carry { "carry" } else { "hold" };
        let (dir, script) = (dir.to_str().expect("UTF-8"), script.to_str().expect("UTF-8"));
        run(&[&["replay", dir, "--program", script], own, &["--", "--form-of-work", form], rules].concat())
    }
}

/// The lines about runs, without what the harness of tests says around them.
pub(crate) fn lines(outcome: &Outcome) -> Vec<&str> {
    outcome.stdout.lines().filter(|line| line.starts_with("agent ") || line.starts_with("    ")).collect()
}

#[track_caller]
fn assert_same(outcome: &Outcome, what: &str) {
    assert_eq!(outcome.code, Some(0), "{what}: {outcome:#?}");
    let lines = lines(outcome);
    assert!(lines.iter().all(|line| line.ends_with(": same")), "{what}: {outcome:#?}");
    assert!(lines.len() >= 60, "{what}: {} runs", lines.len());
    assert!(outcome.stdout.contains("runs, and none differs"), "{what}: {outcome:#?}");
}

#[track_caller]
pub(crate) fn assert_differs(outcome: &Outcome, parts: &[&str]) {
    assert_eq!(outcome.code, Some(1), "{outcome:#?}");
    assert!(outcome.stderr.contains("runs differ with this program"), "{outcome:#?}");
    for part in parts {
        assert!(outcome.stdout.contains(part), "no {part:?}: {outcome:#?}");
    }
}

fn check(jobs: &Jobs, what: &str) {
    let before = files(&jobs.checkpoints());
    assert_same(&jobs.replay(&[], &[]), what);
    // How it puts what it has: outputs differ, and nothing else.
    let form = jobs.replay(&[], &["--form", "reply"]);
    assert_differs(&form, &["output 1: recorded \"", " answer: yes to ", "replayed \"", " reply: yes to "]);
    assert!(!form.stdout.contains("memory ") && !form.stdout.contains("call: "), "{what}: {form:#?}");
    // What it asks: the call differs, with its arguments, and the run ends there.
    let question = jobs.replay(&[], &["--question", "what now?"]);
    assert_differs(
        &question,
        &[
            "call: action \"ask\", wait 0: it was call \"clerk\"",
            "may it go on?",
            "what now?",
            "number 0",
            "goes on with",
        ],
    );
    assert!(!question.stdout.contains("output 1"), "{what}: {question:#?}");
    // When it asks: some runs ask for the first time, others no longer do.
    let limit = jobs.replay(&[], &["--limit", "20"]);
    assert_differs(&limit, &["call: it asks for \"clerk\" now"]);
    let limit = jobs.replay(&[], &["--limit", "1000"]);
    assert_differs(&limit, &["it does not make call \"clerk\" now", "memory spent: recorded 0, replayed ", "output 2"]);
    // What it remembers.
    let bonus = jobs.replay(&["--key", "c", "--sequence", "1"], &["--bonus", "1"]);
    assert_differs(&bonus, &["agent spending, key \"c\", run 1: DIFFERS", "memory spent: recorded 2, replayed 3"]);
    assert_eq!(lines(&bonus).len(), 3, "{what}: {bonus:#?}");
    let bonus = jobs.replay(&["--key", "c", "--sequence", "1", "--json"], &["--bonus", "1"]);
    let line = bonus.stdout.lines().find(|line| line.starts_with('{')).expect("a run");
    let line: serde_json::Value = serde_json::from_str(line).expect("JSON");
    let spent = json!([
        {"side": {"name": "audit", "number": 1, "recorded": 2, "replayed": 3}},
        {"memory": {"place": "spent", "recorded": 2, "replayed": 3}},
    ]);
    assert_eq!((bonus.code, &line["state"], &line["differences"]), (Some(1), &json!("over"), &spent), "{what}: {line}");
    // What goes to a side output, by value where it is kept.
    let one = ["--key", "c", "--sequence", "1"];
    let audit = jobs.replay(&one, &["--audit", "7"]);
    assert_differs(&audit, &["side output \"audit\", value 1: recorded 2, replayed 9"]);
    assert_eq!(lines(&audit).len(), 2, "{what}: {audit:#?}");
    let audits = jobs.replay(&one, &["--audits", "2"]);
    assert_differs(&audits, &["side output \"audit\", value 2: recorded none, replayed 2"]);
    let audits = jobs.replay(&one, &["--audits", "2", "--keeps", "no"]);
    assert_differs(&audits, &["side output \"audit\": recorded 1 values, replayed 2; what they are is not kept"]);
    assert_eq!(jobs.replay(&one, &["--audit", "7", "--keeps", "no"]).code, Some(0));
    results(jobs, what);
    assert!(files(&jobs.checkpoints()) == before, "{what}: nothing is changed");
    let none = jobs.replay(&["--key", "c", "--sequence", "100"], &[]);
    assert_eq!(none.code, Some(1), "{none:#?}");
    assert!(none.stderr.contains("no run 100"), "{none:#?}");
    assert_eq!(jobs.replay(&["--agent", "nobody"], &[]).code, Some(2));
}

/// The sixth order of shop `e` is the first that has somebody asked.
fn results(jobs: &Jobs, what: &str) {
    let (dir, script) = (jobs.checkpoints(), jobs.script());
    let (dir, script) = (dir.to_str().expect("UTF-8"), script.to_str().expect("UTF-8"));
    let journal =
        |more: &[&str]| run(&[&["run", dir, "--agent", "spending", "--key", "e", "--sequence", "6"], more].concat());
    let bytes = journal(&[]);
    let text = bytes.lines().join("\n");
    for part in [
        "input [\"e\",9]",
        "gave 0x013b",
        "put out \"",
        "memory spent: was 50, is 0",
        "memory last.answer: was null",
        "put out to audit 59",
    ] {
        assert!(text.contains(part), "{what}, no {part:?}: {text}");
    }
    let form = if jobs.carry { "carry" } else { "hold" };
    let values = journal(&["--program", script, "--", "--form-of-work", form]);
    let text = values.lines().join("\n");
    for part in ["call \"clerk\"", "gave {\"Err\":59}", "call \"note\""] {
        assert!(text.contains(part), "{what}, no {part:?}: {text}");
    }
    assert!(!text.contains("gave 0x"), "{what}: {text}");
    let wrong = journal(&["--program", script, "--", "--no-option"]);
    wrong.assert_refused(1, &["does not do the run again", "no-option"]);
    journal(&["--no-program"]).assert_refused(2, &["no-program"]);
    journal(&["surplus"]).assert_refused(2, &["surplus"]);
}

#[test]
fn runs_that_are_over_are_replayed_against_the_program_and_against_others() {
    for carry in [false, true] {
        for workers in [1, 2] {
            let jobs = Jobs::new(carry, workers);
            jobs.finish(&["--retain-journals", "1000"]);
            check(&jobs, &format!("carry {carry}, {workers} workers"));
        }
    }
}

/// The last epoch of the newest checkpoint.
fn committed(dir: &Path) -> Option<u64> {
    let listed = dir.join("chain").exists().then(|| checkpoint("list", dir, &[]).stdout)?;
    listed.lines().last()?.split_whitespace().nth(1)?.parse().ok()
}

#[test]
fn runs_are_replayed_that_a_kill_has_cut_in_two() {
    for carry in [false, true] {
        let mut jobs = Jobs::new(carry, 2);
        for epoch in [1, 4] {
            // So slow that it is at work when it is killed.
            let mut child = jobs.start(&["--retain-journals", "1000", "--takes", "1000"]);
            eventually("a checkpoint", || committed(&jobs.checkpoints()).filter(|last| *last >= epoch));
            child.kill().expect("it is killed");
            child.wait().expect("it ends");
            jobs.workers = 3 - jobs.workers;
        }
        jobs.finish(&["--retain-journals", "1000"]);
        check(&jobs, &format!("carry {carry}, killed"));
        assert_eq!(jobs.recorded(), jobs.published(), "carry {carry}: the records are those of the runs that count");
    }
}

#[test]
fn runs_are_recorded_only_where_journals_are_retained() {
    let jobs = Jobs::new(false, 1);
    jobs.finish(&[]);
    let outcome = jobs.replay(&[], &["--form", "reply"]);
    assert_eq!((outcome.code, lines(&outcome).len()), (Some(0), 0), "{outcome:#?}");
}
