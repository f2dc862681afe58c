//! A file for Python's `pstats.Stats`, SnakeViz and whatever else reads cProfile's output.
//!
//! Layout: a marshalled dict `(file, line, function) -> (cc, nc, tt, ct, callers)`, `callers` a dict of
//! `caller -> (nc, cc, tt, ct)`, as `Lib/cProfile.py` writes it. A sampler counts no calls: `nc` is the number of samples
//! that have the function on their stack, `cc` of those in which it is the leaf, so that pstats' "primitive calls" is the
//! number of samples; `tt` and `ct` are seconds. This is how CPython's own sampling profiler fills the fields. A first
//! entry that calls all roots says that the file is sampled. Native functions are written like built-ins, without a file.
//! Processes are added up.

use std::io::{self, Write};

use rustc_hash::FxHashMap;

use super::facts;
use crate::analysis::{FunctionId, Profile};
use crate::record::FrameKind;
use crate::units::grouped;

/// `(file, line, function)`.
type Key = (String, u32, String);

/// Sums of a function, or of one of its callers' share.
#[derive(Clone, Copy, Default)]
struct Sums {
    own_samples: u64,
    samples: u64,
    own_ns: u64,
    ns: u64,
}

/// Functions that are one row in pstats, by index.
struct Table {
    keys: Vec<Key>,
    /// The row of each function of the profile.
    row_of: Vec<usize>,
}

impl Table {
    fn new(profile: &Profile<'_>) -> Self {
        let mut line_of: FxHashMap<FunctionId, u32> = FxHashMap::default();
        for row in &profile.functions {
            // The hottest process decides.
            line_of.entry(row.function).or_insert(row.line.unwrap_or(0));
        }
        let remark = format!("<perfkit: sampled, {}; ncalls are samples (any/leaf)>", how_often(profile));
        let mut table = Self { keys: vec![("~".to_owned(), 0, remark)], row_of: Vec::new() };
        let mut known: FxHashMap<Key, usize> = FxHashMap::default();
        for id in (0..profile.frames.function_count() as u32).map(FunctionId) {
            let function = profile.frames.function(id);
            let key: Key = match function.kind {
                FrameKind::Python => {
                    let file = function.path.clone().or_else(|| function.file.clone());
                    // As cProfile has it; where it is not known, the hottest line.
                    let line = function.first_line.or_else(|| line_of.get(&id).copied()).unwrap_or(0);
                    (file.unwrap_or_else(|| "?".to_owned()), line, function.function.clone())
                }
                _ => ("~".to_owned(), 0, format!("<{}>", function.label())),
            };
            let keys = &mut table.keys;
            let row = *known.entry(key).or_insert_with_key(|key| {
                keys.push(key.clone());
                keys.len() - 1
            });
            table.row_of.push(row);
        }
        table
    }
}

fn how_often(profile: &Profile<'_>) -> String {
    let rate = facts::rate(profile).map_or_else(String::new, |hz| format!(" at {hz}"));
    let lost = if profile.lost > 0 { format!(", {} lost", grouped(profile.lost)) } else { String::new() };
    format!("{} samples of {} time{rate}{lost}", grouped(profile.samples), profile.clock.type_name())
}

/// Writes `profile` for `pstats`.
pub(super) fn write(profile: &Profile<'_>, out: &mut dyn Write) -> io::Result<()> {
    let table = Table::new(profile);
    let (rows, callers) = sums(profile, &table);
    out.write_all(b"{")?;
    for (at, key) in table.keys.iter().enumerate() {
        let s = rows[at];
        // Functions that only other slices or states have are no part of this profile; the remark always is.
        if s.samples == 0 && at > 0 {
            continue;
        }
        put_key(out, key)?;
        out.write_all(b"(")?;
        put_len(out, 5)?;
        put_int(out, s.own_samples)?;
        put_int(out, s.samples)?;
        put_seconds(out, s.own_ns)?;
        put_seconds(out, s.ns)?;
        out.write_all(b"{")?;
        for (caller, c) in &callers[at] {
            put_key(out, &table.keys[*caller])?;
            out.write_all(b"(")?;
            put_len(out, 4)?;
            put_int(out, c.samples)?;
            put_int(out, c.own_samples)?;
            put_seconds(out, c.own_ns)?;
            put_seconds(out, c.ns)?;
        }
        out.write_all(b"0")?;
    }
    out.write_all(b"0")
}

