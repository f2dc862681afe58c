//! From what the user named (`--pid`, `--name`, `--port`, `--container`) to the processes that are meant.
//!
//! In: a [`Wanted`]. Out: [`Selected`]: identities, whether the family belongs to it, and remarks for the reader. Invariant:
//! perfkit never selects itself, nor a process that it was started by because its own command line is in theirs; what is
//! ambiguous is listed and refused, never guessed. Limit: one moment; what starts a second later is not found.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};

use nix::unistd::{Uid, User};
use regex::Regex;

use super::container;
use super::family::{Member, ProcessTree};
use super::identity::Identity;
use crate::error::{Error, Kind, Result};

/// How many processes a refusal lists.
const LISTED: usize = 10;
/// How much of a command line is shown.
const SHOWN: usize = 90;

/// What the user named.
#[derive(Debug, Clone)]
pub enum Wanted {
    /// Processes by pid, at least one.
    Pids(Vec<u32>),
    /// A process, or a family, whose command line matches.
    Name(Regex),
    /// The process, or the family, that listens on this TCP port.
    Port(u16),
    /// The main process of the container with this id, the beginning of one, or name.
    Container(String),
}

/// The processes that are meant.
#[derive(Debug, Clone)]
pub struct Selected {
    /// At least one.
    pub targets: Vec<Identity>,
    /// The children belong to what was named (workers that match too, or share the listening socket).
    pub family: bool,
    /// What the reader should know about the choice, a line each.
    pub remarks: Vec<String>,
}

/// Finds the processes that are meant.
///
/// # Errors
/// As [`Identity::of`]; `Usage` where nothing matches or unrelated processes do; `Denied` where the owner of a port cannot
/// be seen.
pub fn select(wanted: &Wanted) -> Result<Selected> {
    match wanted {
        Wanted::Pids(pids) => by_pid(pids),
        Wanted::Name(pattern) => by_name(pattern),
        Wanted::Port(port) => by_port(*port),
        Wanted::Container(name) => by_container(name),
    }
}

/// One pid must be a target. Of several, as `$(pgrep -f …)` gives them, those that have ended since are left out, and so
/// are perfkit and its parents (a shell whose command line holds the pattern too); any other trouble is an error.
fn by_pid(pids: &[u32]) -> Result<Selected> {
    let mut wanted = BTreeSet::new();
    let pids: Vec<u32> = pids.iter().copied().filter(|p| wanted.insert(*p)).collect();
    let mut remarks = Vec::new();
    let mut targets = Vec::new();
    let mut last = None;
    let ours = if pids.len() > 1 { ourselves(&ProcessTree::now()) } else { BTreeSet::new() };
    for &pid in &pids {
        if ours.contains(&pid) {
            remarks.push(format!("process {pid} is left out: it is perfkit itself or what started it"));
            continue;
        }
        match Identity::of(pid) {
            Ok(identity) => targets.push(identity),
            Err(e) if e.kind() == Kind::Gone && pids.len() > 1 => {
                remarks.push(format!("{e}; the others are taken"));
                last = Some(e);
            }
            Err(e) => return Err(e),
        }
    }
    if targets.is_empty() {
        return Err(last.unwrap_or_else(|| Error::usage("no process is left but perfkit and what started it")));
    }
    Ok(Selected { targets, family: false, remarks })
}

fn by_name(pattern: &Regex) -> Result<Selected> {
    let tree = ProcessTree::now();
    let ours = ourselves(&tree);
    let matching = matching(&tree, pattern, &ours);
    if matching.is_empty() {
        return Err(Error::new(Kind::Gone, format!("no command line matches '{pattern}'"))
            .advise("the pattern is a regular expression on the whole command line; `ps -ef` shows them"));
    }
    let roots = tree.roots(&matching);
    let [root] = roots[..] else {
        return Err(several(&tree, &format!("'{pattern}' matches"), &roots));
    };
    let target = Identity::of(root)?;
    let mut remarks = Vec::new();
    let family = matching.len() > 1;
    if family {
        let others = matching.len() - 1;
        remarks.push(format!(
            "'{pattern}' matches {target} and {others} of its descendants: the whole family is taken, as with -s"
        ));
    } else {
        remarks.push(format!("'{pattern}' matches {target}: {}", target.command_text(SHOWN)));
    }
    Ok(Selected { targets: vec![target], family, remarks })
}

