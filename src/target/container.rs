//! From a container's id or name to its main process.
//!
//! In: what the user typed, `/proc/PID/cgroup` of every process, and for names the state files that Docker, Podman,
//! containerd and CRI-O keep on the host. Out: [`Container`] with its processes, and which of them is the main one. No
//! runtime is asked: its socket needs rights of its own and its answer is in these files. Invariant: what is ambiguous is
//! listed and refused. Limits: from inside a container with a cgroup namespace of its own other containers cannot be
//! seen; names need the right to read the runtime's files.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::error::{Error, Kind, Result};

/// Digits of a container's id.
const ID_DIGITS: usize = 64;
/// The fewest digits that are taken for the beginning of an id.
const SHORTEST: usize = 3;
/// Digits that runtimes show.
const SHORT: usize = 12;
/// How many containers a refusal lists.
const LISTED: usize = 10;
/// A state file larger than this is none.
const STATE_LIMIT: u64 = 8 << 20;

/// A container that runs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Container {
    /// Its id; LXC and systemd-nspawn know it by its name.
    pub(super) id: String,
    /// The name that was asked for, where that is how it was found.
    pub(super) name: Option<String>,
    /// Its processes in the order of their pids, at least one.
    pub(super) pids: Vec<u32>,
}

impl Container {
    /// `web (0123456789ab)`, or the short id alone.
    pub(super) fn title(&self) -> String {
        self.name.as_ref().map_or_else(|| short(&self.id).to_owned(), |n| format!("{n} ({})", short(&self.id)))
    }
}

/// Finds the container called `wanted` among `pids`. `root` is where the runtimes' files are: `/`, but for tests.
///
/// # Errors
/// `Gone` when no container that runs has this id or name, `Usage` when several have.
pub(super) fn find(wanted: &str, pids: impl Iterator<Item = u32>, root: &Path) -> Result<Container> {
    let cgroup = |pid: u32| fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap_or_default();
    pick(wanted, running(pids.map(|pid| (pid, cgroup(pid)))), root)
}

/// The processes of each container, by its id.
type Running = BTreeMap<String, Vec<u32>>;

fn running(cgroups: impl Iterator<Item = (u32, String)>) -> Running {
    let mut all = Running::new();
    for (pid, text) in cgroups {
        if let Some(id) = container_of(&text) {
            all.entry(id).or_default().push(pid);
        }
    }
    all
}

fn pick(wanted: &str, running: Running, root: &Path) -> Result<Container> {
    let by_id = |c: &&String| c.as_str() == wanted || (is_id(wanted, SHORTEST) && is_full(c) && c.starts_with(wanted));
    let mut ids: Vec<String> = running.keys().filter(by_id).cloned().collect();
    let mut name = None;
    if ids.is_empty() {
        // The name of a container that ran before may have been given again: those that run come first.
        let (live, dead): (Vec<_>, Vec<_>) = named(wanted, root).into_iter().partition(|id| running.contains_key(id));
        if let (true, Some(id)) = (live.is_empty(), dead.first()) {
            let text = format!("container {wanted} ({}) does not run", short(id));
            return Err(Error::new(Kind::Gone, text).advise("start it, or name another one"));
        }
        name = Some(wanted.to_owned());
        ids = live;
    }
    let [id] = &ids[..] else { return Err(refusal(wanted, &ids, &running, root)) };
    let mut pids = running.get(id).cloned().unwrap_or_default();
    pids.sort_unstable();
    Ok(Container { id: id.clone(), name, pids })
}

fn refusal(wanted: &str, ids: &[String], running: &Running, root: &Path) -> Error {
    let list = |ids: &mut dyn Iterator<Item = &String>| {
        let mut lines: Vec<String> = ids.map(|id| format!("\n  {}", short(id))).collect();
        if lines.len() > LISTED {
            let more = lines.len() - LISTED;
            lines.truncate(LISTED);
            lines.push(format!("\n  and {more} more"));
        }
        lines.concat()
    };
    if !ids.is_empty() {
        let text = format!("'{wanted}' is {} containers:{}", ids.len(), list(&mut ids.iter()));
        return Error::usage(text).advise("give more digits of the id");
    }
    let what = format!("no container with the id or name '{wanted}' runs here");
    if running.is_empty() {
        return Error::new(Kind::Gone, format!("{what}: no process is in a container"))
            .advise("run perfkit on the container's host; inside a container, --pid 1 is its main process");
    }
    let unread = STATES.iter().any(|s| {
        let denied = |e: std::io::Error| e.kind() == std::io::ErrorKind::PermissionDenied;
        fs::read_dir(root.join(s.folder)).err().is_some_and(denied)
    });
    let text = format!("{what}; these do:{}", list(&mut running.keys()));
    Error::new(Kind::Gone, text).advise(if unread {
        "names stand in files of the container's runtime that only root may read: use sudo, or give the id"
    } else {
        "`docker ps`, `podman ps`, `nerdctl ps` or `crictl ps` shows ids and names"
    })
}

