//! Sinks of all kinds on a machine that loses its power: a small job without workers, started again and again.
//!
//! Epoch e writes what [`lines`] says, so what is outside as of any frontier is known without having been run. What is
//! committed and the table of the transactional sink are elsewhere, where nothing is lost.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use super::encode::Encode;
use super::publish::sweep_on;
use super::rows::RowEncoder;
use super::stager::Seat;
use super::*;
use crate::checkpoint::Publication;
use crate::cluster::{Control, Failure};
use crate::files::{Files, SimulatedFiles};

const DIR: &str = "/deep/out";

/// What a worker writes in an epoch; now and then more than stays in memory.
fn lines(epoch: u64, worker: usize) -> Vec<u8> {
    let lines = if epoch % 5 == 3 { 70_000 } else { 3 };
    (0..lines).flat_map(|n| format!("{epoch} {worker} {n:09}\n").into_bytes()).collect()
}

/// Rows with their mark, where a crash takes nothing.
#[derive(Clone, Default)]
struct Table(Arc<Mutex<(Option<u64>, Vec<String>)>>);

impl TransactionalSink for Table {
    type Row = String;

    fn progress(&mut self) -> Result<Option<u64>, Failure> {
        Ok(self.0.lock().unwrap_or_else(PoisonError::into_inner).0)
    }

    fn apply(&mut self, epoch: u64, rows: &mut dyn Iterator<Item = Result<String, Failure>>) -> Result<(), Failure> {
        let mut table = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if table.0.is_none_or(|mark| mark <= epoch) {
            let rows = rows.collect::<Result<Vec<_>, _>>()?;
            table.1.extend(rows);
            table.0 = Some(epoch + 1);
        }
        Ok(())
    }
}

/// What outlives a start.
struct Machine {
    files: SimulatedFiles,
    table: Table,
    /// The frontier of the last commit, and what it has to publish.
    committed: (u64, Vec<Publication>),
    generation: u64,
}

/// Where a start ends, when nothing fails before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    Staged,
    Committed,
    Published,
}

impl Machine {
    fn new() -> Self {
        let (files, table) = (SimulatedFiles::new(), Table::default());
        Machine { files, table, committed: (0, Vec::new()), generation: 0 }
    }

    fn publish(&self, publications: &[Publication]) -> Result<(), Failure> {
        let mut publisher = Publisher::on(Arc::new(self.files.clone()));
        publisher.add("rows", self.table.clone());
        publisher.publish(publications)
    }

    /// Starts the job and does `epochs` of them; of the last one as much as `end` says.
    fn run(&mut self, epochs: u64, end: End) -> Result<(), Failure> {
        self.generation += 1;
        let (generation, resume) = (self.generation, self.committed.0);
        let control = Control::detached();
        self.publish(&self.committed.1)?;
        let mut stagers = Vec::new();
        for (sink, place) in [
            ("lines", Place::Parts { dir: DIR.into(), extension: "txt".into() }),
            ("report", Place::Whole(Path::new(DIR).join("report"))),
            ("rows", Place::Rows { dir: DIR.into() }),
        ] {
            sweep_on(&self.files, Path::new(DIR), sink, generation)
                .map_err(|error| Failure::data(error.to_string()))?;
            let workers = if sink == "report" { 1 } else { 2 };
            let sink = sink.to_owned();
            let options = StagerOptions { sink, place, generation, process: 0, workers, resume };
            let stager = Stager::on(Arc::new(self.files.clone()), options, &control)?;
            let waker = || timely::execute_directly(|worker| worker.sync_activator_for(Vec::new()));
            stagers.push((0..workers).map(|_| stager.join(waker())).collect::<Vec<_>>());
        }
        for epoch in resume..resume + epochs {
            let mut publications = Vec::new();
            for seats in &stagers {
                publications.push(stage(seats, epoch, &control)?);
            }
            let last = epoch + 1 == resume + epochs;
            if last && end == End::Staged {
                break;
            }
            self.committed = (epoch + 1, publications);
            if last && end == End::Committed {
                break;
            }
            self.publish(&self.committed.1)?;
        }
        Ok(())
    }

    /// What is published is what the committed epochs wrote, and nothing else is there.
    fn assert_published(&self, what: &str) {
        let frontier = self.committed.0;
        let mut found: BTreeMap<String, u64> = self.files.list(Path::new(DIR)).unwrap().into_iter().collect();
        assert!(found.remove(".staged").is_some());
        let read = |name: &str| self.files.read(&Path::new(DIR).join(name)).unwrap();
        for epoch in 0..frontier {
            let name = format!("lines-{epoch:020}-p0.txt");
            assert!(found.remove(&name).is_some(), "{what}: {name} is missing");
            assert!(read(&name) == [lines(epoch, 0), lines(epoch, 1)].concat(), "{what}: {name}");
        }
        if frontier > 0 {
            assert!(found.remove("report").is_some() && read("report") == lines(frontier - 1, 0), "{what}: the report");
        }
        assert_eq!(found, BTreeMap::new(), "{what}: strays");
        let expected: Vec<String> = (0..frontier).flat_map(|epoch| [0, 1].map(|n| format!("{epoch} {n}"))).collect();
        assert!(self.table.0.lock().unwrap().1 == expected, "{what}: the table");
    }

