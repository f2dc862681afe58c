//! The engine: one [`Worker`] a thread, each with its own event loop, connections, timers, chance and histograms.
//!
//! In: a [`Script`](super::script::Script), a [`Course`], resolved addresses. Out: a
//! [`Tally`](super::tally::Tally), and a [`Window`](super::tally::Window) every 100 ms. Invariants: nothing is shared between
//! workers on the way of a request; a request that was begun is counted exactly once; latency runs from the due time.
//! Threads are not started here: `session` does that.

mod conn;
mod failure;
mod oversleep;
mod requests;
mod tls;
mod user;
mod worker;

pub use tls::config as tls_config;
pub use worker::Worker;

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use super::course::{Course, Level};
use super::script::Stripe;

/// A server with the addresses that its name has.
#[derive(Debug, Clone)]
pub struct Server {
    /// Where to connect; connections take turns.
    pub addresses: Vec<SocketAddr>,
    /// How to speak TLS with it, if it is to be spoken.
    pub tls: Option<(Arc<rustls::ClientConfig>, rustls::pki_types::ServerName<'static>)>,
}

/// What a worker is to do.
#[derive(Debug, Clone)]
pub struct Order {
    /// Its part.
    pub stripe: Stripe,
    /// The course of the whole run.
    pub course: Course,
    /// Where chance begins.
    pub seed: u64,
    /// When the run begins, ns of the one clock.
    pub start: u64,
    /// When no more is begun, ns of the one clock; `u64::MAX` for never.
    pub end: u64,
    /// How long what is under way may go on after the end, ns.
    pub patience: u64,
    /// Whether a user that goes before the end finishes its task, for at most `patience`; else only its request.
    pub finishes_tasks: bool,
    /// Whether to watch the clock instead of sleeping shortly before something is due.
    pub spin: bool,
    /// The servers, in the order of [`Script::hosts`](super::script::Script::hosts).
    pub servers: Vec<Server>,
    /// Wall-clock time minus the one clock, ns.
    pub wall_offset_ns: i64,
    /// How many of the slowest requests are kept whole.
    pub slowest: usize,
}

/// What workers and their conductor share: read seldom, written seldom.
#[derive(Debug, Default)]
pub struct Board {
    /// Begin no more, finish what is under way.
    pub finish: AtomicBool,
    /// When to begin no more, ns of the one clock, set with `finish`; 0 for at once.
    pub finish_at: AtomicU64,
    /// Drop everything.
    pub abort: AtomicBool,
    /// From when on tallies count anew, ns of the one clock; 0 for never.
    pub fresh: AtomicU64,
    /// How many turns there are.
    pub turned: AtomicUsize,
    /// Turns of the closed model's level, each a level from some time on; changed before `turned` is.
    pub turns: Mutex<Vec<Level>>,
}

impl Board {
    /// Tells all workers that from its beginning on the number of users is `level`.
    pub fn turn(&self, level: Level) {
        let mut turns = self.turns.lock().unwrap_or_else(PoisonError::into_inner);
        turns.push(level);
        self.turned.store(turns.len(), Ordering::Release);
    }

    /// The turns after the first `seen`.
    pub(super) fn turns_after(&self, seen: usize) -> Vec<Level> {
        self.turns.lock().unwrap_or_else(PoisonError::into_inner).get(seen..).unwrap_or_default().to_vec()
    }
}
