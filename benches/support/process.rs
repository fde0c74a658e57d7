//! What this process uses of the machine, as Linux tells it under `/proc/self`.
//!
//! Shared by the bench of suspended runs and their test. Processor time comes in ticks of 10 ms.

use std::fs;
use std::time::Duration;

type Error = Box<dyn std::error::Error + Send + Sync>;

/// The unit of processor times under `/proc` (`USER_HZ`): the same on every Linux.
const TICK: Duration = Duration::from_millis(10);
/// Bytes of a page. Other sizes exist; a machine that has them reports too little here.
const PAGE_BYTES: u64 = 4096;

/// Processor time of all threads so far, theirs and the kernel's for them.
pub(crate) fn processor_time() -> Result<Duration, Error> {
    let stat = fs::read_to_string("/proc/self/stat")?;
    // The program's name comes in parentheses and may hold anything; the fields after it are numbers.
    let (_, fields) = stat.rsplit_once(") ").ok_or("/proc/self/stat is of an unknown form")?;
    let mut fields = fields.split(' ').skip(11);
    let mut ticks = 0;
    for _ in 0..2 {
        ticks += fields.next().ok_or("/proc/self/stat ends early")?.parse::<u32>()?;
    }
    Ok(TICK * ticks)
}

/// Bytes of memory that are resident.
pub(crate) fn resident_bytes() -> Result<u64, Error> {
    let statm = fs::read_to_string("/proc/self/statm")?;
    let pages: u64 = statm.split(' ').nth(1).ok_or("/proc/self/statm ends early")?.parse()?;
    Ok(pages * PAGE_BYTES)
}
