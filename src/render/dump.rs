//! A dump as text for the terminal, and (in [`json`]) as one JSON document.
//!
//! In: a [`Dump`]. Out: text; innermost frames first, native ones indented, the interpreter's own machinery counted and
//! recursion told once, unless everything is asked for. Colour never carries a meaning of its own.

mod json;

use std::io::{self, Write};

use rustc_hash::FxHashMap;

pub use self::json::dump_json;

use super::facts::clean;
use crate::analysis::shorten;
use crate::error::{Error, Result};
use crate::record::dump::{Doing, Dump, DumpFrame, GilRole, ProcessDump, Taken, ThreadDump};
use crate::record::{Frame, FrameKind};
use crate::units::Nanos;

/// Frames of the interpreter in a row that are shown as one line.
const FOLD_FROM: usize = 2;
/// Blocks of equal lines in a row that are shown once, and their longest.
const REPEAT_FROM: usize = 4;
const PERIOD_LIMIT: usize = 12;

/// How much of the native side the text shows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum NativeFrames {
    /// None of it.
    Hidden,
    /// All but the interpreter's own machinery, which is counted.
    #[default]
    Folded,
    /// All of it.
    All,
}

/// How a dump is shown as text.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct DumpOptions {
    /// Terminal colours may be used.
    pub color: bool,
    /// Native frames.
    pub native: NativeFrames,
    /// Kernel frames are shown for every thread, not only for those that wait in the kernel uninterruptibly.
    pub kernel: bool,
    /// Python file names as the target has them.
    pub full_filenames: bool,
}

/// Writes `dump` as text.
///
/// # Errors
/// `Io` when `out` cannot be written.
pub fn dump_text(dump: &Dump, options: DumpOptions, out: &mut dyn Write) -> Result<()> {
    let frames = dump.processes.iter().flat_map(|p| &p.threads).flat_map(|t| &t.frames);
    let python = frames.filter(|f| f.frame.kind == FrameKind::Python);
    let files = if options.full_filenames {
        FxHashMap::default()
    } else {
        shorten(python.filter_map(|f| f.frame.file.as_deref()))
    };
    let text = Text { options, files };
    let mut write = || {
        for (i, process) in dump.processes.iter().enumerate() {
            if i > 0 {
                writeln!(out)?;
            }
            text.process(process, dump, out)?;
        }
        out.flush()
    };
    write().map_err(|e| Error::io("cannot write the dump", e))
}

struct Text<'a> {
    options: DumpOptions,
    files: FxHashMap<&'a str, String>,
}

