//! The start form: fields as Locust's page and scripts send them.

use crate::session::load::{RunTime, Start};
use crate::units::Nanos;

/// Fields of a form, in their order.
pub type Fields = Vec<(String, String)>;

/// Splits `application/x-www-form-urlencoded`.
pub fn fields(body: &[u8]) -> Fields {
    form_urlencoded::parse(body).into_owned().collect()
}

/// What a form asks for; fields that nobody knows are left alone, as there.
///
/// # Errors
/// Which field cannot be read, and what it could be.
pub fn start(fields: &Fields, picker: bool) -> Result<Start, String> {
    let mut start = Start::default();
    let mut classes = Vec::new();
    for (key, value) in fields {
        let value = value.trim();
        match key.as_str() {
            "user_count" => {
                let users = value.parse::<u32>().ok().filter(|n| (1..=10_000_000).contains(n));
                start.users =
                    Some(users.ok_or_else(|| {
                        format!("user_count is '{}': write a whole number, 1 to 10000000", short(value))
                    })?);
            }
            "spawn_rate" => {
                let rate = value.parse::<f64>().ok().filter(|n| *n > 0.0 && *n <= 1e7);
                start.spawn_rate = Some(
                    rate.ok_or_else(|| format!("spawn_rate is '{}': write users a second, above 0", short(value)))?,
                );
            }
            "run_time" if value.is_empty() => start.run_time = RunTime::Endless,
            "run_time" => {
                let time = value.parse::<Nanos>().ok().filter(|t| t.0 > 0);
                let time = time
                    .ok_or_else(|| format!("run_time is '{}': write 20, 20s, 3m, 1h20m or 3h30m10s", short(value)))?;
                start.run_time = RunTime::For(time.0);
            }
            "host" if !value.is_empty() => {
                if !(value.starts_with("http://") || value.starts_with("https://")) {
                    return Err(format!("host is '{}': write http://NAME:PORT or https://NAME", short(value)));
                }
                start.host = Some(value.to_owned());
            }
            "user_classes" if picker && !value.is_empty() => classes.push(value.to_owned()),
            "shape_class" if !matches!(value, "" | "Default") => {
                return Err(format!(
                    "shape_class is '{}': there are no shapes to choose; a scenario's stages are its shape",
                    short(value)
                ));
            }
            _ => {}
        }
    }
    start.classes = (!classes.is_empty()).then_some(classes);
    Ok(start)
}

fn short(value: &str) -> String {
    value.chars().filter(|c| !c.is_control()).take(40).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn forms_as_locust_sends_them() {
        let form = |text: &str| start(&fields(text.as_bytes()), true);
        let all = form("user_count=100&spawn_rate=2.5&host=http%3A%2F%2Flocalhost%3A1&run_time=1m30s&user_classes=A&user_classes=B&profile=x").unwrap();
        assert_eq!(
            (all.users, all.spawn_rate, all.host.as_deref()),
            (Some(100), Some(2.5), Some("http://localhost:1"))
        );
        assert_eq!(all.run_time, RunTime::For(90_000_000_000));
        assert_eq!(all.classes, Some(vec!["A".to_owned(), "B".to_owned()]));
        assert_eq!(form("run_time=&host=").unwrap(), Start { run_time: RunTime::Endless, ..Start::default() });
        for bad in [
            "user_count=x",
            "user_count=0",
            "user_count=1.5",
            "user_count=-1",
            "spawn_rate=0",
            "spawn_rate=nan",
            "spawn_rate=inf",
            "run_time=abc",
            "run_time=0",
            "host=javascript:1",
            "shape_class=S",
        ] {
            let wrong = form(bad).unwrap_err();
            assert!(wrong.starts_with(bad.split('=').next().unwrap()), "{wrong}");
        }
    }
}
