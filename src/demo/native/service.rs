//! The endpoints of the native world, and its clock.

use std::collections::VecDeque;
use std::io::Write;
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use serde::Serialize;
use serde_json::{Value, json};

use super::super::chance::Chance;
use super::memory::{MEMORIES_PER_NPC, Memory};
use super::people::{NPC_COUNT, Npc, NpcState, spread_gossip};
use super::terrain::{MAP_HEIGHT, MAP_WIDTH, PLACES, Terrain, Weather, find_path};
use super::words::{Line, choose_dialogue_line, dialogue_lines, tokenize_chat, weigh_sentiment};
use crate::error::{Error, Result};

const TICK: Duration = Duration::from_millis(250);
const SNAPSHOT_EVERY_TICKS: u64 = 4;
const CHAT_LOG_LENGTH: usize = 2000;
const TEXT_LIMIT: usize = 2000;
const TOKEN_ROUNDS: usize = 10_000;

/// An answer other than 200.
#[derive(Debug)]
pub(super) struct Refusal {
    pub(super) status: u16,
    pub(super) message: String,
}

impl Refusal {
    pub(super) fn new(status: u16, message: impl Into<String>) -> Self {
        Self { status, message: message.into() }
    }
}

impl From<rusqlite::Error> for Refusal {
    fn from(e: rusqlite::Error) -> Self {
        Self::new(500, format!("the memory failed: {e}"))
    }
}

type Answer = std::result::Result<Value, Refusal>;

/// What changes as the world goes on.
struct State {
    chance: Chance,
    people: Vec<Npc>,
    chat_log: VecDeque<String>,
    tick: u64,
    requests: u64,
}

/// The world and its endpoints.
pub(super) struct Service {
    started: Instant,
    terrain: Terrain,
    lines: Vec<Line>,
    weather: Mutex<Weather>,
    memory: Mutex<Memory>,
    state: Mutex<State>,
    snapshot: Arc<Mutex<Snapshot>>,
    /// To the thread that takes snapshots; one waits there at most.
    snapshots: SyncSender<Vec<u8>>,
}

#[derive(Debug, Clone, Copy, Default, Serialize)]
struct Snapshot {
    bytes: usize,
    compressed_bytes: usize,
    digest: u64,
}

