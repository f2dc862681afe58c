//! Censuses compared with what each interpreter counts itself.
//!
//! Tolerance: classes of the target exactly; while another thread makes and drops objects too. Blocks at most
//! 2 % below `sys.getallocatedblocks()`, which counts those over 512 bytes too.

use std::process::Command;

use perfkit::os::memory::LiveMemory;
use perfkit::python::census::{Census, Held, Holders, Scanner};
use serde_json::Value;

use super::{Parked, script, supported};

fn count(scanner: &Scanner<'_>, census: &Census, name: &str) -> u64 {
    census.types.iter().filter(|(at, _)| scanner.type_name(**at) == name).map(|(_, (_, total))| total.count).sum()
}

fn check_counts(scanner: &Scanner<'_>, truth: &Value) {
    let census = scanner.scan().unwrap();
    for (name, wanted) in truth["counts"].as_object().unwrap() {
        assert_eq!(count(scanner, &census, name), wanted.as_u64().unwrap(), "{name} of {}", truth["executable"]);
    }
    assert!(count(scanner, &census, "float") >= truth["floats"].as_u64().unwrap());
    for (at, wanted) in truth["lengths"].as_object().unwrap() {
        let at: u64 = at.parse().unwrap();
        let found = census.containers.iter().find(|c| c.at == at).unwrap_or_else(|| panic!("no container at {at:#x}"));
        assert_eq!(found.length, wanted.as_u64().unwrap());
    }
    assert_eq!(census.missing(), "");
}

#[test]
fn every_interpreter_counts_its_objects_as_we_do() {
    for python in supported() {
        let target = Parked::start(&python, "reader_census.py");
        let (memory, runtime): (LiveMemory, _) = (target.memory(), target.runtime());
        let scanner = Scanner::new(target.pid(), &memory, &runtime).unwrap();
        check_counts(&scanner, &target.truth);
        let census = scanner.scan().unwrap();
        let blocks = target.truth["blocks"].as_f64().unwrap();
        let found = census.blocks as f64;
        assert!(found <= blocks && found > blocks * 0.98, "{}: {found} blocks, not {blocks}", runtime.text);
        assert_eq!(census.torn, 0);
        let library = scanner.library();
        assert!(library.has("collections.OrderedDict") && !library.has("__main__.NpcState"));
    }
}

#[test]
fn a_heap_that_changes_is_counted_too() {
    for python in supported() {
        let mut command = Command::new(&python);
        command.arg(script("reader_census.py")).arg("churn");
        let target = Parked::command(command);
        let (memory, runtime) = (target.memory(), target.runtime());
        let scanner = Scanner::new(target.pid(), &memory, &runtime).unwrap();
        for _ in 0..10 {
            check_counts(&scanner, &target.truth);
        }
    }
}

#[test]
fn every_holder_is_named() {
    let mut wrong = Vec::new();
    for python in supported() {
        let target = Parked::start(&python, "reader_census.py");
        let (memory, runtime) = (target.memory(), target.runtime());
        let scanner = Scanner::new(target.pid(), &memory, &runtime).unwrap();
        let mut holders = Holders::new(&scanner);
        for (what, case) in target.truth["holders"].as_object().unwrap() {
            let Held { path, of, .. } = holders.of(&[case[0].as_u64().unwrap()]).unwrap();
            let mut words = path.iter();
            let told = case[1].as_array().unwrap().iter().all(|wanted| {
                let wanted = wanted.as_str().unwrap();
                words.any(|w| w == wanted || w.ends_with(&format!(".{wanted}")))
            });
            if !told || of != 1 {
                wrong.push(format!("{}: {what}: {path:?}, wanted {}", runtime.text, case[1]));
            }
        }
    }
    assert!(wrong.is_empty(), "{} wrong:\n{}", wrong.len(), wrong.join("\n"));
}
