//! What is driven and how: the flags that `perfkit load` and the `--load` of other commands have in common.
//!
//! In: words of a command line. Out: a [`LoadPlan`]; nothing is sent yet.

use std::path::{Path, PathBuf};

use clap::{Args, Parser, ValueEnum, ValueHint};

use crate::cli::shared::{TIME, told};
use crate::error::{Error, Result};
use crate::load::locust::Locustfile;
use crate::load::program::Choice;
use crate::load::scenario::{READY, Scenario, Target, default_targets, from_text, ready};
use crate::session::load::{Judging, LoadPlan, LocustRun};
use crate::units::Nanos;

const LOAD: &str = "Load";

/// What is driven and how: the flags that `--load` of other commands takes, too.
#[derive(Debug, Clone, Args)]
pub struct DriveArgs {
    /// A scenario file, a URL, or a ready scenario (world); after it, classes of users to take [default: all]
    #[arg(value_name = "SCENARIO", value_hint = ValueHint::FilePath)]
    pub(super) words: Vec<String>,

    /// The scenario file
    #[arg(short = 'f', long = "locustfile", alias = "file", value_name = "FILE", value_hint = ValueHint::FilePath, help_heading = LOAD)]
    file: Option<PathBuf>,

    /// Where requests go, in place of the scenario's hosts
    #[arg(short = 'H', long, value_name = "URL", help_heading = LOAD)]
    host: Option<String>,

    /// How many users; with --arrivals, the most tasks at the same time [default: 1; with --arrivals 10000]
    #[arg(short, long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=10_000_000), help_heading = LOAD)]
    users: Option<u32>,

    /// How many users come a second [default: 1]
    #[arg(short = 'r', long, value_name = "RATE", value_parser = rate, help_heading = LOAD)]
    spawn_rate: Option<f64>,

    /// How long: 60, 60s, 5m, 1h30m [default: until Ctrl-C]
    #[arg(short = 't', long = "run-time", alias = "duration", value_name = "TIME", value_parser = told::<Nanos>, help_heading = LOAD)]
    run_time: Option<Nanos>,

    /// The open model: begin tasks at this rate, whatever the answers take: 500/s, or '100/s for 30s, 100/s..500/s in 1m'
    #[arg(long, value_name = "RATE", help_heading = LOAD)]
    arrivals: Option<String>,

    /// Arrivals come independently of each other (Poisson) [default: evenly spaced]
    #[arg(long, requires = "arrivals", help_heading = LOAD)]
    poisson: bool,

    /// Users, spawn rate and run time by name: normal, peak, stress, spike
    #[arg(long, value_enum, hide_possible_values = true, help_heading = LOAD)]
    preset: Option<Preset>,

    /// Only tasks with one of these tags
    #[arg(short = 'T', long, value_name = "TAG", num_args = 1.., value_delimiter = ',', help_heading = LOAD)]
    tags: Vec<String>,

    /// No tasks with one of these tags
    #[arg(short = 'E', long, value_name = "TAG", num_args = 1.., value_delimiter = ',', help_heading = LOAD)]
    exclude_tags: Vec<String>,

    /// How long requests under way may go on after the end [default: 5s, with --arrivals 30s]
    #[arg(short = 's', long, value_name = "TIME", value_parser = told::<Nanos>, help_heading = LOAD)]
    stop_timeout: Option<Nanos>,

    /// A target, in place of the scenario's: 'p95 < 500ms, acceptable 1s', 'errors < 0.1%', 'rps > 100'
    #[arg(long = "target", value_name = "TARGET", value_parser = target, help_heading = LOAD)]
    targets: Vec<Target>,

    /// Threads of the generator, -1 for a core each (Locust's processes) [default: as many as the load wants, at most a core each]
    #[arg(long, value_name = "N", allow_negative_numbers = true, value_parser = processes, help_heading = LOAD)]
    processes: Option<u32>,

    /// The longest a request may take, where the step does not say [default: the scenario's, else 60s]
    #[arg(long, value_name = "TIME", value_parser = told::<Nanos>, help_heading = LOAD)]
    timeout: Option<Nanos>,

    /// Where chance begins; the same seed does the same things [default: the scenario's, else 1]
    #[arg(long, value_name = "N", help_heading = LOAD)]
    seed: Option<u64>,

    /// A PEM file with authorities to trust beside the system's
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath, help_heading = LOAD)]
    ca: Option<PathBuf>,

    /// Trust any certificate
    #[arg(long, help_heading = LOAD)]
    insecure: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Preset {
    Normal,
    Peak,
    Stress,
    Spike,
}

