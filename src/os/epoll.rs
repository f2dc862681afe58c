//! epoll(7), edge-triggered, with waits in nanoseconds.

#![allow(unsafe_code, reason = "epoll_pwait2(2) has no wrapper in our dependencies")]

use std::io;
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};
use std::time::Duration;

/// What an event said.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ready {
    /// What the descriptor was added with.
    pub key: u64,
    /// There is something to read, or the other side has ended.
    pub readable: bool,
    /// It can be written to, or an attempt to connect is over.
    pub writable: bool,
    /// The other side has ended its half.
    pub ended: bool,
}

/// An epoll instance with room for the events of one wait.
#[derive(Debug)]
pub struct Epoll {
    fd: OwnedFd,
    events: Vec<libc::epoll_event>,
    ready: usize,
    taken: usize,
    has_pwait2: bool,
}

impl Epoll {
    /// One that tells at most `room` events at a time.
    pub fn new(room: usize) -> io::Result<Self> {
        // SAFETY: takes a flag, touches no memory of ours.
        let fd = unsafe { libc::epoll_create1(libc::EPOLL_CLOEXEC) };
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: the kernel has just made this descriptor for us; nobody else owns it.
        let fd = unsafe { OwnedFd::from_raw_fd(fd) };
        let events = vec![libc::epoll_event { events: 0, u64: 0 }; room.max(1)];
        Ok(Self { fd, events, ready: 0, taken: 0, has_pwait2: true })
    }

    /// Watches `fd` for both directions, edge-triggered, until it is closed.
    pub fn add(&self, fd: impl AsFd, key: u64) -> io::Result<()> {
        let flags = libc::EPOLLIN | libc::EPOLLOUT | libc::EPOLLRDHUP | libc::EPOLLET;
        let mut event = libc::epoll_event { events: flags as u32, u64: key };
        // SAFETY: both descriptors are open through the call, and the kernel only reads `event`.
        let done = unsafe {
            libc::epoll_ctl(self.fd.as_raw_fd(), libc::EPOLL_CTL_ADD, fd.as_fd().as_raw_fd(), &raw mut event)
        };
        if done < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
    }

    /// Waits for events, at most so long (`None`: for ever); how many there are. A signal ends the wait early with none.
    pub fn wait(&mut self, longest: Option<Duration>) -> io::Result<usize> {
        (self.ready, self.taken) = (0, 0);
        let found = if self.has_pwait2 { self.pwait2(longest) } else { self.wait_ms(longest) };
        if found < 0 {
            let error = io::Error::last_os_error();
            return match error.raw_os_error() {
                Some(libc::EINTR) => Ok(0),
                Some(libc::ENOSYS | libc::EPERM) if self.has_pwait2 => {
                    // Before Linux 5.11, or a filter of system calls: milliseconds must do.
                    self.has_pwait2 = false;
                    self.wait(longest)
                }
                _ => Err(error),
            };
        }
        self.ready = found as usize;
        Ok(self.ready)
    }

    fn pwait2(&mut self, longest: Option<Duration>) -> libc::c_long {
        let time = longest
            .map(|d| libc::timespec { tv_sec: d.as_secs() as libc::time_t, tv_nsec: d.subsec_nanos() as libc::c_long });
        let time = time.as_ref().map_or(std::ptr::null(), std::ptr::from_ref);
        // SAFETY: the kernel writes at most `events.len()` events into `events`; `time` is null or lives through the call;
        // a null signal mask is allowed and leaves the mask as it is.
        unsafe {
            libc::syscall(
                libc::SYS_epoll_pwait2,
                self.fd.as_raw_fd(),
                self.events.as_mut_ptr(),
                self.events.len() as libc::c_int,
                time,
                std::ptr::null::<libc::sigset_t>(),
                0_usize,
            )
        }
    }

    fn wait_ms(&mut self, longest: Option<Duration>) -> libc::c_long {
        let ms = longest.map_or(-1, |d| i32::try_from(d.as_millis()).unwrap_or(i32::MAX));
        // SAFETY: the kernel writes at most `events.len()` events into `events`.
        let found = unsafe {
            libc::epoll_wait(self.fd.as_raw_fd(), self.events.as_mut_ptr(), self.events.len() as libc::c_int, ms)
        };
        libc::c_long::from(found)
    }

    /// Whether events of the last wait were not taken yet.
    pub fn has_more(&self) -> bool {
        self.taken < self.ready
    }

    /// Takes the next event of the last wait.
    pub fn take(&mut self) -> Option<Ready> {
        let event = self.events[..self.ready].get(self.taken)?;
        self.taken += 1;
        let has = |bits: i32| event.events & bits as u32 != 0;
        let broken = has(libc::EPOLLERR | libc::EPOLLHUP);
        Some(Ready {
            key: event.u64,
            readable: broken || has(libc::EPOLLIN | libc::EPOLLRDHUP),
            writable: broken || has(libc::EPOLLOUT),
            ended: broken || has(libc::EPOLLRDHUP),
        })
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::os::unix::net::UnixStream;

    use super::*;

    #[test]
    fn edges_are_told_once_and_waits_end() {
        let (a, mut b) = UnixStream::pair().unwrap();
        let mut epoll = Epoll::new(8).unwrap();
        epoll.add(&a, 7).unwrap();
        assert_eq!(epoll.wait(Some(Duration::ZERO)).unwrap(), 1);
        assert!(epoll.has_more());
        assert_eq!(epoll.take(), Some(Ready { key: 7, readable: false, writable: true, ended: false }));
        assert!(!epoll.has_more());
        assert_eq!(epoll.wait(Some(Duration::from_micros(50))).unwrap(), 0);
        b.write_all(b"x").unwrap();
        assert_eq!(epoll.wait(None).unwrap(), 1);
        assert!(epoll.take().unwrap().readable && epoll.take().is_none());
    }
}
