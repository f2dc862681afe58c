//! The table on the terminal: what was lost, the hottest functions, the threads, and the closing lines.
//!
//! Loss is the first line when it is not zero. Every number has its unit. Colour is used only when asked for and never
//! carries a meaning of its own.

use std::io::{self, Write};

use super::facts::{self, pct};
use super::{Options, Subject};
use crate::analysis::{ClockKind, Detail, FunctionRow, Profile, States, ThreadRow};
use crate::record::{FrameKind, State};
use crate::units::{Bytes, Nanos, grouped};

/// Cells of the bar that shows a function's own and total time.
const BAR: usize = 16;
/// Threads shown.
const THREADS: usize = 8;

/// SGR sequences, or nothing.
struct Ink {
    on: bool,
}

impl Ink {
    fn wrap(&self, code: &str, text: &str) -> String {
        if self.on && !text.is_empty() { format!("\x1b[{code}m{text}\x1b[0m") } else { text.to_owned() }
    }

    fn of_kind(&self, kind: FrameKind, text: &str) -> String {
        self.wrap(
            match kind {
                FrameKind::Python => "33",
                FrameKind::Native => "36",
                FrameKind::Kernel => "31",
                FrameKind::Jit => "32",
                FrameKind::Label => "2",
            },
            text,
        )
    }
}

/// Writes the table of `profile` with its closing lines.
pub(super) fn write(profile: &Profile<'_>, options: &Options, out: &mut dyn Write) -> io::Result<()> {
    let ink = Ink { on: options.color };
    if profile.lost > 0 {
        let line = format!(
            "lost {} of {} samples ({}): {}",
            grouped(profile.lost),
            grouped(profile.samples + profile.lost),
            pct(facts::lost_pct(profile)),
            facts::loss_reasons(profile)
        );
        writeln!(out, "{}", ink.wrap("1;31", &line))?;
    }
    writeln!(out, "{}", ink.wrap("1", &facts::title(profile)))?;
    if let Some(slice) = facts::slice(profile) {
        writeln!(out, "{slice}")?;
    }
    writeln!(out)?;
    if profile.samples == 0 {
        writeln!(out, "{}\n", facts::why_empty(profile))?;
    } else {
        functions(profile, options, &ink, out)?;
        threads(profile, options, &ink, out)?;
    }
    closing_lines(profile, &options.subject, out)
}

fn functions(profile: &Profile<'_>, options: &Options, ink: &Ink, out: &mut dyn Write) -> io::Result<()> {
    let several = profile.processes.len() > 1;
    let pid_head = if several { "     pid" } else { "" };
    writeln!(out, "{}", ink.wrap("2", &format!("{pid_head}    self    total  {:BAR$}  function", "")))?;
    let used = 19 + BAR + 2 + pid_head.len();
    let room = options.width.saturating_sub(used).max(24);
    for row in profile.functions.iter().take(options.rows) {
        if several {
            write!(out, "{:>8}", profile.recording.process(row.process).pid)?;
        }
        let (own, total) = (profile.pct(row.self_ns), profile.pct(row.total_ns));
        let bar = ink.wrap("34", &bar(own, total));
        let kind = profile.frames.function(row.function).kind;
        let name = ink.of_kind(kind, &fit(&name(profile, row), room));
        writeln!(out, "{own:>6.2} % {total:>6.2} %  {bar}  {name}")?;
    }
    let rest = profile.functions.get(options.rows..).unwrap_or_default();
    if !rest.is_empty() {
        let own: u64 = rest.iter().map(|r| r.self_ns).sum();
        let line = format!("{} more functions have {} of their own", grouped(rest.len() as u64), pct(profile.pct(own)));
        writeln!(out, "{:w$}{}", "", ink.wrap("2", &line), w = used)?;
    }
    writeln!(out)
}

/// A function with the line where its time goes, or the one that the selection tells functions apart by.
fn name(profile: &Profile<'_>, row: &FunctionRow) -> String {
    let key = profile.frames.function(row.function);
    let line = match profile.selection.detail {
        Detail::Line => row.line,
        Detail::Definition => key.first_line,
        Detail::Name => None,
    };
    match (key.kind, &key.file, line) {
        (FrameKind::Python, Some(file), Some(line)) => format!("{} ({file}:{line})", key.function),
        _ => key.label(),
    }
}

