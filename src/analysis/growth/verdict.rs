//! From evidence to one word: leak, growing, warming up, stable, … and the finer kind.
//!
//! In: [`Evidence`]: series by second, and what censuses say. Out: [`Judged`]. Invariant: evidence that is missing makes a
//! verdict weaker or `unknown`, with what would decide it; it never turns one into another.

use super::shape::{Shape, Trend, trend};
use crate::units::{Bytes, grouped};

/// Points of a series: seconds, value.
pub type Series = Vec<(f64, f64)>;

/// Suspects of each kind at most.
const SUSPECTS: usize = 5;
/// Censuses without which a heap is not judged.
const CENSUSES: usize = 3;

/// Something whose count grew from census to census.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Grown {
    /// The type's name; for a container, its own type.
    pub name: String,
    /// For a container, its address.
    pub container: Option<u64>,
    /// Whether the service or a library it installed defined it.
    pub user: bool,
    /// Instances or items at the first and at the last census.
    pub count: (u64, u64),
    /// Their blocks, bytes; 0 for containers.
    pub bytes: (u64, u64),
    /// From the first to the last census, s.
    pub seconds: f64,
    /// Whether it still grew in the second half, at half the rate of the first or more.
    pub steady: bool,
    /// Whether at nearly the same rate.
    pub linear: bool,
    /// The most items that its holder lets there be.
    pub limit: Option<u64>,
    /// From a root down, as far as it was found.
    pub path: Vec<String>,
    /// Of the instances looked at, how many are held so.
    pub of_sample: (u64, u64),
}

impl Grown {
    /// Instances or items a second.
    pub fn per_second(&self) -> f64 {
        (self.count.1 as f64 - self.count.0 as f64) / self.seconds.max(f64::MIN_POSITIVE)
    }

    /// Bytes a second.
    pub fn bytes_per_second(&self) -> f64 {
        (self.bytes.1 as f64 - self.bytes.0 as f64) / self.seconds.max(f64::MIN_POSITIVE)
    }
}

/// What censuses of a managed heap say.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Objects {
    /// How many there were.
    pub censuses: usize,
    /// Blocks alive, bytes.
    pub live: Series,
    /// Containers that grew, the strongest first.
    pub containers: Vec<Grown>,
    /// Types that grew, the strongest first, those of the service before the built-in ones.
    pub types: Vec<Grown>,
    /// Containers with the most items, where their holders were looked for.
    pub largest: Vec<Grown>,
}

/// Everything that a verdict may rest on; an empty series was not read.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Evidence {
    /// Resident memory, bytes.
    pub rss: Series,
    /// Its anonymous part.
    pub anon: Series,
    /// Its part with files behind.
    pub file: Series,
    /// Its shared memory.
    pub shmem: Series,
    /// The brk heap.
    pub heap: Series,
    /// Other anonymous mappings.
    pub anon_maps: Series,
    /// Thread arenas.
    pub arenas: Series,
    /// What this process alone has.
    pub uss: Series,
    /// Threads.
    pub threads: Series,
    /// Open descriptors.
    pub fds: Series,
    /// Heaps of thread arenas.
    pub arena_count: Series,
    /// `3.14.2` where it is CPython.
    pub python: Option<String>,
    /// The managed heap.
    pub objects: Option<Objects>,
}

/// Who may hold what grew.
#[derive(Debug, Clone, PartialEq)]
pub struct Suspect {
    /// Its place, from 1.
    pub rank: usize,
    /// `python-type`, `container`, `mapping`, `threads`, `fds`.
    pub kind: &'static str,
    /// What it is called.
    pub name: String,
    /// How fast it grows, bytes a second.
    pub growth_bytes_per_s: Option<f64>,
    /// How many more there are each second.
    pub growth_count_per_s: Option<f64>,
    /// The way to it from a root: `module npc.memory`, `REGISTRY`, `dict`, `NpcState`.
    pub path: Vec<String>,
    /// What speaks for it.
    pub evidence: String,
}

