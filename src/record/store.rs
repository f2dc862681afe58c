//! The SQLite file of a recording, write side.
//!
//! WAL and one transaction a flush: whatever ends the process, what was flushed can be read. A closed recording is one
//! file without a WAL beside it. A recording that nobody asked for lives in memory, by the same code.

use std::path::{Path, PathBuf};

use rusqlite::{Connection, OpenFlags, params};

use super::model::{Event, Frame, Inline};
use super::recorder::{Batch, Recorder};
use crate::clock::Anchor;
use crate::error::{Error, Kind, Result};

/// The tables, as `sqlite3 run.perfkit .schema` shows them.
pub const SCHEMA: &str = include_str!("schema.sql");
/// `PRAGMA user_version` of recordings written by this perfkit.
pub const SCHEMA_VERSION: i64 = 1;
/// `PRAGMA application_id`: "pfkt".
pub(super) const APPLICATION_ID: i64 = 0x7066_6b74;

/// An open recording that grows.
#[derive(Debug)]
pub struct Store {
    db: Connection,
    path: Option<PathBuf>,
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

    /// Creates the recording at `path`. With `replace` an existing file goes; without, it is an error of kind `Usage`.
    pub fn create(path: &Path, replace: bool) -> Result<Self> {
        let show = path.display();
        if path.exists() {
            if !replace {
                return Err(Error::usage(format!("{show} exists already"))
                    .advise("give another name, or --force to replace it"));
            }
            for suffix in ["", "-wal", "-shm"] {
                let mut victim = path.as_os_str().to_owned();
                victim.push(suffix);
                match std::fs::remove_file(&victim) {
                    Err(e) if e.kind() != std::io::ErrorKind::NotFound => {
                        return Err(Error::io(format!("cannot replace {show}"), e));
                    }
                    _ => {}
                }
            }
        }
        // Creating the file ourselves gives the reason that SQLite would hide behind "unable to open".
        std::fs::File::create(path).map_err(|e| Error::io(format!("cannot create {show}"), e))?;
        Self::prepare(Connection::open(path)?, Some(path.to_owned()))
    }

    fn prepare(db: Connection, path: Option<PathBuf>) -> Result<Self> {
        db.execute_batch(&format!(
            "PRAGMA journal_mode=WAL; PRAGMA synchronous=NORMAL; PRAGMA cache_size=-4000; PRAGMA temp_store=MEMORY;
             PRAGMA application_id={APPLICATION_ID}; PRAGMA user_version={SCHEMA_VERSION};
             BEGIN; {SCHEMA} COMMIT;"
        ))?;
        db.set_prepared_statement_cache_capacity(32);
        Ok(Self { db, path })
    }

    /// Where the recording lies, `None` in memory.
    pub fn path(&self) -> Option<&Path> {
        self.path.as_deref()
    }

    /// Sets a fact of the recording as a whole (`meta`).
    pub fn set_meta(&self, key: &str, value: &str) -> Result<()> {
        self.db.prepare_cached("INSERT OR REPLACE INTO meta VALUES (?,?)")?.execute(params![key, value])?;
        Ok(())
    }

    /// Ties the clocks together once more.
    pub fn anchor(&self, a: Anchor) -> Result<()> {
        self.db.prepare_cached("INSERT OR REPLACE INTO anchor VALUES (?,?,?)")?.execute(params![
            a.mono.0 as i64,
            a.wall_ns,
            a.error_ns as i64
        ])?;
        Ok(())
    }

    /// Writes everything that `recorder` gathered since the last flush, in one transaction.
    ///
    /// On an error (a full disk) the batch is lost for the file, nothing that was flushed before is.
    pub fn flush(&mut self, recorder: &Recorder) -> Result<()> {
        let batch = recorder.take();
        let tx = self.db.transaction()?;
        write(&tx, &batch)?;
        tx.commit()?;
        Ok(())
    }

    /// Ends the recording: one file, without a WAL beside it.
    pub fn close(self) -> Result<()> {
        self.db.pragma_update(None, "journal_mode", "DELETE")?;
        self.db.close().map_err(|(_, e)| e.into())
    }

    /// Writes the recording as it is now to `path` (a snapshot of one that goes on).
    pub fn copy_to(&self, path: &Path) -> Result<()> {
        let mut to = Connection::open_with_flags(path, OpenFlags::default())?;
        let copy = rusqlite::backup::Backup::new(&self.db, &mut to)?;
        copy.run_to_completion(1000, std::time::Duration::ZERO, None)
            .map_err(|e| Error::new(Kind::Io, format!("cannot write {}", path.display())).caused_by(e))
    }

    /// The read side over the same database.
    pub fn recording(&self) -> Result<super::Recording> {
        super::Recording::load(&self.db)
    }
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
    let mut put = tx.prepare_cached("INSERT OR REPLACE INTO frame VALUES (?,?,?,?,?,?,?)")?;
    let mut inline = tx.prepare_cached("INSERT OR REPLACE INTO inline VALUES (?,?,?,?,?)")?;
    for (id, f) in batch.frames.iter().chain(&batch.named) {
        let Frame { kind, function, file, line, module, address, inlines } = f;
        put.execute(params![id.0, kind.name(), function, file, line, module, address.map(|a| a as i64)])?;
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
