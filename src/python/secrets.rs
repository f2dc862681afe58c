//! What must not be printed: values whose name says that they are secret, and passwords inside of values.
//!
//! In: names and texts. Out: yes or no, and the text without its secret. Bias: rather one value too many hidden than one
//! secret shown; a secret under an innocent name is not recognised, so values are only read out when the user asks.

/// Parts of a name that make it secret, wherever they stand.
const PARTS: [&str; 12] = [
    "passw",
    "passphrase",
    "secret",
    "token",
    "credential",
    "authoriz",
    "apikey",
    "cookie",
    "bearer",
    "private",
    "signature",
    "csrf",
];
/// Words of a name that make it secret, between underscores, dashes, dots and humps.
const WORDS: [&str; 10] = ["key", "keys", "pass", "pwd", "pw", "auth", "jwt", "otp", "dsn", "sid"];

/// Whether a variable, key or header of this name is likely to hold a secret.
pub fn is_secret(name: &str) -> bool {
    let lower = name.to_lowercase();
    PARTS.iter().any(|part| lower.contains(part)) || words(name).any(|word| WORDS.contains(&word.as_str()))
}

/// The lower-case words of `api_key`, `apiKey`, `X-Api-Key`.
fn words(name: &str) -> impl Iterator<Item = String> {
    let mut spaced = String::new();
    let mut before = ' ';
    for c in name.chars() {
        if c.is_uppercase() && before.is_lowercase() {
            spaced.push(' ');
        }
        spaced.extend(c.to_lowercase());
        before = c;
    }
    let words: Vec<_> = spaced.split(|c: char| !c.is_alphanumeric()).map(str::to_owned).collect();
    words.into_iter()
}

/// `text` without the password of a URL (`scheme://user:password@host`), the credentials of an HTTP authorization
/// (`Bearer …`, `Basic …`) and `name=value` pairs with a secret name.
pub fn mask(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for (i, piece) in text.split_inclusive(|c: char| c.is_whitespace() || matches!(c, '&' | ';' | ',')).enumerate() {
        let before = out.trim_end().rsplit(|c: char| !c.is_alphanumeric()).next().unwrap_or_default().to_lowercase();
        let end = piece.len() - piece.chars().next_back().filter(|c| !c.is_alphanumeric()).map_or(0, char::len_utf8);
        if i > 0 && end > 0 && matches!(before.as_str(), "bearer" | "basic" | "digest") {
            out.push_str("<redacted>");
            out.push_str(piece.get(end..).unwrap_or_default());
        } else {
            out.push_str(&mask_piece(piece));
        }
    }
    out
}

/// One word of a text.
fn mask_piece(piece: &str) -> String {
    if let Some((scheme, rest)) = piece.split_once("://")
        && let Some((user, host)) = rest.rsplit_once('@')
        && let Some((name, _)) = user.split_once(':')
    {
        return format!("{scheme}://{name}:<redacted>@{host}");
    }
    if let Some((name, value)) = piece.split_once('=')
        && !value.trim().is_empty()
        && is_secret(name.rsplit(['?', '"', '\'', '{', '(']).next().unwrap_or(name))
    {
        let end = value.trim_end_matches(['&', ';', ',', '\n', ' ']).len();
        return format!("{name}=<redacted>{}", value.get(end..).unwrap_or_default());
    }
    piece.to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names() {
        for name in
            ["password", "PGPASSWORD", "api_key", "apiKey", "X-Api-Key", "authorization", "access_token", "auth"]
        {
            assert!(is_secret(name), "{name}");
        }
        for name in ["keyboard", "monkey", "author", "passenger", "compass", "side", "user", "n"] {
            assert!(!is_secret(name), "{name}");
        }
    }

    #[test]
    fn passwords_inside_of_values() {
        for (text, masked) in [
            ("postgres://npc:hunter2@db:5432/world?x=1", "postgres://npc:<redacted>@db:5432/world?x=1"),
            ("redis://:p@ss@cache", "redis://:<redacted>@cache"),
            ("Bearer eyJhbGciOi", "Bearer <redacted>"),
            ("Authorization: Basic dXNlcg==\r\n", "Authorization: Basic <redacted>\r\n"),
            ("host=db password=hunter2 user=npc", "host=db password=<redacted> user=npc"),
            ("/login?user=a&token=abc&x=2", "/login?user=a&token=<redacted>&x=2"),
            ("plain text, a=b; http://host/@me", "plain text, a=b; http://host/@me"),
        ] {
            assert_eq!(mask(text), masked);
        }
    }
}
