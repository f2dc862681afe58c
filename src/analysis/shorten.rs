//! Short names of Python files: what a reader of the project would call them.
//!
//! In: every Python file path of a recording. Out: a short name for each. A file below `site-packages` or
//! `dist-packages` is named from there (`fastapi/routing.py`), one of the standard library from its directory
//! (`json/decoder.py`), the rest from the directory that the rest has in common (`npc/world.py`). Invariant: two paths
//! never share a short name; where they would, both grow by leading components until they differ.

use rustc_hash::FxHashMap;

/// The short name of each path.
pub fn shorten<'a>(paths: impl Iterator<Item = &'a str>) -> FxHashMap<&'a str, String> {
    let mut paths: Vec<&str> = paths.collect();
    paths.sort_unstable();
    paths.dedup();
    // How many trailing components the short name has; `None` keeps the path as it is.
    let mut kept: Vec<Option<usize>> = paths.iter().map(|p| library_depth(p)).collect();
    let own: Vec<usize> = (0..paths.len()).filter(|&i| kept[i].is_none() && paths[i].starts_with('/')).collect();
    // Trees that have nothing but the root in common (/app, /opt/x) are shortened each for itself.
    let mut groups: FxHashMap<&str, Vec<usize>> = FxHashMap::default();
    for &i in &own {
        groups.entry(paths[i].split('/').nth(1).unwrap_or_default()).or_default().push(i);
    }
    for members in groups.values() {
        let common = members.iter().map(|&i| directories(paths[i])).reduce(shared).unwrap_or_default().len();
        for &i in members {
            kept[i] = Some(components(paths[i]) - common);
        }
    }
    let mut names: Vec<&str> = paths.iter().zip(&kept).map(|(p, k)| k.map_or(*p, |k| tail(p, k))).collect();
    while grow_equal(&paths, &mut kept, &mut names) {}
    paths.into_iter().zip(names).map(|(p, n)| (p, n.to_owned())).collect()
}

/// Gives every path whose short name is not its own one more component; `false` when there is none that can grow.
fn grow_equal<'a>(paths: &[&'a str], kept: &mut [Option<usize>], names: &mut [&'a str]) -> bool {
    let mut users: FxHashMap<&str, u32> = FxHashMap::default();
    for name in names.iter() {
        *users.entry(name).or_default() += 1;
    }
    let mut grew = false;
    for ((path, kept), name) in paths.iter().zip(kept).zip(names.iter_mut()) {
        let Some(n) = kept.as_mut().filter(|n| users[name] > 1 && **n <= components(path)) else { continue };
        *n += 1;
        *name = tail(path, *n);
        grew = true;
    }
    grew
}

/// How many trailing components lie inside an installed package or the standard library.
fn library_depth(path: &str) -> Option<usize> {
    for marker in ["/site-packages/", "/dist-packages/"] {
        if let Some(at) = path.rfind(marker) {
            return Some(components(&path[at + marker.len() - 1..]));
        }
    }
    // .../lib/python3.11/json/decoder.py, .../python311.zip/json/decoder.py
    let mut after = 0;
    for part in path.split('/') {
        after += part.len() + 1;
        let Some(version) = part.strip_prefix("python").or_else(|| part.strip_prefix("pypy")) else { continue };
        let version = version.strip_suffix(".zip").unwrap_or(version).trim_end_matches('t');
        let inside = path[..after].contains("/lib") && version.starts_with(['2', '3']);
        if inside && version.bytes().all(|b| b.is_ascii_digit() || b == b'.') && after < path.len() {
            return Some(components(&path[after - 1..]));
        }
    }
    None
}

/// The number of components of an absolute path.
fn components(path: &str) -> usize {
    path.matches('/').count()
}

/// The directories of an absolute path.
fn directories(path: &str) -> Vec<&str> {
    let mut parts: Vec<&str> = path.split('/').skip(1).collect();
    parts.pop();
    parts
}

/// The leading directories that both have.
fn shared<'a>(a: Vec<&'a str>, b: Vec<&'a str>) -> Vec<&'a str> {
    a.into_iter().zip(b).take_while(|(a, b)| a == b).map(|(a, _)| a).collect()
}

/// The last `n` components of a path, the whole path when it has no more.
fn tail(path: &str, n: usize) -> &str {
    path.rmatch_indices('/').nth(n.saturating_sub(1)).map_or(path, |(at, _)| &path[at + 1..])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn short(paths: &[&str]) -> Vec<String> {
        let map = shorten(paths.iter().copied());
        paths.iter().map(|p| map[p].clone()).collect()
    }

    #[test]
    fn libraries_and_the_project_are_named_from_their_roots() {
        let got = short(&[
            "/srv/npc/app/main.py",
            "/srv/npc/app/world/tick.py",
            "/usr/lib/python3.11/json/decoder.py",
            "/opt/pyenv/versions/3.12.1/lib/python3.12/asyncio/base_events.py",
            "/venv/lib/python3.11/site-packages/fastapi/routing.py",
            "<frozen importlib._bootstrap>",
            "app.py",
        ]);
        let want = [
            "main.py",
            "world/tick.py",
            "json/decoder.py",
            "asyncio/base_events.py",
            "fastapi/routing.py",
            "<frozen importlib._bootstrap>",
            "app.py",
        ];
        assert_eq!(got, want);
    }

    #[test]
    fn one_file_is_its_base_name_and_foreign_trees_do_not_spoil_it() {
        assert_eq!(short(&["/home/me/x/app.py"]), ["app.py"]);
        assert_eq!(short(&["/app/npc/a.py", "/app/npc/b/c.py", "/opt/lib/d.py"]), ["a.py", "b/c.py", "d.py"]);
    }

    #[test]
    fn equal_names_grow_until_they_differ() {
        let got = short(&["/a/x/main.py", "/b/x/main.py", "/usr/lib/python3.8/abc.py", "/usr/lib/python3.9/abc.py"]);
        assert_eq!(got, ["a/x/main.py", "b/x/main.py", "python3.8/abc.py", "python3.9/abc.py"]);
        assert_eq!(short(&["/main.py", "main.py"]), ["/main.py", "main.py"]);
    }
}
