//! How good a profile is: what was read whole, what was lost, how fast it really sampled, how sure a share is.
//!
//! In: the selected samples with their flags and weights. Out: [`Quality`] (counts, and percentages of those samples to
//! which a question applies) and [`Rates`]. Limit: the 95 % bound takes samples as independent; phases that last longer
//! than a few samples make the true bound wider.

use super::selection::States;
use super::slice::Window;
use crate::clock::Mono;
use crate::record::{FrameKind, Recording, Sample, SampleFlags, State};

/// Counts of samples by what could be read. A percentage is of the samples to which the question applies, `None` when
/// it applies to none.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Quality {
    /// All selected samples.
    pub samples: u64,
    /// Of threads with a Python state.
    pub python_expected: u64,
    /// Of those, with their Python frames.
    pub python_read: u64,
    /// Whose native stack was to be unwound: all, when the recording has native frames at all.
    pub unwound: u64,
    /// Of those, unwound to the thread's entry.
    pub rooted: u64,
    /// With Python and native frames to be put in one order.
    pub mixed: u64,
    /// Of those, in one order.
    pub merged: u64,
    /// Deeper than what was copied.
    pub truncated: u64,
    /// Python frames read a moment after the sample.
    pub approximate: u64,
    /// Native, kernel and JIT frames in all samples together.
    pub code_frames: u64,
    /// Of those, without a symbol.
    pub unnamed_frames: u64,
}

/// `part` of `of` in percent.
pub(super) fn percent(part: u64, of: u64) -> Option<f64> {
    (of > 0).then(|| 100.0 * part as f64 / of as f64)
}

impl Quality {
    /// Counts the samples that `selected` yields.
    pub fn of<'a>(rec: &Recording, selected: impl Iterator<Item = &'a Sample>) -> Self {
        let native = rec.frames.iter().any(|f| f.kind == FrameKind::Native);
        // Frames with code, and those of them without a name, from each stack's leaf to its root.
        let mut below = vec![(0u32, 0u32); rec.stacks.len() + 1];
        for (i, stack) in rec.stacks.iter().enumerate() {
            let frame = rec.frame(stack.frame);
            let (code, unnamed) = below[stack.parent.0 as usize];
            let is_code = matches!(frame.kind, FrameKind::Native | FrameKind::Kernel | FrameKind::Jit);
            below[i + 1] = (code + u32::from(is_code), unnamed + u32::from(is_code && frame.function.is_none()));
        }
        let mut q = Self::default();
        for s in selected {
            let has = |bit| u64::from(s.flags.has(bit));
            let both = |a, b| u64::from(s.flags.has(a) && s.flags.has(b));
            q.samples += 1;
            q.python_expected += has(SampleFlags::HAS_PYTHON);
            q.python_read += both(SampleFlags::HAS_PYTHON, SampleFlags::PYTHON);
            if native {
                q.unwound += 1;
                q.rooted += has(SampleFlags::ROOTED);
                q.mixed += has(SampleFlags::PYTHON);
                q.merged += u64::from(s.flags.has(SampleFlags::PYTHON) && !s.flags.has(SampleFlags::UNMERGED));
            }
            q.truncated += has(SampleFlags::TRUNCATED);
            q.approximate += has(SampleFlags::APPROXIMATE);
            let (code, unnamed) = below[s.stack.0 as usize];
            q.code_frames += u64::from(code);
            q.unnamed_frames += u64::from(unnamed);
        }
        q
    }

    /// Samples of Python threads that have their Python frames.
    pub fn python_pct(&self) -> Option<f64> {
        percent(self.python_read, self.python_expected)
    }

    /// Samples unwound to the thread's entry.
    pub fn rooted_pct(&self) -> Option<f64> {
        percent(self.rooted, self.unwound)
    }

    /// Samples whose Python and native frames stand in one order.
    pub fn merged_pct(&self) -> Option<f64> {
        percent(self.merged, self.mixed)
    }

    /// Samples deeper than what was copied.
    pub fn truncated_pct(&self) -> Option<f64> {
        percent(self.truncated, self.samples)
    }

    /// Samples whose Python frames were read a moment later.
    pub fn approximate_pct(&self) -> Option<f64> {
        percent(self.approximate, self.samples)
    }

    /// Native, kernel and JIT frames without a symbol.
    pub fn unnamed_pct(&self) -> Option<f64> {
        percent(self.unnamed_frames, self.code_frames)
    }
}

/// How fast it sampled, and what follows from the number of samples.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Rates {
    /// Samples a second of CPU time that were asked for.
    pub asked_hz: Option<f64>,
    /// Samples that arrived for each second of CPU time, over all threads. The CPU time is the kernel's account of the
    /// targets (readings `target.cpu_ns`) where it was recorded, else what the selected samples and the lost ones stand
    /// for.
    pub achieved_hz: Option<f64>,
    /// CPUs in use on average, `None` when the time on a CPU was not selected.
    pub cores_used: Option<f64>,
    /// What the hypervisor took from the machine's CPUs in the window, percent of their time (`host.steal_ns`).
    pub steal_pct: Option<f64>,
    /// Half of the 95 % interval around a share of 1 %, in percentage points, from the effective number of samples.
    pub bound_of_1_pct: Option<f64>,
}

