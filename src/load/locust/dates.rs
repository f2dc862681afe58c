//! Dates without time zones: what `datetime` and `time.strftime` need. All times are UTC.

use crate::units::civil;

const DAY_US: i64 = 86_400_000_000;
const DAYS: [&str; 7] = ["Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday"];
const MONTHS: [&str; 12] = [
    "January",
    "February",
    "March",
    "April",
    "May",
    "June",
    "July",
    "August",
    "September",
    "October",
    "November",
    "December",
];

/// Year, month, day, hour, minute, second, microsecond.
pub fn fields(us: i64) -> [i64; 7] {
    let [year, month, day, hour, minute, second] = civil(us.div_euclid(1_000_000));
    [year, month, day, hour, minute, second, us.rem_euclid(1_000_000)]
}

/// Microseconds since 1970 of a date; fields out of range roll over.
pub fn from_fields(f: [i64; 7]) -> i64 {
    let f = f.map(|x| x.clamp(-400_000, 1_000_000_000));
    let [year, month, day, hour, minute, second, us] = f;
    let y = year.clamp(-9999, 9999) - i64::from(month <= 2);
    let era = y.div_euclid(400);
    let yoe = y.rem_euclid(400);
    let doy = (153 * ((month + 9).rem_euclid(12)) + 2) / 5 + day - 1;
    let days = era * 146_097 + yoe * 365 + yoe / 4 - yoe / 100 + doy - 719_468;
    days * DAY_US + ((hour * 60 + minute) * 60 + second) * 1_000_000 + us
}

/// 2026-11-23T12:00:00.000001
pub fn iso(us: i64, between: char) -> String {
    let [y, mo, d, h, mi, s, u] = fields(us);
    let fraction = if u == 0 { String::new() } else { format!(".{u:06}") };
    format!("{y:04}-{mo:02}-{d:02}{between}{h:02}:{mi:02}:{s:02}{fraction}")
}

/// 1 day, 2:03:04
pub fn delta(us: i64) -> String {
    let (days, rest) = (us.div_euclid(DAY_US), us.rem_euclid(DAY_US));
    let s = rest / 1_000_000;
    let head = match days {
        0 => String::new(),
        1 | -1 => format!("{days} day, "),
        _ => format!("{days} days, "),
    };
    let fraction = if rest % 1_000_000 == 0 { String::new() } else { format!(".{:06}", rest % 1_000_000) };
    format!("{head}{}:{:02}:{:02}{fraction}", s / 3600, s / 60 % 60, s % 60)
}

/// `strftime`; a directive that is not known stays as it is.
pub fn strftime(us: i64, pattern: &str) -> String {
    let [y, mo, d, h, mi, s, u] = fields(us);
    let weekday = (us.div_euclid(DAY_US) + 3).rem_euclid(7) as usize;
    let month = MONTHS.get(mo as usize - 1).copied().unwrap_or("");
    let day = DAYS.get(weekday).copied().unwrap_or("");
    let mut out = String::new();
    let mut chars = pattern.chars();
    while let Some(c) = chars.next() {
        if c != '%' {
            out.push(c);
            continue;
        }
        let part = match chars.next() {
            Some('Y') => format!("{y:04}"),
            Some('y') => format!("{:02}", y.rem_euclid(100)),
            Some('m') => format!("{mo:02}"),
            Some('d') => format!("{d:02}"),
            Some('H') => format!("{h:02}"),
            Some('I') => format!("{:02}", if h % 12 == 0 { 12 } else { h % 12 }),
            Some('p') => if h < 12 { "AM" } else { "PM" }.into(),
            Some('M') => format!("{mi:02}"),
            Some('S') => format!("{s:02}"),
            Some('f') => format!("{u:06}"),
            Some('B') => month.into(),
            Some('b') => month.chars().take(3).collect(),
            Some('A') => day.into(),
            Some('a') => day.chars().take(3).collect(),
            Some('s') => us.div_euclid(1_000_000).to_string(),
            Some('z') => "+0000".into(),
            Some('Z') => "UTC".into(),
            Some('%') => "%".into(),
            Some(other) => format!("%{other}"),
            None => "%".into(),
        };
        out.push_str(&part);
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_go_there_and_back() {
        for us in [0, 1, -1, 951_782_400_000_000, 1_795_478_415_123_456, -62_135_596_800_000_000] {
            assert_eq!(from_fields(fields(us)), us);
        }
        assert_eq!(iso(951_782_400_000_000, 'T'), "2000-02-29T00:00:00");
        assert_eq!(strftime(0, "%a %d %b %Y %H:%M:%S"), "Thu 01 Jan 1970 00:00:00");
    }
}
