//! How much memory a process has and of which kind, as the kernel tells it.
//!
//! In: files of `/proc` and of the cgroup file system below a root that can be a fake tree. Out: plain numbers in bytes,
//! `None` for what a file does not say. Invariants: nothing is written or stopped; damaged text gives `None` or is left out,
//! never a panic. Limits: thread stacks and arenas are told by their shape (a guard below, 64 MiB alignment), since glibc
//! gives them no name; a stack whose guard is no mapping of its own (glibc 2.42, `MADV_GUARD_INSTALL`) counts as anonymous.

use std::fs;
use std::path::{Path, PathBuf};

use super::cgroup::Cgroup;

/// Alignment and greatest size of a heap of a glibc thread arena (malloc/arena.c `HEAP_MAX_SIZE`, 64-bit).
const ARENA: u64 = 64 << 20;
/// A guard below a stack is no larger than this.
const GUARD_MAX: u64 = 1 << 20;

/// The files of one process below a root.
#[derive(Debug, Clone)]
pub struct MemoryFiles {
    dir: PathBuf,
    root: PathBuf,
}

/// The cheap numbers, from `status` and `stat`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Status {
    /// Resident memory, bytes.
    pub rss: Option<u64>,
    /// The anonymous part of it.
    pub anon: Option<u64>,
    /// The part with files behind it.
    pub file: Option<u64>,
    /// The shared memory in it.
    pub shmem: Option<u64>,
    /// Swapped out, bytes.
    pub swap: Option<u64>,
    /// Page tables, bytes.
    pub page_tables: Option<u64>,
    /// Threads.
    pub threads: Option<u64>,
}

/// Page faults since the process began.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Faults {
    /// Without reading a disk.
    pub minor: u64,
    /// With.
    pub major: u64,
}

/// What `smaps_rollup` says, bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Rollup {
    /// Resident memory.
    pub rss: u64,
    /// With shared pages divided among those who share them.
    pub pss: u64,
    /// What this process alone has.
    pub uss: u64,
    /// Swapped out.
    pub swap: u64,
}

/// Of what kind a mapping is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Kind {
    /// The brk heap.
    Heap,
    /// A heap of a glibc thread arena.
    Arena,
    /// Other anonymous memory: large blocks, pools, other allocators.
    Anonymous,
    /// The stack of a thread.
    Stack,
    /// A mapped file.
    File,
    /// Shared memory.
    Shared,
    /// vdso and the like.
    Kernel,
}

/// Resident memory by kind, bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Parts {
    /// The brk heap.
    pub heap: u64,
    /// glibc's thread arenas.
    pub arenas: u64,
    /// Other anonymous mappings.
    pub anon_maps: u64,
    /// Stacks.
    pub stacks: u64,
    /// Pages of private file mappings that were written to, and are anonymous since.
    pub file_private: u64,
    /// Pages of files as they are on the disk.
    pub file_shared: u64,
    /// Shared memory.
    pub shmem: u64,
    /// Swapped out, of all kinds.
    pub swap: u64,
    /// With shared pages divided among those who share them.
    pub pss: u64,
    /// What this process alone has.
    pub uss: u64,
    /// How many mappings there are.
    pub mappings: u64,
    /// How many heaps of thread arenas there are.
    pub arena_count: u64,
    /// How many stacks there are.
    pub stack_count: u64,
}

impl Parts {
    /// All resident memory.
    pub fn rss(&self) -> u64 {
        let files = self.file_private.saturating_add(self.file_shared).saturating_add(self.shmem);
        [self.heap, self.arenas, self.anon_maps, self.stacks].into_iter().fold(files, u64::saturating_add)
    }
}

/// One mapping of `smaps`, bytes.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Region {
    /// First address.
    pub start: u64,
    /// First address after it.
    pub end: u64,
    /// `rw-p`.
    pub rights: [u8; 4],
    /// Inode of the file, 0 without one.
    pub inode: u64,
    /// Path or name.
    pub path: String,
    /// Resident.
    pub rss: u64,
    /// Resident, shared pages divided.
    pub pss: u64,
    /// Resident in this process alone.
    pub private: u64,
    /// Resident and not of a file.
    pub anonymous: u64,
    /// Swapped out.
    pub swap: u64,
}

impl Region {
    fn is_reserved(&self) -> bool {
        self.rights[..3] == *b"---"
    }

    fn is_anonymous(&self) -> bool {
        self.inode == 0 && (self.path.is_empty() || self.path.starts_with("[anon"))
    }
}

