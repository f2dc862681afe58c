//! The shape of a series: it grows, warms up, has a step, saws, or rests.

use super::rank::{mann_kendall, median, theil_sen};

/// Blocks whose lowest points are the lower envelope.
const BLOCKS: usize = 12;
/// Points, and seconds, without which nothing is said.
const POINTS: usize = 24;
const SECONDS: f64 = 9.0;
/// A rise that chance makes more often than this is none.
const CHANCE: f64 = 0.01;
/// The rise must be so many times the usual distance of the envelope from its line.
const CLEAR: f64 = 4.0;
/// Less growth than this share of where it began, over the whole window, is too little to tell what becomes of it.
pub const ENOUGH: f64 = 0.08;
/// Less than this share is rest.
const REST: f64 = 0.01;
/// A slope of the second half below this share of the first half's is one that comes to rest.
const SLOWER: f64 = 0.5;

/// Where a series that comes to rest will rest.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Plateau {
    /// The value there.
    pub value: f64,
    /// The time in which the distance falls to a third (1/e), s.
    pub tau_s: f64,
    /// How long until 95 % of the distance that is left has gone, s; 0: it is there.
    pub left_s: f64,
}

/// What a series does.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Shape {
    /// Too few points.
    TooShort,
    /// It rises steadily, by enough.
    Growing,
    /// It rises, but by less than 8 % until now.
    TooEarly,
    /// It rises more and more slowly, towards a plateau that can be told.
    WarmingUp(Plateau),
    /// It rises more and more slowly, and not slowly enough to tell where it ends.
    Slowing,
    /// It was lower before one moment (s) and has rested since.
    Step {
        /// When, s.
        at_s: f64,
        /// By how much.
        by: f64,
    },
    /// It rises and falls again, between bounds.
    Sawtooth,
    /// It rests.
    Stable,
}

/// What is known of a series.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Trend {
    /// What it does.
    pub shape: Shape,
    /// Slope of the lower envelope over the last two thirds, a second.
    pub slope: f64,
    /// Its 95 % interval.
    pub slope_ci: (f64, f64),
    /// The envelope's rise over the whole window.
    pub growth: f64,
    /// That as a share of where it began.
    pub share: f64,
    /// The probability of such a rise by chance.
    pub chance: f64,
    /// The window, s.
    pub seconds: f64,
}

impl Trend {
    /// Whether it grows and has not begun to rest.
    pub fn grows(&self) -> bool {
        self.shape == Shape::Growing
    }

    /// Whether it rises at all, however little.
    pub fn rises(&self) -> bool {
        matches!(self.shape, Shape::Growing | Shape::TooEarly | Shape::Slowing)
    }

    fn none(seconds: f64) -> Self {
        let shape = Shape::TooShort;
        Self {
            shape,
            slope: 0.0,
            slope_ci: (f64::NEG_INFINITY, f64::INFINITY),
            growth: 0.0,
            share: 0.0,
            chance: 1.0,
            seconds,
        }
    }
}

/// Judges `points`: (s, value), in time order; values that are no numbers are left out.
pub fn trend(points: &[(f64, f64)]) -> Trend {
    let points: Vec<(f64, f64)> = points.iter().copied().filter(|(t, v)| t.is_finite() && v.is_finite()).collect();
    let (Some(first), Some(last)) = (points.first(), points.last()) else { return Trend::none(0.0) };
    let seconds = last.0 - first.0;
    if points.len() < POINTS || seconds < SECONDS {
        return Trend::none(seconds);
    }
    // The beginning is left aside: whatever was begun when perfkit came ends in it.
    let from = first.0 + seconds / 3.0;
    let envelope = minima(&points, from, last.0, BLOCKS);
    let Some((slope, slope_ci)) = theil_sen(&envelope).filter(|_| envelope.len() >= BLOCKS / 2) else {
        return Trend::none(seconds);
    };
    let values: Vec<f64> = envelope.iter().map(|p| p.1).collect();
    let chance = mann_kendall(&values);
    let whole = minima(&points, first.0, last.0, BLOCKS + BLOCKS / 2);
    let base = whole.first().map_or(0.0, |p| p.1).abs().max(f64::MIN_POSITIVE);
    let growth = slope * seconds;
    let mut trend = Trend { shape: Shape::Stable, slope, slope_ci, growth, share: growth / base, chance, seconds };
    let rise = slope * (last.0 - from);
    let rises = chance < CHANCE && rise > CLEAR * scatter(&envelope, slope) && rise > REST * base;
    let slows = slower(&envelope);
    trend.shape = if rises && !slows {
        if trend.share >= ENOUGH { Shape::Growing } else { Shape::TooEarly }
    } else {
        at_rest(&points, &whole, base, rises)
    };
    // What has grown by a steady rise until here cannot be told from one that will end far outside of the window.
    if trend.shape == Shape::Growing
        && let Some(plateau) = saturation(&whole, base).filter(|p| p.tau_s < seconds * 0.5)
    {
        trend.shape = Shape::WarmingUp(plateau);
    }
    trend
}

