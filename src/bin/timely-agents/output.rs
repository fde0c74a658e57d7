//! Standard output, written in large parts.

use std::io::{self, BufWriter, StdoutLock, Write};
use std::process::ExitCode;

use crate::ending::Ending;

/// Standard output; it has to be flushed.
pub(crate) type Output = BufWriter<StdoutLock<'static>>;

pub(crate) fn output() -> Output {
    BufWriter::new(io::stdout().lock())
}

/// Prints a text.
pub(crate) fn print(text: &str) -> Ending {
    let mut output = output();
    output.write_all(text.as_bytes())?;
    output.flush()?;
    Ok(ExitCode::SUCCESS)
}
