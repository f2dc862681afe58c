//! A load run as the closing table, as JSON, and as the CSV files that Locust writes.

mod buckets;
mod csv;
mod github;
mod html;
mod junit;
mod page;
mod routes;
mod slowest;
mod summary;
mod text;
mod verdict;

use std::io::Write;

pub use buckets::{as_locust_rounds, round_recent, round_second};
pub use csv::{exceptions_csv, failures_csv, history_csv, history_head, history_rows, stats_csv};
pub use github::{github_annotations, github_summary};
pub use html::load_html;
pub use junit::junit;
pub use page::{CHARTS_JS, PAGE_CSS, embedded, load_page};
pub use routes::{exceptions_json, logs_json, page_json, requests_json, tasks_json};
pub use slowest::{slowest_csv, slowest_text};
pub use summary::{summary_text, task_ratio_text};
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
