//! A plain HTTP client that drives the world: a few users, each with one connection, in a closed loop.
//!
//! In: an address and a [`Load`]. Out: a [`Summary`] of counts and latencies. Invariant: every request that was begun is
//! counted exactly once, as answered, failed or cut off by the end; the run ends by its time, its count or
//! [`Drive::stop`], whichever comes first.
//!
//! Limits: a user waits for the answer before it asks again, so a service that stalls is asked less (what
//! `perfkit load` corrects); latencies are exact, and kept in memory, 8 bytes each.

use std::cell::RefCell;
use std::io;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio::task::JoinSet;

use super::chance::Chance;
use super::http::{ANSWER_LIMIT, HEAD_LIMIT, Head, head_end};
use super::tally::{Log, Summary};
use crate::clock::thread_cpu_ns;
use crate::error::{Error, Kind, Result};
use crate::units::Nanos;

/// How many NPCs the world has; their ids count from 1.
const NPC_COUNT: u64 = 50;

/// What players say, some of it kind.
const LINES: [&str; 8] = [
    "Good day friend, is there any news from the road to the harbour?",
    "I have brought bread and a gift for your mother, please take it with my thanks",
    "You thief! You stole my sword at the market and I will have it back",
    "Did the wolves come down to the harvest again last night, or was it only the weather?",
    "What do you know about the fever in the village by the river?",
    "The king wants more grain this winter, and nobody here dares to say no to him",
    "Can you help me find the healer, my brother has been ill for three days now",
    "Curse this rain, the whole road is mud from the gate to the forge",
];

/// What players type into the chat, some of it commands.
const MESSAGES: [&str; 6] = [
    "go to the market and look for the smith",
    "does anybody want to trade 3 loaves of bread for a good knife?",
    "I think the guard at the gate is asleep again, has anyone seen him today?",
    "run back to the harbour before the storm comes in",
    "look around for wolves near the forge",
    "thanks for the help with the harvest yesterday, friends, the bread was good",
];

/// What a user can do; the weights are those of the user's own scenario.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Operation {
    /// `POST /npc/[id]/interact`
    PlayerInteraction,
    /// `GET /npc/[id]`
    GetNpcState,
    /// `GET /world`
    GetWorldState,
    /// `GET /environment`
    GetEnvironmentState,
    /// `POST /chat`
    ChatCommand,
}

impl Operation {
    /// All of them, in the order of a report.
    pub const ALL: [Self; 5] =
        [Self::PlayerInteraction, Self::GetNpcState, Self::GetWorldState, Self::GetEnvironmentState, Self::ChatCommand];

    /// The name that the user's scenario gives it.
    pub fn name(self) -> &'static str {
        match self {
            Self::PlayerInteraction => "player_interaction",
            Self::GetNpcState => "get_npc_state",
            Self::GetWorldState => "get_world_state",
            Self::GetEnvironmentState => "get_environment_state",
            Self::ChatCommand => "chat_command",
        }
    }

    /// How often it is done, relative to the others.
    pub fn weight(self) -> u32 {
        match self {
            Self::PlayerInteraction => 5,
            Self::GetNpcState => 2,
            _ => 1,
        }
    }

    /// The one at `point` of the sum of all weights.
    fn at(point: u32) -> Self {
        let mut passed = 0;
        for operation in Self::ALL {
            passed += operation.weight();
            if point < passed {
                return operation;
            }
        }
        Self::ChatCommand
    }
}

/// How the world is driven. Every bound is kept: the run ends with the first that is reached.
#[derive(Debug, Clone, PartialEq)]
pub struct Load {
    /// Users at the same time, each with one connection.
    pub users: u32,
    /// How long a user pauses between an answer and its next request: evenly between the two.
    pub pause: (Duration, Duration),
    /// The run ends after this time.
    pub duration: Duration,
    /// The run ends after this many requests.
    pub requests: u64,
    /// A request without an answer after this time has failed.
    pub timeout: Duration,
    /// Where the users' choices begin; the same seed makes each user do the same things.
    pub seed: u64,
}

impl Default for Load {
    /// What keeps the Python service at about half a core on a machine of today, for at most ten minutes.
    fn default() -> Self {
        Self {
            users: 12,
            pause: (Duration::from_millis(10), Duration::from_millis(40)),
            duration: Duration::from_mins(10),
            requests: 1_000_000,
            timeout: Duration::from_secs(5),
            seed: 1,
        }
    }
}

