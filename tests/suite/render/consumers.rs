//! Each file read back by the program that it is for. A program that is missing is a failure that names it.

use std::collections::BTreeMap;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::Command;

use perfkit::analysis::{Profile, Selection, Split};
use perfkit::render::{Format, Options, render};
use pprof::protos::{self, Message};
use serde_json::Value;

use super::goldens::rendered;
use super::service::{self, SECOND};
use crate::rig::{for_each_python, python};

/// The service's profile as `format` in a file.
fn file(dir: &Path, name: &str, selection: &Selection, format: Format) -> PathBuf {
    let path = dir.join(name);
    std::fs::write(&path, rendered(selection, &Options::default(), format)).unwrap();
    path
}

/// What a program prints; its failure, or its absence, is ours.
fn run(program: &Path, arguments: &[&str]) -> String {
    let shown = program.display();
    let done = Command::new(program)
        .args(arguments)
        .output()
        .unwrap_or_else(|e| panic!("{shown} is needed to read our output back: {e}; scripts/setup installs it"));
    assert!(done.status.success(), "{shown} {arguments:?}: {}", String::from_utf8_lossy(&done.stderr));
    String::from_utf8(done.stdout).unwrap()
}

const READ_PSTATS: &str = r#"
import io, pstats, sys
s = pstats.Stats(sys.argv[1], stream=io.StringIO())
for order in ("cumulative", "tottime", "ncalls", "nfl"):
    s.sort_stats(order).print_stats()
s.print_callers()
s.print_callees()
if hasattr(s, "get_stats_profile"):
    s.get_stats_profile()
by_name = {key[2]: (key, value) for key, value in s.stats.items()}
(path, line, _), (cc, nc, tt, ct, callers) = by_name["World.tick"]
assert path.endswith("app/world/tick.py") and line == 80, (path, line)
assert 0 < cc < nc and abs(tt - cc / 100) < 1e-9 and abs(ct - nc / 100) < 1e-9, (cc, nc, tt, ct)
assert [c[2] for c in callers] == ["interact", "<[truncated]>"], callers
assert sum(c[0] for c in callers.values()) == nc and sum(c[1] for c in callers.values()) == cc, callers
remark = "<perfkit: sampled, 900 samples of cpu time at 100 Hz, 16 lost; ncalls are samples (any/leaf)>"
assert [c[2] for c in by_name["<_start (python3.11)>"][1][4]] == [remark]
assert by_name["<tcp_sendmsg_[k]>"][0][:2] == ("~", 0)
assert s.prim_calls == 900 and abs(s.total_tt - 9.0) < 1e-6, (s.prim_calls, s.total_tt)
s.strip_dirs()
s.add(sys.argv[1])
print(s.prim_calls)
"#;

#[test]
fn pstats_loads_under_every_cpython() {
    let dir = tempfile::tempdir().unwrap();
    let path = file(dir.path(), "x.pstats", &Selection::cpu(), Format::Pstats);
    for_each_python(|python| {
        let said = run(&python.path, &["-c", READ_PSTATS, path.to_str().unwrap()]);
        assert_eq!(said.trim(), "1800");
    });
}

fn decoded(selection: &Selection) -> protos::Profile {
    let bytes = rendered(selection, &Options::default(), Format::Pprof);
    let mut plain = Vec::new();
    flate2::read::GzDecoder::new(&bytes[..]).read_to_end(&mut plain).unwrap();
    protos::Profile::decode(&plain[..]).unwrap()
}

