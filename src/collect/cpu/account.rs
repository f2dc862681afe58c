//! What the waits of a thread add up to: those that are known one by one, and those that others stand for.
//!
//! In: ended intervals with the share of switches that each stands for, and now and then the exact time that the thread
//! spent off the CPU. Out: samples whose weights add up to that exact time. The intervals that stand for others say how the
//! time between is split among stacks and reasons; how much it is in all is not estimated (a ratio estimator: the plain sum
//! of lengths times shares can be far off where lengths differ much).

use super::switches::{Away, put};
use crate::clock::Mono;
use crate::record::{Recorder, SampleFlags, State, ThreadId};

/// So many intervals are waited for before they say how time is split.
const FEW: usize = 16;
/// For so long; then earlier ones help.
const PATIENCE_NS: u64 = 5_000_000_000;
/// Less time without a stack than this is not worth a row.
const TRIFLE_NS: u64 = 1_000_000;

/// Exact times of a thread's ended intervals, ns since the start.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct OffTimes {
    /// Waiting.
    pub(super) waited: u64,
    /// Runnable without a CPU.
    pub(super) runnable: u64,
}

/// An ended interval that stands for others.
#[derive(Debug)]
struct Representative {
    away: Away,
    times: OffTimes,
}

/// One thread's waits so far.
#[derive(Debug, Default)]
pub(super) struct Account {
    /// Told already.
    told: OffTimes,
    unsettled: Vec<Representative>,
    /// The last that were settled: they help where new ones are few.
    settled: Vec<Representative>,
    /// Since when intervals are unsettled.
    since: Option<Mono>,
    thread: Option<ThreadId>,
}

impl Account {
    /// An interval that stands for itself ended, and is told.
    pub(super) fn add_told(&mut self, thread: ThreadId, times: OffTimes) {
        self.thread = Some(thread);
        self.told.waited += times.waited;
        self.told.runnable += times.runnable;
    }

    /// An interval that stands for others ended.
    pub(super) fn add_representative(&mut self, away: Away, times: OffTimes) {
        self.thread = Some(away.thread);
        self.since.get_or_insert(away.at);
        self.unsettled.push(Representative { away, times });
    }

    /// Tells the representatives, so that everything told adds up to `exact`. All intervals that `exact` counts must have
    /// been added. Few of them wait for more company, but not with `last`: then what nothing stands for is told as such.
    pub(super) fn settle(&mut self, exact: OffTimes, now: Mono, last: bool, recorder: &Recorder) {
        let waits_long = self.since.is_some_and(|s| now.since(s) > PATIENCE_NS);
        if !last && self.unsettled.len() < FEW && !waits_long {
            return;
        }
        let open = OffTimes {
            waited: exact.waited.saturating_sub(self.told.waited),
            runnable: exact.runnable.saturating_sub(self.told.runnable),
        };
        let from = self.since.take().unwrap_or(now);
        let new = self.unsettled.len();
        let mut representatives = std::mem::take(&mut self.settled);
        representatives.drain(..representatives.len().saturating_sub(FEW.saturating_sub(new)));
        representatives.append(&mut self.unsettled);
        let stands_for =
            |r: &Representative, ns: u64| u64::try_from(u128::from(ns) * u128::from(r.away.share) / 256).unwrap_or(ns);
        let estimate = representatives.iter().fold(OffTimes::default(), |sum, r| OffTimes {
            waited: sum.waited + stands_for(r, r.times.waited),
            runnable: sum.runnable + stands_for(r, r.times.runnable),
        });
        let scale = |r: &Representative, ns: u64, open: u64, all: u64| {
            (u128::from(stands_for(r, ns)) * u128::from(open)).checked_div(u128::from(all)).unwrap_or(0) as u64
        };
        for r in &representatives {
            let waited = scale(r, r.times.waited, open.waited, estimate.waited);
            let runnable = scale(r, r.times.runnable, open.runnable, estimate.runnable);
            let at = r.away.at;
            put(&r.away, at, waited, State::OffCpu, recorder);
            put(&r.away, at.plus(r.times.waited), runnable, State::Runnable, recorder);
            self.told.waited += waited;
            self.told.runnable += runnable;
        }
        representatives.drain(..representatives.len().saturating_sub(FEW));
        self.settled = representatives;
        if last {
            self.tell_rest(exact, from, recorder);
        }
    }

