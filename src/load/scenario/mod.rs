//! What a scenario says, read from its file and checked, before anything is compiled or sent.
//!
//! In: a TOML or YAML file. Out: a [`Scenario`], plain data in which texts with blanks are still templates. Invariant:
//! every mistake is named with file, line, column and what would be allowed; nothing is guessed.

mod feed;
mod read;
mod reader;
mod ready;
mod targets;
mod template;

pub use feed::{Feeder, FeederMode};
pub use read::from_text;
pub use ready::{READY, ready};
pub use targets::{Bound, Measure, Target, default_targets};
pub use template::{Arg, Call, FUNCTIONS, Part, Template};

use std::path::Path;

use super::stop_on::StopOn;
use super::tree::{self, Node, Place};
use crate::error::{Error, Result};

/// A scenario as written.
#[derive(Debug, Clone, Default)]
pub struct Scenario {
    /// The file's name, for errors.
    pub file: String,
    /// Where requests go whose class names no other host.
    pub host: Option<String>,
    /// Headers of every request.
    pub headers: Vec<(String, Template)>,
    /// The classes of users.
    pub users: Vec<UserClass>,
    /// What templates pick from.
    pub data: Vec<Feeder>,
    /// What the run is graded by; empty when the scenario names none.
    pub targets: Vec<Target>,
    /// The course of the run, if the scenario names one.
    pub stages: Vec<Stage>,
    /// Users, spawn rate and run time, where the command line does not say.
    pub run: RunDefaults,
    /// The longest a request may take, ns.
    pub timeout_ns: u64,
    /// How many redirects are followed.
    pub redirects: u8,
    /// Where chance begins.
    pub seed: u64,
    /// Authorities to trust beside (or instead of) the system's, and whether to check at all.
    pub tls: TlsChoice,
}

/// Defaults of the run that a scenario brings.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct RunDefaults {
    /// How many users.
    pub users: Option<u32>,
    /// How many of them come a second.
    pub spawn_rate: Option<f64>,
    /// How long, ns.
    pub run_time_ns: Option<u64>,
    /// Arrivals (open model) as written: `500/s`, `0/s..500/s in 1m`.
    pub arrivals: Option<String>,
    /// Rules that end the run before its time.
    pub stop_on: Vec<StopOn>,
}

/// How certificates are checked.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct TlsChoice {
    /// A PEM file with authorities to trust beside the system's.
    pub ca: Option<std::path::PathBuf>,
    /// Trust everything.
    pub insecure: bool,
}

/// A stretch of the run.
#[derive(Debug, Clone, PartialEq)]
pub struct Stage {
    /// How many users are wanted in it.
    pub users: u32,
    /// How fast they come or go, a second.
    pub spawn_rate: f64,
    /// How long it lasts, ns.
    pub duration_ns: u64,
}

/// A class of users.
#[derive(Debug, Clone)]
pub struct UserClass {
    /// Its name.
    pub name: String,
    /// How many of the users are of this class, relative to the others.
    pub weight: u32,
    /// Exactly so many users, whatever the weights.
    pub fixed_count: Option<u32>,
    /// Where its requests go.
    pub host: Option<String>,
    /// Headers of its requests.
    pub headers: Vec<(String, Template)>,
    /// What a user does first.
    pub on_start: Vec<Step>,
    /// What a user does last.
    pub on_stop: Vec<Step>,
    /// The pause after a task.
    pub wait: Wait,
    /// What it does again and again.
    pub tasks: Vec<Task>,
    /// Whether tasks come in their order instead of by weight.
    pub sequence: bool,
    /// Whether it keeps cookies.
    pub cookies: bool,
    /// Tags of all its tasks.
    pub tags: Vec<String>,
    /// Where it stands.
    pub at: Place,
}

/// The pause after a task.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Wait {
    /// None.
    None,
    /// Always the same, ns.
    Constant(u64),
    /// Evenly between, ns.
    Between(u64, u64),
    /// A task begins each so many ns, whatever it took; a late one begins at once and counts from when it was due.
    Pacing(u64),
}

/// A task: steps that belong together.
#[derive(Debug, Clone)]
pub struct Task {
    /// Its name.
    pub name: String,
    /// How often, relative to the others.
    pub weight: u32,
    /// What `--tags` and `--exclude-tags` go by.
    pub tags: Vec<String>,
    /// What it does.
    pub steps: Vec<Step>,
}

