//! The chunked transfer coding (RFC 9112, 7.1), byte runs in, byte runs out.

/// The longest line of a chunk's size with its extensions, and of all trailers together, bytes.
const LINE: u32 = 16 * 1024;

/// Where in the coding the next byte stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Chunks {
    state: State,
    left: u64,
    line: u32,
    digits: u8,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Size,
    Extension,
    Data,
    AfterData,
    Trailer { empty: bool },
    Done,
}

impl Chunks {
    /// At the first chunk's size.
    pub fn new() -> Self {
        Self { state: State::Size, left: 0, line: 0, digits: 0 }
    }

    /// Whether the last chunk and the trailers are over.
    pub fn is_done(&self) -> bool {
        self.state == State::Done
    }

    /// Takes `input`, hands each run of content to `content`; returns how many bytes were used (all, unless done).
    ///
    /// # Errors
    /// What is not chunked coding.
    pub fn feed(&mut self, input: &[u8], mut content: impl FnMut(&[u8])) -> Result<usize, &'static str> {
        let mut i = 0;
        while let (Some(&b), false) = (input.get(i), self.is_done()) {
            if self.state == State::Data {
                let take = (input.len() - i).min(usize::try_from(self.left).unwrap_or(usize::MAX));
                content(&input[i..i + take]);
                self.left -= take as u64;
                i += take;
                if self.left == 0 {
                    self.state = State::AfterData;
                }
                continue;
            }
            i += 1;
            self.line += 1;
            if self.line > LINE {
                return Err("a chunk's size line or the trailers are too long");
            }
            match self.state {
                State::Size => match (b as char).to_digit(16) {
                    Some(d) => {
                        self.digits += 1;
                        if self.digits > 15 {
                            return Err("a chunk's size is absurd");
                        }
                        self.left = self.left << 4 | u64::from(d);
                    }
                    None if self.digits == 0 => return Err("a chunk's size is not a number"),
                    None if b == b'\n' => self.begin(),
                    None if b"\r; \t".contains(&b) => self.state = State::Extension,
                    None => return Err("a chunk's size is not a number"),
                },
                State::Extension if b == b'\n' => self.begin(),
                State::Extension => {}
                State::AfterData if b == b'\n' => *self = Self::new(),
                State::AfterData if b == b'\r' => {}
                State::AfterData => return Err("a chunk is longer than it says"),
                State::Trailer { empty } => match b {
                    b'\n' if empty => self.state = State::Done,
                    b'\n' => self.state = State::Trailer { empty: true },
                    b'\r' => {}
                    _ => self.state = State::Trailer { empty: false },
                },
                State::Data | State::Done => {}
            }
        }
        Ok(i)
    }

    fn begin(&mut self) {
        self.line = 0;
        self.digits = 0;
        self.state = if self.left == 0 { State::Trailer { empty: true } } else { State::Data };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(input: &[u8], step: usize) -> Result<(Vec<u8>, bool), &'static str> {
        let (mut c, mut out) = (Chunks::new(), Vec::new());
        for part in input.chunks(step) {
            c.feed(part, |run| out.extend_from_slice(run))?;
        }
        Ok((out, c.is_done()))
    }

    #[test]
    fn chunks_in_pieces_of_any_size() {
        let text = b"4;x=y\r\nWiki\r\nA\r\n0123456789\r\n0\r\nT: v\r\n\r\n";
        for step in 1..text.len() {
            assert_eq!(read(text, step).unwrap(), (b"Wiki0123456789".to_vec(), true), "{step}");
        }
        let mut c = Chunks::new();
        assert_eq!(c.feed(b"0\r\n\r\nHTTP", |_| {}).unwrap(), 5);
    }

    #[test]
    fn lies_are_found() {
        for bad in [&b"x\r\n"[..], b"\r\n", b"1\r\nab", b"ffffffffffffffff\r\n", b"-1\r\n"] {
            assert!(read(bad, 1).is_err(), "{bad:?}");
        }
        assert!(read(&[b"1;".to_vec(), vec![b'a'; 20_000]].concat(), 100).is_err());
        assert_eq!(read(b"5\r\nab", 9), Ok((b"ab".to_vec(), false)));
    }
}
