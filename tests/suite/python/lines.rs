//! Line tables of the standard library, decoded by us and by the interpreter that made them: every instruction.

use std::io::Read;
use std::process::{Command, Stdio};

use perfkit::python::{Version, layout::Layout, lines::Lines};

use super::{script, supported};

#[test]
fn a_good_part_of_the_standard_library() {
    compare_all(5);
}

#[test]
#[ignore = "two minutes: the whole standard library of every version"]
fn the_whole_standard_library() {
    compare_all(1);
}

fn compare_all(share: usize) {
    for python in supported() {
        let ask = "import sys; sys.stdout.write('%d' % sys.version_info[1])";
        let minor = Command::new(&python).args(["-c", ask]).output().unwrap().stdout;
        let minor = String::from_utf8(minor).unwrap().parse().unwrap();
        let mut command = Command::new(&python);
        command.arg(script("reader_lines.py")).arg(share.to_string());
        compare(command, minor, share);
    }
}

/// Compares what `command` (a run of `reader_lines.py` on 3.`minor`) prints of one file in `share`.
pub(super) fn compare(mut command: Command, minor: u8, share: usize) {
    let format = Layout::of(Version::new(3, minor)).unwrap_or(Layout::newest()).line_table;
    command.stdout(Stdio::piped());
    let mut child = command.spawn().unwrap();
    let mut all = Vec::new();
    child.stdout.take().unwrap().read_to_end(&mut all).unwrap();
    assert!(child.wait().unwrap().success(), "{command:?}");

    let mut rest = all.as_slice();
    let (mut codes, mut instructions) = (0, 0);
    while !rest.is_empty() {
        let first = number(&mut rest);
        let table = part(&mut rest);
        let count = number(&mut rest) as usize;
        let lines = Lines::new(format, first, table.to_vec());
        let truth: Vec<Option<u32>> = (0..count).map(|_| u32::try_from(number(&mut rest)).ok()).collect();
        let name = String::from_utf8_lossy(part(&mut rest));
        let found: Vec<_> = (0..count).map(|i| lines.at(i as i64 * 2)).collect();
        assert!(found == truth, "3.{minor}: {name}\nfound {found:?}\ntruth {truth:?}");
        codes += 1;
        instructions += count;
    }
    assert!(codes > 15_000 / share && instructions > 500_000 / share, "{command:?}: {codes} {instructions}");
}

fn number(from: &mut &[u8]) -> i32 {
    let (head, rest) = from.split_first_chunk().unwrap();
    *from = rest;
    i32::from_le_bytes(*head)
}

fn part<'a>(from: &mut &'a [u8]) -> &'a [u8] {
    let length = number(from) as usize;
    let (part, rest) = from.split_at(length);
    *from = rest;
    part
}