/// The pids whose command line matches, without `leave_out`.
fn matching(tree: &ProcessTree, pattern: &Regex, leave_out: &BTreeSet<u32>) -> Vec<u32> {
    let hit = |m: &&Member| !m.command.is_empty() && pattern.is_match(&m.command.join(" "));
    tree.iter().filter(|m| !leave_out.contains(&m.pid)).filter(hit).map(|m| m.pid).collect()
}

/// perfkit and its ancestors: `sh -c 'perfkit cpu --name app'` has the pattern in its own command line.
fn ourselves(tree: &ProcessTree) -> BTreeSet<u32> {
    let me = std::process::id();
    let mut all: BTreeSet<u32> = tree.ancestors(me).into_iter().collect();
    all.insert(me);
    all
}

fn by_port(port: u16) -> Result<Selected> {
    let tree = ProcessTree::now();
    let mut found: Vec<(PathBuf, Vec<Listener>)> = Vec::new();
    for (space, member) in network_spaces(&tree) {
        let listeners = listeners(member, port);
        if !listeners.is_empty() {
            found.push((space, listeners));
        }
    }
    // Our own network namespace is what the user sees; others (containers) count only if nothing listens there.
    let own = fs::read_link("/proc/self/ns/net").unwrap_or_default();
    if found.iter().any(|(space, _)| *space == own) {
        found.retain(|(space, _)| *space == own);
    }
    let Some((space, listening)) = found.first() else {
        return Err(Error::new(Kind::Gone, format!("nothing listens on TCP port {port}"))
            .advise("`ss -ltn` shows what listens"));
    };
    let inodes: BTreeSet<u64> = found.iter().flat_map(|(_, l)| l.iter().map(|l| l.inode)).collect();
    let mut owners: Vec<u32> = tree.iter().filter(|m| holds(m.pid, &inodes)).map(|m| m.pid).collect();
    let ours = ourselves(&tree);
    owners.retain(|pid| !ours.contains(pid));
    if owners.is_empty() {
        let user = listening.first().map_or_else(String::new, |l| user_name(l.uid));
        return Err(Error::new(
            Kind::Denied,
            format!("port {port} belongs to a process of {user} that cannot be seen without CAP_SYS_PTRACE"),
        )
        .advise("run perfkit as root (sudo), or find the pid with `sudo ss -ltnp` and give --pid"));
    }
    let roots = tree.roots(&owners);
    let mut remarks = Vec::new();
    if *space != own {
        remarks.push(format!("port {port} is taken in another network namespace (a container)"));
    }
    // Workers that listen each for themselves (SO_REUSEPORT) are one service when they have one parent.
    let parents: BTreeSet<u32> = roots.iter().filter_map(|pid| tree.get(*pid)).map(|m| m.parent).collect();
    let siblings = parents.len() == 1 && !parents.contains(&1) && parents.is_disjoint(&ours);
    if found.len() > 1 || (roots.len() > 1 && !siblings) {
        return Err(several(&tree, &format!("port {port} is listened on by"), &roots));
    }
    let targets = roots.iter().map(|pid| Identity::of(*pid)).collect::<Result<Vec<_>>>()?;
    let family = owners.len() > roots.len();
    let names = targets.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
    let more = owners.len() - roots.len();
    remarks.push(if family {
        format!("{names} listens on port {port}, with {more} of its descendants: the whole family is taken, as with -s")
    } else if targets.len() > 1 {
        format!("{names} listen on port {port} for one parent: all are taken")
    } else {
        format!("{names} listens on port {port}")
    });
    Ok(Selected { targets, family, remarks })
}

/// Programs that only start another one and reap what is left behind.
const INITS: [&str; 7] = ["tini", "tini-static", "docker-init", "dumb-init", "catatonit", "s6-svscan", "podman-init"];

