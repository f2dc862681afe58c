//! Where the scheduler's own code lies: the frames of a switch above it belong to the tracing, not to the wait.

use std::io::{BufRead, BufReader};
use std::ops::Range;

/// The code of `__schedule`, in which every thread leaves the CPU. `None` when the kernel hides its addresses
/// (`kernel.kptr_restrict`); the tracing's frames are shown then.
pub(super) fn range() -> Option<Range<u64>> {
    range_of("__schedule", BufReader::new(std::fs::File::open("/proc/kallsyms").ok()?))
}

/// The range from `name` to the next symbol. One pass, nothing kept: the table has hundreds of thousands of lines.
fn range_of(name: &str, table: impl BufRead) -> Option<Range<u64>> {
    let mut start = None;
    let mut symbols = Vec::new();
    for line in table.split(b'\n') {
        let line = line.ok()?;
        let mut words = line.split(|b| *b == b' ' || *b == b'\t');
        let address = words.next().and_then(|w| u64::from_str_radix(std::str::from_utf8(w).ok()?, 16).ok());
        let Some(address) = address.filter(|a| *a != 0) else { continue };
        if words.nth(1) == Some(name.as_bytes()) {
            start = Some(address);
        }
        symbols.push(address);
    }
    let start = start?;
    let end = symbols.into_iter().filter(|a| *a > start).min()?;
    Some(start..end)
}

#[cfg(test)]
mod tests {
    #[test]
    fn from_a_symbol_to_the_next_one() {
        let table = "0000000000001100 T after\n0000000000001000 t __schedule\n0000000000001200 T far\t[mod]\n";
        assert_eq!(super::range_of("__schedule", table.as_bytes()), Some(0x1000..0x1100));
        assert_eq!(super::range_of("__schedule", "0000000000000000 t __schedule\n".as_bytes()), None);
    }
}
