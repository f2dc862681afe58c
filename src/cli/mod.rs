//! The command line: turns words into a [`Plan`](crate::session::Plan), has it carried out, writes the results and picks
//! the exit code.
//!
//! In: the arguments. Out: results on standard output and in files, everything else on standard error, an exit code.
//! Invariants: nothing here measures and nothing here formats a result; no clap type leaves this module; what is wrong
//! with the command line is found before the target is touched.

mod cpu;
mod demo;
mod dump;
mod exit;
mod load;
mod mem;
mod outputs;
mod report;
mod screen;
mod shared;
mod signals;
mod view;

use std::ffi::OsString;

use clap::{CommandFactory, Parser, Subcommand};

pub use exit::{Exit, is_broken_pipe};

use crate::error::Result;
use crate::symbol::{INLINES_SUBCOMMAND, serve_inlines};

const ABOUT: &str = "Why is it slow, why does it grow, what does it wait for? A running service, seen from outside";

const EXAMPLES: &str = "\
Examples:
  Where the CPU goes, as a flame graph:
      perfkit cpu --pid 4711 -d 60 -o profile.svg
  A service with its workers, as a table:
      perfkit cpu --name 'uvicorn.*app' -s -d 30
  What it waits for:
      perfkit cpu --port 8000 --mode wall -d 30 -o wall.svg
  What every thread does right now:
      perfkit dump --pid 4711
  A slice of a recording:
      perfkit report run.perfkit --from 10s --to 20s -o slice.svg
  The tour, on a small service that perfkit brings along:
      perfkit demo

`perfkit COMMAND --help` has every flag with its unit and default.";

/// The command line as a whole.
#[derive(Debug, Parser)]
#[command(name = "perfkit", version, about = ABOUT, after_help = EXAMPLES, disable_help_subcommand = true,
          subcommand_required = true, arg_required_else_help = true, max_term_width = 110)]
struct CommandLine {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Where the CPU (or the time) goes: Python, native, kernel and JIT frames in one stack
    #[command(after_long_help = cpu::EXAMPLES, override_usage = cpu::USAGE)]
    Cpu(Box<cpu::CpuArgs>),

    /// The stacks of every thread now: Python and native frames, states, the GIL's holder; never stops the target
    #[command(after_long_help = dump::EXAMPLES, override_usage = dump::USAGE)]
    Dump(Box<dump::DumpArgs>),

    /// Does it grow, what is it made of: the curve of memory by kind (in place of mprof)
    #[command(after_long_help = mem::EXAMPLES, override_usage = mem::USAGE)]
    Mem(Box<mem::MemArgs>),

    /// Drives a service: scenarios of users or arrivals, honest percentiles, graded targets (in place of Locust)
    #[command(after_long_help = load::EXAMPLES, override_usage = load::USAGE, display_name = "perfkit",
              version, infer_long_args = true)]
    Load(Box<load::LoadArgs>),

    /// Any view of a recording, in any format
    #[command(after_long_help = report::EXAMPLES)]
    Report(Box<report::ReportArgs>),

    /// The tour: starts a small NPC world service, drives it, and shows where its CPU goes
    #[command(after_long_help = demo::EXAMPLES)]
    Demo(Box<demo::DemoArgs>),

    /// The demo's native service, as a process of its own
    #[command(name = crate::demo::NATIVE_SUBCOMMAND, hide = true)]
    DemoWorld,
}

/// `perfkit load` with what Locust's configuration files and environment have beside the command line.
fn with_settings(args: Vec<OsString>) -> Result<Vec<OsString>> {
    if args.get(1).is_none_or(|a| a != "load") {
        return Ok(args);
    }
    let line = CommandLine::command();
    let Some(command) = line.find_subcommand("load") else { return Ok(args) };
    let mut words = args;
    let after = words.split_off(2);
    let text = |t: OsString| t.into_string().ok();
    let environment: Vec<_> = std::env::vars_os().filter_map(|(k, v)| Some((text(k)?, text(v)?))).collect();
    words.extend(load::complete(command, after, &environment)?);
    Ok(words)
}

/// Runs perfkit with these arguments, the program's name first.
///
/// # Errors
/// What ended it; [`Exit::of`] has the code.
pub fn run(args: impl IntoIterator<Item = OsString>) -> Result<Exit> {
    let args: Vec<OsString> = args.into_iter().collect();
    // perfkit starts itself under this name to read debug information; it is no command of the user's.
    if args.get(1).is_some_and(|a| a == INLINES_SUBCOMMAND) {
        return serve_inlines().map(|()| Exit::Done);
    }
    crate::os::limits::raise_open_files();
    let args = with_settings(args)?;
    let line = match CommandLine::try_parse_from(args) {
        Ok(line) => line,
        Err(e) => {
            // Help and version are results, and go to standard output; a reader that went away is no failure.
            drop(e.print());
            return Ok(if e.exit_code() == 0 { Exit::Done } else { Exit::Usage });
        }
    };
    match line.command {
        Command::Cpu(args) => cpu::run(&args),
        Command::Dump(args) => dump::run(&args),
        Command::Mem(args) => mem::run(&args),
        Command::Load(args) => load::run(&args),
        Command::Report(args) => report::run(&args),
        Command::Demo(args) => demo::run(&args),
        Command::DemoWorld => demo::serve(),
    }
}
