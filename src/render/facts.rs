//! The words that several renderers share: who was profiled, what the title says, numbers with separators.

use crate::analysis::{ClockKind, Profile};
use crate::record::{Thread, ThreadId};
use crate::units::{Hertz, Nanos, grouped};

/// A percentage with one digit, `99.97` as `99.9` rather than `100.0`: all but one is not all.
pub(super) fn pct(value: f64) -> String {
    if value > 99.9 && value < 100.0 {
        return "99.9 %".to_owned();
    }
    if value > 0.0 && value < 0.05 { "< 0.1 %".to_owned() } else { format!("{value:.1} %") }
}

/// `npc-server (pid 42)`, with the number of further processes.
pub(super) fn target(profile: &Profile<'_>) -> String {
    let rec = profile.recording;
    // Without a sample, what was attached to is still worth naming.
    let busiest = profile.processes.first().map(|p| rec.process(p.process)).or(rec.processes.first());
    let Some(process) = busiest else { return "no process".to_owned() };
    let name = if process.name.is_empty() { "process".to_owned() } else { clean(&process.name) };
    match profile.processes.len() {
        0 | 1 => format!("{name} (pid {})", process.pid),
        n => format!("{name} (pid {}) and {} more", process.pid, n - 1),
    }
}

/// `text` without characters that XML forbids.
pub(super) fn clean(text: &str) -> String {
    text.chars().map(|c| if c.is_control() || matches!(c, '\u{fffe}' | '\u{ffff}') { ' ' } else { c }).collect()
}

/// `12,345 samples in 60.0 s at 99 Hz, none lost`.
pub(super) fn extent(profile: &Profile<'_>) -> String {
    let things = if profile.samples == 1 { "sample" } else { "samples" };
    let rate = rate(profile).map_or_else(String::new, |hz| format!(" at {hz}"));
    let lost = if profile.lost == 0 { "none lost".to_owned() } else { format!("{} LOST", grouped(profile.lost)) };
    format!("{} {things} in {}{rate}, {lost}", grouped(profile.samples), profile.window.length())
}

/// The rate that was asked for; intervals of waiting are not sampled at a rate.
pub(super) fn rate(profile: &Profile<'_>) -> Option<Hertz> {
    profile.rates.asked_hz.filter(|_| profile.clock != ClockKind::OffCpu).map(Hertz)
}

/// The title of a picture or file: clock, target, samples, rate, loss.
pub(super) fn title(profile: &Profile<'_>) -> String {
    format!("{} profile of {}: {}", profile.clock.title(), target(profile), extent(profile))
}

/// The slice within the recording, `None` for the whole.
pub(super) fn slice(profile: &Profile<'_>) -> Option<String> {
    if profile.window.is_whole() {
        return None;
    }
    let start = profile.recording.started();
    let at = |t: crate::clock::Mono| Nanos(t.since(start));
    Some(format!("from {} to {} of the recording", at(profile.window.from), at(profile.window.to)))
}

/// What a thread is called: `worker (tid 43)`.
pub(super) fn thread(profile: &Profile<'_>, id: ThreadId) -> String {
    thread_name(profile.recording.thread(id))
}

/// The same of the thread itself.
pub(super) fn thread_name(t: &Thread) -> String {
    if t.name.is_empty() { format!("tid {}", t.tid) } else { format!("{} (tid {})", t.name, t.tid) }
}

/// Why something was lost, largest first: `100 ring full, 20 throttled`.
pub(super) fn loss_reasons(profile: &Profile<'_>) -> String {
    let rows: Vec<String> = profile.losses.iter().map(|l| format!("{} {}", grouped(l.count), l.why)).collect();
    rows.join(", ")
}

/// How much of what there was to get is missing, in percent.
pub(super) fn lost_pct(profile: &Profile<'_>) -> f64 {
    let all = profile.samples + profile.lost;
    if all == 0 { 0.0 } else { 100.0 * profile.lost as f64 / all as f64 }
}

/// Why there is nothing to show.
pub(super) fn why_empty(profile: &Profile<'_>) -> String {
    if profile.recording.samples.is_empty() {
        return match profile.clock {
            ClockKind::OffCpu | ClockKind::Wall => "no sample: the target's threads did not change state",
            ClockKind::Gil => "no sample: no thread was seen with the GIL",
            ClockKind::Cpu | ClockKind::Active => {
                "no sample: the target used no CPU; --mode wall shows what it waits for"
            }
        }
        .to_owned();
    }
    let all = grouped(profile.recording.samples.len() as u64);
    format!("none of the recording's {all} samples is in this slice, state and choice of threads")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_read_well() {
        assert_eq!((grouped(0), grouped(999), grouped(1000)), ("0".into(), "999".into(), "1,000".into()));
        assert_eq!(grouped(1234567), "1,234,567");
        assert_eq!(
            (pct(99.97), pct(100.0), pct(0.01), pct(0.0)),
            ("99.9 %".into(), "100.0 %".into(), "< 0.1 %".into(), "0.0 %".into())
        );
    }
}
