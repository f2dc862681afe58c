//! Standard error: remarks, and on a terminal one line of progress.
//!
//! `cpu 4711 · 37/60 s · 3,663 samples · 0 lost · self 0.4 % of one core`

use std::fmt::Write as _;
use std::fs::File;
use std::io::{self, IsTerminal, Write};
use std::sync::{Arc, Mutex, PoisonError};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use super::outputs::Written;
use super::shared::TalkArgs;
use super::view::wants_color;
use crate::session::plan::{Plan, Targets, Verbosity};
use crate::session::{Painter, Remark, Status};
use crate::units::{Bytes, Nanos, grouped};

/// Standard error as the session and the commands use it. Cheap to clone; the clones share the line of progress.
#[derive(Debug, Clone)]
pub struct Screen {
    verbosity: Verbosity,
    color: bool,
    bar: ProgressBar,
    label: String,
    duration: Option<Nanos>,
    /// Where remarks go instead of standard error.
    file: Option<Arc<Mutex<File>>>,
}

impl Screen {
    /// Without progress so far.
    pub fn new(talk: TalkArgs) -> Self {
        let color = wants_color(talk.color, &io::stderr());
        let bar = ProgressBar::hidden();
        Self { verbosity: talk.verbosity(), color, bar, label: String::new(), duration: None, file: None }
    }

    /// With a line of progress for `plan`, if standard error is a terminal and not to be quiet.
    #[must_use]
    pub fn for_plan(mut self, plan: &Plan) -> Self {
        self.label = format!("{} {}", plan.command, target_label(&plan.targets));
        self.duration = plan.duration;
        if self.verbosity > Verbosity::Quiet && io::stderr().is_terminal() {
            self.bar = ProgressBar::new_spinner();
            self.bar.set_draw_target(ProgressDrawTarget::stderr());
            if let Ok(style) = ProgressStyle::with_template("{wide_msg}") {
                self.bar.set_style(style);
            }
            self.bar.set_message(self.line(&Status::default()));
            self.bar.tick();
        }
        self
    }

    /// With remarks in `file` instead.
    #[must_use]
    pub fn into_file(mut self, file: File) -> Self {
        self.file = Some(Arc::new(Mutex::new(file)));
        self.color = false;
        self
    }

    /// With lines at the bottom of standard error that are redrawn in place; `false` where it is no terminal or is to be quiet.
    pub fn open_view(&mut self) -> bool {
        let is_shown = self.verbosity > Verbosity::Quiet && io::stderr().is_terminal();
        if is_shown {
            self.bar = ProgressBar::new_spinner();
            self.bar.set_draw_target(ProgressDrawTarget::stderr());
            if let Ok(style) = ProgressStyle::with_template("{msg}") {
                self.bar.set_style(style);
            }
        }
        is_shown
    }

    /// Draws these lines.
    pub fn draw(&self, lines: &[String]) {
        if self.bar.is_finished() {
            self.bar.reset();
        }
        self.bar.set_message(lines.join("\n"));
        self.bar.tick();
    }

    /// Takes away what was drawn.
    pub fn close_view(&self) {
        self.bar.finish_and_clear();
    }

    /// Says something of weight `remark`.
    pub fn say(&self, remark: Remark, text: &str) {
        if remark.is_shown(self.verbosity) {
            let head = match remark {
                Remark::Warning if self.color => "\x1b[33mwarning:\x1b[0m ",
                Remark::Warning => "warning: ",
                Remark::Note | Remark::Detail => "",
            };
            self.print(&format!("{head}{text}"));
        }
    }

    /// [`Remark::Note`].
    pub fn note(&self, text: &str) {
        self.say(Remark::Note, text);
    }

    /// Says what was written and what was not; whether all was.
    pub fn wrote(&self, written: &Written) -> bool {
        for (path, size) in &written.files {
            let size = size.map_or_else(String::new, |s| format!(" ({})", Bytes(s)));
            self.note(&format!("wrote {}{size}", path.display()));
        }
        for failure in &written.failures {
            self.say(Remark::Warning, &format!("{failure:#}"));
        }
        written.failures.is_empty()
    }

