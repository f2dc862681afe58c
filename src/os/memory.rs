//! Memory of another process, read without stopping it.

#![allow(unsafe_code, reason = "process_vm_readv and pread into our own buffers")]

use std::fmt;

/// A read that could not be done: the page is not there (any more), or the process is not.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Fault {
    /// Where.
    pub at: u64,
    /// How many bytes were wanted.
    pub len: usize,
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} bytes at {:#x} cannot be read", self.len, self.at)
    }
}

impl std::error::Error for Fault {}

/// Memory of a process: live, a core file, or made up by a test. All or nothing; never panics.
pub trait Memory {
    /// Fills `into` from address `at`.
    fn read(&self, at: u64, into: &mut [u8]) -> Result<(), Fault>;

    /// A little-endian u64.
    fn u64_at(&self, at: u64) -> Result<u64, Fault> {
        let mut b = [0; 8];
        self.read(at, &mut b)?;
        Ok(u64::from_le_bytes(b))
    }

    /// A little-endian u32.
    fn u32_at(&self, at: u64) -> Result<u32, Fault> {
        let mut b = [0; 4];
        self.read(at, &mut b)?;
        Ok(u32::from_le_bytes(b))
    }

    /// A byte.
    fn u8_at(&self, at: u64) -> Result<u8, Fault> {
        let mut b = [0; 1];
        self.read(at, &mut b)?;
        Ok(b[0])
    }

    /// `len` bytes; lengths come from foreign memory, so anything over `limit` is a fault and allocates nothing.
    fn bytes_at(&self, at: u64, len: usize, limit: usize) -> Result<Vec<u8>, Fault> {
        if len > limit {
            return Err(Fault { at, len });
        }
        let mut b = vec![0; len];
        self.read(at, &mut b)?;
        Ok(b)
    }
}

/// The memory of a live process, by `process_vm_readv`. Needs ptrace-read access (same user and Yama 0, our child, or
/// CAP_SYS_PTRACE).
#[derive(Debug, Clone, Copy)]
pub struct LiveMemory {
    pid: i32,
}

impl LiveMemory {
    /// The memory of `pid`; nothing is opened or checked yet.
    pub fn new(pid: u32) -> Self {
        Self { pid: pid as i32 }
    }

    /// Whether a read at `at` works, and if not, why not.
    pub fn probe(&self, at: u64) -> std::io::Result<()> {
        let mut b = [0; 8];
        self.readv(at, &mut b).map(|_| ())
    }

    /// Reads several pieces in one system call, one after another into `into`: as near to one instant as can be had
    /// without stopping the process. Returns the bytes read before the first piece that could not be.
    pub fn gather(&self, pieces: &[(u64, usize)], into: &mut [u8]) -> usize {
        /// `IOV_MAX` of every Linux.
        const LIMIT: usize = 1024;
        let local = libc::iovec { iov_base: into.as_mut_ptr().cast(), iov_len: into.len() };
        let remote: Vec<_> = pieces
            .iter()
            .take(LIMIT)
            .map(|(at, len)| libc::iovec { iov_base: *at as *mut libc::c_void, iov_len: *len })
            .collect();
        // SAFETY: `local` describes `into`, which lives through the call and is ours to write, and bounds what is written;
        // the remote addresses are only numbers to the kernel, which checks them against the other process's map.
        let n = unsafe {
            libc::process_vm_readv(self.pid, &raw const local, 1, remote.as_ptr(), remote.len() as libc::c_ulong, 0)
        };
        usize::try_from(n).unwrap_or(0)
    }

    fn readv(&self, at: u64, into: &mut [u8]) -> std::io::Result<usize> {
        let local = libc::iovec { iov_base: into.as_mut_ptr().cast(), iov_len: into.len() };
        let remote = libc::iovec { iov_base: at as *mut libc::c_void, iov_len: into.len() };
        // SAFETY: `local` describes `into`, which lives through the call and is ours to write; the remote address is
        // only a number to the kernel, which checks it against the other process's map.
        let n = unsafe { libc::process_vm_readv(self.pid, &raw const local, 1, &raw const remote, 1, 0) };
        if n < 0 { Err(std::io::Error::last_os_error()) } else { Ok(n as usize) }
    }
}

impl Memory for LiveMemory {
    fn read(&self, at: u64, into: &mut [u8]) -> Result<(), Fault> {
        let len = into.len();
        match self.readv(at, into) {
            Ok(n) if n == len => Ok(()),
            _ => Err(Fault { at, len }),
        }
    }
}

/// Memory made of pieces, for tests and fuzzing.
#[derive(Debug, Clone, Default)]
pub struct FakeMemory {
    /// Start address and bytes of each piece.
    pub pieces: Vec<(u64, Vec<u8>)>,
}

impl Memory for FakeMemory {
    fn read(&self, at: u64, into: &mut [u8]) -> Result<(), Fault> {
        let len = into.len();
        for (start, bytes) in &self.pieces {
            let Some(from) = at.checked_sub(*start).and_then(|o| usize::try_from(o).ok()) else { continue };
            if let Some(found) = from.checked_add(len).and_then(|to| bytes.get(from..to)) {
                into.copy_from_slice(found);
                return Ok(());
            }
        }
        Err(Fault { at, len })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn own_memory_reads_and_a_hole_is_a_fault() {
        let value = 0x1122_3344_5566_7788_u64;
        let live = LiveMemory::new(std::process::id());
        assert_eq!(live.u64_at(&raw const value as u64), Ok(value));
        assert_eq!(live.u64_at(8), Err(Fault { at: 8, len: 8 }));
        assert!(live.bytes_at(&raw const value as u64, usize::MAX, 4096).is_err());
        let mut both = [0; 24];
        let at = &raw const value as u64;
        assert_eq!(live.gather(&[(at, 8), (at, 4), (8, 8)], &mut both), 12);
        assert_eq!((&both[..8], &both[8..12]), (&value.to_le_bytes()[..], &value.to_le_bytes()[..4]));
    }
}
