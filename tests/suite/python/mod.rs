//! CPython seen from outside, compared with what each interpreter says about itself.
//!
//! Truth: the targets under `tests/targets/py/reader_*` park their threads and print where they stand. Tolerance: none;
//! names, files and lines must be equal. An interpreter that is missing is a failure that names it.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod census;
mod layouts;
mod lines;

use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};

use perfkit::error::Kind;
use perfkit::os::memory::LiveMemory;
use perfkit::python::qualnames::Qualnames;
use perfkit::python::values::Limits;
use perfkit::python::{Code, Located, Runtime, Thread, Version, frames, gil, heap::Heap, locals, locate, names};
use perfkit::target::Maps;
use serde_json::Value;

use crate::rig::{PATIENCE, interpreters, pyenv, skip, wait_until};

/// Every interpreter that we promise to read and this machine has.
fn supported() -> Vec<PathBuf> {
    interpreters().iter().map(|p| p.path.clone()).collect()
}

fn script(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/targets/py").join(name)
}

/// A target that printed its line; killed when dropped.
struct Parked {
    child: Child,
    _stdin: ChildStdin,
    truth: Value,
}

impl Parked {
    fn start(python: &Path, name: &str) -> Self {
        let mut command = Command::new(python);
        command.arg(script(name));
        Self::command(command)
    }

    fn command(mut command: Command) -> Self {
        command.stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.spawn().unwrap_or_else(|e| panic!("{command:?} does not start: {e}"));
        let stdin = child.stdin.take().unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let truth = serde_json::from_str(&line).unwrap_or_else(|e| panic!("{command:?} printed {line:?}: {e}"));
        Self { child, _stdin: stdin, truth }
    }

    fn pid(&self) -> u32 {
        self.child.id()
    }

    fn memory(&self) -> LiveMemory {
        LiveMemory::new(self.pid())
    }

    fn locate(&self) -> Located {
        locate(self.pid(), &Maps::of(self.pid()).unwrap(), &self.memory())
    }

    fn runtime(&self) -> Runtime {
        match self.locate() {
            Located::Found(runtime) => *runtime,
            other => panic!("expected a CPython in {:?}, got {other:?}", self.truth["executable"]),
        }
    }
}