/// The sums of each row, and of each row's callers in the order of their rows.
fn sums(profile: &Profile<'_>, table: &Table) -> (Vec<Sums>, Vec<Vec<(usize, Sums)>>) {
    let mut own = vec![(0u64, 0u64); profile.paths.len()];
    for w in &profile.weighted {
        let slot = &mut own[w.node.0 as usize];
        *slot = (slot.0 + w.samples, slot.1 + w.weight_ns);
    }
    let total = profile.paths.totals(&own);
    let mut rows = vec![Sums::default(); table.keys.len()];
    rows[0] = Sums { samples: profile.samples, ns: profile.weight_ns, ..Sums::default() };
    let mut edges: FxHashMap<(usize, usize), (Sums, u32)> = FxHashMap::default();
    let mut open = vec![0u32; table.keys.len()];
    let mut path = vec![0usize];
    profile.paths.walk(|node, frame, entering| {
        let at = table.row_of[profile.frames.shown(frame).function.0 as usize];
        if !entering {
            path.pop();
            open[at] -= 1;
            if let Some(edge) = path.last().and_then(|&caller| edges.get_mut(&(at, caller))) {
                edge.1 -= 1;
            }
            return;
        }
        let add = |sums: &mut Sums, outermost: bool| {
            let ((own_samples, own_ns), (samples, ns)) = (own[node.0 as usize], total[node.0 as usize]);
            sums.own_samples += own_samples;
            sums.own_ns += own_ns;
            if outermost {
                sums.samples += samples;
                sums.ns += ns;
            }
        };
        add(&mut rows[at], open[at] == 0);
        open[at] += 1;
        let caller = path.last().copied().unwrap_or(0);
        let edge = edges.entry((at, caller)).or_default();
        add(&mut edge.0, edge.1 == 0);
        edge.1 += 1;
        path.push(at);
    });
    let mut callers = vec![Vec::new(); table.keys.len()];
    for ((at, caller), (sums, _)) in edges {
        if sums.samples > 0 {
            callers[at].push((caller, sums));
        }
    }
    for of_row in &mut callers {
        of_row.sort_by_key(|c| c.0);
    }
    (rows, callers)
}

fn put_key(out: &mut dyn Write, (file, line, function): &Key) -> io::Result<()> {
    out.write_all(b"(")?;
    put_len(out, 3)?;
    put_str(out, file)?;
    put_int(out, u64::from(*line))?;
    put_str(out, function)
}

/// A marshalled length: 32 bits, little-endian.
fn put_len(out: &mut dyn Write, n: usize) -> io::Result<()> {
    out.write_all(&(n as i32).to_le_bytes())
}

fn put_str(out: &mut dyn Write, text: &str) -> io::Result<()> {
    out.write_all(b"u")?;
    put_len(out, text.len())?;
    out.write_all(text.as_bytes())
}

/// A marshalled int: `i` in 32 bits, or `l` in digits of 15 bits.
fn put_int(out: &mut dyn Write, n: u64) -> io::Result<()> {
    if let Ok(small) = i32::try_from(n) {
        out.write_all(b"i")?;
        return out.write_all(&small.to_le_bytes());
    }
    let digits: Vec<u16> = (0..5).map(|i| (n >> (15 * i)) as u16 & 0x7fff).collect();
    let used = digits.iter().rposition(|&d| d != 0).map_or(0, |last| last + 1);
    out.write_all(b"l")?;
    put_len(out, used)?;
    digits.iter().take(used).try_for_each(|d| out.write_all(&d.to_le_bytes()))
}

/// A marshalled float: `g` and the IEEE double.
fn put_seconds(out: &mut dyn Write, ns: u64) -> io::Result<()> {
    out.write_all(b"g")?;
    out.write_all(&(ns as f64 / 1e9).to_le_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn integers_are_marshalled_in_15_bit_digits() {
        let marshalled = |n| {
            let mut out = Vec::new();
            put_int(&mut out, n).unwrap();
            out
        };
        assert_eq!(marshalled(5), b"i\x05\0\0\0");
        // marshal.dumps(2**40) is l, three digits, 0, 0, 2**10.
        assert_eq!(marshalled(1 << 40), b"l\x03\0\0\0\0\0\0\0\0\x04");
    }
}
