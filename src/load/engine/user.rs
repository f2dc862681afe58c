//! A user as the engine keeps it: a state, times, a connection, and the script's own part.

use super::conn::Conn;
use super::requests::target;
use crate::load::http::Jar;
use crate::load::script::{Draft, Phase};

/// What a user is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    /// Its seat is empty.
    Gone,
    /// Open model: free for an arrival.
    Free,
    /// It waits for its timer, then begins a task.
    BeforeTask,
    /// It waits for its timer, then goes on with its task.
    BeforeStep,
    /// A request is under way.
    Busy,
}

/// A user's seat.
#[derive(Debug)]
pub struct User<U> {
    /// Whose turn it is in this seat; timers of earlier ones are void.
    pub life: u32,
    /// Which connection of this seat; events of earlier ones are void.
    pub wire: u32,
    /// Its number in the run.
    pub number: u64,
    /// Its class.
    pub class: u16,
    /// What it does.
    pub state: State,
    /// The part of its life.
    pub phase: Phase,
    /// It ends as soon as it can.
    pub ending: bool,
    /// The arrival that waits until the user has begun.
    pub arrival: Option<(u64, u64)>,
    /// The script's part.
    pub player: U,
    /// The request.
    pub draft: Draft,
    /// Its connection.
    pub conn: Option<Box<Conn>>,
    /// Its cookies, for the one host that it talks to.
    pub jar: Jar,
    /// When the wait is over, ns.
    pub wake: u64,
    /// When the task was due, ns: what pacing goes by.
    pub task_due: u64,
    /// When the request was due.
    pub due: u64,
    /// When the user could have sent it.
    pub ready: u64,
    /// Whether the due time was given by a timer or an arrival, so that lag means something.
    pub timed: bool,
    /// When it was sent.
    pub sent: u64,
    /// When the first byte of its answer came.
    pub first: u64,
    /// When the first event came.
    pub token: u64,
    /// When the request has taken too long.
    pub deadline: u64,
    /// When the timer for that will look, 0 for no timer.
    pub alarm: u64,
    /// Whether the request was sent a second time, over a new connection.
    pub again: bool,
    /// Its last request had no answer: it must not begin again at once.
    pub breathless: bool,
    /// Redirects that may still be followed.
    pub redirects: u8,
}

impl<U> User<U> {
    /// Number `number` of the run, in a seat that had `life` users and `wire` connections before.
    pub fn new(number: u64, class: u16, player: U, life: u32, wire: u32) -> Self {
        Self {
            life,
            wire,
            number,
            class,
            state: State::Free,
            phase: Phase::Start,
            ending: false,
            arrival: None,
            player,
            draft: Draft::default(),
            conn: None,
            jar: Jar::default(),
            wake: 0,
            task_due: 0,
            due: 0,
            ready: 0,
            timed: false,
            sent: 0,
            first: 0,
            token: 0,
            deadline: u64::MAX,
            alarm: 0,
            again: false,
            breathless: false,
            redirects: 0,
        }
    }

    /// Puts the cookies that belong there into the draft.
    pub fn add_cookies(&mut self, tls: bool) {
        let draft = &mut self.draft;
        let mut line = Vec::new();
        self.jar.write(&mut line, target(&draft.bytes), tls);
        let at = draft.head_end.min(draft.bytes.len());
        draft.head_end = at + line.len();
        draft.bytes.splice(at..at, line);
    }
}
