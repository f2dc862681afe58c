//! Options that do not stand on the command line: Locust's configuration files and `LOCUST_*` in the environment.
//!
//! In: the words after `perfkit load`. Out: the same, with those options put in that the command line does not have. Order, the
//! later overruling the earlier: `~/.locust.conf`, `./locust.conf`, `./pyproject.toml` (`[tool.locust]`), `--config FILE`, the
//! environment, the command line.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::{Path, PathBuf};

use clap::parser::ValueSource;
use clap::{ArgAction, ArgMatches, Command};

use crate::error::{Error, Result};

/// Variables whose names do not follow from their option's.
const NAMED: [(&str, &str); 6] = [
    ("LOCUST_MODE_MASTER", "master"),
    ("LOCUST_MODE_WORKER", "worker"),
    ("LOCUST_MASTER_NODE_HOST", "master-host"),
    ("LOCUST_MASTER_NODE_PORT", "master-port"),
    ("LOCUST_USERCLASS_PICKER", "class-picker"),
    ("LOCUST_ENABLE_OPENTELEMETRY", "otel"),
];
/// The others, as `LOCUST_RUN_TIME` is of `--run-time`; what else begins with `LOCUST_` belongs to the user's own programs.
const VARIABLES: [&str; 38] = [
    "autoquit",
    "autostart",
    "build-path",
    "config-users",
    "csv",
    "csv-full-history",
    "exclude-tags",
    "exit-code-on-error",
    "expect-workers",
    "expect-workers-max-wait",
    "headful",
    "headless",
    "host",
    "html",
    "legacy-ui",
    "locustfile",
    "logfile",
    "loglevel",
    "master-bind-host",
    "master-bind-port",
    "only-summary",
    "print-stats",
    "processes",
    "reset-stats",
    "run-time",
    "skip-log-setup",
    "spawn-rate",
    "stop-timeout",
    "tags",
    "tls-cert",
    "tls-key",
    "users",
    "web-auth",
    "web-base-path",
    "web-host",
    "web-host-display-name",
    "web-login",
    "web-port",
];
/// The largest configuration file, bytes.
const LARGEST: u64 = 1 << 20;

/// Options with their values; none for a switch that is on.
type Settings = BTreeMap<String, Vec<String>>;

/// The words with the settings of files and environment. `command` is `perfkit load`, `words` come after its name.
///
/// # Errors
/// `Usage` for a file that cannot be read, and for options in it that do not exist, with file and line.
pub fn complete(command: &Command, words: Vec<OsString>, environment: &[(String, String)]) -> Result<Vec<OsString>> {
    // Only to see what there is: mistakes are told when the whole is parsed.
    let seen = command.clone().no_binary_name(true).ignore_errors(true).try_get_matches_from(&words).ok();
    let given = |id: &str| seen.as_ref().is_some_and(|m| source(m, id) == Some(ValueSource::CommandLine));
    let mut settings = Settings::new();
    let home = environment.iter().find(|(k, _)| k == "HOME").map(|(_, v)| PathBuf::from(v).join(".locust.conf"));
    let usual = home.into_iter().chain(["locust.conf", "pyproject.toml"].map(PathBuf::from));
    for path in usual.filter(|p| p.is_file()) {
        settings.extend(read(&path, command)?);
    }
    let named = seen.as_ref().and_then(|m| m.try_get_one::<PathBuf>("config").ok().flatten().cloned());
    if let Some(path) = named {
        settings.extend(read(&path, command)?);
    }
    let mut classes = None;
    for (variable, value) in environment.iter().filter(|(k, v)| k.starts_with("LOCUST_") && !v.is_empty()) {
        if variable == "LOCUST_USER_CLASSES" {
            classes = Some(value.split_whitespace().map(OsString::from).collect::<Vec<_>>());
            continue;
        }
        if let Some((option, values)) = from_variable(command, variable, value)? {
            settings.insert(option, values);
        }
    }
    let has_words = given("words");
    let first = seen.as_ref().and_then(|m| m.try_get_many::<String>("words").ok().flatten()?.next().cloned());
    let is_scenario = first.is_some_and(|w| w.contains(['.', '/', ':']) || crate::load::scenario::ready(&w).is_some());
    let mut out = Vec::new();
    for (option, values) in settings {
        let Some(arg) = find(command, &option) else { continue };
        let id = arg.get_id().as_str();
        // A scenario among the words is the one that is meant.
        if given(id) || (id == "file" && is_scenario) || is_overruled(id, &given) {
            continue;
        }
        if values.is_empty() {
            out.push(OsString::from(format!("--{option}")));
        }
        // A value that hangs on its option ends it, also where the option could take more.
        out.extend(values.iter().map(|v| OsString::from(format!("--{option}={v}"))));
    }
    out.extend(words);
    if !has_words && let Some(classes) = classes {
        out.extend(classes);
    }
    Ok(out)
}

