//! The read side: a whole recording as plain vectors, from a file or from the store that has just been filled.
//!
//! In: a SQLite database that may come from anywhere. Out: [`Recording`]. Invariant: every id in a loaded recording is
//! in range and every stack's parent has a smaller id, so that walks end; rows that break this are an error, not a panic.

use std::collections::BTreeMap;
use std::path::Path;

use rusqlite::{Connection, OpenFlags};

use super::census::HeapPart;
use super::model::{
    Frame, FrameId, FrameKind, Inline, Process, ProcessId, Sample, SampleFlags, Stack, StackId, State, Thread, ThreadId,
};
use super::store::{APPLICATION_ID, SCHEMA_VERSION};
use crate::clock::{Anchor, Mono};
use crate::error::{Error, Kind, Result};

/// A recording in memory. Row id `n` of a table is element `n - 1` of its vector; use the accessors.
#[derive(Debug, Default, Clone)]
pub struct Recording {
    /// Facts of the recording as a whole: `command`, `sampler`, `rate_hz`, `started_ns`, `ended_ns`, `stop`, …
    pub meta: BTreeMap<String, String>,
    /// Ties between the clocks, in time order.
    pub anchors: Vec<Anchor>,
    /// The processes.
    pub processes: Vec<Process>,
    /// The threads.
    pub threads: Vec<Thread>,
    /// The frames.
    pub frames: Vec<Frame>,
    /// The tree of stacks.
    pub stacks: Vec<Stack>,
    /// The samples, in time order.
    pub samples: Vec<Sample>,
    /// Readings as `(at, metric, scope, value)`, in time order.
    pub readings: Vec<(Mono, String, String, f64)>,
    /// Marks as `(at, kind, text)`, in time order.
    pub marks: Vec<(Mono, String, String)>,
    /// What is missing, as `(from, to, source, count, why)`.
    pub losses: Vec<(Mono, Mono, String, u64, String)>,
    /// Managed heaps over time, one a process.
    pub heaps: Vec<HeapPart>,
}

/// The off-CPU reasons that perfkit writes; others in a foreign file read as `other`.
const REASONS: [&str; 14] = [
    "futex",
    "GIL",
    "epoll",
    "poll",
    "sleep",
    "disk",
    "socket",
    "pipe",
    "wait",
    "page-fault",
    "stopped",
    "io-uring",
    "nanosleep",
    "other",
];

impl Recording {
    /// Opens the recording at `path` read-only.
    ///
    /// # Errors
    /// `Gone` or `Denied` when it cannot be opened, `Malformed` when it is no recording or a broken one, `Unsupported`
    /// when a newer perfkit wrote it.
    pub fn open(path: &Path) -> Result<Self> {
        let db = open(path)?;
        Self::load(&db).map_err(|e| e.within(&path.display().to_string()))
    }

