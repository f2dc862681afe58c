//! Flags that mean the same on every command: target, time, outputs, talk.
//!
//! In: words. Out: values of `session` and `target`, checked. Help texts are part of the product: every flag says its unit
//! and its default.

use std::ffi::OsString;
use std::path::PathBuf;
use std::str::FromStr;

use clap::{Args, ColorChoice, ValueHint};
use regex::Regex;

use crate::error::{Error, Result};
use crate::render::Format;
use crate::session::plan::{self, DEFAULT_RATE, Verbosity};
use crate::target::{Program, RunAs, Selected, Wanted, children, select};
use crate::units::{Hertz, Nanos};

/// Headings of the help text, so that every command shows the same groups.
pub const TARGET: &str = "Target (one of these)";
/// Flags about when and how often.
pub const TIME: &str = "Time";
/// Flags about where results go.
pub const OUTPUT: &str = "Output";
/// Flags about what is said.
pub const TALK: &str = "Talk";

/// Whom to look at. The command that takes them in puts them into a required group, with or without [`ProgramArgs`].
#[derive(Debug, Clone, Args)]
pub struct TargetArgs {
    /// Process id; several are taken as `$(pgrep -f app)` gives them
    #[arg(short, long, value_name = "PID", num_args = 1.., allow_negative_numbers = true, value_parser = told::<Pids>,
          help_heading = TARGET)]
    pub pid: Vec<Pids>,

    /// The process whose command line matches this regular expression; of a master and its workers, the family
    #[arg(long, value_name = "REGEX", value_parser = pattern, help_heading = TARGET)]
    pub name: Option<Regex>,

    /// The process that listens on this TCP port, with the workers that share it
    #[arg(long, value_name = "PORT", value_parser = clap::value_parser!(u16).range(1..), help_heading = TARGET)]
    pub port: Option<u16>,

    /// The main process of this container: the first digits of its id, or its name (Docker, Podman, containerd, CRI-O)
    #[arg(long, value_name = "ID|NAME", value_parser = clap::builder::NonEmptyStringValueParser::new(),
          help_heading = TARGET)]
    pub container: Option<String>,

    /// Follow child processes too, those that exist and those that come (uvicorn and gunicorn workers) [default: off]
    #[arg(short, long, help_heading = TARGET)]
    pub subprocesses: bool,
}

/// A program to start and look at.
#[derive(Debug, Clone, Args)]
pub struct ProgramArgs {
    /// After --: start this program and follow it from its first instruction; its exit code becomes perfkit's when not 0
    #[arg(last = true, value_name = "COMMAND", value_hint = ValueHint::CommandWithArguments, help_heading = TARGET,
          id = "program")]
    pub program: Vec<OsString>,

    /// Under sudo, start COMMAND as root instead of as the user who called sudo [default: off]
    #[arg(long, conflicts_with_all = ["pid", "name", "port", "container"], help_heading = TARGET)]
    pub keep_root: bool,
}

impl TargetArgs {
    /// The flags that find the target again; `None` for pids, of which the busiest is worth more.
    pub fn words(&self) -> Option<String> {
        match (&self.name, self.port, &self.container) {
            (Some(name), ..) => Some(format!("--name {}", quoted(name.as_str()))),
            (_, Some(port), _) => Some(format!("--port {port}")),
            (.., Some(container)) => Some(format!("--container {}", quoted(container))),
            _ => None,
        }
    }

    /// Finds the processes.
    ///
    /// # Errors
    /// As [`select`].
    pub fn find(&self) -> Result<Selected> {
        let wanted = match (&self.name, self.port, &self.container) {
            (Some(name), ..) => Wanted::Name(name.clone()),
            (_, Some(port), _) => Wanted::Port(port),
            (.., Some(container)) => Wanted::Container(container.clone()),
            _ => Wanted::Pids(self.pid.iter().flat_map(|p| p.0.iter().copied()).collect()),
        };
        let mut found = select(&wanted)?;
        found.family |= self.subprocesses;
        if !found.family
            && let [target] = &found.targets[..]
        {
            let children = children(target.pid).len();
            if children > 0 {
                let plural = if children == 1 { "process that is" } else { "processes that are" };
                found.remarks.push(format!("{target} has {children} child {plural} not looked at; -s takes them in"));
            }
        }
        Ok(found)
    }
}

