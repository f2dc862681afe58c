//! Addresses to names: programs in C, C++ and Rust say where their functions are, built and stripped in every way that is
//! met in the field, and perfkit must say the same.

mod hostile;

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use perfkit::os::memory::{FakeMemory, LiveMemory};
use perfkit::record::{Frame, FrameId, FrameKind};
use perfkit::symbol::{Inlined, Inliner, Jit, Kernel, ModuleId, Modules, Namer, SearchPaths, Wanted};
use perfkit::target::{Mapping, Maps};
use serde_json::Value;

use crate::rig::{self, Target};

/// Time for one stage two of a small program; generous, since it is no measurement.
const BUDGET: Duration = Duration::from_secs(50);

// ---- what is asked of perfkit ------------------------------------------------------------------------------------------

/// A target's modules, opened as at attach.
struct Attached {
    pid: u32,
    maps: Maps,
    modules: Arc<Modules>,
    paths: SearchPaths,
}

/// A place in the target with what it says of itself.
struct Place {
    pc: u64,
    function: Option<String>,
    line: Option<u32>,
    inlined: Vec<String>,
}

impl Attached {
    fn new(pid: u32, debug_dirs: &[&Path]) -> Self {
        let (modules, maps) = (Arc::new(Modules::new()), Maps::of(pid).unwrap());
        for mapping in maps.0.iter().filter(|m| m.executable) {
            modules.open(pid, mapping, &LiveMemory::new(pid));
        }
        let paths = SearchPaths { debug_dirs: debug_dirs.iter().map(|d| d.to_path_buf()).collect() };
        Self { pid, maps, modules, paths }
    }

    fn locate(&self, pc: u64) -> (ModuleId, u64) {
        let mapping = self.maps.at(pc).unwrap_or_else(|| panic!("{pc:#x} is not mapped"));
        let id = self.modules.open(self.pid, mapping, &LiveMemory::new(self.pid)).unwrap();
        (id, self.modules.svma(id, mapping, pc).unwrap())
    }

    fn namer(&self) -> Namer {
        Namer::new(self.modules.clone(), self.paths.clone())
    }

    fn name(&self, pc: u64) -> Option<String> {
        let (id, svma) = self.locate(pc);
        Some(self.namer().name(id, svma)?.function.to_string())
    }

    fn inlined(&self, places: &[Place]) -> Inlined {
        let mut namer = self.namer();
        let wanted = places.iter().enumerate().map(|(i, place)| {
            let (module, address) = self.locate(place.pc);
            // As after stage one, whose names stay.
            let function = namer.name(module, address).map(|n| n.function.to_string());
            Wanted { id: FrameId(i as u32), module, address, frame: Frame { function, ..nameless(address) } }
        });
        let inliner = Inliner::new(self.paths.clone()).with_program(rig::perfkit().to_owned());
        inliner.run(&self.modules, wanted.collect(), BUDGET)
    }
}

fn nameless(address: u64) -> Frame {
    Frame { address: Some(address), ..Frame::blank(FrameKind::Native) }
}

fn places(target: &Target) -> Vec<Place> {
    let at = target.ready()["at"].as_array().unwrap();
    let text = |v: &Value| v.as_str().map(str::to_owned);
    at.iter()
        .map(|p| Place {
            pc: p["pc"].as_u64().unwrap(),
            function: text(&p["function"]),
            line: p["line"].as_u64().filter(|&l| l > 0).map(|l| l as u32),
            inlined: p["inlined"].as_array().unwrap().iter().map(|i| text(i).unwrap()).collect(),
        })
        .collect()
}

/// A name of Rust without what only one of its two manglings says.
fn plain(name: &str) -> String {
    let mut out = String::new();
    let (mut depth, mut rest) = (0, name);
    while let Some(c) = rest.chars().next() {
        if rest.starts_with("::<") || depth > 0 && c == '<' {
            depth += 1;
        }
        if depth == 0 {
            out.push(c);
        } else if c == '>' {
            depth -= 1;
        }
        rest = &rest[if rest.starts_with("::<") { 3 } else { c.len_utf8() }..];
    }
    out.replace("{{closure}}", "{closure}").replace("{closure#0}", "{closure}")
}