/// What the command line has in the place of a setting: both names of a thing are one thing.
fn is_overruled(id: &str, given: &impl Fn(&str) -> bool) -> bool {
    match id {
        "users" | "spawn_rate" | "run_time" => given("preset"),
        "headless" => given("autostart"),
        "autostart" => given("headless"),
        "quiet" | "verbose" => given("quiet") || given("verbose"),
        _ => false,
    }
}

fn source(matches: &ArgMatches, id: &str) -> Option<ValueSource> {
    matches.try_contains_id(id).ok()?;
    matches.value_source(id)
}

fn find<'a>(command: &'a Command, option: &str) -> Option<&'a clap::Arg> {
    command
        .get_arguments()
        .find(|a| a.get_long() == Some(option) || a.get_all_aliases().is_some_and(|all| all.contains(&option)))
}

fn is_switch(arg: &clap::Arg) -> bool {
    matches!(arg.get_action(), ArgAction::SetTrue)
}

/// The option of a variable with its values; `None` where it says no.
fn from_variable(command: &Command, variable: &str, value: &str) -> Result<Option<(String, Vec<String>)>> {
    let named = NAMED.iter().find(|(v, _)| *v == variable).map(|(_, option)| (*option).to_owned());
    let option = named.or_else(|| {
        let option = variable.trim_start_matches("LOCUST_").to_ascii_lowercase().replace('_', "-");
        VARIABLES.contains(&option.as_str()).then_some(option)
    });
    let Some(option) = option else { return Ok(None) };
    let Some(arg) = find(command, &option) else { return Ok(None) };
    let Some(values) = values(arg, value).map_err(|e| e.within(variable))? else { return Ok(None) };
    Ok(Some((option, values)))
}

/// The words of a value; `None` for a switch that is off.
fn values(arg: &clap::Arg, value: &str) -> Result<Option<Vec<String>>> {
    if is_switch(arg) {
        return match value.to_ascii_lowercase().as_str() {
            "true" | "yes" | "1" | "on" | "" => Ok(Some(Vec::new())),
            "false" | "no" | "0" | "off" => Ok(None),
            other => Err(Error::usage(format!("'{other}' is neither true nor false"))),
        };
    }
    let list = arg.get_num_args().is_some_and(|n| n.max_values() > 1) && !value.trim_start().starts_with('{');
    if !list || (value.starts_with("[{") && value.ends_with("}]")) {
        return Ok(Some(vec![value.to_owned()]));
    }
    let inner = value.strip_prefix('[').and_then(|v| v.strip_suffix(']')).unwrap_or(value);
    let words = inner.split([',', ' ', '\n']).map(|w| w.trim().trim_matches(['"', '\''])).filter(|w| !w.is_empty());
    Ok(Some(words.map(str::to_owned).collect()))
}