impl Suspect {
    /// How fast it grows, for people: `+24.8 kB/s, +12/s`; empty where that is not known.
    pub fn growth(&self) -> String {
        let sign = |v: f64| if v < 0.0 { '-' } else { '+' };
        let bytes = self.growth_bytes_per_s.map(|v| format!("{}{}/s", sign(v), Bytes(v.abs() as u64)));
        let count = self.growth_count_per_s.map(|v| match v.abs() {
            n if n >= 10.0 => format!("{}{}/s", sign(v), grouped(n.round() as u64)),
            n => format!("{}{n:.1}/s", sign(v)),
        });
        bytes.into_iter().chain(count).collect::<Vec<_>>().join(", ")
    }
}

/// The verdict: the words of CLI.md.
#[derive(Debug, Clone, PartialEq)]
pub struct Judged {
    /// In one word.
    pub verdict: String,
    /// In a finer one.
    pub kind: String,
    /// `high`, `medium`, `low`, or `none` when nothing is known.
    pub confidence: String,
    /// What would decide it; empty when it is decided.
    pub decides: String,
    /// The slope's interval, bytes a second.
    pub slope_ci: Option<(f64, f64)>,
    /// What speaks for it, a line each.
    pub evidence: Vec<String>,
    /// What is suspected, the strongest first.
    pub suspects: Vec<Suspect>,
    /// What the allocator would give back if it were asked to (`malloc_trim`), bytes.
    pub reclaimable_bytes: Option<f64>,
}

impl Judged {
    /// Nothing is known, and this would decide it.
    pub fn unknown(decides: &str) -> Self {
        Self::of("unknown", "unknown", "none").decided_by(decides)
    }

    fn of(verdict: &str, kind: &str, confidence: &str) -> Self {
        let [verdict, kind, confidence] = [verdict, kind, confidence].map(str::to_owned);
        Self {
            verdict,
            kind,
            confidence,
            decides: String::new(),
            slope_ci: None,
            evidence: Vec::new(),
            suspects: Vec::new(),
            reclaimable_bytes: None,
        }
    }

    fn decided_by(mut self, what: &str) -> Self {
        what.clone_into(&mut self.decides);
        self
    }

    fn because(mut self, line: String) -> Self {
        self.evidence.push(line);
        self
    }

    /// Whether it is a leak of any kind.
    pub fn is_leak(&self) -> bool {
        self.kind.ends_with("-leak")
    }
}

/// The verdict on `evidence`.
pub fn judge(evidence: &Evidence) -> Judged {
    let rss = trend(&evidence.rss);
    let suspects = suspects(evidence);
    let mut judged = word(evidence, rss, &suspects);
    judged.slope_ci = (rss.shape != Shape::TooShort).then_some(rss.slope_ci);
    judged.suspects = suspects;
    judged
}

fn word(evidence: &Evidence, rss: Trend, suspects: &[Suspect]) -> Judged {
    if evidence.rss.is_empty() {
        return Judged::unknown("memory that can be read: perfkit mem --pid P");
    }
    let anon = trend(&evidence.anon);
    let known = if evidence.anon.is_empty() { rss } else { anon };
    let told = |j: Judged| j.because(told(known));
    // Counted things are exact: they are leaks, whatever memory does yet.
    for (series, kind, what) in
        [(&evidence.threads, "thread-leak", "threads"), (&evidence.fds, "fd-leak", "open descriptors")]
    {
        if let Some((from, to)) = counted(series) {
            return told(Judged::of("leak", kind, "high")).because(format!("{what}: {from} → {to}, steadily"));
        }
    }
    if let Some(judged) = culprit(evidence, known, suspects) {
        return told(judged);
    }
    if runtime_version(evidence) && matches!(known.shape, Shape::Growing | Shape::Sawtooth | Shape::Slowing) {
        return told(Judged::of("growing", "runtime-version", "medium"))
            .because("CPython 3.14.0 to 3.14.4 collect so late that it looks like a leak; 3.14.5 does not".into())
            .decided_by("the same run on CPython 3.14.5 or later");
    }
    match known.shape {
        Shape::TooShort => Judged::unknown("a longer watch: at least 10 s and 24 readings, as in perfkit mem -d 60"),
        Shape::Growing => growing(evidence, known, told),
        Shape::TooEarly => told(Judged::unknown("a longer watch: it grew by less than 8 % until now")),
        Shape::Slowing => told(Judged::unknown("a longer watch: it grows more and more slowly, and may come to rest")),
        Shape::WarmingUp(plateau) => told(Judged::of("warming-up", "cache-warm-up", "medium")).because(format!(
            "it comes to rest at {}{}",
            size(plateau.value),
            if plateau.left_s > 0.0 { format!(", in some {:.0} s", plateau.left_s) } else { ", and has".into() }
        )),
        Shape::Step { at_s, by } => told(Judged::of("step", "step", "medium"))
            .because(format!("it rose by {} at {at_s:.0} s, and rests since", size(by))),
        Shape::Sawtooth => told(Judged::of("sawtooth", "sawtooth", "medium"))
            .because("it rises and falls again between bounds that do not rise".into()),
        Shape::Stable => at_rest(evidence, rss, told),
    }
}