/// The lowest point of each of `count` equal stretches.
fn minima(points: &[(f64, f64)], from: f64, to: f64, count: usize) -> Vec<(f64, f64)> {
    let width = (to - from) / count as f64;
    let mut lowest: Vec<Option<f64>> = vec![None; count];
    for (t, v) in points.iter().filter(|(t, _)| *t >= from) {
        let block = (((t - from) / width) as usize).min(count - 1);
        lowest[block] = Some(lowest[block].map_or(*v, |l| l.min(*v)));
    }
    let middle = |i: usize| from + (i as f64 + 0.5) * width;
    lowest.iter().enumerate().filter_map(|(i, v)| Some((middle(i), (*v)?))).collect()
}

/// The median distance from the line with this slope.
fn scatter(points: &[(f64, f64)], slope: f64) -> f64 {
    let mut rest: Vec<f64> = points.iter().map(|(t, v)| v - slope * t).collect();
    rest.sort_by(f64::total_cmp);
    let middle = median(&rest);
    let mut apart: Vec<f64> = rest.iter().map(|r| (r - middle).abs()).collect();
    apart.sort_by(f64::total_cmp);
    median(&apart)
}

fn slower(envelope: &[(f64, f64)]) -> bool {
    let (early, late) = envelope.split_at(envelope.len() / 2);
    match (theil_sen(early), theil_sen(late)) {
        (Some((early, _)), Some((late, _))) => late < SLOWER * early,
        _ => false,
    }
}

/// What a series does that does not grow steadily.
fn at_rest(points: &[(f64, f64)], whole: &[(f64, f64)], base: f64, rises: bool) -> Shape {
    let lowest = whole.iter().map(|p| p.1).fold(f64::INFINITY, f64::min);
    let highest = whole.iter().map(|p| p.1).fold(f64::NEG_INFINITY, f64::max);
    let span = highest - lowest;
    if span > REST * base * 2.0 {
        let seconds = whole.last().map_or(0.0, |l| l.0) - whole.first().map_or(0.0, |f| f.0);
        let stepped = step(whole);
        if let Some(plateau) = saturation(whole, base) {
            let fits = stepped.as_ref().is_none_or(|s| s.unexplained > unexplained(whole, plateau.tau_s));
            if fits {
                return if plateau.tau_s < seconds * 0.5 { Shape::WarmingUp(plateau) } else { Shape::Slowing };
            }
        }
        if let Some(Step { at_s, by, unexplained }) = stepped
            && unexplained < 0.15
            && by > 0.0
        {
            return Shape::Step { at_s, by };
        }
    }
    if rises {
        return Shape::Slowing;
    }
    if saws(points, base) { Shape::Sawtooth } else { Shape::Stable }
}

struct Step {
    at_s: f64,
    by: f64,
    /// The share of the variance that it leaves.
    unexplained: f64,
}

/// The one change of level that explains most.
fn step(points: &[(f64, f64)]) -> Option<Step> {
    let values: Vec<f64> = points.iter().map(|p| p.1).collect();
    let mean = |v: &[f64]| v.iter().sum::<f64>() / v.len() as f64;
    let squares = |v: &[f64]| v.iter().map(|x| (x - mean(v)).powi(2)).sum::<f64>();
    let all = squares(&values);
    if all <= 0.0 || values.len() < 6 {
        return None;
    }
    // Two points on each side at least: one that is off is no level.
    let cut = |i: usize| squares(&values[..i]) + squares(&values[i..]);
    let best = (2..=values.len() - 2).min_by(|a, b| cut(*a).total_cmp(&cut(*b)))?;
    let by = mean(&values[best..]) - mean(&values[..best]);
    // Points are lowest ones: the stretch in which it rises has still the lower level.
    Some(Step { at_s: points[best - 1].0, by, unexplained: cut(best) / all })
}

