//! The people of the native world: where they are, and how they feel.

use serde::Serialize;

use super::super::chance::Chance;
use super::terrain::{MAP_WIDTH, Tile, tile_distance};

pub(super) const NPC_COUNT: usize = 50;
const GOSSIP_REACH: usize = 24;

const NAMES: [&str; 10] = ["Alda", "Bram", "Cosima", "Dorian", "Edda", "Falk", "Greta", "Hanno", "Ilse", "Jorin"];
const ROLES: [&str; 5] = ["smith", "innkeeper", "guard", "farmer", "healer"];

/// How somebody feels, each from -1 to 1.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub(super) struct Mood {
    joy: f64,
    pub(super) anger: f64,
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
    pub(super) id: u32,
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
    id: u32,
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
    pub(super) fn new(id: u32, tile: Tile, chance: &mut Chance) -> Self {
        let mut feel = || chance.share() - 0.5;
        let mood = Mood { joy: feel(), anger: feel(), fear: feel(), trust: feel() };
        let pick = |words: &[&'static str]| words.get(id as usize % words.len()).copied().unwrap_or_default();
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
        let nearness = 1.0 / (1.0 + tile_distance(npc.tile, other.tile) as f64);
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

/// Those nearest to the talk hear of it, each a little less than the one before.
#[inline(never)]
pub(super) fn spread_gossip(tile: Tile, sentiment: f64, people: &mut [Npc]) {
    let mut nearest: Vec<usize> = (0..people.len()).collect();
    nearest.sort_by_key(|&at| people.get(at).map(|other| tile_distance(tile, other.tile)));
    for (heard_by, &at) in nearest.iter().take(GOSSIP_REACH).enumerate() {
        let mood = people.get(at).map(|other| update_mood(other, sentiment / (1 + heard_by) as f64, people));
        if let (Some(mood), Some(other)) = (mood, people.get_mut(at)) {
            other.mood = mood;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kind_words_please_those_nearby_and_moods_stay_in_their_bounds() {
        let mut chance = Chance(5);
        let mut people: Vec<_> = (1..=NPC_COUNT as u32).map(|id| Npc::new(id, id as usize * 7, &mut chance)).collect();
        let before = people[0].mood.joy;
        for _ in 0..100 {
            spread_gossip(people[0].tile, 1.0, &mut people);
            assert!(people.iter().flat_map(|n| n.mood.values()).all(|(_, v)| (-1.0..=1.0).contains(&v)));
        }
        assert!(people[0].mood.joy > before, "{:?}", people[0]);
    }
}