/// Anonymous memory rests; what else is in RSS?
fn at_rest(evidence: &Evidence, rss: Trend, told: impl Fn(Judged) -> Judged) -> Judged {
    for (series, what) in [(&evidence.file, "pages of mapped files"), (&evidence.shmem, "shared memory")] {
        let of = trend(series);
        if of.rises() && of.growth > 0.5 * rss.growth && rss.share > 0.01 {
            return told(Judged::of("not-yours", "page-cache", "medium"))
                .because(format!("{what} grew by {}, anonymous memory rests", size(of.growth)));
        }
    }
    let alone = trend(&evidence.uss);
    if alone.grows() && alone.growth > 0.05 * rss.growth.max(1.0) && !rss.rises() {
        return told(Judged::of("growing", "copy-on-write", "medium")).because(format!(
            "resident memory rests, and {} of it is no longer shared: pages are written after a fork",
            size(alone.growth)
        ));
    }
    told(Judged::of("stable", "stable", if rss.seconds >= 30.0 { "high" } else { "medium" }))
}

/// Anonymous memory grows, and no object of a managed heap is to blame.
fn growing(evidence: &Evidence, known: Trend, told: impl Fn(Judged) -> Judged) -> Judged {
    let share = |series: &Series| trend(series).growth / known.growth.max(1.0);
    let (heap, maps, arenas) = (share(&evidence.heap), share(&evidence.anon_maps), share(&evidence.arenas));
    let flat = evidence.objects.as_ref().filter(|o| o.censuses >= CENSUSES);
    let flat = flat.map(|o| (trend_of_few(&o.live), o)).filter(|(live, _)| *live < 0.2 * known.slope);
    if let Some((from, to)) = counted(&evidence.arena_count)
        && arenas > 0.5
    {
        return told(Judged::of("fragmentation", "arenas", "medium"))
            .because(format!("glibc's thread arenas: {from} → {to}; MALLOC_ARENA_MAX caps them"));
    }
    if evidence.python.is_some() && flat.is_none() {
        return told(Judged::of("growing", "unknown", "low"))
            .decided_by("censuses of the Python heap: a watch of 30 s or more, as root");
    }
    let beside = if flat.is_some() { "; the Python heap rests" } else { "" };
    if maps > 0.7 && heap < 0.2 {
        return told(Judged::of("leak", "mapping-leak", "medium")).because(format!(
            "{:.0} % of the growth is in anonymous mappings: large blocks, or mmap{beside}",
            100.0 * maps.min(1.0)
        ));
    }
    told(Judged::of("growing", "unknown", "low"))
        .because(format!("{:.0} % of the growth is in the brk heap{beside}", 100.0 * heap.clamp(0.0, 1.0)))
        .decided_by("what malloc has in use: a leak of small blocks and fragmentation look the same from here")
}