#[test]
fn pprof_messages_hold_together() {
    let p = decoded(&Selection::wall());
    let text = |at: i64| p.string_table[at as usize].as_str();
    assert_eq!(p.string_table[0], "");
    let types: Vec<_> = p.sample_type.iter().map(|t| (text(t.ty), text(t.unit))).collect();
    assert_eq!(types, [("samples", "count"), ("wall", "nanoseconds")]);
    assert_eq!((text(p.default_sample_type), p.period, p.duration_nanos), ("wall", 10_000_000, 10_000_000_000));
    assert_eq!(p.time_nanos, 1_760_000_000_000_000_000);
    assert!(p.comment.iter().any(|&c| text(c).contains("25 LOST")));

    // Ids are 1, 2, 3, … and nothing points nowhere.
    let ids = |ids: Vec<u64>| assert_eq!(ids, (1..=ids.len() as u64).collect::<Vec<_>>());
    ids(p.mapping.iter().map(|m| m.id).collect());
    ids(p.function.iter().map(|f| f.id).collect());
    ids(p.location.iter().map(|l| l.id).collect());
    for l in &p.location {
        assert!(!l.line.is_empty() && l.mapping_id <= p.mapping.len() as u64);
        assert!(l.line.iter().all(|line| (1..=p.function.len() as u64).contains(&line.function_id)));
        if let Some(m) = p.mapping.get((l.mapping_id as usize).wrapping_sub(1)) {
            assert!((m.memory_start..m.memory_limit).contains(&l.address), "{l:?} is outside of {m:?}");
        }
    }
    assert_eq!(text(p.mapping[0].filename), "/usr/bin/python3.11", "the main binary comes first");

    let mut totals = (0, 0);
    let mut waits: BTreeMap<String, i64> = BTreeMap::new();
    for s in &p.sample {
        assert!(!s.location_id.is_empty() && s.location_id.iter().all(|&l| l <= p.location.len() as u64));
        totals = (totals.0 + s.value[0], totals.1 + s.value[1]);
        let label = |key: &str| s.label.iter().find(|l| text(l.key) == key);
        assert!(label("tid").unwrap().num >= 4242 && label("pid").is_some() && label("thread").is_some());
        if text(label("state").unwrap().str) == "off-cpu" {
            *waits.entry(text(label("reason").unwrap().str).to_owned()).or_default() += s.value[1];
        }
    }
    assert_eq!(totals.0, 1130);
    assert_eq!(waits["sleep"], 5 * SECOND as i64);

    // The inlined stack of the Rust process, innermost first.
    let inlined = p.location.iter().find(|l| l.line.len() == 3).unwrap();
    let names: Vec<_> =
        inlined.line.iter().map(|l| text(p.function[l.function_id as usize - 1].name).to_owned()).collect();
    assert_eq!(names, ["Grid::at", "Grid::neighbours", "pathfinder::search::<[u8; 8]>"]);
    assert_eq!(inlined.line[0].line, 12);
}

#[test]
fn go_reads_the_pprof_file() {
    let dir = tempfile::tempdir().unwrap();
    let path = file(dir.path(), "x.pb.gz", &Selection::wall(), Format::Pprof);
    let path = path.to_str().unwrap();
    let go = Path::new("go");
    let top = run(go, &["tool", "pprof", "-top", path]);
    assert!(top.contains("Type: wall") && top.contains("Duration: 10s"), "{top}");
    let first = top.lines().skip_while(|l| !l.contains("flat%")).nth(1).unwrap();
    assert!(first.contains("futex_wait_queue") && first.trim().starts_with("8s"), "{top}");
    let counts = run(go, &["tool", "pprof", "-top", "-sample_index=samples", "-focus=World.tick", path]);
    assert!(counts.contains("Npc.update_mood"), "{counts}");
    let tags = run(go, &["tool", "pprof", "-tags", path]);
    assert!(tags.contains("GIL") && tags.contains("world-saver (tid 4243)"), "{tags}");
    let leaves = run(go, &["tool", "pprof", "-top", "-tagleaf=reason", path]);
    assert!(leaves.contains("sleep"), "{leaves}");
    let lines = run(go, &["tool", "pprof", "-top", "-lines", path]);
    assert!(lines.contains("Grid::at /src/pathfinder/src/grid.rs:12 (inline)"), "{lines}");
    assert!(lines.contains("World.tick /srv/npc/app/world/tick.py:88"), "{lines}");
    let raw = run(go, &["tool", "pprof", "-raw", path]);
    assert!(raw.contains("/usr/lib/libspeedups.so"), "{raw}");
}