impl MemoryFiles {
    /// The files of `pid` below `root`, which is `/` but for tests.
    pub fn new(root: &Path, pid: u32) -> Self {
        Self { dir: root.join("proc").join(pid.to_string()), root: root.to_owned() }
    }

    fn text(&self, name: &str) -> Option<String> {
        fs::read(self.dir.join(name)).ok().map(|t| String::from_utf8_lossy(&t).into_owned())
    }

    /// The cheap numbers; `None` when the process is gone or a zombie (it has no memory any more).
    pub fn status(&self) -> Option<Status> {
        Status::parse(&self.text("status")?)
    }

    /// Page faults.
    pub fn faults(&self) -> Option<Faults> {
        Faults::parse(&self.text("stat")?)
    }

    /// Open file descriptors. `None` without the right to look.
    pub fn fds(&self) -> Option<u64> {
        // Since Linux 6.2 the size of the directory is the number of descriptors; before it is 0.
        let dir = self.dir.join("fd");
        match fs::metadata(&dir).ok()?.len() {
            0 => Some(fs::read_dir(dir).ok()?.count() as u64),
            n if self.root == Path::new("/") => Some(n),
            _ => Some(fs::read_dir(dir).ok()?.count() as u64),
        }
    }

    /// PSS and USS. `None` without the right to look, or before Linux 4.14.
    pub fn rollup(&self) -> Option<Rollup> {
        Rollup::parse(&self.text("smaps_rollup")?)
    }

    /// Every mapping. `None` without the right to look.
    pub fn regions(&self) -> Option<Vec<Region>> {
        Some(regions(&self.text("smaps")?))
    }

    /// Its cgroup's memory, where it has one.
    pub fn cgroup(&self) -> Option<Cgroup> {
        // The kernel tells the path as our own cgroup namespace has it, so it is looked for in our own mounts.
        let mounts = fs::read_to_string(self.root.join("proc/self/mountinfo")).ok()?;
        Cgroup::find(&self.root, &self.text("cgroup")?, &mounts)
    }
}

/// The number before `kB` on the line that begins with `name`, in bytes.
fn kilobytes(text: &str, name: &str) -> Option<u64> {
    let line = text.lines().find_map(|l| l.strip_prefix(name)?.strip_prefix(':'))?;
    line.split_ascii_whitespace().next()?.parse::<u64>().ok()?.checked_mul(1024)
}

impl Status {
    /// Parses `/proc/PID/status`; `None` for text without any memory in it.
    pub fn parse(text: &str) -> Option<Self> {
        let threads = text.lines().find_map(|l| l.strip_prefix("Threads:")?.trim().parse().ok());
        let (anon, file, shmem) = (kilobytes(text, "RssAnon"), kilobytes(text, "RssFile"), kilobytes(text, "RssShmem"));
        // The sum of the three is of one moment; VmRSS is the same sum, read once more.
        let sum = anon.zip(file).zip(shmem).and_then(|((a, f), s)| a.checked_add(f)?.checked_add(s));
        let rss = kilobytes(text, "VmRSS").or(sum)?;
        let (swap, page_tables) = (kilobytes(text, "VmSwap"), kilobytes(text, "VmPTE"));
        Some(Self { rss: Some(rss), anon, file, shmem, swap, page_tables, threads })
    }
}

impl Faults {
    /// Parses `/proc/PID/stat` (fields 10 and 12; the name may hold anything).
    pub fn parse(text: &str) -> Option<Self> {
        let mut fields = text.get(text.rfind(')')? + 1..)?.split_ascii_whitespace();
        let minor = fields.nth(7)?.parse().ok()?;
        let major = fields.nth(1)?.parse().ok()?;
        Some(Self { minor, major })
    }
}

impl Rollup {
    /// Parses `/proc/PID/smaps_rollup`.
    pub fn parse(text: &str) -> Option<Self> {
        let of = |name| kilobytes(text, name);
        let uss = of("Private_Clean")?.saturating_add(of("Private_Dirty")?);
        Some(Self { rss: of("Rss")?, pss: of("Pss")?, uss, swap: of("Swap").unwrap_or(0) })
    }
}

