//! Off-CPU intervals: a thread's leaving of the CPU, with its stack, joined with its coming back.
//!
//! In: switch-out samples and switch-in records, in any order (they come through the rings of different CPUs). Out: two
//! samples an interval: the wait with its reason, and the time it was runnable before it ran. Where switches are many only
//! some have stacks; each then stands for `share` of them, and an [`Account`] makes them add up to the thread's exact time.
//! A wait that lasted while all sleepers were looked at ([`Switches::looked`]) was found for certain and stands for itself
//! alone, whatever its share. A long wait is told piece by piece, so that a recording that is cut, or a slice of it, has it
//! too.

use std::collections::VecDeque;

use rustc_hash::FxHashMap;

use super::account::{Account, OffTimes};
use crate::clock::Mono;
use crate::os::bpf::{LONG_WAIT_NS, SwitchIn};
use crate::record::{Event, Recorder, Sample, SampleFlags, StackId, State, ThreadId};

/// A wait that is longer is told in pieces.
const PIECE_NS: u64 = 1_000_000_000;
/// Unmatched ends kept; an end without a beginning is a beginning that was lost.
const EARLY_LIMIT: usize = 10_000;
/// Looks at the sleepers that are remembered. Older intervals than the oldest of them have seen one in any case.
const LOOKS: usize = 1000;

/// A thread that left the CPU.
#[derive(Debug, Clone)]
pub(super) struct Away {
    /// Number of the interval.
    pub(super) sequence: u64,
    /// When it left, or until when its wait has been told.
    pub(super) at: Mono,
    pub(super) thread: ThreadId,
    pub(super) stack: StackId,
    pub(super) flags: SampleFlags,
    /// What it waits for; `None`: it was preempted and only waits for a CPU.
    pub(super) reason: Option<&'static str>,
    /// How many switches it stands for, in 1/256.
    pub(super) share: u32,
    /// The part of the interval that has been told already, ns.
    pub(super) told_ns: u64,
}

/// The intervals under way, and what the ended ones add up to.
#[derive(Debug, Default)]
pub(super) struct Switches {
    away: FxHashMap<u32, Away>,
    early: FxHashMap<(u32, u64), SwitchIn>,
    accounts: FxHashMap<u32, Account>,
    /// When all sleepers were looked at.
    looks: VecDeque<Mono>,
}

impl Switches {
    /// Thread `tid` left the CPU. Returns whether its interval is complete already.
    pub(super) fn left(&mut self, tid: u32, away: Away, recorder: &Recorder) -> bool {
        if let Some(back) = self.early.remove(&(tid, away.sequence)) {
            self.complete(away, back, recorder);
            return true;
        }
        // A newer interval means that the end of the older one was lost; what was told of it stays.
        self.away.insert(tid, away);
        false
    }

    /// Thread `back.tid` runs again. Returns whether its interval is complete now.
    pub(super) fn came_back(&mut self, back: SwitchIn, recorder: &Recorder) -> bool {
        match self.away.get(&back.tid) {
            Some(away) if away.sequence == back.sequence => {
                if let Some(away) = self.away.remove(&back.tid) {
                    self.complete(away, back, recorder);
                }
                true
            }
            // It was long enough to be looked for, and was not found.
            _ if !back.told => false,
            _ => {
                if self.early.len() >= EARLY_LIMIT {
                    self.early.clear();
                }
                self.early.insert((back.tid, back.sequence), back);
                false
            }
        }
    }

    fn complete(&mut self, away: Away, back: SwitchIn, recorder: &Recorder) {
        let runnable = back.runnable_ns.min(back.away_ns);
        let times = OffTimes { waited: back.away_ns - runnable, runnable };
        let certain = away.share <= 256 || self.was_looked_at(&away, times.waited);
        let account = self.accounts.entry(back.tid).or_default();
        if certain {
            tell(&away, back.away_ns, runnable, recorder);
            account.add_told(away.thread, times);
        } else {
            account.add_representative(away, times);
        }
    }

    /// Whether thread `tid` is known to be away in its interval `sequence`.
    pub(super) fn knows(&self, tid: u32, sequence: u64) -> bool {
        self.away.get(&tid).is_some_and(|a| a.sequence == sequence)
    }

    /// All threads that had waited for [`LONG_WAIT_NS`] at `at` have been entered.
    pub(super) fn looked(&mut self, at: Mono) {
        if self.looks.len() >= LOOKS {
            self.looks.pop_front();
        }
        self.looks.push_back(at);
    }

    /// Whether a look fell into the first `waited` ns of an interval, late enough to find it.
    fn was_looked_at(&self, away: &Away, waited: u64) -> bool {
        if away.reason.is_none() {
            return false;
        }
        let start = Mono(away.at.0.saturating_sub(away.told_ns));
        let first = self.looks.partition_point(|at| at.since(start) < LONG_WAIT_NS);
        self.looks.get(first).is_some_and(|at| at.since(start) < waited)
    }

    /// Makes what was told of thread `tid` add up to `exact`. Every record up to that account must have been taken. With
    /// `last` nothing more will come.
    pub(super) fn settle(&mut self, tid: u32, exact: OffTimes, now: Mono, last: bool, recorder: &Recorder) {
        if let Some(account) = self.accounts.get_mut(&tid) {
            account.settle(exact, now, last, recorder);
        }
        if last {
            self.accounts.remove(&tid);
        }
    }

