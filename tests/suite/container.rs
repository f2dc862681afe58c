//! `--container`: a cgroup named as Docker names it, with a PID namespace in it, both made by the test.

use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

use crate::rig::{PATIENCE, is_root, run, skip, wait_until};

/// A container in all that matters here: a cgroup with an id, and in it a PID namespace with a first process.
struct Container {
    cgroup: PathBuf,
    id: String,
    unshare: Child,
}

impl Container {
    fn start() -> Option<Self> {
        let id =
            format!("{:064x}", 0xface_0000_0000_0000_u64 + u64::from(std::process::id())).replace("000000", "c0ffee");
        let roots = ["/sys/fs/cgroup/unified", "/sys/fs/cgroup", "/sys/fs/cgroup/pids"];
        let cgroup = roots.iter().map(|r| PathBuf::from(r).join(format!("docker-{id}.scope")));
        let cgroup = cgroup.into_iter().find(|c| std::fs::create_dir(c).is_ok() && c.join("cgroup.procs").exists())?;
        let enter =
            format!("echo $$ > {}/cgroup.procs && exec unshare --pid --fork --kill-child cat", cgroup.display());
        let unshare = Command::new("sh").args(["-c", &enter]).stdin(Stdio::piped()).stdout(Stdio::null()).spawn();
        Some(Self { cgroup, id, unshare: unshare.unwrap() })
    }

    /// The process with pid 1 in there.
    fn first(&self) -> Option<u32> {
        let children = format!("/proc/{0}/task/{0}/children", self.unshare.id());
        std::fs::read_to_string(children).ok()?.trim().parse().ok()
    }
}

impl Drop for Container {
    fn drop(&mut self) {
        drop(self.unshare.stdin.take());
        self.unshare.wait().ok();
        let gone = || std::fs::remove_dir(&self.cgroup).is_ok();
        wait_until("an empty cgroup", PATIENCE, gone);
    }
}

#[test]
fn live_a_container_is_found_by_its_id() {
    if !is_root() {
        let _ = skip("root for unshare");
        return;
    }
    let Some(container) = Container::start() else {
        let _ = skip("a writable cgroup tree");
        return;
    };
    let named = |pid: u32| std::fs::read_to_string(format!("/proc/{pid}/comm")).is_ok_and(|c| c.trim() == "cat");
    wait_until("its first process", PATIENCE, || container.first().is_some_and(named));
    let first = container.first().unwrap();
    for id in [&container.id[..], &container.id[..12]] {
        let out = run(["dump", "--json", "--container", id]).expect(0);
        assert_eq!(out.json()["processes"][0]["pid"], first, "not the shell that entered: {out:?}");
        assert!(out.stderr.contains("the main process of container"), "{out:?}");
    }
    let out = run(["dump", "--container", "no-such-thing"]).expect(3);
    assert!(out.stderr.contains("no-such-thing") && out.stderr.contains(&container.id[..12]), "{out:?}");
    let out = run(["cpu", "--container", &container.id[..12], "--pid", "1"]).expect(2);
    assert!(out.stderr.contains("cannot be used with"), "{out:?}");
}