/// Parses `smaps`; lines that do not parse are left out. In the order of the file, which is that of addresses.
pub fn regions(text: &str) -> Vec<Region> {
    let mut all: Vec<Region> = Vec::new();
    for line in text.lines() {
        if let Some(region) = head(line) {
            all.push(region);
            continue;
        }
        let Some(region) = all.last_mut() else { continue };
        let Some((name, rest)) = line.split_once(':') else { continue };
        let value = || Some(rest.split_ascii_whitespace().next()?.parse::<u64>().ok()?.saturating_mul(1024));
        let field = match name {
            "Rss" => &mut region.rss,
            "Pss" => &mut region.pss,
            "Private_Clean" | "Private_Dirty" => &mut region.private,
            "Anonymous" => &mut region.anonymous,
            "Swap" => &mut region.swap,
            _ => continue,
        };
        if let Some(bytes) = value() {
            *field = field.saturating_add(bytes);
        }
    }
    all
}

/// The first line of a mapping: `start-end rights offset device inode path`.
fn head(line: &str) -> Option<Region> {
    let mut rest = line;
    let mut word = || {
        rest = rest.trim_start();
        let (word, after) = rest.split_at(rest.find(' ').unwrap_or(rest.len()));
        rest = after;
        word
    };
    let (start, end) = word().split_once('-')?;
    let hex = |t: &str| u64::from_str_radix(t, 16).ok();
    let (start, end) = (hex(start)?, hex(end)?);
    let rights: [u8; 4] = word().as_bytes().try_into().ok()?;
    let _offset = hex(word())?;
    let _device = word().split_once(':')?;
    let inode = word().parse().ok()?;
    (start < end).then(|| Region { start, end, rights, inode, path: rest.trim_start().to_owned(), ..Region::default() })
}

/// The kind of each mapping, in the same order.
pub fn kinds(regions: &[Region]) -> Vec<Kind> {
    let kind = |i: usize, r: &Region| {
        let before = i.checked_sub(1).and_then(|i| regions.get(i)).filter(|b| b.end == r.start);
        let after = regions.get(i + 1).filter(|a| a.start == r.end);
        kind_of(r, before, after)
    };
    regions.iter().enumerate().map(|(i, r)| kind(i, r)).collect()
}

fn kind_of(r: &Region, before: Option<&Region>, after: Option<&Region>) -> Kind {
    const SHARED: [&str; 5] = ["/dev/zero", "/dev/shm/", "/SYSV", "/memfd:", "[anon_shmem"];
    if r.path == "[heap]" {
        return Kind::Heap;
    }
    if r.path.starts_with("[stack") {
        return Kind::Stack;
    }
    if SHARED.iter().any(|s| r.path.starts_with(s)) {
        return Kind::Shared;
    }
    if !r.is_anonymous() {
        return if r.inode == 0 && r.path.starts_with('[') { Kind::Kernel } else { Kind::File };
    }
    if r.path.contains("stack") {
        return Kind::Stack;
    }
    if r.path.contains("glibc: malloc arena") {
        return Kind::Arena;
    }
    // The part of a heap that is not in use yet is reserved up to the next multiple of the alignment.
    let ends_aligned = after.map_or(r.end, |a| if a.is_reserved() { a.end } else { r.end }).is_multiple_of(ARENA);
    if r.start.is_multiple_of(ARENA) && ends_aligned {
        return Kind::Arena;
    }
    let guarded = before.is_some_and(|b| b.is_reserved() && b.is_anonymous() && b.end - b.start <= GUARD_MAX);
    if guarded && r.rights[1] == b'w' { Kind::Stack } else { Kind::Anonymous }
}

/// Resident memory by kind.
pub fn parts(regions: &[Region]) -> Parts {
    let mut parts = Parts { mappings: regions.len() as u64, ..Parts::default() };
    for (r, kind) in regions.iter().zip(kinds(regions)) {
        let field = match kind {
            Kind::Heap => &mut parts.heap,
            Kind::Arena => {
                parts.arena_count += 1;
                &mut parts.arenas
            }
            Kind::Anonymous => &mut parts.anon_maps,
            Kind::Stack => {
                parts.stack_count += 1;
                &mut parts.stacks
            }
            Kind::File | Kind::Kernel => {
                let written = r.anonymous.min(r.rss);
                parts.file_private = parts.file_private.saturating_add(written);
                parts.file_shared = parts.file_shared.saturating_add(r.rss - written);
                parts.swap = parts.swap.saturating_add(r.swap);
                parts.pss = parts.pss.saturating_add(r.pss);
                parts.uss = parts.uss.saturating_add(r.private);
                continue;
            }
            Kind::Shared => &mut parts.shmem,
        };
        *field = field.saturating_add(r.rss);
        parts.swap = parts.swap.saturating_add(r.swap);
        parts.pss = parts.pss.saturating_add(r.pss);
        parts.uss = parts.uss.saturating_add(r.private);
    }
    parts
}