/// A lock whose holder panicked still holds a world that is good enough to serve.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Service {
    pub(super) fn new() -> Result<Self> {
        let mut chance = Chance(7);
        let terrain = Terrain::new(&mut chance);
        let people = (1..=NPC_COUNT as u32)
            .map(|id| {
                let tile = terrain.anywhere(&mut chance);
                Npc::new(id, tile, &mut chance)
            })
            .collect();
        let snapshot = Arc::new(Mutex::new(Snapshot::default()));
        let (snapshots, jobs) = sync_channel(1);
        let taken = Arc::clone(&snapshot);
        thread::Builder::new()
            .name("world-snapshot".to_owned())
            .spawn(move || jobs.iter().for_each(|state: Vec<u8>| *lock(&taken) = take_snapshot(&state)))
            .map_err(|e| Error::io("the demo's world cannot start", e))?;
        let (memory, lines) = (Memory::new()?, dialogue_lines());
        let chat_log = dream_up_history(&lines, &memory, &mut chance)?;
        Ok(Self {
            started: Instant::now(),
            terrain,
            lines,
            weather: Mutex::new(Weather::new(chance.clone())),
            memory: Mutex::new(memory),
            state: Mutex::new(State { chance, people, chat_log, tick: 0, requests: 0 }),
            snapshot,
            snapshots,
        })
    }

    /// The world's clock, until the other end of `ended` is dropped: it goes on whether or not players are about.
    pub(super) fn live(&self, ended: &Receiver<()>) {
        while ended.recv_timeout(TICK) == Err(RecvTimeoutError::Timeout) {
            self.move_people();
            lock(&self.weather).drift();
            if lock(&self.state).tick.is_multiple_of(SNAPSHOT_EVERY_TICKS) {
                let mut state = self.world_state().to_string();
                // Without the memories a snapshot is smaller, and as good for a demo.
                let memories = lock(&self.memory).everything().unwrap_or_default();
                for line in lock(&self.state).chat_log.iter().chain(&memories) {
                    state.push('\n');
                    state.push_str(line);
                }
                // With one still waiting this one is left out.
                let _ = self.snapshots.try_send(state.into_bytes());
            }
        }
    }

    /// Everybody takes a step; one who has arrived looks for a new way, a few of them each tick.
    #[inline(never)]
    fn move_people(&self) {
        let mut state = lock(&self.state);
        let State { chance, people, tick, .. } = &mut *state;
        *tick += 1;
        for npc in people {
            if let Some(step) = npc.path.pop() {
                npc.tile = step;
            } else if chance.share() < 0.1 {
                npc.path = find_path(&self.terrain, npc.tile, self.terrain.anywhere(chance));
            }
        }
    }

    /// Answers a request.
    pub(super) fn answer(&self, method: &str, path: &str, body: &[u8]) -> Answer {
        lock(&self.state).requests += 1;
        let path = path.split('?').next().unwrap_or_default().trim_matches('/');
        let parts: Vec<_> = path.split('/').collect();
        match *parts.as_slice() {
            ["npc", id, "interact"] => {
                require_method("POST", method)?;
                self.interact(npc_id(id)?, &decode_json(body)?)
            }
            ["npc", id] => {
                require_method("GET", method)?;
                self.npc_state(npc_id(id)?)
            }
            ["chat"] => {
                require_method("POST", method)?;
                self.chat(&decode_json(body)?)
            }
            ["world"] => {
                require_method("GET", method)?;
                Ok(self.world_state())
            }
            ["environment"] => {
                require_method("GET", method)?;
                Ok(self.environment_state())
            }
            ["health"] => {
                require_method("GET", method)?;
                let uptime_s = (self.started.elapsed().as_secs_f64() * 1000.0).round() / 1000.0;
                Ok(json!({"status": "ok", "uptime_s": uptime_s, "requests": lock(&self.state).requests}))
            }
            _ => Err(Refusal::new(404, "no such resource")),
        }
    }

    /// A player says something: recall, choose what to say, feel, walk towards them, and let the model phrase it.
    #[inline(never)]
    fn interact(&self, index: usize, document: &Value) -> Answer {
        let (player, text) = (text_field(document, "player_id", Some("player"))?, text_field(document, "text", None)?);
        let (id, token) = (index as u32 + 1, derive_player_token(player));
        let mut tokens = tokenize_chat(text);
        tokens.truncate(40);
        let memories = lock(&self.memory).recall(id, tokens.get(..8).unwrap_or(&tokens))?;
        let sentiment = weigh_sentiment(&tokens);
        let npc = {
            let mut state = lock(&self.state);
            let tile = npc_at(&mut state, index)?.tile;
            spread_gossip(tile, sentiment, &mut state.people);
            npc_at(&mut state, index)?.clone()
        };
        let line = choose_dialogue_line(&self.lines, &tokens, npc.mood.anger);
        let path = find_path(&self.terrain, npc.tile, self.terrain.place_of(fingerprint(player.as_bytes())));
        let voice = ask_language_model(&format!("{}\n{text}\n{line}\n{}", npc.name, memories.join("\n")));
        lock(&self.memory).remember(id, player, text, sentiment.abs() + tokens.len() as f64 / 100.0)?;
        let mut state = lock(&self.state);
        let present = npc_at(&mut state, index)?;
        present.talks += 1;
        if present.tile == npc.tile {
            present.path = path;
        }
        Ok(json!({
            "npc_id": id, "name": npc.name, "token": token, "reply": line, "voice": voice,
            "mood": present.mood.name(), "memories": memories.len(),
        }))
    }

    #[inline(never)]
    fn npc_state(&self, index: usize) -> Answer {
        let mut state = npc_at(&mut lock(&self.state), index)?.state();
        state.remembers = Some(lock(&self.memory).count(index as u32 + 1)?);
        Ok(json!(state))
    }

    #[inline(never)]
    fn world_state(&self) -> Value {
        let (tick, people) = {
            let state = lock(&self.state);
            (state.tick, state.people.iter().map(Npc::state).collect::<Vec<NpcState>>())
        };
        let people = json!(people);
        let digest = format!("{:016x}", fingerprint(people.to_string().as_bytes()));
        json!({
            "tick": tick, "population": NPC_COUNT, "snapshot": *lock(&self.snapshot), "people": people,
            "map": {"width": MAP_WIDTH, "height": MAP_HEIGHT, "heights": self.terrain.heights}, "digest": digest,
        })
    }

    #[inline(never)]
    fn environment_state(&self) -> Value {
        let mut weather = lock(&self.weather);
        weather.drift();
        json!(weather.report())
    }

    /// A free-form command; what is none is answered by the model, with what was said before as its context.
    #[inline(never)]
    fn chat(&self, document: &Value) -> Answer {
        let player = text_field(document, "player_id", Some("player"))?;
        let message = text_field(document, "message", None)?;
        let mut tokens = tokenize_chat(message);
        tokens.truncate(40);
        let (context, start) = {
            let mut state = lock(&self.state);
            let context = search_chat_log(&state.chat_log, &tokens);
            state.chat_log.push_back(format!("{player}: {message}"));
            if state.chat_log.len() > CHAT_LOG_LENGTH {
                state.chat_log.pop_front();
            }
            (context, self.terrain.anywhere(&mut state.chance))
        };
        let says = |words: &[&str]| tokens.iter().any(|t| words.contains(&t.as_str()));
        let goal = PLACES.iter().find(|(place, ..)| says(&[place])).filter(|_| says(&["go", "walk", "run", "travel"]));
        let intent = match goal {
            Some(_) => "go",
            None if says(&["look", "watch", "search"]) => "look",
            None if says(&["buy", "sell", "trade"]) => "trade",
            None => "talk",
        };
        let mut answer = json!({"intent": intent, "context_lines": context.len()});
        if let Some((_, column, row)) = goal {
            answer["steps"] = json!(find_path(&self.terrain, start, row * MAP_WIDTH + column).len());
        }
        let latest = context.get(context.len().saturating_sub(10)..).unwrap_or_default();
        answer["reply"] = json!(ask_language_model(&format!("{player}\n{message}\n{}", latest.join("\n"))));
        Ok(answer)
    }
}