impl ProgramArgs {
    /// The program to start, if one is named, and who it will run as.
    ///
    /// # Errors
    /// `Usage` for a program that cannot be run.
    pub fn find(&self) -> Result<Option<Program>> {
        if self.program.is_empty() {
            return Ok(None);
        }
        let run_as = RunAs::sudo_caller().filter(|_| !self.keep_root);
        let program = Program { run_as, ..Program::new(self.program.clone()) };
        program.check()?;
        Ok(Some(program))
    }
}

/// How long, how often, and whether the target may be stopped.
#[derive(Debug, Clone, Args)]
pub struct TimeArgs {
    /// How long to record: 60, 60s, 1m30, 500ms [default: until Ctrl-C or the target's end]
    #[arg(short, long, value_name = "TIME", allow_negative_numbers = true, value_parser = duration, help_heading = TIME)]
    pub duration: Option<Lasting>,

    /// Samples a second and thread, from 0.01 to 100000
    #[arg(short, long, value_name = "HZ", default_value_t = Rate(DEFAULT_RATE), allow_negative_numbers = true,
          value_parser = rate, help_heading = TIME)]
    pub rate: Rate,

    /// Allow stopping the target for at most this many milliseconds; sampling makes no use of it, dump does
    /// [default: it is never stopped]
    #[arg(long, value_name = "MS", value_parser = clap::value_parser!(u64).range(1..=60_000), help_heading = TIME)]
    pub freeze: Option<u64>,
}

impl TimeArgs {
    /// How long; `None` without end.
    pub fn duration(&self) -> Option<Nanos> {
        self.duration.and_then(|d| d.0)
    }

    /// The longest stop that is allowed.
    pub fn freeze(&self) -> Option<Nanos> {
        self.freeze.map(|ms| Nanos(ms.saturating_mul(1_000_000)))
    }
}

/// Where results go.
#[derive(Debug, Clone, Args)]
pub struct OutputArgs {
    /// Write a result to FILE, in the format of its ending; may be given several times; - is standard output
    /// [default: a table on standard output]
    #[arg(short, long, value_name = "FILE", value_hint = ValueHint::FilePath, help_heading = OUTPUT)]
    pub output: Vec<PathBuf>,

    /// The format of every -o, whatever its ending: svg, folded, speedscope, pprof, pstats, json, text, perfkit
    #[arg(short, long, value_name = "FORMAT", value_parser = told_by(Format::from_name), help_heading = OUTPUT)]
    pub format: Option<Format>,

    /// Print the result as one JSON document on standard output (the same as -o x.json) [default: off]
    #[arg(long, help_heading = OUTPUT)]
    pub json: bool,

    /// Replace a recording (.perfkit) that exists; other files are always replaced [default: off]
    #[arg(long, help_heading = OUTPUT)]
    pub force: bool,
}

/// What is said on standard error, and with colours or not.
#[derive(Debug, Clone, Copy, Args)]
pub struct TalkArgs {
    /// Say nothing on standard error but errors and losses [default: off]
    #[arg(short, long, conflicts_with = "verbose", help_heading = TALK)]
    pub quiet: bool,

    /// Say how things are done, too [default: off]
    #[arg(short, long, help_heading = TALK)]
    pub verbose: bool,

    /// Use colours: auto (on a terminal, unless NO_COLOR is set), always or never
    #[arg(long, value_name = "WHEN", default_value_t = ColorChoice::Auto, hide_possible_values = true,
          help_heading = TALK)]
    pub color: ColorChoice,
}

impl TalkArgs {
    /// How much is said.
    pub fn verbosity(self) -> Verbosity {
        match (self.quiet, self.verbose) {
            (true, _) => Verbosity::Quiet,
            (_, true) => Verbosity::Verbose,
            _ => Verbosity::Normal,
        }
    }
}

/// One value of `--pid`: a pid, or several with blanks or commas between (`"$(pgrep -f app)"` in quotes).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pids(Vec<u32>);

