//! The SQLite file of a recording, write side.
//!
//! WAL and one transaction a flush: whatever ends the process, what was flushed can be read. A closed recording is one
//! file without a WAL beside it. A recording that nobody asked for lives in memory, by the same code. When the disk fills,
//! the file keeps what it has, and what comes is kept in memory for the other results of the run.

use std::fs::{self, Permissions};
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rusqlite::{Connection, params};

use super::model::{Event, Frame, Inline, Loss};
use super::recorder::{Batch, Recorder};
use crate::clock::{Anchor, Mono};
use crate::error::{DISK_FULL, Error, Result};

/// The tables, as `sqlite3 run.perfkit .schema` shows them.
pub const SCHEMA: &str = include_str!("schema.sql");
/// `PRAGMA user_version` of recordings written by this perfkit.
///
/// 2: `frame.first_line`, the view `place`. 3: `slow_request`. 4: `heap_type`, `census`, `census_type`, `census_container`,
/// `holder`.
pub const SCHEMA_VERSION: i64 = 4;
/// `PRAGMA application_id`: "pfkt".
pub(super) const APPLICATION_ID: i64 = 0x7066_6b74;

/// An open recording that grows.
#[derive(Debug)]
pub struct Store {
    db: Connection,
    path: Option<PathBuf>,
    full: Option<Full>,
}

/// What there is since the file could not be written any more.
#[derive(Debug)]
struct Full {
    /// Everything, in memory; `None` where that has no room either.
    all: Option<Connection>,
    /// In the words of a loss.
    why: &'static str,
    /// What gives meaning to the samples in the file and is not written yet.
    names: Batch,
}

impl Store {
    /// A recording in memory, for tests and small things.
    pub fn in_memory() -> Result<Self> {
        Self::prepare(Connection::open_in_memory()?, None)
    }

    /// A recording for commands that were not asked for a file: SQLite keeps it in a nameless file that goes with us, so
    /// that a run of hours does not fill memory.
    pub fn temporary() -> Result<Self> {
        Self::prepare(Connection::open("")?, None)
    }

    /// Creates the recording at `path`. With `replace` a file that exists already is replaced; without, it is an error of
    /// kind `Usage`.
    ///
    /// The tables are written beside it first and renamed: under its name there is at any moment the old file, or a new one
    /// that opens. A link stays a link.
    ///
    /// # Errors
    /// `Gone`, `Denied` or `Io` when there is no room or no right to write there; the old file is as it was then.
    pub fn create(path: &Path, replace: bool) -> Result<Self> {
        let show = path.display();
        let cannot = |e: io::Error| Error::io(format!("cannot create {show}"), e);
        let taken =
            || Error::usage(format!("{show} exists already")).advise("give another name, or --force to replace it");
        let old = fs::symlink_metadata(path).is_ok();
        if old && !replace {
            return Err(taken());
        }
        let file = if old { fs::canonicalize(path).unwrap_or_else(|_| path.to_owned()) } else { path.to_owned() };
        let mode = fs::metadata(&file).map_or(0o666, |m| m.permissions().mode() & 0o777);
        let dir = file.parent().filter(|d| !d.as_os_str().is_empty()).unwrap_or(Path::new("."));
        let mut beside = tempfile::Builder::new();
        beside.prefix(".perfkit-").suffix(".tmp").permissions(Permissions::from_mode(mode));
        let beside = beside.tempfile_in(dir).map_err(cannot)?;
        // Without a journal, which would be one more file beside; nobody but us knows this one yet.
        let tables = Connection::open(beside.path())?;
        tables.execute_batch(&format!("PRAGMA journal_mode=OFF; PRAGMA synchronous=OFF; {}", schema()))?;
        tables.close().map_err(|(_, e)| e)?;
        for suffix in ["-wal", "-shm"] {
            // What a recording of that name that was killed has left: it must not be taken for ours.
            match fs::remove_file(with_suffix(&file, suffix)) {
                Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(cannot(e)),
                _ => {}
            }
        }
        let placed = if replace { beside.persist(&file) } else { beside.persist_noclobber(&file) };
        match placed.map_err(|e| e.error) {
            Ok(_) => {}
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists => return Err(taken()),
            Err(e) => return Err(cannot(e)),
        }
        Self::open(Connection::open(&file)?, Some(path.to_owned()))
    }

    fn prepare(db: Connection, path: Option<PathBuf>) -> Result<Self> {
        db.execute_batch(&schema())?;
        Self::open(db, path)
    }

