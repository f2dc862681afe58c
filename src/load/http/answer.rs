//! Answers: the bytes of a connection cut into status, headers and body.
//!
//! In: whatever the server sends, in any pieces. Out: [`Fed`]. Invariants: a head is at most [`HEAD`] bytes; a body is
//! counted, and kept only where it is wanted and only up to a limit, so that an answer of any length costs bounded memory;
//! no input makes it panic, loop or guess: what is not HTTP/1.x is [`Broken`].

use super::chunks::Chunks;

/// The longest head of an answer, bytes.
pub const HEAD: usize = 64 * 1024;
/// Informational answers (1xx) that are taken before the real one.
const INFORMATIONAL: u8 = 16;

/// What the reader of an answer wants of it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Wanted {
    /// Keep so many bytes of the body.
    pub body: usize,
    /// Keep the head.
    pub head: bool,
    /// The request was HEAD: there is no body whatever the headers say.
    pub no_body: bool,
    /// Look for server-sent events.
    pub events: bool,
}

/// What became of some input.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fed {
    /// More is to come.
    More,
    /// The answer is complete; so many bytes of the input were its own.
    Done(usize),
}

/// Why it is no answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Broken(pub &'static str);

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
enum Phase {
    #[default]
    Head,
    Length(u64),
    Chunked(Chunks),
    UntilEnd,
}

/// The reader of one connection's answers.
#[derive(Debug, Default)]
pub struct Answers {
    wanted: Wanted,
    phase: Phase,
    partial: Vec<u8>,
    head: Vec<u8>,
    body: Vec<u8>,
    status: u16,
    keep_alive: bool,
    bytes: u64,
    informational: u8,
    began: bool,
    redirect: bool,
    cookies: bool,
    line_fits: u8,
    events: u32,
}

impl Answers {
    /// Begins the next answer.
    pub fn expect(&mut self, wanted: Wanted) {
        self.wanted = wanted;
        self.phase = Phase::Head;
        for kept in [&mut self.partial, &mut self.head, &mut self.body] {
            kept.clear();
            kept.shrink_to(1024);
        }
        self.bytes = 0;
        self.informational = 0;
        self.events = 0;
        self.line_fits = 0;
        self.began = false;
    }

    /// The status code, once the head is over.
    pub fn status(&self) -> u16 {
        self.status
    }

    /// Whether anything came at all.
    pub fn has_begun(&self) -> bool {
        self.began
    }

    /// The head as it came, where it was wanted (redirects and answers with cookies always have it).
    pub fn head(&self) -> &[u8] {
        &self.head
    }

    /// The body, or its beginning up to the limit.
    pub fn body(&self) -> &[u8] {
        &self.body
    }

    /// Whether the body is longer than what was kept.
    pub fn is_cut(&self) -> bool {
        self.bytes > self.body.len() as u64
    }

    /// The length of the body until now, bytes (content, without the chunks' own).
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Server-sent events (`data:` lines) until now.
    pub fn events(&self) -> u32 {
        self.events
    }

    /// Whether the connection may be used again.
    pub fn keep_alive(&self) -> bool {
        self.keep_alive
    }

    /// Whether the answer sets cookies.
    pub fn has_cookies(&self) -> bool {
        self.cookies
    }

    /// Whether the answer is a redirect with a location.
    pub fn is_redirect(&self) -> bool {
        self.redirect
    }

    /// Takes `input`.
    ///
    /// # Errors
    /// What is not HTTP.
    pub fn feed(&mut self, input: &[u8]) -> Result<Fed, Broken> {
        self.began |= !input.is_empty();
        let mut used = 0;
        while self.phase == Phase::Head {
            let rest = &input[used..];
            if self.partial.is_empty() {
                let Some(end) = head_end(rest, 0) else {
                    if rest.len() > HEAD {
                        return Err(Broken("the head is longer than 64 kB"));
                    }
                    Self::check_start(rest)?;
                    self.partial.extend_from_slice(rest);
                    return Ok(Fed::More);
                };
                used += end;
                if self.take_head(&rest[..end])? {
                    return Ok(Fed::Done(used));
                }
            } else {
                let before = self.partial.len();
                let take = rest.len().min(HEAD + 4 - before.min(HEAD));
                self.partial.extend_from_slice(&rest[..take]);
                let Some(end) = head_end(&self.partial, before.saturating_sub(3)) else {
                    if self.partial.len() > HEAD {
                        return Err(Broken("the head is longer than 64 kB"));
                    }
                    return Ok(Fed::More);
                };
                used += end - before;
                let partial = std::mem::take(&mut self.partial);
                if self.take_head(&partial[..end])? {
                    return Ok(Fed::Done(used));
                }
            }
        }
        let rest = &input[used..];
        match self.phase {
            Phase::Head => Ok(Fed::More),
            Phase::Length(left) => {
                let take = rest.len().min(usize::try_from(left).unwrap_or(usize::MAX));
                self.content(&rest[..take]);
                let left = left - take as u64;
                self.phase = Phase::Length(left);
                Ok(if left == 0 { Fed::Done(used + take) } else { Fed::More })
            }
            Phase::Chunked(mut chunks) => {
                let taken = chunks.feed(rest, |run| self.content(run)).map_err(Broken)?;
                self.phase = Phase::Chunked(chunks);
                Ok(if chunks.is_done() { Fed::Done(used + taken) } else { Fed::More })
            }
            Phase::UntilEnd => {
                self.content(rest);
                Ok(Fed::More)
            }
        }
    }

