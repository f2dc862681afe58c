//! What users do, as the engine asks for it: the seam between those who decide (compiled scenarios, the evaluator of
//! locustfiles, later a shim in the user's own interpreter) and the one engine that sends and measures.
//!
//! The engine owns connections, cookies, redirects, time and counting; a script only fills in requests and judges answers.

use std::collections::hash_map::Entry;
use std::sync::{Mutex, PoisonError};

use rustc_hash::FxHashMap;

use super::http::{Url, Wanted};
pub use super::scenario::Wait;

/// The number of an endpoint's name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct NameId(pub u32);

/// Distinct names that are kept apart; the rest share [`Names::OTHERS`].
pub const NAME_LIMIT: usize = 2_000;

/// The names under which requests are counted, shared by all threads.
#[derive(Debug, Default)]
pub struct Names(Mutex<NamesInner>);

#[derive(Debug, Default)]
struct NamesInner {
    list: Vec<(String, String)>,
    ids: FxHashMap<(String, String), NameId>,
    refused: bool,
}

impl Names {
    /// The name of requests beyond [`NAME_LIMIT`] names.
    pub const OTHERS: &'static str = "(other names)";

    /// The number of `method name`, a new one if it is new and there is room.
    pub fn id(&self, method: &str, name: &str) -> NameId {
        let mut inner = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let mut key = (method.to_owned(), name.to_owned());
        if inner.list.len() >= NAME_LIMIT && !inner.ids.contains_key(&key) {
            inner.refused = true;
            key = (String::new(), Self::OTHERS.to_owned());
        }
        let next = NameId(inner.list.len() as u32);
        let id = match inner.ids.entry(key.clone()) {
            Entry::Occupied(e) => return *e.get(),
            Entry::Vacant(e) => *e.insert(next),
        };
        inner.list.push(key);
        id
    }

    /// Method and name of each number.
    pub fn list(&self) -> Vec<(String, String)> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).list.clone()
    }

    /// Whether there were more names than are kept apart.
    pub fn is_crowded(&self) -> bool {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).refused
    }
}

/// A place in the run: which of how many.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stripe {
    /// From 0.
    pub index: u64,
    /// How many share the run.
    pub total: u64,
}

/// What a thread lends to scripts while they decide.
#[derive(Debug)]
pub struct Context<'a> {
    /// This thread's part of the run.
    pub stripe: Stripe,
    /// Counts of sequential and unique data and counters, one for each that the script declared, of this thread.
    pub counts: &'a mut [u64],
    /// Names of requests.
    pub names: &'a Names,
    /// Names that this thread has met.
    pub known: &'a mut FxHashMap<Box<[u8]>, NameId>,
    /// Scratch space.
    pub scratch: &'a mut Vec<u8>,
    /// Now, ns of the one clock.
    pub now: u64,
    /// Wall-clock time minus the one clock, ns.
    pub wall_offset_ns: i64,
}

/// A request, filled in by a script.
#[derive(Debug)]
pub struct Draft {
    /// The request as it goes over the wire.
    pub bytes: Vec<u8>,
    /// Where in `bytes` further header lines may be put in (before the empty line).
    pub head_end: usize,
    /// Where it goes.
    pub host: u16,
    /// How it is counted.
    pub name: NameId,
    /// What of the answer is wanted.
    pub wanted: Wanted,
    /// The longest it may take, ns.
    pub timeout_ns: u64,
    /// How many redirects are followed.
    pub redirects: u8,
    /// With [`Action::Refuse`]: why it cannot be sent.
    pub refusal: String,
}

impl Default for Draft {
    fn default() -> Self {
        Self {
            bytes: Vec::new(),
            head_end: 0,
            host: 0,
            name: NameId(0),
            wanted: Wanted::default(),
            timeout_ns: 60_000_000_000,
            redirects: 0,
            refusal: String::new(),
        }
    }
}

/// What a user does next.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Action {
    /// Send the draft.
    Send,
    /// The draft cannot be sent, as its `refusal` says: count it as a failure.
    Refuse,
    /// Do nothing for so many ns, within the task.
    Pause(u64),
    /// The phase is over; in the closed model the next task begins after the wait.
    Done(Wait),
    /// The user ends.
    Leave,
}

/// The parts of a user's life.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    /// What it does first.
    Start,
    /// A task.
    Task,
    /// What it does last.
    Stop,
}

/// An answer, to be judged.
#[derive(Debug, Clone, Copy)]
pub struct Answer<'a> {
    /// The status code.
    pub status: u16,
    /// The head as it came, where it was wanted, with the status line.
    pub head: &'a [u8],
    /// The body, as far as it was wanted.
    pub body: &'a [u8],
    /// Whether the body is longer than that.
    pub cut: bool,
    /// From when the request was due until now, ns.
    pub latency_ns: u64,
}

impl Answer<'_> {
    /// The reason phrase, empty where the head was not wanted.
    pub fn reason(&self) -> std::borrow::Cow<'_, str> {
        let line = self.head.split(|b| *b == b'\r' || *b == b'\n').next().unwrap_or_default();
        String::from_utf8_lossy(line.splitn(3, |b| *b == b' ').nth(2).unwrap_or_default())
    }
}

/// A class of users, as far as the engine needs to know.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Class {
    /// Its name.
    pub name: String,
    /// Its share of the users.
    pub weight: u32,
    /// Exactly so many users.
    pub fixed_count: Option<u32>,
    /// Whether its users keep cookies.
    pub cookies: bool,
}

/// What all users do.
///
/// A script belongs to one thread; what threads share of it is its own affair.
pub trait Script {
    /// A user's own state; small, there are many.
    type User;

    /// The classes of users.
    fn classes(&self) -> &[Class];
    /// The servers that requests go to; [`Draft::host`] counts in this list.
    fn hosts(&self) -> &[Url];
    /// How many counts the script wants in [`Context::counts`].
    fn counts(&self) -> usize;
    /// User `number` of the run, of this class.
    fn join(&self, number: u64, class: u16) -> Self::User;
    /// Begins a phase. `arrival` is the number of the arrival in the open model.
    fn begin(&self, user: &mut Self::User, phase: Phase, arrival: Option<u64>);
    /// What comes next in the phase; for [`Action::Send`] the draft is filled in.
    fn next(&self, user: &mut Self::User, draft: &mut Draft, cx: &mut Context<'_>) -> Action;
    /// Takes the answer to the request that was sent last; `Err` is a failure with its message.
    ///
    /// # Errors
    /// What the answer should have been.
    fn judge(&self, user: &mut Self::User, answer: &Answer<'_>) -> Result<(), String>;
    /// There was no answer, for this reason; it is counted as a failure already.
    fn failed(&self, user: &mut Self::User, why: &str);
}