#[test]
fn speedscope_files_follow_its_schema() {
    let bytes = rendered(&Selection::wall(), &Options::default(), Format::Speedscope);
    let v: Value = serde_json::from_slice(&bytes).unwrap();
    assert_eq!(v["$schema"], "https://www.speedscope.app/file-format-schema.json");
    let frames = v["shared"]["frames"].as_array().unwrap();
    for f in frames {
        let fields = f.as_object().unwrap();
        assert!(f["name"].is_string(), "{f}");
        assert!(fields.keys().all(|k| ["name", "file", "line", "col"].contains(&k.as_str())), "{f}");
        assert!(fields.get("line").is_none_or(Value::is_u64) && fields.get("file").is_none_or(Value::is_string));
    }
    let profiles = v["profiles"].as_array().unwrap();
    assert!(profiles.get(v["activeProfileIndex"].as_u64().unwrap() as usize).is_some());
    let names: Vec<_> = profiles.iter().map(|p| p["name"].as_str().unwrap()).collect();
    let want = [
        "npc-server (pid 4242) MainThread (tid 4242)",
        "npc-server (pid 4242) world-saver (tid 4243)",
        "pathfinder (pid 4250) pathfinder (tid 4250)",
    ];
    assert_eq!(names, want);
    for p in profiles {
        assert_eq!((p["type"].as_str(), p["unit"].as_str()), (Some("sampled"), Some("nanoseconds")));
        let samples = p["samples"].as_array().unwrap();
        let weights = p["weights"].as_array().unwrap();
        assert_eq!(samples.len(), weights.len());
        let sum: u64 = weights.iter().map(|w| w.as_u64().unwrap()).sum();
        assert_eq!(p["endValue"].as_u64().unwrap() - p["startValue"].as_u64().unwrap(), sum);
        let known = |i: &Value| i.as_u64().is_some_and(|i| (i as usize) < frames.len());
        assert!(samples.iter().all(|s| s.as_array().unwrap().iter().all(known)));
    }
    // The worker's first second: GIL, sleep, disk, on the CPU.
    let path = |i: usize| -> Vec<&str> {
        let stack = profiles[1]["samples"][i].as_array().unwrap();
        stack.iter().map(|f| frames[f.as_u64().unwrap() as usize]["name"].as_str().unwrap()).collect()
    };
    assert_eq!(path(0).last(), Some(&"[GIL]"));
    assert_eq!(path(1).last(), Some(&"[sleep]"));
    assert_eq!(path(3), ["clone3 (libc.so.6)", "Thread._bootstrap", "World.save"]);
    assert_eq!(profiles[1]["weights"][3], 50_000_000, "five equal samples in a row are one");
}

#[test]
fn json_has_the_fields_of_the_contract() {
    let bytes = rendered(&Selection::cpu(), &Options::default(), Format::Json);
    let v: Value = serde_json::from_slice(&bytes).unwrap();
    assert_eq!(
        (v["samples"].as_u64(), v["lost"].as_u64(), v["duration_s"].as_f64()),
        (Some(900), Some(16), Some(10.0))
    );
    assert_eq!((v["rate_hz"].as_f64(), v["sampler"].as_str()), (Some(100.0), Some("ebpf")));
    assert!(v["self_cost"]["cpu_pct_of_one_core"].is_f64() && v["self_cost"]["rss_bytes"].is_u64());
    let functions = v["functions"].as_array().unwrap();
    let mood = functions.iter().find(|f| f["function"] == "Npc.update_mood").unwrap();
    assert_eq!((mood["pid"].as_u64(), mood["kind"].as_str()), (Some(4242), Some("python")));
    assert_eq!((mood["file"].as_str(), mood["line"].as_u64()), (Some("world/npc.py"), Some(17)));
    let sum: f64 = functions.iter().map(|f| f["self_pct"].as_f64().unwrap()).sum();
    assert!((sum - 100.0).abs() < 0.1, "own shares add up to {sum}");
    assert_eq!(v["threads"].as_array().unwrap().len(), 3);
    assert_eq!(v["threads"][0]["runnable_s"].as_f64(), None, "not selected is null, not 0");
}

