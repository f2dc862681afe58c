//! Users of a locustfile on the engine: the [`Script`] that answers the engine's questions by resuming [`User`]s.
//!
//! In: a [`Cast`], made once from the file, and the file itself. Out: a [`Play`] for each engine thread, with a world of its
//! own. Limits: an answer with `catch_response` is judged before the next request or pause; a file that does either inside
//! the `with` has it counted by its status, and so are answers that nobody judges (Locust leaves those out).

use std::cell::{Cell, RefCell};
use std::sync::Arc;

use super::border::{Effect, Exception, Input, Request, Response};
use super::web::failure_of;
use super::{Locustfile, Options, User, UserClass, World};
use crate::error::{Error, Result};
use crate::load::http::{Url, Wanted, fields};
use crate::load::journal::Journal;
use crate::load::program::Choice;
use crate::load::script::{Action, Answer, Class, Context, Draft, NAME_LIMIT, NameId, Phase, Script, Wait};

/// The most of a body that a file can look at, bytes.
const BODY: usize = 16 << 20;
/// What a request may take where the file does not say, ns: perfkit's own default, as Locust has none.
const TIMEOUT_NS: u64 = 60_000_000_000;
/// How many redirects are followed, as in requests.
const REDIRECTS: u8 = 30;
/// Slices of steps in which a file may look at an answer before it is counted by its status.
const LOOKS: u32 = 10_000;

/// What is known of a locustfile's users before the run: the same for all threads.
#[derive(Debug, Clone)]
pub struct Cast {
    /// The classes that were chosen.
    pub classes: Vec<Class>,
    /// Each class's number in the file.
    numbers: Vec<usize>,
    /// Each class's host, in `hosts`.
    homes: Vec<Option<u16>>,
    /// The servers; those after the first `needed` are only mentioned in the file.
    pub hosts: Vec<Url>,
    /// How many of the hosts must have an address.
    pub needed: usize,
    options: Options,
    wants_headers: bool,
    wants_body: bool,
    seed: u64,
    timeout_ns: u64,
}

impl Cast {
    /// Chooses those of `choice` from all classes of the file ([`Locustfile::survey`]), whose weights and fixed counts may have
    /// been changed since.
    ///
    /// # Errors
    /// `Usage` when a class that was named is not there, and when requests have no host.
    pub fn of(
        file: &Locustfile,
        all: &[UserClass],
        choice: &Choice,
        seed: u64,
        timeout_ns: Option<u64>,
    ) -> Result<Self> {
        let names: Vec<&str> = all.iter().map(|c| c.name.as_str()).collect();
        if let Some(stranger) = choice.classes.iter().find(|c| !names.contains(&c.as_str())) {
            return Err(Error::usage(format!("{} has no user class '{stranger}'", file.name()))
                .advise(format!("its classes: {}", names.join(", "))));
        }
        if all.is_empty() {
            return Err(Error::usage(format!("{} has no class of users with tasks", file.name()))
                .advise("a class needs HttpUser as its base and a method with @task; look at --tags, too"));
        }
        let has_fractions = all.iter().any(|c| c.weight.fract() != 0.0);
        let mut cast = Self {
            classes: Vec::new(),
            numbers: Vec::new(),
            homes: Vec::new(),
            hosts: Vec::new(),
            needed: 0,
            options: options(choice),
            wants_headers: file.mentions(&["headers", "cookies"]),
            wants_body: file.wants_body(),
            seed,
            timeout_ns: timeout_ns.unwrap_or(TIMEOUT_NS),
        };
        for (number, class) in all.iter().enumerate() {
            if !choice.classes.is_empty() && !choice.classes.contains(&class.name) {
                continue;
            }
            // `-H` goes before what the file says, as in Locust.
            let home = choice.host.as_ref().or(class.host.as_ref()).filter(|h| !h.is_empty());
            let home = home.map(|h| Url::parse(h).map(|url| cast.host(url))).transpose()?;
            cast.homes.push(home);
            cast.numbers.push(number);
            cast.classes.push(Class {
                name: class.name.clone(),
                weight: (class.weight * if has_fractions { 1000.0 } else { 1.0 }).clamp(0.0, 1e6) as u32,
                fixed_count: class.fixed_count,
                cookies: true,
            });
        }
        cast.needed = cast.hosts.len();
        for url in file.mentioned_urls() {
            cast.host(url);
        }
        if cast.hosts.is_empty() {
            return Err(Error::usage(format!("{} names no host", file.name()))
                .advise("say where requests go: -H http://127.0.0.1:8000"));
        }
        Ok(cast)
    }