/// The main process is the one that has pid 1 in the container's PID namespace, or, where it shares the host's, the one
/// from which the others descend. Behind an init it is the family.
fn by_container(wanted: &str) -> Result<Selected> {
    let tree = ProcessTree::now();
    let found = container::find(wanted, tree.iter().map(|m| m.pid), Path::new("/"))?;
    let title = found.title();
    let is_first = |pid: &u32| Identity::of(*pid).is_ok_and(|i| i.nspid == 1 && *pid != 1);
    let roots = tree.roots(&found.pids);
    let main = match found.pids.iter().copied().find(is_first) {
        Some(pid) => pid,
        // Further ones were started by hand (`docker exec`), later than the first.
        None => *roots
            .iter()
            .min_by_key(|pid| tree.get(**pid).map(|m| m.start_ticks))
            .ok_or_else(|| Error::new(Kind::Gone, format!("container {title} has ended")))?,
    };
    let target = Identity::of(main)?;
    let family = INITS.contains(&target.name.as_str());
    let mut remarks = vec![if family {
        format!("the main process of container {title} is an init, {target}: its family is taken, as with -s")
    } else {
        format!("the main process of container {title} is {target}: {}", target.command_text(SHOWN))
    }];
    let beside = roots.iter().filter(|pid| **pid != main && !tree.ancestors(**pid).contains(&main)).count();
    if beside > 0 {
        let plural = if beside == 1 { "process of it was" } else { "processes of it were" };
        remarks.push(format!("{beside} {plural} started from outside and are left out"));
    }
    Ok(Selected { targets: vec![target], family, remarks })
}

/// A listening TCP socket.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Listener {
    inode: u64,
    uid: u32,
}

/// A process of each network namespace, by the namespace's link (`net:[4026531840]`).
fn network_spaces(tree: &ProcessTree) -> BTreeMap<PathBuf, u32> {
    let mut spaces = BTreeMap::new();
    let me = std::process::id();
    for pid in std::iter::once(me).chain(tree.iter().map(|m| m.pid)) {
        if let Ok(space) = fs::read_link(format!("/proc/{pid}/ns/net")) {
            spaces.entry(space).or_insert(pid);
        }
    }
    spaces
}

/// The sockets that listen on `port` in the network namespace of `pid`.
fn listeners(pid: u32, port: u16) -> Vec<Listener> {
    let read = |name: &str| fs::read_to_string(format!("/proc/{pid}/net/{name}")).unwrap_or_default();
    ["tcp", "tcp6"].into_iter().flat_map(|name| parse_listeners(&read(name), port)).collect()
}

/// Lines of `/proc/net/tcp{,6}` (Documentation/networking/proc_net_tcp.rst); state 0A is TCP_LISTEN.
fn parse_listeners(text: &str, port: u16) -> Vec<Listener> {
    let line = |line: &str| {
        let mut fields = line.split_ascii_whitespace();
        let (_, local_port) = fields.nth(1)?.rsplit_once(':')?;
        let state = fields.nth(1)?;
        let uid = fields.nth(3)?.parse().ok()?;
        let inode = fields.nth(1)?.parse().ok()?;
        let listens = state == "0A" && u16::from_str_radix(local_port, 16) == Ok(port);
        listens.then_some(Listener { inode, uid })
    };
    text.lines().skip(1).filter_map(line).collect()
}

/// Whether `pid` has one of these sockets open; `false` where we may not look.
fn holds(pid: u32, inodes: &BTreeSet<u64>) -> bool {
    let Ok(fds) = fs::read_dir(format!("/proc/{pid}/fd")) else { return false };
    fds.flatten().filter_map(|fd| socket_inode(&fs::read_link(fd.path()).ok()?)).any(|inode| inodes.contains(&inode))
}

fn socket_inode(link: &Path) -> Option<u64> {
    link.to_str()?.strip_prefix("socket:[")?.strip_suffix(']')?.parse().ok()
}

