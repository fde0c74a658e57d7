//! Disks that are full: a job on a small file system of its own stops with the cause, has lost nothing, and goes on to what
//! it would have come to once there is room.
//!
//! The small disk is a `tmpfs` in a name space in which who runs the tests may mount. Where the system has no such thing
//! the test says so and is passed over.

use std::env;
use std::fs;
use std::process::Command;

use crate::flights::{Committed, committed};
use crate::process::{Job, ONE, TWO_WORKERS};
use crate::sums;

const INPUTS: u64 = 300;

/// Runs a command that has to succeed.
fn run(program: &str, arguments: &[&str]) {
    let status = Command::new(program).args(arguments).status();
    assert!(status.as_ref().is_ok_and(std::process::ExitStatus::success), "{program} {arguments:?}: {status:?}");
}

/// A job whose directory is a disk of so many kibibytes.
fn job_on(kib: u64) -> (Job, String) {
    let job = sums::one_after_the_other(INPUTS, 2_000);
    let disk = job.path("");
    run("mount", &["-t", "tmpfs", "-o", &format!("size={kib}k"), "tmpfs", &disk]);
    fs::create_dir(job.path("out")).expect("a new directory");
    (job, disk)
}

/// The other side of [`a_full_disk_stops_the_job_and_it_goes_on_when_there_is_room`].
#[test]
#[ignore = "it is started by another test, where it may mount"]
fn on_small_disks() {
    let (mut stopped, mut committed_before) = (0, 0);
    for kib in [64, 224, 288, 352, 480, 736] {
        let (job, disk) = job_on(kib);
        let mut last = Committed::Nothing;
        // The second time the disk is full from the start.
        for start in 0..2 {
            let what = format!("{kib} KiB, start {start}");
            let outcome = job.start(if start == 0 { TWO_WORKERS } else { ONE }).finish().remove(0);
            if outcome.code() == Some(0) {
                sums::assert_complete(&job, INPUTS, &what);
                break;
            }
            outcome.assert_failed(&["No space left on device"]);
            stopped += 1;
            // All that is stored is whole, and what was committed still is.
            let now = committed(&job);
            assert!(now == Committed::All || now.frontier() >= last.frontier(), "{what}: {now:?}");
            println!("{what}: {now:?}: {}", outcome.stderr.trim());
            committed_before += u32::from(now != Committed::Nothing);
            last = now;
        }
        run("mount", &["-o", "remount,size=64m", &disk]);
        job.start(TWO_WORKERS).assert_success(&format!("{kib} KiB, with room"));
        sums::assert_complete(&job, INPUTS, &format!("{kib} KiB"));
        run("umount", &[&disk]);
    }
    println!("{stopped} starts stopped by a full disk, {committed_before} of them behind a commit");
    assert!(stopped >= 6 && committed_before >= 4, "{stopped} {committed_before}");
}

#[test]
fn a_full_disk_stops_the_job_and_it_goes_on_when_there_is_room() {
    let place = tempfile::tempdir().expect("a directory");
    let apart = || {
        let mut command = Command::new("unshare");
        command.args(["--map-root-user", "--mount"]).env("TMPDIR", place.path());
        command
    };
    let mounts = apart().args(["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs"]).arg(place.path()).output();
    if !mounts.as_ref().is_ok_and(|output| output.status.success()) {
        println!("passed over: there is no name space in which to mount: {mounts:?}");
        return;
    }
    let test = env::current_exe().expect("the path of the test");
    let output = apart().arg(test).args(["--exact", "full::on_small_disks", "--ignored", "--nocapture"]).output();
    let output = output.expect("it was started before");
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{text}\n{}", String::from_utf8_lossy(&output.stderr));
    println!("{text}");
}
