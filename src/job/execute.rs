//! Runs a job: sets each worker up for agents, and settles outputs and agents when it ends.

use std::env;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use timely::dataflow::Scope;
use timely::worker::Worker;
use timely_agents_operators::checkpoint::Checkpoints;
use timely_agents_operators::cluster::{self, ClusterConfig, Failure};
use timely_agents_operators::group::KeyGroups;
use timely_agents_operators::stop::Stop;

use super::closing::{self, Closing};
use super::output::Outputs;
use super::{Job, Plans, Program, stopping};
use crate::durable::{Begun, Durable, Process};

/// Runs `build` on every worker and each worker until its dataflows are complete; then puts outputs in their places.
///
/// Agents that `build` puts into dataflows are part of the job: their failures end it in all processes, their limits
/// hold its sources back, and their close hooks run however it ends. One case is left: a worker whose thread panics
/// outside of actions does not close its agents.
///
/// # Errors
/// As [`cluster::execute`], and what `build` returns; then no output has taken its place.
///
/// ```
/// use timely::dataflow::operators::Probe;
/// use timely_agents::cluster::ClusterConfig;
/// use timely_agents::prelude::*;
///
/// let mut agent = Agent::<u64, u64>::new("double");
/// agent.on_input("double", |n, ctx| { ctx.output(n * 2); Ok(()) });
/// let plan = agent.build()?;
/// timely_agents::execute(&ClusterConfig::single(2), move |worker, job| {
///     worker.dataflow::<u64, _, _>(|scope| {
///         job.source(scope, "numbers", Records::from([(0, 1), (0, 2), (1, 3)]))?.agent(|n| n, &plan).probe();
///         Ok(())
///     })
/// })?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub fn execute<R, F>(config: &ClusterConfig, build: F) -> Result<Vec<R>, Failure>
where
    R: Send + 'static,
    F: Fn(&mut Worker, &Job) -> Result<R, Failure> + Send + Sync + 'static,
{
    execute_with(config, None, build)
}

/// [`execute`], with checkpoints if they are given: the job goes on where it was, and stops on SIGTERM when what it has
/// begun to commit is committed.
///
/// A job that is complete is not run again: there are no results then.
///
/// # Errors
/// As [`execute`]; also when the checkpoints cannot be opened, or do not fit the program. A stop on request is a failure
/// of kind [`Stopped`](cluster::FailureKind::Stopped).
pub fn execute_with<R, F>(config: &ClusterConfig, checkpoints: Option<Checkpoints>, build: F) -> Result<Vec<R>, Failure>
where
    R: Send + 'static,
    F: Fn(&mut Worker, &Job) -> Result<R, Failure> + Send + Sync + 'static,
{
    let process = match checkpoints {
        Some(checkpoints) => Some(Arc::new(Process::open(checkpoints, &config.job, config.process, config.threads)?)),
        None => None,
    };
    let outputs = Outputs::default();
    let closing = Closing::default();
    let read = Arc::new(AtomicU64::new(0));
    let watched = AtomicBool::new(false);
    let shared = outputs.clone();
    let claimed = process.clone();
    let name = config.job.clone();
    let results = cluster::execute(config, move |worker, control| {
        if !watched.swap(true, Ordering::Relaxed) {
            closing::on_failure(&closing, control);
        }
        let entered = closing.enter();
        let stop = Stop::default();
        let durable = match &process {
            Some(process) => match Durable::begin(worker, process, control, KeyGroups::default())? {
                Begun::Open(durable, stopper) => {
                    stopping::on_signal(&durable, worker.index(), stopper, control)?;
                    Some(durable)
                }
                Begun::Complete => {
                    entered.work(worker, &stop);
                    return Ok(None);
                }
            },
            None => None,
        };
        let job = Job::new(worker, &name, control, &shared, &read, &stop, durable.clone());
        let built = build(worker, &job).and_then(|result| {
            durable.as_ref().map_or(Ok(()), |durable| durable.finish())?;
            Ok(result)
        });
        match built {
            Ok(result) => {
                // All sources are there: what carries their flow control may end with them.
                job.flow().close();
                entered.work(worker, &stop);
                Ok(Some(result))
            }
            Err(failure) => {
                // First: what goes wrong in the step that closes agents is not the reason.
                control.fail(failure.clone());
                closing::close_agents(worker, &stop);
                Err(failure)
            }
        }
    });
    let results = results.map_err(|failure| match &claimed {
        Some(process) => process.explain(failure),
        None => failure,
    });
    if let Some(process) = claimed {
        process.end();
    }
    let results = results?;
    outputs.finish()?;
    if config.process == 0 && results.iter().any(Option::is_none) {
        eprintln!("{}: the job is complete; nothing is left to do", config.job);
    }
    Ok(results.into_iter().flatten().collect())
}

/// Reads timely's options and the job's from `args`, the first of which is the program's name, and [`execute`]s.
///
/// With `--help` it prints the options and returns no results.
///
/// # Errors
/// As [`execute`]; a usage failure for options that are unknown or wrong.
pub fn execute_from_args<R, F>(args: impl IntoIterator<Item = String>, build: F) -> Result<Vec<R>, Failure>
where
    R: Send + 'static,
    F: Fn(&mut Worker, &Job) -> Result<R, Failure> + Send + Sync + 'static,
{
    let mut args = args.into_iter();
    let name = args.next().unwrap_or_default();
    let program = Program::new(super::program::file_name(&name));
    match program.parse(args)? {
        Some(arguments) => arguments.execute(build),
        None => Ok(Vec::new()),
    }
}

/// A whole program: builds agents into plans, reads the command line, builds one dataflow on each worker and runs it.
///
/// `agents` is an agent, a plan, or a tuple of them; `build` is given the plans. The code to exit with is 0 after
/// success or `--help`, 2 for a wrong command line or a wrong agent, and 1 for all other failures; each failure is one
/// line on standard error.
///
/// ```no_run
/// use std::process::ExitCode;
/// use timely_agents::prelude::*;
///
/// fn main() -> ExitCode {
///     let mut agent = Agent::<String, String>::new("shout");
///     agent.on_input("shout", |word, ctx| { ctx.output(word.to_uppercase()); Ok(()) });
///     timely_agents::run(agent, |job, scope, agent| {
///         job.source(scope, "words", Records::from([(0, "hello".to_string())]))?
///             .agent(|word| word, agent)
///             .sink(job, "shouts", JsonLines::stdout())?;
///         Ok(())
///     })
/// }
/// ```
pub fn run<P, F>(agents: P, build: F) -> ExitCode
where
    P: Plans,
    F: Fn(&Job, Scope<'_, u64>, &P::Built) -> Result<(), Failure> + Send + Sync + 'static,
{
    let name = env::args().next().unwrap_or_default();
    Program::new(super::program::file_name(&name)).main(|arguments| {
        let plans = agents.plans().map_err(|errors| Failure::usage(errors.to_string()))?;
        arguments.execute(move |worker, job| worker.dataflow(|scope| build(job, scope, &plans))).map(|_| ())
    })
}
