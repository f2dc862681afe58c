//! The walls of the house that the compiler does not build: which module may use which, where `unsafe` may stand, how long
//! a file may be, and what no committed file may contain.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use crate::rig::repository;

/// Lines of a file without its unit tests.
const CEILING: usize = 600;

/// What each part may use, itself aside. What a part may use, those above it may use too: the table is closed over below.
/// `error`, `units` and `clock` are open to all.
const MAY_USE: &[(&str, &[&str])] = &[
    ("error", &[]),
    ("units", &[]),
    ("clock", &[]),
    ("record", &[]),
    ("os", &["record"]),
    ("target", &["os"]),
    ("python", &["target"]),
    ("native", &["target"]),
    ("symbol", &["target", "os", "record"]),
    ("collect", &["python", "native", "symbol", "target", "os", "record"]),
    ("load", &["os", "record"]),
    ("analysis", &["record"]),
    ("render", &["analysis", "record"]),
    ("tui", &["analysis", "record"]),
    ("bench", &["record", "load", "analysis"]),
    ("session", &["collect", "load", "symbol", "target", "record"]),
    ("demo", &["load"]),
    ("web", &["session", "render"]),
    ("cli", &["session", "render", "tui", "web", "bench", "demo", "symbol"]),
    ("main", &["cli"]),
];
const FOR_ALL: [&str; 3] = ["error", "units", "clock"];

#[test]
fn nothing_uses_what_lies_above_it() {
    let mut broken = Vec::new();
    for file in rust_files("src") {
        let part = part_of(&file);
        if part == "lib" {
            continue;
        }
        let Some(allowed) = allowed(&part) else {
            broken.push(format!("{}: `{part}` is not in the table of layers", file.display()));
            continue;
        };
        for (line, used) in uses(&without_tests(&code_only(&read(&file))), depth_of(&file)) {
            if used != part && !allowed.contains(used.as_str()) {
                broken.push(format!("{}:{line}: `{part}` must not use `{used}`", file.display()));
            }
        }
    }
    assert!(broken.is_empty(), "{}", broken.join("\n"));
}

#[test]
fn unsafe_lives_in_os_alone() {
    let inside = repository().join("src/os");
    let broken: Vec<_> = ["src", "tests/suite", "tests/fuzz", "tests/benches", "scripts"]
        .iter()
        .flat_map(|dir| rust_files(dir))
        .filter(|file| !file.starts_with(&inside))
        .flat_map(|file| {
            let code = code_only(&read(&file));
            let at: Vec<_> = words(&code).filter(|(_, w)| *w == "unsafe").map(|(at, _)| line_at(&code, at)).collect();
            at.into_iter().map(move |line| format!("{}:{line}", file.display()))
        })
        .collect();
    assert!(broken.is_empty(), "`unsafe` outside src/os:\n{}", broken.join("\n"));
}

#[test]
fn no_file_is_longer_than_the_ceiling() {
    let broken: Vec<_> = ["src", "tests/suite"]
        .iter()
        .flat_map(|dir| rust_files(dir))
        .map(|file| (without_tests(&read(&file)).lines().count(), file))
        .filter(|(lines, _)| *lines > CEILING)
        .map(|(lines, file)| format!("{}: {lines} lines, it wants to be two files", file.display()))
        .collect();
    assert!(broken.is_empty(), "{}", broken.join("\n"));
}

#[test]
fn no_committed_file_names_this_machine_or_a_registry() {
    // Put together here, so that this file does not name them either.
    let foreign = [
        ["/ro", "ot/"],
        ["/wo", "rk/"],
        ["pypi.", "org"],
        ["crates", ".io"],
        ["npmjs", ".com"],
        ["proxy.go", "lang.org"],
    ]
    .map(|p| p.concat());
    let mut broken = Vec::new();
    for dir in ["src", "tests", "scripts", ".config", ".ci"] {
        for file in files(&repository().join(dir)) {
            let text = String::from_utf8_lossy(&fs::read(&file).unwrap()).into_owned();
            for (line, content) in text.lines().enumerate() {
                if let Some(word) = foreign.iter().find(|w| content.contains(w.as_str())) {
                    broken.push(format!("{}:{}: {word}", file.display(), line + 1));
                }
            }
        }
    }
    assert!(broken.is_empty(), "{}", broken.join("\n"));
}

