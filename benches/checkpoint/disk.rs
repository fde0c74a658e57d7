//! The disk under all cases.
//!
//! # Workload
//! 4 KiB appended to a file and synced, 200 times. A commit by hand, 100 times: the same for a log, then a file of 1 KiB
//! written aside, synced, linked to its name, and the folder synced.
//!
//! # Back-of-the-envelope limit
//! A sync waits for the device: tens of microseconds where it has a cache that survives, milliseconds where it has none.
//!
//! # Baseline
//! There is none: this is the baseline of others.

use std::fs::{self, File};
use std::io::Write;
use std::path::Path;

use tempfile::TempDir;

use crate::measure::{Error, Scale, median, now};
use crate::report::Row;

/// A folder for checkpoints, gone when it is dropped.
pub(crate) fn folder(scale: Scale) -> Result<TempDir, Error> {
    let parent = Path::new(env!("CARGO_TARGET_TMPDIR"));
    fs::create_dir_all(parent)?;
    let kind = file_system(parent)?;
    if !scale.quick && ["tmpfs", "ramfs"].contains(&kind.as_str()) {
        return Err(
            format!("{} is on {kind}: what is synced there costs nothing and says nothing", parent.display()).into()
        );
    }
    Ok(TempDir::with_prefix_in("checkpoint-", parent)?)
}

/// The file system that a folder lies on, by its kind.
fn file_system(folder: &Path) -> Result<String, Error> {
    let folder = folder.canonicalize()?;
    let mut found: Option<(usize, String)> = None;
    for line in fs::read_to_string("/proc/self/mountinfo")?.lines() {
        // `id parent device root mount-point options … - kind source options`
        let (place, rest) = line.split_once(" - ").ok_or("/proc/self/mountinfo is of an unknown form")?;
        let (Some(point), Some(kind)) = (place.split(' ').nth(4), rest.split(' ').next()) else { continue };
        let length = point.len();
        // Of mounts on the same point the later one counts.
        if folder.starts_with(point) && found.as_ref().is_none_or(|(longest, _)| length >= *longest) {
            found = Some((length, kind.to_owned()));
        }
    }
    Ok(found.map_or_else(|| "an unknown file system".to_owned(), |(_, kind)| kind))
}

/// Bytes of the files in a folder whose first parts are `part`.
pub(crate) fn bytes_of(folder: &Path, part: &str) -> Result<u64, Error> {
    let mut bytes = 0;
    for entry in fs::read_dir(folder.join(part))? {
        bytes += entry?.metadata()?.len();
    }
    Ok(bytes)
}

/// Seconds that each append of 4 KiB with its sync takes.
fn appends(folder: &Path, times: usize) -> Result<Vec<f64>, Error> {
    let mut file = File::create(folder.join("appended"))?;
    let mut seconds = Vec::new();
    for _ in 0..times {
        let start = now();
        file.write_all(&[7; 4096])?;
        file.sync_data()?;
        seconds.push(start.elapsed().as_secs_f64());
    }
    Ok(seconds)
}

/// Seconds that each commit by hand takes.
pub(crate) fn commits(folder: &Path, times: usize) -> Result<Vec<f64>, Error> {
    let mut log = File::create(folder.join("log-by-hand"))?;
    let chain = folder.join("chain-by-hand");
    fs::create_dir_all(&chain)?;
    let directory = File::open(&chain)?;
    let mut seconds = Vec::new();
    for number in 0..times {
        let start = now();
        log.write_all(&[7; 4096])?;
        log.sync_data()?;
        let aside = chain.join("aside");
        let mut file = File::create(&aside)?;
        file.write_all(&[8; 1024])?;
        file.sync_all()?;
        fs::hard_link(&aside, chain.join(number.to_string()))?;
        fs::remove_file(&aside)?;
        directory.sync_all()?;
        seconds.push(start.elapsed().as_secs_f64());
    }
    Ok(seconds)
}

pub(crate) fn disk(scale: Scale) -> Result<Vec<Row>, Error> {
    let folder = folder(scale)?;
    let append = median(appends(folder.path(), scale.of(200, 10))?);
    let commit = median(commits(folder.path(), scale.of(100, 5))?);
    println!(
        "checkpoints on {}: 4 KiB appended and synced in {:.0} µs, a commit by hand in {:.0} µs (medians)",
        file_system(folder.path())?,
        append * 1e6,
        commit * 1e6
    );
    Ok(vec![
        Row::new("disk/append_4k", 1, 1.0 / append, 1.0 / append).also("microseconds", append * 1e6),
        Row::new("disk/commit_by_hand", 1, 1.0 / commit, 1.0 / commit).also("microseconds", commit * 1e6),
    ])
}