/// A leak that censuses show, or a cache that fills.
fn culprit(evidence: &Evidence, known: Trend, suspects: &[Suspect]) -> Option<Judged> {
    let objects = evidence.objects.as_ref().filter(|o| o.censuses >= CENSUSES)?;
    // Memory may not rise while holes are filled; then the objects must do so without any doubt.
    let sure = |g: &Grown| known.grows() || (g.linear && g.count.1 > g.count.0 + g.count.0 / 4);
    let confidence = if known.grows() { "high" } else { "medium" };
    let counted = |g: &Grown, what: &str| {
        format!("{what}: {} → {}, {:+.1} a second", grouped(g.count.0), grouped(g.count.1), g.per_second())
    };
    let called = |g: &Grown| {
        suspects
            .iter()
            .find(|s| s.kind == "container" && s.name == g.called())
            .map_or_else(|| g.called(), |s| s.name.clone())
    };
    let of_containers = objects.containers.iter().filter(|c| c.steady);
    if let Some(grown) = of_containers.clone().find(|c| c.limit.is_none() && sure(c)) {
        let line = counted(grown, &format!("items of {}", called(grown)));
        return Some(Judged::of("leak", "container-leak", confidence).because(line));
    }
    if let Some((cache, limit)) = of_containers.clone().find_map(|c| Some((c, c.limit?))) {
        let left = limit.saturating_sub(cache.count.1) as f64 / cache.per_second().max(f64::MIN_POSITIVE);
        let line = counted(cache, &format!("items of {}", called(cache)));
        return Some(Judged::of("warming-up", "cache-warm-up", "high").because(format!(
            "{line}; it keeps {} at most, which takes {left:.0} s more at this rate",
            grouped(limit)
        )));
    }
    if let Some(grown) = objects.types.iter().find(|t| t.user && t.steady && sure(t)) {
        let line = counted(grown, &grown.name) + ", in no container that grows";
        return Some(Judged::of("leak", "type-leak", confidence).because(line));
    }
    // It grows, and not yet so that a leak could be told from a cache that fills.
    let grown = of_containers.clone().next().or_else(|| objects.types.iter().find(|t| t.user && t.steady))?;
    let line = counted(grown, &called(grown));
    Some(Judged::unknown("a longer watch: what grows may be a cache that comes to rest").because(line))
}

fn suspects(evidence: &Evidence) -> Vec<Suspect> {
    let mut all = Vec::new();
    let mut add = |kind, name: String, bytes, count, path, evidence| {
        let rank = all.len() + 1;
        let (growth_bytes_per_s, growth_count_per_s) = (bytes, count);
        all.push(Suspect { rank, kind, name, growth_bytes_per_s, growth_count_per_s, path, evidence });
    };
    let nothing = Objects::default();
    let objects = evidence.objects.as_ref().unwrap_or(&nothing);
    // Exact, and what objects grow with them only follows.
    for (series, kind, name) in [(&evidence.threads, "threads", "threads"), (&evidence.fds, "fds", "open descriptors")]
    {
        if let Some((from, to)) = counted(series) {
            let seconds = series.last().map_or(0.0, |l| l.0) - series.first().map_or(0.0, |f| f.0);
            let rate = (to - from) as f64 / seconds.max(f64::MIN_POSITIVE);
            add(kind, name.into(), None, Some(rate), Vec::new(), format!("{from} → {to} in {seconds:.0} s"));
        }
    }
    for c in objects.containers.iter().filter(|c| c.steady).take(SUSPECTS) {
        let items = objects.types.iter().find(|t| t.user && t.keeps_pace_with(c));
        let mut path = c.path.clone();
        path.extend(items.map(|t| t.name.clone()).filter(|n| path.last() != Some(n)));
        let bytes = items.map(Grown::bytes_per_second);
        add("container", c.called(), bytes, Some(c.per_second()), path, c.told());
    }
    for t in objects.types.iter().filter(|t| t.steady).take(SUSPECTS) {
        let held = match t.of_sample {
            (_, 0) => String::new(),
            (of, sample) => format!("; {of} of {sample} looked at are held so"),
        };
        // Lists, dicts and strings grow with what has them.
        let support = if t.user { "" } else { "; support: built-in or of a library" };
        let told = format!("{}{held}{support}", t.told());
        let (bytes, count) = (Some(t.bytes_per_second()), Some(t.per_second()));
        add("python-type", t.name.clone(), bytes, count, t.path.clone(), told);
    }
    // Nothing grew, and it was asked who holds the most.
    if !objects.containers.iter().any(|c| c.steady) {
        for c in objects.largest.iter().take(SUSPECTS) {
            let told = format!("{} items, among the most of this heap", grouped(c.count.1));
            add("container", c.called(), None, None, c.path.clone(), told);
        }
    }
    all
}

