//! One order for Python and native frames.
//!
//! In: the native frames of a stack (leaf first, each with the part of the stack that it owns) and the Python frames of the
//! same instant, with entry marks. Out: the pieces, leaf first, and whether the order is certain. A pure function.
//!
//! The rule from CPython 3.10 on needs no symbols: each call of the eval function has a structure among its local variables
//! (3.10 and 3.11 the `CFrame`, from 3.12 the entry frame), so the native frame whose part of the stack contains that
//! address *is* the eval call, and the Python frames up to the mark ran inside it. Up to 3.9 each Python frame has one eval
//! call of its own, recognised by the function's code range.

use crate::native::unwind::{End, NativeFrame};

/// A Python frame or the mark of an eval call, as the walker met them, leaf first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PyItem<F> {
    /// A frame.
    Frame(F),
    /// The frames before this one ran in the eval call that has this address on its C stack.
    Entry(u64),
}

/// A piece of the merged stack.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Piece<F> {
    /// The native frame with this index.
    Native(usize),
    /// A Python frame.
    Python(F),
    /// Frames towards the root are missing between the pieces before and after.
    Gap,
    /// The order of the blocks before and after is not known.
    Unmerged,
    /// Python frames were here at the sample and had been left when they were read.
    Gone,
}

/// How the version of the target ties eval calls to Python frames.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rule {
    /// Entry marks on the C stack (3.10 and later).
    EntryMarks,
    /// One eval call a Python frame (3.8, 3.9).
    EvalCalls,
}

/// Merges into `out` (cleared first). `is_eval` says whether an address lies in the eval function, as far as that is known.
/// Returns whether the order is certain.
pub fn merge<F: Copy>(
    rule: Rule,
    native: &[NativeFrame],
    end: End,
    python: &[PyItem<F>],
    is_eval: impl Fn(u64) -> bool,
    out: &mut Vec<Piece<F>>,
) -> bool {
    out.clear();
    let certain = match rule {
        Rule::EntryMarks => by_entry_marks(native, end, python, &is_eval, out),
        Rule::EvalCalls => by_eval_calls(native, end, python, &is_eval, out),
    };
    if !certain {
        // Both blocks are true, only their order is not known: native above the Python that called it, and a label between.
        out.clear();
        out.extend((0..native.len()).filter(|i| !is_eval(native[*i].address)).map(Piece::Native));
        out.push(Piece::Unmerged);
        out.extend(frames(python).map(Piece::Python));
    }
    certain
}

fn frames<F: Copy>(python: &[PyItem<F>]) -> impl Iterator<Item = F> {
    python.iter().filter_map(|p| match p {
        PyItem::Frame(f) => Some(*f),
        PyItem::Entry(_) => None,
    })
}

fn by_entry_marks<F: Copy>(
    native: &[NativeFrame],
    end: End,
    python: &[PyItem<F>],
    is_eval: &impl Fn(u64) -> bool,
    out: &mut Vec<Piece<F>>,
) -> bool {
    let mut rest = python;
    for (i, frame) in native.iter().enumerate() {
        let mark = rest.iter().position(|p| matches!(p, PyItem::Entry(_)));
        let owns = |at: u64| frame.sp <= at && at < frame.cfa;
        match mark.map(|m| (m, rest[m])) {
            Some((m, PyItem::Entry(at))) if owns(at) => {
                out.extend(frames(&rest[..m]).map(Piece::Python));
                rest = &rest[m + 1..];
            }
            // An eval call that has not entered its frame yet, or has left it: what it does is its caller's doing.
            _ if is_eval(frame.address) => {}
            _ => out.push(Piece::Native(i)),
        }
    }
    if frames(rest).next().is_none() {
        return true;
    }
    if end == End::Root {
        return false;
    }
    out.push(Piece::Gap);
    out.extend(frames(rest).map(Piece::Python));
    true
}

