//! Requests of a load run: counts and latencies by endpoint and short window, and what failed.
//!
//! Latencies of a window are kept as a sparse histogram: pairs of (step from the last value in µs, count), each a LEB128
//! number, values in rising order. Values keep their eleven highest bits (an error of at most 1 in 2048), so that windows
//! can be added without loss.

/// What ended in a window, of one endpoint, on one thread of the generator.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RequestWindow {
    /// Its end.
    pub at: crate::clock::Mono,
    /// The endpoint's number.
    pub endpoint: u32,
    /// Requests that ended, failures among them.
    pub requests: u64,
    /// Failures.
    pub failures: u64,
    /// Content received, bytes.
    pub bytes: u64,
    /// See the module's documentation.
    pub latency: Vec<u8>,
}

/// A failure of an endpoint: as written, in a window; as read, over the whole run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RequestError {
    /// The endpoint's number.
    pub endpoint: u32,
    /// Of what kind.
    pub kind: String,
    /// What was said.
    pub message: String,
    /// How many.
    pub count: u64,
    /// When first.
    pub first: crate::clock::Mono,
    /// When last.
    pub last: crate::clock::Mono,
}

/// One of the slowest requests, whole.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SlowRequest {
    /// The endpoint's number.
    pub endpoint: u32,
    /// When it was due.
    pub due: crate::clock::Mono,
    /// When it was sent.
    pub sent: crate::clock::Mono,
    /// When its first byte came, if one came.
    pub first: Option<crate::clock::Mono>,
    /// When it ended.
    pub end: crate::clock::Mono,
    /// Its status, if it had an answer.
    pub status: Option<u16>,
    /// Content received, bytes.
    pub bytes: u64,
    /// Kind and message of its failure.
    pub failure: Option<(String, String)>,
}

impl SlowRequest {
    /// From its due time to its end, ns.
    pub fn latency_ns(&self) -> u64 {
        self.end.since(self.due)
    }
}

/// The highest bits of a value that are kept.
const BITS: u32 = 11;

/// A value as windows keep it: the middle of the values that share its highest bits.
pub fn kept(us: u32) -> u32 {
    let spare = (u32::BITS - us.leading_zeros()).saturating_sub(BITS);
    if spare == 0 { us } else { (us >> spare << spare) | 1 << (spare - 1) }
}

/// The sparse histogram of these latencies, µs.
pub fn encode(latencies_us: &[u32]) -> Vec<u8> {
    let mut values: Vec<u32> = latencies_us.iter().map(|v| kept(*v)).collect();
    values.sort_unstable();
    let (mut out, mut last) = (Vec::new(), 0);
    for run in values.chunk_by(|a, b| a == b) {
        let value = run.first().copied().unwrap_or_default();
        leb128(&mut out, u64::from(value - last));
        leb128(&mut out, run.len() as u64);
        last = value;
    }
    out
}

/// The pairs (value in µs, count) of a sparse histogram; `None` when it is damaged.
pub fn decode(mut bytes: &[u8]) -> Option<Vec<(u32, u64)>> {
    let (mut all, mut value) = (Vec::new(), 0_u32);
    while !bytes.is_empty() {
        let step = take(&mut bytes)?;
        value = value.checked_add(u32::try_from(step).ok()?)?;
        all.push((value, take(&mut bytes)?));
    }
    Some(all)
}

fn leb128(out: &mut Vec<u8>, mut n: u64) {
    while n >= 0x80 {
        out.push(n as u8 | 0x80);
        n >>= 7;
    }
    out.push(n as u8);
}

fn take(bytes: &mut &[u8]) -> Option<u64> {
    let (mut n, mut shift) = (0_u64, 0);
    loop {
        let (&b, rest) = bytes.split_first()?;
        *bytes = rest;
        if shift > 56 {
            return None;
        }
        n |= u64::from(b & 0x7f) << shift;
        shift += 7;
        if b < 0x80 {
            return Some(n);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn windows_come_back_and_damage_is_seen() {
        let values = [5, 5, 2047, 2048, 1_000_000, 1_000_001, u32::MAX, 0];
        let back = decode(&encode(&values)).unwrap();
        assert_eq!(back.iter().map(|(_, n)| n).sum::<u64>(), 8);
        assert_eq!(back[..3], [(0, 1), (5, 2), (2047, 1)]);
        for v in [1, 2047, 2048, 99_999, 12_345_678, u32::MAX] {
            assert!((f64::from(kept(v)) / f64::from(v) - 1.0).abs() <= 1.0 / 2048.0, "{v}");
        }
        assert!(decode(&[0x80]).is_none() && decode(&[1]).is_none() && decode(&[0xff; 20]).is_none());
        assert_eq!(decode(&[]), Some(vec![]));
    }
}