    /// Tells the pieces of long waits that have passed by `now`. With `all` every wait is told, for the end. `still_away`
    /// says of a thread and an interval's number whether it goes on; the end of one that does not was lost, and it is
    /// dropped. Returns how many were.
    pub(super) fn tell_long(
        &mut self,
        now: Mono,
        all: bool,
        still_away: impl Fn(u32, u64) -> bool,
        recorder: &Recorder,
    ) -> u64 {
        let before = self.away.len();
        let mut away = std::mem::take(&mut self.away);
        away.retain(|&tid, away| {
            let passed = now.since(away.at);
            if passed < PIECE_NS && !all || passed == 0 {
                return true;
            }
            if !still_away(tid, away.sequence) {
                return false;
            }
            // One that may still turn out to stand for others is told when it ends; at the end it stands for itself.
            if away.share > 256 && !all && !self.was_looked_at(away, passed + away.told_ns) {
                return true;
            }
            // Preempted threads wait for a CPU alone; for the others the wake-up, if there was one, is not known yet.
            let state = if away.reason.is_some() { State::OffCpu } else { State::Runnable };
            put(away, away.at, passed, state, recorder);
            away.told_ns += passed;
            away.at = now;
            true
        });
        self.away = away;
        (before - self.away.len()) as u64
    }

    /// A thread ended.
    pub(super) fn ended(&mut self, tid: u32) {
        self.away.remove(&tid);
    }
}

/// Records, for itself alone, what has not been told of an interval of `away_ns`, of which the last `runnable_ns` were spent runnable.
fn tell(away: &Away, away_ns: u64, runnable_ns: u64, recorder: &Recorder) {
    let rest = away_ns.saturating_sub(away.told_ns);
    let runnable = runnable_ns.min(rest);
    let waited = rest - runnable;
    put(away, away.at, waited, State::OffCpu, recorder);
    put(away, away.at.plus(waited), runnable, State::Runnable, recorder);
}

/// Records `length_ns` of an interval from `at` on.
pub(super) fn put(away: &Away, at: Mono, length_ns: u64, state: State, recorder: &Recorder) {
    if length_ns == 0 {
        return;
    }
    recorder.put(Event::Sample(Sample {
        at,
        thread: away.thread,
        stack: away.stack,
        weight_ns: length_ns,
        state,
        reason: away.reason.filter(|_| state == State::OffCpu).or((state == State::OffCpu).then_some("other")),
        flags: away.flags,
    }));
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::{Process, Store, Thread};

    fn told(run: impl FnOnce(&mut Switches, &Recorder, Away)) -> Vec<(u64, u64, State, Option<&'static str>)> {
        let recorder = Recorder::new();
        let process = recorder.process(Process::default());
        let thread = recorder.thread(Thread { process, tid: 5, name: String::new() });
        let away = Away {
            sequence: 1,
            at: Mono(100),
            thread,
            stack: StackId::EMPTY,
            flags: SampleFlags::default(),
            reason: Some("futex"),
            share: 256,
            told_ns: 0,
        };
        run(&mut Switches::default(), &recorder, away);
        let mut store = Store::in_memory().unwrap();
        store.flush(&recorder).unwrap();
        store.recording().unwrap().samples.iter().map(|s| (s.at.0, s.weight_ns, s.state, s.reason)).collect()
    }

    #[test]
    fn an_interval_is_a_wait_and_a_time_runnable_in_either_order() {
        let back = SwitchIn { away_ns: 50, runnable_ns: 10, sequence: 1, tid: 5, told: true };
        let expected = [(100, 40, State::OffCpu, Some("futex")), (140, 10, State::Runnable, None)];
        let in_order = told(|s, r, away| {
            assert!(!s.left(5, away, r));
            assert!(s.came_back(back, r));
        });
        assert_eq!(in_order, expected);
        let early = told(|s, r, away| {
            assert!(!s.came_back(back, r));
            assert!(s.left(5, away, r));
        });
        assert_eq!(early, expected);
    }

    #[test]
    fn a_long_wait_is_told_in_pieces_that_add_up() {
        let pieces = told(|s, r, away| {
            s.left(5, away, r);
            assert_eq!(s.tell_long(Mono(100 + PIECE_NS), false, |_, _| true, r), 0);
            s.came_back(SwitchIn { away_ns: PIECE_NS + 30, runnable_ns: 5, sequence: 1, tid: 5, told: true }, r);
        });
        assert_eq!(pieces.iter().map(|p| p.1).collect::<Vec<_>>(), [PIECE_NS, 25, 5]);
    }

    #[test]
    fn a_wait_that_a_look_found_stands_for_itself_alone() {
        let start = 100;
        let told = told(|s, r, away| {
            let thinned = Away { share: 25_600, ..away };
            s.looked(Mono(start + LONG_WAIT_NS + 5));
            // A long one that was looked at, then a short one.
            s.left(5, thinned.clone(), r);
            s.came_back(SwitchIn { away_ns: LONG_WAIT_NS + 30, runnable_ns: 0, sequence: 1, tid: 5, told: true }, r);
            s.left(5, Away { sequence: 2, at: Mono(start + LONG_WAIT_NS + 50), ..thinned }, r);
            s.came_back(SwitchIn { away_ns: 10, runnable_ns: 0, sequence: 2, tid: 5, told: true }, r);
            let exact = OffTimes { waited: LONG_WAIT_NS + 30 + 700, runnable: 0 };
            s.settle(5, exact, Mono(start + 2 * LONG_WAIT_NS), true, r);
        });
        assert_eq!(told.iter().map(|t| t.1).collect::<Vec<_>>(), [LONG_WAIT_NS + 30, 700]);
    }
}
