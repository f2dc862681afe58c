//! The life of a request: sent, answered, judged, counted.

use super::conn::{Conn, Got, Wrote};
use super::failure;
use super::user::State;
use super::worker::{Worker, now};
use crate::load::http::{Fed, Url, header};
use crate::load::script::{Answer, Script};
use crate::load::tally::{Failure, Outcome, WindowRow};
use crate::os::epoll::Ready;

impl<S: Script> Worker<'_, S> {
    /// Sends the draft.
    pub(super) fn send(&mut self, seat: u32) {
        let keeps_cookies = {
            let class = self.users[seat as usize].class as usize;
            self.script.classes().get(class).is_some_and(|c| c.cookies)
        };
        let user = &mut self.users[seat as usize];
        user.again = false;
        user.redirects = user.draft.redirects;
        if keeps_cookies && !user.jar.is_empty() {
            let tls = self.order.servers.get(user.draft.host as usize).is_some_and(|s| s.tls.is_some());
            user.add_cookies(tls);
        }
        user.state = State::Busy;
        user.sent = now();
        (user.first, user.token) = (0, 0);
        if user.timed {
            user.timed = false;
            let lag = user.sent.saturating_sub(user.ready.max(user.due));
            self.lag_max = self.lag_max.max(lag);
            self.tally.lag.record(lag);
        }
        let user = &mut self.users[seat as usize];
        user.deadline = user.sent.saturating_add(user.draft.timeout_ns);
        self.watch(seat);
        self.transmit(seat);
    }

    /// Puts the draft on a connection, a new one if there is none to this host.
    fn transmit(&mut self, seat: u32) {
        let user = &mut self.users[seat as usize];
        if user.conn.as_ref().is_some_and(|c| c.host != user.draft.host) {
            user.conn = None;
        }
        if user.conn.is_none() {
            let Some(server) = self.order.servers.get(user.draft.host as usize) else {
                return self.fail(seat, failure::of("bug", "a host without a server"));
            };
            self.turn = self.turn.wrapping_add(1);
            user.wire = user.wire.wrapping_add(1);
            let key = u64::from(seat) | u64::from(user.wire) << 32;
            let opened = Conn::open(server, user.draft.host, self.turn).and_then(|conn| {
                self.epoll.add(&conn, key).map_err(|e| (e, Some(conn.address)))?;
                Ok(conn)
            });
            match opened {
                Ok(conn) => user.conn = Some(Box::new(conn)),
                Err((e, address)) => {
                    let failed = match address {
                        Some(a) => failure::of_io(&e, a),
                        None => failure::of("dns", "the host has no address"),
                    };
                    return self.refuse(seat, failed);
                }
            }
            self.tally.connections += 1;
        }
        let user = &mut self.users[seat as usize];
        let wanted = user.draft.wanted;
        if let Some(conn) = &mut user.conn {
            conn.rewind();
            conn.answers.expect(wanted);
            if conn.connected {
                self.push(seat);
            }
        }
    }

    /// Writes what the kernel takes.
    fn push(&mut self, seat: u32) {
        let user = &mut self.users[seat as usize];
        let Some(conn) = &mut user.conn else { return };
        match conn.write(&user.draft.bytes) {
            Ok(Wrote::All | Wrote::Some) => {}
            Err(e) => {
                let failed = failure::of_io(&e, conn.address);
                self.broken(seat, failed);
            }
        }
    }

    /// Something happened on the user's connection.
    pub(super) fn ready(&mut self, seat: u32, ready: Ready) {
        let user = &mut self.users[seat as usize];
        let is_busy = user.state == State::Busy;
        let Some(conn) = &mut user.conn else { return };
        conn.half_closed |= ready.ended;
        if !conn.connected {
            if let Some(e) = conn.connect_error() {
                let failed = failure::of_io(&e, conn.address);
                return if is_busy { self.fail(seat, failed) } else { user.conn = None };
            }
            if !ready.writable {
                return;
            }
            conn.connected = true;
            if is_busy {
                self.push(seat);
            }
        } else if ready.writable && is_busy {
            // Told at every event; there is something to do only if the kernel had no room before.
            if conn.wants_more(&user.draft.bytes) {
                self.push(seat);
            }
        }
        if ready.readable {
            self.pull(seat);
        }
    }

    /// Reads what there is.
    fn pull(&mut self, seat: u32) {
        loop {
            let user = &mut self.users[seat as usize];
            let is_busy = user.state == State::Busy;
            let Some(conn) = &mut user.conn else { return };
            let address = conn.address;
            match conn.read(&mut self.buffer) {
                Got::Bytes(0, _) => {}
                Got::Bytes(_, _) if !is_busy => {
                    // Nobody asked for anything.
                    self.tally.stray += 1;
                    user.conn = None;
                    return;
                }
                Got::Bytes(n, more) => {
                    let at = now();
                    if user.first == 0 {
                        user.first = at;
                    }
                    let fed = conn.answers.feed(&self.buffer[..n]);
                    if user.token == 0 && conn.answers.events() > 0 {
                        user.token = at;
                    }
                    match fed {
                        Ok(Fed::More) if !more && !conn.half_closed => return,
                        Ok(Fed::More) => {}
                        Ok(Fed::Done(used)) => {
                            let stray = used < n;
                            self.tally.stray += u64::from(stray);
                            return self.complete(seat, at, !stray);
                        }
                        Err(e) => return self.fail(seat, failure::of("protocol", e.0)),
                    }
                }
                Got::Nothing => {
                    if conn.wants_write() {
                        self.push(seat);
                    }
                    return;
                }
                Got::End => {
                    if !is_busy {
                        user.conn = None;
                        return;
                    }
                    return match conn.answers.end() {
                        Ok(()) => self.complete(seat, now(), false),
                        Err(e) => self.broken(seat, failure::of("closed", format!("{} ({address})", e.0))),
                    };
                }
                Got::Tls(e) => {
                    let failed = failure::of("tls", e);
                    return if is_busy { self.fail(seat, failed) } else { user.conn = None };
                }
                Got::Failed(e) => {
                    let failed = failure::of_io(&e, address);
                    return if is_busy { self.broken(seat, failed) } else { user.conn = None };
                }
            }
        }
    }

    /// The connection broke. A request that may be repeated, and met a kept connection which the server had given up
    /// meanwhile, is sent once more (RFC 9112, 9.3.1); its due time stays.
    fn broken(&mut self, seat: u32, failed: Failure) {
        let user = &mut self.users[seat as usize];
        let untouched = user.conn.as_ref().is_some_and(|c| c.reused && !c.answers.has_begun());
        let bytes = &user.draft.bytes;
        let repeatable =
            [&b"GET "[..], b"HEAD ", b"PUT ", b"DELETE ", b"OPTIONS "].iter().any(|m| bytes.starts_with(m));
        if untouched && repeatable && !user.again {
            user.again = true;
            user.conn = None;
            return self.transmit(seat);
        }
        self.fail(seat, failed);
    }

    /// The request took too long.
    pub(super) fn time_out(&mut self, seat: u32) {
        let user = &self.users[seat as usize];
        let what = match &user.conn {
            Some(c) if !c.connected => "connecting",
            Some(c) if c.answers.has_begun() => "within the answer",
            _ => "waiting for an answer",
        };
        let limit = crate::units::Nanos(user.draft.timeout_ns);
        self.fail(seat, failure::of("timeout", format!("no answer within {limit} ({what})")));
    }

    /// There is no answer.
    fn fail(&mut self, seat: u32, failed: Failure) {
        self.give_up(seat, failed);
        self.go_on(seat);
    }

    /// The request did not even begin. The user rests for a moment: a script that tries again and again must not spin.
    pub(super) fn refuse(&mut self, seat: u32, failed: Failure) {
        let user = &mut self.users[seat as usize];
        user.state = State::Busy;
        (user.first, user.token) = (0, 0);
        user.sent = now();
        self.give_up(seat, failed);
        self.rest(seat);
    }

    fn give_up(&mut self, seat: u32, failed: Failure) {
        let at = now();
        let user = &mut self.users[seat as usize];
        let (bytes, events) = user.conn.as_ref().map_or((0, 0), |c| (c.answers.bytes(), c.answers.events()));
        user.conn = None;
        let why = failed.message.clone();
        self.count(seat, at, 0, bytes, events, Some(failed));
        let user = &mut self.users[seat as usize];
        self.script.failed(&mut user.player, &why);
        user.breathless = true;
        (user.due, user.ready) = (at, at);
    }

    /// The answer is there.
    fn complete(&mut self, seat: u32, at: u64, clean: bool) {
        let user = &mut self.users[seat as usize];
        let Some(mut conn) = user.conn.take() else { return };
        if conn.answers.has_cookies() {
            let path = target(&user.draft.bytes).to_vec();
            user.jar.take(conn.answers.head(), &path);
        }
        let mut problem = None;
        if conn.answers.is_redirect() && user.redirects > 0 {
            user.redirects -= 1;
            match redirected(self.script.hosts(), user.draft.host, &user.draft.bytes, user.draft.head_end, &conn) {
                Ok((host, bytes, head_end)) => {
                    let user = &mut self.users[seat as usize];
                    (user.draft.bytes, user.draft.head_end) = (bytes, head_end);
                    let keep = clean && conn.answers.keep_alive() && !conn.half_closed && host == conn.host;
                    user.draft.host = host;
                    conn.reused = true;
                    user.conn = keep.then_some(conn);
                    user.again = false;
                    self.follow(seat);
                    return;
                }
                Err(why) => problem = Some(failure::of("redirect", why)),
            }
        } else if conn.answers.is_redirect() && user.draft.redirects > 0 {
            problem = Some(too_many(user.draft.redirects, &conn));
        }
        let user = &mut self.users[seat as usize];
        let answers = &conn.answers;
        let answer = Answer {
            status: answers.status(),
            head: answers.head(),
            body: answers.body(),
            cut: answers.is_cut(),
            latency_ns: at.saturating_sub(user.due),
        };
        let failed = problem.or_else(|| {
            let verdict = self.script.judge(&mut user.player, &answer);
            verdict.err().map(|message| {
                let kind = if message.starts_with("status ") { "status" } else { "check" };
                Failure { kind, message }
            })
        });
        let (status, bytes, events) = (answers.status(), answers.bytes(), answers.events());
        if clean && answers.keep_alive() && !conn.half_closed {
            conn.reused = true;
            user.conn = Some(conn);
        }
        self.count(seat, at, status, bytes, events, failed);
        let user = &mut self.users[seat as usize];
        (user.due, user.ready) = (at, at);
        self.go_on(seat);
    }

    /// Sends a redirected request, with the cookies of its new path.
    fn follow(&mut self, seat: u32) {
        let user = &mut self.users[seat as usize];
        let keeps = self.script.classes().get(user.class as usize).is_some_and(|c| c.cookies);
        if keeps && !user.jar.is_empty() {
            let tls = self.order.servers.get(user.draft.host as usize).is_some_and(|s| s.tls.is_some());
            user.add_cookies(tls);
        }
        self.transmit(seat);
    }

    fn count(&mut self, seat: u32, at: u64, status: u16, bytes: u64, events: u32, failed: Option<Failure>) {
        let user = &mut self.users[seat as usize];
        let name = user.draft.name;
        let outcome = Outcome {
            name,
            due: user.due,
            sent: user.sent,
            first: user.first,
            token: user.token,
            end: at,
            bytes,
            events,
            status,
        };
        let index = name.0 as usize;
        if self.rows.len() <= index {
            self.rows.resize_with(index + 1, WindowRow::default);
        }
        let row = &mut self.rows[index];
        row.bytes += bytes;
        row.failures += u64::from(failed.is_some());
        row.service_us += at.saturating_sub(user.sent) / 1000;
        row.latencies_us.push(u32::try_from(at.saturating_sub(user.due) / 1000).unwrap_or(u32::MAX));
        self.tally.record(&outcome, failed);
    }
}