    /// Reads everything from an open database.
    pub(super) fn load(db: &Connection) -> Result<Self> {
        let mut rec = Self::default();
        let mut q = db.prepare("SELECT key, value FROM meta")?;
        for row in q.query_map([], |r| Ok((r.get(0)?, r.get(1)?)))? {
            let (key, value): (String, String) = row?;
            rec.meta.insert(key, value);
        }
        let mut q = db.prepare("SELECT mono_ns, wall_ns, error_ns FROM anchor ORDER BY mono_ns")?;
        let rows =
            q.query_map([], |r| Ok(Anchor { mono: mono(r, 0)?, wall_ns: r.get(1)?, error_ns: unsigned(r, 2)? }))?;
        rec.anchors = rows.collect::<rusqlite::Result<_>>()?;
        let mut q = db.prepare("SELECT id, pid, start_ticks, parent, name, exe, runtime FROM process ORDER BY id")?;
        rec.processes = dense(q.query_map([], |r| {
            let start_ticks = unsigned(r, 2)?;
            let p = Process {
                pid: r.get(1)?,
                start_ticks,
                parent: r.get(3)?,
                name: r.get(4)?,
                exe: r.get(5)?,
                runtime: r.get(6)?,
            };
            Ok((r.get(0)?, p))
        })?)?;
        let mut q = db.prepare("SELECT id, process, tid, name FROM thread ORDER BY id")?;
        rec.threads = dense(q.query_map([], |r| {
            Ok((r.get(0)?, Thread { process: ProcessId(r.get(1)?), tid: r.get(2)?, name: r.get(3)? }))
        })?)?;
        let version: i64 = db.pragma_query_value(None, "user_version", |r| r.get(0))?;
        let first_line = if version < 2 { "NULL" } else { "first_line" };
        let mut q = db.prepare(&format!(
            "SELECT id, kind, function, file, line, module, address, {first_line} FROM frame ORDER BY id"
        ))?;
        rec.frames = dense(q.query_map([], |r| {
            let kind: String = r.get(1)?;
            let address: Option<i64> = r.get(6)?;
            Ok((
                r.get(0)?,
                Frame {
                    kind: FrameKind::from_name(&kind).unwrap_or(FrameKind::Label),
                    function: r.get(2)?,
                    file: r.get(3)?,
                    line: r.get(4)?,
                    first_line: r.get(7)?,
                    module: r.get(5)?,
                    address: address.map(|a| a as u64),
                    inlines: Vec::new(),
                },
            ))
        })?)?;
        let mut q = db.prepare("SELECT frame, function, file, line FROM inline ORDER BY frame, depth")?;
        let rows = q.query_map([], |r| {
            Ok((r.get::<_, u32>(0)?, Inline { function: r.get(1)?, file: r.get(2)?, line: r.get(3)? }))
        })?;
        for row in rows {
            let (frame, inline) = row?;
            if let Some(f) = rec.frames.get_mut((frame as usize).wrapping_sub(1)) {
                f.inlines.push(inline);
            }
        }
        let mut q = db.prepare("SELECT id, parent, frame FROM stack ORDER BY id")?;
        rec.stacks =
            dense(q.query_map([], |r| {
                Ok((r.get(0)?, Stack { parent: StackId(r.get(1)?), frame: FrameId(r.get(2)?) }))
            })?)?;
        let mut q = db.prepare(
            "SELECT at_ns, thread, stack, weight_ns, state, reason, flags FROM sample ORDER BY at_ns, rowid",
        )?;
        let rows = q.query_map([], |r| {
            let reason: Option<String> = r.get(5)?;
            Ok(Sample {
                at: mono(r, 0)?,
                thread: ThreadId(r.get(1)?),
                stack: StackId(r.get(2)?),
                weight_ns: unsigned(r, 3)?,
                state: State::from_code(r.get(4)?).unwrap_or(State::Active),
                reason: reason.map(|t| REASONS.into_iter().find(|k| *k == t).unwrap_or("other")),
                flags: SampleFlags(r.get(6)?),
            })
        })?;
        rec.samples = rows.collect::<rusqlite::Result<_>>()?;
        let mut q = db.prepare("SELECT at_ns, metric, scope, value FROM reading ORDER BY at_ns, rowid")?;
        let rows = q.query_map([], |r| Ok((mono(r, 0)?, r.get(1)?, r.get(2)?, r.get(3)?)))?;
        rec.readings = rows.collect::<rusqlite::Result<_>>()?;
        let mut q = db.prepare("SELECT at_ns, kind, text FROM mark ORDER BY at_ns, rowid")?;
        rec.marks = q.query_map([], |r| Ok((mono(r, 0)?, r.get(1)?, r.get(2)?)))?.collect::<rusqlite::Result<_>>()?;
        let mut q = db.prepare("SELECT from_ns, to_ns, source, count, why FROM loss ORDER BY from_ns, rowid")?;
        let rows = q.query_map([], |r| Ok((mono(r, 0)?, mono(r, 1)?, r.get(2)?, unsigned(r, 3)?, r.get(4)?)))?;
        rec.losses = rows.collect::<rusqlite::Result<_>>()?;
        if version >= 4 {
            rec.heaps = super::census::load(db)?;
        }
        rec.check()?;
        Ok(rec)
    }

    /// Every reference is in range and stacks are a tree.
    fn check(&self) -> Result<()> {
        let broken = |what: &str, at: usize| {
            Error::new(Kind::Malformed, format!("the recording is damaged: {what} {at} points nowhere"))
        };
        for (i, s) in self.stacks.iter().enumerate() {
            if s.parent.0 as usize > i || s.frame.0 == 0 || s.frame.0 as usize > self.frames.len() {
                return Err(broken("stack", i + 1));
            }
        }
        for (i, t) in self.threads.iter().enumerate() {
            if t.process.0 == 0 || t.process.0 as usize > self.processes.len() {
                return Err(broken("thread", i + 1));
            }
        }
        for (i, s) in self.samples.iter().enumerate() {
            if s.thread.0 == 0 || s.thread.0 as usize > self.threads.len() || s.stack.0 as usize > self.stacks.len() {
                return Err(broken("sample", i + 1));
            }
        }
        Ok(())
    }

    /// The process with this id.
    pub fn process(&self, id: ProcessId) -> &Process {
        &self.processes[id.0 as usize - 1]
    }

    /// The thread with this id.
    pub fn thread(&self, id: ThreadId) -> &Thread {
        &self.threads[id.0 as usize - 1]
    }

    /// The frame with this id.
    pub fn frame(&self, id: FrameId) -> &Frame {
        &self.frames[id.0 as usize - 1]
    }

    /// The frames of a stack, leaf first.
    pub fn leaf_first(&self, stack: StackId) -> impl Iterator<Item = FrameId> {
        let mut at = stack;
        std::iter::from_fn(move || {
            let node = self.stacks.get((at.0 as usize).checked_sub(1)?)?;
            at = node.parent;
            Some(node.frame)
        })
    }

    /// When the recording began: the `started_ns` fact, else the first sample.
    pub fn started(&self) -> Mono {
        self.time_of("started_ns").or_else(|| self.samples.first().map(|s| s.at)).unwrap_or_default()
    }

    /// When it ended: the `ended_ns` fact, else (a cut recording) the last sample.
    pub fn ended(&self) -> Mono {
        self.time_of("ended_ns").or_else(|| self.samples.last().map(|s| s.at)).unwrap_or_default()
    }