fn allowed(part: &str) -> Option<BTreeSet<&'static str>> {
    let direct = |part: &str| MAY_USE.iter().find(|(name, _)| *name == part).map(|(_, may)| *may);
    let mut all: BTreeSet<_> = FOR_ALL.into();
    let mut open = direct(part)?.to_vec();
    while let Some(next) = open.pop() {
        if all.insert(next) {
            open.extend(direct(next).unwrap_or_else(|| panic!("the table names `{next}` but has no row for it")));
        }
    }
    Some(all)
}

/// The part of the house that a source file belongs to: its first directory, or its own name.
fn part_of(file: &Path) -> String {
    let inside = file.strip_prefix(repository().join("src")).unwrap();
    inside.components().next().unwrap().as_os_str().to_str().unwrap().trim_end_matches(".rs").to_owned()
}

/// How many modules deep the code of a file stands: 1 for `src/clock.rs` and `src/os/mod.rs`, 2 for `src/os/elf.rs`.
fn depth_of(file: &Path) -> usize {
    let inside = file.strip_prefix(repository().join("src")).unwrap();
    let root = matches!(inside.to_str(), Some("main.rs" | "lib.rs"));
    inside.components().count() - usize::from(root || inside.ends_with("mod.rs"))
}

/// The first segments of all paths from the crate's root (`crate::x`, `perfkit::x`, groups, and `super`s that reach the
/// root), with their lines. Modules inside a file count as its own depth, so a `super` too many is at worst reported.
fn uses(code: &str, depth: usize) -> Vec<(usize, String)> {
    let mut found = Vec::new();
    for (at, word) in words(code) {
        let after = &code[at + word.len()..];
        let rest = match word {
            "crate" | "perfkit" => after.strip_prefix("::"),
            "super" => {
                // Only the first of a chain counts, and only a chain as long as the module is deep leaves the part.
                let mut chain = 1;
                let mut rest = after;
                while let Some(more) = rest.strip_prefix("::super") {
                    chain += 1;
                    rest = more;
                }
                let first = !code[..at].ends_with("super::");
                rest.strip_prefix("::").filter(|_| first && chain >= depth && depth > 0)
            }
            _ => None,
        };
        let line = line_at(code, at);
        found.extend(rest.into_iter().flat_map(first_segments).map(|segment| (line, segment)));
    }
    found
}

/// `a::b` gives `a`; `{a::b, c::{d, e}}` gives `a` and `c`.
fn first_segments(path: &str) -> Vec<String> {
    let ident =
        |text: &str| text.trim_start().chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect::<String>();
    let Some(group) = path.trim_start().strip_prefix('{') else {
        return vec![ident(path)];
    };
    let (mut level, mut segments, mut at_start) = (0, Vec::new(), true);
    for (i, c) in group.char_indices() {
        match c {
            '{' => level += 1,
            '}' if level == 0 => break,
            '}' => level -= 1,
            ',' if level == 0 => at_start = true,
            c if at_start && !c.is_whitespace() => {
                segments.push(ident(&group[i..]));
                at_start = false;
            }
            _ => {}
        }
    }
    segments
}

/// The source with comments, strings and characters blanked, line ends kept.
fn code_only(text: &str) -> String {
    let bytes = text.as_bytes();
    let mut out: Vec<u8> = bytes.to_vec();
    let blank = |out: &mut Vec<u8>, from: usize, to: usize| {
        for b in &mut out[from..to.min(bytes.len())] {
            if *b != b'\n' {
                *b = b' ';
            }
        }
    };
    let mut i = 0;
    while i < bytes.len() {
        let rest = &text.as_bytes()[i..];
        let end = if rest.starts_with(b"//") {
            i + rest.iter().position(|b| *b == b'\n').unwrap_or(rest.len())
        } else if rest.starts_with(b"/*") {
            i + find(rest, b"*/").map_or(rest.len(), |n| n + 2)
        } else if rest.starts_with(b"r\"") || rest.starts_with(b"r#") && !ident_before(bytes, i) {
            let hashes = rest[1..].iter().take_while(|b| **b == b'#').count();
            if rest.get(1 + hashes) == Some(&b'"') {
                let close = [b"\"".as_slice(), &b"#".repeat(hashes)].concat();
                i + 2 + hashes + find(&rest[2 + hashes..], &close).map_or(rest.len(), |n| n + close.len())
            } else {
                i
            }
        } else if rest[0] == b'"' {
            i + 1 + string_end(&rest[1..], b'"')
        } else if rest[0] == b'\'' && (rest.get(1) == Some(&b'\\') || rest.get(2) == Some(&b'\'')) {
            i + 1 + string_end(&rest[1..], b'\'')
        } else {
            i
        };
        blank(&mut out, i, end);
        i = end.max(i + 1);
    }
    String::from_utf8_lossy(&out).into_owned()
}