    /// A world of a thread's own.
    ///
    /// # Errors
    /// `Usage` when the module raises.
    pub fn world(&self, file: &Locustfile) -> Result<World> {
        file.world(&self.options, self.seed)
    }

    /// The number of the URL's server, with its own base path.
    fn host(&mut self, url: Url) -> u16 {
        let same = |h: &Url| h.same_origin(&url) && h.target == url.target;
        if let Some(at) = self.hosts.iter().position(same) {
            return at as u16;
        }
        if self.hosts.len() < usize::from(u16::MAX) {
            self.hosts.push(url);
        }
        (self.hosts.len() - 1) as u16
    }
}

fn options(choice: &Choice) -> Options {
    Options {
        host: choice.host.clone(),
        tags: choice.tags.clone(),
        exclude_tags: choice.exclude_tags.clone(),
        ..Options::default()
    }
}

impl Locustfile {
    /// The file's classes, with the tasks that the choice of tags leaves them, and whether it has a `LoadTestShape`.
    ///
    /// # Errors
    /// `Usage` when the module raises.
    pub fn survey(&self, choice: &Choice) -> Result<(Vec<UserClass>, bool)> {
        let mut world = self.world(&options(choice), 1)?;
        Ok((world.classes(), world.has_shape()))
    }
}

/// A user on the engine.
#[derive(Debug)]
pub struct Player {
    user: Option<User>,
    class: u16,
    phase: Phase,
    input: Option<Input>,
    /// An effect that came while an answer was judged.
    pending: Option<Effect>,
    /// The request under way, for the engine's failures.
    asked: Option<Box<Request>>,
    now: u64,
}

/// A thread's part of a run.
#[derive(Debug)]
pub struct Play {
    cast: Arc<Cast>,
    world: RefCell<World>,
    journal: Arc<Journal>,
    file: String,
    wall_offset_ns: Cell<i64>,
}

impl Play {
    /// A thread's own world. `test_start` is fired.
    ///
    /// # Errors
    /// `Usage` when the module raises.
    pub fn new(file: &Locustfile, cast: Arc<Cast>, journal: Arc<Journal>) -> Result<Self> {
        let mut world = cast.world(file)?;
        world.fire("test_start");
        let play = Self {
            cast,
            world: RefCell::new(world),
            journal,
            file: file.name().to_owned(),
            wall_offset_ns: Cell::new(0),
        };
        play.tell();
        Ok(play)
    }

    /// Fires the last events and hands over what was printed.
    pub fn end(self) {
        for event in ["test_stopping", "test_stop", "quitting", "quit"] {
            self.world.borrow_mut().fire(event);
        }
        self.tell();
    }

    fn tell(&self) {
        for line in self.world.borrow_mut().take_log() {
            self.journal.say(&line);
        }
    }

    fn raised(&self, e: Exception) {
        let traceback = e.traceback_of(&self.file);
        self.journal.raised(e.message, traceback);
    }

    /// Resumes the user until it wants something of the engine; exceptions and wishes for the end are dealt with here.
    fn resume(&self, player: &mut Player, input: Input, now: u64) -> Effect {
        let Some(user) = &mut player.user else { return Effect::Ended };
        let wall_us = (now as i64 + self.wall_offset_ns.get()) / 1000;
        let mut input = input;
        loop {
            let effect = {
                let mut world = self.world.borrow_mut();
                user.resume(&mut world.machine, input, now, wall_us)
            };
            match effect {
                Effect::Exception(e) => self.raised(*e),
                Effect::StopRun => self.journal.end_run(),
                other => {
                    if self.world.borrow().has_log() {
                        self.tell();
                    }
                    return other;
                }
            }
            input = Input::Go;
        }
    }

