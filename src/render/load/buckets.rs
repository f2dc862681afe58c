//! Times as Locust rounds them, to lay a run of either beside the other.
//!
//! Locust keeps whole milliseconds below 100, tens below 1000, hundreds below 10,000 and thousands above; minimum, maximum and mean
//! are exact there and stay so here.

use crate::record::load::{LoadReport, Second, Spread};

/// Rounds the percentiles of `report`.
pub fn as_locust_rounds(report: &mut LoadReport) {
    let all = [&mut report.latency_ms, &mut report.service_ms, &mut report.first_byte_ms];
    all.into_iter().for_each(round_spread);
    report.percentiles.iter_mut().for_each(round);
    for e in &mut report.by_name {
        [&mut e.latency_ms, &mut e.service_ms, &mut e.first_byte_ms].into_iter().for_each(round_spread);
        e.percentiles.iter_mut().for_each(round);
    }
}

/// Rounds the percentiles of the last seconds.
pub fn round_recent(recent: &mut [Vec<Option<f64>>]) {
    recent.iter_mut().flatten().for_each(round);
}

/// Rounds the percentiles of a second.
pub fn round_second(s: &mut Second) {
    [&mut s.p50_ms, &mut s.p95_ms, &mut s.p99_ms].into_iter().for_each(round);
}

fn round_spread(s: &mut Spread) {
    [&mut s.p50, &mut s.p75, &mut s.p90, &mut s.p95, &mut s.p99, &mut s.p99_9].into_iter().for_each(round);
}

fn round(value: &mut Option<f64>) {
    *value = value.map(|v| {
        let step = match v {
            v if v < 100.0 => 1.0,
            v if v < 1000.0 => 10.0,
            v if v < 10_000.0 => 100.0,
            _ => 1000.0,
        };
        (v / step).round() * step
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_steps_are_locusts() {
        for (exact, rounded) in [(0.4, 0.0), (12.6, 13.0), (147.0, 150.0), (3432.0, 3400.0), (58_760.0, 59_000.0)] {
            let mut value = Some(exact);
            round(&mut value);
            assert_eq!(value, Some(rounded));
        }
    }
}