impl Grown {
    /// What people search for: where a path leads to.
    fn called(&self) -> String {
        match &self.path[..] {
            [module, attribute, ..] if module.starts_with("module ") => {
                format!("{}.{attribute} ({})", module.trim_start_matches("module "), self.name)
            }
            [first, .., last] => format!("{first} … {last}"),
            _ => self.name.clone(),
        }
    }

    fn told(&self) -> String {
        format!("{} → {} in {:.0} s", grouped(self.count.0), grouped(self.count.1), self.seconds)
    }

    /// Whether there is about one more of this for each item of `other`.
    fn keeps_pace_with(&self, other: &Self) -> bool {
        let (own, others) = (self.per_second(), other.per_second());
        others > 0.0 && (0.8..1.25).contains(&(own / others))
    }
}

/// From and to, when a count rises steadily: by five or more, by more than half of what it was or ten, in both halves.
fn counted(series: &Series) -> Option<(u64, u64)> {
    let (first, last) = (series.first()?, series.last()?);
    if series.len() < 3 || last.1 - first.1 < (first.1 * 0.5).clamp(5.0, 10.0) {
        return None;
    }
    let lowest_after = |from: f64, to: f64| {
        series.iter().filter(|p| p.0 >= from && p.0 < to).map(|p| p.1).fold(f64::INFINITY, f64::min)
    };
    // The floor of each quarter is above that of the one before.
    let at = |q: f64| first.0 + (last.0 - first.0) * q;
    let floors = [(0.0, 0.25), (0.25, 0.5), (0.5, 0.75), (0.75, 1.01)].map(|(a, b)| lowest_after(at(a), at(b)));
    let known: Vec<f64> = floors.into_iter().filter(|f| f.is_finite()).collect();
    let steady = known.len() >= 3 && known.windows(2).all(|w| w[1] > w[0]);
    let slows = known.len() == 4 && known[3] - known[2] < 0.4 * (known[1] - known[0]);
    (steady && !slows).then_some((first.1 as u64, last.1 as u64))
}

/// A second's growth of an exact series of few points; 0 unless it rises in its second half too.
fn trend_of_few(series: &Series) -> f64 {
    let (Some(first), Some(last)) = (series.first(), series.last()) else { return 0.0 };
    let Some(middle) = series.get(series.len() / 2) else { return 0.0 };
    let rate = (last.1 - first.1) / (last.0 - first.0).max(f64::MIN_POSITIVE);
    if last.1 > middle.1 && middle.1 > first.1 { rate } else { 0.0 }
}

fn runtime_version(evidence: &Evidence) -> bool {
    let patch = evidence.python.as_deref().and_then(|v| v.strip_prefix("3.14."));
    patch.and_then(|p| p.chars().next()).is_some_and(|c| ('0'..='4').contains(&c))
}

fn told(trend: Trend) -> String {
    let sign = if trend.slope < 0.0 { "-" } else { "+" };
    let chance = if trend.chance < 0.001 { "< 0.1 %".to_owned() } else { format!("{:.1} %", 100.0 * trend.chance) };
    format!(
        "anonymous memory: {sign}{}/s over {:.0} s ({:+.1} %), by chance: {chance}",
        size(trend.slope.abs()),
        trend.seconds,
        100.0 * trend.share
    )
}

