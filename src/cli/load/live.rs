//! The live view on a terminal, and its keys.
//!
//! The view stands on standard error and is redrawn in place twice a second; keys come from standard input, if that is the
//! terminal, too. What cannot be shown is not: off a terminal there is no view.

use std::time::{Duration, Instant};

use crate::cli::screen::Screen;
use crate::os::terminal::Keys;
use crate::session::Remark;
use crate::session::load::{Console, Used, Watched};
use crate::tui::{LoadFrame, ProcessUse, load_frame};

/// How often it is redrawn.
const REDRAW: Duration = Duration::from_millis(500);
/// How often processes are looked at: their clocks tick a hundred times a second.
const LOOK: Duration = Duration::from_secs(1);

/// The view.
#[derive(Debug)]
pub(super) struct Live {
    keys: Option<Keys>,
    own: Option<Watched>,
    targets: Vec<Watched>,
    frame: LoadFrame,
    drawn: Option<Instant>,
    looked: Option<Instant>,
}

impl Live {
    /// Of a run whose targets are these processes; `url` is the web UI's.
    pub(super) fn new(keys: Option<Keys>, targets: Vec<Watched>, url: Option<String>, color: bool) -> Self {
        let frame = LoadFrame { url, color, keys: keys.is_some(), ..LoadFrame::default() };
        Self { keys, own: Watched::new(std::process::id()), targets, frame, drawn: None, looked: None }
    }

    /// Draws, if it is time to.
    pub(super) fn show(&mut self, console: &mut Console, elapsed_ns: u64, screen: &Screen) {
        if self.drawn.is_some_and(|at| at.elapsed() < REDRAW) {
            return;
        }
        self.drawn = Some(Instant::now());
        if self.looked.is_none_or(|at| at.elapsed() >= LOOK) {
            self.looked = Some(Instant::now());
            let used = |u: Used| ProcessUse { cpu_pct: u.cpu_pct, rss_bytes: Some(u.rss_bytes) };
            self.frame.generator = self.own.as_mut().and_then(Watched::look).map(used).unwrap_or_default();
            self.frame.targets = self.targets.iter_mut().map(|t| (t.pid(), t.look().map(used))).collect();
        }
        let size = terminal_size::terminal_size_of(std::io::stderr());
        (self.frame.width, self.frame.height) = size.map_or((80, 24), |(w, h)| (w.0.into(), h.0.into()));
        self.frame.elapsed_ns = elapsed_ns;
        (self.frame.wanted_users, self.frame.length_ns) = console.course();
        screen.draw(&load_frame(&console.view(), &self.frame));
    }

    /// Does what keys ask for; whether perfkit is to end.
    pub(super) fn obey(&mut self, console: &mut Console, screen: &Screen) -> bool {
        let Some(keys) = &self.keys else { return false };
        for key in keys.pressed() {
            let change = match key {
                b'w' => 1,
                b'W' => 10,
                b's' => -1,
                b'S' => -10,
                b'q' => return true,
                b'\r' | b'\n' => {
                    if let Some(url) = &self.frame.url {
                        screen.note(&format!("web UI: {url}"));
                    }
                    continue;
                }
                _ => continue,
            };
            match console.add_users(change) {
                // The view is to show it at once.
                Ok(_) => self.drawn = None,
                Err(e) => screen.say(Remark::Warning, &e.to_string()),
            }
        }
        false
    }

    /// Takes it away.
    pub(super) fn clear(&mut self, screen: &Screen) {
        screen.close_view();
    }
}
