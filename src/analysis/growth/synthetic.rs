//! The rule on series of which is known whether they grow: how often it cries wolf, and how often it sees the wolf.
//!
//! 300 readings in 60 s, base 200, from a seeded generator; each figure is of 300 series.

use super::shape::{Shape, trend};

/// xorshift64*, and the sum of twelve for a bell.
struct Random(u64);

impl Random {
    fn unit(&mut self) -> f64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 11) as f64 / (1_u64 << 53) as f64
    }

    fn normal(&mut self) -> f64 {
        (0..12).map(|_| self.unit()).sum::<f64>() - 6.0
    }
}

const N: usize = 300;
const SERIES: u64 = 300;

/// The share of series, made by `make` from a generator, on which `is` holds.
fn share(mut make: impl FnMut(&mut Random) -> Vec<f64>, is: impl Fn(Shape) -> bool) -> f64 {
    let hits = (0..SERIES).filter(|seed| {
        let mut random = Random(0x9e37_79b9_7f4a_7c15 ^ (seed + 1).wrapping_mul(0xbf58_476d_1ce4_e5b9));
        let values = make(&mut random);
        let points: Vec<(f64, f64)> = values.iter().enumerate().map(|(i, v)| (i as f64 * 0.2, *v)).collect();
        is(trend(&points).shape)
    });
    hits.count() as f64 / SERIES as f64
}

fn correlated(random: &mut Random, phi: f64) -> Vec<f64> {
    let mut level = 0.0;
    (0..N)
        .map(|_| {
            level = phi * level + random.normal();
            200.0 + level
        })
        .collect()
}

fn steps(random: &mut Random) -> Vec<f64> {
    let mut values = vec![200.0; N];
    for _ in 0..6 {
        let at = (random.unit() * N as f64) as usize;
        let by = (1.0 + 3.0 * random.unit()) * if random.unit() < 0.5 { -1.0 } else { 1.0 };
        values.iter_mut().skip(at).for_each(|v| *v += by);
    }
    values.iter().map(|v| v + 0.2 * random.normal()).collect()
}

fn leaking(mut values: Vec<f64>, share: f64) -> Vec<f64> {
    for (i, v) in values.iter_mut().enumerate() {
        *v += 200.0 * share * i as f64 / N as f64;
    }
    values
}

fn warm(random: &mut Random, tau: f64) -> Vec<f64> {
    (0..N).map(|i| 200.0 + 100.0 * (1.0 - (-(i as f64) / (tau * N as f64)).exp()) + random.normal()).collect()
}

fn grows(shape: Shape) -> bool {
    shape == Shape::Growing
}

#[test]
fn it_seldom_cries_wolf() {
    for phi in [0.0, 0.8, 0.95] {
        let wrong = share(|r| correlated(r, phi), grows);
        assert!(wrong <= 0.02, "noise of {phi}: {wrong}");
    }
    let saw = |r: &mut Random| (0..N).map(|i| 200.0 + (i % 17) as f64 * 3.0 + r.normal()).collect();
    assert!(share(saw, grows) <= 0.02);
    assert!(share(saw, |s| s == Shape::Sawtooth) >= 0.95);
    let wrong = share(steps, grows);
    assert!(wrong <= 0.05, "steps: {wrong}");
    for tau in [0.1, 0.17, 0.25, 0.33] {
        let wrong = share(|r| warm(r, tau), grows);
        assert!(wrong <= 0.02, "warm-up of {tau}: {wrong}");
    }
    let fill = |r: &mut Random| (0..N).map(|i| 200.0 + 0.5 * i.min(150) as f64 + r.normal()).collect();
    assert!(share(fill, grows) <= 0.02, "a cache that is full: {}", share(fill, grows));
}

#[test]
fn it_sees_the_wolf() {
    for (phi, growth, wanted) in [(0.0, 0.1, 0.95), (0.8, 0.1, 0.9), (0.8, 0.16, 0.99)] {
        let right = share(|r| leaking(correlated(r, phi), growth), grows);
        assert!(right >= wanted, "{growth} of growth in noise of {phi}: {right}");
    }
    let saw = |r: &mut Random| leaking((0..N).map(|i| 200.0 + (i % 17) as f64 * 1.0 + r.normal()).collect(), 0.16);
    assert!(share(saw, grows) >= 0.95, "a leak under a sawtooth: {}", share(saw, grows));
    // A rise in noise may look as if it slowed: it is told to rise all the same.
    let rises = |s| matches!(s, Shape::Growing | Shape::TooEarly | Shape::Slowing);
    let right = share(|r| leaking(correlated(r, 0.8), 0.08), rises);
    assert!(right >= 0.95, "8 % of growth: {right}");
    // What has grown by less than 8 % is told to be too early, or nothing, and never a leak.
    let early = |r: &mut Random| leaking(correlated(r, 0.8), 0.04);
    assert!(share(early, grows) <= 0.02, "{}", share(early, grows));
    assert!(share(early, |s| s == Shape::TooEarly) >= 0.5);
}

#[test]
fn a_warm_up_names_its_plateau() {
    for tau in [0.1, 0.17, 0.25] {
        let right = share(|r| warm(r, tau), |s| matches!(s, Shape::WarmingUp(p) if (p.value - 300.0).abs() < 15.0));
        assert!(right >= 0.95, "{tau}: {right}");
    }
    let jump = |r: &mut Random| (0..N).map(|i| if i < 120 { 200.0 } else { 260.0 } + r.normal()).collect();
    let right = share(jump, |s| matches!(s, Shape::Step { at_s, .. } if (at_s - 24.0).abs() < 4.0));
    assert!(right >= 0.95, "a step: {right}");
}