fn size(bytes: f64) -> String {
    Bytes(bytes.max(0.0) as u64).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(from: f64, slope: f64) -> Series {
        (0..300).map(|i| (f64::from(i) * 0.2, from + slope * f64::from(i) * 0.2)).collect()
    }

    fn few(from: f64, slope: f64) -> Series {
        (0..12).map(|i| (f64::from(i) * 5.0, from + slope * f64::from(i) * 5.0)).collect()
    }

    fn grown(name: &str, container: Option<u64>, steady: bool) -> Grown {
        let count = (100, 6_100);
        Grown {
            name: name.into(),
            container,
            user: true,
            count,
            seconds: 60.0,
            steady,
            linear: steady,
            ..Grown::default()
        }
    }

    #[test]
    fn each_kind_has_its_marks() {
        let mb = 1e6;
        let grows = Evidence {
            rss: line(100.0 * mb, 0.5 * mb),
            anon: line(80.0 * mb, 0.5 * mb),
            anon_maps: line(40.0 * mb, 0.5 * mb),
            heap: line(40.0 * mb, 0.0),
            ..Evidence::default()
        };
        let kind = |e: &Evidence| {
            let judged = judge(e);
            (judged.verdict, judged.kind)
        };
        let is = |e: &Evidence, verdict: &str, word: &str| assert_eq!(kind(e), (verdict.into(), word.into()), "{e:?}");
        is(&grows, "leak", "mapping-leak");
        // Where Python runs and no census was had, the kind is not known.
        is(&Evidence { python: Some("3.11.7".into()), ..grows.clone() }, "growing", "unknown");
        let objects = Objects { censuses: 12, live: few(50.0 * mb, 0.5 * mb), ..Objects::default() };
        let with =
            |objects: Objects| Evidence { python: Some("3.11.7".into()), objects: Some(objects), ..grows.clone() };
        let containers = vec![grown("dict", Some(7), true)];
        is(&with(Objects { containers, ..objects.clone() }), "leak", "container-leak");
        let cache = vec![Grown { limit: Some(9_000), ..grown("dict", Some(7), true) }];
        is(&with(Objects { containers: cache, ..objects.clone() }), "warming-up", "cache-warm-up");
        let types = vec![grown("npc.Npc", None, true)];
        is(&with(Objects { types, ..objects.clone() }), "leak", "type-leak");
        let types = vec![grown("npc.Npc", None, false)];
        is(&with(Objects { types, ..objects.clone() }), "growing", "unknown");
        let native = Evidence { heap: line(40.0 * mb, 0.5 * mb), anon_maps: line(40.0 * mb, 0.0), ..grows.clone() };
        is(&native, "growing", "unknown");
        let rests = Evidence { rss: line(100.0 * mb, 0.0), anon: line(80.0 * mb, 0.0), ..Evidence::default() };
        is(&rests, "stable", "stable");
        is(&Evidence { threads: line(4.0, 0.5), ..rests.clone() }, "leak", "thread-leak");
        is(&Evidence { fds: line(4.0, 0.5), ..rests.clone() }, "leak", "fd-leak");
        let cache = Evidence { rss: line(100.0 * mb, mb), file: line(20.0 * mb, mb), ..rests.clone() };
        is(&cache, "not-yours", "page-cache");
        let cow = Evidence { uss: line(10.0 * mb, mb), ..rests.clone() };
        is(&cow, "growing", "copy-on-write");
        let arenas = Evidence {
            arenas: line(1.0 * mb, 0.5 * mb),
            arena_count: line(1.0, 0.5),
            anon_maps: line(40.0 * mb, 0.0),
            ..grows.clone()
        };
        is(&arenas, "fragmentation", "arenas");
        let early: Series = line(100.0 * mb, 0.5 * mb).into_iter().take(10).collect();
        is(&Evidence { rss: early.clone(), anon: early, ..Evidence::default() }, "unknown", "unknown");
        is(&Evidence::default(), "unknown", "unknown");
        let fourteen = Evidence { python: Some("3.14.2".into()), ..grows };
        is(&fourteen, "growing", "runtime-version");
    }
}