impl Text<'_> {
    fn ink(&self, code: &str, text: &str) -> String {
        if self.options.color && !text.is_empty() { format!("\x1b[{code}m{text}\x1b[0m") } else { text.to_owned() }
    }

    fn process(&self, p: &ProcessDump, dump: &Dump, out: &mut dyn Write) -> io::Result<()> {
        let command = if p.command.is_empty() { p.process.name.clone() } else { p.command.join(" ") };
        writeln!(out, "{} {}", self.ink("1", &format!("Process {}:", p.process.pid)), clean(&command))?;
        let mut facts = vec![p.process.runtime.clone()];
        if let Some(image) = &p.interpreter {
            facts[0] = format!("{} ({})", p.process.runtime, clean(image));
        }
        facts.push(match p.threads.len() {
            1 => "1 thread".to_owned(),
            n => format!("{n} threads"),
        });
        let name_of = |tid: u32| p.threads.iter().find(|t| t.tid == tid).map_or_else(|| tid.to_string(), label);
        for gil in p.gils.iter().filter(|g| g.locked || g.waiters > 0) {
            let holder =
                gil.holder.map_or_else(|| "GIL held".to_owned(), |tid| format!("GIL held by {}", name_of(tid)));
            facts.push(match gil.waiters {
                0 => holder,
                1 => format!("{holder}, 1 waits"),
                n => format!("{holder}, {n} wait"),
            });
        }
        facts.push(format!("taken in {}", Nanos(dump.took_ns)));
        facts.extend(p.stopped_ns.map(|ns| format!("stopped for {}", Nanos(ns))));
        writeln!(out, "{}", facts.join(" · "))?;
        for remark in &p.remarks {
            writeln!(out, "{}", self.ink("33", &format!("note: {}", clean(remark))))?;
        }
        for thread in &p.threads {
            writeln!(out)?;
            self.thread(thread, p, out)?;
        }
        Ok(())
    }

    fn thread(&self, t: &ThreadDump, p: &ProcessDump, out: &mut dyn Write) -> io::Result<()> {
        let head = format!("Thread {}", label(t));
        let comm = if t.name == p.process.name || Some(&t.name) == t.python_name.as_ref() || t.python_name.is_none() {
            String::new()
        } else {
            format!(" [{}]", clean(&t.name))
        };
        let state = state(t);
        let color = match (t.gil, t.doing) {
            (Some(GilRole::Holds), _) | (_, Doing::Running) => "32",
            (Some(GilRole::Waits), _) | (_, Doing::Uninterruptible | Doing::Stopped | Doing::Traced) => "33",
            _ => "2",
        };
        writeln!(out, "{}{comm}: {}", self.ink("1", &head), self.ink(color, &state))?;
        if let Some(remark) = &t.remark {
            writeln!(out, "    {}", self.ink("33", &format!("({})", clean(remark))))?;
        } else if t.taken == Taken::Approximate {
            let text = "(it ran on while it was read: these frames may not belong together)";
            writeln!(out, "    {}", self.ink("33", text))?;
        }
        self.frames(t, out)
    }

    fn frames(&self, t: &ThreadDump, out: &mut dyn Write) -> io::Result<()> {
        let kernel = self.options.native != NativeFrames::Hidden
            && (self.options.kernel || t.doing == Doing::Uninterruptible || t.frames.iter().all(is_kernel));
        let shown = |f: &&DumpFrame| match f.frame.kind {
            FrameKind::Kernel => kernel,
            FrameKind::Native | FrameKind::Jit => self.options.native != NativeFrames::Hidden,
            FrameKind::Python | FrameKind::Label => true,
        };
        let frames: Vec<&DumpFrame> = t.frames.iter().filter(shown).collect();
        let mut lines = Vec::new();
        let mut rest = &frames[..];
        while let Some(first) = rest.first() {
            let fold = self.options.native == NativeFrames::Folded && first.interpreter;
            let machinery = rest.iter().take_while(|f| f.interpreter).count();
            let taken = if fold && machinery >= FOLD_FROM {
                let module = first.frame.module.as_deref().map_or("the interpreter", base_name);
                lines.push(format!("      {}", self.ink("2", &format!("… {machinery} frames of {}", clean(module)))));
                machinery
            } else {
                lines.push(self.frame(first));
                1
            };
            rest = rest.get(taken..).unwrap_or_default();
        }
        let mut at = 0;
        while at < lines.len() {
            let (period, times) = repeats(&lines[at..]);
            for line in &lines[at..at + period] {
                writeln!(out, "{line}")?;
            }
            if times > 1 {
                let what = if period == 1 { "the same".to_owned() } else { format!("the same {period} lines") };
                let more = if times == 2 { "once more".to_owned() } else { format!("{} more times", times - 1) };
                writeln!(out, "    {}", self.ink("2", &format!("… {what} {more}")))?;
            }
            at += period * times;
        }
        Ok(())
    }

    /// The line of a frame, with those of its variables.
    fn frame(&self, f: &DumpFrame) -> String {
        let frame = &f.frame;
        let mut text = match frame.kind {
            FrameKind::Python => {
                let function = clean(frame.function.as_deref().unwrap_or("?"));
                format!("    {function} {}", self.ink("2", &format!("({})", self.place(frame))))
            }
            FrameKind::Label => format!("    {}", self.ink("33", frame.function.as_deref().unwrap_or_default())),
            FrameKind::Native | FrameKind::Jit | FrameKind::Kernel => self.native(frame),
        };
        for (title, arguments) in [("Arguments:", true), ("Locals:", false)] {
            let mut group = f.locals.iter().flatten().filter(|v| v.argument == arguments).peekable();
            if group.peek().is_some() {
                text.push_str(&format!("\n        {}", self.ink("2", title)));
            }
            for v in group {
                text.push_str(&format!("\n            {}: {}", self.ink("36", &clean(&v.name)), clean(&v.value)));
            }
        }
        text
    }

    /// The lines of a native frame: what is inlined there, innermost first, then the function itself.
    fn native(&self, frame: &Frame) -> String {
        let inlined = frame.inlines.iter().rev().map(|i| {
            let whole = Frame { function: Some(i.function.clone()), inlines: Vec::new(), ..frame.clone() };
            format!("{}, inlined", native(&whole))
        });
        let lines: Vec<String> = inlined.chain([native(frame)]).collect();
        lines.iter().map(|line| format!("      {}", self.ink("2", line))).collect::<Vec<_>>().join("\n")
    }

    /// `file.py:12`.
    fn place(&self, frame: &Frame) -> String {
        let file = frame.file.as_deref().unwrap_or("?");
        let file = clean(self.files.get(file).map_or(file, String::as_str));
        frame.line.map_or_else(|| file.clone(), |line| format!("{file}:{line}"))
    }
}

