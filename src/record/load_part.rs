//! The load run of a recording: what the tables `endpoint`, `request_window`, `request_error` and `slow_request` hold.
//!
//! In: a recording's file, also one that was cut. Out: [`LoadPart`], plain data. Invariant: windows that are damaged are an
//! error, not a guess.

use std::collections::BTreeMap;
use std::path::Path;

use rusqlite::Connection;

use super::load::LoadReport;
use super::read::{open, unsigned};
use super::requests::{RequestError, RequestWindow, SlowRequest, decode};
use super::slices::{Cell, Slices};
use crate::clock::Mono;
use crate::error::{Error, Kind, Result};

/// A load run as it was recorded.
#[derive(Debug, Default)]
pub struct LoadPart {
    /// The report as it was made at the end of the run; `None` in a recording that was cut.
    pub report: Option<LoadReport>,
    /// Whether the recording has anything but the load.
    pub has_samples: bool,
    /// When the run began; in a cut recording its first mark.
    pub start: Mono,
    /// When no more was begun; in a cut recording its last window.
    pub end: Mono,
    /// Wall-clock minus the one clock, ns, by the first anchor.
    pub wall_offset_ns: i64,
    /// Method and name of each endpoint, by number.
    pub names: BTreeMap<u32, (String, String)>,
    /// What ended, window by window.
    pub windows: Vec<RequestWindow>,
    /// What failed.
    pub errors: Vec<RequestError>,
    /// The slowest requests.
    pub slow: Vec<SlowRequest>,
    /// The run's marks: when, ns since the start, and what.
    pub marks: Vec<(u64, String)>,
    /// Users or tasks, by the end of each window.
    pub users: Vec<(Mono, f64)>,
}

impl LoadPart {
    /// Reads the load run of the recording at `path`; `None` when it has none.
    ///
    /// # Errors
    /// As [`super::Recording::open`], and `Malformed` for windows that cannot be read.
    pub fn open(path: &Path) -> Result<Option<Self>> {
        let db = open(path)?;
        Self::load(&db).map_err(|e| e.within(&path.display().to_string()))
    }

    fn load(db: &Connection) -> Result<Option<Self>> {
        let mut part = Self::default();
        let mut q = db.prepare("SELECT id, method, name FROM endpoint")?;
        for row in q.query_map([], |r| Ok((r.get(0)?, (r.get(1)?, r.get(2)?))))? {
            let (id, names) = row?;
            part.names.insert(id, names);
        }
        let meta = |key: &str| -> Result<Option<String>> {
            let mut q = db.prepare("SELECT value FROM meta WHERE key = ?")?;
            let mut rows = q.query([key])?;
            Ok(rows.next()?.map(|r| r.get(0)).transpose()?)
        };
        let report = meta("load_report")?;
        if part.names.is_empty() && report.is_none() && meta("command")?.is_none_or(|c| c != "load") {
            return Ok(None);
        }
        part.report = report.and_then(|text| serde_json::from_str(&text).ok());
        part.has_samples = db.query_row("SELECT EXISTS (SELECT 1 FROM sample)", [], |r| r.get(0))?;
        let mut q = db.prepare(
            "SELECT at_ns, endpoint, requests, failures, bytes, latency FROM request_window ORDER BY at_ns, rowid",
        )?;
        let rows = q.query_map([], |r| {
            let at = Mono(unsigned(r, 0)?);
            let (requests, failures, bytes) = (unsigned(r, 2)?, unsigned(r, 3)?, unsigned(r, 4)?);
            Ok(RequestWindow { at, endpoint: r.get(1)?, requests, failures, bytes, latency: r.get(5)? })
        })?;
        part.windows = rows.collect::<rusqlite::Result<_>>()?;
        let mut q = db.prepare(
            "SELECT endpoint, kind, message, sum(count), min(first_ns), max(last_ns) FROM request_error GROUP BY 1, 2, 3",
        )?;
        let rows = q.query_map([], |r| {
            let (first, last) = (Mono(unsigned(r, 4)?), Mono(unsigned(r, 5)?));
            let (kind, message) = (r.get(1)?, r.get(2)?);
            Ok(RequestError { endpoint: r.get(0)?, kind, message, count: unsigned(r, 3)?, first, last })
        })?;
        part.errors = rows.collect::<rusqlite::Result<_>>()?;
        let version: i64 = db.pragma_query_value(None, "user_version", |r| r.get(0))?;
        if version >= 3 {
            part.slow = slow(db)?;
        }
        let mut q = db.prepare("SELECT at_ns, text FROM mark WHERE text LIKE 'load: %' ORDER BY at_ns, rowid")?;
        let rows = q.query_map([], |r| Ok((unsigned(r, 0)?, r.get(1)?)))?;
        let marks: Vec<(u64, String)> = rows.collect::<rusqlite::Result<_>>()?;
        let first = marks.first().map(|m| m.0).or(part.windows.first().map(|w| w.at.0));
        part.start = Mono(first.unwrap_or_default());
        let stop = marks.iter().find(|m| m.1 == "load: stop").map(|m| m.0);
        part.end = Mono(stop.or(part.windows.last().map(|w| w.at.0)).unwrap_or(part.start.0)).max(part.start);
        part.marks = marks.into_iter().map(|(at, text)| (at.saturating_sub(part.start.0), text)).collect();
        let mut q = db.prepare("SELECT at_ns, value FROM reading WHERE metric = 'load.users' ORDER BY at_ns, rowid")?;
        let rows = q.query_map([], |r| Ok((Mono(unsigned(r, 0)?), r.get(1)?)))?;
        part.users = rows.collect::<rusqlite::Result<_>>()?;
        let mut q = db.prepare("SELECT mono_ns, wall_ns FROM anchor ORDER BY mono_ns LIMIT 1")?;
        let mut rows = q.query([])?;
        if let Some(r) = rows.next()? {
            part.wall_offset_ns = r.get::<_, i64>(1)?.saturating_sub(r.get(0)?);
        }
        Ok(Some(part))
    }

