//! `AbomVec` in a dataflow of two workers that exchange bytes, against timely's own container.

use std::borrow::Cow;
use std::collections::BTreeMap;

use timely::communication::Config as Communication;
use timely::container::{CapacityContainerBuilder, DrainContainer, PushInto, SizableContainer};
use timely::dataflow::InputHandle;
use timely::dataflow::channels::ContainerBytes;
use timely::dataflow::channels::pact::ExchangeCore;
use timely::dataflow::operators::{Operator, Probe};
use timely::{Config, Container, WorkerConfig};
use timely_agents_abomonation::AbomVec;

type Row = (u64, u64, String);
/// Per key: rows, their sum, their texts in order.
type Totals = BTreeMap<u64, (u64, u64, Vec<String>)>;

/// How a test reads the items of a container.
trait Rows: DrainContainer {
    fn row<'a>(item: &'a Self::Item<'_>) -> &'a Row;
}

impl Rows for Vec<Row> {
    fn row(item: &Row) -> &Row {
        item
    }
}

impl Rows for AbomVec<Row> {
    fn row<'a>(item: &'a Cow<'_, Row>) -> &'a Row {
        item
    }
}

/// Each worker sends rows of every key in every epoch; the totals that each worker saw.
fn totals<C>(communication: Communication) -> Vec<Totals>
where
    C: Rows + Container + Clone + ContainerBytes + SizableContainer + PushInto<Row> + Send,
    CapacityContainerBuilder<C>: PushInto<Row> + for<'a> PushInto<C::Item<'a>>,
{
    let config = Config { communication, worker: WorkerConfig::default() };
    let guards = timely::execute(config, |worker| {
        let (index, totals) = (worker.index() as u64, std::rc::Rc::<std::cell::RefCell<Totals>>::default());
        let seen = totals.clone();
        let mut input = InputHandle::<u64, CapacityContainerBuilder<C>>::new_with_builder();
        let probe = worker.dataflow(|scope| {
            let by_key = ExchangeCore::<CapacityContainerBuilder<C>, _>::new(|item: &C::Item<'_>| C::row(item).0);
            input
                .to_stream(scope)
                .unary::<CapacityContainerBuilder<Vec<()>>, _, _, _>(by_key, "Total", move |_, _| {
                    move |input, _| {
                        input.for_each_time(|_, data| {
                            for item in data.flat_map(DrainContainer::drain) {
                                let (key, value, text) = C::row(&item);
                                let mut totals = seen.borrow_mut();
                                let total = totals.entry(*key).or_default();
                                total.0 += 1;
                                total.1 += value;
                                total.2.push(text.clone());
                            }
                        });
                    }
                })
                .probe()
                .0
        });
        for epoch in 0..5 {
            for value in 0..700 {
                let text = ["", "plain", "zażółć", "🫖"][value as usize % 4];
                input.send((value % 13, value + index, format!("{text}{epoch}/{index}")));
            }
            input.advance_to(epoch + 1);
            worker.step_or_park_while(None, || probe.less_than(input.time()));
        }
        let mut totals = totals.take();
        for (_, _, texts) in totals.values_mut() {
            texts.sort();
        }
        totals
    });
    let guards = guards.expect("the workers start");
    guards.join().into_iter().map(|totals| totals.expect("the worker ends")).collect()
}

#[test]
fn two_workers_that_exchange_bytes_agree_with_timelys_container() {
    let expected = totals::<Vec<Row>>(Communication::Process(2));
    assert_eq!(expected.iter().map(|worker| worker.values().map(|total| total.0).sum::<u64>()).sum::<u64>(), 7000);
    assert!(expected.iter().all(|worker| !worker.is_empty()), "both workers hold keys");
    assert_eq!(totals::<AbomVec<Row>>(Communication::ProcessBinary(2)), expected);
    assert_eq!(totals::<Vec<Row>>(Communication::ProcessBinary(2)), expected);
}

#[test]
fn workers_that_share_memory_exchange_without_encoding() {
    let expected = totals::<Vec<Row>>(Communication::Thread);
    assert_eq!(totals::<AbomVec<Row>>(Communication::Thread), expected);
    assert_eq!(totals::<AbomVec<Row>>(Communication::Process(2)), totals::<Vec<Row>>(Communication::Process(2)));
}
