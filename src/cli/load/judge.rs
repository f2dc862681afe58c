//! What a run is judged by and where the verdict goes: `--stop-on`, `--baseline`, `--fail-on`, `-o`, `--junit`, `--github`.
//!
//! In: words, and at the end what a run left. Out: files, a comparison in the report, whether the answer is no. Everything
//! that cannot be read or written is found before anything is sent.

use std::io::Write;
use std::path::{Path, PathBuf};

use clap::{Args, ValueEnum, ValueHint};

use crate::analysis::load::{Run, compare, rebuild};
use crate::cli::exit::input;
use crate::cli::outputs::{Place, Written};
use crate::cli::shared::OUTPUT;
use crate::error::{Error, Result};
use crate::load::stop_on::StopOn;
use crate::record::load::{Comparison, Grade, LoadReport};
use crate::record::load_part::LoadPart;
use crate::record::slices::Slices;
use crate::render::{github_annotations, github_summary, junit, load_json, load_text, slowest_csv, stats_csv};
use crate::session::load::{Driven, LoadPlan};

const JUDGING: &str = "Judging";

/// Flags about what a run came to.
#[derive(Debug, Clone, Args)]
pub struct JudgeArgs {
    /// End the run when this holds: 'errors>5% for 10s', 'p95>2s for 30s', 'rps<10', 'lag>100ms'; without a time for 10s;
    /// may be given several times [default: the scenario's run.stop_on]
    #[arg(long, value_name = "RULE", value_parser = rule, help_heading = JUDGING)]
    stop_on: Vec<StopOn>,

    /// Compare with an earlier run: its recording, or the JSON document of its result
    #[arg(long, value_name = "RUN", value_hint = ValueHint::FilePath, help_heading = JUDGING)]
    baseline: Option<PathBuf>,

    /// What makes the exit code 1: missed (a target, or worse than the baseline), acceptable (that or worse), regression
    /// (worse than the baseline alone), never [default: missed, where targets or a baseline are named]
    #[arg(long, value_enum, value_name = "GRADE", hide_possible_values = true, help_heading = JUDGING)]
    fail_on: Option<FailOn>,

    /// Write to FILE: .perfkit keeps the whole run, .json is its result, .csv Locust's statistics, .xml JUnit, .md the job
    /// summary, .txt the table; may be given several times
    #[arg(short, long, value_name = "FILE", value_hint = ValueHint::FilePath, help_heading = OUTPUT)]
    output: Vec<PathBuf>,

    /// Write the slowest 1 % of the requests (at most 100,000), one a line, as CSV
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath, help_heading = OUTPUT)]
    slowest: Option<PathBuf>,

    /// Write JUnit XML: a test case for each target and for each endpoint
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath, help_heading = OUTPUT)]
    junit: Option<PathBuf>,

    /// In a GitHub job: add a summary to $GITHUB_STEP_SUMMARY and annotate what was missed
    #[arg(long, help_heading = OUTPUT)]
    github: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum FailOn {
    Missed,
    Acceptable,
    Regression,
    Never,
}

fn rule(text: &str) -> std::result::Result<StopOn, String> {
    StopOn::parse(text).map_err(|e| e.advice().map_or_else(|| e.to_string(), |a| format!("{e}; {a}")))
}

/// A document about a load run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Document {
    Json,
    Csv,
    Junit,
    Markdown,
    Text,
    Slowest,
}

impl Document {
    /// What the ending of `path` asks for.
    ///
    /// # Errors
    /// `Usage` for an ending that is none.
    pub fn of(path: &Path) -> Result<Self> {
        let ending = path.extension().and_then(|e| e.to_str()).unwrap_or_default().to_ascii_lowercase();
        let is_slow = path.file_stem().and_then(|s| s.to_str()).is_some_and(|s| s.starts_with("slow"));
        Ok(match ending.as_str() {
            "json" => Self::Json,
            "csv" if is_slow => Self::Slowest,
            "csv" => Self::Csv,
            "xml" => Self::Junit,
            "md" => Self::Markdown,
            "txt" => Self::Text,
            _ => {
                return Err(Error::usage(format!("{}: no format of a load run has this ending", path.display()))
                    .advise(
                        "take .perfkit, .json, .csv (slow….csv for the slowest requests), .xml (JUnit), .md or .txt",
                    ));
            }
        })
    }

