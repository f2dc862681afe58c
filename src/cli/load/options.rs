//! Locust's other options: statistics, logging, what is listed instead of run, and those that perfkit has no use for.
//!
//! Every option of Locust 2.47 is here, in `drive` or in `web`: with Locust's meaning, or refused with one line that says what
//! to use instead. Options that in Locust do nothing without `--master` or `--worker` are taken and do nothing.

use std::path::{Path, PathBuf};

use clap::{Args, ValueEnum, ValueHint};
use serde_json::Value;

use crate::cli::shared::{OUTPUT, TALK};
use crate::error::{Error, Result};
use crate::load::scenario::Scenario;

const INSTEAD: &str = "Instead of a run";
const LOAD: &str = "Load";

/// Statistics: what is written and said of a run.
#[derive(Debug, Clone, Args)]
#[allow(clippy::struct_excessive_bools, reason = "each is a switch of the command line")]
pub struct StatsArgs {
    /// Write Locust's PREFIX_stats.csv, _stats_history.csv, _failures.csv and _exceptions.csv
    #[arg(long, value_name = "PREFIX", help_heading = OUTPUT)]
    pub(super) csv: Option<String>,

    /// A line for each endpoint in the history file, too [default: one for all together]
    #[arg(long, requires = "csv", help_heading = OUTPUT)]
    pub(super) csv_full_history: bool,

    /// Write the HTML report; {u}, {r} and {t} in its name become users, spawn rate and run time
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath, help_heading = OUTPUT)]
    pub(super) html: Option<String>,

    /// Write the document of --json to NAME.json, beside the table
    #[arg(long, value_name = "NAME", help_heading = OUTPUT)]
    pub(super) json_file: Option<String>,

    /// Round times as Locust does (two digits from 100 ms on, whole ms below), to lay the two side by side [default: exact]
    #[arg(long, help_heading = OUTPUT)]
    pub(super) locust_buckets: bool,

    /// Count anew when all users are there: the report is about the time after the ramp [default: the whole run]
    #[arg(long, help_heading = OUTPUT)]
    pub(super) reset_stats: bool,

    /// Locust's exit codes: N when any request failed, else 0 [default: perfkit's own, see below]
    #[arg(long, value_name = "N", allow_negative_numbers = true, help_heading = OUTPUT)]
    pub(super) exit_code_on_error: Option<i32>,

    /// Print statistics every two seconds on standard error, as Locust does [default: a live view, on a terminal]
    #[arg(long, help_heading = TALK)]
    pub(super) print_stats: bool,

    /// Show nothing while it runs
    #[arg(long, help_heading = TALK)]
    pub(super) only_summary: bool,
}

/// What is said, and where.
#[derive(Debug, Clone, Args)]
pub struct LogArgs {
    /// How much is said: DEBUG (as -v), INFO, WARNING, ERROR, CRITICAL (as -q) [default: INFO]
    #[arg(short = 'L', long, value_name = "LEVEL", value_enum, ignore_case = true, hide_possible_values = true, help_heading = TALK)]
    pub(super) loglevel: Option<Level>,

    /// Say it in this file [default: on standard error]
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath, help_heading = TALK)]
    pub(super) logfile: Option<PathBuf>,

    /// Locust's: say nothing (as -q)
    #[arg(long, help_heading = TALK)]
    pub(super) skip_log_setup: bool,
}

/// How much is said, in Locust's words.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
#[value(rename_all = "UPPER")]
pub enum Level {
    /// All.
    Debug,
    /// As usual.
    Info,
    /// Warnings.
    Warning,
    /// As `Warning`.
    Error,
    /// As `Warning`.
    Critical,
}

/// What is shown instead of a run, and changes to the scenario.
#[derive(Debug, Clone, Args)]
pub struct ScenarioArgs {
    /// List the classes of users
    #[arg(short = 'l', long = "list", help_heading = INSTEAD)]
    pub(super) list: bool,

    /// Print how often tasks are done
    #[arg(long, help_heading = INSTEAD)]
    pub(super) show_task_ratio: bool,

    /// The same as JSON
    #[arg(long, help_heading = INSTEAD)]
    pub(super) show_task_ratio_json: bool,

    /// Give all classes and all tasks the same weight
    #[arg(long, help_heading = LOAD)]
    equal_weights: bool,

    /// Change classes: JSON, or a .json file: '{"user_class_name": "Player", "weight": 3, "host": "http://…"}'; keys are
    /// weight, fixed_count, host, tasks
    #[arg(long, value_name = "JSON|FILE", num_args = 0.., help_heading = LOAD)]
    config_users: Vec<String>,

    /// A file with options: 'users = 100' a line, or pyproject.toml's [tool.locust]. ~/.locust.conf, ./locust.conf,
    /// ./pyproject.toml and LOCUST_* in the environment are read too; the command line overrules the environment, and that files
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath, help_heading = LOAD)]
    config: Option<PathBuf>,
}

