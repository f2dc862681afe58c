//! The ring that the kernel fills: mapped once, read in place, handed back with one store.

#![allow(unsafe_code, reason = "a mapped ring shared with the kernel")]

use std::io;
use std::os::fd::AsRawFd;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU64, Ordering};

use super::Event;

/// Offsets of `data_head` and `data_tail` in `struct perf_event_mmap_page` (fixed since Linux 2.6.31).
const DATA_HEAD: usize = 1024;
const DATA_TAIL: usize = 1032;
/// Records are u16-sized.
const LARGEST: usize = 1 << 16;

/// A mapped ring buffer of an event.
#[derive(Debug)]
pub struct Ring {
    base: NonNull<u8>,
    page: usize,
    len: usize,
    /// Holds a record that lies over the end of the ring.
    wrapped: Vec<u8>,
}

// SAFETY: the mapping belongs to this value alone; only `drain(&mut self)` touches it.
unsafe impl Send for Ring {}

impl Ring {
    /// Maps a ring of `bytes` (a power of two, at least a page) for `event`.
    ///
    /// # Errors
    /// `EPERM` when the ring exceeds what an unprivileged user may lock (`kernel.perf_event_mlock_kb`).
    pub fn map(event: &Event, bytes: usize) -> io::Result<Self> {
        // SAFETY: sysconf only returns a number.
        let page = unsafe { libc::sysconf(libc::_SC_PAGESIZE) } as usize;
        let len = bytes.next_power_of_two().max(page);
        // SAFETY: a fresh shared mapping of our own perf fd, at an address the kernel chooses.
        let at = unsafe {
            libc::mmap(
                std::ptr::null_mut(),
                page + len,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_SHARED,
                event.fd().as_raw_fd(),
                0,
            )
        };
        if at == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        let base = NonNull::new(at.cast()).ok_or_else(|| io::Error::other("mmap gave address 0"))?;
        Ok(Self { base, page, len, wrapped: Vec::with_capacity(LARGEST) })
    }

    /// Bytes the ring holds.
    pub fn capacity(&self) -> usize {
        self.len
    }

    fn position(&self, offset: usize) -> &AtomicU64 {
        // SAFETY: `offset` is one of the two aligned u64 fields of the control page, mapped as long as `self` lives.
        unsafe { AtomicU64::from_ptr(self.base.as_ptr().add(offset).cast()) }
    }

    fn slice(&self, from: usize, len: usize) -> &[u8] {
        debug_assert!(from + len <= self.len);
        // SAFETY: `from + len` lies in the data area, mapped as long as `self` lives; the kernel does not write between
        // tail and head, and the tail moves only after the callers are done with the slice.
        unsafe { std::slice::from_raw_parts(self.base.as_ptr().add(self.page + from), len) }
    }

    /// Gives each whole record that has come, header included, to `take`. Returns the bytes read.
    pub fn drain(&mut self, mut take: impl FnMut(&[u8])) -> usize {
        let head = self.position(DATA_HEAD).load(Ordering::Acquire);
        let start = self.position(DATA_TAIL).load(Ordering::Relaxed);
        let mut tail = start;
        // The kernel keeps head - tail within the ring; if it ever does not, nothing in it can be trusted.
        if head.wrapping_sub(tail) > self.len as u64 {
            tail = head;
        }
        while tail < head {
            let at = (tail as usize) & (self.len - 1);
            // Records are 8-aligned, so a header is never split.
            let header = self.slice(at, 8);
            let size = usize::from(u16::from_le_bytes([header[6], header[7]]));
            if size < 8 || size as u64 > head - tail {
                tail = head;
                break;
            }
            if at + size <= self.len {
                take(self.slice(at, size));
            } else {
                let mut wrapped = std::mem::take(&mut self.wrapped);
                wrapped.clear();
                wrapped.extend_from_slice(self.slice(at, self.len - at));
                wrapped.extend_from_slice(self.slice(0, at + size - self.len));
                take(&wrapped);
                self.wrapped = wrapped;
            }
            tail += size as u64;
            // Hand space back as we go: a full ring gets room before the whole batch is worked through.
            self.position(DATA_TAIL).store(tail, Ordering::Release);
        }
        self.position(DATA_TAIL).store(tail, Ordering::Release);
        (head - start) as usize
    }
}

impl Drop for Ring {
    fn drop(&mut self) {
        // SAFETY: exactly what `map` mapped, once; no slice of it outlives `self`.
        unsafe { libc::munmap(self.base.as_ptr().cast(), self.page + self.len) };
    }
}
