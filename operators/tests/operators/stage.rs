//! Staged output: one file an epoch and process, visible at the commit and not before.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use timely::dataflow::operators::{Inspect, Probe};
use timely_agents_operators::checkpoint::{Ack, Publication};
use timely_agents_operators::cluster::{ClusterConfig, Control, Failure, execute};
use timely_agents_operators::sink::{
    Encode, FileSink, Place, Stager, StagerOptions, publish, stage_lines, stage_whole, sweep, write_lines,
};
use timely_agents_operators::source::{SourceOptions, source};
use timely_agents_operators::time::{EpochTime, Stamp};

use super::source::Rows;

/// All files below `folder`, by their paths from there, with their contents.
fn tree(folder: &Path) -> Vec<(String, String)> {
    let mut files = Vec::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(next) = folders.pop() {
        for entry in fs::read_dir(next).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else {
                let name = path.strip_prefix(folder).unwrap().to_str().unwrap().to_owned();
                files.push((name, fs::read_to_string(path).unwrap()));
            }
        }
    }
    files.sort();
    files
}

fn owned(files: &[(&str, &str)]) -> Vec<(String, String)> {
    files.iter().map(|(name, text)| ((*name).to_owned(), (*text).to_owned())).collect()
}

fn options(place: Place, workers: usize) -> StagerOptions {
    StagerOptions { sink: "alerts".to_owned(), place, generation: 3, process: 1, workers, resume: 0 }
}

fn parts(dir: &Path) -> Place {
    Place::Parts { dir: dir.to_owned(), extension: "jsonl".to_owned() }
}

/// Lines under a header.
struct Lines;

impl Encode<u64> for Lines {
    fn header(&mut self, _: &u64, bytes: &mut Vec<u8>) -> Result<(), String> {
        bytes.extend_from_slice(b"n\n");
        Ok(())
    }
    fn encode(&mut self, n: &u64, bytes: &mut Vec<u8>) -> Result<(), String> {
        if *n == 13 {
            return Err("thirteen".to_owned());
        }
        bytes.extend_from_slice(format!("{n}\n").as_bytes());
        Ok(())
    }
}

type Acks = Arc<Mutex<Vec<(u64, Publication)>>>;

/// Stages what each worker's function gives, `(epoch, n)`; the publications in order of epochs.
fn stage<T: EpochTime + timely::progress::timestamp::Refines<()>>(
    options: StagerOptions,
    rows: impl Fn(u64) -> Vec<(u64, u64)> + Send + Sync + 'static,
) -> Result<Vec<(u64, Publication)>, Failure> {
    let acks = Acks::default();
    let noted = Arc::clone(&acks);
    let slot = Mutex::new(None);
    execute(&ClusterConfig::single(options.workers), move |worker, control| {
        let stager = {
            let mut slot = slot.lock().unwrap();
            if slot.is_none() {
                *slot = Some(Stager::new(options.clone(), control)?);
            }
            slot.clone().unwrap()
        };
        let reader = Some(Rows::new(rows(worker.index() as u64)));
        let noted = Arc::clone(&noted);
        worker.dataflow::<T, _, _>(|scope| {
            let lines = source(scope, reader, SourceOptions::new("rows", control.clone()));
            stage_lines(lines, &stager, Lines, None, control.clone()).inspect_time(move |time, ack| {
                let Ack::Staged { sink, epoch, publication } = ack else { panic!("{ack:?}") };
                assert_eq!((sink.as_str(), *epoch), ("alerts", time.epoch()));
                // It is durable by now, and not visible.
                let Publication::Rename { from, to } = publication else { panic!("{publication:?}") };
                assert!(Path::new(from).exists() && !Path::new(to).exists());
                noted.lock().unwrap().push((*epoch, publication.clone()));
            });
        });
        Ok(())
    })?;
    let mut acks = std::mem::take(&mut *acks.lock().unwrap());
    acks.sort();
    Ok(acks)
}

#[test]
fn each_epoch_is_one_file_of_all_workers_and_appears_when_it_is_published() {
    let folder = tempfile::tempdir().unwrap();
    let rows = |worker: u64| (0..6).filter(|n| worker == 0 || n % 2 == 0).map(|n| (n, n)).collect();
    let acks = stage::<u64>(options(parts(folder.path()), 2), rows).unwrap();
    assert_eq!(acks.iter().map(|(epoch, _)| *epoch).collect::<Vec<_>>(), [0, 1, 2, 3, 4, 5]);
    assert!(tree(folder.path()).iter().all(|(name, _)| name.starts_with(".staged/alerts-g3/")));
    for (epoch, publication) in &acks {
        publish(publication).unwrap();
        // Doing it again does no harm.
        publish(publication).unwrap();
        let name = format!("alerts-{epoch:020}-p1.jsonl");
        let text = fs::read_to_string(folder.path().join(name)).unwrap();
        let times = if epoch % 2 == 0 { 2 } else { 1 };
        assert_eq!(text, format!("n\n{}", format!("{epoch}\n").repeat(times)));
    }
    assert_eq!(tree(folder.path()).len(), 6);
}

