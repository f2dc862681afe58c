//! Where RBP can point, when nobody tells: the saved frame pointers on a stack, the likely ones first.
//!
//! In: a stack copy, the frame at which unwinding got stuck, the target's code. Out: candidates. A frame that wants RBP is
//! that of a function which keeps its frame pointer there, so [RBP] holds its caller's RBP and [RBP + 8] its return
//! address. The function's own prologue says how far above SP that is; where it cannot be read, the stack is searched for
//! such pairs. Invariant: nothing but the copy, the mappings and code bytes is read, and no more than [`CODE_READS`] times.
//! Bias: an older frame that lies in a buffer can look like a pair; a direct call that leads elsewhere gives it away.

use std::ops::Range;

use super::unwind::{NativeFrame, StackCopy};
use crate::os::memory::Memory;
use crate::target::Maps;

/// How far behind an address the start of its function is looked for.
const FUNCTION_LIMIT: u64 = 64 << 10;
/// How far above SP pairs are looked for.
const SEARCH_LIMIT: usize = 64 << 10;
/// Code reads and candidates at most.
const CODE_READS: usize = 256;
const CANDIDATES: usize = 32;

/// Places where RBP may point for the function of `stuck`, the most likely first.
pub(super) fn candidates(stack: &StackCopy<'_>, stuck: NativeFrame, memory: &dyn Memory, maps: &Maps) -> Vec<u64> {
    let code = Code { memory, maps };
    let prologue = code.prologue(stuck.address);
    let lowest = prologue.map_or(stuck.sp, |p| stuck.sp.saturating_add(p.below));
    let start = prologue.map_or(0, |p| p.start);
    let mut direct = Vec::new();
    let mut others = Vec::new();
    let mut reads = 0;
    for (at, [saved, back]) in pairs(stack, lowest) {
        if reads >= CODE_READS || direct.len() + others.len() >= CANDIDATES {
            break;
        }
        // A caller's frame pointer lies further up; where the caller keeps something else in RBP it can be anything.
        let linked = saved == 0 || saved > at;
        if !maps.at(back.wrapping_sub(1)).is_some_and(|m| m.executable) {
            continue;
        }
        reads += 1;
        match code.call_before(back) {
            Some(Call::Direct(to))
                if to <= stuck.address && to.saturating_add(16) >= start && to >= start.saturating_sub(16) =>
            {
                direct.push((linked, at));
            }
            Some(Call::Direct(to)) if start != 0 && !code.is_jump(to) => {}
            Some(_) => others.push((linked, at)),
            None => {}
        }
    }
    // The prologue's own answer first, whatever called it; then callers of this very function; then linked ones.
    let exact = |(_, at): &(bool, u64)| *at == lowest && prologue.is_some();
    let all: Vec<(bool, u64)> = direct.into_iter().chain(others).collect();
    let first = all.iter().filter(|c| exact(c));
    let linked = all.iter().filter(|c| !exact(c) && c.0);
    let rest = all.iter().filter(|c| !exact(c) && !c.0);
    first.chain(linked).chain(rest).map(|(_, at)| *at).collect()
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
    /// Bytes between the SP that the function has in its body and where RBP points.
    below: u64,
}

/// How a call came about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Call {
    /// To this address.
    Direct(u64),
    /// Through a register or memory.
    Indirect,
}

struct Code<'a> {
    memory: &'a dyn Memory,
    maps: &'a Maps,
}

impl Code<'_> {
    /// The nearest prologue with a frame pointer before `address`.
    fn prologue(&self, address: u64) -> Option<Prologue> {
        let mapping = self.maps.at(address).filter(|m| m.executable && m.readable)?;
        let range = mapping.start.max(address.saturating_sub(FUNCTION_LIMIT))..address.checked_add(1)?.min(mapping.end);
        let bytes = self.read(range.clone())?;
        // push %rbp; mov %rsp,%rbp, in either encoding.
        let is_prologue = |w: &[u8]| matches!(w, [0x55, 0x48, 0x89, 0xe5] | [0x55, 0x48, 0x8b, 0xec]);
        let at = bytes.windows(4).rposition(is_prologue)?;
        let below = room_below(bytes.get(at + 4..)?);
        Some(Prologue { start: range.start + at as u64, below })
    }

    /// The call that ends at `back`.
    fn call_before(&self, back: u64) -> Option<Call> {
        let bytes = self.read(back.checked_sub(7)?..back)?;
        let bytes: [u8; 7] = bytes.try_into().ok()?;
        if let [_, _, 0xe8, a, b, c, d] = bytes {
            return Some(Call::Direct(back.wrapping_add_signed(i64::from(i32::from_le_bytes([a, b, c, d])))));
        }
        // FF /2, in the lengths that its operands have.
        let indirect = [2_usize, 3, 4, 6, 7].into_iter().any(|length| {
            let operand = bytes.get(7 - length..7 - length + 2);
            matches!(operand, Some([0xff, modrm]) if modrm >> 3 & 7 == 2)
        });
        indirect.then_some(Call::Indirect)
    }

    /// Whether a jump through memory stands at `address`: a stub of the dynamic linker.
    fn is_jump(&self, address: u64) -> bool {
        let Some(bytes) = self.read(address..address.saturating_add(7)) else { return false };
        let rest = bytes.strip_prefix(&[0xf3, 0x0f, 0x1e, 0xfa]).unwrap_or(&bytes);
        let rest = rest.strip_prefix(&[0xf2]).unwrap_or(rest);
        // A jump (through memory, or to somewhere else as a function's first instruction).
        rest.starts_with(&[0xff, 0x25]) || rest.starts_with(&[0xe9])
    }

    fn read(&self, range: Range<u64>) -> Option<Vec<u8>> {
        let len = usize::try_from(range.end.checked_sub(range.start)?).ok()?;
        self.memory.bytes_at(range.start, len, FUNCTION_LIMIT as usize + 16).ok()
    }
}