/// A bar of [`BAR`] cells: full blocks for the own share, light ones for the rest of the total.
fn bar(own: f64, total: f64) -> String {
    let cells = |share: f64| (share / 100.0 * BAR as f64).round().clamp(0.0, BAR as f64) as usize;
    let (own, total) = (cells(own), cells(total).max(cells(own)));
    format!("{}{}{}", "█".repeat(own), "░".repeat(total - own), " ".repeat(BAR - total))
}

/// `text` in at most `room` characters; the middle goes first, since both ends tell more.
fn fit(text: &str, room: usize) -> String {
    // Names come from the target; none may move the cursor of this terminal.
    let text = facts::clean(text);
    let count = text.chars().count();
    if count <= room {
        return text;
    }
    let head = (room - 1) / 2;
    let tail = room - 1 - head;
    let start: String = text.chars().take(head).collect();
    let end: String = text.chars().skip(count - tail).collect();
    format!("{start}…{end}")
}

/// A column of the threads: its head, and the time in it.
type Column = (&'static str, fn(&ThreadRow) -> Option<u64>);

const COLUMNS: [Column; 4] = [
    ("on CPU", |t| t.on_cpu_ns),
    ("active", |t| t.active_ns),
    ("off CPU", |t| t.off_cpu_ns),
    ("runnable", |t| t.runnable_ns),
];

fn threads(profile: &Profile<'_>, options: &Options, ink: &Ink, out: &mut dyn Write) -> io::Result<()> {
    let waits = profile.selection.states.and(profile.recorded).meets(States::WAITING);
    if profile.threads.len() < 2 && !waits {
        return Ok(());
    }
    let measured = |(_, of): &&Column| profile.threads.iter().any(|t| of(t).is_some());
    let columns: Vec<&Column> = COLUMNS.iter().filter(measured).collect();
    let times = columns.iter().fold(String::new(), |head, (word, _)| head + &format!("{word:>11}"));
    let tail = if waits { "  waits for" } else { "" };
    writeln!(out, "{}", ink.wrap("2", &format!("{:32}  samples{times}{tail}", "thread")))?;
    for row in profile.threads.iter().take(THREADS) {
        let label = facts::thread(profile, row.thread);
        write!(out, "{:32}  {:>7}", fit(&label, 32), grouped(row.samples))?;
        for (_, of) in &columns {
            let cell = match of(row) {
                None => "-".to_owned(),
                Some(0) => "0 s".to_owned(),
                Some(ns) => Nanos(ns).to_string(),
            };
            write!(out, "{cell:>11}")?;
        }
        if waits {
            write!(out, "  {}", waits_for(row))?;
        }
        writeln!(out)?;
    }
    if profile.threads.len() > THREADS {
        let rest = &profile.threads[THREADS..];
        let time: u64 = rest.iter().map(ThreadRow::total_ns).sum();
        let line = format!("{} more threads have {} of the time", rest.len(), pct(profile.pct(time)));
        writeln!(out, "{}", ink.wrap("2", &fit(&line, options.width)))?;
    }
    writeln!(out)
}

/// The three longest waits of a thread.
fn waits_for(row: &ThreadRow) -> String {
    let all: u64 = row.reasons.iter().map(|r| r.1).sum();
    shares(&row.reasons, all, 3)
}

fn shares(reasons: &[(&'static str, u64)], all: u64, most: usize) -> String {
    let share = |ns: u64| if all == 0 { 0.0 } else { 100.0 * ns as f64 / all as f64 };
    let parts: Vec<String> =
        reasons.iter().take(most).map(|&(reason, ns)| format!("{reason} {}", pct(share(ns)))).collect();
    parts.join(", ")
}

/// The lines that every run of `perfkit cpu` ends with: clock and sampler, rates, loss, how good the stacks are, what
/// it cost, how sure a share is, what to run next. Only what was measured is said.
///
/// # Errors
/// Those of `out`.
pub fn closing_lines(profile: &Profile<'_>, subject: &Subject, out: &mut dyn Write) -> io::Result<()> {
    let mut line = |head: &str, parts: Vec<String>| {
        if parts.is_empty() { Ok(()) } else { writeln!(out, "{head:8} {}", parts.join("; ")) }
    };
    let (rates, quality, cost) = (&profile.rates, &profile.quality, &profile.self_cost);
    let some = |what: &str, value: Option<f64>| value.map(|v| format!("{what} {}", pct(v)));

    let mut clock = vec![profile.clock.explain().to_owned()];
    clock.extend(profile.sampler().map(|s| format!("sampler {s}")));
    line("clock", clock)?;

    let mut rate: Vec<String> = facts::rate(profile).map(|hz| format!("{hz} asked")).into_iter().collect();
    rate.extend(rates.achieved_hz.map(|hz| format!("{hz:.1} Hz achieved on a CPU")));
    line("rate", rate)?;

    let throttled: u64 = profile.losses.iter().filter(|l| l.why.contains("throttl")).map(|l| l.count).sum();
    let mut samples = vec![
        grouped(profile.samples),
        format!("lost {}", grouped(profile.lost)),
        format!("throttled {}", grouped(throttled)),
    ];
    samples.extend(some("truncated", quality.truncated_pct()));
    samples.extend(some("approximate", quality.approximate_pct().filter(|p| *p > 0.0)));
    line("samples", samples)?;

    let mut stacks: Vec<String> = some("Python frames in", quality.python_pct()).into_iter().collect();
    stacks.extend(some("unwound to the root", quality.rooted_pct()));
    stacks.extend(some("not merged", quality.merged_pct().map(|p| 100.0 - p)));
    stacks.extend(some("frames without a symbol", quality.unnamed_pct()));
    line("stacks", stacks)?;

    let mut used: Vec<String> = rates.cores_used.map(|c| format!("{c:.2} cores used")).into_iter().collect();
    used.extend(rates.steal_pct.filter(|p| *p > 1.0).map(|p| format!("steal {} of the machine", pct(p))));
    if !profile.reasons.is_empty() {
        let all = profile.reasons.iter().map(|r| r.1).sum();
        used.push(format!("waits: {}", shares(&profile.reasons, all, 5)));
    }
    line("time", used)?;

    let mut own: Vec<String> =
        cost.cpu_pct_of_one_core.map(|p| format!("perfkit {} of a core", pct(p))).into_iter().collect();
    own.extend(cost.rss_bytes.map(|b| format!("{} resident", Bytes(b))));
    own.extend(cost.bpf_pct_of_one_core.map(|p| format!("BPF {} of a core", pct(p))));
    own.extend(cost.bpf_ns_per_run.map(|ns| format!("{:.1} µs a run", ns / 1e3)));
    line("cost", own)?;

    if let Some(bound) = rates.bound_of_1_pct.filter(|_| profile.samples > 0) {
        line("bound", vec![format!("a function at 1 % is 1 % ± {bound:.2} (95 %, samples taken as independent)")])?;
    }
    line("next", vec![next(profile, subject)])
}

/// The command that tells more, from what this profile shows.
fn next(profile: &Profile<'_>, subject: &Subject) -> String {
    let waited = |reason: &str| profile.reasons.iter().find(|r| r.0 == reason).map_or(0.0, |r| profile.pct(r.1));
    let idle = profile.rates.cores_used.is_none_or(|c| c < 0.3);
    let has_waits = profile.recorded.has(State::OffCpu);
    let again = |flags: &str, why: &str| {
        let why = if why.is_empty() { String::new() } else { format!("    ({why})") };
        subject.command(profile, flags) + &why
    };
    let picture = "-o profile.svg";
    if let Subject::Recording(_) = subject {
        // What was not recorded cannot be shown.
        return match profile.clock {
            _ if waited("GIL") > 20.0 && profile.recorded.meets(States::CPU) => {
                again("--mode gil", "threads wait for the GIL: see who holds it")
            }
            _ => again(picture, "a flame graph"),
        };
    }
    match profile.clock {
        ClockKind::Cpu | ClockKind::Active if idle && !has_waits => {
            again("--mode wall", "it uses little CPU: see what it waits for")
        }
        _ if waited("GIL") > 20.0 => again("--mode gil", "threads wait for the GIL: see who holds it"),
        _ if facts::lost_pct(profile) > 5.0 => again("-r 49", "a lower rate loses less"),
        ClockKind::OffCpu => again("--mode wall -o profile.svg", ""),
        _ => again(picture, "a flame graph"),
    }
}

impl Subject {
    /// The command that looks at this again with `flags`.
    fn command(&self, profile: &Profile<'_>, flags: &str) -> String {
        match self {
            Self::Busiest => {
                let rec = profile.recording;
                let busiest = profile.processes.first().map(|p| rec.process(p.process)).or(rec.processes.first());
                let pid = busiest.map_or_else(|| "PID".to_owned(), |p| p.pid.to_string());
                format!("perfkit cpu --pid {pid} -d 30 {flags}")
            }
            Self::Live(words) => format!("perfkit cpu {words} -d 30 {flags}"),
            Self::Program(words) => format!("perfkit cpu {flags} -- {words}"),
            Self::Recording(file) => format!("perfkit report {file} {flags}"),
        }
    }
}
