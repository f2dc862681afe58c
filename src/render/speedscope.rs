//! speedscope's file format: one sampled profile a thread, in time order, weighted in nanoseconds.
//!
//! Equal neighbours are one sample with their weights added. A thread that waits has what it waits for as its leaf. The
//! time axis of a profile is the time that its samples stand for, without the gaps between them. The busiest thread
//! comes first.

use std::borrow::Cow;
use std::io::{self, Write};

use rustc_hash::FxHashMap;
use serde::Serialize;

use super::facts;
use crate::analysis::{Detail, Moment, NameId, NodeId, Profile, ShownId};
use crate::record::{FrameKind, ThreadId};

/// The format's own name for itself; readers look for it.
const SCHEMA: &str = "https://www.speedscope.app/file-format-schema.json";

#[derive(Serialize)]
struct Frame<'a> {
    name: Cow<'a, str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    file: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    line: Option<u32>,
}

/// The frames of the file: names in order of first use, then what threads wait for.
#[derive(Default)]
struct Frames<'a> {
    list: Vec<Frame<'a>>,
    of_name: FxHashMap<NameId, usize>,
    of_wait: FxHashMap<&'static str, usize>,
}

impl<'a> Frames<'a> {
    fn code(&mut self, profile: &'a Profile<'_>, id: ShownId) -> usize {
        let shown = profile.frames.shown(id);
        let list = &mut self.list;
        *self.of_name.entry(shown.name).or_insert_with(|| {
            let key = profile.frames.function(shown.function);
            list.push(if key.kind == FrameKind::Python {
                // Whether lines tell frames apart is the selection's choice.
                let line = match profile.selection.detail {
                    Detail::Line => shown.line,
                    Detail::Definition => key.first_line,
                    Detail::Name => None,
                };
                Frame { name: key.function.as_str().into(), file: key.file.as_deref(), line }
            } else {
                let file = key.path.as_deref().or(key.module.as_deref());
                Frame { name: profile.frames.name(shown.name).text.as_str().into(), file, line: None }
            });
            list.len() - 1
        })
    }

    fn wait(&mut self, reason: &'static str) -> usize {
        let list = &mut self.list;
        *self.of_wait.entry(reason).or_insert_with(|| {
            list.push(Frame { name: format!("[{reason}]").into(), file: None, line: None });
            list.len() - 1
        })
    }
}

/// Writes `profile` as a speedscope file.
pub(super) fn write(profile: &Profile<'_>, mut out: &mut dyn Write) -> io::Result<()> {
    let mut of_thread: FxHashMap<ThreadId, Vec<Moment>> = FxHashMap::default();
    for m in &profile.moments {
        of_thread.entry(profile.weighted[m.weighted as usize].thread).or_default().push(*m);
    }
    let mut frames = Frames::default();
    write!(out, "{{\"$schema\":\"{SCHEMA}\",\"exporter\":\"perfkit@{}\",\"name\":", env!("CARGO_PKG_VERSION"))?;
    serde_json::to_writer(&mut out, &facts::title(profile))?;
    out.write_all(b",\"activeProfileIndex\":0,\"profiles\":[")?;
    for (i, row) in profile.threads.iter().enumerate() {
        if i > 0 {
            out.write_all(b",")?;
        }
        let moments = of_thread.remove(&row.thread).unwrap_or_default();
        write_thread(profile, &name(profile, row.thread), &moments, &mut frames, out)?;
    }
    if profile.threads.is_empty() {
        // A file without a profile is refused by the viewer.
        write_thread(profile, &facts::why_empty(profile), &[], &mut frames, out)?;
    }
    out.write_all(b"],\"shared\":{\"frames\":")?;
    serde_json::to_writer(&mut out, &frames.list)?;
    out.write_all(b"}}\n")
}

fn name(profile: &Profile<'_>, thread: ThreadId) -> String {
    let label = facts::thread(profile, thread);
    if profile.processes.len() < 2 {
        return label;
    }
    let process = profile.recording.process(profile.recording.thread(thread).process);
    format!("{} (pid {}) {label}", process.name, process.pid)
}

fn write_thread<'a>(
    profile: &'a Profile<'_>,
    name: &str,
    moments: &[Moment],
    frames: &mut Frames<'a>,
    mut out: &mut dyn Write,
) -> io::Result<()> {
    let key = |m: &Moment| {
        let w = &profile.weighted[m.weighted as usize];
        (w.node, w.waits_for())
    };
    let runs = || moments.chunk_by(|a, b| key(a) == key(b));
    let total: u64 = moments.iter().map(|m| m.weight_ns).sum();
    out.write_all(b"{\"type\":\"sampled\",\"name\":")?;
    serde_json::to_writer(&mut out, name)?;
    write!(out, ",\"unit\":\"nanoseconds\",\"startValue\":0,\"endValue\":{total},\"samples\":[")?;
    let mut written: FxHashMap<(NodeId, Option<&'static str>), String> = FxHashMap::default();
    for (i, run) in runs().enumerate() {
        let Some(first) = run.first() else { continue };
        if i > 0 {
            out.write_all(b",")?;
        }
        let (node, wait) = key(first);
        let text = written.entry((node, wait)).or_insert_with(|| {
            let mut path: Vec<String> =
                profile.paths.root_first(node).into_iter().map(|s| frames.code(profile, s).to_string()).collect();
            path.extend(wait.map(|reason| frames.wait(reason).to_string()));
            format!("[{}]", path.join(","))
        });
        out.write_all(text.as_bytes())?;
    }
    out.write_all(b"],\"weights\":[")?;
    for (i, run) in runs().enumerate() {
        let comma = if i > 0 { "," } else { "" };
        write!(out, "{comma}{}", run.iter().map(|m| m.weight_ns).sum::<u64>())?;
    }
    out.write_all(b"]}")
}