    /// Time whose stacks were not taken, or whose records were lost.
    fn tell_rest(&mut self, exact: OffTimes, from: Mono, recorder: &Recorder) {
        let Some(thread) = self.thread else { return };
        let stack = recorder.stack(&[recorder.label("[stack not taken]")]);
        let flags = SampleFlags::default();
        let away = Away { sequence: 0, at: from, thread, stack, flags, reason: Some("other"), share: 256, told_ns: 0 };
        let waited = exact.waited.saturating_sub(self.told.waited);
        let runnable = exact.runnable.saturating_sub(self.told.runnable);
        for (ns, state) in [(waited, State::OffCpu), (runnable, State::Runnable)] {
            if ns > TRIFLE_NS {
                put(&away, from, ns, state, recorder);
            }
        }
        self.told = exact;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::{Process, StackId, Store, Thread};

    /// What was told: weight, state and reason.
    type Told = Vec<(u64, State, Option<&'static str>)>;

    fn told(run: impl FnOnce(&mut Account, &Recorder, Away)) -> Told {
        let recorder = Recorder::new();
        let process = recorder.process(Process::default());
        let thread = recorder.thread(Thread { process, tid: 5, name: String::new() });
        let (stack, flags, reason) = (StackId::EMPTY, SampleFlags::default(), Some("futex"));
        let away = Away { sequence: 1, at: Mono(100), thread, stack, flags, reason, share: 2560, told_ns: 0 };
        run(&mut Account::default(), &recorder, away);
        let mut store = Store::in_memory().unwrap();
        store.flush(&recorder).unwrap();
        store.recording().unwrap().samples.iter().map(|s| (s.weight_ns, s.state, s.reason)).collect()
    }

    fn times(waited: u64, runnable: u64) -> OffTimes {
        OffTimes { waited, runnable }
    }

    #[test]
    fn what_stands_for_others_adds_up_to_the_exact_time() {
        let all = told(|account, recorder, away| {
            account.add_told(away.thread, times(500, 0));
            // By their shares they would be 10 times 1000 and 10 times 3000 ns.
            account.add_representative(away.clone(), times(1000, 0));
            account.add_representative(Away { reason: Some("epoll"), ..away }, times(3000, 10));
            account.settle(times(20_500, 70), Mono(200), false, recorder);
            account.settle(times(20_500, 70), Mono(200), true, recorder);
        });
        let expected =
            [(5000, State::OffCpu, Some("futex")), (15_000, State::OffCpu, Some("epoll")), (70, State::Runnable, None)];
        assert_eq!(all, expected);
    }

    #[test]
    fn at_the_end_the_last_ones_stand_for_what_came_after_them() {
        let all = told(|account, recorder, away| {
            account.add_representative(away.clone(), times(10, 0));
            account.settle(times(100, 0), away.at.plus(PATIENCE_NS + 1), false, recorder);
            account.settle(times(150, 0), Mono(200), true, recorder);
        });
        assert_eq!(all.iter().map(|t| t.0).collect::<Vec<_>>(), [100, 50]);
    }

    #[test]
    fn time_without_any_stack_is_told_at_the_end() {
        let all = told(|account, recorder, away| {
            account.add_told(away.thread, times(10, 0));
            account.settle(times(5_000_010, 3_000_000), Mono(200), false, recorder);
            account.settle(times(5_000_010, 3_000_000), Mono(300), true, recorder);
        });
        assert_eq!(all, [(5_000_000, State::OffCpu, Some("other")), (3_000_000, State::Runnable, None)]);
    }

    #[test]
    fn more_told_than_the_exact_time_takes_nothing_back() {
        let all = told(|account, recorder, away| {
            account.add_told(away.thread, times(500, 0));
            account.add_representative(away, times(10, 0));
            account.settle(times(400, 0), Mono(200), true, recorder);
        });
        assert_eq!(all, []);
    }
}