#[track_caller]
fn assert_names(attached: &Attached, places: &[Place], known: impl Fn(&str) -> bool) {
    let mut namer = attached.namer();
    let mut wrong = Vec::new();
    for place in places {
        let (module, svma) = attached.locate(place.pc);
        let name = namer.name(module, svma).map(|n| plain(&n.function));
        let want = place.function.as_deref().filter(|f| known(f)).map(str::to_owned);
        if name != want {
            wrong.push(format!("{svma:#x}: {name:?} for {want:?}"));
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[track_caller]
fn assert_lines(attached: &Attached, places: &[Place], source: &str) {
    let done = attached.inlined(places);
    assert!(done.troubles.is_empty() && done.unfinished == 0, "{done:#?}");
    for (i, place) in places.iter().enumerate().filter(|(_, p)| p.line.is_some()) {
        let frame = done.frames.iter().find(|(id, _)| id.0 == i as u32).map(|(_, f)| f);
        let frame = frame.unwrap_or_else(|| panic!("nothing about {:?}: {done:#?}", place.function));
        assert_eq!(frame.function.as_deref().map(plain), place.function, "{frame:#?}");
        // Compilers that keep line tables alone, or that have no linker's name for a function, leave its path out.
        let last = |name: &str| name.rsplit("::").next().unwrap_or_default().to_owned();
        let inlined: Vec<String> = frame.inlines.iter().map(|i| plain(&i.function)).collect();
        let same = inlined.iter().zip(&place.inlined).all(|(a, b)| a == b || *a == last(b));
        assert!(same && inlined.len() == place.inlined.len(), "{:?} in {frame:#?}", place.inlined);
        let (file, line) = match frame.inlines.last() {
            Some(last) => (&last.file, last.line),
            None => (&frame.file, frame.line),
        };
        assert!(file.as_deref().is_some_and(|f| f.ends_with(source)), "{frame:#?}");
        assert_eq!(line, place.line, "{frame:#?}");
    }
}

fn tool(program: &str, args: &[&str]) {
    let out = Command::new(program).args(args).stdin(Stdio::null()).output();
    let out = out.unwrap_or_else(|e| panic!("{program} does not run: {e} (scripts/setup installs binutils)"));
    assert!(out.status.success(), "{program} {args:?}: {}", String::from_utf8_lossy(&out.stderr));
}

/// A directory with a copy of `program`, named `names`.
fn copy(program: &Path) -> (tempfile::TempDir, PathBuf) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("names");
    // By another process: a program that we hold open for writing while another test forks cannot be started.
    tool("cp", &[utf8(program), utf8(&path)]);
    (dir, path)
}

fn utf8(path: &Path) -> &str {
    path.to_str().unwrap()
}

// ---- languages and builds ----------------------------------------------------------------------------------------------

#[test]
fn every_function_of_c_has_its_name_however_it_was_built() {
    for flags in [
        &["-g", "-fomit-frame-pointer"][..],
        &["-g", "-fno-omit-frame-pointer"],
        &["-no-pie", "-fno-pie", "-DSTUB"],
        &["-no-pie", "-fno-pie", "-DSTUB", "-fcf-protection=full", "-Wl,-z,ibtplt"],
        &["-static-pie"],
        &["-static"],
        &["-O0", "-Wl,-z,noseparate-code"],
        &["-Wl,--build-id=none", "-Wl,-z,max-page-size=0x200000"],
    ] {
        let target = Target::program(&rig::compile("native/names.c", flags)).start();
        let places = places(&target);
        println!("{flags:?}");
        assert_names(&Attached::new(target.pid(), &[]), &places, |_| true);
    }
}

#[test]
fn cpp_and_rust_have_demangled_names() {
    for (source, flags) in [
        ("native/names.cpp", &["-g"][..]),
        ("native/names.cpp", &["-O1", "-fno-omit-frame-pointer"]),
        ("native/names.rs", &["-Csymbol-mangling-version=v0"]),
        ("native/names.rs", &["-Cforce-frame-pointers=yes"]),
    ] {
        let target = Target::program(&rig::compile(source, flags)).start();
        assert_names(&Attached::new(target.pid(), &[]), &places(&target), |_| true);
    }
}

#[test]
fn lines_and_inlined_functions_of_three_languages() {
    for (source, flags) in [
        ("native/names.c", &["-g"][..]),
        ("native/names.c", &["-g", "-gz=zlib", "-no-pie", "-fno-pie"]),
        ("native/names.c", &["-g", "-gdwarf-4"]),
        ("native/names.cpp", &["-g"]),
        ("native/names.rs", &["-Csymbol-mangling-version=v0"]),
        ("native/names.rs", &["-Cdebuginfo=line-tables-only"]),
    ] {
        let target = Target::program(&rig::compile(source, flags)).start();
        println!("{source} {flags:?}");
        assert_lines(&Attached::new(target.pid(), &[]), &places(&target), source);
    }
}

// ---- stripped ----------------------------------------------------------------------------------------------------------

/// What `names.c` exports to other modules with `-rdynamic`: the only names left when all else is stripped.
fn exported(name: &str) -> bool {
    !matches!(name, "hidden" | "outer")
}

#[test]
fn of_a_stripped_program_the_exported_names_and_no_guesses() {
    let (_dir, path) = copy(&rig::compile("native/names.c", &["-rdynamic"]));
    tool("objcopy", &["--strip-all", utf8(&path)]);
    let target = Target::program(&path).start();
    assert_names(&Attached::new(target.pid(), &[]), &places(&target), exported);
}

#[test]
fn a_debug_file_is_found_by_link_in_the_three_usual_places() {
    let built = rig::compile("native/names.c", &["-g", "-Wl,--build-id=none"]);
    for place in ["", ".debug", "mirror"] {
        let (dir, path) = copy(&built);
        let mirror = tempfile::tempdir().unwrap();
        let real = dir.path().canonicalize().unwrap();
        let home = match place {
            "mirror" => mirror.path().join(real.strip_prefix("/").unwrap()),
            other => dir.path().join(other),
        };
        fs::create_dir_all(&home).unwrap();
        let debug = home.join("names.debug");
        tool("objcopy", &["--only-keep-debug", utf8(&path), utf8(&debug)]);
        let link = format!("--add-gnu-debuglink={}", utf8(&debug));
        tool("objcopy", &["--strip-all", &link, utf8(&path)]);
        let target = Target::program(&path).start();
        let attached = Attached::new(target.pid(), &[mirror.path()]);
        let places = places(&target);
        assert_names(&attached, &places, |_| true);
        assert_lines(&attached, &places, "native/names.c");

        // Another build's debug file under the right name is refused by its checksum.
        let mut bytes = fs::read(&debug).unwrap();
        *bytes.last_mut().unwrap() ^= 1;
        fs::write(&debug, bytes).unwrap();
        assert_names(&Attached::new(target.pid(), &[mirror.path()]), &places, |_| false);
    }
}

#[test]
fn a_debug_file_is_found_by_build_id_and_another_build_s_is_not_believed() {
    let built = rig::compile("native/names.c", &["-g", "-Wl,--build-id=0x0123456789abcdef"]);
    let (_dir, path) = copy(&built);
    let dirs = tempfile::tempdir().unwrap();
    let home = dirs.path().join(".build-id/01");
    fs::create_dir_all(&home).unwrap();
    let debug = home.join("23456789abcdef.debug");
    tool("objcopy", &["--only-keep-debug", "--compress-debug-sections=zlib", utf8(&path), utf8(&debug)]);
    tool("objcopy", &["--strip-all", utf8(&path)]);
    let target = Target::program(&path).start();
    let (places, attached) = (places(&target), Attached::new(target.pid(), &[Path::new("/nowhere"), dirs.path()]));
    assert_names(&attached, &places, |_| true);
    assert_lines(&attached, &places, "native/names.c");

    let other = rig::compile("native/names.c", &["-g", "-O1", "-Wl,--build-id=0xfedcba9876543210"]);
    tool("objcopy", &["--only-keep-debug", utf8(&other), utf8(&debug)]);
    assert_names(&Attached::new(target.pid(), &[dirs.path()]), &places, |_| false);
}

/// Fedora's way: a small ELF file with the function symbols that `.dynsym` does not have, by xz into a section.
#[test]
fn packed_symbols_are_read() {
    let (dir, path) = copy(&rig::compile("native/names.c", &["-rdynamic"]));
    let (mini, keep) = (dir.path().join("mini"), dir.path().join("keep"));
    fs::write(&keep, "hidden\nouter\nmain\n").unwrap();
    tool("objcopy", &["--only-keep-debug", utf8(&path), utf8(&mini)]);
    tool("objcopy", &["--strip-all", &format!("--keep-symbols={}", utf8(&keep)), utf8(&mini)]);
    tool("xz", &[utf8(&mini)]);
    let section = format!(".gnu_debugdata={}.xz", utf8(&mini));
    tool("objcopy", &["--strip-all", "--add-section", &section, utf8(&path)]);
    let target = Target::program(&path).start();
    assert_names(&Attached::new(target.pid(), &[]), &places(&target), |_| true);
}

#[test]
fn symbols_without_section_headers_and_unwind_tables_without_sections() {
    let mut bytes = fs::read(rig::compile("native/names.c", &[])).unwrap();
    // Number and place of the section headers: as `sstrip` leaves a file.
    bytes[40..48].fill(0);
    bytes[60..64].fill(0);
    let bare = tempfile::NamedTempFile::new().unwrap();
    fs::write(bare.path(), bytes).unwrap();
    let (_dir, path) = copy(bare.path());
    tool("chmod", &["+x", utf8(&path)]);
    let target = Target::program(&path).start();
    let (attached, places) = (Attached::new(target.pid(), &[]), places(&target));
    assert_names(&attached, &places, |_| false);
    let (id, _) = attached.locate(places[0].pc);
    let sections = attached.modules.unwind_sections(id).unwrap();
    assert!(sections.eh_frame.as_ref().unwrap().data.len() > 100);
    assert_eq!(sections.eh_frame_hdr.as_ref().unwrap().data[0], 1);
}

// ---- the file is not what it was ---------------------------------------------------------------------------------------

#[test]
fn a_program_deleted_or_replaced_keeps_its_names() {
    let built = rig::compile("native/names.c", &["-g"]);
    let (_dir, path) = copy(&built);
    let target = Target::program(&path).start();
    let places = places(&target);
    let before = Attached::new(target.pid(), &[]);
    let other = path.with_extension("new");
    fs::copy(rig::compile("native/names.cpp", &["-g"]), &other).unwrap();
    fs::rename(&other, &path).unwrap();
    assert_names(&before, &places, |_| true);
    assert_lines(&before, &places, "native/names.c");

    fs::remove_file(&path).unwrap();
    // Attached after the deed: by the mapped file itself as root, by /proc/PID/exe else.
    assert_names(&Attached::new(target.pid(), &[]), &places, |_| true);

    // And when the target is gone too.
    let wanted: Vec<_> = places.iter().map(|p| before.locate(p.pc)).collect();
    target.finish();
    let mut namer = before.namer();
    let names: Vec<_> = wanted.iter().map(|&(m, a)| namer.name(m, a).map(|n| n.function.to_string())).collect();
    assert_eq!(names, places.iter().map(|p| p.function.clone()).collect::<Vec<_>>());
}

/// A mapping that shows `path` from its first byte on, as if it were mapped somewhere.
fn mapping_of(path: &Path) -> Mapping {
    let m = fs::metadata(path).unwrap();
    let device = (nix::sys::stat::major(m.dev()), nix::sys::stat::minor(m.dev()));
    let (major, minor, inode) = (device.0, device.1, m.ino());
    let line = format!("10000-90000000 r-xp 00000000 {major:x}:{minor:x} {inode} {}", path.display());
    Maps::parse(&line).0.remove(0)
}

#[test]
fn a_file_truncated_or_rewritten_in_place_is_an_error_and_no_crash() {
    let (_dir, path) = copy(&rig::compile("native/names.c", &["-g"]));
    let modules = Arc::new(Modules::new());
    let id = modules.open(std::process::id(), &mapping_of(&path), &FakeMemory::default()).unwrap();
    let file = fs::OpenOptions::new().write(true).open(&path).unwrap();
    file.set_len(8192).unwrap();
    let mut namer = Namer::new(modules.clone(), SearchPaths::default());
    assert_eq!(namer.name(id, 0x1200), None);
    let trouble = namer.trouble(id).unwrap();
    assert!(trouble.contains("rewritten"), "{trouble}");
    assert!(modules.unwind_sections(id).is_none());
    let wanted = Wanted { id: FrameId(0), module: id, address: 0x1200, frame: nameless(0x1200) };
    let inliner = Inliner::new(SearchPaths::default()).with_program(rig::perfkit().to_owned());
    assert!(inliner.run(&modules, vec![wanted], BUDGET).frames.is_empty());
}

#[test]
fn a_container_s_files_are_found_in_its_own_root() {
    if !rig::is_root() {
        let _ = rig::skip("root for unshare");
        return;
    }
    let built = rig::compile("native/names.c", &["-g", "-Wl,--build-id=0x00112233445566"]);
    let dir = tempfile::tempdir().unwrap();
    let inside = dir.path().join("inside");
    fs::create_dir(&inside).unwrap();
    // Only the target sees what is below `inside`: its program and the debug file.
    let script = format!(
        "mount -t tmpfs none {0} && mkdir -p {0}/d/.build-id/00 && \
         objcopy --only-keep-debug \"$0\" {0}/d/.build-id/00/112233445566.debug && \
         objcopy --strip-all \"$0\" {0}/names && exec {0}/names",
        utf8(&inside)
    );
    let target = Target::program(&built).through(&["unshare", "--mount", "sh", "-c", &script]).start();
    assert!(fs::read_dir(&inside).unwrap().next().is_none());
    let (attached, places) = (Attached::new(target.pid(), &[&inside.join("d")]), places(&target));
    assert_names(&attached, &places, |_| true);
    assert_lines(&attached, &places, "native/names.c");
}

// ---- what is no file ---------------------------------------------------------------------------------------------------

#[test]
fn vdso_libc_and_kernel_have_names() {
    let target = Target::program(&rig::compile("native/names.c", &["-g"])).start();
    let attached = Attached::new(target.pid(), &[]);
    let vdso = attached.maps.0.iter().find(|m| m.path == "[vdso]").unwrap();
    let names: Vec<_> = (vdso.start..vdso.end).step_by(16).filter_map(|pc| attached.name(pc)).collect();
    assert!(names.iter().any(|n| n.contains("clock_gettime")), "{names:?}");

    let libc = attached.maps.0.iter().find(|m| m.executable && m.path.contains("libc")).unwrap();
    let mut namer = attached.namer();
    let (id, _) = attached.locate(libc.start + 0x1000);
    assert!(namer.functions(id) > 1000, "{:?}", namer.trouble(id));

    let mut kernel = Kernel::new();
    match kernel.trouble() {
        None => {
            let text = fs::read_to_string("/proc/kallsyms").unwrap();
            let line = text.lines().find(|l| l.ends_with(" schedule")).unwrap();
            let address = u64::from_str_radix(line.split(' ').next().unwrap(), 16).unwrap();
            assert_eq!(kernel.name(address + 4).unwrap().function, "schedule");
        }
        Some(why) => assert!(why.advice().unwrap().contains("CAP_SYSLOG"), "{why:?}"),
    }
}

/// `python -X perf` in a PID namespace writes the map under the pid that it knows itself by.
#[test]
fn a_map_of_run_time_code_is_found_by_the_target_s_own_pid() {
    if !rig::is_root() {
        let _ = rig::skip("root for unshare");
        return;
    }
    let python = rig::python("3.12");
    if python.version < (3, 12, 0) {
        return; // Skipped, and said so by the rig: perf maps came with 3.12.
    }
    let script = "import json,sys\ndef naming(): pass\nnaming()\nprint(json.dumps({'at': []}), flush=True)\n\
                  sys.stdin.read()\nprint('{}')";
    let target = Target::program(&python.path)
        .args(["-X", "perf", "-c", script])
        .through(&["unshare", "--pid", "--fork", "--mount-proc"])
        .start();
    let pid = target.pid();
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let inner = status.lines().find_map(|l| l.strip_prefix("NSpid:")).unwrap().split_whitespace().last().unwrap();
    assert_ne!(inner, pid.to_string());
    let map = PathBuf::from(format!("/proc/{pid}/root")).join(format!("tmp/perf-{inner}.map"));
    let text = fs::read_to_string(&map).unwrap();
    let line = text.lines().find(|l| l.contains("py::naming:")).unwrap();
    let start = u64::from_str_radix(line.split(' ').next().unwrap(), 16).unwrap();
    let mut jit = Jit::new();
    jit.attach(pid);
    let name = jit.name(pid, start + 2).unwrap();
    assert_eq!((name.function.as_str(), name.file.as_deref()), ("naming", Some("<string>")));
    fs::remove_file(map).unwrap();
}