fn ident_before(bytes: &[u8], at: usize) -> bool {
    at > 0 && (bytes[at - 1].is_ascii_alphanumeric() || bytes[at - 1] == b'_')
}

fn find(haystack: &[u8], needle: &[u8]) -> Option<usize> {
    haystack.windows(needle.len()).position(|w| w == needle)
}

/// Bytes up to and including the closing quote.
fn string_end(rest: &[u8], quote: u8) -> usize {
    let mut i = 0;
    while i < rest.len() && rest[i] != quote {
        i += if rest[i] == b'\\' { 2 } else { 1 };
    }
    i + 1
}

/// The code without its unit tests: everything from a `#[cfg(test)]` before a `mod … {` on.
fn without_tests(code: &str) -> String {
    let mut from = 0;
    while let Some(at) = code[from..].find("#[cfg(test)]").map(|n| from + n) {
        let rest: String = code[at..].lines().skip(1).take_while(|l| !l.contains('{') && !l.contains(';')).collect();
        let next = code[at..].lines().skip(1).find(|l| l.contains('{') || l.contains(';')).unwrap_or_default();
        if (rest + next).contains("mod ") && next.contains('{') {
            return code[..at].to_owned();
        }
        from = at + 1;
    }
    code.to_owned()
}

fn words(code: &str) -> impl Iterator<Item = (usize, &str)> {
    code.split(|c: char| !c.is_alphanumeric() && c != '_')
        .filter(|w| !w.is_empty())
        .map(|w| (w.as_ptr() as usize - code.as_ptr() as usize, w))
}

fn line_at(code: &str, at: usize) -> usize {
    code[..at].matches('\n').count() + 1
}

fn read(file: &Path) -> String {
    fs::read_to_string(file).unwrap_or_else(|e| panic!("{}: {e}", file.display()))
}

fn rust_files(dir: &str) -> Vec<PathBuf> {
    files(&repository().join(dir)).into_iter().filter(|f| f.extension().is_some_and(|e| e == "rs")).collect()
}

/// All files below `dir`, build products aside; none when there is no such directory.
fn files(dir: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(dir).into_iter().flatten().map(Result::unwrap) {
        let path = entry.path();
        let name = entry.file_name();
        if path.is_dir() {
            let built = ["target", "corpus", "artifacts", "__pycache__"].iter().any(|b| name == *b);
            found.extend(if built { Vec::new() } else { files(&path) });
        } else if name != "Cargo.lock" {
            // Lock files name the registry by nature.
            found.push(path);
        }
    }
    found.sort();
    found
}

mod tests {
    use super::*;

    #[test]
    fn a_planted_arrow_is_found_in_every_spelling() {
        let code = code_only(
            "use crate::{clock::Mono, os::{elf, memory}};\n// crate::cli\nlet s = \"crate::cli\"; crate::render::svg();\n\
             fn f<'a>(x: &'a u8) -> super::super::session::Plan { 'x'; r#\"crate::tui\"# }\nuse super::near;\n",
        );
        let found: Vec<_> = uses(&without_tests(&code), 2);
        let expect = [(1, "clock"), (1, "os"), (3, "render"), (4, "session")];
        assert_eq!(found, expect.map(|(line, name)| (line, name.to_owned())));
        assert!(!allowed("record").unwrap().contains("os"));
        assert!(allowed("python").unwrap().contains("os"));
        assert!(!allowed("render").unwrap().contains("os"));
    }

    #[test]
    fn unit_tests_are_set_aside_and_depth_counts_modules() {
        assert_eq!(
            without_tests("a\n#[cfg(test)]\nuse x;\nb\n#[cfg(test)]\nmod tests {\n}"),
            "a\n#[cfg(test)]\nuse x;\nb\n"
        );
        let deep = |f: &str| depth_of(&repository().join("src").join(f));
        assert_eq!([deep("main.rs"), deep("clock.rs"), deep("os/mod.rs"), deep("os/elf.rs")], [0, 1, 1, 2]);
    }
}
