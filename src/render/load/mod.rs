//! A load run as the closing table, as JSON, and as the CSV files that Locust writes.

mod csv;
mod github;
mod junit;
mod page;
mod routes;
mod slowest;
mod text;
mod verdict;

use std::io::Write;

pub use csv::{exceptions_csv, failures_csv, history_csv, stats_csv};
pub use github::{github_annotations, github_summary};
pub use junit::junit;
pub use page::{CHARTS_JS, PAGE_CSS, embedded, load_page};
pub use routes::{exceptions_json, logs_json, page_json, requests_json, tasks_json};
pub use slowest::{slowest_csv, slowest_text};
pub use text::load_text;

use crate::error::{Error, Kind, Result};
use crate::record::load::LoadReport;

/// Writes the report as one JSON document.
///
/// # Errors
/// `Io` when `out` cannot be written.
pub fn load_json(report: &LoadReport, out: &mut dyn Write) -> Result<()> {
    let text = serde_json::to_string_pretty(report)
        .map_err(|e| Error::new(Kind::Bug, "the report cannot be written as JSON").caused_by(e))?;
    writeln!(out, "{text}").map_err(|e| Error::io("cannot write the report", e))
}
