//! What the people of the native world remember: SQLite, as in the Python one.

use std::fmt::Write as _;

use rusqlite::{Connection, params, params_from_iter};

/// How many talks an NPC remembers; the oldest are forgotten.
pub(super) const MEMORIES_PER_NPC: u32 = 200;

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

    /// Everything that anybody remembers, a line each.
    #[inline(never)]
    pub(super) fn everything(&self) -> rusqlite::Result<Vec<String>> {
        let mut query = self.0.prepare_cached("SELECT player || ': ' || text FROM memory")?;
        query.query_map([], |row| row.get(0))?.collect()
    }

    pub(super) fn count(&self, npc: u32) -> rusqlite::Result<u32> {
        self.0.prepare_cached("SELECT count(*) FROM memory WHERE npc = ?")?.query_row([npc], |row| row.get(0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
}
