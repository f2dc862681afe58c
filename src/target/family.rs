//! Who descends from whom: all processes at one moment, as a forest.
//!
//! In: `/proc`. Out: [`ProcessTree`] with its questions (descendants, ancestors, roots of a set). Invariant: every walk
//! ends, even where a pid was reused while `/proc` was read and the parents form a loop. Limit: it is one moment; a
//! process whose parent has ended hangs below init or a subreaper and is no longer of the family.

use std::collections::BTreeMap;
use std::fs;

use super::identity::{Stat, command_line, command_text};

/// A process of the tree.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Member {
    /// Its pid.
    pub pid: u32,
    /// Its parent's pid, 0 for none that can be seen.
    pub parent: u32,
    /// Start time in clock ticks since boot.
    pub start_ticks: u64,
    /// The short name (`comm`).
    pub name: String,
    /// The command line, word by word.
    pub command: Vec<String>,
}

impl Member {
    /// The command line as one line, cut to `limit` characters.
    pub fn command_text(&self, limit: usize) -> String {
        command_text(&self.command, &self.name, limit)
    }
}

/// The children of `pid` at this moment, without looking at any other process (`/proc/PID/task/TID/children`, proc(5)).
/// Empty where the kernel was built without that file: a quick look, not a promise.
pub fn children(pid: u32) -> Vec<u32> {
    let tasks = fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten();
    let lists = tasks.filter_map(|t| fs::read_to_string(t.path().join("children")).ok());
    let mut all: Vec<u32> =
        lists.flat_map(|l| l.split_ascii_whitespace().filter_map(|w| w.parse().ok()).collect::<Vec<_>>()).collect();
    all.sort_unstable();
    all
}

/// All processes at one moment, but for kernel threads and zombies.
#[derive(Debug, Clone, Default)]
pub struct ProcessTree(BTreeMap<u32, Member>);

impl ProcessTree {
    /// As it is now. Processes that end while it is read are left out.
    pub fn now() -> Self {
        let pids = fs::read_dir("/proc").into_iter().flatten().flatten();
        let pids = pids.filter_map(|e| e.file_name().to_str()?.parse::<u32>().ok());
        Self::of(pids.filter_map(|pid| {
            let stat = Stat::of(pid)?;
            let lives = !stat.is_zombie() && !stat.is_kernel_thread();
            lives.then(|| Member {
                pid,
                parent: stat.parent,
                start_ticks: stat.start_ticks,
                name: stat.name,
                command: command_line(pid),
            })
        }))
    }

    /// The tree of these processes.
    pub fn of(members: impl IntoIterator<Item = Member>) -> Self {
        Self(members.into_iter().map(|m| (m.pid, m)).collect())
    }

    /// The process with this pid.
    pub fn get(&self, pid: u32) -> Option<&Member> {
        self.0.get(&pid)
    }

    /// All of them, by pid.
    pub fn iter(&self) -> impl Iterator<Item = &Member> {
        self.0.values()
    }

    /// The parents of `pid` from the nearest to the farthest, without itself.
    pub fn ancestors(&self, pid: u32) -> Vec<u32> {
        let mut all = Vec::new();
        let mut at = pid;
        while let Some(parent) = self.0.get(&at).map(|m| m.parent) {
            if parent == 0 || parent == pid || all.contains(&parent) {
                break;
            }
            all.push(parent);
            at = parent;
        }
        all
    }

    /// The children of `pid`, their children and so on, without itself, in the order of their pids.
    pub fn descendants(&self, pid: u32) -> Vec<&Member> {
        self.0.values().filter(|m| m.pid != pid && self.ancestors(m.pid).contains(&pid)).collect()
    }

    /// Those of `pids` that descend from no other one of them, in the order of their pids.
    pub fn roots(&self, pids: &[u32]) -> Vec<u32> {
        let mut roots: Vec<u32> = pids
            .iter()
            .copied()
            .filter(|&pid| !self.ancestors(pid).iter().any(|a| *a != pid && pids.contains(a)))
            .collect();
        roots.sort_unstable();
        roots.dedup();
        roots
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tree(edges: &[(u32, u32)]) -> ProcessTree {
        ProcessTree::of(edges.iter().map(|&(pid, parent)| Member {
            pid,
            parent,
            start_ticks: 0,
            name: "x".into(),
            command: Vec::new(),
        }))
    }

    #[test]
    fn a_family_has_one_root() {
        let t = tree(&[(1, 0), (10, 1), (11, 10), (12, 10), (13, 12), (20, 1)]);
        assert_eq!(t.ancestors(13), [12, 10, 1]);
        assert_eq!(t.descendants(10).iter().map(|m| m.pid).collect::<Vec<_>>(), [11, 12, 13]);
        assert_eq!(t.roots(&[13, 11, 10]), [10]);
        // The middle one does not match, the family is one all the same.
        assert_eq!(t.roots(&[13, 10, 20, 20]), [10, 20]);
        assert_eq!(t.roots(&[11, 13]), [11, 13]);
    }

    #[test]
    fn a_loop_of_reused_pids_ends() {
        let t = tree(&[(5, 6), (6, 7), (7, 5)]);
        assert_eq!(t.ancestors(5), [6, 7]);
        assert_eq!(t.descendants(5).len(), 2);
        let _ = t.roots(&[5, 6, 7]);
        assert!(tree(&[(5, 5)]).ancestors(5).is_empty());
    }

    #[test]
    fn the_living_include_ourselves_and_our_parents() {
        let t = ProcessTree::now();
        let me = t.get(std::process::id()).unwrap();
        assert!(!me.command.is_empty());
        assert_eq!(t.ancestors(me.pid).first(), Some(&me.parent));
        assert!(children(me.parent).contains(&me.pid));
        assert!(children(999_999_999).is_empty());
    }
}
