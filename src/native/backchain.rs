//! Where RBP can point, when nobody tells: the saved frame pointers on a stack.
//!
//! In: a stack copy, the frame at which unwinding got stuck, the target's code. Out: candidates, the surest first. A frame
//! that wants RBP is that of a function which keeps its frame pointer there, so the word at RBP holds its caller's RBP and the one at RBP + 8
//! its return address, behind a call of this very function. The function's prologue says how far above SP that is; where
//! it cannot tell (`alloca`), the stack is searched for such pairs. Invariant: only the copy, the mappings and a bounded
//! number of pieces of code are read. Bias: a call through a register does not tell whom it calls; such a candidate is
//! [`Candidate::guess`], since an older frame that lies in a buffer looks the same.

use std::ops::Range;

use super::instruction::length;
use super::unwind::{NativeFrame, StackCopy};
use crate::os::memory::Memory;
use crate::target::Maps;

/// How far behind an address a prologue is looked for.
const FUNCTION_LIMIT: u64 = 64 << 10;
/// How much of a function's beginning is read, in bytes and instructions.
const PROLOGUE_LIMIT: u64 = 256;
const INSTRUCTIONS: usize = 48;
/// How far above SP pairs are looked for.
const SEARCH_LIMIT: usize = 64 << 10;
/// Code reads and candidates at most.
const CODE_READS: usize = 256;
const CANDIDATES: usize = 32;
/// What may stand in a function before its `push %rbp`.
const PREAMBLE: u64 = 16;

/// A place where RBP may point.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Candidate {
    /// The value of RBP.
    pub(super) bp: u64,
    /// Neither the prologue nor the call confirms it.
    pub(super) guess: bool,
}

/// How well a candidate is confirmed; the best first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Evidence {
    /// Where the prologue says, and a call of this function stands before its return address.
    Both,
    /// A call of this function stands before its return address.
    Caller,
    /// Where the prologue says, and a call through a register stands before its return address.
    Prologue,
    /// A call through a register, and a saved RBP that leads further up.
    Linked,
}

/// What is known of the function of a frame.
#[derive(Debug, Clone)]
pub(super) struct Function {
    /// Its code.
    pub(super) range: Option<Range<u64>>,
    /// An unwind rule covers it: the rule that could not be followed for want of RBP.
    pub(super) has_rule: bool,
}

/// Places where RBP may point in the frame `stuck` of `function`, as far as that is known.
pub(super) fn candidates(
    stack: &StackCopy<'_>,
    stuck: NativeFrame,
    function: Function,
    code: Code<'_>,
) -> Vec<Candidate> {
    let maps = code.maps;
    let Function { range: function, has_rule } = function;
    let prologue = code.prologue(stuck.address, function.as_ref());
    if prologue.is_none() && !has_rule {
        // Nothing says that this function keeps a frame pointer at all (Go's assembly does not).
        return Vec::new();
    }
    // Without an unwind entry nothing says that the nearest prologue belongs to this very function.
    let start = match (&function, prologue) {
        (Some(f), _) => f.start..f.start + 1,
        (None, Some(p)) => p.start.saturating_sub(PREAMBLE)..p.start + 1,
        (None, None) => return Vec::new(),
    };
    let lowest = prologue.map_or(stuck.sp, |p| stuck.sp.saturating_add(p.below));
    let mut found = Vec::new();
    let mut reads = 0;
    for (at, [saved, back]) in pairs(stack, lowest) {
        if reads >= CODE_READS || found.len() >= CANDIDATES {
            break;
        }
        if !maps.at(back.wrapping_sub(1)).is_some_and(|m| m.executable) {
            continue;
        }
        reads += 1;
        let exact = prologue.is_some() && at == lowest;
        let evidence = match code.call_before(back) {
            Some(Call::To(callee)) if start.contains(&callee) && exact => Evidence::Both,
            Some(Call::To(callee)) if start.contains(&callee) => Evidence::Caller,
            Some(Call::Unknown) if exact && function.is_some() => Evidence::Prologue,
            // A caller's frame pointer lies further up; one that keeps something else in RBP cannot be told from chance.
            Some(Call::Unknown) if function.is_some() && (saved == 0 || saved > at) => Evidence::Linked,
            _ => continue,
        };
        found.push((evidence, at));
    }
    // Equals keep their order: the nearest first.
    found.sort_by_key(|(evidence, _)| *evidence);
    found.into_iter().map(|(evidence, bp)| Candidate { bp, guess: evidence == Evidence::Linked }).collect()
}

