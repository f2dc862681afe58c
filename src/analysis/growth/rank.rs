//! Rank statistics: the test for a trend and the robust slope.

/// One-sided probability that points without a trend rise as these do (Mann-Kendall with ties, normal approximation with
/// continuity correction). 1.0 for fewer than three points.
pub fn mann_kendall(values: &[f64]) -> f64 {
    let n = values.len();
    if n < 3 {
        return 1.0;
    }
    let mut rises = 0_i64;
    for (i, a) in values.iter().enumerate() {
        for b in values.iter().skip(i + 1) {
            rises += match b.total_cmp(a) {
                std::cmp::Ordering::Greater => 1,
                std::cmp::Ordering::Less => -1,
                std::cmp::Ordering::Equal => 0,
            };
        }
    }
    let deviation = deviation(values);
    if rises <= 0 || deviation <= 0.0 {
        return 1.0;
    }
    upper_tail((rises - 1) as f64 / deviation)
}

/// The standard deviation of Kendall's S for these values, ties taken into account.
fn deviation(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let term = |t: f64| t * (t - 1.0) * (2.0 * t + 5.0);
    let ties: f64 = sorted.chunk_by(|a, b| a.total_cmp(b).is_eq()).map(|equal| term(equal.len() as f64)).sum();
    ((term(values.len() as f64) - ties) / 18.0).max(0.0).sqrt()
}

/// P(Z > z) of the standard normal distribution (Abramowitz and Stegun 26.2.17; error below 1e-7).
fn upper_tail(z: f64) -> f64 {
    if z < 0.0 {
        return 1.0 - upper_tail(-z);
    }
    let t = 1.0 / (1.0 + 0.231_641_9 * z);
    let coefficients = [0.319_381_530, -0.356_563_782, 1.781_477_937, -1.821_255_978, 1.330_274_429];
    let series = coefficients.iter().rev().fold(0.0, |sum, c| (sum + c) * t);
    (-z * z / 2.0).exp() / (2.0 * std::f64::consts::PI).sqrt() * series
}

/// Slope (median of the slopes of all pairs) and its 95 % interval; `None` when no two points are apart in time.
pub fn theil_sen(points: &[(f64, f64)]) -> Option<(f64, (f64, f64))> {
    let mut slopes: Vec<f64> = Vec::with_capacity(points.len() * points.len() / 2);
    for (i, (t, v)) in points.iter().enumerate() {
        slopes.extend(points.iter().skip(i + 1).filter(|(u, _)| u > t).map(|(u, w)| (w - v) / (u - t)));
    }
    slopes.retain(|s| s.is_finite());
    slopes.sort_by(f64::total_cmp);
    let last = slopes.len().checked_sub(1)?;
    let values: Vec<f64> = points.iter().map(|p| p.1).collect();
    let spread = 1.96 * deviation(&values);
    let at = |rank: f64| slopes[(rank.round().max(0.0) as usize).min(last)];
    let n = slopes.len() as f64;
    Some((median(&slopes), (at((n - spread) / 2.0 - 1.0), at(f64::midpoint(n, spread)))))
}

/// The middle of sorted values, 0 without any.
pub(super) fn median(sorted: &[f64]) -> f64 {
    match sorted.len() {
        0 => 0.0,
        n if n % 2 == 1 => sorted[n / 2],
        n => f64::midpoint(sorted[n / 2 - 1], sorted[n / 2]),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_test_and_the_slope_have_their_textbook_values() {
        // S = 45 of 10 rising points: z = 44 / sqrt(125).
        let rising: Vec<f64> = (0..10).map(f64::from).collect();
        assert!((mann_kendall(&rising) - 4.15e-5).abs() < 1e-6, "{}", mann_kendall(&rising));
        let falling: Vec<f64> = rising.iter().rev().copied().collect();
        assert!(mann_kendall(&falling) > 0.999);
        assert!(mann_kendall(&[3.0; 20]) > 0.999);
        assert!((upper_tail(2.326) - 0.01).abs() < 1e-4 && (upper_tail(0.0) - 0.5).abs() < 1e-6);
        let mut points: Vec<(f64, f64)> = (0..12).map(|i| (f64::from(i), 2.0 * f64::from(i) + 5.0)).collect();
        points[4].1 = 1e9;
        let (slope, (low, high)) = theil_sen(&points).unwrap();
        assert_eq!((slope, low), (2.0, 2.0));
        assert!(high >= 2.0);
        assert_eq!(theil_sen(&[(1.0, 1.0), (1.0, 2.0)]), None);
    }
}
