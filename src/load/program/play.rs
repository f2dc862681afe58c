//! Playing a compiled scenario.

use super::{Checks, Naming, Op, Play, Program, Request};
use crate::load::chance::Chance;
use crate::load::http::{Url, header};
use crate::load::jsonpath::text_of;
use crate::load::scenario::{From, Wait};
use crate::load::script::{Action, Answer, Class, Context, Draft, Phase, Script};

/// The longest value that a capture keeps, bytes.
const CAPTURE: usize = 64 * 1024;

/// A user of a compiled scenario.
#[derive(Debug)]
pub struct Player {
    pub(super) number: u64,
    pub(super) chance: Chance,
    pub(super) variables: Box<[Option<Box<str>>]>,
    /// The row of each feeder that this task has; `u32::MAX` for none yet.
    pub(super) rows: Box<[u32]>,
    class: u16,
    phase: Phase,
    task: u16,
    step: u16,
    tour: u32,
}

impl Program {
    fn ops(&self, user: &Player) -> &[Op] {
        let Some(play) = self.plays.get(user.class as usize) else { return &[] };
        match user.phase {
            Phase::Start => &play.on_start,
            Phase::Stop => &play.on_stop,
            Phase::Task => play.tasks.get(user.task as usize).map_or(&[], Vec::as_slice),
        }
    }

    fn wait_of(&self, user: &Player) -> Wait {
        self.plays.get(user.class as usize).map_or(Wait::None, |p| p.wait)
    }

    /// Fills in `r`. `false` when unique data are used up.
    fn fill(&self, r: &Request, user: &mut Player, draft: &mut Draft, cx: &mut Context<'_>) -> bool {
        draft.bytes.clear();
        if !r.head.write(&mut draft.bytes, self, user, cx) {
            return false;
        }
        if let Some(body) = &r.body {
            let mut text = std::mem::take(cx.scratch);
            text.clear();
            let filled = body.write(&mut text, self, user, cx);
            draft.bytes.extend_from_slice(b"Content-Length: ");
            number(&mut draft.bytes, text.len());
            draft.bytes.extend_from_slice(b"\r\n");
            draft.head_end = draft.bytes.len();
            draft.bytes.extend_from_slice(b"\r\n");
            draft.bytes.extend_from_slice(&text);
            *cx.scratch = text;
            if !filled {
                return false;
            }
        } else {
            draft.head_end = draft.bytes.len();
            draft.bytes.extend_from_slice(&r.tail);
        }
        draft.name = match &r.name {
            Naming::Fixed(id) => *id,
            Naming::Filled(pieces) => {
                let mut text = std::mem::take(cx.scratch);
                text.clear();
                text.extend_from_slice(r.method.as_bytes());
                text.push(b' ');
                let from = text.len();
                let filled = pieces.write(&mut text, self, user, cx);
                let id = cx.known.get(text.as_slice()).copied().unwrap_or_else(|| {
                    let id = cx.names.id(&r.method, &String::from_utf8_lossy(&text[from..]));
                    if cx.known.len() < 2 * crate::load::script::NAME_LIMIT {
                        cx.known.insert(text.as_slice().into(), id);
                    }
                    id
                });
                *cx.scratch = text;
                if !filled {
                    return false;
                }
                id
            }
        };
        draft.host = r.host;
        draft.wanted = r.wanted;
        draft.timeout_ns = r.timeout_ns;
        draft.redirects = r.redirects;
        true
    }
}

impl Script for Program {
    type User = Player;

    fn classes(&self) -> &[Class] {
        &self.classes
    }

    fn hosts(&self) -> &[Url] {
        &self.hosts
    }

    fn counts(&self) -> usize {
        self.counts
    }

    fn join(&self, number: u64, class: u16) -> Player {
        let variables = self.plays.get(class as usize).map_or(0, |p| p.variables);
        Player {
            number,
            chance: Chance::new(self.seed, number),
            variables: vec![None; variables].into(),
            rows: vec![u32::MAX; self.data.len()].into(),
            class,
            phase: Phase::Start,
            task: 0,
            step: 0,
            tour: 0,
        }
    }

    fn begin(&self, user: &mut Player, phase: Phase, arrival: Option<u64>) {
        user.phase = phase;
        user.step = 0;
        if !user.rows.is_empty() {
            user.rows.fill(u32::MAX);
        }
        if phase != Phase::Task {
            return;
        }
        if let Some(arrival) = arrival {
            // What an arrival does is its own, whoever does it. The top bit keeps these streams apart from the users'.
            user.chance = Chance::new(self.seed, arrival | 1 << 63);
        }
        let Some(Play { weights, tasks, .. }) = self.plays.get(user.class as usize) else { return };
        user.task = if let Some(&total) = weights.last() {
            let point = user.chance.below(total);
            weights.partition_point(|w| *w <= point) as u16
        } else {
            let at = u64::from(user.tour) % tasks.len().max(1) as u64;
            user.tour = user.tour.wrapping_add(1);
            at as u16
        };
    }