/// The container that a process is in, from its `/proc/PID/cgroup`: the innermost one that a path names.
///
/// Runtimes name the cgroup `ID`, `docker-ID.scope`, `libpod-ID.scope`, `cri-containerd-ID.scope`, `crio-ID.scope`;
/// LXC `lxc.payload.NAME` or `lxc/NAME`; systemd-nspawn `machine-NAME.scope`.
fn container_of(cgroup: &str) -> Option<String> {
    let mut paths = cgroup.lines().filter_map(|line| line.splitn(3, ':').nth(2));
    paths.find_map(container_in)
}

fn container_in(path: &str) -> Option<String> {
    let parts: Vec<&str> = path.split('/').collect();
    for (i, part) in parts.iter().enumerate().rev() {
        let part = part.strip_suffix(".scope").unwrap_or(part);
        // The monitor beside a Podman container has a cgroup of the same id.
        if part.contains("conmon") {
            return None;
        }
        let tail = part.rsplit(['-', ':']).next().unwrap_or(part);
        if is_full(tail) {
            return Some(tail.to_owned());
        }
        let name = part.strip_prefix("lxc.payload.").or_else(|| {
            let above = i.checked_sub(1).and_then(|i| parts.get(i)).copied();
            if above == Some("lxc") { Some(part) } else { part.strip_prefix("machine-") }
        });
        if let Some(name) = name.filter(|n| !n.is_empty()) {
            return Some(name.replace("\\x2d", "-"));
        }
    }
    None
}

fn is_id(text: &str, least: usize) -> bool {
    (least..=ID_DIGITS).contains(&text.len()) && text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))
}

fn is_full(text: &str) -> bool {
    is_id(text, ID_DIGITS)
}

fn short(id: &str) -> &str {
    if is_full(id) { id.get(..SHORT).unwrap_or(id) } else { id }
}

/// Where a runtime keeps a folder a container, and which file of it says the name.
struct State {
    folder: &'static str,
    file: &'static str,
    /// A folder of folders: one a namespace (containerd).
    nested: bool,
}

const STATES: [State; 3] = [
    State { folder: "var/lib/docker/containers", file: "config.v2.json", nested: false },
    State { folder: "run/containerd/io.containerd.runtime.v2.task", file: "config.json", nested: true },
    State { folder: "run/containers/storage/overlay-containers", file: "userdata/config.json", nested: false },
];

/// Annotations of an OCI `config.json` that hold a name people use.
const ANNOTATIONS: [&str; 4] =
    ["io.kubernetes.cri.container-name", "io.kubernetes.container.name", "nerdctl/name", "io.kubernetes.cri-o.Name"];

/// The ids of all containers with this name, those that have ended too.
fn named(name: &str, root: &Path) -> Vec<String> {
    let mut ids = Vec::new();
    for state in &STATES {
        let folder = root.join(state.folder);
        let folders = if state.nested { inside(&folder) } else { vec![folder] };
        for one in folders.iter().flat_map(|f| inside(f)) {
            let id = one.file_name().unwrap_or_default().to_string_lossy().into_owned();
            if json(&one.join(state.file)).is_some_and(|v| names_of(&v).any(|n| n == name)) {
                ids.push(id);
            }
        }
    }
    // Podman's list, root's and that of each user.
    let homes = inside(&root.join("home")).into_iter().chain([root.join("root")]);
    let lists =
        homes.map(|h| h.join(".local/share/containers/storage")).chain([root.join("var/lib/containers/storage")]);
    for list in lists {
        for one in json(&list.join("overlay-containers/containers.json")).iter().filter_map(Value::as_array).flatten() {
            let mut names = one["names"].as_array().into_iter().flatten().filter_map(Value::as_str);
            if let Some(id) = one["id"].as_str().filter(|_| names.any(|n| n == name)) {
                ids.push(id.to_owned());
            }
        }
    }
    ids.sort_unstable();
    ids.dedup();
    ids
}

/// The names that a state file has for its container.
fn names_of(state: &Value) -> impl Iterator<Item = &str> {
    // Docker's begins with a slash.
    let docker = state["Name"].as_str().map(|n| n.trim_start_matches('/'));
    let annotated = ANNOTATIONS.iter().filter_map(|key| state["annotations"][*key].as_str());
    docker.into_iter().chain(annotated)
}