    /// Hands the answer in and looks for its verdict.
    fn arrived(&self, player: &mut Player, response: Response, now: u64) -> Option<String> {
        let by_status = player.asked.take().and_then(|asked| failure_of(&asked, &response));
        let mut effect = self.resume(player, Input::Response(Box::new(response)), now);
        for _ in 0..LOOKS {
            match effect {
                Effect::Verdict(verdict) => return verdict.failure,
                Effect::Yield => effect = self.resume(player, Input::Go, now),
                _ => break,
            }
        }
        player.pending = Some(effect);
        by_status
    }

    /// Where a request goes: the number of its server and the target there.
    fn place(&self, player: &Player, url: &str) -> std::result::Result<(u16, String), String> {
        if url.starts_with("http://") || url.starts_with("https://") {
            let to = Url::parse(url).map_err(|e| e.to_string())?;
            let known = self.cast.hosts.iter().position(|h| h.same_origin(&to));
            let at = known
                .ok_or_else(|| format!("{} is not among the hosts that were looked up before the run", to.origin()))?;
            return Ok((at as u16, to.target));
        }
        let home = self.cast.homes.get(player.class as usize).copied().flatten();
        let home = home.ok_or("its class has no host; say where requests go with -H")?;
        let base = self.cast.hosts.get(home as usize).map_or("", |h| h.target.trim_end_matches('/'));
        let path = url.split('#').next().unwrap_or_default();
        let slash = if path.starts_with('/') { "" } else { "/" };
        Ok((home, format!("{base}{slash}{path}")))
    }

    fn name(request: &Request, cx: &mut Context<'_>) -> NameId {
        let scratch = &mut *cx.scratch;
        scratch.clear();
        scratch.extend_from_slice(request.method.as_bytes());
        scratch.push(b' ');
        scratch.extend_from_slice(request.name.as_bytes());
        if let Some(known) = cx.known.get(scratch.as_slice()) {
            return *known;
        }
        let id = cx.names.id(&request.method, &request.name);
        if cx.known.len() < 2 * NAME_LIMIT {
            cx.known.insert(scratch.as_slice().into(), id);
        }
        id
    }

    fn fill(
        &self,
        player: &Player,
        request: &Request,
        draft: &mut Draft,
        cx: &mut Context<'_>,
    ) -> std::result::Result<(), String> {
        draft.name = Self::name(request, cx);
        let (host, target) = self.place(player, &request.url)?;
        let authority = self.cast.hosts.get(host as usize).map(Url::authority).unwrap_or_default();
        let out = &mut draft.bytes;
        out.clear();
        for part in [request.method.as_str(), " ", &target, " HTTP/1.1\r\n"] {
            out.extend_from_slice(part.as_bytes());
        }
        let agent = concat!("perfkit/", env!("CARGO_PKG_VERSION"));
        let given = |name: &str| request.headers.iter().any(|(n, _)| n.eq_ignore_ascii_case(name));
        for (name, value) in [("Host", authority.as_str()), ("User-Agent", agent), ("Accept", "*/*")] {
            if !given(name) {
                field(out, name, value);
            }
        }
        for (name, value) in &request.headers {
            // What frames the message, and what would have the answer come in a form that is not read here.
            let ours = ["content-length", "transfer-encoding", "accept-encoding", "connection"];
            if !ours.iter().any(|o| name.eq_ignore_ascii_case(o)) {
                field(out, name, value);
            }
        }
        if !request.body.is_empty() || matches!(request.method.as_str(), "POST" | "PUT" | "PATCH") {
            field(out, "Content-Length", &request.body.len().to_string());
        }
        draft.head_end = out.len();
        out.extend_from_slice(b"\r\n");
        out.extend_from_slice(&request.body);
        draft.host = host;
        draft.wanted = Wanted {
            body: if self.cast.wants_body && request.wants_body { BODY } else { 0 },
            // For the reason phrase, which stands in Locust's messages.
            head: true,
            no_body: request.method == "HEAD",
            events: false,
        };
        draft.timeout_ns = request.timeout_ns.unwrap_or(self.cast.timeout_ns).max(1);
        draft.redirects = if request.redirects { REDIRECTS } else { 0 };
        Ok(())
    }
}

