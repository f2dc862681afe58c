//! Disks that are full, before the run and in the middle of it.

use std::fs;
use std::path::Path;
use std::process::Command;

use perfkit::record::Recording;

use super::expect_message;
use crate::profiled::samples_of;
use crate::rig::{RUN_LIMIT, Target, is_root, perfkit, python, run, run_command, skip};

/// A small file system that is unmounted when dropped.
struct SmallDisk(tempfile::TempDir);

impl SmallDisk {
    fn new(options: &str) -> Self {
        let home = tempfile::tempdir().unwrap();
        let none = None::<&str>;
        nix::mount::mount(none, home.path(), Some("tmpfs"), nix::mount::MsFlags::empty(), Some(options)).unwrap();
        Self(home)
    }

    fn path(&self, name: &str) -> String {
        self.0.path().join(name).to_str().unwrap().to_owned()
    }

    fn names(&self) -> Vec<String> {
        let entries = fs::read_dir(self.0.path()).unwrap();
        let mut names: Vec<_> = entries.map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = nix::mount::umount2(self.0.path(), nix::mount::MntFlags::MNT_DETACH);
    }
}

/// What was written until the disk was full can be read, with names; the rest is counted; the other disk has everything.
fn expect_cut_recording(path: &str, why: &str) {
    let recording = Recording::open(Path::new(path)).unwrap();
    let samples = samples_of(&recording);
    let named = samples.iter().filter(|s| s.has("main")).count();
    assert!(named * 10 > samples.len() * 9, "{named} of {} samples have their names", samples.len());
    assert!(!samples.is_empty());
    assert!(recording.losses.iter().any(|l| l.4 == why && l.3 > 0), "{:?}", recording.losses);
    run(["report", path]).expect(0);
}

#[test]
fn live_a_disk_that_fills_costs_what_did_not_fit_and_no_more() {
    if !is_root() {
        let _ = skip("root to mount a small disk");
        return;
    }
    let (small, large) = (SmallDisk::new("size=2m"), tempfile::tempdir().unwrap());
    let (recording, old) = (small.path("run.perfkit"), small.path("old.svg"));
    fs::write(&old, "an older picture").unwrap();
    let picture = large.path().join("x.svg");
    // Deep stacks and many of them: more than this in some seconds, and less than that in the first.
    let mut target = Target::python(python("3.11"), "truth/shares.py").start();
    let pid = target.pid().to_string();
    let outputs = ["-o", &recording, "-o", picture.to_str().unwrap(), "-o", &old];
    // Until the disk is full; the duration is there for a machine that has no CPU to spare.
    let args = ["cpu", "--pid", &pid, "-d", "100", "-r", "9999"];
    let output = run(args.iter().chain(&outputs)).expect(4);
    expect_message(&output, &["the recording ends here: the disk is full"]);
    expect_cut_recording(&recording, "the disk was full");
    assert!(fs::read_to_string(&picture).unwrap().trim_end().ends_with("</svg>"));
    assert_eq!(fs::read_to_string(&old).unwrap(), "an older picture");
    expect_message(&output, &[&format!("cannot write {old}: no space left")]);
    assert!(small.names().iter().all(|n| Path::new(n).extension().is_none_or(|e| e != "tmp")), "{:?}", small.names());
    assert!(target.is_untouched());
    target.report();
    target.finish();
}

#[test]
fn live_a_limit_of_file_sizes_is_as_a_full_disk() {
    let home = tempfile::tempdir().unwrap();
    let mut target = Target::python(python("3.11"), "truth/shares.py").start();
    let (recording, picture) = (home.path().join("run.perfkit"), home.path().join("x.pb.gz"));
    let mut command = Command::new("sh");
    // In blocks of 512 or 1024 bytes, as the shell has it.
    let line = "ulimit -f 1000 && exec \"$0\" cpu --pid \"$1\" -d 100 -r 999 -o \"$2\" -o \"$3\"";
    command.args(["-c", line]).arg(perfkit()).arg(target.pid().to_string()).arg(&recording).arg(&picture);
    let output = run_command(command, RUN_LIMIT).expect(4);
    expect_message(&output, &["the recording ends here"]);
    expect_cut_recording(recording.to_str().unwrap(), "could not be written");
    assert!(fs::metadata(&picture).unwrap().len() > 0);
    target.report();
}

#[test]
fn live_a_disk_that_is_full_already_is_refused_before_attaching() {
    if !is_root() {
        let _ = skip("root to mount a small disk");
        return;
    }
    let small = SmallDisk::new("size=64k");
    let target = Target::native("truth/nofp.c").start();
    let pid = target.pid().to_string();
    for name in ["run.perfkit", "x.svg"] {
        let output = run(["cpu", "--pid", &pid, "-d", "100", "-o", &small.path(name)]).expect(2);
        expect_message(&output, &[&format!("cannot write {}: no space left", small.path(name))]);
    }
    assert!(small.names().is_empty(), "{:?}", small.names());
}