/// How the lines begin: a block of so many lines, and how often it stands there in a row (recursion). One line once,
/// where nothing repeats often enough to be worth a word.
fn repeats(lines: &[String]) -> (usize, usize) {
    for period in 1..=PERIOD_LIMIT.min(lines.len() / 2) {
        let block = &lines[..period];
        let times = lines.chunks_exact(period).take_while(|chunk| *chunk == block).count();
        if times >= REPEAT_FROM {
            return (period, times);
        }
    }
    (1, 1)
}

fn is_kernel(f: &DumpFrame) -> bool {
    f.frame.kind == FrameKind::Kernel
}

fn base_name(path: &str) -> &str {
    path.rsplit('/').next().unwrap_or(path)
}

/// `function (module)`, or where the code lies if it has no name.
fn native(frame: &Frame) -> String {
    let module = frame.module.as_deref().map(base_name);
    let text = match (frame.kind, &frame.function, module) {
        (FrameKind::Kernel, function, module) => {
            let function = function.as_deref().unwrap_or("?");
            module.map_or_else(|| format!("{function} [kernel]"), |m| format!("{function} [{m}]"))
        }
        (_, Some(function), Some(module)) => format!("{function} ({module})"),
        (_, Some(function), None) => function.clone(),
        (_, None, module) => {
            format!("[{}+{:#x}]", module.unwrap_or("unknown"), frame.address.unwrap_or_default())
        }
    };
    clean(&text)
}

/// `4711 "MainThread"`.
fn label(t: &ThreadDump) -> String {
    format!("{} \"{}\"", t.tid, clean(t.python_name.as_deref().unwrap_or(&t.name)))
}

