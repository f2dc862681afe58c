//! The people of the native world: their moods, their memories and their words.

use std::fmt::Write as _;

use rusqlite::{Connection, params, params_from_iter};
use serde::Serialize;

use super::super::chance::Chance;
use super::terrain::{MAP_WIDTH, Tile};

pub(super) const NPC_COUNT: usize = 50;
const MEMORIES_PER_NPC: u32 = 400;

const NAMES: [&str; 10] = ["Alda", "Bram", "Cosima", "Dorian", "Edda", "Falk", "Greta", "Hanno", "Ilse", "Jorin"];
const ROLES: [&str; 5] = ["smith", "innkeeper", "guard", "farmer", "healer"];
const PLEASANT: [&str; 10] =
    ["thanks", "please", "friend", "good", "gift", "help", "fine", "welcome", "beautiful", "peace"];
const UNPLEASANT: [&str; 10] = ["fool", "liar", "thief", "hate", "fight", "curse", "ugly", "war", "steal", "burn"];
const TOPICS: [&str; 10] =
    ["road", "harvest", "wolves", "market", "harbour", "weather", "king", "sword", "bread", "fever"];
const OPENINGS: [(&str, &str); 4] = [
    ("They say the", "will be trouble before the month is out"),
    ("My mother used to warn me about the", "every single winter"),
    ("If you want to hear of the", "then sit down, friend"),
    ("Nobody in this town talks about the", "any more"),
];

/// How somebody feels, each from -1 to 1.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub(super) struct Mood {
    joy: f64,
    anger: f64,
    fear: f64,
    trust: f64,
}

impl Mood {
    fn values(&self) -> [(&'static str, f64); 4] {
        [("joy", self.joy), ("anger", self.anger), ("fear", self.fear), ("trust", self.trust)]
    }

    /// The strongest of them, or calm.
    pub(super) fn name(&self) -> &'static str {
        let strongest = self.values().into_iter().max_by(|a, b| a.1.total_cmp(&b.1));
        strongest.filter(|s| s.1 > 0.1).map_or("calm", |s| s.0)
    }
}

/// One person: a role, a mood, a place on the map and a way ahead.
#[derive(Debug, Clone)]
pub(super) struct Npc {
    pub(super) id: usize,
    pub(super) name: String,
    role: &'static str,
    pub(super) mood: Mood,
    pub(super) tile: Tile,
    /// The way ahead, the next step last.
    pub(super) path: Vec<Tile>,
    pub(super) talks: u64,
}

/// What a client sees of an NPC.
#[derive(Serialize)]
pub(super) struct NpcState {
    id: usize,
    name: String,
    role: &'static str,
    mood: &'static str,
    emotions: Mood,
    position: Position,
    steps_ahead: usize,
    talks: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) remembers: Option<u32>,
}

#[derive(Serialize)]
struct Position {
    row: usize,
    column: usize,
}

