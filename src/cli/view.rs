//! Flags about what of a recording is shown, and how: the same on `cpu` and `report`.

use clap::{Args, ColorChoice, ValueEnum};

use super::shared::told;
use crate::analysis::{Detail, FileNames, Layers, Point, Selection, Slice, Split};
use crate::render::{Growth, Options};
use crate::session::plan::Mode;

/// Flags about what is shown.
pub const SHOW: &str = "Show";

/// What is shown.
#[derive(Debug, Clone, Args)]
#[allow(clippy::struct_excessive_bools, reason = "each is a switch of the command line")]
pub struct ViewArgs {
    /// One root a thread, named (py-spy's -t) [default: threads are merged]
    #[arg(short, long, help_heading = SHOW)]
    pub threads: bool,

    /// Tell functions apart, by the line of their definition, not lines (py-spy's -F) [default: lines]
    #[arg(short = 'F', long, help_heading = SHOW)]
    pub function: bool,

    /// Show no lines: functions are told apart by name and file [default: lines]
    #[arg(long, help_heading = SHOW)]
    pub nolineno: bool,

    /// Show Python file names as the target has them [default: cut to what tells them apart]
    #[arg(long, help_heading = SHOW)]
    pub full_filenames: bool,

    /// Grow flame graphs downwards, the root at the top [default: upwards]
    #[arg(long, help_heading = SHOW)]
    pub icicle: bool,

    /// The title of the picture [default: what was sampled, and how]
    #[arg(long, value_name = "TEXT", help_heading = SHOW)]
    pub title: Option<String>,

    /// Functions in the table
    #[arg(long, value_name = "N", default_value_t = 20, value_parser = clap::value_parser!(u16).range(1..),
          help_heading = SHOW)]
    pub top: u16,
}

/// Which stretch of a recording is shown.
#[derive(Debug, Clone, Copy, Args)]
pub struct SliceArgs {
    /// Show from this time on: 12s, 1m30 after the start; -10s is ten seconds before the end [default: the start]
    #[arg(long, value_name = "TIME", allow_hyphen_values = true, value_parser = told::<Point>, help_heading = SHOW)]
    pub from: Option<Point>,

    /// Show up to this time, written as for --from [default: the end]
    #[arg(long, value_name = "TIME", allow_hyphen_values = true, value_parser = told::<Point>, help_heading = SHOW)]
    pub to: Option<Point>,
}

impl SliceArgs {
    /// The slice.
    pub fn slice(self) -> Slice {
        Slice { from: self.from, to: self.to }
    }
}

/// Which time counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum ModeArg {
    /// time on a CPU
    Cpu,
    /// all of the time: on a CPU, and waiting
    Wall,
    /// the time waiting: for locks, I/O, timers, or a CPU
    OffCpu,
    /// time on a CPU while holding Python's global interpreter lock
    Gil,
}

impl From<ModeArg> for Mode {
    fn from(mode: ModeArg) -> Self {
        match mode {
            ModeArg::Cpu => Self::Cpu,
            ModeArg::Wall => Self::Wall,
            ModeArg::OffCpu => Self::OffCpu,
            ModeArg::Gil => Self::Gil,
        }
    }
}

/// What a mode looks at in a recording.
pub fn selection_of(mode: Mode) -> Selection {
    match mode {
        Mode::Cpu => Selection::cpu(),
        Mode::Wall => Selection::wall(),
        Mode::OffCpu => Selection::off_cpu(),
        Mode::Gil => Selection::gil(),
    }
}

impl ViewArgs {
    /// What `mode` shows of a recording, with these flags.
    pub fn selection(&self, mode: Mode, layers: Layers, slice: Slice) -> Selection {
        let detail = match (self.nolineno, self.function) {
            (true, _) => Detail::Name,
            (_, true) => Detail::Definition,
            _ => Detail::Line,
        };
        let file_names = if self.full_filenames { FileNames::Full } else { FileNames::Short };
        let split = Split { threads: self.threads, ..Selection::default().split };
        Selection { slice, layers, detail, file_names, split, ..selection_of(mode) }
    }

    /// How it is rendered, into files; [`on_stdout`] adapts it to a terminal.
    pub fn options(&self) -> Options {
        Options {
            title: self.title.clone(),
            growth: if self.icicle { Growth::Icicle } else { Growth::Flames },
            rows: usize::from(self.top),
            ..Options::default()
        }
    }
}

/// The same options for standard output: its width and colours if it is a terminal.
pub fn on_stdout(options: &Options, color: ColorChoice) -> Options {
    let stdout = std::io::stdout();
    let width = terminal_size::terminal_size_of(&stdout).map_or(options.width, |(w, _)| usize::from(w.0));
    Options { width, color: wants_color(color, &stdout), ..options.clone() }
}

/// Whether `stream` gets colours: <https://no-color.org> and a terminal's own name decide when the user does not.
pub fn wants_color(choice: ColorChoice, stream: &impl std::io::IsTerminal) -> bool {
    let set = |name: &str| std::env::var_os(name).is_some_and(|v| !v.is_empty());
    let dumb = std::env::var_os("TERM").is_some_and(|t| t == "dumb");
    match choice {
        ColorChoice::Always => true,
        ColorChoice::Never => false,
        ColorChoice::Auto => !set("NO_COLOR") && !dumb && stream.is_terminal(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::analysis::States;

    #[test]
    fn flags_become_a_selection() {
        let args = ViewArgs {
            threads: true,
            function: false,
            nolineno: true,
            full_filenames: true,
            icicle: true,
            title: Some("t".into()),
            top: 7,
        };
        let s = args.selection(Mode::OffCpu, Layers::PYTHON, Slice::default());
        assert_eq!((s.states, s.detail, s.file_names), (States::WAITING, Detail::Name, FileNames::Full));
        assert!(s.split.threads && s.split.processes && !s.layers.native);
        let o = args.options();
        assert_eq!((o.growth, o.rows, o.title.as_deref()), (Growth::Icicle, 7, Some("t")));
        assert!(selection_of(Mode::Gil).gil_only);
    }
}
