//! Names of code made at run time, from the `/tmp/perf-PID.map` that its maker writes.
//!
//! In: process and run-time address. Out: function, file and line. Invariants: the file is looked for in the target's own
//! root under the pid that the target knows itself by; only what was appended since the last look is read; of
//! overlapping regions the one written last wins, as code is thrown away and its place used again; garbage lines are
//! left out; a file of another user than the target's or root is not believed. Memory: 56 bytes a region, names stay in
//! the file.

use std::collections::BTreeMap;
use std::fs::File;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use rustc_hash::FxHashMap;

use super::demangle::demangle;
use super::files::{Root, read_up_to};

/// Regions kept of one process.
const REGION_LIMIT: usize = 400_000;
/// Bytes read of a map in one go.
const CHUNK: usize = 1 << 20;
/// Chunks read in one look: what is beyond them has to wait for the next.
const CHUNKS_A_LOOK: usize = 64;
/// A map is not read beyond this.
const FILE_LIMIT: u64 = 1 << 30;
/// A line longer than this is no line of a map.
const LINE_LIMIT: usize = 8192;
/// How often a map that was not there is looked for.
const LOOK_AGAIN: Duration = Duration::from_millis(500);

/// A named piece of code made at run time.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct JitName {
    /// The function.
    pub function: String,
    /// The source file, where the maker says it.
    pub file: Option<String>,
    /// The line of the function's definition, where the maker says it.
    pub line: Option<u32>,
}

#[derive(Debug, Clone, Copy)]
struct Region {
    end: u64,
    /// Where its name stands in the file.
    name: u64,
    name_len: u16,
}

/// Regions that do not overlap, by start.
#[derive(Debug, Default)]
struct Regions(BTreeMap<u64, Region>);

impl Regions {
    fn insert(&mut self, start: u64, region: Region) {
        let before = self.0.range(..start).next_back().map(|(&s, &r)| (s, r));
        if let Some((s, r)) = before.filter(|(_, r)| r.end > start) {
            self.0.insert(s, Region { end: start, ..r });
            if r.end > region.end {
                self.0.insert(region.end, r);
            }
        }
        while let Some((&s, &r)) = self.0.range(start..region.end).next() {
            self.0.remove(&s);
            if r.end > region.end {
                self.0.insert(region.end, r);
            }
        }
        self.0.insert(start, region);
    }

    fn at(&self, address: u64) -> Option<Region> {
        self.0.range(..=address).next_back().map(|(_, &r)| r).filter(|r| address < r.end)
    }
}

#[derive(Debug)]
struct Map {
    root: Option<Root>,
    names: Vec<PathBuf>,
    owner: u32,
    file: Option<File>,
    inode: (u64, u64),
    /// Everything before this offset has been read.
    read: u64,
    regions: Regions,
    looked: Option<Instant>,
}

/// Names code made at run time, for any number of processes.
#[derive(Debug, Default)]
pub struct Jit {
    maps: FxHashMap<u32, Map>,
}

impl Jit {
    /// Nothing is looked at yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Takes hold of the root of `pid`, so that its map is found even after it exits.
    pub fn attach(&mut self, pid: u32) {
        self.maps.entry(pid).or_insert_with(|| Map::of(pid));
    }

    /// Forgets `pid`: it exited, or called exec and its code is gone.
    pub fn forget(&mut self, pid: u32) {
        self.maps.remove(&pid);
    }

    /// Name of the code at the run-time `address` in `pid`, by what the map says now.
    pub fn name(&mut self, pid: u32, address: u64) -> Option<JitName> {
        let map = self.maps.entry(pid).or_insert_with(|| Map::of(pid));
        map.look();
        map.name(address)
    }
}

impl Map {
    fn of(pid: u32) -> Self {
        let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
        let field = |name: &str| status.lines().find_map(|l| l.strip_prefix(name)).unwrap_or_default();
        let own_pid = field("NSpid:").split_whitespace().next_back().and_then(|p| p.parse().ok()).unwrap_or(pid);
        // The second of the four is the effective user.
        let owner = field("Uid:").split_whitespace().nth(1).and_then(|u| u.parse().ok()).unwrap_or(0);
        let mut names = vec![PathBuf::from(format!("/tmp/perf-{own_pid}.map"))];
        if own_pid != pid {
            names.push(PathBuf::from(format!("/tmp/perf-{pid}.map")));
        }
        Self::in_root(Root::of(pid).ok(), names, owner)
    }

    fn in_root(root: Option<Root>, names: Vec<PathBuf>, owner: u32) -> Self {
        let (file, inode, read, regions, looked) = (None, (0, 0), 0, Regions::default(), None);
        Self { root, names, owner, file, inode, read, regions, looked }
    }

    /// Opens the map if it is (newly) there, and reads what was appended.
    fn look(&mut self) {
        if self.looked.is_none_or(|l| l.elapsed() >= LOOK_AGAIN) {
            self.looked = Some(Instant::now());
            self.reopen();
        }
        self.read_on();
    }

