//! Sinks: whole files or none, and writes that fail.

use std::fs;
use std::io::{self, Write};
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use timely::dataflow::operators::{Probe, ToStream};
use timely_agents_operators::cluster::{ClusterConfig, Control, Failure, execute};
use timely_agents_operators::flow::Flow;
use timely_agents_operators::limits::Limits;
use timely_agents_operators::sink::{FileSink, SinkLoad, write_lines};
use timely_agents_operators::source::{Reader, SourceOptions, source};

/// Longer than anything may take on a busy machine.
const LONG: Duration = Duration::from_mins(2);

fn names(folder: &Path) -> Vec<String> {
    let mut names: Vec<_> =
        fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

/// Fails every write, and says so.
struct Broken(Sender<()>, io::ErrorKind);

impl Write for Broken {
    fn write(&mut self, _: &[u8]) -> io::Result<usize> {
        let _ = self.0.send(());
        Err(self.1.into())
    }
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Does not write before it is told to.
struct Slow(Receiver<()>, Sender<Vec<u8>>);

impl Write for Slow {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.recv_timeout(LONG).unwrap();
        self.1.send(bytes.to_vec()).unwrap();
        Ok(bytes.len())
    }
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[test]
fn a_file_appears_when_the_job_has_succeeded() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("out.txt");
    fs::write(&path, "what was there").unwrap();
    let sink = FileSink::create(&path, &Control::detached()).unwrap();
    sink.write(b"one\n".to_vec());
    sink.clone().write(b"two\n".to_vec());
    assert_eq!(fs::read(&path).unwrap(), b"what was there");
    assert_eq!(names(folder.path()).len(), 2);
    sink.finish().unwrap();
    assert_eq!(fs::read(&path).unwrap(), b"one\ntwo\n");
    assert_eq!(names(folder.path()), ["out.txt"]);
}

#[test]
fn two_sinks_of_one_path_do_not_mix() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("out.txt");
    let control = Control::detached();
    let sinks = [1, 2].map(|_| FileSink::create(&path, &control).unwrap());
    for (sink, line) in sinks.iter().zip(["one\n", "two\n"]) {
        sink.write(line.into());
    }
    for sink in sinks {
        sink.finish().unwrap();
    }
    assert_eq!(fs::read(&path).unwrap(), b"two\n");
    assert_eq!(names(folder.path()), ["out.txt"]);
}

#[test]
fn a_job_that_fails_leaves_no_file() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("out.txt");
    let result = execute(&ClusterConfig::single(1), move |_, control| {
        let sink = FileSink::create(&path, control)?;
        sink.write(b"half\n".to_vec());
        control.fail(Failure::data("no more"));
        Ok(())
    });
    assert_eq!(result, Err(Failure::data("no more")));
    assert_eq!(names(folder.path()), [""; 0]);
}

#[test]
fn a_link_stays_one() {
    let folder = tempfile::tempdir().unwrap();
    let (link, file) = (folder.path().join("link"), folder.path().join("file"));
    fs::write(&file, "").unwrap();
    std::os::unix::fs::symlink(&file, &link).unwrap();
    let sink = FileSink::create(&link, &Control::detached()).unwrap();
    sink.write(b"x".to_vec());
    sink.finish().unwrap();
    assert!(link.is_symlink());
    assert_eq!(fs::read(&file).unwrap(), b"x");
}

#[test]
fn a_device_is_written_to_and_stays() {
    let sink = FileSink::create("/dev/null", &Control::detached()).unwrap();
    sink.write(b"x".to_vec());
    sink.finish().unwrap();
    assert!(!fs::metadata("/dev/null").unwrap().is_file());
}

#[test]
fn places_that_cannot_be_written_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let refused = |path: &Path| FileSink::create(path, &Control::detached()).unwrap_err();
    let missing = folder.path().join("none/out.txt");
    assert_eq!(refused(&missing).message(), format!("cannot create {}: No such file or directory", missing.display()));
    assert_eq!(refused(folder.path()).message(), format!("cannot create {}: is a directory", folder.path().display()));
}

#[test]
fn a_broken_pipe_ends_the_job() {
    let (tell, told) = channel();
    let control = Control::detached();
    let sink = FileSink::new("standard output", Broken(tell, io::ErrorKind::BrokenPipe), &control);
    sink.write(b"x".to_vec());
    told.recv_timeout(LONG).unwrap();
    sink.write(b"y".to_vec());
    let failure = sink.finish().unwrap_err();
    assert_eq!(failure.message(), "cannot write standard output: broken pipe");
    assert_eq!(control.failure(), Some(failure));
    assert!(told.try_recv().is_err(), "nothing is written after a failure");
}