/// What a thread does, in words.
fn state(t: &ThreadDump) -> String {
    let mut text = match (t.gil, t.doing) {
        (Some(GilRole::Waits), _) => "waits for the GIL".to_owned(),
        (_, doing) => doing.name().to_owned(),
    };
    let waits = !matches!(t.doing, Doing::Running | Doing::Runnable | Doing::Zombie);
    if let (Some(wait), true, true) = (&t.wait, waits, t.gil != Some(GilRole::Waits)) {
        match (&wait.call, &wait.channel) {
            (Some(call), _) => text += &format!(" in {call}"),
            (None, Some(channel)) => text += &format!(" in the kernel ({})", clean(channel)),
            (None, None) => {}
        }
        match &wait.descriptor {
            Some((fd, Some(target))) => text += &format!(" on fd {fd} ({})", clean(target)),
            Some((fd, None)) => text += &format!(" on fd {fd}"),
            None => {}
        }
    }
    if t.gil == Some(GilRole::Holds) {
        text.push_str(", holds the GIL");
    }
    text
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::clock::{Anchor, Mono};
    use crate::record::Process;
    use crate::record::dump::{Ending, Gil, Variable, Wait};

    fn frame(kind: FrameKind, function: &str, module: Option<&str>) -> DumpFrame {
        let frame = Frame {
            function: Some(function.into()),
            module: module.map(Into::into),
            address: Some(0x10),
            ..Frame::blank(kind)
        };
        DumpFrame { frame, interpreter: module.is_some_and(|m| m.contains("python")), locals: None }
    }

    fn python(function: &str, line: u32) -> DumpFrame {
        let frame = Frame::python(function.into(), "/srv/npc/app.py".into(), Some(line), None);
        DumpFrame { frame, interpreter: false, locals: None }
    }

    pub(super) fn dump() -> Dump {
        let thread = ThreadDump {
            tid: 7,
            own_tid: None,
            name: "python3".into(),
            python_name: Some("MainThread".into()),
            python_id: Some(0x7f00),
            doing: Doing::Sleeping,
            wait: Some(Wait {
                call: Some("read".into()),
                args: Some([3, 0, 0, 0, 0, 0]),
                descriptor: Some((3, Some("pipe:[9]".into()))),
                channel: Some("pipe_read".into()),
            }),
            gil: Some(GilRole::Holds),
            at: Mono(1_500_000),
            taken: Taken::Asleep,
            ending: Some(Ending::Root),
            python_complete: Some(true),
            merged: Some(true),
            frames: vec![
                frame(FrameKind::Kernel, "pipe_read", None),
                frame(FrameKind::Native, "read", Some("/lib/libc.so.6")),
                frame(FrameKind::Native, "os_read", Some("/usr/bin/python3")),
                frame(FrameKind::Native, "call", Some("/usr/bin/python3")),
                DumpFrame {
                    locals: Some(vec![Variable { name: "n".into(), argument: true, value: "5\u{1b}".into() }]),
                    ..python("wait", 3)
                },
                python("again", 9),
                python("again", 9),
                python("again", 9),
                python("again", 9),
                python("<module>", 12),
            ],
            remark: None,
        };
        Dump {
            at: Anchor { mono: Mono(1_000_000), wall_ns: 0, error_ns: 0 },
            took_ns: 2_000_000,
            processes: vec![ProcessDump {
                process: Process {
                    pid: 7,
                    name: "python3".into(),
                    runtime: "CPython 3.11.7".into(),
                    ..Process::default()
                },
                command: vec!["python3".into(), "app.py".into()],
                interpreter: None,
                gils: vec![Gil { address: 0x1000, locked: true, holder: Some(7), waiters: 0 }],
                threads: vec![thread],
                stopped_ns: None,
                remarks: Vec::new(),
            }],
        }
    }

    fn text(options: DumpOptions) -> String {
        let mut out = Vec::new();
        dump_text(&dump(), options, &mut out).unwrap();
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn text_for_people() {
        let expected = "\
Process 7: python3 app.py
CPython 3.11.7 · 1 thread · GIL held by 7 \"MainThread\" · taken in 2.0 ms

Thread 7 \"MainThread\": sleeping in read on fd 3 (pipe:[9]), holds the GIL
      read (libc.so.6)
      … 2 frames of python3
    wait (app.py:3)
        Arguments:
            n: 5\u{20}
    again (app.py:9)
    … the same 3 more times
    <module> (app.py:12)
";
        assert_eq!(text(DumpOptions::default()), expected);
        let all = text(DumpOptions { native: NativeFrames::All, kernel: true, ..DumpOptions::default() });
        assert!(all.contains("      pipe_read [kernel]\n") && all.contains("      os_read (python3)\n"), "{all}");
        let python = text(DumpOptions { native: NativeFrames::Hidden, full_filenames: true, ..DumpOptions::default() });
        assert!(!python.contains("libc") && python.contains("wait (/srv/npc/app.py:3)"), "{python}");
        assert!(text(DumpOptions { color: true, ..DumpOptions::default() }).contains("\x1b[1mThread"));
    }

    #[test]
    fn recursion_is_told_once() {
        let lines = |text: &str| text.chars().map(String::from).collect::<Vec<_>>();
        for (text, expected) in [
            ("aaaa", (1, 4)),
            ("aaab", (1, 1)),
            ("ababababc", (2, 4)),
            ("abababc", (1, 1)),
            ("", (1, 1)),
            ("abcabcabcabc", (3, 4)),
        ] {
            assert_eq!(repeats(&lines(text)), expected, "{text}");
        }
    }
}
