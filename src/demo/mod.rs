//! The demo's world: a small NPC service as a process of its own, and a plain client that drives it, so that the tour
//! needs nothing but cargo.
//!
//! In: nothing (a Python is looked for on `PATH`). Out: a [`World`] with a pid to look at, and a [`Drive`] whose
//! [`Summary`] says what the client saw. `perfkit demo` puts a sampler between the two.
//!
//! Invariants: the service never outlives us, whatever ends us: it ends when its stdin is closed, and only we hold the
//! other end. Nothing is written to disk. The pid is that of the interpreter itself, never of a shell in front of it.
//!
//! Limits: the load is a closed loop of a few users, meant to keep about half a core busy; it is no load test.

mod chance;
mod client;
mod http;
mod native;
mod process;
mod python;
mod tally;

use std::fmt;
use std::net::{Ipv4Addr, SocketAddr};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use serde::Deserialize;

use crate::error::Result;
use process::Process;

pub use client::{Drive, Load, Operation};
pub use native::serve as serve_native;
pub use tally::{Latency, Summary, Tally};

/// The hidden subcommand under which the perfkit binary is the native service: it has to call [`serve_native`].
pub const NATIVE_SUBCOMMAND: &str = "demo-world";

/// How long the service may take until it listens. Generous: a cold interpreter on a busy machine.
const START_LIMIT: Duration = Duration::from_secs(30);

/// What the service is written in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Runtime {
    /// The embedded asyncio program, on a CPython of this version (`3.11.7`).
    Python(String),
    /// The service built into perfkit.
    Native,
}

impl fmt::Display for Runtime {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Python(version) => write!(f, "CPython {version}"),
            Self::Native => f.write_str("native"),
        }
    }
}

/// A running world service, our child. Dropping it closes its stdin, waits for its end and reaps it.
#[derive(Debug)]
pub struct World {
    process: Process,
    port: u16,
    runtime: Runtime,
}

/// What follows `READY ` in the service's first line.
#[derive(Deserialize)]
struct Ready {
    port: u16,
    pid: u32,
}

impl World {
    /// Starts the service on the first usable CPython on `PATH`, or the native one where there is none.
    ///
    /// Errors: those of [`World::start_native`]. Why a Python was passed over, [`World::start_with`] says.
    pub fn start() -> Result<Self> {
        python::candidates().iter().find_map(|p| Self::start_with(p).ok()).map_or_else(Self::start_native, Ok)
    }

    /// Starts the service on the Python at `program`, which may be a shim: its `sys.executable` is what runs.
    ///
    /// Errors: `Unsupported` for what is no CPython of 3.8 or later with a GIL and the modules that the service needs;
    /// else as [`World::start_native_with`].
    pub fn start_with(program: &Path) -> Result<Self> {
        let interpreter = python::probe(program)?;
        let mut process = Process::spawn(interpreter.command())?;
        process.feed(python::source().as_bytes())?;
        Self::ready(process, Runtime::Python(interpreter.version))
    }

    /// Starts the native service out of the running perfkit binary.
    ///
    /// Errors: as [`World::start_native_with`].
    pub fn start_native() -> Result<Self> {
        Self::start_native_with(&own_binary())
    }

    /// Starts the native service out of the perfkit binary at `program`.
    ///
    /// Errors: `Gone`, `Denied` or `Io` when no process can be started; `Unsupported` when it ends, says something else
    /// or says nothing for 30 s instead of READY.
    pub fn start_native_with(program: &Path) -> Result<Self> {
        let mut command = Command::new(program);
        command.arg(NATIVE_SUBCOMMAND);
        Self::ready(Process::spawn(command)?, Runtime::Native)
    }

    /// The process id of the service: of the interpreter itself, not of anything in front of it.
    pub fn pid(&self) -> u32 {
        self.process.pid()
    }

    /// Where it listens, on the loopback.
    pub fn address(&self) -> SocketAddr {
        SocketAddr::from((Ipv4Addr::LOCALHOST, self.port))
    }

    /// The base of its URLs, `http://127.0.0.1:40123`.
    pub fn url(&self) -> String {
        format!("http://{}", self.address())
    }

    /// What it runs on.
    pub fn runtime(&self) -> &Runtime {
        &self.runtime
    }

    /// Whether the service still runs.
    pub fn is_alive(&mut self) -> bool {
        self.process.is_alive()
    }

    /// Ends the service as dropping does, and returns what it wrote to stderr, which should be nothing.
    ///
    /// Errors: `Bug` when it had to be killed or did not end with code 0, with what it wrote to stderr.
    pub fn end(mut self) -> Result<String> {
        self.process.end()
    }

    fn ready(mut process: Process, runtime: Runtime) -> Result<Self> {
        let line = process.read_line(START_LIMIT)?;
        let ready: Ready = line
            .strip_prefix("READY ")
            .and_then(|json| serde_json::from_str(json).ok())
            .ok_or_else(|| process.failure(&format!("said '{line}' instead of READY")))?;
        if ready.pid != process.pid() {
            // A wrapper that starts the service as a child of its own: sampling the wrapper would show nothing.
            return Err(process.failure(&format!("is a wrapper around pid {}", ready.pid)));
        }
        Ok(Self { process, port: ready.port, runtime })
    }
}

/// The perfkit binary: by its path, so that the process is named after it, or by `/proc` once the file was replaced.
fn own_binary() -> PathBuf {
    let running = PathBuf::from("/proc/self/exe");
    let identity = |path: &Path| std::fs::metadata(path).map(|m| (m.dev(), m.ino())).ok();
    match std::env::current_exe() {
        Ok(path) if identity(&path).is_some_and(|found| Some(found) == identity(&running)) => path,
        _ => running,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Kind;

    #[test]
    fn what_is_no_world_is_an_error_with_its_reason() {
        let gone = World::start_native_with(Path::new("/nonexistent/perfkit")).unwrap_err();
        assert_eq!(gone.kind(), Kind::Gone, "{gone:?}");
        let silent = World::start_native_with(Path::new("/bin/true")).unwrap_err();
        assert_eq!(silent.kind(), Kind::Unsupported, "{silent:?}");
        let chatty = World::start_native_with(Path::new("/bin/echo")).unwrap_err();
        assert!(chatty.to_string().contains("said 'demo-world'"), "{chatty:?}");
    }
}
