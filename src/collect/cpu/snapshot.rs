//! A few pages of a process, read as near to one instant as can be had without stopping it.
//!
//! In: addresses, as they are asked for. Out: their bytes, from pages that were read whole and then stay as they were until
//! the next [`Snapshot::take`]. The pages that the last walk needed are read again in one system call, which takes about a
//! microsecond for a Python stack of 3.11 and later; what else is asked for is added page by page.

use std::cell::RefCell;

use crate::os::memory::{Fault, LiveMemory, Memory};

const PAGE: usize = 4096;
/// Pages kept at most; a walk that needs more reads the rest directly.
const LIMIT: usize = 64;
/// Pages read ahead at most: each one takes time in which the thread runs on.
const AHEAD: usize = 12;

/// Memory of a process that holds still.
#[derive(Debug)]
pub(super) struct Snapshot {
    live: LiveMemory,
    pages: RefCell<Pages>,
}

#[derive(Debug, Default)]
struct Pages {
    starts: Vec<u64>,
    bytes: Vec<u8>,
    /// So many of them, from the first, were read together.
    ahead: usize,
}

/// The pages that walks over one thread need, in the order in which they need them.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Guess(Vec<u64>);

impl Guess {
    /// Whether more pages are needed than are read ahead.
    pub(super) fn is_full(&self) -> bool {
        self.0.len() >= AHEAD
    }
}

impl Snapshot {
    pub(super) fn new(live: LiveMemory) -> Self {
        Self { live, pages: RefCell::default() }
    }

    /// Forgets all pages and reads those of `guess`, and the word at `word` right before and right after the last of them.
    /// `None`: that did not work, the pages are read as they are asked for.
    pub(super) fn take(&self, guess: &Guess, word: u64) -> Option<(u64, u64)> {
        let mut pages = self.pages.borrow_mut();
        let Pages { starts, bytes, ahead } = &mut *pages;
        starts.clear();
        *ahead = 0;
        let known = guess.0.get(..guess.0.len().min(AHEAD))?;
        let (last, others) = known.split_last()?;
        let mut pieces = [(0, 0); AHEAD + 2];
        let wanted = known.len() + 2;
        let all = others.iter().map(|p| (*p, PAGE)).chain([(word, 8), (*last, PAGE), (word, 8)]);
        for (slot, piece) in pieces.iter_mut().zip(all) {
            *slot = piece;
        }
        // The words have room behind the pages.
        let room = (AHEAD + 1) * PAGE;
        bytes.resize(bytes.len().max(room), 0);
        let total = known.len() * PAGE + 16;
        let n = self.live.gather(pieces.get(..wanted)?, bytes.get_mut(..total)?);
        if n != total {
            return None;
        }
        // Where the first word stands the last page begins from now on.
        let at = others.len() * PAGE;
        let word_at = |at: usize| bytes.get(at..at + 8)?.try_into().ok().map(u64::from_le_bytes);
        let words = (word_at(at)?, word_at(at + 8 + PAGE)?);
        bytes.copy_within(at + 8..at + 8 + PAGE, at);
        starts.extend(known);
        *ahead = known.len();
        Some(words)
    }

    /// Whether all that was asked for since [`Snapshot::take`] had been read together.
    pub(super) fn is_whole(&self) -> bool {
        let pages = self.pages.borrow();
        pages.starts.len() == pages.ahead
    }

    /// What to read ahead the next time: the pages asked for now and those of before, the one that holds `last` at the end.
    pub(super) fn learn(&self, guess: &mut Guess, last: u64) {
        let pages = self.pages.borrow();
        let (ahead, added) = pages.starts.split_at(pages.ahead.min(pages.starts.len()));
        let last = last & !(PAGE as u64 - 1);
        if added.is_empty() && !ahead.is_empty() && guess.0.last() == Some(&last) {
            return;
        }
        let mut next: Vec<u64> = added.iter().chain(ahead).copied().filter(|p| *p != last).collect();
        next.truncate(AHEAD - 1);
        if pages.starts.contains(&last) {
            next.push(last);
        }
        guess.0 = next;
    }

    /// Copies from one page.
    fn piece(&self, at: u64, into: &mut [u8]) -> Result<(), Fault> {
        let fault = Fault { at, len: into.len() };
        let start = at & !(PAGE as u64 - 1);
        let mut pages = self.pages.borrow_mut();
        let Pages { starts, bytes, .. } = &mut *pages;
        let index = if let Some(index) = starts.iter().position(|p| *p == start) {
            index
        } else {
            let index = starts.len();
            if index >= LIMIT {
                return self.live.read(at, into);
            }
            bytes.resize(bytes.len().max((index + 1) * PAGE), 0);
            self.live.read(start, bytes.get_mut(index * PAGE..(index + 1) * PAGE).ok_or(fault)?)?;
            starts.push(start);
            index
        };
        let from = index * PAGE + (at - start) as usize;
        into.copy_from_slice(bytes.get(from..from + into.len()).ok_or(fault)?);
        Ok(())
    }
}

impl Memory for Snapshot {
    fn read(&self, at: u64, into: &mut [u8]) -> Result<(), Fault> {
        let mut done = 0;
        while done < into.len() {
            let from = at.checked_add(done as u64).ok_or(Fault { at, len: into.len() })?;
            let room = PAGE - (from as usize & (PAGE - 1));
            let to = into.len().min(done + room);
            self.piece(from, into.get_mut(done..to).unwrap_or_default())?;
            done = to;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicU64, Ordering};

    #[test]
    fn it_holds_still_until_it_is_taken_anew() {
        let cell = Box::new(AtomicU64::new(1));
        let at = &raw const *cell as u64;
        let snapshot = Snapshot::new(LiveMemory::new(std::process::id()));
        let mut guess = Guess::default();
        assert_eq!(snapshot.take(&guess, at), None);
        assert_eq!(snapshot.u64_at(at), Ok(1));
        assert!(!snapshot.is_whole());
        snapshot.learn(&mut guess, at);
        cell.store(2, Ordering::SeqCst);
        assert_eq!(snapshot.u64_at(at), Ok(1));
        assert_eq!(snapshot.take(&guess, at), Some((2, 2)));
        assert_eq!(snapshot.u64_at(at), Ok(2));
        assert!(snapshot.is_whole());
        assert!(snapshot.u64_at(8).is_err());
        guess.0.insert(0, 0);
        assert_eq!(snapshot.take(&guess, at), None);
        assert_eq!(snapshot.u64_at(at), Ok(2));
    }

    #[test]
    fn reads_over_page_borders_are_whole() {
        let bytes: Vec<u8> = (0..3 * PAGE).map(|i| (i * 31 % 251) as u8).collect();
        let snapshot = Snapshot::new(LiveMemory::new(std::process::id()));
        let mut guess = Guess::default();
        for _ in 0..2 {
            snapshot.take(&guess, bytes.as_ptr() as u64);
            let read = snapshot.bytes_at(bytes.as_ptr() as u64, bytes.len(), 1 << 20).unwrap();
            assert_eq!(read, bytes);
            snapshot.learn(&mut guess, bytes.as_ptr() as u64 + PAGE as u64);
        }
    }
}
