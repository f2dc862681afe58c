//! The live view on a terminal of its own: what it shows, what its keys do, and that the terminal is as it was afterwards.

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use nix::pty::{OpenptyResult, Winsize, openpty};
use nix::sys::signal::Signal;
use nix::sys::termios::{LocalFlags, tcgetattr};

use super::scenario;
use super::server::{Reply, Server, ok};
use crate::rig;

const LIMIT: Duration = Duration::from_mins(1);

/// perfkit on a terminal.
struct Terminal {
    child: Child,
    master: File,
    seen: String,
}

impl Terminal {
    fn start(words: &[&str]) -> Self {
        let size = Winsize { ws_row: 30, ws_col: 110, ws_xpixel: 0, ws_ypixel: 0 };
        let OpenptyResult { master, slave } = openpty(&size, None).unwrap();
        let master = File::from(master);
        assert!(is_cooked(&master));
        let stdio = |fd: &OwnedFd| Stdio::from(fd.try_clone().unwrap());
        // A session of its own, whose terminal this is; without a fork, so that the pid is perfkit's.
        let child = Command::new("setsid")
            .arg("-c")
            .arg(rig::perfkit())
            .arg("load")
            .args(words)
            .stdin(stdio(&slave))
            .stdout(Stdio::null())
            .stderr(stdio(&slave))
            .spawn()
            .unwrap();
        let terminal = Self { child, master, seen: String::new() };
        // The slave is kept open by perfkit alone from here on.
        drop(slave);
        terminal
    }

    fn is_cooked(&self) -> bool {
        is_cooked(&self.master)
    }

    /// Reads until `text` was shown; what came before it is forgotten.
    fn until(&mut self, text: &str) {
        let start = Instant::now();
        let mut buffer = [0; 4096];
        loop {
            if let Some(at) = self.seen.rfind(text) {
                self.seen.drain(..at + text.len());
                return;
            }
            assert!(start.elapsed() < LIMIT, "no '{text}' in\n{}", self.seen);
            let n = self.master.read(&mut buffer).unwrap_or_else(|e| panic!("{e}: no '{text}' in\n{}", self.seen));
            self.seen.push_str(&String::from_utf8_lossy(&buffer[..n]));
        }
    }

    fn press(&mut self, keys: &str) {
        self.master.write_all(keys.as_bytes()).unwrap();
    }

    /// Reads to the end; the exit code.
    fn end(&mut self) -> Option<i32> {
        let start = Instant::now();
        let mut buffer = [0; 4096];
        // The other side is gone when reading fails.
        while let Ok(n) = self.master.read(&mut buffer) {
            self.seen.push_str(&String::from_utf8_lossy(&buffer[..n]));
            assert!(start.elapsed() < LIMIT, "no end: {}", self.seen);
        }
        self.child.wait().unwrap().code()
    }
}

fn is_cooked(terminal: &File) -> bool {
    tcgetattr(terminal).unwrap().local_flags.contains(LocalFlags::ICANON | LocalFlags::ECHO)
}

impl Drop for Terminal {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

fn users() -> (tempfile::TempDir, String, Server) {
    let server = Server::start(|_| Reply::Keep(ok("", "yes")));
    let (dir, path) = scenario(
        "[[user]]\nname = \"A\"\nwait = 0.05\n[[user.task]]\nname = \"look\"\nsteps = [{ get = \"/look\" }]\n",
    );
    (dir, path, server)
}

#[test]
fn keys_change_the_users_and_the_table_says_so() {
    let (_dir, path, server) = users();
    let pid = std::process::id().to_string();
    let words = [&path, "-H", &server.url(), "-u", "5", "-r", "100", "-P", "0", "--autostart", "--pid", &pid];
    let mut terminal = Terminal::start(&words);
    terminal.until("· 5 users");
    assert!(!terminal.is_cooked());
    terminal.until("GET /look");
    terminal.until(&format!("target {pid} CPU"));
    for (key, shown) in
        [("W", "· 15 users"), ("w", "· 16 users"), ("s", "· 15 users"), ("S", "· 5 users"), ("S", "· 0 users")]
    {
        terminal.press(key);
        terminal.until(shown);
    }
    terminal.press("\n");
    terminal.until("web UI: http://127.0.0.1:");
    terminal.press("q");
    let code = terminal.end();
    assert!(matches!(code, Some(0 | 4)), "{code:?}: {}", terminal.seen);
}

#[test]
fn the_terminal_is_put_back_whatever_ends_the_run() {
    let (_dir, path, server) = users();
    for signal in [None, Some(Signal::SIGINT), Some(Signal::SIGTERM), Some(Signal::SIGHUP), Some(Signal::SIGQUIT)] {
        let mut terminal = Terminal::start(&[&path, "-H", &server.url(), "--headless", "-u", "2", "-t", "2"]);
        // The terminal itself must outlive perfkit, to be asked.
        let kept = {
            terminal.until("w/W");
            assert!(!terminal.is_cooked());
            std::fs::OpenOptions::new().read(true).write(true).open(slave_of(&terminal.master)).unwrap()
        };
        if let Some(signal) = signal {
            rig::signal(terminal.child.id(), signal);
        }
        let start = Instant::now();
        while terminal.child.try_wait().unwrap().is_none() {
            assert!(start.elapsed() < LIMIT, "{signal:?}: no end");
            let mut buffer = [0; 4096];
            // What it draws must find room; it draws twice a second, so that this does not wait for long.
            if nix::poll::poll(
                &mut [nix::poll::PollFd::new(std::os::fd::AsFd::as_fd(&terminal.master), nix::poll::PollFlags::POLLIN)],
                50_u16,
            )
            .unwrap()
                > 0
            {
                assert!(terminal.master.read(&mut buffer).unwrap() > 0);
            }
        }
        assert!(terminal.is_cooked(), "after {signal:?}");
        drop(kept);
    }
}

/// The path of a terminal's other side.
fn slave_of(master: &File) -> String {
    let fd = std::os::fd::AsRawFd::as_raw_fd(master);
    let info = std::fs::read_to_string(format!("/proc/self/fdinfo/{fd}")).unwrap();
    let number = info.lines().find_map(|l| l.strip_prefix("tty-index:")).unwrap().trim();
    format!("/dev/pts/{number}")
}
