//! A child whose life hangs on its stdin: it is told to end by closing that, and killed only if it does not listen.
//!
//! Invariants: every wait has an end; the child is always reaped; nothing but our own child is ever killed.

use std::fs::File;
use std::io::{ErrorKind, Read, Seek, SeekFrom, Write};
use std::os::fd::AsFd;
use std::os::unix::process::CommandExt;
use std::process::{Child, ChildStdout, Command, Stdio};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use crate::error::{Error, Kind, Result};

/// How long the child may take to end after its stdin was closed.
const END_LIMIT: Duration = Duration::from_secs(5);
/// What is longer than this is not a line that anybody waits for.
const LINE_LIMIT: usize = 4096;
/// How much of the end of the child's stderr goes into an error.
const STDERR_LIMIT: u64 = 2000;

/// A child process with its stdin, stdout and stderr in our hands.
#[derive(Debug)]
pub(super) struct Process {
    program: String,
    child: Child,
    stdout: ChildStdout,
    /// Where its stderr goes: a file without a name, so that it never blocks on us.
    stderr: Option<File>,
    ended: bool,
}

impl Process {
    /// Starts `command`.
    pub(super) fn spawn(mut command: Command) -> Result<Self> {
        let program = command.get_program().to_string_lossy().into_owned();
        // Without a place for it only the reason of a failure is lost.
        let stderr = tempfile::tempfile().ok();
        let sink = stderr.as_ref().and_then(|f| f.try_clone().ok()).map_or_else(Stdio::null, Stdio::from);
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(sink)
            // Not in the terminal's foreground group: Ctrl-C is for perfkit, which still has a result to write.
            .process_group(0)
            .spawn()
            .map_err(|e| Error::io(format!("cannot start {program}"), e))?;
        let Some(stdout) = child.stdout.take() else {
            return Err(Error::new(Kind::Bug, format!("{program} was started without a stdout")));
        };
        Ok(Self { program, child, stdout, stderr, ended: false })
    }

    /// Its process id.
    pub(super) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Whether it still runs.
    pub(super) fn is_alive(&mut self) -> bool {
        !self.ended && matches!(self.child.try_wait(), Ok(None))
    }

    /// Writes `bytes` to its stdin and leaves that open.
    pub(super) fn feed(&mut self, bytes: &[u8]) -> Result<()> {
        match self.child.stdin.as_mut().map(|stdin| stdin.write_all(bytes)) {
            Some(Ok(())) => Ok(()),
            _ => Err(self.failure("did not read its input")),
        }
    }

    /// The next line of its stdout, without the line end.
    pub(super) fn read_line(&mut self, limit: Duration) -> Result<String> {
        let deadline = Instant::now() + limit;
        let mut line = Vec::new();
        let mut byte = [0];
        while line.len() < LINE_LIMIT {
            if !self.wait_for_output(deadline) {
                return Err(self.failure(&format!("said nothing for {} s", limit.as_secs())));
            }
            match self.stdout.read(&mut byte) {
                Ok(0) => return Err(self.failure("ended at once")),
                Ok(_) if byte == *b"\n" => return Ok(String::from_utf8_lossy(&line).into_owned()),
                Ok(_) => line.extend(byte),
                Err(e) if e.kind() == ErrorKind::Interrupted => {}
                Err(e) => return Err(Error::io(format!("cannot read what {} says", self.program), e)),
            }
        }
        Err(self.failure("said a line without an end"))
    }

    /// An error about this process: `what` it did, with the last line of its stderr as the cause.
    pub(super) fn failure(&mut self, what: &str) -> Error {
        let error = Error::new(Kind::Unsupported, format!("{} {what}", self.program));
        let complaint = self.complaint();
        if complaint.is_empty() { error } else { error.caused_by(complaint) }
    }

    /// Closes its stdin, waits for its end and reaps it. What it wrote to stderr, the end of it.
    pub(super) fn end(&mut self) -> Result<String> {
        if self.ended {
            return Ok(self.complaint());
        }
        drop(self.child.stdin.take());
        let listened = self.wait_for_end(Instant::now() + END_LIMIT);
        if !listened {
            // Our own child, not reaped yet: the pid cannot be anybody else's. An error means that it has just ended.
            let _ = self.child.kill();
        }
        let status = self.child.wait().map_err(|e| Error::io(format!("cannot wait for pid {}", self.child.id()), e))?;
        self.ended = true;
        let complaint = self.complaint();
        if listened && status.success() {
            return Ok(complaint);
        }
        let program = &self.program;
        Err(Error::new(Kind::Bug, format!("{program} ended with {status} when its stdin was closed: {complaint}")))
    }

    /// What it wrote to stderr, the end of it.
    fn complaint(&mut self) -> String {
        let mut text = Vec::new();
        if let Some(file) = &mut self.stderr {
            // An unreadable complaint is no complaint; the failure that it would explain is reported anyway.
            let length = file.metadata().map_or(0, |m| m.len());
            let _ = file
                .seek(SeekFrom::Start(length.saturating_sub(STDERR_LIMIT)))
                .and_then(|_| file.take(STDERR_LIMIT).read_to_end(&mut text));
        }
        String::from_utf8_lossy(&text).trim().to_owned()
    }

    /// Reads its stdout until that is closed, which the kernel does at its end. False when the time is over.
    fn wait_for_end(&mut self, deadline: Instant) -> bool {
        let mut rest = [0; 1024];
        while self.wait_for_output(deadline) {
            match self.stdout.read(&mut rest) {
                Ok(0) => return true,
                Err(e) if e.kind() != ErrorKind::Interrupted => return false,
                _ => {}
            }
        }
        false
    }

    /// Whether a read of its stdout will return before the deadline.
    fn wait_for_output(&self, deadline: Instant) -> bool {
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            let timeout = PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX);
            match poll(&mut [PollFd::new(self.stdout.as_fd(), PollFlags::POLLIN)], timeout) {
                Err(Errno::EINTR) => {}
                answer => return answer.is_ok_and(|ready| ready > 0),
            }
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // Nobody is left to tell; `end` has killed and reaped what did not end by itself.
        let _ = self.end();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shell(script: &str) -> Process {
        let mut command = Command::new("/bin/sh");
        command.args(["-c", script]);
        Process::spawn(command).unwrap()
    }

    #[test]
    fn lines_come_one_by_one_and_the_end_of_stdin_ends_it() {
        let mut process = shell("echo one; echo two; exec cat");
        let second = Duration::from_secs(10);
        assert_eq!(process.read_line(second).unwrap(), "one");
        assert_eq!(process.read_line(second).unwrap(), "two");
        assert!(process.is_alive());
        process.feed(b"three\n").unwrap();
        assert_eq!(process.read_line(second).unwrap(), "three");
        process.end().unwrap();
        assert!(!process.is_alive());
    }

    #[test]
    fn its_complaint_is_in_the_error() {
        let mut process = shell("echo 'no such world' >&2; exit 3");
        let error = process.read_line(Duration::from_secs(10)).unwrap_err();
        assert!(format!("{error:#}").contains("ended at once: no such world"), "{error:?}");
        assert!(process.end().unwrap_err().to_string().contains("no such world"));
    }

    #[test]
    fn silence_has_an_end() {
        let mut process = shell("exec cat");
        let error = process.read_line(Duration::from_millis(20)).unwrap_err();
        assert!(error.to_string().contains("said nothing"), "{error:?}");
    }
}
