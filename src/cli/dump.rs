//! `perfkit dump`: the stacks of all threads now.

use std::io::Write;
use std::path::{Path, PathBuf};

use clap::{ArgGroup, Args, ValueEnum, ValueHint};

use super::exit::Exit;
use super::outputs::Place;
use super::screen::Screen;
use super::shared::{OUTPUT, TalkArgs, TargetArgs};
use super::view::{SHOW, wants_color};
use crate::collect::dump::{Options, take};
use crate::error::{Error, Result};
use crate::record::dump::Dump;
use crate::render::{DumpOptions, NativeFrames, dump_json, dump_text};
use crate::target::{Identity, ProcessTree};
use crate::units::Nanos;

/// Examples under `perfkit dump --help`.
pub const EXAMPLES: &str = "\
Examples:
  What every thread does now, Python and native frames in one stack:
      perfkit dump --pid 4711
  With arguments and variables; what is named like a secret is left out:
      perfkit dump --pid 4711 --locals
  A service and its workers:
      perfkit dump --name 'uvicorn.*app' -s
  Python frames alone, or everything for programs:
      perfkit dump --pid 4711 --python-only
      perfkit dump --pid 4711 --json

The target is not stopped, unless --freeze allows it. Innermost frames stand first. A thread that
sleeps is read while it sleeps, one that runs is sampled on its CPU; where
neither could be done, its stack says that it is approximate.

Exit codes:
  0  done
  2  usage or bad input
  3  could not look into the process: it is gone, or a right is missing; the
     message says which";

/// How it is called.
pub const USAGE: &str =
    "perfkit dump [OPTIONS] --pid <PID>... | --name <REGEX> | --port <PORT> | --container <ID|NAME>";

/// Flags of `perfkit dump`.
#[derive(Debug, Clone, Args)]
#[command(group = ArgGroup::new("target").required(true).args(["pid", "name", "port", "container"]))]
#[allow(clippy::struct_excessive_bools, reason = "each is a switch of the command line")]
pub struct DumpArgs {
    #[command(flatten)]
    target: TargetArgs,

    /// Show arguments and local variables of Python frames (py-spy's -l); secrets by name are left out [default: off]
    #[arg(short, long, help_heading = SHOW)]
    locals: bool,

    /// Show Python frames only [default: Python and native frames in one stack]
    #[arg(long, visible_alias = "no-native", conflicts_with = "all", help_heading = SHOW)]
    python_only: bool,

    /// Show every frame: the interpreter's machinery and the kernel's part too (py-spy's -n)
    /// [default: the machinery is counted, the kernel's part is shown for uninterruptible waits]
    #[arg(short = 'n', long, visible_alias = "native", help_heading = SHOW)]
    all: bool,

    /// Show Python file names as the target has them [default: cut to what tells them apart]
    #[arg(long, help_heading = SHOW)]
    full_filenames: bool,

    /// Accepted for py-spy's sake: without --freeze perfkit never stops the target anyway
    #[arg(long, help_heading = SHOW)]
    nonblocking: bool,

    /// Allow stopping the target for at most this many milliseconds: all stacks are of one instant then
    /// [default: it is never stopped]
    #[arg(long, value_name = "MS", value_parser = clap::value_parser!(u64).range(1..=60_000),
          conflicts_with = "nonblocking", help_heading = SHOW)]
    freeze: Option<u64>,

    /// Write the result to FILE: JSON if it ends in .json, else text; may be given several times; - is standard output
    /// [default: standard output]
    #[arg(short, long, value_name = "FILE", value_hint = ValueHint::FilePath, help_heading = OUTPUT)]
    output: Vec<PathBuf>,

    /// The format of every -o, whatever its ending: text, json
    #[arg(short, long, value_name = "FORMAT", value_enum, hide_possible_values = true, conflicts_with = "json",
          help_heading = OUTPUT)]
    format: Option<DumpFormat>,

    /// Print the result as one JSON document on standard output [default: off]
    #[arg(short, long, help_heading = OUTPUT)]
    json: bool,

    #[command(flatten)]
    talk: TalkArgs,
}

/// How a dump is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum DumpFormat {
    Text,
    Json,
}

impl DumpArgs {
    /// Whether what goes to `path` is JSON.
    fn as_json(&self, path: &Path) -> bool {
        let ending = path.extension().is_some_and(|e| e.eq_ignore_ascii_case("json"));
        self.format.map_or(ending, |f| f == DumpFormat::Json)
    }

    /// The processes to dump: those named, and their children if asked for.
    fn targets(&self, screen: &Screen) -> Result<Vec<Identity>> {
        let found = self.target.find()?;
        for remark in &found.remarks {
            screen.note(remark);
        }
        let mut targets = found.targets;
        if found.family {
            let tree = ProcessTree::now();
            let children: Vec<u32> =
                targets.iter().flat_map(|t| tree.descendants(t.pid)).map(|member| member.pid).collect();
            for pid in children {
                // One that ended meanwhile, or may not be looked into, does not keep the others from being shown.
                match Identity::of(pid) {
                    Ok(child) if !targets.contains(&child) => targets.push(child),
                    Ok(_) => {}
                    Err(e) => screen.note(&format!("left out: {e}")),
                }
            }
        }
        Ok(targets)
    }

    fn write(&self, dump: &Dump, as_json: bool, color: bool, out: &mut dyn Write) -> Result<()> {
        if as_json {
            return dump_json(dump, out);
        }
        let native = match (self.python_only, self.all) {
            (true, _) => NativeFrames::Hidden,
            (_, true) => NativeFrames::All,
            _ => NativeFrames::Folded,
        };
        dump_text(dump, DumpOptions { color, native, kernel: self.all, full_filenames: self.full_filenames }, out)
    }
}

/// Runs `perfkit dump`.
///
/// # Errors
/// Those of the target and of the output; `Usage` for a command to start.
pub fn run(args: &DumpArgs) -> Result<Exit> {
    let screen = Screen::new(args.talk);
    let (stdout, files): (Vec<&PathBuf>, Vec<&PathBuf>) = args.output.iter().partition(|p| p.as_os_str() == "-");
    if args.json && !stdout.is_empty() {
        return Err(Error::usage("--json and -o - both write to standard output").advise("leave one of them out"));
    }
    // Proved writable before the target is touched.
    let mut places = files.iter().map(|p| Ok((*p, Place::open(p)?))).collect::<Result<Vec<_>>>()?;
    let targets = args.targets(&screen)?;
    let freeze = args.freeze.map(|ms| Nanos(ms * 1_000_000));
    let options = Options { locals: args.locals, native: !args.python_only, freeze, ..Options::default() };
    let dump = take(&targets, options)?;
    // Each is rendered whole before its first byte goes out.
    for (path, place) in &mut places {
        let mut bytes = Vec::new();
        args.write(&dump, args.as_json(path), false, &mut bytes)?;
        place.put(&bytes)?;
    }
    if args.json || !stdout.is_empty() || args.output.is_empty() {
        let mut out = std::io::stdout().lock();
        let as_json = args.json || args.format == Some(DumpFormat::Json);
        let mut bytes = Vec::new();
        args.write(&dump, as_json, wants_color(args.talk.color, &out), &mut bytes)?;
        out.write_all(&bytes).and_then(|()| out.flush()).map_err(|e| Error::io("cannot write the dump", e))?;
    }
    Ok(Exit::Done)
}