#[test]
fn the_frontier_of_the_acks_says_what_is_staged() {
    let folder = tempfile::tempdir().unwrap();
    let options = options(parts(folder.path()), 1);
    execute(&ClusterConfig::single(1), move |worker, control| {
        let stager = Stager::new(options.clone(), control)?;
        let staged = Acks::default();
        let noted = Arc::clone(&staged);
        let probe = worker.dataflow::<u64, _, _>(|scope| {
            let mut options = SourceOptions::new("rows", control.clone());
            options.batch = 1;
            let lines = source(scope, Some(Rows::new((0..50).map(|n| (n, 100 + n)))), options);
            let acks = stage_lines(lines, &stager, Lines, None, control.clone()).inspect(move |ack| {
                let Ack::Staged { epoch, publication, .. } = ack else { panic!("{ack:?}") };
                noted.lock().unwrap().push((*epoch, publication.clone()));
            });
            acks.probe().0
        });
        worker.step_or_park_while(None, || {
            let over = probe.with_frontier(|frontier| frontier.first().copied()).unwrap_or(50);
            let staged = staged.lock().unwrap();
            assert!((0..over).all(|epoch| staged.iter().any(|(at, _)| *at == epoch)), "{over}: {staged:?}");
            !probe.done()
        });
        Ok(())
    })
    .unwrap();
}

#[test]
fn epochs_that_are_over_are_passed_over() {
    let folder = tempfile::tempdir().unwrap();
    let mut options = options(parts(folder.path()), 2);
    options.resume = 4;
    let acks = stage::<u64>(options, |_| (0..6).map(|n| (n, n)).collect()).unwrap();
    assert_eq!(acks.iter().map(|(epoch, _)| *epoch).collect::<Vec<_>>(), [4, 5]);
    assert_eq!(tree(folder.path()).len(), 2);
}

#[test]
fn an_epoch_without_lines_stages_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let rows = |worker: u64| if worker == 0 { vec![] } else { vec![(3, 3), (9, 9)] };
    let acks = stage::<Stamp>(options(parts(folder.path()), 3), rows).unwrap();
    assert_eq!(acks.len(), 2);
    let names = ["00000000000000000003-p1", "00000000000000000009-p1"].map(|name| format!(".staged/alerts-g3/{name}"));
    assert_eq!(tree(folder.path()), owned(&[(&names[0], "n\n3\n3\n"), (&names[1], "n\n9\n9\n")]));
}

#[test]
fn an_epoch_larger_than_its_buffer_is_whole() {
    let folder = tempfile::tempdir().unwrap();
    let rows = |worker: u64| (0..200_000).map(|n| (7, 2 * n + worker)).filter(|(_, n)| *n != 13).collect();
    let acks = stage::<u64>(options(parts(folder.path()), 2), rows).unwrap();
    publish(&acks[0].1).unwrap();
    let files = tree(folder.path());
    assert_eq!((acks.len(), files.len()), (1, 1));
    let (header, lines) = files[0].1.split_once('\n').unwrap();
    let mut numbers: Vec<u64> = lines.lines().map(|line| line.parse().unwrap()).collect();
    // Each worker's lines keep their order.
    for worker in 0..2 {
        assert!(numbers.iter().filter(|n| **n % 2 == worker).is_sorted());
    }
    numbers.sort_unstable();
    assert_eq!(header, "n");
    assert!(numbers.iter().copied().eq((0..400_000).filter(|n| *n != 13)));
}

#[test]
fn a_line_that_cannot_be_encoded_ends_the_job_and_acknowledges_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let failure = stage::<u64>(options(parts(folder.path()), 1), |_| vec![(3, 13), (9, 9)]).unwrap_err();
    assert_eq!(failure.message(), "sink alerts: cannot encode a record for output: thirteen");
    assert_eq!(tree(folder.path()), []);
}

#[test]
fn a_stage_that_is_gone_ends_the_job() {
    let folder = tempfile::tempdir().unwrap();
    let stage_dir = folder.path().join(".staged/alerts-g3");
    let gone = stage_dir.clone();
    let rows = move |_| {
        fs::remove_dir(&gone).unwrap();
        vec![(3, 3)]
    };
    let failure = stage::<u64>(options(parts(folder.path()), 1), rows).unwrap_err();
    let file = stage_dir.join("00000000000000000003-p1");
    let expected = format!("sink alerts: cannot write {}: No such file or directory", file.display());
    assert_eq!(failure.message(), expected);
}

#[test]
fn names_that_do_not_fit_files_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    for name in ["", "a/b", ".a", "a b", "é"] {
        let mut options = options(parts(folder.path()), 1);
        name.clone_into(&mut options.sink);
        let failure = Stager::new(options, &Control::detached()).unwrap_err();
        assert!(failure.message().contains("use letters, digits"), "{failure}");
    }
    let no_file = options(Place::Whole(folder.path().join("..")), 1);
    assert!(Stager::new(no_file, &Control::detached()).unwrap_err().message().contains("names no file"));
}