impl Rates {
    /// From the selected samples, each with the weight that counts, and the number of lost on-CPU samples.
    pub fn of(rec: &Recording, window: &Window, selected: &[(State, u64)], lost: u64) -> Self {
        let (mut on, mut on_ns, mut sum, mut squares) = (0u64, 0u64, 0.0, 0.0);
        let mut seen = States::NONE;
        for &(state, weight) in selected {
            seen = seen.or(States::one(state));
            if States::CPU.has(state) {
                on += 1;
                on_ns += weight;
            }
            sum += weight as f64;
            squares += (weight as f64).powi(2);
        }
        let seconds = window.length().secs();
        let sampled_s = on_ns as f64 / 1e9;
        let stood_for_s = if on > 0 { sampled_s * (on + lost) as f64 / on as f64 } else { 0.0 };
        let at_rate = match grown(rec, window, "target.cpu_ns") {
            Some(ns) if on > 0 => {
                // The whole targets' time, so all of their samples, selected or not.
                let all = rec.samples.iter().filter(|s| States::CPU.has(s.state) && window.contains(s.at)).count();
                (all as f64, ns / 1e9)
            }
            _ => (on as f64, stood_for_s),
        };
        let stolen = grown(rec, window, "host.steal_ns").zip(grown(rec, window, "host.cpu_ns"));
        // Kish's effective sample size: unequal weights tell less than as many equal ones.
        let effective = if squares > 0.0 { sum * sum / squares } else { selected.len() as f64 };
        Self {
            asked_hz: rec.meta.get("rate_hz").and_then(|r| r.parse().ok()).filter(|hz: &f64| hz.is_finite()),
            achieved_hz: (at_rate.1 > 0.0).then(|| at_rate.0 / at_rate.1),
            cores_used: (seen.meets(States::CPU) && seconds > 0.0).then(|| sampled_s / seconds),
            steal_pct: stolen.filter(|(_, all)| *all > 0.0).map(|(stolen, all)| 100.0 * stolen / all),
            bound_of_1_pct: (effective > 0.0).then(|| 100.0 * 1.96 * (0.01 * 0.99 / effective).sqrt()),
        }
    }
}

/// By how much a cumulative metric grew in the window. Between readings it is taken to grow evenly; outside of them not
/// at all. `None` with fewer than two readings.
fn grown(rec: &Recording, window: &Window, metric: &str) -> Option<f64> {
    let points: Vec<(Mono, f64)> =
        rec.readings.iter().filter(|r| r.1 == metric && r.2.is_empty()).map(|r| (r.0, r.3)).collect();
    let (first, last) = (points.first()?, points.last().filter(|_| points.len() > 1)?);
    let value_at = |at: Mono| {
        let next = points.partition_point(|p| p.0 <= at);
        match (next.checked_sub(1).and_then(|i| points.get(i)), points.get(next)) {
            (Some(a), Some(b)) => a.1 + (b.1 - a.1) * at.since(a.0) as f64 / b.0.since(a.0).max(1) as f64,
            (Some(only), None) | (None, Some(only)) => only.1,
            (None, None) => 0.0,
        }
    };
    let from = if window.cut_from { value_at(window.from) } else { first.1 };
    let to = if window.cut_to { value_at(window.to) } else { last.1 };
    (to >= from).then_some(to - from)
}

/// By how much a cumulative metric grew in the window, and over how many seconds. With a single reading, since the
/// recording's start.
pub(super) fn increase(rec: &Recording, window: &Window, metric: &str) -> Option<(f64, f64)> {
    let mut inside =
        rec.readings.iter().filter(|r| r.1 == metric && r.2.is_empty() && window.touches(r.0, r.0)).map(|r| (r.0, r.3));
    let first: (Mono, f64) = inside.next()?;
    let (before, last) = match inside.next_back() {
        Some(last) => (first, last),
        None => ((rec.started(), 0.0), first),
    };
    let seconds = last.0.since(before.0) as f64 / 1e9;
    let grown = last.1 - before.1;
    (seconds > 0.0 && grown >= 0.0).then_some((grown, seconds))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::analysis::{Profile, Selection, Slice, fixture::Script};
    use crate::record::Reading;

    #[test]
    fn the_achieved_rate_and_steal_come_from_the_kernels_account() {
        let s = Script::new(10);
        let t = s.thread(s.process(7, "npc"), 7, "main");
        s.on_cpu(t, s.stack(&["py:f:/a.py:1"]), 0, 400);
        for second in [0, 4, 8] {
            let at = Mono(Script::START + second * 1_000_000_000);
            let put = |metric, ns: u64| {
                s.read(Reading { at, metric, scope: String::new(), value: ns as f64 });
            };
            // Half a core; 5 % of two CPUs stolen.
            put("target.cpu_ns", second * 500_000_000);
            put("host.cpu_ns", 77 + second * 2_000_000_000);
            put("host.steal_ns", 11 + second * 100_000_000);
        }
        let rec = s.done();
        let rates = Profile::new(&rec, &Selection::cpu()).unwrap().rates;
        assert!((rates.achieved_hz.unwrap() - 100.0).abs() < 1e-9, "400 in four seconds of CPU time: {rates:?}");
        assert!((rates.steal_pct.unwrap() - 5.0).abs() < 1e-9);
        // Between readings the clock is taken to run evenly.
        let slice = Slice { from: Some("1s".parse().unwrap()), to: Some("3s".parse().unwrap()) };
        let rates = Profile::new(&rec, &Selection { slice, ..Selection::cpu() }).unwrap().rates;
        assert!((rates.achieved_hz.unwrap() - 200.0).abs() < 1e-9, "200 in one second of CPU time: {rates:?}");
    }
}