impl Preset {
    /// Users, users a second, minutes.
    fn values(self) -> (u32, f64, u64) {
        match self {
            Self::Normal => (100, 10.0, 10),
            Self::Peak => (500, 50.0, 5),
            Self::Stress => (1000, 100.0, 3),
            Self::Spike => (1000, 500.0, 2),
        }
    }
}

/// Locust's number of processes: threads here, -1 for a core each.
fn processes(text: &str) -> std::result::Result<u32, String> {
    match text.parse::<i32>() {
        Ok(-1) => Ok(std::thread::available_parallelism().map_or(1, |n| n.get() as u32)),
        Ok(n @ 1..=1024) => Ok(n as u32),
        _ => Err("write 1 to 1024, or -1 for a thread a core".to_owned()),
    }
}

fn rate(text: &str) -> std::result::Result<f64, String> {
    match text.trim_end_matches("/s").parse::<f64>() {
        Ok(n) if n > 0.0 && n <= 1e7 => Ok(n),
        _ => Err("write users a second, above 0: 10, 0.5".to_owned()),
    }
}

fn target(text: &str) -> std::result::Result<Target, String> {
    // `/npc/[id]: p95 < 300ms` is about one endpoint.
    let (name, line) = text.rsplit_once(": ").map_or((None, text), |(n, l)| (Some(n), l));
    Target::parse(name, line).map_err(|e| e.advice().map_or_else(|| e.to_string(), |a| format!("{e}; {a}")))
}

/// Flags of `--load`, parsed as a command line of their own.
#[derive(Debug, Parser)]
#[command(name = "--load", no_binary_name = true, disable_help_flag = true)]
struct LoadWords {
    #[command(flatten)]
    drive: DriveArgs,
    /// Accepted: beside a measurement the load is always headless
    #[arg(long, hide = true)]
    headless: bool,
}

/// The group of flags by which a command that observes drives its target meanwhile.
#[derive(Debug, Clone, Default, Args)]
pub struct BesideArgs {
    /// Drive the target while it is observed: a scenario with `perfkit load`'s flags, 'world.toml -u 100 -r 10'; -d rules
    /// [default: nothing drives it]
    #[arg(long, value_name = "'SCENARIO [FLAGS]'", help_heading = TIME)]
    pub load: Option<String>,
}

impl BesideArgs {
    /// The plan, if there is one.
    ///
    /// # Errors
    /// `Usage` for words that `perfkit load` does not take.
    pub fn plan(&self) -> Result<Option<LoadPlan>> {
        let Some(text) = &self.load else { return Ok(None) };
        let words = split(text).map_err(|e| Error::usage(format!("--load '{text}': {e}")))?;
        let parsed = LoadWords::try_parse_from(words).map_err(|e| {
            let text = e.to_string();
            let first = text.lines().next().unwrap_or_default().trim_start_matches("error: ").to_owned();
            Error::usage(format!("--load: {first}"))
                .advise("it takes what `perfkit load` takes: --load 'world.toml -u 100 -r 10'")
        })?;
        parsed.drive.plan().map(|(plan, _)| Some(plan))
    }
}

/// Words as a shell splits them: blanks between, quotes around, a backslash before what is meant literally.
fn split(text: &str) -> std::result::Result<Vec<String>, &'static str> {
    let (mut words, mut word, mut open, mut quote) = (Vec::new(), String::new(), false, None);
    let mut chars = text.chars();
    while let Some(c) = chars.next() {
        match (c, quote) {
            (c, Some(q)) if c == q => quote = None,
            ('\\', None | Some('"')) => word.push(chars.next().ok_or("it ends in a backslash")?),
            (c, Some(_)) => word.push(c),
            ('"' | '\'', None) => (quote, open) = (Some(c), true),
            (c, None) if c.is_whitespace() => {
                if open || !word.is_empty() {
                    words.push(std::mem::take(&mut word));
                }
                open = false;
            }
            (c, None) => word.push(c),
        }
    }
    if quote.is_some() {
        return Err("a quotation mark is not closed");
    }
    if open || !word.is_empty() {
        words.push(word);
    }
    Ok(words)
}