#[test]
fn a_publication_whose_files_are_lost_says_so() {
    let folder = tempfile::tempdir().unwrap();
    let name = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
    let error = publish(&Publication::Rename { from: name("a"), to: name("b") }).unwrap_err().to_string();
    assert!(error.contains("a committed output is lost"), "{error}");
    fs::write(name("a"), "x").unwrap();
    let error = publish(&Publication::Rename { from: name("a"), to: name("none/b") }).unwrap_err().to_string();
    assert!(error.starts_with("cannot publish ") && error.ends_with("No such file or directory"), "{error}");
}

#[test]
fn what_older_generations_left_is_swept_and_nothing_else() {
    let folder = tempfile::tempdir().unwrap();
    sweep(folder.path(), "alerts", 3).unwrap();
    for name in ["alerts-g1", "alerts-g2", "alerts-g3", "alerts-g10", "alerts-g1-g1", "other-g1", "alerts-gx"] {
        let stage = folder.path().join(".staged").join(name);
        fs::create_dir_all(&stage).unwrap();
        fs::write(stage.join("part"), name).unwrap();
    }
    fs::write(folder.path().join("alerts-1"), "published").unwrap();
    for _ in 0..2 {
        sweep(folder.path(), "alerts", 3).unwrap();
        let left: Vec<_> = tree(folder.path()).into_iter().map(|(_, text)| text).collect();
        assert_eq!(left, ["alerts-g1-g1", "alerts-g10", "alerts-g3", "alerts-gx", "other-g1", "published"]);
    }
}

/// Stages the sum of all rows so far as a whole file.
fn stage_sums(path: &Path, resume: u64, rows: &'static [(u64, u64)]) -> Vec<(u64, Publication)> {
    let acks = Acks::default();
    let noted = Arc::clone(&acks);
    let options = StagerOptions { resume, ..options(Place::Whole(path.to_owned()), 1) };
    execute(&ClusterConfig::single(2), move |worker, control| {
        let stager = if worker.index() == 0 { Some(Stager::new(options.clone(), control)?) } else { None };
        let reader = (worker.index() == 1).then(|| Rows::new(rows.iter().copied()));
        let noted = Arc::clone(&noted);
        worker.dataflow::<u64, _, _>(|scope| {
            let rows = source(scope, reader, SourceOptions::new("rows", control.clone()));
            let mut sum = 0;
            let render = move |_, rows: Vec<u64>| {
                sum += rows.iter().sum::<u64>();
                Ok(sum.to_string().into_bytes())
            };
            stage_whole(rows, stager, render, control.clone()).inspect(move |ack| {
                let Ack::Staged { epoch, publication, .. } = ack else { panic!("{ack:?}") };
                noted.lock().unwrap().push((*epoch, publication.clone()));
            });
        });
        Ok(())
    })
    .unwrap();
    let mut acks = std::mem::take(&mut *acks.lock().unwrap());
    acks.sort();
    acks
}

#[test]
fn a_whole_file_is_replaced_when_its_content_changes() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("report");
    let rows = &[(1, 5), (1, 6), (2, 0), (4, 3)];
    let acks = stage_sums(&path, 0, rows);
    assert_eq!(acks.iter().map(|(epoch, _)| *epoch).collect::<Vec<_>>(), [1, 4]);
    assert!(!path.exists());
    for ((_, publication), content) in acks.iter().zip(["11", "14"]) {
        publish(publication).unwrap();
        publish(publication).unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), content);
    }
}

#[test]
fn what_is_restored_is_in_a_whole_file_but_does_not_replace_it() {
    let folder = tempfile::tempdir().unwrap();
    // The restored sum comes at the last epoch that is over.
    let acks = stage_sums(&folder.path().join("report"), 4, &[(3, 11), (4, 0), (5, 3)]);
    assert_eq!(acks.iter().map(|(epoch, _)| *epoch).collect::<Vec<_>>(), [5]);
    publish(&acks[0].1).unwrap();
    assert_eq!(tree(folder.path()), owned(&[("report", "14")]));
}

#[test]
fn a_file_without_checkpoints_has_one_header() {
    let folder = tempfile::tempdir().unwrap();
    let path: PathBuf = folder.path().join("out");
    let place = path.clone();
    let sinks = Arc::new(Mutex::new(None));
    let kept = Arc::clone(&sinks);
    execute(&ClusterConfig::single(2), move |worker, control| {
        let sink = {
            let mut slot = sinks.lock().unwrap();
            if slot.is_none() {
                *slot = Some(FileSink::create(&place, control)?);
            }
            slot.clone().unwrap()
        };
        worker.dataflow::<u64, _, _>(|scope| {
            let rows = source(scope, Some(Rows::new([(1, 7), (2, 7)])), SourceOptions::new("rows", control.clone()));
            write_lines(rows, sink, Lines, None, control.clone());
        });
        Ok(())
    })
    .unwrap();
    let sink = kept.lock().unwrap().take().unwrap();
    sink.finish().unwrap();
    assert_eq!(fs::read_to_string(path).unwrap(), "n\n7\n7\n7\n7\n");
}