fn user_name(uid: u32) -> String {
    match User::from_uid(Uid::from_raw(uid)) {
        Ok(Some(user)) => format!("user {}", user.name),
        _ => format!("uid {uid}"),
    }
}

/// The refusal that lists unrelated processes.
fn several(tree: &ProcessTree, what: &str, pids: &[u32]) -> Error {
    let mut text = format!("{what} {} unrelated processes:", pids.len());
    for member in pids.iter().take(LISTED).filter_map(|pid| tree.get(*pid)) {
        let _ = write!(text, "\n  {:>7}  {}", member.pid, member.command_text(SHOWN));
    }
    if pids.len() > LISTED {
        let _ = write!(text, "\n           and {} more", pids.len() - LISTED);
    }
    Error::usage(text).advise("make the pattern narrower, or give one or more of them with --pid")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tree() -> ProcessTree {
        let member = |pid, parent, command: &str| Member {
            pid,
            parent,
            start_ticks: 0,
            name: "x".into(),
            command: command.split_whitespace().map(str::to_owned).collect(),
        };
        ProcessTree::of([
            member(1, 0, "init"),
            member(10, 1, "gunicorn master app:api"),
            member(11, 10, "gunicorn worker app:api"),
            member(12, 10, "gunicorn worker app:api"),
            member(20, 1, "vim app.py"),
            member(30, 1, "sh -c perfkit cpu --name gunicorn"),
            member(31, 30, "perfkit cpu --name gunicorn"),
        ])
    }

    #[test]
    fn a_master_and_its_workers_are_one_family() {
        let (t, ours) = (tree(), BTreeSet::from([30, 31, 1]));
        let hits = matching(&t, &Regex::new("gunicorn").unwrap(), &ours);
        assert_eq!(hits, [10, 11, 12]);
        assert_eq!(t.roots(&hits), [10]);
        let hits = matching(&t, &Regex::new("worker|vim").unwrap(), &ours);
        let e = several(&t, "'worker|vim' matches", &t.roots(&hits));
        let text = e.to_string();
        assert!(text.contains("3 unrelated") && text.contains("11  gunicorn worker") && text.contains("vim"), "{text}");
        assert!(matching(&t, &Regex::new("^$").unwrap(), &ours).is_empty());
    }

    #[test]
    fn listening_sockets_of_both_families() {
        let v4 = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode\n   \
                  0: 0100007F:1F90 00000000:0000 0A 00000000:00000000 00:00000000 00000000  1000        0 4242 1 0 100\n   \
                  1: 0100007F:1F90 0100007F:C000 01 00000000:00000000 00:00000000 00000000  1000        0 4243 1 0 100\n";
        assert_eq!(parse_listeners(v4, 8080), [Listener { inode: 4242, uid: 1000 }]);
        assert!(parse_listeners(v4, 8081).is_empty());
        let v6 = "head\n 0: 00000000000000000000000001000000:1F90 00000000000000000000000000000000:0000 0A 0:0 00:0 0 0 0 7\n";
        assert_eq!(parse_listeners(v6, 8080), [Listener { inode: 7, uid: 0 }]);
        assert!(parse_listeners("x\n 0: zz", 1).is_empty());
        assert_eq!(socket_inode(Path::new("socket:[99]")), Some(99));
        assert_eq!(socket_inode(Path::new("/dev/null")), None);
    }

    #[test]
    fn several_pids_lose_those_that_have_ended() {
        let mut child = std::process::Command::new("cat").stdin(std::process::Stdio::piped()).spawn().unwrap();
        let selected = select(&Wanted::Pids(vec![999_999_999, child.id(), child.id(), std::process::id()])).unwrap();
        assert_eq!(selected.targets.iter().map(|t| t.pid).collect::<Vec<_>>(), [child.id()]);
        assert_eq!(selected.remarks.len(), 2, "{:?}", selected.remarks);
        drop(child.stdin.take());
        child.wait().unwrap();
        assert_eq!(select(&Wanted::Pids(vec![999_999_999, 999_999_998])).unwrap_err().kind(), Kind::Gone);
    }
}
