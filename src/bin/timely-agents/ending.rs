//! How the program ends.

use std::io;
use std::process::ExitCode;

use timely_agents::cluster::Failure;
use timely_agents_operators::checkpoint::Error;

/// The exit code of what is done, or why it is not.
pub(crate) type Ending<D = ExitCode> = Result<D, Fault>;

/// Why the program ends early.
#[derive(Debug)]
pub(crate) enum Fault {
    /// Something is wrong.
    Failure(Failure),
    /// The output cannot be written.
    Output(io::Error),
}

impl From<Failure> for Fault {
    fn from(failure: Failure) -> Self {
        Fault::Failure(failure)
    }
}

impl From<Error> for Fault {
    fn from(error: Error) -> Self {
        Fault::Failure(error.into())
    }
}

impl From<io::Error> for Fault {
    fn from(error: io::Error) -> Self {
        Fault::Output(error)
    }
}

/// Ends an [`Ending`].
pub(crate) trait Report {
    /// One line on standard error if something is wrong; the exit code.
    fn report(self) -> ExitCode;
}

impl Report for Ending {
    fn report(self) -> ExitCode {
        let failure = match self {
            Ok(code) => return code,
            // Who reads has seen enough.
            Err(Fault::Output(error)) if error.kind() == io::ErrorKind::BrokenPipe => return ExitCode::SUCCESS,
            Err(Fault::Output(error)) => Failure::data(format!("cannot write to standard output: {error}")),
            Err(Fault::Failure(failure)) => failure,
        };
        complain(&failure);
        ExitCode::from(failure.exit_code())
    }
}

/// One line on standard error.
pub(crate) fn complain(failure: &Failure) {
    use std::io::Write;
    // Where standard error is closed there is nobody to tell.
    let _ = writeln!(io::stderr(), "error: {failure}");
}
