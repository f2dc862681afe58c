//! A CPython version: two numbers that decide the layout, and the text that people read.

use std::fmt;

/// Major and minor version, which decide the layout.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Version {
    /// 3, or 2 for what we refuse.
    pub major: u8,
    /// 8 in 3.8.
    pub minor: u8,
}

impl Version {
    /// Version `major.minor`.
    pub const fn new(major: u8, minor: u8) -> Self {
        Self { major, minor }
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.major, self.minor)
    }
}

/// A version with its text: `3.8.18`, `3.14.0rc2`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FullVersion {
    /// Major and minor.
    pub version: Version,
    /// As the interpreter spells it.
    pub text: String,
}

impl FullVersion {
    /// The version at the start of `bytes`: `3.8.18 (…`, `3.8.so.1.0`.
    pub fn at_start(bytes: &[u8]) -> Option<Self> {
        let major = *bytes.first().filter(|b| matches!(b, b'2' | b'3'))? - b'0';
        let rest = bytes.get(1..)?.strip_prefix(b".")?;
        let digits = rest.iter().take(3).take_while(|b| b.is_ascii_digit()).count();
        let minor: u8 = std::str::from_utf8(rest.get(..digits)?).ok()?.parse().ok()?;
        // `3.8` and, where it follows, the rest of `3.8.18rc1+`.
        let length =
            bytes.iter().take(24).take_while(|b| b.is_ascii_alphanumeric() || **b == b'.' || **b == b'+').count();
        let all = std::str::from_utf8(bytes.get(..length)?).ok()?;
        let version = Version::new(major, minor);
        let micro = all.get(2 + digits..)?.strip_prefix('.').filter(|m| m.starts_with(|c: char| c.is_ascii_digit()));
        let text = if micro.is_some() { all.to_owned() } else { version.to_string() };
        Some(Self { version, text })
    }

    /// The text of `Py_GetVersion()` somewhere in `bytes`: `3.8.18 (default, May  9 2026, 01:02:03) \n[GCC 12.2.0]`.
    pub fn in_bytes(bytes: &[u8]) -> Option<Self> {
        let starts = bytes.windows(3).enumerate().filter(|(_, w)| matches!(w, [b'2' | b'3', b'.', b'0'..=b'9']));
        starts.map(|(i, _)| i).find_map(|i| {
            let begins = i == 0 || !bytes.get(i - 1).is_some_and(u8::is_ascii_alphanumeric);
            let text = bytes.get(i..bytes.len().min(i + 250))?;
            let found = Self::at_start(text)?;
            let after = text.get(found.text.len()..)?;
            let compiler = || after.windows(3).any(|w| w == b") \n" || w == b") [");
            (begins && after.starts_with(b" (") && compiler()).then_some(found)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_of_real_builds() {
        let full = |b: &[u8]| FullVersion::in_bytes(b).map(|f| (f.version, f.text));
        let expect = |major, minor, text: &str| Some((Version::new(major, minor), text.to_owned()));
        assert_eq!(full(b"\0\x003.8.18 (default, May  9 2026, 01:02:03) \n[GCC 12.2.0]\0"), expect(3, 8, "3.8.18"));
        assert_eq!(full(b"2.7.18 (default, Apr) \n[GCC 12"), expect(2, 7, "2.7.18"));
        assert_eq!(full(b"3.12.0rc1+ (heads/main:1234, Aug) [GCC 12"), expect(3, 12, "3.12.0rc1+"));
        assert_eq!(full(b"3.40.1 (sqlite"), None);
        assert_eq!(full(b"13.8.1 (x) [y"), None);
        assert_eq!(FullVersion::at_start(b"3.10.so.1.0").map(|f| f.text), Some("3.10".into()));
        assert_eq!(FullVersion::at_start(b"3"), None);
        assert_eq!(FullVersion::at_start(b"3.999"), None);
    }
}