    /// The connection ended. Fine where the body goes until the end.
    ///
    /// # Errors
    /// What is missing.
    pub fn end(&mut self) -> Result<(), Broken> {
        match self.phase {
            Phase::UntilEnd => Ok(()),
            Phase::Head if !self.began => Err(Broken("closed without an answer")),
            Phase::Head => Err(Broken("closed within the head")),
            Phase::Length(_) => Err(Broken("closed before the body was complete (Content-Length is larger)")),
            Phase::Chunked(_) => Err(Broken("closed before the last chunk")),
        }
    }

    /// Fails early on what cannot become an answer, so that a server which speaks something else is named at once.
    fn check_start(start: &[u8]) -> Result<(), Broken> {
        let n = start.len().min(5);
        if start[..n] == b"HTTP/"[..n] { Ok(()) } else { Err(Broken("not an HTTP answer")) }
    }

    fn content(&mut self, run: &[u8]) {
        self.bytes += run.len() as u64;
        let room = self.wanted.body.saturating_sub(self.body.len());
        if room > 0 {
            self.body.extend_from_slice(&run[..run.len().min(room)]);
        }
        if self.wanted.events {
            // Counts lines that begin with `data:`; `line_fits` is how much of it the line has, 255 once it has not.
            for &b in run {
                if b == b'\n' || b == b'\r' {
                    self.line_fits = 0;
                } else if self.line_fits < 5 {
                    self.line_fits = if b == b"data:"[self.line_fits as usize] { self.line_fits + 1 } else { 255 };
                    if self.line_fits == 5 {
                        self.events += 1;
                    }
                }
            }
        }
    }

    /// Reads a head; whether the answer is over with it.
    fn take_head(&mut self, head: &[u8]) -> Result<bool, Broken> {
        let parsed = Head::parse(head)?;
        if (100..200).contains(&parsed.status) {
            if parsed.status == 101 {
                return Err(Broken("the server switched protocols"));
            }
            self.informational += 1;
            if self.informational > INFORMATIONAL {
                return Err(Broken("more than 16 informational answers"));
            }
            self.partial.clear();
            return Ok(false);
        }
        self.status = parsed.status;
        self.keep_alive = parsed.keep_alive;
        self.cookies = parsed.cookies;
        self.redirect = parsed.location && matches!(parsed.status, 301 | 302 | 303 | 307 | 308);
        if self.wanted.head || self.cookies || self.redirect {
            self.head.extend_from_slice(head);
        }
        if self.wanted.no_body || matches!(parsed.status, 204 | 304) {
            self.phase = Phase::Length(0);
            return Ok(true);
        }
        // Transfer-Encoding rules over Content-Length (RFC 9112, 6.3).
        self.phase = match (parsed.chunked, parsed.length) {
            (Some(true), _) => Phase::Chunked(Chunks::new()),
            (Some(false), _) => Phase::UntilEnd,
            (None, Some(0)) => {
                self.phase = Phase::Length(0);
                return Ok(true);
            }
            (None, Some(n)) => Phase::Length(n),
            (None, None) => Phase::UntilEnd,
        };
        if self.phase == Phase::UntilEnd {
            self.keep_alive = false;
        }
        Ok(false)
    }
}