    fn open(db: Connection, path: Option<PathBuf>) -> Result<Self> {
        db.execute_batch(
            "PRAGMA journal_mode=WAL; PRAGMA synchronous=NORMAL; PRAGMA cache_size=-4000; PRAGMA temp_store=MEMORY;",
        )?;
        // On in this build of SQLite. A frame is written again when it has its name, and each time all stacks would be searched
        // for it: minutes for a large recording. The numbers are the recorder's own and need no check.
        db.pragma_update(None, "foreign_keys", false)?;
        db.set_prepared_statement_cache_capacity(32);
        Ok(Self { db, path, full: None })
    }

    /// Keeps at most so many KB of the file in memory. For a recording that only grows at its end, a few pages do.
    ///
    /// # Errors
    /// `Io` when SQLite refuses.
    pub fn keep_small(&self, cache_kb: u32) -> Result<()> {
        self.db.pragma_update(None, "cache_size", -i64::from(cache_kb))?;
        Ok(())
    }

    /// Where the recording lies, `None` in memory.
    pub fn path(&self) -> Option<&Path> {
        self.path.as_deref()
    }

    /// Sets a fact of the recording as a whole (`meta`).
    pub fn set_meta(&self, key: &str, value: &str) -> Result<()> {
        self.put("INSERT OR REPLACE INTO meta VALUES (?,?)", params![key, value])
    }

    /// Ties the clocks together once more.
    pub fn anchor(&self, a: Anchor) -> Result<()> {
        let row = params![a.mono.0 as i64, a.wall_ns, a.error_ns as i64];
        self.put("INSERT OR REPLACE INTO anchor VALUES (?,?,?)", row)
    }

    fn put(&self, statement: &str, row: &[&dyn rusqlite::ToSql]) -> Result<()> {
        let file = self.db.prepare_cached(statement).and_then(|mut s| s.execute(row));
        match &self.full {
            // There may be room for a row where there was none for a second's samples; it is no error if not.
            Some(full) => full.all.iter().try_for_each(|all| all.prepare_cached(statement)?.execute(row).map(drop))?,
            None => drop(file?),
        }
        Ok(())
    }

    /// Writes everything that `recorder` gathered since the last flush, in one transaction.
    ///
    /// # Errors
    /// The first time that it cannot be written (a full disk). What was flushed before stays in the file, and gets its
    /// names if there is room for those; from now on [`Self::recording`] alone has the rest.
    pub fn flush(&mut self, recorder: &Recorder) -> Result<()> {
        let batch = recorder.take();
        if self.full.is_none() {
            let Err(e) = commit(&mut self.db, &batch) else { return Ok(()) };
            let all = self.copy_in_memory().ok();
            let why = if e.to_string() == DISK_FULL { "the disk was full" } else { "could not be written" };
            self.full = Some(Full { all, why, names: Batch::default() });
            self.keep(batch);
            return Err(e);
        }
        self.keep(batch);
        Ok(())
    }

    /// Keeps a batch that has no room in the file: whole in memory, and in the file what gives meaning to the samples that
    /// are there, with a row about those that are not. The place of the transaction that failed is free for it.
    fn keep(&mut self, batch: Batch) {
        let Some(full) = &mut self.full else { return };
        // A copy that cannot be kept up is no copy.
        full.all = full.all.take().and_then(|mut all| commit(&mut all, &batch).is_ok().then_some(all));
        let samples = batch.events.iter().filter_map(|e| if let Event::Sample(s) = e { Some(s.at) } else { None });
        let (count, from, to) = samples.fold((0, u64::MAX, 0), |(n, a, b), at| (n + 1, at.0.min(a), at.0.max(b)));
        if count > 0 {
            let why = full.why.to_owned();
            full.names.events.push(Event::Loss(Loss {
                from: Mono(from),
                to: Mono(to),
                source: "recorder",
                count,
                why,
            }));
        }
        full.names.processes.extend(batch.processes);
        full.names.threads.extend(batch.threads);
        full.names.frames.extend(batch.frames);
        full.names.named.extend(batch.named);
        if commit(&mut self.db, &full.names).is_ok() {
            full.names = Batch::default();
            return;
        }
        // At least what is missing should be said.
        let losses = Batch { events: std::mem::take(&mut full.names.events), ..Batch::default() };
        if commit(&mut self.db, &losses).is_err() {
            full.names.events = losses.events;
        }
    }

    fn copy_in_memory(&self) -> Result<Connection> {
        let mut copy = Connection::open_in_memory()?;
        rusqlite::backup::Backup::new(&self.db, &mut copy)?.run_to_completion(4096, Duration::ZERO, None)?;
        Ok(copy)
    }

