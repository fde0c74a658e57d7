//! How marks and reports travel: a dataflow of three operators on every worker.
//!
//! ```text
//! MARKS ──to all other workers──▶ METER ──to the worker of the mark──▶ REPORTS
//!   ▲ sources                       ▲ loads of operators                  ╰──▶ sources
//! ```
//!
//! # Invariants
//! - A mark leaves after the data that it stands behind: in a later activation than the source's, on the same
//!   connections. It is answered a step after it came, when the data before it has been taken in.
//! - Marks keep a capability until the worker's flow is closed and its sources have ended, meters until no marks can come: the
//!   dataflow ends by itself.
//! - Nothing is activated without a mark, an answer or a change of load.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;

use serde::{Deserialize, Serialize};
use timely::container::CapacityContainerBuilder;
use timely::dataflow::channels::pact::Exchange;
use timely::dataflow::operators::generic::OutputBuilder;
use timely::dataflow::operators::generic::builder_rc::OperatorBuilder;
use timely::dataflow::operators::generic::operator::Operator;
use timely::dataflow::{Scope, StreamVec};
use timely::scheduling::Activator;
use timely::worker::Worker;

use super::Life;
use super::ledger::Ledger;
use super::pressure::Pressure;

type Builder<D> = CapacityContainerBuilder<Vec<D>>;

/// What stands behind a chunk of data; number 0 stands behind none and asks for reports.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
struct Mark {
    to: usize,
    source: usize,
    number: u64,
}

/// A worker's answer to a mark, or news of its pressure.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
struct Report {
    to: usize,
    worker: usize,
    answered: u64,
    pressure: Pressure,
}

/// How the ledger's users set the dataflow in motion.
#[derive(Clone, Debug)]
pub(super) struct Motion {
    /// After sources have attached or sent a chunk, and after the end.
    pub(super) marks: Activator,
    /// After the pressure has changed.
    pub(super) meter: Activator,
}

/// Builds the dataflow; `life` tells when this worker will send no more marks.
pub(super) fn build(worker: &mut Worker, ledger: &Rc<RefCell<Ledger>>, life: &Rc<Life>) -> Motion {
    let peers = worker.peers();
    worker.dataflow_named::<u64, _, _>("Flow", |scope| {
        let (marks, marks_activator) = marks(scope, peers, Rc::clone(ledger), Rc::clone(life));
        let (reports, meter_activator) = meter(marks, Rc::clone(ledger));
        receive(reports, Rc::clone(ledger));
        Motion { marks: marks_activator, meter: meter_activator }
    })
}

fn marks(
    scope: Scope<'_, u64>,
    peers: usize,
    ledger: Rc<RefCell<Ledger>>,
    life: Rc<Life>,
) -> (StreamVec<'_, u64, Mark>, Activator) {
    let mut builder = OperatorBuilder::new("Marks".to_owned(), scope);
    let activator = scope.worker().activator_for(builder.operator_info().address);
    let (port, stream) = builder.new_output();
    let mut port: OutputBuilder<u64, Builder<Mark>> = OutputBuilder::from(port);
    builder.build(move |mut capabilities| {
        let mut capability = capabilities.pop();
        let mut told = None;
        move |_| {
            let Some(held) = &capability else { return };
            let ledger = ledger.borrow();
            let number = ledger.mark();
            // Of several marks that are due together the last one stands for all.
            if ledger.attached && told != Some(number) {
                told = Some(number);
                let source = ledger.index;
                let mut output = port.activate();
                let mut session = output.session(held);
                for to in (0..peers).filter(|to| *to != source) {
                    session.give(Mark { to, source, number });
                }
            }
            drop(ledger);
            if life.is_over() {
                capability = None;
            }
        }
    });
    (stream, activator)
}

fn meter(marks: StreamVec<'_, u64, Mark>, ledger: Rc<RefCell<Ledger>>) -> (StreamVec<'_, u64, Report>, Activator) {
    let scope = marks.scope();
    let mut builder = OperatorBuilder::new("Meter".to_owned(), scope);
    let activator = scope.worker().activator_for(builder.operator_info().address);
    let again = activator.clone();
    let mut input = builder.new_input(marks, Exchange::new(|mark: &Mark| mark.to as u64));
    let (port, stream) = builder.new_output();
    let mut port: OutputBuilder<u64, Builder<Report>> = OutputBuilder::from(port);
    builder.build(move |mut capabilities| {
        let mut capability = capabilities.pop();
        // Marks that came in the last activation, the greatest of each source.
        let mut due: BTreeMap<usize, u64> = BTreeMap::new();
        move |frontiers| {
            let mut ledger = ledger.borrow_mut();
            if let Some(held) = &capability {
                if std::mem::take(&mut ledger.changed) {
                    for source in &ledger.sources {
                        due.entry(*source).or_insert(0);
                    }
                }
                if !due.is_empty() {
                    let (worker, pressure) = (ledger.index, ledger.pressure());
                    let mut output = port.activate();
                    let mut session = output.session(held);
                    for (to, answered) in std::mem::take(&mut due) {
                        session.give(Report { to, worker, answered, pressure });
                    }
                }
            }
            input.for_each(|_, marks| {
                for mark in marks.drain(..) {
                    ledger.sources.insert(mark.source);
                    let number = due.entry(mark.source).or_insert(0);
                    *number = mark.number.max(*number);
                }
            });
            if !due.is_empty() {
                again.activate();
            }
            if frontiers[0].is_empty() {
                // Nobody sends any more.
                capability = None;
                due.clear();
            }
        }
    });
    (stream, activator)
}

fn receive(reports: StreamVec<'_, u64, Report>, ledger: Rc<RefCell<Ledger>>) {
    let pact = Exchange::new(|report: &Report| report.to as u64);
    reports.sink(pact, "Reports", move |(input, _)| {
        input.for_each(|_, reports| {
            let mut ledger = ledger.borrow_mut();
            for report in reports.drain(..) {
                ledger.report(report.worker, report.answered, report.pressure);
            }
        });
    });
}