    /// The run in slices.
    ///
    /// # Errors
    /// `Malformed` for latencies that cannot be read.
    pub fn slices(&self) -> Result<Slices> {
        let mut slices = Slices::default();
        let last = self.names.keys().last().map_or(0, |k| *k as usize + 1);
        slices.names = (0..last).map(|id| self.names.get(&(id as u32)).cloned().unwrap_or_default()).collect();
        let steady = self.marks.iter().find(|(_, text)| text == "load: steady");
        slices.steady_ns = steady.map(|(at, _)| *at);
        for w in &self.windows {
            let mut cell = Cell { requests: w.requests, failures: w.failures, ..Cell::default() };
            for (us, n) in pairs(w)? {
                *cell.latencies.entry(us).or_default() += n;
            }
            slices.add(w.at.since(self.start), w.endpoint, cell);
        }
        slices.end_at(self.end.since(self.start));
        Ok(slices)
    }
}

/// The latencies of a window: µs, and how often.
///
/// # Errors
/// `Malformed` when they cannot be read.
pub fn pairs(window: &RequestWindow) -> Result<Vec<(u32, u64)>> {
    decode(&window.latency)
        .ok_or_else(|| Error::new(Kind::Malformed, "the recording is damaged: latencies that cannot be read"))
}

fn slow(db: &Connection) -> Result<Vec<SlowRequest>> {
    let mut q = db.prepare(
        "SELECT endpoint, due_ns, sent_ns, first_ns, end_ns, status, bytes, kind, message FROM slow_request ORDER BY due_ns, rowid",
    )?;
    let rows = q.query_map([], |r| {
        let first: Option<i64> = r.get(3)?;
        let (kind, message): (Option<String>, Option<String>) = (r.get(7)?, r.get(8)?);
        Ok(SlowRequest {
            endpoint: r.get(0)?,
            due: Mono(unsigned(r, 1)?),
            sent: Mono(unsigned(r, 2)?),
            first: first.map(|ns| Mono(ns.max(0) as u64)),
            end: Mono(unsigned(r, 4)?),
            status: r.get(5)?,
            bytes: unsigned(r, 6)?,
            failure: kind.map(|k| (k, message.unwrap_or_default())),
        })
    })?;
    Ok(rows.collect::<rusqlite::Result<_>>()?)
}