/// The pairs of words on the stack from address `from` on, with their addresses.
fn pairs<'a>(stack: &StackCopy<'a>, from: u64) -> impl Iterator<Item = (u64, [u64; 2])> + use<'a> {
    let sp = stack.regs[1];
    let skip = from.saturating_sub(sp).next_multiple_of(8);
    let bytes = usize::try_from(skip).ok().and_then(|s| stack.bytes.get(s..)).unwrap_or_default();
    let words = bytes.get(..bytes.len().min(SEARCH_LIMIT)).unwrap_or_default().as_chunks::<8>().0;
    let pair = |w: &[[u8; 8]]| [0, 1].map(|i| w.get(i).map_or(0, |b| u64::from_le_bytes(*b)));
    words.windows(2).enumerate().map(move |(i, w)| (sp + skip + i as u64 * 8, pair(w)))
}

/// What a function's first instructions say.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Prologue {
    /// Where `push %rbp` stands.
    start: u64,
    /// Bytes between the SP that the function has in its body and where RBP points, at least.
    below: u64,
}

/// Whom a call calls.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Call {
    /// This function, perhaps through a stub of the dynamic linker.
    To(u64),
    /// Whom a register or a table says.
    Unknown,
}

/// The code of the target.
#[derive(Clone, Copy)]
pub(super) struct Code<'a> {
    pub(super) memory: &'a dyn Memory,
    pub(super) maps: &'a Maps,
}

impl Code<'_> {
    /// The prologue of the function that holds `address`: of `function` where its start is known, else the nearest that
    /// looks like one.
    fn prologue(&self, address: u64, function: Option<&Range<u64>>) -> Option<Prologue> {
        let mapping = self.maps.at(address).filter(|m| m.executable && m.readable)?;
        let Some(function) = function else {
            let from = mapping.start.max(address.saturating_sub(FUNCTION_LIMIT));
            let bytes = self.read(from..address.checked_add(1)?)?;
            // push %rbp; mov %rsp,%rbp, in either encoding.
            let is_prologue = |w: &[u8]| matches!(w, [0x55, 0x48, 0x89, 0xe5] | [0x55, 0x48, 0x8b, 0xec]);
            let at = bytes.windows(4).rposition(is_prologue)?;
            return Prologue::of(bytes.get(at..)?).map(|p| Prologue { start: from + at as u64, ..p });
        };
        let to = address.checked_add(1)?.min(function.start.saturating_add(PROLOGUE_LIMIT));
        Prologue::of(&self.read(function.start..to)?).map(|p| Prologue { start: function.start, ..p })
    }

    /// The call that ends at `back`.
    fn call_before(&self, back: u64) -> Option<Call> {
        let bytes: [u8; 7] = self.read(back.checked_sub(7)?..back)?.try_into().ok()?;
        match bytes {
            [_, _, 0xe8, a, b, c, d] => return Some(Call::To(self.through_stub(relative(back, [a, b, c, d])))),
            // Through the table of the dynamic linker, without a stub.
            [_, 0xff, 0x15, a, b, c, d] => {
                let callee = self.memory.u64_at(relative(back, [a, b, c, d])).ok();
                return Some(callee.map_or(Call::Unknown, Call::To));
            }
            _ => {}
        }
        // FF /2, in the lengths that its operands have.
        let indirect = [2_usize, 3, 4, 6, 7].into_iter().any(|length| {
            let operand = bytes.get(7 - length..7 - length + 2);
            matches!(operand, Some([0xff, modrm]) if modrm >> 3 & 7 == 2)
        });
        indirect.then_some(Call::Unknown)
    }

    /// Where a call of `address` ends up, if a stub stands there: a jump, through memory or not.
    fn through_stub(&self, address: u64) -> u64 {
        let Some(bytes) = self.read(address..address.saturating_add(11)) else { return address };
        let (bytes, at) = match bytes.strip_prefix(&[0xf3, 0x0f, 0x1e, 0xfa]) {
            Some(rest) => (rest, address + 4),
            None => (&bytes[..], address),
        };
        let (bytes, at) = bytes.strip_prefix(&[0xf2]).map_or((bytes, at), |rest| (rest, at + 1));
        match bytes {
            [0xff, 0x25, a, b, c, d, ..] => self.memory.u64_at(relative(at + 6, [*a, *b, *c, *d])).unwrap_or(address),
            [0xe9, a, b, c, d, ..] => relative(at + 5, [*a, *b, *c, *d]),
            _ => address,
        }
    }

    fn read(&self, range: Range<u64>) -> Option<Vec<u8>> {
        let len = usize::try_from(range.end.checked_sub(range.start)?).ok()?;
        self.memory.bytes_at(range.start, len, FUNCTION_LIMIT as usize + 16).ok()
    }
}

