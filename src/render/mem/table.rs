//! Tables for programs: CSV with a line a tick and process, and mprof's `.dat`.

use std::fmt::Write;

use super::MemOptions;
use crate::analysis::memory::MemoryView;
use crate::record::series::{self as names, MEMORY};

/// A line for each tick of each process; a value holds until it is read again, and is empty before its first reading.
pub(super) fn csv(view: &MemoryView) -> String {
    let mut out = String::from("time_s,process");
    for s in MEMORY {
        let _ = write!(out, ",{}_{}", s.name, s.unit.name());
    }
    out.push('\n');
    let mut rows: Vec<_> = Vec::new();
    for (i, p) in view.processes.iter().enumerate() {
        rows.extend(p.points(names::RSS).iter().map(|(at, _)| (*at, i)));
    }
    rows.sort_unstable();
    // One look at each point, in time order.
    let mut next = vec![vec![0_usize; MEMORY.len()]; view.processes.len()];
    for (at, i) in rows {
        let Some(p) = view.processes.get(i) else { continue };
        let _ = write!(out, "{:.3},{}", view.seconds(at), p.scope);
        for (column, s) in MEMORY.iter().enumerate() {
            let points = if s.name.starts_with("cgroup.") {
                view.cgroup.get(s.name).map_or(&[][..], Vec::as_slice)
            } else {
                p.points(s.name)
            };
            let next = &mut next[i][column];
            // Values of one tick come some microseconds after its first.
            while points.get(*next).is_some_and(|p| p.0 <= at.plus(20_000_000)) {
                *next += 1;
            }
            match next.checked_sub(1).and_then(|n| points.get(n)) {
                Some((_, value)) => drop(write!(out, ",{value:.0}")),
                None => out.push(','),
            }
        }
        out.push('\n');
    }
    out
}

/// A `.dat` file, which `mprof plot` and what people made of it read: `MEM <MiB> <seconds since 1970>`, children as `CHLD <n>`.
pub(super) fn dat(view: &MemoryView, options: &MemOptions) -> String {
    let mut out = format!("CMDLINE {}\n", options.target.replace('\n', " "));
    let mut rows: Vec<_> = Vec::new();
    for (i, p) in view.processes.iter().enumerate() {
        rows.extend(p.points(names::RSS).iter().map(|(at, v)| (*at, i, *v)));
    }
    rows.sort_by_key(|(at, i, _)| (*at, *i));
    for (at, i, bytes) in rows {
        let seconds = view.unix_seconds(at).unwrap_or_else(|| view.seconds(at));
        let mib = bytes / f64::from(1 << 20);
        let _ = match i {
            0 => writeln!(out, "MEM {mib:.6} {seconds:.4}"),
            n => writeln!(out, "CHLD {} {mib:.6} {seconds:.4}", n - 1),
        };
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::analysis::memory::tests::grown;

    #[test]
    fn a_line_a_tick() {
        let text = csv(&grown());
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines.len(), 1 + 51 + 11);
        assert!(lines[0].starts_with("time_s,process,mem.rss_bytes,mem.anon_bytes,"), "{}", lines[0]);
        assert!(lines[1].starts_with("0.000,7,100000000,80000000,20000000,,"), "{}", lines[1]);
        assert!(lines.iter().all(|l| l.matches(',').count() == 1 + MEMORY.len()));
        let text = dat(&grown(), &MemOptions { target: "python app.py".into(), ..MemOptions::default() });
        assert!(text.starts_with("CMDLINE python app.py\nMEM 95.367432 0.0000\n"), "{text}");
        assert_eq!(text.lines().filter(|l| l.starts_with("CHLD 0 9.53")).count(), 11);
    }
}