/// Where the empty line ends that ends the head; the search begins at `from`.
fn head_end(bytes: &[u8], from: usize) -> Option<usize> {
    let mut at = from;
    loop {
        let line = memchr::memchr(b'\n', bytes.get(at..)?)? + at;
        match bytes.get(line + 1) {
            Some(b'\n') => return Some(line + 2),
            Some(b'\r') if bytes.get(line + 2) == Some(&b'\n') => return Some(line + 3),
            _ => at = line + 1,
        }
    }
}

/// The value of the first header `name` (in lower case) of a head.
pub fn header<'a>(head: &'a [u8], name: &str) -> Option<&'a [u8]> {
    lines(head).skip(1).find_map(|line| {
        let colon = memchr::memchr(b':', line)?;
        line[..colon].eq_ignore_ascii_case(name.as_bytes()).then(|| line[colon + 1..].trim_ascii())
    })
}

/// The fields of a head, names as they came, values without the blanks around.
pub fn fields(head: &[u8]) -> impl Iterator<Item = (&[u8], &[u8])> {
    lines(head).skip(1).filter_map(|line| {
        let (name, value) = line.split_at(memchr::memchr(b':', line)?);
        Some((name, value.get(1..)?.trim_ascii()))
    })
}

/// The lines of a head, without their ends.
pub(super) fn lines(head: &[u8]) -> impl Iterator<Item = &[u8]> {
    head.split(|b| *b == b'\n').map(|l| l.strip_suffix(b"\r").unwrap_or(l))
}

struct Head {
    status: u16,
    keep_alive: bool,
    length: Option<u64>,
    /// Whether a transfer coding is given, and ends in `chunked`.
    chunked: Option<bool>,
    location: bool,
    cookies: bool,
}

impl Head {
    fn parse(head: &[u8]) -> Result<Self, Broken> {
        let first_end = memchr::memchr(b'\n', head).ok_or(Broken("not an HTTP answer"))?;
        let first = head[..first_end].strip_suffix(b"\r").unwrap_or(&head[..first_end]);
        let (version, rest) = match first {
            [b'H', b'T', b'T', b'P', b'/', b'1', b'.', minor @ (b'0' | b'1'), b' ', rest @ ..] => (*minor, rest),
            [b'H', b'T', b'T', b'P', b'/', ..] => return Err(Broken("an HTTP version that is not 1.0 or 1.1")),
            _ => return Err(Broken("not an HTTP answer")),
        };
        let status = match rest {
            [a @ b'1'..=b'9', b @ b'0'..=b'9', c @ b'0'..=b'9']
            | [a @ b'1'..=b'9', b @ b'0'..=b'9', c @ b'0'..=b'9', b' ', ..] => {
                u16::from(a - b'0') * 100 + u16::from(b - b'0') * 10 + u16::from(c - b'0')
            }
            _ => return Err(Broken("the status is not a number of three digits")),
        };
        let mut it =
            Self { status, keep_alive: version == b'1', length: None, chunked: None, location: false, cookies: false };
        let mut rest = &head[first_end + 1..];
        while let Some(end) = memchr::memchr(b'\n', rest) {
            let line = rest[..end].strip_suffix(b"\r").unwrap_or(&rest[..end]);
            rest = &rest[end + 1..];
            if !line.is_empty() {
                it.line(line)?;
            }
        }
        Ok(it)
    }

    fn line(&mut self, line: &[u8]) -> Result<(), Broken> {
        // Only names of these lengths matter; most headers are passed with one look.
        let Some(colon) = memchr::memchr(b':', line) else { return Err(Broken("a header without a colon")) };
        let value = || line[colon + 1..].trim_ascii();
        let is = |name: &[u8]| line[..colon].eq_ignore_ascii_case(name);
        match colon {
            14 if is(b"content-length") => {
                let length = number(value()).ok_or(Broken("Content-Length is not a number"))?;
                if self.length.is_some_and(|l| l != length) {
                    return Err(Broken("two Content-Lengths that differ"));
                }
                self.length = Some(length);
            }
            17 if is(b"transfer-encoding") => {
                let last = value().rsplit(|b| *b == b',').next().unwrap_or_default().trim_ascii();
                self.chunked = Some(last.eq_ignore_ascii_case(b"chunked"));
            }
            10 if is(b"connection") => {
                for word in value().split(|b| *b == b',').map(<[u8]>::trim_ascii) {
                    if word.eq_ignore_ascii_case(b"close") {
                        self.keep_alive = false;
                    } else if word.eq_ignore_ascii_case(b"keep-alive") {
                        self.keep_alive = true;
                    }
                }
            }
            8 if is(b"location") => self.location = true,
            10 if is(b"set-cookie") => self.cookies = true,
            _ => {}
        }
        Ok(())
    }
}