/// The target in a request's first line.
pub(super) fn target(request: &[u8]) -> &[u8] {
    request.split(|b| *b == b' ').nth(1).unwrap_or(b"/")
}

/// Followed as often as allowed, and still no answer.
#[cold]
fn too_many(limit: u8, conn: &Conn) -> Failure {
    let to = header(conn.answers.head(), "location").unwrap_or_default();
    let to: String = String::from_utf8_lossy(to).chars().take(100).collect();
    failure::of("redirect", format!("more than {limit} redirects, the last one to {to}"))
}

/// The request that a redirect asks for: its host, bytes and the end of its head.
fn redirected(
    hosts: &[Url],
    host: u16,
    bytes: &[u8],
    head_end: usize,
    conn: &Conn,
) -> Result<(u16, Vec<u8>, usize), String> {
    let location = header(conn.answers.head(), "location").unwrap_or_default();
    let location = String::from_utf8_lossy(location);
    let base = hosts.get(host as usize).ok_or("a host without a URL")?;
    let here = Url { target: String::from_utf8_lossy(target(bytes)).into_owned(), ..base.clone() };
    let to = here.join(&location).map_err(|e| e.to_string())?;
    let Some(new_host) = hosts.iter().position(|h| h.same_origin(&to)) else {
        return Err(format!("a redirect to another host is not followed: {}", to.origin()));
    };
    let (method, _) = bytes.split_at(bytes.iter().position(|b| *b == b' ').unwrap_or(0));
    // 303 always asks by GET; browsers and other clients do the same for a POST that is moved by 301 or 302.
    let by_get = match conn.answers.status() {
        303 => method != b"HEAD",
        301 | 302 => method == b"POST",
        _ => false,
    };
    let mut out = Vec::with_capacity(bytes.len());
    out.extend_from_slice(if by_get { b"GET" } else { method });
    out.push(b' ');
    out.extend_from_slice(to.target.as_bytes());
    out.extend_from_slice(b" HTTP/1.1\r\n");
    let head = bytes.get(..head_end).unwrap_or_default();
    for line in head.split_inclusive(|b| *b == b'\n').skip(1) {
        let is = |name: &[u8]| line.get(..name.len()).is_some_and(|l| l.eq_ignore_ascii_case(name));
        let other_host = new_host != host as usize;
        if is(b"cookie:")
            || (by_get && (is(b"content-length:") || is(b"content-type:")))
            || (other_host && is(b"authorization:"))
        {
            continue;
        }
        if other_host && is(b"host:") {
            out.extend_from_slice(format!("Host: {}\r\n", to.authority()).as_bytes());
        } else {
            out.extend_from_slice(line);
        }
    }
    let end = out.len();
    out.extend_from_slice(b"\r\n");
    if !by_get {
        out.extend_from_slice(bytes.get(head_end + 2..).unwrap_or_default());
    }
    Ok((new_host as u16, out, end))
}
