//! The little of HTTP/1.1 that the demo's client and its native service share: heads, and bodies with a length.
//!
//! Invariant: foreign bytes never make us panic or allocate more than the limits say.

/// A head longer than this is refused, bytes.
pub(super) const HEAD_LIMIT: usize = 16 * 1024;
/// A body longer than this is refused by the service, bytes.
pub(super) const BODY_LIMIT: usize = 64 * 1024;
/// A body longer than this is refused by the client, bytes.
pub(super) const ANSWER_LIMIT: usize = 16 << 20;

/// The first line of a message and its header fields.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Head {
    /// The three parts of the first line: method, path, version or version, status, reason.
    pub(super) first: [String; 3],
    /// Names in lower case, with their values.
    fields: Vec<(String, String)>,
}

/// Why a head is none.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fault {
    /// The first line or a field is not HTTP/1.1.
    Malformed,
    /// The body's length is not a number.
    Length,
    /// The body comes in chunks, which this does not read.
    Chunked,
}

impl Head {
    /// Parses the lines of a head (without the empty line at its end).
    pub(super) fn parse(bytes: &[u8]) -> Result<Self, Fault> {
        let text = String::from_utf8_lossy(bytes);
        let mut lines = text.split("\r\n").filter(|line| !line.is_empty());
        let mut parts = lines.next().unwrap_or("").splitn(3, ' ').map(str::to_owned);
        let (Some(one), Some(two), Some(three)) = (parts.next(), parts.next(), parts.next()) else {
            return Err(Fault::Malformed);
        };
        let fields = lines
            .map(|line| line.split_once(':').map(|(n, v)| (n.trim().to_ascii_lowercase(), v.trim().to_owned())))
            .collect::<Option<_>>()
            .ok_or(Fault::Malformed)?;
        Ok(Self { first: [one, two, three], fields })
    }

    /// The last value of a field; `name` in lower case.
    pub(super) fn field(&self, name: &str) -> Option<&str> {
        self.fields.iter().rev().find(|(n, _)| n == name).map(|(_, v)| v.as_str())
    }

    /// The body's length in bytes, 0 where none is given.
    pub(super) fn length(&self) -> Result<usize, Fault> {
        if self.field("transfer-encoding").is_some() {
            return Err(Fault::Chunked);
        }
        match self.field("content-length") {
            None => Ok(0),
            Some(text) if text.bytes().all(|b| b.is_ascii_digit()) => text.parse().map_err(|_| Fault::Length),
            Some(_) => Err(Fault::Length),
        }
    }

    /// Whether the sender closes the connection behind this message.
    pub(super) fn closes(&self) -> bool {
        match self.field("connection").map(str::to_ascii_lowercase).as_deref() {
            Some("close") => true,
            Some("keep-alive") => false,
            _ => self.first.iter().any(|part| part == "HTTP/1.0"),
        }
    }
}

/// Where the body begins, once the whole head is in `bytes`.
pub(super) fn head_end(bytes: &[u8]) -> Option<usize> {
    bytes.windows(4).position(|w| w == b"\r\n\r\n").map(|at| at + 4)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_head_and_its_fields() {
        let bytes = b"HTTP/1.1 404 Not Found\r\nContent-Length:  12\r\nX: a:b\r\n\r\nrest";
        let end = head_end(bytes).unwrap();
        assert_eq!(&bytes[end..], b"rest");
        let head = Head::parse(&bytes[..end]).unwrap();
        assert_eq!(head.first, ["HTTP/1.1", "404", "Not Found"]);
        assert_eq!((head.length(), head.field("x"), head.closes()), (Ok(12), Some("a:b"), false));
        assert!(Head::parse(b"GET / HTTP/1.0\r\n\r\n").unwrap().closes());
        assert!(Head::parse(b"GET / HTTP/1.1\r\nConnection: Close\r\n\r\n").unwrap().closes());
    }

    #[test]
    fn what_is_no_head_is_a_fault() {
        for bytes in
            [&b""[..], b"\r\n\r\n", b"GET /\r\n\r\n", b"\xff\xfe\r\n\r\n", b"GET / HTTP/1.1\r\nno colon\r\n\r\n"]
        {
            assert_eq!(Head::parse(bytes), Err(Fault::Malformed), "{bytes:?}");
        }
        for (field, fault) in [
            ("content-length: -1", Fault::Length),
            ("content-length: 99999999999999999999999", Fault::Length),
            ("content-length: +3", Fault::Length),
            ("transfer-encoding: chunked", Fault::Chunked),
        ] {
            let head = Head::parse(format!("GET / HTTP/1.1\r\n{field}\r\n\r\n").as_bytes()).unwrap();
            assert_eq!(head.length(), Err(fault), "{field}");
        }
    }
}