    /// The document about what a run left.
    ///
    /// # Errors
    /// `Bug` when a report cannot be written as JSON.
    pub fn bytes(self, run: &Shown<'_>) -> Result<Vec<u8>> {
        let report = run.report;
        let mut out = Vec::new();
        match self {
            Self::Json => load_json(report, &mut out)?,
            Self::Text => load_text(report, false, &mut out)?,
            Self::Csv => out = stats_csv(report).into_bytes(),
            Self::Junit => out = junit(report, run.start_wall_s as i64).into_bytes(),
            Self::Markdown => out = github_summary(report).into_bytes(),
            Self::Slowest => {
                out = slowest_csv(run.slowest, &run.name, run.start, run.start_wall_s).into_bytes();
            }
        }
        Ok(out)
    }
}

/// What documents are made of.
pub struct Shown<'a> {
    /// The report.
    pub report: &'a LoadReport,
    /// The slowest requests.
    pub slowest: &'a [crate::record::requests::SlowRequest],
    /// Method and name of an endpoint.
    pub name: Box<dyn Fn(u32) -> (String, String) + 'a>,
    /// When it began.
    pub start: crate::clock::Mono,
    /// When that was, seconds since 1970.
    pub start_wall_s: f64,
}

/// A run to compare with.
#[derive(Debug)]
struct Baseline {
    name: String,
    report: LoadReport,
    slices: Option<Slices>,
}

/// [`JudgeArgs`] with everything opened.
#[derive(Debug)]
pub struct Judge {
    /// Where the recording goes.
    pub recording: Option<PathBuf>,
    places: Vec<(PathBuf, Place, Document)>,
    baseline: Option<Baseline>,
    summary: Option<PathBuf>,
    github: bool,
    fail_on: FailOn,
    early_end_fails: bool,
}

impl JudgeArgs {
    /// Whether the exit code is asked to follow grades.
    pub fn grades_exit(&self) -> bool {
        self.fail_on.is_some()
    }

    /// Reads the baseline, proves the outputs, and tells the plan what to keep.
    ///
    /// # Errors
    /// `Usage` for what cannot be read or written.
    pub fn open(&self, force: bool, own_targets: bool, plan: &mut LoadPlan) -> Result<Judge> {
        let mut recording = None;
        let mut places: Vec<(PathBuf, Place, Document)> = Vec::new();
        let named = self.output.iter().map(|p| (p, None));
        let named = named.chain(self.slowest.iter().map(|p| (p, Some(Document::Slowest))));
        for (path, document) in named.chain(self.junit.iter().map(|p| (p, Some(Document::Junit)))) {
            if places.iter().any(|(p, ..)| p == path) || recording.as_ref() == Some(path) {
                return Err(Error::usage(format!("{} is named twice as an output", path.display())));
            }
            if document.is_none() && path.extension().is_some_and(|e| e == "perfkit") {
                if recording.is_some() {
                    return Err(Error::usage("a run is kept in one recording; -o names a second"));
                }
                Place::for_recording(path, force)?;
                recording = Some(path.clone());
                continue;
            }
            let document = document.map_or_else(|| Document::of(path), Ok)?;
            places.push((path.clone(), Place::open(path)?, document));
        }
        let baseline = self.baseline.as_deref().map(read).transpose()?;
        if let (Some(path), Some(recording)) = (&self.baseline, &recording)
            && path.canonicalize().ok() == recording.canonicalize().ok()
            && recording.exists()
        {
            return Err(Error::usage("the baseline would be replaced by this run").advise("give -o another name"));
        }
        let summary = std::env::var_os("GITHUB_STEP_SUMMARY").map(PathBuf::from).filter(|p| !p.as_os_str().is_empty());
        if self.github && summary.is_none() {
            return Err(Error::usage("--github: GITHUB_STEP_SUMMARY is not set, so this is no GitHub job")
                .advise("leave --github out, or write the same with -o summary.md"));
        }
        plan.judging.stop_on.clone_from(&self.stop_on);
        plan.judging.slices = baseline.is_some();
        plan.judging.slowest = places.iter().any(|(.., d)| *d == Document::Slowest);
        let judged = own_targets || baseline.is_some();
        let usual = match (own_targets, judged) {
            (_, false) => FailOn::Never,
            (true, _) => FailOn::Missed,
            (false, true) => FailOn::Regression,
        };
        let (github, fail_on) = (self.github, self.fail_on.unwrap_or(usual));
        let early_end_fails = fail_on != FailOn::Never || self.fail_on.is_none();
        Ok(Judge { recording, places, baseline, summary, github, fail_on, early_end_fails })
    }
}

