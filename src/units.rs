//! Numbers with their units: durations, sizes and rates as the user types them and as we print them.
//!
//! In: text of the command line (`60`, `60s`, `1m30`, `500ms`, `99`, `16k`). Out: plain numbers whose unit stands in the
//! type, and short text with a unit. Invariant: printing never drops the unit, parsing never guesses one that was not
//! documented (a bare number is seconds for a duration and hertz for a rate).

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};

/// A span of time in nanoseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
pub struct Nanos(pub u64);

/// A size in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Bytes(pub u64);

/// A rate in events a second.
#[derive(Debug, Clone, Copy, PartialEq, PartialOrd, Serialize, Deserialize)]
pub struct Hertz(pub f64);

impl Nanos {
    /// One second.
    pub const SECOND: Self = Self(1_000_000_000);

    /// From seconds; negative and absurd values saturate.
    pub fn from_secs_f64(s: f64) -> Self {
        Self((s * 1e9) as u64)
    }

    /// In seconds.
    pub fn secs(self) -> f64 {
        self.0 as f64 / 1e9
    }

    /// As the standard library's type.
    pub fn duration(self) -> std::time::Duration {
        std::time::Duration::from_nanos(self.0)
    }
}

/// A number with its digits in groups of three: `1234567` as `1,234,567`.
pub fn grouped(n: u64) -> String {
    let digits = n.to_string();
    let mut text = String::with_capacity(digits.len() * 4 / 3);
    for (i, digit) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

impl fmt::Display for Nanos {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let n = self.0 as f64;
        match self.0 {
            0..1_000 => write!(f, "{} ns", self.0),
            1_000..1_000_000 => write!(f, "{:.1} µs", n / 1e3),
            1_000_000..1_000_000_000 => write!(f, "{:.1} ms", n / 1e6),
            1_000_000_000..120_000_000_000 => write!(f, "{:.1} s", n / 1e9),
            _ => write!(f, "{:.1} min", n / 6e10),
        }
    }
}

impl FromStr for Nanos {
    type Err = Error;

    /// `60`, `60s`, `1.5s`, `500ms`, `5m`, `1m30`, `1m30s`, `2h`.
    fn from_str(text: &str) -> Result<Self> {
        let wrong = || {
            Error::usage(format!("'{text}' is not a duration"))
                .advise("write seconds or a number with ms, s, m or h: 60, 500ms, 1m30")
        };
        let mut rest = text.trim();
        if rest.is_empty() {
            return Err(wrong());
        }
        let (mut total, mut last) = (0.0, f64::INFINITY);
        while !rest.is_empty() {
            let digits = rest.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(rest.len());
            let (number, after) = rest.split_at(digits);
            let value: f64 = number.parse().map_err(|_| wrong())?;
            let letters = after.find(|c: char| c.is_ascii_digit()).unwrap_or(after.len());
            let (unit, next) = after.split_at(letters);
            let scale = match unit {
                "ms" => 1e-3,
                "s" | "" => 1.0,
                "m" | "min" => 60.0,
                "h" => 3600.0,
                _ => return Err(wrong()),
            };
            // Units come in falling order and a bare number only last, so `1s30` or `5 6` are mistakes, not sums.
            if scale >= last {
                return Err(wrong());
            }
            total += value * scale;
            last = scale;
            rest = next;
        }
        if total > 1e9 {
            return Err(Error::usage(format!("'{text}' is more than thirty years")));
        }
        Ok(Self::from_secs_f64(total))
    }
}

impl fmt::Display for Bytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let n = self.0 as f64;
        match self.0 {
            0..10_000 => write!(f, "{} B", self.0),
            10_000..1_000_000 => write!(f, "{:.1} kB", n / 1e3),
            1_000_000..1_000_000_000 => write!(f, "{:.1} MB", n / 1e6),
            _ => write!(f, "{:.2} GB", n / 1e9),
        }
    }
}

impl fmt::Display for Hertz {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.fract() == 0.0 { write!(f, "{:.0} Hz", self.0) } else { write!(f, "{:.1} Hz", self.0) }
    }
}

impl FromStr for Hertz {
    type Err = Error;

    /// `99`, `99hz`, `0.5`, `1k`.
    fn from_str(text: &str) -> Result<Self> {
        let lower = text.trim().to_ascii_lowercase();
        let number = lower.strip_suffix("hz").unwrap_or(&lower).trim();
        let (number, scale) = number.strip_suffix('k').map_or((number, 1.0), |n| (n, 1e3));
        match number.parse::<f64>() {
            Ok(v) if v.is_finite() && v >= 0.0 => Ok(Self(v * scale)),
            _ => Err(Error::usage(format!("'{text}' is not a rate")).advise("write samples a second: 99, 999, 5k")),
        }
    }
}

/// Seconds since 1970 as `2026-11-24 04:30:00`, UTC.
pub fn utc(seconds: i64) -> String {
    let [year, month, day, hour, minute, second] = civil(seconds);
    format!("{year:04}-{month:02}-{day:02} {hour:02}:{minute:02}:{second:02}")
}

/// Seconds since 1970 as year, month, day, hour, minute and second, UTC.
///
/// Days become dates by the Gregorian calendar's 400-year cycle, which is counted from 1 March.
pub fn civil(seconds: i64) -> [i64; 6] {
    let (days, rest) = (seconds.div_euclid(86_400), seconds.rem_euclid(86_400));
    let shifted = days + 719_468;
    let (era, day) = (shifted.div_euclid(146_097), shifted.rem_euclid(146_097));
    let year = (day - day / 1460 + day / 36_524 - day / 146_096) / 365;
    let day = day - (365 * year + year / 4 - year / 100);
    let month = (5 * day + 2) / 153;
    let date = day - (153 * month + 2) / 5 + 1;
    let (month, year) = if month < 10 { (month + 3, era * 400 + year) } else { (month - 9, era * 400 + year + 1) };
    [year, month, date, rest / 3600, rest / 60 % 60, rest % 60]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_as_typed() {
        for (text, ns) in [
            ("60", 60_000_000_000),
            ("60s", 60_000_000_000),
            ("500ms", 500_000_000),
            ("1m30", 90_000_000_000),
            ("5m", 300_000_000_000),
            ("1.5s", 1_500_000_000),
            ("0", 0),
        ] {
            assert_eq!(text.parse::<Nanos>().unwrap(), Nanos(ns), "{text}");
        }
        for bad in ["", "abc", "5x", "1s30", "-3", "1..2", "1e99h"] {
            assert!(bad.parse::<Nanos>().is_err(), "{bad}");
        }
    }

    #[test]
    fn rates_as_typed() {
        assert_eq!("99".parse::<Hertz>().unwrap(), Hertz(99.0));
        assert_eq!("5kHz".parse::<Hertz>().unwrap(), Hertz(5000.0));
        assert!("nan".parse::<Hertz>().is_err());
        assert_eq!(Hertz(99.0).to_string(), "99 Hz");
    }

    #[test]
    fn dates_are_those_of_the_calendar() {
        for (s, text) in [
            (0, "1970-01-01 00:00:00"),
            (951_782_399, "2000-02-28 23:59:59"),
            (951_782_400, "2000-02-29 00:00:00"),
            (1_795_494_600, "2026-11-24 04:30:00"),
        ] {
            assert_eq!(utc(s), text);
        }
    }
}