    fn reopen(&mut self) {
        let Some(root) = &self.root else { return };
        let Some(file) = self.names.iter().find_map(|name| root.open(name).ok()) else { return };
        let Ok(m) = file.metadata() else { return };
        let believed = m.uid() == self.owner || m.uid() == 0;
        if believed && (self.file.is_none() || self.inode != (m.dev(), m.ino())) {
            self.inode = (m.dev(), m.ino());
            (self.file, self.read, self.regions) = (Some(file), 0, Regions::default());
        }
    }

    fn read_on(&mut self) {
        let Some(file) = &self.file else { return };
        let Ok(size) = file.metadata().map(|m| m.len()) else { return };
        if size < self.read {
            // Begun anew in place.
            (self.read, self.regions) = (0, Regions::default());
        }
        if size == self.read || self.read >= FILE_LIMIT {
            return;
        }
        let mut chunk = vec![0; CHUNK.min((size - self.read) as usize)];
        for _ in 0..CHUNKS_A_LOOK {
            let Ok(n) = read_up_to(file, self.read, &mut chunk) else { return };
            let bytes = chunk.get(..n).unwrap_or_default();
            let Some(last) = bytes.iter().rposition(|&b| b == b'\n') else {
                // No whole line yet; but what fills a chunk without an end is none and is passed over.
                if n >= LINE_LIMIT {
                    self.read += n as u64;
                    continue;
                }
                return;
            };
            let mut at = self.read;
            for line in bytes.get(..=last).unwrap_or_default().split_inclusive(|&b| b == b'\n') {
                if self.regions.0.len() < REGION_LIMIT
                    && let Some((start, region)) = parse_line(line, at)
                {
                    self.regions.insert(start, region);
                }
                at += line.len() as u64;
            }
            self.read = at;
            if self.read >= size {
                return;
            }
        }
    }

    fn name(&self, address: u64) -> Option<JitName> {
        let region = self.regions.at(address)?;
        let mut name = vec![0; region.name_len.into()];
        let n = read_up_to(self.file.as_ref()?, region.name, &mut name).ok()?;
        name.truncate(n);
        (!name.is_empty()).then(|| render(&name))
    }
}

/// `START SIZE NAME`, both numbers in hex; `at` is where the line stands in the file.
fn parse_line(line: &[u8], at: u64) -> Option<(u64, Region)> {
    if line.len() > LINE_LIMIT {
        return None;
    }
    let space = |from: usize| line.get(from..)?.iter().position(|&b| b == b' ').map(|i| from + i);
    let hex = |bytes: &[u8]| {
        let text = std::str::from_utf8(bytes).ok()?;
        u64::from_str_radix(text.strip_prefix("0x").unwrap_or(text), 16).ok()
    };
    let first = space(0)?;
    let second = space(first + 1)?;
    let (start, size) = (hex(line.get(..first)?)?, hex(line.get(first + 1..second)?)?);
    let name = line.get(second + 1..)?.trim_ascii_end();
    if size == 0 || name.is_empty() {
        return None;
    }
    let end = start.checked_add(size)?;
    Some((start, Region { end, name: at + second as u64 + 1, name_len: name.len() as u16 }))
}

/// The name as its maker meant it.
fn render(raw: &[u8]) -> JitName {
    let text = String::from_utf8_lossy(raw);
    let plain = |function: String| JitName { function, file: None, line: None };
    if let Some((function, file)) = text.strip_prefix("py::").and_then(|t| t.split_once(':')) {
        return JitName { function: function.to_owned(), file: Some(file.to_owned()), line: None };
    }
    let kinds = ["JS:", "LazyCompile:", "Function:", "Script:", "Eval:"];
    if let Some(rest) = kinds.iter().find_map(|k| text.strip_prefix(k)) {
        return javascript(rest);
    }
    if raw.starts_with(b"_Z") || raw.starts_with(b"_R") { plain(demangle(raw)) } else { plain(text.into_owned()) }
}