#[test]
fn a_full_disk_ends_the_job() {
    // This device takes nothing.
    if !Path::new("/dev/full").exists() {
        return;
    }
    let control = Control::detached();
    let sink = FileSink::create("/dev/full", &control).unwrap();
    sink.write(b"x".to_vec());
    let failure = sink.finish().unwrap_err();
    assert_eq!(failure.message(), "cannot write /dev/full: No space left on device");
    assert_eq!(control.failure(), Some(failure));
}

#[test]
fn a_worker_does_not_wait_for_a_slow_pipe() {
    let (go, gone) = channel();
    let (tell, told) = channel();
    let sink = Arc::new(Mutex::new(None));
    let slot = Arc::clone(&sink);
    let writer = Mutex::new(Some(Slow(gone, tell)));
    execute(&ClusterConfig::single(1), move |worker, control| {
        let sink = FileSink::new("pipe", writer.lock().unwrap().take().unwrap(), control);
        *slot.lock().unwrap() = Some(sink.clone());
        let probe = worker.dataflow::<u64, _, _>(|scope| {
            let lines = (0..3).to_stream(scope).container::<Vec<u64>>();
            let encode = |x: &u64, bytes: &mut Vec<u8>| writeln!(bytes, "{x}").map_err(|e| e.to_string());
            let (probe, _) = write_lines(lines, sink, encode, None, control.clone()).probe();
            probe
        });
        // Completes although nothing can be written yet.
        worker.step_or_park_while(None, || !probe.done());
        Ok(())
    })
    .unwrap();
    assert!(told.try_recv().is_err());
    go.send(()).unwrap();
    sink.lock().unwrap().take().unwrap().finish().unwrap();
    assert_eq!(told.recv_timeout(LONG).unwrap(), b"0\n1\n2\n");
}

#[test]
fn a_sink_that_falls_behind_stops_its_source() {
    let (go, gone) = channel();
    let (tell, told) = channel();
    let writer = Mutex::new(Some(Slow(gone, tell)));
    let read = Arc::new(AtomicU64::new(0));
    let counted = Arc::clone(&read);
    let stuck = Arc::new(AtomicU64::new(0));
    let seen = Arc::clone(&stuck);
    let go = Mutex::new(go);
    execute(&ClusterConfig::single(1), move |worker, control| {
        let sink = FileSink::new("pipe", writer.lock().unwrap().take().unwrap(), control);
        let flow = Flow::build(worker);
        let limits = Limits { inbox_bytes: 1000, ..Limits::default() };
        let load = SinkLoad::new(limits, flow.meter(limits));
        let mut options = SourceOptions::new("rows", control.clone());
        options.batch = 10;
        options.flow = Some(flow.clone());
        options.read = Some(Arc::clone(&counted));
        let probe = worker.dataflow::<u64, _, _>(|scope| {
            let rows = source(scope, Some(Rows(0..1000)), options);
            let encode = |x: &u64, bytes: &mut Vec<u8>| writeln!(bytes, "{x:099}").map_err(|e| e.to_string());
            let (probe, _) = write_lines(rows, sink, encode, Some(load), control.clone()).probe();
            probe
        });
        flow.close();
        // Nothing can be written: the source comes to rest.
        for _ in 0..1000 {
            worker.step();
        }
        seen.store(counted.load(Ordering::Relaxed), Ordering::Relaxed);
        for _ in 0..1001 {
            go.lock().unwrap().send(()).unwrap();
        }
        worker.step_or_park_while(None, || !probe.done());
        Ok(())
    })
    .unwrap();
    let stuck = stuck.load(Ordering::Relaxed);
    assert!((10..100).contains(&stuck), "{stuck} records of 100 bytes were read for a sink that takes 1000 bytes");
    assert_eq!(read.load(Ordering::Relaxed), 1000);
    drop(told);
}

/// Records that are numbers.
struct Rows(std::ops::Range<u64>);

impl Reader for Rows {
    type Item = u64;

    fn next(&mut self) -> Result<Option<(u64, u64)>, Failure> {
        Ok(self.0.next().map(|row| (0, row)))
    }
}

#[test]
fn a_record_that_cannot_be_encoded_ends_the_job() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("out.txt");
    let result = execute(&ClusterConfig::single(1), move |worker, control| {
        let sink = FileSink::create(&path, control)?;
        worker.dataflow::<u64, _, _>(|scope| {
            let lines = (0..3).to_stream(scope).container::<Vec<u64>>();
            let encode = |x: &u64, _: &mut Vec<u8>| if *x == 1 { Err("no text".to_owned()) } else { Ok(()) };
            write_lines(lines, sink, encode, None, control.clone());
        });
        Ok(())
    });
    assert_eq!(result, Err(Failure::data("cannot encode a record for output: no text")));
    assert_eq!(names(folder.path()), [""; 0]);
}