/// Options of Locust that perfkit does not have, or that do nothing in one process.
#[derive(Debug, Clone, Args)]
#[allow(clippy::struct_excessive_bools, reason = "each is a switch of Locust's command line")]
pub struct LocustOnlyArgs {
    #[arg(long, hide = true)]
    master: bool,
    #[arg(long, hide = true)]
    worker: bool,
    #[arg(long, hide = true)]
    slave: bool,
    #[arg(long, hide = true, value_name = "N")]
    expect_slaves: Option<String>,
    #[arg(long, hide = true)]
    otel: bool,
    #[arg(long, hide = true, value_name = "NAME")]
    profile: Option<String>,
    #[arg(long, hide = true, value_name = "CREDENTIALS")]
    web_auth: Option<String>,
    #[arg(long, hide = true)]
    legacy_ui: bool,
    #[arg(long, hide = true, value_name = "DIR")]
    build_path: Option<String>,
    #[arg(long, hide = true)]
    headful: bool,

    // Without --master and --worker these do nothing in Locust either.
    #[arg(long, hide = true, value_name = "ADDRESS")]
    master_bind_host: Option<String>,
    #[arg(long, hide = true, value_name = "PORT")]
    master_bind_port: Option<u16>,
    #[arg(long, hide = true, value_name = "NAME")]
    master_host: Option<String>,
    #[arg(long, hide = true, value_name = "PORT")]
    master_port: Option<u16>,
    #[arg(long, hide = true, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    expect_workers: Option<u32>,
    #[arg(long, hide = true, value_name = "SECONDS")]
    expect_workers_max_wait: Option<u32>,
    #[arg(long, hide = true)]
    enable_rebalancing: bool,
}

impl LocustOnlyArgs {
    /// Refuses what cannot be had here.
    ///
    /// # Errors
    /// `Usage` with what to use instead.
    pub(super) fn check(&self) -> Result<()> {
        let one = "perfkit load drives from one process, a thread a core; --processes N says how many";
        let refused = [
            (self.master, "--master", one),
            (self.worker, "--worker", one),
            (self.slave, "--slave", one),
            (self.expect_slaves.is_some(), "--expect-slaves", one),
            (
                self.otel,
                "--otel",
                "observe the service itself: perfkit cpu --pid P --load '…', or keep the run by -o run.perfkit",
            ),
            (self.profile.is_some(), "--profile", "keep runs apart by their recordings: -o NAME.perfkit"),
            (
                self.web_auth.is_some(),
                "--web-auth",
                "the web UI listens on 127.0.0.1 alone; reach it by `ssh -L 8089:127.0.0.1:8089 HOST`, or put a proxy with a login before it",
            ),
            (self.legacy_ui, "--legacy-ui", "leave it out: there is one web UI"),
            (self.build_path.is_some(), "--build-path", "leave it out: the page is part of perfkit"),
        ];
        match refused.iter().find(|r| r.0) {
            Some((_, option, instead)) => {
                Err(Error::usage(format!("{option} of Locust is not available")).advise(*instead))
            }
            None => Ok(()),
        }
    }
}

impl ScenarioArgs {
    /// Applies `--equal-weights` and `--config-users`.
    ///
    /// # Errors
    /// `Usage` for JSON that cannot be read, and for classes and keys that do not exist.
    pub(super) fn change(&self, scenario: &mut Scenario) -> Result<()> {
        for text in &self.config_users {
            for setting in settings(text)? {
                change_class(scenario, &setting)?;
            }
        }
        if self.equal_weights {
            for user in &mut scenario.users {
                user.weight = 1;
                user.tasks.iter_mut().for_each(|t| t.weight = 1);
            }
        }
        Ok(())
    }
}