impl DriveArgs {
    /// The plan, and whether it names targets of its own.
    ///
    /// # Errors
    /// `Usage` for a scenario that cannot be read, and for flags that do not go together.
    pub fn plan(&self) -> Result<(LoadPlan, bool)> {
        let (locustfile, (mut scenario, classes)) = match self.locustfile()? {
            Some((file, classes)) => {
                let scenario = Scenario::beside_locustfile(file.name());
                (Some(file), (scenario, classes))
            }
            None => (None, self.scenario()?),
        };
        if let Some(timeout) = self.timeout {
            scenario.timeout_ns = timeout.0.max(1);
        }
        if let Some(seed) = self.seed {
            scenario.seed = seed;
        }
        if self.ca.is_some() {
            scenario.tls.ca.clone_from(&self.ca);
        }
        scenario.tls.insecure |= self.insecure;
        if self.arrivals.is_some() && (self.spawn_rate.is_some() || self.preset.is_some()) {
            return Err(Error::usage("--arrivals is a rate of tasks; --spawn-rate and --preset are for users")
                .advise("leave one of them out"));
        }
        let preset = self.preset.map(Preset::values);
        let own = !(self.targets.is_empty() && scenario.targets.is_empty());
        let targets = match (&self.targets[..], &scenario.targets[..]) {
            ([], []) => default_targets(),
            ([], theirs) => theirs.to_vec(),
            (ours, _) => ours.to_vec(),
        };
        let choice = Choice {
            host: self.host.clone(),
            classes,
            tags: self.tags.clone(),
            exclude_tags: self.exclude_tags.clone(),
        };
        let locustfile = locustfile.map(|file| LocustRun::new(file, &choice)).transpose()?;
        let plan = LoadPlan {
            scenario,
            locustfile,
            choice,
            users: self.users.or(preset.map(|p| p.0)),
            spawn_rate: self.spawn_rate.or(preset.map(|p| p.1)),
            run_time_ns: self.run_time.map(|t| t.0).or(preset.map(|p| p.2 * 60_000_000_000)),
            arrivals: self.arrivals.clone(),
            poisson: self.poisson,
            threads: self.processes,
            stop_timeout_ns: self.stop_timeout.map(|t| t.0),
            targets,
            judging: Judging::default(),
            reset_stats: false,
        };
        if plan.run_time_ns == Some(0) {
            return Err(Error::usage("a run time of 0 s sends nothing")
                .advise("give -t 10s, or leave it out to run until Ctrl-C"));
        }
        Ok((plan, own))
    }

    /// The locustfile, and the words after it; nothing where it is a scenario that was named.
    fn locustfile(&self) -> Result<Option<(Locustfile, Vec<String>)>> {
        let is_python = |p: &Path| p.extension().is_some_and(|e| e == "py");
        let (path, rest) = match (&self.file, self.words.split_first()) {
            (Some(file), _) if is_python(file) => (file.clone(), self.words.clone()),
            (None, Some((first, rest))) if is_python(Path::new(first)) => (PathBuf::from(first), rest.to_vec()),
            _ => return Ok(None),
        };
        Ok(Some((Locustfile::load(&path)?, rest)))
    }

    /// The scenario, and the words after it.
    fn scenario(&self) -> Result<(Scenario, Vec<String>)> {
        let (first, rest) = match (&self.file, self.words.split_first()) {
            (Some(file), _) => (file.display().to_string(), self.words.clone()),
            (None, Some((first, rest))) => (first.clone(), rest.to_vec()),
            (None, None) => {
                return Err(Error::usage("no scenario is given").advise(
                    "perfkit load world.toml, perfkit load http://127.0.0.1:8000/path, or the ready scenario: perfkit load world",
                ));
            }
        };
        if first.starts_with("http://") || first.starts_with("https://") {
            return Ok((Scenario::of_url(&first)?, rest));
        }
        let path = Path::new(&first);
        if !path.exists()
            && let Some(text) = ready(&first)
        {
            return Ok((from_text(&first, text, Path::new("."))?, rest));
        }
        if !path.exists() && !first.contains(['.', '/']) {
            let names: Vec<&str> = READY.iter().map(|(n, _)| *n).collect();
            return Err(Error::usage(format!("there is no scenario '{first}', neither a file nor a ready one"))
                .advise(format!("ready: {}; or give a file: world.toml", names.join(", "))));
        }
        Ok((Scenario::load(path)?, rest))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_split_as_a_shell_does() {
        assert_eq!(split(r#" a  'b c' "d \" e" f\ g '' "#).unwrap(), ["a", "b c", "d \" e", "f g", ""]);
        assert!(split("'a").is_err() && split("a\\").is_err());
    }

    #[test]
    fn a_load_beside_takes_loads_flags() {
        let beside = |t: &str| BesideArgs { load: Some(t.to_owned()) }.plan();
        let plan = beside("world -u 100 -r 10 --headless").unwrap().unwrap();
        assert_eq!((plan.users, plan.spawn_rate), (Some(100), Some(10.0)));
        assert!(beside("world --nonsense").unwrap_err().to_string().contains("--nonsense"));
        assert!(beside("").is_err());
        assert!(BesideArgs::default().plan().unwrap().is_none());
    }
}