/// The settings of a file.
fn read(path: &Path, command: &Command) -> Result<Settings> {
    let shown = path.display().to_string();
    let cannot = |why: String| Error::usage(format!("cannot read the configuration {shown}: {why}"));
    let size = std::fs::metadata(path).map_err(|e| cannot(e.to_string()))?.len();
    if size > LARGEST {
        return Err(cannot("it is larger than 1 MB".to_owned()));
    }
    let text = std::fs::read_to_string(path).map_err(|e| cannot(e.to_string()))?;
    let pairs = if path.extension().is_some_and(|e| e == "toml") { of_toml(&text) } else { of_lines(&text) };
    let pairs = pairs.map_err(cannot)?;
    let mut all = Settings::new();
    for (line, key, value) in pairs {
        let place = line.map_or_else(|| shown.clone(), |n| format!("{shown}:{n}"));
        let option = key.trim_start_matches('-').replace('_', "-");
        let arg = find(command, &option).ok_or_else(|| {
            let names = command.get_arguments().filter_map(clap::Arg::get_long);
            let near = names.min_by_key(|n| distance(n, &option)).filter(|n| distance(n, &option) <= 3);
            let error = Error::usage(format!("{place}: there is no option '{option}'"));
            error.advise(
                near.map_or_else(|| "perfkit load --help lists them".to_owned(), |n| format!("did you mean '{n}'?")),
            )
        })?;
        if let Some(values) = values(arg, &value).map_err(|e| e.within(&place))? {
            all.insert(option, values);
        }
    }
    Ok(all)
}

type Pairs = Vec<(Option<usize>, String, String)>;

/// `key = value`, `key: value`, `key value`, or a switch alone; `#`, `;` and `[section]` lines say nothing.
fn of_lines(text: &str) -> std::result::Result<Pairs, String> {
    let mut all = Pairs::new();
    for (i, line) in text.lines().enumerate() {
        let line = line.trim();
        let is_section = line.starts_with('[') && line.ends_with(']');
        if line.is_empty() || line.starts_with(['#', ';']) || line == "---" || is_section {
            continue;
        }
        let cut = line.find(['=', ':', ' ', '\t']);
        let (key, value) = cut.map_or((line, ""), |at| line.split_at(at));
        let value = value.trim_start_matches([' ', '\t']);
        let value = value.strip_prefix(['=', ':']).unwrap_or(value).trim();
        let value = value.split(" #").next().unwrap_or_default().trim();
        let quoted = value.len() > 1
            && ((value.starts_with('"') && value.ends_with('"')) || (value.starts_with('\'') && value.ends_with('\'')));
        let value = if quoted { &value[1..value.len() - 1] } else { value };
        all.push((Some(i + 1), key.to_owned(), value.to_owned()));
    }
    Ok(all)
}

/// The table `[tool.locust]`; a file without one says nothing.
fn of_toml(text: &str) -> std::result::Result<Pairs, String> {
    let table: toml::Table = text.parse().map_err(|e: toml::de::Error| e.message().to_owned())?;
    let locust = table.get("tool").and_then(|t| t.get("locust")).and_then(toml::Value::as_table);
    let Some(locust) = locust else { return Ok(Pairs::new()) };
    let one = |v: &toml::Value| match v {
        toml::Value::String(s) => s.clone(),
        toml::Value::Integer(n) => n.to_string(),
        toml::Value::Float(n) => n.to_string(),
        toml::Value::Boolean(b) => b.to_string(),
        // Nothing that an option takes; what it says about it is what is told.
        other => format!("{other:?}"),
    };
    Ok(locust
        .iter()
        .map(|(key, value)| {
            let text = match value {
                toml::Value::Array(all) => format!("[{}]", all.iter().map(one).collect::<Vec<_>>().join(",")),
                other => one(other),
            };
            (None, key.clone(), text)
        })
        .collect())
}

