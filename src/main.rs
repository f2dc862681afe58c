//! perfkit: see the library.

use std::process::ExitCode;

fn main() -> ExitCode {
    if std::env::args().nth(1).as_deref() == Some(perfkit::symbol::INLINES_SUBCOMMAND) {
        return if perfkit::symbol::serve_inlines().is_ok() { ExitCode::SUCCESS } else { ExitCode::FAILURE };
    }
    ExitCode::from(2)
}
