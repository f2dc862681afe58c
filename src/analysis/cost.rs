//! What perfkit itself cost while it recorded, from the series that it writes about itself.

use super::quality::increase;
use super::slice::Window;
use crate::record::Recording;

/// perfkit's own cost in a window; `None` is what was not recorded.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct SelfCost {
    /// CPU time of the perfkit process, in percent of one core (readings `self.cpu_ns`, cumulative).
    pub cpu_pct_of_one_core: Option<f64>,
    /// The largest resident size seen (`self.rss_bytes`).
    pub rss_bytes: Option<u64>,
    /// The largest anonymous part of it seen (`self.anon_bytes`).
    pub anon_bytes: Option<u64>,
    /// Time in perfkit's BPF programs, which runs on the target's CPUs, in percent of one core (`bpf.run_ns`, cumulative).
    pub bpf_pct_of_one_core: Option<f64>,
    /// Nanoseconds of one run of a BPF program (`bpf.run_ns` over `bpf.runs`).
    pub bpf_ns_per_run: Option<f64>,
}

impl SelfCost {
    /// The cost in `window`.
    pub fn of(rec: &Recording, window: &Window) -> Self {
        let share = |metric| increase(rec, window, metric).map(|(ns, seconds)| 100.0 * ns / 1e9 / seconds);
        let peak = |metric: &str| {
            let inside = rec.readings.iter().filter(|r| r.1 == metric && window.touches(r.0, r.0));
            inside.map(|r| r.3.max(0.0) as u64).max()
        };
        let runs = increase(rec, window, "bpf.runs").filter(|(n, _)| *n > 0.0);
        Self {
            cpu_pct_of_one_core: share("self.cpu_ns"),
            rss_bytes: peak("self.rss_bytes"),
            anon_bytes: peak("self.anon_bytes"),
            bpf_pct_of_one_core: share("bpf.run_ns"),
            bpf_ns_per_run: increase(rec, window, "bpf.run_ns").zip(runs).map(|((ns, _), (n, _))| ns / n),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::analysis::Slice;
    use crate::clock::Mono;

    #[test]
    fn cumulative_series_are_differences_and_sizes_are_peaks() {
        let mut rec = Recording::default();
        rec.meta.insert("started_ns".into(), "0".into());
        rec.meta.insert("ended_ns".into(), "10000000000".into());
        for i in 0..=10u64 {
            let mut put = |metric: &str, value: f64| {
                rec.readings.push((Mono(i * 1_000_000_000), metric.into(), String::new(), value));
            };
            put("self.cpu_ns", 500e6 + 10e6 * i as f64);
            put("self.rss_bytes", 1000.0 + i as f64);
            put("bpf.run_ns", 1e6 * i as f64);
            put("bpf.runs", 100.0 * i as f64);
        }
        let cost = SelfCost::of(&rec, &Slice::default().window(&rec).unwrap());
        assert!((cost.cpu_pct_of_one_core.unwrap() - 1.0).abs() < 1e-9);
        assert_eq!((cost.rss_bytes, cost.anon_bytes), (Some(1010), None));
        assert!((cost.bpf_ns_per_run.unwrap() - 10_000.0).abs() < 1e-6);
        let slice = Slice { from: Some("2".parse().unwrap()), to: Some("4".parse().unwrap()) };
        assert_eq!(SelfCost::of(&rec, &slice.window(&rec).unwrap()).rss_bytes, Some(1003));
    }
}