/// `*name file:line:column` of V8; the mark before the name is the compiler's tier, and the name may be missing.
fn javascript(text: &str) -> JitName {
    let text = text.trim_start_matches(['*', '~', '^', '+', '\'', '"']);
    let mut place = text;
    let mut number = || {
        let (before, digits) = place.rsplit_once(':')?;
        let number = digits.parse::<u32>().ok()?;
        place = before;
        Some(number)
    };
    let (last, before) = (number(), number());
    let line = before.or(last);
    let split = [" /", " file:", " node:"].iter().filter_map(|mark| place.find(mark)).min();
    let (name, file) = match split.or_else(|| place.rfind(' ')) {
        Some(at) => (place.get(..at).unwrap_or_default(), place.get(at + 1..)),
        // Without a line behind it the text is a name, and not a file.
        None if line.is_some() => ("", Some(place)),
        None => (place, None),
    };
    let file = file.map(|f| f.strip_prefix("file://").unwrap_or(f).to_owned()).filter(|f| !f.is_empty());
    let function = if name.is_empty() { "(anonymous)" } else { name };
    JitName { function: function.to_owned(), line: line.filter(|_| file.is_some()), file }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    fn named(function: &str, file: Option<&str>, line: Option<u32>) -> JitName {
        JitName { function: function.into(), file: file.map(str::to_owned), line }
    }

    #[test]
    fn names_of_python_and_node() {
        for (raw, want) in [
            ("py::f.<locals>.A.m:/tmp/b.py", named("f.<locals>.A.m", Some("/tmp/b.py"), None)),
            ("JS:*bar /tmp/a.js:1:16", named("bar", Some("/tmp/a.js"), Some(1))),
            ("JS:~ /tmp/a.js:3:74", named("(anonymous)", Some("/tmp/a.js"), Some(3))),
            ("LazyCompile:~get size node:internal/util:30:8", named("get size", Some("node:internal/util"), Some(30))),
            ("JS:^run file:///srv/my app/x.mjs:7:1", named("run", Some("/srv/my app/x.mjs"), Some(7))),
            ("Function:+f x.js:12", named("f", Some("x.js"), Some(12))),
            ("JS:*lonely", named("lonely", None, None)),
            ("Builtin:ArrayMap", named("Builtin:ArrayMap", None, None)),
            ("Lcom/acme/Main;::run", named("Lcom/acme/Main;::run", None, None)),
        ] {
            assert_eq!(render(raw.as_bytes()), want, "{raw}");
        }
    }

    struct Rig {
        dir: tempfile::TempDir,
        map: Map,
    }

    impl Rig {
        fn new() -> Self {
            let dir = tempfile::tempdir().unwrap();
            let owner = nix::unistd::geteuid().as_raw();
            let map = Map::in_root(Root::at(dir.path()).ok(), vec!["/perf-1.map".into()], owner);
            Self { dir, map }
        }
        fn append(&self, text: &[u8]) {
            let path = self.dir.path().join("perf-1.map");
            File::options().create(true).append(true).open(path).unwrap().write_all(text).unwrap();
        }
        fn name(&mut self, address: u64) -> Option<String> {
            self.map.looked = None;
            self.map.look();
            self.map.name(address).map(|n| n.function)
        }
    }

    #[test]
    fn what_is_appended_is_read_once_and_the_last_region_wins() {
        let mut rig = Rig::new();
        assert_eq!(rig.name(0x1000), None);
        rig.append(b"1000 100 a\n0x1080 10 b\nrubbish\n2000 zz c\n\xff\xfe 1 d\n3000 0 e\n1200 10 half of a na");
        assert_eq!(rig.name(0x1010).as_deref(), Some("a"));
        assert_eq!(rig.name(0x1085).as_deref(), Some("b"));
        assert_eq!(rig.name(0x10ff).as_deref(), Some("a"));
        assert_eq!(rig.name(0x1100), None);
        assert_eq!(rig.name(0x1200), None);
        let before = rig.map.read;
        rig.append(b"me\n1040 80 c\n");
        assert_eq!(rig.name(0x1200).as_deref(), Some("half of a name"));
        assert!(rig.map.read > before);
        for (at, want) in [(0x103f, "a"), (0x1040, "c"), (0x1085, "c"), (0x10bf, "c"), (0x10c0, "a")] {
            assert_eq!(rig.name(at).as_deref(), Some(want), "{at:#x}");
        }
    }

    #[test]
    fn a_map_that_begins_anew_or_is_another_file_is_read_from_the_start() {
        let mut rig = Rig::new();
        rig.append(b"1000 100 old\n2000 100 old2\n");
        assert_eq!(rig.name(0x1000).as_deref(), Some("old"));
        std::fs::write(rig.dir.path().join("perf-1.map"), "1000 100 new\n").unwrap();
        assert_eq!(rig.name(0x1000).as_deref(), Some("new"));
        assert_eq!(rig.name(0x2000), None);
        std::fs::remove_file(rig.dir.path().join("perf-1.map")).unwrap();
        assert_eq!(rig.name(0x1000).as_deref(), Some("new"));
        rig.append(b"1000 100 another file that is longer than the first\n");
        assert_eq!(rig.name(0x1000).as_deref(), Some("another file that is longer than the first"));
    }

    #[test]
    fn a_flood_of_garbage_is_passed_over() {
        let mut rig = Rig::new();
        rig.append(&vec![b'x'; 3 * CHUNK]);
        rig.append(b"\n1000 10 fine\n");
        assert_eq!(rig.name(0x1008).as_deref(), Some("fine"));
        rig.append(b"0 ffffffffffffffff all\nfffffffffffffff0 ff over\n");
        assert_eq!(rig.name(0x1008).as_deref(), Some("all"));
        assert_eq!(rig.map.regions.0.len(), 1);
    }
}