    /// And nothing is left of what was staged but the folders of the last start.
    fn assert_swept(&self, what: &str) {
        let staged = PathBuf::from(DIR).join(".staged");
        for (name, _) in self.files.list(&staged).unwrap() {
            assert!(name.ends_with(&format!("-g{}", self.generation)), "{what}: {name} is left");
            assert_eq!(self.files.list(&staged.join(&name)).unwrap(), [], "{what}: {name}");
        }
    }
}

/// An epoch at the workers of one sink, until it is staged.
fn stage(seats: &[Seat], epoch: u64, control: &Control) -> Result<Publication, Failure> {
    for (worker, seat) in seats.iter().enumerate() {
        if seat.sink() == "rows" {
            let (mut header, mut bytes, row) = (Vec::new(), Vec::new(), format!("{epoch} {worker}"));
            let mut encode = || RowEncoder.header(&row, &mut header).and_then(|()| RowEncoder.encode(&row, &mut bytes));
            encode().map_err(Failure::data)?;
            seat.write(epoch, header, bytes);
        } else {
            seat.write(epoch, Vec::new(), lines(epoch, worker));
        }
        seat.close(Some(epoch + 1));
    }
    let mut publication = None;
    for seat in seats {
        loop {
            if let Some(staged) = seat.staged().pop() {
                assert_eq!(staged.epoch, epoch);
                publication = publication.or(staged.publication);
                break;
            }
            if let Some(failure) = control.failure() {
                return Err(failure);
            }
            std::thread::park_timeout(Duration::from_micros(100));
        }
    }
    Ok(publication.expect("one worker is given it"))
}

mod tests {
    use super::*;
    #[cfg(any(debug_assertions, feature = "failpoints"))]
    use crate::checkpoint::failpoint;

    #[test]
    fn power_that_is_lost_between_two_steps_of_a_commit_changes_nothing_outside() {
        for end in [End::Staged, End::Committed, End::Published] {
            for torn in [0, 1, 2] {
                let what = format!("{end:?}, torn {torn}");
                let mut machine = Machine::new();
                for epochs in [1, 2, 5, 1] {
                    machine.run(epochs, end).unwrap_or_else(|failure| panic!("{what}: {failure}"));
                    if end == End::Published {
                        machine.assert_published(&what);
                        machine.assert_swept(&what);
                    }
                    machine.files.crash(|_, unsynced| unsynced * torn / 2);
                }
                machine.run(1, End::Published).unwrap_or_else(|failure| panic!("{what}: {failure}"));
                machine.assert_published(&what);
                machine.assert_swept(&what);
                machine.files.crash(|_, _| 0);
                machine.assert_published(&what);
            }
        }
    }

    #[cfg(any(debug_assertions, feature = "failpoints"))]
    #[test]
    fn power_that_is_lost_at_any_step_changes_nothing_outside() {
        let mut reached = 0;
        for point in failpoint::points().filter(|point| point.starts_with("sink.")) {
            for after in [0, 1, 2, 5] {
                let what = format!("{point} after {after}");
                let mut machine = Machine::new();
                machine.run(1, End::Committed).unwrap();
                machine.files.crash(|_, _| 0);
                let chain = if after == 0 { "fail".to_owned() } else { format!("{after}*off->fail") };
                let entered = failpoint::Scope::new(&format!("{point}={chain}")).unwrap().enter();
                reached += usize::from(machine.run(4, End::Published).is_err());
                drop(entered);
                machine.files.crash(|_, unsynced| unsynced / 2);
                machine.run(1, End::Published).unwrap_or_else(|failure| panic!("{what}: {failure}"));
                machine.assert_published(&what);
                machine.assert_swept(&what);
            }
        }
        assert!(reached > 70, "{reached}");
    }

    #[test]
    fn a_file_of_a_whole_job_is_there_once_it_is_finished_and_is_as_before_until_then() {
        let files = SimulatedFiles::new();
        let (folder, path) = (Path::new("/nowhere/out"), Path::new("/nowhere/out/lines"));
        super::super::publish::create_folder(&files, folder).unwrap();
        for job in 0..3u8 {
            let sink = FileSink::create_on(Arc::new(files.clone()), path, &Control::detached()).unwrap();
            sink.write(vec![job; 100_000]);
            let crashed = files.duplicate();
            crashed.crash(|_, unsynced| unsynced);
            let before = crashed.read(path).ok();
            assert_eq!(before, job.checked_sub(1).map(|before| vec![before; 100_000]));
            sink.finish().unwrap();
            files.crash(|_, _| 0);
            assert!(files.read(path).unwrap() == vec![job; 100_000]);
            assert_eq!(files.list(folder).unwrap().len(), 1, "nothing stays beside it");
        }
    }
}