/// How many letters have to change, at most eight or so: names are short.
fn distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.chars().enumerate() {
        let mut before = i;
        row[0] = i + 1;
        for (j, y) in b.iter().enumerate() {
            let cost = before + usize::from(x != *y);
            before = row[j + 1];
            row[j + 1] = cost.min(before + 1).min(row[j] + 1);
        }
    }
    row.last().copied().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use clap::{Args, CommandFactory, Parser};

    use super::*;
    use crate::cli::load::LoadArgs;

    #[derive(Debug, Parser)]
    #[command(name = "load")]
    struct Alone {
        #[command(flatten)]
        load: LoadArgs,
    }

    fn words(words: &[&str], environment: &[(&str, &str)]) -> Result<Vec<String>> {
        let environment: Vec<_> = environment.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
        let words = words.iter().map(OsString::from).collect();
        let all = complete(&Alone::command(), words, &environment)?;
        Ok(all.into_iter().map(|w| w.into_string().unwrap()).collect())
    }

    #[test]
    fn the_environment_fills_in_what_the_command_line_leaves_out() {
        let environment = [
            ("LOCUST_USERS", "7"),
            ("LOCUST_RUN_TIME", "1m"),
            ("LOCUST_HEADLESS", "true"),
            ("LOCUST_ONLY_SUMMARY", "false"),
            ("LOCUST_TAGS", "a b"),
            ("LOCUST_EXCLUDE_TAGS", "[c,d]"),
            ("LOCUST_USER_CLASSES", "A B"),
            ("LOCUST_TIMEOUT", "my own"),
            ("LOCUST_LOCUSTFILE", "x.py"),
        ];
        let all = words(&["-u5"], &environment).unwrap();
        assert_eq!(
            all,
            [
                "--exclude-tags=c",
                "--exclude-tags=d",
                "--headless",
                "--locustfile=x.py",
                "--run-time=1m",
                "--tags=a",
                "--tags=b",
                "-u5",
                "A",
                "B"
            ]
        );
        let all = words(&["world", "--autostart", "-t", "3", "-T", "x", "--users=4"], &environment).unwrap();
        assert_eq!(all[..2], ["--exclude-tags=c", "--exclude-tags=d"]);
        assert_eq!(all[2..], ["world", "--autostart", "-t", "3", "-T", "x", "--users=4"]);
        assert!(words(&[], &[("LOCUST_HEADLESS", "maybe")]).unwrap_err().to_string().contains("maybe"));
    }

    #[test]
    fn every_variable_has_its_option_and_files_are_read() {
        let command = Alone::command();
        for option in VARIABLES.iter().copied().chain(NAMED.map(|n| n.1)) {
            assert!(find(&command, option).is_some(), "{option}");
        }
        let dir = tempfile::tempdir().unwrap();
        let file = |name: &str, text: &str| {
            let path = dir.path().join(name);
            std::fs::write(&path, text).unwrap();
            path.to_str().unwrap().to_owned()
        };
        let conf = file(
            "a.conf",
            "# comment\n[section]\nusers = 3\nspawn-rate: 2\nheadless\nrun_time 10s\ntags = [x, y]\nhost = \"http://h\"\n",
        );
        let all = words(&["--config", &conf, "-r", "9"], &[("LOCUST_USERS", "4")]).unwrap();
        assert_eq!(all[..6], ["--headless", "--host=http://h", "--run-time=10s", "--tags=x", "--tags=y", "--users=4"]);
        let toml = file("p.toml", "[tool.locust]\nusers = 3\nheadless = true\ntags = [\"x\"]\nonly_summary = false\n");
        assert_eq!(words(&["--config", &toml], &[]).unwrap()[..3], ["--headless", "--tags=x", "--users=3"]);
        let bad = file("b.conf", "users = 3\nuserz = 4\n");
        let e = words(&["--config", &bad], &[]).unwrap_err();
        assert!(e.to_string().contains("b.conf:2") && e.advice().unwrap().contains("'users'"), "{e}");
        assert!(words(&["--config", "/nowhere/x"], &[]).is_err());
        let home = tempfile::tempdir().unwrap();
        std::fs::write(home.path().join(".locust.conf"), "users = 11\n").unwrap();
        assert_eq!(words(&[], &[("HOME", home.path().to_str().unwrap())]).unwrap(), ["--users=11"]);
    }
}