fn field(out: &mut Vec<u8>, name: &str, value: &str) {
    for part in [name, ": ", value, "\r\n"] {
        out.extend_from_slice(part.as_bytes());
    }
}

impl Script for Play {
    type User = Player;

    fn classes(&self) -> &[Class] {
        &self.cast.classes
    }

    fn hosts(&self) -> &[Url] {
        &self.cast.hosts
    }

    fn counts(&self) -> usize {
        0
    }

    fn join(&self, number: u64, class: u16) -> Player {
        let of_file = self.cast.numbers.get(class as usize).copied().unwrap_or_default();
        // The class was there when the cast was made of the same file.
        let user = self.world.borrow_mut().user(of_file, self.cast.seed, number).ok();
        Player { user, class, phase: Phase::Start, input: Some(Input::Go), pending: None, asked: None, now: 0 }
    }

    fn begin(&self, player: &mut Player, phase: Phase, _arrival: Option<u64>) {
        player.phase = phase;
        if phase == Phase::Stop {
            (player.input, player.pending, player.asked) = (Some(Input::Stop), None, None);
        }
    }

    fn next(&self, player: &mut Player, draft: &mut Draft, cx: &mut Context<'_>) -> Action {
        player.now = cx.now;
        self.wall_offset_ns.set(cx.wall_offset_ns);
        loop {
            let effect = if let Some(effect) = player.pending.take() {
                effect
            } else {
                let input = player.input.take().unwrap_or(Input::Go);
                self.resume(player, input, cx.now)
            };
            match effect {
                Effect::Request(request) => match self.fill(player, &request, draft, cx) {
                    Ok(()) => {
                        player.asked = Some(request);
                        return Action::Send;
                    }
                    Err(why) => {
                        player.asked = Some(request);
                        draft.refusal = why;
                        return Action::Refuse;
                    }
                },
                Effect::Sleep(ns) => return Action::Pause(ns),
                Effect::Wait(ns) => return Action::Done(Wait::Constant(ns)),
                Effect::Pace(ns) => return Action::Done(Wait::Pacing(ns)),
                Effect::Yield
                    if player.phase == Phase::Start && player.user.as_ref().is_some_and(User::has_started) =>
                {
                    return Action::Done(Wait::None);
                }
                Effect::Yield => return Action::Pause(0),
                Effect::Ended => return Action::Leave,
                // The answer was counted by its status already; the others are dealt with by `resume`.
                Effect::Verdict(_) | Effect::Exception(_) | Effect::StopRun => {}
            }
        }
    }

    fn judge(&self, player: &mut Player, answer: &Answer<'_>) -> std::result::Result<(), String> {
        let head = if self.cast.wants_headers { answer.head } else { &[] };
        let headers = fields(head)
            .map(|(n, v)| (String::from_utf8_lossy(n).into_owned(), String::from_utf8_lossy(v).into_owned()));
        let response = Response {
            status: answer.status,
            reason: answer.reason().into_owned(),
            headers: headers.collect(),
            body: answer.body.to_vec(),
            error: None,
            latency_ns: answer.latency_ns,
            token: 0,
        };
        let now = player.now.saturating_add(answer.latency_ns);
        self.arrived(player, response, now).map_or(Ok(()), Err)
    }

    fn failed(&self, player: &mut Player, why: &str) {
        let response = Response { error: Some(why.to_owned()), ..Response::default() };
        let now = player.now;
        // It is counted already, whatever the file makes of it.
        let _: Option<String> = self.arrived(player, response, now);
    }
}
