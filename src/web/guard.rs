//! Who may ask: nothing that another web site could have sent through the user's browser.
//!
//! Two ways lead there. A page of another site may post to this port (cross-site request forgery): browsers say so in
//! `Origin` and `Sec-Fetch-Site`, and what changes something is refused then. Or a name of another site may be made to point at
//! this machine (DNS rebinding), whose pages may then read, too: their `Host` is that name, and only addresses, `localhost` and
//! names that are known as this machine's are answered at all. Programs that send no `Origin` are nobody's browser.

use std::net::IpAddr;

use hyper::header::{HOST, HeaderMap, HeaderName, ORIGIN};

use crate::error::{Error, Result};

/// Names under which this machine is known, small letters.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Names(Vec<String>);

impl Names {
    /// These, and the machine's own.
    pub fn new<'a>(further: impl Iterator<Item = &'a String>) -> Self {
        let own = nix::unistd::gethostname().ok().and_then(|n| n.into_string().ok());
        let mut all: Vec<String> = further.cloned().chain(own).map(|n| n.to_ascii_lowercase()).collect();
        all.retain(|n| !n.is_empty() && n != "*");
        Self(all)
    }

    fn has(&self, name: &str) -> bool {
        let name = name.trim_end_matches('.').to_ascii_lowercase();
        name == "localhost" || name.ends_with(".localhost") || self.0.contains(&name)
    }
}

/// Why a request is refused.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal(pub String);

/// Whether a request with these headers may be answered; `changes` for one that changes something.
///
/// # Errors
/// Why not.
pub fn admit(headers: &HeaderMap, names: &Names, changes: bool) -> std::result::Result<(), Refusal> {
    let text = |name: &HeaderName| headers.get(name).and_then(|v| v.to_str().ok());
    let host = text(&HOST).ok_or_else(|| Refusal("a request needs a Host".to_owned()))?;
    let name = name_of(host);
    if name.parse::<IpAddr>().is_err() && !names.has(name) {
        return Err(Refusal(format!(
            "'{}' is not known as a name of this machine; start with --web-host-display-name {0} if it is",
            name.chars().filter(|c| c.is_ascii_alphanumeric() || ".-_".contains(*c)).take(200).collect::<String>()
        )));
    }
    if !changes {
        return Ok(());
    }
    let foreign = || Refusal("this was sent by a page of another site".to_owned());
    let site = headers.get("sec-fetch-site").map(hyper::header::HeaderValue::as_bytes);
    if site.is_some_and(|s| !matches!(s, b"same-origin" | b"none")) {
        return Err(foreign());
    }
    if headers.contains_key(ORIGIN) {
        let origin = text(&ORIGIN).unwrap_or_default();
        let authority = origin.strip_prefix("http://").or_else(|| origin.strip_prefix("https://"));
        if !authority.is_some_and(|a| a.eq_ignore_ascii_case(host)) {
            return Err(foreign());
        }
    }
    Ok(())
}

/// The name in a `Host`, without its port and the brackets of an IPv6 address.
fn name_of(host: &str) -> &str {
    if let Some(rest) = host.strip_prefix('[') {
        return rest.split(']').next().unwrap_or_default();
    }
    host.rsplit_once(':').map_or(host, |(name, _)| name)
}

/// A base path as it stands before every route: nothing, or `/words`.
///
/// # Errors
/// `Usage` for one that is no path.
pub fn base(text: &str) -> Result<String> {
    let inner = text.trim_matches('/');
    if !inner.chars().all(|c| c.is_ascii_alphanumeric() || "-._~/".contains(c))
        || inner.contains("//")
        || inner.split('/').any(|p| p == "..")
    {
        return Err(Error::usage(format!("'{text}' is no base path")).advise("write --web-base-path /load"));
    }
    Ok(if inner.is_empty() { String::new() } else { format!("/{inner}") })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(all: &[(&'static str, &str)]) -> HeaderMap {
        all.iter().map(|(n, v)| (HeaderName::from_static(n), v.parse().unwrap())).collect()
    }

    #[test]
    fn other_sites_are_refused() {
        let names = Names(vec!["bench-1".to_owned()]);
        let may = |all: &[(&'static str, &str)], changes| admit(&headers(all), &names, changes).is_ok();
        for host in ["127.0.0.1:8089", "localhost", "[::1]:8089", "192.168.1.4:1", "BENCH-1:8089", "x.localhost:9"] {
            assert!(may(&[("host", host)], true), "{host}");
        }
        for host in ["evil.example:8089", "", "127.0.0.1.evil.example", "localhost.evil.example:8089"] {
            assert!(!may(&[("host", host)], false), "{host}");
        }
        assert!(!may(&[], false));
        let local = ("host", "127.0.0.1:8089");
        assert!(may(&[local, ("origin", "http://127.0.0.1:8089")], true));
        for origin in
            ["http://evil.example", "null", "http://127.0.0.1:3000", "file://", "http://127.0.0.1:8089.evil.example"]
        {
            assert!(!may(&[local, ("origin", origin)], true), "{origin}");
            assert!(may(&[local, ("origin", origin)], false), "reading is not answered across origins by browsers");
        }
        assert!(!may(&[local, ("sec-fetch-site", "cross-site")], true));
        assert!(may(&[local, ("sec-fetch-site", "same-origin"), ("origin", "http://127.0.0.1:8089")], true));
    }

    #[test]
    fn base_paths() {
        for (text, path) in [("", ""), ("/", ""), ("load", "/load"), ("/a/b/", "/a/b")] {
            assert_eq!(base(text).unwrap(), path);
        }
        for bad in ["/a b", "/a?x", "a//b", "/..", "/<b>"] {
            assert!(base(bad).is_err(), "{bad}");
        }
    }
}
