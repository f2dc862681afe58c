//! One order for native frames and Python frames that were read a moment later.
//!
//! In: as for [`merge`](super::merge::merge). Out: the pieces, leaf first. What has happened since the sample happened at
//! the leaf, so the two are matched from the root: Python frames that fit no eval call of the sample were entered since and
//! go; an eval call of the sample without Python frames was left since, and says so. A pure function. Bias: frames that
//! were left and entered anew in the same place look as if nothing had happened.

use super::merge::{Piece, PyItem, Rule};
use crate::native::unwind::{End, NativeFrame};

/// How the two fit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::collect) enum Fit {
    /// Each eval call of the sample has Python frames.
    Whole,
    /// Some eval calls of the sample had been left.
    Left,
    /// Nothing fits: the order is not known.
    None,
}

/// Merges into `out` (cleared first). `is_eval` says whether an address lies in the eval function, `None` when nothing is
/// known of it.
pub(in crate::collect) fn merge_late<F: Copy>(
    rule: Rule,
    native: &[NativeFrame],
    end: End,
    python: &[PyItem<F>],
    is_eval: Option<&dyn Fn(u64) -> bool>,
    out: &mut Vec<Piece<F>>,
) -> Fit {
    out.clear();
    let known_eval = |i: usize| is_eval.is_some_and(|f| native.get(i).is_some_and(|n| f(n.address)));
    let mut runs = runs(rule, python);
    // The run of Python frames that belongs to each native frame, by index in `runs`.
    let mut owner_of: Vec<Option<usize>> = vec![None; native.len()];
    // Frames that lie farther out than the unwound part.
    let mut beyond = runs.len();
    match rule {
        Rule::EntryMarks => {
            let covered = native.last().map_or(0, |n| n.cfa);
            while end != End::Root
                && beyond > 0
                && runs.get(beyond - 1).is_some_and(|r| r.mark.is_none_or(|m| m >= covered))
            {
                beyond -= 1;
            }
            let mut inside = native.len();
            for r in (0..beyond).rev() {
                let mark = runs.get(r).and_then(|r| r.mark);
                let fits = |i: &usize| {
                    let owns = native.get(*i).zip(mark).is_some_and(|(n, m)| n.sp <= m && m < n.cfa);
                    owns && (is_eval.is_none() || known_eval(*i))
                };
                let Some(i) = (0..inside).rev().find(fits) else { break };
                if let Some(slot) = owner_of.get_mut(i) {
                    *slot = Some(r);
                }
                inside = i;
            }
        }
        Rule::EvalCalls => {
            let calls: Vec<usize> = (0..native.len()).filter(|i| known_eval(*i)).collect();
            let mut r = beyond;
            if end != End::Root {
                // The root is not there to count from: so many frames as fit count from the leaf.
                r = calls.len().min(runs.len());
                beyond = r;
            }
            for i in calls.into_iter().rev() {
                let Some(next) = r.checked_sub(1) else { break };
                r = next;
                if let Some(slot) = owner_of.get_mut(i) {
                    *slot = Some(r);
                }
            }
        }
    }
    if owner_of.iter().all(Option::is_none) && beyond == runs.len() && !runs.is_empty() {
        out.extend((0..native.len()).filter(|i| !known_eval(*i)).map(Piece::Native));
        out.push(Piece::Unmerged);
        out.extend(runs.into_iter().flat_map(|r| r.frames).map(Piece::Python));
        return Fit::None;
    }
    let mut fit = Fit::Whole;
    let mut told = false;
    for (i, owner) in owner_of.iter().enumerate() {
        match owner.and_then(|r| runs.get_mut(r)) {
            Some(run) => {
                out.extend(run.frames.drain(..).map(Piece::Python));
                told = true;
            }
            // A call that has not entered its frame yet: what it does is its caller's doing.
            None if known_eval(i) && i == 0 => {}
            None if known_eval(i) => {
                fit = Fit::Left;
                if !told {
                    out.push(Piece::Gone);
                    told = true;
                }
            }
            None => out.push(Piece::Native(i)),
        }
    }
    let mut rest = runs.into_iter().skip(beyond).flat_map(|r| r.frames).peekable();
    if rest.peek().is_some() {
        out.push(Piece::Gap);
        out.extend(rest.map(Piece::Python));
    }
    fit
}

/// Python frames that ran in one eval call, leaf first.
struct Run<F> {
    frames: Vec<F>,
    mark: Option<u64>,
}

fn runs<F: Copy>(rule: Rule, python: &[PyItem<F>]) -> Vec<Run<F>> {
    let mut runs = Vec::new();
    let mut frames = Vec::new();
    for item in python {
        match *item {
            PyItem::Frame(f) if rule == Rule::EvalCalls => runs.push(Run { frames: vec![f], mark: None }),
            PyItem::Frame(f) => frames.push(f),
            PyItem::Entry(at) => runs.push(Run { frames: std::mem::take(&mut frames), mark: Some(at) }),
        }
    }
    if !frames.is_empty() {
        runs.push(Run { frames, mark: None });
    }
    runs
}