    /// Whether remarks are shown at all.
    pub fn is_quiet(&self) -> bool {
        self.verbosity == Verbosity::Quiet
    }

    fn print(&self, text: &str) {
        if let Some(file) = &self.file {
            let mut file = file.lock().unwrap_or_else(PoisonError::into_inner);
            // As below: there is nobody else to tell.
            drop(writeln!(file, "{text}"));
            return;
        }
        // Nobody is left to be told when standard error cannot be written.
        self.bar.suspend(|| drop(writeln!(io::stderr(), "{text}")));
    }

    fn line(&self, status: &Status) -> String {
        let elapsed = status.elapsed.0 / 1_000_000_000;
        let time = match self.duration {
            Some(all) => format!("{elapsed}/{} s", whole_seconds(all)),
            None => format!("{elapsed} s"),
        };
        let lost = format!("{} lost", grouped(status.lost));
        let lost = if status.lost > 0 && self.color { format!("\x1b[1;31m{lost}\x1b[0m") } else { lost };
        let mut line = format!("{} · {time} · {} samples · {lost}", self.label, grouped(status.samples));
        if let Some(pct) = status.self_pct {
            let _ = write!(line, " · self {pct:.1} % of one core");
        }
        line
    }
}

impl Painter for Screen {
    fn status(&self, status: &Status) {
        self.bar.set_message(self.line(status));
    }

    fn remark(&self, remark: Remark, text: &str) {
        self.say(remark, text);
    }

    fn done(&self) {
        self.bar.finish_and_clear();
    }
}

/// `4711`, `4711 +2`, or the name of the program.
fn target_label(targets: &Targets) -> String {
    match targets {
        Targets::Processes(all) => {
            let first = all.first().map_or(0, |t| t.pid);
            if all.len() > 1 { format!("{first} +{}", all.len() - 1) } else { first.to_string() }
        }
        Targets::Launch(program) => {
            let word = program.argv.first().map(std::path::Path::new);
            word.and_then(|w| w.file_name()).unwrap_or_default().to_string_lossy().into_owned()
        }
    }
}

fn whole_seconds(time: Nanos) -> String {
    if time < Nanos::SECOND { format!("{:.1}", time.secs()) } else { time.duration().as_secs().to_string() }
}

#[cfg(test)]
mod tests {
    use clap::ColorChoice;

    use super::*;
    use crate::target::Program;

    fn screen(color: bool) -> Screen {
        let talk = TalkArgs { quiet: false, verbose: false, color: ColorChoice::Never };
        let plan = Plan { duration: Some(Nanos(60_000_000_000)), ..plan() };
        Screen { color, ..Screen::new(talk).for_plan(&plan) }
    }

    fn plan() -> Plan {
        Plan::new("cpu", Targets::Launch(Program::new(["/usr/bin/python3", "app.py"])))
    }

    #[test]
    fn the_line_says_time_samples_loss_and_cost() {
        let status =
            Status { elapsed: Nanos(37_900_000_000), samples: 3663, lost: 0, self_pct: Some(0.42), self_rss: None };
        let line = screen(false).line(&status);
        assert_eq!(line, "cpu python3 · 37/60 s · 3,663 samples · 0 lost · self 0.4 % of one core");
        assert!(screen(true).line(&Status { lost: 1_234_567, ..status }).contains("\x1b[1;31m1,234,567 lost\x1b[0m"));
        let endless = Screen { duration: None, ..screen(false) };
        assert_eq!(endless.line(&Status { self_pct: None, ..status }), "cpu python3 · 37 s · 3,663 samples · 0 lost");
    }

    #[test]
    fn numbers_in_groups() {
        for (n, text) in [(0, "0"), (999, "999"), (1000, "1,000"), (1_234_567, "1,234,567")] {
            assert_eq!(grouped(n), text);
        }
    }
}