#[test]
fn nothing_selected_is_still_a_valid_file() {
    let rec = service::recording();
    let nobody = Selection { threads: vec![1], ..Selection::cpu() };
    let profile = Profile::new(&rec, &nobody).unwrap();
    let written = |format| {
        let mut out = Vec::new();
        render(&profile, &Options::default(), format, &mut out).unwrap();
        out
    };
    assert!(written(Format::Folded).is_empty());
    assert!(String::from_utf8(written(Format::Svg)).unwrap().contains("none of the recording's 1,130 samples"));
    assert!(String::from_utf8(written(Format::Text)).unwrap().contains("none of the recording's"));
    let json: Value = serde_json::from_slice(&written(Format::Json)).unwrap();
    assert_eq!(json["functions"].as_array().unwrap().len(), 0);
    let speedscope: Value = serde_json::from_slice(&written(Format::Speedscope)).unwrap();
    assert_eq!(speedscope["profiles"].as_array().unwrap().len(), 1);
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("x.pstats");
    std::fs::write(&path, written(Format::Pstats)).unwrap();
    let read = "import pstats, sys; print(pstats.Stats(sys.argv[1]).prim_calls)";
    assert_eq!(run(&python("").path, &["-c", read, path.to_str().unwrap()]).trim(), "0");
    let path = dir.path().join("x.pb.gz");
    std::fs::write(&path, written(Format::Pprof)).unwrap();
    run(Path::new("go"), &["tool", "pprof", "-top", path.to_str().unwrap()]);
}

/// An SVG that no XML parser of a strict kind refuses, with search and zoom on board.
#[test]
fn svg_is_well_formed_and_interactive() {
    for selection in [Selection::cpu(), Selection::wall()] {
        let svg = String::from_utf8(rendered(&selection, &Options::default(), Format::Svg)).unwrap();
        for needed in ["id=\"search\"", "id=\"unzoom\"", "function zoom(", "function search(", "id=\"legend\""] {
            assert!(svg.contains(needed), "{needed} is missing");
        }
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x.svg");
        std::fs::write(&path, &svg).unwrap();
        let parse = "import sys, xml.etree.ElementTree as e; print(e.parse(sys.argv[1]).getroot().get('height'))";
        let height = run(&python("").path, &["-c", parse, path.to_str().unwrap()]);
        assert!(height.trim().parse::<u32>().unwrap() > 200);
    }
}

/// Names come from the target: none may break a file or steer the terminal.
#[test]
fn hostile_names_stay_names() {
    let evil = "f\x1b[31m\n;<b>&\"'\u{ffff}\0 12";
    let mut rec = service::recording();
    for f in &mut rec.frames {
        f.function = f.function.take().map(|name| format!("{name}{evil}"));
        f.file = f.file.take().map(|name| format!("{name}{evil}"));
        f.module = f.module.take().map(|name| format!("{name}{evil}"));
    }
    for p in &mut rec.processes {
        p.name.push_str(evil);
    }
    for t in &mut rec.threads {
        t.name.push_str(evil);
    }
    let split = Split { processes: true, threads: true };
    let profile = Profile::new(&rec, &Selection { split, ..Selection::wall() }).unwrap();
    let dir = tempfile::tempdir().unwrap();
    let written = |format: Format| {
        let mut out = Vec::new();
        render(&profile, &Options::default(), format, &mut out).unwrap();
        let path = dir.path().join(format.name());
        std::fs::write(&path, &out).unwrap();
        (path.into_os_string().into_string().unwrap(), out)
    };
    let table = String::from_utf8(written(Format::Text).1).unwrap();
    assert!(table.chars().all(|c| c == '\n' || !c.is_control()), "{table}");
    for line in String::from_utf8(written(Format::Folded).1).unwrap().lines() {
        let (stack, weight) = line.rsplit_once(' ').unwrap();
        assert!(weight.parse::<u64>().is_ok() && stack.ends_with([')', ']']), "{line}");
        assert!(stack.split(';').all(|frame| frame.ends_with([')', ']'])), "{line}");
    }
    let parse = "import sys, xml.etree.ElementTree as e; e.parse(sys.argv[1])";
    run(&python("").path, &["-c", parse, &written(Format::Svg).0]);
    for format in [Format::Json, Format::Speedscope] {
        serde_json::from_slice::<Value>(&written(format).1).unwrap();
    }
    run(&python("").path, &["-c", "import pstats, sys; pstats.Stats(sys.argv[1])", &written(Format::Pstats).0]);
    run(Path::new("go"), &["tool", "pprof", "-top", &written(Format::Pprof).0]);
}