    fn time_of(&self, key: &str) -> Option<Mono> {
        self.meta.get(key)?.parse().ok().map(Mono)
    }

    /// Everything lost, from all sources.
    pub fn lost(&self) -> u64 {
        self.losses.iter().map(|l| l.3).sum()
    }
}

/// Opens the database of a recording.
///
/// # Errors
/// As [`Recording::open`].
pub(super) fn open(path: &Path) -> Result<Connection> {
    let show = path.display().to_string();
    std::fs::File::open(path).map_err(|e| Error::io(format!("cannot open {show}"), e))?;
    // A recording cut by kill -9 has a WAL that must be replayed, which needs write access; without it, read what can be read.
    let db = Connection::open_with_flags(path, OpenFlags::SQLITE_OPEN_READ_WRITE)
        .or_else(|_| Connection::open_with_flags(path, OpenFlags::SQLITE_OPEN_READ_ONLY))
        .map_err(|e| Error::from(e).within(&show))?;
    let foreign = |e: rusqlite::Error| {
        Error::new(Kind::Malformed, format!("{show} is not a perfkit recording"))
            .caused_by(e)
            .advise("make one with: perfkit cpu --pid P -d 10 -o run.perfkit")
    };
    let id: i64 = db.pragma_query_value(None, "application_id", |r| r.get(0)).map_err(foreign)?;
    if id != APPLICATION_ID {
        return Err(Error::new(Kind::Malformed, format!("{show} is a SQLite file, but not a perfkit recording"))
            .advise("make one with: perfkit cpu --pid P -d 10 -o run.perfkit"));
    }
    let version: i64 = db.pragma_query_value(None, "user_version", |r| r.get(0)).map_err(foreign)?;
    if version > SCHEMA_VERSION {
        return Err(Error::new(
            Kind::Unsupported,
            format!("{show} has format {version}; this perfkit reads up to {SCHEMA_VERSION}"),
        )
        .advise("open it with the perfkit that wrote it, or a newer one"));
    }
    Ok(db)
}

fn mono(r: &rusqlite::Row<'_>, i: usize) -> rusqlite::Result<Mono> {
    unsigned(r, i).map(Mono)
}

pub(super) fn unsigned(r: &rusqlite::Row<'_>, i: usize) -> rusqlite::Result<u64> {
    r.get::<_, i64>(i).map(|v| v.max(0) as u64)
}

/// Rows with ids 1, 2, 3, … as a vector; a missing id means a damaged file.
fn dense<T>(rows: impl Iterator<Item = rusqlite::Result<(u32, T)>>) -> Result<Vec<T>> {
    let mut out = Vec::new();
    for row in rows {
        let (id, value) = row?;
        if id as usize != out.len() + 1 {
            return Err(Error::new(
                Kind::Malformed,
                format!("the recording is damaged: row {} is missing", out.len() + 1),
            ));
        }
        out.push(value);
    }
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::{Event, Recorder, Store};

    fn sample(at: u64, thread: ThreadId, stack: StackId) -> Event {
        let flags = SampleFlags(SampleFlags::PYTHON);
        Event::Sample(Sample {
            at: Mono(at),
            thread,
            stack,
            weight_ns: 10,
            state: State::OffCpu,
            reason: Some("futex"),
            flags,
        })
    }

    #[test]
    fn what_was_put_in_comes_out() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.perfkit");
        let r = Recorder::new();
        let mut store = Store::create(&path, false).unwrap();
        let p = r.process(Process { pid: 7, name: "npc".into(), ..Process::default() });
        let t = r.thread(Thread { process: p, tid: 8, name: "worker".into() });
        let f = r.frame(Frame::python("main".into(), "a.py".into(), Some(3), Some(2)));
        let s = r.stack(&[f, f]);
        r.put(sample(20, t, s));
        store.flush(&r).unwrap();
        r.put(sample(10, t, StackId::EMPTY));
        store.flush(&r).unwrap();
        store.set_meta("rate_hz", "99").unwrap();
        store.close().unwrap();
        assert!(Store::create(&path, false).is_err_and(|e| e.kind() == Kind::Usage));
        let rec = Recording::open(&path).unwrap();
        assert_eq!(rec.samples.iter().map(|s| s.at.0).collect::<Vec<_>>(), [10, 20]);
        assert_eq!(rec.leaf_first(s).collect::<Vec<_>>(), [f, f]);
        assert_eq!(rec.samples[1].reason, Some("futex"));
        assert_eq!((rec.frame(f).line, rec.frame(f).first_line), (Some(3), Some(2)));
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1, "no WAL is left beside a closed recording");
    }

    #[test]
    fn foreign_files_are_refused_with_advice() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x");
        std::fs::write(
            &path,
            b"not a database, but long enough to look at for a while................................................",
        )
        .unwrap();
        let e = Recording::open(&path).unwrap_err();
        assert_eq!(e.kind(), Kind::Malformed);
        assert!(e.advice().is_some());
        assert_eq!(Recording::open(&dir.path().join("none")).unwrap_err().kind(), Kind::Gone);
    }
}
