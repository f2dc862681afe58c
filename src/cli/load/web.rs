//! The web UI's flags, and following what it starts.

use std::path::Path;
use std::time::{Duration, Instant};

use clap::{Args, ValueHint};

use crate::cli::outputs::Written;
use crate::cli::screen::Screen;
use crate::cli::signals::Signals;
use crate::error::{Error, Result};
use crate::session::Remark;
use crate::session::load::{Console, Driven, LoadPlan, LoadRecording, Start, Turn};
use crate::web::{Web, WebPlan};

const WEB: &str = "Web UI";

/// Flags of the web UI.
#[derive(Debug, Clone, Args)]
pub struct WebArgs {
    /// No web UI: start at once, end when the run ends. --json implies it [default: the web UI waits for its start form]
    #[arg(long, help_heading = WEB)]
    pub(super) headless: bool,

    /// Start at once, with the web UI
    #[arg(long, conflicts_with = "headless", help_heading = WEB)]
    autostart: bool,

    /// End so many seconds after the run that --autostart began [default: until Ctrl-C]
    #[arg(long, value_name = "SECONDS", requires = "autostart", help_heading = WEB)]
    autoquit: Option<u32>,

    /// Where the web UI listens: an address, '*' for all of this machine. Whoever reaches it can start load, hence
    /// [default: 127.0.0.1]
    #[arg(long, value_name = "ADDRESS", help_heading = WEB)]
    web_host: Option<String>,

    /// The web UI's port; 0 takes any free one
    #[arg(short = 'P', long, value_name = "PORT", default_value_t = 8089, help_heading = WEB)]
    web_port: u16,

    /// What the web UI's paths begin with, behind a proxy: /load
    #[arg(long, value_name = "PATH", default_value = "", hide_default_value = true, help_heading = WEB)]
    web_base_path: String,

    /// A name by which browsers reach the web UI, beside this machine's own
    #[arg(long, value_name = "NAME", help_heading = WEB)]
    web_host_display_name: Option<String>,

    /// Choose classes of users in the web UI
    #[arg(long, help_heading = WEB)]
    class_picker: bool,

    #[arg(long, hide = true, value_name = "FILE", value_hint = ValueHint::FilePath)]
    tls_cert: Option<String>,

    #[arg(long, hide = true, value_name = "FILE", value_hint = ValueHint::FilePath)]
    tls_key: Option<String>,

    #[arg(long, hide = true)]
    web_login: bool,
}

/// A recording that is asked for; of several runs, the last one is kept.
#[derive(Debug)]
pub(super) struct Keep<'a> {
    pub(super) path: &'a Path,
    pub(super) replace: bool,
    pub(super) words: String,
}

impl WebArgs {
    /// What is to be served.
    fn plan(&self) -> Result<WebPlan> {
        if self.tls_cert.is_some() || self.tls_key.is_some() || self.web_login {
            return Err(Error::usage("the web UI has neither TLS nor a login of its own").advise(
                "let it listen on 127.0.0.1 and reach it by `ssh -L 8089:127.0.0.1:8089 HOST`, or put a proxy with both before it",
            ));
        }
        Ok(WebPlan {
            host: self.web_host.clone(),
            port: self.web_port,
            base: self.web_base_path.clone(),
            known_as: self.web_host_display_name.clone(),
            class_picker: self.class_picker,
        })
    }

    /// Serves until it is told to end; what the last run left, if there was one.
    pub(super) fn run(
        &self,
        plan: LoadPlan,
        keep: Option<Keep<'_>>,
        signals: &Signals,
        screen: &Screen,
        written: &mut Written,
    ) -> Result<Option<(Driven, Option<LoadRecording>)>> {
        let served = self.plan()?;
        let (mut console, panel) = Console::new(plan, keep.is_some());
        // A mistake in the plan is told now, not when somebody presses the button.
        console.check()?;
        let web = Web::serve(&served, panel)?;
        if !web.address().ip().is_loopback() {
            screen.say(Remark::Warning, &format!("whoever reaches {} can start load with it", web.address()));
        }
        let what = if self.autostart { "the load begins; web UI" } else { "web UI, waiting for its start form" };
        screen.note(&format!("{what}: {}  (Ctrl-C ends perfkit)", web.url()));
        if self.autostart {
            console.start(Start::default())?;
        }
        let (mut left, mut recording, mut quit_at) = (None, None, None);
        let mut replace = keep.as_ref().is_some_and(|k| k.replace);
        let mut began = self.autostart;
        let mut is_automatic = self.autostart;
        loop {
            let turn = console.turn(Duration::from_millis(100))?;
            if matches!(turn, Turn::Began) {
                began = true;
                quit_at = None;
            }
            if std::mem::take(&mut began) {
                recording = None;
                if let (Some(keep), Some(recorder)) = (&keep, console.recorder()) {
                    match LoadRecording::create(keep.path, replace, &keep.words, recorder) {
                        Ok(created) => (recording, replace) = (Some(created), true),
                        Err(e) => written.failures.push(e),
                    }
                }
            }
            if let Some(Err(e)) = recording.as_mut().map(LoadRecording::flush) {
                screen.say(Remark::Warning, &format!("the recording ends here: {e:#}"));
                written.failures.push(e);
                recording = None;
            }
            if let Turn::Ended(driven) = turn {
                let t = &driven.report.totals;
                screen.note(&format!(
                    "a run is over: {} requests in {:.1} s, {} failed",
                    t.requests, t.duration_s, t.failures
                ));
                left = Some(*driven);
                if std::mem::take(&mut is_automatic) {
                    let seconds = self.autoquit.map(|s| Duration::from_secs(u64::from(s)));
                    quit_at = seconds.map(|s| Instant::now() + s);
                }
            }
            let is_due = quit_at.is_some_and(|at| Instant::now() >= at);
            if is_due || signals.stop().is_finishing() {
                if !console.is_active() {
                    drop(web);
                    return Ok(left.map(|driven| (driven, recording)));
                }
                console.stop();
            }
        }
    }
}
