//! What a process says at the end, on standard error.

use std::time::Duration;

use timely_agents::AgentStats;
use timely_agents::clock::Clock;

use crate::advisor::Advisor;
use crate::flight::Counts;

/// Times the job.
pub(crate) struct Summary {
    clock: Clock,
    started_us: u64,
}

impl Summary {
    /// From now on.
    pub(crate) fn start() -> Self {
        let clock = Clock::system();
        let started_us = clock.now();
        Summary { clock, started_us }
    }

    /// Prints what the agents of this process have done, and, in the process that read them, the rows.
    pub(crate) fn print(&self, counts: &Counts, stats: &AgentStats, advisor: &Advisor) {
        let [rows, skipped, cancelled, alerts] = counts.get();
        let elapsed = Duration::from_micros(self.clock.now() - self.started_us);
        let runs = &stats.runs;
        let per_second = runs.runs as f64 / elapsed.as_secs_f64().max(1e-6);
        eprintln!("{rows} rows: {skipped} skipped, {cancelled} cancelled; {alerts} alerts");
        eprintln!("{} flights in {elapsed:.1?}: {per_second:.0} events/s", runs.runs);
        for (name, action) in &stats.actions {
            eprintln!("action {name}: {} finished, {} failed", action.finished, action.failed);
        }
        let (made, replayed) = advisor.calls();
        eprintln!("advisor: {made} calls made, {replayed} replayed");
        let at = |quantile: f64| Duration::from_nanos(runs.latency_ns.value_at_quantile(quantile));
        eprintln!(
            "latency of runs: p50 {:.1?}, p99 {:.1?}, max {:.1?}",
            at(0.5),
            at(0.99),
            Duration::from_nanos(runs.latency_ns.max())
        );
    }
}
