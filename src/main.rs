//! perfkit's program: runs the command line and, if something ended it, prints one chain of causes with its advice.

use std::io::Write;
use std::process::ExitCode;

use perfkit::cli::{self, Exit, is_broken_pipe};

fn main() -> ExitCode {
    let exit = cli::run(std::env::args_os()).unwrap_or_else(|error| {
        if !is_broken_pipe(&error) {
            let advice = error.advice().map_or_else(String::new, |a| format!("  help: {a}\n"));
            let text = format!("perfkit: {error:#}\n{advice}");
            // Where standard error cannot be written, the exit code is all there is to say.
            drop(std::io::stderr().write_all(text.as_bytes()));
        }
        Exit::of(&error)
    });
    ExitCode::from(exit.code())
}