/// A client at work on a thread of its own. Dropping it stops the client and waits for it.
#[derive(Debug)]
pub struct Drive {
    used_ns: Arc<AtomicU64>,
    stop: watch::Sender<bool>,
    thread: Option<JoinHandle<Summary>>,
}

impl Drive {
    /// Starts to drive the world at `address`.
    ///
    /// Errors: `Usage` for a load without users; `Io` when no thread can be started.
    pub fn start(address: SocketAddr, load: Load) -> Result<Self> {
        if load.users == 0 || load.pause.0 > load.pause.1 {
            return Err(Error::usage("a load needs a user and a pause that goes from less to more"));
        }
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_io()
            .enable_time()
            .build()
            .map_err(|e| Error::io("cannot start the demo's client", e))?;
        let (stop, stopped) = watch::channel(false);
        let used_ns = Arc::new(AtomicU64::new(0));
        let used = Arc::clone(&used_ns);
        let thread = std::thread::Builder::new()
            .name("demo-client".to_owned())
            .spawn(move || {
                runtime.block_on(tokio::task::LocalSet::new().run_until(drive(address, load, stopped, used)))
            })
            .map_err(|e| Error::io("cannot start the demo's client", e))?;
        Ok(Self { used_ns, stop, thread: Some(thread) })
    }

    /// The CPU time that the client has used, ns; it goes on counting, with each request.
    pub fn used_ns(&self) -> Arc<AtomicU64> {
        Arc::clone(&self.used_ns)
    }

    /// Whether the client still works: neither stopped nor at one of its bounds.
    pub fn is_running(&self) -> bool {
        self.thread.as_ref().is_some_and(|t| !t.is_finished())
    }

    /// Tells the client to stop now; requests in flight are cut off.
    pub fn stop(&self) {
        // Nobody listens any more when the run is over, and then there is nothing to stop.
        let _ = self.stop.send(true);
    }

    /// Waits until the client has reached one of its bounds or was stopped, and says what it saw.
    ///
    /// Errors: `Bug` when the client panicked.
    pub fn wait(mut self) -> Result<Summary> {
        let joined = self.thread.take().map(JoinHandle::join);
        joined.and_then(std::result::Result::ok).ok_or_else(|| Error::new(Kind::Bug, "the demo's client panicked"))
    }

    /// Stops the client and says what it saw.
    ///
    /// Errors: as [`Drive::wait`].
    pub fn finish(self) -> Result<Summary> {
        self.stop();
        self.wait()
    }
}

impl Drop for Drive {
    fn drop(&mut self) {
        self.stop();
        if let Some(thread) = self.thread.take() {
            // A panic of the client has been printed; there is no summary to give to anybody.
            let _ = thread.join();
        }
    }
}

/// The whole run: all users until a bound or the stop.
async fn drive(
    address: SocketAddr,
    load: Load,
    mut stopped: watch::Receiver<bool>,
    used_ns: Arc<AtomicU64>,
) -> Summary {
    let started = Instant::now();
    let log = Rc::new(RefCell::new(Log::default()));
    let mut users = JoinSet::new();
    for number in 0..load.users {
        let user = User {
            address,
            connection: None,
            chance: Chance(load.seed.wrapping_mul(1_000_003).wrapping_add(u64::from(number))),
        };
        users.spawn_local(user.play(load.clone(), Rc::clone(&log), Arc::clone(&used_ns)));
    }
    let everybody = async {
        while let Some(played) = users.join_next().await {
            if let Err(failure) = played
                && let Ok(panic) = failure.try_into_panic()
            {
                std::panic::resume_unwind(panic);
            }
        }
    };
    tokio::select! {
        () = everybody => {}
        () = tokio::time::sleep(load.duration) => {}
        // An error means that the handle is gone, and with it everybody who could want more.
        _ = stopped.wait_for(|&stop| stop) => {}
    }
    let log = log.take();
    log.summary(started.elapsed())
}

struct User {
    address: SocketAddr,
    connection: Option<Connection>,
    chance: Chance,
}

