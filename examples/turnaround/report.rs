//! Alerts per day and carrier, counted by differential dataflow and written as days close.

use std::collections::BTreeMap;
use std::io::Write;

use differential_dataflow::AsCollection;
use timely::container::CapacityContainerBuilder;
use timely::dataflow::StreamVec;
use timely::dataflow::channels::pact::{Exchange, Pipeline};
use timely::dataflow::operators::generic::operator::Operator;
use timely_agents::cluster::Failure;
use timely_agents::{Job, Output};

use crate::agent::Alert;

/// One line: day, carrier, number of alerts.
type Line = ((String, String), isize);

/// Writes the header and, when a day's epoch closes, its lines in order of carrier. Worker 0 writes all of them.
pub(crate) fn report(alerts: StreamVec<'_, u64, Alert>, job: &Job, output: &Output) -> Result<(), Failure> {
    // A day's alerts come at its own epoch, so a day and carrier are counted once and never corrected.
    let updates = alerts.unary::<CapacityContainerBuilder<Vec<_>>, _, _, _>(Pipeline, "Updates", |_, _| {
        |input, output| {
            input.for_each_time(|day, batches| {
                let alerts = batches.flat_map(|batch| batch.drain(..));
                let updates = alerts.map(|alert| ((alert.date, alert.carrier), *day.time(), 1));
                output.session(&day).give_iterator(updates);
            });
        }
    });
    let counts = updates.as_collection().count();
    let writer = if job.worker() == 0 {
        let writer = job.output(output)?;
        writer.write(b"date,carrier,alerts\n".to_vec());
        Some(writer)
    } else {
        None
    };
    let mut open: BTreeMap<u64, Vec<Line>> = BTreeMap::new();
    let to_first = Exchange::new(|_: &(Line, u64, isize)| 0);
    counts.inner.sink(to_first, "Report", move |(input, frontier)| {
        input.for_each(|_, updates| {
            for (line, day, _) in updates.drain(..) {
                open.entry(day).or_default().push(line);
            }
        });
        while let Some(day) = open.first_entry().filter(|day| !frontier.less_equal(day.key())) {
            let mut lines = day.remove();
            lines.sort_unstable();
            if let Some(writer) = &writer {
                let mut text = Vec::new();
                for ((date, carrier), alerts) in &lines {
                    writeln!(text, "{date},{carrier},{alerts}").expect("memory takes it");
                }
                writer.write(text);
            }
        }
    });
    Ok(())
}