fn number(digits: &[u8]) -> Option<u64> {
    if digits.is_empty() || digits.len() > 18 || !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    Some(digits.iter().fold(0, |n, d| n * 10 + u64::from(d - b'0')))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(wanted: Wanted, input: &[u8], step: usize) -> Result<(Answers, bool), Broken> {
        let mut a = Answers::default();
        a.expect(wanted);
        let mut done = false;
        for part in input.chunks(step) {
            if a.feed(part)? != Fed::More {
                done = true;
                break;
            }
        }
        Ok((a, done))
    }

    const ALL: Wanted = Wanted { body: 1000, head: true, no_body: false, events: false };

    #[test]
    fn answers_in_pieces_of_any_size() {
        for (text, status, body, keep) in [
            ("HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello", 200, "hello", true),
            ("HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 404\nX: y\ncontent-length:  2 \n\nno", 404, "no", true),
            (
                "HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, Chunked\r\nContent-Length: 9\r\n\r\n3\r\nabc\r\n0\r\n\r\n",
                200,
                "abc",
                true,
            ),
            ("HTTP/1.0 200 OK\r\nContent-Length: 0\r\n\r\n", 200, "", false),
            ("HTTP/1.1 204 No\r\nConnection: foo, Close\r\n\r\n", 204, "", false),
        ] {
            for step in 1..=text.len() {
                let (a, done) = read(ALL, text.as_bytes(), step).unwrap();
                assert!(done, "{text} {step}");
                assert_eq!((a.status(), a.body(), a.keep_alive()), (status, body.as_bytes(), keep), "{text} {step}");
            }
        }
        let (a, _) = read(ALL, b"HTTP/1.1 200 OK\r\nX-A:  b \r\n\r\n", 7).unwrap();
        assert_eq!(header(a.head(), "x-a"), Some(&b"b"[..]));
    }

    #[test]
    fn a_body_until_the_end_and_one_that_is_not_kept() {
        let (mut a, done) = read(Wanted::default(), b"HTTP/1.1 200 OK\r\n\r\n0123456789", 4).unwrap();
        assert!(!done && a.bytes() == 10 && a.body().is_empty() && !a.keep_alive() && a.end().is_ok());
        let (a, done) =
            read(Wanted { body: 3, ..Wanted::default() }, b"HTTP/1.1 200 OK\r\ncontent-length:5\r\n\r\n01234", 4)
                .unwrap();
        assert!(done && a.body() == b"012" && a.is_cut());
        let (a, done) =
            read(Wanted { no_body: true, ..ALL }, b"HTTP/1.1 200 OK\r\ncontent-length:5\r\n\r\n", 40).unwrap();
        assert!(done && a.bytes() == 0);
    }

    #[test]
    fn events_are_counted_across_pieces() {
        let text = b"HTTP/1.1 200 OK\r\n\r\n: hi\ndata: 1\n\nevent: x\ndata: data: 2\r\n\r\nnodata: 3\n";
        for step in 1..text.len() {
            let (a, _) = read(Wanted { events: true, ..Wanted::default() }, text, step).unwrap();
            assert_eq!(a.events(), 2);
        }
    }

    #[test]
    fn what_is_not_http_is_broken() {
        for bad in [
            &b"SSH-2.0-x\r\n"[..],
            b"HTTP/2 200\r\n\r\n",
            b"HTTP/1.1 20\r\n\r\n",
            b"HTTP/1.1 999999\r\n\r\n",
            b"HTTP/1.1 200 OK\r\nno colon\r\n\r\n",
            b"HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n",
            b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n",
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz",
            b"HTTP/1.1 101 X\r\n\r\n",
        ] {
            for step in [1, 1000] {
                assert!(read(ALL, bad, step).is_err(), "{}", String::from_utf8_lossy(bad));
            }
        }
        let endless = [&b"HTTP/1.1 200 OK\r\n"[..], &b"a: b\r\n".repeat(20_000)].concat();
        assert!(read(ALL, &endless, 1000).is_err() && read(ALL, &endless, 1_000_000).is_err());
        assert!(read(ALL, &b"HTTP/1.1 100 C\r\n\r\n".repeat(20), 9).is_err());
        let (mut a, _) = read(ALL, b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nab", 9).unwrap();
        assert!(a.end().is_err());
    }
}