impl User {
    async fn play(mut self, load: Load, log: Rc<RefCell<Log>>, used_ns: Arc<AtomicU64>) {
        while log.borrow().begun < load.requests {
            let operation = Operation::at(self.chance.below(10) as u32);
            let request = self.request(operation);
            log.borrow_mut().begin(operation);
            let begun = Instant::now();
            let outcome = match tokio::time::timeout(load.timeout, self.ask(&request)).await {
                Ok(Ok(())) => Ok(begun.elapsed()),
                Ok(Err(failure)) => Err(failure),
                Err(_) => Err(format!("no answer in {}", Nanos(load.timeout.as_nanos() as u64))),
            };
            if outcome.is_err() {
                // What is left on this connection belongs to a request that is over.
                self.connection = None;
            }
            log.borrow_mut().end(operation, outcome);
            // All users share this thread, so its clock is the client's.
            used_ns.store(thread_cpu_ns(), Ordering::Relaxed);
            let (least, most) = load.pause;
            let spread_ns = most.saturating_sub(least).as_nanos() as u64;
            tokio::time::sleep(least + Duration::from_nanos(self.chance.below(spread_ns + 1))).await;
        }
    }

    /// The bytes of a request.
    fn request(&mut self, operation: Operation) -> Vec<u8> {
        let npc = 1 + self.chance.below(NPC_COUNT);
        let player = format!("player-{}", self.chance.below(20));
        let (method, path, body) = match operation {
            Operation::PlayerInteraction => {
                let text = self.chance.pick(&LINES);
                ("POST", format!("/npc/{npc}/interact"), Some(json!({"player_id": player, "text": text})))
            }
            Operation::GetNpcState => ("GET", format!("/npc/{npc}"), None),
            Operation::GetWorldState => ("GET", "/world".to_owned(), None),
            Operation::GetEnvironmentState => ("GET", "/environment".to_owned(), None),
            Operation::ChatCommand => {
                let message = self.chance.pick(&MESSAGES);
                ("POST", "/chat".to_owned(), Some(json!({"player_id": player, "message": message})))
            }
        };
        let head = format!("{method} {path} HTTP/1.1\r\nHost: {}\r\n", self.address);
        match body.map(|b| b.to_string()) {
            None => format!("{head}\r\n"),
            Some(b) => {
                format!("{head}Content-Type: application/json\r\nContent-Length: {}\r\n\r\n{b}", b.len())
            }
        }
        .into_bytes()
    }

    /// Sends a request and reads its answer; an error in words for all but a 200 with JSON.
    async fn ask(&mut self, request: &[u8]) -> std::result::Result<(), String> {
        let mut connection = match self.connection.take() {
            Some(open) => open,
            None => Connection::open(self.address).await.map_err(|e| format!("cannot connect: {}", e.kind()))?,
        };
        let answer = connection.exchange(request).await.map_err(|e| format!("the connection broke: {}", e.kind()))?;
        if !answer.closes {
            self.connection = Some(connection);
        }
        if answer.status != "200" {
            return Err(format!("status {}", answer.status));
        }
        serde_json::from_slice::<serde::de::IgnoredAny>(&answer.body)
            .map_err(|_| "the answer is not JSON".to_owned())?;
        Ok(())
    }
}

struct Answer {
    status: String,
    body: Vec<u8>,
    closes: bool,
}

struct Connection {
    stream: TcpStream,
    received: Vec<u8>,
}

impl Connection {
    async fn open(address: SocketAddr) -> io::Result<Self> {
        let stream = TcpStream::connect(address).await?;
        stream.set_nodelay(true)?;
        Ok(Self { stream, received: Vec::new() })
    }

    async fn exchange(&mut self, request: &[u8]) -> io::Result<Answer> {
        let malformed = || io::Error::from(io::ErrorKind::InvalidData);
        self.stream.write_all(request).await?;
        let head_length = loop {
            if let Some(end) = head_end(&self.received) {
                break end;
            }
            if self.received.len() > HEAD_LIMIT {
                return Err(malformed());
            }
            self.receive().await?;
        };
        let head: Vec<u8> = self.received.drain(..head_length).collect();
        let head = Head::parse(&head).map_err(|_| malformed())?;
        let length = head.length().ok().filter(|&n| n <= ANSWER_LIMIT).ok_or_else(malformed)?;
        while self.received.len() < length {
            self.receive().await?;
        }
        let body = self.received.drain(..length).collect();
        let closes = head.closes();
        let [version, status, _] = head.first;
        if !version.starts_with("HTTP/1.") {
            return Err(malformed());
        }
        Ok(Answer { status, body, closes })
    }

    async fn receive(&mut self) -> io::Result<()> {
        match self.stream.read_buf(&mut self.received).await? {
            0 => Err(io::ErrorKind::UnexpectedEof.into()),
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
#[path = "client_tests.rs"]
mod tests;
