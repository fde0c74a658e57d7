//! Hand-written operators that make calls and journal what these gave.

use std::fs::File;
use std::io::Write;
use std::path::Path;
use std::sync::Arc;
use std::sync::mpsc::{self, Receiver, Sender};
use std::thread;

use timely::dataflow::StreamVec;
use timely::dataflow::channels::pact::Exchange;
use timely::dataflow::operators::generic::Operator;

use crate::calls::CALLS;
use crate::measure::{Error, mix};
use crate::replies::{LowWater, Replies};

/// A run on its way: its time, its input, what it has so far, and how many calls it has made.
#[derive(Clone, Copy)]
struct Way {
    time: u64,
    input: u64,
    value: u64,
    calls: u64,
}

impl Way {
    /// The call after those that it has made.
    fn next(self) -> Way {
        Way { value: self.value ^ crate::calls::give(self.input, self.calls), calls: self.calls + 1, ..self }
    }

    /// Its record in the journal.
    fn record(self, journal: &mut Vec<u8>) {
        for word in [self.input, self.calls, self.value] {
            journal.extend_from_slice(&word.to_le_bytes());
        }
    }
}

/// Appends what comes, all that has come at once, and syncs; then tells of it.
fn log(mut file: File, batches: &Receiver<(Vec<u8>, Vec<Way>)>, replies: Option<&Replies<Way>>) -> Result<(), Error> {
    while let Ok((mut bytes, mut ways)) = batches.recv() {
        while let Ok((more, also)) = batches.try_recv() {
            bytes.extend(more);
            ways.extend(also);
        }
        file.write_all(&bytes)?;
        file.sync_data()?;
        if let Some(replies) = replies {
            for way in ways {
                replies.push(way);
            }
        }
    }
    Ok(())
}

/// Makes the calls of each input one after the other, each as a task of the runtime.
///
/// With `eager` a run goes on when the record of its call is synced, for which all calls at that moment wait together.
/// Else records are written epoch by epoch, and nobody waits for them.
pub(crate) fn journaled<'scope>(
    stream: StreamVec<'scope, u64, u64>,
    folder: &Path,
    eager: bool,
) -> StreamVec<'scope, u64, u64> {
    let runtime = timely_agents_operators::runtime::handle().expect("the runtime starts");
    let file = File::create(folder.join("journal-by-hand")).expect("the folder is there");
    let scope = stream.scope();
    stream.unary_frontier(Exchange::new(|value: &u64| mix(*value)), "Journaled", move |_, info| {
        let replies = Replies::new(scope.worker().sync_activator_for(info.address.to_vec()));
        let (sender, batches): (Sender<(Vec<u8>, Vec<Way>)>, _) = mpsc::channel();
        let told = eager.then(|| Arc::clone(&replies));
        thread::spawn(move || log(file, &batches, told.as_deref()).expect("the disk takes it"));
        let mut low = LowWater::default();
        let (mut ended, mut journal, mut closed) = (Vec::new(), Vec::new(), None);
        move |(input, frontier), output| {
            let call = |way: Way| {
                let (replies, sender) = (Arc::clone(&replies), sender.clone());
                runtime.spawn(async move {
                    let way = way.next();
                    if eager {
                        let mut record = Vec::new();
                        way.record(&mut record);
                        // The log's thread outlives its senders.
                        let _ = sender.send((record, vec![way]));
                    } else {
                        replies.push(way);
                    }
                });
            };
            input.for_each_time(|capability, batches| {
                let time = *capability.time();
                for batch in batches {
                    low.open(&capability, batch.len());
                    batch.drain(..).for_each(|input| call(Way { time, input, value: 0, calls: 0 }));
                }
            });
            replies.drain(|way| {
                if !eager {
                    way.record(&mut journal);
                }
                if way.calls < CALLS { call(way) } else { ended.push((way.time, way.value)) }
            });
            for ended in ended.chunk_by(|a: &(u64, u64), b| a.0 == b.0) {
                let time = ended[0].0;
                output.session(&low.at(time)).give_iterator(ended.iter().map(|(_, value)| *value));
                low.close(time, ended.len());
            }
            ended.clear();
            low.settle();
            let least = frontier.frontier().first().copied();
            if least != closed {
                closed = least;
                if !journal.is_empty() {
                    let _ = sender.send((std::mem::take(&mut journal), Vec::new()));
                }
            }
        }
    })
}
