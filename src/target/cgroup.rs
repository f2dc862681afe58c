//! The memory of a process's cgroup: what is charged to it, and the limit.
//!
//! In: `/proc/PID/cgroup` and `/proc/self/mountinfo`, files of the cgroup file system (v2, or v1's memory controller) below a root that
//! can be a fake tree. Out: bytes. Invariant: the limit is the lowest one on the way up to the root of what can be seen; no
//! limit is `None`, never a huge number. Limit: in a container with a cgroup namespace of its own, limits of the host's
//! parents cannot be seen.

use std::fs;
use std::path::{Path, PathBuf};

/// v1 writes "no limit" as the largest multiple of a page; anything near it is none.
const NO_LIMIT: u64 = 1 << 60;

/// Where a process's memory is charged.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cgroup {
    /// The directories from its own up to the root of the mount.
    dirs: Vec<PathBuf>,
    unified: bool,
}

/// What a cgroup says of its memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct CgroupMemory {
    /// Charged now, page cache included, bytes.
    pub usage: Option<u64>,
    /// The lowest limit, bytes; `None` without one.
    pub limit: Option<u64>,
    /// Processes that the kernel killed for want of memory.
    pub oom_kills: Option<u64>,
}

impl Cgroup {
    /// The cgroup that `/proc/PID/cgroup` and our own `mountinfo` tell of. `None` when no memory controller is mounted.
    pub fn find(root: &Path, cgroup: &str, mounts: &str) -> Option<Self> {
        let line = |wanted: fn(&str) -> bool| {
            cgroup.lines().find_map(|l| {
                let mut parts = l.splitn(3, ':').skip(1);
                let controllers = parts.next()?;
                wanted(controllers).then(|| parts.next())?
            })
        };
        // A hybrid machine has both; the one that has the memory controller counts.
        let v1 = line(|c| c.split(',').any(|c| c == "memory"));
        let path = v1.or_else(|| line(str::is_empty))?;
        let unified = v1.is_none();
        let (mounted_root, point) = mounts.lines().find_map(|l| mount(l, unified))?;
        let below = path.strip_prefix(mounted_root.trim_end_matches('/')).unwrap_or(path);
        let top = root.join(point.trim_start_matches('/'));
        let mut dirs = vec![top.clone()];
        let mut dir = top;
        for name in below.split('/').filter(|n| !n.is_empty() && *n != "." && *n != "..") {
            dir = dir.join(name);
            dirs.push(dir.clone());
        }
        dirs.reverse();
        Some(Self { dirs, unified })
    }

    /// What it says now.
    pub fn memory(&self) -> CgroupMemory {
        let (usage, limit, events, kills) = if self.unified {
            ("memory.current", "memory.max", "memory.events", "oom_kill")
        } else {
            ("memory.usage_in_bytes", "memory.limit_in_bytes", "memory.oom_control", "oom_kill")
        };
        let number = |dir: &PathBuf, file: &str| fs::read_to_string(dir.join(file)).ok()?.trim().parse::<u64>().ok();
        let limits = self.dirs.iter().filter_map(|d| number(d, limit));
        let own = self.dirs.iter().find(|d| d.join(usage).exists());
        let oom_kills = own.and_then(|d| {
            let text = fs::read_to_string(d.join(events)).ok()?;
            text.lines().find_map(|l| l.strip_prefix(kills)?.strip_prefix(' ')?.trim().parse().ok())
        });
        CgroupMemory {
            usage: own.and_then(|d| number(d, usage)),
            limit: limits.filter(|l| *l < NO_LIMIT).min(),
            oom_kills,
        }
    }
}

/// Root and mount point of a cgroup mount with the memory controller (proc(5): `… root point options - type source super`).
fn mount(line: &str, unified: bool) -> Option<(&str, &str)> {
    let (before, after) = line.split_once(" - ")?;
    let mut after = after.split(' ');
    let (kind, options) = (after.next()?, after.nth(1)?);
    let fits = if unified { kind == "cgroup2" } else { kind == "cgroup" && options.split(',').any(|o| o == "memory") };
    let mut before = before.split(' ').skip(3);
    fits.then(|| Some((before.next()?, before.next()?)))?
}

#[cfg(test)]
mod tests {
    use super::*;

    fn write(root: &Path, file: &str, text: &str) {
        let path = root.join(file);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }

    #[test]
    fn the_lowest_limit_on_the_way_up_counts() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path();
        write(root, "sys/fs/cgroup/a/b/memory.current", "1000\n");
        write(root, "sys/fs/cgroup/a/b/memory.max", "max\n");
        write(root, "sys/fs/cgroup/a/b/memory.events", "low 0\noom 1\noom_kill 2\n");
        write(root, "sys/fs/cgroup/a/memory.max", "5000\n");
        let mounts = "30 24 0:26 / /sys/fs/cgroup rw,nosuid shared:4 - cgroup2 cgroup2 rw,nsdelegate\n";
        let found = Cgroup::find(root, "0::/a/b\n", mounts).unwrap();
        let wanted = CgroupMemory { usage: Some(1000), limit: Some(5000), oom_kills: Some(2) };
        assert_eq!(found.memory(), wanted);
    }

    #[test]
    fn the_first_version_and_a_container_of_its_own_root() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path();
        write(root, "sys/fs/cgroup/memory/memory.usage_in_bytes", "77\n");
        write(root, "sys/fs/cgroup/memory/memory.limit_in_bytes", "9223372036854771712\n");
        let mounts = "31 30 0:27 /docker/x /sys/fs/cgroup/memory ro - cgroup cgroup rw,memory\nnonsense\n - \n";
        let found = Cgroup::find(root, "4:cpu:/q\n3:memory:/docker/x\n0::/\n", mounts).unwrap();
        assert_eq!(found.memory(), CgroupMemory { usage: Some(77), ..CgroupMemory::default() });
        assert!(Cgroup::find(root, "", mounts).is_none() && Cgroup::find(root, "0::/", "").is_none());
    }
}