/// The world was there before its first player: rumours in everybody's memory, and in the chat log that this returns.
fn dream_up_history(lines: &[Line], memory: &Memory, chance: &mut Chance) -> Result<VecDeque<String>> {
    let mut rumour = || lines.get(chance.below(lines.len() as u64) as usize).map_or("", |line| &line.text);
    for id in 1..=NPC_COUNT as u32 {
        for n in 0..MEMORIES_PER_NPC {
            memory.remember(id, &format!("traveller-{}", n % 9), rumour(), f64::from(n) / 1000.0)?;
        }
    }
    Ok((0..CHAT_LOG_LENGTH).map(|n| format!("traveller-{}: {}", n % 9, rumour())).collect())
}

fn require_method(wanted: &str, method: &str) -> std::result::Result<(), Refusal> {
    if method == wanted { Ok(()) } else { Err(Refusal::new(405, format!("use {wanted}"))) }
}

fn npc_at(state: &mut State, index: usize) -> std::result::Result<&mut Npc, Refusal> {
    state.people.get_mut(index).ok_or_else(|| Refusal::new(404, "no such NPC"))
}

/// The index of the NPC that a path names.
fn npc_id(text: &str) -> std::result::Result<usize, Refusal> {
    let id = text.parse().ok().filter(|id| text.bytes().all(|b| b.is_ascii_digit()) && (1..=NPC_COUNT).contains(id));
    id.map(|id| id - 1).ok_or_else(|| Refusal::new(404, "no such NPC"))
}

fn decode_json(body: &[u8]) -> Answer {
    match serde_json::from_slice(body) {
        Ok(document @ Value::Object(_)) => Ok(document),
        Ok(_) => Err(Refusal::new(400, "the body is not a JSON object")),
        Err(_) => Err(Refusal::new(400, "the body is not JSON")),
    }
}

fn text_field<'a>(document: &'a Value, name: &str, default: Option<&'a str>) -> std::result::Result<&'a str, Refusal> {
    let text = document.get(name).map_or(default, Value::as_str);
    text.filter(|t| !t.trim().is_empty() && t.chars().count() <= TEXT_LIMIT)
        .ok_or_else(|| Refusal::new(400, format!("'{name}' must be a text of at most {TEXT_LIMIT} characters")))
}

/// The lines of the chat log in which a longer word of the message occurs.
#[inline(never)]
fn search_chat_log(log: &VecDeque<String>, tokens: &[String]) -> Vec<String> {
    let words: Vec<_> = tokens.iter().filter(|t| t.len() > 3).collect();
    log.iter().filter(|line| words.iter().any(|w| line.to_lowercase().contains(w.as_str()))).cloned().collect()
}

/// The token under which a player's talks are kept; stretched, so that it tells nobody the player's id.
#[inline(never)]
fn derive_player_token(player: &str) -> String {
    let mut token = fingerprint(player.as_bytes());
    for _ in 0..TOKEN_ROUNDS {
        token = fingerprint(&token.to_le_bytes());
    }
    format!("{token:016x}")
}

/// Stands in for the language model: an answer takes 20 to 60 ms, in which this thread has nothing to do.
#[inline(never)]
fn ask_language_model(prompt: &str) -> String {
    let voice = fingerprint(prompt.as_bytes());
    thread::sleep(Duration::from_millis(20 + voice % 41));
    format!("{:x}", voice >> 32)
}

/// FNV-1a of 64 bits.
#[inline(never)]
fn fingerprint(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash, &b| (hash ^ u64::from(b)).wrapping_mul(0x100_0000_01b3))
}

/// Runs on the snapshot thread.
#[inline(never)]
fn take_snapshot(state: &[u8]) -> Snapshot {
    let mut compressor = flate2::write::ZlibEncoder::new(Vec::new(), flate2::Compression::best());
    // A vector takes everything that is written to it.
    let compressed = compressor.write_all(state).and_then(|()| compressor.finish()).unwrap_or_default();
    Snapshot { bytes: state.len(), compressed_bytes: compressed.len(), digest: fingerprint(&compressed) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_plain_numbers_of_people() {
        assert_eq!((npc_id("1").unwrap(), npc_id("50").unwrap(), npc_id("007").unwrap()), (0, 49, 6));
        for bad in ["0", "51", "+1", "-1", "", "x", "1e1", "99999999999999999999"] {
            assert_eq!(npc_id(bad).unwrap_err().status, 404, "{bad}");
        }
    }

    #[test]
    fn a_snapshot_is_smaller_and_has_a_digest() {
        let snapshot = take_snapshot(&b"the same again and ".repeat(100));
        assert_eq!(snapshot.bytes, 1900);
        assert!(snapshot.compressed_bytes < 200 && snapshot.digest != 0);
    }
}
