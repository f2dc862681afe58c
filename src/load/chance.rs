//! Chance that is the same each time: one stream for each user, task start and schedule, all from the run's seed.
//!
//! Invariant: a stream is a pure function of the seed and of what it is for, never of threads or of time.

/// SplitMix64: passes the usual batteries, 8 bytes of state, one multiplication chain a number.
#[derive(Debug, Clone, Copy)]
pub struct Chance(u64);

impl Chance {
    /// The stream number `stream` of the run with this seed.
    pub fn new(seed: u64, stream: u64) -> Self {
        let mut start = Self(seed ^ 0x5851_f42d_4c95_7f2d);
        let a = start.bits();
        let mut own = Self(a ^ stream.wrapping_mul(0xd6e8_feb8_6659_fd93));
        own.bits();
        own
    }

    /// 64 even bits.
    pub fn bits(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// From 0 to below `limit`; 0 for a limit of 0.
    pub fn below(&mut self, limit: u64) -> u64 {
        ((u128::from(self.bits()) * u128::from(limit)) >> 64) as u64
    }

    /// From 0 to below 1.
    pub fn share(&mut self) -> f64 {
        (self.bits() >> 11) as f64 / (1_u64 << 53) as f64
    }

    /// Exponentially distributed with mean 1.
    pub fn exponential(&mut self) -> f64 {
        -(1.0 - self.share()).ln()
    }

    /// From `low` to `high`, both included.
    pub fn between(&mut self, low: i64, high: i64) -> i64 {
        let width = (high.wrapping_sub(low) as u64).wrapping_add(1);
        let step = if width == 0 { self.bits() } else { self.below(width) };
        low.wrapping_add(step as i64)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn streams_are_even_and_their_own() {
        let mut c = Chance::new(1, 2);
        let mut seen = [0_u32; 10];
        let mut sum = 0.0;
        for _ in 0..10_000 {
            seen[c.below(10) as usize] += 1;
            sum += c.exponential();
        }
        assert!(seen.iter().all(|&n| n > 850 && n < 1150), "{seen:?}");
        assert!((sum / 10_000.0 - 1.0).abs() < 0.05);
        assert_ne!(Chance::new(1, 3).bits(), Chance::new(1, 2).bits());
        assert_eq!(Chance::new(1, 3).bits(), Chance::new(1, 3).bits());
        assert_eq!(c.between(5, 5), 5);
        assert!((-2..=2).contains(&c.between(-2, 2)));
        c.between(i64::MIN, i64::MAX);
    }
}