/// Bytes that the instructions after `mov %rsp,%rbp` take from the stack: pushes, then one subtraction. Ends at the first
/// instruction that is neither these nor a plain move between registers; what it gives is a lower bound then.
fn room_below(mut code: &[u8]) -> u64 {
    let mut room = 0;
    for _ in 0..24 {
        let length = match code {
            [0x50..=0x57, ..] => {
                room += 8;
                1
            }
            [0x41, 0x50..=0x57, ..] => {
                room += 8;
                2
            }
            [0x48, 0x83, 0xec, by, ..] if *by < 0x80 => return room + u64::from(*by),
            [0x48, 0x81, 0xec, a, b, c, d, ..] => return room + u64::from(u32::from_le_bytes([*a, *b, *c, *d])),
            // A call ends the prologue without a subtraction; moves between registers stand in between.
            [0x48 | 0x49 | 0x4c | 0x4d | 0x41 | 0x44 | 0x45, 0x89 | 0x8b | 0x31 | 0x63, 0xc0..=0xff, ..] => 3,
            [0x89 | 0x8b | 0x31, 0xc0..=0xff, ..] => 2,
            _ => return room,
        };
        code = code.get(length..).unwrap_or_default();
    }
    room
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::os::memory::FakeMemory;

    #[test]
    fn prologues_of_both_compilers() {
        // push r15; push rbx; sub $0x28,%rsp
        assert_eq!(room_below(&[0x41, 0x57, 0x53, 0x48, 0x83, 0xec, 0x28, 0x90]), 0x38);
        // push r14; mov %rdi,%r14; push rbx; sub $0x1000,%rsp
        assert_eq!(room_below(&[0x41, 0x56, 0x49, 0x89, 0xfe, 0x53, 0x48, 0x81, 0xec, 0, 0x10, 0, 0]), 0x1010);
        assert_eq!(room_below(&[0xe8, 1, 2, 3, 4]), 0);
        assert_eq!(room_below(&[]), 0);
    }

    #[test]
    fn the_prologue_and_the_caller_agree() {
        let maps = Maps::parse("1000-2000 r-xp 00000000 00:00 1 /bin/x\n7000-8000 rw-p 00000000 00:00 0 [stack]\n");
        let mut code = vec![0x90; 0x1000];
        // At 0x1100: push rbp; mov rsp,rbp; push rbx; sub $0x18,%rsp; …; the stuck address 0x1140.
        code[0x100..0x109].copy_from_slice(&[0x55, 0x48, 0x89, 0xe5, 0x53, 0x48, 0x83, 0xec, 0x18]);
        // At 0x1200 a call of 0x1100, returning to 0x1205; at 0x1300 a call of 0x1900, returning to 0x1305.
        code[0x200..0x205].copy_from_slice(&[0xe8, 0xfb, 0xfe, 0xff, 0xff]);
        code[0x300..0x305].copy_from_slice(&[0xe8, 0xfb, 0x05, 0, 0]);
        let memory = FakeMemory { pieces: vec![(0x1000, code)] };
        let mut stack = vec![0_u8; 0x200];
        let mut put = |at: usize, word: u64| stack[at..at + 8].copy_from_slice(&word.to_le_bytes());
        // A stale frame of another function, then the true one at SP + 0x20, and one further up.
        put(0x10, 0x7080);
        put(0x18, 0x1305);
        put(0x20, 0x7080);
        put(0x28, 0x1205);
        put(0x80, 0x7100);
        put(0x88, 0x1205);
        let copy = StackCopy { regs: [1, 0x7000, 0x1140], bytes: &stack };
        let stuck = NativeFrame { address: 0x1140, sp: 0x7000, cfa: 0x7000 };
        assert_eq!(candidates(&copy, stuck, &memory, &maps), [0x7020, 0x7080]);
    }
}