    /// Ends the recording: one file, without a WAL beside it.
    ///
    /// # Errors
    /// `Io` when there is no room to make one file of the two; both together are read as one.
    pub fn close(self) -> Result<()> {
        let merged = self.db.pragma_update(None, "journal_mode", "DELETE");
        let closed = self.db.close().map_err(|(_, e)| e);
        merged.and(closed).map_err(|e| match &self.path {
            Some(path) => Error::from(e)
                .within(&format!("{0} needs {0}-wal beside it, they could not be made one file", path.display())),
            None => e.into(),
        })
    }

    /// The read side over the same database.
    pub fn recording(&self) -> Result<super::Recording> {
        super::Recording::load(self.whole())
    }

    fn whole(&self) -> &Connection {
        self.full.as_ref().and_then(|f| f.all.as_ref()).unwrap_or(&self.db)
    }
}

fn schema() -> String {
    format!("PRAGMA application_id={APPLICATION_ID}; PRAGMA user_version={SCHEMA_VERSION}; BEGIN; {SCHEMA} COMMIT;")
}

fn with_suffix(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    name.into()
}

fn commit(db: &mut Connection, batch: &Batch) -> Result<()> {
    let tx = db.transaction()?;
    write(&tx, batch)?;
    tx.commit()?;
    Ok(())
}