impl Npc {
    pub(super) fn new(id: usize, tile: Tile, chance: &mut Chance) -> Self {
        let mut feel = || chance.share() - 0.5;
        let mood = Mood { joy: feel(), anger: feel(), fear: feel(), trust: feel() };
        let pick = |words: &[&'static str]| words.get(id % words.len()).copied().unwrap_or_default();
        let name = format!("{} {id}", pick(&NAMES));
        Self { id, name, role: pick(&ROLES), mood, tile, path: Vec::new(), talks: 0 }
    }

    pub(super) fn state(&self) -> NpcState {
        NpcState {
            id: self.id,
            name: self.name.clone(),
            role: self.role,
            mood: self.mood.name(),
            emotions: self.mood,
            position: Position { row: self.tile / MAP_WIDTH, column: self.tile % MAP_WIDTH },
            steps_ahead: self.path.len(),
            talks: self.talks,
            remembers: None,
        }
    }
}

/// What was said moves the mood, what the people nearby feel rubs off, and time heals.
#[inline(never)]
pub(super) fn update_mood(npc: &Npc, sentiment: f64, people: &[Npc]) -> Mood {
    let mut sway = [0.0; 4];
    for other in people {
        let apart = (npc.tile / MAP_WIDTH).abs_diff(other.tile / MAP_WIDTH)
            + (npc.tile % MAP_WIDTH).abs_diff(other.tile % MAP_WIDTH);
        let nearness = 1.0 / (1.0 + apart as f64);
        for ((sum, (_, theirs)), (_, own)) in sway.iter_mut().zip(other.mood.values()).zip(npc.mood.values()) {
            *sum += nearness * (theirs - own);
        }
    }
    let felt = |own: f64, sway: f64, push: f64| (0.97 * own + 0.02 * sway + 0.1 * push).clamp(-1.0, 1.0);
    let [joy, anger, fear, trust] = sway;
    Mood {
        joy: felt(npc.mood.joy, joy, sentiment),
        anger: felt(npc.mood.anger, anger, -sentiment),
        fear: felt(npc.mood.fear, fear, -sentiment / 2.0),
        trust: felt(npc.mood.trust, trust, sentiment / 2.0),
    }
}

/// What people remember of their talks, in an SQLite database in memory.
pub(super) struct Memory(Connection);

impl Memory {
    pub(super) fn new() -> rusqlite::Result<Self> {
        let db = Connection::open_in_memory()?;
        db.execute_batch(
            "CREATE TABLE memory (id INTEGER PRIMARY KEY, npc INTEGER, player TEXT, text TEXT, weight REAL);
             CREATE INDEX memory_npc ON memory (npc, id);",
        )?;
        Ok(Self(db))
    }

    #[inline(never)]
    pub(super) fn remember(&self, npc: u32, player: &str, text: &str, weight: f64) -> rusqlite::Result<()> {
        self.0
            .prepare_cached("INSERT INTO memory (npc, player, text, weight) VALUES (?, ?, ?, ?)")?
            .execute(params![npc, player, text, weight])?;
        self.0
            .prepare_cached(
                "DELETE FROM memory WHERE npc = ?1 AND id <= \
                 (SELECT id FROM memory WHERE npc = ?1 ORDER BY id DESC LIMIT 1 OFFSET ?2)",
            )?
            .execute(params![npc, MEMORIES_PER_NPC])?;
        Ok(())
    }

    /// The weightiest memories in which one of `words` occurs.
    #[inline(never)]
    pub(super) fn recall(&self, npc: u32, words: &[String]) -> rusqlite::Result<Vec<String>> {
        let likes = if words.is_empty() { "1".to_owned() } else { vec!["text LIKE ?"; words.len()].join(" OR ") };
        let mut sql = String::from("SELECT text FROM memory WHERE npc = ");
        let _ = write!(sql, "{npc} AND ({likes}) ORDER BY weight DESC, id DESC LIMIT 5");
        let mut query = self.0.prepare_cached(&sql)?;
        query.query_map(params_from_iter(words.iter().map(|w| format!("%{w}%"))), |row| row.get(0))?.collect()
    }