fn json(path: &Path) -> Option<Value> {
    let size = fs::metadata(path).ok()?.len();
    if size > STATE_LIMIT {
        return None;
    }
    serde_json::from_slice(&fs::read(path).ok()?).ok()
}

fn inside(folder: &Path) -> Vec<PathBuf> {
    fs::read_dir(folder).into_iter().flatten().flatten().map(|e| e.path()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(digit: char) -> String {
        std::iter::repeat_n(digit, ID_DIGITS).collect()
    }

    #[test]
    fn every_runtime_names_its_cgroups() {
        let a = id('a');
        for path in [
            format!("0::/system.slice/docker-{a}.scope"),
            format!("12:cpu:/docker/{a}"),
            format!("1:name=systemd:/\n0::/machine.slice/libpod-{a}.scope/container"),
            format!("0::/kubepods.slice/kubepods-pod1_2.slice/cri-containerd-{a}.scope"),
            format!("0::/kubepods/besteffort/pod7/{a}"),
            format!("0::/system.slice/containerd.service/kubepods-x.slice:cri-containerd:{a}"),
            format!("0::/../crio-{a}.scope"),
        ] {
            assert_eq!(container_of(&path), Some(a.clone()), "{path}");
        }
        assert_eq!(container_of("0::/lxc.payload.web/init.scope").as_deref(), Some("web"));
        assert_eq!(container_of("5:pids:/lxc/web").as_deref(), Some("web"));
        assert_eq!(container_of("0::/machine.slice/machine-my\\x2dbox.scope/payload").as_deref(), Some("my-box"));
        for path in ["", "0::/", "0::/user.slice/user-0.slice/session-1.scope", &format!("0::/libpod-conmon-{a}.scope")]
        {
            assert_eq!(container_of(path), None, "{path}");
        }
    }

    #[test]
    fn ids_may_be_short_and_must_be_one() {
        let (a, b) = (id('a'), format!("aab{}", "0".repeat(61)));
        let all = || Running::from([(a.clone(), vec![9, 7]), (b.clone(), vec![8])]);
        let nowhere = Path::new("/nonexistent");
        assert_eq!(pick("aaaa", all(), nowhere).unwrap().pids, [7, 9]);
        assert_eq!(pick(&b, all(), nowhere).unwrap().title(), "aab000000000");
        let e = pick("aa", all(), nowhere).unwrap_err();
        assert_eq!(e.kind(), Kind::Gone, "two digits are a name");
        let several = Running::from([(a.clone(), vec![1]), (format!("aaa{}", "0".repeat(61)), vec![2])]);
        assert!(pick("aaa", several, nowhere).unwrap_err().to_string().contains("is 2 containers"));
        let e = pick("web", all(), nowhere).unwrap_err().to_string();
        assert!(e.contains("aaaaaaaaaaaa") && e.contains("aab000000000"), "{e}");
        assert!(pick("web", Running::new(), nowhere).unwrap_err().to_string().contains("no process is in a container"));
    }

    #[test]
    fn names_come_from_the_state_of_each_runtime() {
        let root = tempfile::tempdir().unwrap();
        let write = |path: String, text: &str| {
            let path = root.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        };
        let ids: Vec<String> = "abcdef".chars().map(id).collect();
        let docker = |i: usize| format!("var/lib/docker/containers/{}/config.v2.json", ids[i]);
        write(docker(0), r#"{"Name":"/web"}"#);
        write(docker(1), r#"{"Name":"/old"}"#);
        write(docker(2), "{broken");
        let task = format!("run/containerd/io.containerd.runtime.v2.task/k8s.io/{}/config.json", ids[3]);
        write(task, r#"{"annotations":{"io.kubernetes.cri.container-name":"api"}}"#);
        let list = "home/me/.local/share/containers/storage/overlay-containers/containers.json";
        write(list.into(), &format!(r#"[{{"id":"{}","names":["db"]}},{{"id":"x"}}]"#, ids[4]));
        let running = || Running::from_iter([0, 3, 4].map(|i| (ids[i].clone(), vec![10 + i as u32])));
        for (name, i) in [("web", 0), ("api", 3), ("db", 4)] {
            let found = pick(name, running(), root.path()).unwrap();
            assert_eq!((found.id.as_str(), &found.pids[..]), (ids[i].as_str(), &[10 + i as u32][..]), "{name}");
            assert!(found.title().starts_with(name));
        }
        let e = pick("old", running(), root.path()).unwrap_err();
        assert!(e.to_string().contains("old (bbbbbbbbbbbb) does not run"), "{e}");
        assert_eq!(pick("none", running(), root.path()).unwrap_err().kind(), Kind::Gone);
    }
}