fn write(tx: &Connection, batch: &Batch) -> Result<()> {
    let mut put = tx.prepare_cached("INSERT OR REPLACE INTO process VALUES (?,?,?,?,?,?,?)")?;
    for (id, p) in &batch.processes {
        put.execute(params![id.0, p.pid, p.start_ticks as i64, p.parent, p.name, p.exe, p.runtime])?;
    }
    let mut put = tx.prepare_cached("INSERT OR REPLACE INTO thread VALUES (?,?,?,?)")?;
    for (id, t) in &batch.threads {
        put.execute(params![id.0, t.process.0, t.tid, t.name])?;
    }
    let mut put = tx.prepare_cached("INSERT OR REPLACE INTO frame VALUES (?,?,?,?,?,?,?,?)")?;
    let mut inline = tx.prepare_cached("INSERT OR REPLACE INTO inline VALUES (?,?,?,?,?)")?;
    for (id, f) in batch.frames.iter().chain(&batch.named) {
        let Frame { kind, function, file, line, first_line, module, address, inlines } = f;
        put.execute(params![id.0, kind.name(), function, file, line, module, address.map(|a| a as i64), first_line])?;
        for (depth, Inline { function, file, line }) in inlines.iter().enumerate() {
            inline.execute(params![id.0, depth as i64, function, file, line])?;
        }
    }
    let mut put = tx.prepare_cached("INSERT INTO stack VALUES (?,?,?)")?;
    for (id, s) in &batch.stacks {
        put.execute([id.0, s.parent.0, s.frame.0])?;
    }
    let mut sample = tx.prepare_cached("INSERT INTO sample VALUES (?,?,?,?,?,?,?)")?;
    let mut reading = tx.prepare_cached("INSERT INTO reading VALUES (?,?,?,?)")?;
    let mut mark = tx.prepare_cached("INSERT INTO mark VALUES (?,?,?)")?;
    let mut loss = tx.prepare_cached("INSERT INTO loss VALUES (?,?,?,?,?)")?;
    for event in &batch.events {
        match event {
            Event::Sample(s) => sample.execute(params![
                s.at.0 as i64,
                s.thread.0,
                s.stack.0,
                s.weight_ns as i64,
                s.state.code(),
                s.reason,
                s.flags.0
            ])?,
            Event::Reading(r) => reading.execute(params![r.at.0 as i64, r.metric, r.scope, r.value])?,
            Event::Mark(m) => mark.execute(params![m.at.0 as i64, m.kind, m.text])?,
            Event::Loss(l) => loss.execute(params![l.from.0 as i64, l.to.0 as i64, l.source, l.count as i64, l.why])?,
        };
    }
    let mut put = tx.prepare_cached("INSERT OR REPLACE INTO endpoint VALUES (?,?,?)")?;
    for (id, method, name) in &batch.endpoints {
        put.execute(params![id, method, name])?;
    }
    let mut put = tx.prepare_cached("INSERT INTO request_window VALUES (?,?,?,?,?,?)")?;
    for w in &batch.windows {
        let counts = [w.requests, w.failures, w.bytes].map(|n| n as i64);
        put.execute(params![w.at.0 as i64, w.endpoint, counts[0], counts[1], counts[2], w.latency])?;
    }
    let mut put = tx.prepare_cached("INSERT INTO request_error VALUES (?,?,?,?,?,?)")?;
    for e in &batch.errors {
        put.execute(params![e.endpoint, e.kind, e.message, e.count as i64, e.first.0 as i64, e.last.0 as i64])?;
    }
    let mut put = tx.prepare_cached("INSERT INTO slow_request VALUES (?,?,?,?,?,?,?,?,?)")?;
    for s in &batch.slow {
        let (kind, message) = s.failure.as_ref().map(|(k, m)| (k, m)).unzip();
        let times = [s.due, s.sent, s.end].map(|t| t.0 as i64);
        let first = s.first.map(|t| t.0 as i64);
        put.execute(params![s.endpoint, times[0], times[1], first, times[2], s.status, s.bytes as i64, kind, message])?;
    }
    batch.census.write(tx)?;
    if batch.dropped > 0 {
        loss.execute(params![
            0,
            0,
            "recorder",
            batch.dropped as i64,
            "queue full: the recording could not be written fast enough"
        ])?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Kind;
    use crate::record::{Frame, FrameKey, FrameKind, Process, Recording, Sample, SampleFlags, State, Thread, ThreadId};

    /// A second of 5000 samples in 50 functions that were not met before.
    fn second(recorder: &Recorder, thread: ThreadId, from: u64) {
        for at in from..from + 5000 {
            let key = FrameKey { kind: FrameKind::Native, space: 0, address: from + at % 50 };
            let (frame, new) = recorder.address_frame(key, || Some("/lib/libnpc.so".into()));
            recorder.put(Event::Sample(Sample {
                at: Mono(at),
                thread,
                stack: recorder.stack(&[frame]),
                weight_ns: 1,
                state: State::OnCpu,
                reason: None,
                flags: SampleFlags::default(),
            }));
            if !new {
                continue;
            }
            let function = Some(format!("function {at}"));
            recorder.name_frame(frame, Frame { kind: FrameKind::Native, function, ..Frame::label(String::new()) });
        }
    }

    /// The time to write names must not grow with the recording.
    #[test]
    fn a_name_written_again_searches_no_other_table() {
        let store = Store::temporary().unwrap();
        let checked: bool = store.db.pragma_query_value(None, "foreign_keys", |row| row.get(0)).unwrap();
        assert!(!checked);
    }

    #[test]
    fn a_full_disk_costs_the_file_what_did_not_fit_and_memory_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("run.perfkit");
        let recorder = Recorder::new();
        let mut store = Store::create(&path, false).unwrap();
        let process = recorder.process(Process { pid: 7, ..Process::default() });
        let thread = recorder.thread(Thread { process, tid: 7, name: "npc".into() });
        second(&recorder, thread, 0);
        store.flush(&recorder).unwrap();
        let pages: i64 = store.db.pragma_query_value(None, "page_count", |r| r.get(0)).unwrap();
        // Room for the names of another second, and not for its samples.
        store.db.pragma_update_and_check(None, "max_page_count", pages + 8, |_| Ok(())).unwrap();
        second(&recorder, thread, 10_000);
        let e = store.flush(&recorder).unwrap_err();
        assert_eq!((e.kind(), e.to_string().as_str()), (Kind::Io, "the disk is full"));
        second(&recorder, thread, 20_000);
        store.flush(&recorder).unwrap();
        store.set_meta("ended_ns", "30000").unwrap();
        assert_eq!(store.recording().unwrap().samples.len(), 15_000);
        store.close().unwrap();
        let kept = Recording::open(&path).unwrap();
        assert_eq!((kept.samples.len(), kept.lost()), (5000, 10_000));
        let named = |s: &Sample| kept.leaf_first(s.stack).all(|f| kept.frame(f).function.is_some());
        assert!(kept.samples.iter().all(named));
    }

    #[test]
    fn a_file_is_replaced_whole_and_what_a_killed_one_left_beside_it_goes() {
        let dir = tempfile::tempdir().unwrap();
        let (path, link) = (dir.path().join("run.perfkit"), dir.path().join("link.perfkit"));
        fs::write(&path, "old").unwrap();
        fs::write(with_suffix(&path, "-wal"), "of the old one").unwrap();
        std::os::unix::fs::symlink(&path, &link).unwrap();
        assert_eq!(Store::create(&link, false).unwrap_err().kind(), Kind::Usage);
        assert_eq!(fs::read(&path).unwrap(), b"old");
        let store = Store::create(&link, true).unwrap();
        assert_eq!(store.path(), Some(&*link));
        // From the first moment on it is one that opens.
        assert!(Recording::open(&path).unwrap().samples.is_empty());
        store.close().unwrap();
        assert!(fs::symlink_metadata(&link).unwrap().is_symlink());
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 2);
        let e = Store::create(&dir.path().join("nowhere/run.perfkit"), true).unwrap_err();
        assert_eq!(e.kind(), Kind::Gone);
    }
}
