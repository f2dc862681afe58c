//! URLs: scheme, host, port, target.

use crate::error::{Error, Result};

/// An absolute `http` or `https` URL.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Url {
    /// Whether TLS is spoken.
    pub tls: bool,
    /// The host, without the brackets of an IPv6 address.
    pub host: String,
    /// The port.
    pub port: u16,
    /// Path and query, beginning with `/`, without the fragment.
    pub target: String,
}

impl Url {
    /// Reads a URL.
    ///
    /// # Errors
    /// `Usage` with what is wrong.
    pub fn parse(text: &str) -> Result<Self> {
        let wrong = |why: &str| {
            Error::usage(format!("'{text}' is not a URL: {why}"))
                .advise("write http://127.0.0.1:8000 or https://host/path")
        };
        let (scheme, rest) = text.split_once("://").ok_or_else(|| wrong("it has no http:// or https://"))?;
        let tls = match scheme.to_ascii_lowercase().as_str() {
            "http" => false,
            "https" => true,
            _ => return Err(wrong("only http and https are spoken")),
        };
        let end = rest.find(['/', '?', '#']).unwrap_or(rest.len());
        let (authority, target) = rest.split_at(end);
        if authority.contains('@') {
            return Err(wrong("a name and password in it are not supported; set the authorization header"));
        }
        let (host, port) = match authority.strip_prefix('[') {
            Some(v6) => {
                let (host, rest) = v6.split_once(']').ok_or_else(|| wrong("']' is missing"))?;
                (host, rest.strip_prefix(':').or(rest.is_empty().then_some("")))
            }
            None => match authority.rsplit_once(':') {
                Some((host, port)) => (host, Some(port)),
                None => (authority, Some("")),
            },
        };
        let port = match port {
            None => return Err(wrong("what follows the address is not a port")),
            Some("") => {
                if tls {
                    443
                } else {
                    80
                }
            }
            Some(p) => {
                p.parse().ok().filter(|p| *p > 0).ok_or_else(|| wrong("the port is not a number from 1 to 65535"))?
            }
        };
        let odd = |c: char| c.is_whitespace() || c.is_control() || "\"<>\\^`{|}/:".contains(c);
        if host.is_empty() || (host.contains(odd) && !authority.starts_with('[')) {
            return Err(wrong("the host is missing or has odd characters"));
        }
        let target = target.split('#').next().unwrap_or_default();
        let target = if target.starts_with('/') { target.to_owned() } else { format!("/{target}") };
        if target.bytes().any(|b| b <= b' ' || b == 0x7f) {
            return Err(wrong("blanks in it must be written as %20"));
        }
        Ok(Self { tls, host: host.to_owned(), port, target })
    }

    /// `http://host:port`, the port left out where it is the scheme's own.
    pub fn origin(&self) -> String {
        format!("{}://{}", if self.tls { "https" } else { "http" }, self.authority())
    }

    /// What stands in the `Host` header.
    pub fn authority(&self) -> String {
        let host = if self.host.contains(':') { format!("[{}]", self.host) } else { self.host.clone() };
        if self.port == if self.tls { 443 } else { 80 } { host } else { format!("{host}:{}", self.port) }
    }

    /// Whether both are the same server.
    pub fn same_origin(&self, other: &Self) -> bool {
        (self.tls, self.port) == (other.tls, other.port) && self.host.eq_ignore_ascii_case(&other.host)
    }

    /// What `location`, as a redirect of this URL gives it, means (RFC 9110, 10.2.2).
    ///
    /// # Errors
    /// `Usage` when it is not a URL.
    pub fn join(&self, location: &str) -> Result<Self> {
        let location = location.split('#').next().unwrap_or_default();
        if let Some(rest) = location.strip_prefix("//") {
            return Self::parse(&format!("{}://{rest}", if self.tls { "https" } else { "http" }));
        }
        if location
            .split_once(':')
            .is_some_and(|(s, _)| !s.is_empty() && s.bytes().all(|b| b.is_ascii_alphanumeric() || b"+-.".contains(&b)))
        {
            return Self::parse(location);
        }
        let path = self.target.split('?').next().unwrap_or("/");
        let target = if location.starts_with('/') {
            location.to_owned()
        } else if location.starts_with('?') {
            format!("{path}{location}")
        } else {
            let base = path.rsplit_once('/').map_or("", |(b, _)| b);
            format!("{base}/{location}")
        };
        let (path, query) = target.split_once('?').map_or((target.as_str(), None), |(p, q)| (p, Some(q)));
        let mut parts: Vec<&str> = Vec::new();
        for part in path.split('/').skip(1) {
            match part {
                "." => parts.push(""),
                ".." => {
                    parts.pop();
                }
                p => {
                    if parts.last() == Some(&"") {
                        parts.pop();
                    }
                    parts.push(p);
                }
            }
        }
        let mut clean = format!("/{}", parts.join("/"));
        if let Some(q) = query {
            clean.push('?');
            clean.push_str(q);
        }
        Self::parse(&format!("{}{clean}", self.origin()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_as_written() {
        for (text, origin, target) in [
            ("http://127.0.0.1:8000", "http://127.0.0.1:8000", "/"),
            ("https://Example.test/a?b#c", "https://Example.test", "/a?b"),
            ("http://[::1]:80/x", "http://[::1]", "/x"),
            ("http://h?x=1", "http://h", "/?x=1"),
        ] {
            let u = Url::parse(text).unwrap();
            assert_eq!((u.origin().as_str(), u.target.as_str()), (origin, target));
        }
        for bad in [
            "",
            "x",
            "ftp://x",
            "http://",
            "http://a:b",
            "http://a:0",
            "http://u@h",
            "http://[::1",
            "http://a b",
            "http://h/a b",
        ] {
            assert!(Url::parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn redirects_are_relative() {
        let base = Url::parse("http://h:1/a/b?q").unwrap();
        for (location, target) in
            [("/x", "/x"), ("c", "/a/c"), ("../d", "/d"), ("?z", "/a/b?z"), ("http://h:1/y", "/y"), ("//h:1/z", "/z")]
        {
            assert_eq!(base.join(location).unwrap().target, target, "{location}");
        }
        assert!(base.join("mailto:x").is_err());
    }
}
