//! Alerts counted by differential dataflow: per day and carrier, and in all per carrier.
//!
//! Both counts are over collections that outlive the process, so a job that goes on after a crash counts on.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::path::Path;

use differential_dataflow::{AsCollection, VecCollection};
use timely::container::CapacityContainerBuilder;
use timely::dataflow::StreamVec;
use timely::dataflow::channels::pact::Pipeline;
use timely::dataflow::operators::generic::operator::Operator;
use timely::dataflow::operators::vec::{Delay, Map};
use timely_agents::cluster::Failure;
use timely_agents::{Checkpointed, Job};

use crate::agent::Alert;

/// Each alert as an update of what `of` makes of it.
fn updates<'scope>(
    alerts: StreamVec<'scope, u64, Alert>,
    of: impl Fn(Alert) -> (String, String) + 'static,
) -> VecCollection<'scope, u64, (String, String), isize> {
    let updates = alerts.unary::<CapacityContainerBuilder<Vec<_>>, _, _, _>(Pipeline, "Updates", move |_, _| {
        move |input, output| {
            input.for_each_time(|day, batches| {
                let alerts = batches.flat_map(|batch| batch.drain(..));
                let updates = alerts.map(|alert| (of(alert), *day.time(), 1));
                output.session(&day).give_iterator(updates);
            });
        }
    });
    updates.as_collection()
}

/// Keeps a file of counts up to date: one line for each that is so, in order, below `header`.
fn keep<'scope>(
    counted: VecCollection<'scope, u64, (String, String), isize>,
    job: &Job,
    name: &str,
    file: &Path,
    header: &'static str,
    line: impl Fn(&(String, String), isize) -> String + 'static,
) -> Result<(), Failure> {
    let counts = counted.checkpointed(name).count();
    // Each change at its own time, which is not always that of the batch that it comes in.
    let counts = counts.inner.delay(|(_, day, _), _| *day).map(|((of, n), _, change)| (of, n, change));
    let mut totals: BTreeMap<(String, String), isize> = BTreeMap::new();
    job.whole_file(counts, name, file, move |_, mut changes| {
        // What is no longer so goes before what now is.
        changes.sort_unstable_by_key(|(_, _, change)| *change);
        for (of, n, change) in changes {
            if change > 0 {
                totals.insert(of, n);
            } else {
                totals.remove(&of);
            }
        }
        let mut text = format!("{header}\n");
        for (of, n) in &totals {
            writeln!(text, "{}", line(of, *n)).map_err(|error| error.to_string())?;
        }
        Ok(text.into_bytes())
    })
}

/// Alerts per day and carrier.
pub(crate) fn report(alerts: StreamVec<'_, u64, Alert>, job: &Job, file: &Path) -> Result<(), Failure> {
    let counted = updates(alerts, |alert| (alert.date, alert.carrier));
    keep(counted, job, "report", file, "date,carrier,alerts", |(date, carrier), n| format!("{date},{carrier},{n}"))
}

/// Alerts per carrier, of all days so far.
pub(crate) fn running(alerts: StreamVec<'_, u64, Alert>, job: &Job, file: &Path) -> Result<(), Failure> {
    let counted = updates(alerts, |alert| (String::new(), alert.carrier));
    keep(counted, job, "running", file, "carrier,alerts", |(_, carrier), n| format!("{carrier},{n}"))
}
