//! A scenario, compiled: requests as runs of bytes with blanks, users as a few numbers and their variables.
//!
//! In: a [`Scenario`](super::scenario::Scenario). Out: a [`Program`], which plays it as a
//! [`Script`](super::script::Script). Invariant: what cannot be filled in is an error of compiling, with its place; playing
//! cannot fail.

mod compile;
mod fill;
mod play;

pub use compile::{Choice, compile};
pub use play::Player;

use super::http::Url;
use super::jsonpath::JsonPath;
use super::scenario::{Feeder, From, Wait};
use super::script::{Class, NameId};
use fill::Pieces;

/// A scenario ready to be played.
#[derive(Debug)]
pub struct Program {
    classes: Vec<Class>,
    plays: Vec<Play>,
    hosts: Vec<Url>,
    data: Vec<Feeder>,
    /// Counts before this one belong to the feeders, the rest to counters.
    counters: usize,
    counts: usize,
    seed: u64,
}

/// What users of a class do.
#[derive(Debug)]
struct Play {
    on_start: Vec<Op>,
    on_stop: Vec<Op>,
    tasks: Vec<Vec<Op>>,
    /// Sums of the weights up to and with each task; empty for a sequence.
    weights: Vec<u64>,
    wait: Wait,
    variables: usize,
}

#[derive(Debug)]
enum Op {
    Pause(Wait),
    Request(Box<Request>),
}

#[derive(Debug)]
struct Request {
    method: String,
    head: Pieces,
    /// A body with blanks; one without is part of `tail`.
    body: Option<Pieces>,
    /// The end of the head and the constant body, where `body` is none.
    tail: Vec<u8>,
    host: u16,
    name: Naming,
    wanted: super::http::Wanted,
    timeout_ns: u64,
    redirects: u8,
    checks: Checks,
}

#[derive(Debug)]
enum Naming {
    Fixed(NameId),
    Filled(Pieces),
}

#[derive(Debug, Default)]
struct Checks {
    status: Vec<(u16, u16)>,
    json: Vec<(JsonPath, serde_json::Value)>,
    text: Vec<String>,
    not_text: Vec<String>,
    regex: Vec<regex::bytes::Regex>,
    under_ns: Option<u64>,
    captures: Vec<(u16, String, From, Option<String>)>,
}
