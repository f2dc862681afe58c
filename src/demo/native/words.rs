//! The words of the native world: what was said, and what can be answered.

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
const TELLERS: [&str; 4] = ["the miller", "my cousin", "an old sailor", "the priest"];

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
            for teller in TELLERS {
                let text = format!("{before} {topic} {behind}, or so {teller} told me");
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
pub(super) fn choose_dialogue_line(lines: &[Line], tokens: &[String], anger: f64) -> String {
    let temper = 0.02 * anger.max(0.0);
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
        let line = choose_dialogue_line(&lines, &tokenize_chat("Did the WOLVES come again?"), 0.0);
        assert!(line.contains("wolves"), "{line}");
    }

    #[test]
    fn words_are_kind_or_not() {
        assert!(weigh_sentiment(&tokenize_chat("Thanks, friend!")) > 0.0);
        assert!(weigh_sentiment(&tokenize_chat("you fool and thief")) < 0.0);
        assert!(weigh_sentiment(&tokenize_chat("a road")).abs() < 1e-9);
    }
}
