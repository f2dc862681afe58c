//! The web UI's flags, and following what it starts.

use std::time::Duration;

use clap::{Args, ValueHint};

use crate::cli::screen::Screen;
use crate::error::{Error, Result};
use crate::session::Remark;
use crate::session::load::Panel;
use crate::web::{Web, WebPlan};

const WEB: &str = "Web UI";

/// Flags of the web UI.
#[derive(Debug, Clone, Args)]
pub struct WebArgs {
    /// No web UI: start at once, end when the run ends. --json implies it [default: the web UI waits for its start form]
    #[arg(long, help_heading = WEB)]
    pub(super) headless: bool,

    /// Start at once, with the web UI
    #[arg(long, help_heading = WEB)]
    pub(super) autostart: bool,

    /// End so many seconds after the run that --autostart began [default: until Ctrl-C]
    #[arg(long, value_name = "SECONDS", allow_negative_numbers = true, help_heading = WEB)]
    autoquit: Option<i64>,

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

    /// Serves the web UI of `panel`'s console.
    ///
    /// # Errors
    /// `Usage` for what it cannot do, and for a port that is taken.
    pub(super) fn serve(&self, panel: Panel, screen: &Screen) -> Result<Web> {
        let web = Web::serve(&self.plan()?, panel)?;
        if !web.address().ip().is_loopback() {
            screen.say(Remark::Warning, &format!("whoever reaches {} can start load with it", web.address()));
        }
        let what = if self.autostart { "the load begins; web UI" } else { "web UI, waiting for its start form" };
        screen.note(&format!("{what}: {}  (Ctrl-C ends perfkit)", web.url()));
        Ok(web)
    }

    /// How long the web UI stays after the run that `--autostart` began.
    pub(super) fn autoquit(&self) -> Option<Duration> {
        self.autoquit.and_then(|s| u64::try_from(s).ok()).map(Duration::from_secs)
    }
}