impl Drop for Parked {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The stack as the targets print it: name, file, line; innermost first.
fn stack(memory: LiveMemory, runtime: &Runtime, thread: &Thread) -> Vec<Value> {
    let heap = Heap::new(&memory, &runtime.layout);
    let of = |frame: &frames::Frame| {
        let code = Code::read(heap, frame.code, runtime.code_type).unwrap();
        serde_json::json!([code.qualname, code.file, code.line(&runtime.layout, frame.instr)])
    };
    thread.frames.iter().map(of).collect()
}

#[test]
fn stacks_equal_what_the_interpreter_says() {
    for python in supported() {
        compare_stacks(&Parked::start(&python, "reader_stacks.py"));
    }
}

fn compare_stacks(target: &Parked) {
    let (runtime, memory) = (target.runtime(), target.memory());
    let truth = &target.truth;
    let version = truth["version"].as_str().unwrap();
    assert_eq!(runtime.text, version);
    assert!(runtime.started && runtime.code_type.is_some() && !runtime.eval.is_empty(), "{runtime:?}");
    let threads = frames::walk(&memory, &runtime, 10_000).unwrap().threads;
    let names = names::of_threads(&memory, &runtime, threads[0].interpreter_at).unwrap();
    let expected = truth["threads"].as_array().unwrap();
    assert_eq!(threads.len(), expected.len(), "{version}");
    for wanted in expected {
        let name = &wanted["name"];
        let ident = wanted["ident"].as_u64().unwrap();
        let thread = threads.iter().find(|t| t.thread_id == ident).unwrap_or_else(|| panic!("{version}: {name}"));
        assert_eq!((thread.cut, thread.moved, thread.interpreter), (None, false, 0), "{version} {name}");
        assert_eq!(thread.native_id.map(u64::from), wanted["native"].as_u64(), "{version} {name}");
        let called = names.iter().find(|(id, _)| *id == ident).map(|(_, name)| name.as_str());
        assert_eq!(called, name.as_str(), "{version}");
        let found = stack(memory, &runtime, thread);
        assert_eq!(&Value::Array(found), &wanted["stack"], "{version} {name}");
    }
    assert_eq!(gil::of(&memory, &runtime, threads[0].interpreter_at).unwrap().holder, None, "{version}");
}

#[test]
fn entry_frames_lie_on_the_c_stack_of_their_thread() {
    for python in supported() {
        check_entries(&Parked::start(&python, "reader_stacks.py"));
    }
}

/// The C stack of a thread is `[stack]` or the mapping that holds its descriptor.
fn check_entries(target: &Parked) {
    let (runtime, memory) = (target.runtime(), target.memory());
    let maps = Maps::of(target.pid()).unwrap();
    for thread in frames::walk(&memory, &runtime, 10_000).unwrap().threads {
        let entries: Vec<_> = thread.frames.iter().filter(|f| f.entry).collect();
        assert!(!entries.is_empty() && thread.frames.last().unwrap().entry, "{}", runtime.text);
        if runtime.version < Version::new(3, 10) {
            assert!(thread.frames.iter().all(|f| f.entry && f.c_stack.is_none()));
            continue;
        }
        // The stack grows down: the innermost entry has the lowest address.
        let addresses: Vec<u64> = entries.iter().map(|f| f.c_stack.unwrap()).collect();
        assert!(addresses.is_sorted(), "{}: {addresses:x?}", runtime.text);
        let place = |address: u64| maps.at(address).map(|m| (m.path.clone(), m.start));
        for address in addresses {
            let found = place(address).unwrap();
            assert!(found.0 == "[stack]" || Some(&found) == place(thread.thread_id).as_ref(), "{address:x} {found:?}");
        }
    }
}

#[test]
fn the_holder_of_the_gil_is_the_thread_that_computes() {
    for python in supported() {
        find_holder(&Parked::start(&python, "reader_spin.py"));
    }
}

fn find_holder(target: &Parked) {
    let (runtime, memory) = (target.runtime(), target.memory());
    // The main thread holds the GIL until it blocks in its read; the spinner takes it then.
    let mut last = None;
    for _ in 0..1_000_000 {
        let threads = frames::walk(&memory, &runtime, 100).unwrap().threads;
        let gil = gil::of(&memory, &runtime, threads[0].interpreter_at).unwrap();
        let holder = threads.iter().find(|t| Some(t.state) == gil.holder);
        if holder.map(|t| t.thread_id) == target.truth["spinner"].as_u64() {
            assert!(gil.locked && gil.switches > 0);
            return;
        }
        last = Some((gil, threads));
    }
    panic!("{}: {last:x?}", runtime.text);
}

#[test]
fn qualified_names_where_code_objects_know_them_and_where_not() {
    for python in supported() {
        let target = Parked::start(&python, "reader_qualnames.py");
        let (runtime, memory) = (target.runtime(), target.memory());
        let heap = Heap::new(&memory, &runtime.layout);
        let mut names = Qualnames::default();
        let mut name_of = |frame: &frames::Frame| {
            let code = Code::read(heap, frame.code, runtime.code_type).unwrap();
            names.of(&memory, &runtime, &code).unwrap_or(code.qualname)
        };
        let threads = frames::walk(&memory, &runtime, 1000).unwrap().threads;
        let found: Vec<_> = threads[0].frames.iter().map(&mut name_of).collect();
        assert_eq!(serde_json::json!(found), target.truth["names"], "{}", runtime.text);
    }
}

#[test]
fn a_forked_worker_has_its_own_thread_id() {
    for python in supported() {
        let parent = Parked::start(&python, "reader_fork.py");
        let truth = &parent.truth;
        let pid = u32::try_from(truth["pid"].as_u64().unwrap()).unwrap();
        let memory = LiveMemory::new(pid);
        let Located::Found(runtime) = locate(pid, &Maps::of(pid).unwrap(), &memory) else { panic!("{truth}") };
        let threads = frames::walk(&memory, &runtime, 100).unwrap().threads;
        let ids: Vec<_> = threads.iter().map(|t| (t.thread_id, t.native_id.map(u64::from))).collect();
        assert_eq!(ids, [(truth["ident"].as_u64().unwrap(), truth["native"].as_u64())], "{}", runtime.text);
    }
}

#[test]
fn sub_interpreters_are_walked_too() {
    for python in supported() {
        let target = Parked::start(&python, "reader_interpreters.py");
        let (runtime, memory) = (target.runtime(), target.memory());
        let heap = Heap::new(&memory, &runtime.layout);
        let threads = frames::walk(&memory, &runtime, 100).unwrap().threads;
        let named = |interpreter: &dyn Fn(i64) -> bool| -> Vec<_> {
            let thread = threads.iter().find(|t| interpreter(t.interpreter)).unwrap();
            thread.frames.iter().map(|f| Code::read(heap, f.code, None).unwrap().name).collect()
        };
        assert_eq!(named(&|id| id == 0), ["outer", "<module>"], "{}", runtime.text);
        assert_eq!(named(&|id| id != 0), ["park", "inner", "<module>"], "{}", runtime.text);
        let sub = threads.iter().find(|t| t.interpreter != 0).unwrap();
        let park = Code::read(heap, sub.frames[0].code, None).unwrap();
        assert_eq!(park.line(&runtime.layout, sub.frames[0].instr).map(u64::from), target.truth["line"].as_u64());
        assert_eq!(gil::of(&memory, &runtime, sub.interpreter_at).unwrap().holder, None, "{}", runtime.text);
        // One thread, two thread states.
        assert!(threads.iter().all(|t| t.thread_id == sub.thread_id && t.native_id == sub.native_id));
    }
}

/// The interpreters that `scripts/newer_pythons` prepared: run by `cargo test -- --ignored`.
#[test]
#[ignore = "needs the interpreters of scripts/newer_pythons, and root for chroot"]
fn newer_versions_by_their_debug_offsets() {
    let root = PathBuf::from(std::env::var_os("PERFKIT_NEWER_PYTHONS").expect("PERFKIT_NEWER_PYTHONS is not set"));
    for minor in [13, 14, 15] {
        let run = |name: &str| {
            std::fs::create_dir_all(root.join("tmp")).unwrap();
            std::fs::copy(script(name), root.join("tmp").join(name)).unwrap();
            let mut command = Command::new("chroot");
            command.arg(&root).arg(format!("/usr/bin/python3.{minor}")).arg(format!("/tmp/{name}"));
            command
        };
        let target = Parked::command(run("reader_stacks.py"));
        compare_stacks(&target);
        check_entries(&target);
        find_holder(&Parked::command(run("reader_spin.py")));
        compare_locals(&Parked::command(run("reader_locals.py")));
        let mut lines_of_half = run("reader_lines.py");
        lines_of_half.arg("2");
        lines::compare(lines_of_half, minor, 2);
    }
}

#[test]
fn locals_as_the_interpreter_would_show_them() {
    for python in supported() {
        compare_locals(&Parked::start(&python, "reader_locals.py"));
    }
}

fn compare_locals(target: &Parked) {
    // It says that it is ready from a function of its own, and then reads its standard input: read(0, …).
    let place = format!("/proc/{}/syscall", target.pid());
    let reads = || std::fs::read_to_string(&place).is_ok_and(|s| s.starts_with("0 0x0 "));
    wait_until("a target that waits", PATIENCE, reads);
    let (runtime, memory) = (target.runtime(), target.memory());
    let heap = Heap::new(&memory, &runtime.layout);
    let threads = frames::walk(&memory, &runtime, 100).unwrap().threads;
    let frame = &threads[0].frames[0];
    assert_eq!(Code::read(heap, frame.code, runtime.code_type).unwrap().name, "work");
    let found = locals::read(heap, frame, Limits::default()).unwrap();
    let shown = target.truth["shown"].as_object().unwrap();
    for (name, wanted) in shown {
        let local = found.iter().find(|l| l.name == *name).unwrap_or_else(|| panic!("{}: no {name}", runtime.text));
        assert_eq!(Some(local.value.as_str()), wanted.as_str(), "{} {name}", runtime.text);
    }
    assert!(found.iter().all(|l| l.name != "gone" && !l.value.contains("hunter2") && !l.value.contains("unreadable")));
    let arguments: Vec<_> = found.iter().filter(|l| l.argument).map(|l| l.name.as_str()).collect();
    assert_eq!(serde_json::json!(arguments), target.truth["arguments"], "{}", runtime.text);
}

#[test]
fn older_versions_are_refused_by_name() {
    for version in ["2.7", "3.6", "3.7"] {
        let Some(python) = pyenv(version) else {
            let _ = skip(&format!("CPython {version}"));
            continue;
        };
        let target = Parked::start(&python, "reader_park.py");
        let Located::Refused(refusal) = target.locate() else { panic!("{version}: {:?}", target.locate()) };
        assert_eq!(refusal.kind(), Kind::Unsupported, "{refusal:?}");
        let full = target.truth["version"].as_str().unwrap();
        assert!(refusal.to_string().starts_with(&format!("CPython {full} in ")), "{refusal:?}");
        assert!(refusal.advice().unwrap().contains("3.8 to"), "{refusal:?}");
    }
}

#[test]
fn a_process_without_python_is_not_python() {
    let child = Command::new("cat").stdin(Stdio::piped()).stdout(Stdio::null()).spawn().unwrap();
    let mut child = scopeguard(child);
    let pid = child.0.id();
    assert!(matches!(locate(pid, &Maps::of(pid).unwrap(), &LiveMemory::new(pid)), Located::NotPython));
    child.0.stdin.take();
}

/// Kills the child when dropped.
struct Guard(Child);

fn scopeguard(child: Child) -> Guard {
    Guard(child)
}

impl Drop for Guard {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