impl FromStr for Pids {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let wrong = || Error::usage(format!("'{text}' is not a process id")).advise("give a number such as 4711");
        let words = text.split(|c: char| c.is_whitespace() || c == ',').filter(|w| !w.is_empty());
        let pids: Vec<u32> = words.map(|w| w.parse().map_err(|_| wrong())).collect::<Result<_>>()?;
        if pids.is_empty() { Err(wrong()) } else { Ok(Self(pids)) }
    }
}

/// A duration as typed; py-spy's `unlimited` is one too.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Lasting(pub Option<Nanos>);

/// A rate as typed; prints without its unit, since the help says it.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Rate(pub Hertz);

impl std::fmt::Display for Rate {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}", self.0.0)
    }
}

/// The value parser of `--duration`.
pub fn duration(text: &str) -> std::result::Result<Lasting, String> {
    if text == "unlimited" {
        return Ok(Lasting(None));
    }
    let duration = Some(text.parse().map_err(|e| told_error(&e))?);
    plan::check_duration(duration).map_err(|e| told_error(&e))?;
    Ok(Lasting(duration))
}

/// The value parser of `--rate`.
pub fn rate(text: &str) -> std::result::Result<Rate, String> {
    let rate = text.parse().map_err(|e| told_error(&e))?;
    plan::check_rate(rate).map_err(|e| told_error(&e))?;
    Ok(Rate(rate))
}

fn pattern(text: &str) -> std::result::Result<Regex, String> {
    if text.is_empty() {
        return Err("an empty pattern matches every process".to_owned());
    }
    Regex::new(text).map_err(|e| e.to_string())
}

/// `text` as one word of a shell's command line.
pub fn quoted(text: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "_-./:=@%+,".contains(c);
    if !text.is_empty() && text.chars().all(plain) {
        text.to_owned()
    } else {
        format!("'{}'", text.replace('\'', "'\\''"))
    }
}

/// What clap prints after `invalid value 'x' for '--flag'`: the advice where there is one, since the value stands there
/// already.
fn told_error(error: &Error) -> String {
    error.advice().map_or_else(|| error.to_string(), str::to_owned)
}

/// A value parser out of `FromStr` with perfkit's errors.
pub fn told<T: FromStr<Err = Error>>(text: &str) -> std::result::Result<T, String> {
    text.parse().map_err(|e| told_error(&e))
}

/// A value parser out of a function with perfkit's errors.
pub fn told_by<T>(
    parse: fn(&str) -> Result<T>,
) -> impl Fn(&str) -> std::result::Result<T, String> + Clone + Send + Sync + 'static
where
    T: 'static,
{
    move |text| parse(text).map_err(|e| told_error(&e))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pids_as_pgrep_gives_them() {
        assert_eq!("12".parse::<Pids>().unwrap(), Pids(vec![12]));
        assert_eq!("12\n13\n".parse::<Pids>().unwrap(), Pids(vec![12, 13]));
        assert_eq!("12,13".parse::<Pids>().unwrap(), Pids(vec![12, 13]));
        for bad in ["", " ", "x", "-1", "1.5", "99999999999"] {
            assert!(bad.parse::<Pids>().is_err(), "{bad}");
        }
    }

    #[test]
    fn words_for_a_shell() {
        assert_eq!(quoted("run.perfkit"), "run.perfkit");
        assert_eq!(quoted("uvicorn.*app"), "'uvicorn.*app'");
        assert_eq!(quoted("it's"), r"'it'\''s'");
        assert_eq!(quoted(""), "''");
    }

    #[test]
    fn py_spys_unlimited_is_a_duration() {
        assert_eq!(duration("unlimited").unwrap(), Lasting(None));
        assert_eq!(duration("2s").unwrap(), Lasting(Some(Nanos(2_000_000_000))));
        assert!(duration("0").unwrap_err().contains("leave it out"));
        assert!(duration("-1").unwrap_err().contains("1m30"));
        assert!(rate("0").unwrap_err().contains("100000"));
        assert!(pattern("").is_err() && pattern("(").is_err() && pattern("uvicorn.*app").is_ok());
    }
}