/// A step of a task.
#[derive(Debug, Clone)]
pub enum Step {
    /// A request.
    Request(Box<RequestStep>),
    /// A pause within the task.
    Pause(Wait),
}

/// A request.
#[derive(Debug, Clone)]
pub struct RequestStep {
    /// The method in capitals.
    pub method: String,
    /// A path, or a whole URL.
    pub path: Template,
    /// Under which name it is counted.
    pub name: Option<Template>,
    /// Its headers.
    pub headers: Vec<(String, Template)>,
    /// Appended to the path, encoded.
    pub query: Vec<(String, Template)>,
    /// What it carries.
    pub body: Body,
    /// What later steps take from the answer.
    pub captures: Vec<Capture>,
    /// What the answer must be.
    pub expect: Expect,
    /// The longest it may take, ns.
    pub timeout_ns: Option<u64>,
    /// How many redirects are followed.
    pub redirects: Option<u8>,
    /// Whether the answer is a stream of server-sent events.
    pub sse: bool,
    /// Where it stands.
    pub at: Place,
}

/// What a request carries.
#[derive(Debug, Clone)]
pub enum Body {
    /// Nothing.
    None,
    /// A JSON document whose texts are templates.
    Json(Node),
    /// `application/x-www-form-urlencoded`.
    Form(Vec<(String, Template)>),
    /// As it is.
    Raw(Template),
}

/// Something taken from an answer.
#[derive(Debug, Clone)]
pub struct Capture {
    /// The variable.
    pub variable: String,
    /// Where from.
    pub from: From,
    /// What it is when it is not there; without one that is a failure.
    pub default: Option<String>,
    /// Where it stands.
    pub at: Place,
}

/// Where a capture looks.
#[derive(Debug, Clone)]
pub enum From {
    /// A JSONPath.
    Json(super::jsonpath::JsonPath),
    /// A regular expression on the body: its first group, else all of it.
    Regex(regex::bytes::Regex),
    /// A header.
    Header(String),
}

/// What an answer must be.
#[derive(Debug, Clone, Default)]
pub struct Expect {
    /// Ranges of status codes, both ends included; empty means below 400.
    pub status: Vec<(u16, u16)>,
    /// Values in the JSON body.
    pub json: Vec<(super::jsonpath::JsonPath, serde_json::Value)>,
    /// Texts that the body must contain.
    pub text: Vec<String>,
    /// Texts that it must not contain.
    pub not_text: Vec<String>,
    /// What it must match.
    pub regex: Vec<regex::bytes::Regex>,
    /// The longest the request may take from its due time, ns.
    pub under_ns: Option<u64>,
}

impl Scenario {
    /// One without users: what stands beside a locustfile.
    pub fn beside_locustfile(file: &str) -> Self {
        Self { file: file.to_owned(), timeout_ns: read::DEFAULT_TIMEOUT_NS, seed: 1, ..Self::default() }
    }

    /// Reads a scenario file; its ending tells TOML (`.toml`) from YAML (`.yaml`, `.yml`).
    ///
    /// # Errors
    /// `Usage` for a file that cannot be read or says something that cannot be.
    pub fn load(path: &Path) -> Result<Self> {
        let file = path.display().to_string();
        let text = feed::read_whole(path, tree::SIZE as u64)
            .map_err(|e| Error::usage(format!("cannot read the scenario {file}")).caused_by(e))?;
        from_text(&file, &text, path.parent().unwrap_or(Path::new(".")))
    }

    /// A scenario of one request: GET `url` again and again, without a pause.
    ///
    /// # Errors
    /// `Usage` when it is not a URL.
    pub fn of_url(url: &str) -> Result<Self> {
        let parsed = super::http::Url::parse(url)?;
        let path = serde_json::to_string(&parsed.target).unwrap_or_default();
        let host = serde_json::to_string(&parsed.origin()).unwrap_or_default();
        // A URL on the command line is taken as it is: no blanks are filled in.
        let path = path.replace("${", "$${");
        let text = format!(
            "host = {host}\n[[user]]\nname = \"url\"\n[[user.task]]\nname = \"get\"\nsteps = [{{ get = {path} }}]\n"
        );
        from_text(url, &text, Path::new("."))
    }
}
