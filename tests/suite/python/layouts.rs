//! The table of layouts against the debug information of the interpreters on this machine.

use std::ops::Not;
use std::path::{Path, PathBuf};
use std::process::Command;

use perfkit::python::{Version, layout::Layout};

use crate::rig::{interpreters, skip};

#[test]
fn layouts_equal_dwarf() {
    let mut compared_minors = 0;
    // Debian's is stripped: pyenv's builds have the debug information.
    for python in interpreters().iter().filter(|p| p.path.starts_with("/usr").not()) {
        let minor = python.version.1 as u8;
        let prefix = python.path.parent().and_then(Path::parent).unwrap();
        let library = prefix.join(format!("lib/libpython3.{minor}.so.1.0"));
        let binary: PathBuf = if library.exists() { library } else { python.path.clone() };
        compared_minors += 1;
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("scripts/python_layout.py");
        let mut gdb = Command::new("gdb");
        gdb.args(["-q", "-batch", "-nx", "-x"]).arg(script).arg(&binary);
        let out = gdb.output().unwrap_or_else(|e| panic!("gdb does not run: {e} (scripts/setup installs it)"));
        let text = String::from_utf8(out.stdout).unwrap();
        let table = Layout::of(Version::new(3, minor)).unwrap().fields();
        let in_table = |name: &str| table.iter().find(|(n, _)| *n == name).map(|(_, v)| v.clone());
        let mut compared = 0;
        for line in text.lines() {
            let (name, offset) = line.split_once(' ').unwrap_or_else(|| panic!("{gdb:?} printed {line}"));
            // The table has one field for the frame or the cframe that leads to it, and forms instead of offsets.
            let ours = match (name, minor) {
                ("ts_frame", 11 | 12) => continue,
                ("ts_cframe", 11 | 12) => in_table("ts_frame"),
                _ => in_table(name),
            };
            let ours = ours.unwrap_or_else(|| panic!("no field {name} in the layout"));
            let ours = ours.trim_start_matches("Some(").trim_end_matches(')').replace("None", "-");
            assert_eq!(ours, offset, "3.{minor} {name}");
            compared += 1;
        }
        assert!(compared > 60, "3.{minor}: {text} {}", String::from_utf8_lossy(&out.stderr));
    }
    if compared_minors == 0 {
        let _ = skip("a CPython with debug information");
    }
}
