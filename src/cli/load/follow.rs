//! Following load runs to their end: recording, history, the live view with its keys, and the web UI's wishes.
//!
//! In: a [`Console`], and what is wanted of its runs. Out: what the last run left. One thread does all of this; the engine's
//! threads and the web server's run beside it.

use std::fs::File;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::live::Live;
use crate::cli::outputs::Written;
use crate::cli::screen::Screen;
use crate::cli::signals::Signals;
use crate::error::{Error, Result};
use crate::record::load_view::LoadView;
use crate::render::{as_locust_rounds, history_head, history_rows, round_recent, summary_text};
use crate::session::Remark;
use crate::session::load::{Console, Driven, LoadRecording, Start, Turn};
use crate::web::Web;

/// How long a turn lasts at most: how soon a key or a signal is seen.
const TURN: Duration = Duration::from_millis(100);
/// How often statistics are printed, as in Locust.
const PRINT: Duration = Duration::from_secs(2);

/// A recording that is asked for; of several runs, the last one is kept.
#[derive(Debug)]
pub(super) struct Keep<'a> {
    pub(super) path: &'a Path,
    pub(super) replace: bool,
    pub(super) words: String,
}

/// `PREFIX_stats_history.csv`, which grows as the run does.
#[derive(Debug)]
pub(super) struct History {
    path: PathBuf,
    file: Option<File>,
    full: bool,
    /// Whether times are rounded as Locust does.
    rounded: bool,
    /// The second that was written last.
    at: u64,
}

impl History {
    /// Opens the file.
    ///
    /// # Errors
    /// `Usage` when it cannot be written.
    pub(super) fn open(path: PathBuf, full: bool, rounded: bool) -> Result<Self> {
        let cannot = |e| Error::usage(format!("cannot write {}", path.display())).caused_by(e);
        let mut file = File::create(&path).map_err(cannot)?;
        file.write_all(history_head().as_bytes()).map_err(cannot)?;
        Ok(Self { file: Some(file), path, full, rounded, at: 0 })
    }

    /// Begins the file anew, for a new run.
    fn begin(&mut self) {
        self.at = 0;
        let Some(file) = &mut self.file else { return };
        let again = file.set_len(0).and_then(|()| std::io::Seek::rewind(file));
        // A pipe or a device cannot be begun anew; then the runs stand one after the other.
        drop(again.and_then(|()| file.write_all(history_head().as_bytes())));
    }

    /// Writes the lines of a second.
    fn write(&mut self, second: u64, view: &LoadView) -> Result<()> {
        let Some(file) = &mut self.file else { return Ok(()) };
        self.at = second;
        let wall = view.start_wall_s.unwrap_or(0) + second as i64;
        let rows = if self.rounded {
            let mut view = view.clone();
            as_locust_rounds(&mut view.report);
            round_recent(&mut view.recent);
            history_rows(&view, wall, self.full)
        } else {
            history_rows(view, wall, self.full)
        };
        file.write_all(rows.as_bytes()).map_err(|e| {
            self.file = None;
            Error::io(format!("{} ends here", self.path.display()), e)
        })
    }
}

/// What is wanted of the runs.
#[derive(Debug)]
pub(super) struct Wishes<'a> {
    pub(super) keep: Option<Keep<'a>>,
    pub(super) history: Option<History>,
    pub(super) live: Option<Live>,
    pub(super) prints: bool,
    /// Begins at once; without a web UI it always does.
    pub(super) starts: bool,
    pub(super) web: Option<Web>,
    /// How long the web UI stays after the run that began by itself.
    pub(super) autoquit: Option<Duration>,
}

/// What the last run left.
#[derive(Debug)]
pub(super) struct Left {
    pub(super) driven: Driven,
    pub(super) recording: Option<LoadRecording>,
    pub(super) history: Option<PathBuf>,
    pub(super) view: Arc<LoadView>,
}

/// Follows until perfkit is to end; `None` when nothing was started.
pub(super) fn follow(
    console: &mut Console,
    mut wishes: Wishes<'_>,
    signals: &Signals,
    screen: &Screen,
    written: &mut Written,
) -> Result<Option<Left>> {
    let starts = wishes.starts || wishes.web.is_none();
    if starts {
        console.start(Start::default())?;
    }
    let (mut left, mut recording, mut quit_at) = (None, None, None);
    let mut replace = wishes.keep.as_ref().is_some_and(|k| k.replace);
    let (mut began, mut is_automatic, mut is_told) = (starts, starts, false);
    let mut printed = Instant::now();
    loop {
        let turn = console.turn(TURN)?;
        for line in console.take_said() {
            screen.note(&line);
        }
        if matches!(turn, Turn::Began) {
            (began, quit_at) = (true, None);
        }
        if std::mem::take(&mut began) {
            recording = None;
            if let (Some(keep), Some(recorder)) = (&wishes.keep, console.recorder()) {
                match LoadRecording::create(keep.path, replace, &keep.words, recorder) {
                    Ok(created) => (recording, replace) = (Some(created), true),
                    Err(e) => written.failures.push(e),
                }
            }
            if let Some(history) = &mut wishes.history {
                history.begin();
            }
        }
        if let Some(Err(e)) = recording.as_mut().map(LoadRecording::flush) {
            // The run goes on: what was written until now can be read, and the report does not need the file.
            screen.say(Remark::Warning, &format!("the recording ends here: {e:#}"));
            written.failures.push(e);
            recording = None;
        }
        if let Turn::Live(now) = &turn {
            let second = now.elapsed_ns / 1_000_000_000;
            if let Some(history) = wishes.history.as_mut().filter(|h| second > h.at)
                && let Err(e) = history.write(second, &console.view())
            {
                written.failures.push(e);
            }
            if wishes.prints && printed.elapsed() >= PRINT {
                printed = Instant::now();
                screen.say(Remark::Note, &summary_text(&console.view()));
            }
            if let Some(live) = &mut wishes.live {
                live.show(console, now.elapsed_ns, screen);
            }
        }
        if let Some(live) = &mut wishes.live
            && live.obey(console, screen)
        {
            signals.stop().finish();
        }
        if let Turn::Ended(driven) = turn {
            screen.close_view();
            if wishes.web.is_some() {
                let t = &driven.report.totals;
                let told =
                    format!("a run is over: {} requests in {:.1} s, {} failed", t.requests, t.duration_s, t.failures);
                screen.note(&told);
            }
            // A run of less than a second has its one line all the same.
            if let Some(history) = wishes.history.as_mut().filter(|h| h.at == 0)
                && let Err(e) = history.write(driven.report.totals.duration_s.round() as u64, &console.view())
            {
                written.failures.push(e);
            }
            left = Some(*driven);
            if wishes.web.is_none() {
                signals.stop().finish();
            }
            if std::mem::take(&mut is_automatic) {
                quit_at = wishes.autoquit.map(|s| Instant::now() + s);
            }
        }
        if quit_at.is_some_and(|at| Instant::now() >= at) || signals.stop().is_finishing() {
            if !console.is_active() {
                screen.close_view();
                let view = console.view();
                let history = wishes.history.filter(|h| h.file.is_some()).map(|h| h.path);
                return Ok(left.map(|driven| Left { driven, recording, history, view }));
            }
            if !std::mem::replace(&mut is_told, true) {
                screen.note("ending: what is under way is finished; Ctrl-C again drops it");
                console.stop();
            }
        }
    }
}