#[cfg(test)]
mod tests {
    use super::*;

    fn map(range: &str, rights: &str, inode: u32, path: &str, rss: u64, anonymous: u64) -> String {
        format!(
            "{range} {rights} 00000000 00:00 {inode} {path}\nSize: 9 kB\nRss: {rss} kB\nPss: {rss} kB\nPss_Dirty: 99 kB\n\
             Private_Clean: 0 kB\nPrivate_Dirty: {rss} kB\nAnonymous: {anonymous} kB\nSwap: 1 kB\nSwapPss: 7 kB\n\
             VmFlags: rd wr\n"
        )
    }

    #[test]
    fn mappings_have_kinds() {
        let text = [
            map("1000-2000", "r-xp", 7, "/usr/bin/my app", 4, 0),
            map("2000-3000", "rw-p", 7, "/usr/bin/my app", 8, 4),
            map("5000-9000", "rw-p", 0, "[heap]", 16, 16),
            // An arena in use, and what is reserved of it.
            map("7f0000000000-7f0000021000", "rw-p", 0, "", 32, 32),
            map("7f0000021000-7f0004000000", "---p", 0, "", 0, 0),
            // A guard and a stack.
            map("7f1000000000-7f1000001000", "---p", 0, "", 0, 0),
            map("7f1000001000-7f1000801000", "rw-p", 0, "", 64, 64),
            map("7f2000001000-7f2000801000", "rw-p", 0, "", 128, 128),
            map("7f3000000000-7f3000001000", "rw-s", 9, "/dev/shm/x", 256, 0),
            map("7f4000000000-7f4000001000", "rw-s", 9, "/dev/zero (deleted)", 512, 0),
            map("7ffc00000000-7ffc00001000", "rw-p", 0, "[stack]", 1024, 1024),
        ]
        .concat();
        let p = parts(&regions(&text));
        let kb = |n: u64| n * 1024;
        assert_eq!((p.heap, p.arenas, p.anon_maps, p.stacks), (kb(16), kb(32), kb(128), kb(64 + 1024)));
        assert_eq!((p.file_private, p.file_shared, p.shmem), (kb(4), kb(8), kb(256 + 512)));
        assert_eq!((p.swap, p.mappings, p.arena_count, p.stack_count), (kb(11), 11, 1, 2));
        assert_eq!((p.rss(), p.pss, p.uss), (kb(2044), kb(2044), kb(2044)));
    }

    #[test]
    fn status_stat_and_rollup() {
        let s = Status::parse("Name:\tx\nVmRSS:\t  30 kB\nRssAnon:\t 10 kB\nRssFile: 20 kB\nThreads:\t3\n").unwrap();
        assert_eq!((s.rss, s.anon, s.file, s.shmem), (Some(30 << 10), Some(10 << 10), Some(20 << 10), None));
        assert_eq!((s.threads, s.swap), (Some(3), None));
        assert!(Status::parse("Name:\tzombie\nState:\tZ\nThreads:\t1\n").is_none());
        assert!(Status::parse("VmRSS: 99999999999999999999 kB\nVmRSS").is_none());
        let f = Faults::parse("7 (a b) c) S 1 1 1 0 -1 4194560 500 0 2 0 1 1 0 0").unwrap();
        assert_eq!(f, Faults { minor: 500, major: 2 });
        assert!(Faults::parse("7 (a").is_none());
        let r = Rollup::parse(
            "1-2 ---p 0 00:00 0 [rollup]\nRss: 4 kB\nPss: 3 kB\nPrivate_Clean: 1 kB\nPrivate_Dirty: 1 kB\n",
        );
        assert_eq!(r, Some(Rollup { rss: 4096, pss: 3072, uss: 2048, swap: 0 }));
    }

    #[test]
    fn we_have_memory_and_the_parts_are_all_of_it() {
        let me = MemoryFiles::new(Path::new("/"), std::process::id());
        let parts = parts(&me.regions().unwrap());
        let status = me.status().unwrap();
        // Other tests of this process allocate meanwhile; the kernel's counters lag by up to 64 pages a thread.
        let (sum, rss) = (parts.rss() as f64, status.rss.unwrap() as f64);
        assert!((sum / rss - 1.0).abs() < 0.5, "{sum} {rss}");
        assert!(parts.heap > 0 && parts.file_shared > 0 && parts.stack_count >= 1);
        assert!(me.faults().unwrap().minor > 0 && me.fds().unwrap() > 2);
        assert!(MemoryFiles::new(Path::new("/"), u32::MAX).status().is_none());
    }
}
