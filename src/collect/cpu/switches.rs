//! Off-CPU intervals: a thread's leaving of the CPU, with its stack, joined with its coming back.
//!
//! In: switch-out samples and switch-in records, in any order (they come through the rings of different CPUs). Out: two
//! samples an interval: the wait with its reason, and the time it was runnable before it ran. When there are more switches
//! than the budget allows, only some have stacks; each then stands for `share` switches (Horvitz and Thompson's estimator),
//! while the exact times of every thread are kept by the programs. A long wait is told piece by piece, so that a
//! recording that is cut, or a slice of it, has it too.

use rustc_hash::FxHashMap;

use crate::clock::Mono;
use crate::os::bpf::SwitchIn;
use crate::record::{Event, Recorder, Sample, SampleFlags, StackId, State, ThreadId};

/// A wait that is longer is told in pieces.
const PIECE_NS: u64 = 1_000_000_000;
/// Unmatched ends kept; an end without a beginning is a beginning that was lost.
const EARLY_LIMIT: usize = 10_000;

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

/// The intervals under way.
#[derive(Debug, Default)]
pub(super) struct Switches {
    away: FxHashMap<u32, Away>,
    early: FxHashMap<(u32, u64), SwitchIn>,
}

impl Switches {
    /// Thread `tid` left the CPU. Returns whether its interval is complete already.
    pub(super) fn left(&mut self, tid: u32, away: Away, recorder: &Recorder) -> bool {
        if let Some(back) = self.early.remove(&(tid, away.sequence)) {
            tell(&away, back.away_ns, back.runnable_ns, recorder);
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
                tell(away, back.away_ns, back.runnable_ns, recorder);
                self.away.remove(&back.tid);
                true
            }
            _ => {
                if self.early.len() >= EARLY_LIMIT {
                    self.early.clear();
                }
                self.early.insert((back.tid, back.sequence), back);
                false
            }
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
        self.away.retain(|&tid, away| {
            let passed = now.since(away.at);
            if passed < PIECE_NS && !all || passed == 0 {
                return true;
            }
            if !still_away(tid, away.sequence) {
                return false;
            }
            // Preempted threads wait for a CPU alone; for the others the wake-up, if there was one, is not known yet.
            let state = if away.reason.is_some() { State::OffCpu } else { State::Runnable };
            put(away, away.at, passed, state, recorder);
            away.told_ns += passed;
            away.at = now;
            true
        });
        (before - self.away.len()) as u64
    }

    /// A thread ended.
    pub(super) fn ended(&mut self, tid: u32) {
        self.away.remove(&tid);
    }
}

/// Records what has not been told of an interval of `away_ns`, of which the last `runnable_ns` were spent runnable.
fn tell(away: &Away, away_ns: u64, runnable_ns: u64, recorder: &Recorder) {
    let rest = away_ns.saturating_sub(away.told_ns);
    let runnable = runnable_ns.min(rest);
    let waited = rest - runnable;
    if waited > 0 {
        put(away, away.at, waited, State::OffCpu, recorder);
    }
    if runnable > 0 {
        put(away, away.at.plus(waited), runnable, State::Runnable, recorder);
    }
}

fn put(away: &Away, at: Mono, length_ns: u64, state: State, recorder: &Recorder) {
    recorder.put(Event::Sample(Sample {
        at,
        thread: away.thread,
        stack: away.stack,
        weight_ns: (u128::from(length_ns) * u128::from(away.share) / 256) as u64,
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
            share: 512,
            told_ns: 0,
        };
        run(&mut Switches::default(), &recorder, away);
        let mut store = Store::in_memory().unwrap();
        store.flush(&recorder).unwrap();
        store.recording().unwrap().samples.iter().map(|s| (s.at.0, s.weight_ns, s.state, s.reason)).collect()
    }

    #[test]
    fn an_interval_is_a_wait_and_a_time_runnable_in_either_order() {
        let back = SwitchIn { away_ns: 50, runnable_ns: 10, sequence: 1, tid: 5 };
        let expected = [(100, 80, State::OffCpu, Some("futex")), (140, 20, State::Runnable, None)];
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
            s.left(5, Away { share: 256, ..away }, r);
            assert_eq!(s.tell_long(Mono(100 + PIECE_NS), false, |_, _| true, r), 0);
            s.came_back(SwitchIn { away_ns: PIECE_NS + 30, runnable_ns: 5, sequence: 1, tid: 5 }, r);
        });
        assert_eq!(pieces.iter().map(|p| p.1).collect::<Vec<_>>(), [PIECE_NS, 25, 5]);
    }
}