fn by_eval_calls<F: Copy>(
    native: &[NativeFrame],
    end: End,
    python: &[PyItem<F>],
    is_eval: &impl Fn(u64) -> bool,
    out: &mut Vec<Piece<F>>,
) -> bool {
    let calls = native.iter().filter(|f| is_eval(f.address)).count();
    let count = frames(python).count();
    // The innermost eval call may not have published its frame yet, or have withdrawn it already.
    let early = match calls.checked_sub(count) {
        Some(0) => 0,
        Some(1) if end == End::Root => 1,
        None if end != End::Root => 0,
        _ => return false,
    };
    let mut rest = frames(python);
    let mut skip = early;
    for (i, frame) in native.iter().enumerate() {
        if !is_eval(frame.address) {
            out.push(Piece::Native(i));
        } else if skip > 0 {
            skip -= 1;
        } else if let Some(f) = rest.next() {
            out.push(Piece::Python(f));
        }
    }
    let mut rest = rest.peekable();
    if rest.peek().is_some() {
        out.push(Piece::Gap);
        out.extend(rest.map(Piece::Python));
    }
    true
}

#[cfg(test)]
mod tests {
    use super::*;
    use PyItem::{Entry, Frame};

    /// Frames of 0x10 bytes of stack each; address 0xe.. is the eval function.
    fn native(addresses: &[u64]) -> Vec<NativeFrame> {
        let at = |i: usize| 0x1000 + i as u64 * 0x10;
        addresses.iter().enumerate().map(|(i, a)| NativeFrame { address: *a, sp: at(i), cfa: at(i + 1) }).collect()
    }

    fn is_eval(a: u64) -> bool {
        a >> 4 == 0xe
    }

    fn show(pieces: &[Piece<char>]) -> String {
        pieces
            .iter()
            .map(|p| match p {
                Piece::Native(i) => char::from(b'0' + *i as u8),
                Piece::Python(c) => *c,
                Piece::Gap => '~',
                Piece::Unmerged => '?',
                Piece::Gone => '!',
            })
            .collect()
    }

    fn run(rule: Rule, addresses: &[u64], end: End, python: &[PyItem<char>]) -> (bool, String) {
        let mut out = Vec::new();
        let certain = merge(rule, &native(addresses), end, python, is_eval, &mut out);
        (certain, show(&out))
    }

    #[test]
    fn entry_marks_place_runs_of_python_frames() {
        let python = [Frame('b'), Frame('a'), Entry(0x1014), Frame('m'), Entry(0x1038)];
        let order = run(Rule::EntryMarks, &[1, 0xe1, 2, 0xe2, 3], End::Root, &python);
        assert_eq!(order, (true, "0ba2m4".into()));
        // Without any code range the marks alone give the same order.
        let mut out = Vec::new();
        assert!(merge(Rule::EntryMarks, &native(&[1, 7, 2, 8, 3]), End::Root, &python, |_| false, &mut out));
        assert_eq!(show(&out), "0ba2m4");
    }

    #[test]
    fn an_eval_call_in_its_prologue_is_charged_to_its_caller() {
        let python = [Frame('m'), Entry(0x1024)];
        assert_eq!(run(Rule::EntryMarks, &[0xe0, 1, 0xe2, 3], End::Root, &python), (true, "1m3".into()));
        assert_eq!(run(Rule::EvalCalls, &[0xe0, 1, 0xe2, 3], End::Root, &[Frame('m')]), (true, "1m3".into()));
    }

    #[test]
    fn a_cut_native_stack_keeps_its_python_root() {
        let python = [Frame('b'), Entry(0x1004), Frame('m'), Entry(0x9000)];
        assert_eq!(run(Rule::EntryMarks, &[0xe0, 1], End::Truncated, &python), (true, "b1~m".into()));
        assert_eq!(run(Rule::EvalCalls, &[0xe0, 1], End::Truncated, &[Frame('b'), Frame('m')]), (true, "b1~m".into()));
    }

    #[test]
    fn what_does_not_fit_is_kept_and_said() {
        let python = [Frame('b'), Entry(0x9000)];
        assert_eq!(run(Rule::EntryMarks, &[1, 0xe0, 2], End::Root, &python), (false, "02?b".into()));
        assert_eq!(run(Rule::EvalCalls, &[1, 2], End::Root, &[Frame('b')]), (false, "01?b".into()));
    }
}