    pub(super) fn count(&self, npc: u32) -> rusqlite::Result<u32> {
        self.0.prepare_cached("SELECT count(*) FROM memory WHERE npc = ?")?.query_row([npc], |row| row.get(0))
    }
}

/// A line that an NPC can say, and its words.
pub(super) struct Line {
    pub(super) text: String,
    words: Vec<String>,
}

/// Everything that anybody can say.
pub(super) fn dialogue_lines() -> Vec<Line> {
    let mut lines = Vec::new();
    for topic in TOPICS {
        for (before, behind) in OPENINGS {
            for name in NAMES {
                let text = format!("{before} {topic} {behind}, or so {name} told me");
                lines.push(Line { words: tokenize_chat(&text), text });
            }
        }
    }
    lines
}

/// The words of a text, in lower case.
#[inline(never)]
pub(super) fn tokenize_chat(text: &str) -> Vec<String> {
    text.to_lowercase()
        .split(|c: char| !c.is_ascii_alphanumeric())
        .filter(|w| !w.is_empty())
        .map(str::to_owned)
        .collect()
}

pub(super) fn weigh_sentiment(tokens: &[String]) -> f64 {
    let count = |words: &[&str]| tokens.iter().filter(|t| words.contains(&t.as_str())).count() as f64;
    let (pleasant, unpleasant) = (count(&PLEASANT), count(&UNPLEASANT));
    (pleasant - unpleasant) / (pleasant + unpleasant).max(1.0)
}

/// 1 for the same word, less for each letter that has to change to make one out of the other.
#[inline(never)]
fn word_similarity(one: &str, other: &str) -> f64 {
    let (one, other) = (one.as_bytes(), other.as_bytes());
    let mut row: Vec<usize> = (0..=other.len()).collect();
    for (i, a) in one.iter().enumerate() {
        let mut corner = i;
        let mut left = i + 1;
        for (cell, b) in row.iter_mut().skip(1).zip(other) {
            let changed = (corner + usize::from(a != b)).min(left + 1).min(*cell + 1);
            corner = *cell;
            *cell = changed;
            left = changed;
        }
        if let Some(first) = row.first_mut() {
            *first = i + 1;
        }
    }
    let distance = row.last().copied().unwrap_or(0);
    1.0 - distance as f64 / one.len().max(other.len()).max(1) as f64
}

#[inline(never)]
fn score_dialogue_line(line: &Line, tokens: &[String]) -> f64 {
    let best = |token: &String| line.words.iter().map(|word| word_similarity(token, word)).fold(0.0, f64::max);
    tokens.iter().map(best).sum::<f64>() / (1.0 + line.words.len() as f64)
}

/// The line that answers `tokens` best; angry people prefer short ones.
#[inline(never)]
pub(super) fn choose_dialogue_line(lines: &[Line], tokens: &[String], mood: &Mood) -> String {
    let temper = 0.02 * mood.anger.max(0.0);
    let scored = lines.iter().map(|line| (score_dialogue_line(line, tokens) - temper * line.words.len() as f64, line));
    scored.max_by(|a, b| a.0.total_cmp(&b.0)).map_or_else(String::new, |(_, line)| line.text.clone())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_alike_by_their_letters() {
        assert!((word_similarity("wolves", "wolves") - 1.0).abs() < 1e-9);
        assert!((word_similarity("wolf", "wolves") - 0.5).abs() < 1e-9);
        assert!(word_similarity("abc", "xyz").abs() < 1e-9);
        assert!((word_similarity("", "") - 1.0).abs() < 1e-9);
    }

    #[test]
    fn the_line_about_the_asked_topic_is_chosen() {
        let lines = dialogue_lines();
        let calm = Mood { joy: 0.0, anger: 0.0, fear: 0.0, trust: 0.0 };
        let line = choose_dialogue_line(&lines, &tokenize_chat("Did the WOLVES come again?"), &calm);
        assert!(line.contains("wolves"), "{line}");
    }

    #[test]
    fn memories_are_found_by_word_and_do_not_grow_for_ever() {
        let memory = Memory::new().unwrap();
        for n in 0..MEMORIES_PER_NPC + 20 {
            memory.remember(3, "p", &format!("talk {n}"), 0.0).unwrap();
        }
        memory.remember(3, "p", "the king is ill", 1.0).unwrap();
        assert_eq!(memory.count(3).unwrap(), MEMORIES_PER_NPC);
        assert_eq!(memory.recall(3, &["king".to_owned(), "x".to_owned()]).unwrap(), ["the king is ill"]);
        assert_eq!(memory.recall(3, &[]).unwrap().len(), 5);
        assert!(memory.recall(4, &[]).unwrap().is_empty());
    }

    #[test]
    fn kind_words_please_and_moods_stay_in_their_bounds() {
        let mut chance = Chance(5);
        let people: Vec<_> = (1..=NPC_COUNT).map(|id| Npc::new(id, id * 7, &mut chance)).collect();
        let mut npc = people[0].clone();
        let before = npc.mood.joy;
        for _ in 0..200 {
            npc.mood = update_mood(&npc, weigh_sentiment(&tokenize_chat("thanks, friend")), &people);
            assert!(npc.mood.values().iter().all(|(_, v)| (-1.0..=1.0).contains(v)));
        }
        assert!(npc.mood.joy > before);
        assert!(weigh_sentiment(&tokenize_chat("you fool and thief")) < 0.0);
    }
}