/// An earlier run: a recording, or a result as JSON.
fn read(path: &Path) -> Result<Baseline> {
    let name = path.display().to_string();
    if path.extension().is_some_and(|e| e == "json") {
        let text = std::fs::read_to_string(path)
            .map_err(|e| Error::usage(format!("cannot read the baseline {name}")).caused_by(e))?;
        let wrong = || {
            Error::usage(format!("the baseline {name} is no result of perfkit load"))
                .advise("make one with: perfkit load … -o before.json, or better -o before.perfkit")
        };
        let report: LoadReport = serde_json::from_str(&text).map_err(|e| wrong().caused_by(e))?;
        if report.totals.requests == 0 {
            return Err(wrong());
        }
        return Ok(Baseline { name, report, slices: None });
    }
    let part = LoadPart::open(path).map_err(input)?.ok_or_else(|| {
        Error::usage(format!("the baseline {name} holds no load run"))
            .advise("make one with: perfkit load … -o before.perfkit")
    })?;
    let report = rebuild(&part, None).map_err(input)?.report;
    let slices = part.slices().map_err(input)?;
    Ok(Baseline { name, report, slices: Some(slices) })
}

impl Judge {
    /// Compares the run with the earlier one, if there is one.
    pub fn compare(&mut self, driven: &mut Driven) {
        let Some(b) = &self.baseline else { return };
        let before = Run { report: &b.report, slices: b.slices.as_ref() };
        let after = Run { report: &driven.report, slices: driven.slices.as_ref() };
        let found = compare(&b.name, before, after);
        driven.report.baseline = Some(found);
    }

    /// Writes the documents.
    pub fn write(&mut self, driven: &Driven, written: &mut Written) {
        let shown = Shown {
            report: &driven.report,
            slowest: &driven.slowest,
            name: Box::new(|id| driven.names.get(id as usize).cloned().unwrap_or_default()),
            start: driven.start,
            start_wall_s: driven.start_wall_s as f64,
        };
        for (path, place, document) in &mut self.places {
            match document.bytes(&shown).and_then(|bytes| place.put(&bytes)) {
                Ok(size) => written.files.push((path.clone(), size)),
                Err(e) => written.failures.push(e),
            }
        }
        if !self.github {
            return;
        }
        if let Some(path) = &self.summary {
            let file = std::fs::OpenOptions::new().append(true).create(true).open(path);
            // Others write to it as well: it is added to, never replaced.
            match file.and_then(|mut f| f.write_all(github_summary(&driven.report).as_bytes())) {
                Ok(()) => written.files.push((path.clone(), None)),
                Err(e) => written.failures.push(Error::io(format!("cannot add to {}", path.display()), e)),
            }
        }
        // The runner reads commands from both streams; standard output may hold a document.
        drop(std::io::stderr().lock().write_all(github_annotations(&driven.report).as_bytes()));
    }

    /// Whether the answer is no.
    pub fn fails(&self, report: &LoadReport) -> bool {
        let worst = report.targets.iter().map(|t| t.grade).max();
        let worse = report.baseline.as_ref().is_some_and(Comparison::is_regression);
        // Who gives a rule wants to know that it struck.
        (report.stopped.is_some() && self.early_end_fails)
            || match self.fail_on {
                FailOn::Never => false,
                FailOn::Missed => worse || worst >= Some(Grade::Missed),
                FailOn::Acceptable => worse || worst >= Some(Grade::Acceptable),
                FailOn::Regression => worse,
            }
    }
}
