//! Scenarios that perfkit brings along, for the user's world service.

/// `NPCInteractionTest` and `ChatCommandTest` as one file; classes are chosen by name on the command line.
pub const READY: &[(&str, &str)] = &[("world", include_str!("world.toml"))];

/// The text of the ready scenario `name`.
pub fn ready(name: &str) -> Option<&'static str> {
    READY.iter().find(|(n, _)| *n == name).map(|(_, text)| *text)
}
