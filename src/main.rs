//! perfkit's binary. Only the demo's native service can be asked for yet.

use std::process::ExitCode;

fn main() -> ExitCode {
    if std::env::args().nth(1).as_deref() == Some(perfkit::demo::NATIVE_SUBCOMMAND) {
        let served = perfkit::demo::serve_native(std::io::stdin().lock(), &mut std::io::stdout().lock());
        return if served.is_ok() { ExitCode::SUCCESS } else { ExitCode::FAILURE };
    }
    ExitCode::from(2)
}
