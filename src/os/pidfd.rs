//! A file descriptor that means one process for ever, whatever becomes of its pid (pidfd_open(2), Linux 5.3).

#![allow(unsafe_code, reason = "pidfd_open and pidfd_send_signal have no safe wrapper in our dependencies")]

use std::io;
use std::os::fd::{AsFd, BorrowedFd, FromRawFd, OwnedFd};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

/// A process, held by a pidfd. It becomes readable when the process ends (as a zombie already).
#[derive(Debug)]
pub struct PidFd(OwnedFd);

impl PidFd {
    /// The process that has `pid` now.
    pub fn open(pid: u32) -> io::Result<Self> {
        // SAFETY: the call takes two numbers and touches no memory of ours.
        let fd = unsafe { libc::syscall(libc::SYS_pidfd_open, pid as libc::pid_t, 0) };
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: the kernel has just made this descriptor for us; nobody else owns it.
        Ok(Self(unsafe { OwnedFd::from_raw_fd(fd as i32) }))
    }

    /// Whether the process has ended.
    pub fn has_ended(&self) -> bool {
        self.poll(PollTimeout::ZERO)
    }

    /// Waits for its end.
    pub fn wait(&self) {
        // Interrupted by a signal, poll returns early; the question is the same.
        while !self.poll(PollTimeout::NONE) {}
    }

    /// Sends `signal` to it; `ESRCH` when it has ended.
    pub fn send(&self, signal: nix::sys::signal::Signal) -> io::Result<()> {
        use std::os::fd::AsRawFd;
        // SAFETY: the descriptor is ours and open; a null siginfo asks for the one that kill(2) would send.
        let done = unsafe {
            libc::syscall(
                libc::SYS_pidfd_send_signal,
                self.0.as_raw_fd(),
                signal as libc::c_int,
                std::ptr::null::<libc::siginfo_t>(),
                0,
            )
        };
        if done < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
    }

    /// Waits at most that many milliseconds (or until a signal comes); whether it has ended.
    pub fn wait_for(&self, ms: u16) -> bool {
        self.poll(PollTimeout::from(ms))
    }

    fn poll(&self, timeout: PollTimeout) -> bool {
        let mut fds = [PollFd::new(self.0.as_fd(), PollFlags::POLLIN)];
        poll(&mut fds, timeout).is_ok_and(|n| n > 0)
    }
}

impl AsFd for PidFd {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}
