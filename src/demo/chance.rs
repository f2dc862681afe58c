//! Chance that is the same each time: what the demo's players do, and what happens in its native world.

/// A small generator of evenly spread numbers (SplitMix64); good enough to choose what a player does.
#[derive(Debug, Clone)]
pub(super) struct Chance(pub(super) u64);

impl Chance {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// From 0 to below `limit`; 0 for a limit of 0.
    pub(super) fn below(&mut self, limit: u64) -> u64 {
        ((u128::from(self.next()) * u128::from(limit)) >> 64) as u64
    }

    /// One of `texts`; nothing of none.
    pub(super) fn pick<'a>(&mut self, texts: &[&'a str]) -> &'a str {
        let at = self.below(texts.len() as u64) as usize;
        texts.get(at).copied().unwrap_or_default()
    }

    /// From 0 to below 1.
    pub(super) fn share(&mut self) -> f64 {
        (self.next() >> 11) as f64 / (1_u64 << 53) as f64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_stay_below_their_limit_and_reach_all_of_it() {
        let mut chance = Chance(1);
        let mut seen = [0; 10];
        for _ in 0..1000 {
            seen[chance.below(10) as usize] += 1;
            assert!((0.0..1.0).contains(&chance.share()));
        }
        assert!(seen.iter().all(|&n| n > 50), "{seen:?}");
        assert_eq!(chance.below(0), 0);
        assert_eq!(chance.pick(&[]), "");
    }
}