/// `at` plus a signed distance.
fn relative(at: u64, distance: [u8; 4]) -> u64 {
    at.wrapping_add_signed(i64::from(i32::from_le_bytes(distance)))
}

impl Prologue {
    /// Reads the first instructions of a function: `push %rbp`, `mov %rsp,%rbp`, then pushes and a subtraction from SP, with
    /// others in between. Ends at the first call or jump behind them. `start` is left 0.
    fn of(mut code: &[u8]) -> Option<Self> {
        let (mut pushed, mut framed, mut below) = (false, false, 0_u64);
        for _ in 0..INSTRUCTIONS {
            let Some(length) = length(code) else { break };
            match code {
                [0x55, ..] if !pushed => pushed = true,
                [0x48, 0x89, 0xe5, ..] | [0x48, 0x8b, 0xec, ..] if pushed => framed = true,
                [0x50..=0x57, ..] | [0x41, 0x50..=0x57, ..] if framed => below += 8,
                [0x48, 0x83, 0xec, by, ..] if framed => below += u64::from(*by),
                [0x48, 0x81, 0xec, a, b, c, d, ..] if framed => {
                    below += u64::from(u32::from_le_bytes([*a, *b, *c, *d]));
                }
                // Calls, jumps, returns: behind them SP only moves by what is not told in advance.
                [0xe8 | 0xe9 | 0xeb | 0xc3 | 0x70..=0x7f | 0xff, ..] | [0x0f, 0x80..=0x8f, ..] if framed => break,
                _ => {}
            }
            code = code.get(length..).unwrap_or_default();
        }
        framed.then_some(Self { start: 0, below })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::os::memory::FakeMemory;

    #[test]
    fn prologues_of_both_compilers() {
        let below = |code: &[u8]| Prologue::of(code).map(|p| p.below);
        // endbr64; push rbp; mov rsp,rbp; push r15; push rbx; sub $0x28,%rsp; nop
        let clang = [0xf3, 0x0f, 0x1e, 0xfa, 0x55, 0x48, 0x89, 0xe5, 0x41, 0x57, 0x53, 0x48, 0x83, 0xec, 0x28, 0x90];
        assert_eq!(below(&clang), Some(0x38));
        // push rbp; mov $1,%edx; mov rsp,rbp; push r14; mov %rdi,%r14; sub $0x1000,%rsp; call; sub $8,%rsp
        let gcc = [
            0x55, 0xba, 1, 0, 0, 0, 0x48, 0x89, 0xe5, 0x41, 0x56, 0x49, 0x89, 0xfe, 0x48, 0x81, 0xec, 0, 0x10, 0, 0,
            0xe8, 0, 0, 0, 0, 0x48, 0x83, 0xec, 8,
        ];
        assert_eq!(below(&gcc), Some(0x1008));
        // Without a frame pointer: push rbx; sub $0x10,%rsp
        assert_eq!(below(&[0x53, 0x48, 0x83, 0xec, 0x10]), None);
        assert_eq!(below(&[]), None);
    }

    #[test]
    fn the_prologue_and_the_caller_agree() {
        let maps = Maps::parse("1000-2000 r-xp 00000000 00:00 1 /bin/x\n7000-8000 rw-p 00000000 00:00 0 [stack]\n");
        let mut code = vec![0x90; 0x1000];
        // At 0x1100: push rbp; mov rsp,rbp; push rbx; sub $0x18,%rsp; …; the stuck address 0x1140.
        code[0x100..0x109].copy_from_slice(&[0x55, 0x48, 0x89, 0xe5, 0x53, 0x48, 0x83, 0xec, 0x18]);
        // Calls: of 0x1100, returning to 0x1205; of 0x1900, returning to 0x1305; of a stub at 0x1500 that jumps to
        // 0x1100, returning to 0x1405; through a register, returning to 0x1602.
        code[0x200..0x205].copy_from_slice(&[0xe8, 0xfb, 0xfe, 0xff, 0xff]);
        code[0x300..0x305].copy_from_slice(&[0xe8, 0xfb, 0x05, 0, 0]);
        code[0x400..0x405].copy_from_slice(&[0xe8, 0xfb, 0, 0, 0]);
        code[0x500..0x506].copy_from_slice(&[0xff, 0x25, 0xfa, 0x0a, 0, 0]);
        code[0x600..0x602].copy_from_slice(&[0xff, 0xd0]);
        // Where the stub's table lies.
        let table = (0x2000, 0x1100_u64.to_le_bytes().to_vec());
        let memory = FakeMemory { pieces: vec![(0x1000, code), table] };
        let mut stack = vec![0_u8; 0x200];
        let mut put = |at: usize, saved: u64, back: u64| {
            stack[at..at + 8].copy_from_slice(&saved.to_le_bytes());
            stack[at + 8..at + 16].copy_from_slice(&back.to_le_bytes());
        };
        // A stale frame of another function, then the true one at SP + 0x20, one further up, and one through a register.
        put(0x10, 0x7080, 0x1305);
        put(0x20, 0x7080, 0x1205);
        put(0x80, 0x7100, 0x1405);
        put(0x90, 0x7100, 0x1602);
        let copy = StackCopy { regs: [1, 0x7000, 0x1140], bytes: &stack };
        let stuck = NativeFrame { address: 0x1140, sp: 0x7000, cfa: 0x7000 };
        let code = Code { memory: &memory, maps: &maps };
        let unknown = Function { range: None, has_rule: false };
        let known = Function { range: Some(0x1100..0x1150), has_rule: true };
        let found = candidates(&copy, stuck, unknown.clone(), code);
        assert_eq!(found, [0x7020, 0x7080].map(|bp| Candidate { bp, guess: false }));
        // Far from any prologue there is nothing to go by.
        let stuck = NativeFrame { address: 0x1080, ..stuck };
        assert_eq!(candidates(&copy, stuck, unknown.clone(), code), []);
        // With the start of the function known, the calls through a register count too: the last, and only as a guess.
        let stuck = NativeFrame { address: 0x1140, sp: 0x7018, cfa: 0x7018 };
        let found = candidates(&copy, stuck, known, code);
        assert_eq!(found.last(), Some(&Candidate { bp: 0x7090, guess: true }));
    }
}