/// The objects of one value of `--config-users`.
fn settings(text: &str) -> Result<Vec<Value>> {
    let wrong = |what: String| {
        Error::usage(format!("--config-users: {what}")).advise(r#"write '{"user_class_name": "Player", "weight": 3}'"#)
    };
    let is_file = Path::new(text).extension().is_some_and(|e| e == "json");
    let read = if is_file {
        std::fs::read_to_string(text).map_err(|e| wrong(format!("cannot read {text}: {e}")))?
    } else {
        text.to_owned()
    };
    let value: Value = serde_json::from_str(&read).map_err(|e| wrong(format!("this is no JSON: {e}")))?;
    Ok(match value {
        Value::Array(all) => all,
        one => vec![one],
    })
}

fn change_class(scenario: &mut Scenario, setting: &Value) -> Result<()> {
    let wrong = |what: String| Error::usage(format!("--config-users: {what}"));
    let map = setting.as_object().ok_or_else(|| wrong(format!("{setting} is no object")))?;
    let name = map.get("user_class_name").and_then(Value::as_str);
    let name = name.ok_or_else(|| wrong(format!("{setting} has no user_class_name")))?;
    let names: Vec<String> = scenario.users.iter().map(|u| u.name.clone()).collect();
    let user = scenario.users.iter_mut().find(|u| u.name == name);
    let user = user.ok_or_else(|| wrong(format!("there is no class '{name}'")).advise(names.join(", ")))?;
    let number = |v: &Value| {
        let n = v.as_u64().and_then(|n| u32::try_from(n).ok());
        n.ok_or_else(|| wrong(format!("{name}: {v} is no count")))
    };
    for (key, value) in map {
        match key.as_str() {
            "user_class_name" => {}
            "weight" => user.weight = number(value)?,
            "fixed_count" => user.fixed_count = Some(number(value)?).filter(|n| *n > 0),
            "host" => user.host = value.as_str().map(str::to_owned),
            "tasks" => {
                let wanted: Option<Vec<&str>> =
                    value.as_array().map(|all| all.iter().filter_map(Value::as_str).collect());
                let wanted = wanted.ok_or_else(|| wrong(format!("{name}: tasks is a list of names")))?;
                let known: Vec<String> = user.tasks.iter().map(|t| t.name.clone()).collect();
                if let Some(unknown) = wanted.iter().find(|w| !known.iter().any(|k| k == *w)) {
                    return Err(wrong(format!("{name} has no task '{unknown}'")).advise(known.join(", ")));
                }
                user.tasks.retain(|t| wanted.contains(&t.name.as_str()));
            }
            other => {
                return Err(wrong(format!("'{other}' of {name} cannot be changed here"))
                    .advise("weight, fixed_count, host and tasks can; the rest stands in the scenario"));
            }
        }
    }
    Ok(())
}

/// The file of `--html`: `{u}`, `{r}` and `{t}` become users, spawn rate and run time (seconds).
pub(super) fn html_name(pattern: &str, users: u32, rate: f64, seconds: Option<u64>) -> PathBuf {
    let time = seconds.map_or_else(|| "None".to_owned(), |s| s.to_string());
    pattern.replace("{u}", &users.to_string()).replace("{r}", &rate.to_string()).replace("{t}", &time).into()
}

/// Makes the directory that `path` is to stand in, as Locust does.
pub(super) fn make_directory(path: &Path) -> Result<()> {
    match path.parent().filter(|p| !p.as_os_str().is_empty()) {
        Some(parent) => std::fs::create_dir_all(parent)
            .map_err(|e| Error::usage(format!("cannot make the directory {}", parent.display())).caused_by(e)),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::load::scenario::{from_text, ready};

    fn world() -> Scenario {
        from_text("world", ready("world").unwrap(), Path::new(".")).unwrap()
    }

    fn args(texts: &[&str], equal_weights: bool) -> ScenarioArgs {
        ScenarioArgs {
            list: false,
            show_task_ratio: false,
            show_task_ratio_json: false,
            equal_weights,
            config_users: texts.iter().map(|t| (*t).to_owned()).collect(),
            config: None,
        }
    }

    #[test]
    fn classes_are_changed_as_they_were_told() {
        let mut scenario = world();
        let changes = r#"[{"user_class_name": "NPCInteractionTest", "weight": 7, "host": "http://h", "tasks": ["get_npc_state"]},
                          {"user_class_name": "ChatCommandTest", "fixed_count": 2}]"#;
        args(&[changes], false).change(&mut scenario).unwrap();
        let npc = scenario.users.iter().find(|u| u.name == "NPCInteractionTest").unwrap();
        assert_eq!((npc.weight, npc.host.as_deref(), npc.tasks.len()), (7, Some("http://h"), 1));
        let chat = scenario.users.iter().find(|u| u.name == "ChatCommandTest").unwrap();
        assert_eq!(chat.fixed_count, Some(2));
        args(&[], true).change(&mut scenario).unwrap();
        assert!(scenario.users.iter().all(|u| u.weight == 1 && u.tasks.iter().all(|t| t.weight == 1)));
        for (bad, told) in [
            ("{", "no JSON"),
            ("nothing.json", "cannot read"),
            ("3", "no object"),
            ("{}", "no user_class_name"),
            (r#"{"user_class_name": "X"}"#, "no class 'X'"),
            (r#"{"user_class_name": "ChatCommandTest", "wait_time": 3}"#, "'wait_time'"),
            (r#"{"user_class_name": "ChatCommandTest", "weight": -3}"#, "-3 is no count"),
            (r#"{"user_class_name": "ChatCommandTest", "tasks": ["y"]}"#, "no task 'y'"),
        ] {
            let e = args(&[bad], false).change(&mut world()).unwrap_err();
            assert!(e.to_string().contains(told), "{bad}: {e}");
        }
    }

    #[test]
    fn the_name_of_the_report_says_how_it_was_run() {
        let name = html_name("r_{u}_{r}_{t}.html", 100, 10.0, Some(50));
        assert_eq!(name, Path::new("r_100_10_50.html"));
        assert_eq!(html_name("{r}{t}", 1, 0.5, None), Path::new("0.5None"));
    }
}