    fn next(&self, user: &mut Player, draft: &mut Draft, cx: &mut Context<'_>) -> Action {
        let Some(op) = self.ops(user).get(user.step as usize) else {
            return Action::Done(self.wait_of(user).drawn(user));
        };
        user.step += 1;
        match op {
            Op::Pause(wait) => match wait.drawn(user) {
                Wait::Constant(ns) => Action::Pause(ns),
                _ => Action::Pause(0),
            },
            Op::Request(r) => {
                if self.fill(r, user, draft, cx) {
                    Action::Send
                } else {
                    Action::Leave
                }
            }
        }
    }

    fn judge(&self, user: &mut Player, answer: &Answer<'_>) -> Result<(), String> {
        let at = (user.step as usize).saturating_sub(1);
        let Some(Op::Request(r)) = self.ops(user).get(at) else { return Ok(()) };
        let verdict = r.checks.expectations(answer).and_then(|()| r.checks.take(user, answer));
        if verdict.is_err() {
            user.step = u16::MAX;
        }
        verdict
    }

    /// What depends on a step that failed cannot be right: the rest of the task is left out.
    fn failed(&self, user: &mut Player, _why: &str) {
        user.step = u16::MAX;
    }
}

impl Wait {
    /// A wait between two lengths as one of a certain length.
    fn drawn(self, user: &mut Player) -> Self {
        match self {
            Self::Between(low, high) => Self::Constant(low + user.chance.below(high - low + 1)),
            other => other,
        }
    }
}

impl Checks {
    fn expectations(&self, a: &Answer<'_>) -> Result<(), String> {
        let good = if self.status.is_empty() {
            a.status < 400
        } else {
            self.status.iter().any(|(low, high)| (*low..=*high).contains(&a.status))
        };
        if !good {
            return Err(format!("status {}", a.status));
        }
        for (path, wanted) in &self.json {
            let found = path.find(a.body).and_then(|raw| serde_json::from_slice::<serde_json::Value>(raw).ok());
            match found {
                None => return Err(format!("{path} is not in the answer")),
                Some(v) if !same(&v, wanted) => {
                    return Err(format!("{path} is {}, not {wanted}", short(&v.to_string())));
                }
                Some(_) => {}
            }
        }
        let has = |text: &String| memchr::memmem::find(a.body, text.as_bytes()).is_some();
        if let Some(text) = self.text.iter().find(|t| !has(t)) {
            return Err(format!("the answer lacks '{}'", short(text)));
        }
        if let Some(text) = self.not_text.iter().find(|t| has(t)) {
            return Err(format!("the answer has '{}'", short(text)));
        }
        if let Some(regex) = self.regex.iter().find(|r| !r.is_match(a.body)) {
            return Err(format!("the answer does not match '{}'", short(regex.as_str())));
        }
        if self.under_ns.is_some_and(|limit| a.latency_ns > limit) {
            let limit = self.under_ns.unwrap_or_default();
            return Err(format!("slower than {}", crate::units::Nanos(limit)));
        }
        Ok(())
    }

    fn take(&self, user: &mut Player, a: &Answer<'_>) -> Result<(), String> {
        for (slot, name, from, default) in &self.captures {
            let found = match from {
                From::Json(path) => path.find(a.body).and_then(text_of),
                From::Regex(r) => {
                    let groups = r.captures(a.body);
                    let group = groups.as_ref().and_then(|g| g.get(1).or_else(|| g.get(0)));
                    group.map(|m| String::from_utf8_lossy(m.as_bytes()).into_owned())
                }
                From::Header(h) => header(a.head, h).map(|v| String::from_utf8_lossy(v).into_owned()),
            };
            let found = found.filter(|f| f.len() <= CAPTURE).or_else(|| default.clone());
            let Some(found) = found else { return Err(format!("nothing to capture '{name}' from")) };
            if let Some(v) = user.variables.get_mut(*slot as usize) {
                *v = Some(found.into());
            }
        }
        Ok(())
    }
}

fn same(a: &serde_json::Value, b: &serde_json::Value) -> bool {
    match (a.as_f64(), b.as_f64()) {
        (Some(a), Some(b)) => (a - b).abs() <= f64::EPSILON * a.abs(),
        _ => a == b,
    }
}

/// At most 60 characters, so that messages stay messages.
fn short(text: &str) -> String {
    if text.chars().count() <= 60 { text.to_owned() } else { text.chars().take(59).chain(['…']).collect() }
}

fn number(out: &mut Vec<u8>, n: usize) {
    use std::io::Write;
    // A vector takes everything.
    drop(write!(out, "{n}"));
}