#[cfg(test)]
mod tests {
    use super::*;
    use PyItem::{Entry, Frame};

    /// Frames of 0x10 bytes of stack each; address 0xe.. is the eval function.
    fn run(rule: Rule, addresses: &[u64], end: End, python: &[PyItem<char>]) -> (Fit, String) {
        let at = |i: usize| 0x1000 + i as u64 * 0x10;
        let frame = |(i, a): (usize, &u64)| NativeFrame { address: *a, sp: at(i), cfa: at(i + 1) };
        let native: Vec<_> = addresses.iter().enumerate().map(frame).collect();
        let mut out = Vec::new();
        let is_eval = |a: u64| a >> 4 == 0xe;
        let fit = merge_late(rule, &native, end, python, Some(&is_eval), &mut out);
        let show = out.iter().map(|p| match p {
            Piece::Native(i) => char::from(b'0' + *i as u8),
            Piece::Python(c) => *c,
            Piece::Gap => '~',
            Piece::Unmerged => '?',
            Piece::Gone => '!',
        });
        (fit, show.collect())
    }

    #[test]
    fn what_did_not_move_merges_as_always() {
        let python = [Frame('b'), Frame('a'), Entry(0x1014), Frame('m'), Entry(0x1038)];
        assert_eq!(run(Rule::EntryMarks, &[1, 0xe1, 2, 0xe2, 3], End::Root, &python), (Fit::Whole, "0ba2m4".into()));
        let calls = [Frame('b'), Frame('m')];
        assert_eq!(run(Rule::EvalCalls, &[1, 0xe1, 2, 0xe2, 3], End::Root, &calls), (Fit::Whole, "0b2m4".into()));
    }

    #[test]
    fn calls_left_since_are_gone_and_say_so_once() {
        let python = [Frame('m'), Entry(0x1058)];
        let native = [1, 0xe1, 2, 0xe2, 3, 0xe3, 4];
        assert_eq!(run(Rule::EntryMarks, &native, End::Root, &python), (Fit::Left, "0!24m6".into()));
        assert_eq!(run(Rule::EvalCalls, &native, End::Root, &[Frame('m')]), (Fit::Left, "0!24m6".into()));
    }

    #[test]
    fn calls_entered_since_go() {
        // The mark at 0x1004 lies in what was a C function's part of the stack at the sample.
        let python = [Frame('x'), Entry(0x1004), Frame('m'), Entry(0x1018)];
        assert_eq!(run(Rule::EntryMarks, &[1, 0xe1, 2], End::Root, &python), (Fit::Whole, "0m2".into()));
        let calls = [Frame('y'), Frame('x'), Frame('m')];
        assert_eq!(run(Rule::EvalCalls, &[1, 0xe1, 2], End::Root, &calls), (Fit::Whole, "0m2".into()));
    }

    #[test]
    fn a_prologue_is_its_callers() {
        assert_eq!(
            run(Rule::EntryMarks, &[0xe0, 1, 0xe2, 3], End::Root, &[Frame('m'), Entry(0x1024)]),
            (Fit::Whole, "1m3".into())
        );
    }

    #[test]
    fn a_cut_native_stack_keeps_its_python_root() {
        let python = [Frame('b'), Entry(0x1004), Frame('m'), Entry(0x9000)];
        assert_eq!(run(Rule::EntryMarks, &[0xe0, 1], End::Truncated, &python), (Fit::Whole, "b1~m".into()));
        let calls = [Frame('b'), Frame('m')];
        assert_eq!(run(Rule::EvalCalls, &[0xe0, 1], End::Truncated, &calls), (Fit::Whole, "b1~m".into()));
    }

    #[test]
    fn what_does_not_fit_is_kept_and_said() {
        let python = [Frame('b'), Entry(0x9000)];
        assert_eq!(run(Rule::EntryMarks, &[1, 0xe0, 2], End::Root, &python), (Fit::None, "02?b".into()));
        assert_eq!(run(Rule::EvalCalls, &[1, 2], End::Root, &[Frame('b')]), (Fit::None, "01?b".into()));
    }

    #[test]
    fn any_input_ends() {
        for (addresses, python) in [(&[][..], &[Frame('a')][..]), (&[0xe0], &[]), (&[1], &[Entry(0), Entry(u64::MAX)])]
        {
            for end in [End::Root, End::Truncated, End::Lost] {
                for rule in [Rule::EntryMarks, Rule::EvalCalls] {
                    run(rule, addresses, end, python);
                }
            }
        }
    }
}
