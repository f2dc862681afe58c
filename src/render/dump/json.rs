//! A dump as one JSON document.
//!
//! The JSON document, every field always there, `null` where it was not measured:
//!
//! ```json
//! {"at_unix_s", "took_ms", "processes": [
//!   {"pid", "name", "command": [], "runtime", "interpreter", "stopped_ms", "remarks": [],
//!    "gil": [{"address", "locked", "holder", "waiters"}],
//!    "threads": [
//!      {"tid", "own_tid", "name", "python_name", "python_id", "state", "gil": "holds|waits",
//!       "wait": {"call", "args": [], "fd", "fd_target", "channel"},
//!       "offset_ms", "taken": "asleep|stopped|sampled|approximate|none", "native_end": "root|guessed|truncated|lost",
//!       "python_complete", "merged", "remark",
//!       "frames": [{"kind": "python|native|kernel|jit|label", "function", "file", "line", "first_line", "module",
//!                   "address", "inlined", "interpreter", "locals": [{"name", "argument", "value"}]}]}]}]}
//! ```
//!
//! Frames stand innermost first. `holder` is a `tid`; addresses and arguments are hexadecimal strings, since they do not
//! fit a JSON number. `taken`: `asleep` and `sampled` stacks are of one instant each,
//! `stopped` ones all of the same, `approximate` ones may be of several.

use std::io::{self, Write};

use serde_json::{Value, json};

use crate::error::{Error, Result};
use crate::record::Frame;
use crate::record::dump::{Dump, DumpFrame, Ending, GilRole, ProcessDump, ThreadDump, Variable};

/// Writes `dump` as one JSON document.
///
/// # Errors
/// `Io` when `out` cannot be written.
pub fn dump_json(dump: &Dump, out: &mut dyn Write) -> Result<()> {
    let document = json!({
        "at_unix_s": dump.at.wall_ns as f64 / 1e9,
        "took_ms": dump.took_ns as f64 / 1e6,
        "processes": dump.processes.iter().map(|p| process_json(p, dump)).collect::<Vec<_>>(),
    });
    let written = serde_json::to_writer_pretty(&mut *out, &document).map_err(io::Error::from);
    written.and_then(|()| writeln!(out)).and_then(|()| out.flush()).map_err(|e| Error::io("cannot write the dump", e))
}

fn hex(value: u64) -> String {
    format!("{value:#x}")
}

fn process_json(p: &ProcessDump, dump: &Dump) -> Value {
    json!({
        "pid": p.process.pid,
        "name": p.process.name,
        "command": p.command,
        "runtime": p.process.runtime,
        "interpreter": p.interpreter,
        "stopped_ms": p.stopped_ns.map(|ns| ns as f64 / 1e6),
        "remarks": p.remarks,
        "gil": p.gils.iter().map(|g| json!({
            "address": hex(g.address), "locked": g.locked, "holder": g.holder, "waiters": g.waiters,
        })).collect::<Vec<_>>(),
        "threads": p.threads.iter().map(|t| thread_json(t, dump)).collect::<Vec<_>>(),
    })
}

fn thread_json(t: &ThreadDump, dump: &Dump) -> Value {
    let wait = t.wait.as_ref().map(|w| {
        json!({
            "call": w.call,
            "args": w.args.map(|args| args.map(hex)),
            "fd": w.descriptor.as_ref().map(|d| d.0),
            "fd_target": w.descriptor.as_ref().and_then(|d| d.1.clone()),
            "channel": w.channel,
        })
    });
    json!({
        "tid": t.tid,
        "own_tid": t.own_tid.unwrap_or(t.tid),
        "name": t.name,
        "python_name": t.python_name,
        "python_id": t.python_id.map(hex),
        "state": t.doing.name(),
        "gil": t.gil.map(|g| if g == GilRole::Holds { "holds" } else { "waits" }),
        "wait": wait,
        "offset_ms": t.at.since(dump.at.mono) as f64 / 1e6,
        "taken": t.taken.name(),
        "native_end": t.ending.map(Ending::name),
        "python_complete": t.python_complete,
        "merged": t.merged,
        "remark": t.remark,
        "frames": t.frames.iter().flat_map(frames_json).collect::<Vec<_>>(),
    })
}

/// What is inlined in a frame, innermost first, and the frame itself.
fn frames_json(f: &DumpFrame) -> Vec<Value> {
    let inlined = f.frame.inlines.iter().rev().map(|i| {
        let (function, file, line) = (Some(i.function.clone()), i.file.clone(), i.line);
        let frame = Frame { function, file, line, inlines: Vec::new(), ..f.frame.clone() };
        frame_json(&DumpFrame { frame, ..f.clone() }, true)
    });
    inlined.chain([frame_json(f, false)]).collect()
}

fn frame_json(f: &DumpFrame, inlined: bool) -> Value {
    let locals = f.locals.as_ref().map(|all| {
        let variable = |v: &Variable| json!({"name": v.name, "argument": v.argument, "value": v.value});
        all.iter().map(variable).collect::<Vec<_>>()
    });
    json!({
        "kind": f.frame.kind.name(),
        "function": f.frame.function,
        "file": f.frame.file,
        "line": f.frame.line,
        "first_line": f.frame.first_line,
        "module": f.frame.module,
        "address": f.frame.address.map(hex),
        "inlined": inlined,
        "interpreter": f.interpreter,
        "locals": locals,
    })
}

#[cfg(test)]
mod tests {
    use super::super::tests::dump;
    use super::*;

    #[test]
    fn json_for_programs() {
        let mut out = Vec::new();
        dump_json(&dump(), &mut out).unwrap();
        let v: Value = serde_json::from_slice(&out).unwrap();
        let thread = &v["processes"][0]["threads"][0];
        assert_eq!((thread["gil"].as_str(), thread["own_tid"].as_u64()), (Some("holds"), Some(7)));
        assert_eq!((thread["offset_ms"].as_f64(), thread["wait"]["fd"].as_u64()), (Some(0.5), Some(3)));
        assert_eq!(thread["frames"][4]["locals"][0]["name"], "n");
        assert_eq!(thread["frames"][0]["locals"], Value::Null);
    }
}