/// The curve `a + b (1 - exp(-t / tau))` that fits best, where its bend is seen: `None` for a straight line.
fn saturation(points: &[(f64, f64)], base: f64) -> Option<Plateau> {
    let (first, last) = (points.first()?, points.last()?);
    let seconds = last.0 - first.0;
    if points.len() < 8 || seconds <= 0.0 {
        return None;
    }
    let fit = |tau: f64| least_squares(points, tau);
    let mut taus: Vec<f64> = (0..60).map(|i| seconds * 0.03 * 1.08_f64.powi(i)).collect();
    taus.retain(|tau| *tau < seconds * 3.0);
    let (tau, best) =
        taus.iter().filter_map(|tau| Some((*tau, fit(*tau)?))).min_by(|a, b| a.1.squares.total_cmp(&b.1.squares))?;
    let straight = line(points);
    // A bend, and not noise: it must leave much less than a straight line does, and be a rise that counts.
    let reach = best.b * (1.0 - (-seconds / tau).exp());
    if best.b <= 0.0 || best.squares > 0.35 * straight || reach < 2.0 * REST * base {
        return None;
    }
    let value = best.a + best.b;
    let distance = best.b * (-seconds / tau).exp();
    let left_s = if distance < REST * base { 0.0 } else { tau * 3.0 };
    Some(Plateau { value, tau_s: tau, left_s })
}

/// The share of the variance that the curve with this tau leaves.
fn unexplained(points: &[(f64, f64)], tau: f64) -> f64 {
    let mean = points.iter().map(|p| p.1).sum::<f64>() / points.len().max(1) as f64;
    let all: f64 = points.iter().map(|p| (p.1 - mean).powi(2)).sum();
    least_squares(points, tau).map_or(1.0, |f| f.squares / all.max(f64::MIN_POSITIVE))
}

struct Fit {
    a: f64,
    b: f64,
    squares: f64,
}

fn least_squares(points: &[(f64, f64)], tau: f64) -> Option<Fit> {
    let start = points.first()?.0;
    regress(points.iter().map(|(t, v)| (1.0 - (-(t - start) / tau).exp(), *v)))
}

/// The sum of squares that a straight line leaves.
fn line(points: &[(f64, f64)]) -> f64 {
    regress(points.iter().copied()).map_or(f64::INFINITY, |f| f.squares)
}

fn regress(points: impl Iterator<Item = (f64, f64)> + Clone) -> Option<Fit> {
    let n = points.clone().count() as f64;
    let (sx, sy) = points.clone().fold((0.0, 0.0), |(x, y), p| (x + p.0, y + p.1));
    let (mx, my) = (sx / n, sy / n);
    let (mut xx, mut xy) = (0.0, 0.0);
    for (x, y) in points.clone() {
        xx += (x - mx).powi(2);
        xy += (x - mx) * (y - my);
    }
    if n < 3.0 || xx <= 0.0 {
        return None;
    }
    let b = xy / xx;
    let a = my - b * mx;
    let squares = points.map(|(x, y)| (y - a - b * x).powi(2)).sum();
    Some(Fit { a, b, squares })
}

/// Whether it falls by a good part of its range again and again.
fn saws(points: &[(f64, f64)], base: f64) -> bool {
    let low = points.iter().map(|p| p.1).fold(f64::INFINITY, f64::min);
    let high = points.iter().map(|p| p.1).fold(f64::NEG_INFINITY, f64::max);
    let range = high - low;
    if range < 0.03 * base {
        return false;
    }
    let (mut peak, mut trough, mut falls) = (f64::NEG_INFINITY, f64::INFINITY, 0);
    for (_, v) in points {
        peak = peak.max(*v);
        if peak - v > range * 0.5 {
            falls += 1;
            (peak, trough) = (*v, *v);
        }
        trough = trough.min(*v);
    }
    falls >= 3
}
