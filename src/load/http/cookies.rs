//! A user's cookies for the one host it talks to (RFC 6265 without public suffixes: foreign domains are not kept).

use super::answer::lines;

/// Cookies that a user keeps at most, and their largest size together.
const COUNT: usize = 50;
const SIZE: usize = 8192;

/// A user's cookies.
#[derive(Debug, Default)]
pub struct Jar(Vec<Cookie>);

#[derive(Debug, PartialEq, Eq)]
struct Cookie {
    name: Box<[u8]>,
    value: Box<[u8]>,
    path: Box<[u8]>,
    secure: bool,
}

impl Jar {
    /// Takes the `Set-Cookie` headers of an answer to a request for `target`.
    pub fn take(&mut self, head: &[u8], target: &[u8]) {
        for line in lines(head).skip(1) {
            if let Some((name, value)) = line.split_at_checked(11)
                && name.eq_ignore_ascii_case(b"set-cookie:")
            {
                self.set(value, target);
            }
        }
    }

    fn set(&mut self, value: &[u8], target: &[u8]) {
        let mut parts = value.split(|b| *b == b';').map(<[u8]>::trim_ascii);
        let Some(pair) = parts.next() else { return };
        let Some(equals) = pair.iter().position(|b| *b == b'=') else { return };
        let (name, value) = (pair[..equals].trim_ascii(), pair[equals + 1..].trim_ascii());
        let (mut path, mut gone, mut secure) = (default_path(target), false, false);
        for part in parts {
            let (key, value) =
                part.iter().position(|b| *b == b'=').map_or((part, &b""[..]), |e| (&part[..e], &part[e + 1..]));
            match key.to_ascii_lowercase().as_slice() {
                b"path" if value.starts_with(b"/") => path = value,
                b"max-age" => gone = value.starts_with(b"-") || value == b"0",
                // The usual way to delete a cookie is a date long past; other dates lie after any load test.
                b"expires" => gone |= value.windows(5).any(|w| w == b" 1970"),
                b"secure" => secure = true,
                _ => {}
            }
        }
        self.0.retain(|c| *c.name != *name || *c.path != *path);
        let total: usize = self.0.iter().map(|c| c.name.len() + c.value.len()).sum();
        let odd = |b: &u8| *b < b' ' || *b == 0x7f;
        if gone
            || name.is_empty()
            || self.0.len() >= COUNT
            || total + name.len() + value.len() > SIZE
            || value.iter().any(odd)
            || name.iter().any(odd)
        {
            return;
        }
        self.0.push(Cookie { name: name.into(), value: value.into(), path: path.into(), secure });
    }

    /// Appends the `Cookie` header line for a request for `target`, if there is one.
    pub fn write(&self, out: &mut Vec<u8>, target: &[u8], tls: bool) {
        let path = target.split(|b| *b == b'?').next().unwrap_or_default();
        let fits = |c: &&Cookie| {
            let under = path.starts_with(&c.path)
                && (c.path.ends_with(b"/") || matches!(path.get(c.path.len()), None | Some(b'/')));
            under && (tls || !c.secure)
        };
        let mut first = true;
        for c in self.0.iter().filter(fits) {
            out.extend_from_slice(if first { b"Cookie: " } else { b"; " });
            out.extend_from_slice(&c.name);
            out.push(b'=');
            out.extend_from_slice(&c.value);
            first = false;
        }
        if !first {
            out.extend_from_slice(b"\r\n");
        }
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

fn default_path(target: &[u8]) -> &[u8] {
    let path = target.split(|b| *b == b'?').next().unwrap_or_default();
    match path.iter().rposition(|b| *b == b'/') {
        Some(0) | None => b"/",
        Some(i) => &path[..i],
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sent(jar: &Jar, target: &str) -> String {
        let mut out = Vec::new();
        jar.write(&mut out, target.as_bytes(), false);
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn cookies_come_back_where_they_belong() {
        let mut jar = Jar::default();
        jar.take(b"HTTP/1.1 200 OK\r\nSet-Cookie: a=1; Path=/; HttpOnly\r\nset-cookie:b=2\r\nSet-Cookie: s=3; Secure; Path=/\r\n\r\n", b"/x/login?q");
        assert_eq!(sent(&jar, "/x/y?z"), "Cookie: a=1; b=2\r\n");
        assert_eq!(sent(&jar, "/xy"), "Cookie: a=1\r\n");
        jar.take(b"H\r\nSet-Cookie: a=9; Path=/\r\nSet-Cookie: b=; Max-Age=0\r\n", b"/x/y");
        assert_eq!(sent(&jar, "/x/y"), "Cookie: a=9\r\n");
        for i in 0..1000 {
            jar.take(format!("H\r\nSet-Cookie: c{i}={}\r\n", "v".repeat(100)).as_bytes(), b"/");
        }
        assert!(sent(&jar, "/").len() < 9000);
    }
}
